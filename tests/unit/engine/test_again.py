"""The model is asked once more if all calls of its response were withheld, on every wire, streamed and full."""

import asyncio
import json
import re
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from luthien_litellm_hooks import (
    ALLOW,
    DefaultTransactionRecorder,
    PolicyContext,
    PolicyExecutor,
    Request,
    ToolCall,
    ToolGatePolicy,
    Verdict,
)
from luthien_litellm_hooks.policy.context import Question, StreamingResponseContext
from luthien_litellm_hooks.policy.limits import DEFAULT_LIMITS
from luthien_litellm_hooks.recording.decision import Approval, ApprovalState, AskedAgain
from luthien_litellm_hooks.recording.record import transaction_record
from luthien_litellm_hooks.testing.answers import Answer, Call, Say, Think
from luthien_litellm_hooks.testing.routes import ROUTES, RouteName
from luthien_litellm_hooks.wire import FORMATS
from luthien_litellm_hooks.wire.format import Adapter, Refusal
from tests.support.telemetry import Told

WIRES = [wire for wire in sorted(ROUTES) if wire != "completions"]
MODES = [False, True]
REFUSED = "Not this one."
BAD, GOOD = Call("remove", '{"path": "a"}', "call_bad"), Call("read", '{"path": "b"}', "call_good")
FIRST = Answer([Say("I tidy up."), BAD])


class Gate(ToolGatePolicy):
    """Withholds one tool."""

    async def judge_tool_call(self, tool_call: ToolCall, ctx: PolicyContext) -> Verdict:
        return Verdict("block", message=REFUSED) if tool_call.name == "remove" else ALLOW


@dataclass
class Scripted:
    """Model with one more response, or with an error."""

    route: RouteName
    second: Answer | Exception | None
    bodies: list[Any] = field(default_factory=list[Any])
    body: Any = None

    def next_request(self, request: Request, response: Sequence[object], refusals: Sequence[Refusal]) -> Request | None:
        turn = FORMATS[self.route].next_turn
        body = turn.body(request.body, response, refusals) if turn is not None else None
        return None if body is None else replace(request, body=body)

    async def respond(self, request: Request, again: AskedAgain) -> object:
        self.bodies.append(request.body)
        if self.second is None:
            await asyncio.Event().wait()
        if isinstance(self.second, Exception):
            raise self.second
        assert self.second is not None
        return ROUTES[self.route].full(self.second, request.body)

    def new_adapter(self) -> Adapter:
        return ROUTES[self.route].adapter(Request({"model": "scripted"}))


@dataclass
class Delivered:
    chunks: list[object]
    recorder: DefaultTransactionRecorder
    context: PolicyContext

    @property
    def content(self) -> list[dict[str, Any]]:
        return self.recorder.egress.content()

    @property
    def calls(self) -> list[tuple[str, str]]:
        return [(block["name"], block["arguments"]) for block in self.content if block["type"] == "tool_call"]

    @property
    def text(self) -> str:
        return "".join(block["text"] for block in self.content if block["type"] == "text")


async def _deliver(
    model: Scripted,
    *,
    full: bool,
    on_block: Any = "retry",
    first: Answer = FIRST,
    policy: Gate | None = None,
    fields: dict[str, Any] | None = None,
    person: Any = None,
    **given: Any,
) -> Delivered:
    wire = ROUTES[model.route]
    stateless: dict[str, Any] = {"store": False} if model.route == "responses" else {}
    body: dict[str, Any] = {"model": "scripted", **wire.body, **stateless, **(fields or {}), "stream": not full}
    recorder = DefaultTransactionRecorder()
    request, observability = Request(body, route=wire.path), Told("transaction-test")
    context = PolicyContext("transaction-test", request, recorder=recorder, observability=observability)
    context.approvals = person
    executor = PolicyExecutor(policy or Gate(), on_block=on_block, **given)
    await executor.on_request(context)
    adapter = wire.adapter(context.final_request)
    if full:
        return Delivered([await executor.run_full(wire.full(first, body), adapter, context, model)], recorder, context)
    async with aclosing(executor.run(wire.stream(first, body), adapter, context, model)) as stream:
        return Delivered([chunk async for chunk in stream], recorder, context)


def deliver(model: Scripted, **given: Any) -> Delivered:
    return asyncio.run(_deliver(model, **given))


@pytest.mark.parametrize("full", MODES)
@pytest.mark.parametrize("wire", WIRES)
def test_the_next_call_continues_the_response(wire: RouteName, full: bool) -> None:
    model = Scripted(wire, Answer([Think("Reading is fine."), Say("Then I read."), GOOD]))
    delivered = deliver(model, full=full)
    rules = FORMATS[wire].rules
    assert delivered.calls == [("read", '{"path": "b"}')]
    assert [part in delivered.text for part in ("I tidy up.", REFUSED, "Then I read.")] == [True] * 3
    assert delivered.recorder.egress.finish_reason in rules.tool_reasons
    assert delivered.recorder.outcome == "blocked"
    assert len(model.bodies) == 1
    again = delivered.context.asked_again
    assert again is not None
    assert (again.tools, again.result) == (["remove"], "delivered")
    assert not [block for block in delivered.content if block["type"] == "reasoning"]
    if not full:
        decoded = ROUTES[wire].adapter(Request({"model": "scripted"}))
        for chunk in delivered.chunks:
            decoded.decode(chunk)


