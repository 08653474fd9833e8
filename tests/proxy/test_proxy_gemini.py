"""Gemini's generateContent through a real proxy, with the official client: of a Gemini model and of one that LiteLLM
translates."""

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from google.genai.types import GenerateContentResponse, Part

from luthien_litellm_hooks.testing.answers import Answer, Call, Cut, Gate, Say, Think, Wait
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.proxy import Proxies, Proxy
from tests.support.selected import ALL_CAPS, FAILURE, LAB, NOOP, OWN_ANSWERS

CALLS = (Call("search", '{"query": "weather in Paris", "limit": 3}', id="call_a"), Call("noop", "{}", id="call_b"))
ANSWERS = {
    "generated": Answer([Say("The quick brown fox: über alles")]),
    "generated-thought": Answer([Think("step by step", signature="sig"), Say("The answer.")]),
    "generated-calls": Answer([Say("Two calls."), *CALLS]),
    "generated-length": Answer([Say("cut off")], finish="length"),
}
CASES = [(wire, name) for wire in ("gemini", "openai") for name in ANSWERS]
each_case = pytest.mark.parametrize(("wire", "name"), CASES)
each_wire = pytest.mark.parametrize("wire", ["gemini", "openai"])
each_mode = pytest.mark.parametrize("stream", [False, True])


@pytest.fixture(scope="module", autouse=True)
def _answers(provider: ScriptedProvider) -> None:
    provider.answers.update(ANSWERS)


def post(proxy: Proxy, model: str, stream: bool, **more: Any) -> httpx.Response:
    method = "streamGenerateContent?alt=sse" if stream else "generateContent"
    body = {"contents": [{"role": "user", "parts": [{"text": "hello"}]}], **more}
    return proxy.http.post(f"/v1beta/models/{model}:{method}", json=body)


def raw(proxy: Proxy, model: str, stream: bool) -> str:
    """The bytes that a client gets, but for the provider's ids."""
    response = post(proxy, model, stream)
    assert response.status_code == 200, response.text
    return re.sub(r'"responseId":"\w+"', "", response.text)


def ask(proxy: Proxy, model: str, stream: bool, text: str = "hello", **more: Any) -> dict[str, Any]:
    """What the official client gets, the same of a full and a streamed answer."""
    body: Any = {"model": model, "contents": text, "config": {"http_options": {"extra_body": more}}}
    models = proxy.genai.models
    return said([*models.generate_content_stream(**body)] if stream else [models.generate_content(**body)])


def said(answers: list[GenerateContentResponse]) -> dict[str, Any]:
    candidates = [candidate for answer in answers for candidate in answer.candidates or ()]
    parts = [part for candidate in candidates if candidate.content for part in candidate.content.parts or ()]
    usage = answers[-1].usage_metadata
    return {
        "text": "".join(part.text or "" for part in parts if not part.thought),
        "reasoning": "".join(part.text or "" for part in parts if part.thought),
        "calls": [_call(part) for part in parts if part.function_call],
        "finish": "".join(candidate.finish_reason or "" for candidate in candidates),
        "usage": (usage.prompt_token_count or 0, usage.candidates_token_count or 0) if usage else (0, 0),
    }


def _call(part: Part) -> tuple[str | None, tuple[str, dict[str, Any]], bytes | None]:
    call = part.function_call
    assert call
    return call.id, (call.name or "", call.args or {}), part.thought_signature


@each_mode
@each_case
def test_noop_gives_what_the_stock_proxy_gives(proxies: Proxies, wire: str, name: str, stream: bool) -> None:
    stock, governed = (raw(proxies.lab(which), f"{wire}/{name}", stream) for which in (None, NOOP))
    assert governed == stock
    assert len(stock) > 100


@each_mode
@each_case
def test_all_caps_changes_text_and_arguments_and_nothing_else(
    proxies: Proxies, wire: str, name: str, stream: bool
) -> None:
    stock, shouted = (ask(proxies.lab(which), f"{wire}/{name}", stream) for which in (None, ALL_CAPS))
    assert stock["text"].upper() != stock["text"]
    calls = [(id, (name, _upper(arguments)), signature) for id, (name, arguments), signature in stock["calls"]]
    assert shouted == {**stock, "text": stock["text"].upper(), "calls": calls}
    assert len(calls) == (2 if name == "generated-calls" else 0)


def _upper(arguments: dict[str, Any]) -> dict[str, Any]:
    return {key: value.upper() if isinstance(value, str) else value for key, value in arguments.items()}


