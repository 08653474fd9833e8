"""Holds events until the policy releases, replaces or drops them."""

import asyncio
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

from luthien_litellm_hooks.engine.egress_queue import MEMORY, EgressItem, EgressSink, MemoryBudget, size_of
from luthien_litellm_hooks.engine.hook_call import HookDeadline
from luthien_litellm_hooks.engine.pipeline import Pace
from luthien_litellm_hooks.policy.limits import DEFAULT_LIMITS
from luthien_litellm_hooks.wire.assembler import StreamState
from luthien_litellm_hooks.wire.events import (
    EVERY_CHOICE,
    BlockMarker,
    Chunk,
    ContentStreamBlock,
    Opaque,
    Quote,
    StreamBlock,
    StreamEvent,
    TextDelta,
    ToolCallStreamBlock,
    from_wire,
)
from luthien_litellm_hooks.wire.format import ResponseRules

Held = tuple[Chunk, StreamEvent]


class HoldBuffer:
    """Forwards events of one response to the queue, or holds them for the policy.

    Each event from the provider is forwarded once, or held until it is forwarded or dropped. A block's markers
    leave with the first piece of it, and never without one.
    """

    def __init__(
        self,
        queue: EgressSink,
        deadline: HookDeadline,
        on_drop: Callable[[StreamBlock], None] | None = None,
        max_held_bytes: int = DEFAULT_LIMITS.max_held_bytes,
        memory: MemoryBudget = MEMORY,
        *,
        keeps_order: bool = True,
        has_text_after_calls: bool = True,
    ) -> None:
        self._queue = queue
        self._deadline = deadline
        self._on_drop = on_drop
        self._has_text_after_calls = has_text_after_calls
        self.keeps_order = keeps_order
        """Nothing waits for its turn but the events held here."""
        self._open: EgressItem | None = None
        self._held = HeldEvents(max_held_bytes, memory)
        self._begun: set[StreamBlock] = set()  # something of it has left
        self._changed: set[StreamBlock] = set()  # something of it was replaced or dropped
        self._withheld: set[StreamBlock] = set()  # calls whose beginning was dropped
        self._quoted: dict[StreamBlock, list[str]] = {}  # texts sent to replace quotes
        self._modified: set[int] = set()  # choices that differ from the provider's
        self.delivered: set[int] = set()
        """Choices with delivered content."""
        self.has_sent = False
        """A policy sent something of its own since the engine last reset this."""

    @property
    def is_modified(self) -> bool:
        """The response differs from the provider's."""
        return bool(self._modified)

    @property
    def is_empty(self) -> bool:
        """No event is held."""
        return not self._held.blocks

    def holds(self, block: StreamBlock) -> bool:
        """Holds for a `block` with held events."""
        return block in self._held

    def mark_modified(self, choice: int) -> None:
        """Notes a difference of `choice` from the provider's."""
        self._modified.add(choice)

    def holds_any(self, choice: int) -> bool:
        """Holds for a `choice` with held events."""
        return any(choice in (block.choice, EVERY_CHOICE) for block in self._held)

    def is_choice_modified(self, choice: int) -> bool:
        """Holds if `choice`, or any for `EVERY_CHOICE`, differs from the provider's."""
        return bool(self._modified if choice == EVERY_CHOICE else self._modified & {choice, EVERY_CHOICE})

    # Forward the provider's events

    async def forward(
        self, chunk: Chunk, event: StreamEvent, block: StreamBlock | None = None, *, is_oldest: bool = False
    ) -> None:
        """Forwards an event; if the beginning of its call was dropped, drops it, too. One that `is_oldest` was held
        before the rest of its block."""
        if block is None:
            if isinstance(event, Opaque) and event.repeats_content and self.is_choice_modified(event.choice):
                return
        elif isinstance(event, Quote) and isinstance(block, ContentStreamBlock) and block.is_quoted:
            self._begun.add(block)
            await self.forward_detail(chunk, event, block.host)
            return
        elif block in self._withheld:
            return
        else:
            self.delivered.add(block.choice)
            if block not in self._begun:
                await self._begin_overlapping(block)
                await self._begin(block)
        item = self._open
        if item is not None and item.chunk is chunk and not item.is_taken:
            item.add(event, block)
        else:
            held = self._held.blocks
            is_in_order = self.keeps_order and (not held or (is_oldest and block in held and len(held) == 1))
            item = EgressItem(chunk, (event,), block, is_in_order=is_in_order)
            if self._queue.put_nowait(item):
                self._open = item
            else:
                await self._put(item)

    async def forward_run(self, run: Sequence[Chunk], pieces: Sequence[str], block: StreamBlock) -> None:
        """Forwards chunks with one piece each of a block with nothing held."""
        if block in self._withheld:
            return
        await self.forward(run[0], run[0].events[0], block)  # by itself: it may follow a change, unlike the rest
        if len(run) > 1:
            is_in_order = self.keeps_order and not self._held.blocks
            await self._put(EgressItem.of_run(run[1:], pieces[1:], block, is_in_order=is_in_order))
            self._open = None

    async def forward_detail(self, chunk: Chunk, event: StreamEvent, block: StreamBlock | None) -> None:
        """Forwards or holds a detail together with its block; a changed block leaves without it.

        The result of a server's call counts as a detail of the call.
        """
        if block is not None and block in self._held:
            has_end = _has_role(self._held.last(block), "end") and not _has_role(event, "begin")
            end = self._held.take_last(block) if has_end else None
            self.hold(chunk, event, block)
            if end is not None:
                self.hold(*end, block)
        elif block not in self._changed:
            await self.forward(chunk, event, block)

    async def forward_end(self, chunk: Chunk, event: StreamEvent, block: StreamBlock) -> None:
        """Forwards the end of a block if its beginning has left, or holds it with the rest."""
        if block in self._held:
            self.hold(chunk, event, block)
        elif block in self._begun:
            await self.forward(chunk, event, block)

    # Send what a policy made

    async def send(
        self, event: StreamEvent, block: StreamBlock | None = None, about: StreamBlock | None = None
    ) -> None:
        """Sends a policy's own event; between the markers of `block`, if it replaces the block."""
        self.has_sent = True
        self.mark_modified(event.choice)
        if isinstance(block, ContentStreamBlock) and block.is_quoted:
            if isinstance(event, TextDelta) and not event.starts_paragraph:
                self._changed.add(block)
                self._quoted.setdefault(block, []).append(event.text)
                return
            block = block.host if isinstance(event, Quote) else None  # a notice is not a part of the quote
        self.delivered.add(event.choice)
        if block is not None:
            self._changed.add(block)
            if block not in self._begun:
                await self._begin(block)
        if isinstance(event, TextDelta) and isinstance(block, ContentStreamBlock) and not event.starts_paragraph:
            event = replace(event, channel=block.channel) if block.channel else event
        await self._put(EgressItem(None, (event,), block, about=about))

    async def send_quote(self, quote: Quote, block: ContentStreamBlock) -> None:
        """Sends `quote` with its replaced text, if there is any or the wire needs the quote."""
        text = "".join(self._quoted.pop(block, ()))
        if block in self._begun and text:  # the quote has left: this text follows it
            await self.send(TextDelta(choice=block.choice, text=text, starts_paragraph=True))
        if block in self._begun or block not in self._changed or block.host in self._changed:
            return
        if not (text or quote.is_owed):
            return
        changed = from_wire(replace(quote, text=text), quote.source)
        if block.host is not None and block.host in self._held:
            self.hold(Chunk((changed,)), changed, block.host)
        else:
            await self._put(EgressItem(None, (changed,), block.host, about=block))

    # Hold, then release or drop

    def hold(self, chunk: Chunk, event: StreamEvent, block: StreamBlock) -> None:
        """Holds an event until its block is released or dropped. Raises `LimitExceededError`."""
        self._held.add(chunk, event, block)

    async def release_event(self, block: StreamBlock, event: StreamEvent) -> None:
        """Forwards `event` if it is the latest of `block` and still held."""
        if self._held.last(block) is event:
            chunk, _ = self._held.take_last(block)
            await self.forward(chunk, event, block)

    async def release_chunk(self, chunk: Chunk) -> None:
        """Forwards the held events of `chunk`."""
        for block in self._held:
            for _, event in self._held.take_chunk(chunk, block):
                await self.forward(chunk, event, block)

    async def release(self, block: StreamBlock) -> None:
        """Forwards the held events of `block`, in order."""
        pace = Pace()
        while block in self._held:
            await self._release_next(block)
            if pace.step():
                await pace.give_turn()

    async def release_first(self, block: StreamBlock, count: int) -> None:
        """Forwards the oldest `count` held pieces of `block`, and the markers before and after them."""
        is_quote = isinstance(block, ContentStreamBlock) and block.is_quoted
        while (first := self._held.first(block)) is not None:
            is_marker = isinstance(first, BlockMarker) and not is_quote
            if count <= 0 and not is_marker:
                return
            count -= not is_marker
            await self._release_next(block)

    async def release_empty(self, block: StreamBlock) -> None:
        """Forwards a block of markers alone: no hook was called for it."""
        if all(isinstance(event, BlockMarker) for event in self._held.events(block)):
            await self.release(block)

    async def release_all(self) -> None:
        """Forwards all held events, block by block in the order they began, and each with its quotes."""
        for block in self._held:
            host = block.host if isinstance(block, ContentStreamBlock) else None
            if host is not None and host in self._held and _has_role(self._held.first(block), "detail"):
                await self.release(block)
        for block in self._held:
            await self.release(block)

    def drop(self, block: StreamBlock) -> None:
        """Drops the held events of `block`: they are never delivered."""
        if self._held.take(block):
            if isinstance(block, ToolCallStreamBlock) and block not in self._begun:
                self._withheld.add(block)
            self._changed.add(block)
            self.mark_modified(block.choice)
            if self._on_drop is not None:
                self._on_drop(block)

    def drop_choice(self, choice: int) -> None:
        """Drops the held events of one choice."""
        for block in [block for block in self._held if block.choice == choice]:
            self.drop(block)

    def drop_all(self) -> None:
        """Drops all held events."""
        for block in self._held:
            self.drop(block)

    # End the response

    def end_with_notice(self, notice: str) -> None:
        """Drops the held events and ends the response with `notice`."""
        self.drop_all()
        self.mark_modified(EVERY_CHOICE)
        self._queue.put_last(EgressItem(None, notice=notice))

    def forward_ending(self, chunk: Chunk, events: Iterable[StreamEvent]) -> None:
        """Forwards the ending events after a notice."""
        item = EgressItem(chunk, events)
        if item.events:
            self._queue.put_last(item)

    async def _release_next(self, block: StreamBlock) -> None:
        chunk, event = self._held.take_first(block)
        try:
            await self.forward(chunk, event, block, is_oldest=True)
        except asyncio.CancelledError:  # the hook did not want to wait for the client; it may try again
            self._held.put_back(chunk, event, block)
            raise

    async def _begin_overlapping(self, block: StreamBlock) -> None:
        """Begins the provider's open blocks before `block`: their text may come later, but
        on some wires no text may begin after a call."""
        if block.overlaps and not self._has_text_after_calls:
            for other in [held for held in self._held if held.overlaps and held.place < block.place]:
                if other not in self._begun:
                    await self._begin(other)

    async def _begin(self, block: StreamBlock) -> None:
        self._begun.add(block)
        if not _has_role(self._held.first(block), "begin"):
            return
        await self.forward(*self._held.take_first(block), block)
        while _has_role(self._held.first(block), "detail") and block not in self._changed:
            await self.forward(*self._held.take_first(block), block)

    async def _put(self, item: EgressItem) -> None:
        if not self._queue.put_nowait(item):
            with self._deadline.paused():
                await self._queue.put(item)
        self._open = item


