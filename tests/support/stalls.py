"""How long the event loop is kept from its other work, in processor time: another program at work takes none of it.

The seconds are those of a quick processor. Others, and the same at another hour, take up to three times as long.
The garbage collector's time is its own: it looks at all that the test has kept, too.
"""

import asyncio
import gc
import time
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from unittest import mock

from luthien_litellm_hooks.config.settings import build_executor, load_settings
from luthien_litellm_hooks.errors import PolicyBlockedError
from luthien_litellm_hooks.hooks.routes import adapter_for
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.request import Request
from luthien_litellm_hooks.recording.decision import Decision
from luthien_litellm_hooks.recording.recorder import DefaultTransactionRecorder
from luthien_litellm_hooks.testing.answers import Answer
from luthien_litellm_hooks.testing.routes import ROUTES, RouteName

STEPS = 100_000
QUICK_SECONDS = 0.0035
"""Time of a quick processor for these steps."""
NO_LIMITS: Mapping[str, int] = MappingProxyType({})


@dataclass(slots=True)
class Cost:
    """What a transaction took: the longest that the loop went on without a turn for anything else, and all of the
    process, in seconds of a quick processor; what was decided, and what left for the client."""

    stall: float = 0.0
    total: float = 0.0
    decisions: tuple[Decision, ...] = ()
    outcome: str | None = None
    left: str = ""


@contextmanager
def measured(cost: Cost) -> Generator[None]:
    """Measures what runs meanwhile on the loop of this thread, but for the step in which this ends."""
    run, is_over, slowness = asyncio.Handle._run, False, min(seconds_of_steps() for _ in range(3)) / QUICK_SECONDS

    def timed(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        run(handle)
        if not is_over:
            cost.stall = max(cost.stall, (time.thread_time() - began) / slowness)

    began = time.process_time()
    gc.disable()
    try:
        with mock.patch.object(asyncio.Handle, "_run", timed):
            yield
            is_over = True
    finally:
        gc.enable()
    cost.total = (time.process_time() - began) / slowness


def seconds_of_steps() -> float:
    """Processor time that `STEPS` steps of Python take now."""
    began, total = time.thread_time(), 0
    for step in range(STEPS):
        total += step & 3
    return time.thread_time() - began


async def cost_of(
    policy: Mapping[str, Any],
    route: RouteName,
    body: Mapping[str, Any],
    answer: Answer | None = None,
    *,
    full: bool = True,
    limits: Mapping[str, int] = NO_LIMITS,
) -> Cost:
    """What it costs to let a request through a policy, and the answer to it if there is one."""
    executor = build_executor(load_settings({"luthien": {"policy": policy, "limits": dict(limits)}}, {}))
    request = Request({**body, "stream": not full}, route=ROUTES[route].path)
    recorder = DefaultTransactionRecorder()
    context = PolicyContext("transaction", request, recorder=recorder)
    is_full, is_streamed = answer is not None and full, answer is not None and not full
    provided = ROUTES[route].full(answer, request.body) if answer is not None and is_full else None
    items = [item async for item in ROUTES[route].stream(answer, request.body)] if answer and is_streamed else []
    left: list[object] = []
    adapter = adapter_for(ROUTES[route].call_type, request)

    async def stream() -> AsyncGenerator[object]:
        for item in items:
            yield item

    async def run() -> None:
        try:
            await executor.on_request(context)
        except PolicyBlockedError as refusal:
            left.append(refusal.message)
            return
        if provided is not None:
            left.append(await executor.run_full(provided, adapter, context))
        if items:
            left.extend([item async for item in executor.run(stream(), adapter, context)])

    cost = Cost()
    with measured(cost):
        await asyncio.create_task(run())
    cost.decisions, cost.outcome = tuple(context.decisions), recorder.outcome
    cost.left = "".join(map(str, left))
    return cost
