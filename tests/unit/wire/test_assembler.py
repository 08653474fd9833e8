"""The assembler: however an answer is cut, the same blocks come out of it, and the same hooks are called."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luthien_litellm_hooks import (
    Chunk,
    ContentStreamBlock,
    Policy,
    PolicyExecutor,
    ReasoningStreamBlock,
    StreamBlock,
    StreamingResponseContext,
    ToolCallStreamBlock,
)
from luthien_litellm_hooks.wire.assembler import RAW_CHUNKS_KEPT, BlockAssembler
from luthien_litellm_hooks.wire.events import (
    DELTAS,
    Finish,
    Opaque,
    Quote,
    ReasoningDelta,
    ResponseStart,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    ToolForm,
    Usage,
)
from tests.support.chat import adapter, chunk, context, provide, tool
from tests.support.event_wire import EventWire, Unit

# Blocks, as a test writes them down


@dataclass(frozen=True)
class Block:
    """What a block must be in the end."""

    kind: Literal["content", "reasoning", "tool_call"]
    text: str
    id: str | None = None
    name: str = ""
    form: ToolForm = "function"

    @property
    def ends_with_the_next(self) -> bool:
        """Whether it is over when another begins; a call may go on until it is whole JSON."""
        return self.kind != "tool_call" or (self.form == "function" and _is_json_object(self.text))


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def text(content: str) -> Block:
    return Block("content", content)


def thought(content: str) -> Block:
    return Block("reasoning", content)


def call(id: str | None, name: str, arguments: str, form: ToolForm = "function") -> Block:
    return Block("tool_call", arguments, id, name, form)


def seen(block: StreamBlock) -> Block:
    """A block of the assembler's, written down."""
    if isinstance(block, ToolCallStreamBlock):
        return call(block.id, block.name, block.arguments, block.form)
    assert isinstance(block, ContentStreamBlock | ReasoningStreamBlock)
    return Block("content" if isinstance(block, ContentStreamBlock) else "reasoning", block.content)


def feed(assembler: BlockAssembler, *events: StreamEvent) -> list[Block]:
    """What `events` complete, in order."""
    return [seen(block) for event in events for block in assembler.feed(event).completed]


def assemble(*events: StreamEvent) -> list[Block]:
    """All blocks of an answer."""
    assembler = BlockAssembler()
    for event in events:
        assembler.feed(event)
    assembler.finish()
    assert all(block.is_complete for block in assembler.state.blocks)
    return [seen(block) for block in assembler.state.blocks]


def decoded(*chunks: Any) -> list[StreamEvent]:
    """The events of LiteLLM's chunks."""
    wire = adapter()
    return [event for raw in chunks for part in wire.decode(raw) for event in part.events]


# A policy that writes down what it is called for


@dataclass(frozen=True)
class Called:
    """One call of a hook. `block` counts the blocks of the whole answer."""

    hook: str
    block: int | None = None
    text: str = ""


@dataclass
class Log(Policy):
    """Lets everything through; checks what every hook may rely on."""

    calls: list[Called] = field(default_factory=list)
    blocks: list[StreamBlock] = field(default_factory=list)
    chunks: int = 0

    async def on_chunk_received(self, ctx: StreamingResponseContext) -> None:
        assert ctx.block is None
        self.chunks += 1
        assert ctx.ingress_state.chunk_count == self.chunks
        assert len(ctx.ingress_state.raw_chunks) == min(self.chunks, RAW_CHUNKS_KEPT)

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        self._delta("content", ctx)
        await super().on_content_delta(ctx)

    async def on_reasoning_delta(self, ctx: StreamingResponseContext) -> None:
        self._delta("reasoning", ctx)
        await super().on_reasoning_delta(ctx)

    async def on_tool_call_delta(self, ctx: StreamingResponseContext) -> None:
        self._delta("tool_call", ctx)
        await super().on_tool_call_delta(ctx)

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        self._complete("content", ctx)

    async def on_reasoning_complete(self, ctx: StreamingResponseContext) -> None:
        self._complete("reasoning", ctx)

    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        self._complete("tool_call", ctx)

    async def on_finish_reason(self, ctx: StreamingResponseContext) -> None:
        self.calls.append(Called("finish_reason", text=ctx.ingress_state.finish_reason or ""))

    async def on_stream_complete(self, ctx: StreamingResponseContext) -> None:
        self.calls.append(Called("stream_complete"))

    async def on_stream_closed(self, ctx: StreamingResponseContext) -> None:
        self.calls.append(Called("stream_closed"))
        self.blocks = ctx.ingress_state.blocks

    def _delta(self, kind: str, ctx: StreamingResponseContext) -> None:
        state, block = ctx.ingress_state, ctx.block
        assert block is not None
        assert block is state.current_block
        assert state.just_completed is None
        assert not block.is_complete
        assert ctx.delta is not None
        assert seen(block).kind == kind
        assert seen(block).text.endswith(ctx.delta)
        self._note(f"{kind}_delta", ctx, ctx.delta)

    def _complete(self, kind: str, ctx: StreamingResponseContext) -> None:
        assert ctx.block is not None
        assert ctx.block is ctx.ingress_state.just_completed
        assert ctx.block.is_complete
        assert ctx.delta is None
        assert seen(ctx.block).kind == kind
        self._note(f"{kind}_complete", ctx, seen(ctx.block).text)

    def _note(self, hook: str, ctx: StreamingResponseContext, said: str) -> None:
        number = next(number for number, block in enumerate(ctx.ingress_state.blocks) if block is ctx.block)
        self.calls.append(Called(hook, number, said))

    @property
    def merged(self) -> list[Called]:
        """The calls, with the deltas of a block that came one after the other taken as one."""
        return merge(self.calls)


