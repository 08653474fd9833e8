"""The engines that an answer runs through, one after the other, and what connects them."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from dataclasses import dataclass

import anyio

from luthien_litellm_hooks.adapters.base import Adapter
from luthien_litellm_hooks.composition import Member, Stage
from luthien_litellm_hooks.egress import EgressQueue
from luthien_litellm_hooks.events import Chunk
from luthien_litellm_hooks.limits import Limits
from luthien_litellm_hooks.panel import Panel
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.running_answer import Decode, Flush, RunningAnswer
from luthien_litellm_hooks.way_out import WayOut, is_whole
from luthien_litellm_hooks.worker import CLOSE_GRACE_S


@dataclass(frozen=True, slots=True)
class Source:
    """What an engine reads: a stream, how its items become chunks, and how far it may run ahead of the
    client and hold back."""

    stream: AsyncIterable[object]
    decode: Decode
    flush: Flush
    is_framed: bool
    has_text_after_calls: bool
    passes_unknown: bool
    cut_reasons: tuple[str, ...]
    max_items: int
    put_timeout_s: float | None
    limits: Limits


@dataclass(frozen=True, slots=True)
class Answering:
    """One policy, or a panel of several, at work on an answer; what it lets out is in `queue`."""

    queue: EgressQueue
    engine: RunningAnswer | Panel
    worker: asyncio.Task[None]

    @classmethod
    def start(cls, stage: Stage, contexts: Sequence[PolicyContext], ctx: PolicyContext, source: Source) -> "Answering":
        """Puts a stage to work on `source`."""
        queue = EgressQueue(source.max_items, source.put_timeout_s, source.limits.max_held_bytes)
        if isinstance(stage, Member):
            engine = RunningAnswer(
                stage.policy,
                queue,
                stage.timeout_s,
                contexts[0],
                stage.on_policy_error,
                is_framed=source.is_framed,
                has_text_after_calls=source.has_text_after_calls,
                passes_unknown=source.passes_unknown,
                cut_reasons=source.cut_reasons,
                limits=source.limits,
            )
        else:
            engine = Panel(
                stage,
                contexts,
                ctx,
                queue,
                is_framed=source.is_framed,
                passes_unknown=source.passes_unknown,
                cut_reasons=source.cut_reasons,
                limits=source.limits,
            )
        return cls(queue, engine, engine.start(source.stream, source.decode, source.flush))


async def hand_on(answer: Answering, adapter: Adapter) -> AsyncGenerator[Chunk]:
    """What an engine lets out, as chunks for the next one; legal as a client's stream is."""
    way_out = WayOut(adapter, is_untouched=lambda: not answer.engine.is_touched)
    is_over = False
    try:
        while (parcel := await answer.queue.take()) is not None:
            events = way_out.admit(parcel)
            if parcel.chunk is None:
                yield Chunk(tuple(events))
            elif events:
                yield parcel.chunk if is_whole(parcel.chunk, events) else parcel.chunk.some(tuple(events))
        is_over = True
        if way_out.is_cut and (owed := way_out.finish()):
            yield Chunk(tuple(owed))
    finally:
        if not is_over:
            await stop(answer)


async def stop(answer: Answering) -> None:
    """Cancels the worker and gives it a moment to clean up, though the caller is itself cancelled."""
    answer.worker.cancel()
    with anyio.CancelScope(shield=True):
        await asyncio.wait([answer.worker], timeout=CLOSE_GRACE_S)
    answer.queue.abandon()
