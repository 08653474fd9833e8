"""Legal order of the blocks in the client's stream, one class for each kind of wire.

* A *plain* wire numbers the calls alone; all ordinary text of a choice runs together.
* A *marked* wire numbers all blocks, and marks the beginning and the end of each: one after the other, unless the
  provider itself had two open.
* An *overlapping* wire marks its blocks, too, but any number may be open. Only a policy's own block
  ends before the next event.

Each class acts by its table. A row is an event, a column the state of its block in the client's stream: `new` has
sent nothing, `open` may go on, `closed` has sent its end. On marked wires `begin` drops text after a call, unless
the provider sends it there itself: some providers refuse such a response in the next request.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal, TypeVar

from luthien_litellm_hooks.wire.events import (
    BlockMarker,
    DeltaEvent,
    Quote,
    ReasoningDelta,
    StreamBlock,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    ToolCallStreamBlock,
    from_wire,
)

Key = StreamBlock | int | None
"""Identity of a block in the client's stream: a block that came; an `other` one, by its index; or None for a policy's
own block."""
Kind = Literal["text", "reasoning", "tool_call", "other", "unknown"]
Action = Literal["begin", "continue", "close", "forward", "restart", "drop"]
Table = Mapping[str, tuple[Action, Action, Action]]

NEW, OPEN, CLOSED = range(3)

# fmt: off
PLAIN: Table = {
    #             new        open        closed
    "marker":    ("drop",    "drop",     "drop"),
    "quote":     ("forward", "forward",  "forward"),
    "reasoning": ("forward", "forward",  "forward"),
    "text":      ("begin",   "continue", "drop"),
    "call":      ("begin",   "continue", "drop"),
}
MARKED: Table = {
    #             new        open        closed
    "begin":     ("begin",   "begin",    "begin"),
    "detail":    ("drop",    "forward",  "drop"),
    "end":       ("drop",    "close",    "drop"),
    "text":      ("begin",   "continue", "begin"),
    "call":      ("begin",   "continue", "drop"),
}
OVERLAPPING: Table = {
    #             new        open        closed
    "begin":     ("begin",   "begin",    "begin"),
    "detail":    ("drop",    "forward",  "forward"),
    "end":       ("drop",    "close",    "close"),
    "text":      ("begin",   "continue", "restart"),  # in a block of its own
    "call":      ("begin",   "continue", "continue"),
}
# fmt: on


class ChoiceState:
    """Client's stream of one choice, as far as it has left."""

    def __init__(self) -> None:
        self.has_started = False
        self.has_text = False
        self.starts_paragraph = False  # of the latest text
        self.has_made_call = False  # made by a policy
        self.calls = 0  # that the client runs
        self.last_call = -1  # its place among the blocks that came
        self.ids: set[str] = set()  # of the calls
        self.next_number = 0
        self.numbers: dict[Key, int | None] = {}  # of the calls, or on a marked wire of all blocks
        self.with_content: set[Key] = set()  # the blocks, on a marked wire, with a delta
        self.open: dict[Key, BlockMarker] = {}  # the open blocks, and the end of each
        self.ended: set[Key] = set()  # the blocks, on an overlapping wire, with an end
        self.late_headed: set[StreamBlock] = set()  # the calls whose head was held when they began
        self.finish_reason: str | None = None

    def end_blocks(self, *, overlapping: bool = False) -> Iterator[StreamEvent]:
        """Ends the open blocks; those open at once at the provider only if `overlapping`."""
        for key in [*self.open]:
            if overlapping or not (isinstance(key, StreamBlock) and key.overlaps):
                yield self.open.pop(key)


class BlockOrder(ABC):
    """Order of one kind of wire. It has no state of its own."""

    numbers_all = True
    """The wire numbers all blocks, not only calls."""
    closes_blocks = False
    """A block ends before the next begins."""

    @abstractmethod
    def sequence(self, choice: ChoiceState, event: StreamEvent, block: StreamBlock | None) -> Iterator[StreamEvent]:
        """Yields the legal events for a marker or delta: with another number, after the beginning of their
        block and the end of another, or none."""

    def observe(self, choice: ChoiceState, event: BlockMarker | DeltaEvent, block: StreamBlock | None) -> None:
        """Notes an event for the provider's own order: it leaves just as it came."""
        key = _key(event, block)
        if isinstance(event, BlockMarker) and event.role != "begin":
            if event.role == "end":
                choice.open.pop(key, None)
                choice.ended.add(key)
            return
        if isinstance(event, TextDelta) and not event.channel:
            choice.has_text, choice.starts_paragraph = True, event.starts_paragraph
        if not isinstance(event, BlockMarker):
            choice.with_content.add(key)
        is_call = isinstance(event, ToolCallDelta)
        if key in choice.numbers or not (is_call or self.numbers_all):
            return
        if is_call and isinstance(key, StreamBlock):
            _counted(choice, event, key)
        choice.numbers[key] = event.index  # some providers give calls none
        number = choice.next_number if event.index is None else event.index
        choice.next_number = max(choice.next_number, number + 1)
        if self.closes_blocks:
            choice.open[key] = _end_of(event, number)


