"""Text completions through a real proxy, with the official client."""

import re
from typing import Any

import pytest

from luthien_litellm_hooks.testing.answers import Answer, Call, Cut, Gate, Say, Think, Wait
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.proxy import Proxies, Proxy
from tests.support.selected import ALL_CAPS, FAILURE, LAB, NOOP, OWN_ANSWERS

ANSWERS = {
    "completed": Answer([Say("The quick brown fox: über alles")]),
    "completed-length": Answer([Say("cut off")], finish="length"),
    "completed-chat": Answer([Think("step by step", signature="sig"), Say("The answer."), Call("search", "{}")]),
}
# LiteLLM asks text completions of the OpenAI wire, and makes them of chat answers of the others.
CASES = [("openai", "completed"), ("openai", "completed-length"), ("anthropic", "completed-chat")]
each_case = pytest.mark.parametrize(("wire", "name"), CASES)
each_mode = pytest.mark.parametrize("stream", [False, True])


@pytest.fixture(scope="module", autouse=True)
def _answers(provider: ScriptedProvider) -> None:
    provider.answers.update(ANSWERS)


def request(model: str, prompt: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": model, "prompt": prompt, "max_tokens": 99, **more}


def raw(proxy: Proxy, body: dict[str, Any]) -> str:
    """The bytes that a client gets, but for ids and times of LiteLLM's own making."""
    response = proxy.http.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    return re.sub(r'"id":"(chat)?cmpl-[\w-]+"|"created":\d+', "", response.text)


def ask(proxy: Proxy, body: dict[str, Any], stream: bool) -> dict[str, Any]:
    """What a client gets, the same of a full and a streamed answer."""
    if not stream:
        answer = proxy.openai.completions.create(**body)
        return _said([answer], answer.usage)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(proxy.openai.completions.create(**body, **options))
    return _said(chunks, chunks[-1].usage)


def _said(answers: list[Any], usage: Any) -> dict[str, Any]:
    choices = [choice for answer in answers for choice in answer.choices]
    return {
        "text": "".join(choice.text or "" for choice in choices),
        "finish": "".join(choice.finish_reason or "" for choice in choices),
        "usage": usage and (usage.prompt_tokens, usage.completion_tokens),
    }


@pytest.mark.parametrize("mode", [{}, {"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}])
@each_case
def test_noop_gives_what_the_stock_proxy_gives(proxies: Proxies, wire: str, name: str, mode: dict[str, Any]) -> None:
    body = request(f"{wire}/{name}", **mode)
    stock, governed = raw(proxies.lab(None), body), raw(proxies.lab(NOOP), body)
    assert governed == stock
    assert len(stock) > 100


@each_mode
@each_case
def test_all_caps_changes_text_and_nothing_else(proxies: Proxies, wire: str, name: str, stream: bool) -> None:
    body = request(f"{wire}/{name}")
    stock, shouted = (ask(proxies.lab(which), body, stream) for which in (None, ALL_CAPS))
    assert stock["text"].upper() != stock["text"]
    assert shouted == {**stock, "text": stock["text"].upper()}


def test_several_choices_are_all_governed(proxies: Proxies) -> None:
    answer = proxies.lab(ALL_CAPS).openai.completions.create(**request("openai/completed", n=3))
    assert [choice.text for choice in answer.choices] == ["THE QUICK BROWN FOX: ÜBER ALLES"] * 3


@each_mode
def test_the_provider_gets_the_request_as_the_policy_rewrote_it(proxies: Proxies, stream: bool) -> None:
    answer = ask(proxies.lab(LAB), request("openai/scripted", "say: original", user="rewrite prompt"), stream)
    assert answer["text"] == "rewritten"


@each_mode
@pytest.mark.parametrize("wire", ["openai", "anthropic"])
@pytest.mark.parametrize(("user", "expected"), OWN_ANSWERS)
def test_a_policy_answers_in_the_providers_stead(
    proxies: Proxies, provider: ScriptedProvider, user: str, expected: str, wire: str, stream: bool
) -> None:
    before = len(provider.requests)
    answer = ask(proxies.lab(LAB), request(f"{wire}/completed", user=user), stream)
    assert re.fullmatch(expected, answer["text"])
    assert answer["finish"] == "stop"
    assert answer["usage"] in ((0, 0), None)
    assert len(provider.requests) == before, "the provider must not be called"


@each_mode
def test_no_text_of_an_exception_reaches_a_client(proxies: Proxies, stream: bool) -> None:
    answer = ask(proxies.lab(LAB), request("openai/completed", user="fail on text"), stream)
    assert answer["text"].startswith(FAILURE)
    assert answer["finish"] == "stop"
    assert "secret" not in answer["text"]


def test_a_stream_that_the_provider_cuts_gives_nothing_away_that_was_held(
    proxies: Proxies, provider: ScriptedProvider
) -> None:
    provider.answers["completed-cut"] = Answer([Say("not judged yet"), Cut()])
    body = request("openai/completed-cut", user="hold", stream=True)
    response = proxies.lab(LAB).http.post("/v1/completions", json=body)
    assert "judged" not in response.text
    assert '"error"' in response.text


def test_a_client_that_leaves_is_noticed_at_the_provider(proxies: Proxies, provider: ScriptedProvider) -> None:
    gate = Gate()
    provider.answers["completed-endless"] = Answer([Say("first words"), Wait(gate), Say("never")])
    before = len(provider.disconnects)
    body = request("openai/completed-endless")
    with proxies.lab(LAB).openai.completions.create(**body, stream=True) as stream:
        next(iter(stream))
        gate.wait_reached()
    provider.disconnects.wait_for(before + 1)
    gate.open()
