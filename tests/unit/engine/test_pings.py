"""Signs of life for a client while a policy keeps it waiting: when they come, and that they change nothing else."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from litellm.constants import STREAM_SSE_KEEPALIVE_PING_BYTES
from litellm.proxy.proxy_server import _is_injected_stream_usage_artifact
from litellm.types.llms.openai import GenericEvent

from luthien_litellm_hooks import (
    ALLOW,
    DefaultTransactionRecorder,
    Policy,
    PolicyContext,
    PolicyExecutor,
    Request,
    StreamingResponseContext,
    ToolCall,
    ToolGatePolicy,
    Verdict,
    get_last_ingress_chunk,
    passthrough_accumulated_chunks,
    passthrough_last_chunk,
)
from luthien_litellm_hooks.engine.composition import Composition, ConfiguredPolicy, Parallel, Serial
from luthien_litellm_hooks.hooks.routes import adapter_for
from luthien_litellm_hooks.policies.noop import NoOp
from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.routes import ROUTES, RouteName
from luthien_litellm_hooks.wire.events import Chunk, Finish
from tests.support.virtual_time import VirtualTimeLoop, run

WIRES = sorted(ROUTES)
WITH_CALLS = [wire for wire in WIRES if wire != "completions"]
SAID = Say("I look it up.")
FIRST, SECOND = Call("read", '{"path": "a"}', "call_first"), Call("write", '{"path": "b"}', "call_second")
NEVER = 1_000_000.0


class Holds(Policy):
    """Holds each block to its end, and then for so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None: ...

    async def on_tool_call_delta(self, ctx: StreamingResponseContext) -> None: ...

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        await asyncio.sleep(self._seconds)
        await passthrough_accumulated_chunks(ctx)

    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        await asyncio.sleep(self._seconds)
        await passthrough_accumulated_chunks(ctx)


class HoldsCalls(Holds):
    """Lets text stream, and holds the calls."""

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        await passthrough_last_chunk(ctx)

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None: ...


class Judges(ToolGatePolicy):
    """Allows each tool after so many seconds, and withholds the others after 35."""

    def __init__(self, **seconds: float) -> None:
        self._seconds = seconds

    async def judge_tool_call(self, tool_call: ToolCall, ctx: PolicyContext) -> Verdict:
        await asyncio.sleep(self._seconds.get(tool_call.name, 35))
        return ALLOW if tool_call.name in self._seconds else Verdict("block", message="Not this one.")


class WaitsWith(Policy):
    """Waits 25 seconds with each chunk that `is_meant` tells."""

    def __init__(self, is_meant: Callable[[Chunk], bool]) -> None:
        self._is_meant = is_meant

    async def on_chunk_received(self, ctx: StreamingResponseContext) -> None:
        chunk = get_last_ingress_chunk(ctx)
        if chunk is not None and self._is_meant(chunk):
            await asyncio.sleep(25)


@dataclass(slots=True)
class Client:
    """What a client got, and at which second."""

    got: list[tuple[float, object]] = field(default_factory=list)
    recorder: DefaultTransactionRecorder = field(default_factory=DefaultTransactionRecorder)

    @property
    def times(self) -> list[float]:
        """When something came, each time once."""
        return list(dict.fromkeys(when for when, _ in self.got))

    def at(self, *times: float) -> list[object]:
        return [item for when, item in self.got if when in times]

    def but(self, *times: float) -> list[object]:
        return [item for when, item in self.got if when not in times]


async def items_of(wire: RouteName, *steps: Say | Call, interleave: bool = False) -> list[object]:
    answer = Answer(steps, interleave=interleave)
    return [item async for item in ROUTES[wire].stream(answer, {"model": "scripted", **ROUTES[wire].body})]


async def one_by_one(items: Sequence[object], *waits: tuple[int, float]) -> AsyncIterator[object]:
    """A provider's stream that waits so many seconds before the items of these numbers."""
    for number, item in enumerate(items):
        for _, seconds in (wait for wait in waits if wait[0] == number):
            await asyncio.sleep(seconds)
        yield item


