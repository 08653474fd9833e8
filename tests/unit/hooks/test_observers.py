"""Observing policies in the hooks: they judge after the client has the response, and nothing of theirs reaches it."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from litellm.proxy._types import UserAPIKeyAuth

from luthien_litellm_hooks import Policy, PolicyBlockedError, PolicyContext, Request, StreamingResponseContext
from luthien_litellm_hooks.config.settings import load_settings
from luthien_litellm_hooks.hooks import observers
from luthien_litellm_hooks.hooks.active_policy import ActivePolicy
from luthien_litellm_hooks.hooks.enforcement import Enforcement
from luthien_litellm_hooks.hooks.spend_logs import _record_of  # pyright: ignore[reportPrivateUsage]
from luthien_litellm_hooks.hooks.transaction import Transaction, current_transaction, set_current
from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.routes import ROUTES
from tests.support.telemetry import Observed

HERE = __name__
CHAT = ROUTES["chat"]
ANSWER = Answer([Say("I clean up."), Call("Bash", json.dumps({"command": "rm -rf /"}), id="call_a")])
BLOCKS = {"class": "block_dangerous_commands"}
OBSERVED = {**BLOCKS, "enforce": False}


class Raises(Policy):
    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        raise RuntimeError("no")


class Refuses(Policy):
    async def on_request(self, request: Request, ctx: PolicyContext) -> Request:
        raise PolicyBlockedError("No.")


class Breaks(Policy):
    """Needs LiteLLM's own object."""

    async def process_full_response(self, response: object, ctx: PolicyContext) -> object:
        return response


class Held(Policy):
    """Waits until the test lets it go on."""

    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        GATE["entered"].set()
        await GATE["let go"].wait()
        ctx.decide("block", reason="at last")


GATE: dict[str, asyncio.Event] = {}


@pytest.fixture(autouse=True)
def gate() -> None:
    """Closes the gate of `Held`, for the loop of this test."""
    GATE.update({"entered": asyncio.Event(), "let go": asyncio.Event()})


async def entered() -> None:
    """Returns once `Held` judges."""
    async with asyncio.timeout(60):
        await GATE["entered"].wait()


def serial(*policies: Mapping[str, Any]) -> dict[str, Any]:
    return {"policy": {"class": "serial", "config": {"policies": [*policies]}}}


def active(settings: Mapping[str, Any]) -> ActivePolicy:
    return ActivePolicy.of(load_settings({"luthien": {**settings, "record": {"bodies": "always"}}}, {}), {})


class Proxy:
    """The hooks of one process, as LiteLLM calls them for a streamed chat."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.told = Observed()
        self.enforcement = Enforcement(self.told.telemetry)
        self.in_force = active(settings)

    async def ask(self, *, leaves_after: int = 1_000, **fields: Any) -> tuple[list[object], Transaction]:
        """Asks in a task of its own, which ends as a client's does, and returns what it got."""
        return await asyncio.create_task(self._ask(leaves_after, fields))

    async def _ask(self, leaves_after: int, fields: dict[str, Any]) -> tuple[list[object], Transaction]:
        set_current(None)
        body = {"model": "m", "messages": [{"role": "user", "content": "Clean up."}], "stream": True, **fields}
        url = "http://proxy/v1/chat/completions"
        data = {**body, "metadata": {}, "proxy_server_request": {"body": dict(body), "url": url}}
        user = UserAPIKeyAuth(token="a" * 64)
        await self.enforcement.on_request("luthien", self.in_force, user, data, "acompletion")
        stream = self.enforcement.on_stream("luthien", _provided(body), data, user)
        got: list[object] = []
        async for chunk in stream:
            got.append(chunk)
            if len(got) >= leaves_after:
                break
        await stream.aclose()
        transaction = current_transaction()
        assert transaction is not None
        return got, transaction


async def _provided(body: dict[str, Any]) -> AsyncIterator[object]:
    async for chunk in CHAT.stream(ANSWER, body):
        yield chunk


async def observed(transaction: Transaction) -> Any:
    """The record's part of the observers, once all of them have spoken."""
    entry = transaction.log_entry
    assert entry is not None
    assert entry.observation is not None
    async with asyncio.timeout(60):
        await entry.observation.done.wait()
    return json.loads(json.dumps(_record_of(entry)))["observed"]


def texts(chunks: list[object]) -> list[str]:
    return [str(getattr(chunk, "choices", chunk)) for chunk in chunks]


def commands(chunks: list[Any]) -> str:
    """The arguments of the calls that the client got."""
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    return "".join(call.function.arguments or "" for delta in deltas for call in delta.tool_calls or ())


