"""The streamed side of Anthropic messages: what a frame says, and frames that say just that."""

import json
from collections.abc import Iterator, Sequence
from typing import TypeGuard, cast

import orjson

from luthien_litellm_hooks.adapters.messages_parts import (
    JSON,
    Kind,
    dump,
    empty_text,
    empty_thinking,
    fields,
    is_named,
    kind_of,
    read_call,
    text_of,
    write_call,
)
from luthien_litellm_hooks.adapters.sse import data_of, write_frame
from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import (
    End,
    Failure,
    Finish,
    Frame,
    Opaque,
    ReasoningDelta,
    Start,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    from_wire,
)

_DELTA_KINDS: dict[object, Kind] = {
    "text_delta": "text",
    "thinking_delta": "reasoning",
    "input_json_delta": "tool_call",
}
_DELTA_EVENT = b"event: content_block_delta\ndata: "
_DELTA = _DELTA_EVENT + b'{"type":"content_block_delta","index":'
_NO_JSON = ("", "[DONE]")  # comments, and how some providers end every stream


class MessageReader:
    """Reads the frames of one answer; remembers what each block is."""

    def __init__(self) -> None:
        self._kinds: dict[int, Kind] = {}

    def read(self, frame: bytes) -> tuple[StreamEvent, ...]:
        """The events of `frame`. There is always at least one."""
        payload = _parse(frame)
        if payload.get("type") == "content_block_delta":
            return (self._read_delta(payload, _index(payload)),)
        return tuple(self._read_other(payload, frame))

    def _read_other(self, payload: JSON, frame: bytes) -> Iterator[StreamEvent]:
        match payload.get("type"):
            case "message_start":
                yield from_wire(Start(), payload)
            case "content_block_start":
                yield from self._read_start(payload, _index(payload))
            case "content_block_stop":
                index = _index(payload)
                yield from_wire(Frame(role="end", kind=self._kinds.get(index, "other"), index=index), payload)
            case "message_delta" if reason := text_of(fields(payload.get("delta"), "a delta"), "stop_reason"):
                yield from_wire(Finish(reason=reason), payload)
            case "message_stop":
                yield from_wire(End(), payload)
            case "error":
                yield from_wire(Failure(), frame)
            case _:
                yield from_wire(Opaque(), frame)

    def _read_start(self, payload: JSON, index: int) -> Iterator[StreamEvent]:
        block = fields(payload.get("content_block"), "a content block")
        kind = self._kinds[index] = kind_of(block)
        if kind == "tool_call":
            given = block.get("input")
            yield from_wire(read_call(block, index, dump(given) if given else ""), payload)
            return
        is_redacted = block.get("type") == "redacted_thinking"
        begun = empty_thinking() if is_redacted else _emptied(block, kind)
        yield from_wire(Frame(role="begin", kind=kind, index=index), {**payload, "content_block": begun})
        if is_redacted:  # its one piece, which holds the whole block
            yield from_wire(ReasoningDelta(index=index, text=""), payload)
        elif begun is not block:
            yield from (self._read_delta(_delta(index, delta), index) for delta in _deltas(block, kind))

    def _read_delta(self, payload: JSON, index: int) -> StreamEvent:
        delta = fields(payload.get("delta"), "a delta")
        brings = _DELTA_KINDS.get(text_of(delta, "type"))
        kind = self._kinds.setdefault(index, "other" if brings in (None, "tool_call") else brings)
        return from_wire(_delta_event(delta, brings, kind, index), payload)


def _parse(frame: bytes) -> JSON:
    try:
        return fields(_read_json(frame), "a frame of a message")
    except (ValueError, RecursionError) as error:
        raise WireError("a frame of a message was no JSON") from error


def _read_json(frame: bytes) -> object:
    """What `frame` says. orjson reads in a fifth of the time, but rounds integers beyond 64 bits and takes no half of a
    surrogate pair: what may hold such numbers, the input of a call, and what it refuses are read by `json`."""
    if frame.startswith(_DELTA):
        try:
            return orjson.loads(frame.removeprefix(_DELTA_EVENT))
        except ValueError:
            pass
    data = data_of(frame)
    return {} if data in _NO_JSON else json.loads(data)


def _index(payload: JSON) -> int:
    index = payload.get("index")
    if not isinstance(index, int):
        raise WireError("a frame of a block had no index")
    return index


