"""What policies have in common that rewrite texts by rule while the answer streams on."""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Literal, cast

from luthien_litellm_hooks.events import Finish, ReasoningStreamBlock, StreamBlock, ToolCall, ToolCallStreamBlock
from luthien_litellm_hooks.parsing.json_strings import map_json_strings
from luthien_litellm_hooks.parsing.rewriting import CONTEXT, Edit, Rewriter, apply_edits, edits_of, settle
from luthien_litellm_hooks.policy.base import Policy
from luthien_litellm_hooks.policy.context import PolicyContext, StreamingResponseContext
from luthien_litellm_hooks.policy.helpers import (
    drop_block,
    get_last_ingress_chunk,
    passthrough_accumulated_chunks,
    passthrough_first_pieces,
    passthrough_last_chunk,
    send_reasoning,
    send_text,
    send_tool_call,
)
from luthien_litellm_hooks.policy.off_loop import LONG, off_loop
from luthien_litellm_hooks.policy.request import Answer, Request
from luthien_litellm_hooks.policy.request_texts import map_texts

ApplyTo = Literal["request", "response", "both"]

EDIT_COST = 500
"""How many characters it is worth to find one place and to write another text for it."""

_OFTEN = 256
"""Of what is held so far each piece is searched with what comes next; of more only when an eighth has come."""

_Send = Callable[[StreamingResponseContext, str], Awaitable[None]]


@dataclass(slots=True)
class _Pending:
    """What of a block has not left: first `loose` text, whose pieces were dropped, then pieces
    that are held as they came, the first `settled` characters of which are. `before` is the end of
    what has left."""

    before: str = ""
    loose: str = ""
    pieces: list[str] = field(default_factory=list[str])
    settled: int = 0
    labels: Counter[str] = field(default_factory=Counter[str])
    is_changed: bool = False
    held: int = 0
    """How many characters wait, settled or not."""
    seen: int = 0
    """How many did when they were searched last."""


@dataclass(frozen=True, slots=True)
class _Charged:
    """A rewriter whose edits count towards what a transaction may cost."""

    rewriter: Rewriter
    charge: Callable[[int], None]

    @property
    def reach(self) -> int:
        return self.rewriter.reach

    @property
    def slack(self) -> int:
        return self.rewriter.slack

    def next_edit(self, text: str, start: int) -> Edit | None:
        edit = self.rewriter.next_edit(text, start)
        if edit is not None:
            self.charge(EDIT_COST)
        return edit

    def first_open(self, text: str, start: int) -> int:
        return self.rewriter.first_open(text, start)


