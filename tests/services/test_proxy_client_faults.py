"""Clients that leave, at every moment of an answer, or do not read: what stops, what is recorded, what is paid for."""

import os
import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from luthien_litellm_hooks.testing.answers import Answer, Call, Gate, Say, Step, Wait
from luthien_litellm_hooks.testing.provider import Log, ScriptedProvider, serve
from luthien_litellm_hooks.testing.routes import RouteName
from tests.support.census import tasks
from tests.support.clients import plain_request
from tests.support.judge import JudgeModel
from tests.support.leaving import Client, SilentProvider, asking
from tests.support.postgres import spend_logs
from tests.support.proxy import Proxies, Proxy
from tests.support.waiting import LIMIT_S, seconds_without_a_core, wait_until

PROMISED_S = 1.0
"""How soon after its client a provider's connection, and a judge's, is closed."""
WORKER_S = 5.0
"""How long a worker may take to clean up."""
CALL_ID = "x-litellm-call-id"
MODELS: Mapping[RouteName, str] = {  # whose price LiteLLM knows
    "chat": "openai/gpt-4o",
    "messages": "anthropic/claude-sonnet-4-5",
    "responses": "openai/gpt-4o",
    "gemini": "gemini/gemini-2.5-flash",
}
PIECE = 40_000
MUCH = Say("".join(f"{number:07}".ljust(PIECE) for number in range(150)))
"""More than the sockets between provider and client take in; of equal chunks LiteLLM makes an error."""
LAST: Mapping[RouteName, bytes] = {
    "chat": b"[DONE]",
    "messages": b"message_stop",
    "responses": b"response.completed",
    "gemini": b"finishReason",
}
FAILURE = b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}\n\n'
TEXT = "Early words."
WORDS, CALL, OTHER_CALL = Say(TEXT), Call("look", "{}", id="call_a"), Call("look", "{}", id="call_b")
Steps = Callable[[Gate], Sequence[Step]]


@dataclass(frozen=True)
class Fault:
    """What the provider does, and what the client waits for, beside the text, before it leaves."""

    steps: Steps
    waits_for: str


FAULTS: Mapping[str, Fault] = {
    "in mid-text": Fault(lambda gate: [WORDS, Wait(gate), Say(" Late words.")], "provider"),
    "while a call is held": Fault(lambda gate: [WORDS, CALL, Wait(gate), OTHER_CALL], "provider"),
    "while a judge runs": Fault(lambda gate: [WORDS, CALL, OTHER_CALL, Wait(gate)], "judge"),
    "while a judge runs after the provider's end": Fault(lambda _: [WORDS, CALL], "judge"),
    "at the last chunk": Fault(lambda _: [WORDS], "end"),
}
SILENT = ("before the provider has answered", "before the first byte")
WITH_JUDGE = ("while a judge runs", "while a judge runs after the provider's end")
AFTER_PROVIDER = ("while a judge runs after the provider's end", "at the last chunk")


@dataclass(frozen=True)
class Cell:
    """One client that leaves."""

    fault: str
    route: RouteName
    is_streamed: bool = True

    def __str__(self) -> str:
        return f"{self.fault}, {self.route}, {'stream' if self.is_streamed else 'full'}".replace(" ", "_")

    def request(self) -> tuple[str, dict[str, Any]]:
        """The path and the body of its request."""
        return plain_request(self.route, MODELS[self.route], self.is_streamed)


@dataclass(frozen=True)
class Left:
    """What became of a client's transaction: seconds from its leaving to the end of each part that there
    was, and the row."""

    provider_s: float | None
    judge_s: float | None
    worker_s: float
    rows: Sequence[Mapping[str, Any]]

    @property
    def row(self) -> Mapping[str, Any]:
        [row] = self.rows
        return row

    @property
    def record(self) -> Mapping[str, Any]:
        return self.row["metadata"]["spend_logs_metadata"]["luthien"]


Seconds = tuple[float | None, float | None, float]
TALKING = [Cell(fault, route) for fault in FAULTS for route in MODELS]
MUTE = [Cell(fault, route, is_streamed) for fault in SILENT for route in MODELS for is_streamed in (True, False)]
EVERY = [*TALKING, *MUTE]
Leavers = Mapping[Cell, Left]


@dataclass(frozen=True)
class Setting:
    """A proxy that holds and judges calls, between its provider and a client with `key`."""

    proxy: Proxy
    key: str
    provider: ScriptedProvider
    silence: SilentProvider
    judge: JudgeModel


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory, postgres_url: str) -> Generator[Setting]:
    provider = ScriptedProvider()
    silence = SilentProvider(provider)
    with JudgeModel().served() as judge, serve(silence) as url:
        policies = [{"class": "tests.support.census:Census"}, {"class": "tool_call_judge", "config": judge.config}]
        proxies = Proxies(url, tmp_path_factory.mktemp("client-faults"))
        proxy = proxies.get(
            {
                "policy": {"class": "serial", "config": {"policies": policies}},
                "queue": {"max_items": 8, "put_timeout_s": 1},
            },
            database_url=postgres_url,
            general_settings={"store_prompts_in_spend_logs": True, "cancel_on_disconnect": True},
        )
        yield Setting(proxy, proxy.virtual_key(), provider, silence, judge)
        proxies.close()


