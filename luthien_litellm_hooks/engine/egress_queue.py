"""Queue from a stage's worker to its reader (LiteLLM or the next stage), and the memory of waiting events."""

import asyncio
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

from luthien_litellm_hooks.errors import LimitExceededError, QueueFullError, StreamClosedError
from luthien_litellm_hooks.policy.limits import DEFAULT_LIMITS
from luthien_litellm_hooks.wire.events import Chunk, StreamBlock, StreamEvent, text_of

READER_TURNS = 5
"""Turns of the event loop for the reader, before the worker reads more from a provider with all chunks
ready. LiteLLM and the server need a few for each item, and work on the next one delays it."""
FIRST_TURNS = 20
"""Turns with the first item, when the server begins its response; a stock proxy needs 9."""
MAX_AHEAD = 16
"""Bound of the items waiting for the reader while such a provider is read, and of the items encoded in a row.
Work done many times in a row takes a third of the time."""
EAGER_READS = 8
"""Reads at the start of a response with turns for the reader after each: users wait for the first words."""
MAX_WAIT_S = 0.001
"""Longest wait of an item for the next stage. Without a turn after each item, a stage takes many at once."""
MAX_ITEMS = 10_000
PUT_TIMEOUT_S = 30.0
EVENT_BYTES = 4096
"""Upper bound of an event's size in memory beside its text. The largest unit is the chunk of chat completions:
tracemalloc shows 3.7 KB with its event."""


class MemoryBudget:
    """Count of the bytes of waiting events."""

    def __init__(self) -> None:
        self.taken = 0

    def take(self, size: int, limit: int) -> None:
        """Takes `size` bytes. Raises `LimitExceededError` if the total would exceed `limit`."""
        if self.taken + size > limit:
            raise LimitExceededError(f"answers hold {self.taken + size} bytes (limits.max_held_bytes: {limit})")
        self.taken += size


MEMORY = MemoryBudget()
"""Memory of this process: its responses share it, however many executors it has."""
MEMORY_APART = MemoryBudget()
"""The same for rehearsals: an observing policy takes no room from a response."""


def size_of(event: StreamEvent) -> int:
    """Returns the bytes of memory of a waiting event, rounded up."""
    return EVENT_BYTES + sys.getsizeof(text_of(event))


class EgressItem:
    """Events that leave together: events of one chunk, or a policy's own.

    An item in the queue grows while the worker forwards more of the same chunk, until the reader
    takes it. So a chunk forwarded whole leaves as the very object that came, and events
    forwarded before a policy waits never wait with it.

    An item with a `notice` ends the response; its choices are known when the reader takes it. A policy's own events
    are `about` a block if they replace it, or if a hook about it sent them. An item `is_in_order` if no earlier
    event was held when it was put in.

    The item of a `run` has several chunks, with one delta of the same block each; its `chunk` is the first.
    """

    __slots__ = ("about", "blocks", "chunk", "events", "is_in_order", "is_taken", "notice", "run", "size")

    def __init__(
        self,
        chunk: Chunk | None,
        events: Iterable[StreamEvent] = (),
        block: StreamBlock | None = None,
        *,
        notice: str | None = None,
        about: StreamBlock | None = None,
        is_in_order: bool = False,
    ) -> None:
        self.chunk = chunk
        self.events = [*events]
        self.blocks = [block] * len(self.events)
        self.notice = notice
        self.about = about
        self.is_in_order = is_in_order
        self.is_taken = False
        self.run: Sequence[Chunk] = ()
        self.size = 0
        """Bytes of memory for the item while it is in a queue."""

    @classmethod
    def of_run(
        cls, run: Sequence[Chunk], pieces: Sequence[str], block: StreamBlock, *, is_in_order: bool
    ) -> "EgressItem":
        """Returns the item of a run with these pieces; nothing is added to it."""
        item = cls(run[0], [chunk.events[0] for chunk in run], is_in_order=is_in_order)
        item.run, item.blocks = run, [block] * len(run)
        item.size = EVENT_BYTES * len(run) + sum(map(sys.getsizeof, pieces))
        return item

    def apart(self) -> "list[EgressItem]":
        """Returns an item for each chunk of the run."""
        return [EgressItem(chunk, chunk.events, self.blocks[0], is_in_order=self.is_in_order) for chunk in self.run]

    def add(self, event: StreamEvent, block: StreamBlock | None) -> None:
        self.events.append(event)
        self.blocks.append(block)


class EgressSink(Protocol):
    """Destination of a hold buffer's items."""

    def put_nowait(self, item: EgressItem) -> bool:
        """Takes `item`, or returns False without room for it. Raises `StreamClosedError`."""
        ...

    async def put(self, item: EgressItem) -> None:
        """Takes `item` as soon as there is room."""
        ...

    def put_last(self, item: EgressItem) -> None:
        """Takes the end of the response, always."""
        ...

    async def yield_to_reader(self) -> None:
        """Gives the reader time, if the provider's chunks are all there already."""
        ...

    def close(self, error: BaseException | None = None) -> None:
        """Ends the stream, with the provider's own error if there was one."""
        ...


