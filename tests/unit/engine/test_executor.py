"""The executor: which hook is called when, what leaves, and what a fault does."""

import asyncio
import contextvars
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from typing import Any

import anyio
import pytest
from litellm.types.utils import ModelResponseStream

from luthien_litellm_hooks import (
    Policy,
    PolicyBlockedError,
    PolicyContext,
    PolicyExecutor,
    Request,
    StreamClosedError,
    StreamingResponseContext,
    WireError,
    drop_block,
    get_last_ingress_chunk,
    passthrough_accumulated_chunks,
    passthrough_last_chunk,
    send_chunk,
    send_text,
    send_tool_call,
)
from luthien_litellm_hooks.engine import egress_queue
from luthien_litellm_hooks.engine.composition import ConfiguredPolicy, Serial
from luthien_litellm_hooks.engine.egress_queue import EAGER_READS, MAX_AHEAD
from luthien_litellm_hooks.policies.all_caps import AllCaps
from luthien_litellm_hooks.policies.noop import NoOp
from luthien_litellm_hooks.recording.recorder import DefaultTransactionRecorder
from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.routes import ROUTES
from luthien_litellm_hooks.wire import FORMATS
from luthien_litellm_hooks.wire.chat.adapter import ChatAdapter
from luthien_litellm_hooks.wire.events import Chunk, StreamEvent
from tests.support.chat import (
    USAGE,
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
    think,
    tool,
)
from tests.support.fuzzed_wires import CLIENTS

NOTICE = "a policy check failed (transaction transaction-1)"

ANSWER = [
    chunk(role="assistant", content=""),
    think("hm"),
    text("one "),
    text("two"),
    *call(0, "f", '{"a": ', "1}"),
    *call(1, "g", "{}"),
    finish("tool_calls"),
    chunk(usage=USAGE),
]


class Log(Policy):
    """Lets everything through and writes down which hook was called about what."""

    def __init__(self, config: Any = None) -> None:
        self.calls: list[str] = []  # tests load no policy, so nothing checks that it is stateless

    def _note(self, hook: str, ctx: StreamingResponseContext) -> None:
        kind = type(ctx.block).__name__.removesuffix("StreamBlock") if ctx.block else ""
        self.calls.append(" ".join(filter(None, [hook, kind, repr(ctx.delta) if ctx.delta is not None else ""])))

    async def on_chunk_received(self, ctx: StreamingResponseContext) -> None:
        self._note("chunk", ctx)

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        self._note("delta", ctx)
        await passthrough_last_chunk(ctx)

    on_reasoning_delta = on_tool_call_delta = on_content_delta

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        assert ctx.ingress_state.just_completed is ctx.block
        self._note("complete", ctx)

    on_reasoning_complete = on_tool_call_complete = on_content_complete

    async def on_finish_reason(self, ctx: StreamingResponseContext) -> None:
        self._note(f"finish {ctx.ingress_state.finish_reason}", ctx)

    async def on_stream_complete(self, ctx: StreamingResponseContext) -> None:
        self._note("stream complete", ctx)

    async def on_stream_closed(self, ctx: StreamingResponseContext) -> None:
        self._note("stream closed", ctx)


class Hold(Policy):
    """Holds everything."""

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        """Says nothing."""

    on_reasoning_delta = on_tool_call_delta = on_content_delta


async def test_the_hooks_are_called_in_the_promised_order() -> None:
    policy = Log()
    await deliver(policy, ANSWER)
    assert [name for name in policy.calls if name != "chunk"] == [
        "delta Reasoning 'hm'",
        "complete Reasoning",
        "delta Content 'one '",
        "delta Content 'two'",
        "complete Content",
        "delta ToolCall ''",
        "delta ToolCall '{\"a\": '",
        "delta ToolCall '1}'",
        "complete ToolCall",
        "delta ToolCall ''",
        "delta ToolCall '{}'",
        "complete ToolCall",
        "finish tool_calls",
        "stream complete",
        "stream closed",
    ]
    assert policy.calls.count("chunk") == len(ANSWER)


async def test_a_full_answer_calls_the_same_hooks() -> None:
    policy = Log()
    response = full({"content": "text", "tool_calls": [tool(0, "c", "f", "{}")]}, "tool_calls")
    assert await deliver_full(policy, response) is response
    assert policy.calls == [
        "chunk",
        "delta Content 'text'",
        "complete Content",
        "delta ToolCall '{}'",
        "complete ToolCall",
        "finish tool_calls",
        "stream complete",
        "stream closed",
    ]


@pytest.mark.parametrize("policy", [NoOp(), Log()])
async def test_what_is_passed_leaves_as_the_very_object_that_came(policy: Policy) -> None:
    delivered = await deliver(policy, ANSWER)
    assert [id(item) for item in delivered] == [id(item) for item in ANSWER]


