"""State machine for the outgoing stream: makes it legal for any client, after any output of the policies."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from operator import is_
from typing import cast

from luthien_litellm_hooks.engine.block_order import (
    BlockOrder,
    ChoiceState,
    MarkedOrder,
    OverlappingOrder,
    PlainOrder,
)
from luthien_litellm_hooks.engine.egress_queue import EgressItem
from luthien_litellm_hooks.wire.events import (
    DELTAS,
    EVERY_CHOICE,
    BlockMarker,
    Chunk,
    Finish,
    Opaque,
    ProviderFailure,
    ReasoningDelta,
    ResponseStart,
    StreamBlock,
    StreamEnd,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    Usage,
    from_wire,
)
from luthien_litellm_hooks.wire.format import Adapter, EchoingAdapter

_BlockKey = tuple[type[StreamEvent], StreamBlock, int | None, str]
"""Common part of the deltas in one block."""
_MAX_UNOBSERVED = 100
"""Most events to remember for later; each keeps its text in memory."""


class Sequencer:
    """Turns the items of a queue into a legal stream.

    While `is_untouched` holds, events leave as they came, in the provider's order. After
    a change a choice starts before anything of it leaves; blocks leave in the `BlockOrder` of the wire; a call begins
    with its id and name, and no two have the same id; one finish ends a choice, its reason fits the delivered
    blocks, and nothing of the choice follows it. A response broken off by the provider gets no finish.
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
        rules = self._rules = adapter.rules
        self._echoing = cast(EchoingAdapter, adapter) if rules.blocks_overlap else None
        self._order: BlockOrder = (
            OverlappingOrder() if rules.blocks_overlap else MarkedOrder() if rules.marks_blocks else PlainOrder()
        )
        self._choices: dict[int, ChoiceState] = {}
        self._latest: _BlockKey | None = None  # of the event that left last
        self._has_changed = False  # an event has left in another form or order than it came
        self._unobserved: list[tuple[StreamEvent, StreamBlock | None]] = []  # left as they came, and may never matter
        self.is_cut = False
        """A notice has ended the response."""
        self._is_over = False
        self._has_failed = False  # by the provider's own word

    @property
    def has_finished(self) -> bool:
        """Each choice has left to its finish, and there is one."""
        self._observe()
        return bool(self._choices) and not self._unfinished()

    @property
    def has_calls(self) -> bool:
        """A call for the client to run has left."""
        self._observe()
        return any(choice.calls for choice in self._choices.values())

    def encode(self, item: EgressItem) -> Iterable[object]:
        """Returns the items of the client's stream for `item`, and closes `item`."""
        chunk = item.chunk
        if item.run and self.continues(item):
            return self._encode_unchanged(item.run)
        if item.run:
            return [unit for each in item.apart() for unit in self.encode(each)]
        if chunk is not None and self._only_continues(item, chunk):
            item.is_taken = True
            return self._encode_unchanged((chunk,))
        # Some providers start a choice again with each chunk; only a whole chunk may repeat that.
        starts = [event for event in item.events if isinstance(event, ResponseStart)]
        if starts:
            self._observe()
            starts = [event for event in starts if self._choice(event.choice).has_started]
        events = self.sequence(item)
        if chunk is not None and chunk.raw is not None and is_unchanged(chunk, events):
            return self._encode_unchanged((chunk,))
        events = [event for event in events if event not in starts]
        self._note(Chunk(tuple(events)))
        return self._adapter.encode(events, template_of(chunk)) if events else ()

    def _only_continues(self, item: EgressItem, chunk: Chunk) -> bool:
        """Holds for one more delta after another of its block left as it came, like nearly all of a long response."""
        if chunk.raw is None or len(item.events) != 1 or len(chunk.events) != 1:
            return False
        key = _block_key(item.events[0], item.blocks[0])
        return key is not None and key == self._latest

    def continues(self, item: EgressItem) -> bool:
        """Holds for a run behind a delta of its block that left as it came: so does all of the run."""
        return _block_key(item.events[0], item.blocks[0]) == self._latest is not None

    def _encode_unchanged(self, chunks: Sequence[Chunk]) -> Iterable[object]:
        for chunk in chunks:
            self._note(chunk)
        if self._echoing is None:
            return [chunk.raw for chunk in chunks]
        as_came, encode = not self._is_judged, self._echoing.encode_unchanged
        return [unit for chunk in chunks for unit in encode(chunk, as_came=as_came)]

    def sequence(self, item: EgressItem) -> list[StreamEvent]:
        """Returns the events of `item` as they may leave: the same objects where nothing had to change."""
        item.is_taken = True
        if self._leaves_as_it_came(item):
            return [*item.events]
        self._observe()
        if item.notice is not None:
            self.is_cut = True
            for number in self._unfinished() or [0]:
                item.add(TextDelta(choice=number, text=item.notice, starts_paragraph=True), None)
        sequenced: list[StreamEvent] = []
        for event, block in zip(item.events, item.blocks, strict=True):
            key = _block_key(event, block)
            if key is not None and key == self._latest:  # only continues the block that has just left as it came
                sequenced.append(event)
                continue
            legal = list(self._in_order(event, block))
            is_same = len(legal) == 1 and legal[0] is event
            self._latest = key if is_same else None
            self._has_changed = self._has_changed or not is_same
            sequenced += legal
        return sequenced

    def passes(self, item: EgressItem) -> bool:
        """Takes an `item` that leaves as the whole chunk that came. Returns False for any other."""
        chunk = item.chunk
        if chunk is None or not is_unchanged(chunk, item.events) or not self._leaves_as_it_came(item):
            return False
        item.is_taken = True
        return True

    def ping(self) -> Iterable[object]:
        """Returns items without content between two items of the response; none after its finish or failure."""
        self._observe()
        return () if self._is_over or self._has_failed or self.has_finished else self._adapter.ping()

    def finish(self) -> list[StreamEvent]:
        """Returns the rest of an ended or made response: a finish at least; nothing if the provider failed."""
        self._observe()
        if self._has_failed:
            return []
        owed = list(self._owed_finishes())
        owed += self._in_order(StreamEnd(), None) if self._rules.marks_blocks else ()
        self._note(Chunk(tuple(owed)))
        return owed

    # One event

    def _leaves_as_it_came(self, item: EgressItem) -> bool:
        if item.chunk is None or not item.is_in_order or self._has_changed or not self._is_untouched():
            return False
        for event, block in zip(item.events, item.blocks, strict=True):
            key = _block_key(event, block)
            if key is None or key != self._latest:
                self._latest = key
                self._unobserved.append((event, block))
        if len(self._unobserved) > _MAX_UNOBSERVED:
            self._observe()
        return True

    def _observe(self) -> None:
        """Notes the events that left just as the provider sent them, for later events."""
        unobserved, self._unobserved = self._unobserved, []
        for event, block in unobserved:
            self._observe_one(event, block)

    def _observe_one(self, event: StreamEvent, block: StreamBlock | None) -> None:
        if isinstance(event, Usage) or event.choice == EVERY_CHOICE:
            return
        if isinstance(event, StreamEnd):
            self._is_over = True
            return
        self._has_failed = self._has_failed or isinstance(event, ProviderFailure)
        choice = self._choice(event.choice)
        choice.has_started = choice.has_started or not (isinstance(event, Opaque) and self._rules.marks_blocks)
        if isinstance(event, Finish):
            choice.finish_reason = event.reason
            choice.open.clear()
        elif isinstance(event, (BlockMarker, *DELTAS)):
            self._order.observe(choice, event, block)

    def _in_order(self, event: StreamEvent, block: StreamBlock | None) -> Iterator[StreamEvent]:
        """Yields the legal events for `event`."""
        if isinstance(event, Usage) or event.choice == EVERY_CHOICE:
            yield event
            return
        self._has_failed = self._has_failed or isinstance(event, ProviderFailure)
        if isinstance(event, StreamEnd):
            if not self._is_over:
                yield from self._owed_finishes() if self.is_cut else ()
                self._is_over = True
                yield event
            return
        choice = self._choice(event.choice)
        if not choice.has_started or isinstance(event, ResponseStart):
            yield from self._start(choice, event)
        if isinstance(event, Opaque):
            yield event
        elif isinstance(event, Finish):
            yield from self._finish(choice, event)
        elif not isinstance(event, ResponseStart):
            # Some providers, early Gemini models among them, send a finish with each chunk.
            is_providers_own = event.source is not None and not self.is_cut and not self._rules.marks_blocks
            if choice.finish_reason is None or is_providers_own:
                yield from self._order.sequence(choice, event, block)

    def _start(self, choice: ChoiceState, event: StreamEvent) -> Iterator[StreamEvent]:
        if self._rules.marks_blocks and isinstance(event, Opaque):
            return  # a ping may come before the start
        if isinstance(event, ResponseStart):
            if not (self._rules.marks_blocks and choice.has_started):
                yield event
        elif not choice.has_started and event.source is None:
            yield ResponseStart(choice=event.choice)
        choice.has_started = True

    def _finish(self, choice: ChoiceState, event: Finish) -> Iterator[StreamEvent]:
        reason = event.reason if self._is_untouched() else self._fitting_reason(choice, event.reason)
        is_providers_own = event.source is not None and not self.is_cut
        if choice.finish_reason is not None and not (is_providers_own and choice.finish_reason == reason):
            return  # a provider may repeat its reason, but not contradict it
        yield from choice.end_blocks(overlapping=True)
        choice.finish_reason = reason
        yield event if reason == event.reason else from_wire(replace(event, reason=reason), event.source)

    def _fitting_reason(self, choice: ChoiceState, reason: str) -> str:
        """Returns a reason to fit the delivered calls of a choice."""
        if reason in self._rules.tool_reasons and (self.is_cut or not choice.calls):
            return self._rules.stop_reason
        if reason == self._rules.stop_reason and choice.has_made_call and not self.is_cut:
            return self._rules.tool_reasons[0]
        return reason

    def _owed_finishes(self) -> Iterator[StreamEvent]:
        for number in self._unfinished() if self._choices else [0]:
            choice = self._choice(number)
            reason = self._rules.tool_reasons[0] if choice.calls else self._rules.stop_reason
            yield from self._in_order(Finish(choice=number, reason=reason), None)

    def _unfinished(self) -> list[int]:
        return [number for number, choice in self._choices.items() if choice.finish_reason is None]

    def _choice(self, number: int) -> ChoiceState:
        found = self._choices.get(number)
        if found is None:
            found = self._choices[number] = ChoiceState()
        return found

    def _note(self, chunk: Chunk) -> None:
        if self._on_leave is not None and chunk.events:
            self._on_leave(chunk)


def template_of(chunk: Chunk | None) -> Chunk | None:
    """Returns the unit of the wire around `chunk`; None for a policy's own."""
    return None if chunk is None else chunk.source_chunk or (chunk if chunk.raw is not None else None)


def is_unchanged(chunk: Chunk, events: list[StreamEvent]) -> bool:
    """Holds if `events` are just the events of `chunk`."""
    return len(events) == len(chunk.events) and all(map(is_, events, chunk.events))


def _block_key(event: StreamEvent, block: StreamBlock | None) -> _BlockKey | None:
    """Returns the key of a delta in the middle of its block, else None."""
    if block is None:
        return None
    if isinstance(event, TextDelta):
        return None if event.starts_paragraph else (TextDelta, block, event.index, event.channel)
    if isinstance(event, ReasoningDelta) or (isinstance(event, ToolCallDelta) and not event.name):
        return type(event), block, event.index, ""
    return None
