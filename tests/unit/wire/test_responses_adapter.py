"""Responses: what leaves says the same in its deltas, in what repeats them, and in the last event."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from litellm.types.llms.openai import ResponsesAPIResponse

from luthien_litellm_hooks import (
    Policy,
    PolicyBlockedError,
    PolicyExecutor,
    StreamingResponseContext,
    ToolCall,
    ToolCallStreamBlock,
    WireError,
    drop_block,
    passthrough_accumulated_chunks,
    passthrough_last_chunk,
    send_reasoning,
    send_text,
    send_tool_call,
)
from luthien_litellm_hooks.policies.all_caps import AllCaps, AllCapsConfig
from luthien_litellm_hooks.policies.noop import NoOp
from luthien_litellm_hooks.policy.limits import Limits
from luthien_litellm_hooks.testing import responses_wire
from luthien_litellm_hooks.testing.answers import Answer, Call, Say, Think
from luthien_litellm_hooks.wire.assembler import BlockAssembler
from luthien_litellm_hooks.wire.events import ContentStreamBlock, Finish, ReasoningStreamBlock, Unknown
from tests.support.chat import WITHHELD, context
from tests.support.recordings import STREAMS
from tests.support.responses import (
    Reading,
    adapter,
    deliver,
    deliver_full,
    parse,
    plain,
    read_by_openai,
    read_response,
    read_strictly,
)
from tests.support.withholding import Holding

RECORDINGS = sorted((STREAMS / "responses").glob("*.sse"))

pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")


# What came


@cache
def recorded(recording: Path) -> tuple[dict[str, Any], ...]:
    lines = recording.read_text(encoding="utf-8").splitlines()
    return tuple(
        json.loads(line.removeprefix("data:"))
        for line in lines
        if line.startswith("data:") and line.removeprefix("data:").strip() != "[DONE]"
    )


def events_of(recording: Path) -> list[Any]:
    return [parse(json.loads(json.dumps(payload))) for payload in recorded(recording)]


def scripted(answer: Answer) -> list[dict[str, Any]]:
    frames = [frame for frame in responses_wire.stream(answer, {"model": "m"}) if isinstance(frame, bytes)]
    return [json.loads(frame.decode().partition("data: ")[2]) for frame in frames]


def scripted_full(answer: Answer) -> ResponsesAPIResponse:
    return ResponsesAPIResponse(**responses_wire.full(answer, {"model": "m"}))


def what_came(payloads: Any) -> Reading:
    return read_response(payloads[-1]["response"])


def read_by_us(events: list[Any]) -> Reading:
    wire, assembler = adapter(), BlockAssembler(marks_blocks=True)
    status = ""
    for raw in events:
        for chunk in wire.decode(raw):
            for event in chunk.events:
                assembler.feed(event)
                status = event.reason if isinstance(event, Finish) else status
    assembler.finish()
    blocks = assembler.state.blocks
    return Reading(
        text=tuple(
            block.content
            for block in blocks
            if isinstance(block, ContentStreamBlock) and block.content and not block.is_quoted
        ),
        reasoning=tuple(block.content for block in blocks if isinstance(block, ReasoningStreamBlock) and block.content),
        calls=tuple(
            (block.id or "", block.name, in_order(block))
            for block in blocks
            if isinstance(block, ToolCallStreamBlock) and block.form != "server"
        ),
        status=status,
    )


def in_order(block: ToolCallStreamBlock) -> str:
    """The arguments of a call, those of an action with their fields in order."""
    return json.dumps(json.loads(block.arguments), sort_keys=True) if "type" in block.extra else block.arguments


# Policies

Hook = Callable[[StreamingResponseContext], Awaitable[None]]


class HoldingAll(Policy):
    """Holds everything to the end."""

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None: ...

    on_reasoning_delta = on_tool_call_delta = on_content_delta

    async def on_finish_reason(self, ctx: StreamingResponseContext) -> None:
        await passthrough_accumulated_chunks(ctx)


class HoldingToTheLast(HoldingAll):
    on_finish_reason = Policy.on_finish_reason

    async def on_stream_complete(self, ctx: StreamingResponseContext) -> None:
        await passthrough_accumulated_chunks(ctx)


class DropAll(Holding):
    """Says nothing at all."""

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        drop_block(ctx)

    on_reasoning_complete = on_tool_call_complete = on_content_complete


class DropCalls(Holding):
    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        drop_block(ctx)


class DropFirst(Holding):
    """Drops the first block of every kind."""

    async def _drop_first(self, ctx: StreamingResponseContext) -> None:
        seen = ctx.scratchpad.setdefault("seen", set())
        if type(ctx.block) in seen:
            await passthrough_accumulated_chunks(ctx)
        seen.add(type(ctx.block))

    on_content_complete = on_reasoning_complete = on_tool_call_complete = _drop_first


class DropLastPart(Holding):
    """Drops every second block of reasoning."""

    async def on_reasoning_complete(self, ctx: StreamingResponseContext) -> None:
        number = ctx.scratchpad["number"] = ctx.scratchpad.get("number", 0) + 1
        if number % 2:
            await passthrough_accumulated_chunks(ctx)


class RenameCalls(Holding):
    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        assert isinstance(ctx.block, ToolCallStreamBlock)
        if "type" not in ctx.block.extra:  # of an action, which has no other name
            await send_tool_call(ctx, replace(ctx.block.tool_call, name=f"safe_{ctx.block.name}"))


class TwoForOne(Holding):
    """Two blocks for every one."""

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        await send_text(ctx, "one")
        await send_reasoning(ctx, "between")
        await send_text(ctx, "two")

    async def on_reasoning_complete(self, ctx: StreamingResponseContext) -> None:
        await send_reasoning(ctx, "thought")
        await send_text(ctx, "said")

    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        assert isinstance(ctx.block, ToolCallStreamBlock)
        for letter in "" if "type" in ctx.block.extra else "ab":
            await send_tool_call(ctx, replace(ctx.block.tool_call, id=f"call_{letter}", name=letter, arguments="{}"))


class OnePieceEach(Policy):
    """Lets the first piece of each block through and drops the rest."""

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        seen = ctx.scratchpad.setdefault("seen", set())
        if ctx.block not in seen:
            await passthrough_last_chunk(ctx)
        seen.add(ctx.block)

    on_reasoning_delta = on_tool_call_delta = on_content_delta


class Refuse(Policy):
    """Ends the answer in the middle of a block."""

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        await passthrough_last_chunk(ctx)
        if (count := ctx.scratchpad.get("count", 0)) > 2:
            raise PolicyBlockedError("No more.")
        ctx.scratchpad["count"] = count + 1

    on_reasoning_delta = on_tool_call_delta = on_content_delta


# Recordings

each_recording = pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.stem)


async def unharmed(policy: Policy, events: list[Any]) -> list[Any]:
    """What a client gets of `events`, which LiteLLM logs and caches: they must stay as they are."""
    before = [event.model_dump_json() for event in events]
    delivered = await deliver(policy, events)
    assert [event.model_dump_json() for event in events] == before
    return delivered


def strictly(units: list[Any], recording: Path) -> Reading:
    """Reads `units` as strictly as the provider's own events can be read."""
    payloads = recorded(recording)
    numbers = [payload.get("sequence_number") for payload in payloads]
    is_numbered = numbers == list(range(len(numbers)))
    is_well_formed = True
    try:
        read_strictly(list(map(parse, payloads)), is_numbered=is_numbered)
    except (AssertionError, KeyError):
        is_well_formed = False
    if is_well_formed:
        return read_strictly(units, is_numbered=is_numbered)
    return read_response(plain(units[-1])["response"])


