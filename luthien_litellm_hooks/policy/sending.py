"""Functions for hooks: send, release and drop. Events that no hook releases are never delivered."""

from typing import cast

from luthien_litellm_hooks.errors import PolicyError
from luthien_litellm_hooks.policy.context import StreamingResponseContext
from luthien_litellm_hooks.policy.notices import notice
from luthien_litellm_hooks.wire.events import (
    Chunk,
    ContentStreamBlock,
    Flagged,
    ReasoningDelta,
    ReasoningStreamBlock,
    StreamBlock,
    StreamEvent,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    text_of,
)


async def send_text(ctx: StreamingResponseContext, text: str) -> None:
    """Sends text of the policy's own, at once.

    In a hook about a block it replaces the block's events: those still held when the hook returns are dropped. ""
    replaces them too, and sends nothing.
    """
    if text:
        await _send(ctx, TextDelta(choice=ctx.choice, text=text), ContentStreamBlock)
    else:
        drop_block(ctx)


async def send_notice(ctx: StreamingResponseContext, text: str) -> None:
    """Sends text in our own name: with our mark and the transaction's id, as a paragraph of its own. Otherwise like
    `send_text`."""
    words = notice(text, ctx.transaction_id)
    await _send(ctx, TextDelta(choice=ctx.choice, text=words, starts_paragraph=True), ContentStreamBlock)


async def send_reasoning(ctx: StreamingResponseContext, text: str) -> None:
    """Sends reasoning, without any provider's signature; otherwise like `send_text`."""
    if text:
        await _send(ctx, ReasoningDelta(choice=ctx.choice, text=text), ReasoningStreamBlock)
    else:
        drop_block(ctx)


async def send_tool_call(ctx: StreamingResponseContext, tool_call: ToolCall, block: StreamBlock | None = None) -> None:
    """Sends a whole tool call. It replaces the events of `block`, by default the hook's block, as in `send_text`."""
    delta = ToolCallDelta(
        choice=ctx.choice if block is None else block.choice,
        id=tool_call.id,
        name=tool_call.name,
        arguments=tool_call.arguments,
        form=tool_call.form,
        extra=tool_call.extra,
    )
    await _send(ctx, delta, replaced=block)


async def send_flag(ctx: StreamingResponseContext, block: StreamBlock, id: str, explanation: str) -> None:
    """Tells a client that `takes_flags` about the call in `block`: its own user is to decide. The call itself leaves
    beside it."""
    _note_emission(ctx)
    await ctx.control.send(Flagged(choice=block.choice, id=id, explanation=explanation), None, block)


async def send_chunk(ctx: StreamingResponseContext, chunk: Chunk) -> None:
    """Releases a received chunk, or sends the events of a chunk built by the policy.

    Delivered or dropped events of a received chunk are not delivered again.
    """
    if ctx.block is None and chunk is get_last_ingress_chunk(ctx):
        await passthrough_last_chunk(ctx)
    elif chunk.raw is not None or any(chunk is received for received in ctx.ingress_state.raw_chunks):
        _note_emission(ctx)
        await ctx.control.release_chunk(chunk)
    else:
        for event in chunk.events:
            await _send(ctx, event)


def get_last_ingress_chunk(ctx: StreamingResponseContext) -> Chunk | None:
    """Returns the latest chunk, or None before the first."""
    chunks = ctx.ingress_state.raw_chunks
    return chunks[-1] if chunks else None


async def passthrough_last_chunk(ctx: StreamingResponseContext) -> None:
    """Forwards the latest event or chunk, unchanged.

    In a delta hook it forwards the hook's piece. In `on_chunk_received` it forwards the whole chunk, and the later
    hooks only watch it.
    """
    _note_emission(ctx)
    if ctx.block is None:
        ctx.control.pass_chunk()
    else:
        await ctx.control.release_latest(ctx.block)


async def passthrough_accumulated_chunks(ctx: StreamingResponseContext, block: StreamBlock | None = None) -> None:
    """Releases all held events of `block`, unchanged and in order.

    The default is the hook's block, and every block in a hook without one.
    """
    _note_emission(ctx)
    block = block or ctx.block
    if block is not None:
        await ctx.control.release(block)
    else:
        await ctx.control.release_all()


async def passthrough_first_pieces(ctx: StreamingResponseContext, count: int) -> None:
    """Releases the oldest `count` held pieces of the hook's block, unchanged."""
    _note_emission(ctx)
    if ctx.block is not None:
        await ctx.control.release_first(ctx.block, count)


def drop_block(ctx: StreamingResponseContext, block: StreamBlock | None = None) -> None:
    """Drops the held events of `block`, by default the hook's block: they are never delivered."""
    block = block or ctx.block
    if block is not None:
        ctx.control.drop(block)


async def _send(
    ctx: StreamingResponseContext,
    event: StreamEvent,
    of: type[StreamBlock] | None = None,
    replaced: StreamBlock | None = None,
) -> None:
    """Sends `event`, as a piece of the hook's block if that has the type `of`."""
    if not isinstance(cast(object, text_of(event)), str):
        raise PolicyError(f"a policy sent a {type(text_of(event)).__name__} for a text")
    _note_emission(ctx)
    about = replaced or ctx.block
    own_block = ctx.block if of is not None and isinstance(ctx.block, of) else None
    await ctx.control.send(event, own_block, about)
    if replaced is not None:
        ctx.control.drop(replaced)


def _note_emission(ctx: StreamingResponseContext) -> None:
    ctx.ingress_state.last_emission_index = ctx.ingress_state.chunk_count