@pytest.mark.parametrize("full", MODES)
@pytest.mark.parametrize("wire", WIRES)
def test_a_text_alone_ends_the_response(wire: RouteName, full: bool) -> None:
    delivered = deliver(Scripted(wire, Answer([Say("I leave it.")])), full=full)
    assert delivered.calls == []
    assert delivered.text.endswith("I leave it.")
    assert delivered.recorder.egress.finish_reason == FORMATS[wire].rules.stop_reason


def _bytes(delivered: Delivered) -> bytes:
    """The stream without the scripted provider's random ids."""
    return re.sub(rb"[0-9a-f]{16,}", b"", b"".join(chunk for chunk in delivered.chunks if isinstance(chunk, bytes)))


def _contents(delivered: Delivered) -> object:
    return [block["text"] for block in delivered.content], delivered.recorder.egress.finish_reason


NO_MORE: dict[str, tuple[Answer | Exception | None, str, str | None]] = {
    "withheld again": (FIRST, "blocked", None),
    "nothing": (Answer([]), "blocked", None),
    "an error": (ValueError("quota"), "failed", "the model could not be asked: ValueError"),
    "too late": (TimeoutError(), "failed", "the model took too long"),
}


@pytest.mark.parametrize("full", MODES)
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("second", NO_MORE)
def test_otherwise_the_response_ends_as_with_a_notice(second: str, wire: RouteName, full: bool) -> None:
    answer, result, reason = NO_MORE[second]
    delivered = deliver(model := Scripted(wire, answer), full=full)
    expected = deliver(Scripted(wire, None), full=full, on_block="notice")
    assert _contents(delivered) == _contents(expected)
    again = delivered.context.asked_again
    assert again is not None
    assert (again.result, again.reason, len(model.bodies)) == (result, reason, 1)
    observed = delivered.context.observability
    assert isinstance(observed, Told)
    assert [one for one in observed.metrics if "again" in one[0]] == [
        ("luthien_asked_again_total", 1, {"result": result})
    ]
    [event] = [data for name, data in observed.events if name == "transaction.asked_again"]
    assert (event["result"], event["reason"], event["tools"]) == (result, reason, [*again.tools])
    if wire in ("messages", "gemini") and not full:  # the other wires have ids and times of their own
        assert _bytes(delivered) == _bytes(expected)


def _unasked(**given: Any) -> None:
    model = Scripted("messages", None)
    expected = deliver(Scripted("messages", None), full=False, **{**given, "on_block": "notice"})
    delivered = deliver(model, full=False, **given)
    assert model.bodies == []
    assert delivered.context.asked_again is None
    assert _bytes(delivered) == _bytes(expected)


def test_a_response_with_a_call_that_passes_goes_on_by_itself() -> None:
    _unasked(first=Answer([GOOD, BAD]))


def test_a_response_without_a_withheld_call_leaves_as_it_came() -> None:
    _unasked(first=Answer([Say("Hello."), GOOD]))
    _unasked(first=Answer([Say("Hello.")]))


def test_a_response_that_a_limit_cut_off_is_not_continued() -> None:
    _unasked(first=Answer([BAD], finish="length"))


def test_a_failure_of_a_policy_is_not_continued() -> None:
    class Fails(Gate):
        async def judge_tool_call(self, tool_call: ToolCall, ctx: PolicyContext) -> Verdict:
            raise KeyError

    _unasked(policy=Fails())


def test_an_undecided_question_is_not_continued() -> None:
    class Asks(Gate):
        async def judge_tool_call(self, tool_call: ToolCall, ctx: PolicyContext) -> Verdict:
            return Verdict("ask")

    _unasked(policy=Asks())


class Person:
    """Person who leaves a question undecided, or denies it."""

    def __init__(self, state: ApprovalState) -> None:
        self._state: ApprovalState = state

    async def ask(self, ctx: StreamingResponseContext, questions: Sequence[Question]) -> list[Approval]:
        return [Approval("digest", self._state, "7f3k-92ax", message="Later.") for _ in questions]


@pytest.mark.parametrize(("state", "words"), [("pending", "waits for a person's approval (7f3k"), ("denied", "Later.")])
@pytest.mark.parametrize("full", MODES)
@pytest.mark.parametrize("wire", WIRES)
def test_what_a_person_was_asked_about_the_second_answer_is_told(
    wire: RouteName, full: bool, state: ApprovalState, words: str
) -> None:
    class AsksThen(Gate):
        async def judge_tool_call(self, tool_call: ToolCall, ctx: PolicyContext) -> Verdict:
            verdict = await super().judge_tool_call(tool_call, ctx)
            return Verdict("ask") if verdict is ALLOW else verdict

    model = Scripted(wire, Answer([Say("Then I read."), GOOD]))
    delivered = deliver(model, full=full, policy=AsksThen(), person=Person(state))
    assert delivered.calls == []
    assert [part in delivered.text for part in (REFUSED, "Then I read.", words)] == [True] * 3
    assert delivered.recorder.egress.finish_reason == FORMATS[wire].rules.stop_reason