def merge(calls: Iterable[Called]) -> list[Called]:
    merged: list[Called] = []
    for (hook, block), group in groupby(calls, key=lambda called: (called.hook, called.block)):
        if hook.endswith("_delta"):
            merged.append(Called(hook, block, "".join(called.text for called in group)))
        else:
            merged += group
    return merged


async def run(units: Iterable[Unit]) -> tuple[Log, list[Unit]]:
    """What the policy is called for, and what the client gets."""
    log = Log()
    stream = PolicyExecutor(log).run(provide(units), EventWire(), context())
    return log, [unit async for unit in stream]


# Any answer, cut anywhere

Style = Literal["index", "repeated head", "id", "neither", "zero"]
STYLES: tuple[Style, ...] = ("index", "repeated head", "id", "neither", "zero")
ORDERLY: frozenset[Style] = frozenset({"neither", "zero"})
"""How the pieces of a call are told apart; by these styles only if no two calls are mixed."""

words = st.text(st.one_of(st.sampled_from('{}[]",:\\ \n'), st.characters(codec="utf-8")), max_size=8)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), words),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(words, inner, max_size=2)),
    max_leaves=4,
)
objects = st.builds(
    json.dumps,
    st.dictionaries(words, values, max_size=3),
    ensure_ascii=st.booleans(),
    indent=st.sampled_from([None, 1]),
)
broken = st.one_of(words.map("not JSON {}".__add__), objects.map(lambda whole: whole[:-1]))
calls = st.builds(
    call,
    st.text("abc", min_size=1, max_size=6),
    st.text("xyz_", min_size=1, max_size=6),
    st.one_of(objects, objects, broken),
    st.sampled_from(["function", "function", "function", "custom"]),
)
texts = words.filter(bool).map(text)
thoughts = words.map(thought)


@st.composite
def answers(draw: st.DrawFn, may_mix: bool = True) -> list[list[Block]]:
    """The blocks of one choice; those of an inner list come at the same time."""
    one = st.one_of(texts, thoughts, calls).map(lambda block: [block])
    mixed = st.lists(calls, min_size=2, max_size=3)
    drawn = draw(st.lists(st.one_of(one, mixed) if may_mix else one, max_size=5))
    answer: list[list[Block]] = []
    for number, group in enumerate(drawn):
        if answer and group[0].kind != "tool_call" and group[0].kind == answer[-1][0].kind:
            continue  # two texts in a row would be one
        answer.append(
            [replace(block, id=block.id and f"{block.id}{number}{place}") for place, block in enumerate(group)]
        )
    return answer


@dataclass(frozen=True)
class Piece:
    """One event, and the block that it must become a part of."""

    event: StreamEvent
    block: Block | None = None


