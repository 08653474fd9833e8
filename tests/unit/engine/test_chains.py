"""Stages in a row hand on all that is ready at once, and long work of one leaves the loop its turns."""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

from luthien_litellm_hooks import PolicyContext
from luthien_litellm_hooks.config.settings import build_executor, load_settings
from luthien_litellm_hooks.engine import executor as executor_module
from luthien_litellm_hooks.engine import pipeline
from luthien_litellm_hooks.engine.stage import PolicyStage
from luthien_litellm_hooks.hooks.routes import adapter_for
from luthien_litellm_hooks.policy.request import Request
from luthien_litellm_hooks.recording.recorder import DefaultTransactionRecorder
from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.routes import ROUTES
from tests.support.engine import NOOP, STRING_REPLACEMENT, TOOL_RULES

EVENTS = 600
THREE: Mapping[str, Any] = {
    "class": "serial",
    "config": {"policies": [TOOL_RULES, STRING_REPLACEMENT, {"class": "plain_dashes"}]},
}


async def delivered(policy: Mapping[str, Any], items: Sequence[object]) -> list[bytes]:
    """What LiteLLM reads of an answer on messages, an item each time."""
    body = {"model": "scripted", "stream": True, **ROUTES["messages"].body}
    ctx = PolicyContext("t", Request(body, route=ROUTES["messages"].path), recorder=DefaultTransactionRecorder())
    run = build_executor(load_settings({"luthien": {"policy": policy}}, {}))
    await run.on_request(ctx)

    async def stream() -> AsyncIterator[object]:
        for item in items:
            yield item

    adapter = adapter_for(ROUTES["messages"].call_type, ctx.final_request)
    return [item async for item in run.run(stream(), adapter, ctx) if isinstance(item, bytes)]


async def events_of(answer: Answer) -> list[bytes]:
    stream = ROUTES["messages"].stream(answer, ROUTES["messages"].body)
    return [item async for item in stream if isinstance(item, bytes)]


async def test_a_chain_delivers_in_as_few_items_as_one_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "TURN_S", math.inf)  # however slow the machine is
    items = [b"".join(await events_of(Answer([Say("some " * EVENTS)], piece=5)))]
    one, three = [await delivered(policy, items) for policy in (STRING_REPLACEMENT, THREE)]
    assert b"".join(three) == b"".join(one)
    assert len(three) <= len(one) + 2


async def test_only_policies_with_a_hook_for_responses_run_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    class Counted(PolicyStage):
        def start(self) -> asyncio.Task[None]:
            started.append(self._ctx.policy_name)
            return super().start()

    monkeypatch.setattr(executor_module, "PolicyStage", Counted)
    items = await events_of(Answer([Say("some words")]))
    policies: list[list[Mapping[str, Any]]] = [[NOOP, TOOL_RULES, NOOP], [NOOP, NOOP], [NOOP]]
    for members in policies:
        left = await delivered({"class": "serial", "config": {"policies": members}}, items)
        assert b"".join(left) == b"".join(items)
    assert started == ["tool_rules", "noop", "noop"]


async def test_the_release_of_a_call_in_many_pieces_leaves_the_loop_its_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pieces leave in one hook, when the call is judged."""
    monkeypatch.setattr(pipeline, "TURN_S", 0.0)
    longest = since = 0
    forward = pipeline.EgressQueue.put_nowait

    def counted(queue: pipeline.EgressQueue, item: Any) -> bool:
        nonlocal since, longest
        since += 1
        longest = max(longest, since)
        return forward(queue, item)

    async def beat() -> None:
        nonlocal since
        while True:
            since = 0
            await asyncio.sleep(0)

    monkeypatch.setattr(pipeline.EgressQueue, "put_nowait", counted)
    answer = Answer([Call("Write", '{"text": "' + "some " * 2_000 + '"}')], piece=5)
    items = await events_of(answer)
    beating = asyncio.create_task(beat())
    left = await delivered(TOOL_RULES, items)
    beating.cancel()
    assert b"".join(left) == b"".join(items)
    assert longest < 200
