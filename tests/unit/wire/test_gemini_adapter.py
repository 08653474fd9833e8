"""Gemini's wire: what the adapter reads in recorded and made streams, and what policies make of them."""

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from litellm.types.google_genai.main import GenerateContentResponse

from luthien_litellm_hooks import (
    ContentStreamBlock,
    Policy,
    PolicyBlockedError,
    PolicyExecutor,
    ReasoningStreamBlock,
    Request,
    SimplePolicy,
    StreamingResponseContext,
    ToolCall,
    ToolCallStreamBlock,
    passthrough_accumulated_chunks,
    send_text,
    send_tool_call,
)
from luthien_litellm_hooks.config.policy_loading import load_policy
from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.policies.all_caps import AllCaps, AllCapsConfig
from luthien_litellm_hooks.policies.noop import NoOp
from luthien_litellm_hooks.wire import FORMATS
from luthien_litellm_hooks.wire.assembler import BlockAssembler
from luthien_litellm_hooks.wire.events import Finish, TextDelta, ToolCallDelta, Unknown
from luthien_litellm_hooks.wire.gemini.adapter import GeminiAdapter
from tests.support.chat import context, provide, pull
from tests.support.faulty_policies import HoldsCalls
from tests.support.recordings import STREAMS
from tests.support.withholding import Holding

RECORDINGS = sorted((STREAMS / "gemini").glob("*.sse"))

each_recording = pytest.mark.parametrize(
    "data",
    [pytest.param(recording.read_bytes(), id=recording.stem) for recording in RECORDINGS]
    or [pytest.param(b"", marks=pytest.mark.skip(f"no recorded Gemini streams in {STREAMS}"))],
)


# Streams


def adapter() -> GeminiAdapter:
    return GeminiAdapter(FORMATS["gemini"].rules, template={"modelVersion": "own", "responseId": "own-id"})


def payload(*parts: dict[str, Any], finish: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    candidate = {"content": {"parts": list(parts), "role": "model"}, "index": index, **more}
    if finish:
        candidate["finishReason"] = finish
    usage = {"promptTokenCount": 3, "candidatesTokenCount": 5, "totalTokenCount": 8}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "g", "responseId": "r"}


def frame(*parts: dict[str, Any], **more: Any) -> bytes:
    return b"data: " + json.dumps(payload(*parts, **more)).encode() + b"\r\n\r\n"


def call(name: str, **args: Any) -> dict[str, Any]:
    return {"functionCall": {"id": f"id-{name}", "name": name, "args": args}, "thoughtSignature": f"sig-{name}"}


def say(text: str) -> dict[str, Any]:
    return {"text": text}


def think(text: str) -> dict[str, Any]:
    return {"text": text, "thought": True}


END = frame(say(""), finish="STOP")
CALLS = [
    frame(think("hm")),
    frame(say("Two ")),
    frame(say("calls.")),
    frame(call("a", x="one"), call("b", y="two")),
    END,
]


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


async def deliver(policy: Policy, items: Iterable[Any]) -> bytes:
    """The bytes that a client gets of a provider's stream."""
    return b"".join(await pull(PolicyExecutor(policy).run(provide(items), adapter(), context())))


async def deliver_full(policy: Policy, response: Any) -> Any:
    return await PolicyExecutor(policy).run_full(response, adapter(), context())


# What a reader makes of them, who knows nothing of our code


@dataclass
class Reading:
    """One candidate of an answer."""

    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str | None, str, dict[str, Any]]] = field(default_factory=list)
    finish_reasons: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def payloads(stream: bytes) -> Iterator[dict[str, Any]]:
    for line in stream.decode().splitlines():
        if line.startswith("data:"):
            yield json.loads(line.removeprefix("data:"))