@st.composite
def cuts(draw: st.DrawFn, answer: list[list[Block]], choice: int = 0, finish: str | None = "stop") -> list[Piece]:
    """The pieces of `answer` in some order that a provider may send them in."""
    is_mixed = any(len(group) > 1 for group in answer)
    style = draw(st.sampled_from([style for style in STYLES if not (is_mixed and style in ORDERLY)]))
    offset = draw(st.integers(0, 2))
    pieces = [Piece(ResponseStart(choice=choice)), Piece(Opaque(choice=choice))]
    number = offset
    for group in answer:
        streams: list[list[Piece]] = []
        for block in group:
            streams.append(draw(_pieces(block, choice, number, style)))
            number += block.kind == "tool_call"
        pieces += draw(mixes(streams))
    if finish is not None:
        pieces += [Piece(Finish(choice=choice, reason=finish))] * draw(st.integers(1, 2))
    return pieces


@st.composite
def _pieces(draw: st.DrawFn, block: Block, choice: int, number: int, style: Style) -> list[Piece]:
    ends = sorted(draw(st.lists(st.integers(0, len(block.text)), max_size=4)))
    parts = [block.text[start:end] for start, end in zip([0, *ends], [*ends, len(block.text)], strict=True)]
    while block.kind == "tool_call" and len(parts) > 1 and not parts[-1]:
        parts.pop()  # it would come late if the call is over by then
    if block.kind == "content":
        return [Piece(TextDelta(choice=choice, text=part), block) for part in parts]
    if block.kind == "reasoning":
        return [Piece(ReasoningDelta(choice=choice, text=part), block) for part in parts]
    index = {"index": number, "repeated head": number, "zero": 0}.get(style)
    first = ToolCallDelta(choice=choice, index=index, id=block.id, name=block.name, arguments=parts[0], form=block.form)
    later = first if style == "repeated head" else replace(first, name=None, id=first.id if style == "id" else None)
    return [Piece(first, block), *(Piece(replace(later, arguments=part), block) for part in parts[1:])]


@st.composite
def mixes(draw: st.DrawFn, streams: list[list[Piece]]) -> list[Piece]:
    """All pieces of `streams`, each in its own order."""
    owners = [number for number, stream in enumerate(streams) for _ in stream]
    order = draw(st.permutations(owners)) if len(streams) > 1 else owners
    left = [iter(stream) for stream in streams]
    return [next(left[owner]) for owner in order]


@st.composite
def groupings(draw: st.DrawFn, pieces: Sequence[Piece]) -> list[Unit]:
    """The events of `pieces` in chunks of any size."""
    ends = sorted(draw(st.sets(st.integers(1, max(1, len(pieces) - 1)), max_size=len(pieces))))
    events = [piece.event for piece in pieces]
    units = [tuple(events[start:end]) for start, end in zip([0, *ends], [*ends, len(events)], strict=True)]
    return [*units, (Usage(),)]


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[Piece], list[Unit]]:
    """An answer of several choices: its pieces, and the same in chunks."""
    finishes = st.sampled_from(["stop", "tool_calls", "length", None])
    choices = [
        draw(cuts(draw(answers()), choice=choice, finish=draw(finishes)))
        for choice in range(draw(st.sampled_from([1, 1, 1, 2, 3])))
    ]
    pieces = draw(mixes(choices))
    return pieces, draw(groupings(pieces))


def blocks_of(pieces: Iterable[Piece]) -> list[tuple[int, Block]]:
    """The choice and the block of each block that begins in `pieces`, in order."""
    found: dict[int, tuple[int, Block]] = {}
    for piece in pieces:
        if piece.block is not None:
            found.setdefault(id(piece.block), (piece.event.choice, piece.block))
    return list(found.values())


