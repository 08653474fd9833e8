"""Anthropic messages as LiteLLM hands them to a plugin: bytes of a stream in any pieces, dicts."""

from collections.abc import Iterable, Sequence

from luthien_litellm_hooks.adapters import messages_full
from luthien_litellm_hooks.adapters.messages_frames import FrameOrder
from luthien_litellm_hooks.adapters.messages_parts import empty_message
from luthien_litellm_hooks.adapters.messages_read import MessageReader
from luthien_litellm_hooks.adapters.messages_write import MessageWriter
from luthien_litellm_hooks.adapters.sse import SseDecoder, is_ended
from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import Chunk, StreamEvent, Unknown, from_wire


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
        self._empty = empty_message(model, id)
        self._decoder = SseDecoder()
        self._order = FrameOrder()
        self._reader = MessageReader()
        self._writer = MessageWriter(model, id)
        self._missing = b""  # the end of the provider's last frame, which others follow

    def decode(self, raw: object) -> Sequence[Chunk]:
        """One chunk for each frame that `raw` completes, and that need not wait for others."""
        if not isinstance(raw, bytes):
            return [_malformed(raw, "item of a stream")]
        return [self._reader.chunk(came) for came in self._order.take(self._decoder.feed(raw))]

    def flush(self) -> Sequence[Chunk]:
        """What is left; a last frame that the provider did not end leaves as it came."""
        frames = self._decoder.flush()
        if frames and not is_ended(frames[-1]):
            self._missing = b"\n" if frames[-1].endswith((b"\n", b"\r")) else b"\n\n"
        return [self._reader.chunk(came) for came in self._order.take_last(frames)]

    def encode(self, events: Sequence[StreamEvent], of: Chunk | None) -> Iterable[object]:
        """One frame for each event, but two for a call that a policy made."""
        for frame in self._writer.write(events, of):
            yield self._missing + frame
            self._missing = b""

    def split(self, response: object) -> Chunk:
        """The events of a message, in the order in which a stream would bring them."""
        try:
            return Chunk.from_wire(response, tuple(messages_full.read(response)))
        except (WireError, ValueError, RecursionError):
            return _malformed(response, "message")

    def join(self, response: object, events: Sequence[StreamEvent]) -> object:
        """A copy of `response` with just `events`; its id, model and usage stay."""
        return messages_full.write(events, response, self._empty)


def _malformed(raw: object, kind: str) -> Chunk:
    return Chunk.from_wire(raw, (from_wire(Unknown(kind=kind, is_malformed=True), raw),))
