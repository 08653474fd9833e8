"""Anthropic messages: recorded and made-up streams in any pieces, and full answers, under every kind of policy."""

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from luthien_litellm_hooks import (
    ContentStreamBlock,
    Policy,
    PolicyBlockedError,
    PolicyContext,
    ReasoningStreamBlock,
    Request,
    SimplePolicy,
    StreamBlock,
    StreamingResponseContext,
    ToolCall,
    ToolCallStreamBlock,
    drop_block,
    passthrough_accumulated_chunks,
    passthrough_last_chunk,
    send_reasoning,
    send_text,
    send_tool_call,
)
from luthien_litellm_hooks.engine.composition import ConfiguredPolicy, Parallel, Serial
from luthien_litellm_hooks.engine.egress_queue import EgressItem
from luthien_litellm_hooks.engine.sequencer import Sequencer
from luthien_litellm_hooks.policies.all_caps import AllCaps, AllCapsConfig
from luthien_litellm_hooks.policies.noop import NoOp
from luthien_litellm_hooks.wire import readable
from luthien_litellm_hooks.wire.assembler import BlockAssembler
from luthien_litellm_hooks.wire.events import Chunk, Finish, ResponseStart, StreamEnd, StreamEvent
from luthien_litellm_hooks.wire.messages.blocks import text_of_result, write_citation, write_result
from luthien_litellm_hooks.wire.messages.read import Frame, MessageReader
from luthien_litellm_hooks.wire.sse import SseDecoder, data_of, write_frame
from tests.support.chat import WITHHELD
from tests.support.messages import (
    JSON,
    Reading,
    accumulated,
    adapter,
    cut,
    deliver,
    deliver_full,
    message,
    payloads,
    read,
    reading,
    sse,
    streamed,
)
from tests.support.recordings import STREAMS

RECORDINGS = sorted((STREAMS / "messages").glob("*.sse"))


@pytest.fixture(
    scope="module", params=RECORDINGS or [None], ids=lambda recording: recording.stem if recording else "none"
)
def raw(request: pytest.FixtureRequest) -> bytes:
    """A recorded stream."""
    if request.param is None:
        pytest.skip(f"no recorded streams of messages in {STREAMS}; LUTHIEN_TEST_STREAMS names them")
    return request.param.read_bytes()


# Frames


LINES = st.sampled_from(["data: x", "data:é", "data", "event: e", ": comment", "id: 7", "", ""])
ENDS = st.sampled_from(["\n", "\r\n"])
WIRES = st.lists(st.tuples(LINES, ENDS), max_size=12).map(lambda lines: "".join(map("".join, lines)).encode())
CUTS = st.lists(st.integers(0, 1 << 20), max_size=12)


@given(WIRES, CUTS)
def test_frames_are_the_same_however_the_bytes_are_cut(raw: bytes, points: list[int]) -> None:
    whole, apart = SseDecoder(), SseDecoder()
    frames = [*whole.feed(raw), *whole.flush()]
    assert [frame for piece in cut(raw, points) for frame in apart.feed(piece)] + apart.flush() == frames
    assert b"".join(frames) == raw


def test_a_frame_says_its_data() -> None:
    raw = "\ufeffdata: über\nevent: greeting\ndata:  alles\n\n: only a comment\r\n\r\ndata: open".encode()
    decoder = SseDecoder()
    frames = [*decoder.feed(raw), *decoder.flush()]
    assert [*map(data_of, frames)] == ["über\n alles", "", "open"]


def test_a_frame_is_there_with_its_last_byte() -> None:
    assert [*map(data_of, SseDecoder().feed(b"data: x\r\n\r\n"))] == ["x"]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r")), st.none() | st.just("e"))
def test_a_written_frame_is_read_back(data: str, event: str | None) -> None:
    [frame] = SseDecoder().feed(write_frame(data, event))
    assert data_of(frame) == data
    assert frame.startswith(b"data" if event is None else b"event: e\ndata")


def test_a_large_frame_in_single_bytes_takes_linear_time() -> None:
    raw = b"data: " + b"x" * 300_000 + b"\n\n"
    decoder = SseDecoder()
    frames = [frame for at in range(len(raw)) for frame in decoder.feed(raw[at : at + 1])]
    assert [len(data_of(frame)) for frame in frames] == [300_000]


