"""A policy that works on for a long time after a provider's end."""

import asyncio
import os

from luthien_litellm_hooks import SimplePolicy, StreamingResponseContext

SECONDS = float(os.environ.get("LINGERS_S", "12"))
"""More than half of what LiteLLM gives to logging a response."""
PLACES = ("finish", "end")


class Lingers(SimplePolicy):
    """Works on in the hook that the request's `user` says."""

    async def on_finish_reason(self, ctx: StreamingResponseContext) -> None:
        await self._linger(ctx, "finish")

    async def on_stream_complete(self, ctx: StreamingResponseContext) -> None:
        await self._linger(ctx, "end")

    async def _linger(self, ctx: StreamingResponseContext, place: str) -> None:
        if ctx.request.body.get("user") == place:
            await asyncio.sleep(SECONDS)