@each_recording
async def test_what_no_policy_touches_leaves_as_the_very_events(recording: Path) -> None:
    events = events_of(recording)
    delivered = await unharmed(NoOp(), events)
    assert [id(event) for event in delivered] == [id(event) for event in events]


@each_recording
def test_we_read_what_the_official_client_reads(recording: Path) -> None:
    assert read_by_us(events_of(recording)) == replace(what_came(recorded(recording)), others=())


@each_recording
@pytest.mark.parametrize("policy", [Holding, HoldingAll, HoldingToTheLast])
async def test_what_was_held_and_released_says_the_same(recording: Path, policy: type[Policy]) -> None:
    delivered = await unharmed(policy(), events_of(recording))
    came = what_came(recorded(recording))
    left = strictly(delivered, recording)
    assert sorted_reading(left) == sorted_reading(came)


def sorted_reading(reading: Reading) -> Reading:
    return replace(reading, others=tuple(sorted(reading.others)))


@each_recording
async def test_all_caps_changes_the_text_alone(recording: Path) -> None:
    delivered = await unharmed(AllCaps(), events_of(recording))
    came = what_came(recorded(recording))
    assert strictly(delivered, recording) == replace(came, text=tuple(text.upper() for text in came.text))


@each_recording
async def test_what_was_dropped_is_gone_everywhere(recording: Path) -> None:
    delivered = await unharmed(DropAll(), events_of(recording))
    came = what_came(recorded(recording))
    notice = (WITHHELD,) if came.calls else ()
    others = tuple(type for type in came.others if type == "mcp_list_tools")  # nothing that follows a call
    assert strictly(delivered, recording) == Reading(text=notice, others=others, status=came.status)
    assert_gone(delivered, came)


