"""The engine alone, in this process: what a chunk of an answer costs, and a verdict on a tool call.

`make bench` runs it after the proxies, with pytest-benchmark; no test is collected here.
"""

import asyncio
import itertools
import json
from collections.abc import Mapping
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from luthien_litellm_hooks.events import ToolCall
from luthien_litellm_hooks.policies.tool_rules import ToolRules, ToolRulesConfig
from luthien_litellm_hooks.testing.routes import RouteName
from tests.support.chat import context
from tests.support.engine import (
    NOOP,
    RULES,
    SERIAL,
    STRING_REPLACEMENT,
    TOOL_RULES,
    call_stream,
    engine,
    held_call,
    text_stream,
)

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
