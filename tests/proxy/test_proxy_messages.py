"""Anthropic messages through a real proxy, with the official client: what a client gets under each policy."""

import re
from dataclasses import replace
from typing import Any

import pytest

from luthien_litellm_hooks.testing.answers import Answer, Call, Gate, Say, Think, Wait
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.messages import Reading, read, reading
from tests.support.proxy import Proxies, Proxy
from tests.support.selected import ALL_CAPS, LAB, NOOP

FAILURE = "[luthien] This answer was stopped because a policy check failed "

CALLS = (
    Call("search", '{"query": "weather in Paris", "limit": 3}', id="toolu_a"),
    Call("read", '{"path": "etc/x"}', id="toolu_b"),
    Call("noop", "{}", id="toolu_c"),
)
ANSWERS = {
    "messages-text": Answer([Say("The quick brown fox: über alles")]),
    "messages-reasoning": Answer([Think("step by step", signature="sig"), Say("The answer.")]),
    "messages-call": Answer([CALLS[0]]),
    "messages-calls": Answer([Think("hm", signature="sig"), Say("Three calls."), *CALLS]),
    "messages-length": Answer([Say("cut off")], finish="length"),
}
STREAM = pytest.mark.parametrize("stream", [False, True], ids=["full", "stream"])
WIRE = pytest.mark.parametrize("wire", ["anthropic", "openai", "gemini"])  # the last two through LiteLLM's bridges
FRESH_ID = re.compile(r'"id": ?"(?!toolu_)[\w=-]+"')
EACH = pytest.mark.parametrize("name", ANSWERS)


@pytest.fixture(scope="module", autouse=True)
def _answers(provider: ScriptedProvider) -> None:
    provider.answers.update(ANSWERS)


def request(name: str, wire: str = "anthropic", **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "hello"}]
    return {"model": f"{wire}/{name}", "max_tokens": 100, "messages": messages, **more}


def raw(proxy: Proxy, body: dict[str, Any]) -> str:
    """The bytes that a client gets, but for fresh ids."""
    response = proxy.http.post("/v1/messages", json=body)
    assert response.status_code == 200, response.text
    return FRESH_ID.sub("", response.text)


def ask(proxy: Proxy, body: dict[str, Any], stream: bool) -> Reading:
    """What the official client reads; a stream must also suffer the strict reader."""
    client = proxy.anthropic
    more = {key: body[key] for key in ("user",) if key in body}
    wire = {key: value for key, value in body.items() if key not in more}
    if not stream:
        return same_ids(reading(client.messages.create(**wire, extra_body=more).to_dict(mode="json")))
    with client.messages.stream(**wire, extra_body=more) as events:
        final = reading(events.get_final_message().to_dict(mode="json", warnings=False))
    again = read(proxy.http.post("/v1/messages", json={**body, "stream": True}).content)
    assert same_ids(again) == same_ids(final)
    return same_ids(final)


def same_ids(left: Reading) -> Reading:
    """`left`, but that calls which the provider gave no id, so that LiteLLM did, are numbered."""
    blocks = [
        ("call", number, *block[2:]) if block[0] == "call" and not block[1].startswith("toolu_") else block
        for number, block in enumerate(left.blocks)
    ]
    return replace(left, blocks=tuple(blocks))


@EACH
@STREAM
@WIRE
def test_noop_gives_what_the_stock_proxy_gives(proxies: Proxies, name: str, wire: str, stream: bool) -> None:
    body = request(name, wire, stream=stream)
    stock, governed = raw(proxies.lab(None), body), raw(proxies.lab(NOOP), body)
    assert governed == stock
    assert len(stock) > 100


@EACH
@STREAM
@WIRE
def test_all_caps_changes_text_and_arguments_and_nothing_else(
    proxies: Proxies, name: str, wire: str, stream: bool
) -> None:
    stock, shouted = (ask(proxies.lab(which), request(name, wire), stream) for which in (None, ALL_CAPS))
    assert shouted.stop_reason == stock.stop_reason
    assert shouted.blocks == tuple(in_capitals(block) for block in stock.blocks)


def in_capitals(block: tuple[Any, ...]) -> tuple[Any, ...]:
    if block[0] == "text":
        return ("text", block[1].upper(), *block[2:])
    if block[0] == "call":
        values = ("weather in Paris", "etc/x")
        return (*block[:3], re.sub("|".join(values), lambda found: found[0].upper(), block[3]), *block[4:])
    return block


@STREAM
@WIRE
def test_a_policy_drops_all_calls(proxies: Proxies, wire: str, stream: bool) -> None:
    stock = ask(proxies.lab(None), request("messages-calls", wire), stream)
    left = ask(proxies.lab(LAB), request("messages-calls", wire, user="drop calls"), stream)
    assert left.blocks == tuple(block for block in stock.blocks if block[0] != "call")
    assert (left.stop_reason, stock.stop_reason) == ("end_turn", "tool_use")


@STREAM
@WIRE
def test_a_policy_renames_calls(proxies: Proxies, wire: str, stream: bool) -> None:
    stock = ask(proxies.lab(None), request("messages-calls", wire), stream)
    left = ask(proxies.lab(LAB), request("messages-calls", wire, user="rename calls"), stream)
    renamed = ((*block[:2], f"safe_{block[2]}", *block[3:]) if block[0] == "call" else block for block in stock.blocks)
    assert left == replace(stock, blocks=tuple(renamed))


@STREAM
def test_no_text_of_an_exception_reaches_a_client(proxies: Proxies, stream: bool) -> None:
    body = request("messages-calls", user="fail on text", stream=stream)
    response = proxies.lab(LAB).http.post("/v1/messages", json=body)
    left = read(response.content) if stream else reading(response.json())
    assert [block[0] for block in left.blocks] == ["thinking", "text"]
    assert left.blocks[1][1].startswith(FAILURE)
    assert left.stop_reason == "end_turn"
    assert "secret" not in response.text


@pytest.mark.parametrize("user", ["pass", "hold"])
@STREAM
def test_a_providers_error_reaches_the_client_with_its_status_and_type(
    proxies: Proxies, provider: ScriptedProvider, user: str, stream: bool
) -> None:
    provider.answers["messages-limited"] = Answer([Say("slow down")], status=429)
    body = request("messages-limited", user=user, stream=stream)
    stock, governed = (proxies.lab(which).http.post("/v1/messages", json=body) for which in (None, LAB))
    assert (governed.status_code, governed.json()["error"]["type"]) == (429, stock.json()["error"]["type"])
    assert governed.json().keys() == stock.json().keys()
    assert "slow down" not in governed.text


@STREAM
def test_the_provider_gets_the_request_as_the_policy_rewrote_it(
    proxies: Proxies, provider: ScriptedProvider, stream: bool
) -> None:
    body = request("scripted", user="rewrite request", stream=stream)
    response = proxies.lab(LAB).http.post("/v1/messages", json=body)
    left = read(response.content) if stream else reading(response.json())
    assert left.blocks == (("text", "rewritten", "[]"),)
    assert provider.requests[-1].body["temperature"] == 0.5


def test_text_sent_during_a_slow_hook_arrives_before_the_hook_ends(
    proxies: Proxies, provider: ScriptedProvider
) -> None:
    gate = Gate()
    provider.answers["gate"] = Answer([Wait(gate), Say("open")])
    client = proxies.lab(LAB).anthropic
    with client.messages.stream(**request("messages-text"), extra_body={"user": "wait"}) as events:
        texts = events.text_stream
        assert next(texts) == "early"
        gate.wait_reached()
        gate.open()
        assert list(texts) == [" late"]