@pytest.fixture(scope="module")
def leavers(setting: Setting, postgres_url: str) -> Leavers:
    """Clients that left, one after the other; a last one stayed, whose row shows that no other is to come."""
    stay(setting)  # the first request to a proxy takes a while
    ids, seconds = {cell: str(uuid.uuid4()) for cell in EVERY}, {}
    for cell, id in ids.items():
        seconds[cell] = (leave_silence if cell.fault in SILENT else leave)(setting, cell, id)
    wait_until(lambda: not tasks(setting.proxy))
    stay(setting)
    rows = spend_logs(postgres_url, setting.key, len(ids) + 2)
    return {
        cell: Left(*seconds[cell], [row for row in rows if row["litellm_call_id"] == id]) for cell, id in ids.items()
    }


def stay(setting: Setting) -> None:
    setting.provider.answers.clear()
    with asking(setting.proxy, setting.key, *Cell("none", "chat").request()) as client:
        client.read_until(LAST["chat"])
    wait_until(lambda: not tasks(setting.proxy))


def leave(setting: Setting, cell: Cell, id: str) -> Seconds:
    fault, gate, provider, judge = FAULTS[cell.fault], Gate(), setting.provider, setting.judge
    provider.answers[MODELS[cell.route].partition("/")[2]] = Answer(fault.steps(gate), piece=len(TEXT))
    judge.gate = Gate()
    gone, cancelled, asked = len(provider.disconnects), len(judge.cancelled), len(judge.asked)
    if fault.waits_for != "judge":
        judge.gate.open()
    with asking(setting.proxy, setting.key, *cell.request(), **{CALL_ID: id}) as client:
        client.read_until(TEXT.encode())
        match fault.waits_for:
            case "provider":
                gate.wait_reached()
                tasks(setting.proxy)  # asked later than that, so the proxy has read what the provider wrote
            case "judge":
                judge.asked.wait_for(asked + 1)
            case "end":
                client.read_until(LAST[cell.route])
        client.leave()
    left = Clock(setting.proxy)
    provider_s = None if cell.fault in AFTER_PROVIDER else left.seconds_until(provider.disconnects, gone + 1)
    judge_s = left.seconds_until(judge.cancelled, cancelled + 1) if cell.fault in WITH_JUDGE else None
    worker_s = left.seconds_until_idle()
    if cell.fault in WITH_JUDGE:  # which may have been asked more than once
        judge.cancelled.wait_for(cancelled + len(judge.asked) - asked)
    return provider_s, judge_s, worker_s


def leave_silence(setting: Setting, cell: Cell, id: str) -> Seconds:
    silence = setting.silence
    silence.is_silent, silence.has_head = True, cell.fault == "before the first byte"
    asked, gone = len(silence.asked), len(silence.gone)
    with asking(setting.proxy, setting.key, *cell.request(), **{CALL_ID: id}) as client:
        silence.asked.wait_for(asked + 1)
        client.leave()
    left = Clock(setting.proxy)
    provider_s = left.seconds_until(silence.gone, gone + 1)
    silence.is_silent = False
    return provider_s, None, left.seconds_until_idle()


