"""Sends a soak's requests at a steady rate, and looks at what each client gets."""

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from soak.cases import HEADER, MODELS, Case, mix

PATIENCE_S = 60.0
_MAX_AT_ONCE = 16
"""A machine that cannot keep up gets its requests later, rather than ever more at once."""
_LEAVES_AFTER_S = 0.5
_PATHS = {"chat": "/v1/chat/completions", "messages": "/v1/messages", "responses": "/v1/responses"}
_ENDS = {"chat": "data: [DONE]", "messages": "message_stop", "responses": "response.completed"}


@dataclass(slots=True)
class Sent:
    """A request that was sent. `wrong` is what was not as it should be, if anything."""

    case: Case
    route: str
    is_streamed: bool
    call_id: str
    wrong: str | None = None

    def __str__(self) -> str:
        return f"{self.case.name}, {self.route}, {'stream' if self.is_streamed else 'full'}"


async def warm_up(client: httpx.AsyncClient) -> None:
    """Asks once for each case on each route: LiteLLM and the policies load much of themselves when it is
    first used."""
    slots = asyncio.Semaphore(_MAX_AT_ONCE)
    async with asyncio.TaskGroup() as group:
        for case, route, is_streamed in mix():
            await slots.acquire()
            group.create_task(_send(client, Sent(case, route, is_streamed, str(uuid.uuid4())), slots))


async def send_all(client: httpx.AsyncClient, rate: float, seconds: float) -> list[Sent]:
    """Sends `rate` requests a second, each as soon as it is due, and waits for all."""
    sent: list[Sent] = []
    slots = asyncio.Semaphore(_MAX_AT_ONCE)
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number, (case, route, is_streamed) in zip(range(int(rate * seconds)), _endless_mix(), strict=False):
            await asyncio.sleep(max(began + number / rate - time.monotonic(), 0))
            await slots.acquire()
            one = Sent(case, route, is_streamed, str(uuid.uuid4()))
            sent.append(one)
            group.create_task(_send(client, one, slots))
            if time.monotonic() > began + seconds:
                break
    return sent


def _endless_mix() -> Iterator[tuple[Case, str, bool]]:
    shuffler = random.Random(6)  # the same order for each proxy, and in each run
    while True:
        round_of_all = list(mix())
        shuffler.shuffle(round_of_all)
        yield from round_of_all


async def _send(client: httpx.AsyncClient, one: Sent, slots: asyncio.Semaphore) -> None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            one.wrong = await _ask(client, one)
    except TimeoutError:
        one.wrong = f"no end within {PATIENCE_S:g} s"
    except httpx.RemoteProtocolError:
        one.wrong = None if one.case.is_error else "the connection was cut"
    except httpx.HTTPError as error:
        one.wrong = repr(error)
    finally:
        slots.release()


async def _ask(client: httpx.AsyncClient, one: Sent) -> str | None:
    headers = {HEADER: one.case.policy, "x-litellm-call-id": one.call_id}
    request = client.build_request("POST", _PATHS[one.route], json=_body(one), headers=headers)
    if one.case.leaves == "before the first byte":
        return await _leave_early(client, request)
    response = await client.send(request, stream=True)
    try:
        return await _look_at(one, response)
    finally:
        await response.aclose()


async def _leave_early(client: httpx.AsyncClient, request: httpx.Request) -> str | None:
    try:
        async with asyncio.timeout(_LEAVES_AFTER_S):
            await client.send(request)
    except TimeoutError:
        return None
    return "it was answered before the client left"


async def _look_at(one: Sent, response: httpx.Response) -> str | None:
    seen = ""
    async for piece in _texts(response):
        seen += piece
        if one.case.leaves == "mid-stream" and len(seen) > 0:
            return None
    is_good = response.status_code == 200
    if one.case.is_error:
        return None if not is_good or "error" in seen or "response.failed" in seen else "no error was told"
    if not is_good:
        return f"status {response.status_code}: {seen[:200]}"
    if one.is_streamed and _ENDS[one.route] not in seen:
        return f"no end: {seen[-200:]}"
    return None if one.case.said in seen else f"{one.case.said!r} is not in {seen[-300:]}"


async def _texts(response: httpx.Response) -> AsyncIterator[str]:
    async for piece in response.aiter_text():
        yield piece


def _body(one: Sent) -> Mapping[str, Any]:
    wire = "anthropic" if one.route == "messages" else "openai"
    body: dict[str, Any] = {"model": f"{wire}/{MODELS[wire][one.case.provider]}", "stream": one.is_streamed}
    if one.route == "responses":
        return {**body, "input": "go"}
    return {**body, "messages": [{"role": "user", "content": "go"}], "max_tokens": 1000}