async def test_the_client_gets_what_noop_gives_and_the_record_what_would_have_been() -> None:
    plain, without = await Proxy({"policy": {"class": "noop"}}).ask()
    proxy = Proxy(serial(OBSERVED, {"class": "all_caps", "enforce": False}, {"class": "noop"}))
    got, transaction = await proxy.ask()
    assert texts(got) == texts(plain)
    rules, caps = await observed(transaction)
    assert (rules["policy"], rules["outcome"]) == ("block_dangerous_commands", "blocked")
    assert rules["changed"] == {"request": False, "answer": True}
    [decision] = rules["decisions"]
    assert (decision["action"], decision["block"]["name"]) == ("block", "Bash")
    assert "[luthien]" in rules["answer"]["content"][-1]["text"]
    assert rules["milliseconds"] > 0
    assert caps["answer"]["content"][0]["text"] == "I CLEAN UP."
    assert caps["answer"]["content"][1]["name"] == "Bash"  # each stands alone
    entry, before = transaction.log_entry, without.log_entry
    assert entry is not None
    assert before is not None
    record = _record_of(entry)
    assert (record["outcome"], record["decisions"], record["changed"]["answer"]) == ("complete", [], False)
    assert [policy["name"] for policy in record["policies"]] == ["noop"]
    assert "observed" not in _record_of(before)
    assert proxy.told.metric("luthien_decisions_total") == {("block_dangerous_commands", "block", "observed"): 1}
    assert list(proxy.told.metric("luthien_transactions_total")) == [("chat", "complete")]


async def test_an_observer_sees_what_was_delivered() -> None:
    proxy = Proxy(serial(BLOCKS, OBSERVED))
    _, transaction = await proxy.ask()
    [entry] = await observed(transaction)
    assert (entry["outcome"], entry["decisions"]) == ("complete", [])


async def test_enforce_beside_the_policy_observes_all() -> None:
    proxy = Proxy({"policy": BLOCKS, "enforce": False})
    got, transaction = await proxy.ask()
    assert "rm -rf" in commands(got)
    assert [one["outcome"] for one in await observed(transaction)] == ["blocked"]
    assert "only observed: block_dangerous_commands" in str(proxy.in_force)
    assert not proxy.in_force.judges


async def test_a_policy_is_in_force_for_some_and_observes_the_others() -> None:
    proxy = Proxy({"policy": {**BLOCKS, "enforce": {"models": ["strict"]}}})
    strict, of_strict = await proxy.ask(model="strict")
    assert "rm -rf" not in commands(strict)
    assert of_strict.log_entry is not None
    assert of_strict.log_entry.observation is None
    lax, of_lax = await proxy.ask(model="lax")
    assert "rm -rf" in commands(lax)
    assert [one["outcome"] for one in await observed(of_lax)] == ["blocked"]


async def test_the_client_has_its_last_byte_while_an_observer_is_still_held() -> None:
    proxy = Proxy(serial({"class": f"{HERE}:Held", "enforce": False}))
    got, transaction = await proxy.ask()
    entry = transaction.log_entry
    assert entry is not None
    assert "rm -rf" in commands(got)
    await entered()
    assert _record_of(entry)["observed"] == "late"
    GATE["let go"].set()
    [held] = await observed(transaction)
    assert [one["reason"] for one in held["decisions"]] == ["at last"]


async def test_an_observer_that_fails_hangs_or_cannot_judge_touches_nothing() -> None:
    plain, _ = await Proxy({"policy": {"class": "noop"}}).ask()
    proxy = Proxy(
        serial(
            {"class": f"{HERE}:Raises", "enforce": False},
            {"class": f"{HERE}:Held", "enforce": False, "timeout_s": 0.01},
            {"class": f"{HERE}:Breaks", "enforce": False},
            OBSERVED,
        )
    )
    got, transaction = await proxy.ask()
    assert texts(got) == texts(plain)
    raises, held, breaks, rules = await observed(transaction)
    assert (raises["outcome"], raises["decisions"][0]["error"]) == ("policy_error", "RuntimeError")
    assert held["outcome"] == "timeout"
    assert "process_full_response" in breaks["error"]
    assert "outcome" not in breaks
    assert rules["outcome"] == "blocked"
    assert proxy.told.metric("luthien_observed_dropped_total") == {("not replayable",): 1}


@pytest.mark.parametrize("bounds", [{"MAX_WAITING": 1}, {"MAX_CHARACTERS": 200}], ids=str)
async def test_beyond_a_bound_answers_are_not_observed_but_counted(
    monkeypatch: pytest.MonkeyPatch, bounds: Mapping[str, int]
) -> None:
    for name, bound in {"MAX_AT_ONCE": 1, **bounds}.items():
        monkeypatch.setattr(observers, name, bound)
    proxy = Proxy(serial({"class": f"{HERE}:Held", "enforce": False}))
    _, first = await proxy.ask()
    await entered()
    _, second = await proxy.ask()
    await asyncio.sleep(0)  # its observer takes the one place to wait
    _, third = await proxy.ask()
    assert await observed(third) == "full"
    GATE["let go"].set()
    assert [len(await observed(one)) for one in (first, second)] == [1, 1]
    _, fourth = await proxy.ask()
    assert len(await observed(fourth)) == 1
    assert proxy.told.metric("luthien_observed_dropped_total") == {("full",): 1}


async def test_an_answer_that_the_client_left_is_not_observed() -> None:
    proxy = Proxy(serial(OBSERVED))
    _, transaction = await proxy.ask(leaves_after=1)
    assert await observed(transaction) == "unfinished"


async def test_a_request_that_was_refused_has_no_answer_to_observe() -> None:
    proxy = Proxy(serial({"class": f"{HERE}:Refuses"}, OBSERVED))
    _, transaction = await proxy.ask()
    entry = transaction.log_entry
    assert entry is not None
    assert (_record_of(entry)["outcome"], _record_of(entry)["observed"]) == ("blocked", "unanswered")
