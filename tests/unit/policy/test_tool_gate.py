"""The gate for tool calls: held while text streams, judged side by side, delivered in order."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthien_litellm_hooks import PolicyContext, PolicyExecutor, Request, ToolCall, ToolCallStreamBlock
from luthien_litellm_hooks.hooks.routes import adapter_for
from luthien_litellm_hooks.policy.notices import NOTICE_MARK
from luthien_litellm_hooks.policy.tool_gate import ALLOW, ToolGatePolicy, Verdict
from luthien_litellm_hooks.recording.recorder import ResponseRecord
from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.routes import ROUTES, RouteName
from tests.support.chat import (
    TRANSACTION_ID,
    WITHHELD,
    Delivered,
    adapter,
    call,
    chunk,
    context,
    deliver,
    deliver_full,
    finish,
    full,
    provide,
    pull,
    text,
    tool,
)

BLOCK = Verdict("block", message="No.", reason="because")

OF = f" (transaction {TRANSACTION_ID})"


class Gate(ToolGatePolicy):
    """Gives each call the verdict that stands under its name; an exception there is raised."""

    def __init__(self, verdicts: Mapping[str, Verdict | BaseException]) -> None:
        self.verdicts = verdicts  # tests load no policy, so nothing checks that it is stateless

    async def judge_tool_call(self, tool_call: ToolCall, ctx: PolicyContext) -> Verdict:
        verdict = self.verdicts.get(tool_call.name, ALLOW)
        if isinstance(verdict, BaseException):
            raise verdict
        return verdict


class Slow(ToolGatePolicy):
    """Judges when the test says so; notes which calls are being judged, and which were cancelled."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.cancelled: list[str] = []
        self.has_all = asyncio.Event()
        self.verdicts: dict[str, asyncio.Future[Verdict]] = {}

    def of(self, name: str) -> asyncio.Future[Verdict]:
        return self.verdicts.setdefault(name, asyncio.get_running_loop().create_future())

    async def judge_tool_call(self, tool_call: ToolCall, ctx: PolicyContext) -> Verdict:
        self.begun.append(tool_call.name)
        if len(self.begun) == 3:
            self.has_all.set()
        try:
            return await self.of(tool_call.name)
        except asyncio.CancelledError:
            self.cancelled.append(tool_call.name)
            raise


ANSWER = [
    text("before "),
    *call(0, "a", "{}"),
    *call(1, "b", '{"x": ', "1}"),
    *call(2, "c", "{}"),
    finish("tool_calls"),
]


def rename(name: str) -> Verdict:
    return Verdict("modify", instead=(ToolCall("call_new", name, "{}"),), reason="renamed")


def names(delivered: Delivered) -> list[str]:
    return [name for _, name, _ in delivered.calls]


async def test_what_no_verdict_touches_leaves_as_the_very_chunks() -> None:
    assert [id(item) for item in await deliver(Gate({}), ANSWER)] == [id(item) for item in ANSWER]


async def test_one_notice_comes_before_the_calls_that_remain_in_their_order() -> None:
    ctx = context()
    items = await deliver(Gate({"a": BLOCK, "c": rename("d")}), ANSWER, ctx)
    delivered = Delivered.of(items)
    assert delivered.text == f"before \n\n{NOTICE_MARK} No.{OF}"
    assert names(delivered) == ["b", "d"]
    assert delivered.finish_reasons == ["tool_calls"]
    kinds = [
        "text" if item.choices[0].delta.content else "call"
        for item in items
        if item.choices[0].delta.tool_calls or item.choices[0].delta.content
    ]
    assert kinds == sorted(kinds, reverse=True)
    assert [(decision.action, decision.reason, decision.message) for decision in ctx.decisions] == [
        ("block", "because", "No."),
        ("modify", "renamed", None),
    ]
    blocks = [decision.block for decision in ctx.decisions]
    assert [block.name for block in blocks if isinstance(block, ToolCallStreamBlock)] == ["a", "c"]


async def test_where_text_may_follow_calls_what_comes_before_a_withheld_one_has_left() -> None:
    items = await deliver(Gate({"b": BLOCK}), ANSWER)
    deltas = [item.choices[0].delta for item in items]
    said = [delta.content or [entry.function.name for entry in delta.tool_calls or ()] for delta in deltas]
    told = f"\n\n{NOTICE_MARK} No.{OF}"
    assert [word for word in said if word not in ([], [None])] == ["before ", ["a"], told, ["c"]]


async def test_what_there_is_to_tell_of_a_call_that_is_allowed_comes_before_it() -> None:
    items = await deliver(Gate({"a": Verdict("allow", message="Beware.")}), ANSWER)
    said = [bool(item.choices[0].delta.tool_calls) for item in items if item.choices[0].finish_reason is None]
    assert said == sorted(said)
    assert Delivered.of(items).text == f"before \n\n{NOTICE_MARK} Beware.{OF}"


