"""The order that every client can read, whatever a policy lets out: a state machine, no more."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from operator import is_
from typing import Literal, cast

from luthien_litellm_hooks.adapters.base import Adapter, RepeatingAdapter
from luthien_litellm_hooks.egress import Parcel
from luthien_litellm_hooks.events import (
    DELTAS,
    EVERY_CHOICE,
    Chunk,
    DeltaEvent,
    End,
    Failure,
    Finish,
    Frame,
    Opaque,
    Quote,
    ReasoningDelta,
    Start,
    StreamBlock,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    ToolCallStreamBlock,
    Usage,
    channel_of,
    from_wire,
)

_Key = StreamBlock | int | None
"""What a block on the way out stands for: one that came; an `other` one, by its index; or text that
a policy made, in a block of its own."""

_Thread = tuple[type[StreamEvent], StreamBlock, int | None, str]
"""What pieces of one block have in common, that only go on."""


class _ChoiceOut:
    """What of one choice has left."""

    def __init__(self) -> None:
        self.has_started = False
        self.has_text = False
        self.is_apart = False  # of the text that left last
        self.has_made_call = False
        self.calls = 0  # of the client's
        self.last_call = -1  # its place among the blocks that came
        self.ids: set[str] = set()  # of the calls
        self.next_number = 0
        self.numbers: dict[_Key, int | None] = {}  # of the calls, or on a framed wire of all blocks
        self.spoken: set[_Key] = set()  # the blocks, on a framed wire, in which something was said
        self.open: dict[_Key, Frame] = {}  # the open blocks, and what ends each
        self.ended: set[_Key] = set()  # on a wire whose blocks may overlap
        self.headed: set[StreamBlock] = set()  # the calls that began with another piece than their head
        self.finish_reason: str | None = None


class WayOut:
    """Makes of parcels a stream that is legal whatever the policy does.

    As long as `is_untouched` says so, events leave as they came, in whatever order the provider sends. After
    that a choice starts before anything of it leaves; blocks are numbered without gaps, begin before
    they go on, and end before the next begins unless the provider had both open; a call begins
    with its id and name, and no two have one id; one finish ends a choice, its reason fits what was delivered,
    and nothing of the choice follows it. A response that the provider broke off gets no finish.
    """

    def __init__(
        self,
        adapter: Adapter,
        on_leave: Callable[[Chunk], None] | None = None,
        *,
        is_untouched: Callable[[], bool] = lambda: False,
        is_judged: bool = True,
    ) -> None:
        self._adapter = adapter
        self._on_leave = on_leave
        self._is_untouched = is_untouched
        self._is_judged = is_judged
        # Not by `isinstance`, which for a protocol takes as long as all else that is set up for an answer.
        self._repeating = cast(RepeatingAdapter, adapter) if hasattr(adapter, "pass_on") else None
        self._choices: dict[int, _ChoiceOut] = {}
        self._thread: _Thread | None = None  # of what left last
        self._has_changed = False  # something has left in another form or order than it came
        self.is_cut = False
        """The response was ended with a notice."""
        self._is_over = False
        self._has_failed = False  # so the provider said

    @property
    def has_finished(self) -> bool:
        """Whether each choice that began has left to its finish."""
        return bool(self._choices) and not self._unfinished()

    def encode(self, parcel: Parcel) -> Iterable[object]:
        """The items of the client's stream for `parcel`, which is closed by this."""
        chunk = parcel.chunk
        if chunk is not None and self._only_goes_on(parcel, chunk):
            parcel.is_taken = True
            return self._leave(chunk)
        # Some providers start a choice again with each chunk, which only a whole chunk may repeat.
        starts = [
            event for event in parcel.events if isinstance(event, Start) and self._choice(event.choice).has_started
        ]
        events = self.admit(parcel)
        if chunk is not None and chunk.raw is not None and is_whole(chunk, events):
            return self._leave(chunk)
        events = [event for event in events if event not in starts]
        self._note(Chunk(tuple(events)))
        return self._adapter.encode(events, wire_of(chunk)) if events else ()

    def _only_goes_on(self, parcel: Parcel, chunk: Chunk) -> bool:
        """Whether it is nothing but more of what has just left as it came, like nearly all of a long answer."""
        if chunk.raw is None or len(parcel.events) != 1 or len(chunk.events) != 1:
            return False
        thread = _thread_of(parcel.events[0], parcel.blocks[0])
        return thread is not None and thread == self._thread

    def _leave(self, chunk: Chunk) -> Iterable[object]:
        self._note(chunk)
        return self._repeating.pass_on(chunk, as_came=not self._is_judged) if self._repeating else (chunk.raw,)

    def _is_as_it_came(self) -> bool:
        return not self._has_changed and self._is_untouched()

    def _observe(self, event: StreamEvent, block: StreamBlock | None) -> None:
        """Notes what leaves just as the provider sends it, for what may have to follow."""
        self._thread = _thread_of(event, block)
        if isinstance(event, Usage) or event.choice == EVERY_CHOICE:
            return
        if isinstance(event, End):
            self._is_over = True
            return
        self._has_failed = self._has_failed or isinstance(event, Failure)
        choice = self._choice(event.choice)
        choice.has_started = choice.has_started or not (isinstance(event, Opaque) and self._adapter.is_framed)
        if isinstance(event, Finish):
            choice.finish_reason = event.reason
            choice.open.clear()
        elif isinstance(event, Frame) and event.role != "begin":
            if event.role == "end":
                choice.open.pop(_key_of(event, block), None)
                choice.ended.add(_key_of(event, block))
        elif isinstance(event, (Frame, *DELTAS)):
            self._observe_piece(choice, event, _key_of(event, block))

    def _observe_piece(self, choice: _ChoiceOut, event: Frame | DeltaEvent, key: _Key) -> None:
        if isinstance(event, TextDelta) and not event.channel:
            choice.has_text, choice.is_apart = True, event.is_apart
        if not isinstance(event, Frame):
            choice.spoken.add(key)
        is_call = isinstance(event, ToolCallDelta)
        if key in choice.numbers or not (is_call or self._adapter.is_framed):
            return
        if is_call and isinstance(key, StreamBlock):
            self._count_call(choice, event, key)
        choice.numbers[key] = event.index  # some providers give calls none
        number = choice.next_number if event.index is None else event.index
        choice.next_number = max(choice.next_number, number + 1)
        if self._adapter.is_framed and not self._repeating:
            choice.open[key] = Frame(choice=event.choice, role="end", kind=_kind_of(event), index=number)

    def admit(self, parcel: Parcel) -> list[StreamEvent]:
        """The events of `parcel` as they may leave; the same objects where nothing had to change."""
        parcel.is_taken = True
        if parcel.notice is not None:
            for event in self._notice(parcel.notice):
                parcel.add(event, None)
        if parcel.chunk is not None and parcel.is_in_order and self._is_as_it_came():
            for event, block in zip(parcel.events, parcel.blocks, strict=True):
                self._observe(event, block)
            return [*parcel.events]
        admitted: list[StreamEvent] = []
        for event, block in zip(parcel.events, parcel.blocks, strict=True):
            admitted += self._admit(event, block)
        return admitted

    def _admit(self, event: StreamEvent, block: StreamBlock | None) -> list[StreamEvent]:
        """`_legal`, which is not asked again about more of what has just left as it came."""
        thread = _thread_of(event, block)
        if thread is not None and thread == self._thread:
            return [event]
        legal = list(self._legal(event, block))
        is_same = len(legal) == 1 and legal[0] is event
        self._thread = thread if is_same else None
        self._has_changed = self._has_changed or not is_same
        return legal

    def finish(self) -> list[StreamEvent]:
        """The rest of a response that we ended or made: a finish at least; nothing if the provider has failed."""
        if self._has_failed:
            return []
        owed = list(self._owed_finishes())
        owed += self._legal(End(), None) if self._adapter.is_framed else ()
        self._note(Chunk(tuple(owed)))
        return owed

    def _owed_finishes(self) -> Iterator[StreamEvent]:
        for number in self._unfinished() if self._choices else [0]:
            choice = self._choice(number)
            reason = self._adapter.tool_reasons[0] if choice.calls else self._adapter.stop_reason
            yield from self._legal(Finish(choice=number, reason=reason), None)

    def _note(self, chunk: Chunk) -> None:
        if self._on_leave is not None and chunk.events:
            self._on_leave(chunk)

    def _notice(self, text: str) -> Iterator[StreamEvent]:
        self.is_cut = True
        for number in self._unfinished() or [0]:
            yield TextDelta(choice=number, text=text, is_apart=True)

    def _unfinished(self) -> list[int]:
        return [number for number, choice in self._choices.items() if choice.finish_reason is None]

    def _choice(self, number: int) -> _ChoiceOut:
        found = self._choices.get(number)
        if found is None:
            found = self._choices[number] = _ChoiceOut()
        return found

    def _legal(self, event: StreamEvent, block: StreamBlock | None) -> Iterator[StreamEvent]:
        if isinstance(event, Usage) or event.choice == EVERY_CHOICE:
            yield event
            return
        self._has_failed = self._has_failed or isinstance(event, Failure)
        if isinstance(event, End):
            if not self._is_over:
                yield from self._owed_finishes() if self.is_cut else ()
                self._is_over = True
                yield event
            return
        choice = self._choice(event.choice)
        if not choice.has_started or isinstance(event, Start):
            yield from self._start(choice, event)
        if isinstance(event, Opaque):
            yield event
        elif isinstance(event, Finish):
            yield from self._finish(choice, event)
        elif self._may_go_on(choice, event) and not isinstance(event, Start):
            if self._repeating:
                yield from self._overlapping(choice, event, block)
            elif self._adapter.is_framed:
                yield from self._framed(choice, event, block)
            else:
                yield from self._plain(choice, event, block)

    def _may_go_on(self, choice: _ChoiceOut, event: StreamEvent) -> bool:
        """Some providers, early Gemini models among them, say with each chunk why they finish."""
        is_providers_own = event.part is not None and not self.is_cut and not self._adapter.is_framed
        return choice.finish_reason is None or is_providers_own

    def _start(self, choice: _ChoiceOut, event: StreamEvent) -> Iterator[StreamEvent]:
        if self._adapter.is_framed and isinstance(event, Opaque):
            return  # a ping may come before the start
        if isinstance(event, Start):
            if not (self._adapter.is_framed and choice.has_started):
                yield event
        elif not choice.has_started and event.part is None:
            yield Start(choice=event.choice)
        choice.has_started = True

    def _finish(self, choice: _ChoiceOut, event: Finish) -> Iterator[StreamEvent]:
        reason = event.reason if self._is_untouched() else self._fitting(choice, event.reason)
        is_providers_own = event.part is not None and not self.is_cut
        if choice.finish_reason is not None and not (is_providers_own and choice.finish_reason == reason):
            return  # some providers repeat themselves, which is harmless; but not contradict
        yield from _end(choice, overlapping=True)
        choice.finish_reason = reason
        yield event if reason == event.reason else from_wire(replace(event, reason=reason), event.part)

    def _fitting(self, choice: _ChoiceOut, reason: str) -> str:
        """The reason of a choice whose calls we may have withheld or made."""
        if reason in self._adapter.tool_reasons and (self.is_cut or not choice.calls):
            return self._adapter.stop_reason
        if reason == self._adapter.stop_reason and choice.has_made_call and not self.is_cut:
            return self._adapter.tool_reasons[0]
        return reason

    # Wires that do not frame blocks number the calls alone

    def _plain(self, choice: _ChoiceOut, event: StreamEvent, block: StreamBlock | None) -> Iterator[StreamEvent]:
        if isinstance(event, ToolCallDelta):
            call = self._call(choice, event, block)
            number = choice.numbers.get(block, choice.next_number - 1)
            yield call if event.form == "legacy_function" else _numbered(call, number)
        elif isinstance(event, TextDelta) and not event.channel:
            if choice.has_text and (event.is_apart or choice.is_apart):
                yield TextDelta(choice=event.choice, text="\n\n")
            yield replace(event, is_apart=False) if event.is_apart else event
            choice.has_text, choice.is_apart = True, event.is_apart
        elif isinstance(event, TextDelta | ReasoningDelta | Quote):
            yield event

    def _call(self, choice: _ChoiceOut, event: ToolCallDelta, block: StreamBlock | None) -> ToolCallDelta:
        """`event`, with the id and name of its call if it is the first piece of it to leave."""
        if not isinstance(block, ToolCallStreamBlock):
            choice.has_made_call = True
            choice.numbers[block] = choice.next_number
            choice.next_number += 1
            return self._count_call(choice, event, block)
        if block in choice.numbers:  # a head that was held while its call began without it is not said again
            is_said = block in choice.headed or block.is_renamed
            return from_wire(replace(event, id=None, name=None), event.part) if event.name and is_said else event
        choice.numbers[block] = choice.next_number
        choice.next_number += 1
        if not event.name:
            choice.headed.add(block)
            event = from_wire(replace(event, id=block.id, name=block.name, extra=dict(block.extra)), event.part)
        elif event.name != block.name:
            event = from_wire(replace(event, name=block.name), event.part)
        return self._count_call(choice, event, block)

    def _count_call(self, choice: _ChoiceOut, event: ToolCallDelta, block: StreamBlock | None) -> ToolCallDelta:
        """`event`, under another id if a policy has sent the same one before; counts the calls of the client's."""
        if event.form != "server":
            choice.calls += 1
            choice.last_call = block.place if block is not None else choice.last_call
        if event.id is None:
            return event
        if event.part is None and event.id in choice.ids:
            event = replace(event, id=f"{event.id}_{choice.next_number}")
        choice.ids.add(event.id or "")
        return event

    # Wires whose blocks may overlap: only what a policy made is ended by what comes next

    def _overlapping(self, choice: _ChoiceOut, event: StreamEvent, block: StreamBlock | None) -> Iterator[StreamEvent]:
        kind = "text" if isinstance(event, TextDelta) else "reasoning" if isinstance(event, ReasoningDelta) else None
        if block in choice.ended and kind is not None:
            block = None  # a policy says more of it, too late
        goes_on = None in choice.open and block is None and choice.open[None].kind == kind
        if not goes_on:
            yield from _end(choice)
        if isinstance(event, Frame) and event.kind in ("other", "unknown"):
            yield event
        elif isinstance(event, Frame) and event.role == "begin":
            yield _begin(choice, event, block)
        elif isinstance(event, ToolCallDelta):
            yield from self._overlapping_call(choice, event, block)
        elif isinstance(event, TextDelta | ReasoningDelta):
            if block not in choice.numbers or (block is None and not goes_on):
                yield _begin(choice, Frame(choice=event.choice, role="begin", kind=kind or "text", index=-1), block)
            yield _said(choice, event, block)
        elif isinstance(event, Frame) and block in choice.numbers:
            if event.role == "end":
                choice.ended.add(block)
            yield _numbered(event, choice.numbers[block])
        if block is not None:
            choice.open.pop(block, None)  # it ends where its own end leaves

    def _overlapping_call(
        self, choice: _ChoiceOut, event: ToolCallDelta, block: StreamBlock | None
    ) -> Iterator[StreamEvent]:
        is_begun = block is not None and block in choice.numbers
        number = choice.next_number
        call = self._call(choice, event, block)
        if is_begun and call.name:  # a head that was held while its call began without it
            call = from_wire(replace(call, id=None, name=None), call.part)
        yield _numbered(call, choice.numbers[block])
        if block is None:
            yield Frame(choice=event.choice, role="end", kind="tool_call", index=number)

    # Wires that do

    def _framed(self, choice: _ChoiceOut, event: StreamEvent, block: StreamBlock | None) -> Iterator[StreamEvent]:
        if isinstance(event, Quote) and event.index < 0:
            yield event  # which belongs to no block
        elif isinstance(event, Frame):
            yield from self._frame(choice, event, _key_of(event, block))
        elif isinstance(event, ToolCallDelta):
            yield from self._framed_call(choice, event, block)
        elif isinstance(event, TextDelta | ReasoningDelta):
            yield from self._framed_text(choice, event, block)

    def _frame(self, choice: _ChoiceOut, event: Frame, key: _Key) -> Iterator[StreamEvent]:
        if event.role == "begin":
            if isinstance(key, int) or _may_speak(choice, key):
                yield from _end(choice)
                yield _begin(choice, event, key)
        elif key in choice.open:
            yield _numbered(event, choice.numbers[key])
            if event.role == "end":
                del choice.open[key]

    def _framed_text(
        self, choice: _ChoiceOut, event: TextDelta | ReasoningDelta, block: StreamBlock | None
    ) -> Iterator[StreamEvent]:
        kind = "text" if isinstance(event, TextDelta) else "reasoning"
        if block not in choice.open or choice.open[block].kind != kind:
            if not _may_speak(choice, block):
                return
            yield from _end(choice)
            yield _begin(choice, Frame(choice=event.choice, role="begin", kind=kind, index=-1), block)
        yield _said(choice, event, block)

    def _framed_call(
        self, choice: _ChoiceOut, event: ToolCallDelta, block: StreamBlock | None
    ) -> Iterator[StreamEvent]:
        if block is not None and block in choice.numbers:
            call = self._call(choice, event, block)
            if block in choice.open and not call.name:  # a head that was held while its call began does not begin it
                yield _numbered(call, choice.numbers[block])
            return
        yield from _end(choice)
        number = choice.next_number
        yield _numbered(self._call(choice, event, block), number)
        choice.open[block] = Frame(choice=event.choice, role="end", kind="tool_call", index=number)
        if block is None:
            yield from _end(choice)