def test_a_stored_response_is_not_continued() -> None:
    model = Scripted("responses", None)
    delivered = deliver(model, full=False, fields={"store": True})
    assert model.bodies == []
    assert delivered.context.asked_again is not None
    assert delivered.context.asked_again.reason == "the wire has no request with this refusal"
    assert delivered.calls == []


@pytest.mark.parametrize("full", MODES)
def test_a_second_answer_with_several_choices_is_not_delivered(full: bool) -> None:
    class Two(Scripted):
        async def respond(self, request: Request, again: AskedAgain) -> object:
            one: Any = await super().respond(request, again)
            other: Any = await super().respond(request, again)
            other.choices[0].index = 1
            one.choices.append(other.choices[0])
            return one

    delivered = deliver(Two("chat", Answer([Say("Then I read."), GOOD])), full=full)
    assert _contents(delivered) == _contents(deliver(Scripted("chat", None), full=full, on_block="notice"))
    assert delivered.context.asked_again is not None
    assert delivered.context.asked_again.reason == "the model gave more than one choice"


def test_the_client_is_pinged_meanwhile_and_the_time_counts() -> None:
    delivered = deliver(
        Scripted("messages", None), full=False, ping_s=0.01, limits=replace(DEFAULT_LIMITS, max_hold_s=0.1)
    )
    assert b"event: ping" in b"".join(chunk for chunk in delivered.chunks if isinstance(chunk, bytes))
    assert delivered.context.asked_again is not None
    assert delivered.context.asked_again.reason == "the model took too long"


THOUGHT = Think("I think.", "its-signature")
ASKED: dict[RouteName, Any] = {
    "chat": [
        {
            "role": "assistant",
            "content": "I tidy up.",
            "tool_calls": [
                {"id": "call_bad", "type": "function", "function": {"name": "remove", "arguments": '{"path": "a"}'}}
            ],
            "reasoning_content": "I think.",
        },
        {"role": "tool", "tool_call_id": "call_bad", "content": "TEXT"},
    ],
    "messages": [
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "I think.", "signature": "its-signature"},
                {"type": "text", "text": "I tidy up."},
                {"type": "tool_use", "id": "call_bad", "name": "remove", "input": {"path": "a"}},
            ],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "call_bad", "content": "TEXT", "is_error": True}],
        },
    ],
    "responses": [
        {
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "I tidy up.", "annotations": []}],
        },
        {
            "type": "function_call",
            "call_id": "call_bad",
            "name": "remove",
            "arguments": '{"path": "a"}',
            "status": "completed",
        },
        {"type": "function_call_output", "call_id": "call_bad", "output": "TEXT"},
    ],
}
HISTORY = {"chat": "messages", "messages": "messages", "responses": "input"}


@pytest.mark.parametrize("full", MODES)
@pytest.mark.parametrize("wire", ASKED)
def test_the_model_gets_its_own_words_back_with_the_refusal(wire: RouteName, full: bool) -> None:
    model = Scripted(wire, Answer([GOOD]))
    deliver(model, full=full, first=Answer([THOUGHT, Say("I tidy up."), BAD]))
    [body] = model.bodies
    words = f"[luthien] {REFUSED} (transaction transaction-test)"
    said = json.dumps(body[HISTORY[wire]][1:]).replace(', "logprobs": []', "")
    assert json.loads(said) == json.loads(json.dumps(ASKED[wire]).replace("TEXT", words))


@pytest.mark.parametrize("full", MODES)
def test_gemini_gets_its_own_parts_back(full: bool) -> None:
    model = Scripted("gemini", Answer([GOOD]))
    deliver(model, full=full, first=Answer([THOUGHT, Say("I tidy up."), BAD]))
    *_, said, refused = model.bodies[0]["contents"]
    assert [part["functionCall"]["args"] for part in said["parts"] if "functionCall" in part] == [{"path": "a"}]
    assert "thoughtSignature" in json.dumps(said["parts"])
    [part] = refused["parts"]
    assert REFUSED in part["functionResponse"]["response"]["error"]


def test_the_record_tells_of_the_second_call() -> None:
    delivered = deliver(Scripted("chat", Answer([GOOD])), full=False)
    record = transaction_record(delivered.context, delivered.recorder, "", (), with_bodies=True)
    again = record["asked_again"]
    assert (again["tools"], again["result"], again["decisions"]) == (["remove"], "delivered", [])
    assert [block["name"] for block in again["answer"]["content"]] == ["read"]
    bare = transaction_record(delivered.context, delivered.recorder, "", (), with_bodies=False)["asked_again"]
    assert "answer" not in bare