def read(answers: Iterable[dict[str, Any]]) -> dict[int, Reading]:
    readings: dict[int, Reading] = {}
    for answer in answers:
        for candidate in answer.get("candidates", ()):
            reading = readings.setdefault(candidate.get("index", 0), Reading())
            for part in candidate.get("content", {}).get("parts", ()):
                _read_part(reading, part)
            if candidate.get("finishReason"):
                reading.finish_reasons.append(candidate["finishReason"])
    return readings


def _read_part(reading: Reading, part: dict[str, Any]) -> None:
    assert not reading.finish_reasons or part == {"text": ""}, "after the finish"
    if "functionCall" in part:
        made = part["functionCall"]
        reading.calls.append((made.get("id"), made["name"], made.get("args", {})))
    elif part.get("thought"):
        reading.reasoning += part["text"]
    elif "text" in part:
        reading.text += part["text"]
    else:
        reading.others.append(json.dumps(part, sort_keys=True))


def read_by_us(items: Iterable[bytes]) -> dict[int, Reading]:
    """What the adapter and the assembler make of a stream, but for the server's tools and what nobody judges."""
    wire, assembler = adapter(), BlockAssembler()
    readings: dict[int, Reading] = {}
    for chunk in [*(chunk for item in items for chunk in wire.decode(item)), *wire.flush()]:
        assembler.begin(chunk)
        for event in chunk.events:
            assembler.feed(event)
            if isinstance(event, Finish):
                readings.setdefault(event.choice, Reading()).finish_reasons.append(event.reason)
    assembler.finish()
    for block in assembler.state.blocks:
        reading = readings.setdefault(block.choice, Reading())
        if isinstance(block, ContentStreamBlock) and block.is_quoted:
            continue
        if isinstance(block, ToolCallStreamBlock) and block.form == "server":
            continue
        if isinstance(block, ToolCallStreamBlock):
            reading.calls.append((block.id, block.name, json.loads(block.arguments)))
        elif isinstance(block, ReasoningStreamBlock):
            reading.reasoning += block.content
        elif isinstance(block, ContentStreamBlock):
            reading.text += block.content
    return readings


def without_others(readings: dict[int, Reading]) -> dict[int, Reading]:
    return {choice: replace(reading, others=[]) for choice, reading in readings.items()}


def in_capitals(readings: dict[int, Reading]) -> list[str]:
    return [other.upper() for reading in readings.values() for other in reading.others]


def whole(stream: bytes) -> dict[str, Any]:
    """The full answer that says what a recorded stream says."""
    all_payloads = list(payloads(stream))
    candidate = {key: value for answer in all_payloads for key, value in answer["candidates"][0].items()}
    parts = [part for answer in all_payloads for part in answer["candidates"][0]["content"].get("parts", [])]
    return {**all_payloads[-1], "candidates": [{**candidate, "content": {"parts": parts, "role": "model"}}]}


# Policies


class HoldingToTheEnd(Holding):
    """Lets nothing out before all of the answer came."""

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None: ...

    async def on_reasoning_complete(self, ctx: StreamingResponseContext) -> None: ...

    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None: ...

    async def on_stream_complete(self, ctx: StreamingResponseContext) -> None:
        await passthrough_accumulated_chunks(ctx)


class NeverLettingOut(HoldingToTheEnd):
    async def on_stream_complete(self, ctx: StreamingResponseContext) -> None: ...


class Dropping(SimplePolicy):
    """Drops the tool calls of a name; of every name if it is empty."""

    def __init__(self, name: str = "") -> None:
        self._name = name

    async def on_response_tool_call(self, tool_call: ToolCall, request: Request) -> ToolCall | None:
        return tool_call if self._name and tool_call.name != self._name else None


class DroppingText(SimplePolicy):
    async def on_response_content(self, content: str, request: Request) -> str | None:
        return None


class Rewriting(SimplePolicy):
    async def on_response_tool_call(self, tool_call: ToolCall, request: Request) -> ToolCall | None:
        return replace(tool_call, name=f"safe_{tool_call.name}", arguments='{"z": 1}')


