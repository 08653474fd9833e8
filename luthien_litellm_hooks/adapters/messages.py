"""Anthropic messages as LiteLLM hands them to a plugin: bytes of a stream in any pieces, dicts."""

from collections.abc import Iterable, Sequence

from luthien_litellm_hooks.adapters import messages_full
from luthien_litellm_hooks.adapters.messages_parts import fields
from luthien_litellm_hooks.adapters.messages_stream import MessageReader, MessageWriter
from luthien_litellm_hooks.adapters.sse import SseDecoder
from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import Chunk, StreamEvent


class MessagesAdapter:
    """The adapter of one message.

    `model` and `id` are what an answer is given that starts before the provider has sent anything.
    """

    is_framed = True
    has_text_after_calls = False
    stop_reason = "end_turn"
    tool_reasons = ("tool_use",)
    cut_reasons = ("max_tokens", "model_context_window_exceeded")

    def __init__(self, model: str, id: str) -> None:
        self._id = id
        self._decoder = SseDecoder()
        self._error: WireError | None = None
        self._reader = MessageReader()
        self._writer = MessageWriter(model, id)

    def decode(self, raw: object) -> Sequence[Chunk]:
        """One chunk for each frame that `raw` completes."""
        if not isinstance(raw, bytes):
            raise WireError(f"a stream of a message brought a {type(raw).__name__}")
        return self._chunks(self._decoder.feed(raw))

    def flush(self) -> Sequence[Chunk]:
        """A last frame that the provider did not end; it is ended, because others may follow it."""
        return self._chunks([frame + b"\n\n" for frame in self._decoder.flush()])

    def _chunks(self, frames: Sequence[bytes]) -> Sequence[Chunk]:
        """The chunks up to a frame that cannot be read, which is an error only when they are out."""
        if self._error is not None:
            raise self._error
        chunks: list[Chunk] = []
        for frame in frames:
            try:
                chunks.append(Chunk.from_wire(frame, self._reader.read(frame)))
            except WireError as error:
                self._error = error
                break
        if self._error is not None and not chunks:
            raise self._error
        return chunks

    def encode(self, events: Sequence[StreamEvent], of: Chunk | None) -> Iterable[object]:
        """One frame for each event, but two for a call that a policy made."""
        return self._writer.write(events)

    def split(self, response: object) -> Chunk:
        """The events of a message, in the order in which a stream would bring them."""
        return Chunk.from_wire(response, tuple(messages_full.read(fields(response, "a message"))))

    def join(self, response: object, events: Sequence[StreamEvent]) -> object:
        """A copy of `response` with just `events`; its id, model and usage stay."""
        return messages_full.write(events, fields(response, "a message"), self._id)
