"""Adapter of Gemini's generateContent as LiteLLM hands it to a plugin, and its encoder.

That is bytes of a stream, an object, or a dict.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from litellm.types.google_genai.main import GenerateContentResponse
from pydantic import BaseModel

from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.wire import readable
from luthien_litellm_hooks.wire.events import (
    Chunk,
    Finish,
    Opaque,
    Quote,
    ReasoningDelta,
    ResponseStart,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    Unknown,
    Usage,
    from_wire,
)
from luthien_litellm_hooks.wire.format import ResponseRules
from luthien_litellm_hooks.wire.gemini.read import (
    CANDIDATE_HEAD,
    HEAD,
    SERVER_CALLS,
    Json,
    Reader,
    Source,
    as_object,
    objects_in,
)
from luthien_litellm_hooks.wire.sse import SseDecoder, data_of, write_frame


class GeminiAdapter:
    """Adapter of one response of Gemini.

    `template` is the payload whose head new frames get until the provider has sent one.
    """

    def __init__(self, rules: ResponseRules, template: Json) -> None:
        self.rules = rules
        self._template = template
        self._decoder = SseDecoder()
        self._reader = Reader()

    def decode(self, raw: object) -> Sequence[Chunk]:
        """Returns one chunk for each frame that `raw` completes."""
        if not isinstance(raw, bytes):
            raise WireError(f"an item of a Gemini stream is a {type(raw).__name__}")
        return [self._chunk(frame) for frame in self._decoder.feed(raw)]

    def flush(self) -> Sequence[Chunk]:
        """Returns one chunk for each remaining frame, and one with the calls whose arguments are incomplete."""
        chunks = [self._chunk(frame) for frame in self._decoder.flush()]
        return [*chunks, Chunk(calls)] if (calls := self._reader.read_incomplete()) else chunks

    def encode(self, events: Sequence[StreamEvent], of: Chunk | None) -> Iterable[object]:
        """Yields one frame. Each part of a split frame repeats the token counts."""
        yield from (event.source for event in events if isinstance(event.source, bytes))
        payload = _write([event for event in events if not isinstance(event.source, bytes)])
        if payload:
            yield self._new_frame(payload) if of is None else write_frame(json.dumps(payload))

    def ping(self) -> Iterable[object]:
        """Yields a frame with an empty text: Google's clients fail on comments."""
        yield self._new_frame(_write([TextDelta(text="")]))

    def decode_full(self, response: object) -> Chunk:
        """Returns the events of every candidate."""
        try:
            return Chunk.from_wire(response, self._reader.read(_fields(response)))
        except WireError:
            return Chunk.from_wire(response, (Unknown(kind="response", is_malformed=True),))

    def encode_full(self, response: object, events: Sequence[StreamEvent]) -> object:
        """Returns a copy of `response` with just `events`, its id, model and usage."""
        fields = _write_full(events, _fields(response))
        if not isinstance(response, BaseModel):
            return fields
        copy = response.model_copy()
        if copy.model_extra is not None:
            copy.model_extra.clear()
            copy.model_extra.update(fields)
        return copy

    def _new_frame(self, payload: Json) -> bytes:
        """Returns a frame of our own, with the head of the provider's."""
        own = {key: value for key, value in _head(self._template).items() if key != "usageMetadata"}
        return write_frame(json.dumps({**payload, **own}))

    def _chunk(self, frame: bytes) -> Chunk:
        data = data_of(frame)
        if not data:
            return Chunk.from_wire(frame, (from_wire(Opaque(), frame),))
        try:
            payload = _payload(data)
            events = self._reader.read(payload)
        except WireError:
            return Chunk.from_wire(frame, (from_wire(Unknown(kind="frame", is_malformed=True), frame),))
        self._template = payload
        return Chunk.from_wire(frame, events)


def _payload(text: str) -> Json:
    try:
        payload: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WireError("a frame of a Gemini stream is not JSON") from error
    if not isinstance(payload, dict):
        raise WireError("a frame of a Gemini stream is not an object")
    return cast(dict[str, Any], payload)