async def test_a_chunk_that_carries_several_things_leaves_whole_when_all_of_it_passes() -> None:
    class HasNoLastWord(Log):
        on_stream_complete = Policy.on_stream_complete

    everything = chunk(content="text", tool_calls=[tool(0, "a", "f", "{}"), tool(1, "b", "g", "{}")], finish="stop")
    log = HasNoLastWord()
    [delivered] = await deliver(log, [everything])
    assert delivered is everything
    assert [call for call in log.calls if call.startswith(("complete", "finish"))] == [
        "complete Content",
        "complete ToolCall",
        "complete ToolCall",
        "finish stop",
    ]


async def judged_ahead(stream: AsyncIterator[object], turns: int, first_turns: int = 0) -> list[int]:
    """How many chunks had been judged, and had not left, when each one left. LiteLLM and the server need `turns` of the
    loop to deliver one, and `first_turns` more for the first."""
    judged: list[str | None] = []

    class Watches(Policy):
        async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
            judged.append(ctx.delta)
            await passthrough_last_chunk(ctx)

    ahead: list[int] = []
    async for _ in PolicyExecutor(Watches()).run(stream, adapter(), context()):
        for _ in range(turns if ahead else turns + first_turns):
            await asyncio.sleep(0)
        ahead.append(len(judged) - len(ahead))
    return ahead


@pytest.mark.parametrize("turns", [0, 3])
@pytest.mark.parametrize("first_turns", [0, 10])
async def test_chunks_that_are_all_there_already_do_not_wait_for_the_rest(turns: int, first_turns: int) -> None:
    """The first leave before the next are judged, later ones when a few are."""
    ahead = await judged_ahead(provide([*[text("x") for _ in range(100)], finish()]), turns, first_turns)
    assert len(ahead) == 101
    assert max(ahead[:EAGER_READS]) == 1
    assert MAX_AHEAD <= max(ahead) <= 2 * MAX_AHEAD  # those that wait, and those that leave one after the other


async def test_a_chunk_that_had_to_be_waited_for_leaves_before_the_next_is_judged() -> None:
    went_on = asyncio.Event()

    async def provider() -> AsyncIterator[object]:
        for _ in range(20):
            yield text("x")
        asyncio.get_running_loop().call_later(0.01, went_on.set)
        await went_on.wait()
        for _ in range(20):
            yield text("y")

    ahead = await judged_ahead(provider(), turns=0)
    assert ahead[EAGER_READS] > 1
    assert ahead[20] == 1
    assert ahead[21] > 1


