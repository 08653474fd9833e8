"""What outlives a worker that is killed, or asked to end, in the midst of a stream."""

import json
import os
import signal
import subprocess
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import redis
from typer.testing import CliRunner

from luthien_litellm_hooks.cli import app
from luthien_litellm_hooks.testing.answers import Answer, Gate, Say, Wait
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.postgres import spend_logs
from tests.support.preloaded import Forked
from tests.support.prisma_client import prisma_environment
from tests.support.proxy import KEY, STARTUP_HOOKS, Proxy, proxy_config, starting_proxy, wait_for_start
from tests.support.traffic import ANSWERS, POLICIES, WAYS, policy_of
from tests.support.waiting import wait_until

DONE = 5
"""Requests that are over before the worker is killed."""
PATIENCE_S = 60
BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}], "stream": True}
REQUESTED, ANSWERED = "transaction.request_recorded", "transaction.streaming_response_recorded"
RECORDED = "transaction.recorded"


@contextmanager
def started(
    provider_url: str, postgres_url: str, redis_url: str, folder: Path, *, writes: bool
) -> Generator[tuple[Proxy, "subprocess.Popen[bytes] | Forked"]]:
    """A proxy that publishes events to a file and to Redis, and writes spend logs at once or only at its end."""
    events = {"jsonl": str(folder / "events.jsonl"), "redis": redis_url}
    config = proxy_config(provider_url, {"policy": {"class": "noop"}, "events": events})
    environment = {} if writes else {STARTUP_HOOKS: "tests.support.startup:write_never"}
    with starting_proxy(config, folder / "proxy", prisma_environment(postgres_url) | environment) as (process, proxy):
        wait_for_start(process, proxy)
        yield proxy, process


@pytest.fixture
def gate(provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch) -> Generator[Gate]:
    """Where the model `held` waits, when it has said a word."""
    gate = Gate()
    monkeypatch.setitem(provider.answers, "held", Answer([Say("one "), Wait(gate), Say("two")]))
    monkeypatch.setitem(provider.answers, "says", Answer([Say("one two")]))
    yield gate
    gate.open()


@pytest.fixture(autouse=True)
def empty_stream(redis_url: str) -> None:
    redis.Redis.from_url(redis_url).delete("luthien:events")


def ask(proxy: Proxy, key: str, model: str = "says") -> None:
    """One request, to its end."""
    response = httpx.post(
        f"{proxy.url}/v1/chat/completions",
        json={**BODY, "model": f"openai/{model}"},
        headers={"Authorization": f"Bearer {key}"},
        timeout=60,
    )
    assert response.text.endswith("data: [DONE]\n\n")


@contextmanager
def held_stream(proxy: Proxy, key: str) -> Generator[Iterator[str]]:
    """What is still to come of an answer whose first word has come."""
    with httpx.stream(
        "POST",
        f"{proxy.url}/v1/chat/completions",
        json={**BODY, "model": "openai/held"},
        headers={"Authorization": f"Bearer {key}"},
        timeout=60,
    ) as response:
        items = response.iter_text()
        while "one" not in next(items):
            pass
        yield items


def in_file(folder: Path) -> list[str]:
    """The types of the events in the file, in their order."""
    file = folder / "events.jsonl"
    return [json.loads(line)["type"] for line in file.read_text().splitlines()] if file.exists() else []


def in_redis(url: str) -> list[str]:
    """The types of the events in Redis, in their order."""
    entries: Sequence[Any] = redis.Redis.from_url(url).xrange("luthien:events")
    return [json.loads(fields[b"event"])["type"] for _, fields in entries]


def counted(types: Sequence[str]) -> tuple[int, int]:
    """How many requests are told of, and how many answers."""
    return types.count(REQUESTED), types.count(ANSWERED)


def rows(url: str, key: str) -> int:
    with psycopg.connect(url) as connection:
        query = "SELECT count(*) FROM \"LiteLLM_SpendLogs\" WHERE api_key = encode(sha256(%s::bytea), 'hex')"
        [count] = connection.execute(query, [key.encode()]).fetchone() or [0]
    return count


