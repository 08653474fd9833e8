"""The engine alone, in this process: what a chunk of an answer costs, and a verdict on a tool call.

`make bench` runs it after the proxies, with pytest-benchmark; no test is collected here.
"""

import asyncio
import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from luthien_litellm_hooks import Request
from luthien_litellm_hooks.policies.rewriting import finalise
from luthien_litellm_hooks.policies.rewriting.partial_match import GrowingRewriter
from luthien_litellm_hooks.policies.secrets import MAX_SECRET, secret_rules
from luthien_litellm_hooks.policies.shell.reader import ShellReader
from luthien_litellm_hooks.policies.tool_rules import ToolRules, ToolRulesConfig
from luthien_litellm_hooks.testing.routes import ROUTES, RouteName
from luthien_litellm_hooks.wire.events import ToolCall
from tests.support.chat import context
from tests.support.engine import (
    NOOP,
    PRESETS,
    RULES,
    SERIAL,
    STRING_REPLACEMENT,
    TOOL_RULES,
    call_stream,
    engine,
    held_call,
    new_script,
    script_stream,
    text_stream,
)
from tests.support.hostile_costs import ANSWERS
from tests.support.stalls import cost_of

_FEW, _MANY = 1_000, 20_000
_PLAIN = (
    "cd /work/project && python -m pytest -q tests/unit/test_reader.py tests/unit/test_writer.py "
    '-k "not slow and not network" --maxfail=1 --durations=5 -p no:cacheprovider 2>&1 | tail -n 40 | grep -v warnings'
)
_PIPELINE = (
    "cd /srv/app/current && git fetch --all --prune && git log --oneline -20 origin/main | grep -v merge "
    '| sort -u > /tmp/changes.txt && wc -l /tmp/changes.txt && echo "done with $(hostname)" && ls -la src test'
)


_UNTOUCHED = [pytest.param(NOOP, id="noop"), pytest.param(TOOL_RULES, id="tool_rules")]
_REWRITTEN = [pytest.param(STRING_REPLACEMENT, id="string_replacement"), pytest.param(SERIAL, id="serial")]


@pytest.mark.parametrize("route", ["chat", "messages", "responses"])
@pytest.mark.parametrize("policy", [*_UNTOUCHED, *_REWRITTEN])
def test_an_answer_of_1000_chunks(benchmark: BenchmarkFixture, route: RouteName, policy: Mapping[str, Any]) -> None:
    stream, run = text_stream(route, _FEW), engine(policy)
    benchmark.pedantic(run, (stream,), rounds=20, warmup_rounds=2)


@pytest.mark.parametrize("route", ["chat", "messages", "responses"])
@pytest.mark.parametrize("policy", _UNTOUCHED)
def test_an_answer_of_20000_chunks(benchmark: BenchmarkFixture, route: RouteName, policy: Mapping[str, Any]) -> None:
    stream, run = text_stream(route, _MANY), engine(policy)
    benchmark.pedantic(run, (stream,), rounds=20, warmup_rounds=2)


@pytest.mark.parametrize("route", ["chat", "messages", "responses"])
def test_from_the_last_byte_of_a_call_of_50_kb(benchmark: BenchmarkFixture, route: RouteName) -> None:
    """Until all of it has been judged by 30 rules and has left, in the hundred pieces that it came in."""
    stream = call_stream(route, 100, piece=500)
    with asyncio.Runner() as runner:
        benchmark.pedantic(
            lambda end: end(),
            setup=lambda: ((held_call(TOOL_RULES, stream, runner),), {}),
            rounds=20,
            warmup_rounds=2,
        )


@pytest.mark.parametrize("command", [pytest.param(_PLAIN, id="plain"), pytest.param(_PIPELINE, id="pipeline")])
@pytest.mark.parametrize("is_new", [pytest.param(True, id="first_seen"), pytest.param(False, id="seen_again")])
def test_30_rules_on_100_shell_commands_of_200_bytes(benchmark: BenchmarkFixture, command: str, is_new: bool) -> None:
    rules = ToolRules(ToolRulesConfig.model_validate(RULES))
    numbers = itertools.count()

    def calls() -> tuple[tuple[list[ToolCall]], dict[str, Any]]:
        """Of new commands each has another number, so that none was read before."""
        words = [f"{next(numbers):06}" if is_new else "000000" for _ in range(100)]
        texts = [json.dumps({"command": f"{command} {word}"}) for word in words]
        return ([ToolCall("call_1", "bash", text) for text in texts],), {}

    with asyncio.Runner() as runner:

        async def judge(judged: list[ToolCall]) -> None:
            for call in judged:
                await rules.judge_tool_call(call, context())

        benchmark.pedantic(lambda judged: runner.run(judge(judged)), setup=calls, rounds=20, warmup_rounds=2)


