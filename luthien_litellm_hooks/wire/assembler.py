"""Assembles events to blocks: it finds the block of each delta, and the end of each block.

Pure: no clock, no logger, nothing awaited.
"""

import json
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from luthien_litellm_hooks.wire.events import (
    DELTAS,
    BlockMarker,
    Chunk,
    ContentStreamBlock,
    DeltaEvent,
    Finish,
    Quote,
    ReasoningDelta,
    ReasoningStreamBlock,
    StreamBlock,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    ToolCallStreamBlock,
    text_of,
)

RAW_CHUNKS_KEPT = 8
MAX_RUN = 64
"""Most chunks in a run: consecutive ones with one delta each of the same block."""

_JSON_MARK = re.compile(r'\\(?:.|\Z)|["{}\[\]]', re.DOTALL)


def _recent_chunks() -> deque[Chunk]:
    return deque(maxlen=RAW_CHUNKS_KEPT)


@dataclass(slots=True)
class StreamState:
    """The response so far.

    `raw_chunks` are the latest chunks only (`RAW_CHUNKS_KEPT` of them); `chunk_count` counts all.
    `just_completed` is set while the complete hook of that block runs. `last_emission_index` is
    the `chunk_count` when a policy last sent or forwarded an event.
    """

    blocks: list[StreamBlock] = field(default_factory=list[StreamBlock])
    current_block: StreamBlock | None = None
    just_completed: StreamBlock | None = None
    finish_reason: str | None = None
    raw_chunks: deque[Chunk] = field(default_factory=_recent_chunks)
    chunk_count: int = 0
    last_emission_index: int = 0


class FeedResult(NamedTuple):
    """Result of `feed`: the blocks that this event completed, in order, and the block that it extends or follows.

    A delta `is_late` if its block has ended: it adds nothing.
    """

    completed: tuple[StreamBlock, ...] = ()
    block: StreamBlock | None = None
    is_late: bool = False


_NOTHING = FeedResult()
_BlockKey = tuple[type[StreamEvent], int, int | None, str]
"""Common part of the deltas of one block: kind, choice, number and channel."""


