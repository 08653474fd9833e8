"""What of an answer is let out and what is held, and the queue between those who do and who read.

The worker puts parcels in; the generator that LiteLLM reads takes them out.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from luthien_litellm_hooks.deadline import HookDeadline
from luthien_litellm_hooks.errors import QueueFullError, StreamClosedError
from luthien_litellm_hooks.events import Chunk, Frame, Opaque, StreamBlock, StreamEvent

MAX_ITEMS = 10_000
PUT_TIMEOUT_S = 30.0


class Parcel:
    """Events that leave together: some or all of one chunk's, or what a policy made.

    A parcel in the queue grows while the worker passes on more of the same chunk, until the reader
    takes it. So a chunk that is passed on whole leaves as the very object that came, and what a
    policy lets out before it waits never waits with it.

    A parcel with a `notice` ends the answer: which choices need it is known when it is taken. What
    a policy made is `about` a block that came, if it stands for it or was made in a hook about it.
    """

    __slots__ = ("about", "blocks", "chunk", "events", "is_taken", "notice")

    def __init__(self, chunk: Chunk | None, notice: str | None = None, about: StreamBlock | None = None) -> None:
        self.chunk = chunk
        self.notice = notice
        self.about = about
        self.events: list[StreamEvent] = []
        self.blocks: list[StreamBlock | None] = []
        self.is_taken = False

    def add(self, event: StreamEvent, block: StreamBlock | None) -> None:
        self.events.append(event)
        self.blocks.append(block)


class ParcelSink(Protocol):
    """Where an outbox puts its parcels."""

    def put_nowait(self, parcel: Parcel) -> bool:
        """Takes `parcel`, or returns False if there is no room. Raises `StreamClosedError`."""
        ...

    async def put(self, parcel: Parcel) -> None:
        """Takes `parcel` as soon as there is room."""
        ...

    def put_last(self, parcel: Parcel) -> None:
        """Takes what ends the answer, always."""
        ...

    async def let_read(self) -> None:
        """Gives the reader its turn, if there is something for it: a provider whose chunks are all
        there already would leave it none."""
        ...

    def close(self, error: BaseException | None = None) -> None:
        """Ends the stream, with the provider's own error if there was one."""
        ...


class EgressQueue:
    """The parcels that the client has not taken yet: one reader, bounded.

    It is closed once. What was in it then is still taken; then `take` returns None, or raises the
    error that it was closed with.
    """

    def __init__(self, max_items: int = MAX_ITEMS, put_timeout_s: float = PUT_TIMEOUT_S) -> None:
        self._max_items = max_items
        self._put_timeout_s = put_timeout_s
        self._parcels: deque[Parcel] = deque()
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._is_closed = False
        self._error: BaseException | None = None
        self._put_error: StreamClosedError | None = None

    def put_nowait(self, parcel: Parcel) -> bool:
        """Puts `parcel` in, or returns False if the queue is full. Raises `StreamClosedError`."""
        if self._is_closed:
            raise StreamClosedError("the stream has ended")
        if self._put_error is not None:
            raise self._put_error
        if len(self._parcels) >= self._max_items:
            return False
        self._append(parcel)
        return True

    async def put(self, parcel: Parcel) -> None:
        """Puts `parcel` in as soon as there is room. Raises `QueueFullError` if there is none in
        time, and from then on at once."""
        try:
            async with asyncio.timeout(self._put_timeout_s):
                while not self.put_nowait(parcel):
                    self._writable.clear()
                    await self._writable.wait()
        except TimeoutError:
            self._put_error = QueueFullError(f"the client read nothing for {self._put_timeout_s:g} s")
            raise self._put_error from None

    def put_last(self, parcel: Parcel) -> None:
        """Puts in what ends the answer; there is always room for it, and then for nothing else."""
        self._put_error = self._put_error or StreamClosedError("the answer was ended")
        if not self._is_closed:
            self._append(parcel)

    async def let_read(self) -> None:
        """Gives the reader its turn, if there is something to take."""
        if self._parcels:
            await asyncio.sleep(0)

    def close(self, error: BaseException | None = None) -> None:
        """Ends the stream, with the provider's own error if there was one."""
        if not self._is_closed:
            self._is_closed = True
            self._error = error
            self._readable.set()
            self._writable.set()

    async def take(self) -> Parcel | None:
        """The next parcel, or None at the end."""
        while not self._parcels:
            if self._error is not None:
                raise self._error
            if self._is_closed:
                return None
            self._readable.clear()
            await self._readable.wait()
        self._writable.set()
        return self._parcels.popleft()

    def _append(self, parcel: Parcel) -> None:
        self._parcels.append(parcel)
        self._readable.set()