def _has_role(event: StreamEvent | None, role: str) -> bool:
    return isinstance(event, BlockMarker) and event.role == role


class HeldEvents:
    """Held events, block by block in the order the blocks began.

    They count in `memory`: all responses that share it may take `max_bytes` together.
    """

    def __init__(self, max_bytes: int, memory: MemoryBudget) -> None:
        self._max_bytes = max_bytes
        self._memory = memory
        self.blocks: dict[StreamBlock, deque[Held]] = {}
        """Held events by their block; no block without any."""

    def __contains__(self, block: StreamBlock) -> bool:
        return block in self.blocks

    def __iter__(self) -> Iterator[StreamBlock]:
        return iter(sorted(self.blocks, key=attrgetter("place")))

    def events(self, block: StreamBlock) -> Iterator[StreamEvent]:
        """Yields the events of `block`, in order."""
        return (event for _, event in self.blocks.get(block, ()))

    def first(self, block: StreamBlock) -> StreamEvent | None:
        """Returns the oldest event of `block`."""
        held = self.blocks.get(block)
        return held[0][1] if held else None

    def last(self, block: StreamBlock) -> StreamEvent | None:
        """Returns the latest event of `block`."""
        held = self.blocks.get(block)
        return held[-1][1] if held else None

    def add(self, chunk: Chunk, event: StreamEvent, block: StreamBlock) -> None:
        """Adds an event. Raises `LimitExceededError` where the responses of this process hold too much; a
        marker brings no text, and always has room."""
        self._memory.take(size_of(event), sys.maxsize if isinstance(event, BlockMarker) else self._max_bytes)
        self.blocks.setdefault(block, deque()).append((chunk, event))

    def take_first(self, block: StreamBlock) -> Held:
        """Removes and returns the oldest event of `block`."""
        return self._taken(block, self.blocks[block].popleft())

    def put_back(self, chunk: Chunk, event: StreamEvent, block: StreamBlock) -> None:
        """Undoes `take_first`."""
        self._memory.taken += size_of(event)
        self.blocks.setdefault(block, deque()).appendleft((chunk, event))

    def take_last(self, block: StreamBlock) -> Held:
        """Removes and returns the latest event of `block`."""
        return self._taken(block, self.blocks[block].pop())

    def take(self, block: StreamBlock) -> list[Held]:
        """Removes and returns all events of `block`."""
        return [self._uncounted(item) for item in self.blocks.pop(block, ())]

    def take_chunk(self, chunk: Chunk, block: StreamBlock) -> list[Held]:
        """Removes and returns the events of `block` from `chunk`."""
        held = self.blocks.get(block, ())
        taken = [item for item in held if item[0] is chunk]
        if taken:
            self.blocks[block] = deque(item for item in held if item[0] is not chunk)
        return [self._taken(block, item) for item in taken]

    def _taken(self, block: StreamBlock, item: Held) -> Held:
        if not self.blocks.get(block, True):
            del self.blocks[block]
        return self._uncounted(item)

    def _uncounted(self, item: Held) -> Held:
        self._memory.taken -= size_of(item[1])
        return item


