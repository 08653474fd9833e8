"""`luthien-hooks demo`, which `make run` starts: the printed commands work, and nothing is left behind."""

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import termios
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from luthien_litellm_hooks import __version__
from luthien_litellm_hooks.cli import app
from luthien_litellm_hooks.cli.starter import demo_text
from tests.support.pages import blocks
from tests.support.proxy import ROOT, free_port
from tests.support.waiting import wait_until

COMMAND = Path(sysconfig.get_path("scripts")) / "luthien-hooks"


class Terminal:
    """A demo in a terminal of 100 columns."""

    def __init__(self, *arguments: str, **variables: str) -> None:
        environment = {key: value for key, value in os.environ.items() if key != "LITELLM_MASTER_KEY"}
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 100, 0, 0))
        self.process = subprocess.Popen(
            [COMMAND, "demo", "--port", str(free_port()), *arguments],
            cwd=ROOT,
            env={**environment, "TERM": "xterm-256color", "COLUMNS": "100", **variables},
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        self._read = b""
        self._taken = 0

    def take_until(self, pattern: str) -> str:
        """What it prints next, up to the end of a line with the pattern."""
        while not (found := re.search(rf"(?:{pattern}).*\n", self.text[self._taken :])):
            self._read += os.read(self._master, 65536)
        start, self._taken = self._taken, self._taken + found.end()
        return self.text[start : self._taken]

    @property
    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", self._read.decode(errors="ignore"))

    def close(self) -> None:
        """Ends it, and so the proxy."""
        os.close(self._master)
        self.process.terminate()
        self.process.wait(20)


BROWSER = """#!/bin/sh
ls -l "${1#file://}" >"$0.rights"
cp "${1#file://}" "$0.part"
tr '\\0' '\\n' </proc/$PPID/cmdline >"$0.arguments"
echo "$@" >>"$0.arguments"
echo $$ >"$0.pid"
mv "$0.part" "$0.page"
exec sleep 600
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A browser that keeps what it was to open, and stays."""
    program = tmp_path_factory.mktemp("bin") / "browser"
    program.write_text(BROWSER)
    program.chmod(0o700)
    return program


@pytest.fixture(scope="module")
def demo(browser: Path) -> Generator[Terminal]:
    terminal = Terminal(BROWSER=str(browser), DISPLAY=":99", SSH_CONNECTION="", HOME=str(browser.parent))
    yield terminal
    terminal.close()


@pytest.fixture(scope="module")
def screen(demo: Terminal) -> str:
    """The first screen."""
    return demo.take_until(r"ended +complete") + demo.take_until(r"ended +blocked")


def commands(output: str) -> list[str]:
    """The commands of a demo, as somebody copies them."""
    return re.findall(r"^(?:curl|ANTHROPIC_BASE_URL|LITELLM_KEY).*?\n(?=\n)", output, re.MULTILINE | re.DOTALL)


def told(output: str) -> list[tuple[str, str]]:
    """The steps that the view tells; a text that is longer than a line is cut."""
    return [(label, text.strip()) for label, text in re.findall(r"^[0-9a-f]{4}  (\w+) +(.*)$", output, re.MULTILINE)]


def test_the_first_screen_shows_a_call_withheld_and_why_and_nothing_of_litellm(screen: str) -> None:
    steps = told(screen)
    assert ("client", 'call Bash {"command": "ls -la"}') in steps
    assert ("model", 'call Bash {"command": "rm -rf /"}') in steps
    assert ("client", 'call Bash {"command": "rm -rf /"}') not in steps
    assert ("block", "block_dangerous_commands: dangerous command: recursive deletion of /: rm -rf /") in steps
    assert any(label == "client" and "[luthien] A policy blocked the call of Bash." in text for label, text in steps)
    for noise in ("INFO", "WARNING", "██", "Give Feedback", "initialized"):
        assert noise not in screen


def test_the_readme_begins_with_what_the_screen_shows(screen: str) -> None:
    shown, printed = (
        re.sub(r"^[0-9a-f]{4} |[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", text, flags=re.MULTILINE)
        for text in (next(blocks(ROOT / "README.md")).text.partition("...\n")[2], screen)
    )
    assert shown in "".join(f"{line.rstrip()}\n" for line in printed.splitlines())


def test_the_commands_survive_a_narrow_terminal(screen: str) -> None:
    shown = commands(screen)
    assert len(shown) == 4
    lines = [line for command in shown for line in command.splitlines()]
    assert [line for line in lines if len(line) >= 80 or line != line.rstrip()] == []


def test_the_printed_requests_show_the_policy_at_work(demo: Terminal, screen: str) -> None:
    assert shutil.which("curl"), "the demo prints curl commands, so this test runs curl"
    harmless, dangerous = (_run(command) for command in commands(screen)[:2])
    assert json.loads(arguments_in(harmless)) == {"command": "ls -la"}
    assert arguments_in(dangerous) == ""
    assert "[luthien] A policy blocked the call of Bash." in text_in(dangerous)
    assert text_in(dangerous).startswith("I tidy up.")
    assert harmless.rstrip().endswith("data: [DONE]")
    shown = demo.take_until(r"ended +complete") + demo.take_until(r"ended +blocked")
    assert told(shown) == told(screen)


def arguments_in(stream: str) -> str:
    """Arguments of the tool calls that a client got."""
    deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in stream.splitlines() if line.startswith("data: {")]
    return "".join(call["function"]["arguments"] or "" for delta in deltas for call in delta.get("tool_calls") or ())


