"""Many streams at once through a real proxy: none is mixed up, none is left over, and memory stays flat."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import psutil
import pytest

from luthien_litellm_hooks.testing.answers import Answer, Gate, Say, Wait
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from soak.gauges import PATH, Gauges
from tests.proxy.test_proxy_approvals import HELD, asking, script
from tests.proxy.test_records import WITH_TEXTS, assert_many_are_kept, kept
from tests.support.approving import approvals, waiting_for
from tests.support.judge import JudgeModel
from tests.support.proxy import KEY, Proxy, proxy_config, running_proxy
from tests.support.waiting import wait_until

WAVES = (500, 100, 100)
"""Streams at once. The first is more than LiteLLM's own warm-up."""
MAX_OBJECTS = 20
"""How many Python objects each stream may leave behind, caches of LiteLLM's included."""
AT_REST = 100
"""How many a process may free meanwhile that is at rest."""
WORKERS = 4
SEVERAL = {"NUM_WORKERS": str(WORKERS), "TIMEOUT_WORKER_HEALTHCHECK": "300"}
"""Uvicorn kills a worker that is too busy to answer for so many seconds, otherwise five."""
PATIENCE_S = 300
"""How long a judge may take, and a test waits, on a machine that is busy with other tests."""


@contextmanager
def started(
    provider_url: str, folder: Path, settings: Mapping[str, Any], **environment: str
) -> Generator[tuple[Proxy, Path]]:
    """A proxy with these settings, and the file of its events."""
    events = folder / "events.jsonl"
    config = proxy_config(provider_url, {**settings, "events": {"jsonl": str(events)}})
    config["router_settings"]["num_retries"] = 2  # LiteLLM may pick a connection that is just being closed as idle
    environment |= {"LITELLM_WORKER_STARTUP_HOOKS": "soak.gauges:serve"}
    with running_proxy(config, folder / "proxy", environment) as proxy:
        yield proxy, events


def gauges(proxy: Proxy, *, is_collected: bool = True) -> Gauges:
    return Gauges(**proxy.http.get(PATH, params={"is_collected": is_collected}).json())


def at_rest(proxy: Proxy) -> Gauges:
    """What a process holds when it frees nothing more: LiteLLM still logs what has been answered."""
    before = gauges(proxy)
    while (now := gauges(proxy)).objects < before.objects - AT_REST:
        before = now
    return now


async def until(is_so: Callable[[], bool], every_s: float = 0.05) -> None:
    """Looks every so often until it is so."""
    await asyncio.to_thread(wait_until, is_so, PATIENCE_S, every_s)


def outcomes(events: Path) -> list[str]:
    """How the transactions ended of which the events tell, in that order."""
    told = [json.loads(line) for line in events.read_text().splitlines()] if events.exists() else []
    return [one["data"]["outcome"] for one in told if one["type"] == "transaction.streaming_response_recorded"]


def workers(proxy: Proxy) -> list[psutil.Process]:
    """The processes that may answer: those that the parent of one has started."""
    parent = psutil.Process(gauges(proxy).process).parent()
    assert parent is not None
    return parent.children()


def is_connected(process: psutil.Process, url: str) -> bool:
    port = urlsplit(url).port
    return any(one.raddr and one.raddr.port == port for one in process.net_connections("tcp"))