# Policies


class DropCalls(SimplePolicy):
    async def on_response_tool_call(self, tool_call: ToolCall, request: Request) -> ToolCall | None:
        return tool_call if tool_call.form == "server" else None


class RenameCalls(SimplePolicy):
    async def on_response_tool_call(self, tool_call: ToolCall, request: Request) -> ToolCall | None:
        return tool_call if tool_call.form == "server" else replace(tool_call, name=f"safe_{tool_call.name}")


class Refuse(SimplePolicy):
    """Refuses at the first words."""

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        raise PolicyBlockedError("refused")

    async def on_response_tool_call(self, tool_call: ToolCall, request: Request) -> ToolCall | None:
        raise PolicyBlockedError("refused")


class HoldAll(Policy):
    """Holds all blocks, and lets them out at the end as they came."""

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None: ...

    async def on_reasoning_delta(self, ctx: StreamingResponseContext) -> None: ...

    async def on_tool_call_delta(self, ctx: StreamingResponseContext) -> None: ...

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None: ...

    async def on_reasoning_complete(self, ctx: StreamingResponseContext) -> None: ...

    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None: ...

    async def on_stream_complete(self, ctx: StreamingResponseContext) -> None:
        await passthrough_accumulated_chunks(ctx)


class Acting(Policy):
    """Does to each block what `action` says for its number; lets what is quoted, and a server's calls, pass."""

    def __init__(self, action: Callable[[int], str]) -> None:
        self._action = action

    def _action_of(self, ctx: StreamingResponseContext) -> str:
        own = [block for block in ctx.ingress_state.blocks if is_models_own(block)]
        return next((self._action(number) for number, block in enumerate(own) if block is ctx.block), "hold")

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        if self._action_of(ctx) == "pass":
            await passthrough_last_chunk(ctx)

    on_reasoning_delta = on_content_delta
    on_tool_call_delta = on_content_delta

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        match self._action_of(ctx), ctx.block:
            case "drop", _:
                drop_block(ctx)
            case "two", ToolCallStreamBlock(tool_call=call):
                await send_tool_call(ctx, replace(call, name="first"))
                await send_tool_call(ctx, replace(call, id=None, name="second"))
            case "two", ReasoningStreamBlock(content=content):
                await send_reasoning(ctx, f"first {content}")
                await send_text(ctx, "second")
            case "two", ContentStreamBlock(content=content):
                await send_reasoning(ctx, "first")
                await send_text(ctx, f"second {content}")
            case "rewrite", ToolCallStreamBlock(tool_call=call):
                await send_tool_call(ctx, replace(call, arguments='{"re": "written"}'))
            case "rewrite", ReasoningStreamBlock(content=content):
                await send_reasoning(ctx, f"re {content}")
            case "rewrite", ContentStreamBlock(content=content):
                await send_text(ctx, f"re {content}")
            case _:
                await passthrough_accumulated_chunks(ctx)

    on_reasoning_complete = on_content_complete
    on_tool_call_complete = on_content_complete


MADE = "an id of our own"
UNJUDGED = ("compaction", "container_upload")
ACTIONS = ("pass", "hold", "drop", "rewrite", "two")


def is_models_own(block: StreamBlock | None) -> bool:
    """Whether it is neither quoted nor of the provider's own tools."""
    if isinstance(block, ContentStreamBlock):
        return not block.is_quoted
    return not (isinstance(block, ToolCallStreamBlock) and block.form == "server")


def acted(came: Reading, action: Callable[[int], str]) -> Reading:
    """What `Acting` is to make of an answer."""
    blocks: list[tuple[Any, ...]] = []
    number = 0
    for block in came.blocks:
        if block[0] not in ("text", "thinking", "redacted_thinking", "call"):
            blocks.append(block)
            continue
        blocks += _acted(block, action(number))
        number += 1
    return with_calls_minded(came, blocks)


def says_nothing(block: tuple[Any, ...]) -> bool:
    """Tells whether no policy gets anything of the block: its kind is not judged, or it is an empty result."""
    return block[0] in UNJUDGED or (block[0] == "web_search_tool_result" and '"content": []' in block[1])