def calls_owed(pieces: Iterable[Piece]) -> list[Called]:
    """The hooks that must be called for `pieces`, as `BlockAssembler` and `Policy` promise it."""
    numbers: dict[int, int] = {}
    left = {id(block): len([1 for p in pieces if p.block is block]) for p in pieces if (block := p.block)}
    opened: dict[int, list[Block]] = {}
    owed: list[Called] = []

    def ended(blocks: Iterable[Block], but: Block) -> Iterable[Block]:
        """Those that are over when `but` goes on; calls end in the order in which they began."""
        is_call_open = False
        for old in blocks:
            is_over = old is not but and old.ends_with_the_next and not left[id(old)]
            if old.kind == "tool_call":
                is_call_open = is_call_open or not is_over
                is_over = not is_call_open
            if is_over:
                yield old

    def complete(choice: int, blocks: Iterable[Block]) -> None:
        for block in list(blocks):
            opened[choice].remove(block)
            owed.append(Called(f"{block.kind}_complete", numbers[id(block)], block.text))

    current: dict[int, Block | None] = {}
    finished: set[int] = set()
    for piece in pieces:
        event, block, choice = piece.event, piece.block, piece.event.choice
        if isinstance(event, Finish):
            complete(choice, opened.setdefault(choice, []))
            if choice not in finished:
                finished.add(choice)
                owed.append(Called("finish_reason", text=event.reason))
        if block is None:
            continue
        of_choice = opened.setdefault(choice, [])
        if current.get(choice) is not block:
            complete(choice, ended(of_choice, but=block))
        if id(block) not in numbers:
            numbers[id(block)] = len(numbers)
            of_choice.append(block)
        current[choice] = block
        left[id(block)] -= 1
        owed.append(Called(f"{block.kind}_delta", numbers[id(block)], _said(event)))
    for choice in opened:
        complete(choice, opened[choice])
    return merge([*owed, Called("stream_complete"), Called("stream_closed")])


def _said(event: StreamEvent) -> str:
    if isinstance(event, ToolCallDelta):
        return event.arguments
    assert isinstance(event, TextDelta | ReasoningDelta)
    return event.text


few = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@few
@given(streams())
async def test_however_an_answer_is_cut_the_hooks_are_called_in_order(drawn: tuple[list[Piece], list[Unit]]) -> None:
    pieces, units = drawn
    log, _ = await run(units)
    assert log.merged == calls_owed(pieces)
    assert log.chunks == len(units)


@few
@given(streams())
async def test_however_an_answer_is_cut_the_same_blocks_come_and_leave(drawn: tuple[list[Piece], list[Unit]]) -> None:
    pieces, units = drawn
    log, delivered = await run(units)
    assert [(block.choice, seen(block)) for block in log.blocks] == blocks_of(pieces)
    left = [event for unit in delivered for event in unit]
    assert assemble(*left) == [block for _, block in blocks_of(pieces)]
    came = [event for unit in units for event in unit]
    for choice in range(3):
        assert _content_of(choice, left) == _content_of(choice, came)


def _content_of(choice: int, events: Iterable[StreamEvent]) -> list[StreamEvent]:
    """The pieces of a choice and its finish, without the numbers of its calls."""
    of_choice = [event for event in events if event.choice == choice and isinstance(event, (*DELTAS, Finish))]
    return [replace(event, index=None) if isinstance(event, ToolCallDelta) else event for event in of_choice]


@few
@given(st.data())
async def test_two_cuts_of_an_answer_call_the_same_hooks(data: st.DataObject) -> None:
    answer = data.draw(answers(may_mix=False))
    logs = [(await run(data.draw(groupings(data.draw(cuts(answer))))))[0] for _ in range(2)]
    assert logs[0].merged == logs[1].merged


@few
@given(answers(), st.data())
def test_calls_are_numbered_in_the_order_they_began(answer: list[list[Block]], data: st.DataObject) -> None:
    assembler = BlockAssembler()
    for piece in data.draw(cuts(answer, choice=1)):
        assembler.feed(piece.event)
    indices = [block.index for block in assembler.state.blocks if isinstance(block, ToolCallStreamBlock)]
    assert indices == list(range(len(indices)))
    assert {block.choice for block in assembler.state.blocks} <= {1}


# How providers tell the pieces of a call apart


def test_pieces_without_an_index() -> None:
    assert assemble(
        ToolCallDelta(id="a", name="add", arguments='{"x"'),
        ToolCallDelta(arguments=": 1}"),
        ToolCallDelta(id="b", name="sub"),
        ToolCallDelta(arguments="{}"),
    ) == [call("a", "add", '{"x": 1}'), call("b", "sub", "{}")]


def test_pieces_with_ids_only() -> None:
    assert assemble(
        ToolCallDelta(id="a", name="add", arguments='{"x"'),
        ToolCallDelta(id="b", name="sub", arguments='{"y"'),
        ToolCallDelta(id="a", arguments=": 1}"),
        ToolCallDelta(id="b", arguments=": 2}"),
    ) == [call("a", "add", '{"x": 1}'), call("b", "sub", '{"y": 2}')]


