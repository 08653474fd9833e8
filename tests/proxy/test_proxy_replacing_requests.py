"""Requests that replace themselves on their way: what policies judged is what the provider gets."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from luthien_litellm_hooks.testing.answers import Answer, Say
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from luthien_litellm_hooks.testing.routes import RouteName
from tests.support.proxy import Proxies, Proxy
from tests.support.selected import LAB, selected

SECRET = "ghp_" + "a1B2" * 9
REDACTED = "[redacted:github_token]"
LOUD, QUIET = f"say: it is {SECRET}", "say: nothing"
FAILS = "replacing-fails"
REDACTING = selected({"class": "secrets", "config": {"apply_to": "request"}})


def turn(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def contents(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "parts": [{"text": text}]}]


ASKED: Mapping[str, tuple[RouteName, str, str, dict[str, Any]]] = {
    "chat": ("chat", "/v1/chat/completions", "openai/gpt-4o", {"messages": turn(QUIET)}),
    "chat to Claude": ("chat", "/v1/chat/completions", "anthropic/claude-sonnet-4-5", {"messages": turn(QUIET)}),
    "chat to Gemini": ("chat", "/v1/chat/completions", "gemini/gemini-2.5-flash", {"messages": turn(QUIET)}),
    "messages": ("messages", "/v1/messages", "anthropic/claude-sonnet-4-5", {"messages": turn(QUIET), "max_tokens": 9}),
    "messages to OpenAI": ("messages", "/v1/messages", "openai/gpt-4o", {"messages": turn(QUIET), "max_tokens": 9}),
    "responses": ("responses", "/v1/responses", "openai/gpt-4o", {"input": QUIET}),
    "responses to Claude": ("responses", "/v1/responses", "anthropic/claude-sonnet-4-5", {"input": QUIET}),
    "completions": ("completions", "/v1/completions", "openai/gpt-4o", {"prompt": QUIET}),
    "gemini": ("gemini", "/v1beta/models/gemini/gemini-2.5-flash:generateContent", "", {"contents": contents(QUIET)}),
}
LOUD_FIELDS: Mapping[RouteName, dict[str, Any]] = {
    "chat": {"messages": turn(LOUD)},
    "messages": {"messages": turn(LOUD)},
    "responses": {"input": LOUD},
    "completions": {"prompt": LOUD},
    "gemini": {"contents": contents(LOUD)},
}
SYSTEM: Mapping[RouteName, dict[str, Any]] = {
    "chat": {"system": LOUD},
    "messages": {"system": LOUD},
    "responses": {"instructions": LOUD},
    "completions": {"suffix": LOUD},
    "gemini": {"systemInstruction": {"parts": [{"text": LOUD}]}},
}
FALLING_BACK = ("chat", "messages", "responses", "completions")
MODELS_THAT_FAIL = {"openai": f"openai/{FAILS}", "anthropic": f"anthropic/{FAILS}"}


@pytest.fixture(autouse=True, scope="module")
def _failing(provider: ScriptedProvider) -> None:
    provider.answers[FAILS] = Answer([Say("busy")], status=500)


@pytest.fixture(scope="module")
def proxy(proxies: Proxies) -> Proxy:
    return proxies.lab(REDACTING)


def sent_for(proxy: Proxy, provider: ScriptedProvider, name: str, fields: Mapping[str, Any]) -> list[str]:
    """What the provider got, in JSON; the request has these fields beside, or in place of, its own."""
    _, path, model, body = ASKED[name]
    before = len(provider.requests)
    proxy.http.post(path, json={**({"model": model} if model else {}), **body, **fields})
    return [json.dumps(request.body) for request in provider.requests[before:]]


each = pytest.mark.parametrize("name", ASKED, ids=[name.replace(" ", "_") for name in ASKED])


@each
def test_what_extra_body_puts_in_place_of_a_text_is_judged(proxy: Proxy, provider: ScriptedProvider, name: str) -> None:
    sent = sent_for(proxy, provider, name, {"extra_body": LOUD_FIELDS[ASKED[name][0]]})
    assert sent, "the provider was not asked"
    assert SECRET not in "".join(sent)


@each
def test_what_extra_body_adds_is_judged(proxy: Proxy, provider: ScriptedProvider, name: str) -> None:
    sent = sent_for(proxy, provider, name, {"extra_body": SYSTEM[ASKED[name][0]]})
    assert sent, "the provider was not asked"
    assert SECRET not in "".join(sent)


@each
def test_what_extra_body_hides_is_judged_too(proxy: Proxy, provider: ScriptedProvider, name: str) -> None:
    quiet = ASKED[name][3]
    fields = {**LOUD_FIELDS[ASKED[name][0]], "extra_body": {key: quiet[key] for key in quiet if key != "max_tokens"}}
    sent = sent_for(proxy, provider, name, fields)
    assert sent, "the provider was not asked"
    assert SECRET not in "".join(sent)


CITED = {"type": "output_text", "text": "so", "annotations": [{"type": "url_citation", "title": LOUD, "url": "u"}]}
BESIDE: Mapping[RouteName, dict[str, Any]] = {
    "chat": {"stop": [LOUD]},
    "messages": {"stop_sequences": [LOUD]},
    "responses": {"input": [*turn(QUIET), {"type": "message", "role": "assistant", "content": [CITED]}, *turn(QUIET)]},
    "completions": {"stop": LOUD},
    "gemini": {"generationConfig": {"stopSequences": [LOUD]}},
}


@each
def test_texts_beside_the_conversation_are_judged(proxy: Proxy, provider: ScriptedProvider, name: str) -> None:
    sent = sent_for(proxy, provider, name, BESIDE[ASKED[name][0]])
    assert sent, "the provider was not asked"
    assert SECRET not in "".join(sent)
    is_translated = " to " in name  # then LiteLLM may leave the field out
    assert is_translated or REDACTED in "".join(sent), "the field was not sent at all"


@each
def test_what_an_extra_body_in_extra_body_holds_is_judged(proxy: Proxy, provider: ScriptedProvider, name: str) -> None:
    sent = sent_for(proxy, provider, name, {"extra_body": {"extra_body": LOUD_FIELDS[ASKED[name][0]]}})
    assert SECRET not in "".join(sent)


FALLBACKS: Mapping[str, Callable[[str, dict[str, Any]], list[Any]]] = {
    "a fallback's own": lambda model, loud: [{"model": model, **loud}],
    "its extra_body": lambda model, loud: [{"model": model, "extra_body": loud}],
    "a fallback of it": lambda model, loud: [
        {"model": f"openai/{FAILS}", "n": 1, "fallbacks": [{"model": model, **loud}]}
    ],
    "one by a model's name": lambda model, loud: [{"*": [{"model": model, **loud}]}],
    "one without a model": lambda model, loud: [
        {"model": f"openai/{FAILS}", "n": 1},
        {**loud, "temperature": 0.5},
        model,
    ],
}


@pytest.mark.parametrize("place", FALLBACKS, ids=[name.replace(" ", "_") for name in FALLBACKS])
@pytest.mark.parametrize("name", FALLING_BACK)
def test_the_texts_of_a_fallback_are_judged(proxy: Proxy, provider: ScriptedProvider, name: str, place: str) -> None:
    route, _, model, _ = ASKED[name]
    wire = model.partition("/")[0]
    fallbacks = FALLBACKS[place](model, LOUD_FIELDS[route])
    sent = sent_for(proxy, provider, name, {"model": MODELS_THAT_FAIL[wire], "fallbacks": fallbacks})
    assert len(sent) > 1, "nothing was fallen back on"
    assert SECRET not in "".join(sent)


@pytest.mark.parametrize("name", FALLING_BACK)
def test_a_fallback_keeps_its_own_texts(proxy: Proxy, provider: ScriptedProvider, name: str) -> None:
    route, _, model, _ = ASKED[name]
    failing = MODELS_THAT_FAIL[model.partition("/")[0]]
    *_, last = sent_for(
        proxy, provider, name, {"model": failing, "fallbacks": [{"model": model, **LOUD_FIELDS[route]}]}
    )
    assert REDACTED in last


def test_a_policy_that_refuses_a_fallback_refuses_the_request(proxies: Proxies, provider: ScriptedProvider) -> None:
    proxy = proxies.lab(LAB)
    before = len(provider.requests)
    fallbacks = [{"model": "openai/gpt-4o", "user": "refuse request"}]
    body = {"model": f"openai/{FAILS}", "messages": turn(QUIET), "fallbacks": fallbacks}
    response = proxy.http.post("/v1/chat/completions", json=body)
    assert "This request is refused." in response.text
    assert len(provider.requests) == before


def test_a_policy_that_rewrites_one_fallback_rewrites_no_other(proxies: Proxies, provider: ScriptedProvider) -> None:
    proxy = proxies.lab(LAB)
    fallbacks = [{"model": f"openai/{FAILS}", "user": "rewrite request"}, {"model": "openai/gpt-4o", "user": "nobody"}]
    body = {"model": f"openai/{FAILS}", "messages": turn("say: mine"), "fallbacks": fallbacks}
    before = len(provider.requests)
    assert proxy.http.post("/v1/chat/completions", json=body).is_success
    said = [request.body["messages"][-1]["content"] for request in provider.requests[before:]]
    assert said[:2] == ["say: mine", "say: rewritten"]


NOT_A_CLIENTS: Mapping[str, Any] = {
    "mock_response": "forged",
    "metadata": {"user_api_key_user_id": "somebody", "spend_logs_metadata": {"luthien": {"outcome": "complete"}}},
    "proxy_server_request": {"url": "http://x/", "body": {}, "headers": {}},
    "no-log": True,
    "stream": True,
}


@pytest.mark.parametrize("key", NOT_A_CLIENTS)
def test_a_fallback_sets_nothing_that_is_no_clients_to_set(proxy: Proxy, provider: ScriptedProvider, key: str) -> None:
    fallbacks = [{"model": "openai/gpt-4o", key: NOT_A_CLIENTS[key]}]
    body = {"model": f"openai/{FAILS}", "messages": turn("say: mine"), "fallbacks": fallbacks}
    response = proxy.http.post("/v1/chat/completions", json=body)
    assert response.json()["choices"][0]["message"]["content"] == "mine"


ORDINARY: Mapping[str, dict[str, Any]] = {
    "extra_body": {"extra_body": {"top_k": 3, "chat_template_kwargs": {"thinking": False}, "metadata": {"a": "b"}}},
    "extra_body over the body": {"temperature": 0.2, "extra_body": {"temperature": 0.7}},
    "tools in extra_body": {
        "extra_body": {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}
    },
    "messages in extra_body": {"extra_body": {"messages": turn("say: inner")}},
    "an empty extra_body": {"extra_body": {}},
    "an unknown field": {"top_k": 3},
}


@pytest.fixture(scope="module")
def stock(proxies: Proxies) -> Proxy:
    return proxies.lab(None)


@pytest.mark.parametrize("how", ORDINARY, ids=[name.replace(" ", "_") for name in ORDINARY])
@each
def test_an_ordinary_extra_body_reaches_the_provider_as_from_the_stock_proxy(
    proxy: Proxy, stock: Proxy, provider: ScriptedProvider, name: str, how: str
) -> None:
    ours, theirs = (sent_for(one, provider, name, ORDINARY[how]) for one in (proxy, stock))
    assert ours == theirs