# The heartbeat of the event loop beside a hostile call: a script of 1 MB, 200 KB of nested JSON, 100,000 pieces. The
# time of each is that of the longest step, in which the loop runs nothing else.

_HOSTILE = ("call: shell: commands", "call: nested JSON", "many pieces of a call")
_longest_steps: list[float] = []


@pytest.mark.benchmark(timer=lambda: sum(_longest_steps), disable_gc=True)
@pytest.mark.parametrize("kind", _HOSTILE)
def test_the_longest_step_beside_a_hostile_call(benchmark: BenchmarkFixture, kind: str) -> None:
    def let_through() -> None:
        cost = asyncio.run(cost_of(_FIVE, "chat", ROUTES["chat"].body, ANSWERS[kind](), full=False))
        _longest_steps.append(cost.stall)

    benchmark.pedantic(let_through, rounds=3)


# Scripts and texts of several lengths. µs a character are the time by the number in the name.

_SIZES = (200, 1_600, 5_600, 30_000)
_FIVE: Mapping[str, Any] = {"class": "serial", "config": {"policies": [{"class": name} for name in PRESETS]}}
_ONE_OF_FIVE = [pytest.param({"class": name}, id=name) for name in PRESETS]


@pytest.mark.parametrize("characters", _SIZES)
@pytest.mark.parametrize("policy", [*_ONE_OF_FIVE, pytest.param(_FIVE, id="serial_of_five")])
def test_a_new_script(benchmark: BenchmarkFixture, policy: Mapping[str, Any], characters: int) -> None:
    run = engine(policy)
    benchmark.pedantic(run, setup=lambda: ((script_stream("messages", characters),), {}), rounds=15, warmup_rounds=2)


@pytest.mark.parametrize("characters", _SIZES)
def test_reading_a_script(benchmark: BenchmarkFixture, characters: int) -> None:
    def read(script: str) -> None:
        ShellReader().read(script)

    benchmark.pedantic(read, setup=lambda: ((new_script(characters),), {}), rounds=15, warmup_rounds=2)


_TEXTS: Mapping[str, str] = {
    "script": "",
    "names and values": "password=aB3dE6gH9kL2 ",
    "names alone": "password=",
    "tokens": f"ghp_{'a1B2c3D4' * 4}a1B2 ",
    "beginnings of keys": "-----BEGIN ",
    "web addresses": "see https://example.com/a?x=1 and http://host:8080/b ; ",
}


@pytest.mark.parametrize("characters", [1_500, 4_000, 40_000])
@pytest.mark.parametrize("kind", _TEXTS)
@pytest.mark.parametrize("is_final", [True, False])
def test_secrets(benchmark: BenchmarkFixture, kind: str, characters: int, is_final: bool) -> None:
    rules = tuple(secret_rules(lambda kind, _: f"[redacted:{kind}]", assignments=True))
    rewriter, part = GrowingRewriter(rules, reach=MAX_SECRET), _TEXTS[kind]
    text = (part * (characters // len(part) + 1))[:characters] if part else new_script(characters)
    benchmark.pedantic(finalise, (rewriter, text, 0), {"is_final": is_final}, rounds=10, warmup_rounds=1)


def _conversation(steps: int) -> Request:
    """A request of Claude Code after so many steps, parsed anew; the mark of its cache is in the newest message."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "text", "text": "Make the tests pass."}]}]
    for step in range(steps):
        call = {"type": "tool_use", "id": f"toolu_{step}", "name": "Bash", "input": {"command": _PLAIN}}
        result = {"type": "tool_result", "tool_use_id": f"toolu_{step}", "content": f"line {step}\n" * 200}
        mark = {"cache_control": {"type": "ephemeral"}} if step == steps - 1 else {}
        messages += [{"role": "assistant", "content": [call]}, {"role": "user", "content": [{**result, **mark}]}]
    return Request(json.loads(json.dumps({"messages": messages})))


@pytest.mark.parametrize("is_new", [pytest.param(True, id="first_seen"), pytest.param(False, id="one_step_more")])
def test_the_trajectory_of_200_steps(benchmark: BenchmarkFixture, is_new: bool) -> None:
    numbers = itertools.count()

    def request() -> tuple[tuple[Request], dict[str, Any]]:
        """A session of its own is read as a whole; otherwise one step follows those of the last round."""
        number = next(numbers)
        session = f"new-{number}" if is_new else "same"
        return (replace(_conversation(200 + (0 if is_new else number)), session=session),), {}

    benchmark.pedantic(lambda request: request.trajectory, setup=request, rounds=20, warmup_rounds=2)