def test_calls_that_all_have_the_index_0() -> None:
    assert assemble(
        ToolCallDelta(index=0, id="a", name="add", arguments='{"x"'),
        ToolCallDelta(index=0, arguments=": 1}"),
        ToolCallDelta(index=0, id="b", name="sub", arguments="{"),
        ToolCallDelta(index=0, arguments="}"),
    ) == [call("a", "add", '{"x": 1}'), call("b", "sub", "{}")]


def test_mixed_calls_that_all_have_the_index_0() -> None:
    """So LiteLLM hands on what comes with ids only: it numbers the calls of each delta from 0."""
    events = decoded(
        chunk(tool_calls=[{"id": "a", "function": {"name": "add", "arguments": '{"x"'}}]),
        chunk(tool_calls=[{"id": "b", "function": {"name": "sub", "arguments": '{"y"'}}]),
        chunk(tool_calls=[{"id": "a", "function": {"arguments": ": 1}"}}]),
        chunk(tool_calls=[{"id": "b", "function": {"arguments": ": 2}"}}]),
    )
    assert assemble(*events) == [call("a", "add", '{"x": 1}'), call("b", "sub", '{"y": 2}')]


def test_an_index_that_begins_anywhere() -> None:
    assert assemble(
        ToolCallDelta(index=7, id="a", name="add"),
        ToolCallDelta(index=3, id="b", name="sub"),
        ToolCallDelta(index=7, arguments="{}"),
    ) == [call("a", "add", "{}"), call("b", "sub", "")]


def test_a_name_repeated_in_each_piece() -> None:
    assert assemble(
        ToolCallDelta(index=0, id="a", name="add", arguments="{"),
        ToolCallDelta(index=0, id="a", name="add", arguments="}"),
    ) == [call("a", "add", "{}")]


def test_a_name_split_over_pieces() -> None:
    assert assemble(
        ToolCallDelta(index=0, id="a", name="get_"),
        ToolCallDelta(index=0, name="weather", arguments="{}"),
    ) == [call("a", "get_weather", "{}")]


def test_an_id_that_comes_after_the_name() -> None:
    assert assemble(
        ToolCallDelta(index=0, name="add", arguments="{"),
        ToolCallDelta(index=0, id="a", arguments="}"),
    ) == [call("a", "add", "{}")]


def test_an_id_that_changes_with_each_piece() -> None:
    assert assemble(
        ToolCallDelta(index=0, id="a1", name="add", arguments="{"),
        ToolCallDelta(index=0, id="a2", arguments="}"),
    ) == [call("a1", "add", "{}")]


def test_two_calls_in_one_delta() -> None:
    events = decoded(chunk(tool_calls=[tool(0, "a", "add", "{}"), tool(1, "b", "sub", "{}")]))
    assert assemble(*events) == [call("a", "add", "{}"), call("b", "sub", "{}")]


def test_text_and_a_call_in_one_delta() -> None:
    events = decoded(chunk(reasoning_content="hm", content="so", tool_calls=[tool(0, "a", "add", "{}")]))
    assert assemble(*events) == [thought("hm"), text("so"), call("a", "add", "{}")]


def test_a_legacy_function_call() -> None:
    events = decoded(
        chunk(function_call={"name": "add", "arguments": '{"x"'}),
        chunk(function_call={"name": None, "arguments": ": 1}"}),
    )
    assert assemble(*events) == [call(None, "add", '{"x": 1}', form="legacy_function")]


def test_a_custom_call_is_free_text_and_open_to_the_end() -> None:
    head = {"index": 0, "id": "a", "type": "custom", "custom": {"name": "shell", "input": "{}"}}
    tail = {"index": 0, "type": "custom", "custom": {"input": " | sort"}}
    events = decoded(chunk(tool_calls=[head]), chunk(content="done"), chunk(tool_calls=[tail]))
    assert assemble(*events) == [call("a", "shell", "{} | sort", form="custom"), text("done")]


# When a block is complete


def test_text_ends_when_something_else_begins() -> None:
    assembler = BlockAssembler()
    assert feed(assembler, TextDelta(text="Hel"), TextDelta(text="lo")) == []
    assert feed(assembler, ReasoningDelta(text="hm")) == [text("Hello")]
    assert feed(assembler, TextDelta(text="!")) == [thought("hm")]