class TextRewriting(Policy):
    """Rewrites texts as `rewriter` says.

    A text streams on; held is only what later text may still change. Pieces that nothing is to be
    changed in leave as they came. Reasoning is never cut, because its signature is lost when any of
    it is changed. Tool calls are held until they are whole, if their arguments are to be rewritten.
    """

    def __init__(
        self,
        rewriter: Rewriter,
        *,
        apply_to: ApplyTo = "response",
        tool_arguments: bool = False,
        reasoning: bool = False,
    ) -> None:
        self._rewriter = rewriter
        self._is_for_request = apply_to != "response"
        self._is_for_text = apply_to != "request"
        self._is_for_reasoning = self._is_for_text and reasoning
        self._is_for_calls = self._is_for_text and tool_arguments
        self._has_request_arguments = self._is_for_request and tool_arguments

    def reason(self, labels: Counter[str]) -> str:
        """What the operator is told; `labels` counts the edits of each kind."""
        return f"replaced {labels.total()} text{'s' if labels.total() != 1 else ''}"

    async def on_request(self, request: Request, ctx: PolicyContext) -> Request | Answer:
        if not self._is_for_request:
            return request
        labels: Counter[str] = Counter()

        def change(text: str) -> str:
            ctx.charge(len(text))
            return self._rewrite(text, labels, ctx)

        changed = await off_loop(map_texts, request, change, tool_arguments=self._has_request_arguments)
        if labels:
            ctx.decide("modify", reason=self.reason(labels))
        return changed

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        await self._add(ctx, self._is_for_text, send_text)

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        await self._complete(ctx, self._is_for_text, send_text)

    async def on_reasoning_delta(self, ctx: StreamingResponseContext) -> None:
        await self._add(ctx, self._is_for_reasoning, send_reasoning)

    async def on_reasoning_complete(self, ctx: StreamingResponseContext) -> None:
        await self._complete(ctx, self._is_for_reasoning, send_reasoning)

    async def on_tool_call_delta(self, ctx: StreamingResponseContext) -> None:
        if not self._is_for_calls:
            await passthrough_last_chunk(ctx)

    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        if not self._is_for_calls or not isinstance(ctx.block, ToolCallStreamBlock):
            await passthrough_accumulated_chunks(ctx)
            return
        call, labels = ctx.block.tool_call, Counter[str]()
        if len(call.arguments) > LONG:
            arguments = await off_loop(self._rewritten, call, labels, ctx)
        else:
            arguments = self._rewritten(call, labels, ctx)
        if arguments == call.arguments:
            await passthrough_accumulated_chunks(ctx)
        else:
            await send_tool_call(ctx, replace(call, arguments=arguments))
            ctx.decide("modify", reason=self.reason(labels))

    def _rewritten(self, call: ToolCall, labels: Counter[str], ctx: PolicyContext) -> str:
        """The arguments of `call`, rewritten."""
        arguments = map_json_strings(call.arguments, lambda text: self._rewrite(text, labels, ctx))
        return self._rewrite(call.arguments, labels, ctx) if arguments is None else arguments

    def _rewrite(self, text: str, labels: Counter[str], ctx: PolicyContext) -> str:
        edits = edits_of(_Charged(self._rewriter, ctx.charge), text)
        labels.update(edit.label for edit in edits)
        return apply_edits(text, edits)

    async def _add(self, ctx: StreamingResponseContext, is_mine: bool, send: _Send) -> None:
        if not is_mine:
            await passthrough_last_chunk(ctx)
            return
        pending = _pending(ctx)
        if pending.is_changed and isinstance(ctx.block, ReasoningStreamBlock):
            drop_block(ctx)  # it may bring the signature of what the model wrote
            pending.loose += ctx.delta or ""
        else:
            pending.pieces.append(ctx.delta or "")
        pending.held += len(ctx.delta or "")
        if pending.held <= _OFTEN or pending.held * 8 > pending.seen * 9:
            await self._deliver(ctx, pending, send, is_final=False)
            pending.seen = pending.held

    async def _complete(self, ctx: StreamingResponseContext, is_mine: bool, send: _Send) -> None:
        if not is_mine:
            await passthrough_accumulated_chunks(ctx)  # a frame with nothing in it
            return
        pending = _pending(ctx)
        await self._deliver(ctx, pending, send, is_final=True)
        if pending.labels:
            ctx.decide("modify", reason=self.reason(pending.labels))

    async def _deliver(self, ctx: StreamingResponseContext, pending: _Pending, send: _Send, *, is_final: bool) -> None:
        """Lets out what is settled: first the pieces that are as they came, then the rest as one text."""
        text = pending.before + pending.loose + "".join(pending.pieces)
        unsettled = len(pending.before) + pending.settled
        if len(text) - unsettled > LONG:
            rewriter = _Charged(self._rewriter, ctx.charge)
            edits, settled = await off_loop(settle, rewriter, text, unsettled, is_final=is_final)
        else:
            edits, settled = settle(self._rewriter, text, unsettled, is_final=is_final)
            if edits:
                ctx.charge(EDIT_COST * len(edits))
        if is_final and not edits and not pending.loose:
            await passthrough_accumulated_chunks(ctx)  # also a frame with nothing in it
            return
        start = await _let_out_whole(ctx, pending, edits[0].start if edits else settled)
        if edits or pending.loose or self._must_cut(ctx, len(text) - start, settled - start):
            await send(ctx, apply_edits(text, edits, start, settled))
            start, pending.loose, pending.is_changed = settled, text[settled:], True
            pending.pieces.clear()
        pending.labels.update(edit.label for edit in edits)
        pending.settled, pending.held = settled - start, len(text) - start
        pending.before = text[max(0, start - CONTEXT) : start]

    def _must_cut(self, ctx: StreamingResponseContext, held: int, settled: int) -> bool:
        """Whether the settled part of a piece must leave before the rest of it."""
        if settled <= 0 or held <= self._rewriter.slack or isinstance(ctx.block, ReasoningStreamBlock):
            return False
        chunk = get_last_ingress_chunk(ctx)
        return chunk is None or not any(isinstance(event, Finish) for event in chunk.events)


def _pending(ctx: StreamingResponseContext) -> _Pending:
    blocks = cast(dict[StreamBlock | None, _Pending], ctx.scratchpad.setdefault("text_rewriting.pending", {}))
    return blocks.setdefault(ctx.block, _Pending())


async def _let_out_whole(ctx: StreamingResponseContext, pending: _Pending, end: int) -> int:
    """Lets out the pieces that end by `end`, as they came. Returns where what is left begins."""
    start = len(pending.before)
    places = list(accumulate(map(len, pending.pieces), initial=start))
    whole = 0 if pending.loose else sum(place <= end for place in places) - 1
    if whole:
        await passthrough_first_pieces(ctx, whole)
        del pending.pieces[:whole]
    return places[whole]