@each_recording
async def test_two_blocks_for_every_one(recording: Path) -> None:
    delivered = await unharmed(TwoForOne(), events_of(recording))
    came, left = what_came(recorded(recording)), strictly(delivered, recording)
    calls = [call for call in came.calls if call[1] != "tool_search"]
    assert len(left.calls) == 2 * len(calls)
    assert "".join(left.text).count("said") == len(came.reasoning)
    assert "".join(left.text).count("onetwo") == len(came.text)
    assert "".join(left.reasoning).count("thought") == len(came.reasoning)
    assert_gone(delivered, came)


def assert_gone(delivered: list[Any], came: Reading) -> None:
    output = json.dumps([plain(unit) for unit in delivered], ensure_ascii=False)
    for text in (*came.text, *came.reasoning, *(call[0] for call in came.calls)):
        piece = json.dumps(text, ensure_ascii=False)[1:-1]
        assert piece not in output or len(piece) < 4


@each_recording
@pytest.mark.parametrize("policy", [DropCalls, DropFirst, DropLastPart, RenameCalls, OnePieceEach, Refuse])
async def test_whatever_a_policy_does_the_stream_is_well_formed(recording: Path, policy: type[Policy]) -> None:
    delivered = await unharmed(policy(), events_of(recording))
    strictly(delivered, recording)


@pytest.mark.skipif(not RECORDINGS, reason=f"no recorded responses in {STREAMS}; LUTHIEN_TEST_STREAMS names them")
def test_the_recordings_are_worth_reading() -> None:
    readings = [what_came(recorded(recording)) for recording in RECORDINGS]
    assert any(reading.reasoning for reading in readings)
    assert any(reading.calls for reading in readings)
    assert any(reading.others for reading in readings)


# Scripts

ANSWER = Answer(
    [
        Think("step by step"),
        Say("one two three"),
        Call("search", '{"query": "x"}', id="call_1"),
        Call("read", '{"path": "y"}', id="call_2"),
    ]
)
BEFORE = Reading(
    text=("one two three",),
    reasoning=("step by step",),
    calls=(("call_1", "search", '{"query": "x"}'), ("call_2", "read", '{"path": "y"}')),
)
CAPITALS = (("call_1", "search", '{"query": "X"}'), ("call_2", "read", '{"path": "Y"}'))
AFTER: dict[type[Policy], Reading] = {
    NoOp: BEFORE,
    Holding: BEFORE,
    HoldingAll: BEFORE,
    HoldingToTheLast: BEFORE,
    AllCaps: replace(BEFORE, text=("ONE TWO THREE",), calls=CAPITALS),
    DropAll: Reading(text=(WITHHELD,)),
    DropCalls: replace(BEFORE, calls=()),
    DropFirst: Reading(calls=BEFORE.calls[1:]),
    RenameCalls: replace(BEFORE, calls=tuple((id, f"safe_{name}", said) for id, name, said in BEFORE.calls)),
    TwoForOne: Reading(
        text=("said", "onetwo"),
        reasoning=("thought", "between"),
        calls=(("call_a", "a", "{}"), ("call_b", "b", "{}"), ("call_a_7", "a", "{}"), ("call_b_8", "b", "{}")),
    ),
}


def make(policy: type[Policy]) -> Policy:
    return AllCaps(AllCapsConfig(tool_arguments=True)) if policy is AllCaps else policy()


@pytest.mark.parametrize("interleave", [False, True])
@pytest.mark.parametrize("policy", AFTER)
async def test_a_stream_says_what_the_policy_let_out(policy: type[Policy], interleave: bool) -> None:
    events = [parse(payload) for payload in scripted(replace(ANSWER, interleave=interleave))]
    left = read_strictly(await unharmed(make(policy), events))
    assert left == (AFTER[policy] if policy is not TwoForOne else replace(AFTER[policy], text=left.text))


@pytest.mark.parametrize("policy", AFTER)
async def test_a_full_answer_says_what_the_policy_let_out(policy: type[Policy]) -> None:
    response = scripted_full(ANSWER)
    before = response.model_dump_json()
    left = await deliver_full(make(policy), response)
    assert response.model_dump_json() == before
    assert (left is response) == (AFTER[policy] == BEFORE)
    assert read_response(plain(left)) == AFTER[policy]
    assert (left.id, left.usage) == (response.id, response.usage)


async def test_a_refusal_in_mid_answer_ends_what_is_open() -> None:
    events = [parse(payload) for payload in scripted(Answer([Say("one two three four five")], piece=4))]
    delivered = await deliver(Refuse(), events)
    assert read_strictly(delivered) == Reading(text=("one two three fo", "No more."))


async def test_a_refused_full_answer_is_a_completed_one() -> None:
    response = scripted_full(replace(ANSWER, finish="length"))
    left = await deliver_full(Refuse(), response)
    assert read_response(plain(left)).text[-1] == "No more."


