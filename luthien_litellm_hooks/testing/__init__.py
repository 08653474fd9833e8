"""Tools for tests and demos: a policy run without a proxy, and a scripted provider that needs no key and no network.

Most names are imported on first use: `run_policy` imports LiteLLM on the routes `chat`, `completions`, `responses` and
`gemini`, the others do not.
"""

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from luthien_litellm_hooks.testing.answers import Answer as ScriptedAnswer
    from luthien_litellm_hooks.testing.answers import Call, Cut, Gate, Say, Think, Wait
    from luthien_litellm_hooks.testing.provider import ScriptedProvider, serve
    from luthien_litellm_hooks.testing.run import Outcome, run_policy

__all__ = [
    "Call",
    "ChunkedTextIterator",
    "Cut",
    "Gate",
    "Outcome",
    "Say",
    "ScriptedAnswer",
    "ScriptedProvider",
    "StreamingBuffer",
    "Think",
    "Wait",
    "run_policy",
    "serve",
]

_HOMES: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("Call", "Cut", "Gate", "Say", "Think", "Wait"), "answers"),
        **dict.fromkeys(("Outcome", "run_policy"), "run"),
        "ScriptedAnswer": "answers:Answer",
        "ScriptedProvider": "provider",
        "serve": "provider",
    }
)


_T = TypeVar("_T")


class ChunkedTextIterator(AsyncIterator[str]):
    """Iterator over `text` in slices of `chunk_size` characters; the last one may be shorter."""

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


class StreamingBuffer(AsyncIterator[_T], Generic[_T]):
    """Stream with a look ahead. It buffers only the items that were peeked at and not yet read."""

    def __init__(self, stream: AsyncIterable[_T]) -> None:
        self._items = aiter(stream)
        self._seen: deque[_T] = deque()
        self._is_over = False

    async def peek(self, n: int = 1) -> tuple[_T, ...]:
        """Returns the next `n` items without consuming them; fewer at the end of the stream."""
        while len(self._seen) < n and not self._is_over:
            try:
                self._seen.append(await anext(self._items))
            except StopAsyncIteration:
                self._is_over = True
        return tuple(self._seen)[:n]

    async def __anext__(self) -> _T:
        if not await self.peek():
            raise StopAsyncIteration
        return self._seen.popleft()


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, own_name = _HOMES[name].partition(":")
    globals()[name] = found = getattr(import_module(f"{__name__}.{module}"), own_name or name)
    return found
