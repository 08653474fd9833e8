"""A person's approval of a tool call: held, decided, made again; and how often it counts."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pytest

from luthien_litellm_hooks import (
    ALLOW,
    Decision,
    DefaultTransactionRecorder,
    Identity,
    Policy,
    PolicyContext,
    PolicyExecutor,
    Request,
    ToolCall,
    ToolCallStreamBlock,
    ToolGatePolicy,
    Verdict,
)
from luthien_litellm_hooks.engine.composition import Composition, ConfiguredPolicy, Parallel, Serial
from luthien_litellm_hooks.engine.rehearsal import Recorded, rehearse
from luthien_litellm_hooks.hooks.routes import adapter_for
from luthien_litellm_hooks.policies.rules.likeness import permits
from luthien_litellm_hooks.policy.approvals import Approvals, Terms
from luthien_litellm_hooks.policy.asked_calls import (
    MAX_CHARACTERS,
    MAX_OPEN,
    MAX_OPEN_OF_KEY,
    AskedCall,
    DecidedError,
    InvalidEditError,
    UnknownApprovalError,
    all_calls,
    decide,
    find_call,
    open_calls,
)
from luthien_litellm_hooks.policy.limits import Limits
from luthien_litellm_hooks.recording.record import transaction_record
from luthien_litellm_hooks.testing.answers import Answer, Call, Cut, Say
from luthien_litellm_hooks.testing.routes import ROUTES, RouteName
from luthien_litellm_hooks.wire import FORMATS
from luthien_litellm_hooks.wire.assembler import BlockAssembler
from luthien_litellm_hooks.wire.events import ContentStreamBlock, Finish
from tests.support.state import MemoryStore
from tests.support.telemetry import Told
from tests.support.virtual_time import run

WIRES: list[RouteName] = [wire for wire in sorted(ROUTES) if wire != "completions"]
SAID, CALL = Say("I push it."), Call("push", '{"branch": "main"}', "call_1")
TERMS = Terms()


class Asks(ToolGatePolicy):
    """Asks about each call, but for those of the tool `read`."""

    async def judge_tool_call(self, tool_call: ToolCall, ctx: PolicyContext) -> Verdict:
        return ALLOW if tool_call.name == "read" else Verdict("ask", reason="it leaves the machine", evidence="main")


class BlocksEdited(ToolGatePolicy):
    """Blocks what a person has made of a call."""

    async def judge_tool_call(self, tool_call: ToolCall, ctx: PolicyContext) -> Verdict:
        return Verdict("block", message="Not that.") if "edited" in tool_call.arguments else ALLOW


@dataclass(slots=True)
class Answered:
    """What a client got, at which second, and what was recorded of it."""

    text: str
    calls: list[ToolCall]
    finish: str | None
    seconds: float
    decisions: list[Decision]
    outcome: str | None
    record: dict[str, Any]

    @property
    def approval(self) -> dict[str, Any]:
        [decision] = [one for one in self.record["decisions"] if one["action"] == "ask"]
        return decision["approval"]


@dataclass(slots=True)
class Desk:
    """A proxy that asks, and the people behind it."""

    store: MemoryStore = field(default_factory=MemoryStore)
    terms: Terms = TERMS
    policy: Policy | Composition = field(default_factory=Asks)
    key: str = "a" * 64
    team: str | None = None
    session: str | None = "session-1"
    version: str = "v1"
    approvals: Approvals = field(init=False)
    told: list[AskedCall] = field(default_factory=list[AskedCall])
    observed: Told = field(default_factory=Told)
    made: int = 0

    def __post_init__(self) -> None:
        self.approvals = Approvals(lambda: self.store, lambda: self.terms, permits, self.told.append)

    async def answer(
        self, *steps: Say | Call | Cut, wire: RouteName = "chat", full: bool = False, **executor: Any
    ) -> Answered:
        loop, recorder = asyncio.get_running_loop(), DefaultTransactionRecorder()
        began, route = loop.time(), ROUTES[wire]
        self.made += 1
        body = {"model": "scripted", **route.body, "stream": not full}
        request = Request(body, route=route.path, session=self.session)
        context = PolicyContext(
            f"transaction-{self.made}",
            request,
            identity=Identity(key_hash=self.key, team_id=self.team),
            recorder=recorder,
            observability=self.observed,
        )
        context.approvals = self.approvals
        composition = self.policy
        if isinstance(composition, Policy):
            composition = ConfiguredPolicy(composition, "asks", version=self.version)
        runner = PolicyExecutor(composition, **executor)
        adapter, script = adapter_for(route.call_type, request), Answer(steps or (SAID, CALL))
        if full:
            items: list[object] = [await runner.run_full(route.full(script, body), adapter, context)]
        else:
            items = await read(runner.run(route.stream(script, body), adapter, context))
        reader = adapter_for(route.call_type, request)
        chunks = [reader.decode_full(items[0])] if full else [each for item in items for each in reader.decode(item)]
        chunks += reader.flush()
        assembler = BlockAssembler(marks_blocks=reader.rules.marks_blocks)
        for chunk in chunks:
            assembler.begin(chunk)
            for event in chunk.events:
                assembler.feed(event)
        assembler.finish()
        blocks = assembler.state.blocks
        finishes = [event.reason for chunk in chunks for event in chunk.events if isinstance(event, Finish)]
        return Answered(
            "".join(block.content for block in blocks if isinstance(block, ContentStreamBlock)),
            [block.tool_call for block in blocks if isinstance(block, ToolCallStreamBlock)],
            finishes[-1] if finishes else None,
            loop.time() - began,
            list(context.decisions),
            recorder.outcome,
            transaction_record(context, recorder, "v", (), with_bodies=True),
        )

    async def asked(self, number: int = 1) -> list[AskedCall]:
        """The open calls, as soon as there are so many."""
        for _ in range(100):
            if len(found := await open_calls(self.store)) >= number:
                return found
            await asyncio.sleep(0.1)
        raise AssertionError("nobody is asked")

    async def decide(self, decision: Literal["approved", "denied"] = "approved", **more: Any) -> AskedCall:
        [asked, *_] = await self.asked()
        return await decide(self.store, asked.id, decision, by="alice", **more)

    async def after(self, seconds: float, decision: Literal["approved", "denied"] = "approved", **more: Any) -> None:
        await asyncio.sleep(seconds)
        await self.decide(decision, **more)
        self.approvals.wake()


async def read(stream: AsyncIterator[object]) -> list[object]:
    return [item async for item in stream]


def told(main: Callable[[], Awaitable[None]]) -> None:
    run(main())  # type: ignore[arg-type]


# Held, and decided in time


@pytest.mark.parametrize("full", [False, True], ids=["streamed", "full"])
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("decision", ["approved", "denied", "edited", "undecided"])
def test_a_held_call_leaves_as_a_person_decides(wire: RouteName, full: bool, decision: str) -> None:
    async def main() -> None:
        desk = Desk(terms=Terms(hold_s=120, hold_full_s=120))
        match decision:
            case "approved":
                later = asyncio.create_task(desk.after(60))
            case "denied":
                later = asyncio.create_task(desk.after(60, "denied", message="Ask me on Monday."))
            case "edited":
                later = asyncio.create_task(desk.after(60, arguments='{"branch": "edited"}'))
            case _:
                later = asyncio.create_task(asyncio.sleep(0))
        got = await desk.answer(wire=wire, full=full)
        await later
        approval = got.approval
        assert got.text.startswith("I push it.")
        assert approval["digest"] == (await all_calls(desk.store))[0].digest
        match decision:
            case "approved":
                assert [(call.name, call.arguments.replace(" ", "")) for call in got.calls] == [
                    ("push", '{"branch":"main"}')
                ]
                assert got.text == "I push it."
                assert (approval["state"], approval["by"], approval["edited"]) == ("approved", "alice", False)
                assert got.outcome == "complete"
            case "edited":
                assert [(call.name, call.arguments.replace(" ", "")) for call in got.calls] == [
                    ("push", '{"branch":"edited"}')
                ]
                assert (approval["edited"], approval["arguments"]) == (True, '{"branch": "edited"}')
                assert got.outcome == "complete"
            case "denied":
                assert got.calls == []
                assert f"[luthien] A person denied the call of push ({approval['id']}): Ask me on Monday." in got.text
                assert got.outcome == "blocked"
            case _:
                assert got.calls == []
                assert f"[luthien] The call of push waits for a person's approval ({approval['id']})." in got.text
                assert (approval["state"], got.outcome) == ("pending", "blocked")
        assert round(got.seconds) == (120 if decision == "undecided" else 60)
        assert approval["waited_ms"] == pytest.approx(got.seconds * 1000, abs=600)

    told(main)


def test_an_approved_call_leaves_as_the_very_chunks() -> None:
    async def main() -> None:
        desk = Desk()
        route = ROUTES["chat"]
        body = {"model": "scripted", **route.body, "stream": True}
        items = [item async for item in route.stream(Answer((SAID, CALL)), body)]

        async def provide() -> AsyncIterator[object]:
            for item in items:
                yield item

        context = PolicyContext("t", Request(body))
        context.approvals = desk.approvals
        later = asyncio.create_task(desk.after(5))
        got = await read(PolicyExecutor(Asks()).run(provide(), adapter_for(route.call_type, context.request), context))
        await later
        pings = [item for item in got if not any(item is came for came in items)]
        assert [id(item) for item in got if item not in pings] == [id(item) for item in items]

    told(main)


def test_a_full_response_is_not_held_by_default() -> None:
    async def main() -> None:
        got = await Desk().answer(full=True)
        assert (got.seconds, got.calls, got.approval["state"]) == (0, [], "pending")

    told(main)


def test_a_hold_outlasts_the_timeout_of_the_policy() -> None:
    async def main() -> None:
        got = await Desk(policy=ConfiguredPolicy(Asks(), "asks", timeout_s=5)).answer()
        assert (round(got.seconds), got.approval["state"]) == (120, "pending")

    told(main)


@pytest.mark.parametrize("on_policy_error", ["block", "pass"])
def test_a_failing_verdict_beside_it_lets_no_asked_call_pass(on_policy_error: Any) -> None:
    class FailsFor(Asks):
        async def judge_tool_call(self, tool_call: ToolCall, ctx: PolicyContext) -> Verdict:
            if tool_call.name == "fails":
                raise ValueError("no")
            return await super().judge_tool_call(tool_call, ctx)

    async def main() -> None:
        desk = Desk(policy=ConfiguredPolicy(FailsFor(), "asks", on_policy_error=on_policy_error))
        got = await desk.answer(SAID, CALL, Call("fails", "{}", "call_2"))
        assert "push" not in [call.name for call in got.calls]
        assert await all_calls(desk.store) == []
        assert got.outcome == "policy_error"

    told(main)


@pytest.mark.parametrize("on_policy_error", ["block", "pass"])
async def test_a_hold_that_max_hold_s_ends_lets_no_call_pass(on_policy_error: Any) -> None:
    desk = Desk(policy=ConfiguredPolicy(Asks(), "asks", on_policy_error=on_policy_error))
    got = await desk.answer(limits=Limits(max_hold_s=0.2))
    assert (got.calls, got.outcome) == ([], "timeout")
    assert [asked.state for asked in await all_calls(desk.store)] == ["pending"]


def test_what_would_replace_an_asked_call_never_leaves() -> None:
    class Proposes(ToolGatePolicy):
        async def judge_tool_call(self, tool_call: ToolCall, ctx: PolicyContext) -> Verdict:
            return Verdict("ask", instead=(ToolCall("x", "other", "{}"), "a text"))

    async def main() -> None:
        desk = Desk(policy=Proposes())
        refused = await desk.answer(full=True)
        await desk.decide()
        approved = await desk.answer(full=True)
        assert [call.name for call in (*refused.calls, *approved.calls)] == ["push"]
        assert "a text" not in refused.text + approved.text

    told(main)


def test_several_calls_of_a_response_have_a_decision_each() -> None:
    async def main() -> None:
        desk = Desk()
        asking = asyncio.create_task(
            desk.answer(SAID, Call("read", "{}", "call_0"), CALL, Call("push", '{"branch": "b"}', "call_2"))
        )
        first, second = await desk.asked(2)
        by_branch = {asked.arguments: asked.id for asked in (first, second)}
        await decide(desk.store, by_branch['{"branch": "main"}'], "denied", by="alice")
        await decide(desk.store, by_branch['{"branch": "b"}'], "approved", by="bob")
        got = await asking
        assert [(call.name, call.arguments) for call in got.calls] == [("read", "{}"), ("push", '{"branch": "b"}')]
        assert got.text.count("[luthien]") == 1

    told(main)


def test_an_edited_call_is_judged_again_by_the_policies_behind() -> None:
    async def main() -> None:
        chain = Serial([ConfiguredPolicy(Asks(), "asks"), ConfiguredPolicy(BlocksEdited(), "blocks")])
        desk = Desk(policy=chain)
        later = asyncio.create_task(desk.after(1, arguments='{"branch": "edited"}'))
        got = await desk.answer()
        await later
        assert got.calls == []
        assert "Not that." in got.text
        assert [decision.action for decision in got.decisions] == ["ask", "block"]

    told(main)


def test_a_member_of_a_vote_asks_for_its_own_vote() -> None:
    async def main() -> None:
        members = (ConfiguredPolicy(Asks(), "asks"), ConfiguredPolicy(BlocksEdited(), "blocks"))
        for decision, calls in (("approved", 1), ("denied", 0)):
            desk = Desk(policy=Parallel(members))
            later = asyncio.create_task(desk.after(20, decision))  # type: ignore[arg-type]
            got = await desk.answer()
            await later
            assert len(got.calls) == calls

    told(main)


def test_a_call_that_a_token_limit_cut_off_is_no_question() -> None:
    async def main() -> None:
        desk = Desk()
        got = await desk.answer(SAID, Call("push", '{"branch": "ma', "call_1"), Cut())
        assert got.calls == []
        assert await all_calls(desk.store) == []

    told(main)


# Made again


async def undecided(desk: Desk, *steps: Say | Call) -> AskedCall:
    """A call that nobody decided in time."""
    before = {asked.id for asked in await open_calls(desk.store)}
    got = await desk.answer(*steps, full=True)
    assert got.calls == []
    [asked] = [asked for asked in await open_calls(desk.store) if asked.id not in before]
    return asked


@pytest.mark.parametrize("full", [False, True], ids=["streamed", "full"])
@pytest.mark.parametrize("wire", WIRES)
def test_an_approved_call_passes_once_when_it_is_made_again(wire: RouteName, full: bool) -> None:
    async def main() -> None:
        desk = Desk(terms=Terms(hold_s=0))
        first = await desk.answer(wire=wire, full=full)
        await desk.decide()
        second = await desk.answer(wire=wire, full=full)
        third = await desk.answer(wire=wire, full=full)
        assert [len(got.calls) for got in (first, second, third)] == [0, 1, 0]
        assert [got.approval["state"] for got in (first, second, third)] == ["pending", "approved", "pending"]
        assert first.approval["id"] == second.approval["id"] != third.approval["id"]
        assert first.approval["digest"] == third.approval["digest"]

    told(main)


def test_a_retry_attaches_to_the_open_question_and_a_client_may_leave() -> None:
    async def main() -> None:
        desk = Desk()
        leaving = asyncio.create_task(desk.answer())
        [asked] = await desk.asked()
        leaving.cancel()
        await asyncio.wait([leaving])
        again = asyncio.create_task(desk.answer())
        await asyncio.sleep(1)
        assert [one.id for one in await desk.asked()] == [asked.id]
        await desk.decide()
        assert len((await again).calls) == 1

    told(main)


def test_a_client_that_leaves_before_all_calls_are_decided_loses_no_approval() -> None:
    async def main() -> None:
        desk = Desk()
        calls = [Call("push", f'{{"branch": "{name}"}}', f"call_{name}") for name in "ab"]
        leaving = asyncio.create_task(desk.answer(*calls))
        first, second = await desk.asked(2)
        await decide(desk.store, first.id, "approved", by="alice")
        await asyncio.sleep(5)
        leaving.cancel()
        await asyncio.wait([leaving])
        await decide(desk.store, second.id, "approved", by="alice")
        assert len((await desk.answer(*calls)).calls) == 2
        assert len((await desk.answer(*calls, full=True)).calls) == 0

    told(main)


def test_of_two_equal_calls_in_a_response_an_approval_is_for_one() -> None:
    async def main() -> None:
        desk = Desk(terms=Terms(hold_s=0))
        equal = [CALL, Call("push", '{"branch": "main"}', "call_2")]
        await desk.answer(*equal)
        await desk.decide()
        got = await desk.answer(*equal)
        assert len(got.calls) == 1
        assert sorted(one["approval"]["state"] for one in got.record["decisions"]) == ["approved", "pending"]

    told(main)


CHANGES: dict[str, Callable[[Desk], Any]] = {
    "one byte changed": lambda desk: Call("push", '{"branch": "maim"}', "call_1"),
    "another tool": lambda desk: Call("pull", '{"branch": "main"}', "call_1"),
    "another session": lambda desk: setattr(desk, "session", "session-2"),
    "no session": lambda desk: setattr(desk, "session", None),
    "another key": lambda desk: setattr(desk, "key", "b" * 64),
    "another version of the policy": lambda desk: setattr(desk, "version", "v2"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_approval_is_for_exactly_this_call(change: str) -> None:
    async def main() -> None:
        desk = Desk()
        await undecided(desk)
        await desk.decide()
        other = CHANGES[change](desk) or CALL
        assert (await desk.answer(SAID, other, full=True)).calls == []

    told(main)


def test_white_space_and_the_order_of_keys_do_not_count_nor_does_an_id() -> None:
    async def main() -> None:
        desk = Desk()
        await undecided(desk, SAID, Call("push", '{"a": 1, "b": 2}', "call_1"))
        await desk.decide()
        assert len((await desk.answer(Call("push", '{"b":2,"a":1}', "call_9"), full=True)).calls) == 1

    told(main)


def test_an_approval_is_over_after_its_time() -> None:
    async def main() -> None:
        desk = Desk()
        await undecided(desk)
        await desk.decide()
        await asyncio.sleep(3601)
        assert (await desk.answer(full=True)).calls == []

    told(main)


def test_a_question_is_over_after_its_time() -> None:
    async def main() -> None:
        desk = Desk()
        asked = await undecided(desk)
        await asyncio.sleep(3601)
        with pytest.raises(UnknownApprovalError):
            await decide(desk.store, asked.id, "approved", by="alice")

    told(main)


def test_a_denied_call_stays_denied_and_asks_nobody_again() -> None:
    async def main() -> None:
        desk = Desk()
        asked = await undecided(desk)
        await desk.decide("denied")
        got = await desk.answer()
        assert (got.seconds, got.calls, got.approval["id"]) == (0, [], asked.id)
        assert await open_calls(desk.store) == []

    told(main)


def test_an_edit_counts_for_the_call_that_is_made_again() -> None:
    async def main() -> None:
        desk = Desk()
        await undecided(desk)
        await desk.decide(arguments='{"branch": "edited"}')
        [call] = (await desk.answer(full=True)).calls
        assert call.arguments.replace(" ", "") == '{"branch":"edited"}'

    told(main)


def test_of_many_that_make_an_approved_call_at_once_one_passes() -> None:
    async def main() -> None:
        desk = Desk(terms=Terms(hold_s=2))
        await undecided(desk)
        await desk.decide()
        workers = [desk, *(Desk(store=desk.store, terms=desk.terms) for _ in range(9))]
        got = await asyncio.gather(*(worker.answer() for worker in workers))
        assert sum(len(one.calls) for one in got) == 1
        assert len(await open_calls(desk.store)) == 1

    told(main)


def test_equal_calls_that_wait_pass_with_an_approval_each() -> None:
    async def main() -> None:
        desk = Desk()
        workers = [desk, Desk(store=desk.store)]
        asking = [asyncio.create_task(worker.answer()) for worker in workers for _ in range(3)]
        for number in range(6):
            await desk.after(2)
            await asyncio.sleep(2)
            assert sum(one.done() for one in asking) == number + 1
        assert all(len(one.result().calls) == 1 for one in asking)

    told(main)


# Told to others


def test_people_are_told_of_a_question_once() -> None:
    async def main() -> None:
        desk = Desk(terms=replace(TERMS, hold_s=0))
        for _ in range(3):
            await desk.answer()
        [asked] = await desk.asked()
        assert [call.id for call in desk.told] == [asked.id]

    told(main)


@pytest.mark.parametrize("decision", ["approved", "denied"])
def test_the_time_to_a_decision_is_measured_once(decision: Literal["approved", "denied"]) -> None:
    async def main() -> None:
        desk = Desk(terms=replace(TERMS, hold_s=0))
        await desk.answer()
        [asked] = await desk.asked()
        assert seconds(desk) == []
        await desk.decide(decision)
        for _ in range(3):
            await desk.answer()
        [(value, labels)] = seconds(desk)
        assert (labels, 0 <= value < 60) == ({"state": decision}, True)
        [decided] = [data for name, data in desk.observed.events if name == "transaction.approval_decided"]
        expected = {"id": asked.id, "tool": "push", "state": decision, "by": "alice", "seconds": value}
        assert {name: decided[name] for name in expected} == expected

    told(main)


def seconds(desk: Desk) -> list[tuple[float, dict[str, str]]]:
    return [(value, labels) for name, value, labels in desk.observed.metrics if name == "luthien_approval_seconds"]


# Nobody decided means no


def test_a_store_that_is_down_denies_and_says_so() -> None:
    async def main() -> None:
        desk = Desk()
        desk.store.is_down = True
        got = await desk.answer()
        assert (got.calls, got.outcome) == ([], "blocked")
        assert "needs a person's approval, and nobody can be asked now." in got.text
        assert got.approval["state"] == "unavailable"

    told(main)


def test_a_store_that_fails_in_a_hold_denies() -> None:
    async def main() -> None:
        desk = Desk()
        asking = asyncio.create_task(desk.answer())
        await desk.asked()
        desk.store.is_down = True
        assert (await asking).approval["state"] == "unavailable"

    told(main)


def test_only_some_calls_of_a_session_may_wait() -> None:
    async def main() -> None:
        desk = Desk()
        calls = [Call("push", f'{{"branch": "{number}"}}', f"call_{number}") for number in range(MAX_OPEN + 2)]
        got = await desk.answer(*calls, full=True)
        assert len(await open_calls(desk.store)) == MAX_OPEN
        assert got.text.count("too many calls wait for one") == 1  # said once
        states = [one["approval"]["state"] for one in got.record["decisions"]]
        assert (states.count("pending"), states.count("too_many")) == (MAX_OPEN, 2)
        desk.session = "session-2"
        await undecided(desk)

    told(main)


def test_a_key_with_many_sessions_asks_as_few_questions() -> None:
    async def main() -> None:
        desk = Desk(terms=Terms(hold_full_s=0))
        for number in range(MAX_OPEN_OF_KEY):
            desk.session = f"session-{number}"
            assert (await desk.answer(full=True)).approval["state"] == "pending"
        desk.session = "one more"
        assert (await desk.answer(full=True)).approval["state"] == "too_many"
        desk.key = "b" * 64
        assert (await desk.answer(full=True)).approval["state"] == "pending"

    told(main)


def test_a_call_that_is_too_long_to_be_read_is_no_question() -> None:
    async def main() -> None:
        desk = Desk()
        got = await desk.answer(Call("push", f'{{"branch": "{"x" * MAX_CHARACTERS}"}}', "call_1"))
        assert (got.calls, got.approval["state"]) == ([], "too_large")

    told(main)


async def test_a_rehearsal_asks_nobody_and_its_decision_says_ask() -> None:
    desk = Desk()
    recorded = Recorded(
        transaction_id="t",
        request=Request({"model": "m"}),
        content=[{"type": "tool_call", "id": "call_1", "name": "push", "arguments": "{}"}],
        finish_reason="tool_calls",
        rules=FORMATS["chat"].rules,
    )
    done = await rehearse(PolicyExecutor(Asks()), recorded)
    assert [(decision.action, decision.approval) for decision in done.decisions] == [("ask", None)]
    assert done.outcome == "blocked"
    assert await all_calls(desk.store) == []


@pytest.mark.parametrize("wire", WIRES)
def test_texts_of_any_kind_can_be_put_before_a_person(wire: RouteName) -> None:
    async def main() -> None:
        desk = Desk()
        desk.session = "\ud800\x00" + "s" * 10_000
        await desk.answer(Call("pu\x00sh", '{"a": "\\ud800 \\u0000 \x7f"}', "call_1"), wire=wire, full=True)
        [asked] = await open_calls(desk.store)
        assert asked.tool == "pu\x00sh"
        assert len(asked.session or "") < 3_000
        await desk.decide()
        again = await desk.answer(Call("pu\x00sh", '{"a": "\\ud800 \\u0000 \x7f"}', "call_2"), wire=wire, full=True)
        assert len(again.calls) == 1

    told(main)


# Deciding


def test_a_person_sees_the_call_the_caller_and_the_users_words() -> None:
    async def main() -> None:
        desk = Desk()
        asked = await undecided(desk)
        assert (asked.tool, asked.arguments, asked.reason) == ("push", CALL.arguments, "it leaves the machine")
        assert (asked.key_hash, asked.session, asked.policy) == ("a" * 64, "session-1", "asks")
        assert asked.words
        assert await find_call(desk.store, asked.id) == asked

    told(main)


def test_a_decided_call_cannot_be_decided_again() -> None:
    async def main() -> None:
        desk = Desk()
        asked = await undecided(desk)
        await desk.decide()
        for _ in range(2):
            with pytest.raises(DecidedError):
                await decide(desk.store, asked.id, "denied", by="bob")
            await desk.answer(full=True)

    told(main)


@pytest.mark.parametrize("arguments", ["", "not JSON", "[]", '"text"', "{" * 100_001])
def test_an_edit_has_to_be_a_json_object(arguments: str) -> None:
    async def main() -> None:
        desk = Desk()
        asked = await undecided(desk)
        with pytest.raises(InvalidEditError):
            await desk.decide(arguments=arguments)
        assert (await find_call(desk.store, asked.id)).state == "pending"

    told(main)


def test_holds_of_a_process_share_their_look_at_the_store() -> None:
    async def main() -> None:
        desk = Desk(terms=Terms(hold_s=100))
        desks = [replace_session(desk, number) for number in range(20)]
        asking = [asyncio.create_task(one.answer()) for one in desks]
        await asyncio.sleep(10)
        before = desk.store.uses
        await asyncio.sleep(50)
        assert desk.store.uses - before <= 50 / desk.store.poll_s + 1  # not one for each of the 20
        await asyncio.gather(*asking)

    told(main)


def test_holds_of_a_slow_store_do_not_read_it_without_end() -> None:
    async def main() -> None:
        desk = Desk(store=MemoryStore(delay_s=0.2), terms=Terms(hold_s=10))
        asking = [asyncio.create_task(replace_session(desk, number).answer()) for number in range(5)]
        got = await asyncio.gather(*asking)
        assert {one.approval["state"] for one in got} == {"pending"}
        assert desk.store.uses < 10 / desk.store.poll_s + 40

    told(main)


def replace_session(desk: Desk, number: int) -> Desk:
    """Another session of the same process."""
    other = replace(desk, session=f"session-{number}")
    other.approvals = desk.approvals
    return other