async def test_an_answer_that_is_ended_keeps_its_id_though_litellm_seals_it_in_what_has_left() -> None:
    is_sealed = asyncio.Event()

    async def provider() -> AsyncIterator[Any]:
        created, *rest = map(parse, scripted(Answer([Say("word " * 1000)], piece=100)))
        yield created
        await is_sealed.wait()
        for event in rest:
            yield event

    units: list[Any] = []
    executor = PolicyExecutor(NoOp(), limits=Limits(max_stream_bytes=1000))
    async for unit in executor.run(provider(), adapter(), context()):
        units.append(plain(unit))
        if not is_sealed.is_set():
            unit.response.id = f"sealed {unit.response.id}"
            is_sealed.set()
    assert units[-1]["type"] == "response.completed"
    assert units[-1]["response"]["id"] == units[0]["response"]["id"]


class FailsAtOnce(Policy):
    async def on_chunk_received(self, ctx: StreamingResponseContext) -> None:
        raise RuntimeError


@pytest.mark.parametrize("ends_early", [False, True])
async def test_an_answer_that_is_ended_before_it_has_begun_has_the_providers_id(ends_early: bool) -> None:
    """The official client stops where the last event has another id than the first."""
    events = [parse(payload) for payload in scripted(Answer([Say("unjudged")]))]
    units = await deliver(FailsAtOnce(), events[:1] if ends_early else events)
    assert {plain(unit)["response"]["id"] for unit in (units[0], units[-1])} == {events[0].response.id}
    assert "unjudged" not in str(units)


async def test_a_cut_answer_stays_incomplete() -> None:
    events = [parse(payload) for payload in scripted(replace(ANSWER, finish="length"))]
    left = read_strictly(await deliver(AllCaps(), events))
    assert (left.status, left.text) == ("incomplete", ("ONE TWO THREE",))


async def test_changed_reasoning_leaves_without_what_is_encrypted_of_it() -> None:
    payloads = scripted(Answer([Think("secret thought"), Say("hello")]))
    for payload in payloads:
        items = [payload.get("item"), *payload.get("response", {}).get("output", ())]
        for item in filter(None, items):
            item.update({"encrypted_content": "sealed"} if item["type"] == "reasoning" and item["summary"] else {})
    changed = await deliver(TwoForOne(), list(map(parse, payloads)))
    kept = await deliver(Holding(), list(map(parse, payloads)))
    assert "sealed" not in json.dumps(list(map(plain, changed)))
    assert "sealed" in json.dumps(list(map(plain, kept)))


async def test_what_only_a_repetition_says_is_judged_too() -> None:
    payloads = [payload for payload in scripted(ANSWER) if not payload["type"].endswith(".delta")]
    only_last = [payloads[0], payloads[-1]]
    for came in (payloads, only_last):
        left = await deliver(DropCalls(), list(map(parse, came)))
        assert read_response(plain(left[-1])["response"]) == replace(BEFORE, calls=())
        assert "call_1" not in json.dumps(list(map(plain, left)))
        events = list(map(parse, came))
        assert [id(unit) for unit in await deliver(NoOp(), events)] == list(map(id, events))


async def test_a_repetition_that_says_something_else_is_not_believed() -> None:
    payloads = scripted(Answer([Say("hello")]))
    payloads = json.loads(json.dumps(payloads).replace('"text": "hello"', '"text": "bomb"'))
    left = read_strictly(await deliver(Holding(), list(map(parse, payloads))))
    assert left.text == ("hello",)


async def test_numbers_stay_the_providers_while_nothing_changes() -> None:
    payloads = scripted(ANSWER)
    for payload in payloads:
        payload["sequence_number"] = payload["sequence_number"] * 3 + 7
    events = list(map(parse, payloads))
    assert [id(unit) for unit in await deliver(Holding(), events)][:3] == [id(event) for event in events][:3]


@pytest.mark.parametrize("policy", [NoOp, Holding, AllCaps, DropAll])
async def test_a_stream_that_the_provider_broke_off_is_never_made_to_look_finished(policy: type[Policy]) -> None:
    events = [parse(payload) for payload in scripted(Answer([Say("hello"), Call("act", "{}")]))[:-4]]
    left = [plain(unit)["type"] for unit in await deliver(policy(), events)]
    assert not [type for type in left if type in ("response.completed", "response.incomplete")]
    assert left.count("response.output_item.done") <= 1


async def test_the_official_client_reads_what_came_and_what_left() -> None:
    payloads = scripted(ANSWER)
    read_by_openai(payloads)
    read_by_openai(map(plain, await deliver(TwoForOne(), list(map(parse, payloads)))))


def announced_whole(answer: Answer) -> list[dict[str, Any]]:
    """What LiteLLM makes of a full answer for a client that asked for a stream: each item is whole
    when it is announced, and then again in deltas."""
    payloads = scripted(answer)
    done = {payload["output_index"]: payload["item"] for payload in payloads if payload["type"].endswith("item.done")}
    for payload in payloads:
        if payload["type"] == "response.output_item.added":
            payload["item"] = done[payload["output_index"]]
        if payload["type"] == "response.content_part.added":
            payload["part"] = done[payload["output_index"]]["content"][0]
    return payloads


