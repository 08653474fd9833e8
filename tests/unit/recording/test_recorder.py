"""What is kept of a transaction: both sides of it, and how it ended, on every route, streamed or full."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from luthien_litellm_hooks import (
    Policy,
    PolicyBlockedError,
    PolicyContext,
    PolicyExecutor,
    Request,
    SimplePolicy,
    ToolCall,
)
from luthien_litellm_hooks.hooks.routes import adapter_for
from luthien_litellm_hooks.policies.noop import NoOp
from luthien_litellm_hooks.policy.tool_gate import ALLOW, ToolGatePolicy, Verdict
from luthien_litellm_hooks.recording.recorder import DefaultTransactionRecorder, ResponseRecord
from luthien_litellm_hooks.telemetry import NoOpObservabilityContext
from luthien_litellm_hooks.telemetry.publisher import EventPublisher
from luthien_litellm_hooks.telemetry.spans import Telemetry
from luthien_litellm_hooks.testing.answers import Answer, Call, Say, Think
from luthien_litellm_hooks.testing.routes import ROUTES, RouteName
from luthien_litellm_hooks.wire.events import Chunk, Finish, ReasoningDelta, TextDelta, ToolCallDelta
from tests.support.chat import provide, pull
from tests.support.telemetry import Lines

ANSWER = Answer([Think("hm", signature="sig"), Say("one secret"), Call("delete", "{}", id="call_a")])
TEXT_ALONE = Answer([Say("one secret")])


class Redacts(SimplePolicy):
    async def on_response_content(self, content: str, request: Request) -> str | None:
        return content.replace("secret", "***")


class NoDeletes(ToolGatePolicy):
    async def judge_tool_call(self, tool_call: ToolCall, ctx: PolicyContext) -> Verdict:
        return Verdict("block", message="No.", reason="it deletes") if tool_call.name == "delete" else ALLOW


class Ends(SimplePolicy):
    async def on_response_content(self, content: str, request: Request) -> str | None:
        raise PolicyBlockedError("Ended.", reason="because")


class Fails(SimplePolicy):
    async def on_response_content(self, content: str, request: Request) -> str | None:
        raise RuntimeError("broken")


class Hangs(SimplePolicy):
    async def on_response_content(self, content: str, request: Request) -> str | None:
        await asyncio.Event().wait()
        return content


class Rewrites(SimplePolicy):
    async def on_request_simple(self, request: Request) -> Request:
        return request.replace(model="other")

    async def process_full_response(self, response: Any, ctx: PolicyContext) -> Any:
        return response


class Watches(NoOpObservabilityContext):
    """Keeps the events."""

    def __init__(self) -> None:
        super().__init__("t")
        self.events: list[tuple[str, Any]] = []

    async def emit_event(self, event_type: str, data: Any) -> None:
        self.events.append((event_type, data))


async def record(
    policy: Policy,
    route: RouteName,
    *,
    is_streamed: bool,
    answer: Answer | None = None,
    observed: Watches | None = None,
    **options: Any,
) -> tuple[DefaultTransactionRecorder, PolicyContext]:
    """What is kept of one transaction."""
    way = ROUTES[route]
    recorder = DefaultTransactionRecorder(observed)
    ctx = PolicyContext("transaction-1", Request({"model": "m", **way.body}), recorder=recorder)
    adapter = adapter_for(way.call_type, ctx.request)
    answer = answer or (TEXT_ALONE if route == "completions" else ANSWER)
    executor = PolicyExecutor(policy, **options)
    if is_streamed:
        await pull(executor.run(way.stream(answer, ctx.request.body), adapter, ctx))
    else:
        await executor.run_full(way.full(answer, ctx.request.body), adapter, ctx)
    return recorder, ctx


def texts(side: ResponseRecord) -> list[str]:
    """What a side says, in short."""
    return [block["text"] if block["type"] != "tool_call" else f"{block['name']}()" for block in side.content()]


each_route = pytest.mark.parametrize("route", list(ROUTES))
each_mode = pytest.mark.parametrize("is_streamed", [True, False], ids=["stream", "full"])


def came(route: str) -> list[str]:
    return ["one secret"] if route == "completions" else ["hm", "one secret", "delete()"]


@each_mode
@each_route
async def test_both_sides_of_an_untouched_answer_are_the_same(route: RouteName, is_streamed: bool) -> None:
    recorder, _ = await record(NoOp(), route, is_streamed=is_streamed)
    assert texts(recorder.ingress) == texts(recorder.egress) == came(route)
    assert not recorder.is_answer_changed
    assert recorder.outcome == "complete"
    assert recorder.ingress.chunks == recorder.egress.chunks > 0


async def test_a_call_is_kept_with_its_form_and_what_its_wire_adds_and_reasoning_without_words_stays() -> None:
    recorder = DefaultTransactionRecorder()
    call = ToolCallDelta(id="a", name="patch", arguments="*** Begin", form="custom", extra={"namespace": "x"})
    recorder.add_ingress_chunk(Chunk((ReasoningDelta(text=""), call, Finish(reason="tool_calls"))))
    assert recorder.ingress.content() == [
        {"type": "reasoning", "text": ""},
        {
            "type": "tool_call",
            "id": "a",
            "name": "patch",
            "arguments": "*** Begin",
            "form": "custom",
            "extra": {"namespace": "x"},
        },
    ]


@each_mode
@each_route
async def test_a_changed_answer_is_kept_as_it_came_and_as_it_left(route: RouteName, is_streamed: bool) -> None:
    recorder, _ = await record(Redacts(), route, is_streamed=is_streamed)
    assert texts(recorder.ingress) == came(route)
    assert texts(recorder.egress) == [text.replace("secret", "***") for text in came(route)]
    assert recorder.is_answer_changed
    assert recorder.outcome == "complete"


@each_mode
@pytest.mark.parametrize("route", ["chat", "messages", "responses", "gemini"])
async def test_a_withheld_call_is_kept_as_the_model_made_it(route: RouteName, is_streamed: bool) -> None:
    recorder, ctx = await record(NoDeletes(), route, is_streamed=is_streamed)
    call = recorder.ingress.content()[-1] | {"id": "call_a"}
    assert ("id" in call.pop("extra", {})) is (route == "responses")
    assert call == {"type": "tool_call", "id": "call_a", "name": "delete", "arguments": "{}"}
    assert (
        "".join(texts(recorder.egress)).replace("\n\n", "") == "hmone secret[luthien] No. (transaction transaction-1)"
    )
    assert recorder.outcome == "blocked"
    (decision,) = ctx.decisions
    assert (decision.action, decision.reason, decision.message) == ("block", "it deletes", "No.")
    assert decision.milliseconds is not None


@each_mode
@each_route
@pytest.mark.parametrize(
    ("policy", "options", "outcome"),
    [
        (Ends(), {}, "blocked"),
        (Fails(), {}, "policy_error"),
        (Fails(), {"on_policy_error": "pass"}, "policy_error"),
        (Hangs(), {"timeout_s": 0.01}, "timeout"),
    ],
)
async def test_how_it_ended_is_kept(
    policy: Policy, options: dict[str, Any], outcome: str, route: RouteName, is_streamed: bool
) -> None:
    recorder, _ = await record(policy, route, is_streamed=is_streamed, **options)
    assert recorder.outcome == outcome
    assert recorder.is_answer_changed is (options != {"on_policy_error": "pass"})


async def test_the_providers_failure_and_a_client_that_leaves_are_endings_too() -> None:
    way = ROUTES["chat"]
    items = [item async for item in way.stream(ANSWER, {})]

    async def broken() -> AsyncIterator[Any]:
        for item in [*items[:3], RuntimeError("upstream")]:
            if isinstance(item, Exception):
                raise item
            yield item

    recorder = DefaultTransactionRecorder()
    ctx = PolicyContext("t", Request({}), recorder=recorder)
    with pytest.raises(RuntimeError):
        await pull(PolicyExecutor(NoOp()).run(broken(), adapter_for("acompletion", ctx.request), ctx))
    assert recorder.outcome == "provider_error"

    recorder = DefaultTransactionRecorder()
    ctx = PolicyContext("t", Request({}), recorder=recorder)
    stream = PolicyExecutor(NoOp()).run(provide(items), adapter_for("acompletion", ctx.request), ctx)
    await anext(stream)
    await stream.aclose()
    assert recorder.outcome == "client_disconnected"
    assert recorder.egress.chunks == 1


async def test_a_client_that_leaves_when_it_is_told_of_the_providers_failure_has_not_ended_the_answer() -> None:
    failure = b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}\n\n'
    started, *_ = [item async for item in ROUTES["messages"].stream(ANSWER, {})]

    async def failing() -> AsyncIterator[Any]:
        yield started
        yield failure
        await asyncio.Event().wait()

    recorder = DefaultTransactionRecorder()
    ctx = PolicyContext("t", Request({}), recorder=recorder)
    stream = PolicyExecutor(NoOp()).run(failing(), adapter_for("anthropic_messages", ctx.request), ctx)
    async for item in stream:
        if item.endswith(failure):
            break
    await stream.aclose()
    assert recorder.outcome == "provider_error"


@pytest.mark.parametrize(("left_out", "outcome"), [(0, "complete"), (2, "client_disconnected")])
async def test_a_client_that_leaves_when_it_has_got_all_has_not_ended_the_answer(left_out: int, outcome: str) -> None:
    items = [item async for item in ROUTES["responses"].stream(ANSWER, {})]
    items = items[: len(items) - left_out]
    recorder = DefaultTransactionRecorder()
    ctx = PolicyContext("t", Request({}), recorder=recorder)
    got, has_all = [], asyncio.Event()

    async def goes_on() -> AsyncIterator[Any]:
        for item in items:
            yield item
        await asyncio.Event().wait()

    async def read() -> None:
        async for item in PolicyExecutor(NoOp()).run(goes_on(), adapter_for("aresponses", ctx.request), ctx):
            got.append(item)
            if len(got) == len(items):
                has_all.set()

    reading = asyncio.create_task(read())
    await has_all.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert recorder.outcome == outcome


@each_mode
async def test_events_tell_without_any_text(is_streamed: bool) -> None:
    observed = Watches()
    recorder, _ = await record(Redacts(), "chat", is_streamed=is_streamed, observed=observed)
    await recorder.record_request({"model": "m", "messages": ["secret"]}, {"model": "other", "messages": ["secret"]})
    (ended, end), (asked, request) = observed.events
    kind = "streaming" if is_streamed else "non_streaming"
    assert (asked, ended) == ("transaction.request_recorded", f"transaction.{kind}_response_recorded")
    assert request == {"original_model": "m", "final_model": "other"}
    assert end["outcome"] == "complete"
    assert "secret" not in str(observed.events)


@pytest.mark.parametrize("has_listener", [True, False])
async def test_a_transaction_is_described_to_listeners_alone(has_listener: bool) -> None:
    described: list[str] = []
    publisher = EventPublisher([Lines()]) if has_listener else None
    observed = Telemetry(publisher).begin("t", route="chat")
    recorder = DefaultTransactionRecorder(observed, describe=lambda: {"number": described.append("once")})
    await recorder.record_request({}, {})
    await recorder.finalize_streaming("complete")
    assert len(described) == (2 if has_listener else 0)


async def test_the_first_ending_counts() -> None:
    observed = Watches()
    recorder = DefaultTransactionRecorder(observed)
    ending = asyncio.create_task(recorder.wait_for_end())
    await asyncio.sleep(0)
    assert not ending.done()
    await recorder.finalize_streaming("blocked")
    await recorder.finalize_non_streaming("complete")
    await ending
    assert recorder.outcome == "blocked"
    assert len(observed.events) == 1


def test_an_answer_without_end_is_kept_in_part_and_marked() -> None:
    side = ResponseRecord(max_characters=10)
    for _ in range(5):
        side.add(Chunk((TextDelta(text="four"),)))
    assert (side.chunks, side.is_truncated, texts(side)) == (5, True, ["fourfour"])


async def test_an_answer_that_a_policy_wrote_in_its_wire_format_is_kept_as_it_left() -> None:
    class Writes(Policy):
        async def process_full_response(self, response: Any, ctx: PolicyContext) -> Any:
            response = response.model_copy(deep=True)
            response.choices[0].message.content = "written"
            return response

    recorder, _ = await record(Writes(), "chat", is_streamed=False, answer=replace(TEXT_ALONE))
    assert (texts(recorder.ingress), texts(recorder.egress)) == (["one secret"], ["written"])
