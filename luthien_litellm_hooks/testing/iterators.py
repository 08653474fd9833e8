"""Streams in the making: a text in slices, and a stream that can be looked into before it is read."""

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator
from typing import Generic, TypeVar

T = TypeVar("T")


class ChunkedTextIterator(AsyncIterator[str]):
    """`text` in slices of `chunk_size` characters; the last one may be shorter."""

    def __init__(self, text: str, chunk_size: int = 1024) -> None:
        if chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, not {chunk_size}")
        self._starts = iter(range(0, len(text), chunk_size))
        self._text = text
        self._chunk_size = chunk_size

    async def __anext__(self) -> str:
        for start in self._starts:
            return self._text[start : start + self._chunk_size]
        raise StopAsyncIteration


class StreamingBuffer(AsyncIterator[T], Generic[T]):
    """A stream of which the next items can be seen before they are read.

    It keeps what was seen and not yet read, and nothing else.
    """

    def __init__(self, stream: AsyncIterable[T]) -> None:
        self._items = aiter(stream)
        self._seen: deque[T] = deque()
        self._is_over = False

    async def peek(self, n: int = 1) -> tuple[T, ...]:
        """The next `n` items, which stay to be read; fewer where the stream ends."""
        while len(self._seen) < n and not self._is_over:
            try:
                self._seen.append(await anext(self._items))
            except StopAsyncIteration:
                self._is_over = True
        return tuple(self._seen)[:n]

    async def __anext__(self) -> T:
        if not await self.peek():
            raise StopAsyncIteration
        return self._seen.popleft()