def with_calls_minded(came: Reading, blocks: Sequence[tuple[Any, ...]]) -> Reading:
    """`blocks` as an answer to what `came`: one that lost all of its calls does not stop for them,
    and says so if nothing else is left to say."""
    left = Reading(tuple(blocks), came.stop_reason)
    has_lost_calls = any(block[0] == "call" for block in came.blocks) and not any(b[0] == "call" for b in blocks)
    if has_lost_calls and all(map(says_nothing, blocks)):
        left = replace(left, blocks=(*left.blocks, ("text", WITHHELD, "[]")))
    return replace(left, stop_reason="end_turn") if has_lost_calls and came.stop_reason == "tool_use" else left


def _acted(block: tuple[Any, ...], action: str) -> list[tuple[Any, ...]]:
    if action in ("pass", "hold"):
        return [block]
    if action == "drop":
        return []
    if block[0] == "call":
        _, id, name, arguments, caller = block
        if action == "rewrite":
            return [("call", id, name, '{"re": "written"}', caller)]
        return [("call", id, "first", arguments, caller), ("call", MADE, "second", arguments, caller)]
    content = "" if block[0] == "redacted_thinking" else block[1]
    if block[0] == "text":
        if action == "rewrite":
            return [("text", f"re {content}", "[]")]
        return [("thinking", "first", ""), ("text", f"second {content}", "[]")]
    if action == "rewrite":
        return [("thinking", f"re {content}", "")]
    return [("thinking", f"first {content}", ""), ("text", "second", "[]")]


def normal(left: Reading) -> Reading:
    """`left`, with the same id for every call that the adapter had to name."""
    blocks = [("call", MADE, *block[2:]) if str(block[1]).startswith("toolu_own_") else block for block in left.blocks]
    return replace(left, blocks=tuple(blocks))


# Recordings


@settings(max_examples=8, deadline=None)
@given(points=CUTS)
def test_what_no_policy_touches_leaves_as_the_very_bytes(raw: bytes, points: list[int]) -> None:
    assert anyio.run(deliver, NoOp(), cut(raw, points)) == raw


async def test_the_bytes_stay_if_they_come_one_by_one(raw: bytes) -> None:
    raw = raw[: raw.rindex(b"\n\n", 0, 6_000) + 2]
    assert await deliver(NoOp(), [raw[at : at + 1] for at in range(len(raw))]) == raw


def test_we_read_what_the_official_client_reads(raw: bytes) -> None:
    expected = [_as_judged(block) for block in read(raw).judged]
    assert read_by_us([raw]) == expected
    assert read_by_us(cut(raw, range(0, len(raw), 97))) == expected


def read_by_us(pieces: Sequence[bytes]) -> list[tuple[str, ...]]:
    """What the adapter and the assembler make of a stream."""
    wire, assembler = adapter(), BlockAssembler(marks_blocks=True)
    for piece in pieces:
        for chunk in wire.decode(piece):
            assembler.begin(chunk)
            for event in chunk.events:
                assembler.feed(event)
    assert all(block.is_complete for block in assembler.state.blocks)
    return [_block_said(block) for block in assembler.state.blocks if is_models_own(block)]


def _block_said(block: StreamBlock) -> tuple[str, ...]:
    if isinstance(block, ToolCallStreamBlock):
        return "call", str(block.id), block.name, json.dumps(json.loads(block.arguments or "{}"), sort_keys=True)
    assert isinstance(block, ContentStreamBlock | ReasoningStreamBlock)
    return "text" if isinstance(block, ContentStreamBlock) else "reasoning", block.content


def _as_judged(block: tuple[Any, ...]) -> tuple[str, ...]:
    match block[0]:
        case "call":
            return block[:4]
        case "text":
            return block[:2]
        case _:
            return "reasoning", block[1] if block[0] == "thinking" else ""


def test_what_was_read_is_written_as_it_came(raw: bytes) -> None:
    wire = adapter()
    for chunk in wire.decode(raw):
        written = b"".join(item for item in wire.encode(chunk.events, chunk) if isinstance(item, bytes))
        assert json.dumps(payloads(written)) == json.dumps(payloads(bytes_of(chunk)))


