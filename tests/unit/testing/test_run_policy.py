"""`run_policy`: what a policy makes of an answer, without a proxy."""

import doctest
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from luthien_litellm_hooks import (
    Answer,
    ConfigError,
    PolicyBlockedError,
    PolicyContext,
    Request,
    SimplePolicy,
    ToolCall,
    testing,
)
from luthien_litellm_hooks.policies.all_caps import AllCaps
from luthien_litellm_hooks.policies.noop import NoOp
from luthien_litellm_hooks.testing import Call, Cut, Say, ScriptedAnswer, Think, run, run_policy
from luthien_litellm_hooks.testing.anthropic_wire import stream as anthropic_stream
from luthien_litellm_hooks.testing.routes import ROUTES, RouteName
from tests.unit.wire.test_chat_recordings import RECORDINGS, STREAMS, what_came

EVERYTHING = [Think("step by step", "sig"), Say("An answer."), Call("read", '{"path": "x"}', id="call_a")]
FINISHES = {"chat": "tool_calls", "messages": "tool_use", "responses": "completed", "gemini": "STOP"}

each_mode = pytest.mark.parametrize("full", [False, True], ids=["stream", "full"])
each_route = pytest.mark.parametrize("route", ROUTES)


def test_the_example_in_its_documentation_is_true() -> None:
    results = doctest.testmod(run)
    assert results.attempted > 0
    assert results.failed == 0


@each_mode
@pytest.mark.parametrize("route", FINISHES)
async def test_it_tells_what_was_delivered(route: RouteName, full: bool) -> None:
    outcome = await run_policy(NoOp(), EVERYTHING, route=route, full=full)
    assert (outcome.text, outcome.reasoning) == ("An answer.", "step by step")
    [call] = outcome.tool_calls
    assert (call.name, call.arguments) == ("read", '{"path": "x"}')
    assert call.id == "call_a"
    assert outcome.finish_reason == FINISHES[route]
    assert (outcome.decisions, outcome.answer) == ((), None)


@each_mode
@each_route
async def test_a_text_is_an_answer(route: RouteName, full: bool) -> None:
    outcome = await run_policy(AllCaps(), "hello", route=route, full=full)
    assert outcome.text == "HELLO"
    assert (len(outcome.chunks) == 1) is full


@each_mode
@each_route
async def test_an_answer_may_be_empty(route: RouteName, full: bool) -> None:
    outcome = await run_policy(NoOp(), [], route=route, full=full)
    assert (outcome.text, outcome.tool_calls) == ("", ())


class Judge(SimplePolicy):
    """Changes the text, drops one call."""

    async def on_response_content(self, content: str, request: Request) -> str:
        return content.replace("secret", "***")

    async def on_response_tool_call(self, tool_call: ToolCall, request: Request) -> ToolCall | None:
        return None if tool_call.name == "delete" else tool_call


@each_mode
async def test_it_tells_what_was_decided(full: bool) -> None:
    outcome = await run_policy(Judge(), [Say("a secret"), Call("delete", "{}"), Call("read", "{}")], full=full)
    assert outcome.text == "a ***"
    assert [call.name for call in outcome.tool_calls] == ["read"]
    assert [(decision.policy, decision.action) for decision in outcome.decisions] == [
        ("Judge", "modify"),
        ("Judge", "block"),
    ]


class Asks(SimplePolicy):
    """Does with the request what it is given."""

    def __init__(self, result: Any) -> None:
        self.result = result

    async def on_request(self, request: Request, ctx: PolicyContext) -> Request | Answer:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result(request) if callable(self.result) else self.result

    async def on_response_content(self, content: str, request: Request) -> str:
        return "judged"


async def test_the_request_is_as_the_provider_gets_it() -> None:
    outcome = await run_policy(Asks(lambda request: request.replace(temperature=0)), "hello", request={"user": "u"})
    assert outcome.request.body["temperature"] == 0
    assert outcome.request.body["user"] == "u"
    assert outcome.request.messages == [{"role": "user", "content": "hello"}]


@each_mode
@each_route
async def test_an_answer_in_the_models_stead_is_delivered_and_not_judged(route: RouteName, full: bool) -> None:
    outcome = await run_policy(Asks(Answer("mine")), "the model's", route=route, full=full)
    assert (outcome.text, outcome.answer, outcome.tool_calls) == ("mine", Answer("mine"), ())
    assert outcome.finish_reason


