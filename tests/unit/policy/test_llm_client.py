"""The calls that policies make themselves: over real sockets, and where the transport fails."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import litellm
import pytest
import respx
from litellm.caching.caching import Cache

from luthien_litellm_hooks import PolicyContext, Request, Spent
from luthien_litellm_hooks.errors import JudgeError
from luthien_litellm_hooks.policy import llm_client
from luthien_litellm_hooks.policy.llm_client import LiteLLMClient, text_of
from luthien_litellm_hooks.testing.answers import Answer, Gate, Say, Wait
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.chat import full

BASE = "http://judge.test/v1"
REQUEST = Request({"model": "openai/judge", "messages": [{"role": "user", "content": "say: fine"}]})
REPLY: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "judge",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "fine"}}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}


@pytest.fixture(autouse=True)
def _fresh_connections() -> None:
    """LiteLLM keeps connections for longer than the event loop of a test lives."""
    litellm.in_memory_llm_clients_cache.flush_cache()


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[respx.Route]:
    """What a client's request meets, in place of a network; it is asked again at once."""
    monkeypatch.setattr(litellm, "disable_aiohttp_transport", True)
    monkeypatch.setattr(llm_client, "_PAUSES_S", (0.0, 0.0, 0.0))
    with respx.mock() as mock:
        yield mock.post(f"{BASE}/chat/completions")


def client(url: str, **options: Any) -> LiteLLMClient:
    return LiteLLMClient(f"{url}/v1", "k", **options)


async def test_it_asks_the_model_at_the_base_with_the_key(provider: ScriptedProvider, provider_url: str) -> None:
    response = await client(provider_url).complete(REQUEST.replace(temperature=0.5))
    assert text_of(response) == "fine"
    seen = provider.requests[-1]
    assert seen.headers["authorization"] == "Bearer k"
    assert seen.body == {"model": "judge", "messages": REQUEST.messages, "temperature": 0.5}


async def test_it_streams(provider_url: str) -> None:
    chunks = [chunk async for chunk in client(provider_url).stream(REQUEST)]
    assert len(chunks) > 1
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "fine"


async def test_no_cache_answers_it(
    provider: ScriptedProvider, provider_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(litellm, "cache", Cache())
    before = len(provider.requests)
    for _ in range(2):
        await client(provider_url).complete(REQUEST)
    assert len(provider.requests) == before + 2


async def test_a_model_that_never_answers_is_given_up(provider: ScriptedProvider, provider_url: str) -> None:
    gate = Gate()
    provider.answers["judge-held"] = Answer([Wait(gate), Say("late")])
    with pytest.raises(JudgeError, match=r"openai/judge-held gave no response within 0\.2 s"):
        await client(provider_url, timeout_s=0.2).complete(REQUEST.replace(model="openai/judge-held"))
    gate.open()


async def test_litellms_own_limit_that_ends_at_the_same_moment_makes_no_other_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def acompletion(**_: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise litellm.Timeout("too late", "judge", "openai") from None

    monkeypatch.setattr(litellm, "acompletion", acompletion)
    with pytest.raises(JudgeError, match=r"gave no response within 0\.01 s"):
        await LiteLLMClient(BASE, "k", timeout_s=0.01).complete(REQUEST)


async def test_a_model_group_needs_a_proxy_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "litellm.proxy.proxy_server", raising=False)
    with pytest.raises(JudgeError, match="no proxy with models of its own runs in this process"):
        await LiteLLMClient(model_group=True).complete(REQUEST)


OK = httpx.Response(200, json=REPLY)
AT_ONCE = {"retry-after": "0"}


@pytest.mark.parametrize(
    "faults",
    [
        [httpx.Response(500), httpx.Response(500)],
        [httpx.Response(503), httpx.Response(502)],
        [httpx.Response(429, headers=AT_ONCE)],
        [httpx.Response(408)],
        [httpx.ConnectError("refused")],
        [httpx.ConnectTimeout("slow"), httpx.ReadTimeout("slow")],
        [httpx.RemoteProtocolError("cut")],
        [httpx.Response(429, headers={"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"})],
    ],
    ids=str,
)
async def test_a_provider_that_fails_for_a_moment_is_asked_again(
    wire: respx.Route, faults: Sequence[Exception | httpx.Response]
) -> None:
    wire.side_effect = [*faults, OK]
    assert text_of(await LiteLLMClient(BASE, "k").complete(REQUEST)) == "fine"
    assert wire.call_count == len(faults) + 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422])
