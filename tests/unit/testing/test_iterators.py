"""Streams in the making."""

import weakref
from collections.abc import AsyncIterator

import pytest

from luthien_litellm_hooks.testing import ChunkedTextIterator, StreamingBuffer


async def everything(stream: AsyncIterator[str]) -> list[str]:
    return [item async for item in stream]


@pytest.mark.parametrize(
    ("text", "size", "slices"),
    [("", 3, []), ("ab", 3, ["ab"]), ("abc", 3, ["abc"]), ("abcdefg", 3, ["abc", "def", "g"]), ("ü→x", 1, [*"ü→x"])],
)
async def test_a_text_comes_in_slices(text: str, size: int, slices: list[str]) -> None:
    assert await everything(ChunkedTextIterator(text, size)) == slices


async def test_a_slice_has_1024_characters_unless_said_otherwise() -> None:
    assert [len(piece) for piece in await everything(ChunkedTextIterator("x" * 2050))] == [1024, 1024, 2]


@pytest.mark.parametrize("size", [0, -1])
def test_a_slice_is_not_empty(size: int) -> None:
    with pytest.raises(ValueError, match=f"chunk_size must be at least 1, not {size}"):
        ChunkedTextIterator("text", size)


async def test_a_text_that_was_read_stays_read() -> None:
    slices = ChunkedTextIterator("abc", 2)
    assert await everything(slices) == ["ab", "c"]
    assert await everything(slices) == []


class Counted:
    """A stream that counts how much was asked of it."""

    def __init__(self, text: str) -> None:
        self._items = iter(text)
        self.asked = 0

    def __aiter__(self) -> "Counted":
        return self

    async def __anext__(self) -> str:
        self.asked += 1
        for item in self._items:
            return item
        raise StopAsyncIteration


async def test_what_was_peeked_is_still_read_in_its_place() -> None:
    buffer = StreamingBuffer(Counted("abcd"))
    assert await buffer.peek() == ("a",)
    assert await buffer.peek(2) == ("a", "b")
    assert await everything(buffer) == [*"abcd"]


async def test_after_reading_the_next_items_are_peeked_and_not_the_first() -> None:
    buffer = StreamingBuffer(Counted("abcd"))
    await buffer.peek(3)
    assert await anext(buffer) == "a"
    assert await buffer.peek(2) == ("b", "c")
    assert await everything(buffer) == [*"bcd"]


async def test_peeking_past_the_end_gives_what_there_is() -> None:
    buffer = StreamingBuffer(Counted("ab"))
    assert await buffer.peek(5) == ("a", "b")
    assert await everything(buffer) == ["a", "b"]
    assert await buffer.peek() == ()


async def test_peeking_takes_no_more_than_it_shows() -> None:
    source = Counted("abcd")
    buffer = StreamingBuffer(source)
    assert await buffer.peek(0) == ()
    await buffer.peek(2)
    await buffer.peek(2)
    assert source.asked == 2


async def test_a_stream_that_has_ended_is_not_asked_again() -> None:
    source = Counted("a")
    buffer = StreamingBuffer(source)
    await everything(buffer)
    await everything(buffer)
    await buffer.peek(3)
    assert source.asked == 2


async def test_nothing_is_kept_that_was_read() -> None:
    class Item:
        pass

    async def stream() -> AsyncIterator[Item]:
        yield Item()
        yield Item()

    buffer = StreamingBuffer(stream())
    kept = [weakref.ref(item) for item in await buffer.peek(2)]
    await anext(buffer)
    assert [item() is None for item in kept] == [True, False]


async def test_what_the_stream_raises_is_raised_and_the_rest_can_still_be_read() -> None:
    async def broken() -> AsyncIterator[str]:
        yield "a"
        raise ConnectionError("gone")

    buffer = StreamingBuffer(broken())
    with pytest.raises(ConnectionError, match="gone"):
        await buffer.peek(2)
    assert await everything(buffer) == ["a"]