class TwoForOne(SimplePolicy):
    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        await send_text(ctx, "[first]")
        await send_tool_call(ctx, ToolCall("new-id", "new", '{"n": 1}'))

    async def on_response_tool_call(self, tool_call: ToolCall, request: Request) -> ToolCall | None:
        return tool_call


class Refusing(Policy):
    """Lets text through until one says "calls"."""

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        if "calls" in (ctx.delta or ""):
            raise PolicyBlockedError("Not this one.")
        await super().on_content_delta(ctx)


# Recordings


@each_recording
@pytest.mark.parametrize("size", [1, 7, 4096, 10**6])
async def test_what_no_policy_touches_leaves_byte_for_byte(data: bytes, size: int) -> None:
    assert await deliver(NoOp(), pieces(data, size)) == data


@each_recording
def test_we_read_what_another_reads(data: bytes) -> None:
    assert read_by_us(pieces(data, 100)) == without_others(read(payloads(data)))


@each_recording
@pytest.mark.parametrize("policy", [Holding(), HoldingToTheEnd()], ids=["by block", "to the end"])
async def test_what_was_held_and_let_out_says_the_same(data: bytes, policy: Policy) -> None:
    delivered = await deliver(policy, [data])
    came, left = read(payloads(data)), read(payloads(delivered))
    assert left == came
    assert [*payloads(delivered)][-1].get("usageMetadata") == [*payloads(data)][-1]["usageMetadata"]
    for name in ("thoughtSignature", "groundingMetadata", "urlContextMetadata"):
        assert delivered.count(name.encode()) == data.count(name.encode()), name


@each_recording
async def test_all_caps_changes_text_and_nothing_else(data: bytes) -> None:
    came = read(payloads(data))
    delivered = await deliver(AllCaps(), [data])
    expected = {choice: replace(reading, text=reading.text.upper()) for choice, reading in came.items()}
    left = read(payloads(delivered))
    assert without_others(left) == without_others(expected)
    assert in_capitals(left) == in_capitals(came), "more than the texts of a server's results was changed"
    for reading in came.values():
        words = [word for word in reading.text.split() if word.upper() != word and len(word) > 5]
        texts = json.dumps([answer["candidates"] for answer in payloads(delivered)])
        others = "".join(reading.others)
        assert not [word for word in words if word in texts and word not in others], "an original is left"


@each_recording
async def test_a_full_answer_is_judged_like_a_stream(data: bytes) -> None:
    full = whole(data)
    before = json.dumps(full)
    came = read([full])
    for response in (full, GenerateContentResponse(**json.loads(before))):
        assert await deliver_full(NoOp(), response) is response
        shouted = await deliver_full(AllCaps(), response)
        assert type(shouted) is type(response)
        fields = shouted if isinstance(shouted, dict) else shouted.model_dump()
        left = read([fields])
        assert without_others(left) == without_others({0: replace(came[0], text=came[0].text.upper())})
        assert in_capitals(left) == in_capitals(came)
        assert fields["usageMetadata"] == full["usageMetadata"]
        assert ("groundingMetadata" in fields["candidates"][0]) == (
            "groundingMetadata" in full["candidates"][0] and shouted is response
        )
        unchanged = response if isinstance(response, dict) else response.model_dump()
        assert json.dumps(unchanged) == before


# Policies on a made stream, and on the same answer in full


async def both(policy: Policy, *, calls: list[bytes] | None = None) -> tuple[Reading, bytes]:
    """What a client reads of a stream, which must be what it reads of the full answer, and the bytes."""
    items = calls or CALLS
    data = await deliver(policy, items)
    full = await deliver_full(policy, whole(b"".join(items)))
    reading = read(payloads(data))[0]
    assert read([full]) == {0: reading}
    return reading, data + json.dumps(full).encode()