async def test_a_refusal_is_not_asked_for_again(wire: respx.Route, status: int) -> None:
    wire.return_value = httpx.Response(status, json={"error": {"message": "no"}})
    with pytest.raises(Exception, match="no") as raised:
        await LiteLLMClient(BASE, "k").complete(REQUEST)
    assert getattr(raised.value, "status_code", None) == status
    assert wire.call_count == 1


@pytest.mark.parametrize(
    "fault",
    [httpx.Response(500), httpx.ConnectError("refused"), httpx.Response(200, text="{not json")],
    ids=["500", "refused", "malformed body"],
)
async def test_a_provider_that_goes_on_failing_is_asked_four_times(
    wire: respx.Route, fault: Exception | httpx.Response
) -> None:
    wire.side_effect = [fault] * 9
    with pytest.raises(litellm.InternalServerError):
        await LiteLLMClient(BASE, "k").complete(REQUEST)
    assert wire.call_count == 4


async def test_a_wait_that_would_outlast_the_deadline_is_not_begun(wire: respx.Route) -> None:
    wire.return_value = httpx.Response(429, headers={"retry-after": "60"})
    with pytest.raises(litellm.RateLimitError):
        await LiteLLMClient(BASE, "k", timeout_s=5).complete(REQUEST)
    assert wire.call_count == 1


def test_the_text_of_a_whole_answer_is_given() -> None:
    assert text_of(full({"content": "all of it"})) == "all of it"


@pytest.mark.parametrize(
    ("message", "finish"),
    [
        ({"content": "cut o"}, "length"),
        ({"content": "filtered"}, "content_filter"),
        ({"content": None}, "stop"),
        ({"content": "text", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}, "stop"),
        ({"content": "text"}, "tool_calls"),
    ],
)
def test_anything_else_has_no_text(message: dict[str, Any], finish: str) -> None:
    with pytest.raises(JudgeError):
        text_of(full(message, finish))


def test_an_answer_without_choices_has_no_text() -> None:
    response = full({"content": "x"})
    response.choices = []
    with pytest.raises(JudgeError):
        text_of(response)


def test_importing_the_client_does_not_import_litellm() -> None:
    code = "import sys, luthien_litellm_hooks.policy.llm_client; sys.exit('litellm' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


SCHEMA: dict[str, Any] = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
KNOWN, UNKNOWN = "openai/gpt-4o-mini", "openai/unheard-of"
GROUPS: dict[str, tuple[list[tuple[str, bool | None]], str, bool]] = {
    "all of its models do": ([(KNOWN, None), ("openai/gpt-4.1", None)], "group", True),
    "one of its models does not": ([(KNOWN, None), (UNKNOWN, None)], "group", False),
    "its config says so": ([("openai/own", True)], "group", True),
    "a wildcard": ([("openai/*", None)], KNOWN, True),
    "a wildcard of which nothing is known": ([("openai/*", None)], UNKNOWN, False),
}


@pytest.mark.parametrize(("deployments", "asked", "is_sent"), GROUPS.values(), ids=list(GROUPS))
async def test_a_group_gets_a_schema_if_each_of_its_models_keeps_to_one(
    wire: respx.Route,
    monkeypatch: pytest.MonkeyPatch,
    deployments: list[tuple[str, bool | None]],
    asked: str,
    is_sent: bool,
) -> None:
    from litellm.proxy import proxy_server

    models: list[Any] = [
        {
            "model_name": model if "*" in model else "group",
            "litellm_params": {"model": model, "api_base": BASE, "api_key": "k"},
            "model_info": {} if support is None else {"supports_response_schema": support},
        }
        for model, support in deployments
    ]
    monkeypatch.setattr(proxy_server, "llm_router", litellm.Router(model_list=models))
    wire.return_value = OK
    await LiteLLMClient(model_group=True).complete(REQUEST.replace(model=asked), schema=SCHEMA)
    assert ("response_format" in json.loads(wire.calls.last.request.content)) is is_sent


async def test_a_call_for_a_transaction_is_counted_and_nothing_of_that_is_sent(wire: respx.Route) -> None:
    wire.return_value = OK
    ctx = PolicyContext("t", REQUEST)
    client = LiteLLMClient(BASE, "k")
    await client.complete(REQUEST, ctx)
    await client.complete(REQUEST)
    assert ctx.spent == Spent(1, 2, 0.0)
    assert [set(json.loads(sent.request.content)) for sent in wire.calls] == [{"model", "messages"}] * 2
