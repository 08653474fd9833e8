"""The way out of one answer: what is let out, what is held, and the order that a client can read.

The worker puts parcels in, the generator that LiteLLM reads takes them out and encodes them.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace

from luthien_litellm_hooks.adapters.base import Adapter
from luthien_litellm_hooks.deadline import HookDeadline
from luthien_litellm_hooks.errors import QueueFullError, StreamClosedError
from luthien_litellm_hooks.events import (
    Chunk,
    Finish,
    Opaque,
    Start,
    StreamBlock,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    ToolCallStreamBlock,
    Usage,
    from_wire,
)

MAX_ITEMS = 10_000
PUT_TIMEOUT_S = 30.0


class Parcel:
    """Events that leave together: some or all of one chunk's, or what a policy made.

    A parcel in the queue grows while the worker passes on more of the same chunk, until the reader
    takes it. So a chunk that is passed on whole leaves as the very object that came, and what a
    policy lets out before it waits never waits with it.

    A parcel with a `notice` ends the answer: which choices need it is known when it is taken.
    """

    __slots__ = ("blocks", "chunk", "events", "is_taken", "notice")

    def __init__(self, chunk: Chunk | None, notice: str | None = None) -> None:
        self.chunk = chunk
        self.notice = notice
        self.events: list[StreamEvent] = []
        self.blocks: list[StreamBlock | None] = []
        self.is_taken = False

    def add(self, event: StreamEvent, block: StreamBlock | None) -> None:
        self.events.append(event)
        self.blocks.append(block)


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

    Each event from the provider is let out once, or held until it is let out or dropped.
    """

    def __init__(self, queue: EgressQueue, deadline: HookDeadline) -> None:
        self._queue = queue
        self._deadline = deadline
        self._open: Parcel | None = None
        self._held: dict[StreamBlock, list[tuple[Chunk, StreamEvent]]] = {}
        self.has_spoken = False
        """A policy sent something of its own since this was last set to False."""
        self.is_touched = False
        """The answer is no longer just what the provider said."""

    async def let_out(self, chunk: Chunk, event: StreamEvent, block: StreamBlock | None = None) -> None:
        """Lets an event out that is not held."""
        parcel = self._open
        if parcel is not None and parcel.chunk is chunk and not parcel.is_taken:
            parcel.add(event, block)
        else:
            await self._put(chunk, event, block)

    async def send(self, event: StreamEvent) -> None:
        """Lets an event out that a policy made."""
        self.has_spoken = self.is_touched = True
        await self._put(None, event, None)

    def hold(self, chunk: Chunk, event: StreamEvent, block: StreamBlock) -> None:
        """Holds an event until its block is released or dropped."""
        self._held.setdefault(block, []).append((chunk, event))

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

    async def release_all(self) -> None:
        """Lets out what is held, block by block in the order they began."""
        for block in list(self._held):
            await self.release(block)

    def drop(self, block: StreamBlock) -> None:
        """Forgets what is held of `block`: it is never delivered."""
        if self._held.pop(block, None):
            self.is_touched = True

    def drop_all(self) -> None:
        """Forgets everything that is held."""
        for block in list(self._held):
            self.drop(block)

    def end_with(self, notice: str) -> None:
        """Ends the answer with `notice`; what is held is dropped."""
        self.drop_all()
        self.is_touched = True
        self._queue.put_last(Parcel(None, notice))

    def let_out_after_end(self, chunk: Chunk, event: Usage) -> None:
        """Lets the provider's token counts out, though the answer was ended."""
        parcel = Parcel(chunk)
        parcel.add(event, None)
        self._queue.put_last(parcel)

    async def _put(self, chunk: Chunk | None, event: StreamEvent, block: StreamBlock | None) -> None:
        parcel = Parcel(chunk)
        parcel.add(event, block)
        if not self._queue.put_nowait(parcel):
            with self._deadline.paused():
                await self._queue.put(parcel)
        self._open = parcel


class _ChoiceOut:
    """What of one choice has left."""

    __slots__ = ("calls", "finish_reason", "has_made_call", "has_started", "has_text", "numbers")

    def __init__(self) -> None:
        self.numbers: dict[StreamBlock, int] = {}
        self.calls = 0
        self.has_started = False
        self.has_made_call = False
        self.has_text = False
        self.finish_reason: str | None = None