def test_what_no_policy_judges_ends_nothing() -> None:
    assembler = BlockAssembler()
    assert feed(assembler, TextDelta(text="Hel"), Opaque(), Usage(), ResponseStart(), TextDelta(text="lo")) == []
    assert [seen(block) for block in assembler.finish()] == [text("Hello")]


def test_another_choice_ends_nothing() -> None:
    assembler = BlockAssembler()
    events = [TextDelta(text="one"), TextDelta(choice=1, text="two"), ReasoningDelta(choice=1, text="hm")]
    assert feed(assembler, *events) == [text("two")]
    assert feed(assembler, Finish(choice=1, reason="stop")) == [thought("hm")]
    assert feed(assembler, Finish(reason="stop")) == [text("one")]


def test_text_after_a_call() -> None:
    assembler = BlockAssembler()
    assert feed(assembler, ToolCallDelta(index=0, id="a", name="add", arguments="{}")) == []
    assert feed(assembler, TextDelta(text="done")) == [call("a", "add", "{}")]
    assert feed(assembler, Finish(reason="tool_calls")) == [text("done")]


def test_a_call_ends_no_sooner_than_those_before_it() -> None:
    assembler = BlockAssembler()
    assert feed(assembler, ToolCallDelta(index=0, id="a", name="add", arguments="{")) == []
    assert feed(assembler, ToolCallDelta(index=1, id="b", name="sub", arguments="{}")) == []
    assert feed(assembler, ToolCallDelta(index=0, arguments="}")) == []
    assert feed(assembler, TextDelta(text="done")) == [call("a", "add", "{}"), call("b", "sub", "{}")]


def test_mixed_calls_end_when_each_is_whole() -> None:
    assembler = BlockAssembler()
    assert feed(assembler, ToolCallDelta(index=0, id="a", name="add", arguments='{"x"')) == []
    assert feed(assembler, ToolCallDelta(index=1, id="b", name="sub", arguments='{"y"')) == []
    assert feed(assembler, ToolCallDelta(index=0, arguments=": [1, 2, 3]}")) == []
    assert feed(assembler, ToolCallDelta(index=1, arguments=": 2}")) == [call("a", "add", '{"x": [1, 2, 3]}')]
    assert feed(assembler, TextDelta(text="done")) == [call("b", "sub", '{"y": 2}')]


@pytest.mark.parametrize("late", ["}", '"}', '1}]}"}'])
def test_a_mixed_call_that_was_nearly_whole_ends_too(late: str) -> None:
    """A policy that holds a call must have decided on it before the text after it goes out."""
    whole = {"}": '{"x": {}}', '"}': '{"x": "}"}', '1}]}"}': '{"x": "[{1}]}"}'}[late]
    assembler = BlockAssembler()
    feed(assembler, ToolCallDelta(index=0, id="a", name="add", arguments=whole.removesuffix(late)))
    feed(assembler, ToolCallDelta(index=1, id="b", name="sub"), ToolCallDelta(index=0, arguments=late))
    assert feed(assembler, TextDelta(text="done")) == [call("a", "add", whole)]


@pytest.mark.parametrize("arguments", ["", "oops", "{oops", "{oops}", "{}}", "{}{}", '{"x": 1}, {"y": 2}'])
def test_a_call_that_is_not_json_ends_with_the_answer(arguments: str) -> None:
    assembler = BlockAssembler()
    assert feed(assembler, ToolCallDelta(index=0, id="a", name="add", arguments=arguments)) == []
    assert feed(assembler, TextDelta(text="done")) == []
    assert feed(assembler, Finish(reason="stop")) == [call("a", "add", arguments), text("done")]


@pytest.mark.parametrize("arguments", ["{}", '{"x": {"y": [1, "}"]}}', '{"\\\\": "\\""}', '\n{"x": 1}'])
def test_a_call_that_is_json_ends_with_the_next(arguments: str) -> None:
    assembler = BlockAssembler()
    assert feed(assembler, ToolCallDelta(index=0, id="a", name="add", arguments=arguments)) == []
    assert feed(assembler, TextDelta(text="done")) == [call("a", "add", arguments)]


def test_a_late_piece_for_a_call_that_has_ended() -> None:
    assembler = BlockAssembler()
    feed(assembler, ToolCallDelta(index=0, id="a", name="add", arguments="{}"), TextDelta(text="done"))
    for late in (ToolCallDelta(index=0, arguments="{}"), ToolCallDelta(index=0, id="a")):
        step = assembler.feed(late)
        assert (step.completed, step.is_late) == ((), True)
        assert step.block is assembler.state.blocks[0]
    assert seen(assembler.state.blocks[0]) == call("a", "add", "{}")


