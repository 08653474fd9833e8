"""A policy for tests at a proxy that holds each block until the test opens a gate."""

import os

import httpx

from luthien_litellm_hooks import (
    Policy,
    PolicyBlockedError,
    StreamingResponseContext,
    passthrough_accumulated_chunks,
    send_text,
)

GATE = "held-gate"
"""The model of the provider that the policy asks; an answer to it opens the gate."""
THEN = "x-then"
"""The header that says what becomes of the block: "block", "replace", or it passes."""


class Held(Policy):
    """Holds each block whole, waits at the gate, and then does with it as the request says."""

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None: ...

    async def on_tool_call_delta(self, ctx: StreamingResponseContext) -> None: ...

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        await self._decide(ctx)

    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        await self._decide(ctx)

    async def _decide(self, ctx: StreamingResponseContext) -> None:
        await wait_at_the_gate()
        match ctx.request.headers.get(THEN):
            case "block":
                raise PolicyBlockedError("Held, and refused.")
            case "replace":
                await send_text(ctx, "something else")
            case _:
                await passthrough_accumulated_chunks(ctx)


async def wait_at_the_gate() -> None:
    async with httpx.AsyncClient(timeout=600) as client:
        body = {"model": GATE, "messages": [], "stream": True}
        await client.post(f"{os.environ['GATE_URL']}/v1/chat/completions", json=body)