class PlainOrder(BlockOrder):
    """Order of a wire with numbers for the calls alone."""

    numbers_all = False

    def sequence(self, choice: ChoiceState, event: StreamEvent, block: StreamBlock | None) -> Iterator[StreamEvent]:
        if isinstance(event, ToolCallDelta):
            begins = PLAIN["call"][_call_state(choice, block)] == "begin"
            call = _begun_call(choice, event, block) if begins else _continued_call(choice, event, block)
            yield call if event.form == "legacy_function" else _numbered(call, choice.numbers[block])
        elif isinstance(event, TextDelta) and not event.channel:
            continues = PLAIN["text"][OPEN if choice.has_text else NEW] == "continue"
            if continues and (event.starts_paragraph or choice.starts_paragraph):
                yield TextDelta(choice=event.choice, text="\n\n")
            yield replace(event, starts_paragraph=False) if event.starts_paragraph else event
            choice.has_text, choice.starts_paragraph = True, event.starts_paragraph
        elif PLAIN[_plain_row(event)][NEW] == "forward":
            yield event


class MarkedOrder(BlockOrder):
    """Order of a wire with marked blocks, one after the other."""

    closes_blocks = True

    def sequence(self, choice: ChoiceState, event: StreamEvent, block: StreamBlock | None) -> Iterator[StreamEvent]:
        key = _key(event, block)
        if isinstance(event, Quote) and event.index < 0:
            yield event  # belongs to no block
        elif isinstance(event, BlockMarker):
            state = OPEN if key in choice.open else CLOSED if key in choice.numbers else NEW
            action = MARKED[event.role][state]
            if action == "begin" and (isinstance(key, int) or _text_allowed(choice, key)):
                yield from choice.end_blocks()
                yield _begun(choice, event, key)
            elif action in ("forward", "close"):
                yield _numbered(event, choice.numbers[key])
                if action == "close":
                    del choice.open[key]
        elif isinstance(event, ToolCallDelta):
            state = _call_state(choice, block)
            action = MARKED["call"][CLOSED if state == OPEN and block not in choice.open else state]
            if action == "begin":
                yield from choice.end_blocks()
                number = choice.next_number
                yield _numbered(_begun_call(choice, event, block), number)
                choice.open[block] = _end_of(event, number)
                if block is None:
                    yield from choice.end_blocks()
            elif action == "continue":
                call = _continued_call(choice, event, block)
                if not call.name:  # a head that was held when its call began does not begin it
                    yield _numbered(call, choice.numbers[block])
        elif isinstance(event, TextDelta | ReasoningDelta):
            end = choice.open.get(block)
            continues = MARKED["text"][OPEN if end is not None and end.kind == _kind(event) else NEW] == "continue"
            if not continues:
                if not _text_allowed(choice, block):
                    return
                yield from choice.end_blocks()
                yield _begun(choice, _begin_of(event), block)
            yield _in_block(choice, event, block)


class OverlappingOrder(BlockOrder):
    """Order of a wire with marked blocks, any number of them open. Only a policy's own block ends before an event of
    another."""

    def sequence(self, choice: ChoiceState, event: StreamEvent, block: StreamBlock | None) -> Iterator[StreamEvent]:
        state = NEW if block not in choice.numbers else CLOSED if block in choice.ended else OPEN
        if isinstance(event, TextDelta | ReasoningDelta):
            if OVERLAPPING["text"][state] == "restart":
                block = None
            if block is None:
                state = OPEN if None in choice.open and choice.open[None].kind == _kind(event) else NEW
            begins = OVERLAPPING["text"][state] == "begin"
            if begins or block is not None:
                yield from choice.end_blocks()
            if begins:
                yield _begun(choice, _begin_of(event), block)
            yield _in_block(choice, event, block)
        elif isinstance(event, ToolCallDelta):
            yield from choice.end_blocks()
            number = choice.next_number
            if OVERLAPPING["call"][_call_state(choice, block)] == "begin":
                call = _begun_call(choice, event, block)
            else:
                call = _continued_call(choice, event, block)
                if call.name:  # a head that was held when its call began is not sent again
                    call = from_wire(replace(call, id=None, name=None), call.source)
            yield _numbered(call, choice.numbers[block])
            if block is None:
                yield _end_of(event, number)
        elif isinstance(event, BlockMarker):
            yield from choice.end_blocks()
            action = OVERLAPPING[event.role][state]
            if event.kind in ("other", "unknown"):
                yield event
            elif action == "begin":
                yield _begun(choice, event, block)
            elif action in ("forward", "close"):
                if action == "close":
                    choice.ended.add(block)
                yield _numbered(event, choice.numbers[block])
        if block is not None:
            choice.open.pop(block, None)  # its own end ends it


