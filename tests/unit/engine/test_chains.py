"""Stages in a row hand on all that is ready at once, and long work of one leaves the loop its turns."""

import asyncio
import itertools
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthien_litellm_hooks import Policy, PolicyContext, PolicyExecutor, StreamingResponseContext
from luthien_litellm_hooks.config.settings import build_executor, load_settings
from luthien_litellm_hooks.engine import executor as executor_module
from luthien_litellm_hooks.engine import pipeline
from luthien_litellm_hooks.engine.composition import Composition, ConfiguredPolicy, OnPolicyError, Serial
from luthien_litellm_hooks.engine.stage import PolicyStage
from luthien_litellm_hooks.hooks.routes import adapter_for
from luthien_litellm_hooks.policies.noop import NoOp
from luthien_litellm_hooks.policies.plain_dashes import PlainDashes
from luthien_litellm_hooks.policies.string_replacement import StringReplacement, StringReplacementConfig
from luthien_litellm_hooks.policy.request import Request
from luthien_litellm_hooks.recording.recorder import DefaultTransactionRecorder
from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.routes import ROUTES
from tests.support.engine import NOOP, STRING_REPLACEMENT, TOOL_RULES

EVENTS = 600
THREE: Mapping[str, Any] = {
    "class": "serial",
    "config": {"policies": [TOOL_RULES, STRING_REPLACEMENT, {"class": "plain_dashes"}]},
}


async def delivered(policy: Mapping[str, Any], items: Sequence[object]) -> list[bytes]:
    """What LiteLLM reads of an answer on messages, an item each time."""
    body = {"model": "scripted", "stream": True, **ROUTES["messages"].body}
    ctx = PolicyContext("t", Request(body, route=ROUTES["messages"].path), recorder=DefaultTransactionRecorder())
    run = build_executor(load_settings({"luthien": {"policy": policy}}, {}))
    await run.on_request(ctx)

    async def stream() -> AsyncIterator[object]:
        for item in items:
            yield item

    adapter = adapter_for(ROUTES["messages"].call_type, ctx.final_request)
    return [item async for item in run.run(stream(), adapter, ctx) if isinstance(item, bytes)]


async def events_of(answer: Answer) -> list[bytes]:
    stream = ROUTES["messages"].stream(answer, ROUTES["messages"].body)
    return [item async for item in stream if isinstance(item, bytes)]


async def test_a_chain_delivers_in_as_few_items_as_one_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "TURN_S", math.inf)  # however slow the machine is
    items = [b"".join(await events_of(Answer([Say("some " * EVENTS)], piece=5)))]
    one, three = [await delivered(policy, items) for policy in (STRING_REPLACEMENT, THREE)]
    assert b"".join(three) == b"".join(one)
    assert len(three) <= len(one) + 2


CHANGED = "the blue sky is forbidden7 to the one \u2014 or forbidde n7, the forbidden12 and f forbidden3forbidden4 "


async def left_by(policy: Policy | Composition, items: Sequence[object]) -> tuple[bytes, object]:
    """What leaves, and what is kept of it."""
    recorder = DefaultTransactionRecorder()
    body = {"model": "scripted", "stream": True, **ROUTES["messages"].body}
    ctx = PolicyContext("t", Request(body, route=ROUTES["messages"].path), recorder=recorder)

    async def stream() -> AsyncIterator[object]:
        for item in items:
            yield item

    adapter = adapter_for(ROUTES["messages"].call_type, ctx.final_request)
    run = PolicyExecutor(policy)
    left = [item async for item in run.run(stream(), adapter, ctx)]
    sides = [(side.content(), side.finish_reason, side.chunks) for side in (recorder.ingress, recorder.egress)]
    decided = [(each.action, each.reason, each.error) for each in ctx.decisions]
    return b"".join(cast(list[bytes], left)), (sides, decided, recorder.outcome)


