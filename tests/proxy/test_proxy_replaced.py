"""A block replaced by two, on every route through a real proxy, as the official clients read it."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.chat import Delivered
from tests.support.proxy import Proxies, Proxy
from tests.support.selected import LAB

MESSAGES = [{"role": "user", "content": "hello"}]
Said = tuple[str, list[tuple[str, Any]]]


@pytest.fixture(autouse=True)
def _answer(provider: ScriptedProvider) -> None:
    provider.answers["doubled"] = Answer([Say("a text"), Call("run", '{"x": 1}', id="call_run")])


def _chat(proxy: Proxy, model: str, stream: bool) -> Said:
    answer: Any = proxy.openai.chat.completions.create(model=model, messages=MESSAGES, user="double", stream=stream)
    if stream:
        delivered = Delivered.of(answer)
        return delivered.text, [(name, json.loads(arguments)) for _, name, arguments in delivered.calls]
    message = answer.choices[0].message
    return message.content, [(made.function.name, json.loads(made.function.arguments)) for made in message.tool_calls]


def _completions(proxy: Proxy, model: str, stream: bool) -> Said:
    answer: Any = proxy.openai.completions.create(model=model, prompt="hello", user="double", stream=stream)
    return "".join(chunk.choices[0].text or "" for chunk in (answer if stream else [answer])), []


def _messages(proxy: Proxy, model: str, stream: bool) -> Said:
    client = proxy.anthropic
    body: Any = {"model": model, "max_tokens": 9, "messages": MESSAGES, "extra_body": {"user": "double"}}
    if stream:
        with client.messages.stream(**body) as events:
            content = events.get_final_message().content
    else:
        content = client.messages.create(**body).content
    calls = [(block.name, block.input) for block in content if block.type == "tool_use"]
    return "".join(block.text for block in content if block.type == "text"), calls


def _responses(proxy: Proxy, model: str, stream: bool) -> Said:
    answer: Any = proxy.openai.responses.create(model=model, input="hello", user="double", stream=stream)
    if stream:
        [answer] = [event.response for event in answer if event.type == "response.completed"]
    calls = [item for item in answer.output if item.type == "function_call"]
    return answer.output_text, [(item.name, json.loads(item.arguments)) for item in calls]


def _gemini(proxy: Proxy, model: str, stream: bool) -> Said:
    body: Any = {
        "model": model,
        "contents": "hello",
        "config": {"http_options": {"extra_body": {"user": "double"}}},
    }
    models = proxy.genai.models
    answers = [*models.generate_content_stream(**body)] if stream else [models.generate_content(**body)]
    calls = [made for answer in answers for made in answer.function_calls or ()]
    return "".join(answer.text or "" for answer in answers), [(made.name or "", made.args) for made in calls]


ROUTES: dict[str, tuple[Callable[[Proxy, str, bool], Said], str]] = {
    "chat": (_chat, "openai/doubled"),
    "chat of Anthropic": (_chat, "anthropic/doubled"),
    "completions": (_completions, "openai/doubled"),
    "messages": (_messages, "anthropic/doubled"),
    "messages of OpenAI": (_messages, "openai/doubled"),
    "responses": (_responses, "openai/doubled"),
    "responses of Anthropic": (_responses, "anthropic/doubled"),
    "gemini": (_gemini, "gemini/doubled"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", ROUTES)
def test_a_client_gets_both(proxies: Proxies, route: str, stream: bool) -> None:
    ask, model = ROUTES[route]
    text, calls = ask(proxies.lab(LAB), model, stream)
    assert text == "one and two"
    assert calls == ([] if route == "completions" else [("first", {"x": 1}), ("second", {"x": 1})])
