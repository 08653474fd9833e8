"""`ChunkPolicy`: each piece of text leaves at once, as it came or as another."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from luthien_litellm_hooks import PolicyExecutor, StreamingResponseContext
from luthien_litellm_hooks.policy.simple import ChunkPolicy
from luthien_litellm_hooks.testing import Call, Say, ScriptedAnswer, Think, run_policy
from luthien_litellm_hooks.testing.routes import ROUTES, RouteName
from tests.support.chat import Delivered, adapter, call, context, deliver, finish, text, think, tool


class Edits(ChunkPolicy):
    """Replaces some pieces."""

    async def process_chunk(self, delta: str, ctx: StreamingResponseContext) -> str:
        return {"secret": "***", "drop": "", "more": "more and more"}.get(delta, delta)


async def test_a_piece_that_is_not_changed_leaves_as_the_very_chunk() -> None:
    chunks = [text("a"), text("secret"), text("b"), finish()]
    delivered = await deliver(Edits(), chunks)
    assert Delivered.of(delivered).text == "a***b"
    assert [chunk for chunk in delivered if any(chunk is came for came in chunks)] == [chunks[0], chunks[2], chunks[3]]


async def test_a_policy_that_changes_nothing_leaves_every_chunk_as_it_is() -> None:
    chunks = [think("hm"), text("a"), text("b"), *call(0, "read", "{", "}"), finish("tool_calls")]
    ctx = context()
    assert [id(chunk) for chunk in await deliver(Edits(), chunks, ctx)] == [id(chunk) for chunk in chunks]
    assert ctx.decisions == []


@pytest.mark.parametrize("pieces", [["drop", "a"], ["a", "drop"], ["a", "drop", "drop", "b"], ["drop"]])
@pytest.mark.parametrize("route", ["chat", "messages", "responses", "gemini"])
async def test_an_empty_text_takes_a_piece_away_and_nothing_else(pieces: list[str], route: RouteName) -> None:
    class Drops(ChunkPolicy):
        async def process_chunk(self, delta: str, ctx: StreamingResponseContext) -> str:
            return "" if "drop" in delta else delta

    joined = "".join(piece.ljust(4) for piece in pieces)
    answer = ScriptedAnswer([Say(joined), Call("read", "{}", id="call_a")], piece=4)
    outcome = await run_policy(Drops(), answer, route=route)
    assert outcome.text.split() == [piece for piece in pieces if piece != "drop"]
    assert [call.name for call in outcome.tool_calls] == ["read"]
    assert [decision.action for decision in outcome.decisions] == ["modify"]


async def test_a_change_is_recorded_once_a_block() -> None:
    ctx = context()
    chunks = [text("secret"), text("secret"), text("a"), *call(0, "read", "{}"), finish("tool_calls")]
    await deliver(Edits(), chunks, ctx)
    assert [(decision.policy, decision.action) for decision in ctx.decisions] == [("Edits", "modify")]


async def test_each_choice_is_a_block_of_its_own() -> None:
    ctx = context()
    chunks = [text("secret"), text("secret", choice=1), text("more"), finish(), finish(choice=1)]
    delivered = await deliver(Edits(), chunks, ctx)
    assert [Delivered.of(delivered, choice).text for choice in (0, 1)] == ["***more and more", "***"]
    assert [decision.block.choice for decision in ctx.decisions if decision.block] == [0, 1]


async def test_the_policys_own_reason_stands_for_the_record() -> None:
    class Explains(ChunkPolicy):
        async def process_chunk(self, delta: str, ctx: StreamingResponseContext) -> str:
            if not any(decision.block is ctx.block for decision in ctx.decisions):
                ctx.decide("modify", reason="it shouts")
            return delta.lower()

    outcome = await run_policy(Explains(), "AN ANSWER OF SOME PIECES")
    assert outcome.text == "an answer of some pieces"
    assert [decision.reason for decision in outcome.decisions] == ["it shouts"]


async def test_a_piece_leaves_before_the_next_one_comes() -> None:
    async def provider() -> AsyncIterator[Any]:
        yield text("secret")
        await asyncio.Event().wait()

    stream = PolicyExecutor(Edits()).run(provider(), adapter(), context())
    async with asyncio.timeout(10):
        assert Delivered.of([await anext(stream)]).text == "***"
    await stream.aclose()


@pytest.mark.parametrize("route", ROUTES)
async def test_a_full_answer_is_one_piece(route: RouteName) -> None:
    outcome = await run_policy(Edits(), "secret", route=route, full=True)
    assert outcome.text == "***"


async def test_reasoning_and_tool_calls_are_none_of_its_business() -> None:
    seen: list[str] = []

    class Watches(ChunkPolicy):
        async def process_chunk(self, delta: str, ctx: StreamingResponseContext) -> str:
            seen.append(delta)
            return delta

    outcome = await run_policy(Watches(), [Think("hm"), Say("text"), Call("read", '{"a": 1}')])
    assert seen == ["text"]
    assert (outcome.reasoning, outcome.tool_calls[0].arguments) == ("hm", '{"a": 1}')


@pytest.mark.parametrize("result", [None, 5, b"bytes"])
async def test_what_is_no_text_fails_closed(result: Any) -> None:
    class Odd(ChunkPolicy):
        async def process_chunk(self, delta: str, ctx: StreamingResponseContext) -> str:
            return result

    outcome = await run_policy(Odd(), "a secret")
    assert outcome.text.startswith("[luthien] This answer was stopped because a policy check failed")
    assert outcome.decisions[0].reason == "on_content_delta: PolicyError"
    assert outcome.decisions[0].evidence == f"process_chunk returned a {type(result).__name__}, not a str"


async def test_what_was_not_judged_passes_if_a_failure_is_to_pass() -> None:
    class FailsLate(ChunkPolicy):
        async def process_chunk(self, delta: str, ctx: StreamingResponseContext) -> str:
            if delta == "two":
                raise RuntimeError("broken")
            return delta.upper()

    delivered = await deliver(FailsLate(), [text("one"), text("two"), text("three"), finish()], on_policy_error="pass")
    assert Delivered.of(delivered).text == "ONEtwothree"


async def test_a_call_in_the_chunk_of_a_changed_text_stays() -> None:
    chunk = text("secret", tool_calls=[tool(0, "call_0", "read", "{}")])
    delivered = Delivered.of(await deliver(Edits(), [chunk, finish("tool_calls")]))
    assert (delivered.text, delivered.calls) == ("***", [("call_0", "read", "{}")])
