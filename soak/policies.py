"""Policies that fail, for a soak."""

import asyncio

from luthien_litellm_hooks import Policy, StreamingResponseContext


class Raises(Policy):
    """Holds each text and then raises."""

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        return None

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        raise RuntimeError("a fault of the soak's")


class Hangs(Raises):
    """Holds each text and then never comes back."""

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        await asyncio.Event().wait()