def spoken(stream: str) -> str:
    """The text of a chat stream."""
    payloads = [line.removeprefix("data: ") for line in stream.splitlines() if line.startswith("data: {")]
    choices = [choice for payload in payloads for choice in json.loads(payload)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


@pytest.fixture
def judge() -> Iterator[JudgeModel]:
    with JudgeModel().served() as judge:
        yield judge


async def streamed(client: openai.AsyncOpenAI, number: int) -> tuple[str, str]:
    """The text and the arguments of the call that a client gets."""
    said = f'say: number {number}\ncall: look {{"at": {number}}}'
    text = arguments = ""
    stream = await client.chat.completions.create(
        model="openai/scripted", messages=[{"role": "user", "content": said}], stream=True
    )
    async for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            arguments += "".join(
                call.function.arguments or "" for call in choice.delta.tool_calls or () if call.function
            )
    return text, arguments


async def test_five_hundred_held_streams_at_once_leave_nothing_behind(
    provider_url: str, judge: JudgeModel, tmp_path: Path
) -> None:
    policy = {"class": "tool_call_judge", "config": {**judge.config, "timeout_s": PATIENCE_S}, "timeout_s": PATIENCE_S}
    held: list[Gauges] = []
    with started(provider_url, tmp_path, {"policy": policy}) as (proxy, events):
        for wave, streams in enumerate(WAVES):
            judge.gate = Gate()
            before = sum(WAVES[:wave])
            async with openai.AsyncOpenAI(
                base_url=f"{proxy.url}/v1", api_key=KEY, max_retries=0, timeout=PATIENCE_S
            ) as client:
                answers = asyncio.gather(*(streamed(client, number) for number in range(streams)))
                await asyncio.to_thread(judge.asked.wait_for, before + streams, PATIENCE_S)
                judge.gate.open()
                assert await answers == [(f"number {number}", f'{{"at": {number}}}') for number in range(streams)]
            await until(lambda: not gauges(proxy, is_collected=False).tasks)
            await until(lambda count=before + streams: len(outcomes(events)) == count)
            held.append(at_rest(proxy))
        # LiteLLM keeps some for a minute, and each look takes a full collection of garbage.
        await until(lambda: gauges(proxy).objects < held[1].objects + MAX_OBJECTS * WAVES[-1], every_s=4)
        assert Counter(outcomes(events)) == {"complete": sum(WAVES)}
        assert "unfinished" not in proxy.output
    assert held[-1].resident < held[0].resident * 1.05


@pytest.fixture(scope="module")
def several(provider_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Proxy, Path]]:
    """A proxy with four workers, each of which imports LiteLLM by itself, and the file of its events."""
    replaces = {"class": "string_replacement", "config": {"replacements": [["orchid", "tulip"]]}}
    policy = {"class": "serial", "config": {"policies": [replaces, WITH_TEXTS["policy"], HELD["policy"]]}}
    folder = tmp_path_factory.mktemp("several")
    with started(provider_url, folder, {**WITH_TEXTS, **HELD, "policy": policy}, **SEVERAL) as (proxy, events):
        wait_until(lambda: proxy.output.count("Application startup complete") == WORKERS, PATIENCE_S)
        yield proxy, events


async def test_each_of_four_workers_governs(
    several: tuple[Proxy, Path], provider: ScriptedProvider, provider_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (proxy, events), gate = several, Gate()
    monkeypatch.setitem(provider.answers, "held", Answer([Say("an orchid, "), Wait(gate), Say("and an orchid")]))
    body = {"model": "openai/held", "messages": [{"role": "user", "content": "x"}], "stream": True}
    async with httpx.AsyncClient(
        base_url=proxy.url,
        headers={"Authorization": f"Bearer {KEY}"},
        timeout=PATIENCE_S,
        limits=httpx.Limits(max_connections=None),
    ) as client:
        asked: list[asyncio.Task[httpx.Response]] = []
        seen, running, stopped = len(provider.requests), workers(proxy), list[psutil.Process]()
        while len(stopped) < WORKERS:
            asked.append(asyncio.create_task(client.post("/v1/chat/completions", json=body)))
            await asyncio.to_thread(provider.requests.wait_for, seen + len(asked), PATIENCE_S)
            [serving] = [process for process in running if is_connected(process, provider_url)]
            serving.suspend()  # so that another takes the next one
            running.remove(serving)
            stopped.append(serving)
        for process in stopped:
            process.resume()
        gate.open()
        texts = [spoken(response.text) for response in await asyncio.gather(*asked)]
    assert texts == ["an tulip, and an tulip"] * WORKERS
    await until(lambda: len(outcomes(events)) == len(kept(proxy.records)) == WORKERS)
    assert set(outcomes(events)) == {"complete"}


def test_four_workers_share_the_file_of_records(several: tuple[Proxy, Path], provider: ScriptedProvider) -> None:
    proxy, _ = several
    assert_many_are_kept(proxy, provider)
    assert proxy.output.count("records of transactions are in") > 1
    assert "cannot be written" not in proxy.output


def test_four_workers_share_the_approvals(several: tuple[Proxy, Path], provider: ScriptedProvider) -> None:
    (proxy, _), tool, asked = several, "push_of_several", 6
    script(provider, tool, '{"branch": "main"}')
    with ThreadPoolExecutor(asked) as pool:
        clients = [asking(pool, proxy, "chat", tool) for _ in range(asked)]
        for number in range(asked):  # of identical calls one passes with each approval
            approvals(proxy, "approve", waiting_for(proxy, tool)["id"])
            wait_until(lambda number=number: sum(client.done() for client in clients) > number)
    assert all(client.result().calls == ((tool, {"branch": "main"}),) for client in clients)
