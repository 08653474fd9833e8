"""What of an answer waits for a policy's word."""

import sys
from collections import deque
from collections.abc import Iterator

from luthien_litellm_hooks.events import Chunk, Frame, StreamBlock, StreamEvent
from luthien_litellm_hooks.limits import MEMORY, size_of

Held = tuple[Chunk, StreamEvent]


class HeldEvents:
    """Events that are held, block by block in the order these began. They count in the memory of the
    process, of which all answers together may take `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._blocks: dict[StreamBlock, deque[Held]] = {}

    def __contains__(self, block: StreamBlock) -> bool:
        return bool(self._blocks.get(block))

    def __iter__(self) -> Iterator[StreamBlock]:
        return iter([block for block, held in self._blocks.items() if held])

    def __bool__(self) -> bool:
        return any(self._blocks.values())

    def of(self, block: StreamBlock) -> tuple[Held, ...]:
        """What is held of `block`, in order."""
        return tuple(self._blocks.get(block, ()))

    def first(self, block: StreamBlock) -> StreamEvent | None:
        """The oldest that is held of `block`."""
        held = self._blocks.get(block)
        return held[0][1] if held else None

    def last(self, block: StreamBlock) -> StreamEvent | None:
        """The latest that is held of `block`."""
        held = self._blocks.get(block)
        return held[-1][1] if held else None

    def add(self, chunk: Chunk, event: StreamEvent, block: StreamBlock) -> None:
        """Holds an event. Raises `LimitExceededError` where the answers of this process hold too much; a
        frame, which says nothing, always has room."""
        MEMORY.take(size_of(event), sys.maxsize if isinstance(event, Frame) else self._max_bytes)
        self._blocks.setdefault(block, deque()).append((chunk, event))

    def take_first(self, block: StreamBlock) -> Held:
        """The oldest of `block`, which is held no longer."""
        return _counted(self._blocks[block].popleft())

    def put_back(self, chunk: Chunk, event: StreamEvent, block: StreamBlock) -> None:
        """Undoes `take_first`."""
        MEMORY.taken += size_of(event)
        self._blocks[block].appendleft((chunk, event))

    def take_last(self, block: StreamBlock) -> Held:
        """The latest of `block`, which is held no longer."""
        return _counted(self._blocks[block].pop())

    def take(self, block: StreamBlock) -> list[Held]:
        """All that is held of `block`, which is held no longer."""
        return [_counted(item) for item in self._blocks.pop(block, ())]

    def take_of(self, chunk: Chunk, block: StreamBlock) -> list[Held]:
        """What is held of `block` that came in `chunk`, which is held no longer."""
        held = self._blocks.get(block, ())
        taken = [_counted(item) for item in held if item[0] is chunk]
        if taken:
            self._blocks[block] = deque(item for item in held if item[0] is not chunk)
        return taken


def _counted(item: Held) -> Held:
    MEMORY.taken -= size_of(item[1])
    return item