async def test_the_same_message_is_told_once() -> None:
    delivered = Delivered.of(
        await deliver(Gate({"a": BLOCK, "b": BLOCK, "c": replace(BLOCK, message="Nor this.")}), ANSWER)
    )
    assert delivered.text == f"before \n\n{NOTICE_MARK} No.\nNor this.{OF}"
    assert delivered.calls == []
    assert delivered.finish_reasons == ["stop"]


async def test_a_call_can_be_withheld_without_a_word() -> None:
    silent, ctx = Verdict("block", reason="because"), context()
    delivered = Delivered.of(await deliver(Gate({"a": silent}), ANSWER, ctx))
    assert (delivered.text, names(delivered)) == ("before ", ["b", "c"])
    assert [(decision.action, decision.reason) for decision in ctx.decisions] == [("block", "because")]
    alone = [*call(0, "a", "{}"), finish("tool_calls")]
    assert Delivered.of(await deliver(Gate({"a": silent}), alone)).text == WITHHELD


async def test_a_full_answer_gets_the_same_verdicts() -> None:
    calls = [tool(0, "call_0", "a", "{}"), tool(1, "call_1", "b", "{}"), tool(2, "call_2", "c", "{}")]
    response = full({"content": "before ", "tool_calls": calls}, "tool_calls")
    message = (await deliver_full(Gate({"a": BLOCK, "c": rename("d")}), response)).choices[0].message
    assert message.content == f"before \n\n{NOTICE_MARK} No.{OF}"
    assert [entry.function.name for entry in message.tool_calls] == ["b", "d"]


async def test_a_full_answer_that_no_verdict_touches_is_the_same_object() -> None:
    response = full({"tool_calls": [tool(0, "call_0", "a", "{}")]}, "tool_calls")
    assert await deliver_full(Gate({}), response) is response


async def test_text_streams_on_while_calls_are_held() -> None:
    policy = Slow()
    items = [text("before "), *call(0, "a", "{}"), text("after"), finish("tool_calls")]
    stream = PolicyExecutor(policy).run(provide(items), adapter(), context())
    assert [(await anext(stream)).choices[0].delta.content for _ in range(2)] == ["before ", "after"]
    policy.of("a").set_result(ALLOW)
    assert names(Delivered.of(await pull(stream))) == ["a"]


async def test_calls_are_judged_side_by_side_each_once_and_delivered_in_order() -> None:
    policy = Slow()
    delivery = asyncio.create_task(deliver(policy, ANSWER))
    await policy.has_all.wait()  # none of the three has its verdict yet
    for name in ("c", "b", "a"):
        policy.of(name).set_result(ALLOW)
    assert names(Delivered.of(await delivery)) == ["a", "b", "c"]
    assert policy.begun == ["a", "b", "c"]


async def test_a_call_is_judged_as_soon_as_it_is_whole() -> None:
    policy = Slow()
    has_more = asyncio.Event()

    async def provider() -> AsyncIterator[Any]:
        for item in (*call(0, "a", "{}"), *call(1, "b", "{}"), *call(2, "c", "{}"), *call(3, "d", "{}")):
            yield item
        await has_more.wait()
        yield finish("tool_calls")

    delivery = asyncio.create_task(pull(PolicyExecutor(policy).run(provider(), adapter(), context())))
    await policy.has_all.wait()
    has_more.set()
    for name in ("a", "b", "c", "d"):
        policy.of(name).set_result(ALLOW)
    assert names(Delivered.of(await delivery)) == ["a", "b", "c", "d"]


def choice_of(choice: int, name: str) -> list[Any]:
    return [chunk(choice, tool_calls=[tool(0, f"call_{choice}", name, "{}")]), finish("tool_calls", choice=choice)]


async def test_each_choice_is_told_of_its_own_calls() -> None:
    items = await deliver(
        Gate({"a": BLOCK, "b": rename("c")}), [*choice_of(0, "a"), *choice_of(1, "b"), *choice_of(2, "d")]
    )
    first, second, third = (Delivered.of(items, choice) for choice in range(3))
    assert (first.text, names(first)) == (f"{NOTICE_MARK} No.{OF}", [])
    assert (second.text, names(second)) == ("", ["c"])
    assert (third.text, names(third)) == ("", ["d"])


async def test_calls_of_choices_that_the_provider_did_not_finish_are_judged_too() -> None:
    items = [item for choice, name in enumerate("aba") for item in choice_of(choice, name)[:1]]
    delivered = await deliver(Gate({"a": BLOCK, "b": rename("c")}), items)
    first, second, third = (Delivered.of(delivered, choice) for choice in range(3))
    assert (first.text, names(first)) == (f"{NOTICE_MARK} No.{OF}", [])
    assert (second.text, names(second)) == ("", ["c"])
    assert (third.text, names(third)) == (f"{NOTICE_MARK} No.{OF}", [])


