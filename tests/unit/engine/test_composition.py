"""Several policies put together: in a row, side by side, and each only for the requests that it is for."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import anyio
import pytest

from luthien_litellm_hooks import (
    Answer,
    ConfigError,
    Identity,
    Policy,
    PolicyBlockedError,
    PolicyContext,
    PolicyExecutor,
    Request,
    SimplePolicy,
    StreamingResponseContext,
    ToolCall,
    passthrough_last_chunk,
    send_notice,
    send_text,
)
from luthien_litellm_hooks.config.policy_spec import PolicySpec, load_composition
from luthien_litellm_hooks.engine.composition import Composition, ConfiguredPolicy, Parallel, Serial, Strategy, run_of
from luthien_litellm_hooks.hooks.routes import adapter_for
from luthien_litellm_hooks.policies.all_caps import AllCaps
from luthien_litellm_hooks.policies.noop import NoOp
from luthien_litellm_hooks.policy.base import When
from luthien_litellm_hooks.policy.tool_gate import ALLOW, ToolGatePolicy, Verdict
from luthien_litellm_hooks.recording.recorder import DefaultTransactionRecorder
from luthien_litellm_hooks.testing.answers import Answer as ScriptedAnswer
from luthien_litellm_hooks.testing.answers import Call, Say
from luthien_litellm_hooks.testing.routes import ROUTES, RouteName
from tests.support import messages
from tests.support.chat import (
    USAGE,
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
    think,
    tool,
)
from tests.support.fuzzed_wires import CLIENTS

ANSWER = [
    chunk(role="assistant", content=""),
    think("hm"),
    text("one "),
    text("secret"),
    *call(0, "read", '{"a": ', "1}"),
    *call(1, "delete", "{}"),
    finish("tool_calls"),
    chunk(usage=USAGE),
]
READ, DELETE = ("call_0", "read", '{"a": 1}'), ("call_1", "delete", "{}")

OF = " (transaction transaction-1)"


class Says(SimplePolicy):
    """Says of every text what it is given."""

    def __init__(self, said: str | None) -> None:
        self._said = said

    async def on_response_content(self, content: str, request: Request) -> str | None:
        return self._said


class Redacts(SimplePolicy):
    async def on_response_content(self, content: str, request: Request) -> str | None:
        return content.replace("secret", "***")


class NoDeletes(ToolGatePolicy):
    async def judge_tool_call(self, tool_call: ToolCall, ctx: PolicyContext) -> Verdict:
        return Verdict("block", message="No deletions.") if tool_call.name == "delete" else ALLOW


class Renames(SimplePolicy):
    async def on_response_tool_call(self, tool_call: ToolCall, request: Request) -> ToolCall | None:
        return replace(tool_call, name=f"safe_{tool_call.name}")


class SaysMoreAtTheEnd(Policy):
    async def on_stream_complete(self, ctx: StreamingResponseContext) -> None:
        await send_text(ctx, " more")


class Fails(SimplePolicy):
    async def on_response_content(self, content: str, request: Request) -> str | None:
        raise RuntimeError("secret of the policy")


class Refuses(SimplePolicy):
    async def on_response_content(self, content: str, request: Request) -> str | None:
        raise PolicyBlockedError("Refused.")


class OnRequest(SimplePolicy):
    """Replies to a request with what it is given, or with what that makes of the request."""

    def __init__(self, reply: Any) -> None:
        self._reply = reply

    async def on_request(self, request: Request, ctx: PolicyContext) -> Request | Answer:
        if isinstance(self._reply, Exception):
            raise self._reply
        return self._reply(request) if callable(self._reply) else self._reply


def members(*policies: Policy, **options: Any) -> list[ConfiguredPolicy]:
    return [ConfiguredPolicy(policy, type(policy).__name__, **options) for policy in policies]


def serial(*policies: Policy, **options: Any) -> Serial:
    return Serial(members(*policies, **options))


def parallel(strategy: Strategy, *policies: Policy, **options: Any) -> Parallel:
    return Parallel(members(*policies, **options), strategy)


async def delivered(composition: Composition, items: Sequence[Any] = ANSWER) -> Delivered:
    return Delivered.of(await deliver(composition, items))


# In a row


@pytest.mark.parametrize("composition", [serial(NoOp(), NoOp()), parallel("any_blocks", NoOp(), NoOp())])
async def test_what_nobody_touches_leaves_as_the_objects_that_came(composition: Composition) -> None:
    items = await deliver(composition, ANSWER)
    assert [id(item) for item in items] == [id(item) for item in ANSWER]


@pytest.mark.parametrize("composition", [serial(NoOp(), NoOp()), parallel("any_blocks", NoOp(), NoOp())])
async def test_a_full_answer_that_nobody_touches_is_the_object_that_came(composition: Composition) -> None:
    answer = full({"content": "hi"})
    assert await deliver_full(composition, answer) is answer


async def test_each_sees_what_the_one_before_it_delivered() -> None:
    assert (await delivered(serial(Redacts(), AllCaps()))).text == "ONE ***"
    assert (await delivered(serial(Says("a secret"), Redacts(), AllCaps()))).text == "A ***"


async def test_in_a_full_answer_each_sees_what_the_one_before_it_delivered() -> None:
    answer = await deliver_full(serial(Says("a secret"), Redacts(), AllCaps()), full({"content": "one"}))
    assert answer.choices[0].message.content == "A ***"


async def test_what_one_sends_at_the_streams_end_goes_through_the_next() -> None:
    got = await delivered(serial(SaysMoreAtTheEnd(), AllCaps()))
    assert got.text == "ONE SECRET MORE"
    assert got.finish_reasons == ["tool_calls"]


async def test_calls_that_one_renames_are_judged_by_their_new_names() -> None:
    got = await delivered(serial(Renames(), NoDeletes()))
    assert [name for _, name, _ in got.calls] == ["safe_read", "safe_delete"]
    got = await delivered(serial(NoDeletes(), Renames()))
    assert [name for _, name, _ in got.calls] == ["safe_read"]
    assert got.text == f"one secret\n\n[luthien] No deletions.{OF}"


async def test_a_notice_of_one_is_text_to_the_next() -> None:
    got = await delivered(serial(NoDeletes(), AllCaps()))
    assert got.text == f"ONE SECRET\n\n[LUTHIEN] NO DELETIONS.{OF.upper()}"
    assert got.calls == [READ]


class Tells(Policy):
    """Gives a notice in place of each text."""

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        pass

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        await send_notice(ctx, "No texts.")


@pytest.mark.parametrize("route", ["messages", "responses"])
@pytest.mark.parametrize(
    ("policies", "blocks"),
    [
        ((NoDeletes(), NoOp()), ["one secret", f"[luthien] No deletions.{OF}"]),
        ((NoOp(), NoDeletes()), ["one secret", f"[luthien] No deletions.{OF}"]),
        (
            (Tells(), NoDeletes()),
            [f"[luthien] No texts.{OF}", f"[luthien] No deletions.{OF}"],
        ),
    ],
)
async def test_a_notice_that_begins_a_block_has_no_blank_line_before_it(
    route: RouteName, policies: Sequence[Policy], blocks: list[str]
) -> None:
    way, recorder = ROUTES[route], DefaultTransactionRecorder()
    answer = ScriptedAnswer([Say("one secret"), Call("delete", "{}")])
    ctx = PolicyContext("transaction-1", Request({"model": "m"}), recorder=recorder)
    await pull(
        PolicyExecutor(serial(*policies)).run(way.stream(answer, {}), adapter_for(way.call_type, ctx.request), ctx)
    )
    assert [block["text"] for block in recorder.egress.content()] == blocks


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("block", f"one [luthien] This answer was stopped because a policy check failed{OF}."),
        ("pass", "one secret"),
    ],
)
async def test_each_has_its_own_way_to_fail(answer: Any, expected: str) -> None:
    failing = ConfiguredPolicy(Fails(), "fails", on_policy_error=answer)
    composition = Serial([ConfiguredPolicy(NoOp(), "noop"), failing, ConfiguredPolicy(NoOp(), "noop")])
    got = await delivered(composition, [text("one "), text("secret"), finish()])
    assert got.text == expected.removeprefix("one " if answer == "block" else "")
    assert got.finish_reasons == ["stop"]


async def test_each_has_its_own_scratchpad_and_all_decide_in_one_list() -> None:
    class Notes(Policy):
        async def on_request(self, request: Request, ctx: PolicyContext) -> Request | Answer:
            assert "seen" not in ctx.scratchpad
            ctx.scratchpad["seen"] = True
            return request

        async def on_stream_complete(self, ctx: StreamingResponseContext) -> None:
            assert ctx.scratchpad == {"seen": True}
            ctx.decide("allow", reason="seen")

    executor = PolicyExecutor(serial(Notes(), Notes()))
    ctx = context()
    await executor.on_request(ctx)
    await pull(executor.run(provide(ANSWER), adapter(), ctx))
    assert [(decision.policy, decision.reason) for decision in ctx.decisions] == [("Notes", "seen")] * 2


async def test_text_that_all_let_through_does_not_wait_for_a_slow_one() -> None:
    gate = asyncio.Event()

    class SlowCalls(ToolGatePolicy):
        async def judge_tool_call(self, tool_call: ToolCall, ctx: PolicyContext) -> Verdict:
            await gate.wait()
            return ALLOW

    for composition in (serial(SlowCalls(), SlowCalls(), AllCaps()), parallel("any_blocks", SlowCalls(), NoOp())):
        gate.clear()
        stream = PolicyExecutor(composition).run(provide(ANSWER), adapter(), context())
        got = [await anext(stream) for _ in range(4)]
        assert Delivered.of(got).text.lower() == "one secret"
        gate.set()
        got += await pull(stream)
        assert Delivered.of(got).calls == [READ, DELETE]


async def test_the_providers_error_leaves_as_the_same_object() -> None:
    error = RuntimeError("upstream")
    for composition in (serial(NoOp(), AllCaps(), NoOp()), parallel("majority", NoOp(), AllCaps(), NoOp())):
        stream = PolicyExecutor(composition).run(provide([text("a"), error]), adapter(), context())
        with pytest.raises(RuntimeError) as raised:
            await pull(stream)
        assert raised.value is error


async def test_when_the_client_leaves_every_policy_and_the_provider_are_closed() -> None:
    closed: list[str] = []

    class Closes(Policy):
        async def on_stream_closed(self, ctx: StreamingResponseContext) -> None:
            closed.append(type(self).__name__)

    async def provider() -> AsyncIterator[Any]:
        try:
            yield text("a")
            await asyncio.Event().wait()
        finally:
            closed.append("provider")

    for composition in (serial(Closes(), Closes()), parallel("any_blocks", Closes(), Closes())):
        closed.clear()
        stream = PolicyExecutor(composition).run(provider(), adapter(), context())
        await anext(stream)
        await stream.aclose()
        assert sorted(closed) == ["Closes", "Closes", "provider"]


async def test_the_answer_of_one_policy_ends_the_round_of_requests() -> None:
    asked: list[str] = []

    class Asked(SimplePolicy):
        async def on_request_simple(self, request: Request) -> Request | Answer:
            asked.append(request.model)
            return request

    renamed = OnRequest(lambda request: request.replace(model="other"))
    ctx = context()
    assert await PolicyExecutor(serial(renamed, Asked())).on_request(ctx) == Request({"model": "other"})
    assert asked == ["other"]
    assert ctx.request.model == "m"
    assert ctx.final_request.model == "other"
    assert await PolicyExecutor(serial(OnRequest(Answer("no")), Asked())).on_request(context()) == Answer("no")
    assert asked == ["other"]


# Side by side

CASES: list[tuple[Strategy, list[Policy], str, list[Any]]] = [
    ("any_blocks", [NoOp(), NoOp()], "one secret", [READ, DELETE]),
    ("any_blocks", [NoOp(), Redacts()], "one ***", [READ, DELETE]),
    ("any_blocks", [Redacts(), Says(None)], "", [READ, DELETE]),
    ("any_blocks", [NoOp(), NoDeletes()], f"one secret\n\n[luthien] No deletions.{OF}", [READ]),
    (
        "any_blocks",
        [Redacts(), NoDeletes(), NoOp()],
        f"one ***\n\n[luthien] No deletions.{OF}",
        [READ],
    ),
    ("any_blocks", [AllCaps(), Redacts()], "ONE SECRET", [READ, DELETE]),
    ("any_blocks", [NoOp(), Refuses()], "Refused.", []),
    ("majority", [NoOp(), NoOp(), Redacts()], "one secret", [READ, DELETE]),
    ("majority", [NoOp(), AllCaps(), Redacts()], "ONE SECRET", [READ, DELETE]),
    (
        "majority",
        [NoDeletes(), NoOp(), NoDeletes()],
        f"one secret\n\n[luthien] No deletions.{OF}",
        [READ],
    ),
    ("majority", [NoDeletes(), NoOp()], "one secret", [READ, DELETE]),
    ("majority", [Refuses(), NoOp(), NoOp()], "one secret", [READ, DELETE]),
    ("majority", [Refuses(), NoOp(), Says(None)], "Refused.", [READ, DELETE]),
    ("unanimous", [Says(None), NoOp()], "one secret", [READ, DELETE]),
    ("unanimous", [Says(None), Redacts()], "", [READ, DELETE]),
    (
        "unanimous",
        [NoDeletes(), Renames()],
        f"one secret\n\n[luthien] No deletions.{OF}",
        [("call_0", "read", READ[2])],
    ),
    ("unanimous", [Refuses(), Fails()], "Refused.", []),
    ("first", [NoOp(), Says(None), NoDeletes()], "one secret", [READ, DELETE]),
    ("first", [Redacts(), NoOp(), NoOp()], "one ***", [READ, DELETE]),
]


@pytest.mark.parametrize(("strategy", "policies", "said", "calls"), CASES)
async def test_what_leaves_is_what_the_votes_are_for(
    strategy: Strategy, policies: list[Policy], said: str, calls: list[Any]
) -> None:
    got = await delivered(parallel(strategy, *policies))
    assert (got.text, got.calls) == (said, calls)
    assert got.reasoning == "hm"
    assert got.finish_reasons == ["tool_calls" if calls else "stop"]


@pytest.mark.parametrize(("strategy", "policies", "said", "calls"), CASES)
async def test_the_votes_on_a_full_answer_are_the_same(
    strategy: Strategy, policies: list[Policy], said: str, calls: list[Any]
) -> None:
    asked = [tool(0, "call_0", "read", READ[2]), tool(1, "call_1", "delete", "{}")]
    message = {"content": "one secret", "reasoning_content": "hm", "tool_calls": asked}
    answer = await deliver_full(parallel(strategy, *policies), full(message, "tool_calls"))
    got = answer.choices[0].message
    assert (got.content or "") == said
    assert [(call.id, call.function.name, call.function.arguments) for call in got.tool_calls or ()] == calls


async def test_disagreement_is_recorded_and_agreement_to_pass_is_not() -> None:
    ctx = context()
    await deliver(parallel("first", NoOp(), NoDeletes()), ANSWER, ctx)
    with anyio.fail_after(10):
        await run_of(ctx).pending_votes[0].wait()
    (vote,) = [decision for decision in ctx.decisions if decision.policy == "parallel"]
    assert (vote.action, vote.reason) == ("allow", "votes: 0: NoOp allow, 1: NoDeletes block")
    assert vote.block is not None
    agreed = context()
    await deliver(parallel("any_blocks", NoOp(), NoOp()), ANSWER, agreed)
    assert agreed.decisions == []


async def test_a_block_is_not_delivered_twice_when_an_objection_comes_late() -> None:
    class ChangesTheLast(Policy):
        async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
            if ctx.delta == "secret":
                await send_text(ctx, "***")
            else:
                await passthrough_last_chunk(ctx)

    got = await delivered(parallel("any_blocks", NoOp(), ChangesTheLast()), [text("one "), text("secret"), finish()])
    assert got.text == "one ***"


@pytest.mark.parametrize("route", ["chat", "messages", "responses", "gemini"])
async def test_members_without_a_hook_for_calls_let_text_before_them_in_a_legal_order(route: RouteName) -> None:
    panel = Parallel([ConfiguredPolicy(NoOp(), "noop"), ConfiguredPolicy(Policy(), "none")])
    ctx = PolicyContext("t", Request({"model": "m"}), recorder=DefaultTransactionRecorder())
    stream = ROUTES[route].stream(ScriptedAnswer([Call("read", "{}"), Say("one")]), {"model": "m"})
    CLIENTS[route].check(await pull(PolicyExecutor(panel).run(stream, ROUTES[route].adapter(ctx.request), ctx)))
    assert {block["type"] for block in ctx.recorder.egress.content()} == {"text", "tool_call"}


async def test_calls_withheld_by_different_policies_leave_a_notice() -> None:
    class NoReads(SimplePolicy):
        async def on_response_tool_call(self, tool_call: ToolCall, request: Request) -> ToolCall | None:
            return None if tool_call.name == "read" else tool_call

    class NoDeletesInSilence(SimplePolicy):
        async def on_response_tool_call(self, tool_call: ToolCall, request: Request) -> ToolCall | None:
            return None if tool_call.name == "delete" else tool_call

    items = [*call(0, "read", "{}"), *call(1, "delete", "{}"), finish("tool_calls")]
    got = await delivered(parallel("any_blocks", NoReads(), NoDeletesInSilence()), items)
    assert got.text == f"[luthien] The tool calls of this answer were withheld.{OF}"
    assert (got.calls, got.finish_reasons) == ([], ["stop"])


async def test_a_stream_without_a_finish_reason_is_voted_on_too() -> None:
    got = await delivered(parallel("any_blocks", NoDeletes(), NoOp()), ANSWER[:-2])
    assert (got.text, got.calls) == (f"one secret\n\n[luthien] No deletions.{OF}", [READ])


REPLIES: list[tuple[Strategy, list[Any], Any]] = [
    ("any_blocks", [lambda r: r, lambda r: r], Request({"model": "m"})),
    ("any_blocks", [lambda r: r, Answer("no")], Answer("no")),
    ("any_blocks", [lambda r: r.replace(model="x"), Answer("no"), PolicyBlockedError("never")], "never"),
    ("any_blocks", [lambda r: r.replace(model="x"), lambda r: r.replace(model="y")], Request({"model": "x"})),
    ("majority", [lambda r: r, Answer("no")], Request({"model": "m"})),
    ("majority", [lambda r: r, Answer("no"), PolicyBlockedError("never")], "never"),
    ("unanimous", [lambda r: r.replace(model="x"), Answer("no")], Answer("no")),
    ("unanimous", [lambda r: r, PolicyBlockedError("never")], Request({"model": "m"})),
    ("first", [lambda r: r, PolicyBlockedError("never")], Request({"model": "m"})),
    ("first", [PolicyBlockedError("never"), lambda r: r], "never"),
]


@pytest.mark.parametrize(("strategy", "replies", "expected"), REPLIES)
async def test_a_request_is_voted_on(strategy: Strategy, replies: list[Any], expected: Any) -> None:
    executor = PolicyExecutor(parallel(strategy, *(OnRequest(reply) for reply in replies)))
    try:
        result: Any = await executor.on_request(context())
    except PolicyBlockedError as refusal:
        result = refusal.message
    assert result == expected


# For some requests

ALICE = Identity(
    key_alias="alice",
    key_maker_id="u-0",
    user_id="u-1",
    user_email="alice@example.com",
    user_teams=("t-2", "sales"),
    team_id="t-1",
    team_alias="research",
)
ASKED = Request({"model": "gpt-4o", "tools": [{"type": "function", "function": {"name": "Bash"}}]})


@pytest.mark.parametrize(
    ("when", "applies"),
    [
        ({}, True),
        ({"models": "gpt-*"}, True),
        ({"models": ["claude-*", "o?"]}, False),
        ({"keys": ["al*"]}, True),
        ({"keys": ["bob"]}, False),
        ({"teams": "t-1"}, True),
        ({"teams": "research"}, True),
        ({"teams": "sales"}, True),
        ({"teams": "t-2"}, True),
        ({"teams": "legal"}, False),
        ({"users": "u-1"}, True),
        ({"users": "*@example.com"}, True),
        ({"users": "u-0"}, True),
        ({"users": "bob"}, False),
        ({"users": "u-1", "teams": "legal"}, False),
        ({"models": "GPT-*"}, True),
        ({"tools": "Bash"}, True),
        ({"tools": "Write"}, False),
        ({"routes": "/v1/messages"}, False),
        ({"models": "gpt-*", "keys": "bob"}, False),
        ({"headers": {"X-Agent": "*"}}, False),
    ],
)
def test_when(when: dict[str, Any], applies: bool) -> None:
    assert When.model_validate(when).applies_to(ASKED, ALICE) is applies


def test_when_sees_the_route_and_the_headers() -> None:
    request = Request({}, route="/v1/messages", headers={"x-agent": "codex"})
    assert When.model_validate({"routes": "/v1/mess*", "headers": {"X-Agent": "co*"}}).applies_to(request, Identity())
    assert not When.model_validate({"headers": {"x-agent": "claude"}}).applies_to(request, Identity())


def test_when_fits_what_cannot_be_told() -> None:
    unknown = Request({"model": "auto"}, models=None)
    assert When(models=("gpt-*",)).applies_to(unknown, Identity())
    assert When(teams=("red",)).applies_to(unknown, Identity(user_teams=None))
    assert not When(teams=("red",), keys=("bob",)).applies_to(unknown, Identity(user_teams=None))
    assert not When(teams=("red",)).applies_to(unknown, Identity())


@pytest.mark.parametrize("key", ["models", "routes", "tools", "headers"])
def test_when_fits_a_request_that_litellm_does_not_tell(key: str) -> None:
    when = When.model_validate({key: {"x-agent": "a"} if key == "headers" else ["a"]})
    assert when.applies_to(Request({}, is_untold=True), ALICE)
    assert not when.applies_to(Request({}), ALICE)
    assert not When(keys=("other",)).applies_to(Request({}, is_untold=True), ALICE)


def test_when_fits_what_one_of_the_alternatives_has() -> None:
    """Each key may fit another of them: LiteLLM keeps what one fallback set for the next."""
    with_tool = Request({"model": "o1", "tools": [{"name": "Bash"}]})
    request = Request({"model": "x"}, alternatives=[with_tool, Request({}, models=("y", "gpt-4o"))])
    assert When.model_validate({"models": "gpt-*", "tools": "Bash"}).applies_to(request, Identity())
    assert not When.model_validate({"models": "gpt-*", "tools": "Write"}).applies_to(request, Identity())


async def test_a_policy_that_is_not_meant_is_not_called() -> None:
    others = When.model_validate({"models": "other"})
    for composition in (
        ConfiguredPolicy(AllCaps(), "all_caps", when=others),
        Serial([ConfiguredPolicy(AllCaps(), "all_caps", when=others), *members(Redacts())]),
        Serial(members(AllCaps()), when=others),
        Parallel([ConfiguredPolicy(AllCaps(), "all_caps", when=others), *members(NoOp())]),
    ):
        assert (await delivered(composition)).text in ("one secret", "one ***")
    for_m = ConfiguredPolicy(AllCaps(), "all_caps", when=When.model_validate({"models": "m"}))
    assert (await delivered(for_m)).text.isupper()


# From a config


def test_members_take_the_settings_beside_the_list_unless_they_have_their_own() -> None:
    spec = {
        "class": "serial",
        "timeout_s": 5,
        "on_policy_error": "pass",
        "config": {"policies": [{"class": "noop"}, {"class": "noop", "timeout_s": 7, "when": {"models": "x"}}]},
    }
    loaded = load_composition(PolicySpec.model_validate(spec))
    assert isinstance(loaded, Serial)
    first, second = loaded.members
    assert isinstance(first, ConfiguredPolicy)
    assert isinstance(second, ConfiguredPolicy)
    assert (first.timeout_s, first.on_policy_error, first.when) == (5, "pass", None)
    assert (second.timeout_s, second.on_policy_error) == (7, "pass")
    assert second.when == When(models=("x",))


def test_a_serial_may_hold_a_parallel() -> None:
    inner = {"class": "parallel", "config": {"strategy": "majority", "policies": [{"class": "noop"}] * 3}}
    spec = {"class": "serial", "config": {"policies": [{"class": "noop"}, inner]}}
    loaded = load_composition(PolicySpec.model_validate(spec))
    assert isinstance(loaded, Serial)
    assert isinstance(loaded.members[1], Parallel)
    assert loaded.members[1].objections_needed == 2


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"policies": []}, "policy.config.policies: "),
        ({}, "policy.config.policies: missing"),
        (
            {"policies": [{"class": "nop"}]},
            "policy.config.policies.0.class: unknown policy 'nop'; did you mean 'noop'?",
        ),
        ({"policies": [{"clas": "noop"}]}, "policy.config.policies.0.clas: unknown key; did you mean 'class'?"),
        (
            {"policies": [{"class": "noop", "when": {"model": "x"}}]},
            "policy.config.policies.0.when.model: unknown key; did you mean 'models'?",
        ),
        (
            {"policies": [{"class": "noop"}, {"class": "all_caps", "config": {"tool_args": 1}}]},
            "policy.config.policies.1.config.tool_args: unknown key",
        ),
        ({"policies": [{"class": "noop"}], "strategy": "most"}, "policy.config.strategy: "),
        (
            {"policies": [{"class": "serial", "config": {"policies": [{"class": "noop"}]}}]},
            "policy.config.policies.0.class: a voter must be a single policy",
        ),
    ],
)
def test_a_wrong_setting_is_named(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_composition(PolicySpec.model_validate({"class": "parallel", "config": config}))
    assert said in str(raised.value)


async def test_an_answer_ended_between_its_finish_and_its_end_still_ends_in_order() -> None:
    frames = [messages.sse(frame) for frame in messages.streamed(messages.message([{"type": "text", "text": "t"}]))]
    panel = parallel("any_blocks", SimplePolicy(), SimplePolicy())
    stream = [*frames[:-1], b"data: {\n\n", frames[-1]]
    left = b"".join(await pull(PolicyExecutor(panel).run(provide(stream), messages.adapter(), context())))
    messages.check(messages.payloads(left))


async def test_an_answer_that_one_ends_while_another_waits_for_the_client_ends_in_order() -> None:
    class HasTheLastWord(SimplePolicy):
        async def on_stream_complete(self, ctx: StreamingResponseContext) -> None:
            raise AssertionError("the answer never is complete")

    start, *_, ending, stop = [messages.sse(frame) for frame in messages.streamed(messages.message([]))]
    stream = [start, messages.sse({"type": "ping"}), ending, stop, b"data: {\n\n"]
    panel = PolicyExecutor(parallel("majority", SimplePolicy(), HasTheLastWord()), max_items=1)
    left = b"".join(await pull(panel.run(provide(stream), messages.adapter(), context())))
    messages.check(messages.payloads(left))


async def test_a_member_can_send_nothing_once_its_answer_is_over() -> None:
    class SaysMoreWhenClosed(Policy):
        async def on_stream_closed(self, ctx: StreamingResponseContext) -> None:
            await send_text(ctx, "too late")

    panel = parallel("any_blocks", SaysMoreWhenClosed(), NoOp())
    assert (await delivered(panel)).text == Delivered.of(ANSWER).text
