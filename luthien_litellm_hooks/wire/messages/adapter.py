"""Adapter of Anthropic messages as LiteLLM hands them to a plugin: bytes of a stream, cut anywhere, and dicts."""

import json
from collections import deque
from collections.abc import Iterable, Sequence

import orjson

from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.wire.events import Chunk, StreamEvent, Unknown, from_wire
from luthien_litellm_hooks.wire.format import ResponseRules
from luthien_litellm_hooks.wire.messages.blocks import CALLS, JSON, empty_message, fields
from luthien_litellm_hooks.wire.messages.read import Frame, MessageReader, read_message
from luthien_litellm_hooks.wire.messages.safeguards import Verdicts
from luthien_litellm_hooks.wire.messages.write import MessageWriter, write_message
from luthien_litellm_hooks.wire.sse import SseDecoder, data_of, is_ended

_DELTA_EVENT = b"event: content_block_delta\ndata: "
_DELTA = _DELTA_EVENT + b'{"type":"content_block_delta","index":'
PING = b'event: ping\ndata: {"type": "ping"}\n\n'
"""LiteLLM's own ping. A client that leaves before anything else gets its budget back."""
_NO_JSON = ("", "[DONE]")  # comments, and the last frame of some providers
_BLOCK_EVENTS = ("content_block_start", "content_block_delta", "content_block_stop")


class MessagesAdapter:
    """Adapter of one message.

    `model` and `id` go into a response that begins before the provider has sent anything. A client that `takes_flags`
    gets a verdict on each call.
    """

    def __init__(self, rules: ResponseRules, model: str, id: str, *, takes_flags: bool = False) -> None:
        self.rules = rules
        self._empty = empty_message(model, id)
        self._verdicts = Verdicts() if takes_flags else None
        self._decoder = SseDecoder()
        self._order = _FrameOrder()
        self._reader = MessageReader(self._verdicts)
        self._writer = MessageWriter(model, id, self._verdicts)
        self._missing = b""  # end of the provider's last frame, if it sent none and other frames follow

    @property
    def takes_flags(self) -> bool:
        return self._verdicts is not None

    def note_left(self, chunk: Chunk) -> None:
        if self._verdicts is not None:
            self._verdicts.note_left(chunk.events)

    def decode(self, raw: object) -> Sequence[Chunk]:
        """Returns one chunk for each frame that `raw` completes, and for frames that waited for it."""
        if not isinstance(raw, bytes):
            return [_malformed(raw, "item of a stream")]
        return self._chunks(self._decoder.feed(raw))

    def flush(self) -> Sequence[Chunk]:
        """Returns the remaining chunks; an incomplete last frame is not changed."""
        frames = self._decoder.flush()
        if frames and not is_ended(frames[-1]):
            self._missing = b"\n" if frames[-1].endswith((b"\n", b"\r")) else b"\n\n"
        return [*self._chunks(frames), *map(self._reader.chunk, self._order.take_rest())]

    def _chunks(self, frames: Iterable[bytes]) -> list[Chunk]:
        chunks: list[Chunk] = []
        for raw in frames:
            payload = _parse(raw)
            text = None if self._order.is_waiting else self._reader.text_chunk(raw, payload)
            if text is not None:
                chunks.append(text)
            else:
                chunks += map(self._reader.chunk, self._order.take(Frame(raw, payload)))
        return chunks

    def encode(self, events: Sequence[StreamEvent], of: Chunk | None) -> Iterable[object]:
        """Yields one frame for each event, but two for a call that a policy made."""
        for frame in self._writer.write(events, of):
            yield self._missing + frame
            self._missing = b""

    def ping(self) -> Iterable[object]:
        """Yields the wire's own ping, which may come before `message_start`, too."""
        yield self._missing + PING

    def decode_full(self, response: object) -> Chunk:
        """Returns the events of a message, in the order of a stream."""
        try:
            return Chunk.from_wire(response, tuple(read_message(response, self._verdicts)))
        except (WireError, ValueError, RecursionError):
            return _malformed(response, "message")

    def encode_full(self, response: object, events: Sequence[StreamEvent]) -> object:
        """Returns a copy of `response` with just `events`, its id, model and usage."""
        return write_message(events, response, self._empty, self._verdicts)


def _malformed(raw: object, kind: str) -> Chunk:
    return Chunk.from_wire(raw, (from_wire(Unknown(kind=kind, is_malformed=True), raw),))


class _FrameOrder:
    """Holds frames from a call with an initial input on, until it is known if deltas replace that input.

    If they do, the deltas are the input, as in the official client.
    """

    def __init__(self) -> None:
        self._waiting: deque[Frame] = deque()
        self._open: dict[int, Frame] = {}  # by the index of the call

    @property
    def is_waiting(self) -> bool:
        return bool(self._waiting)

    def take(self, frame: Frame) -> Sequence[Frame]:
        """Adds a frame, and returns those that need not wait any longer."""
        payload = frame.payload or {}
        if self._open:
            self._close_decided(payload)
        if payload.get("type") == "content_block_start" and _begins_with_input(payload):
            frame.is_open = True
            self._open[payload["index"]] = frame
        elif not self._waiting:
            return (frame,)
        self._waiting.append(frame)
        ready: list[Frame] = []
        while self._waiting and not self._waiting[0].is_open:
            ready.append(self._waiting.popleft())
        return ready

    def take_rest(self) -> Sequence[Frame]:
        """Returns all that waited, at the end of the stream."""
        rest = [*self._waiting]
        self._waiting.clear()
        self._open.clear()
        return rest

    def _close_decided(self, payload: JSON) -> None:
        """Closes the calls whose input is certain after `payload`."""
        if payload.get("type") not in _BLOCK_EVENTS:
            if payload.get("type") == "message_delta":
                self._close(*self._open)
            return
        index = payload.get("index")
        if not isinstance(index, int) or index not in self._open:
            return
        delta: object = payload.get("delta")
        if isinstance(delta, dict) and delta.get("partial_json"):  # pyright: ignore[reportUnknownMemberType]
            self._open[index].has_deltas = True
            self._close(index)
        elif payload["type"] != "content_block_delta":
            self._close(index)

    def _close(self, *indices: int) -> None:
        for index in indices:
            self._open.pop(index).is_open = False


def _begins_with_input(payload: JSON) -> bool:
    block: object = payload.get("content_block")
    is_call = isinstance(block, dict) and block.get("type") in CALLS  # pyright: ignore[reportUnknownMemberType]
    return is_call and bool(payload["content_block"].get("input")) and isinstance(payload.get("index"), int)


def _parse(raw: bytes) -> JSON | None:
    """Returns the payload of a frame, None if it is not a JSON object.

    orjson takes a fifth of the time, but rounds integers beyond 64 bits and refuses half a surrogate pair. So `json`
    reads a call's input, which may hold such integers, and all that orjson refuses."""
    try:
        if raw.startswith(_DELTA):
            try:
                return orjson.loads(raw.removeprefix(_DELTA_EVENT))
            except ValueError:
                pass
        data = data_of(raw)
        return {} if data in _NO_JSON else fields(json.loads(data), "a frame of a message")
    except (WireError, ValueError, RecursionError):
        return None