FAILURES = pytest.mark.parametrize("failure", [RuntimeError("secret"), asyncio.CancelledError()])


@FAILURES
async def test_a_verdict_that_fails_blocks_the_answer(failure: BaseException) -> None:
    ctx = context()
    delivered = Delivered.of(await deliver(Gate({"b": failure}), ANSWER, ctx))
    assert names(delivered) == ["a"]  # which had its own verdict, and has left
    assert "a policy check failed" in delivered.text
    assert "secret" not in delivered.text
    assert ctx.decisions[-1].action == "error"


@FAILURES
async def test_what_other_verdicts_withheld_stays_withheld_when_failures_pass(failure: BaseException) -> None:
    ctx = context()
    delivered = Delivered.of(await deliver(Gate({"a": BLOCK, "b": failure}), ANSWER, ctx, on_policy_error="pass"))
    assert names(delivered) == ["b", "c"]
    assert [decision.action for decision in ctx.decisions] == ["block", "error"]


@pytest.mark.parametrize(("on_policy_error", "passed"), [("block", []), ("pass", ["b", "c"])])
async def test_a_call_stays_withheld_when_the_time_is_up_while_a_later_one_is_judged(
    on_policy_error: str, passed: list[str]
) -> None:
    policy, ctx = Slow(), context()
    policy.of("a").set_result(BLOCK)
    items = await deliver(policy, ANSWER, ctx, timeout_s=0.001, on_policy_error=on_policy_error)
    assert names(Delivered.of(items)) == passed
    block, *errors = [decision.action for decision in ctx.decisions]
    assert (block, {*errors}) == ("block", {"error"})  # on a busy machine a later hook may be too slow as well


@pytest.mark.parametrize(("on_policy_error", "passed"), [("block", []), ("pass", ["b", "c"])])
async def test_a_verdict_that_takes_too_long_is_a_failure(on_policy_error: str, passed: list[str]) -> None:
    policy = Slow()
    policy.of("a").set_result(BLOCK)
    policy.of("c").set_result(ALLOW)
    items = await deliver(policy, ANSWER, timeout_s=0.05, on_policy_error=on_policy_error)
    assert names(Delivered.of(items)) == passed
    assert policy.cancelled == ["b"]


async def test_judging_ends_when_the_client_leaves() -> None:
    policy = Slow()
    stream = PolicyExecutor(policy).run(provide(ANSWER), adapter(), context())
    await anext(stream)
    await policy.has_all.wait()
    await stream.aclose()
    assert sorted(policy.cancelled) == ["a", "b", "c"]


async def test_judging_ends_when_the_providers_stream_fails() -> None:
    policy = Slow()
    failure = RuntimeError("the provider's")
    with pytest.raises(RuntimeError) as raised:
        await deliver(policy, [*call(0, "a", "{}"), text("after"), failure])
    assert raised.value is failure
    assert policy.cancelled == policy.begun


@pytest.mark.parametrize(
    ("route", "leaves_early"), [("chat", True), ("responses", True), ("messages", False), ("gemini", False)]
)
async def test_allowed_calls_wait_for_the_finish_only_where_no_text_may_follow_them(
    route: RouteName, leaves_early: bool
) -> None:
    way = ROUTES[route]
    request = Request({"model": "m", "stream": True, **way.body}, route=way.path)
    calls = [Call(name, json.dumps({"of": f"-{name}-"}), id=f"id_{name}") for name in ("one", "two", "three")]
    answer = Answer(calls, piece=100)
    items = [item async for item in way.stream(answer, request.body)]
    begun = next(number for number, item in enumerate(items) if "three" in str(item))
    came, came_early = list[str](), list[str]()

    async def provider() -> AsyncIterator[object]:
        for number, item in enumerate(items):
            yield item
            if number == begun:
                for _ in range(1_000):  # turns of the loop, which need no time
                    await asyncio.sleep(0)
                came_early.extend(came)

    context = PolicyContext("transaction-1", request)
    async for item in PolicyExecutor(Gate({})).run(provider(), adapter_for(way.call_type, request), context):
        came.append(str(item))
    assert [name in "".join(came_early) for name in ("-one-", "-two-", "-three-")] == [
        leaves_early,
        leaves_early,
        False,
    ]
    assert [name in "".join(came) for name in ("-one-", "-two-", "-three-")] == [True] * 3
    assert len(came) == len(items) or isinstance(items[0], bytes)  # which may leave together


