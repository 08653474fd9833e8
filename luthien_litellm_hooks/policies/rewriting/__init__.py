"""Base of policies that rewrite texts by rule while the response streams.

A `Rewriter` finds edits in a text that is still incomplete. `finalise` returns the edits that later text cannot change:
cuts of the stream make no difference. `TextRewriting` applies them.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, cast

from luthien_litellm_hooks.policy.base import Policy
from luthien_litellm_hooks.policy.context import PolicyContext, StreamingResponseContext
from luthien_litellm_hooks.policy.json_strings import map_json_strings
from luthien_litellm_hooks.policy.limits import LONG, off_loop
from luthien_litellm_hooks.policy.patterns import Match, Pattern
from luthien_litellm_hooks.policy.request import Answer, Request, map_texts
from luthien_litellm_hooks.policy.sending import (
    drop_block,
    get_last_ingress_chunk,
    passthrough_accumulated_chunks,
    passthrough_first_pieces,
    passthrough_last_chunk,
    send_reasoning,
    send_text,
    send_tool_call,
)
from luthien_litellm_hooks.wire.events import (
    ContentStreamBlock,
    Finish,
    ReasoningStreamBlock,
    StreamBlock,
    ToolCall,
    ToolCallStreamBlock,
)

CONTEXT = 16
"""Number of characters before a place that may influence a match there."""

WHOLE_PIECE = 100
"""Length of a piece worth holding whole for a moment instead of cutting; few pieces are longer."""

_WINDOW = 4_096


@dataclass(frozen=True, slots=True)
class Edit:
    """Replacement of the text from `start` to `end`. `label` gives the reason in one word."""

    start: int
    end: int
    text: str
    label: str


class Rewriter(Protocol):
    """Rules for edits.

    `reach` is the length of the longest match. A piece with an open end is held whole while at most `slack` characters
    are held with it; beyond that it is cut.
    """

    @property
    def reach(self) -> int: ...

    @property
    def slack(self) -> int: ...

    def next_edit(self, text: str, start: int) -> Edit | None:
        """Returns the first edit at or after `start`. An edit without a change skips the text that it covers."""
        ...

    def first_open(self, text: str, start: int) -> int:
        """Returns the first place at or after `start` where more text may complete, lengthen or prevent a match; the
        length of `text` if none."""
        ...


def finalise(rewriter: Rewriter, text: str, start: int, *, is_final: bool) -> tuple[list[Edit], int]:
    """Returns the edits that later text cannot change, and the end of the final part of `text`.

    Text before `start` is final already. A final text is final as a whole. A long text is searched window by window,
    because the cost of one search grows with its text.
    """
    edits: list[Edit] = []
    window = _WINDOW + 2 * rewriter.reach
    while start < len(text):
        base = max(0, start - CONTEXT)
        is_last = len(text) - start <= window
        found, final_end = _finalise_window(rewriter, text[base : start + window], start - base, is_final and is_last)
        edits += (replace(edit, start=base + edit.start, end=base + edit.end) for edit in found)
        start = base + final_end
        if is_last:
            break
    return [edit for edit in edits if edit.text != text[edit.start : edit.end]], start


def edits_of(rewriter: Rewriter, text: str) -> list[Edit]:
    """Returns all edits of a whole text."""
    return finalise(rewriter, text, 0, is_final=True)[0]


def apply_edits(text: str, edits: Sequence[Edit], start: int = 0, end: int | None = None) -> str:
    """Returns `text` from `start` to `end`, edited."""
    parts: list[str] = []
    for edit in edits:
        parts += text[start : edit.start], edit.text
        start = edit.end
    return "".join([*parts, text[start:end]])


def leftmost(pattern: Pattern, text: str, start: int, reach: int) -> tuple[int, Match | None] | None:
    """Returns the first place at or after `start` where the pattern matches, and the match there.

    The match is None if every match there is empty or longer than `reach`: the search must go on after that place.
    """
    match = pattern.search(text, start)
    if match is None:
        return None
    first = match.start()
    if match.end() - first > reach:
        match = pattern.search(text, first, first + reach)
    is_there = match is not None and match.start() == first < match.end()
    return first, match if is_there else None


def step_over(text: str, place: int) -> Edit:
    """Returns an edit without a change, to continue the search after one character."""
    return Edit(place, place + 1, text[place : place + 1], "")


def _finalise_window(rewriter: Rewriter, text: str, start: int, is_final: bool) -> tuple[list[Edit], int]:
    edits: list[Edit] = []
    open_at = len(text) if is_final else rewriter.first_open(text, start)
    while start < open_at and (edit := rewriter.next_edit(text, start)) is not None and edit.start < open_at:
        edits.append(edit)
        start = edit.end
        if start > open_at:
            open_at = rewriter.first_open(text, start)
    return edits, max(start, open_at)


def _first_place(rewriter: Rewriter, text: str, start: int) -> int:
    """Returns the first place from `start` on that has an edit, or that later text may change."""
    open_at = rewriter.first_open(text, start)
    while (edit := rewriter.next_edit(text, start)) is not None and edit.start < open_at:
        if edit.text != text[edit.start : edit.end]:
            return edit.start
        start = edit.end
        if start > open_at:
            open_at = rewriter.first_open(text, start)
    return max(start, open_at)


ApplyTo = Literal["request", "response", "both"]

EDIT_COST = 500
"""Cost of finding one place and replacing its text, in characters."""

_EAGER_CHARACTERS = 256
"""Held characters up to which each new piece starts a search. With more, a search waits for an eighth more."""

_Send = Callable[[StreamingResponseContext, str], Awaitable[None]]


@dataclass(slots=True)
class _Pending:
    """Text of a block still to be delivered: first `loose` text, whose pieces were dropped, then held `pieces`.

    The first `final_length` characters of the pieces can no longer change. `before` is the end of the delivered text.
    """

    before: str = ""
    loose: str = ""
    pieces: list[str] = field(default_factory=list[str])
    final_length: int = 0
    labels: Counter[str] = field(default_factory=Counter[str])
    is_changed: bool = False
    held: int = 0
    """Number of waiting characters, final or not."""
    seen: int = 0
    """Value of `held` at the last search."""


@dataclass(frozen=True, slots=True)
class _Charged:
    """A rewriter that charges its edits to the transaction's budget."""

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
    """Base class of policies that rewrite texts with a `rewriter`.

    A text streams on; only text that may still change is held. Pieces without an edit pass unchanged. Reasoning is
    never cut, because any change loses its signature. Tool calls are held until they are whole, if their arguments may
    change.
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
        """Returns the reason for the operator; `labels` counts the edits of each kind."""
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

    def count_untouched(self, ctx: StreamingResponseContext, pieces: Sequence[str]) -> int:
        """Counts the pieces before the first place with an edit, or that later text may still change."""
        is_text, is_call = isinstance(ctx.block, ContentStreamBlock), isinstance(ctx.block, ToolCallStreamBlock)
        if is_call or not (self._is_for_text if is_text else self._is_for_reasoning):
            return 0 if is_call and self._is_for_calls else len(pieces)
        pending = _pending(ctx)
        if pending.held or (pending.is_changed and not is_text):
            return 0
        text, place = pending.before + "".join(pieces), len(pending.before)
        end, count = _first_place(self._rewriter, text, place) if len(text) <= _WINDOW else place, 0
        for piece in pieces:
            if place + len(piece) > end:
                break
            place, count = place + len(piece), count + 1
        pending.before = text[max(0, place - CONTEXT) : place]
        return count

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
            drop_block(ctx)  # it may carry the signature of the model's text
            pending.loose += ctx.delta or ""
        else:
            pending.pieces.append(ctx.delta or "")
        pending.held += len(ctx.delta or "")
        if pending.held <= _EAGER_CHARACTERS or pending.held * 8 > pending.seen * 9:
            await self._deliver(ctx, pending, send, is_final=False)
            pending.seen = pending.held

    async def _complete(self, ctx: StreamingResponseContext, is_mine: bool, send: _Send) -> None:
        if not is_mine:
            await passthrough_accumulated_chunks(ctx)  # a block without content
            return
        pending = _pending(ctx)
        await self._deliver(ctx, pending, send, is_final=True)
        if pending.labels:
            ctx.decide("modify", reason=self.reason(pending.labels))

    async def _deliver(self, ctx: StreamingResponseContext, pending: _Pending, send: _Send, *, is_final: bool) -> None:
        """Delivers the final part: first the unchanged pieces, then the rest as one text."""
        text = pending.before + pending.loose + "".join(pending.pieces)
        open_start = len(pending.before) + pending.final_length
        if len(text) - open_start > LONG:
            rewriter = _Charged(self._rewriter, ctx.charge)
            edits, final_end = await off_loop(finalise, rewriter, text, open_start, is_final=is_final)
        else:
            edits, final_end = finalise(self._rewriter, text, open_start, is_final=is_final)
            if edits:
                ctx.charge(EDIT_COST * len(edits))
        if is_final and not edits and not pending.loose:
            await passthrough_accumulated_chunks(ctx)  # also a block without content
            return
        start = await _release_whole_pieces(ctx, pending, edits[0].start if edits else final_end)
        if edits or pending.loose or self._must_cut(ctx, len(text) - start, final_end - start):
            await send(ctx, apply_edits(text, edits, start, final_end))
            start, pending.loose, pending.is_changed = final_end, text[final_end:], True
            pending.pieces.clear()
        if edits:
            pending.labels.update(edit.label for edit in edits)
        pending.final_length, pending.held = final_end - start, len(text) - start
        pending.before = text[max(0, start - CONTEXT) : start]

    def _must_cut(self, ctx: StreamingResponseContext, held: int, final_length: int) -> bool:
        """Tells if the final part of a piece must leave before the rest of it."""
        if final_length <= 0 or held <= self._rewriter.slack or isinstance(ctx.block, ReasoningStreamBlock):
            return False
        chunk = get_last_ingress_chunk(ctx)
        return chunk is None or not any(isinstance(event, Finish) for event in chunk.events)


def _pending(ctx: StreamingResponseContext) -> _Pending:
    blocks = cast(dict[StreamBlock | None, _Pending], ctx.scratchpad.setdefault("text_rewriting.pending", {}))
    pending = blocks.get(ctx.block)
    if pending is None:
        pending = blocks[ctx.block] = _Pending()
    return pending


async def _release_whole_pieces(ctx: StreamingResponseContext, pending: _Pending, end: int) -> int:
    """Releases the pieces that end by `end`, and returns the place after them."""
    place, whole = len(pending.before), 0
    for piece in () if pending.loose else pending.pieces:
        if place + len(piece) > end:
            break
        place, whole = place + len(piece), whole + 1
    if whole:
        await passthrough_first_pieces(ctx, whole)
        del pending.pieces[:whole]
    return place
