"""Verdicts on the calls of a response that policies changed, for a client that asked for them."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luthien_litellm_hooks import Policy, PolicyContext, PolicyExecutor, StreamingResponseContext, ToolCall
from luthien_litellm_hooks.engine.composition import Composition, ConfiguredPolicy, Parallel, Serial
from luthien_litellm_hooks.errors import PolicyBlockedError
from luthien_litellm_hooks.policies.noop import NoOp
from luthien_litellm_hooks.policies.rules.likeness import permits
from luthien_litellm_hooks.policy.approvals import Approvals, Terms
from luthien_litellm_hooks.policy.asked_calls import AskedCall
from luthien_litellm_hooks.policy.request import Answer
from luthien_litellm_hooks.policy.tool_gate import ALLOW, ToolGatePolicy, Verdict
from luthien_litellm_hooks.recording.state import SqliteStore
from luthien_litellm_hooks.wire import FORMATS
from luthien_litellm_hooks.wire.messages.adapter import MessagesAdapter
from luthien_litellm_hooks.wire.messages.safeguards import asks_for_verdicts
from tests.support.chat import context, provide, pull
from tests.support.messages import JSON, message, payloads, sse, streamed

RULES = FORMATS["messages"].rules
NOT_FLAGGED = {"type": "evaluated", "outcome": "not_flagged"}
FLAGGED = {"type": "evaluated", "outcome": "flagged", "explanation": "it runs rm -rf there"}
WITHOUT_WORDS = {"type": "evaluated", "outcome": "flagged"}


class Judges(ToolGatePolicy):
    """Gives the verdict that a call asks for in its arguments."""

    async def judge_tool_call(self, tool_call: ToolCall, ctx: PolicyContext) -> Verdict:
        wish = json.loads(tool_call.arguments)["wish"]
        if wish == "rewrite":
            return Verdict("modify", instead=(replace(tool_call, arguments='{"wish": "rewritten"}'),))
        if wish == "ask":
            return Verdict("ask", message="It leaves the machine.", reason="secret to the operator")
        return Verdict("block", message="No.") if wish == "block" else ALLOW


class Adds(ToolGatePolicy):
    """Puts another call in front of each."""

    async def judge_tool_call(self, tool_call: ToolCall, ctx: PolicyContext) -> Verdict:
        return Verdict("modify", instead=(ToolCall("toolu_new", "Bash", "{}"), tool_call))


class Shortens(Policy):
    """Lets only the first piece of each call's arguments out, and ends nothing."""

    async def on_tool_call_delta(self, ctx: StreamingResponseContext) -> None:
        if not ctx.scratchpad.setdefault("began", False):
            await ctx.control.release_latest(ctx.block)  # pyright: ignore[reportArgumentType]
            ctx.scratchpad["began"] = bool(ctx.delta)


class Blocks(Policy):
    """Ends the response at its first text."""

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        raise PolicyBlockedError("Not this.")


def call(id: str, wish: str) -> JSON:
    return {"type": "tool_use", "id": id, "name": "Bash", "input": {"wish": wish}}


def given(**verdicts: Mapping[str, Any]) -> list[JSON]:
    return [{"type": "dangerous_tool_use", "status": {"type": "available", "tool_uses": verdicts}}]


async def delivered(
    policy: Policy | Composition, full: JSON, way: str, *, in_client: bool = False, takes_flags: bool = True
) -> tuple[JSON, PolicyContext]:
    """A response as the client gets it, with the results beside its stop reason."""
    ctx, adapter = context(), MessagesAdapter(RULES, "own", "msg_own", takes_flags=takes_flags)
    store, terms = SqliteStore(Path("/dev/null/none")), Terms(hold_s=0, in_client=in_client)
    ctx.approvals = Approvals(lambda: store, lambda: terms, permits, list[AskedCall]().append)
    executor = PolicyExecutor(policy)
    if way == "full":
        return await executor.run_full(full, adapter, ctx), ctx  # pyright: ignore[reportReturnType]
    *frames, end, last = streamed(full)
    if "safeguard_results" in full:
        end["delta"]["safeguard_results"] = full["safeguard_results"]
        frames[0]["message"].pop("safeguard_results")
    pieces = [sse(frame) for frame in (*frames, end, last)]
    left = b"".join(await pull(executor.run(provide(pieces), adapter, ctx)))
    if way == "bytes":
        assert left == b"".join(pieces)
    sent = payloads(left)
    [end] = [frame["delta"] for frame in sent if frame["type"] == "message_delta"]
    begun = [frame["content_block"] for frame in sent if frame["type"] == "content_block_start"]
    return {**end, "content": begun}, ctx


