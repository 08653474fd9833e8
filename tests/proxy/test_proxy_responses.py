"""Responses through a real proxy, with the official client: what a client gets under each policy."""

import json
import re
from typing import Any

import pytest

from luthien_litellm_hooks.testing.answers import Answer, Call, Cut, Say, Think
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.proxy import Proxies, Proxy
from tests.support.responses import Reading, read_response, read_strictly
from tests.support.selected import ALL_CAPS, LAB, NOOP

# LiteLLM's bridge gives reasoning parts of a type that the official client does not know.
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")

FAILURE = "[luthien] This answer was stopped because a policy check failed "

CALLS = (
    Call("search", '{"query": "weather in Paris", "limit": 3}', id="call_a"),
    Call("read", '{"path": "/tmp/x"}', id="call_b"),
)
ANSWERS = {
    "r-text": Answer([Say("The quick brown fox: über alles")]),
    "r-reasoning": Answer([Think("step by step", signature="sig"), Say("The answer.")]),
    "r-call": Answer([Call("search", '{"query": "weather in Paris"}', id="call_a")]),
    "r-calls": Answer([Think("hm", signature="sig"), Say("Two calls."), *CALLS]),
    "r-length": Answer([Say("cut off")], finish="length"),
}
# LiteLLM streams only models that it knows; of others it asks a full answer, and makes a stream of it.
KNOWN = {
    "r-text": "gpt-4o-2024-08-06",
    "r-reasoning": "o4-mini-2025-04-16",
    "r-call": "gpt-4.1-2025-04-14",
    "r-calls": "o3-2025-04-16",
    "r-length": "gpt-4o-2024-11-20",
}
WIRES = ("native", "openai", "anthropic")
CASES = [(wire, name) for wire in WIRES for name in ANSWERS]


@pytest.fixture(scope="module", autouse=True)
def _answers(provider: ScriptedProvider) -> None:
    provider.answers.update(ANSWERS)
    provider.answers.update({known: ANSWERS[name] for name, known in KNOWN.items()})


def request(wire: str, name: str, **more: Any) -> dict[str, Any]:
    model = f"openai/{KNOWN[name]}" if wire == "native" else f"{wire}/{name}"
    return {"model": model, "input": "hello", **more}


def raw(proxy: Proxy, body: dict[str, Any]) -> str:
    """The bytes that a client gets, but for ids and times."""
    response = proxy.http.post("/v1/responses", json=body)
    assert response.status_code == 200, response.text
    return re.sub(r'"(?:id|item_id|created_at|completed_at)":\s*(?:"[^"]*"|[\d.]+)', "", response.text)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("wire", "name"), CASES)
def test_noop_gives_what_the_stock_proxy_gives(proxies: Proxies, wire: str, name: str, stream: bool) -> None:
    body = request(wire, name, stream=stream)
    stock, governed = raw(proxies.lab(None), body), raw(proxies.lab(NOOP), body)
    assert governed == stock
    assert len(stock) > 100


def ask(proxy: Proxy, wire: str, body: dict[str, Any], stream: bool) -> Reading:
    """What the official client gets; a stream must be well formed."""
    if not stream:
        return read_response(proxy.openai.responses.create(**body).model_dump(exclude_none=True))
    events = [*proxy.openai.responses.create(**body, stream=True)]
    if wire == "native":
        return read_strictly(events)
    [*deltas, last] = [json.loads(event.model_dump_json(exclude_none=True)) for event in events]
    reading = read_response(last["response"])
    said = "".join(event["delta"] for event in deltas if event["type"] == "response.output_text.delta")
    assert said == "".join(reading.text)
    return reading


def upper_strings(arguments: str) -> Any:
    return {key: said.upper() if isinstance(said, str) else said for key, said in json.loads(arguments).items()}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("wire", "name"), CASES)
def test_all_caps_changes_text_and_arguments_and_nothing_else(
    proxies: Proxies, wire: str, name: str, stream: bool
) -> None:
    body = request(wire, name)
    stock = ask(proxies.lab(None), wire, body, stream)
    shouted = ask(proxies.lab(ALL_CAPS), wire, body, stream)
    assert shouted.text == tuple(text.upper() for text in stock.text)
    assert [call[:2] for call in shouted.calls] == [call[:2] for call in stock.calls]
    assert [json.loads(call[2]) for call in shouted.calls] == [upper_strings(call[2]) for call in stock.calls]
    assert (shouted.reasoning, shouted.status) == (stock.reasoning, stock.status)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_a_policy_drops_all_calls(proxies: Proxies, wire: str, stream: bool) -> None:
    body = request(wire, "r-calls", user="drop calls")
    answer = ask(proxies.lab(LAB), wire, body, stream)
    assert (answer.text, answer.calls, answer.status) == (("Two calls.",), (), "completed")
    sent = proxies.lab(LAB).http.post("/v1/responses", json={**body, "stream": stream}).text
    assert "Paris" not in sent
    assert "call_a" not in sent


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_a_policy_renames_calls(proxies: Proxies, wire: str, stream: bool) -> None:
    stock = ask(proxies.lab(None), wire, request(wire, "r-calls"), stream)
    answer = ask(proxies.lab(LAB), wire, request(wire, "r-calls", user="rename calls"), stream)
    assert answer.calls == tuple((id, f"safe_{name}", arguments) for id, name, arguments in stock.calls)
    assert (answer.text, answer.status) == (stock.text, stock.status)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
def test_a_policy_that_fails_gives_nothing_away(proxies: Proxies, wire: str, stream: bool) -> None:
    body = request(wire, "r-calls", user="fail on text", stream=stream)
    sent = proxies.lab(LAB).http.post("/v1/responses", json=body).text
    assert FAILURE in sent
    assert "secret" not in sent
    assert "Two calls" not in sent


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    ("user", "expected"), [("refuse request", r"This request is refused\."), ("answer", "answered by the policy")]
)
def test_a_policy_answers_in_the_providers_stead(
    proxies: Proxies, provider: ScriptedProvider, user: str, expected: str, wire: str, stream: bool
) -> None:
    before = len(provider.requests)
    body = request(wire, "r-text", user=user)
    proxy = proxies.lab(LAB)
    if stream:
        last = [*proxy.openai.responses.create(**body, stream=True)][-1]
        text = last.response.output_text
    else:
        text = proxy.openai.responses.create(**body).output_text
    assert re.fullmatch(expected, text)
    assert len(provider.requests) == before, "the provider must not be called"


def test_a_stream_that_the_provider_cuts_gives_nothing_away_that_was_held(
    proxies: Proxies, provider: ScriptedProvider
) -> None:
    provider.answers["r-cut"] = Answer([Say("not judged yet"), Cut()])
    body = request("openai", "r-cut", user="hold", stream=True)
    assert "judged" not in proxies.lab(LAB).http.post("/v1/responses", json=body).text


CACHE = {"cache": True, "cache_params": {"type": "local"}}


@pytest.mark.parametrize("stream", [False, True])
def test_the_cache_holds_what_the_provider_said(proxies: Proxies, provider: ScriptedProvider, stream: bool) -> None:
    proxy = proxies.lab(ALL_CAPS, **CACHE)
    body = request("native", "r-calls", instructions=f"for the cache, {stream=}")
    before = len(provider.requests)
    answers = [proxy.http.post("/v1/responses", json={**body, "stream": stream}).text for _ in range(2)]
    assert all("TWO CALLS." in answer for answer in answers)
    assert not any("Two calls." in answer for answer in answers)
    assert len(provider.requests) == before + 1, "the second answer came from the cache"
