"""What clients and models can make a proxy spend: no stall of its event loop, and an answer or a refusal in time."""

import asyncio
import json
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from luthien_litellm_hooks import ToolCall
from luthien_litellm_hooks.policies.rules.arguments import MAX_KEY_CHARACTERS, MAX_VALUES, read_arguments
from luthien_litellm_hooks.policy.limits import DEFAULT_LIMITS, off_loop
from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.routes import ROUTES, RouteName
from tests.support.hostile_costs import ANSWERS, REQUESTS, said
from tests.support.stalls import Cost, cost_of

STALL_SECONDS = 0.25
CPU_SECONDS = 10.0
TIMES_NOOP = 3.0
MOMENT_SECONDS = 0.05
NAMES = (
    "block_dangerous_commands",
    "block_sensitive_file_writes",
    "block_web_requests",
    "sql_protection",
    "protect_proxy",
    "protect_work",
)
SECRETS: Mapping[str, Any] = {"class": "secrets", "config": {"apply_to": "both", "assignments": True}}
ALL: Mapping[str, Any] = {
    "class": "serial",
    "config": {"policies": [*({"class": name} for name in NAMES), SECRETS]},
}
TWO: Mapping[str, Any] = {"class": "serial", "config": {"policies": [{"class": NAMES[0]}, SECRETS]}}
REWRITERS: Mapping[str, Any] = {
    "class": "serial",
    "config": {
        "policies": [
            {"class": name, "config": config}
            for name, config in {
                "plain_dashes": {},
                "prefer_uv": {},
                "no_apologies": {},
                "all_caps": {"tool_arguments": True},
                "string_replacement": {"replacements": [["a", "b"]], "tool_arguments": True, "apply_to": "both"},
                "regex_replacement": {"replacements": [["x.*y", "z"]], "tool_arguments": True, "apply_to": "both"},
            }.items()
        ]
    },
}
TOO_LARGE = "too large to judge"


async def check(policy: Any, *args: Any, **options: Any) -> None:
    """Fails if a transaction costs too much each of three times: a processor that others use, too, is slow at times.

    On a slow one it may cost more, but no more than a few times what it costs without a policy."""
    cost = await cost_of(policy, *args, **options)
    for _ in range(2):
        if cost.stall < STALL_SECONDS and cost.total < CPU_SECONDS:
            return
        cost = await cost_of(policy, *args, **options)
    assert cost.stall < STALL_SECONDS
    if cost.total >= CPU_SECONDS:
        assert cost.total < TIMES_NOOP * (await cost_of({"class": "noop"}, *args, **options)).total


def is_too_large(cost: Cost) -> bool:
    return any(made.action == "block" and TOO_LARGE in (made.reason or "") for made in cost.decisions)


# Answers

BY_PRESETS = (
    "many calls",
    "many blocks",
    "many pieces of a key",
    "text: names of secrets",
    "text: random values after names",
    "text: beginnings of private keys",
    "text: combining characters",
    "call: text: random values after names",
    "call: shell: single quotes",
    "call: shell: globs",
    "call: shell: JavaScript: a of ",
    "call: shell: JavaScript: static{typeof /*try{",
    "call: shell: arrays that do not end",
    "call: shell: cases without their heads",
    "call: many paths",
    "call: many long keys",
    "call: a key twice",
    "call: a long key",
    "call: numbers",
    "call: commands with arguments",
)
BY_REWRITERS = ("text: dashes", "text: pips", "text: beginnings of apologies", "call: a key twice")


@pytest.mark.parametrize("kind", BY_PRESETS)
async def test_no_answer_keeps_the_presets_from_the_loop_or_busy_for_long(kind: str) -> None:
    await check(ALL, "chat", ROUTES["chat"].body, ANSWERS[kind]())


@pytest.mark.parametrize("kind", BY_REWRITERS)
async def test_no_answer_keeps_rewriters_from_the_loop_or_busy_for_long(kind: str) -> None:
    await check(REWRITERS, "chat", ROUTES["chat"].body, ANSWERS[kind]())


@pytest.mark.parametrize("route", ["messages", "gemini"])
async def test_a_stream_whose_events_are_all_there_leaves_the_loop_its_turns(route: RouteName) -> None:
    await check(ALL, route, ROUTES[route].body, ANSWERS["many equal calls"](), full=False)


@pytest.mark.parametrize("full", [True, False])
async def test_a_response_of_many_items_leaves_the_loop_its_turns(*, full: bool) -> None:
    """The last unit of such a stream says all of it again; the record reads a full one when it has left."""
    policy = {"class": "block_dangerous_commands"}
    await check(policy, "responses", ROUTES["responses"].body, ANSWERS["many calls"](), full=full)