@each_mode
@each_route
async def test_a_refusal_is_what_the_client_gets(route: RouteName, full: bool) -> None:
    refusal = PolicyBlockedError("No.", reason="because")
    outcome = await run_policy(Asks(refusal), "the model's", route=route, full=full)
    assert (outcome.text, outcome.answer) == ("No.", Answer("No."))
    [decision] = outcome.decisions
    assert (decision.action, decision.reason, decision.message) == ("block", "because", "No.")


async def test_a_failure_ends_the_answer_or_lets_it_pass_as_said() -> None:
    class Fails(SimplePolicy):
        async def on_response_content(self, content: str, request: Request) -> str:
            raise KeyError("broken")

    blocked = await run_policy(Fails(), "the model's")
    assert blocked.text.endswith("(transaction transaction-test).")
    passed = await run_policy(Fails(), "the model's", on_policy_error="pass")
    assert passed.text == "the model's"
    assert [outcome.decisions[0].action for outcome in (blocked, passed)] == ["error", "error"]


async def test_a_hook_may_take_only_so_long() -> None:
    gate = testing.Gate()

    class Waits(SimplePolicy):
        async def on_response_content(self, content: str, request: Request) -> str:
            await gate.passed()
            return content

    outcome = await run_policy(Waits(), "hello", timeout_s=0.01)
    assert (outcome.decisions[0].reason or "").startswith("on_content_complete: PolicyTimeoutError")


async def test_a_policy_that_keeps_state_on_itself_fails_as_it_does_when_loaded() -> None:
    class Counts(SimplePolicy):
        count = 0

        async def on_response_content(self, content: str, request: Request) -> str:
            self.count += 1
            return content

    outcome = await run_policy(Counts(), "hello")
    assert "Counts.count cannot be set" in (outcome.decisions[0].evidence or "")


async def test_a_policy_may_be_given_as_in_a_config() -> None:
    spec = {"class": "all_caps", "config": {"tool_arguments": True}}
    outcome = await run_policy(spec, [Say("hello"), Call("read", '{"path": "x"}')])
    assert (outcome.text, outcome.tool_calls[0].arguments) == ("HELLO", '{"path": "X"}')


async def test_several_policies_may_be_given_as_in_a_config() -> None:
    policies = [{"class": "all_caps"}, {"class": f"{Judge.__module__}:Judge"}]
    outcome = await run_policy({"class": "serial", "config": {"policies": policies}}, [Say("a"), Call("delete", "{}")])
    assert (outcome.text, outcome.tool_calls) == ("A", ())