async def test_calls_are_dropped_and_the_others_stay_as_they_came() -> None:
    reading, data = await both(Dropping("a"))
    assert reading.calls == [("id-b", "b", {"y": "two"})]
    assert (reading.text, reading.finish_reasons) == ("Two calls.", ["STOP"])
    assert b"sig-b" in data
    for original in (b"one", b"id-a", b"sig-a"):
        assert original not in data


async def test_all_calls_are_dropped() -> None:
    reading, _ = await both(Dropping())
    assert (reading.calls, reading.finish_reasons) == ([], ["STOP"])


async def test_calls_are_renamed_and_their_arguments_rewritten_and_keep_their_signatures() -> None:
    reading, data = await both(Rewriting())
    assert reading.calls == [("id-a", "safe_a", {"z": 1}), ("id-b", "safe_b", {"z": 1})]
    assert b"sig-a" in data
    assert b"sig-b" in data
    assert b"one" not in data


async def test_arguments_are_rewritten_by_all_caps() -> None:
    reading, data = await both(AllCaps(AllCapsConfig(tool_arguments=True)))
    assert reading.calls == [("id-a", "a", {"x": "ONE"}), ("id-b", "b", {"y": "TWO"})]
    assert (reading.text, reading.reasoning) == ("TWO CALLS.", "hm")
    assert b"one" not in data


async def test_a_call_is_replaced_by_text_and_another_call() -> None:
    reading, data = await both(TwoForOne())
    assert reading.text == "Two calls.[first][first]"
    assert [call[1:] for call in reading.calls] == [("new", {"n": 1})] * 2
    assert reading.calls[0][0] == "new-id" != reading.calls[1][0], "two calls have one id"
    assert b"one" not in data


async def test_an_answer_is_refused_in_the_middle() -> None:
    data = await deliver(Refusing(), CALLS)
    reading = read(payloads(data))[0]
    assert (reading.text, reading.calls) == ("Two \n\nNot this one.", [])
    assert reading.finish_reasons == ["STOP"]
    assert b"calls" not in data
    assert [*payloads(data)][-1]["usageMetadata"]["totalTokenCount"] == 8


async def test_dropped_text_is_not_told_by_its_sources() -> None:
    sources = {"groundingMetadata": {"groundingSupports": [{"segment": {"text": "secret"}}]}}
    items = [frame(say("se")), frame(say("cret")), frame(say(""), finish="STOP", **sources)]
    for policy in (DroppingText(), AllCaps()):
        reading, data = await both(policy, calls=items)
        assert reading.finish_reasons == ["STOP"]
        assert b"secret" not in data
    _, data = await both(NoOp(), calls=items)
    assert data.count(b"secret") == 2


async def test_sources_in_the_middle_wait_for_the_text_that_they_repeat() -> None:
    items = [frame(say("se"), groundingMetadata={"text": "se"}), frame(say("cret")), END]
    held = await deliver(HoldingToTheEnd(), items)
    assert [*payloads(held)][-1]["candidates"][0]["finishReason"] == "STOP"
    assert b"groundingMetadata" in held
    assert b"groundingMetadata" not in await deliver(DroppingText(), items)


async def test_sources_of_text_that_is_never_let_out_stay_too() -> None:
    items = [frame(say("secret")), frame(say(""), finish="STOP", groundingMetadata={"text": "secret"})]
    data = await deliver(NeverLettingOut(), items)
    assert b"secret" not in data
    assert read(payloads(data))[0].finish_reasons == ["STOP"]


async def test_calls_without_ids_are_told_apart() -> None:
    items = [frame({"functionCall": {"name": "a"}}), frame({"functionCall": {"name": "a", "args": {"x": 1}}}), END]
    reading, _ = await both(Rewriting(), calls=items)
    assert reading.calls == [(None, "safe_a", {"z": 1})] * 2
    assert read_by_us(items)[0].calls == [(None, "a", {}), (None, "a", {"x": 1})]


