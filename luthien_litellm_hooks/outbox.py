"""What of an answer is let out, and what is held."""

import asyncio
from collections.abc import Callable, Iterable

from luthien_litellm_hooks.deadline import HookDeadline
from luthien_litellm_hooks.egress import Parcel, ParcelSink
from luthien_litellm_hooks.events import Chunk, Frame, Opaque, StreamBlock, StreamEvent, ToolCallStreamBlock
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
    ) -> None:
        self._queue = queue
        self._deadline = deadline
        self._on_drop = on_drop
        self._open: Parcel | None = None
        self._held = HeldEvents(max_held_bytes)
        self._begun: set[StreamBlock] = set()  # of which something has left
        self._changed: set[StreamBlock] = set()  # of which something was replaced or dropped
        self._withheld: set[StreamBlock] = set()  # the calls whose beginning was dropped
        self.delivered: set[int] = set()
        """The choices of which something that says anything has left."""
        self.has_spoken = False
        """A policy sent something of its own since this was last set to False."""
        self.is_touched = False
        """The answer is no longer just what the provider said."""

    @property
    def holds_any(self) -> bool:
        """Whether anything is held."""
        return bool(self._held)

    def holds_of(self, choice: int) -> bool:
        """Whether anything of `choice` is held."""
        return any(block.choice == choice for block in self._held)

    async def let_out(self, chunk: Chunk, event: StreamEvent, block: StreamBlock | None = None) -> None:
        """Lets an event out that is not held; but not the rest of a call whose beginning was dropped."""
        if block in self._withheld or (self.is_touched and isinstance(event, Opaque) and event.repeats):
            return
        if block is not None:
            self.delivered.add(block.choice)
            if block not in self._begun:
                await self._begin(block)
        parcel = self._open
        if parcel is not None and parcel.chunk is chunk and not parcel.is_taken:
            parcel.add(event, block)
        else:
            await self._put(Parcel(chunk, (event,), block))

    async def send(
        self, event: StreamEvent, block: StreamBlock | None = None, about: StreamBlock | None = None
    ) -> None:
        """Lets an event out that a policy made; in the frame of `block`, if it stands for it."""
        self.has_spoken = self.is_touched = True
        self.delivered.add(event.choice)
        if block is not None:
            self._changed.add(block)
            if block not in self._begun:
                await self._begin(block)
        await self._put(Parcel(None, (event,), block, about=about))

    def hold(self, chunk: Chunk, event: StreamEvent, block: StreamBlock) -> None:
        """Holds an event until its block is released or dropped. Raises `LimitExceededError`."""
        self._held.add(chunk, event, block)

    async def let_out_detail(self, chunk: Chunk, event: StreamEvent, block: StreamBlock) -> None:
        """Lets a detail out with the rest of its block, of which it says something; a changed block
        leaves without."""
        if block in self._held:
            self.hold(chunk, event, block)
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
        while block in self._held and (count > 0 or isinstance(self._held.first(block), Frame)):
            count -= not isinstance(self._held.first(block), Frame)
            await self._release_next(block)

    async def release_empty(self, block: StreamBlock) -> None:
        """Lets a block out that has only a frame, so that no hook was asked about it."""
        if all(isinstance(event, Frame) for _, event in self._held.of(block)):
            await self.release(block)

    async def release_all(self) -> None:
        """Lets out what is held, block by block in the order they began."""
        for block in self._held:
            await self.release(block)

    def drop(self, block: StreamBlock) -> None:
        """Forgets what is held of `block`: it is never delivered."""
        if self._held.take(block):
            if isinstance(block, ToolCallStreamBlock) and block not in self._begun:
                self._withheld.add(block)
            self._changed.add(block)
            self.is_touched = True
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
        self.is_touched = True
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

    async def _begin(self, block: StreamBlock) -> None:
        self._begun.add(block)
        first = self._held.first(block)
        if isinstance(first, Frame) and first.role == "begin":
            chunk, event = self._held.take_first(block)
            await self.let_out(chunk, event, block)

    async def _put(self, parcel: Parcel) -> None:
        if not self._queue.put_nowait(parcel):
            with self._deadline.paused():
                await self._queue.put(parcel)
        self._open = parcel