async def _nothing() -> None:
    return None


@dataclass(slots=True)
class StageControl:
    """The `StreamControl` of a running stage: gives its hooks the hold buffer and the deadline."""

    state: StreamState
    buffer: HoldBuffer
    deadline: HookDeadline
    rules: ResponseRules
    is_streamed: bool = True
    takes_flags: bool = False
    is_over: bool = False
    """All of the response has come."""
    event: StreamEvent | None = None
    """Event of the running delta hook."""
    passes_chunk: bool = False
    """A hook forwarded the current chunk as a whole, before its events were judged."""

    @property
    def has_text_after_calls(self) -> bool:
        return self.rules.has_text_after_calls

    @property
    def is_cut_off(self) -> bool:
        reason = self.state.finish_reason
        return self.is_over if reason is None else reason in self.rules.cut_reasons

    def keepalive(self) -> None:
        self.deadline.keepalive()

    def time_since_keepalive(self) -> float:
        return self.deadline.time_since_keepalive()

    def send(
        self, event: StreamEvent, block: StreamBlock | None = None, about: StreamBlock | None = None
    ) -> Awaitable[None]:
        return self.buffer.send(event, block, about)

    def pass_chunk(self) -> None:
        self.passes_chunk = True

    def release_latest(self, block: StreamBlock) -> Awaitable[None]:
        return _nothing() if self.event is None else self.buffer.release_event(block, self.event)

    def release_first(self, block: StreamBlock, count: int) -> Awaitable[None]:
        return self.buffer.release_first(block, count)

    def release_chunk(self, chunk: Chunk) -> Awaitable[None]:
        return self.buffer.release_chunk(chunk)

    def release(self, block: StreamBlock) -> Awaitable[None]:
        return self.buffer.release(block)

    def release_all(self) -> Awaitable[None]:
        return self.buffer.release_all()

    def drop(self, block: StreamBlock) -> None:
        self.buffer.drop(block)