async def test_every_candidate_has_a_part_as_clients_expect() -> None:
    items = [frame(say("x"), finish="STOP")]
    for answer in [
        *payloads(await deliver(DroppingText(), items)),
        await deliver_full(DroppingText(), whole(items[0])),
    ]:
        assert answer["candidates"][0]["content"]["parts"] == [{"text": ""}]


async def test_candidates_are_judged_apart() -> None:
    items = [frame(say("left")), frame(say("right"), index=1), END, frame(say(""), finish="STOP", index=1)]
    readings = read(payloads(await deliver(AllCaps(), items)))
    assert [readings[number].text for number in (0, 1)] == ["LEFT", "RIGHT"]
    assert [readings[number].finish_reasons for number in (0, 1)] == [["STOP"], ["STOP"]]


async def test_what_a_policy_made_looks_like_what_came_last() -> None:
    [made, *_] = payloads(await deliver(AllCaps(), [frame(say("x")), END]))
    assert (made["modelVersion"], made["responseId"]) == ("g", "r")


OPEN = {"functionCall": {"name": "rm", "willContinue": True}}


@pytest.mark.parametrize("held", [call("rm"), OPEN], ids=["whole", "open"])
async def test_what_is_held_does_not_leave_after_an_error(held: dict[str, Any]) -> None:
    error = b'data: {"error": {"code": 503, "message": "overloaded"}}\n\n'
    said = frame(say("A call."))
    out = await pull(PolicyExecutor(HoldsCalls()).run(provide([said, frame(held), error]), adapter(), context()))
    assert out == [said, error]


async def test_a_comment_and_an_error_pass() -> None:
    data = b': ping\n\ndata: {"error": {"code": 503, "message": "overloaded"}}\n\n'
    assert await deliver(AllCaps(), [data]) == data


# The provider's own tools


CODE = {"executableCode": {"language": "PYTHON", "code": "import os; os.system('rm -rf /')"}}
RESULT = {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "sk-live\nDONE"}}
SEARCH = {"toolCall": {"toolType": "GOOGLE_SEARCH_WEB", "args": {"queries": ["weather"]}, "id": "s1"}}
FOUND = {"toolResponse": {"toolType": "GOOGLE_SEARCH_WEB", "response": {"text": "sunny"}, "id": "s1"}}
TOOLS = [frame(say("Let me see.")), frame(CODE), frame(RESULT), frame(SEARCH), frame(FOUND), frame(say("Done.")), END]


class DroppingCode(SimplePolicy):
    async def on_response_tool_call(self, tool_call: ToolCall, request: Request) -> ToolCall | None:
        return None if tool_call.name == "code_execution" else tool_call


async def test_code_of_the_provider_is_judged_and_takes_its_result_along() -> None:
    data = await deliver(DroppingCode(), TOOLS)
    full = json.dumps(await deliver_full(DroppingCode(), whole(b"".join(TOOLS))))
    for left in (data.decode(), full):
        assert "rm -rf" not in left
        assert "sk-live" not in left
        assert "sunny" in left
        assert "weather" in left
    assert read(payloads(data))[0].finish_reasons == ["STOP"]


async def test_results_of_the_providers_tools_are_text() -> None:
    class Redacting(SimplePolicy):
        async def on_response_content(self, content: str, request: Request) -> str | None:
            return content.replace("sk-live", "[redacted]")

    for left in (
        await deliver(Redacting(), TOOLS),
        json.dumps(await deliver_full(Redacting(), whole(b"".join(TOOLS)))).encode(),
    ):
        assert b"sk-live" not in left
        assert b"[redacted]\\nDONE" in left
        assert b"OUTCOME_OK" in left
        assert b"rm -rf" in left


async def test_a_result_waits_for_the_verdict_on_its_call() -> None:
    judged = await deliver(HoldingToTheEnd(), TOOLS)
    others = read(payloads(judged))[0].others
    assert others == read(payloads(b"".join(TOOLS)))[0].others, "a result left before its call"


