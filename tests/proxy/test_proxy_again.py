"""`on_block: retry` at a real proxy: official clients get the model's next call in the same response."""

import json
from typing import Any, cast

import pytest

from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.clients import ROUTES, Said
from tests.support.proxy import Proxies, Proxy, deployment

RULES = {"rules": [{"action": "block", "tool": "remove", "message": "Not this one."}], "default": "allow"}
POLICY = {"class": "tool_rules", "config": RULES}
RETRY: Any = {"policy": POLICY, "on_block": "retry", "record": {"bodies": "always"}}
MODELS = {"chat": "gpt-4o", "messages": "claude-sonnet-4-5", "responses": "gpt-4o", "gemini": "gemini-2.5-flash"}
FIRST = Answer([Say("I tidy up."), Call("remove", '{"path": "a"}', "call_first")])
SECOND = Answer([Say("Then I read."), Call("read", '{"path": "b"}', "call_second")])
READ = (("read", {"path": "b"}),)


def ask(proxy: Proxy, route: str, stream: bool) -> Said:
    if route != "responses":
        return ROUTES[route](proxy, MODELS[route], stream, {})
    body: Any = {"model": f"openai/{MODELS[route]}", "input": "hello", "store": False}
    responses = cast(Any, proxy.openai.responses)
    if stream:
        with responses.stream(**body) as events:
            answer = events.get_final_response()
    else:
        answer = responses.create(**body)
    calls = [item for item in answer.output if item.type == "function_call"]
    return Said(answer.output_text, tuple((call.name, json.loads(call.arguments)) for call in calls))


def script(provider: ScriptedProvider, second: Answer = SECOND) -> None:
    for model in MODELS.values():
        provider.answers[model] = FIRST
        provider.next_answers[model] = second


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", MODELS)
def test_a_client_gets_the_next_call(proxies: Proxies, provider: ScriptedProvider, route: str, stream: bool) -> None:
    script(provider)
    seen = len(provider.requests)
    got = ask(proxies.get(RETRY), route, stream)
    assert got.calls == READ
    assert [part in got.text for part in ("I tidy up.", "Not this one.", "Then I read.")] == [True] * 3
    first, second = provider.requests[seen:]
    assert "Not this one." in json.dumps(second.body)
    assert not second.body.get("stream")
    names = {"stream", "stream_options", "messages", "input", "contents"}
    assert {name: value for name, value in second.body.items() if name not in names} == {
        name: value for name, value in first.body.items() if name not in names
    }


@pytest.mark.parametrize("second", [FIRST, Answer(status=500), Answer(status=429)])
@pytest.mark.parametrize("route", MODELS)
def test_otherwise_a_client_gets_the_notice(
    proxies: Proxies, provider: ScriptedProvider, route: str, second: Answer
) -> None:
    script(provider, second)
    for stream in (False, True):
        seen = len(provider.requests)
        got = ask(proxies.get(RETRY), route, stream)
        assert got.calls == ()
        assert got.text.startswith("I tidy up.")
        assert got.text.count("Not this one.") == 1
        assert len(provider.requests) == seen + 2


@pytest.mark.parametrize("route", ["chat", "messages", "responses"])
def test_the_tags_of_a_request_choose_its_second_deployment_too(
    proxies: Proxies, provider: ScriptedProvider, provider_url: str, route: str
) -> None:
    wire, name = ("anthropic" if route == "messages" else "openai"), f"tagged-{route}"
    places = {"eu": "eu", "elsewhere": "default"}
    models = [deployment(provider_url, place, f"{wire}/{route}-{place}", tags=[tag]) for place, tag in places.items()]
    strict = {"enable_tag_filtering": True, "tag_filtering_match_any": False, "num_retries": 0}
    sections = {"model_list": [{**model, "model_name": name} for model in models], "router_settings": strict}
    for place in places:
        provider.answers[f"{route}-{place}"], provider.next_answers[f"{route}-{place}"] = FIRST, SECOND
    seen = len(provider.requests)
    path, body = {
        "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
        "messages": ("/v1/messages", {"max_tokens": 99, "messages": [{"role": "user", "content": "x"}]}),
        "responses": ("/v1/responses", {"input": "x", "store": False}),
    }[route]
    proxy = proxies.get(RETRY, sections=sections)
    response = proxy.http.post(path, json={"model": name, **body}, headers={"x-litellm-tags": "eu"})
    assert response.is_success, response.text
    assert [request.body["model"] for request in provider.requests[seen:]] == [f"{route}-eu"] * 2