class EgressQueue:
    """Items for one reader, until it takes them.

    The queue is bounded by the number of items and, beyond the first, by the memory of all responses.
    `put_timeout_s` is None where the reader is another stage with deadlines of its own.

    The queue is closed once. The reader still takes the items left in it; then `get` returns None, or raises
    the error of `close`.
    """

    def __init__(
        self,
        max_items: int = MAX_ITEMS,
        put_timeout_s: float | None = PUT_TIMEOUT_S,
        max_held_bytes: int = DEFAULT_LIMITS.max_held_bytes,
        memory: MemoryBudget = MEMORY,
    ) -> None:
        self._max_items = max_items
        self._put_timeout_s = put_timeout_s
        self._feeds_stage = put_timeout_s is None
        self._max_held_bytes = max_held_bytes
        self._memory = memory
        self._items: deque[EgressItem] = deque()
        self._reader: asyncio.Future[None] | None = None  # waits for an item
        self._wakes_at = 0.0  # the reader, if no item has come by then
        self._alarm: asyncio.TimerHandle | None = None
        self._writers: list[asyncio.Future[None]] = []  # wait for room: the worker, and tasks of a policy
        self._eager = EAGER_READS
        self._turn: asyncio.Handle | None = None  # pending while the loop has not gone round since the last turns
        self._is_closed = False
        self._error: BaseException | None = None
        self._put_error: StreamClosedError | None = None
        self._waits_since = 0.0  # the first item in the queue

    def put_nowait(self, item: EgressItem) -> bool:
        """Puts `item` in, or returns False if the queue is full. Raises `StreamClosedError`."""
        if self._is_closed:
            raise StreamClosedError("the stream has ended")
        if self._put_error is not None:
            raise self._put_error
        if self._items and (len(self._items) >= self._max_items or self._memory.taken > self._max_held_bytes):
            return False
        self._append(item)
        return True

    async def put(self, item: EgressItem) -> None:
        """Puts `item` in as soon as there is room.

        Raises `QueueFullError` if there is none in time, and from then on at once. Waiting items are then
        discarded.
        """
        try:
            async with asyncio.timeout(self._put_timeout_s):
                while not self.put_nowait(item):
                    self._writers.append(room := asyncio.get_running_loop().create_future())
                    await room
        except TimeoutError:
            self._put_error = QueueFullError(f"the client read nothing for {self._put_timeout_s} s")
            self._empty()
            raise self._put_error from None

    def put_last(self, item: EgressItem) -> None:
        """Puts in the end of the response. It always has room, and only its continuation may follow."""
        self._put_error = self._put_error or StreamClosedError("the answer was ended")
        if not self._is_closed:
            self._append(item)

    async def yield_to_reader(self) -> None:
        """Gives the reader time to deliver the waiting items.

        The reader gets it at once with the first chunks of a response and after each wait for the provider,
        and every few chunks if the provider had them ready. A waiting reader needs none. Another stage as reader needs
        one turn for all items.
        """
        if self._feeds_stage:
            is_late = len(self._items) >= MAX_AHEAD or time.monotonic() - self._waits_since > MAX_WAIT_S
            if self._items and is_late:
                await asyncio.sleep(0)
            return
        had_to_wait = self._turn is None
        turns = FIRST_TURNS if self._eager == EAGER_READS else READER_TURNS
        if self._eager > 0:
            self._eager -= 1
        elif not had_to_wait and len(self._items) < MAX_AHEAD:
            return
        for _ in range(turns):
            if not self._items and self._reader is not None and not self._reader.done():
                break
            await asyncio.sleep(0)
        if self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._note_turn)

    def _note_turn(self) -> None:
        self._turn = None

    def close(self, error: BaseException | None = None) -> None:
        """Ends the stream, with the provider's own error if there was one."""
        if not self._is_closed:
            self._is_closed = True
            self._error = error
            if self._alarm is not None:
                self._alarm.cancel()
            self._wake_reader()
            self._wake_writers()

    async def is_ready(self, within_s: float) -> bool:
        """Waits until `get` returns at once, for `within_s` seconds at most. Returns False if it still would wait.

        A timer wakes the reader: no task, and nothing that a reader's `yield` could interrupt. One timer serves
        many waits, because nearly all of them are short.
        """
        if self._items or self._is_closed:
            return True
        loop = asyncio.get_running_loop()
        self._reader = loop.create_future()
        self._wakes_at = loop.time() + within_s
        if self._alarm is None:
            self._alarm = loop.call_at(self._wakes_at, self._ring)
        await self._reader
        return bool(self._items) or self._is_closed

    def _ring(self) -> None:
        loop = asyncio.get_running_loop()
        is_early = loop.time() < self._wakes_at
        self._alarm = loop.call_at(self._wakes_at, self._ring) if is_early else None
        if not is_early:
            self._wake_reader()

    async def get(self) -> EgressItem | None:
        """Returns the next item, or None at the end."""
        while not self._items:
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

    def get_now(self) -> EgressItem | None:
        """Returns the next item, or None if the reader has to wait."""
        return self._pop() if self._items else None

    def discard(self) -> None:
        """Ends the stream and discards the waiting items: the reader has left."""
        self.close()
        self._empty()

    def _empty(self) -> None:
        while self._items:
            self._pop()

    def _pop(self) -> EgressItem:
        item = self._items.popleft()
        self._memory.taken -= item.size
        if self._writers:
            self._wake_writers()
        return item

    def _append(self, item: EgressItem) -> None:
        item.size = item.size or sum(map(size_of, item.events))
        self._memory.taken += item.size
        if self._feeds_stage and not self._items:
            self._waits_since = time.monotonic()
        self._items.append(item)
        if self._reader is not None:
            self._wake_reader()

    def _wake_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)

    def _wake_writers(self) -> None:
        writers, self._writers = self._writers, []
        for room in writers:
            if not room.done():
                room.set_result(None)
