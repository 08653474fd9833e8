"""A transaction that is over is freed at once: nothing of it waits for the garbage collector."""

import asyncio
import gc
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from luthien_litellm_hooks import (
    Policy,
    PolicyBlockedError,
    PolicyContext,
    PolicyExecutor,
    StreamingResponseContext,
    passthrough_last_chunk,
)
from luthien_litellm_hooks.policies.noop import NoOp
from luthien_litellm_hooks.policy.tool_gate import ToolGatePolicy, Verdict
from luthien_litellm_hooks.wire.events import ToolCall
from tests.support.chat import adapter, call, chunk, context, finish, full, provide, pull, text

ANSWER = [chunk(role="assistant", content=""), text("one "), text("two"), *call(0, "f", "{}"), finish("tool_calls")]


class Waits(Policy):
    """Lets everything through, a moment later."""

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        await asyncio.sleep(0)
        await passthrough_last_chunk(ctx)


class Blocks(Policy):
    """Withholds everything."""

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        raise PolicyBlockedError("no")


class Raises(Policy):
    """Fails, after it has waited."""

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        await asyncio.sleep(0)
        raise RuntimeError("a fault")


class Hangs(Policy):
    """Never comes back."""

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        await asyncio.Event().wait()


class JudgeFails(ToolGatePolicy):
    """Has no verdict on any call."""

    async def judge_tool_call(self, tool_call: ToolCall, ctx: PolicyContext) -> Verdict:
        await asyncio.sleep(0)
        raise RuntimeError("a fault")


class JudgeHangs(ToolGatePolicy):
    """Never has a verdict."""

    async def judge_tool_call(self, tool_call: ToolCall, ctx: PolicyContext) -> Verdict:
        async with asyncio.timeout(60):
            await asyncio.Event().wait()
        return Verdict("allow")


POLICIES = [NoOp, Waits, Blocks, Raises, Hangs, JudgeFails, JudgeHangs]


async def _broken_off() -> AsyncIterator[Any]:
    for piece in ANSWER[:2]:
        yield piece
    raise ConnectionError("the provider is gone")


def _executor(policy: type[Policy]) -> PolicyExecutor:
    return PolicyExecutor(policy(), timeout_s=0.05)


async def _streamed(policy: type[Policy]) -> None:
    await pull(_executor(policy).run(provide(ANSWER), adapter(), context()))


async def _full(policy: type[Policy]) -> None:
    answer = full({"role": "assistant", "content": "one two"})
    await _executor(policy).run_full(answer, adapter(), context())


async def _left(policy: type[Policy]) -> None:
    stream = _executor(policy).run(provide(ANSWER), adapter(), context())
    await anext(stream)
    await stream.aclose()


async def _broken(policy: type[Policy]) -> None:
    with suppress(ConnectionError):
        await pull(_executor(policy).run(_broken_off(), adapter(), context()))


@pytest.fixture(autouse=True, scope="module")
def _frozen() -> None:
    """What is there already need not be looked through by each test."""
    gc.collect()
    gc.freeze()


@contextmanager
def _uncollected() -> Generator[set[str]]:
    """The kinds of our objects that only the garbage collector could free, known when this is left."""
    kinds: set[str] = set()
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield kinds
        gc.collect()
        kinds |= {type(one).__name__ for one in gc.garbage if type(one).__module__.startswith("luthien_litellm_hooks")}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


async def _workers_ended() -> None:
    workers = [task for task in asyncio.all_tasks() if task.get_name().startswith("luthien-")]
    await asyncio.gather(*workers, return_exceptions=True)


@pytest.mark.parametrize("way", [_streamed, _full, _left, _broken])
@pytest.mark.parametrize("policy", POLICIES)
async def test_a_transaction_that_is_over_is_freed_at_once(policy: type[Policy], way: Any) -> None:
    with _uncollected() as kinds:
        await way(policy)
        await _workers_ended()
    assert kinds == set()
