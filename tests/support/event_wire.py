"""A wire format whose units are events already."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from luthien_litellm_hooks.wire.events import Chunk, StreamEvent, from_wire
from luthien_litellm_hooks.wire.format import ResponseRules

Unit = tuple[StreamEvent, ...]


class EventWire:
    """Its adapter, so that a test can group events as it likes."""

    rules = ResponseRules(
        marks_blocks=False,
        has_text_after_calls=True,
        stop_reason="stop",
        tool_reasons=("tool_calls",),
        cut_reasons=(),
    )

    def decode(self, raw: Any) -> Sequence[Chunk]:
        return (Chunk.from_wire(raw, tuple(from_wire(replace(event), source=raw) for event in raw)),)

    def flush(self) -> Sequence[Chunk]:
        return ()

    def encode(self, events: Sequence[StreamEvent], of: Chunk | None) -> Iterable[object]:
        yield tuple(events)

    def ping(self) -> Iterable[object]:
        return ()

    def decode_full(self, response: object) -> Chunk:
        raise NotImplementedError

    def encode_full(self, response: object, events: Sequence[StreamEvent]) -> object:
        raise NotImplementedError