def test_a_killed_worker_loses_the_record_of_the_stream_that_ran_and_nothing_else(
    provider_url: str, postgres_url: str, redis_url: str, tmp_path: Path, gate: Gate
) -> None:
    with started(provider_url, postgres_url, redis_url, tmp_path, writes=True) as (proxy, process):
        key = proxy.virtual_key()
        for _ in range(DONE):
            ask(proxy, key)
        assert len(spend_logs(postgres_url, key, DONE)) == DONE
        with held_stream(proxy, key) as items:
            wait_until(lambda: counted(in_file(tmp_path))[0] == counted(in_redis(redis_url))[0] == DONE + 1)
            os.kill(process.pid, signal.SIGKILL)
            process.wait(PATIENCE_S)
            with pytest.raises(httpx.RemoteProtocolError):
                list(items)
    assert rows(postgres_url, key) == DONE
    assert counted(in_file(tmp_path)) == counted(in_redis(redis_url)) == (DONE + 1, DONE)


@pytest.mark.usefixtures("gate")
def test_rows_that_litellm_has_not_written_yet_are_lost_with_a_killed_worker_and_their_events_are_not(
    provider_url: str, postgres_url: str, redis_url: str, tmp_path: Path
) -> None:
    with started(provider_url, postgres_url, redis_url, tmp_path, writes=False) as (proxy, process):
        key = proxy.virtual_key()
        for _ in range(DONE):
            ask(proxy, key)
        wait_until(lambda: counted(in_file(tmp_path)) == counted(in_redis(redis_url)) == (DONE, DONE))
        os.kill(process.pid, signal.SIGKILL)
        process.wait(PATIENCE_S)
    assert rows(postgres_url, key) == 0
    assert counted(in_file(tmp_path)) == counted(in_redis(redis_url)) == (DONE, DONE)


def test_a_worker_that_is_asked_to_end_finishes_its_streams_and_then_writes_what_waits(
    provider_url: str, postgres_url: str, redis_url: str, tmp_path: Path, gate: Gate
) -> None:
    with started(provider_url, postgres_url, redis_url, tmp_path, writes=False) as (proxy, process):
        key = proxy.virtual_key()
        for _ in range(DONE):
            ask(proxy, key)
        with held_stream(proxy, key) as items:
            proxy.http.close()
            os.kill(process.pid, signal.SIGTERM)
            wait_until(lambda: "Shutting down" in proxy.output)
            gate.open()
            rest = "".join(items)
        process.wait(PATIENCE_S)
    assert "two" in rest
    assert rest.endswith("data: [DONE]\n\n")
    assert rows(postgres_url, key) == DONE + 1
    assert counted(in_file(tmp_path)) == counted(in_redis(redis_url)) == (DONE + 1, DONE + 1)


def replay(folder: Path) -> dict[str, Any]:
    """What a replay of the events says, with the policies that were in force."""
    (folder / "same.yaml").write_text(json.dumps({"policy": policy_of(*POLICIES)}))
    arguments = ["replay", str(folder / "same.yaml"), "--from", str(folder / "events.jsonl"), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_events_of_a_killed_worker_are_judged_as_far_as_they_go(
    provider: ScriptedProvider, provider_url: str, tmp_path: Path, gate: Gate
) -> None:
    provider.answers |= ANSWERS
    events = tmp_path / "events.jsonl"
    luthien = {
        "policy": policy_of(*POLICIES),
        "record": {"bodies": "always"},
        "events": {"jsonl": str(events)},
    }
    with (
        starting_proxy(proxy_config(provider_url, luthien), tmp_path / "proxy", {}) as (process, proxy),
        ThreadPoolExecutor() as threads,
    ):
        wait_for_start(process, proxy)
        held = threads.submit(ask, proxy, KEY, "held")
        gate.wait_reached()
        for way in WAYS:
            threads.submit(way.ask, proxy, KEY)
        wait_until(lambda: in_file(tmp_path).count(RECORDED) > len(WAYS) // 4)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(PATIENCE_S)
        assert isinstance(held.exception(), httpx.TransportError)
    types = in_file(tmp_path)
    whole, begun = types.count(RECORDED), types.count(REQUESTED)
    report = replay(tmp_path)
    assert (report["transactions"], report["changed_transactions"], report["notes"]) == (whole, 0, [])
    assert report["counterfactual"]["transactions"] == 0
    assert report["not_replayed"] == {"the events end before the record": begun - whole}

    lines = events.read_text().splitlines()
    last = max(number for number, line in enumerate(lines) if json.loads(line)["type"] == RECORDED)
    kept = [*lines[:last], lines[last][: len(lines[last]) // 2]]  # as a full disk cuts it
    events.write_text("\n".join(kept))
    report = replay(tmp_path)
    assert (report["transactions"], report["changed_transactions"]) == (whole - 1, 0)
    assert report["notes"] == ["Lines that are no part of a transaction: 1 not a JSON object."]
