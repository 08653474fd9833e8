"""What no policy can see is closed, through a real proxy, unless the operator opens it."""

from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from luthien_litellm_hooks.cli.demo.proxy import HOST
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.proxy import KEY, Proxies, named_models
from tests.support.selected import NOOP

MESSAGES = [{"role": "user", "content": "hello"}]
HIDDEN = {"model": "openai/text", "messages": MESSAGES, "priority": 0}

CLOSED = {
    "pass-through to Anthropic": ("/anthropic/v1/messages", {"model": "text", "max_tokens": 9, "messages": MESSAGES}),
    "pass-through to OpenAI": ("/openai/v1/chat/completions", {"model": "text", "messages": MESSAGES}),
    "the hidden queue": ("/queue/chat/completions", HIDDEN),
    "the hidden queue, streamed": ("/queue/chat/completions", {**HIDDEN, "stream": True}),
    "threads": ("/v1/threads/thread_1/runs", {"assistant_id": "a"}),
    "threads, without v1": ("/threads", {}),
    "assistants": ("/v1/assistants", {"model": "openai/text"}),
    "retrieval": ("/v1/rag/query", {"model": "openai/text", "messages": MESSAGES}),
    "batches": ("/v1/batches", {"input_file_id": "f", "endpoint": "/v1/chat/completions", "completion_window": "24h"}),
}


@pytest.mark.parametrize("name", CLOSED)
def test_a_route_that_cannot_be_governed_is_closed(proxies: Proxies, provider: ScriptedProvider, name: str) -> None:
    path, body = CLOSED[name]
    before = len(provider.requests)
    response = proxies.lab(NOOP).http.post(path, json=body)
    assert response.status_code == 403, response.text
    assert "so it is closed" in response.text
    assert len(provider.requests) == before


@pytest.mark.parametrize("setting", ["allow", ["/queue"]])
@pytest.mark.parametrize("stream", [False, True])
def test_an_operator_can_open_it(proxies: Proxies, setting: Any, stream: bool) -> None:
    proxy = proxies.get({"policy": {"class": "noop"}, "ungoverned_routes": setting})
    response = proxy.http.post("/queue/chat/completions", json={**HIDDEN, "stream": stream})
    assert response.status_code == 200, response.text
    assert "is not governed by the policy: its requests are let through" in proxy.output


def test_opening_one_leaves_the_others_closed(proxies: Proxies) -> None:
    proxy = proxies.get({"policy": {"class": "noop"}, "ungoverned_routes": ["/queue"]})
    assert proxy.http.post("/v1/threads", json={}).status_code == 403


def test_litellms_own_health_check_goes_through(
    proxies: Proxies, provider: ScriptedProvider, provider_url: str
) -> None:
    before = len(provider.requests)
    proxy = proxies.get({"policy": {"class": "noop"}}, sections={"model_list": named_models(provider_url)})
    health = proxy.http.get("/health", params={"model": "one"}).json()
    assert (health["healthy_count"], health["unhealthy_count"]) == (1, 0)
    assert [seen.body["model"] for seen in provider.requests[before:]] == ["named"]


def test_routes_without_model_text_stay_as_they_are(proxies: Proxies) -> None:
    """The scripted provider has no embeddings: its own 404 shows that it was asked."""
    response = proxies.lab(NOOP).http.post("/v1/embeddings", json={"model": "openai/text", "input": "x"})
    assert response.status_code == 404
    assert "no such endpoint: POST /v1/embeddings" in response.text
    assert proxies.lab(NOOP).http.get("/v1/models").status_code == 200


@pytest.mark.parametrize("path", ["/v1/realtime?model=openai/text", "/v1/responses?model=openai/text"])
def test_a_websocket_brings_no_answer(proxies: Proxies, provider: ScriptedProvider, path: str) -> None:
    before = len(provider.requests)
    with pytest.raises((InvalidStatus, ConnectionClosed)):
        _ask(f"ws://{HOST}:{proxies.lab(NOOP).port}{path}")
    assert len(provider.requests) == before


def _ask(url: str) -> list[str | bytes]:
    with connect(url, additional_headers={"Authorization": f"Bearer {KEY}"}, open_timeout=20) as socket:
        socket.send('{"type": "response.create", "response": {"input": "hello"}, "input": "hello"}')
        return [socket.recv(timeout=20), socket.recv(timeout=20)]