@pytest.mark.parametrize("policy", [NoOp, Holding, AllCaps, DropAll, DropCalls, RenameCalls, TwoForOne])
async def test_what_is_announced_whole_is_judged_before_it_leaves(policy: type[Policy]) -> None:
    events = list(map(parse, announced_whole(ANSWER)))
    left = [plain(unit) for unit in await unharmed(make(policy), events)]
    assert read_response(left[-1]["response"]) == AFTER[policy]
    for payload in left:
        if payload["type"].endswith("text.done"):
            said = [other["delta"] for other in left if other.get("item_id") == payload["item_id"] and "delta" in other]
            assert "".join(said) == payload["text"]
    if AFTER[policy].text != BEFORE.text:
        assert "one two three" not in json.dumps(left)
    if AFTER[policy].reasoning != BEFORE.reasoning:
        assert "step by step" not in json.dumps(left)
    if policy is NoOp:
        assert [id(unit) for unit in await deliver(NoOp(), events)] == list(map(id, events))


def renamed(payloads: list[dict[str, Any]], *names: tuple[str, str]) -> list[dict[str, Any]]:
    """`payloads` in the words of another kind of block."""
    text = json.dumps(payloads)
    for before, after in names:
        text = text.replace(before, after)
    return json.loads(text)


@pytest.mark.parametrize("policy", AFTER)
async def test_calls_of_free_text_are_calls(policy: type[Policy]) -> None:
    payloads = renamed(
        scripted(ANSWER),
        ("function_call_arguments", "custom_tool_call_input"),
        ('"arguments"', '"input"'),
        ("function_call", "custom_tool_call"),
    )
    assert read_strictly(await unharmed(make(policy), list(map(parse, payloads)))) == AFTER[policy]


@pytest.mark.parametrize("policy", AFTER)
async def test_a_refusal_of_the_model_is_text(policy: type[Policy]) -> None:
    refusal = [("output_text", "refusal"), ('"text": "one two three"', '"refusal": "one two three"')]
    payloads = renamed(scripted(ANSWER), *refusal, ('"type": "refusal", "text"', '"type": "refusal", "refusal"'))
    for payload in payloads:
        if payload.get("part", {}).get("type") == "refusal":
            payload["part"] = {
                "type": "refusal",
                "refusal": payload["part"].get("refusal", payload["part"].get("text")),
            }
    left = read_strictly(await unharmed(make(policy), list(map(parse, payloads))))
    assert left == AFTER[policy]


@pytest.mark.parametrize("policy", AFTER)
async def test_the_count_of_tokens_is_the_providers(policy: type[Policy]) -> None:
    payloads = scripted(ANSWER)
    last = plain((await deliver(make(policy), list(map(parse, payloads))))[-1])["response"]
    assert last["usage"] == payloads[-1]["response"]["usage"]
    assert last["id"] == payloads[-1]["response"]["id"]


async def test_changed_reasoning_is_gone_from_what_litellm_adds_to_a_full_answer() -> None:
    """A chat provider's reasoning, as LiteLLM's bridge repeats it."""
    response = scripted_full(ANSWER)
    item = {
        "type": "reasoning",
        "id": "rs_1",
        "status": "completed",
        "content": [{"type": "output_text", "text": "hm", "annotations": []}],
        "encrypted_content": '[{"thinking": "hm"}]',
    }
    own = {"thinking_blocks": [{"thinking": "hm"}], "citations": None}
    response = ResponsesAPIResponse(
        **{**response.model_dump(), "output": [item, *response.output[1:]], "provider_specific_fields": own}
    )
    changed = await deliver_full(TwoForOne(), response)
    assert read_response(plain(changed)).reasoning == ("thought", "between")
    assert '"hm"' not in changed.model_dump_json()
    assert await deliver_full(Holding(), response) is response
    kept = await deliver_full(DropCalls(), response)
    assert read_response(plain(kept)) == replace(BEFORE, reasoning=("hm",), calls=())
    assert "provider_specific_fields" not in kept.model_dump()


async def test_blocks_that_overlap_are_complete_when_the_answer_ends() -> None:
    """Nothing says where they end: a policy that held them must be asked all the same."""
    payloads = [payload for payload in scripted(ANSWER) if not payload["type"].endswith(".done")]
    left = await deliver(Holding(), list(map(parse, payloads)))
    assert read_strictly(left) == BEFORE