def bytes_of(chunk: Chunk) -> bytes:
    assert isinstance(chunk.raw, bytes)
    return chunk.raw


async def both_ways(policy: Policy, raw: bytes) -> Reading:
    """What a client gets of a stream, which must be what it gets of the same answer in full."""
    full = accumulated(payloads(raw)).to_dict(mode="json", warnings=False)
    before = deepcopy(full)
    left = normal(read(await deliver(policy, [raw])))
    assert normal(reading(await deliver_full(policy, full))) == left
    assert full == before
    return left


def without_citations(left: Reading) -> Reading:
    return replace(left, blocks=tuple(block[:2] if block[0] == "text" else block for block in left.blocks))


async def test_all_caps_changes_the_text_alone(raw: bytes) -> None:
    came = read(raw)
    has_servers_calls = any(block[0].endswith("tool_use") for block in came.blocks)
    policy = AllCaps(AllCapsConfig(tool_arguments=not has_servers_calls))
    left = normal(read(await deliver(policy, [raw])))
    full = accumulated(payloads(raw)).to_dict(mode="json", warnings=False)
    assert without_citations(normal(reading(await deliver_full(policy, full)))) == without_citations(left)
    assert [block[0] for block in left.blocks] == [block[0] for block in came.blocks]
    for before, after in zip(came.blocks, left.blocks, strict=True):
        if before[0] == "text":
            assert after[1] == before[1].upper()
            cited = [write_citation(each, readable.read(each).upper()) for each in json.loads(before[2])]
            assert json.loads(after[2]) in ([], cited), "a citation may have left before its text was changed"
        elif before[0] == "call":
            assert (after[1:3], after[4]) == (before[1:3], before[4])
        elif before[0].endswith("tool_result"):
            block = json.loads(before[1])
            text = text_of_result(block).upper()
            assert json.loads(after[1]) == (write_result(block, text) if text else block)
        else:
            assert after == before
    assert left.stop_reason == came.stop_reason


async def test_dropped_calls_are_gone_and_the_rest_stays(raw: bytes) -> None:
    came = read(raw)
    expected = with_calls_minded(came, [block for block in came.blocks if block[0] != "call"])
    assert await both_ways(DropCalls(), raw) == expected


async def test_renamed_calls_keep_all_but_their_name(raw: bytes) -> None:
    came = read(raw)
    renamed = (
        ("call", block[1], f"safe_{block[2]}", *block[3:]) if block[0] == "call" else block for block in came.blocks
    )
    assert await both_ways(RenameCalls(), raw) == replace(came, blocks=tuple(renamed))


@pytest.mark.parametrize("action", ACTIONS)
async def test_each_block_is_what_the_policy_made_of_it(raw: bytes, action: str) -> None:
    assert await both_ways(Acting(lambda _: action), raw) == acted(read(raw), lambda _: action)


async def test_what_is_held_to_the_end_leaves_whole_after_what_no_policy_holds(raw: bytes) -> None:
    came, left = read(raw), await both_ways(HoldAll(), raw)
    others = tuple(block for block in came.blocks if block[0] in UNJUDGED)
    assert left == replace(came, blocks=others + tuple(block for block in came.blocks if block not in others))


async def test_a_refusal_in_mid_answer_leaves_what_was_out_and_the_notice(raw: bytes) -> None:
    came, left = read(raw), await both_ways(Refuse(), raw)
    judged = ("text", "call", "server_tool_use", "mcp_tool_use", "web_search_tool_result")
    before = next((n for n, block in enumerate(came.blocks) if block[0] in judged), None)
    if before is None:
        assert left == came
    else:
        assert left.blocks == (*came.blocks[:before], ("text", "refused", "[]"))
        assert left.stop_reason == ("end_turn" if came.stop_reason == "tool_use" else came.stop_reason)


# Answers of every kind

