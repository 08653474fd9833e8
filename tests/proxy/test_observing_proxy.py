"""Observing policies on a real proxy: the client has its whole answer while a judge of theirs is still held."""

import json
from collections.abc import Generator
from typing import Any

import pytest

from luthien_litellm_hooks.cli.show import Source
from luthien_litellm_hooks.monitor.report import report_on
from luthien_litellm_hooks.monitor.spend_logs import Filter
from luthien_litellm_hooks.monitor.transactions import Transaction
from luthien_litellm_hooks.testing.answers import Answer, Call, Gate, Say
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.clients import ROUTES
from tests.support.judge import JudgeModel, rating
from tests.support.proxy import Proxies, Proxy
from tests.support.waiting import wait_until

ANSWER = Answer([Say("I clean up."), Call("Bash", json.dumps({"command": "rm -rf /"}), id="call_a")])
CALLS = (("Bash", {"command": "rm -rf /"}),)


@pytest.fixture(scope="module")
def judge() -> Generator[JudgeModel]:
    with JudgeModel().served() as judge:
        judge.opinion = lambda _instructions, _shown: rating(0.9, "it deletes all")
        yield judge


def settings(judge: JudgeModel, *, enforce: bool) -> dict[str, Any]:
    members: list[dict[str, Any]] = [
        {"class": "block_dangerous_commands", "when": {"headers": {"x-policy": "rules*"}}},
        {"class": "tool_call_judge", "config": judge.config, "when": {"headers": {"x-policy": "*judge"}}},
    ]
    policy = {"class": "serial", "config": {"policies": members}}
    return {"policy": policy, "enforce": enforce, "record": {"bodies": "always"}}


def recorded(proxy: Proxy) -> list[Transaction]:
    """The transactions of the proxy's file, newest first."""
    if not proxy.records.exists():
        return []
    return list(Source(None, "", None, records=proxy.records).open().latest(Filter(), 1000))


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "full"])
@pytest.mark.parametrize("route", ["chat", "messages", "responses", "gemini"])
def test_an_answer_does_not_wait_for_a_held_observer_and_the_decisions_are_those_in_force(
    proxies: Proxies, provider: ScriptedProvider, judge: JudgeModel, route: str, stream: bool
) -> None:
    provider.answers["observed"] = ANSWER
    watching = proxies.get(settings(judge, enforce=False))
    before, asked = len(recorded(watching)), len(judge.asked)
    judge.gate = Gate()
    said = ROUTES[route](watching, "observed", stream, {"x-policy": "rules and judge"})
    assert said.calls == CALLS  # to its last byte, and the judge is not let go yet
    wait_until(lambda: len(judge.asked) == asked + 1)
    judge.gate.open()
    wait_until(lambda: len(recorded(watching)) == before + 1)
    record = recorded(watching)[0].record
    assert record is not None
    assert (record.outcome, record.decisions, record.changed.answer) == ("complete", (), False)
    assert isinstance(record.observed, tuple)
    would_be = {one.policy: (one.outcome, _said(one.decisions)) for one in record.observed}

    acting = proxies.get(settings(judge, enforce=True))
    in_force: dict[str, Any] = {}
    for policy, header in (("block_dangerous_commands", "rules"), ("tool_call_judge", "judge")):
        count = len(recorded(acting))
        assert ROUTES[route](acting, "observed", stream, {"x-policy": header}).calls == ()
        wait_until(lambda count=count: len(recorded(acting)) == count + 1)
        done = recorded(acting)[0].record
        assert done is not None
        assert done.observed is None
        in_force[policy] = (done.outcome, _said(done.decisions))
    assert would_be == in_force
    assert {outcome for outcome, _ in in_force.values()} == {"blocked"}
    report = report_on(recorded(watching)[: len(recorded(watching)) - before])
    assert {(one.policy, one.seen, one.blocked) for one in report.policies} == {(name, 1, 1) for name in in_force}


def _said(decisions: Any) -> list[Any]:
    return [(one.policy, one.action, one.block and one.block.name, one.reason, one.score) for one in decisions]
