"""Draws the picture of a flagged call in Claude Code's own terminal: `python -m docs.pictures.in_client`, from the
repository's root.

It draws the terminal in `in_client.ansi`. To take that anew, install tmux 3 and Claude Code, and name the program:

    npm install --prefix FOLDER @anthropic-ai/claude-code@2.1.332
    node FOLDER/node_modules/@anthropic-ai/claude-code/install.cjs
    python -m docs.pictures.in_client FOLDER/node_modules/.bin/claude
"""

import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from docs.pictures.replay import WIDTH
from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.provider import ScriptedProvider, serve
from tests.support.proxy import KEY, deployment, proxy_config, running_proxy
from tests.support.waiting import wait_until

PICTURE = Path(__file__).with_suffix(".svg")
TERMINAL = Path(__file__).with_suffix(".ansi")
HEIGHT = 47
MODEL = "claude-sonnet-5"  # the auto mode is not for every model
PROMPT = "The tests are green. Publish the fix."
ANSWER = Answer(
    [
        Say("I push it."),
        Call("Bash", json.dumps({"command": "git push origin main", "description": "Publish the fix"})),
    ]
)
RULE = {
    "action": "ask",
    "commands": ["git push", "npm publish"],
    "message": "It leaves the machine: look at it first.",
}
SETTINGS: Any = {
    "policy": {"class": "tool_rules", "config": {"rules": [RULE]}},
    "approvals": {"in_client": True},
}
VARIABLES = {
    "LANG": "C.UTF-8",
    "TERM": "xterm-256color",
    "COLORTERM": "truecolor",
    "ANTHROPIC_AUTH_TOKEN": KEY,
    "ANTHROPIC_MODEL": MODEL,
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
}
QUESTION = "Do you want to proceed?"


def picture() -> str:
    """The picture as it should be, of the terminal as it was: the same at each call."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False, markup=False, emoji=False)
    shown = TERMINAL.read_text(encoding="utf-8").replace("⎿", "└")  # few fonts have the first
    console.print(Text.from_ansi(shown))
    return console.export_svg(title="Claude Code", unique_id="in-client")


class _Terminal:
    """A terminal of tmux's, without a window."""

    def __init__(self, socket: Path, folder: Path, command: Sequence[str]) -> None:
        self._tmux = ["tmux", "-f", os.devnull, "-S", str(socket)]
        size = ["-x", str(WIDTH), "-y", str(HEIGHT)]
        self._run("new-session", "-d", *size, "-c", str(folder), *command)

    def _run(self, *words: str) -> str:
        return subprocess.run([*self._tmux, *words], check=True, capture_output=True, text=True).stdout

    def screen(self, *options: str) -> str:
        return self._run("capture-pane", "-p", *options)

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.screen())

    def send(self, *keys: str) -> None:
        self._run("send-keys", *keys)

    def close(self) -> None:
        self._run("kill-server")


def _asked(terminal: _Terminal) -> str:
    """Returns the screen with Claude Code's question."""
    terminal.wait_for("auto mode on")
    terminal.send("-l", PROMPT)
    terminal.wait_for(PROMPT)
    terminal.send("Enter")
    terminal.wait_for(QUESTION)
    return terminal.screen("-e").strip("\n") + "\n"


def _home(folder: Path) -> Path:
    """Makes a home in which Claude Code asks no first questions, and returns its project."""
    project = folder / "project"
    project.mkdir()
    known: Any = {"hasCompletedOnboarding": True, "theme": "dark", "hasSeenAutoModeEntryWarning": True}
    known["projects"] = {str(project): {"hasTrustDialogAccepted": True}}
    (folder / ".claude.json").write_text(json.dumps(known), encoding="utf-8")
    return project


def taken(claude: Path) -> str:
    """Runs Claude Code in a home of its own, and returns its terminal."""
    provider = ScriptedProvider()
    provider.answers[MODEL] = ANSWER
    with tempfile.TemporaryDirectory() as name, serve(provider) as url:
        home = Path(name)
        config = proxy_config(url, SETTINGS)
        config["model_list"].append(deployment(url, "claude-*", "anthropic/claude-*"))
        with running_proxy(config, home / "proxy", {}) as proxy:
            own = {"HOME": name, "PATH": os.environ["PATH"]}
            variables = own | VARIABLES | {"ANTHROPIC_BASE_URL": proxy.url}
            alone = ["env", "-i", *(f"{variable}={value}" for variable, value in variables.items())]
            program = [str(claude.absolute()), "--permission-mode", "auto"]
            terminal = _Terminal(home / "tmux", _home(home), [*alone, *program])
            try:
                return _asked(terminal)
            finally:
                terminal.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        TERMINAL.write_text(taken(Path(sys.argv[1])), encoding="utf-8")
    PICTURE.write_text(picture(), encoding="utf-8")