def _fields(response: object) -> Json:
    if isinstance(response, dict):
        return cast(dict[str, Any], response)
    if not isinstance(response, BaseModel) or not isinstance(response, GenerateContentResponse):
        raise WireError("a response of Gemini is neither an object nor a GenerateContentResponse")
    return response.model_extra or {}


def _head(payload: Json) -> dict[str, Any]:
    """Returns the fields that every part of `payload` carries."""
    return {key: payload[key] for key in HEAD if key in payload}


def _write(events: Iterable[StreamEvent]) -> dict[str, Any]:
    """Returns a payload with just `events` and the head of their payloads; {} if they have no place in one."""
    drafts: dict[int, _Draft] = {}
    extra: dict[str, Any] = {}
    for event in events:
        source = event.source if isinstance(event.source, Source) else Source()
        extra |= _head(source.payload)
        if source.is_payload_field:
            extra |= source.extra
        elif source.is_silent:
            continue
        elif not isinstance(event, ResponseStart | Usage):
            drafts.setdefault(event.choice, _Draft()).add(event, source)
    candidates = {"candidates": [draft.candidate(index) for index, draft in drafts.items()]} if drafts else {}
    return candidates | extra


def _write_full(events: Sequence[StreamEvent], template: Json) -> dict[str, Any]:
    """Returns a payload with just `events`, and with the head and all candidates of `template`."""
    payload = _write(events)
    written: dict[int, Json] = {candidate["index"]: candidate for candidate in payload.pop("candidates", ())}
    indices: list[int] = [candidate.get("index") or 0 for candidate in objects_in(template, "candidates")]
    candidates = [written.get(index) or _Draft().candidate(index) for index in indices or written]
    return {"candidates": candidates, **_head(template), **payload}


@dataclass(slots=True)
class _Draft:
    """Candidate under construction."""

    parts: list[Json] = field(default_factory=list[Json])
    fields: dict[str, Any] = field(default_factory=dict[str, Any])

    def add(self, event: StreamEvent, source: Source) -> None:
        self.fields |= {key: source.candidate[key] for key in CANDIDATE_HEAD if key in source.candidate}
        if isinstance(event, Quote):
            if source.part is not None and source.quoted is not None:
                self.parts.append(_with_text(source.part, source.quoted, event.text))
            elif source.quoted is not None:
                self.fields |= _with_text(source.extra, source.quoted, event.text)
            return
        self.fields |= source.extra
        if isinstance(event, Finish):
            self.fields["finishReason"] = event.reason
        elif source.part is not None:
            self.parts.append(source.part)
        elif not isinstance(event, Opaque):
            self.parts.append(_new_part(event))

    def candidate(self, index: int) -> dict[str, Any]:
        return {"content": {"parts": self.parts or [{"text": ""}], "role": "model"}, **self.fields, "index": index}


def _new_part(event: StreamEvent) -> Json:
    if isinstance(event, ToolCallDelta):
        return _call(event)
    if isinstance(event, ReasoningDelta):
        return {"text": event.text, "thought": True}
    if isinstance(event, TextDelta):
        return {"text": event.text}
    raise WireError(f"Gemini has no {type(event).__name__}")


def _with_text(fields: Json, name: str, text: str) -> Json:
    """Returns `fields` with `text` in the field `name`; the same object if it has that text."""
    is_same = readable.read(fields[name]) == text
    return fields if is_same else {**fields, name: readable.written(fields[name], text)}


def _call(event: ToolCallDelta) -> Json:
    try:
        parsed: object = json.loads(event.arguments or "{}")
    except (ValueError, RecursionError) as error:
        raise WireError("Gemini cannot encode arguments that are not JSON") from error
    args = as_object(parsed, "args")
    if event.form != "server":
        call = {**as_object(event.extra.get("functionCall", {}), "functionCall"), "name": event.name}
        if event.id is not None:
            call["id"] = event.id
        return {**event.extra, "functionCall": {**call, "args": args}}
    # A server call has its decoded part in `extra`.
    key = next((key for key in SERVER_CALLS if key in event.extra), "executableCode")
    call = as_object(event.extra.get(key), key)
    return {**event.extra, key: {**call, **args} if key == "executableCode" else {**call, "args": args}}