class Whim(Policy):
    """Does anything at any time."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        if self._random.random() < 0.6:
            await passthrough_last_chunk(ctx)
        elif self._random.random() < 0.2:
            await send_text(ctx, "mine")

    on_reasoning_delta = on_tool_call_delta = on_content_delta

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        action = self._random.randrange(6)
        if action == 0:
            drop_block(ctx)
        elif action == 1:
            await passthrough_accumulated_chunks(ctx)
        elif action == 2:
            await send_text(ctx, "said")
        elif action == 3:
            await send_reasoning(ctx, "thought")
        elif action == 4:
            await send_tool_call(ctx, ToolCall(f"call_{self._random.random()}", "own", "{}"))

    on_reasoning_complete = on_tool_call_complete = on_content_complete

    async def on_finish_reason(self, ctx: StreamingResponseContext) -> None:
        if self._random.random() < 0.5:
            await passthrough_accumulated_chunks(ctx)


@pytest.mark.parametrize("seed", range(100))
async def test_whatever_a_policy_does_at_whatever_time_the_stream_is_well_formed(seed: int) -> None:
    answer = replace(ANSWER, steps=[*ANSWER.steps, Say("and then"), Think("again")], interleave=seed % 2 == 0)
    payloads = scripted(answer)
    if seed % 3 == 0:  # another item than policies judge, in between
        found = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
        payloads[2:2] = [
            {"type": "response.output_item.added", "output_index": 0, "item": found},
            {"type": "response.web_search_call.completed", "output_index": 0, "item_id": "ws_1"},
            {"type": "response.output_item.done", "output_index": 0, "item": found},
        ]
        for number, payload in enumerate(payloads):
            payload["sequence_number"] = number
            payload.update(
                {"output_index": payload["output_index"] + 1} if number > 4 and "output_index" in payload else {}
            )
        payloads[-1]["response"]["output"].insert(0, found)
    reading = read_strictly(await unharmed(Whim(seed), list(map(parse, payloads))))
    assert reading.others in ((), ("web_search_call",) if seed % 3 == 0 else ())


# Actions of the client's: calls that are no function's

ACTIONS: dict[str, dict[str, Any]] = {
    "local_shell_call": {"action": {"type": "exec", "command": ["rm", "-r", "forbidden"], "env": {}}},
    "shell_call": {"action": {"commands": ["ls", "rm -r forbidden"], "timeout_ms": None, "max_output_length": 5}},
    "apply_patch_call": {"operation": {"type": "create_file", "path": "forbidden.py", "diff": "+one\n+two"}},
    "computer_call": {"action": {"type": "type", "text": "forbidden"}, "pending_safety_checks": []},
    "computer_call in batches": {
        "actions": [{"type": "click", "x": 1, "y": 2, "button": "left"}, {"type": "type", "text": "forbidden"}],
        "pending_safety_checks": [],
    },
}
BEGUN: dict[str, dict[str, Any]] = {
    "local_shell_call": {"action": {"type": "exec", "command": ["rm"], "env": {}}},
    "shell_call": {"action": {"commands": ["ls", "rm -r forb"]}},
    "apply_patch_call": {"operation": {"type": "create_file", "path": "forbidden.py", "diff": ""}},
    "computer_call": {"pending_safety_checks": []},
    "computer_call in batches": {"pending_safety_checks": []},
}
"""What their announcements say of them."""
PIECES: dict[str, list[dict[str, Any]]] = {
    "apply_patch_call": [
        {"type": "response.apply_patch_call_operation_diff.delta", "delta": "+one\n"},
        {"type": "response.apply_patch_call_operation_diff.delta", "delta": "+two"},
        {"type": "response.apply_patch_call_operation_diff.done", "diff": "+one\n+two"},
    ],
    "shell_call": [{"type": "response.shell_call_command.delta", "delta": "rm -r forbidden", "command_index": 1}],
}
each_action = pytest.mark.parametrize("action", ACTIONS)


def item_of(action: str, *, is_begun: bool = False) -> dict[str, Any]:
    item = {"type": action.split()[0], "id": "act_1", "call_id": "call_act"}
    return {**item, **(BEGUN if is_begun else ACTIONS)[action], "status": "in_progress" if is_begun else "completed"}


def acting(action: str) -> list[dict[str, Any]]:
    """A stream that says something, acts, and calls a function."""
    payloads: list[dict[str, Any]] = []
    for payload in scripted(Answer([Say("hello"), Call("act", "{}"), Call("read", '{"path": "y"}', id="call_2")])):
        is_action = payload.get("output_index") == 1
        if payload["type"] == "response.output_item.added" and is_action:
            payloads.append({**payload, "item": item_of(action, is_begun=True)})
            place = {"output_index": 1, "item_id": "act_1"}
            payloads.extend({**piece, **place} for piece in PIECES.get(action, ()))
        elif payload["type"] == "response.output_item.done" and is_action:
            payloads.append({**payload, "item": item_of(action)})
        elif not is_action:
            payloads.append(payload)
    payloads[-1]["response"]["output"][1] = item_of(action)
    return json.loads(json.dumps([{**payload, "sequence_number": n} for n, payload in enumerate(payloads)]))


def only_at_the_end(action: str) -> list[dict[str, Any]]:
    payloads = [payload for payload in acting(action) if payload.get("output_index") != 1]
    for number, payload in enumerate(payloads):
        payload["sequence_number"] = number
        if payload.get("output_index") == 2:
            payload["output_index"] = 1
    output = payloads[-1]["response"]["output"]
    output.append(output.pop(1))
    return payloads


def without_beginning(action: str) -> list[dict[str, Any]]:
    kept = [
        payload for payload in acting(action) if payload.get("output_index") != 1 or payload["type"].endswith("done")
    ]
    return [payload for payload in kept if "operation_diff" not in payload["type"]]


CAME = {"whole": acting, "without its beginning": without_beginning, "only at the end": only_at_the_end}
each_way = pytest.mark.parametrize("way", CAME)


def acting_full(action: str) -> ResponsesAPIResponse:
    return ResponsesAPIResponse(**acting(action)[-1]["response"])


def what_acts(action: str) -> Reading:
    return what_came(acting(action))


class BlockByName(Holding):
    """Drops the calls of one tool."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        assert isinstance(ctx.block, ToolCallStreamBlock)
        if ctx.block.name != self._name:
            await passthrough_accumulated_chunks(ctx)