def _emptied(block: JSON, kind: Kind) -> JSON:
    """`block` without what comes as events of its own; the same object if nothing does."""
    empty = {"text": empty_text(), "reasoning": empty_thinking()}.get(kind, {})
    full = {name: value for name, value in empty.items() if name != "type" and block.get(name)}
    return {**block, **full} if full else block


def _deltas(block: JSON, kind: Kind) -> Iterator[JSON]:
    """The deltas that would have brought what `block` began with."""
    if kind == "text":
        yield {"type": "text_delta", "text": block["text"]}
        return
    for name in ("thinking", "signature"):
        if block.get(name):
            yield {"type": f"{name}_delta", name: block[name]}


def _delta_event(delta: JSON, brings: Kind | None, kind: Kind, index: int) -> StreamEvent:
    if kind == "other" or brings is None:
        return Frame(role="detail", kind=kind, index=index)
    if brings != kind:
        raise WireError(f"a block of {kind} was given {brings}")
    if brings == "tool_call":
        return ToolCallDelta(index=index, arguments=text_of(delta, "partial_json"))
    if brings == "reasoning":
        return ReasoningDelta(index=index, text=text_of(delta, "thinking"))
    text = text_of(delta, "text")
    return TextDelta(index=index, text=text) if text else Frame(role="detail", kind="text", index=index)


class MessageWriter:
    """Writes the frames of one answer, under an `id` and `model` until the provider has sent its own."""

    def __init__(self, model: str, id: str) -> None:
        self._model = model
        self._id = id

    def write(self, events: Sequence[StreamEvent]) -> Iterator[bytes]:
        """Frames that say just `events`."""
        for event, following in zip(events, [*events[1:], None], strict=True):
            if isinstance(event, Opaque):
                yield from (event.part,) if isinstance(event.part, bytes) else ()
            elif isinstance(event, Frame) and event.role == "begin" and _is_whole_block(following):
                yield _frame(_numbered(following, event.index))
            elif not _is_whole_block(event):
                yield from map(_frame, self._payloads(event))

    def _payloads(self, event: StreamEvent) -> Iterator[JSON]:
        came: object = event.part
        if isinstance(event, ToolCallDelta):
            yield from self._call(event)
        elif came is not None:
            yield _rewritten(event)
        elif isinstance(event, Start):
            yield {"type": "message_start", "message": self._message()}
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
            yield _numbered(event, event.index)
            return
        if event.name:
            yield _start(event.index, write_call(event, {}, self._id))
        if came.get("type") == "content_block_delta":
            yield _numbered(event, event.index)
        elif event.arguments:
            yield _delta(event.index, {"type": "input_json_delta", "partial_json": event.arguments})

    def _message(self) -> JSON:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }


def _made_piece(event: Frame | TextDelta | ReasoningDelta) -> Iterator[JSON]:
    if isinstance(event, TextDelta):
        yield _delta(event.index, {"type": "text_delta", "text": event.text})
    elif isinstance(event, ReasoningDelta):
        yield _delta(event.index, {"type": "thinking_delta", "thinking": event.text})
    elif event.role == "end":
        yield {"type": "content_block_stop", "index": event.index}
    elif event.role == "begin":
        yield _start(event.index, empty_text() if event.kind == "text" else empty_thinking())


def _rewritten(event: StreamEvent) -> JSON:
    """What `event` came in, but for its number or reason."""
    if isinstance(event, Finish):
        came = _part(event)
        return {**came, "delta": {**came["delta"], "stop_reason": event.reason}}
    if isinstance(event, Frame | TextDelta | ReasoningDelta):
        return _numbered(event, event.index)
    return _part(event)


def _part(event: StreamEvent) -> JSON:
    return cast(JSON, event.part or {})


def _numbered(event: StreamEvent, index: int | None) -> JSON:
    return {**_part(event), "index": index or 0}


def _is_whole_block(event: StreamEvent | None) -> TypeGuard[ReasoningDelta]:
    """Whether `event` stands for a redacted block, which comes in one frame."""
    return isinstance(event, ReasoningDelta) and _part(event).get("type") == "content_block_start"


def _start(index: int | None, block: JSON) -> JSON:
    return {"type": "content_block_start", "index": index or 0, "content_block": block}


def _delta(index: int | None, delta: JSON) -> JSON:
    return {"type": "content_block_delta", "index": index or 0, "delta": delta}


def _frame(payload: JSON) -> bytes:
    return write_frame(json.dumps(payload, separators=(",", ":")), event=payload["type"])