def text_in(stream: str) -> str:
    deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in stream.splitlines() if line.startswith("data: {")]
    return "".join(delta.get("content") or "" for delta in deltas)


LOGIN = r"http://[\w.:]+/luthien/ui/login#ticket=([\w-]+)"


def log_in(demo_url: str, ticket: str) -> httpx.Response:
    """As the page does that the link opens."""
    headers = {"Origin": demo_url, "Sec-Fetch-Site": "same-origin"}
    return httpx.post(f"{demo_url}/luthien/ui/login", data={"ticket": ticket}, headers=headers)


def test_the_printed_link_logs_a_browser_in_once(screen: str) -> None:
    [link] = re.findall(LOGIN, screen)
    url = re.findall(r"http://127.0.0.1:\d+", screen)[0]
    first, again = log_in(url, link), log_in(url, link)
    assert (first.status_code, again.status_code) == (200, 403)
    assert httpx.get(f"{url}/luthien/ui/", cookies=first.cookies).status_code == 200
    assert not again.cookies


def test_a_browser_is_opened_by_a_file_of_the_users_own_with_another_ticket(screen: str, browser: Path) -> None:
    kept = browser.with_suffix(".page")
    wait_until(kept.exists)
    page = kept.read_text()
    [ticket, same] = re.findall(LOGIN, page)
    assert ticket == same
    assert log_in(re.findall(r"http://127.0.0.1:\d+", page)[0], ticket).status_code == 200
    assert ticket not in screen
    assert browser.with_suffix(".rights").read_text().startswith("-rw-------")
    arguments = browser.with_suffix(".arguments").read_text()
    assert "luthien-monitor-" in arguments
    assert ticket not in arguments


AGENT = (
    f"#!{sys.executable}\n"
    + """
import os, sys, tomllib

if sys.argv[0].endswith("claude"):
    import anthropic
    client = anthropic.Anthropic(
        base_url=os.environ["ANTHROPIC_BASE_URL"], auth_token=os.environ["ANTHROPIC_AUTH_TOKEN"], api_key=None
    )
    messages = [{"role": "user", "content": "hello"}]
    print(client.messages.create(model=os.environ["ANTHROPIC_MODEL"], max_tokens=9, messages=messages).content[0].text)
else:
    import openai
    pairs = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    settings = tomllib.loads("\\n".join(value for option, value in zip(sys.argv, sys.argv[1:]) if option == "-c"))
    provider = settings["model_providers"][settings["model_provider"]]
    assert provider["wire_api"] == "responses"
    client = openai.OpenAI(base_url=provider["base_url"], api_key=os.environ[provider["env_key"]])
    print(client.responses.create(model=pairs["-m"], input="hello").output_text)
"""
)


