"""The queue between the worker, which puts in what is let out of an answer, and the generator that LiteLLM reads."""

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Protocol

from luthien_litellm_hooks.errors import QueueFullError, StreamClosedError
from luthien_litellm_hooks.events import Chunk, StreamBlock, StreamEvent
from luthien_litellm_hooks.limits import DEFAULT_LIMITS, MEMORY, size_of

READER_TURNS = 5
"""How many turns of the event loop a reader gets to deliver what there is, before more is read of a provider whose
chunks are all there already: LiteLLM and the server need a few for each item, and work on the next one delays it."""
FIRST_TURNS = 20
"""How many it gets with the first item, with which the server begins its response; in a stock proxy that takes 9."""
MAX_AHEAD = 16
"""How many parcels may wait for their reader while more is read of such a provider, and how many are encoded in a row:
what a process does many times in a row takes a third of the time."""
EAGER_READS = 8
"""How often a reader gets those turns with each thing that was read: the first words of an answer are waited for."""
MAX_ITEMS = 10_000
PUT_TIMEOUT_S = 30.0


class Parcel:
    """Events that leave together: some or all of one chunk's, or what a policy made.

    A parcel in the queue grows while the worker passes on more of the same chunk, until the reader
    takes it. So a chunk that is passed on whole leaves as the very object that came, and what a
    policy lets out before it waits never waits with it.

    A parcel with a `notice` ends the answer: which choices need it is known when it is taken. What
    a policy made is `about` a block that came, if it stands for it or was made in a hook about it.
    One that `is_in_order` left when nothing that came before it was held.
    """

    __slots__ = ("about", "blocks", "chunk", "events", "is_in_order", "is_taken", "notice", "size")

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
        """Gives the reader time: a provider whose chunks are all there already would leave it none."""
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
        self._eager = EAGER_READS
        self._turn: asyncio.Handle | None = None  # pending while the loop has not gone round since the last turns
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
        """Gives the reader time to deliver what there is: at once with the first chunks of an answer, and with what
        had to be waited for; a few chunks at a time with what a provider had ready. A reader that is back for
        more needs none."""
        had_to_wait = self._turn is None
        turns = FIRST_TURNS if self._eager == EAGER_READS else READER_TURNS
        if self._eager > 0:
            self._eager -= 1
        elif not had_to_wait and len(self._parcels) < MAX_AHEAD:
            return
        for _ in range(turns):
            if self._is_reader_waiting:
                break
            await asyncio.sleep(0)
        if self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._note_turn)

    def _note_turn(self) -> None:
        self._turn = None

    @property
    def _is_reader_waiting(self) -> bool:
        return not self._parcels and self._reader is not None and not self._reader.done()

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
        parcel.size = sum(map(size_of, parcel.events))
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