class WayOut:
    """Keeps the order that every client can read, whatever the policy does.

    A choice starts before anything of it leaves; tool calls are numbered without gaps, and each
    begins with its id and name; one finish ends a choice, its reason fits what was delivered, and
    nothing but token counts follows it.
    """

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._choices: dict[int, _ChoiceOut] = {}

    def encode(self, parcel: Parcel) -> Iterable[object]:
        """The items of the client's stream for `parcel`, which is closed by this."""
        started = {number for number, choice in self._choices.items() if choice.has_started}
        events = self.admit(parcel)
        if parcel.chunk is not None and is_whole(parcel.chunk, events):
            return (parcel.chunk.raw,)
        # Some providers start a choice again with each chunk, which only a whole chunk may repeat.
        events = [event for event in events if not (isinstance(event, Start) and event.choice in started)]
        return self._adapter.encode(events, parcel.chunk) if events else ()

    def admit(self, parcel: Parcel) -> list[StreamEvent]:
        """The events of `parcel` as they may leave; the same objects where nothing had to change."""
        parcel.is_taken = True
        if parcel.notice is not None:
            for event in self._notice(parcel.notice):
                parcel.add(event, None)
        return [
            admitted
            for event, block in zip(parcel.events, parcel.blocks, strict=True)
            for admitted in self._legal(event, block)
        ]

    def finish(self) -> list[StreamEvent]:
        """The finishes that are still owed to the client; it gets one even if nothing else left."""
        unfinished = self._unfinished() if self._choices else [0]
        return [
            Finish(choice=number, reason=self._adapter.tool_reasons[0] if choice.calls else self._adapter.stop_reason)
            for number in unfinished
            for choice in [self._choice(number)]
        ]

    def _notice(self, text: str) -> Iterator[StreamEvent]:
        for number in self._unfinished() or [0]:
            before = "\n\n" if self._choice(number).has_text else ""
            yield TextDelta(choice=number, text=before + text)
            yield Finish(choice=number, reason=self._adapter.stop_reason)

    def _unfinished(self) -> list[int]:
        return [number for number, choice in self._choices.items() if choice.finish_reason is None]

    def _choice(self, number: int) -> _ChoiceOut:
        found = self._choices.get(number)
        if found is None:
            found = self._choices[number] = _ChoiceOut()
        return found

    def _legal(self, event: StreamEvent, block: StreamBlock | None) -> Iterator[StreamEvent]:
        if isinstance(event, Usage):
            yield event
            return
        choice = self._choice(event.choice)
        is_start = isinstance(event, Start)
        if not choice.has_started and event.part is None and not is_start:
            yield Start(choice=event.choice)
        choice.has_started = True
        admitted = self._content(choice, event, block)
        if admitted is not None:
            yield admitted

    def _content(self, choice: _ChoiceOut, event: StreamEvent, block: StreamBlock | None) -> StreamEvent | None:
        if isinstance(event, Start | Opaque):
            return event
        if isinstance(event, Finish):
            return self._finish(choice, event)
        if choice.finish_reason is not None:
            return None
        if isinstance(event, ToolCallDelta):
            return self._call(choice, event, block)
        choice.has_text = choice.has_text or isinstance(event, TextDelta)
        return event

    def _finish(self, choice: _ChoiceOut, event: Finish) -> Finish | None:
        reason = event.reason
        if reason in self._adapter.tool_reasons and not choice.calls:
            reason = self._adapter.stop_reason
        elif reason == self._adapter.stop_reason and choice.has_made_call:
            reason = self._adapter.tool_reasons[0]
        if choice.finish_reason not in (None, reason):
            return None  # some providers repeat themselves, which is harmless; but not contradict
        choice.finish_reason = reason
        return event if reason == event.reason else from_wire(replace(event, reason=reason), event.part)

    def _call(self, choice: _ChoiceOut, event: ToolCallDelta, block: StreamBlock | None) -> ToolCallDelta:
        number = choice.numbers.get(block) if block is not None else None
        if number is None:
            number, choice.calls = choice.calls, choice.calls + 1
            if isinstance(block, ToolCallStreamBlock):
                choice.numbers[block] = number
                event = _with_head(event, block)
            else:
                choice.has_made_call = True
        if event.index == number or event.form == "legacy_function":
            return event
        return from_wire(replace(event, index=number), event.part)


def _with_head(event: ToolCallDelta, block: ToolCallStreamBlock) -> ToolCallDelta:
    """The first piece of a call to leave, with the call's id and name."""
    if event.name:
        return event
    return from_wire(replace(event, id=block.id, name=block.name), event.part)


def is_whole(chunk: Chunk, events: list[StreamEvent]) -> bool:
    """Whether `events` are just what `chunk` said."""
    return len(events) == len(chunk.events) and all(
        left is came for left, came in zip(events, chunk.events, strict=True)
    )