def running(
    wire: RouteName, composition: Policy | Composition, stream: AsyncIterator[object], client: Client, **options: Any
) -> AsyncIterator[object]:
    request = Request({"model": "scripted", "stream": True, **ROUTES[wire].body}, route=ROUTES[wire].path)
    context = PolicyContext("transaction-1", request, recorder=client.recorder)
    options = {"timeout_s": 10_000, **options} if isinstance(composition, Policy) else options
    return PolicyExecutor(composition, **options).run(stream, adapter_for(ROUTES[wire].call_type, request), context)


async def read(stream: AsyncIterator[object], client: Client) -> Client:
    """Reads a stream the way LiteLLM's own pings do: each item in a task of its own."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        try:
            item = await asyncio.create_task(cast(Any, anext(stream)))
        except StopAsyncIteration:
            return client
        client.got.append((round(loop.time() - began, 1), item))


async def answered(
    wire: RouteName,
    composition: Policy | Composition,
    items: Sequence[object],
    *waits: tuple[int, float],
    **options: Any,
) -> Client:
    client = Client()
    return await read(running(wire, composition, one_by_one(items, *waits), client, **options), client)


def members(*policies: Policy) -> list[ConfiguredPolicy]:
    return [ConfiguredPolicy(policy, type(policy).__name__, 10_000, "block") for policy in policies]


def joined(items: Sequence[object]) -> object:
    """The items; bytes as a whole, since they may leave in other pieces."""
    return b"".join(cast(Any, items)) if all(isinstance(item, bytes) for item in items) else list(map(id, items))


def told(client: Client) -> object:
    """The record of what left, and the counts of it."""
    left = client.recorder.egress
    return left.chunks, left.content(), left.finish_reason, left.unjudged, client.recorder.outcome


def shown(item: object) -> Any:
    if isinstance(item, bytes):
        return json.loads(item.partition(b"data: ")[2])
    return cast(Any, item).model_dump(exclude_none=True, exclude_unset=True)


# What a ping is


@pytest.mark.parametrize("wire", WIRES)
def test_a_held_answer_leaves_as_it_came_with_pings_before_it(wire: str) -> None:
    async def main() -> None:
        items = await items_of(wire, SAID)
        client = await answered(wire, Holds(35), items)
        assert [when for when in client.times if when] == [10, 20, 30, 35]
        assert joined(client.but(10, 20, 30)) == joined(items)
        assert [len(client.at(when)) for when in (10, 20, 30)] == [1, 1, 1]

    run(main())


@pytest.mark.parametrize("wire", WITH_CALLS)
def test_a_held_call_leaves_as_it_came_after_pings_behind_the_text(wire: str) -> None:
    async def main() -> None:
        items = await items_of(wire, SAID, FIRST)
        client = await answered(wire, HoldsCalls(35), items)
        assert client.times == [0, 10, 20, 30, 35]
        assert joined(client.but(10, 20, 30)) == joined(items)

    run(main())


@pytest.mark.parametrize("wire", WIRES)
def test_a_ping_is_the_wires_own_and_empty(wire: str) -> None:
    async def main() -> None:
        items = await items_of(wire, SAID)
        client = await answered(wire, Holds(15), items)
        (ping,) = client.at(10)
        match wire:
            case "messages":
                assert ping == STREAM_SSE_KEEPALIVE_PING_BYTES  # LiteLLM compares with it
            case "gemini":
                expected = {"candidates": [{"content": {"role": "model", "parts": [{"text": ""}]}, "index": 0}]}
                head = {key: shown(ping).pop(key) for key in ("modelVersion", "responseId")}
                assert {key: value for key, value in shown(ping).items() if key not in head} == expected
                assert head["responseId"] == shown(items[0])["responseId"]
            case "responses":
                (before, *_) = [item for when, item in reversed(client.got) if when == 0]
                number = cast(Any, before).model_dump()["sequence_number"]
                assert shown(ping) == {"type": "keepalive", "sequence_number": number}
            case _:
                empty = {"text": ""} if wire == "completions" else {"delta": {}}
                assert shown(ping)["choices"] == [{"index": 0, **empty}]
                assert shown(ping)["id"] == shown(items[0])["id"]
                assert type(ping) is type(items[0])  # LiteLLM logs what left of such items alone
                assert not _is_injected_stream_usage_artifact(ping)  # which LiteLLM drops

    run(main())


@pytest.mark.parametrize("wire", WIRES)
def test_the_record_knows_nothing_of_pings(wire: str) -> None:
    async def main() -> None:
        items = await items_of(wire, SAID)
        pinged, silent = [await answered(wire, Holds(35), items, ping_s=ping_s) for ping_s in (10, 0)]
        assert len(pinged.got) == len(silent.got) + 3
        assert told(pinged) == told(silent)

    run(main())


# When one is due


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("policy", [NoOp(), Policy()], ids=["noop", "none"])
def test_a_silent_provider_is_not_covered_up(wire: str, policy: Policy) -> None:
    async def main() -> None:
        items = await items_of(wire, SAID)
        client = await answered(wire, policy, items, *((number, 60) for number in range(len(items))))
        assert all(when % 60 == 0 for when in client.times)

    run(main())


@pytest.mark.parametrize("wire", WITH_CALLS)
def test_a_held_piece_of_a_silent_provider_is_pinged_for_once(wire: str) -> None:
    async def main() -> None:
        items = await items_of(wire, SAID, FIRST)
        client = await answered(wire, HoldsCalls(0), items, *((number, 62) for number in range(len(items))))
        pings = [when for when in client.times if when % 62]
        assert all(when % 62 <= 10 for when in pings)
        assert pings
        assert len(pings) == len({when // 62 for when in pings})

    run(main())


@pytest.mark.parametrize("wire", WITH_CALLS)
def test_what_a_policy_holds_while_the_provider_goes_on_is_pinged_for(wire: str) -> None:
    async def main() -> None:
        items = await items_of(wire, Say("all of it is held " * 10))
        client = await answered(wire, Holds(0), items, *((number, 7) for number in range(3, len(items))))
        waits = [later - earlier for earlier, later in zip(client.times, client.times[1:], strict=False)]
        assert len(waits) > 5
        assert max(waits) <= 10

    run(main())


@pytest.mark.parametrize("wire", WITH_CALLS)
def test_what_is_dropped_after_a_notice_is_pinged_for(wire: str) -> None:
    """The provider's stream is read to its end, which its finish and its token counts come with."""

    async def main() -> None:
        items = await items_of(wire, Say("some text " * 20))
        client = await answered(wire, Fails(), items, *((number, 7) for number in range(3, len(items))))
        waits = [later - earlier for earlier, later in zip(client.times, client.times[1:], strict=False)]
        assert "a policy check failed" in str(client.got)
        assert max(waits) <= 17
        assert len(client.times) > 5

    run(main())