class Clock:
    """Seconds from now, without those in which the proxy or the test was ready to go on and had no core to do so."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy, self._processes = proxy, (proxy.process, os.getpid())
        self._began, self._waited = time.monotonic(), seconds_without_a_core(*self._processes)

    def seconds(self) -> float:
        waited = seconds_without_a_core(*self._processes) - self._waited
        return time.monotonic() - self._began - waited

    def seconds_until(self, log: Log[Any], count: int) -> float:
        log.wait_for(count)
        return self.seconds()

    def seconds_until_idle(self) -> float:
        """Until no worker runs in the proxy."""
        wait_until(lambda: not any(name.startswith("luthien-") for name in tasks(self._proxy)))
        return self.seconds()


@pytest.mark.parametrize("cell", [cell for cell in EVERY if cell.fault not in AFTER_PROVIDER], ids=str)
def test_the_providers_connection_is_closed_within_a_second(leavers: Leavers, cell: Cell) -> None:
    assert (leavers[cell].provider_s or 0) < PROMISED_S


@pytest.mark.parametrize("cell", [cell for cell in TALKING if cell.fault in WITH_JUDGE], ids=str)
def test_the_judges_calls_are_cancelled_within_a_second(leavers: Leavers, cell: Cell) -> None:
    assert (leavers[cell].judge_s or 0) < PROMISED_S


@pytest.mark.parametrize("cell", EVERY, ids=str)
def test_the_worker_ends(leavers: Leavers, cell: Cell) -> None:
    assert leavers[cell].worker_s < WORKER_S


@pytest.mark.parametrize("cell", [cell for cell in EVERY if cell.fault != "at the last chunk"], ids=str)
def test_the_one_row_says_that_the_client_has_left(leavers: Leavers, cell: Cell) -> None:
    assert leavers[cell].record["outcome"] == "client_disconnected"


@pytest.mark.parametrize("cell", TALKING, ids=str)
def test_what_was_said_until_then_is_paid_for_and_recorded(leavers: Leavers, cell: Cell) -> None:
    left = leavers[cell]
    assert left.row["spend"] > 0
    assert left.row["completion_tokens"] > 0
    assert [block["text"] for block in left.record["final"]["answer"]["content"]] == [TEXT]
    came = [block["type"] for block in left.record["original"]["answer"]["content"]]
    assert came == ["text"] + ["tool_call"] * (len(came) - 1)
    assert ("tool_call" in came) is (cell.fault not in ("in mid-text", "at the last chunk"))


@pytest.mark.parametrize("route", MODELS)
def test_of_an_answer_that_was_read_to_its_end_all_is_paid_for(leavers: Leavers, route: RouteName) -> None:
    left = leavers[Cell("at the last chunk", route)]
    assert left.record["outcome"] in ("complete", "client_disconnected")
    assert (left.row["prompt_tokens"], left.row["completion_tokens"]) == (11, 7)


def test_a_client_that_leaves_when_it_is_told_of_the_providers_failure_has_not_ended_the_answer(
    setting: Setting, postgres_url: str
) -> None:
    silence, key = setting.silence, setting.proxy.virtual_key()
    silence.is_silent = silence.has_head = True
    silence.first_words = FAILURE
    with asking(setting.proxy, key, *Cell("told of a failure", "messages").request()) as client:
        client.read_until(b"overloaded_error")
        gone = len(silence.gone)
        client.leave()
    silence.gone.wait_for(gone + 1)
    silence.is_silent, silence.first_words = False, b""
    [row] = spend_logs(postgres_url, key, 1)
    assert row["metadata"]["spend_logs_metadata"]["luthien"]["outcome"] == "provider_error"


@dataclass(frozen=True)
class Unread:
    """The row of an answer that nobody read to its end, written while its client was still there, and what
    the client read when it went on."""

    row: Mapping[str, Any]
    received: bytes


@pytest.fixture(scope="module")
def unread(setting: Setting, postgres_url: str) -> Mapping[RouteName, Unread]:
    """Clients that read the beginning of an answer, and nothing more until each had its row."""
    key, ids = setting.proxy.virtual_key(), {route: str(uuid.uuid4()) for route in MODELS}
    with ExitStack() as stack:
        clients = {route: stack.enter_context(stop_reading(setting, key, route, id)) for route, id in ids.items()}
        wait_until(lambda: not tasks(setting.proxy))
        rows = {row["litellm_call_id"]: row for row in spend_logs(postgres_url, key, len(ids))}
        for route, client in clients.items():
            client.read_until(LAST[route])
    stay(replace(setting, key=key))
    assert len(spend_logs(postgres_url, key, len(ids) + 1)) == len(ids) + 1
    return {route: Unread(rows[ids[route]], bytes(client.received)) for route, client in clients.items()}


@contextmanager
def stop_reading(setting: Setting, key: str, route: RouteName, id: str) -> Generator[Client]:
    """A client whose provider has been let go, and which has not."""
    provider, gate = setting.provider, Gate()
    provider.answers[MODELS[route].partition("/")[2]] = Answer([WORDS, MUCH, Wait(gate)], piece=PIECE)
    gone = len(provider.disconnects)
    with asking(setting.proxy, key, *Cell("none", route).request(), **{CALL_ID: id}) as client:
        client.read_until(TEXT.encode())
        provider.disconnects.wait_for(gone + 1, LIMIT_S)
        yield client


@pytest.mark.parametrize("route", MODELS)
def test_a_client_that_does_not_read_is_given_up_recorded_and_paid_for(
    unread: Mapping[RouteName, Unread], route: RouteName
) -> None:
    row = unread[route].row
    assert row["metadata"]["spend_logs_metadata"]["luthien"]["outcome"] == "client_disconnected"
    assert row["spend"] > 0


@pytest.mark.parametrize("route", MODELS)
def test_a_client_that_reads_again_is_told_that_the_answer_was_stopped(
    unread: Mapping[RouteName, Unread], route: RouteName
) -> None:
    received = unread[route].received
    assert b"This answer was stopped because it was not read" in received
    assert f"{len(MUCH.text) // PIECE - 1:07}".encode() not in received