class Rewrite(Holding):
    """Changes the arguments of actions."""

    def __init__(self, arguments: str | None = None, **changes: Any) -> None:
        self._arguments = arguments
        self._changes = changes

    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        assert isinstance(ctx.block, ToolCallStreamBlock)
        if ctx.block.id != "call_act":
            await passthrough_accumulated_chunks(ctx)
            return
        call = ctx.block.tool_call
        changed = self._arguments or call.arguments.replace("forbidden", "allowed").replace("+one", "+three")
        await send_tool_call(ctx, replace(call, arguments=changed, **self._changes))


def nothing_of(action: str, left: Any) -> None:
    output = json.dumps(left)
    for piece in ("forb", "call_act", "act_1", "+one", "+two", action.split()[0]):
        assert piece not in output


@each_action
@each_way
@pytest.mark.parametrize("policy", [NoOp, Holding, AllCaps])
async def test_an_action_that_may_leave_leaves_as_it_came(action: str, way: str, policy: type[Policy]) -> None:
    events = list(map(parse, CAME[way](action)))
    delivered = await unharmed(policy(), events)
    if policy is NoOp:
        assert [id(event) for event in delivered] == [id(event) for event in events]
    if way == "without its beginning":
        return  # what came is not well-formed
    left = read_strictly(delivered) if way == "whole" else read_response(plain(delivered[-1])["response"])
    assert sorted(left.calls) == sorted(what_acts(action).calls)


@each_action
async def test_a_held_action_leaves_as_the_very_events(action: str) -> None:
    events = list(map(parse, acting(action)))
    delivered = await unharmed(Holding(), events)
    actions = [id(event) for event in events if getattr(event, "output_index", None) == 1]
    assert [id(event) for event in delivered if getattr(event, "output_index", None) == 1] == actions


@each_action
@each_way
@pytest.mark.parametrize("full", [False, True])
async def test_an_action_is_judged_as_a_call(action: str, way: str, full: bool) -> None:
    seen: list[tuple[str, Any]] = []

    class Watch(Policy):
        async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
            assert isinstance(ctx.block, ToolCallStreamBlock)
            assert ctx.block.is_complete
            seen.append((ctx.block.id or "", ctx.block.name, in_order(ctx.block)))

    if full:
        await deliver_full(Watch(), acting_full(action))
    else:
        await deliver(Watch(), list(map(parse, CAME[way](action))))
    assert sorted(seen) == sorted(what_acts(action).calls)
    assert ("call_act", action.split()[0].removesuffix("_call")) in [call[:2] for call in seen]


@each_action
@each_way
async def test_nothing_of_a_dropped_action_leaves(action: str, way: str) -> None:
    came = what_acts(action)
    name = action.split()[0].removesuffix("_call")
    for policy, calls in ((DropCalls(), ()), (BlockByName(name), came.calls[1:])):
        delivered = await unharmed(policy, list(map(parse, CAME[way](action))))
        assert read_strictly(delivered) == replace(came, calls=calls)
        nothing_of(action, list(map(plain, delivered)))


@each_action
@each_way
async def test_a_changed_action_leaves_changed_everywhere(action: str, way: str) -> None:
    delivered = await unharmed(Rewrite(), list(map(parse, CAME[way](action))))
    left, came = read_strictly(delivered), what_acts(action)
    changed = came.calls[0][2].replace("forbidden", "allowed").replace("+one", "+three")
    assert sorted(left.calls) == sorted([(*came.calls[0][:2], changed), came.calls[1]])
    output = json.dumps(list(map(plain, delivered)))
    assert "forb" not in output
    assert "+one" not in output
    assert output.count("allowed") == 3