CITATION = {
    "type": "char_location",
    "cited_text": "x",
    "document_index": 0,
    "document_title": None,
    "start_char_index": 0,
    "end_char_index": 1,
    "file_id": None,
}
WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
TEXTS = st.builds(lambda text: {"type": "text", "text": text}, WORDS)
CITED = st.builds(lambda text: {"type": "text", "text": text, "citations": [CITATION]}, WORDS)
THINKING = st.builds(lambda text: {"type": "thinking", "thinking": text, "signature": "sig=="}, WORDS | st.just(""))
REDACTED = st.just({"type": "redacted_thinking", "data": "hidden"})
SERVER = st.sampled_from(
    [
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}},
        {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
    ]
)
INPUTS = st.dictionaries(st.text(max_size=4), st.none() | st.integers(0, 9) | WORDS, max_size=3)
CALLS = st.builds(
    lambda name, input, more: {"type": "tool_use", "name": name, "input": input, **more},
    st.sampled_from(["search", "read"]),
    INPUTS,
    st.sampled_from([{}, {"caller": {"type": "direct"}}]),
)


@st.composite
def answers(draw: st.DrawFn) -> JSON:
    """Full answers; calls come last, as Anthropic sends them."""
    content = draw(st.lists(TEXTS | CITED | THINKING | REDACTED | SERVER, max_size=5))
    calls = draw(st.lists(CALLS, max_size=3))
    numbered = [{"type": "tool_use", "id": f"toolu_{number}", **call} for number, call in enumerate(calls)]
    stop_reason = draw(st.sampled_from([None, None, "max_tokens", "pause_turn"]))
    return message([*content, *numbered], stop_reason)


LONELY_RESULT = message(
    [
        {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
        {"type": "tool_use", "id": "toolu_0", "name": "search", "input": {}},
    ],
    None,
)


@settings(max_examples=400, deadline=None)
@given(answers(), st.lists(st.sampled_from(ACTIONS), min_size=8, max_size=8), st.integers(1, 6), CUTS)
@example(LONELY_RESULT, ["drop"] * 8, 1, [])
def test_any_answer_under_any_actions(full: JSON, actions: list[str], piece: int, points: list[int]) -> None:
    policy, raw, before = Acting(actions.__getitem__), sse(*streamed(full, piece)), deepcopy(full)
    expected = acted(reading(full), actions.__getitem__)
    assert normal(read(anyio.run(deliver, policy, cut(raw, points)))) == expected
    assert normal(reading(anyio.run(deliver_full, policy, full))) == expected
    assert full == before


# Streams that are not as they should be, and policies that are hard to follow

CALL = {"type": "tool_use", "id": "toolu_1", "name": "search", "input": {"q": "x"}, "caller": {"type": "direct"}}


def text_and(*blocks: JSON) -> list[JSON]:
    return streamed(message([{"type": "text", "text": "some text"}, *blocks]))


def deltas(index: int, *given: JSON) -> list[JSON]:
    return [{"type": "content_block_delta", "index": index, "delta": delta} for delta in given]


@pytest.mark.parametrize(
    "bad",
    [
        b"data: {not json\n\n",
        b"data: [1]\n\n",
        b'data: {"type": "content_block_stop"}\n\n',
        b'data: {"type": "content_block_start", "index": 7}\n\n',
        sse(*deltas(0, {"type": "thinking_delta", "thinking": "in a block of text"})),
        sse(*deltas(0, {"type": "text_delta", "text": ["a", "list"]})),
    ],
)
@pytest.mark.parametrize("is_apart", [True, False])
async def test_what_cannot_be_read_ends_the_answer_after_what_could(bad: bytes, is_apart: bool) -> None:
    frames = text_and()
    head, tail = sse(*frames[:5]), sse(*frames[5:])
    pieces = [head, bad, tail] if is_apart else [head + bad + tail]
    assert await deliver(NoOp(), pieces) == head + bad + tail
    left = read(await deliver(Deltas(), pieces))
    [(_, came, _), (_, notice, _)] = left.blocks
    assert came == "some text"[: len(came)] != ""
    assert notice.startswith("[luthien] This answer was stopped")
    assert left.stop_reason == "end_turn"


async def test_a_piece_of_a_block_that_never_began_passes_where_nobody_judges() -> None:
    frames = text_and()
    lost = deltas(5, {"type": "input_json_delta", "partial_json": "{}"})
    came = sse(*frames[:-2], *lost, *frames[-2:])
    assert await deliver(NoOp(), [came]) == came


async def test_an_error_of_the_provider_is_passed_on() -> None:
    raw = sse(*text_and()[:4], {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}})
    assert await deliver(NoOp(), [raw]) == raw