def results(of: JSON) -> Any:
    found = of.get("safeguard_results")
    if found is None:
        return None
    [result] = found
    assert result["type"] == "dangerous_tool_use"
    return result["status"]


def ids(of: JSON) -> list[str]:
    return [block["id"] for block in of["content"] if block["type"] == "tool_use"]


WAYS = pytest.mark.parametrize("way", ["stream", "full"])


@WAYS
async def test_an_unchanged_response_keeps_what_the_provider_said(way: str) -> None:
    for verdicts in ({"safeguard_results": given(a=FLAGGED)}, {}):
        full = {**message([call("a", "pass")]), **verdicts}
        for policy in (NoOp(), Judges()):
            got, _ = await delivered(policy, full, "bytes" if way == "stream" else way)
            assert got.get("safeguard_results") == verdicts.get("safeguard_results")
            assert way == "stream" or got is full


@WAYS
async def test_each_verdict_is_about_the_call_that_leaves(way: str) -> None:
    calls = [call("a", "pass"), call("b", "rewrite"), call("c", "block"), call("d", "pass")]
    full = message(calls) | {"safeguard_results": given(a=NOT_FLAGGED, b=NOT_FLAGGED, c=FLAGGED, d=FLAGGED)}
    got, _ = await delivered(Judges(), full, way)
    assert ids(got) == ["a", "b", "d"]
    assert results(got) == {"type": "available", "tool_uses": {"a": NOT_FLAGGED, "d": WITHOUT_WORDS}}
    both = Serial([ConfiguredPolicy(Judges(), "first"), ConfiguredPolicy(Judges(), "second")])
    assert (await delivered(both, full, way))[0].get("safeguard_results") == got["safeguard_results"]


@WAYS
async def test_an_added_call_has_no_verdict_and_a_call_behind_it_keeps_its_own(way: str) -> None:
    got, _ = await delivered(
        Adds(), message([call("a", "pass")]) | {"safeguard_results": given(a=NOT_FLAGGED, toolu_new=NOT_FLAGGED)}, way
    )
    assert ids(got) == ["toolu_new", "a"]
    assert results(got) == {"type": "available", "tool_uses": {"a": NOT_FLAGGED}}


async def test_a_call_that_lost_a_piece_has_no_verdict() -> None:
    full = message([call("a", "pass"), call("b", "pass")]) | {"safeguard_results": given(a=NOT_FLAGGED, b=NOT_FLAGGED)}
    got, _ = await delivered(Shortens(), full, "stream")
    assert results(got)["tool_uses"].keys().isdisjoint({"a", "b"})


@WAYS
@pytest.mark.parametrize(
    ("said", "left"),
    [
        (NOT_FLAGGED | {"judged_as": "rm -rf", "explanation": "rm -rf"}, NOT_FLAGGED),
        ({"type": "unavailable", "reason": "timeout"}, {"type": "unavailable", "reason": "timeout"}),
        ({"type": "skipped", "reason": "rm -rf /"}, {"type": "skipped"}),
        ("rm -rf", None),
    ],
)
async def test_words_of_the_provider_do_not_leave_with_a_changed_response(way: str, said: Any, left: Any) -> None:
    full = message([call("a", "pass"), call("b", "block")]) | {"safeguard_results": given(a=said)}
    got, _ = await delivered(Judges(), full, way)
    assert results(got) == {"type": "available", "tool_uses": {"a": left} if left else {}}
    assert "rm -rf" not in json.dumps(got)


@WAYS
@pytest.mark.parametrize("status", [{"type": "unsupported"}, {"type": "unavailable", "reason": "disabled"}])
async def test_a_provider_that_gave_no_verdicts_is_quoted_as_such(way: str, status: JSON) -> None:
    full = message([call("a", "pass"), call("b", "block")])
    said = full | {"safeguard_results": [{"type": "dangerous_tool_use", "status": status | {"words": "rm -rf"}}]}
    assert results((await delivered(Judges(), said, way))[0]) == status
    assert results((await delivered(Judges(), full, way))[0]) is None


@WAYS
@pytest.mark.parametrize("odd", ["x", [1], [{"type": "another"}], [{"type": "dangerous_tool_use", "status": 1}]])
async def test_unreadable_results_are_none(way: str, odd: Any) -> None:
    full = message([call("a", "pass"), call("b", "block")]) | {"safeguard_results": odd}
    assert results((await delivered(Judges(), full, way))[0]) is None


