"""The command as a whole: its page is current, it starts quickly, and it never shows a traceback."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from docs import commands
from luthien_litellm_hooks.checking.source import read_source
from luthien_litellm_hooks.cli import app
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.testing.live_view import Feed, LiveView
from luthien_litellm_hooks.testing.proxy import HOST
from luthien_litellm_hooks.testing.watching import watched_config
from tests.support.proxy import ROOT

COMMANDS = ("check", "demo", "diff", "doctor", "list", "policies", "schema", "show", "try")


def test_the_page_of_commands_is_current() -> None:
    assert commands.PAGE.read_text() == commands.page(), "write it anew: python -m docs.commands"


def test_the_page_tells_of_each_command() -> None:
    listed = CliRunner().invoke(app, ["--help"]).stdout
    assert all(f" {name} " in listed for name in COMMANDS)
    assert all(f"## `luthien-hooks {name}" in commands.page() for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_its_help(name: str) -> None:
    done = CliRunner().invoke(app, [name, "--help"])
    assert done.exit_code == 0
    assert "Usage" in done.stdout


def test_the_command_loads_nothing_heavy_before_it_is_needed() -> None:
    heavy = ("litellm", "pydantic", "opentelemetry", "yaml", "httpx")
    code = f"import luthien_litellm_hooks.cli, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['pydantic']"


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "missing.yaml"],
        ["demo", "--config", "missing.yaml"],
        ["demo", "--config", str(ROOT / "litellm_config.yaml"), "--policy", "secrts"],
        ["policies", "show", "secrts"],
        ["schema", "secrts"],
        ["try", "secrets"],
        ["list", "--url", f"http://{HOST}:9", "--api-key", "k"],
        ["show", "x", "--database-url", "nonsense"],
        ["doctor", "--url", f"http://{HOST}:9", "--key", "k"],
    ],
    ids=lambda arguments: " ".join(arguments[:1]),
)
def test_what_cannot_be_done_is_told_in_plain_words(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_a_shell_completes_the_names_of_policies() -> None:
    environment = {"_LUTHIEN_HOOKS_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "luthien-hooks policies show se"}
    done = CliRunner().invoke(app, env=environment, prog_name="luthien-hooks")
    assert "secrets" in done.stdout
    assert "noop" not in done.stdout


# The schema


def complaints(*arguments: str, **policy: Any) -> list[str]:
    """What an editor with this schema says of a config with this policy."""
    schema = json.loads(CliRunner().invoke(app, ["schema", *arguments]).stdout)
    luthien = {"policy": policy}
    config = {"callback_settings": {"luthien": luthien}, "model_list": []} if arguments else luthien
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(config)]


@pytest.mark.parametrize("arguments", [[], ["--file"]], ids=["settings", "file"])
def test_an_editor_knows_each_policys_settings(arguments: list[str]) -> None:
    rule = {"name": "polite", "rule": "Be polite."}
    members = [
        {"class": "llm_rules", "config": {"model": "m", "rules": [rule]}},
        {"class": "my:Own", "config": {"x": 1}},
    ]
    assert complaints(*arguments, **{"class": "serial", "config": {"policies": members}}) == []
    [said] = complaints(*arguments, **{"class": "all_caps", "config": {"loud": True}})
    assert "'loud'" in said
    [inner] = complaints(*arguments, **{"class": "serial", "config": {"policies": [{"class": "noop", "clas": 1}]}})
    assert "'clas'" in inner


def test_the_shipped_config_fits_its_schema() -> None:
    schema = json.loads(CliRunner().invoke(app, ["schema", "--file"]).stdout)
    jsonschema.validate(yaml.safe_load((ROOT / "litellm_config.yaml").read_text()), schema)


# The demo


def event(kind: str, **data: Any) -> str:
    return json.dumps({"type": kind, "transaction_id": "0123-x", "data": data}) + "\n"


def test_the_demo_shows_each_step_and_nothing_that_a_terminal_obeys(tmp_path: Path) -> None:
    file = tmp_path / "events"
    file.write_text(
        event("transaction.request_recorded", final_model="m", final_request={"messages": [{"content": "hi"}]})
        + event("demo.block", side="came", text="a\nb\x1b[31m")
        + event("demo.decision", action="block", policy="p", why="because")
        + event("something.else")
        + event("transaction.streaming_response_recorded", outcome="blocked")
    )
    output = io.StringIO()
    console = Console(file=output, width=60, highlight=False)
    feed = Feed(file)
    with LiveView(console, "the heading") as view:
        for seen in feed.take():
            view.show(seen)
    assert output.getvalue().splitlines() == [
        "the heading",
        "0123  asked  hi",
        "0123  came   a\\nb\\x1b[31m",
        "0123  block  p: because",
        "0123  ended  blocked",
    ]


@pytest.mark.parametrize(
    ("request_body", "asked"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], "system": "be kind"}, "hi"),
        ({"input": "hi"}, "hi"),
        ({"input": [{"role": "user", "content": "hi"}, {"type": "function_call_output", "output": "done"}]}, "done"),
        ({}, "m"),
    ],
)
def test_the_demo_shows_what_was_said_last(request_body: dict[str, Any], asked: str) -> None:
    output = io.StringIO()
    with LiveView(Console(file=output, width=60, highlight=False), "the heading") as view:
        view.show(json.loads(event("transaction.request_recorded", final_model="m", final_request=request_body)))
    assert output.getvalue().splitlines()[-1] == f"0123  asked  {asked}"


def test_an_event_that_is_half_written_waits(tmp_path: Path) -> None:
    feed, line = Feed(tmp_path / "events"), event("demo.block", side="came", text="x")
    assert list(feed.take()) == []
    (tmp_path / "events").write_text(line[:10])
    assert list(feed.take()) == []
    (tmp_path / "events").write_text(line)
    assert len(list(feed.take())) == 1
    assert list(feed.take()) == []


def test_in_a_terminal_the_view_keeps_its_heading_and_the_latest_lines() -> None:
    output = io.StringIO()
    console = Console(file=output, width=60, height=5, force_terminal=True, highlight=False)
    with LiveView(console, "the heading") as view:
        for number in range(20):
            view.show(json.loads(event("demo.block", side="left", text=f"line {number}")))
    last = output.getvalue().rsplit("the heading", 1)[1]
    assert "line 19" in last
    assert "line 3" not in last


def test_the_demo_leaves_a_config_as_it_is_but_for_the_watchers() -> None:
    values = read_source(ROOT / "litellm_config.yaml").values
    watched = watched_config(values, None, "/feed")
    assert yaml.safe_load(yaml.safe_dump(watched))["model_list"] == values["model_list"]
    first, own, last = watched["callback_settings"]["luthien"]["policy"]["config"]["policies"]
    assert own == {"class": "all_caps", "config": {}}
    assert (first["config"], last["config"]) == ({"side": "came"}, {"side": "left"})


def test_a_config_without_a_policy_cannot_be_watched() -> None:
    with pytest.raises(ConfigError, match="--policy"):
        watched_config({}, None, "/feed")