@pytest.mark.parametrize("strategy", ["serial", "parallel"])
@pytest.mark.parametrize("is_apart", [True, False])
@pytest.mark.parametrize("ending", [[], [{"type": "message_stop"}]])
async def test_what_is_held_when_the_provider_says_that_it_has_failed_is_never_delivered(
    strategy: str, is_apart: bool, ending: list[JSON]
) -> None:
    """Though its arguments happen to be whole, the call is not, and nobody is asked about it."""
    asked: list[str] = []

    class Holds(Policy):
        async def on_tool_call_delta(self, ctx: StreamingResponseContext) -> None:
            asked.append("piece")

        async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
            asked.append("call")
            await passthrough_accumulated_chunks(ctx)

        async def on_stream_complete(self, ctx: StreamingResponseContext) -> None:
            asked.append("end")

    call = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": 1}}
    frames = streamed(message([{"type": "text", "text": "Let me see."}, call]))
    begun = [frame for frame in frames if frame["type"].startswith(("message_start", "content_block"))][:-1]
    failure = {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}
    pieces = [sse(frame) for frame in [*begun, failure, *ending]]
    members = [ConfiguredPolicy(Holds(), "first"), ConfiguredPolicy(Holds(), "second")]
    composition = Serial(members) if strategy == "serial" else Parallel(members)
    left = payloads(await deliver(composition, pieces if is_apart else [b"".join(pieces)]))
    assert "piece" in asked
    assert {"call", "end"}.isdisjoint(asked)
    assert "look" not in str(left)
    assert failure in left
    assert left[left.index(failure) + 1 :] == ending


async def test_pings_and_comments_pass_wherever_they_come() -> None:
    noise = b": comment\n\n" + sse({"type": "ping"}) + b"\n"
    raw = noise + b"".join(sse(frame) + noise for frame in text_and(CALL)) + b"data: [DONE]\n\n"
    assert await deliver(NoOp(), [raw]) == raw
    assert (await deliver(AllCaps(), [raw])).count(noise) == raw.count(noise)


@pytest.mark.parametrize("missing", [1, 2, 9])
async def test_a_last_frame_without_its_end_leaves_as_it_came(missing: int) -> None:
    raw = sse(*text_and())[:-missing]
    assert await deliver(NoOp(), [raw]) == raw
    assert await deliver(Deltas(), [raw]) == (raw if missing < 9 else raw[: raw.rindex(b"event")])


async def test_what_follows_a_last_frame_without_its_end_is_a_frame_of_its_own() -> None:
    class Late(Deltas):
        async def on_stream_complete(self, ctx: StreamingResponseContext) -> None:
            raise PolicyBlockedError("refused at last")

    raw = sse(*text_and()[:4])[:-1]
    assert read(await deliver(Late(), [raw])).blocks[-1][1] == "refused at last"


async def test_an_answer_that_stops_in_its_middle_leaves_as_it_came() -> None:
    raw = sse(*text_and()[:4])
    assert await deliver(NoOp(), [raw]) == raw


async def test_arguments_that_are_no_json_are_judged_and_leave_as_they_came() -> None:
    start = {"type": "content_block_start", "index": 0, "content_block": {**CALL, "input": {}}}
    pieces = deltas(0, *({"type": "input_json_delta", "partial_json": piece} for piece in ('{"q": "w', "eat")))
    head, *_, end, stop = streamed(message([], "max_tokens"))
    raw = sse(head, start, *pieces, {"type": "content_block_stop", "index": 0}, end, stop)
    assert await deliver(Acting(lambda _: "hold"), [raw]) == raw
    frames = payloads(await deliver(RenameCalls(), [raw]))
    assert frames[1]["content_block"] == {**CALL, "input": {}, "name": "safe_search"}
    assert [frame["delta"]["partial_json"] for frame in frames if frame["type"] == "content_block_delta"] == [
        '{"q": "weat'
    ]


