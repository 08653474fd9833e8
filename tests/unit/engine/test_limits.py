"""The bounds: what an answer may bring, what answers may hold in memory, how long policies may take, and what
becomes of a hook that cannot be stopped."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest

from luthien_litellm_hooks import (
    Policy,
    PolicyBlockedError,
    PolicyContext,
    PolicyExecutor,
    Request,
    StreamingResponseContext,
    passthrough_accumulated_chunks,
    passthrough_last_chunk,
    send_text,
)
from luthien_litellm_hooks.engine import hook_call as hook_call_module
from luthien_litellm_hooks.engine.composition import Composition, ConfiguredPolicy, HoldClock, Parallel, Serial, run_of
from luthien_litellm_hooks.engine.egress_queue import EVENT_BYTES, MEMORY
from luthien_litellm_hooks.engine.executor import outcome_of
from luthien_litellm_hooks.engine.parallel import FEED_ITEMS
from luthien_litellm_hooks.policies.noop import NoOp
from luthien_litellm_hooks.policy.limits import Limits
from luthien_litellm_hooks.telemetry import NoOpObservabilityContext
from tests.support import messages
from tests.support.chat import (
    Delivered,
    adapter,
    call,
    context,
    deliver,
    deliver_full,
    finish,
    full,
    provide,
    pull,
    text,
)

NOTICE = "a policy check failed (transaction transaction-1)"
CALL = [text("one "), *call(0, "f", '{"a": ', "1}"), finish("tool_calls")]
ROOM_FOR_TWO = Limits(max_held_bytes=3 * EVENT_BYTES)


@pytest.fixture(autouse=True)
def nothing_stays_held() -> Iterator[None]:
    yield
    assert MEMORY.taken == 0


@pytest.fixture
def stop_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook_call_module, "STOP_GRACE_S", 0.01)


class Holds(Policy):
    """Holds every call, and lets it out in the end."""

    async def on_tool_call_delta(self, ctx: StreamingResponseContext) -> None:
        return None

    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        await passthrough_accumulated_chunks(ctx)


class KeepsAlive(Holds):
    """Waits for ever, and says all the time that it lives."""

    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        while True:
            ctx.keepalive()
            await asyncio.sleep(0.001)


class CannotBeStopped(Holds):
    """Goes on though it is cancelled, until it is released."""

    def __init__(self) -> None:
        self._is_released = asyncio.Event()
        self.is_closed = asyncio.Event()

    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        await self.go_on()

    async def go_on(self) -> None:
        while not self._is_released.is_set():
            try:
                await self._is_released.wait()
            except asyncio.CancelledError:
                continue

    async def on_stream_closed(self, ctx: StreamingResponseContext) -> None:
        self.is_closed.set()

    @asynccontextmanager
    async def until_released(self) -> AsyncGenerator[None]:
        """Gives what runs in it ten seconds; the hook ends with it."""
        try:
            with anyio.fail_after(10):
                yield
        finally:
            self._is_released.set()


class Provider:
    """A stream that notes when it is closed."""

    def __init__(self, items: Sequence[Any], *, is_endless: bool = False) -> None:
        self._items = items
        self._is_endless = is_endless
        self.is_closed = asyncio.Event()

    async def stream(self) -> AsyncGenerator[Any]:
        try:
            for item in self._items:
                yield item
            if self._is_endless:
                await asyncio.Event().wait()
        finally:
            self.is_closed.set()


# A hook that cannot be stopped


def composed(shape: str, policy: Policy) -> Composition:
    member = ConfiguredPolicy(policy, "stuck", timeout_s=0.01, on_policy_error="block")
    others = [ConfiguredPolicy(NoOp(), "noop")]
    return {
        "alone": member,
        "first of a serial": Serial([member, *others]),
        "last of a serial": Serial([*others, member]),
        "a voter": Parallel([member, *others]),
    }[shape]


@pytest.mark.usefixtures("stop_grace")
@pytest.mark.parametrize("shape", ["alone", "first of a serial", "last of a serial", "a voter"])
async def test_a_hook_that_cannot_be_stopped_ends_the_answer_and_nothing_else(shape: str) -> None:
    policy, provider, ctx = CannotBeStopped(), Provider(CALL), context()
    async with policy.until_released():
        stream = PolicyExecutor(composed(shape, policy)).run(provider.stream(), adapter(), ctx)
        delivered = Delivered.of(await pull(stream))
        await provider.is_closed.wait()
    assert NOTICE in delivered.text
    assert delivered.calls == []
    assert [decision.error for decision in ctx.decisions if decision.error] == ["PolicyTimeoutError"]


@pytest.mark.usefixtures("stop_grace")
async def test_a_voter_that_cannot_be_stopped_holds_up_no_long_answer() -> None:
    policy, ctx = CannotBeStopped(), context()
    long = [*call(0, "f", "{}"), *[text("x") for _ in range(3 * FEED_ITEMS)], finish("tool_calls")]
    async with policy.until_released():
        delivered = Delivered.of(await deliver(composed("a voter", policy), long, ctx))
    assert NOTICE in delivered.text
    assert delivered.calls == []


@pytest.mark.usefixtures("stop_grace")
async def test_no_hook_is_called_after_one_that_could_not_be_stopped() -> None:
    class Finishes(CannotBeStopped):
        called = False

        async def on_finish_reason(self, ctx: StreamingResponseContext) -> None:
            type(self).called = True

    policy = Finishes()
    async with policy.until_released():
        await deliver(policy, CALL, timeout_s=0.01)
    with anyio.fail_after(10):
        await policy.is_closed.wait()
    assert not policy.called


@pytest.mark.parametrize("then", ["returns", "fails", "refuses", "sends"])
@pytest.mark.parametrize("shape", ["alone", "first of a serial", "last of a serial", "a voter"])
async def test_a_client_that_leaves_ends_a_hook_that_keeps_its_cancellation_to_itself(shape: str, then: str) -> None:
    class Swallows(Policy):
        def __init__(self) -> None:
            self.is_called = asyncio.Event()

        async def on_chunk_received(self, ctx: StreamingResponseContext) -> None:
            self.is_called.set()
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            if then == "fails":
                raise RuntimeError
            if then == "refuses":
                raise PolicyBlockedError("no")
            if then == "sends":
                await send_text(ctx, "more")

    policy, provider = Swallows(), Provider(CALL[:1], is_endless=True)
    member = ConfiguredPolicy(policy, "swallows")
    shapes = {
        "alone": member,
        "first of a serial": Serial([member, ConfiguredPolicy(NoOp(), "noop")]),
        "last of a serial": Serial([ConfiguredPolicy(NoOp(), "noop"), member]),
        "a voter": Parallel([member, ConfiguredPolicy(NoOp(), "noop")]),
    }
    stream = PolicyExecutor(shapes[shape]).run(provider.stream(), adapter(), context())
    reading = asyncio.ensure_future(anext(stream))
    with anyio.fail_after(10):
        await policy.is_called.wait()
        reading.cancel()
        await asyncio.wait([reading])
        await provider.is_closed.wait()


async def test_what_the_hooks_took_is_told_of_a_client_that_left_too() -> None:
    class Closes(Policy):
        async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
            await passthrough_last_chunk(ctx)

        async def on_stream_closed(self, ctx: StreamingResponseContext) -> None:
            await asyncio.sleep(0)

    class Told(NoOpObservabilityContext):
        def record_metric(self, name: str, value: float, labels: Mapping[str, str] | None = None) -> None:
            told.append((name, (labels or {}).get("hook")))

    told: list[tuple[str, str | None]] = []
    ctx = PolicyContext("transaction-1", Request({}), observability=Told("transaction-1"))
    stream = PolicyExecutor(Closes()).run(Provider([text("x")], is_endless=True).stream(), adapter(), ctx)
    await anext(stream)
    await stream.aclose()
    assert told == [("luthien_policy_seconds", "on_content_delta")]


@pytest.mark.usefixtures("stop_grace")
async def test_the_provider_of_a_hook_that_cannot_be_stopped_is_closed() -> None:
    policy, provider, ctx = CannotBeStopped(), Provider(CALL, is_endless=True), context()
    async with policy.until_released():
        stream = PolicyExecutor(policy, timeout_s=0.01).run(provider.stream(), adapter(), ctx)
        assert NOTICE in Delivered.of(await pull(stream)).text
        await provider.is_closed.wait()
    assert outcome_of(ctx, None) == "timeout"


@pytest.mark.usefixtures("stop_grace")
async def test_a_hook_that_ends_long_after_its_answer_changes_nothing() -> None:
    policy, ctx = CannotBeStopped(), context()
    async with policy.until_released():
        await deliver(policy, CALL, ctx, timeout_s=0.01, on_policy_error="pass")
        decisions = list(ctx.decisions)
        assert not policy.is_closed.is_set()
    with anyio.fail_after(10):
        await policy.is_closed.wait()
    assert ctx.decisions == decisions


@pytest.mark.usefixtures("stop_grace")
async def test_a_hook_that_cannot_be_stopped_holds_up_no_request() -> None:
    class OnRequest(CannotBeStopped):
        async def on_request(self, request: Request, ctx: PolicyContext) -> Request:
            await self.go_on()
            return request

    policy, ctx = OnRequest(), context()
    async with policy.until_released():
        with pytest.raises(PolicyBlockedError, match="a policy check failed"):
            await PolicyExecutor(policy, timeout_s=0.01).on_request(ctx)
    assert ctx.decisions[0].error == "PolicyTimeoutError"


async def test_a_request_whose_client_leaves_cancels_its_hook() -> None:
    is_running, is_cancelled = asyncio.Event(), asyncio.Event()

    class Waits(Policy):
        async def on_request(self, request: Request, ctx: PolicyContext) -> Request:
            is_running.set()
            try:
                await asyncio.Event().wait()
            finally:
                is_cancelled.set()
            return request

    task = asyncio.create_task(PolicyExecutor(Waits()).on_request(context()))
    with anyio.fail_after(10):
        await is_running.wait()
        task.cancel()
        await is_cancelled.wait()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_hook_of_a_request_whose_own_call_was_cancelled_has_failed() -> None:
    class Cancelled(Policy):
        async def on_request(self, request: Request, ctx: PolicyContext) -> Request:
            raise asyncio.CancelledError

    ctx = context()
    with pytest.raises(PolicyBlockedError):
        await PolicyExecutor(Cancelled()).on_request(ctx)
    assert ctx.decisions[0].error == "PolicyError"


@pytest.mark.usefixtures("stop_grace")
async def test_a_hook_that_cannot_be_stopped_holds_up_no_full_answer() -> None:
    class Whole(CannotBeStopped):
        async def process_full_response(self, response: Any, ctx: PolicyContext) -> Any:
            await self.go_on()
            return response

    policy = Whole()
    async with policy.until_released():
        answer = await deliver_full(policy, full({"content": "hi"}), timeout_s=0.01)
    assert NOTICE in answer.choices[0].message.content


# max_hold_s


@pytest.mark.parametrize(("mode", "calls"), [("block", []), ("pass", [("call_0", "f", '{"a": 1}')])])
async def test_a_policy_may_not_keep_a_transaction_waiting_for_ever(mode: str, calls: list[Any]) -> None:
    ctx = context()
    with anyio.fail_after(10):
        items = await deliver(KeepsAlive(), CALL, ctx, on_policy_error=mode, limits=Limits(max_hold_s=0.05))
    delivered = Delivered.of(items)
    assert delivered.calls == calls
    assert (NOTICE in delivered.text) == (mode == "block")
    assert ctx.decisions[0].error == "PolicyTimeoutError"
    assert "limits.max_hold_s: 0.05 s" in str(ctx.decisions[0].evidence)


async def test_all_hooks_of_a_transaction_have_one_time() -> None:
    class Dawdles(Holds):
        async def on_request(self, request: Request, ctx: PolicyContext) -> Request:
            await asyncio.sleep(0.06)
            return request

        async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
            await asyncio.sleep(0.06)
            await super().on_tool_call_complete(ctx)

    for limit, is_late in ((0.1, True), (60.0, False)):
        ctx = context()
        executor = PolicyExecutor(Dawdles(), limits=Limits(max_hold_s=limit))
        await executor.on_request(ctx)
        delivered = Delivered.of(await pull(executor.run(provide(CALL), adapter(), ctx)))
        assert (NOTICE in delivered.text) == is_late


async def test_policies_that_run_at_once_take_the_time_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("luthien_litellm_hooks.engine.composition.time.monotonic", lambda: now)
    clock = HoldClock()
    clock.start()
    now = 2.0
    clock.start()
    now = 5.0
    clock.stop()
    assert clock.seconds == 5.0
    clock.stop()
    now = 100.0
    assert clock.seconds == 5.0
    clock.start()
    now = 101.0
    assert clock.seconds == 6.0


async def test_waiting_for_a_slow_client_takes_none_of_the_policies_time() -> None:
    class Relays(Policy):
        async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
            await passthrough_last_chunk(ctx)

    ctx = context()
    executor = PolicyExecutor(Relays(), max_items=1, limits=Limits(max_hold_s=0.05))
    stream = executor.run(provide([text("a"), text("b"), text("c"), finish()]), adapter(), ctx)
    read = [await anext(stream)]
    with anyio.move_on_after(0.2):  # four times as much as they have
        await asyncio.Event().wait()
    assert Delivered.of([*read, *await pull(stream)]).text == "abc"
    assert run_of(ctx).hold_clock.seconds < 0.05


# max_stream_bytes


async def test_an_answer_that_brings_too_much_is_ended_and_its_provider_closed() -> None:
    provider, ctx = Provider([text("x" * 10)] * 10, is_endless=True), context()
    with anyio.fail_after(10):
        executor = PolicyExecutor(NoOp(), on_policy_error="pass", limits=Limits(max_stream_bytes=25))
        delivered = Delivered.of(await pull(executor.run(provider.stream(), adapter(), ctx)))
        await provider.is_closed.wait()
    assert delivered.text.startswith("x" * 20 + "\n\n[luthien]")
    assert delivered.finish_reasons == ["stop"]
    assert (ctx.decisions[0].error, outcome_of(ctx, None)) == ("LimitExceededError", "policy_error")


@pytest.mark.parametrize("pieces", [[b"x" * 100] * 100, [b"x" * 10_000]], ids=["in pieces", "at once"])
async def test_bytes_that_never_become_an_event_count_too(pieces: list[bytes]) -> None:
    provider, ctx = Provider(pieces, is_endless=True), context()
    with anyio.fail_after(10):
        executor = PolicyExecutor(NoOp(), limits=Limits(max_stream_bytes=1000))
        stream = executor.run(provider.stream(), messages.adapter(), ctx)
        delivered = b"".join(await pull(stream))
        await provider.is_closed.wait()
    assert b"[luthien]" in delivered
    assert b"xxx" not in delivered
    assert ctx.decisions[0].error == "LimitExceededError"


async def test_a_panel_ends_an_answer_that_brings_too_much() -> None:
    provider, ctx = Provider([text("x" * 10)] * 10, is_endless=True), context()
    panel = Parallel([ConfiguredPolicy(NoOp(), "one"), ConfiguredPolicy(NoOp(), "two")])
    with anyio.fail_after(10):
        executor = PolicyExecutor(panel, limits=Limits(max_stream_bytes=25))
        delivered = Delivered.of(await pull(executor.run(provider.stream(), adapter(), ctx)))
        await provider.is_closed.wait()
    assert NOTICE in delivered.text


async def test_a_full_answer_that_is_too_large_is_withheld() -> None:
    answer = await deliver_full(NoOp(), full({"content": "x" * 100}), limits=Limits(max_stream_bytes=99))
    assert answer.choices[0].message.content.startswith("[luthien]")
    whole = full({"content": "x" * 100})
    assert await deliver_full(NoOp(), whole, limits=Limits(max_stream_bytes=100)) is whole


# max_held_bytes


@pytest.mark.parametrize(("mode", "calls"), [("block", []), ("pass", [("call_0", "f", '{"a": 1}')])])
async def test_a_policy_that_holds_too_much_fails(mode: str, calls: list[Any]) -> None:
    ctx = context()
    delivered = Delivered.of(await deliver(Holds(), CALL, ctx, on_policy_error=mode, limits=ROOM_FOR_TWO))
    assert delivered.calls == calls
    assert delivered.text.startswith("one ")
    assert (NOTICE in delivered.text) == (mode == "block")
    assert [decision.error for decision in ctx.decisions] == ["LimitExceededError"]


async def test_what_other_answers_hold_counts_too() -> None:
    is_held = asyncio.Event()

    class Tells(Holds):
        async def on_tool_call_delta(self, ctx: StreamingResponseContext) -> None:
            is_held.set()

    provider = Provider(CALL[:2], is_endless=True)
    first = PolicyExecutor(Tells(), limits=ROOM_FOR_TWO).run(provider.stream(), adapter(), context())
    await anext(first)
    with anyio.fail_after(10):
        await is_held.wait()
    short = [*call(0, "f", "{}"), finish("tool_calls")]
    assert NOTICE in Delivered.of(await deliver(Holds(), short, limits=ROOM_FOR_TWO)).text
    await first.aclose()
    assert Delivered.of(await deliver(Holds(), short, limits=ROOM_FOR_TWO)).calls == [("call_0", "f", "{}")]


async def test_a_panel_that_holds_too_much_ends_the_answer() -> None:
    panel = Parallel([ConfiguredPolicy(NoOp(), "one"), ConfiguredPolicy(NoOp(), "two")])
    delivered = Delivered.of(await deliver(panel, CALL, limits=ROOM_FOR_TWO))
    assert (delivered.calls, NOTICE in delivered.text) == ([], True)


async def test_a_client_that_reads_slowly_makes_the_provider_wait() -> None:
    came = 0

    async def provider() -> AsyncIterator[Any]:
        nonlocal came
        for item in [*[text("x")] * 20, finish()]:
            came += 1
            yield item

    stream = PolicyExecutor(NoOp(), limits=ROOM_FOR_TWO).run(provider(), adapter(), context())
    read = [await anext(stream)]
    for _ in range(100):
        await asyncio.sleep(0)
    assert came < 10
    assert Delivered.of([*read, *await pull(stream)]).text == "x" * 20


async def test_a_slow_policy_further_on_is_no_client_that_does_not_read() -> None:
    class Slow(Policy):
        async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
            await asyncio.sleep(0.03)
            await passthrough_last_chunk(ctx)

    ctx = context()
    chain = Serial([ConfiguredPolicy(NoOp(), "noop"), ConfiguredPolicy(Slow(), "slow")])
    items = [*[text("x") for _ in range(5)], finish()]
    delivered = Delivered.of(await deliver(chain, items, ctx, max_items=1, put_timeout_s=0.01))
    assert (delivered.text, ctx.decisions) == ("xxxxx", [])


async def test_what_a_client_left_behind_is_forgotten() -> None:
    stream = PolicyExecutor(Holds()).run(Provider(CALL[:3], is_endless=True).stream(), adapter(), context())
    await anext(stream)
    await stream.aclose()
    assert MEMORY.taken == 0


# A member whose vote does not count


async def test_a_member_that_is_only_heard_holds_up_nobody() -> None:
    class Waits(Policy):
        async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
            await asyncio.Event().wait()

    ctx = context()
    panel = Parallel([ConfiguredPolicy(NoOp(), "decides"), ConfiguredPolicy(Waits(), "heard")], "first")
    items = [text("x") for _ in range(3000)]
    with anyio.fail_after(20):
        delivered = Delivered.of(await deliver(panel, [*items, finish()], ctx))
    assert delivered.text == "x" * 3000
    behind = [decision for decision in ctx.decisions if decision.error]  # once, however much came after it
    assert [(decision.policy, decision.error, decision.is_vote) for decision in behind] == [
        ("heard", "PolicyTimeoutError", True)
    ]