@pytest.mark.parametrize(("team", "text"), [("red", "HELLO"), ("blue", "hello")])
async def test_a_config_that_is_for_some_requests_leaves_the_others(team: str, text: str) -> None:
    spec = {"class": "all_caps", "when": {"headers": {"X-Team": "r*"}}}
    request = Request({"model": "m", "messages": []}, headers={"x-team": team})
    assert (await run_policy(spec, "hello", request=request)).text == text


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"class": "all_cops"}, "policy.class: unknown policy 'all_cops'; did you mean 'all_caps'"),
        ({"class": "all_caps", "config": {"loud": 1}}, "policy.config.loud: unknown key"),
    ],
)
async def test_a_wrong_config_is_refused_as_by_the_proxy(spec: Mapping[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        await run_policy(spec, "hello")


async def test_a_config_says_itself_what_a_failure_does() -> None:
    with pytest.raises(TypeError, match="set timeout_s and on_policy_error in the policy's config"):
        await run_policy({"class": "noop"}, "hello", on_policy_error="pass")


@each_mode
@each_route
async def test_the_request_is_one_of_its_route(route: RouteName, full: bool) -> None:
    outcome = await run_policy(NoOp(), "hello", route=route, full=full, request={"user": "u"})
    assert outcome.request.route == ROUTES[route].path
    assert outcome.request.is_streaming is not full
    assert outcome.request.body.items() >= {**ROUTES[route].body, "user": "u", "model": "scripted"}.items()


async def test_a_whole_request_may_be_given() -> None:
    request = Request({"model": "m", "messages": []}, route="/mine", headers={"x-team": "red"})
    outcome = await run_policy(NoOp(), "hello", request=request)
    assert (outcome.request.route, outcome.request.headers) == ("/mine", {"x-team": "red"})
    assert outcome.request.body == {"model": "m", "messages": [], "stream": True}


async def test_a_provider_may_hang_up_in_the_middle() -> None:
    outcome = await run_policy(AllCaps(), [Say("hello"), Cut(), Say("never")])
    assert outcome.text == "HELLO"


async def test_of_several_choices_the_first_is_told() -> None:
    pieces = [(1, "one", None), (0, "hello", None), (1, "", "length"), (0, "", "stop")]
    chunks = [
        {"choices": [{"index": index, "delta": {"content": content}, "finish_reason": reason}]}
        for index, content, reason in pieces
    ]
    recorded = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks).encode()
    outcome = await run_policy(AllCaps(), recorded)
    assert (outcome.text, outcome.finish_reason) == ("HELLO", "stop")


async def test_bytes_are_a_recorded_stream() -> None:
    recorded = b"".join(
        frame for frame in anthropic_stream(ScriptedAnswer(EVERYTHING), {"model": "m"}) if isinstance(frame, bytes)
    )
    outcome = await run_policy(NoOp(), recorded, route="messages")
    assert (outcome.text, outcome.reasoning) == ("An answer.", "step by step")
    assert b"".join(chunk for chunk in outcome.chunks if isinstance(chunk, bytes)) == recorded


async def test_a_recorded_stream_is_no_full_answer() -> None:
    with pytest.raises(ValueError, match="a recorded stream is not a full response"):
        await run_policy(NoOp(), b"data: {}\n\n", full=True)


@pytest.mark.skipif(not RECORDINGS, reason=f"no recorded streams in {STREAMS}")
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.stem)
async def test_a_recorded_chat_is_told_as_the_official_client_reads_it(recording: Path) -> None:
    outcome = await run_policy(NoOp(), recording)
    first = what_came(recording)[0]
    calls = tuple((call.id, call.name, call.arguments) for call in outcome.tool_calls)
    assert (outcome.text, outcome.reasoning, calls) == (first.text, first.reasoning, first.calls)
    assert outcome.finish_reason == first.finish_reason


OTHERS = [path for route in ("messages", "responses", "gemini") for path in sorted((STREAMS / route).glob("*.sse"))]


@pytest.mark.skipif(not OTHERS, reason=f"no recorded streams in {STREAMS}")
@pytest.mark.parametrize("recording", OTHERS, ids=lambda recording: f"{recording.parent.name}-{recording.stem}")
async def test_a_recording_of_any_route_can_be_run(recording: Path) -> None:
    route: Any = recording.parent.name
    came, caps = [await run_policy(policy, recording, route=route) for policy in (NoOp(), AllCaps())]
    assert caps.text == came.text.upper()
    assert came.finish_reason


def test_only_running_a_policy_brings_litellm_along() -> None:
    code = f"from luthien_litellm_hooks.testing import {', '.join(set(testing.__all__) - {'run_policy', 'Outcome'})}\n"
    code += "import sys; assert 'litellm' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], env=os.environ, check=True)


def test_a_name_that_is_not_there_is_an_error() -> None:
    name = "run_polcy"
    with pytest.raises(AttributeError, match=f"has no attribute '{name}'"):
        getattr(testing, name)


@pytest.mark.parametrize(("approve", "calls", "state"), [(True, 1, "approved"), (False, 0, "denied"), (None, 0, None)])
@pytest.mark.parametrize("full", [False, True], ids=["streamed", "full"])
async def test_a_person_whom_the_policy_asks_decides(
    approve: bool | None, calls: int, state: str | None, full: bool
) -> None:
    policy = {"class": "tool_rules", "config": {"default": "ask"}}
    outcome = await run_policy(policy, [Say("I push."), Call("push", "{}")], approve=approve, full=full)
    [decision] = outcome.decisions
    assert len(outcome.tool_calls) == calls
    assert (decision.action, decision.approval and decision.approval.state) == ("ask", state)
    assert outcome.record["outcome"] == ("complete" if calls else "blocked")
