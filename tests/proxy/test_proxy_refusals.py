"""A refused request, on every route through a real proxy: in the client's own format, provider not called."""

from typing import Any

import anthropic
import openai
import pytest
from google.genai import errors

from luthien_litellm_hooks.testing.answers import Answer, Say
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.proxy import Proxies, Proxy
from tests.support.selected import LAB

LAB_ERROR: dict[str, Any] = {
    "policy": {"class": "tests.support.lab:Lab"},
    "on_block": "error",
    "block_status": 451,
}
REFUSED = "This request is refused."
MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture(autouse=True)
def _answer(provider: ScriptedProvider) -> None:
    provider.answers["refused"] = Answer([Say("never asked")])


def _chat(proxy: Proxy, model: str, user: str, stream: bool) -> tuple[str, str | None]:
    answer = proxy.openai.chat.completions.create(model=model, messages=MESSAGES, user=user, stream=stream)
    if not stream:
        return answer.choices[0].message.content, answer.choices[0].finish_reason
    chunks = list(answer)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks), chunks[-1].choices[0].finish_reason


def _completions(proxy: Proxy, model: str, user: str, stream: bool) -> tuple[str, str | None]:
    answer = proxy.openai.completions.create(model=model, prompt="hello", user=user, stream=stream)
    if not stream:
        return answer.choices[0].text, answer.choices[0].finish_reason
    chunks = list(answer)
    return "".join(chunk.choices[0].text for chunk in chunks), chunks[-1].choices[0].finish_reason


def _messages(proxy: Proxy, model: str, user: str, stream: bool) -> tuple[str, str | None]:
    client = proxy.anthropic
    body = {"model": model, "max_tokens": 9, "messages": MESSAGES, "extra_body": {"user": user}}
    if not stream:
        answer = client.messages.create(**body)
    else:
        with client.messages.stream(**body) as events:
            answer = events.get_final_message()
    return "".join(block.text for block in answer.content), answer.stop_reason


def _responses(proxy: Proxy, model: str, user: str, stream: bool) -> tuple[str, str | None]:
    body = {"model": model, "input": "hello", "user": user}
    if not stream:
        answer = proxy.openai.responses.create(**body)
    else:
        [answer] = [
            event.response
            for event in proxy.openai.responses.create(**body, stream=True)
            if event.type == "response.completed"
        ]
    return answer.output_text, answer.status


def _gemini(proxy: Proxy, model: str, user: str, stream: bool) -> tuple[str, str | None]:
    body: Any = {"model": model, "contents": "hello", "config": {"http_options": {"extra_body": {"user": user}}}}
    models = proxy.genai.models
    answers = [*models.generate_content_stream(**body)] if stream else [models.generate_content(**body)]
    text = "".join(answer.text or "" for answer in answers)
    return text, answers[-1].candidates[0].finish_reason


ROUTES = {
    "chat": _chat,
    "completions": _completions,
    "messages": _messages,
    "responses": _responses,
    "gemini": _gemini,
}
USUAL_ENDS = {"stop", "end_turn", "completed", "content_filter", "STOP"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wire", ["openai", "anthropic", "gemini"])
@pytest.mark.parametrize("route", ROUTES)
def test_the_client_gets_a_normal_answer(
    proxies: Proxies, provider: ScriptedProvider, route: str, wire: str, stream: bool
) -> None:
    before = len(provider.requests)
    text, end = ROUTES[route](proxies.lab(LAB), f"{wire}/refused", "refuse request", stream)
    assert text == REFUSED
    assert end in USUAL_ENDS
    assert len(provider.requests) == before, "the provider must not be called"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", ROUTES)
def test_the_client_gets_an_http_error_where_the_operator_says_so(
    proxies: Proxies, provider: ScriptedProvider, route: str, stream: bool
) -> None:
    before = len(provider.requests)
    with pytest.raises((openai.APIStatusError, anthropic.APIStatusError, errors.APIError)) as raised:
        ROUTES[route](proxies.get(LAB_ERROR), "openai/refused", "refuse request", stream)
    assert raised.value.response.status_code == 451
    body: Any = raised.value.response.json()
    assert body["error"]["message"] == REFUSED
    assert ("type" in body) is (route == "messages"), "an Anthropic client gets an Anthropic error"
    assert len(provider.requests) == before


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", ROUTES)
def test_no_text_of_an_exception_reaches_a_client(proxies: Proxies, route: str, stream: bool) -> None:
    text, _ = ROUTES[route](proxies.lab(LAB), "openai/refused", "fail on request", stream)
    assert text.startswith("[luthien] This answer was stopped because a policy check failed (transaction ")
    assert "secret" not in text
