"""What of an answer is let out, and what is held."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace

from luthien_litellm_hooks.deadline import HookDeadline
from luthien_litellm_hooks.egress import Parcel, ParcelSink
from luthien_litellm_hooks.events import (
    EVERY_CHOICE,
    Chunk,
    ContentStreamBlock,
    Frame,
    Opaque,
    Quote,
    StreamBlock,
    StreamEvent,
    TextDelta,
    ToolCallStreamBlock,
    from_wire,
)
from luthien_litellm_hooks.held import HeldEvents
from luthien_litellm_hooks.limits import DEFAULT_LIMITS


class Outbox:
    """What the hooks of one answer let out, and what they hold.

    Each event from the provider is let out once, or held until it is let out or dropped. A block's
    frame follows what it frames: it leaves with the first of it, and not at all if nothing does.
    """

    def __init__(
        self,
        queue: ParcelSink,
        deadline: HookDeadline,
        on_drop: Callable[[StreamBlock], None] | None = None,
        max_held_bytes: int = DEFAULT_LIMITS.max_held_bytes,
        *,
        keeps_order: bool = True,
        has_text_after_calls: bool = True,
    ) -> None:
        self._queue = queue
        self._deadline = deadline
        self._on_drop = on_drop
        self._has_text_after_calls = has_text_after_calls
        self.keeps_order = keeps_order
        """Nothing waits for its turn but what is held here."""
        self._open: Parcel | None = None
        self._held = HeldEvents(max_held_bytes)
        self._begun: set[StreamBlock] = set()  # of which something has left
        self._changed: set[StreamBlock] = set()  # of which something was replaced or dropped
        self._withheld: set[StreamBlock] = set()  # the calls whose beginning was dropped
        self._quoted: dict[StreamBlock, list[str]] = {}  # what was sent in place of quotes
        self._touched: set[int] = set()  # the choices that are no longer just what the provider said
        self.delivered: set[int] = set()
        """The choices of which something that says anything has left."""
        self.has_spoken = False
        """A policy sent something of its own since this was last set to False."""

    @property
    def is_touched(self) -> bool:
        """The response is no longer just what the provider said."""
        return bool(self._touched)

    def touch(self, choice: int) -> None:
        """Notes that `choice` is no longer just what the provider said."""
        self._touched.add(choice)

    def holds_of(self, choice: int) -> bool:
        """Whether anything of `choice` is held."""
        return any(choice in (block.choice, EVERY_CHOICE) for block in self._held)

    def is_touched_in(self, choice: int) -> bool:
        """Whether `choice`, which may be `EVERY_CHOICE`, is no longer just what the provider said."""
        return bool(self._touched if choice == EVERY_CHOICE else self._touched & {choice, EVERY_CHOICE})

    async def let_out(self, chunk: Chunk, event: StreamEvent, block: StreamBlock | None = None) -> None:
        """Lets an event out that is not held; but not the rest of a call whose beginning was dropped."""
        if isinstance(event, Quote) and isinstance(block, ContentStreamBlock) and block.is_quoted:
            self._begun.add(block)
            await self.let_out_detail(chunk, event, block.host)
            return
        if block in self._withheld:
            return
        if isinstance(event, Opaque) and event.repeats and self.is_touched_in(event.choice):
            return
        if block is not None:
            self.delivered.add(block.choice)
            if block not in self._begun:
                await self._begin_overlapping(block)
                await self._begin(block)
        parcel = self._open
        if parcel is not None and parcel.chunk is chunk and not parcel.is_taken:
            parcel.add(event, block)
        else:
            await self._put(Parcel(chunk, (event,), block, is_in_order=self.keeps_order and not self._held))

    async def send(
        self, event: StreamEvent, block: StreamBlock | None = None, about: StreamBlock | None = None
    ) -> None:
        """Lets an event out that a policy made; in the frame of `block`, if it stands for it."""
        self.has_spoken = True
        self.touch(event.choice)
        if isinstance(block, ContentStreamBlock) and block.is_quoted:
            if isinstance(event, TextDelta) and not event.is_apart:
                self._changed.add(block)
                self._quoted.setdefault(block, []).append(event.text)
                return
            block = block.host if isinstance(event, Quote) else None  # a notice is no part of what is quoted
        self.delivered.add(event.choice)
        if block is not None:
            self._changed.add(block)
            if block not in self._begun:
                await self._begin(block)
        if isinstance(event, TextDelta) and isinstance(block, ContentStreamBlock) and not event.is_apart:
            event = replace(event, channel=block.channel) if block.channel else event
        await self._put(Parcel(None, (event,), block, about=about))

    async def send_quote(self, quote: Quote, block: ContentStreamBlock) -> None:
        """Sends `quote` with the text that was sent in place of its block, if there is any or the wire needs it."""
        text = "".join(self._quoted.pop(block, ()))
        if block in self._begun and text:  # the quote has left: this is said besides
            await self.send(TextDelta(choice=block.choice, text=text, is_apart=True))
        if block in self._begun or block not in self._changed or block.host in self._changed:
            return
        if not (text or quote.is_owed):
            return
        changed = from_wire(replace(quote, text=text), quote.part)
        if block.host is not None and block.host in self._held:
            self.hold(Chunk((changed,)), changed, block.host)
        else:
            await self._put(Parcel(None, (changed,), block.host, about=block))

    def hold(self, chunk: Chunk, event: StreamEvent, block: StreamBlock) -> None:
        """Holds an event until its block is released or dropped. Raises `LimitExceededError`."""
        self._held.add(chunk, event, block)

    async def let_out_detail(self, chunk: Chunk, event: StreamEvent, block: StreamBlock | None) -> None:
        """Lets a detail out with the rest of its block, of which it says something; a changed block
        leaves without. So does the result of a server's call with the call."""
        if block is not None and block in self._held:
            end = self._held.take_last(block) if _is_end(self._held.last(block)) and not _is_begin(event) else None
            self.hold(chunk, event, block)
            if end is not None:
                self.hold(*end, block)
        elif block not in self._changed:
            await self.let_out(chunk, event, block)

    async def let_out_end(self, chunk: Chunk, event: StreamEvent, block: StreamBlock) -> None:
        """Lets the end of a block out that has begun; holds it with the rest of the block."""
        if block in self._held:
            self.hold(chunk, event, block)
        elif block in self._begun:
            await self.let_out(chunk, event, block)

    async def release_event(self, block: StreamBlock, event: StreamEvent) -> None:
        """Lets `event` out if it is the latest of `block` and still held."""
        if self._held.last(block) is event:
            chunk, _ = self._held.take_last(block)
            await self.let_out(chunk, event, block)

    async def release_chunk(self, chunk: Chunk) -> None:
        """Lets out what is held of `chunk`."""
        for block in self._held:
            for _, event in self._held.take_of(chunk, block):
                await self.let_out(chunk, event, block)

    async def release(self, block: StreamBlock) -> None:
        """Lets out what is held of `block`, in order."""
        while block in self._held:
            await self._release_next(block)

    async def release_first(self, block: StreamBlock, count: int) -> None:
        """Lets out the oldest `count` pieces that are held of `block`, and the frames before and after them."""
        while (first := self._held.first(block)) is not None and (count > 0 or _is_frame_of(block, first)):
            count -= not _is_frame_of(block, first)
            await self._release_next(block)

    async def release_empty(self, block: StreamBlock) -> None:
        """Lets a block out that has only a frame, so that no hook was asked about it."""
        if all(isinstance(event, Frame) for _, event in self._held.of(block)):
            await self.release(block)

    async def release_all(self) -> None:
        """Lets out what is held, block by block in the order they began, and each with its quotes."""
        for block in self._held:
            host = block.host if isinstance(block, ContentStreamBlock) else None
            if host is not None and host in self._held and _is_detail(self._held.first(block)):
                await self.release(block)
        for block in self._held:
            await self.release(block)

    def drop(self, block: StreamBlock) -> None:
        """Forgets what is held of `block`: it is never delivered."""
        if self._held.take(block):
            if isinstance(block, ToolCallStreamBlock) and block not in self._begun:
                self._withheld.add(block)
            self._changed.add(block)
            self.touch(block.choice)
            if self._on_drop is not None:
                self._on_drop(block)

    def drop_choice(self, choice: int) -> None:
        """Forgets everything that is held of one choice."""
        for block in [block for block in self._held if block.choice == choice]:
            self.drop(block)

    def drop_all(self) -> None:
        """Forgets everything that is held."""
        for block in self._held:
            self.drop(block)

    def end_with(self, notice: str) -> None:
        """Ends the answer with `notice`; what is held is dropped."""
        self.drop_all()
        self.touch(EVERY_CHOICE)
        self._queue.put_last(Parcel(None, notice=notice))

    def let_out_ending(self, chunk: Chunk, events: Iterable[StreamEvent]) -> None:
        """Lets out how an answer ends that was ended with a notice."""
        parcel = Parcel(chunk, events)
        if parcel.events:
            self._queue.put_last(parcel)

    async def _release_next(self, block: StreamBlock) -> None:
        chunk, event = self._held.take_first(block)
        try:
            await self.let_out(chunk, event, block)
        except asyncio.CancelledError:  # the hook did not want to wait for the client; it may try again
            self._held.put_back(chunk, event, block)
            raise

    async def _begin_overlapping(self, block: StreamBlock) -> None:
        """Begins what the provider has begun before `block` and not ended: what is said in it may come later, but on
        some wires no text may begin after a call."""
        if block.overlaps and not self._has_text_after_calls:
            for other in [held for held in self._held if held.overlaps and held.place < block.place]:
                if other not in self._begun:
                    await self._begin(other)

    async def _begin(self, block: StreamBlock) -> None:
        self._begun.add(block)
        if not _is_begin(self._held.first(block)):
            return
        await self.let_out(*self._held.take_first(block), block)
        while _is_detail(self._held.first(block)) and block not in self._changed:
            await self.let_out(*self._held.take_first(block), block)

    async def _put(self, parcel: Parcel) -> None:
        if not self._queue.put_nowait(parcel):
            with self._deadline.paused():
                await self._queue.put(parcel)
        self._open = parcel


def _is_begin(event: StreamEvent | None) -> bool:
    return isinstance(event, Frame) and event.role == "begin"


def _is_detail(event: StreamEvent | None) -> bool:
    return isinstance(event, Frame) and event.role == "detail"


def _is_end(event: StreamEvent | None) -> bool:
    return isinstance(event, Frame) and event.role == "end"


def _is_frame_of(block: StreamBlock, event: StreamEvent) -> bool:
    """Whether `event` frames `block`, rather than being what it says."""
    is_quote = isinstance(block, ContentStreamBlock) and block.is_quoted
    return isinstance(event, Frame) and not is_quote
