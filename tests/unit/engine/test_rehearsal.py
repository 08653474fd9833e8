"""Rehearsals: the policies decide over a record as they decided over the transaction."""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from luthien_litellm_hooks import Decision, Policy, PolicyContext, Request, StreamingResponseContext, ToolCall
from luthien_litellm_hooks.config.policy_loading import config_model
from luthien_litellm_hooks.config.settings import build_executor, load_settings
from luthien_litellm_hooks.engine.composition import Composition, ConfiguredPolicy, Parallel
from luthien_litellm_hooks.engine.egress_queue import MEMORY, MEMORY_APART
from luthien_litellm_hooks.engine.executor import PolicyExecutor
from luthien_litellm_hooks.engine.rehearsal import Recorded, rehearse
from luthien_litellm_hooks.errors import NotReplayableError, PolicyBlockedError
from luthien_litellm_hooks.monitor.transactions import read_transaction, recorded
from luthien_litellm_hooks.policies import SHORT_NAMES
from luthien_litellm_hooks.policies.judges import JudgeConfig
from luthien_litellm_hooks.policy.limits import off_loop
from luthien_litellm_hooks.policy.request import Answer as OwnAnswer
from luthien_litellm_hooks.policy.tool_gate import ToolGatePolicy, Verdict
from luthien_litellm_hooks.testing.answers import Answer, Call, Say, Think
from luthien_litellm_hooks.testing.provider import Log
from luthien_litellm_hooks.testing.routes import ROUTES, RouteName
from luthien_litellm_hooks.testing.run import run_policy
from luthien_litellm_hooks.wire import FORMATS
from luthien_litellm_hooks.wire.format import NewResponse
from tests.support.judge import JudgeModel, rating
from tests.support.recorded import COMMAND, row
from tests.support.recordings import STREAMS

BLOCKS_COMMANDS = {"class": "block_dangerous_commands"}
REWRITES = {"class": "string_replacement", "config": {"replacements": [["database", "data base"]]}}
SERIAL = {
    "class": "serial",
    "config": {"policies": [REWRITES, {"class": "all_caps"}, BLOCKS_COMMANDS, {"class": "secrets"}]},
}
PANEL = {
    "class": "parallel",
    "config": {
        "strategy": "majority",
        "policies": [{"class": "noop"}, BLOCKS_COMMANDS, {"class": "block_web_requests"}],
    },
}
SHIPPED: Mapping[str, Mapping[str, Any]] = {
    **{name: {"class": name} for name in SHORT_NAMES if not issubclass(config_model(name), JudgeConfig)},
    "tool_rules": {"class": "tool_rules", "config": {"rules": [{"action": "block", "tool": "Bash"}]}},
    "string_replacement": REWRITES,
    "regex_replacement": {"class": "regex_replacement", "config": {"replacements": [["[Dd]ata", "files"]]}},
}
POLICIES: Mapping[str, Mapping[str, Any]] = {
    **SHIPPED,
    "serial": SERIAL,
    "panel": PANEL,
}
RECORDINGS = sorted(STREAMS.glob("*/*.sse"))
EVERYTHING = Answer(
    [
        Think("The biggest folder is the database's."),
        Say("I will remove the database."),
        Call("Bash", json.dumps({"command": "ls"}), id="call_1"),
        Call("Bash", json.dumps({"command": COMMAND}), id="call_2"),
        Call("Bash", json.dumps({"command": "ls -a"}), id="call_3"),
    ]
)


def executor_of(policy: Mapping[str, Any]) -> PolicyExecutor:
    return build_executor(load_settings({"luthien": {"policy": policy}}, {}))


def of_record(record: Mapping[str, Any], route: RouteName) -> Recorded:
    """A record in the spend logs, as the commands read it."""
    transaction = read_transaction(row(json.loads(json.dumps(record)), call_type=ROUTES[route].call_type))
    assert transaction.record is not None
    found = recorded(transaction, transaction.record)
    assert found is not None
    return found


def said(decisions: Sequence[Decision]) -> list[Any]:
    return [(one.policy, one.action, one.reason, one.message, one.evidence, one.is_vote) for one in decisions]


