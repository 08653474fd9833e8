"""Every recorded stream through a proxy with `noop` and the stock proxy beside it: the same bytes."""

import re
from pathlib import Path
from typing import Any

import pytest

from luthien_litellm_hooks.testing.answers import Answer
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.proxy import Proxies, Proxy
from tests.support.recordings import STREAMS
from tests.support.selected import NOOP

RECORDINGS = sorted(STREAMS.glob("*/*.sse"))
pytestmark = pytest.mark.skipif(not RECORDINGS, reason=f"the recordings are not at {STREAMS}")

TURN = [{"role": "user", "content": "hello"}]
ROUTES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "chat": ("openai", "/v1/chat/completions", {"messages": TURN}),
    "messages": ("anthropic", "/v1/messages", {"messages": TURN, "max_tokens": 99}),
    "responses": ("openai", "/v1/responses", {"input": "hello"}),
}


def _ask(proxy: Proxy, route: str, name: str) -> str:
    if route == "gemini":
        path = f"/v1beta/models/gemini/{name}:streamGenerateContent?alt=sse"
        body: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}
    else:
        wire, path, fields = ROUTES[route]
        body = {"model": f"{wire}/{name}", "stream": True, **fields}
    response = proxy.http.post(path, json=body)
    return f"{response.status_code}\n{_without_litellms_own(response.text)}"


def _without_litellms_own(text: str) -> str:
    """Without the ids and times that LiteLLM makes up for each answer."""
    text = re.sub(r'"(id|item_id|response_id|previous_response_id)":\s*"[^"]*"', r'"\1":""', text)
    return re.sub(r'"(created|created_at|completed_at)":\s*[\d.]+', r'"\1":0', text)


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_noop_gives_the_bytes_of_the_stock_proxy(proxies: Proxies, provider: ScriptedProvider, recording: Path) -> None:
    route, name = recording.parent.name, f"recorded-{recording.stem}"
    provider.answers[name] = Answer(raw=recording.read_bytes())
    stock, governed = (_ask(proxies.lab(which), route, name) for which in (None, NOOP))
    assert governed == stock
    assert len(stock) > 200
