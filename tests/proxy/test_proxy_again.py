"""`on_block: retry` at a real proxy: official clients get the model's next call in the same response."""

import json
from typing import Any, cast

import pytest

from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.clients import ROUTES, Said
from tests.support.proxy import Proxies, Proxy

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
