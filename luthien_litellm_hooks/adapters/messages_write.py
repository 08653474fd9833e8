"""The frames of a streamed Anthropic message, written: those that say just the events that are left."""

import json
from collections.abc import Iterator, Sequence
from typing import TypeGuard, cast

from luthien_litellm_hooks.adapters.messages_parts import (
    JSON,
    Refusal,
    Rest,
    empty_message,
    empty_text,
    empty_thinking,
    is_named,
    write_call,
    write_citation,
    write_refusal,
    write_result,
)
from luthien_litellm_hooks.adapters.sse import write_frame
from luthien_litellm_hooks.events import (
    Chunk,
    End,
    Finish,
    Frame,
    Opaque,
    Quote,
    ReasoningDelta,
    Start,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
)


class MessageWriter:
    """Writes the frames of one answer, under an `id` and `model` until the provider has sent its own."""

    def __init__(self, model: str, id: str) -> None:
        self._model = model
        self._id = id
        self._beside: dict[int, list[StreamEvent]] = {}  # what leaves with a unit, by the id of what else that says

    def write(self, events: Sequence[StreamEvent], of: Chunk | None) -> Iterator[bytes]:
        """Frames that say just `events`, of which some may wait for others `of` the same frame."""
        for event in events:
            if isinstance(event.part, Rest | Refusal):
                self._beside.setdefault(id(event.part.said), []).append(event)
        for event, following in zip(events, [*events[1:], None], strict=True):
            if isinstance(event.part, Rest | Refusal):
                continue
            if isinstance(event, Opaque):
                yield from (event.part,) if isinstance(event.part, bytes) else ()
            elif of is not None and isinstance(of.raw, bytes) and self._completes(event, of):
                yield of.raw
            elif isinstance(event, Frame) and event.role == "begin" and _is_whole_block(following):
                yield _frame(_numbered(self._whole(following), event.index))
            elif not _is_whole_block(event):
                yield from map(_frame, self._payloads(event))

    def _completes(self, event: StreamEvent, of: Chunk) -> bool:
        """Whether with `event` all has left that came with it."""
        beside = self._beside.get(id(event.part), ())
        came = [*beside, event]
        return (
            bool(beside) and len(came) == len(of.events) and all(a is b for a, b in zip(came, of.events, strict=True))
        )

    def _payloads(self, event: StreamEvent) -> Iterator[JSON]:
        came: object = event.part
        if isinstance(event, ToolCallDelta):
            yield from self._call(event)
        elif came is not None:
            yield self._rewritten(event)
        elif isinstance(event, Start):
            yield {"type": "message_start", "message": empty_message(self._model, self._id)}
        elif isinstance(event, Frame | TextDelta | ReasoningDelta):
            yield from _made_piece(event)
        elif isinstance(event, Finish):
            end = {"stop_reason": event.reason, "stop_sequence": None}
            yield {"type": "message_delta", "delta": end, "usage": {"output_tokens": 0}}
        elif isinstance(event, End):
            yield {"type": "message_stop"}

    def _call(self, event: ToolCallDelta) -> Iterator[JSON]:
        came = _part(event)
        if "content_block" in came and is_named(event, came["content_block"]):
            yield _numbered(self._whole(event), event.index)
            return
        if event.name:
            yield _start(event.index, write_call(event, {}, self._id))
        if came.get("type") == "content_block_delta":
            yield _numbered(self._whole(event), event.index)
        elif event.arguments:
            yield _delta(event.index, {"type": "input_json_delta", "partial_json": event.arguments})

    def _rewritten(self, event: StreamEvent) -> JSON:
        """What `event` came in, but for its number, its reason or what it quotes."""
        came = self._whole(event)
        if isinstance(event, Quote):
            return _quoting(_numbered(came, event.index), event.text)
        if isinstance(event, Finish):
            return {**came, "delta": {**came["delta"], "stop_reason": event.reason}}
        return _numbered(came, event.index) if isinstance(event, Frame | TextDelta | ReasoningDelta) else came

    def _whole(self, event: StreamEvent) -> JSON:
        """What `event` came in, with what has left beside it."""
        came = _part(event)
        beside = self._beside.get(id(came), ())
        for each in beside:
            if isinstance(each.part, Rest):
                came = each.part.whole
        for each in beside:
            if isinstance(each, Quote) and isinstance(each.part, Refusal):
                details = write_refusal(each.part.details, each.text)
                came = {**came, "delta": {**came["delta"], "stop_details": details}}
        return came


def _made_piece(event: Frame | TextDelta | ReasoningDelta) -> Iterator[JSON]:
    if isinstance(event, TextDelta):
        yield _delta(event.index, {"type": "text_delta", "text": event.text})
    elif isinstance(event, ReasoningDelta):
        yield _delta(event.index, {"type": "thinking_delta", "thinking": event.text})
    elif event.role == "end":
        yield {"type": "content_block_stop", "index": event.index}
    elif event.role == "begin":
        yield _start(event.index, empty_text() if event.kind == "text" else empty_thinking())


def _quoting(payload: JSON, text: str) -> JSON:
    if "delta" in payload:
        delta = payload["delta"]
        return {**payload, "delta": {**delta, "citation": write_citation(delta["citation"], text)}}
    return {**payload, "content_block": write_result(payload["content_block"], text)}


def _part(event: StreamEvent) -> JSON:
    return cast(JSON, event.part or {})


def _numbered(payload: JSON, index: int | None) -> JSON:
    return {**payload, "index": index or 0}


def _is_whole_block(event: StreamEvent | None) -> TypeGuard[ReasoningDelta]:
    """Whether `event` stands for a redacted block, which comes in one frame."""
    return isinstance(event, ReasoningDelta) and _part(event).get("type") == "content_block_start"


def _start(index: int | None, block: JSON) -> JSON:
    return {"type": "content_block_start", "index": index or 0, "content_block": block}


def _delta(index: int | None, delta: JSON) -> JSON:
    return {"type": "content_block_delta", "index": index or 0, "delta": delta}


def _frame(payload: JSON) -> bytes:
    return write_frame(json.dumps(payload, separators=(",", ":")), event=payload["type"])
