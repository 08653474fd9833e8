"""`JudgedBlocksPolicy`: holds the blocks of some kinds, each until it is whole and has its verdict."""

from collections.abc import Collection
from typing import Literal, cast

from luthien_litellm_hooks.events import ContentStreamBlock, ReasoningStreamBlock, StreamBlock, ToolCall
from luthien_litellm_hooks.policies.judging import Kind
from luthien_litellm_hooks.policy.context import PolicyContext, StreamingResponseContext
from luthien_litellm_hooks.policy.helpers import (
    drop_block,
    passthrough_accumulated_chunks,
    passthrough_last_chunk,
    send_notice,
    send_reasoning,
    send_text,
    send_tool_call,
)
from luthien_litellm_hooks.policy.tool_gate import ToolGatePolicy, Verdict


class JudgedBlocksPolicy(ToolGatePolicy):
    """Judges text and reasoning when they are complete, and what follows waits for them; tool calls
    all at once, as its base does. Blocks of other kinds than `kinds` stream through."""

    def __init__(self, kinds: Collection[Kind]) -> None:
        self._kinds = frozenset(kinds)

    async def verdict_on(self, kind: Kind, content: str | ToolCall, ctx: PolicyContext) -> Verdict:
        """The verdict on one block."""
        raise NotImplementedError

    async def judge_tool_call(self, tool_call: ToolCall, ctx: PolicyContext) -> Verdict:
        return await self.verdict_on("tool_call", tool_call, ctx)

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        await self._hold_if_judged("text", ctx)

    async def on_reasoning_delta(self, ctx: StreamingResponseContext) -> None:
        await self._hold_if_judged("reasoning", ctx)

    async def on_tool_call_delta(self, ctx: StreamingResponseContext) -> None:
        await super().on_tool_call_delta(ctx)
        await self._hold_if_judged("tool_call", ctx)

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        if isinstance(ctx.block, ContentStreamBlock):
            await self._judge_words("text", ctx.block.content, ctx)

    async def on_reasoning_complete(self, ctx: StreamingResponseContext) -> None:
        if isinstance(ctx.block, ReasoningStreamBlock):
            await self._judge_words("reasoning", ctx.block.content, ctx)

    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        if "tool_call" in self._kinds:
            await super().on_tool_call_complete(ctx)

    async def on_finish_reason(self, ctx: StreamingResponseContext) -> None:
        await super().on_finish_reason(ctx)
        await _send_new_calls(ctx, ctx.choice)

    async def on_stream_complete(self, ctx: StreamingResponseContext) -> None:
        await super().on_stream_complete(ctx)
        await _send_new_calls(ctx)

    async def _hold_if_judged(self, kind: Kind, ctx: StreamingResponseContext) -> None:
        if kind not in self._kinds:
            await passthrough_last_chunk(ctx)

    async def _judge_words(self, kind: Literal["text", "reasoning"], words: str, ctx: StreamingResponseContext) -> None:
        if kind not in self._kinds:
            return
        if not words.strip():  # white space, or reasoning that the provider keeps to itself
            await passthrough_accumulated_chunks(ctx)
            return
        verdict = await self.verdict_on(kind, words, ctx)
        ctx.decide(
            verdict.action,
            reason=verdict.reason,
            message=verdict.message,
            score=verdict.score,
            evidence=verdict.evidence,
        )
        if verdict.action == "allow":
            await passthrough_accumulated_chunks(ctx)
        else:
            await _replace(kind, verdict, ctx)
        if verdict.message:
            await send_notice(ctx, verdict.message)


async def _replace(kind: Kind, verdict: Verdict, ctx: StreamingResponseContext) -> None:
    send = send_reasoning if kind == "reasoning" else send_text
    for text in verdict.texts:
        await send(ctx, text)
    if ctx.block is not None:
        _new_calls(ctx).extend((ctx.block, call) for call in verdict.calls)
        drop_block(ctx)


def _new_calls(ctx: StreamingResponseContext) -> list[tuple[StreamBlock, ToolCall]]:
    """The calls that are to leave in place of text: when the model has finished, because text of
    the same answer may follow, which providers refuse after a call."""
    return cast(list[tuple[StreamBlock, ToolCall]], ctx.scratchpad.setdefault("judged_blocks.new_calls", []))


async def _send_new_calls(ctx: StreamingResponseContext, choice: int | None = None) -> None:
    due = [item for item in _new_calls(ctx) if choice in (None, item[0].choice)]
    for block, call in due:
        _new_calls(ctx).remove((block, call))
        await send_tool_call(ctx, call, block)
