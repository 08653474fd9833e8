"""Requests beyond all measure at a real proxy: refused with a status that says why, and a long conversation is not."""

from collections.abc import Mapping

import pytest

from luthien_litellm_hooks.testing.answers import Answer, Say
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from luthien_litellm_hooks.testing.routes import RouteName
from tests.support.hostile_costs import REQUESTS, said
from tests.support.proxy import Proxies

TOO_LARGE = "too large to judge"


@pytest.fixture(scope="module")
def asked(provider: ScriptedProvider) -> ScriptedProvider:
    provider.answers["cost"] = Answer([Say("An answer.")])
    return provider


PATHS: Mapping[RouteName, tuple[str, str]] = {
    "chat": ("/v1/chat/completions", "openai/cost"),
    "messages": ("/v1/messages", "anthropic/cost"),
    "responses": ("/v1/responses", "openai/cost"),
    "completions": ("/v1/completions", "openai/cost"),
    "gemini": ("/v1beta/models/gemini/cost:generateContent", "gemini/cost"),
}


@pytest.mark.parametrize("on_block", ["notice", "error"])
@pytest.mark.parametrize("route", PATHS)
def test_a_request_of_a_hundred_thousand_messages_is_refused_on_each_route(
    proxies: Proxies, asked: ScriptedProvider, route: RouteName, on_block: str
) -> None:
    proxy = proxies.get({"policy": {"class": "noop"}, "on_block": on_block})
    path, model = PATHS[route]
    before = len(asked.requests)
    answer = proxy.http.post(path, json={**REQUESTS["many messages"](route), "model": model})
    assert answer.status_code == 413
    assert TOO_LARGE in answer.json()["error"]["message"]
    assert len(asked.requests) == before


@pytest.mark.parametrize("kind", ["many parts", "many tools", "many fields", "many metadata"])
def test_a_request_of_a_hundred_thousand_of_anything_is_refused(
    proxies: Proxies, asked: ScriptedProvider, kind: str
) -> None:
    proxy = proxies.get({"policy": {"class": "noop"}, "on_block": "notice"})
    answer = proxy.http.post(PATHS["chat"][0], json={**REQUESTS[kind]("chat"), "model": PATHS["chat"][1]})
    assert answer.status_code == 413


@pytest.mark.parametrize("route", PATHS)
def test_a_long_conversation_is_answered(proxies: Proxies, asked: ScriptedProvider, route: RouteName) -> None:
    proxy = proxies.get({"policy": {"class": "noop"}, "on_block": "notice"})
    path, model = PATHS[route]
    texts = ["some words that somebody said"] * 1_000
    answer = proxy.http.post(path, json={**said(route, texts), "model": model})
    assert answer.status_code == 200
    assert "An answer." in answer.text