@each_mode
@each_wire
def test_a_policy_drops_all_calls(proxies: Proxies, wire: str, stream: bool) -> None:
    answer = ask(proxies.lab(LAB), f"{wire}/generated-calls", stream, user="drop calls")
    assert (answer["text"], answer["calls"], answer["finish"]) == ("Two calls.", [], "STOP")


@each_mode
@each_wire
def test_a_policy_renames_calls(proxies: Proxies, wire: str, stream: bool) -> None:
    stock = ask(proxies.lab(None), f"{wire}/generated-calls", stream)
    answer = ask(proxies.lab(LAB), f"{wire}/generated-calls", stream, user="rename calls")
    renamed = [(id, (f"safe_{name}", arguments), signature) for id, (name, arguments), signature in stock["calls"]]
    assert answer == {**stock, "calls": renamed}


@each_mode
@each_wire
def test_the_provider_gets_the_request_as_the_policy_rewrote_it(proxies: Proxies, wire: str, stream: bool) -> None:
    answer = ask(proxies.lab(LAB), f"{wire}/scripted", stream, text="say: original", user="rewrite contents")
    assert answer["text"] == "rewritten"


@each_mode
@each_wire
@pytest.mark.parametrize(("user", "expected"), OWN_ANSWERS)
def test_a_policy_answers_in_the_providers_stead(
    proxies: Proxies, provider: ScriptedProvider, user: str, expected: str, wire: str, stream: bool
) -> None:
    before = len(provider.requests)
    answer = ask(proxies.lab(LAB), f"{wire}/generated", stream, user=user)
    assert re.fullmatch(expected, answer["text"])
    assert (answer["finish"], answer["usage"]) == ("STOP", (0, 0))
    assert len(provider.requests) == before, "the provider must not be called"


@each_mode
@each_wire
def test_no_text_of_an_exception_reaches_a_client(proxies: Proxies, wire: str, stream: bool) -> None:
    answer = ask(proxies.lab(LAB), f"{wire}/generated-calls", stream, user="fail on text")
    assert answer["text"].startswith(FAILURE)
    assert (answer["calls"], answer["finish"]) == ([], "STOP")
    assert "secret" not in answer["text"]


@each_wire
def test_a_stream_that_the_provider_cuts_gives_nothing_away_that_was_held(
    proxies: Proxies, provider: ScriptedProvider, wire: str
) -> None:
    provider.answers["generated-cut"] = Answer([Say("not judged yet"), Cut()])
    response = post(proxies.lab(LAB), f"{wire}/generated-cut", stream=True, user="hold")
    assert "judged" not in response.text


@each_mode
def test_a_providers_error_reaches_the_client_with_its_status_and_type(
    proxies: Proxies, provider: ScriptedProvider, stream: bool
) -> None:
    provider.answers["generated-limited"] = Answer([Say("slow down")], status=429)
    stock, governed = (post(proxies.lab(which), "gemini/generated-limited", stream) for which in (None, LAB))
    told, said = (response.json()["error"] for response in (governed, stock))
    assert (governed.status_code, {**told, "message": ""}) == (stock.status_code, {**said, "message": ""})
    assert stock.status_code == 429
    assert "slow down" not in governed.text


@each_mode
def test_a_chat_of_a_gemini_model_is_governed_too(proxies: Proxies, stream: bool) -> None:
    body = {"model": "gemini/generated", "messages": [{"role": "user", "content": "x"}], "stream": stream}
    response = proxies.lab(ALL_CAPS).http.post("/v1/chat/completions", json=body)
    assert "THE Q" in response.text
    assert "quick" not in response.text


def test_a_client_that_leaves_is_noticed_at_the_provider(proxies: Proxies, provider: ScriptedProvider) -> None:
    gate = Gate()
    provider.answers["generated-endless"] = Answer([Say("first words"), Wait(gate), Say("never")])
    before = len(provider.disconnects)
    path = "/v1beta/models/gemini/generated-endless:streamGenerateContent?alt=sse"
    body = {"contents": [{"role": "user", "parts": [{"text": "x"}]}]}
    with proxies.lab(LAB).http.stream("POST", path, json=body) as response:
        next(response.iter_lines())
        gate.wait_reached()
    provider.disconnects.wait_for(before + 1)
    gate.open()


@each_mode
def test_two_requests_at_once_get_their_own_answers(proxies: Proxies, stream: bool) -> None:
    def ask_number(number: int) -> tuple[int, str]:
        model = ("gemini/scripted", "openai/scripted")[number % 2]
        return number, ask(proxies.lab(ALL_CAPS), model, stream, text=f"say: number {number}")["text"]

    with ThreadPoolExecutor(20) as pool:
        assert all(answer == f"NUMBER {number}" for number, answer in pool.map(ask_number, range(60)))