def blocks(content: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [(block["type"], block.get("name"), block.get("text") or block.get("arguments")) for block in content]


@pytest.mark.parametrize("is_full", [False, True], ids=["stream", "full"])
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", POLICIES)
async def test_the_decisions_and_the_blocks_are_those_of_the_transaction(
    name: str, route: RouteName, is_full: bool
) -> None:
    answer = Answer([Say("I will remove the database.")]) if route == "completions" else EVERYTHING
    outcome = await run_policy(POLICIES[name], answer, route=route, full=is_full)
    again = await rehearse(executor_of(POLICIES[name]), of_record(outcome.record, route))
    assert said(again.decisions) == said(outcome.decisions)
    assert blocks(again.content) == blocks(outcome.record["final"]["answer"]["content"])
    assert again.finish_reason == outcome.finish_reason
    assert again.outcome == outcome.record["outcome"]
    assert again.is_response_changed == outcome.record["changed"]["answer"]


# Judges


@pytest.fixture
def judge(litellm_connections: None) -> Iterator[JudgeModel]:
    with JudgeModel().served() as judge:
        judge.opinion = opinion
        yield judge


def opinion(instructions: str, shown: Mapping[str, Any]) -> object:
    """Objects to the deletion, and would have texts say something else."""
    is_harmful, is_text = "postgresql" in json.dumps(shown), shown["type"] == "text"
    if '"action"' in instructions:  # llm_rewrite
        other = [{"type": "text", "text": "Better not."}]
        return {"action": "replace", "blocks": other} if is_harmful or is_text else {"action": "pass"}
    rated = rating(0.9 if is_harmful or is_text else 0.2, "it deletes")
    return {**rated, "replacement": "I will look first."} if "replacement" in instructions else rated


JUDGES: Mapping[str, Mapping[str, Any]] = {
    "tool_call_judge": {},
    "llm_rules": {
        "rules": [
            {"name": "no deletions", "rule": "It deletes nothing.", "applies_to": ["tool_call"]},
            {"name": "modest", "rule": "It promises nothing.", "applies_to": ["text"], "action": "replace"},
            {"name": "remarked", "rule": "It is remarkable.", "action": "note", "message": "Mind this."},
        ]
    },
    "llm_rewrite": {"instructions": "Prevent deletions."},
}


@pytest.mark.parametrize("is_full", [False, True], ids=["stream", "full"])
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", JUDGES)
async def test_an_observing_judge_decides_as_one_in_force(
    judge: JudgeModel, name: str, route: RouteName, is_full: bool
) -> None:
    policy = {"class": name, "config": {**judge.config, **JUDGES[name]}}
    answer = Answer([Say("I will remove the database.")]) if route == "completions" else EVERYTHING
    in_force = await run_policy(policy, answer, route=route, full=is_full)
    asked, judge.asked = judge.asked, Log()
    without = await run_policy({"class": "noop"}, answer, route=route, full=is_full)
    observed = await rehearse(executor_of(policy), of_record(without.record, route))
    assert sorted(map(str, rated(observed.decisions))) == sorted(map(str, rated(in_force.decisions)))
    assert sorted(map(str, judge.asked)) == sorted(map(str, asked))
    assert by_kind(observed.content) == by_kind(in_force.record["final"]["answer"]["content"])
    assert observed.outcome == in_force.record["outcome"]
    assert in_force.decisions or (name, route) == ("tool_call_judge", "completions")


def rated(decisions: Sequence[Decision]) -> list[Any]:
    spent = [one.spent and one.spent.calls for one in decisions]
    return [*zip(said(decisions), (one.score for one in decisions), spent, strict=True)]


def by_kind(content: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """All text, and the calls: a judge's time decides which of them leaves first."""
    texts = [block["text"] for block in content if block["type"] == "text"]
    return {"text": "".join(texts), "calls": [one for one in blocks(content) if one[0] == "tool_call"]}


def delivered(chunks: Sequence[object]) -> object:
    """The bytes, however they were grouped, or the items of a wire of objects."""
    pieces = [chunk for chunk in chunks if isinstance(chunk, bytes)]
    return b"".join(pieces) if len(pieces) == len(chunks) else [str(chunk) for chunk in chunks]


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
async def test_with_all_shipped_policies_observed_a_recording_leaves_as_with_noop(recording: Path) -> None:
    route: Any = recording.parent.name
    members = [{**policy, "enforce": False} for policy in SHIPPED.values()]
    watched = await run_policy({"class": "serial", "config": {"policies": members}}, recording, route=route)
    plain = await run_policy({"class": "noop"}, recording, route=route)
    assert delivered(watched.chunks) == delivered(plain.chunks)
    assert (watched.decisions, watched.record["changed"]["answer"]) == ((), False)


@pytest.mark.parametrize("name", ["block_dangerous_commands", "serial", "panel"])
@pytest.mark.parametrize(
    "recording", sorted(STREAMS.glob("*/*.sse")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
async def test_recordings_are_judged_alike_from_their_blocks(recording: Path, name: str) -> None:
    route: Any = recording.parent.name
    outcome = await run_policy(POLICIES[name], recording, route=route)
    again = await rehearse(executor_of(POLICIES[name]), of_record(outcome.record, route))
    assert said(again.decisions) == said(outcome.decisions)
    assert again.outcome == outcome.record["outcome"]


class OwnWords(Policy):
    async def on_request(self, request: Request, ctx: PolicyContext) -> Request | OwnAnswer:
        assert ctx.is_observed
        if "refuse" in str(request.body):
            raise PolicyBlockedError("No.", reason="asked to")
        if "answer" in str(request.body):
            return OwnAnswer("Forty-two.")
        vars_of_body = dict(request.body)["messages"]
        vars_of_body[0]["content"] = "changed in place"
        return request


def chat(text: str) -> Recorded:
    return Recorded(
        transaction_id="t1",
        request=Request({"model": "m", "messages": [{"role": "user", "content": text}]}),
        content=[{"type": "text", "text": "hello"}],
        finish_reason="stop",
        rules=FORMATS["chat"].rules,
    )


@pytest.mark.parametrize(("asked", "delivered"), [("refuse", "No."), ("answer", "Forty-two."), ("else", "hello")])
async def test_requests_are_refused_answered_and_changed_without_an_effect(asked: str, delivered: str) -> None:
    past = chat(asked)
    done = await rehearse(PolicyExecutor(OwnWords()), past)
    assert [block["text"] for block in done.content] == [delivered]
    assert done.is_request_changed == (asked == "else")
    assert done.is_response_changed == (asked != "else")
    assert done.outcome == ("blocked" if asked == "refuse" else "complete")
    assert past.request.body["messages"] == [{"role": "user", "content": asked}]
    assert done.record()["original"]["request"]["messages"][0]["content"] == asked


async def test_an_observed_block_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    outcome = await run_policy(BLOCKS_COMMANDS, EVERYTHING)
    assert "blocked tool" in caplog.text
    caplog.clear()
    assert (await rehearse(executor_of(BLOCKS_COMMANDS), of_record(outcome.record, "chat"))).outcome == "blocked"
    assert caplog.text == ""


class Measures(ToolGatePolicy):
    """Tells of the memory that the held call counts in, and of the thread for long work."""

    async def judge_tool_call(self, tool_call: ToolCall, ctx: PolicyContext) -> Verdict:
        thread = await off_loop(threading.current_thread)
        held = "delivered" if MEMORY.taken else "apart" if MEMORY_APART.taken else "nowhere"
        return Verdict("block", message="No.", reason=f"{held}, {thread.name.rpartition('_')[0]}")


MEASURES = ConfiguredPolicy(Measures(), "measures")


@pytest.mark.parametrize("policy", [MEASURES, Parallel([MEASURES, MEASURES])], ids=["alone", "parallel"])
async def test_a_rehearsal_takes_no_memory_and_no_thread_from_what_is_delivered(policy: Composition) -> None:
    outcome = await run_policy(Measures(), EVERYTHING)
    assert {one.reason for one in outcome.decisions} == {"delivered, luthien-judging"}
    again = await rehearse(PolicyExecutor(policy), of_record(outcome.record, "chat"))
    own = [one for one in again.decisions if one.policy == "measures"]
    assert {one.reason for one in own} == {"apart, luthien-observing"}
    assert MEMORY.taken == MEMORY_APART.taken == 0


class Whole(Policy):
    async def process_full_response(self, response: object, ctx: PolicyContext) -> object:
        return response


async def test_what_needs_the_response_itself_is_not_replayable() -> None:
    with pytest.raises(NotReplayableError, match="process_full_response"):
        await rehearse(PolicyExecutor(Whole()), chat("hello"))


class CutOff(Policy):
    async def on_stream_complete(self, ctx: StreamingResponseContext) -> None:
        ctx.decide("allow", reason=f"cut off: {ctx.is_cut_off}")


@pytest.mark.parametrize("wire", list(FORMATS), ids=lambda wire: wire.name)
async def test_the_rules_of_each_wire_are_those_of_its_adapter(wire: Any) -> None:
    adapter = wire.adapter(NewResponse("m", UUID(int=1), 0))
    assert adapter.rules is wire.rules
    assert wire.rules.blocks_overlap == hasattr(adapter, "encode_unchanged") == hasattr(adapter, "is_long")
    for reason in (wire.rules.cut_reasons[0], wire.rules.stop_reason):
        past = replace(chat("hello"), rules=wire.rules, finish_reason=reason)
        [decision] = (await rehearse(PolicyExecutor(CutOff()), past)).decisions
        assert decision.reason == f"cut off: {reason != wire.rules.stop_reason}"