@pytest.mark.parametrize("agent", ["claude", "codex"])
def test_the_printed_lines_point_agents_at_the_proxy(agent: str, screen: str, tmp_path: Path) -> None:
    """Stand-ins with the official clients read what the lines give to the agents."""
    program = tmp_path / agent
    program.write_text(AGENT)
    program.chmod(0o700)
    [command] = [
        command for command in commands(screen) if re.search(rf"^ *(\S+=\S+ )?{agent}\b", command, re.MULTILINE)
    ]
    assert _run(command, PATH=f"{tmp_path}:{os.environ['PATH']}").strip() == "You said: hello"


def test_each_step_is_told(demo: Terminal, screen: str) -> None:
    _run(commands(screen)[0].replace("say: I look.\\n", "think: Where am I?\\nsay: I look.\\n"))
    while "Where am I?" not in (shown := demo.take_until(r"ended +complete")):
        pass  # requests of other tests
    [request, *steps] = told(shown)
    assert request[0] == "request"
    assert sorted(steps) == sorted(
        [(side, text) for side in ("model", "client") for text in ("I look.", 'call Bash {"command": "ls -la"}')]
        + [(side, "reasoning: Where am I?") for side in ("model", "client")]
        + [("ended", "complete")]
    )


def _run(command: str, **environment: str) -> str:
    return subprocess.run(
        ["/bin/sh", "-c", command], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    ).stdout


def test_stopping_it_leaves_nothing_running(demo: Terminal, screen: str, browser: Path) -> None:
    process = demo.process
    wait_until(browser.with_suffix(".page").exists)
    of_the_user = int(browser.with_suffix(".pid").read_text())
    children = [pid for pid in _descendants(process.pid) if pid != of_the_user]
    assert children, "the proxy runs as a child"
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []
    assert list(browser.parent.glob("luthien-monitor-*")) == []
    os.kill(of_the_user, signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    listed = _run("ps -eo pid=,ppid=")
    parents = {int(child): int(parent) for child, parent in (line.split() for line in listed.splitlines())}
    found = [pid]
    for parent in found:
        found += [child for child in parents if parents[child] == parent]
    return found[1:]


def test_a_port_that_is_taken_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        result = subprocess.run(
            [COMMAND, "demo", "--port", str(port)], cwd=ROOT, capture_output=True, text=True, check=False
        )
    assert result.returncode == 1
    assert f"Port {port} is taken" in result.stderr


def test_of_two_that_begin_at_once_the_second_says_that_the_port_is_taken() -> None:
    command = [COMMAND, "demo", "--port", str(free_port())]
    both = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    try:
        wait_until(lambda: any(process.poll() is not None for process in both), 60)
        ended = next(process for process in both if process.poll() is not None)
        assert ended.returncode == 1
        assert ended.stdout is not None
        assert f"Port {command[-1]} is taken" in ended.stdout.read()
        [other] = [process for process in both if process is not ended]
        assert other.poll() is None
        assert other.stdout is not None
        assert other.stdout.readline() == "LiteLLM starts ...\n", "also without a terminal"
    finally:
        for process in both:
            process.terminate()
            process.wait(20)


def test_a_config_that_is_wrong_is_not_served(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "litellm_settings: {callbacks: [luthien_litellm_hooks.luthien]}\ncallback_settings: {luthien: {}}\n"
    )
    result = CliRunner().invoke(app, ["demo", "--config", str(config), "--port", str(free_port())])
    assert result.exit_code == 1
    assert f"{config}:2: error: callback_settings.luthien.policy: missing" in result.stderr


def test_why_the_proxy_cannot_start_is_shown(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(demo_text().replace("callbacks: [", "callbacks: [no_such_module.callback, "))
    command = [COMMAND, "demo", "--config", config, "--port", str(free_port())]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stdout.startswith("LiteLLM starts ...\n")
    assert "The proxy ended by itself with exit code" in result.stderr
    assert "no_such_module" in result.stderr


def test_the_command_tells_its_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output.strip()) == (0, __version__)