@pytest.mark.parametrize("preset", ["block_dangerous_commands", "sql_protection", "block_web_requests", "secrets"])
async def test_ordinary_searches_and_code_pass_the_presets(preset: str) -> None:
    harmless = {"executableCode": {"language": "PYTHON", "code": "print(sum(range(10)))"}}
    items = [frame(harmless), frame({"codeExecutionResult": {"output": "45"}}), frame(SEARCH), frame(FOUND), END]
    policy = load_policy(preset, {}, "policy")
    assert await deliver(policy, items) == b"".join(items)


# Arguments in pieces


def piece(path: str | None = None, value: object = None, *, name: str | None = None, goes_on: bool = True) -> bytes:
    partial = {} if path is None else {"partialArgs": [{"jsonPath": path, "stringValue": value, "willContinue": True}]}
    named = {} if name is None else {"name": name}
    more = {"willContinue": True} if goes_on else {}
    return frame({"functionCall": {**named, **partial, **more}})


PIECES = [
    piece(name="run_shell_command"),
    piece("$.command", "rm -rf"),
    piece("$.command", " /"),
    piece("$.where[0].host", "here"),
    piece(goes_on=False),
]


async def test_arguments_in_pieces_are_judged_whole() -> None:
    data = b"".join([*PIECES, END])
    assert await deliver(NoOp(), [data]) == data
    assert await deliver(Holding(), [data]) == data
    [call] = read_by_us([data])[0].calls
    assert call == (None, "run_shell_command", {"command": "rm -rf /", "where": [{"host": "here"}]})
    left = await deliver(load_policy("block_dangerous_commands", {}, "policy"), [data])
    assert b"rm -rf" not in left
    assert b"blocked the call of run_shell_command" in left


@pytest.mark.parametrize("end", [[], [END]], ids=["broken off", "finished"])
async def test_arguments_that_have_no_end_are_no_whole_call(end: list[bytes]) -> None:
    items = [*PIECES[:2], *end]
    assert await deliver(NoOp(), items) == b"".join(items)
    left = await deliver(load_policy("block_dangerous_commands", {}, "policy"), items)
    assert b"rm -rf" not in left
    assert read(payloads(left))[0].calls == []


@pytest.mark.parametrize("path", ["command", "$..x", "$.a[7]", "$[0]", "$.a[", "$.command.deeper"])
async def test_arguments_at_a_place_that_is_none_are_not_understood(path: str) -> None:
    items = [piece(name="bash"), piece("$.command", "ls"), piece(path, "x"), piece(goes_on=False), END]
    assert b"functionCall" not in await deliver(load_policy("block_dangerous_commands", {}, "policy"), items)


LISTING = {"partialArgs": [{"jsonPath": "$.command", "boolValue": True}]}
REMOVING = {"args": {"command": "rm -rf /"}}


@pytest.mark.parametrize(
    "calls",
    [[REMOVING | LISTING], [{"willContinue": True} | REMOVING, LISTING], [{"willContinue": True}, LISTING | REMOVING]],
    ids=["at once", "pieces later", "whole later"],
)
async def test_whole_arguments_beside_pieces_are_not_understood(calls: list[dict[str, Any]]) -> None:
    named, *others = calls
    items = [frame({"functionCall": {"name": "bash", **named}}), *(frame({"functionCall": each}) for each in others)]
    assert b"functionCall" not in await deliver(load_policy("block_dangerous_commands", {}, "policy"), [*items, END])


async def test_fields_that_nobody_judges_leave_only_with_a_response_that_is_whole() -> None:
    sources = {"groundingMetadata": {"groundingChunks": [{"web": {"title": "sk-live", "uri": "http://a"}}]}}
    marked = frame(say("secret"), finish="STOP", logprobsResult={"x": "secret"}, finishMessage="secret", **sources)
    extra = b'data: {"candidates": [{"content": {"role": "model", "unknown": "secret"}}]}\n\n'
    for policy in (DroppingText(), NeverLettingOut()):
        left = await deliver(policy, [extra, marked])
        assert b"secret" not in left
        assert b"sk-live" not in left
    assert await deliver(Holding(), [marked]) == marked