@pytest.mark.parametrize(
    ("waiting", "wait_s", "has_turn"), [(1, 60.0, False), (MAX_AHEAD, 60.0, True), (1, -1.0, True)]
)
async def test_another_stage_gets_a_turn_for_many_items_or_after_a_wait(
    waiting: int, wait_s: float, has_turn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(egress_queue, "MAX_WAIT_S", wait_s)
    queue, turns = egress_queue.EgressQueue(put_timeout_s=None), list[str]()
    for _ in range(waiting):
        queue.put_nowait(egress_queue.EgressItem(None))
    asyncio.get_running_loop().call_soon(turns.append, "turn")
    await queue.yield_to_reader()
    assert bool(turns) is has_turn


async def test_of_a_chunk_that_carries_several_things_only_what_is_let_out_leaves() -> None:
    class NoCalls(Policy):
        async def on_tool_call_delta(self, ctx: StreamingResponseContext) -> None:
            """Holds calls, and never lets them out."""

    everything = chunk(
        content="text", tool_calls=[tool(0, "a", "f", "{}")], finish="tool_calls", usage=USAGE, role="assistant"
    )
    before = everything.model_dump()
    delivered = Delivered.of(await deliver(NoCalls(), [everything]))
    assert (delivered.text, delivered.calls, delivered.finish_reasons) == ("text", [], ["stop"])
    assert [item.usage.total_tokens for item in delivered.chunks if getattr(item, "usage", None)] == [8]
    assert everything.model_dump() == before, "a chunk is LiteLLM's own: it must not be changed"


async def test_what_nobody_lets_out_is_never_delivered() -> None:
    delivered = Delivered.of(await deliver(Hold(), ANSWER))
    assert (delivered.reasoning, delivered.calls) == ("", [])
    assert delivered.text == WITHHELD, "an agent can do nothing with an answer that says nothing"
    assert delivered.finish_reasons == ["stop"], "no call was delivered, so the agent must not wait for one"
    text_alone = Delivered.of(await deliver(Hold(), [text("t"), finish()]))
    assert (text_alone.text, text_alone.finish_reasons) == ("", ["stop"])


class HoldsCalls(Policy):
    """Holds the calls alone, and decides about none."""

    async def on_tool_call_delta(self, ctx: StreamingResponseContext) -> None:
        """Says nothing."""


@pytest.mark.parametrize("max_items", [1, 2, 10_000])
@pytest.mark.parametrize(
    "policies",
    [[HoldsCalls()], [HoldsCalls(), AllCaps()], [AllCaps(), HoldsCalls()]],
    ids=["alone", "first", "last"],
)
@pytest.mark.parametrize("route", ["chat", "messages", "responses", "gemini"])
async def test_no_answer_finishes_for_a_call_that_nobody_decided_about(
    route: str, policies: Sequence[Policy], max_items: int
) -> None:
    members = [ConfiguredPolicy(policy, type(policy).__name__) for policy in policies]
    ctx = PolicyContext("t", Request({"model": "m"}), recorder=DefaultTransactionRecorder())
    stream = ROUTES[route].stream(Answer([Say("one"), Call("f", "{}")]), {"model": "m"})
    executor = PolicyExecutor(Serial(members), max_items=max_items)
    items = await pull(executor.run(stream, ROUTES[route].adapter(ctx.request), ctx))
    CLIENTS[route].check(items)
    assert ctx.recorder.egress.finish_reason == FORMATS[route].rules.stop_reason
    assert [block["type"] for block in ctx.recorder.egress.content()] == ["text"]


async def test_what_is_held_can_be_let_out_by_a_later_hook_exactly_once() -> None:
    class Later(Hold):
        async def on_stream_complete(self, ctx: StreamingResponseContext) -> None:
            await passthrough_accumulated_chunks(ctx)
            await passthrough_accumulated_chunks(ctx)

    delivered = Delivered.of(await deliver(Later(), ANSWER))
    assert (delivered.text, delivered.reasoning) == ("one two", "hm")
    assert delivered.calls == [("call_0", "f", '{"a": 1}'), ("call_1", "g", "{}")]
    assert delivered.finish_reasons == ["tool_calls"]


async def test_a_replaced_block_never_brings_its_original_back() -> None:
    class Replace(Hold):
        async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
            await send_text(ctx, "other")

        async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
            await passthrough_accumulated_chunks(ctx)

        async def on_stream_complete(self, ctx: StreamingResponseContext) -> None:
            await passthrough_accumulated_chunks(ctx)

    delivered = Delivered.of(await deliver(Replace(), ANSWER))
    assert delivered.text == "other"
    assert len(delivered.calls) == 2


async def test_a_dropped_block_never_comes_back_not_even_when_the_policy_fails_later() -> None:
    class Drop(Hold):
        async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
            drop_block(ctx)

        async def on_finish_reason(self, ctx: StreamingResponseContext) -> None:
            raise RuntimeError("later")

    delivered = Delivered.of(await deliver(Drop(), ANSWER, on_policy_error="pass"))
    assert delivered.text == ""
    assert len(delivered.calls) == 2, "what was only held is delivered when the policy fails and is to pass"


async def test_the_rest_of_a_call_whose_beginning_was_dropped_is_not_delivered_when_the_policy_fails() -> None:
    class DropsTheFirst(Policy):
        async def on_tool_call_delta(self, ctx: StreamingResponseContext) -> None:
            drop_block(ctx)
            raise RuntimeError("later")

    delivered = Delivered.of(await deliver(DropsTheFirst(), ANSWER, on_policy_error="pass"))
    assert [name for _, name, _ in delivered.calls] == ["g"], "only the first was dropped"


async def test_a_head_that_is_released_after_its_call_began_is_not_said_again() -> None:
    class HoldsTheHead(Policy):
        async def on_tool_call_delta(self, ctx: StreamingResponseContext) -> None:
            if ctx.delta:
                await passthrough_last_chunk(ctx)

        async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
            await passthrough_accumulated_chunks(ctx)

    items = [*call(0, "f", '{"a": ', "1}"), finish("tool_calls")]
    assert Delivered.of(await deliver(HoldsTheHead(), items)).calls == [("call_0", "f", '{"a": 1}')]


async def test_what_a_policy_sends_all_at_once_is_delivered_however_little_the_queue_takes() -> None:
    class Sends(Hold):
        async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
            await asyncio.gather(*(send_text(ctx, f"{number} ") for number in range(5)))

    with anyio.fail_after(10):
        delivered = Delivered.of(await deliver(Sends(), [text("x"), finish()], max_items=1))
    assert sorted(delivered.text.split()) == list("01234")


async def test_a_hook_may_add_text_before_what_it_lets_through() -> None:
    class Prefix(Hold):
        async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
            await send_text(ctx, "> ")
            await passthrough_accumulated_chunks(ctx)

    assert Delivered.of(await deliver(Prefix(), ANSWER)).text == "> one two"


async def test_deleting_a_text_leaves_a_well_formed_stream() -> None:
    class Delete(Policy):
        async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
            await send_text(ctx, "")

    delivered = Delivered.of(await deliver(Delete(), [chunk(role="assistant", content="x"), finish()]))
    assert (delivered.text, delivered.finish_reasons) == ("", ["stop"])
    response = await deliver_full(Delete(), full({"content": "x"}))
    assert response.choices[0].message.content == ""


async def test_what_is_sent_at_the_end_is_delivered_before_the_finish() -> None:
    class LastWord(Policy):
        async def on_finish_reason(self, ctx: StreamingResponseContext) -> None:
            await send_text(ctx, " finish")

        async def on_stream_complete(self, ctx: StreamingResponseContext) -> None:
            await send_text(ctx, " complete")

    delivered = Delivered.of(await deliver(LastWord(), [text("text"), finish(), chunk(usage=USAGE)]))
    assert delivered.text == "text finish complete"
    assert delivered.chunks[-1].usage.total_tokens == 8
    response = await deliver_full(LastWord(), full({"content": "text"}))
    assert response.choices[0].message.content == "text finish complete"


async def test_a_policy_may_send_what_came_as_a_chunk() -> None:
    class Chunks(Hold):
        async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
            came = get_last_ingress_chunk(ctx)
            assert came is not None
            await send_chunk(ctx, came)
            await send_chunk(ctx, came)

    assert Delivered.of(await deliver(Chunks(), ANSWER)).text == "one two"


async def test_a_chunk_passed_before_it_is_judged_is_only_watched() -> None:
    class Watch(Log):
        async def on_chunk_received(self, ctx: StreamingResponseContext) -> None:
            await passthrough_last_chunk(ctx)

    policy = Watch()
    assert [id(item) for item in await deliver(policy, ANSWER)] == [id(item) for item in ANSWER]
    assert "delta Content 'two'" in policy.calls


async def test_what_is_let_out_when_the_finish_came_leaves_before_it() -> None:
    class WaitsForTheUsage(Policy):
        async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
            pass

        async def on_chunk_received(self, ctx: StreamingResponseContext) -> None:
            if ctx.ingress_state.finish_reason:
                await passthrough_accumulated_chunks(ctx)

    items = [text("a"), text("b"), finish(), chunk(usage=USAGE)]
    assert [id(item) for item in await deliver(WaitsForTheUsage(), items)] == [id(item) for item in items]


@pytest.mark.parametrize("delta", [{"tool_calls": True}, {"tool_calls": {"a": 1}}, {"function_call": "f"}], ids=str)
async def test_calls_that_are_none_end_a_judged_response(delta: dict[str, Any]) -> None:
    items = [text("a"), chunk(**delta), text("secret"), finish()]
    assert [id(item) for item in await deliver(NoOp(), items)] == [id(item) for item in items]
    delivered = Delivered.of(await deliver(AllCaps(), items))
    assert delivered.text.startswith("A\n\n[luthien]")
    assert "SECRET" not in delivered.text


async def test_nothing_of_what_cannot_be_said_as_a_whole_leaves() -> None:
    class BreaksOff(ChatAdapter):
        def encode(self, events: Sequence[StreamEvent], of: Chunk | None) -> Iterator[object]:
            yield "a half"
            raise ValueError("the other half")

    class Adds(Policy):
        async def on_finish_reason(self, ctx: StreamingResponseContext) -> None:
            await send_text(ctx, "more")

    items = [text("first"), text("second"), finish()]
    adapter = BreaksOff(FORMATS["chat"].rules, lambda: ModelResponseStream(id="own"))
    stream = PolicyExecutor(Adds()).run(provide(items), adapter, context())
    assert [await anext(stream), await anext(stream)] == items[:2]
    with pytest.raises(WireError, match="could not be encoded"):
        await anext(stream)


async def test_a_made_chunk_is_like_the_providers_and_says_no_finish() -> None:
    class Shout(Policy):
        async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
            await send_text(ctx, "!")

    [made, end] = await deliver(Shout(), [text("text"), finish()])
    assert (made.id, made.model, made.created) == (end.id, end.model, end.created)
    assert made.choices[0].finish_reason is None


class Rewrite(Hold):
    """Renames each call and doubles it."""

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        await passthrough_accumulated_chunks(ctx)

    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        made = replace(ctx.block.tool_call, name="renamed")
        await send_tool_call(ctx, made)
        await send_tool_call(ctx, replace(made, id="second"))


async def test_a_call_may_be_renamed_and_replaced_by_several() -> None:
    expected = [("call_0", "renamed", '{"a": 1}'), ("second", "renamed", '{"a": 1}')]
    delivered = Delivered.of(await deliver(Rewrite(), [text("t"), *call(0, "f", '{"a": 1}'), finish("tool_calls")]))
    assert (delivered.text, delivered.calls, delivered.finish_reasons) == ("t", expected, ["tool_calls"])
    came = full({"content": "t", "tool_calls": [tool(0, "call_0", "f", '{"a": 1}')]}, "tool_calls")
    response = await deliver_full(Rewrite(), came)
    calls = response.choices[0].message.tool_calls
    assert [(made.id, made.function.name, made.function.arguments) for made in calls] == expected
    assert (response.id, response.usage, response.choices[0].finish_reason) == (came.id, came.usage, "tool_calls")
    assert came.choices[0].message.tool_calls[0].function.name == "f", "the answer is LiteLLM's own"


class OnlyCall(Hold):
    """Lets only one call through."""

    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        if ctx.block.name == "g":
            await passthrough_accumulated_chunks(ctx)


async def test_the_calls_that_remain_are_numbered_without_gaps() -> None:
    delivered = Delivered.of(await deliver(OnlyCall(), ANSWER))
    assert delivered.calls == [("call_1", "g", "{}")]
    assert delivered.finish_reasons == ["tool_calls"]


async def test_a_call_added_to_an_answer_without_any_changes_its_finish_reason() -> None:
    class Add(Policy):
        async def on_finish_reason(self, ctx: StreamingResponseContext) -> None:
            from luthien_litellm_hooks import ToolCall

            await send_tool_call(ctx, ToolCall("made", "f", "{}"))

    delivered = Delivered.of(await deliver(Add(), [text("t"), finish("stop")]))
    assert (delivered.calls, delivered.finish_reasons) == ([("made", "f", "{}")], ["tool_calls"])


@pytest.mark.parametrize("reason", ["length", "content_filter", "stop"])
async def test_other_finish_reasons_are_never_touched(reason: str) -> None:
    assert Delivered.of(await deliver(Hold(), [*call(0, "f", "{}"), finish(reason)])).finish_reasons == [reason]


async def test_text_sent_during_a_slow_hook_arrives_before_the_hook_ends() -> None:
    may_end = asyncio.Event()

    class Slow(Hold):
        async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
            await send_text(ctx, "early")
            await may_end.wait()
            await send_text(ctx, " late")

    stream = PolicyExecutor(Slow()).run(provide([text("t"), finish()]), adapter(), context())
    first = await anext(stream)
    assert Delivered.of([first]).text == "early"
    assert not may_end.is_set()
    may_end.set()
    assert Delivered.of(await pull(stream)).text == " late"


async def test_what_passes_does_not_wait_for_a_slow_hook_on_the_same_chunk() -> None:
    may_end = asyncio.Event()

    class SlowCalls(Policy):
        async def on_tool_call_delta(self, ctx: StreamingResponseContext) -> None:
            await may_end.wait()
            await passthrough_last_chunk(ctx)

    both = chunk(content="text", tool_calls=[tool(0, "a", "f", "{}")])
    stream = PolicyExecutor(SlowCalls()).run(provide([both, finish("tool_calls")]), adapter(), context())
    assert Delivered.of([await anext(stream)]).text == "text"
    may_end.set()
    rest = Delivered.of(await pull(stream))
    assert (rest.text, rest.calls) == ("", [("a", "f", "{}")])


async def test_a_hook_may_use_scopes_timeouts_and_context_variables_across_the_whole_answer() -> None:
    seen: contextvars.ContextVar[int] = contextvars.ContextVar("seen", default=0)
    totals: list[int] = []

    class Scopes(Policy):
        async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
            seen.set(seen.get() + 1)
            with anyio.CancelScope():
                async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                    group.create_task(passthrough_last_chunk(ctx))

        async def on_stream_closed(self, ctx: StreamingResponseContext) -> None:
            totals.append(seen.get())

    assert Delivered.of(await deliver(Scopes(), ANSWER)).text == "one two"
    assert totals == [2]


# Faults


class Fails(Hold):
    """Holds text, lets calls through, and fails at the end of the text."""

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        raise RuntimeError("secret of the policy")

    async def on_tool_call_delta(self, ctx: StreamingResponseContext) -> None:
        await passthrough_last_chunk(ctx)


async def test_a_policy_that_fails_ends_the_answer_with_a_notice() -> None:
    ctx = context()
    delivered = Delivered.of(await deliver(Fails(), ANSWER, ctx))
    assert NOTICE in delivered.text
    assert "one" not in delivered.text
    assert "secret" not in delivered.text
    assert (delivered.calls, delivered.finish_reasons) == ([], ["stop"])
    assert delivered.chunks[-1].usage.total_tokens == 8, "the provider's token counts are still told"
    assert [decision.action for decision in ctx.decisions] == ["error"]
    assert "secret of the policy" in str(ctx.decisions[0].evidence)


async def test_a_policy_that_fails_and_is_to_pass_lets_everything_through_once() -> None:
    delivered = Delivered.of(await deliver(Fails(), ANSWER, on_policy_error="pass"))
    assert delivered.text == "one two"
    assert [name for _, name, _ in delivered.calls] == ["f", "g"]


@pytest.mark.parametrize(("mode", "content"), [("block", NOTICE), ("pass", "text")])
async def test_a_policy_that_fails_on_a_full_answer(mode: Any, content: str) -> None:
    response = await deliver_full(Fails(), full({"content": "text"}), on_policy_error=mode)
    assert content in response.choices[0].message.content
    assert "secret" not in response.choices[0].message.content


@pytest.mark.parametrize("hook", ["on_chunk_received", "on_content_delta", "on_finish_reason", "on_stream_complete"])
async def test_a_failure_in_any_hook_is_told_in_a_well_formed_stream(hook: str) -> None:
    async def fail(self: Policy, ctx: StreamingResponseContext) -> None:
        raise KeyError("secret")

    policy = type("FailsIn", (Policy,), {hook: fail})()
    delivered = Delivered.of(await deliver(policy, ANSWER))
    assert NOTICE in delivered.text
    assert "secret" not in str(delivered.chunks)
    assert delivered.finish_reasons == ["stop"]
    assert delivered.chunks[-1].usage.total_tokens == 8


async def test_an_answer_that_ends_before_it_began_still_starts_as_clients_expect() -> None:
    class Refuses(Policy):
        async def on_chunk_received(self, ctx: StreamingResponseContext) -> None:
            raise PolicyBlockedError("No.")

    delivered = await deliver(Refuses(), ANSWER)
    roles = [getattr(item.choices[0].delta, "role", None) for item in delivered]
    assert roles == ["assistant", *[None] * (len(delivered) - 1)]
    assert Delivered.of(delivered).text == "No."


async def test_a_provider_that_starts_again_with_each_chunk_does_so_only_in_chunks_that_pass() -> None:
    class Star(Policy):
        async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
            await send_text(ctx, "*")

    items = [chunk(role="assistant", content="a"), chunk(role="assistant", content="b"), finish()]
    delivered = await deliver(Star(), items)
    assert [getattr(item.choices[0].delta, "role", None) for item in delivered] == ["assistant", None, None, None]
    assert [id(item) for item in await deliver(NoOp(), items)] == [id(item) for item in items]


async def test_a_hook_that_hangs_is_ended_by_its_deadline() -> None:
    class Hangs(Policy):
        async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
            await asyncio.Event().wait()

    ctx = context()
    delivered = Delivered.of(await deliver(Hangs(), ANSWER, ctx, timeout_s=0.01))
    assert NOTICE in delivered.text
    assert (ctx.decisions[0].error, ctx.decisions[0].evidence) == ("PolicyTimeoutError", "no keepalive() for 0.01 s")


async def test_a_hook_that_swallows_its_cancellation_has_failed_all_the_same() -> None:
    class Swallows(Policy):
        async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await passthrough_last_chunk(ctx)

    assert NOTICE in Delivered.of(await deliver(Swallows(), ANSWER, timeout_s=0.01)).text


async def test_keepalive_moves_the_deadline() -> None:
    class Patient(Policy):
        async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
            for _ in range(5):
                with anyio.move_on_after(0.06):  # together longer than the deadline
                    await asyncio.Event().wait()
                assert ctx.time_since_keepalive() > 0.05
                ctx.keepalive()
            await passthrough_last_chunk(ctx)

    assert Delivered.of(await deliver(Patient(), [text("t"), finish()], timeout_s=0.2)).text == "t"


async def test_a_timeout_of_the_policys_own_is_no_deadline_of_ours() -> None:
    class Own(Policy):
        async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()

    ctx = context()
    await deliver(Own(), [text("t"), finish()], ctx)
    assert "TimeoutError" in str(ctx.decisions[0].reason)
    assert "PolicyTimeoutError" not in str(ctx.decisions[0].reason)


async def test_a_silent_provider_is_never_the_policys_fault() -> None:
    async def silent() -> AsyncIterator[Any]:
        yield text("a")
        with anyio.move_on_after(0.1):  # ten deadlines
            await asyncio.Event().wait()
        yield text("b")
        yield finish()

    executor = PolicyExecutor(Log(), timeout_s=0.01)
    assert Delivered.of(await pull(executor.run(silent(), adapter(), context()))).text == "ab"


async def test_something_cancelled_inside_a_hook_is_a_failure_not_the_end_of_the_client() -> None:
    class Cancelled(Policy):
        async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
            inner = asyncio.create_task(asyncio.Event().wait())
            asyncio.get_running_loop().call_soon(inner.cancel)
            await inner

    assert NOTICE in Delivered.of(await deliver(Cancelled(), ANSWER)).text


async def test_a_policy_refuses_in_mid_answer_with_its_own_message() -> None:
    class Refuses(OnlyCall):
        async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
            await passthrough_last_chunk(ctx)

        async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
            raise PolicyBlockedError("Not this tool.", reason="rule 7")

    ctx = context()
    delivered = Delivered.of(await deliver(Refuses(), ANSWER, ctx))
    assert (delivered.text, delivered.finish_reasons) == ("one two\n\nNot this tool.", ["stop"])
    [decision] = ctx.decisions
    assert (decision.action, decision.reason, decision.message) == ("block", "rule 7", "Not this tool.")
    came = full({"content": "t", "tool_calls": [tool(0, "a", "f", "{}")]}, "tool_calls")
    message = (await deliver_full(Refuses(), came)).choices[0].message
    assert (message.content, message.tool_calls) == ("t\n\nNot this tool.", None)


async def test_the_providers_stream_is_read_to_its_end_when_a_policy_has_ended_the_answer() -> None:
    """LiteLLM logs and bills a stream only when it was read to its end."""
    ended: list[str] = []

    async def provider() -> AsyncIterator[Any]:
        for item in ANSWER:
            yield item
        ended.append("read")

    await pull(PolicyExecutor(Fails()).run(provider(), adapter(), context()))
    assert ended == ["read"]


async def test_a_providers_error_leaves_as_the_same_object_and_what_is_held_does_not() -> None:
    class ProviderError(Exception):
        pass

    error, log = ProviderError("rate limit"), Log()
    stream = PolicyExecutor(log).run(provide([text("a"), error]), adapter(), context())
    assert Delivered.of([await anext(stream)]).text == "a"
    with pytest.raises(ProviderError) as raised:
        await anext(stream)
    assert raised.value is error
    held = PolicyExecutor(Hold()).run(provide([text("secret"), error]), adapter(), context())
    with pytest.raises(ProviderError):
        await anext(held)


async def test_an_item_that_no_adapter_knows_ends_the_answer() -> None:
    delivered = await deliver(AllCaps(), [text("a"), {"choices": []}, text("b"), finish()])
    assert Delivered.of(delivered).text.startswith("A\n\n[luthien]")


async def test_a_client_that_leaves_ends_the_worker_and_closes_the_provider() -> None:
    told: list[str] = []
    provider_waits = asyncio.Event()

    async def provider() -> AsyncIterator[Any]:
        try:
            yield text("a")
            provider_waits.set()
            await asyncio.Event().wait()
        finally:
            told.append("provider closed")

    class Tells(Log):
        async def on_stream_closed(self, ctx: StreamingResponseContext) -> None:
            told.append("policy told")

    stream = PolicyExecutor(Tells()).run(provider(), adapter(), context())
    await anext(stream)
    await provider_waits.wait()
    await stream.aclose()
    assert told == ["provider closed", "policy told"]


async def test_a_client_that_leaves_by_a_cancelled_scope_ends_the_worker_too() -> None:
    """An await in `finally` is cancelled again there, unless it is shielded."""
    told: list[str] = []

    class Tells(Policy):
        async def on_stream_closed(self, ctx: StreamingResponseContext) -> None:
            await asyncio.sleep(0)
            told.append("policy told")

    async def endless() -> AsyncIterator[Any]:
        yield text("a")
        await asyncio.Event().wait()

    with anyio.CancelScope() as scope:
        async for _ in PolicyExecutor(Tells()).run(endless(), adapter(), context()):
            asyncio.get_running_loop().call_soon(scope.cancel)
    assert scope.cancelled_caught
    assert told == ["policy told"]
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("luthien")] == []


