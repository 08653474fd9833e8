"""Adapter of the wire: bytes with lines, or an object with all lines."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from luthien_litellm_hooks.wire.events import (
    Chunk,
    Finish,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    Unknown,
    from_wire,
)
from luthien_litellm_hooks.wire.format import ResponseRules


class LinesAdapter:
    rules = ResponseRules(
        marks_blocks=False,
        has_text_after_calls=True,
        stop_reason="end",
        tool_reasons=("calls",),
        cut_reasons=("cut",),
    )

    def __init__(self) -> None:
        self._begun = b""

    def decode(self, raw: object) -> Sequence[Chunk]:
        came = self._begun + raw if isinstance(raw, bytes) else b"?"
        *lines, self._begun = came.split(b"\n")
        lines = [line + b"\n" for line in lines]
        return [_chunk(line) for line in lines]

    def flush(self) -> Sequence[Chunk]:
        return [_chunk(self._begun)] if self._begun else []

    def encode(self, events: Sequence[StreamEvent], of: Chunk | None) -> Iterable[object]:
        return [json.dumps(line).encode() + b"\n" for line in _written(events)]

    def ping(self) -> Iterable[object]:
        return ()

    def decode_full(self, response: Any) -> Chunk:
        events = (event for line in response["lines"] for event in _events(line, response))
        return Chunk.from_wire(response, tuple(events))

    def encode_full(self, response: object, events: Sequence[StreamEvent]) -> object:
        return {"lines": list(_written(events))}


def _chunk(line: bytes) -> Chunk:
    return Chunk.from_wire(line, tuple(_events(json.loads(line), line)))


def _events(line: Any, raw: object) -> Iterator[StreamEvent]:
    match line:
        case {"say": str(text)}:
            yield from_wire(TextDelta(text=text), raw)
        case {"call": int(index), "with": str(arguments)}:
            call = ToolCallDelta(index=index, id=line.get("id"), name=line.get("name"), arguments=arguments)
            yield from_wire(call, raw)
        case {"done": str(reason)}:
            yield from_wire(Finish(reason=reason), raw)
        case _:
            yield from_wire(Unknown(kind="line", is_malformed=True), raw)


def _written(events: Sequence[StreamEvent]) -> Iterator[Mapping[str, object]]:
    for event in events:
        match event:
            case TextDelta(text=text):
                yield {"say": text}
            case ToolCallDelta(index=index, id=id, name=name, arguments=arguments):
                first = {"id": id, "name": name} if name is not None else {}
                yield {"call": index, **first, "with": arguments}
            case Finish(reason=reason):
                yield {"done": reason}
            case _:
                pass
