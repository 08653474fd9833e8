"""Easy base classes: `SimplePolicy` for whole blocks, `ChunkPolicy` for pieces of text."""

from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

from luthien_litellm_hooks.errors import PolicyError
from luthien_litellm_hooks.policy.base import Policy
from luthien_litellm_hooks.policy.context import PolicyContext, StreamingResponseContext
from luthien_litellm_hooks.policy.request import Answer, Request
from luthien_litellm_hooks.policy.sending import (
    drop_block,
    passthrough_accumulated_chunks,
    passthrough_last_chunk,
    send_reasoning,
    send_text,
    send_tool_call,
)
from luthien_litellm_hooks.wire.events import (
    ContentStreamBlock,
    ReasoningStreamBlock,
    StreamBlock,
    ToolCall,
    ToolCallStreamBlock,
)

T = TypeVar("T")


class SimplePolicy(Policy):
    """Base class of policies on whole blocks: each method returns the block unchanged, changed, or None to drop it.

    A kind of block is held only if you override its method. Others stream through.
    """

    async def on_request_simple(self, request: Request) -> Request | Answer:
        """Returns the request for the provider."""
        return request

    async def on_response_content(self, content: str, request: Request) -> str | None:
        """Returns the text for the client."""
        return content

    async def on_response_reasoning(self, content: str, request: Request) -> str | None:
        """Returns the reasoning for the client. A changed one loses the provider's signature."""
        return content

    async def on_response_tool_call(self, tool_call: ToolCall, request: Request) -> ToolCall | None:
        """Returns the tool call for the client."""
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


class ChunkPolicy(Policy):
    """Base class of policies that change text piece by piece, while it streams.

    A provider's cuts between pieces mean nothing. For whole words or sentences, use a `SimplePolicy`, or keep the rest
    in `ctx.scratchpad` and send it in `on_content_complete`. A full response is one piece. Reasoning and tool calls
    pass.
    """

    async def process_chunk(self, delta: str, ctx: StreamingResponseContext) -> str:
        """Returns the text for the client instead of `delta`; "" for nothing."""
        raise NotImplementedError

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        delta = ctx.delta or ""
        _decided_before(ctx)
        text = cast(object, await self.process_chunk(delta, ctx))
        if not isinstance(text, str):
            raise PolicyError(f"process_chunk returned a {type(text).__name__}, not a str")
        if text == delta:
            await passthrough_last_chunk(ctx)
        else:
            _record_change(ctx)
            await send_text(ctx, text)


def _record_change(ctx: StreamingResponseContext) -> None:
    since = _decided_before(ctx)
    made = (decision for decision in ctx.decisions[since:] if decision.block is ctx.block)
    if not any(decision.policy == ctx.policy_name for decision in made):
        ctx.decide("modify")


def _decided_before(ctx: StreamingResponseContext) -> int:
    """Counts the decisions before the block began."""
    before = cast(dict[StreamBlock | None, int], ctx.scratchpad.setdefault("chunk.decided_before", {}))
    return before.setdefault(ctx.block, len(ctx.decisions))