class Counts(StringReplacement):
    """Counts its hooks."""

    def __init__(self) -> None:
        super().__init__(StringReplacementConfig.model_validate(STRING_REPLACEMENT["config"]))
        self.asked: list[int] = []
        self.judged: list[str] = []

    def count_untouched(self, ctx: StreamingResponseContext, pieces: Sequence[str]) -> int:
        self.asked.append(super().count_untouched(ctx, pieces))
        return self.asked[-1]

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        self.judged.append(ctx.delta or "")
        await super().on_content_delta(ctx)


class Judges(Counts):
    """Has a delta hook of its own, unknown to the class that counts."""

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        await super().on_content_delta(ctx)


@pytest.mark.parametrize("piece", [1, 3, 5])
@pytest.mark.parametrize(
    "text", [CHANGED * 20, "some text that nobody changes " * 60, (CHANGED + "some text " * 30) * 4]
)
async def test_what_came_together_leaves_as_if_it_came_apart(text: str, piece: int) -> None:
    events = await events_of(Answer([Say(text)], piece=piece))
    together, apart = Counts(), Counts()
    assert await left_by(together, [b"".join(events)]) == await left_by(apart, events)
    assert sum(together.asked) + len(together.judged) == len(apart.judged)
    assert not apart.asked


@pytest.mark.parametrize("piece", [3, 5])
async def test_it_leaves_a_chain_as_if_it_came_apart(piece: int) -> None:
    def chain() -> Serial:
        policies = (Counts(), PlainDashes(), NoOp(), Counts())
        return Serial([ConfiguredPolicy(policy, f"{number}") for number, policy in enumerate(policies)])

    events = await events_of(Answer([Say((CHANGED + "some text " * 30) * 4)], piece=piece))
    together, apart = [await left_by(chain(), items) for items in ([b"".join(events)], events)]
    assert together == apart
    assert b"message_stop" in together[0]


WORDS = (
    *("the ", " word", "ok. ", "\n", "é", "password=", 'API_KEY="', '" ', "token: ", "hunter2secret99 "),
    *("AKIAIOSFODNN7EXAMPLE", "ghp_" + "a1B2c3D4e5" * 4, "sk-proj-" + "abcDEF1234567890" * 3, "\u2014"),
    *("-----BEGIN RSA PRIVATE KEY-----\nMIIEabc\n-----END RSA PRIVATE KEY-----", "abbbbc ", "2024-12 ", "foo  bar"),
    *("I'm sorry, but ", "I apologize for "),
)
REWRITERS: Mapping[str, Mapping[str, Any]] = {
    "secrets": {"assignments": True},
    "regex_replacement": {"replacements": [["ab+c", "x"], [r"\d{4}-\d{2}", "a date"], [r"(?i)foo\s+bar", "y"]]},
    "no_apologies": {},
    "plain_dashes": {},
}


@pytest.mark.parametrize("name", REWRITERS)
@settings(max_examples=30, deadline=None)
@given(
    words=st.lists(st.sampled_from(WORDS), min_size=5, max_size=80),
    piece=st.sampled_from((1, 2, 3, 7, 20)),
    sizes=st.lists(st.integers(1, 90), min_size=1, max_size=5),
)
def test_however_a_text_is_read_the_same_leaves(name: str, words: list[str], piece: int, sizes: list[int]) -> None:
    policy = build_executor(load_settings({"luthien": {"policy": {"class": name, "config": REWRITERS[name]}}}, {}))

    async def kept_of_both() -> list[Any]:
        events, sized = await events_of(Answer([Say("".join(words))], piece=piece)), itertools.cycle(sizes)
        rest, reads = iter(events), list[bytes]()
        while read := b"".join(itertools.islice(rest, next(sized))):
            reads.append(read)
        return [(await left_by(policy.composition, items))[1] for items in (reads, events)]

    (together, *others), (apart, *same) = asyncio.run(kept_of_both())
    assert [content for content, *_ in together] == [content for content, *_ in apart]
    assert others == same