class BlockAssembler:
    """Assembles the blocks of one response.

    Text and reasoning end when another block of the same choice begins. A tool call ends there
    too if its arguments are whole JSON and no call before it is open; otherwise it stays open,
    because deltas of several calls may be interleaved, and ends with the response. On a wire with markers a
    block ends at its marker. A late delta of an ended block is not added: no policy has judged it.
    A quote is a block of its own, complete at once.
    """

    def __init__(self, *, marks_blocks: bool = False) -> None:
        self.state = StreamState()
        self._marks_blocks = marks_blocks
        self._choices: dict[int, _OpenBlocks] = {}
        self._key: _BlockKey | None = None  # of the latest delta
        self._same_block = _NOTHING  # result for one more delta with that key
        self._extend: Callable[[str], None] = list[str]().append  # its block by a piece

    def begin(self, chunk: Chunk) -> None:
        """Takes a new chunk; `feed` then takes its events, one by one."""
        self.state.raw_chunks.append(chunk)
        self.state.chunk_count += 1

    def run_in(self, chunks: Sequence[Chunk], start: int, most: int) -> Sequence[Chunk]:
        """Returns the provider's own chunks from `start` on that only add to the block of the latest delta: one delta
        each, and `most` of them."""
        if self._key is None:
            return ()
        run = chunks[start : start + most]
        for number, chunk in enumerate(run):
            if chunk.raw is None or len(chunk.events) != 1 or self._key_of(chunk.events[0]) != self._key:
                return run[:number]
        return run

    @property
    def run_block(self) -> StreamBlock | None:
        """Block of the latest delta."""
        return self._same_block.block

    def feed_run(self, run: Sequence[Chunk], pieces: Sequence[str]) -> None:
        """Takes the chunks of a run, with their pieces."""
        self.state.raw_chunks.extend(run)
        self.state.chunk_count += len(run)
        if self.run_block is not None:
            self.run_block.extend(pieces)

    def feed(self, event: StreamEvent) -> FeedResult:
        """Assembles one event."""
        key = self._key_of(event)
        if key is not None and key == self._key:
            self._extend(text_of(event))
            return self._same_block
        if not isinstance(event, DELTAS):
            self._key = None
            return self._feed(event)
        result = self._feed_delta(event)
        self._key = None if result.is_late else key
        if key is not None and result.block is not None:
            self._same_block, self._extend = FeedResult(block=result.block), result.block.append
        return result

    def _key_of(self, event: StreamEvent) -> _BlockKey | None:
        """Returns the key of a delta; the next delta with the same key is of the same block and ends no other."""
        if isinstance(event, TextDelta):
            return TextDelta, event.choice, event.index, event.channel
        if isinstance(event, ReasoningDelta):
            return ReasoningDelta, event.choice, event.index, ""
        if not isinstance(event, ToolCallDelta) or not self._marks_blocks or event.id or event.name or event.extra:
            return None
        return ToolCallDelta, event.choice, event.index, ""

    def _feed(self, event: StreamEvent) -> FeedResult:
        if isinstance(event, Finish):
            self.state.finish_reason = event.reason
            return FeedResult(tuple(self._open_blocks(event.choice).close_all()))
        if isinstance(event, Quote):
            return FeedResult(block=self._quote(event))
        if isinstance(event, BlockMarker):
            return self._feed_marker(event)
        return _NOTHING

    def finish(self) -> tuple[StreamBlock, ...]:
        """Completes the blocks that are still open, at the end of the stream."""
        return tuple(block for choice in self._choices.values() for block in choice.close_all())

    def _feed_delta(self, event: DeltaEvent) -> FeedResult:
        choice = self._open_blocks(event.choice)
        block = choice.find(event)
        if block is not None and block.is_complete:
            return FeedResult(block=block, is_late=True)
        goes_on = self._marks_blocks or (block is not None and block is choice.current)
        completed = () if goes_on else tuple(choice.close_ended(but=block))
        block = block or self._open(choice, event)
        self.state.current_block = choice.current = block
        choice.append(block, event)
        return FeedResult(completed, block)

    def _feed_marker(self, event: BlockMarker) -> FeedResult:
        choice = self._open_blocks(event.choice)
        if event.kind in ("other", "unknown"):
            return _NOTHING if event.follows is None else FeedResult(block=choice.at_index(event.follows))
        block = choice.at_index(event.index)
        if event.role == "begin":
            return FeedResult(block=self._open(choice, event))
        if block is None or block.is_complete or event.role == "detail":
            return FeedResult(block=block)
        return FeedResult((choice.close(block),), block)

    def _quote(self, event: Quote) -> ContentStreamBlock:
        block = ContentStreamBlock(event.choice)
        block.is_quoted = block.is_complete = True
        block.host = self._open_blocks(event.choice).host(event)
        block.append(event.text)
        self._add_block(block)
        return block

    def _open(self, choice: "_OpenBlocks", event: DeltaEvent | BlockMarker) -> StreamBlock:
        block = choice.open(event)
        self._add_block(block)
        self.state.current_block = choice.current = block
        return block

    def _add_block(self, block: StreamBlock) -> None:
        block.place = len(self.state.blocks)
        self.state.blocks.append(block)

    def _open_blocks(self, choice: int) -> "_OpenBlocks":
        found = self._choices.get(choice)
        if found is None:
            found = self._choices[choice] = _OpenBlocks(choice, marks_blocks=self._marks_blocks)
        return found