async def test_a_changed_call_whose_arguments_are_no_json_keeps_their_text() -> None:
    class Break(SimplePolicy):
        async def on_response_tool_call(self, tool_call: ToolCall, request: Request) -> ToolCall | None:
            return replace(tool_call, arguments="" if tool_call.name == "read" else "[1")

    full = message([CALL, {**CALL, "name": "read"}])
    left = await deliver_full(Break(), full)
    calls = [{**CALL, "input": {"arguments": "[1"}}, {**CALL, "id": "toolu_1_2", "name": "read", "input": {}}]
    assert left == {**full, "content": calls}, "two calls have one id"


async def test_a_call_that_begins_with_its_input_keeps_it() -> None:
    frames = [frame for frame in text_and(CALL) if frame.get("delta", {}).get("type") != "input_json_delta"]
    starts = [{**frame, "content_block": CALL} if "toolu_1" in str(frame) else frame for frame in frames]
    raw = sse(*starts)
    assert await deliver(Acting(lambda _: "hold"), [raw]) == raw
    dropped = payloads(await deliver(Acting(lambda number: "hold" if number else "drop"), [raw]))
    [start] = [frame for frame in dropped if frame["type"] == "content_block_start"]
    assert start == {"type": "content_block_start", "index": 0, "content_block": CALL}
    assert read(await deliver(RenameCalls(), [raw])).blocks[1][:4] == ("call", "toolu_1", "safe_search", '{"q": "x"}')


@pytest.mark.parametrize("type", ["text", "thinking"])
async def test_a_block_that_begins_with_its_text_is_judged(type: str) -> None:
    block = {"type": type, type: "first words", **({"signature": "sig"} if type == "thinking" else {})}
    start = {"type": "content_block_start", "index": 0, "content_block": block}
    more = deltas(0, {"type": f"{type}_delta", type: " and more"})
    head, *_, end, stop = streamed(message([]))
    raw = sse(head, start, *more, {"type": "content_block_stop", "index": 0}, end, stop)
    assert await deliver(Acting(lambda _: "hold"), [raw]) == raw
    rewritten = read(await deliver(Acting(lambda _: "rewrite"), [raw]))
    assert rewritten.blocks[0] == (type, "re first words and more", "[]" if type == "text" else "")


class Deltas(Policy):
    """Looks at deltas only, and lets them all through."""

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        await passthrough_last_chunk(ctx)

    on_reasoning_delta = on_content_delta


@pytest.mark.parametrize(
    "block",
    [
        {"type": "text", "text": ""},
        {"type": "thinking", "thinking": "", "signature": "the provider shows no more"},
        {"type": "redacted_thinking", "data": "hidden"},
    ],
)
async def test_a_block_of_which_no_hook_was_told_leaves_as_it_came(block: JSON) -> None:
    full = message([block, CALL])
    raw = sse(*streamed(full))
    assert await deliver(Deltas(), [raw]) == raw
    assert await deliver_full(Deltas(), full) is full


async def test_a_policy_that_speaks_before_the_provider_starts_the_answer_once() -> None:
    class First(Policy):
        async def on_chunk_received(self, ctx: StreamingResponseContext) -> None:
            if ctx.ingress_state.chunk_count == 1:
                await send_text(ctx, "first")

    raw = sse(*text_and())
    frames = payloads(await deliver(First(), [raw]))
    assert (frames[0]["message"]["id"], frames[0]["message"]["model"]) == ("msg_own", "own")
    assert [block[1] for block in read(sse(*frames)).blocks] == ["first", "some text"]


async def test_no_text_follows_a_call_that_a_policy_made() -> None:
    class CallsFirst(Policy):
        async def on_chunk_received(self, ctx: StreamingResponseContext) -> None:
            if ctx.ingress_state.chunk_count == 1:
                await send_tool_call(ctx, ToolCall("call_1", "look", "{}"))

    left = read(await deliver(CallsFirst(), [sse(*text_and())]))  # which is strict
    assert [block[0] for block in left.blocks] == ["call"]
    assert left.stop_reason == "tool_use"