async def test_a_long_piece_is_not_cut_where_its_continuation_came_with_it() -> None:
    events = await events_of(Answer([Say("the word is for all to see " * 20)], piece=20))
    (together, _), (apart, _) = [await left_by(Counts(), items) for items in ([b"".join(events)], events)]
    assert together == b"".join(events) != apart


async def test_only_pieces_near_a_place_to_change_have_their_hook() -> None:
    events = await events_of(Answer([Say(("some text " * 30 + "forbidden7 ") * 4)], piece=5))
    policy = Counts()
    await left_by(policy, [b"".join(events)])
    assert len(policy.judged) < len(events) / 5
    assert len(policy.asked) < len(events) / 5


async def test_a_text_of_changes_alone_is_looked_at_few_times() -> None:
    events = await events_of(Answer([Say("forbidden7 " * 200)], piece=11))
    looked_at = 0

    class Looks(Counts):
        def count_untouched(self, ctx: StreamingResponseContext, pieces: Sequence[str]) -> int:
            nonlocal looked_at
            looked_at += len(pieces)
            return super().count_untouched(ctx, pieces)

    policy = Looks()
    await left_by(policy, [b"".join(events)])
    assert len(policy.judged) >= 200
    assert looked_at < 3 * len(events)


async def test_a_delta_hook_of_a_subclass_is_called_for_each_piece() -> None:
    events = await events_of(Answer([Say("some text " * 50)], piece=5))
    policy = Judges()
    await left_by(policy, [b"".join(events)])
    assert len(policy.judged) == 100
    assert not policy.asked


@pytest.mark.parametrize("on_policy_error", ["block", "pass"])
async def test_a_failure_to_count_is_one_of_the_policy(on_policy_error: OnPolicyError) -> None:
    class Fails(Counts):
        def count_untouched(self, ctx: StreamingResponseContext, pieces: Sequence[str]) -> int:
            raise RuntimeError("broken")

        async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
            await super().on_content_delta(ctx)

    events = await events_of(Answer([Say("some text " * 50)], piece=5))
    member = ConfiguredPolicy(Fails(), "fails", on_policy_error=on_policy_error)
    left, kept = await left_by(member, [b"".join(events)])
    assert "RuntimeError" in str(kept)
    assert (left == b"".join(events)) == (on_policy_error == "pass")
    assert b"broken" not in left


async def test_only_policies_with_a_hook_for_responses_run_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    class Counted(PolicyStage):
        def start(self) -> asyncio.Task[None]:
            started.append(self._ctx.policy_name)
            return super().start()

    monkeypatch.setattr(executor_module, "PolicyStage", Counted)
    items = await events_of(Answer([Say("some words")]))
    policies: list[list[Mapping[str, Any]]] = [[NOOP, TOOL_RULES, NOOP], [NOOP, NOOP], [NOOP]]
    for members in policies:
        left = await delivered({"class": "serial", "config": {"policies": members}}, items)
        assert b"".join(left) == b"".join(items)
    assert started == ["tool_rules", "noop", "noop"]


async def test_the_release_of_a_call_in_many_pieces_leaves_the_loop_its_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pieces leave in one hook, when the call is judged."""
    monkeypatch.setattr(pipeline, "TURN_S", 0.0)
    longest = since = 0
    forward = pipeline.EgressQueue.put_nowait

    def counted(queue: pipeline.EgressQueue, item: Any) -> bool:
        nonlocal since, longest
        since += 1
        longest = max(longest, since)
        return forward(queue, item)

    async def beat() -> None:
        nonlocal since
        while True:
            since = 0
            await asyncio.sleep(0)

    monkeypatch.setattr(pipeline.EgressQueue, "put_nowait", counted)
    answer = Answer([Call("Write", '{"text": "' + "some " * 2_000 + '"}')], piece=5)
    items = await events_of(answer)
    beating = asyncio.create_task(beat())
    left = await delivered(TOOL_RULES, items)
    beating.cancel()
    assert b"".join(left) == b"".join(items)
    assert longest < 200