async def test_a_client_that_leaves_while_the_queue_is_full_stalls_nobody() -> None:
    executor = PolicyExecutor(NoOp(), max_items=1)
    stream = executor.run(provide([text("a")] * 10), adapter(), context())
    await anext(stream)
    await stream.aclose()
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("luthien")] == []


async def test_a_client_that_does_not_read_is_given_up_with_a_notice() -> None:
    is_given_up = asyncio.Event()

    class Tells(Policy):
        async def on_stream_closed(self, ctx: StreamingResponseContext) -> None:
            is_given_up.set()

    ctx, executor = context(), PolicyExecutor(Tells(), max_items=2, put_timeout_s=0.01)
    stream = executor.run(provide([text("a")] * 10), adapter(), ctx)
    await anext(stream)
    with anyio.fail_after(10):
        await is_given_up.wait()
    rest = Delivered.of(await pull(stream)).text
    assert rest.startswith("\n\n[luthien] This answer was stopped because it was not read")
    assert "the client read nothing for 0.01 s" in str(ctx.decisions[0].evidence)


async def test_waiting_for_a_slow_client_is_not_the_policys_time() -> None:
    executor = PolicyExecutor(Log(), max_items=1, put_timeout_s=60, timeout_s=0.01)
    stream = executor.run(provide([text("a"), text("b"), text("c"), finish()]), adapter(), context())
    read = [await anext(stream)]
    with anyio.move_on_after(0.1):  # ten deadlines
        await asyncio.Event().wait()
    assert Delivered.of([*read, *await pull(stream)]).text == "abc"


