"""How a hook lets something out. What a hook neither lets out nor holds on to is never delivered."""

from typing import cast

from luthien_litellm_hooks.errors import PolicyError
from luthien_litellm_hooks.events import (
    Chunk,
    ContentStreamBlock,
    ReasoningDelta,
    ReasoningStreamBlock,
    StreamBlock,
    StreamEvent,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    text_of,
)
from luthien_litellm_hooks.policy.context import StreamingResponseContext
from luthien_litellm_hooks.policy.notices import notice


async def send_text(ctx: StreamingResponseContext, text: str) -> None:
    """Sends text of the policy's own, at once.

    In a hook about a block it stands for what came of that block: what is held of the block when
    the hook returns is dropped. "" stands for it too, and sends nothing.
    """
    if text:
        await _send(ctx, TextDelta(choice=ctx.choice, text=text), ContentStreamBlock)
    else:
        drop_block(ctx)


async def send_notice(ctx: StreamingResponseContext, text: str) -> None:
    """Sends text in our own name: marked as such, with the transaction's id, and apart from the text
    before it. Otherwise like `send_text`."""
    words = notice(text, ctx.transaction_id)
    await _send(ctx, TextDelta(choice=ctx.choice, text=words, is_apart=True), ContentStreamBlock)


async def send_reasoning(ctx: StreamingResponseContext, text: str) -> None:
    """Sends reasoning, without any provider's signature; otherwise like `send_text`."""
    if text:
        await _send(ctx, ReasoningDelta(choice=ctx.choice, text=text), ReasoningStreamBlock)
    else:
        drop_block(ctx)


async def send_tool_call(ctx: StreamingResponseContext, tool_call: ToolCall, block: StreamBlock | None = None) -> None:
    """Sends a whole tool call, which stands for what came of the hook's block, as in `send_text`; or
    of `block`, where it is given."""
    delta = ToolCallDelta(
        choice=ctx.choice if block is None else block.choice,
        id=tool_call.id,
        name=tool_call.name,
        arguments=tool_call.arguments,
        form=tool_call.form,
        extra=tool_call.extra,
    )
    await _send(ctx, delta, instead_of=block)


async def send_chunk(ctx: StreamingResponseContext, chunk: Chunk) -> None:
    """Lets out a chunk that came, or sends the events of one that the policy built.

    Of a chunk that came, what was delivered or dropped before is not delivered again.
    """
    if ctx.block is None and chunk is get_last_ingress_chunk(ctx):
        await passthrough_last_chunk(ctx)
    elif chunk.raw is not None or any(chunk is came for came in ctx.ingress_state.raw_chunks):
        _note_emission(ctx)
        await ctx.engine.outbox.release_chunk(chunk)
    else:
        for event in chunk.events:
            await _send(ctx, event)


def get_last_ingress_chunk(ctx: StreamingResponseContext) -> Chunk | None:
    """The chunk that came last, or None before the first."""
    chunks = ctx.ingress_state.raw_chunks
    return chunks[-1] if chunks else None


async def passthrough_last_chunk(ctx: StreamingResponseContext) -> None:
    """Lets out what came last, exactly as it came.

    In a delta hook that is the piece the hook is about; in `on_chunk_received` the whole chunk,
    which the later hooks then only watch.
    """
    _note_emission(ctx)
    if ctx.block is None:
        ctx.engine.passes_chunk = True
    elif ctx.engine.event is not None:
        await ctx.engine.outbox.release_event(ctx.block, ctx.engine.event)


async def passthrough_accumulated_chunks(ctx: StreamingResponseContext, block: StreamBlock | None = None) -> None:
    """Lets out all that is held of `block` (if not given, of the hook's block; in a hook about no
    block, of every block), exactly as it came and in order."""
    _note_emission(ctx)
    block = block or ctx.block
    if block is not None:
        await ctx.engine.outbox.release(block)
    else:
        await ctx.engine.outbox.release_all()


async def passthrough_first_pieces(ctx: StreamingResponseContext, count: int) -> None:
    """Lets out the oldest `count` pieces that are held of the hook's block, exactly as they came."""
    _note_emission(ctx)
    if ctx.block is not None:
        await ctx.engine.outbox.release_first(ctx.block, count)


def drop_block(ctx: StreamingResponseContext, block: StreamBlock | None = None) -> None:
    """Drops what is held of `block` (if not given, of the hook's block): it is never delivered,
    whatever happens later."""
    block = block or ctx.block
    if block is not None:
        ctx.engine.outbox.drop(block)


async def _send(
    ctx: StreamingResponseContext,
    event: StreamEvent,
    of: type[StreamBlock] | None = None,
    instead_of: StreamBlock | None = None,
) -> None:
    """Sends `event`; as a piece of the hook's block, if that is of the kind `of`."""
    if not isinstance(cast(object, text_of(event)), str):
        raise PolicyError(f"a policy sent a {type(text_of(event)).__name__} for a text")
    _note_emission(ctx)
    about = instead_of or ctx.block
    frame = ctx.block if of is not None and isinstance(ctx.block, of) else None
    await ctx.engine.outbox.send(event, frame, about)
    if instead_of is not None:
        ctx.engine.outbox.drop(instead_of)


def _note_emission(ctx: StreamingResponseContext) -> None:
    ctx.ingress_state.last_emission_index = ctx.ingress_state.chunk_count