class _OpenBlocks:
    """Open blocks of one choice: any number of calls, usually one of text or reasoning at most."""

    def __init__(self, choice: int, *, marks_blocks: bool) -> None:
        self.choice = choice
        self._marks_blocks = marks_blocks
        self.current: StreamBlock | None = None
        self._latest: StreamBlock | None = None  # that has begun
        self._texts: list[StreamBlock] = []  # one at most, unless the wire marks its blocks
        self._latest_text: ContentStreamBlock | None = None
        self._calls: list[ToolCallStreamBlock] = []
        self._ends: dict[ToolCallStreamBlock, _ObjectEnd] = {}  # of the open calls, in their order
        self._by_index: dict[int, StreamBlock] = {}
        self._by_id: dict[str, ToolCallStreamBlock] = {}

    def find(self, event: DeltaEvent) -> StreamBlock | None:
        if isinstance(event, ToolCallDelta):
            return self._find_call(event)
        if event.index is not None:
            return self._by_index.get(event.index)
        current = self.current
        if isinstance(event, TextDelta):
            is_same = isinstance(current, ContentStreamBlock) and current.channel == event.channel
        else:
            is_same = isinstance(current, ReasoningStreamBlock)
        return current if is_same and current is not None and not current.is_complete else None

    def _find_call(self, event: ToolCallDelta) -> ToolCallStreamBlock | None:
        same_id = self._by_id.get(event.id) if event.id else None
        if event.index is None:
            return same_id or (None if event.id or event.name or not self._calls else self._calls[-1])
        call = self._by_index.get(event.index)
        if not isinstance(call, ToolCallStreamBlock):
            return None
        if not event.id and self._begins_another(call, event):
            return None
        if not event.id or call.id in (None, event.id):
            return call
        return same_id or (None if event.name else call)  # some providers give every call the index 0

    def _begins_another(self, call: ToolCallStreamBlock, event: ToolCallDelta) -> bool:
        """Holds for a named piece without an id, after the arguments of `call` are whole: some providers give every
        call the index 0 and no id."""
        if self._marks_blocks or not event.name or not call.name:
            return False
        is_whole = call.is_complete or self._has_ended(call)
        return is_whole and (event.name != call.name or bool(event.arguments.strip()))

    def at_index(self, index: int) -> StreamBlock | None:
        return self._by_index.get(index)

    def host(self, quote: Quote) -> StreamBlock | None:
        """Returns the block of `quote`: the latest text, on wires that do not number it."""
        if not self._marks_blocks and quote.follows is None and quote.index < 0:
            return self._latest_text
        return self.at_index(quote.index if quote.follows is None else quote.follows)

    def open(self, event: DeltaEvent | BlockMarker) -> StreamBlock:
        is_another_open = bool(self._ends or self._texts)
        block = self._open_call(event) if isinstance(event, ToolCallDelta) else self._open_text(event)
        if event.index is not None:
            self._by_index[event.index] = block
        if self._marks_blocks and is_another_open:
            block.overlaps = True
            if self._latest is not None and not self._latest.is_complete:  # those before it are marked already
                self._latest.overlaps = True
        self._latest = block
        return block

    def _open_text(self, event: TextDelta | ReasoningDelta | BlockMarker) -> StreamBlock:
        is_text = isinstance(event, TextDelta) or (isinstance(event, BlockMarker) and event.kind == "text")
        channel = event.channel if isinstance(event, TextDelta) else ""
        block = ContentStreamBlock(self.choice, channel) if is_text else ReasoningStreamBlock(self.choice)
        self._texts.append(block)
        self._latest_text = block if isinstance(block, ContentStreamBlock) else self._latest_text
        return self._texts[-1]

    def _open_call(self, event: ToolCallDelta) -> ToolCallStreamBlock:
        call = ToolCallStreamBlock(len(self._calls), self.choice, event.form)
        self._calls.append(call)
        self._ends[call] = _ObjectEnd()
        if event.id:
            self._by_id[event.id] = call
        return call

    def append(self, block: StreamBlock, event: DeltaEvent) -> None:
        _append(block, event)
        if isinstance(event, ToolCallDelta) and isinstance(block, ToolCallStreamBlock) and not self._marks_blocks:
            self._ends[block].feed(event.arguments)

    def close_ended(self, but: StreamBlock | None) -> Iterator[StreamBlock]:
        """Closes the blocks that have ended, but not `but`. Calls end in the order in which they began."""
        while (call := next(iter(self._ends), None)) is not None and call is not but and self._has_ended(call):
            yield self.close(call)
        for text in [text for text in self._texts if text is not but]:
            yield self.close(text)

    def close_all(self) -> Iterator[StreamBlock]:
        for block in [*self._ends, *self._texts]:
            yield self.close(block)
        self.current = None

    def close(self, block: StreamBlock) -> StreamBlock:
        if isinstance(block, ToolCallStreamBlock):
            del self._ends[block]
        else:
            self._texts.remove(block)
        block.is_complete = True
        return block

    def _has_ended(self, call: ToolCallStreamBlock) -> bool:
        end = self._ends[call]
        if call.form != "custom" and end.is_reached and not _is_json(call.arguments):
            end.is_out_of_reach = True
        return call.form != "custom" and end.is_reached


def _append(block: StreamBlock, event: DeltaEvent) -> None:
    if isinstance(event, ToolCallDelta):
        block.append(event.arguments)
        if isinstance(block, ToolCallStreamBlock):
            _append_head(block, event)
    else:
        block.append(event.text)


def _append_head(call: ToolCallStreamBlock, event: ToolCallDelta) -> None:
    if event.id and call.id is None:
        call.id = event.id
    if event.name and event.name != call.name:  # some providers repeat the name in each piece
        call.is_renamed = bool(call.name)
        call.name += event.name
    if event.extra:
        call.extra.update(event.extra)


class _ObjectEnd:
    """Finds the possible end of a JSON object in pieces, and looks at each character once."""

    __slots__ = ("_carry", "_depth", "_is_begun", "_is_in_string", "is_out_of_reach")

    def __init__(self) -> None:
        self._carry = ""
        self._depth = 0
        self._is_begun = False
        self._is_in_string = False
        self.is_out_of_reach = False
        """The pieces are not a JSON object."""

    @property
    def is_reached(self) -> bool:
        return self._is_begun and self._depth == 0 and not self.is_out_of_reach

    def feed(self, piece: str) -> None:
        marks = _JSON_MARK.findall(self._carry + piece)
        self._carry = "\\" if marks and marks[-1] == "\\" else ""  # the escaped character comes with the next piece
        for mark in marks:
            if mark == '"':
                self._is_in_string = not self._is_in_string
            elif not self._is_in_string and mark in "{[":
                self._is_begun = True
                self._depth += 1
            elif not self._is_in_string and mark in "}]":
                self._depth -= 1


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