async def test_nothing_can_be_sent_once_the_stream_is_closed() -> None:
    is_told = asyncio.Event()

    class TooLate(Policy):
        async def on_stream_closed(self, ctx: StreamingResponseContext) -> None:
            with pytest.raises(StreamClosedError):
                await send_text(ctx, "late")
            is_told.set()

    delivered = Delivered.of(await deliver(TooLate(), [text("a"), finish()]))
    assert delivered.text == "a"
    with anyio.fail_after(10):
        await is_told.wait()


async def test_a_stream_without_a_finish_reason_completes_its_blocks() -> None:
    log = Log()
    came = [text("a"), *call(0, "f", '{"cut')]
    assert [id(item) for item in await deliver(log, came)] == [id(item) for item in came]
    assert log.calls[-3:] == ["complete ToolCall", "stream complete", "stream closed"]
    assert Delivered.of(await deliver(Hold(), came)).finish_reasons == [], "a broken-off response looks finished"


async def test_a_provider_that_finishes_with_each_chunk_loses_nothing() -> None:
    items = [chunk(content="a", finish="stop"), chunk(content="b", finish="stop")]
    assert [id(item) for item in await deliver(NoOp(), items)] == [id(item) for item in items]
    assert Delivered.of(await deliver(Log(), items)).text == "ab"