class Fails(Policy):
    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        raise RuntimeError("of the policy")


@pytest.mark.parametrize("wire", WIRES)
def test_a_notice_may_follow_pings(wire: str) -> None:
    async def main() -> None:
        items = await items_of(wire, SAID)
        client = await answered(wire, Holds(NEVER), items, timeout_s=25)
        assert client.times[-3:] == [10, 20, 25]
        assert "a policy check failed" in str(client.at(25))
        assert "look" not in str(client.got)

    run(main())


# Where one may stand


@pytest.mark.parametrize("wire", WIRES)
def test_nothing_comes_before_the_first_event_where_the_wire_forbids_it(wire: str) -> None:
    async def main() -> None:
        items = await items_of(wire, SAID)
        first: list[object] = []

        def is_first(chunk: Chunk) -> bool:
            first.append(chunk)
            return len(first) == 1

        client = await answered(wire, WaitsWith(is_first), items)
        assert client.times == ([25] if wire == "responses" else [10, 20, 25])

    run(main())


@pytest.mark.parametrize("wire", WIRES)
def test_nothing_comes_after_the_finish(wire: str) -> None:
    async def main() -> None:
        items = await items_of(wire, SAID)
        items += {"gemini": [b'data: {"usageMetadata": {}}\n\n'], "responses": [GenericEvent(type="ping")]}.get(
            wire, []
        )
        came: list[Chunk] = []

        def is_behind_the_finish(chunk: Chunk) -> bool:
            came.append(chunk)
            return any(isinstance(event, Finish) for earlier in came[:-1] for event in earlier.events)

        client = await answered(wire, WaitsWith(is_behind_the_finish), items)
        assert client.times == [0, 25]
        assert joined([item for _, item in client.got]) == joined(items)

    run(main())


# Several policies, several blocks


