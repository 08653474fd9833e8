"""Events in, blocks out: which block a piece belongs to, and when a block is complete.

Pure: no clock, no logger, nothing awaited.
"""

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import (
    Chunk,
    ContentStreamBlock,
    DeltaEvent,
    Finish,
    ReasoningDelta,
    ReasoningStreamBlock,
    StreamBlock,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    ToolCallStreamBlock,
)

RAW_CHUNKS_KEPT = 100


def _recent_chunks() -> deque[Chunk]:
    return deque(maxlen=RAW_CHUNKS_KEPT)


@dataclass(slots=True)
class StreamState:
    """What came so far.

    `raw_chunks` are the latest chunks only (`RAW_CHUNKS_KEPT` of them); `chunk_count` counts all.
    `just_completed` is set while the complete hook of that block runs. `last_emission_index` is
    what `chunk_count` was when a policy last let something out.
    """

    blocks: list[StreamBlock] = field(default_factory=list[StreamBlock])
    current_block: StreamBlock | None = None
    just_completed: StreamBlock | None = None
    finish_reason: str | None = None
    raw_chunks: deque[Chunk] = field(default_factory=_recent_chunks)
    chunk_count: int = 0
    last_emission_index: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """What one event did: the blocks that it completed, in order, then the block that it adds to."""

    completed: tuple[StreamBlock, ...] = ()
    block: StreamBlock | None = None


_NOTHING = Step()


class BlockAssembler:
    """Builds the blocks of one answer.

    Text and reasoning end when something else of the same choice begins. A tool call ends there
    too if its arguments are whole JSON; otherwise it stays open, because deltas of several calls
    may be interleaved, and ends with the answer. A piece for a call that has ended is a
    `WireError`: what was judged is all that may be delivered of it.
    """

    def __init__(self) -> None:
        self.state = StreamState()
        self._choices: dict[int, _OpenBlocks] = {}

    def begin(self, chunk: Chunk) -> None:
        """Notes that `chunk` came; its events follow, one by one, through `feed`."""
        self.state.raw_chunks.append(chunk)
        self.state.chunk_count += 1

    def feed(self, event: StreamEvent) -> Step:
        """Takes one event in."""
        if isinstance(event, TextDelta | ReasoningDelta | ToolCallDelta):
            return self._feed_delta(event)
        if isinstance(event, Finish):
            self.state.finish_reason = event.reason
            return Step(tuple(self._of(event.choice).close_all()))
        return _NOTHING

    def finish(self) -> tuple[StreamBlock, ...]:
        """Completes whatever is still open, at the end of the stream."""
        return tuple(block for choice in self._choices.values() for block in choice.close_all())

    def _feed_delta(self, event: DeltaEvent) -> Step:
        of_choice = self._of(event.choice)
        block = of_choice.find(event)
        if block is not None and block.is_complete:
            return _late(event)
        if block is not None and block is of_choice.current:
            _append(block, event)
            return Step(block=block)
        completed = tuple(of_choice.close_ended(but=block))
        if block is None:
            block = of_choice.open(event)
            self.state.blocks.append(block)
        of_choice.current = block
        self.state.current_block = block
        _append(block, event)
        return Step(completed, block)

    def _of(self, choice: int) -> "_OpenBlocks":
        found = self._choices.get(choice)
        if found is None:
            found = self._choices[choice] = _OpenBlocks(choice)
        return found


class _OpenBlocks:
    """The open blocks of one choice: a text or reasoning block at most, and any number of calls."""

    def __init__(self, choice: int) -> None:
        self.choice = choice
        self.current: StreamBlock | None = None
        self._calls: list[ToolCallStreamBlock] = []
        self._open: dict[StreamBlock, int] = {}
        self._by_index: dict[int, ToolCallStreamBlock] = {}

    def find(self, event: DeltaEvent) -> StreamBlock | None:
        if isinstance(event, ToolCallDelta):
            return self._find_call(event)
        kind = ContentStreamBlock if isinstance(event, TextDelta) else ReasoningStreamBlock
        return self.current if isinstance(self.current, kind) and not self.current.is_complete else None

    def _find_call(self, event: ToolCallDelta) -> ToolCallStreamBlock | None:
        if event.index is not None:
            call = self._by_index.get(event.index)
            if call is not None and event.name and event.id and call.id and event.id != call.id:
                return None  # some providers give every call the index 0
        elif event.id:
            call = next((call for call in self._calls if call.id == event.id), None)
        else:
            call = None if event.name or not self._calls else self._calls[-1]
        return call

    def open(self, event: DeltaEvent) -> StreamBlock:
        block: StreamBlock
        if isinstance(event, ToolCallDelta):
            block = ToolCallStreamBlock(len(self._calls), self.choice, event.form)
            self._calls.append(block)
            if event.index is not None:
                self._by_index[event.index] = block
        elif isinstance(event, TextDelta):
            block = ContentStreamBlock(self.choice)
        else:
            block = ReasoningStreamBlock(self.choice)
        self._open[block] = 0
        return block

    def close_ended(self, but: StreamBlock | None) -> Iterator[StreamBlock]:
        is_call_open = False
        for block in list(self._open):
            if isinstance(block, ToolCallStreamBlock):  # calls end in the order in which they began
                is_call_open = is_call_open or block is but or not self._has_ended(block)
            if block is not but and not (is_call_open and isinstance(block, ToolCallStreamBlock)):
                yield self._close(block)

    def close_all(self) -> Iterator[StreamBlock]:
        for block in list(self._open):
            yield self._close(block)
        self.current = None

    def _close(self, block: StreamBlock) -> StreamBlock:
        del self._open[block]
        block.is_complete = True
        return block

    def _has_ended(self, block: ToolCallStreamBlock) -> bool:
        if block.form == "custom":
            return False
        arguments = block.arguments
        if len(arguments) < 2 * self._open[block]:
            return False  # parsed not long ago: together, all parses of a call stay linear
        self._open[block] = len(arguments)
        return _is_whole_json(arguments)


def _late(event: DeltaEvent) -> Step:
    if isinstance(event, ToolCallDelta) and (event.arguments or event.name):
        raise WireError("a tool call went on after it had ended")
    return _NOTHING


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
        call.name += event.name
    if event.extra:
        call.extra.update(event.extra)


def _is_whole_json(text: str) -> bool:
    if not text.endswith("}"):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
