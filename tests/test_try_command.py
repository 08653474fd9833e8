"""`luthien-hooks try`: a policy on an answer from a file or from the spend logs, without a proxy."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from luthien_litellm_hooks.cli import app
from luthien_litellm_hooks.testing.answers import Answer, Call, Say, Step
from luthien_litellm_hooks.testing.routes import ROUTES, RouteName
from tests.support.proxy import KEY, Proxies
from tests.support.recorded import NoDeletes, insert, recorded, row

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
    assert made["decisions"][0]["evidence"].startswith("recursive deletion of /")


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
    for part in ("outcome complete", "answer as it came", "The sky is blue.", "The ground is blue."):
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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["secrts", "--answer", "answer.txt"], "did you mean 'secrets'?"),
        (["all_caps", "--answer", "answer.txt", "--config", "{loud: 1}"], "loud: unknown key"),
        (["all_caps", "--answer", "answer.txt", "--config", "[1"], "settings cannot be read"),
        (["all_caps", "--answer", "answer.txt", "--config", "[1]"], "should be a mapping"),
        (["all_caps", "--answer", "answer.txt", "--config-file", "missing.yaml"], "missing.yaml"),
        (["all_caps", "--answer", "answer.txt", "--config", "", "--config-file", "x"], "given twice"),
        (["all_caps", "--answer", "missing.txt"], "missing.txt cannot be read: No such file"),
        (["all_caps", "--answer", "."], ". cannot be read: Is a directory"),
        (["all_caps", "--answer", "binary"], "no UTF-8"),
        (["all_caps", "--answer", "other.json"], "of no wire format"),
        (["all_caps", "--answer", "broken.json"], "not as LiteLLM would read it"),
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


def test_a_recorded_answer_is_judged_anew(proxies: Proxies, postgres_url: str) -> None:
    record = asyncio.run(recorded(NoDeletes()))
    without = asyncio.run(recorded(NoDeletes(), with_bodies=False))
    insert(postgres_url, row(record), row(without))
    proxy = proxies.get({"policy": {"class": "noop"}}, database_url=postgres_url)
    way = ["--url", proxy.url, "--api-key", KEY]
    done = run("noop", "--json", "--record", record["transaction_id"], *way)
    assert done.exit_code == 0, (done.stderr, done.exception)
    made = json.loads(done.stdout)
    assert made["final"]["answer"]["content"] == record["original"]["answer"]["content"]
    assert made["original"]["request"]["messages"] == record["original"]["request"]["messages"]
    untold = run("noop", "--record", without["transaction_id"], *way)
    assert untold.exit_code == 2
    assert "store_prompts_in_spend_logs" in untold.stderr
    assert run("noop", "--record", "nothing", *way).exit_code == 1