@pytest.mark.parametrize("wire", WITH_CALLS)
@pytest.mark.parametrize(
    ("composition", "until"),
    [
        (Serial(members(HoldsCalls(25), HoldsCalls(25))), 50),
        (Serial(members(HoldsCalls(0), HoldsCalls(25))), 25),
        (Serial(members(HoldsCalls(25), HoldsCalls(0))), 25),
        (Parallel(members(HoldsCalls(25), HoldsCalls(5)), "unanimous"), 25),
        (Serial(members(HoldsCalls(25), NoOp())), 25),
    ],
    ids=["both", "second", "first", "parallel", "noop"],
)
def test_any_stage_may_keep_the_client_waiting(wire: str, composition: Composition, until: float) -> None:
    async def main() -> None:
        items = await items_of(wire, SAID, FIRST)
        client = await answered(wire, composition, items)
        pings = [when for when in client.times if when and when % 25]
        assert pings in ([10, 20], [10, 20, 35, 45], [10, 20, 30, 40])
        assert client.times[-1] == until
        assert joined(client.but(*pings)) == joined(items)

    run(main())


@pytest.mark.parametrize("wire", WITH_CALLS)
@pytest.mark.parametrize("interleave", [False, True])
def test_calls_side_by_side_are_pinged_for_together(wire: str, interleave: bool) -> None:
    async def main() -> None:
        items = await items_of(wire, SAID, FIRST, SECOND, interleave=interleave)
        client = await answered(wire, Judges(read=12, write=35), items)
        silent = await answered(wire, Judges(read=12, write=35), items, ping_s=0)
        assert silent.times == [0, 35]
        assert client.times == [0, 10, 20, 30, 35]
        assert [*map(str, client.but(10, 20, 30))] == [str(item) for _, item in silent.got]

    run(main())


@pytest.mark.parametrize("wire", WITH_CALLS)
def test_a_withheld_call_beside_another_ends_the_same_with_pings(wire: str) -> None:
    async def main() -> None:
        items = await items_of(wire, SAID, FIRST, SECOND)
        client, silent = [await answered(wire, Judges(read=12), items, ping_s=ping_s) for ping_s in (10, 0)]
        assert told(client) == told(silent)
        assert "Not this one." in str(client.got)
        assert len(client.got) == len(silent.got) + 3

    run(main())


@pytest.mark.parametrize("wire", ["responses"])
def test_numbers_go_on_after_a_ping(wire: str) -> None:
    async def main() -> None:
        items = await items_of(wire, SAID, FIRST, SECOND)
        client = await answered(wire, Judges(read=12), items)
        numbers = [shown(item)["sequence_number"] for item in client.but(10, 20, 30)]
        assert numbers == [*range(len(numbers))]
        before = shown(client.at(0)[-1])["sequence_number"]
        assert {shown(item)["sequence_number"] for item in client.at(10, 20, 30)} == {before}

    run(main())


# A client that leaves


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("how", ["cancelled", "closed"])
def test_a_client_that_leaves_between_pings_leaves_nothing_behind(wire: str, how: str) -> None:
    async def main() -> None:
        loop = cast(VirtualTimeLoop, asyncio.get_running_loop())
        is_closed = False

        async def stream() -> AsyncIterator[object]:
            nonlocal is_closed
            try:
                for item in await items_of(wire, SAID):
                    yield item
            finally:
                is_closed = True

        client = Client()
        answer = running(wire, Holds(NEVER), stream(), client, timeout_s=2 * NEVER)
        reader = asyncio.create_task(read(answer, client))
        await asyncio.sleep(25)
        assert client.times[-2:] == [10, 20]
        reader.cancel()
        await asyncio.wait([reader])
        if how == "closed":
            await cast(Any, answer).aclose()
        assert client.recorder.outcome == "client_disconnected"
        assert is_closed
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert not loop.timers

    run(main())


def test_a_ping_itself_leaves_no_timer_and_no_task_behind() -> None:
    async def main() -> None:
        loop, client = cast(VirtualTimeLoop, asyncio.get_running_loop()), Client()
        answer = running("chat", Holds(NEVER), one_by_one(await items_of("chat", SAID)), client, timeout_s=2 * NEVER)
        tasks = asyncio.all_tasks()
        while loop.time() < 10:
            await anext(answer)
        # the hook's own wait, and its deadline with what follows a hook that ignores it
        assert len(loop.timers) == 3
        assert len(asyncio.all_tasks() - tasks) == 1
        await cast(Any, answer).aclose()

    run(main())
