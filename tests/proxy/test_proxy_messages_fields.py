"""Hand-made streams of Anthropic through real proxies: `noop` gives the stock bytes, others what they let pass."""

import pytest

from luthien_litellm_hooks.testing.answers import Answer
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.messages import JSON, payloads, sse, streamed
from tests.support.proxy import Proxies, Proxy
from tests.support.selected import NOOP, selected
from tests.unit.wire.test_messages_fields import (
    CITED,
    CUT_WRITE,
    INPUT_TWICE,
    ORDINARY,
    TEXT_BESIDE_CALL,
    TOKEN,
    TWO_CALLS,
    UNKNOWN,
    message,
    said,
    served,
)

FRAMES: dict[str, list[JSON]] = {
    "two-calls": TWO_CALLS,
    "text-beside-call": TEXT_BESIDE_CALL,
    "cut-write": CUT_WRITE,
    "input-twice": INPUT_TWICE,
    "citation": streamed(message([CITED])),
    "search": streamed(served("web_search", **ORDINARY["web_search"])),
    "code": streamed(served("bash_code_execution", command="rm -rf /")),
    "unknown": [*streamed(message([{"type": "text", "text": "some text"}]))[:-2], *UNKNOWN["block"], *TWO_CALLS[-2:]],
}
DANGEROUS, SECRETS = selected({"class": "block_dangerous_commands"}), selected({"class": "secrets"})


def ask(proxy: Proxy, provider: ScriptedProvider, name: str) -> bytes:
    provider.answers[name] = Answer(raw=sse(*FRAMES[name]))
    body = {"model": f"anthropic/{name}", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    response = proxy.http.post("/v1/messages", json={**body, "max_tokens": 99})
    assert response.status_code == 200
    return response.content


@pytest.mark.parametrize("name", FRAMES)
def test_noop_gives_the_bytes_of_the_stock_proxy(proxies: Proxies, provider: ScriptedProvider, name: str) -> None:
    stock, governed = (ask(proxies.lab(which), provider, name) for which in (None, NOOP))
    assert governed == stock
    assert len(stock) > 200


def test_a_preset_judges_whole_calls_and_the_providers_own(proxies: Proxies, provider: ScriptedProvider) -> None:
    proxy = proxies.lab(DANGEROUS)
    notice, passed = said(ask(proxy, provider, "two-calls"))
    assert "blocked" in notice
    assert passed == {"command": "ls"}
    assert said(ask(proxy, provider, "input-twice")) == [{"command": "ls"}]
    assert ask(proxy, provider, "search") == ask(proxies.lab(None), provider, "search")
    assert b"rm -rf" not in ask(proxy, provider, "code")
    assert b"bash_code_execution_tool_result" not in ask(proxy, provider, "code")
    assert b"novel words" not in ask(proxy, provider, "unknown")
    cut = ask(proxy, provider, "cut-write")
    assert {"message_delta", "message_stop"}.isdisjoint(frame["type"] for frame in payloads(cut))


def test_secrets_redacts_a_citation(proxies: Proxies, provider: ScriptedProvider) -> None:
    left = ask(proxies.lab(SECRETS), provider, "citation")
    assert TOKEN.encode() not in left
    assert b"[redacted:" in left