async def test_an_allowed_call_leaves_with_the_next_piece_of_another_when_its_verdict_took_a_while() -> None:
    policy, came = Slow(), list[Any]()

    async def provider() -> AsyncIterator[Any]:
        for item in call(0, "a", "{}"):
            yield item
        yield call(1, "b")[0]
        assert came == []
        policy.of("a").set_result(ALLOW)
        await asyncio.sleep(0)
        yield chunk(tool_calls=[tool(1, arguments='{"x": ')])
        for _ in range(1_000):
            await asyncio.sleep(0)
        assert names(Delivered.of(came)) == ["a"]
        policy.of("b").set_result(ALLOW)
        yield chunk(tool_calls=[tool(1, arguments="1}")])
        yield finish("tool_calls")

    async for item in PolicyExecutor(policy).run(provider(), adapter(), context()):
        came.append(item)
    assert names(Delivered.of(came)) == ["a", "b"]


class Judged(NamedTuple):
    """A call that the model makes: which verdict it gets, after how many turns of the loop, or seconds."""

    action: str
    turns: int = 0
    seconds: float = 0.0


class TakesItsTime(ToolGatePolicy):
    """Gives the calls that are named `call_0`, `call_1` and so on their verdicts."""

    def __init__(self, calls: Sequence[Judged]) -> None:
        self.calls = calls

    async def judge_tool_call(self, tool_call: ToolCall, ctx: PolicyContext) -> Verdict:
        judged = self.calls[int(tool_call.name.removeprefix("call_"))]
        for _ in range(judged.turns):
            await asyncio.sleep(0)
        if judged.seconds:
            await asyncio.sleep(judged.seconds)
        told = f"{judged.action} {tool_call.name}."
        match judged.action:
            case "note":
                return Verdict("allow", message=told)
            case "modify":
                return Verdict("modify", instead=(replace(tool_call, name=f"other_{tool_call.name}"),))
            case "block":
                return Verdict("block", message=told)
            case _:
                return ALLOW


ACTIONS = st.sampled_from(["allow", "allow", "note", "modify", "block"])
JUDGED = st.builds(Judged, ACTIONS, st.integers(0, 4), st.sampled_from([0.0, 0.0, 0.002, 0.008]))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["chat", "responses", "messages", "gemini"]),
    st.lists(JUDGED, min_size=1, max_size=4),
    st.integers(3, 40),
    st.integers(0, 12),
    st.booleans(),
)
def test_whenever_verdicts_come_each_call_leaves_once_or_not_at_all_and_is_told_of(
    route: RouteName, calls: list[Judged], piece: int, turns: int, is_streaming: bool
) -> None:
    blocks = asyncio.run(delivered_blocks(route, calls, piece, turns, is_streaming=is_streaming))
    names = [f"call_{number}" for number in range(len(calls))]
    left = {"allow": "{}", "note": "{}", "modify": "other_{}"}
    wanted = [left[call.action].format(name) for call, name in zip(calls, names, strict=True) if call.action in left]
    assert [block["name"] for block in blocks if block["type"] == "tool_call"] == wanted
    assert all(json.loads(block["arguments"]) == {"of": "x" * 30} for block in blocks if block["type"] == "tool_call")
    said = "\n".join(block["text"] for block in blocks if block["type"] == "text")
    told = [
        f"{call.action} {name}." for call, name in zip(calls, names, strict=True) if call.action in ("note", "block")
    ]
    assert [said.count(words) for words in told] == [1] * len(told)
    kinds = [block["type"] for block in blocks]
    if route == "messages":
        assert kinds == sorted(kinds)  # "text" comes before "tool_call"


async def delivered_blocks(
    route: RouteName, calls: Sequence[Judged], piece: int, turns: int, *, is_streaming: bool
) -> list[dict[str, Any]]:
    """What a client gets of an answer that makes the calls, in pieces between which the loop turns so often."""
    way = ROUTES[route]
    request = Request({"model": "m", "stream": is_streaming, **way.body}, route=way.path)
    made = [Call(f"call_{n}", json.dumps({"of": "x" * 30}), id=f"id_{n}") for n in range(len(calls))]
    answer, executor = Answer([Say("I do it."), *made], piece=piece), PolicyExecutor(TakesItsTime(calls))
    ctx, record = PolicyContext("transaction-1", request), ResponseRecord()
    adapter, reader = (adapter_for(way.call_type, request) for _ in range(2))
    if not is_streaming:
        record.add(reader.decode_full(await executor.run_full(way.full(answer, request.body), adapter, ctx)))
        return record.content()

    async def provider() -> AsyncIterator[object]:
        async for item in way.stream(answer, request.body):
            for _ in range(turns):
                await asyncio.sleep(0)
            yield item

    async for item in executor.run(provider(), adapter, ctx):
        for came in reader.decode(item):
            record.add(came)
    for came in reader.flush():
        record.add(came)
    return record.content()