# The state of an event's block


def _key(event: StreamEvent, block: StreamBlock | None) -> Key:
    return event.index if isinstance(event, BlockMarker) and event.kind in ("other", "unknown") else block


def _call_state(choice: ChoiceState, block: StreamBlock | None) -> int:
    """Returns the state of a call; each call of a policy's own is new."""
    return OPEN if isinstance(block, ToolCallStreamBlock) and block in choice.numbers else NEW


def _plain_row(event: StreamEvent) -> str:
    if isinstance(event, BlockMarker):
        return "quote" if isinstance(event, Quote) else "marker"
    return "reasoning"


def _text_allowed(choice: ChoiceState, key: Key) -> bool:
    """Holds before the first call, and later for text after the latest call, from the provider itself."""
    is_providers_own = isinstance(key, StreamBlock) and key.place > choice.last_call and not choice.has_made_call
    return not choice.calls or is_providers_own


# What leaves


def _begun(choice: ChoiceState, event: BlockMarker, key: Key) -> StreamEvent:
    number, choice.next_number = choice.next_number, choice.next_number + 1
    choice.numbers[key] = number
    choice.with_content.discard(key)
    choice.open[key] = _end_of(event, number)
    return _numbered(event, number)


def _begun_call(choice: ChoiceState, event: ToolCallDelta, block: StreamBlock | None) -> ToolCallDelta:
    """Returns the first piece of a call to leave, with the call's id and name."""
    choice.numbers[block] = choice.next_number
    choice.next_number += 1
    if not isinstance(block, ToolCallStreamBlock):
        choice.has_made_call = True
    elif not event.name:
        choice.late_headed.add(block)
        event = from_wire(replace(event, id=block.id, name=block.name, extra=dict(block.extra)), event.source)
    elif event.name != block.name:
        event = from_wire(replace(event, name=block.name), event.source)
    return _counted(choice, event, block)


def _continued_call(choice: ChoiceState, event: ToolCallDelta, block: StreamBlock | None) -> ToolCallDelta:
    """Returns another piece of a call, without a repeated head."""
    if event.name and isinstance(block, ToolCallStreamBlock) and (block in choice.late_headed or block.is_renamed):
        return from_wire(replace(event, id=None, name=None), event.source)
    return event


def _counted(choice: ChoiceState, event: ToolCallDelta, block: StreamBlock | None) -> ToolCallDelta:
    """Counts a call for the client to run. Returns `event`, under another id if a policy sent the same one before."""
    if event.form != "server":
        choice.calls += 1
        choice.last_call = block.place if block is not None else choice.last_call
    if event.id is None:
        return event
    if event.source is None and event.id in choice.ids:
        event = replace(event, id=f"{event.id}_{choice.next_number}")
    choice.ids.add(event.id or "")
    return event


def _in_block(choice: ChoiceState, event: TextDelta | ReasoningDelta, key: Key) -> StreamEvent:
    """Returns `event` with its block's number, after a blank line if it starts a paragraph in that block."""
    if isinstance(event, TextDelta) and event.starts_paragraph:
        text = f"\n\n{event.text}" if key in choice.with_content else event.text
        event = replace(event, text=text, starts_paragraph=False)
    choice.with_content.add(key)
    return _numbered(event, choice.numbers[key])


def _kind(event: BlockMarker | DeltaEvent) -> Kind:
    if isinstance(event, BlockMarker):
        return event.kind
    return "tool_call" if isinstance(event, ToolCallDelta) else "text" if isinstance(event, TextDelta) else "reasoning"


def _begin_of(event: TextDelta | ReasoningDelta) -> BlockMarker:
    return BlockMarker(choice=event.choice, role="begin", kind=_kind(event), index=-1)


def _end_of(event: BlockMarker | DeltaEvent, number: int) -> BlockMarker:
    return BlockMarker(choice=event.choice, role="end", kind=_kind(event), index=number)


_NumberedT = TypeVar("_NumberedT", bound=DeltaEvent | BlockMarker)


def _numbered(event: _NumberedT, number: int | None) -> _NumberedT:
    return event if number in (None, event.index) else from_wire(replace(event, index=number), event.source)