def test_a_new_call_may_take_the_index_of_one_that_has_ended() -> None:
    assert assemble(
        ToolCallDelta(index=0, id="a", name="add", arguments="{}"),
        TextDelta(text="next"),
        ToolCallDelta(index=0, id="b", name="add", arguments="{}"),
    ) == [call("a", "add", "{}"), text("next"), call("b", "add", "{}")]


async def test_a_finish_that_denies_the_calls() -> None:
    log, _ = await run([(ToolCallDelta(index=0, id="a", name="add", arguments="{}"),), (Finish(reason="stop"),)])
    assert [called.hook for called in log.calls] == [
        "tool_call_delta",
        "tool_call_complete",
        "finish_reason",
        "stream_complete",
        "stream_closed",
    ]


async def test_no_finish_at_all() -> None:
    units: list[Unit] = [(ResponseStart(), TextDelta(text="Hel")), (TextDelta(text="lo"),)]
    log, delivered = await run(units)
    assert log.merged == [
        Called("content_delta", 0, "Hello"),
        Called("content_complete", 0, "Hello"),
        Called("stream_complete"),
        Called("stream_closed"),
    ]
    assert delivered == units


async def test_nothing_at_all() -> None:
    log, delivered = await run([])
    assert [called.hook for called in log.calls] == ["stream_complete", "stream_closed"]
    assert delivered == []


def test_tiny_pieces_of_two_calls_take_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is joined and parsed in all is counted, because a clock would lie. Each piece looks like an end."""
    parsed: list[int] = []
    joined: list[int] = []
    loads, join = json.loads, ToolCallStreamBlock._text
    monkeypatch.setattr(json, "loads", lambda text: parsed.append(len(text)) or loads(text))
    monkeypatch.setattr(ToolCallStreamBlock, "_text", lambda block: joined.append(len(join(block))) or join(block))
    assembler = BlockAssembler()
    arguments = '{"x":"' + 25_000 * "}" + '"}'
    feed(assembler, ToolCallDelta(index=0, id="a", name="add"), ToolCallDelta(index=1, id="b", name="sub"))
    for piece in arguments:
        assembler.feed(ToolCallDelta(index=0, arguments=piece))
        assembler.feed(ToolCallDelta(index=1, arguments=piece))
    assembler.feed(TextDelta(text="done"))
    first, second, *_ = assembler.state.blocks
    assert first.is_complete
    assert second.is_complete
    assert 2 * len(arguments) <= sum(parsed) <= 4 * len(arguments)
    assert sum(joined) <= 4 * len(arguments)
    assert seen(first).text == seen(second).text == arguments


def test_only_the_latest_chunks_are_kept() -> None:
    assembler = BlockAssembler()
    chunks = [Chunk((TextDelta(text=str(number)),)) for number in range(3 * RAW_CHUNKS_KEPT)]
    for part in chunks:
        assembler.begin(part)
    assert list(assembler.state.raw_chunks) == chunks[-RAW_CHUNKS_KEPT:]
    assert assembler.state.chunk_count == len(chunks)


def test_text_of_another_channel_is_another_block() -> None:
    assembler = BlockAssembler()
    events = [
        TextDelta(text="a"),
        TextDelta(text="b"),
        TextDelta(text="c", channel="refusal"),
        TextDelta(text="d", channel="refusal"),
        TextDelta(text="e"),
    ]
    completed = [block for event in events for block in assembler.feed(event).completed] + [*assembler.finish()]
    read = [(block.channel, block.content) for block in completed if isinstance(block, ContentStreamBlock)]
    assert read == [("", "ab"), ("refusal", "cd"), ("", "e")]


def test_a_quote_without_a_number_belongs_to_the_latest_text() -> None:
    assembler = BlockAssembler()
    first = assembler.feed(Quote(role="detail", kind="text", index=-1, text="x")).block
    text = assembler.feed(TextDelta(text="a")).block
    second = assembler.feed(Quote(role="detail", kind="text", index=-1, text="x")).block
    assert isinstance(first, ContentStreamBlock)
    assert isinstance(second, ContentStreamBlock)
    assert (first.host, second.host) == (None, text)
