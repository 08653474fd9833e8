"""Policies of one transaction read a tool call once together, and only those with the same settings."""

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from luthien_litellm_hooks.policies.rules import tool_use
from luthien_litellm_hooks.policies.rules.tool_use import ToolUse
from luthien_litellm_hooks.policies.shell import Script, parse_shell
from luthien_litellm_hooks.policy.limits import KEPT_COST, MAX_KEPT_CHARACTERS, Readings
from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.routes import ROUTES, RouteName
from tests.support.stalls import cost_of

PRESETS = (
    "block_dangerous_commands",
    "block_sensitive_file_writes",
    "block_web_requests",
    "sql_protection",
    "protect_proxy",
)
LONG_SCRIPT = "\n".join(f"cp notes/{number}.txt build/{number}.txt" for number in range(100))


def several(kind: str, *configs: Mapping[str, Any]) -> Mapping[str, Any]:
    policies = [{"class": name} for name in PRESETS] if not configs else list(configs)
    return {"class": kind, "config": {"policies": policies}}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Scripts that were read, each time one was."""
    scripts: list[str] = []

    def parse(script: str) -> Script:
        scripts.append(script)
        return parse_shell(script)

    monkeypatch.setattr(tool_use, "parse_shell", parse)
    return scripts


async def scripts_allowed(policy: Mapping[str, Any], scripts: Sequence[str], route: RouteName, *, full: bool) -> None:
    answer = Answer([Say("I run it."), *(Call("Bash", json.dumps({"command": script})) for script in scripts)])
    cost = await cost_of(policy, route, ROUTES[route].body, answer, full=full)
    assert [made for made in cost.decisions if made.action != "allow"] == []


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("route", ["chat", "messages", "responses", "gemini"])
@pytest.mark.parametrize("kind", ["serial", "parallel"])
@pytest.mark.parametrize("script", [LONG_SCRIPT, "ls build"], ids=["long", "short"])
async def test_presets_read_a_script_once(
    read: list[str], kind: str, route: RouteName, script: str, *, full: bool
) -> None:
    await scripts_allowed(several(kind), [script], route, full=full)
    assert read == [script]


@pytest.mark.parametrize("kind", ["serial", "parallel"])
async def test_presets_read_each_of_several_scripts_once(read: list[str], kind: str) -> None:
    scripts = [f"{LONG_SCRIPT}\ntouch {number}" for number in range(8)]
    await scripts_allowed(several(kind), scripts, "messages", full=False)
    assert sorted(read) == sorted(scripts)


async def test_another_transaction_reads_again(read: list[str]) -> None:
    for _ in range(2):
        await scripts_allowed(several("serial"), [LONG_SCRIPT], "chat", full=False)
    assert len(read) == 2


async def test_policies_that_name_other_tools_read_for_themselves() -> None:
    """The second policy alone knows the tool for a shell."""
    rules = {"rules": [{"action": "block", "kind": "shell"}]}
    policy = several(
        "serial",
        {"class": "tool_rules", "config": rules},
        {"class": "tool_rules", "config": {**rules, "kinds": {"shell": "helper"}}},
    )
    answer = Answer([Call("helper", json.dumps({"line": "ls"}))])
    cost = await cost_of(policy, "chat", ROUTES["chat"].body, answer)
    assert cost.outcome == "blocked"


async def test_a_call_that_another_policy_rewrote_is_read_as_it_is_now() -> None:
    rewrite = {"action": "rewrite", "tool": "Bash", "set": {"args.command": "git push --force"}}
    block = {"action": "block", "commands": "git push --force"}
    policy = several("serial", *({"class": "tool_rules", "config": {"rules": [rule]}} for rule in (rewrite, block)))
    answer = Answer([Call("Bash", json.dumps({"command": "ls"}))])
    cost = await cost_of(policy, "chat", ROUTES["chat"].body, answer)
    assert cost.outcome == "blocked"


# What is kept


def test_a_reading_is_kept_until_the_room_is_full() -> None:
    readings = Readings()
    half = MAX_KEPT_CHARACTERS // 2 - KEPT_COST
    kept = [readings.get(number, half, list[int]) for number in range(3)]
    assert [readings.get(number, half, list[int]) is kept[number] for number in range(3)] == [True, True, False]


def test_a_response_that_has_ended_keeps_nothing() -> None:
    readings = Readings()
    readings.get("a", 1, list[int])
    readings.clear()
    assert readings.get("a", 1, list[int]) is not readings.get("a", 1, list[int])


def test_a_long_script_in_a_thread_stops_no_short_one_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    began, goes_on = threading.Event(), threading.Event()

    def parse(script: str) -> Script:
        if script == LONG_SCRIPT:
            began.set()
            goes_on.wait(10)
        return parse_shell(script)

    monkeypatch.setattr(tool_use, "parse_shell", parse)
    long, short = (ToolUse("Bash", {"command": script}, frozenset({"shell"})) for script in (LONG_SCRIPT, "ls"))
    slow, quick = (threading.Thread(target=lambda use=use: use.commands, daemon=True) for use in (long, short))
    slow.start()
    assert began.wait(10)
    quick.start()
    quick.join(5)
    assert not quick.is_alive()
    goes_on.set()
    slow.join(10)