@WAYS
async def test_a_response_of_ours_says_that_there_are_no_verdicts(way: str) -> None:
    full = message([{"type": "text", "text": "Hi."}, call("a", "pass")])
    got, _ = await delivered(Blocks(), full, way)
    assert results(got) == {"type": "available", "tool_uses": {}}
    ctx, adapter = context(), MessagesAdapter(RULES, "own", "msg_own", takes_flags=True)
    ctx.answer = Answer("No.")
    if way == "full":
        got: Any = await PolicyExecutor(NoOp()).run_full(full, adapter, ctx)
    else:
        left = b"".join(await pull(PolicyExecutor(NoOp()).run(provide([]), adapter, ctx)))
        [got] = [frame["delta"] for frame in payloads(left) if frame["type"] == "message_delta"]
    assert results(got) == {"type": "available", "tool_uses": {}}


@WAYS
async def test_who_did_not_ask_gets_none(way: str) -> None:
    full = message([call("a", "pass"), call("b", "block")]) | {"safeguard_results": given(a=NOT_FLAGGED)}
    got, _ = await delivered(Judges(), full, way, takes_flags=False)
    assert "safeguard_results" not in got


# Asking the client's own user


@WAYS
@pytest.mark.parametrize("verdicts", [{}, {"safeguard_results": given(a=NOT_FLAGGED, b=NOT_FLAGGED)}])
async def test_an_asked_call_leaves_flagged(way: str, verdicts: JSON) -> None:
    full = message([call("a", "pass"), call("b", "ask")]) | verdicts
    got, ctx = await delivered(Judges(), full, way, in_client=True)
    assert ids(got) == ["a", "b"]
    said = results(got)["tool_uses"]
    assert said.pop("b") == FLAGGED | {"explanation": "[luthien] It leaves the machine. (transaction transaction-1)"}
    assert said == ({"a": NOT_FLAGGED} if verdicts else {})
    assert "secret" not in json.dumps(got)
    [decision] = ctx.decisions
    assert decision.approval is not None
    assert (decision.action, decision.approval.state, decision.withholds) == ("ask", "in_client", False)


@WAYS
@pytest.mark.parametrize(("in_client", "takes_flags"), [(False, True), (True, False)])
async def test_a_client_is_asked_only_if_it_can_and_the_operator_lets_it(
    way: str, in_client: bool, takes_flags: bool
) -> None:
    got, ctx = await delivered(Judges(), message([call("b", "ask")]), way, in_client=in_client, takes_flags=takes_flags)
    assert ids(got) == []
    assert [decision.withholds for decision in ctx.decisions] == [True]


@WAYS
async def test_a_vote_does_not_leave_a_call_to_the_client(way: str) -> None:
    panel = Parallel([ConfiguredPolicy(Judges(), "one"), ConfiguredPolicy(NoOp(), "other")])
    got, _ = await delivered(panel, message([call("b", "ask")]), way, in_client=True)
    assert ids(got) == []


@WAYS
async def test_a_flag_holds_for_a_call_that_the_next_policy_changes(way: str) -> None:
    class Capitals(ToolGatePolicy):
        async def judge_tool_call(self, tool_call: ToolCall, ctx: PolicyContext) -> Verdict:
            return Verdict("modify", instead=(replace(tool_call, arguments=tool_call.arguments.upper()),))

    both = Serial([ConfiguredPolicy(Judges(), "asks"), ConfiguredPolicy(Capitals(), "rewrites")])
    full = message([call("b", "ask")]) | {"safeguard_results": given(b=NOT_FLAGGED)}
    got, _ = await delivered(both, full, way, in_client=True)
    assert results(got)["tool_uses"]["b"]["outcome"] == "flagged"


@pytest.mark.parametrize(
    ("asked", "is_asked"),
    [
        ([{"type": "dangerous_tool_use", "classifier_context": {}}], True),
        ([{"type": "another"}, {"type": "dangerous_tool_use"}], True),
        *(
            ([{"type": "another"}], False),
            ([], False),
            ("dangerous_tool_use", False),
            ([["dangerous_tool_use"]], False),
        ),
    ],
)
def test_a_request_asks_by_its_type(asked: Any, is_asked: bool) -> None:
    assert asks_for_verdicts({"safeguards": asked}) is is_asked
