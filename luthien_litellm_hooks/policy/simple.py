"""`SimplePolicy`: a policy in five lines, on whole blocks."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from luthien_litellm_hooks.errors import PolicyError
from luthien_litellm_hooks.events import ContentStreamBlock, ReasoningStreamBlock, ToolCall, ToolCallStreamBlock
from luthien_litellm_hooks.policy.base import Policy
from luthien_litellm_hooks.policy.context import PolicyContext, StreamingResponseContext
from luthien_litellm_hooks.policy.helpers import (
    drop_block,
    passthrough_accumulated_chunks,
    passthrough_last_chunk,
    send_reasoning,
    send_text,
    send_tool_call,
)
from luthien_litellm_hooks.policy.request import Answer, Request

T = TypeVar("T")


class SimplePolicy(Policy):
    """Sees each block once it is whole, and returns it unchanged, changed, or None to drop it.

    A kind of block whose method is not overridden is not held: it streams through.
    """

    async def on_request_simple(self, request: Request) -> Request | Answer:
        """Returns the request that the provider is to get."""
        return request

    async def on_response_content(self, content: str, request: Request) -> str | None:
        """Returns the text that the client is to get."""
        return content

    async def on_response_reasoning(self, content: str, request: Request) -> str | None:
        """Returns the reasoning that the client is to get. A changed one leaves without the
        provider's signature."""
        return content

    async def on_response_tool_call(self, tool_call: ToolCall, request: Request) -> ToolCall | None:
        """Returns the tool call that the client is to get."""
        return tool_call

    async def on_request(self, request: Request, ctx: PolicyContext) -> Request | Answer:
        return await self.on_request_simple(request)

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        await self._hold_unless_default("on_response_content", ctx)

    async def on_reasoning_delta(self, ctx: StreamingResponseContext) -> None:
        await self._hold_unless_default("on_response_reasoning", ctx)

    async def on_tool_call_delta(self, ctx: StreamingResponseContext) -> None:
        await self._hold_unless_default("on_response_tool_call", ctx)

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        if isinstance(ctx.block, ContentStreamBlock):
            content = ctx.block.content
            await _deliver(ctx, content, await self.on_response_content(content, ctx.final_request), send_text)

    async def on_reasoning_complete(self, ctx: StreamingResponseContext) -> None:
        if isinstance(ctx.block, ReasoningStreamBlock):
            content = ctx.block.content
            await _deliver(ctx, content, await self.on_response_reasoning(content, ctx.final_request), send_reasoning)

    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        if isinstance(ctx.block, ToolCallStreamBlock):
            call = ctx.block.tool_call
            await _deliver(ctx, call, await self.on_response_tool_call(call, ctx.final_request), send_tool_call)

    async def _hold_unless_default(self, method: str, ctx: StreamingResponseContext) -> None:
        if getattr(type(self), method) is getattr(SimplePolicy, method):
            await passthrough_last_chunk(ctx)


async def _deliver(
    ctx: StreamingResponseContext,
    original: T,
    final: T | None,
    send: Callable[[StreamingResponseContext, T], Awaitable[None]],
) -> None:
    if final is None:
        ctx.decide("block")
        drop_block(ctx)
    elif final == original:
        await passthrough_accumulated_chunks(ctx)
    elif type(final) is type(original):
        ctx.decide("modify")
        await send(ctx, final)
    else:
        raise PolicyError(f"a {type(final).__name__} was returned for a {type(original).__name__}")
