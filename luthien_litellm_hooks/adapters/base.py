"""What the executor needs of a wire format."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from luthien_litellm_hooks.events import Chunk, StreamEvent


class Adapter(Protocol):
    """One wire format, for one answer: units of the wire to events, and events back.

    Adapters are pure: no clock, no logger, nothing awaited. They never change what they are given;
    LiteLLM keeps the very same objects for its log and its cache.
    """

    @property
    def is_framed(self) -> bool:
        """Whether the wire numbers all blocks, and says where each begins and ends."""
        ...

    @property
    def has_text_after_calls(self) -> bool:
        """Whether a client may send back an answer that says text after a call: some providers refuse it."""
        ...

    @property
    def stop_reason(self) -> str:
        """The reason of an answer that ended naturally and calls no tool."""
        ...

    @property
    def tool_reasons(self) -> tuple[str, ...]:
        """The reasons of an answer that calls tools; the first is the usual one."""
        ...

    @property
    def cut_reasons(self) -> tuple[str, ...]:
        """The reasons of a response that a token limit has cut off."""
        ...

    def decode(self, raw: object) -> Sequence[Chunk]:
        """The chunks in one item of a provider's stream, and their events in the order in which
        they are to be judged. A unit that it cannot read is a chunk with one malformed `Unknown`."""
        ...

    def flush(self) -> Sequence[Chunk]:
        """What is left when the provider's stream has ended."""
        ...

    def encode(self, events: Sequence[StreamEvent], of: Chunk | None) -> Iterable[object]:
        """Items of the client's stream that say just `events`, in the order and under the numbers
        that they have. `of` is the chunk that they came in, or None if a policy made them."""
        ...

    def split(self, response: object) -> Chunk:
        """A full response as one chunk; a malformed `Unknown` if it cannot be read."""
        ...

    def join(self, response: object, events: Sequence[StreamEvent]) -> object:
        """A new full answer like `response` that says just `events`."""
        ...


class RepeatingAdapter(Adapter, Protocol):
    """The adapter of a wire that frames its blocks, lets them overlap, and says later again what
    it said before. So it must know all that has left."""

    def pass_on(self, chunk: Chunk, *, as_came: bool) -> Iterable[object]:
        """Items of the client's stream that say all of `chunk`: what came, if nothing before it
        was changed. With `as_came` no policy judges the response, so it is always just what came."""
        ...
