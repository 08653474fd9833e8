"""Gemini's generateContent as LiteLLM hands it to a plugin: bytes of a stream; an object or a dict."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, cast

from litellm.types.google_genai.main import GenerateContentResponse
from pydantic import BaseModel

from luthien_litellm_hooks.adapters import gemini_payload
from luthien_litellm_hooks.adapters.gemini_payload import Json
from luthien_litellm_hooks.adapters.sse import SseDecoder, data_of, write_frame
from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import Chunk, Opaque, StreamEvent, Unknown, from_wire


class GeminiAdapter:
    """The adapter of one answer of Gemini.

    `like` is the payload that frames are made like before the provider has sent one.
    """

    is_framed = False
    has_text_after_calls = False
    stop_reason = "STOP"
    tool_reasons = ("STOP",)
    cut_reasons = ("MAX_TOKENS",)

    def __init__(self, like: Json) -> None:
        self._like = like
        self._decoder = SseDecoder()
        self._reader = gemini_payload.Reader()

    def decode(self, raw: object) -> Sequence[Chunk]:
        """One chunk for each frame that `raw` completes."""
        if not isinstance(raw, bytes):
            raise WireError(f"a Gemini stream brought a {type(raw).__name__}")
        return [self._chunk(frame) for frame in self._decoder.feed(raw)]

    def flush(self) -> Sequence[Chunk]:
        """One chunk for each frame that is left, and one with the calls whose arguments never were whole."""
        chunks = [self._chunk(frame) for frame in self._decoder.flush()]
        return [*chunks, Chunk(broken)] if (broken := self._reader.read_rest()) else chunks

    def encode(self, events: Sequence[StreamEvent], of: Chunk | None) -> Iterable[object]:
        """One frame; how many tokens it all took is said again with every piece of a frame that came."""
        yield from (event.part for event in events if isinstance(event.part, bytes))
        said = gemini_payload.write([event for event in events if not isinstance(event.part, bytes)])
        if said and of is None:
            said |= {key: value for key, value in gemini_payload.head(self._like).items() if key != "usageMetadata"}
        if said:
            yield write_frame(json.dumps(said))

    def split(self, response: object) -> Chunk:
        """The events of every candidate."""
        try:
            return Chunk.from_wire(response, self._reader.read(_fields(response)))
        except WireError:
            return Chunk.from_wire(response, (Unknown(kind="response", is_malformed=True),))

    def join(self, response: object, events: Sequence[StreamEvent]) -> object:
        """A copy of `response` with just `events`; its id, model and usage stay."""
        fields = gemini_payload.write_full(events, _fields(response))
        if not isinstance(response, BaseModel):
            return fields
        return _copy(response, fields)

    def _chunk(self, frame: bytes) -> Chunk:
        data = data_of(frame)
        if not data:
            return Chunk.from_wire(frame, (from_wire(Opaque(), frame),))
        try:
            payload = _payload(data)
            events = self._reader.read(payload)
        except WireError:
            return Chunk.from_wire(frame, (from_wire(Unknown(kind="frame", is_malformed=True), frame),))
        self._like = payload
        return Chunk.from_wire(frame, events)


def _payload(text: str) -> Json:
    try:
        payload: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WireError("a frame of a Gemini stream is not JSON") from error
    if not isinstance(payload, dict):
        raise WireError("a frame of a Gemini stream is no object")
    return cast(dict[str, Any], payload)


def _fields(response: object) -> Json:
    if isinstance(response, dict):
        return cast(dict[str, Any], response)
    if not isinstance(response, BaseModel) or not isinstance(response, GenerateContentResponse):
        raise WireError("an answer of Gemini was something else")
    return response.model_extra or {}


def _copy(response: BaseModel, fields: Json) -> BaseModel:
    copy = response.model_copy()
    if copy.model_extra is not None:
        copy.model_extra.clear()
        copy.model_extra.update(fields)
    return copy