# Whatever a provider sends


def jumbled(seed: int) -> bytes:
    """Frames of several answers, in any order, some twice, some cut."""
    chance = random.Random(seed)
    others = [data.read_bytes() for data in chance.sample(RECORDINGS, min(2, len(RECORDINGS)))]
    frames = [
        *CALLS,
        *TOOLS,
        *PIECES,
        *(part + b"\r\n\r\n" for data in others for part in data.split(b"\r\n\r\n") if part),
    ]
    taken = chance.choices(frames, k=chance.randint(1, 25))
    if chance.random() < 0.5:
        place = chance.randrange(len(taken))
        taken[place] = taken[place][: chance.randrange(len(taken[place]))]
    return b"".join(taken)


@pytest.mark.parametrize("seed", range(40))
async def test_whatever_order_a_provider_sends_leaves_as_it_came_where_nobody_judges(seed: int) -> None:
    data = jumbled(seed)
    assert await deliver(NoOp(), pieces(data, 1 + seed * 37)) == data


@pytest.mark.parametrize("seed", range(40))
async def test_nothing_that_is_dropped_leaves_in_whatever_order_it_came(seed: int) -> None:
    left = b"".join(
        [json.dumps(answer).encode() for answer in payloads(await deliver(NeverLettingOut(), [jumbled(seed)]))]
    )
    for said in (b"Two ", b"calls.", b"rm -rf", b"sk-live", b"sunny", b'"one"', b"Let me see"):
        assert said not in left


# What is no answer of Gemini


@pytest.mark.parametrize(
    "data",
    [
        b"data: no JSON\n\n",
        b"data: [1]\n\n",
        b'data: {"candidates": {}}\n\n',
        b'data: {"candidates": [1]}\n\n',
        b'data: {"candidates": [{"content": []}]}\n\n',
        b'data: {"candidates": [{"content": {"parts": [{"text": 1}]}}]}\n\n',
        b'data: {"candidates": [{"index": "x", "content": {"parts": []}}]}\n\n',
        b'data: {"candidates": [{"content": {"parts": [{"functionCall": {}}]}}]}\n\n',
        b'data: {"candidates": [{"content": {"parts": [{"functionCall": {"name": "a", "args": "x"}}]}}]}\n\n',
        b'data: {"candidates": [{"content": {"parts": [{"functionCall": {"name": "a"}, "text": "b"}]}}]}\n\n',
    ],
)
async def test_what_cannot_be_read_passes_where_nobody_judges_and_ends_a_response_where_a_policy_does(
    data: bytes,
) -> None:
    assert await deliver(NoOp(), [frame(say("a")), data, END]) == frame(say("a")) + data + END
    left = await deliver(Holding(), [frame(say("a")), data, END])
    assert data not in left
    assert b"This answer was stopped because a policy check failed" in left


@pytest.mark.parametrize("raw", ["data: {}", {"candidates": []}, None])
def test_an_unknown_item_is_an_error(raw: object) -> None:
    with pytest.raises(WireError):
        adapter().decode(raw)


@pytest.mark.parametrize("response", ["text", b"", None, {"candidates": 1}])
def test_a_response_that_cannot_be_read_is_unknown(response: object) -> None:
    assert [*adapter().decode_full(response).events] == [Unknown(kind="response", is_malformed=True)]


@pytest.mark.parametrize("arguments", ['{"a": ', "[1]", "free text"])
def test_arguments_that_gemini_cannot_say_are_an_error(arguments: str) -> None:
    with pytest.raises(WireError):
        list(adapter().encode([ToolCallDelta(name="a", arguments=arguments)], None))


def test_a_lone_surrogate_does_no_harm() -> None:
    [item] = adapter().encode([TextDelta(text="\ud83d")], None)
    assert read(payloads(bytes(item)))[0].text == "\ud83d"
