"""A policy for tests that goes wrong on command: how, and in which hook, the request's header `x-fault` says."""

import asyncio
import logging
from typing import Any, cast

from luthien_litellm_hooks import (
    Answer,
    Policy,
    PolicyContext,
    Request,
    StreamClosedError,
    StreamingResponseContext,
    passthrough_accumulated_chunks,
    send_text,
)

SECRET = "zanzibar"
"""What only the operator may read: it stands in the text of each exception."""
SENT_LATE = "sent after the end"
_CLOSED = "faulty.closed"

logger = logging.getLogger("luthien_litellm_hooks")


class Faulty(Policy):
    """Holds the whole answer until all of it is there, unless `x-fault` is "HOW HOOK": then it goes
    wrong in that hook."""

    async def on_request(self, request: Request, ctx: PolicyContext) -> Request | Answer:
        if await _goes_wrong("on_request", ctx):
            return cast(Any, SECRET)
        return request

    async def on_chunk_received(self, ctx: StreamingResponseContext) -> None:
        await _goes_wrong("on_chunk_received", ctx)

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        await _goes_wrong("on_content_delta", ctx)

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        await _goes_wrong("on_content_complete", ctx)

    async def on_tool_call_delta(self, ctx: StreamingResponseContext) -> None:
        await _goes_wrong("on_tool_call_delta", ctx)

    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        await _goes_wrong("on_tool_call_complete", ctx)

    async def on_finish_reason(self, ctx: StreamingResponseContext) -> None:
        await _goes_wrong("on_finish_reason", ctx)

    async def on_stream_complete(self, ctx: StreamingResponseContext) -> None:
        await _goes_wrong("on_stream_complete", ctx)
        await passthrough_accumulated_chunks(ctx)

    async def on_stream_closed(self, ctx: StreamingResponseContext) -> None:
        if _CLOSED in ctx.scratchpad:
            ctx.scratchpad[_CLOSED].set()
        await _goes_wrong("on_stream_closed", ctx)

    async def process_full_response(self, response: object, ctx: PolicyContext) -> object:
        return SECRET if await _goes_wrong("process_full_response", ctx) else response


async def _goes_wrong(hook: str, ctx: PolicyContext) -> bool:
    """Whether the hook is to return nonsense; it goes wrong here in every other way."""
    how, _, where = ctx.request.headers.get("x-fault", "").partition(" ")
    if where != hook:
        return False
    match how:
        case "raise":
            raise RuntimeError(SECRET)
        case "hang":
            await asyncio.Event().wait()
        case "swallow":
            await _hang_on()
        case "keep":
            await _keep_alive(cast(StreamingResponseContext, ctx))
        case "late":
            ctx.scratchpad[_CLOSED] = asyncio.Event()
            ctx.scratchpad["faulty.task"] = asyncio.create_task(_send_late(cast(StreamingResponseContext, ctx)))
    return how == "nonsense"


async def _hang_on() -> None:
    """Waits for ever, and does not let itself be cancelled."""
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            logger.info("a cancellation was swallowed")


async def _keep_alive(ctx: StreamingResponseContext) -> None:
    while True:
        ctx.keepalive()
        await asyncio.sleep(0.05)


async def _send_late(ctx: StreamingResponseContext) -> None:
    """Tells the operator what became of text that is sent when the answer is over."""
    await ctx.scratchpad[_CLOSED].wait()
    try:
        await send_text(ctx, SECRET)
    except StreamClosedError:
        logger.error("%s: refused, transaction %s", SENT_LATE, ctx.transaction_id)


class HoldsCalls(Policy):
    """Lets text stream, and holds each call until it is whole."""

    async def on_tool_call_delta(self, ctx: StreamingResponseContext) -> None:
        return None

    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        await passthrough_accumulated_chunks(ctx)
