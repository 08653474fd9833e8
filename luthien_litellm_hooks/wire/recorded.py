"""Adapter of a recorded response: its items are the blocks of a record, on any wire."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, cast

from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.wire.events import (
    BlockMarker,
    Chunk,
    Finish,
    Quote,
    ReasoningDelta,
    ResponseStart,
    StreamEnd,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    from_wire,
)
from luthien_litellm_hooks.wire.format import Adapter, ResponseRules

Block = Mapping[str, Any]


def recorded_adapter(rules: ResponseRules, finish_reason: str | None) -> Adapter:
    """Returns the adapter of one recorded response; `finish_reason` is None if it did not come to its end."""
    kind = OverlappingRecordedAdapter if rules.blocks_overlap else RecordedAdapter
    return kind(rules, finish_reason)


class RecordedAdapter:
    """Adapter of one recorded response, under the rules of its wire. It encodes nothing."""

    def __init__(self, rules: ResponseRules, finish_reason: str | None) -> None:
        self.rules = rules
        self._finish_reason = finish_reason
        self._count = 0
        self._calls: dict[int, int] = {}  # their number, by choice
        self._latest: dict[int, str] = {}  # type of the latest block, by choice

    def decode(self, raw: object) -> Sequence[Chunk]:
        """Returns the chunk of one block. Raises `WireError` for an unknown type."""
        block = cast(Block, raw)
        choice: int = block.get("choice", 0)
        start = () if choice in self._latest else (ResponseStart(choice=choice),)
        events = (*start, *self._read(block, choice))
        self._latest[choice] = block["type"]
        self._count += 1
        return (_chunk(events, raw),)

    def flush(self) -> Sequence[Chunk]:
        """Returns the finish of each choice."""
        if self._finish_reason is None:
            return ()
        events: list[StreamEvent] = [] if self._latest else [ResponseStart()]
        events += [Finish(choice=choice, reason=self._finish_reason) for choice in self._latest or (0,)]
        events += [StreamEnd()] if self.rules.marks_blocks else ()
        return (_chunk(events, self._finish_reason),)

    def encode(self, events: Sequence[StreamEvent], of: Chunk | None) -> Iterable[object]:
        return ()

    def ping(self) -> Iterable[object]:
        return ()

    def decode_full(self, response: object) -> Chunk:
        raise WireError("a recorded response is a stream of blocks")

    def encode_full(self, response: object, events: Sequence[StreamEvent]) -> object:
        raise WireError("a recorded response is a stream of blocks")

    def _read(self, block: Block, choice: int) -> Iterator[StreamEvent]:
        index = self._count if self.rules.marks_blocks else None
        kind: object = block["type"]
        if kind == "tool_call":
            yield self._call(block, choice, index)
            yield from self._marker("end", "tool_call", choice)
        elif kind == "text":
            yield from self._text(block["text"], choice, index)
        elif kind == "reasoning":
            yield from self._marker("begin", "reasoning", choice)
            yield ReasoningDelta(choice=choice, index=index, text=block["text"])
            yield from self._marker("end", "reasoning", choice)
        else:
            raise WireError(f"a recorded block is a {kind}")

    def _text(self, text: str, choice: int, index: int | None) -> Iterator[StreamEvent]:
        """Yields a text. Where a wire runs texts together, the second of two in a row was a quote."""
        if index is None and self._latest.get(choice) == "text":
            yield Quote(choice=choice, role="detail", kind="text", index=-1, text=text)
            return
        yield from self._marker("begin", "text", choice)
        yield TextDelta(choice=choice, index=index, text=text)
        yield from self._marker("end", "text", choice)

    def _call(self, block: Block, choice: int, index: int | None) -> ToolCallDelta:
        number = self._calls.get(choice, 0)
        self._calls[choice] = number + 1
        return ToolCallDelta(
            choice=choice,
            index=number if index is None else index,
            id=block.get("id"),
            name=block.get("name"),
            arguments=block.get("arguments", ""),
            form=block.get("form", "function"),
            extra=block.get("extra") or {},
        )

    def _marker(
        self, role: Literal["begin", "end"], kind: Literal["text", "reasoning", "tool_call"], choice: int
    ) -> Iterator[StreamEvent]:
        if self.rules.marks_blocks:
            yield BlockMarker(choice=choice, role=role, kind=kind, index=self._count)


class OverlappingRecordedAdapter(RecordedAdapter):
    """Adapter of a recorded response on a wire with overlapping blocks."""

    def encode_unchanged(self, chunk: Chunk, *, as_came: bool) -> Iterable[object]:
        return ()

    def is_long(self, raw: object) -> bool:
        return False


def _chunk(events: Iterable[StreamEvent], raw: object) -> Chunk:
    return Chunk.from_wire(raw, tuple(from_wire(event, raw) for event in events))