def wire_of(chunk: Chunk | None) -> Chunk | None:
    """The unit of the wire that `chunk` is, or is a part of; None if a policy made it."""
    return None if chunk is None else chunk.part_of or (chunk if chunk.raw is not None else None)


def is_whole(chunk: Chunk, events: list[StreamEvent]) -> bool:
    """Whether `events` are just what `chunk` said."""
    return len(events) == len(chunk.events) and all(map(is_, events, chunk.events))


def _may_speak(choice: _ChoiceOut, key: _Key) -> bool:
    """Not after a call, unless the provider does itself: a client that sends this back to it is refused."""
    is_providers_own = isinstance(key, StreamBlock) and key.place > choice.last_call and not choice.has_made_call
    return not choice.calls or is_providers_own


def _thread_of(event: StreamEvent, block: StreamBlock | None) -> _Thread | None:
    if block is None or not isinstance(event, DELTAS):
        return None
    begins = event.is_apart if isinstance(event, TextDelta) else isinstance(event, ToolCallDelta) and event.name
    return None if begins else (type(event), block, event.index, channel_of(event))


def _key_of(event: StreamEvent, block: StreamBlock | None) -> _Key:
    return event.index if isinstance(event, Frame) and event.kind in ("other", "unknown") else block


def _kind_of(event: Frame | DeltaEvent) -> Literal["text", "reasoning", "tool_call", "other", "unknown"]:
    if isinstance(event, Frame):
        return event.kind
    return "tool_call" if isinstance(event, ToolCallDelta) else "text" if isinstance(event, TextDelta) else "reasoning"