@pytest.mark.parametrize(
    ("kind", "policy"),
    [("call: shell: commands", ALL), ("call: nested JSON", ALL), ("many pieces of a call", TWO)],
)
async def test_a_hostile_call_stalls_the_loop_for_a_moment_at_most(kind: str, policy: Mapping[str, Any]) -> None:
    """A script of a megabyte, 200 KB of nested JSON, 100,000 pieces; under five presets in `benchmarks/engine.py`."""
    stalls = [(await cost_of(policy, "chat", ROUTES["chat"].body, ANSWERS[kind](), full=False)).stall]
    while min(stalls) >= MOMENT_SECONDS and len(stalls) < 3:
        stalls.append((await cost_of(policy, "chat", ROUTES["chat"].body, ANSWERS[kind](), full=False)).stall)
    assert min(stalls) < MOMENT_SECONDS


# Requests

LONG_TEXTS = ("text: names of secrets", "text: random values after names", "text: notices", "a long message")


@pytest.mark.parametrize("kind", LONG_TEXTS)
async def test_no_text_of_a_request_keeps_the_loop(kind: str) -> None:
    await check(ALL, "chat", REQUESTS[kind]("chat"))


# The budget

CALLS = Answer([Say("A text. "), *(Call("Bash", f'{{"command": "ls {number}"}}') for number in range(20))])
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "a gate": {"class": "block_dangerous_commands"},
    "a gate that lets failures pass": {"class": "block_dangerous_commands", "on_policy_error": "pass"},
    "a rewriter": {"class": "all_caps", "config": {"tool_arguments": True}},
    "several": ALL,
    "a panel": {"class": "parallel", "config": {"policies": [{"class": name} for name in NAMES]}},
}


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("route", ["chat", "messages", "responses", "gemini"])
@pytest.mark.parametrize("config", CONFIGS)
async def test_calls_beyond_the_budget_are_withheld_with_a_notice(config: str, route: RouteName, *, full: bool) -> None:
    limits = {"max_judged_blocks": 10}
    cost = await cost_of(CONFIGS[config], route, ROUTES[route].body, CALLS, full=full, limits=limits)
    has_place = not (route == "messages" and "all_caps" in str(CONFIGS[config]))  # text may not follow a call there
    assert (TOO_LARGE in cost.left) == has_place
    assert "ls 15" not in cost.left.casefold()
    assert is_too_large(cost)
    assert cost.outcome == "blocked"


@pytest.mark.parametrize("kind", ["text: random values after names", "call: text: random values after names"])
async def test_characters_beyond_the_budget_are_withheld_whatever_they_are(kind: str) -> None:
    cost = await cost_of(SECRETS, "chat", ROUTES["chat"].body, ANSWERS[kind](), limits={"max_judged_characters": 9_999})
    assert (is_too_large(cost), "password" in cost.left) == (True, False)


async def test_a_request_beyond_the_budget_is_refused() -> None:
    body = said("chat", ["some words "] * 2_000)
    cost = await cost_of(SECRETS, "chat", body, CALLS, limits={"max_judged_characters": 9_999})
    assert TOO_LARGE in cost.left
    assert is_too_large(cost)


async def test_a_policy_that_judges_nothing_spends_nothing() -> None:
    limits = {"max_judged_blocks": 1, "max_judged_characters": 1}
    cost = await cost_of({"class": "noop"}, "chat", said("chat", ["words"] * 10), CALLS, limits=limits)
    assert "ls 19" in cost.left


async def test_what_agents_do_stays_far_below_the_budget() -> None:
    """A long history, a file of a megabyte, and a long script, under six policies."""
    history = said("chat", ["some words that somebody said, " * 100] * 200)
    steps = [
        Say("I write the file."),
        Call("Write", json.dumps({"file_path": "a.txt", "content": "a line of text\n" * 65_000})),
        Call("Bash", json.dumps({"command": "cat > b.txt <<'E'\n" + "a line of text\n" * 2_500 + "E\n"})),
        *(Call("Bash", json.dumps({"command": f"pytest -q test_{number}.py"})) for number in range(50)),
    ]
    half = {
        "max_judged_characters": DEFAULT_LIMITS.max_judged_characters // 2,
        "max_judged_blocks": DEFAULT_LIMITS.max_judged_blocks // 2,
    }
    cost = await cost_of(ALL, "chat", history, Answer(steps), limits=half)
    assert [made for made in cost.decisions if made.action != "allow"] == []
    assert "test_49.py" in cost.left


@pytest.mark.parametrize(
    "arguments",
    [
        json.dumps({"command": "rm -rf /", "more": [1] * MAX_VALUES}),
        json.dumps({"command": "rm -rf /", "k" * (MAX_KEY_CHARACTERS + 1): 1}),
    ],
    ids=["many values", "a long key"],
)
def test_arguments_with_too_much_in_them_count_as_unreadable(arguments: str) -> None:
    assert read_arguments(ToolCall("1", "Bash", arguments)) == ()
    assert read_arguments(ToolCall("1", "Bash", arguments.replace("k", "").replace(", 1", ""))) != ()


# Threads


async def test_a_client_that_leaves_does_not_wait_for_the_thread_that_judges_for_it() -> None:
    began, goes_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        goes_on.wait(10)
        ended.set()

    judging = asyncio.create_task(off_loop(work))
    await asyncio.to_thread(began.wait, 10)
    judging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await judging
    assert not ended.is_set()
    goes_on.set()
    assert await asyncio.to_thread(ended.wait, 10)