def test_an_answer_that_two_policies_end_has_one_end() -> None:
    way_out = Sequencer(adapter())

    def ended() -> list[StreamEvent]:
        parcel = EgressItem(None)
        parcel.add(Finish(reason="end_turn"), None)
        parcel.add(StreamEnd(), None)
        return way_out.sequence(parcel)

    assert [type(event) for event in ended()] == [ResponseStart, Finish, StreamEnd]
    assert ended() == []


@pytest.mark.parametrize("is_released", [True, False])
async def test_a_call_whose_head_was_held_begins_once_and_whole(is_released: bool) -> None:
    class HoldHead(Policy):
        async def on_tool_call_delta(self, ctx: StreamingResponseContext) -> None:
            if ctx.delta:
                await passthrough_last_chunk(ctx)

        async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
            if is_released:
                await passthrough_accumulated_chunks(ctx)
            else:
                drop_block(ctx)

    raw = sse(*text_and(CALL))
    assert read(await deliver(HoldHead(), [raw])) == read(raw)


async def test_no_text_follows_a_call_that_it_came_before() -> None:
    class LetsTextOutLate(Policy):
        async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
            pass

        async def on_finish_reason(self, ctx: StreamingResponseContext) -> None:
            await passthrough_accumulated_chunks(ctx)

    came = message([{"type": "text", "text": "y"}, CALL])
    left = read(await deliver(LetsTextOutLate(), [sse(*streamed(came))]))
    assert left == reading({**came, "content": [CALL]})


async def test_a_thought_that_was_emptied_leaves_no_block_in_a_full_answer() -> None:
    class Empty(SimplePolicy):
        async def on_response_reasoning(self, content: str, request: Request) -> str | None:
            return ""

    full = message([{"type": "thinking", "thinking": "x", "signature": "s"}, {"type": "text", "text": "y"}])
    assert (await deliver_full(Empty(), full))["content"] == full["content"][1:]


async def test_a_full_answer_replaced_by_a_notice_says_just_that() -> None:
    class Late(Policy):
        async def process_full_response(self, response: Any, ctx: PolicyContext) -> Any:
            raise PolicyBlockedError("refused at last")

    full = message([{"type": "text", "text": "y"}, CALL])
    left = await deliver_full(Late(), full)
    assert left == {**full, "content": [{"type": "text", "text": "refused at last"}], "stop_reason": "end_turn"}


@pytest.mark.parametrize("response", ["text", {"content": "text"}, {"content": ["text"]}])
async def test_a_full_answer_that_cannot_be_read_leaves_only_where_nobody_judges(response: Any) -> None:
    assert await deliver_full(NoOp(), response) is response
    left = await deliver_full(Deltas(), response)
    [block] = left["content"]
    assert block["text"].startswith("[luthien] This answer was stopped")
    assert left["stop_reason"] == "end_turn"


BEGUN = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
PLAIN: dict[str, Any] = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}}


@pytest.mark.parametrize(
    ("payload", "is_plain"),
    [
        (PLAIN, True),
        ({**PLAIN, "usage": {}}, False),
        ({**PLAIN, "index": 1}, False),
        ({**PLAIN, "index": False}, False),
        ({**PLAIN, "index": [0]}, False),
        ({**PLAIN, "type": "content_block_start"}, False),
        ({**PLAIN, "delta": {"type": "text_delta", "text": ""}}, False),
        ({**PLAIN, "delta": {"type": "text_delta", "text": ["x"]}}, False),
        ({**PLAIN, "delta": {"type": "thinking_delta", "text": "x"}}, False),
        ({**PLAIN, "delta": {"type": "text_delta", "text": "x", "note": "y"}}, False),
        ({**PLAIN, "delta": "text_delta"}, False),
        (None, False),
    ],
)
def test_a_plain_piece_of_text_is_the_same_when_read_without_all_checks(
    payload: dict[str, Any] | None, is_plain: bool
) -> None:
    reader = MessageReader()
    reader.chunk(Frame(b"", BEGUN))
    quickly = reader.text_chunk(b"raw", payload)
    assert (quickly is not None) is is_plain
    if quickly is not None:
        thoroughly = reader.chunk(Frame(b"raw", payload))
        assert (quickly, quickly.raw) == (thoroughly, thoroughly.raw)
