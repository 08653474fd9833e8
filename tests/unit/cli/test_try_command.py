"""`luthien-hooks try`: a policy on an answer from a file or from the spend logs, without a proxy."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from luthien_litellm_hooks.cli import app
from luthien_litellm_hooks.testing.answers import Answer, Call, Say, Step
from luthien_litellm_hooks.testing.routes import ROUTES, RouteName

STEPS: list[Step] = [Say("I clean up."), Call("Bash", '{"command": "sudo rm -rf /"}', id="call_a")]
GUARD = "block_dangerous_commands"

FAILING = """
from luthien_litellm_hooks import SimplePolicy

class Fails(SimplePolicy):
    async def on_response_content(self, content, request):
        raise KeyError("secret")
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in ("DATABASE_URL", "LITELLM_MASTER_KEY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("LUTHIEN_RECORDS", "nothing.sqlite")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["try", *arguments], env={"COLUMNS": "100"})


def write(content: str | bytes, name: str = "answer.txt") -> str:
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


def provided(route: RouteName, steps: list[Step], *, is_streamed: bool) -> bytes:
    """What a provider of this route sends."""
    wire, answer, body = ROUTES[route].wire, Answer(steps), dict(ROUTES[route].body)
    if is_streamed:
        return b"".join(frame for frame in wire.stream(answer, body) if isinstance(frame, bytes))
    return json.dumps(wire.full(answer, body)).encode()


@pytest.mark.parametrize("is_streamed", [True, False], ids=["stream", "full"])
@pytest.mark.parametrize("route", ["chat", "messages", "responses", "gemini"])
def test_an_answer_of_any_wire_is_judged(route: RouteName, is_streamed: bool) -> None:
    name = write(provided(route, STEPS, is_streamed=is_streamed))
    done = run(GUARD, "--answer", name, "--json")
    assert done.exit_code == 0, done.stderr
    made: dict[str, Any] = json.loads(done.stdout)
    assert made["outcome"] == "blocked"
    came, left = made["original"]["answer"]["content"], made["final"]["answer"]["content"]
    assert [block["type"] for block in came] == ["text", "tool_call"]
    assert [block["type"] for block in left] in (["text"], ["text", "text"])
    assert made["decisions"][0]["evidence"].startswith("rm -rf /")


@pytest.mark.parametrize("is_streamed", [True, False], ids=["stream", "full"])
def test_a_text_completion_is_judged(is_streamed: bool) -> None:
    done = run(
        "all_caps", "--json", "--answer", write(provided("completions", [Say("hello")], is_streamed=is_streamed))
    )
    assert json.loads(done.stdout)["final"]["answer"]["content"] == [{"type": "text", "text": "HELLO"}]


def test_a_text_is_an_answer_and_people_see_what_became_of_it_and_why() -> None:
    settings = "{replacements: [[sky, ground]]}"
    done = run("string_replacement", "--config", settings, "--answer", write("The sky is blue."))
    assert done.exit_code == 0, done.stderr
    words = " ".join(done.stdout.split())
    for part in ("outcome complete", "original response", "The sky is blue.", "The ground is blue."):
        assert part in words


def test_settings_may_stand_in_a_file() -> None:
    settings = write("replacements: [[sky, ground]]", "settings.yaml")
    done = run("string_replacement", "--config-file", settings, "--answer", write("The sky"), "--json")
    assert json.loads(done.stdout)["final"]["answer"]["content"][0]["text"] == "The ground"


def test_a_policy_of_ones_own_that_fails_is_told() -> None:
    write(FAILING, "my_failing_policy.py")
    done = run("my_failing_policy:Fails", "--answer", write("hello"), "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["outcome"] == "policy_error"


# One call


@pytest.mark.parametrize(
    ("arguments", "verdict", "parts"),
    [
        ([GUARD, "--command", "rm -rf /"], "blocked", ["why block_dangerous_commands: dangerous command", "rm -rf /"]),
        (
            [GUARD, "--command", "echo cm0gLXJmIC8= | base64 -d | sh"],
            "blocked",
            ["recursive deletion of /", "read as echo cm0gLXJmIC8= base64 -d sh rm -rf /", "client [luthien] A policy"],
        ),
        ([GUARD, "--command", "if ["], "blocked", ["... and what the parser cannot read"]),
        ([GUARD, "--call", "execute_command", '{"command": "sudo mkfs.ext4 /dev/sda1"}'], "blocked", ["/dev/sda1"]),
        ([GUARD, "--command", "ls -la > out && git status"], "passes", ["read as ls -la > out git status"]),
        ([GUARD, "--command", 'echo "rm -rf /"'], "passes", []),
        ([GUARD, "--call", "Read", '{"file_path": "a"}'], "passes", []),
        (["secrets", "--call", "Read", '{"file_path": "a"}'], "passes", []),
        (
            ["all_caps", "--config", "{tool_arguments: true}", "--command", "ls"],
            "changed",
            ['now Bash {"command": "LS"}'],
        ),
        (["prefer_uv", "--command", "pip install six"], "changed", ["uv"]),
        (["fails_at_calls:Fails", "--command", "ls"], "failed", ["KeyError"]),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_single_call_gets_its_verdict(arguments: list[str], verdict: str, parts: list[str]) -> None:
    write(
        FAILING.replace("on_response_content(self, content,", "on_response_tool_call(self, call,"), "fails_at_calls.py"
    )
    done = run(*arguments)
    words = " ".join(done.stdout.split())
    assert words.startswith(f"{verdict} "), (done.stdout, done.stderr)
    assert [part for part in parts if part not in words] == []
    assert done.exit_code == (0 if verdict in ("passes", "changed") else 1)
    is_shown_as_json = run(*arguments, "--json")
    assert is_shown_as_json.exit_code == done.exit_code
    assert json.loads(is_shown_as_json.stdout)["original"]["answer"]["content"][0]["type"] == "tool_call"


def test_a_call_cannot_paint_the_terminal() -> None:
    done = run(GUARD, "--command", "echo \x1b[2J\nls \u202e")
    assert "\x1b" not in done.stdout
    assert "\u202e" not in done.stdout


def test_a_call_is_judged_without_a_proxy_and_without_litellm() -> None:
    code = (
        "import atexit, os, sys; from luthien_litellm_hooks.cli import app;"
        "atexit.register(lambda: print('litellm' in sys.modules, sum(os.times()[:2])));"
        f"app(['try', {GUARD!r}, '--command', 'git status'])"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False) for _ in range(3)]
    assert [(done.returncode, done.stderr) for done in runs] == [(0, "")] * 3
    ends = [done.stdout.split()[-2:] for done in runs]
    assert {loaded for loaded, _ in ends} == {"False"}
    assert min(float(used) for _, used in ends) < 2, "seconds of the processor"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["secrts", "--command", "ls"], "did you mean 'secrets'?"),
        ([GUARD, "--call", "Bash", "ls"], "The arguments of Bash should be a JSON object, not ls"),
        ([GUARD, "--call", "Bash", "[1]"], "should be a JSON object"),
        ([GUARD, "--command", "ls", "--call", "Bash", "{}"], "Name one thing"),
        ([GUARD, "--command", "ls", "--answer", "answer.txt"], "Name one thing"),
        (["secrts", "--answer", "answer.txt"], "did you mean 'secrets'?"),
        (["all_caps", "--answer", "answer.txt", "--config", "{loud: 1}"], "loud: unknown key"),
        (["all_caps", "--answer", "answer.txt", "--config", "[1"], "settings cannot be read"),
        (["all_caps", "--answer", "answer.txt", "--config", "[1]"], "should be a mapping"),
        (["all_caps", "--answer", "answer.txt", "--config-file", "missing.yaml"], "missing.yaml"),
        (["all_caps", "--answer", "answer.txt", "--config", "", "--config-file", "x"], "Duplicate settings"),
        (["all_caps", "--answer", "missing.txt"], "missing.txt cannot be read: No such file"),
        (["all_caps", "--answer", "."], ". cannot be read: Is a directory"),
        (["all_caps", "--answer", "binary"], "not UTF-8"),
        (["all_caps", "--answer", "other.json"], "in an unknown wire format"),
        (["all_caps", "--answer", "broken.json"], "LiteLLM could not read this response"),
        (["all_caps"], "--answer FILE, or --record ID"),
        (["all_caps", "--answer", "answer.txt", "--record", "x"], "--answer FILE, or --record ID"),
        (["all_caps", "--record", "x"], "LITELLM_MASTER_KEY"),
        (["all_caps", "--record", "x", "--api-key", "k", "--url", "http://127.0.0.1:9"], "cannot be reached"),
    ],
)
def test_what_cannot_be_tried_is_told(arguments: list[str], said: str) -> None:
    write("hello")
    write(b"\xff\xfe", "binary")
    write('{"a": 1}', "other.json")
    write('{"choices": [{"message": 5}]}', "broken.json")
    done = run(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