@each_action
async def test_a_full_answer_acts_as_the_policy_let_it(action: str) -> None:
    response, came = acting_full(action), what_acts(action)
    before = response.model_dump_json()
    for policy in (NoOp(), Holding(), BlockByName("other")):
        assert await deliver_full(policy, response) is response
    assert (await deliver_full(AllCaps(), response)).output[1] is response.output[1]
    for policy, calls in (
        (DropCalls(), ()),
        (BlockByName(action.split()[0].removesuffix("_call")), came.calls[1:]),
    ):
        left = plain(await deliver_full(policy, response))
        assert read_response(left) == replace(came, calls=calls)
        nothing_of(action, left)
    left = plain(await deliver_full(Rewrite(), response))
    changed = came.calls[0][2].replace("forbidden", "allowed").replace("+one", "+three")
    assert sorted(read_response(left).calls) == sorted([(*came.calls[0][:2], changed), came.calls[1]])
    assert "forbidden" not in json.dumps(left)
    assert response.model_dump_json() == before


@each_action
@pytest.mark.parametrize(
    "policy",
    [Rewrite(name="safe"), Rewrite("no JSON"), Rewrite("[1]"), Rewrite('"text"')],
    ids=["another name", "no JSON", "a list", "a text"],
)
async def test_what_no_action_can_say_does_not_leave(action: str, policy: Policy) -> None:
    with pytest.raises(WireError):
        await deliver(policy, list(map(parse, acting(action))))
    with pytest.raises(WireError):
        await deliver_full(policy, acting_full(action))


@each_action
async def test_an_action_that_was_announced_as_another_leaves_as_it_was_judged(action: str) -> None:
    payloads = json.loads(json.dumps(acting(action)))
    for payload in payloads:
        if payload["type"] == "response.output_item.added" and payload["output_index"] == 1:
            payload["item"] = json.loads(json.dumps(item_of(action)).replace("forbidden", "unjudged"))
    payloads[-1] = json.loads(json.dumps(payloads[-1]).replace("forbidden", "unjudged"))
    delivered = await deliver(Holding(), list(map(parse, payloads)))
    assert read_strictly(delivered) == what_acts(action)
    assert "unjudged" not in json.dumps(list(map(plain, delivered)))


@each_action
async def test_a_piece_that_leaves_early_says_nothing_unjudged(action: str) -> None:
    """The first piece of a call may pass before the rest of it is judged, so an action has but one."""
    payloads = acting(action)
    done = next(n for n, payload in enumerate(payloads) if payload.get("item", {}) == item_of(action))
    assert "act_1" not in json.dumps(list(map(plain, await deliver(DropCalls(), list(map(parse, payloads[:done]))))))
    cut = list(map(parse, payloads[:done]))
    assert [id(event) for event in await deliver(NoOp(), cut)] == list(map(id, cut))


@pytest.mark.parametrize("types", [("web_search_call", "shell_call"), ("shell_call", "web_search_call")])
async def test_an_action_cannot_begin_or_end_as_something_else(types: tuple[str, str]) -> None:
    payloads = acting("shell_call")
    for payload in payloads:
        if payload.get("item", {}).get("id") == "act_1":
            payload["item"]["type"] = types[payload["type"].endswith("done")]
    assert "forbidden" not in json.dumps(list(map(plain, await deliver(Holding(), list(map(parse, payloads))))))


async def test_what_the_provider_carries_out_is_a_call_but_none_of_the_clients() -> None:
    found = {"type": "mcp_call", "id": "mcp_1", "name": "n", "server_label": "s", "arguments": "{}", "output": "x"}
    response = ResponsesAPIResponse(**{**scripted_full(ANSWER).model_dump(), "output": [found]})
    assert await deliver_full(Holding(), response) is response
    assert (await deliver_full(DropCalls(), response)).output == []


# Calls of another form


@pytest.mark.parametrize(
    ("type", "field"),
    [(type, field) for type in ("function_call", "custom_tool_call") for field in ("name", "call_id")]
    + [("shell_call", "call_id")],
)
def test_a_call_whose_name_or_id_is_not_a_string_is_malformed(type: str, field: str) -> None:
    item = {"type": type, "id": "i", "call_id": "c", "name": "f", "arguments": "{}", "input": "", field: True}
    unit = parse({"type": "response.output_item.done", "output_index": 0, "item": item})
    [streamed] = adapter().decode(unit)
    assert [*streamed.events] == [Unknown(kind="unit", is_malformed=True)]
    response = ResponsesAPIResponse.model_construct(id="r", created_at=1, model="m", output=[item])
    assert [*adapter().decode_full(response).events] == [Unknown(kind="response", is_malformed=True)]