def _begin(choice: _ChoiceOut, event: Frame, key: _Key) -> StreamEvent:
    number, choice.next_number = choice.next_number, choice.next_number + 1
    choice.numbers[key] = number
    choice.spoken.discard(key)
    choice.open[key] = Frame(choice=event.choice, role="end", kind=event.kind, index=number)
    return _numbered(event, number)


def _end(choice: _ChoiceOut, *, overlapping: bool = False) -> Iterator[StreamEvent]:
    """Ends the open blocks; those that the provider had open at once only if `overlapping`."""
    for key in [*choice.open]:
        if overlapping or not (isinstance(key, StreamBlock) and key.overlaps):
            yield choice.open.pop(key)


def _said(choice: _ChoiceOut, event: TextDelta | ReasoningDelta, key: _Key) -> StreamEvent:
    """`event` in its block; after a blank line if it is apart from what was said in that before."""
    if isinstance(event, TextDelta) and event.is_apart:
        event = replace(event, text=f"\n\n{event.text}" if key in choice.spoken else event.text, is_apart=False)
    choice.spoken.add(key)
    return _numbered(event, choice.numbers[key])


def _numbered(event: DeltaEvent | Frame, number: int | None) -> StreamEvent:
    return event if number in (None, event.index) else from_wire(replace(event, index=number), event.part)