async def test_several_choices_are_governed_each_for_itself() -> None:
    class Upper(Policy):
        async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
            await send_text(ctx, str(ctx.delta).upper())

    items = [text("a"), text("b", choice=1), text("c"), finish(), text("d", choice=1), finish(choice=1)]
    delivered = await deliver(Upper(), items)
    assert [Delivered.of(delivered, choice).text for choice in (0, 1)] == ["AC", "BD"]
    assert [Delivered.of(delivered, choice).finish_reasons for choice in (0, 1)] == [["stop"], ["stop"]]


async def test_what_is_sent_at_the_finish_of_a_choice_belongs_to_it() -> None:
    class Sign(Policy):
        async def on_finish_reason(self, ctx: StreamingResponseContext) -> None:
            await send_text(ctx, f" (choice {ctx.choice})")

    items = [text("a"), text("b", choice=1), finish(), finish(choice=1)]
    delivered = await deliver(Sign(), items)
    assert [Delivered.of(delivered, choice).text for choice in (0, 1)] == ["a (choice 0)", "b (choice 1)"]


@pytest.mark.parametrize(
    "reasoning",
    [
        {"reasoning_content": "secret"},
        {"thinking_blocks": [{"type": "thinking", "thinking": "secret"}], "provider_specific_fields": {"a": "secret"}},
        {"reasoning_details": [{"type": "reasoning.text", "text": "secret"}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "secret"}]}]},
    ],
    ids=lambda fields: next(iter(fields)),
)
async def test_reasoning_that_is_withheld_leaves_in_none_of_its_forms(reasoning: dict[str, Any]) -> None:
    class NoReasoning(Policy):
        async def on_reasoning_delta(self, ctx: StreamingResponseContext) -> None:
            assert ctx.delta == "secret"

    delivered = await deliver(NoReasoning(), [chunk(role="assistant", **reasoning), text("t"), finish()])
    assert "secret" not in str(delivered)
    assert Delivered.of(delivered).text == "t"


