"""Every wire's adapter, and the executor behind it, on recorded streams to which anything happened.

What must hold: an adapter fails with nothing but a `WireError`, no byte is lost or repeated, a policy
that lets nothing out leaks nothing, and a client's stream ends as streams do.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien_litellm_hooks import (
    Policy,
    PolicyContext,
    PolicyExecutor,
    Request,
    WireError,
    passthrough_accumulated_chunks,
)
from luthien_litellm_hooks.hooks.routes import adapter_for
from luthien_litellm_hooks.policies.noop import NoOp
from luthien_litellm_hooks.policy.notices import NOTICE_MARK
from luthien_litellm_hooks.testing.routes import ROUTES, RouteName
from luthien_litellm_hooks.wire.assembler import BlockAssembler
from luthien_litellm_hooks.wire.events import Chunk, Finish, ReasoningDelta, StreamEvent, TextDelta, ToolCallDelta
from luthien_litellm_hooks.wire.format import Adapter
from luthien_litellm_hooks.wire.sse import SseDecoder
from tests.support.chat import provide, pull
from tests.support.fuzzed_wires import text_of
from tests.support.fuzzing import budget
from tests.support.mutations import cut, items_of, mutated, streams_of

RANDOMS = st.randoms(use_true_random=False)
BYTES: Sequence[RouteName] = ("messages", "gemini")
each_route = pytest.mark.parametrize("route", sorted(ROUTES))


def adapter(route: RouteName) -> Adapter:
    return adapter_for(ROUTES[route].call_type, Request({"model": "m"}))


def came(random: Random, route: RouteName) -> list[Any]:
    """What a provider brings."""
    raw = mutated(random, route)
    return cut(random, raw) if route in BYTES else items_of(route, raw)


def decoded(route: RouteName, items: Sequence[object]) -> Iterator[Chunk]:
    """What the adapter makes of `items`, until it fails."""
    wire = adapter(route)
    try:
        for item in items:
            yield from wire.decode(item)
        yield from wire.flush()
    except WireError:
        return


def texts(events: Sequence[StreamEvent]) -> list[str]:
    """What policies judge."""
    said = [event.text for event in events if isinstance(event, TextDelta | ReasoningDelta)]
    return said + [event.arguments for event in events if isinstance(event, ToolCallDelta)]


async def deliver(policy: Policy, route: RouteName, items: Sequence[object]) -> list[Any]:
    """What a client gets, who gets all of it."""
    ctx = PolicyContext("transaction-1", Request({"model": "m"}))
    delivered = await pull(PolicyExecutor(policy).run(provide(items), adapter(route), ctx))
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("luthien-")]
    return delivered


class Withholds(Policy):
    """Lets nothing out."""

    async def on_content_delta(self, ctx: Any) -> None: ...

    on_reasoning_delta = on_tool_call_delta = on_content_delta


class HoldsToTheEnd(Withholds):
    async def on_stream_complete(self, ctx: Any) -> None:
        await passthrough_accumulated_chunks(ctx)


@budget(60)
@given(RANDOMS, st.sampled_from(BYTES))
def test_no_byte_of_a_stream_is_lost_or_repeated(random: Random, route: RouteName) -> None:
    raw = mutated(random, route)
    whole, apart = SseDecoder(), SseDecoder()
    frames = [*whole.feed(raw), *whole.flush()]
    assert b"".join(frames) == raw
    assert [frame for piece in cut(random, raw) for frame in apart.feed(piece)] + apart.flush() == frames


@each_route
@budget(40)
@given(random=RANDOMS)
def test_an_adapter_fails_with_no_other_error_than_its_own(route: RouteName, random: Random) -> None:
    assembler = BlockAssembler(marks_blocks=adapter(route).rules.marks_blocks)
    for chunk in decoded(route, came(random, route)):
        assert chunk.events or route == "responses"
        try:
            for event in chunk.events:
                assembler.feed(event)
        except WireError:
            return


@each_route
@budget(25)
@given(random=RANDOMS)
def test_nothing_leaks_of_what_is_withheld(route: RouteName, random: Random) -> None:
    items = came(random, route)
    chunks = list(decoded(route, items))
    unjudged = "".join(str(chunk.raw) for chunk in chunks if not texts(chunk.events))
    said = [text for chunk in chunks for text in texts(chunk.events) if len(text) > 12]
    judged = [text for text in said if text not in unjudged]
    left = "".join(text_of(item) for item in asyncio.run(deliver(Withholds(), route, items)))
    leaked = [text for text in judged if text in left]
    assert not leaked


@each_route
@pytest.mark.parametrize("policy", [NoOp(), HoldsToTheEnd()], ids=lambda policy: type(policy).__name__)
@budget(25)
@given(random=RANDOMS)
def test_what_is_let_out_is_delivered_once(route: RouteName, policy: Policy, random: Random) -> None:
    items = came(random, route)
    left = asyncio.run(deliver(policy, route, items))
    if not any(NOTICE_MARK in text_of(item) for item in left):
        delivered = [chunk for chunk in decoded(route, left) if not repeats(route, chunk)]
        assert said(delivered) <= said(decoded(route, items))


def said(chunks: Iterable[Chunk]) -> Counter[str]:
    """What policies judge, letter by letter: pieces may be put together. Without blanks, which may be put between."""
    return Counter(
        letter for chunk in chunks for text in texts(chunk.events) for letter in text if not letter.isspace()
    )


def repeats(route: RouteName, chunk: Chunk) -> bool:
    """Whether it is the last event of a response, which says all of it again."""
    return route == "responses" and any(isinstance(event, Finish) for event in chunk.events)


@each_route
def test_reading_takes_linear_time(route: RouteName) -> None:
    raw = max(streams_of(route), key=len)
    once, often = (_work(lambda raw=raw * times: list(_read(route, raw))) for times in (1, 5))
    assert often < 6 * once


def _read(route: RouteName, raw: bytes) -> Iterator[Chunk]:
    items = [raw] if route in BYTES else items_of(route, raw)
    return decoded(route, items)


def _work(read: Callable[[], object]) -> int:
    """How many functions are called by it."""
    calls = 0

    def count(frame: object, event: str, arg: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        read()
    finally:
        sys.setprofile(None)
    return calls