class Outbox:
    """What the hooks of one answer let out, and what they hold.

    Each event from the provider is let out once, or held until it is let out or dropped. A block's
    frame follows what it frames: it leaves with the first of it, and not at all if nothing does.
    """

    def __init__(
        self, queue: ParcelSink, deadline: HookDeadline, on_drop: Callable[[StreamBlock], None] | None = None
    ) -> None:
        self._queue = queue
        self._deadline = deadline
        self._on_drop = on_drop
        self._open: Parcel | None = None
        self._held: dict[StreamBlock, list[tuple[Chunk, StreamEvent]]] = {}
        self._begun: set[StreamBlock] = set()  # of which something has left
        self._changed: set[StreamBlock] = set()  # of which something was replaced or dropped
        self.delivered: set[int] = set()
        """The choices of which something that says anything has left."""
        self.has_spoken = False
        """A policy sent something of its own since this was last set to False."""
        self.is_touched = False
        """The answer is no longer just what the provider said."""

    @property
    def holds_any(self) -> bool:
        """Whether anything is held."""
        return any(self._held.values())

    async def let_out(self, chunk: Chunk, event: StreamEvent, block: StreamBlock | None = None) -> None:
        """Lets an event out that is not held."""
        if self.is_touched and isinstance(event, Opaque) and event.repeats:
            return
        if block is not None:
            await self._begin(block)
        await self._let_out(chunk, event, block)

    async def send(
        self, event: StreamEvent, block: StreamBlock | None = None, about: StreamBlock | None = None
    ) -> None:
        """Lets an event out that a policy made; in the frame of `block`, if it stands for it."""
        self.has_spoken = self.is_touched = True
        self.delivered.add(event.choice)
        if block is not None:
            self._changed.add(block)
            await self._begin(block)
        await self._put(None, event, block, about)

    def hold(self, chunk: Chunk, event: StreamEvent, block: StreamBlock) -> None:
        """Holds an event until its block is released or dropped."""
        self._held.setdefault(block, []).append((chunk, event))

    async def let_out_detail(self, chunk: Chunk, event: StreamEvent, block: StreamBlock) -> None:
        """Lets a detail out with the rest of its block, of which it says something; a changed block
        leaves without."""
        if self._held.get(block):
            self.hold(chunk, event, block)
        elif block not in self._changed:
            await self.let_out(chunk, event, block)

    async def let_out_end(self, chunk: Chunk, event: StreamEvent, block: StreamBlock) -> None:
        """Lets the end of a block out that has begun; holds it with the rest of the block."""
        if self._held.get(block):
            self.hold(chunk, event, block)
        elif block in self._begun:
            await self.let_out(chunk, event, block)

    async def release_event(self, block: StreamBlock, event: StreamEvent) -> None:
        """Lets `event` out if it is the latest of `block` and still held."""
        held = self._held.get(block)
        if held and held[-1][1] is event:
            chunk, _ = held.pop()
            await self.let_out(chunk, event, block)

    async def release_chunk(self, chunk: Chunk) -> None:
        """Lets out what is held of `chunk`."""
        for block, held in list(self._held.items()):
            for item in [item for item in held if item[0] is chunk]:
                held.remove(item)
                await self.let_out(chunk, item[1], block)

    async def release(self, block: StreamBlock) -> None:
        """Lets out what is held of `block`, in order."""
        for chunk, event in self._held.pop(block, ()):
            await self.let_out(chunk, event, block)

    async def release_first(self, block: StreamBlock, count: int) -> None:
        """Lets out the oldest `count` pieces that are held of `block`, and the frames before and after them."""
        held = self._held.get(block, [])
        while held and (count > 0 or isinstance(held[0][1], Frame)):
            chunk, event = held.pop(0)
            count -= not isinstance(event, Frame)
            await self.let_out(chunk, event, block)

    async def release_empty(self, block: StreamBlock) -> None:
        """Lets a block out that has only a frame, so that no hook was asked about it."""
        if all(isinstance(event, Frame) for _, event in self._held.get(block, ())):
            await self.release(block)

    async def release_all(self) -> None:
        """Lets out what is held, block by block in the order they began."""
        for block in list(self._held):
            await self.release(block)

    def drop(self, block: StreamBlock) -> None:
        """Forgets what is held of `block`: it is never delivered."""
        if self._held.pop(block, None):
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
        for block in list(self._held):
            self.drop(block)

    def end_with(self, notice: str) -> None:
        """Ends the answer with `notice`; what is held is dropped."""
        self.drop_all()
        self.is_touched = True
        self._queue.put_last(Parcel(None, notice))

    def let_out_ending(self, chunk: Chunk, events: Iterable[StreamEvent]) -> None:
        """Lets out how an answer ends that was ended with a notice."""
        parcel = Parcel(chunk)
        for event in events:
            parcel.add(event, None)
        if parcel.events:
            self._queue.put_last(parcel)

    async def _begin(self, block: StreamBlock) -> None:
        self._begun.add(block)
        held = self._held.get(block)
        if held and isinstance(held[0][1], Frame) and held[0][1].role == "begin":
            chunk, event = held.pop(0)
            await self._let_out(chunk, event, block)

    async def _let_out(self, chunk: Chunk, event: StreamEvent, block: StreamBlock | None) -> None:
        if block is not None:
            self.delivered.add(block.choice)
        parcel = self._open
        if parcel is not None and parcel.chunk is chunk and not parcel.is_taken:
            parcel.add(event, block)
        else:
            await self._put(chunk, event, block)

    async def _put(
        self, chunk: Chunk | None, event: StreamEvent, block: StreamBlock | None, about: StreamBlock | None = None
    ) -> None:
        parcel = Parcel(chunk, about=about)
        parcel.add(event, block)
        if not self._queue.put_nowait(parcel):
            with self._deadline.paused():
                await self._queue.put(parcel)
        self._open = parcel