async def test_two_answers_at_once_share_nothing() -> None:
    class Count(Policy):
        async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
            ctx.scratchpad["n"] = ctx.scratchpad.get("n", 0) + 1
            await asyncio.sleep(0)
            await send_text(ctx, f"{ctx.request.model}{ctx.scratchpad['n']} ")

    policy = Count()
    items = [text("x"), text("y"), finish()]
    one, two = await asyncio.gather(
        deliver(policy, items, context(model="a")), deliver(policy, items, context(model="b"))
    )
    assert (Delivered.of(one).text, Delivered.of(two).text) == ("a1 a2 ", "b1 b2 ")


# Requests


class OnRequest(Policy):
    """Returns what it was made with."""

    def __init__(self, result: Any) -> None:
        self.result = result

    async def on_request(self, request: Request, ctx: PolicyContext) -> Any:
        ctx.scratchpad["seen"] = request.model
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        await send_text(ctx, f"{ctx.scratchpad['seen']}->{ctx.final_request.model}")


async def test_the_request_and_its_answer_share_one_scratchpad() -> None:
    executor, ctx = PolicyExecutor(OnRequest(Request({"model": "other"}))), context()
    await executor.on_request(ctx)
    delivered = await pull(executor.run(provide([text("t"), finish()]), adapter(), ctx))
    assert Delivered.of(delivered).text == "m->other"


@pytest.mark.parametrize("result", [None, "text", Request({"model": "m", "stream": True}), ValueError("secret")])
async def test_a_request_hook_that_fails_refuses_or_passes(result: Any) -> None:
    with pytest.raises(PolicyBlockedError) as refused:
        await PolicyExecutor(OnRequest(result)).on_request(context())
    assert NOTICE in refused.value.message
    assert "secret" not in refused.value.message
    ctx = context()
    assert await PolicyExecutor(OnRequest(result), on_policy_error="pass").on_request(ctx) is ctx.request


async def test_process_full_response_has_the_last_word_on_a_full_answer() -> None:
    class Last(Policy):
        async def process_full_response(self, response: Any, ctx: PolicyContext) -> Any:
            return response.model_copy(update={"model": "seen"})

    assert (await deliver_full(Last(), full({"content": "t"}))).model == "seen"

    class Nonsense(Policy):
        async def process_full_response(self, response: Any, ctx: PolicyContext) -> Any:
            return None

    response = await deliver_full(Nonsense(), full({"content": "t"}))
    assert NOTICE in response.choices[0].message.content
