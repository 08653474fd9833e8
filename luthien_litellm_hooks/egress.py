"""What of an answer is let out and what is held, and the queue between those who do and who read.

The worker puts parcels in; the generator that LiteLLM reads takes them out.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from luthien_litellm_hooks.deadline import HookDeadline
from luthien_litellm_hooks.errors import QueueFullError, StreamClosedError
from luthien_litellm_hooks.events import Chunk, Frame, Opaque, StreamBlock, StreamEvent, ToolCallStreamBlock
from luthien_litellm_hooks.held import HeldEvents
from luthien_litellm_hooks.limits import DEFAULT_LIMITS, MEMORY, size_of

UNREAD_PARCELS = 1
"""How many parcels may wait for a reader that was given no turn since: a provider whose chunks are all there
already gives it none."""
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

    __slots__ = ("about", "blocks", "chunk", "events", "is_taken", "notice", "size")

    def __init__(self, chunk: Chunk | None, notice: str | None = None, about: StreamBlock | None = None) -> None:
        self.chunk = chunk
        self.notice = notice
        self.about = about
        self.events: list[StreamEvent] = []
        self.blocks: list[StreamBlock | None] = []
        self.is_taken = False
        self.size = 0
        """What it counts for in the memory of the process while it is in a queue."""

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
    """The parcels that the client has not taken yet: one reader, bounded by their number and, beyond
    the first, by the memory that answers may take in all. `put_timeout_s` is None where the reader is
    another engine, which has deadlines of its own.

    It is closed once. What was in it then is still taken; then `take` returns None, or raises the
    error that it was closed with.
    """

    def __init__(
        self,
        max_items: int = MAX_ITEMS,
        put_timeout_s: float | None = PUT_TIMEOUT_S,
        max_held_bytes: int = DEFAULT_LIMITS.max_held_bytes,
    ) -> None:
        self._max_items = max_items
        self._put_timeout_s = put_timeout_s
        self._max_held_bytes = max_held_bytes
        self._parcels: deque[Parcel] = deque()
        self._reader: asyncio.Future[None] | None = None  # who waits for a parcel
        self._writers: list[asyncio.Future[None]] = []  # who wait for room: the worker, and tasks of a policy
        self._is_closed = False
        self._error: BaseException | None = None
        self._put_error: StreamClosedError | None = None

    def put_nowait(self, parcel: Parcel) -> bool:
        """Puts `parcel` in, or returns False if the queue is full. Raises `StreamClosedError`."""
        if self._is_closed:
            raise StreamClosedError("the stream has ended")
        if self._put_error is not None:
            raise self._put_error
        if self._parcels and (len(self._parcels) >= self._max_items or MEMORY.taken > self._max_held_bytes):
            return False
        self._append(parcel)
        return True

    async def put(self, parcel: Parcel) -> None:
        """Puts `parcel` in as soon as there is room. Raises `QueueFullError` if there is none in
        time, and from then on at once; what the client had not taken by then it never gets."""
        try:
            async with asyncio.timeout(self._put_timeout_s):
                while not self.put_nowait(parcel):
                    self._writers.append(room := asyncio.get_running_loop().create_future())
                    await room
        except TimeoutError:
            self._put_error = QueueFullError(f"the client read nothing for {self._put_timeout_s} s")
            self._forget()
            raise self._put_error from None

    def put_last(self, parcel: Parcel) -> None:
        """Puts in what ends the answer; there is always room for it, and then for nothing else."""
        self._put_error = self._put_error or StreamClosedError("the answer was ended")
        if not self._is_closed:
            self._append(parcel)

    async def let_read(self) -> None:
        """Gives the reader its turn, if it has had none for some parcels."""
        if len(self._parcels) > UNREAD_PARCELS:
            await asyncio.sleep(0)

    def close(self, error: BaseException | None = None) -> None:
        """Ends the stream, with the provider's own error if there was one."""
        if not self._is_closed:
            self._is_closed = True
            self._error = error
            self._wake_reader()
            self._wake_writers()

    async def take(self) -> Parcel | None:
        """The next parcel, or None at the end."""
        while not self._parcels:
            error, self._error = self._error, None
            if error is not None:
                try:
                    raise error
                finally:
                    del error  # its traceback holds this frame
            if self._is_closed:
                return None
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        return self._pop()

    def take_now(self) -> Parcel | None:
        """The next parcel, if there is one already."""
        return self._pop() if self._parcels else None

    def abandon(self) -> None:
        """Ends the stream for good: nobody will take what is left."""
        self.close()
        self._forget()

    def _forget(self) -> None:
        while self._parcels:
            self._pop()

    def _pop(self) -> Parcel:
        parcel = self._parcels.popleft()
        MEMORY.taken -= parcel.size
        self._wake_writers()
        return parcel

    def _append(self, parcel: Parcel) -> None:
        for event in parcel.events:
            parcel.size += size_of(event)
        MEMORY.taken += parcel.size
        self._parcels.append(parcel)
        self._wake_reader()

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _wake_writers(self) -> None:
        if self._writers:
            writers, self._writers = self._writers, []
            for room in writers:
                if not room.done():
                    room.set_result(None)


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
            await self._put(chunk, event, block)

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
        await self._put(None, event, block, about)

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
        self._queue.put_last(Parcel(None, notice))

    def let_out_ending(self, chunk: Chunk, events: Iterable[StreamEvent]) -> None:
        """Lets out how an answer ends that was ended with a notice."""
        parcel = Parcel(chunk)
        for event in events:
            parcel.add(event, None)
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

    async def _put(
        self, chunk: Chunk | None, event: StreamEvent, block: StreamBlock | None, about: StreamBlock | None = None
    ) -> None:
        parcel = Parcel(chunk, about=about)
        parcel.add(event, block)
        if not self._queue.put_nowait(parcel):
            with self._deadline.paused():
                await self._queue.put(parcel)
        self._open = parcel
