"""Clients that try to switch the policy off: LiteLLM's flags, our own metadata keys, and bodies that break readers."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import httpx
import pytest

from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.proxy import KEY, Proxies, Proxy
from tests.support.selected import selected_in_a_row

MODEL = "hostile-request"
FORBIDDEN = "no-preserve-root"
ANSWER = Answer(
    [Say("An orchid."), Call("Bash", json.dumps({"command": f"rm -rf / --{FORBIDDEN}"}), id="call_1")], piece=1_000
)
POLICIES = [
    {"class": "block_dangerous_commands"},
    {"class": "string_replacement", "config": {"replacements": [["orchid", "flower"]]}},
    {"class": "string_replacement", "config": {"replacements": [["tulip", "rose"]], "apply_to": "request"}},
]
TURN = {"messages": [{"role": "user", "content": "a tulip"}]}
BODIES: Mapping[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": f"openai/{MODEL}", **TURN},
    "/v1/messages": {"model": f"anthropic/{MODEL}", "max_tokens": 99, **TURN},
    "/v1/responses": {"model": f"openai/{MODEL}", "input": "a tulip"},
}
METADATA = {
    "spend_logs_metadata": {"luthien": {"outcome": "forged"}},
    "disable_global_guardrails": True,
    "opted_out_global_guardrails": ["luthien"],
    "litellm_disabled_callbacks": ["luthien", "luthien_litellm_hooks.luthien"],
    "guardrails": [],
    "no-log": True,
}
FIELDS: Mapping[str, dict[str, Any]] = {
    "metadata": {"metadata": METADATA, "litellm_metadata": METADATA},
    "metadata as text": {"metadata": json.dumps(METADATA), "litellm_metadata": json.dumps(METADATA)},
    "metadata as a list": {"metadata": [METADATA]},
    "no logging": {"no-log": True, "no_log": True},
    "another request": {"proxy_server_request": {"url": "http://x/v1/embeddings", "body": {}, "headers": {}}},
    "litellm_params": {"litellm_params": {"metadata": METADATA, "no-log": True, "proxy_server_request": None}},
    "litellm_params as text": {"litellm_params": "x"},
    "a logging object": {"litellm_logging_obj": {"a": 1}, "litellm_call_id": "mine"},
    "no guardrails": {"guardrails": [], "disable_global_guardrails": True, "guardrail_config": {}},
    "disabled callbacks": {"litellm_disabled_callbacks": ["luthien", "luthien_litellm_hooks.luthien"]},
    "callbacks": {"callbacks": [], "success_callback": [], "failure_callback": [], "input_callback": []},
    "a mocked answer": {"mock_response": f"orchid {FORBIDDEN}"},
    "mocked calls": {"mock_tool_calls": [{"id": "x", "type": "function", "function": {"name": FORBIDDEN}}]},
    "mock testing": {"mock_testing_fallbacks": True},
    "no cache": {"cache": {"no-cache": True, "no-store": True, "ttl": 600, "namespace": "x"}, "caching": True},
    "retries": {"num_retries": 3, "max_retries": 2},
    "fallbacks": {"fallbacks": [{"model": f"openai/{MODEL}", "messages": TURN["messages"]}]},
    "fallbacks of no shape": {"fallbacks": {"a": 1}, "context_window_fallbacks": [{"x": ["y"]}]},
    "stream as text": {"stream": "true"},
    "stream as a number": {"stream": 1},
    "stream as an object": {"stream": {"a": 1}},
    "stream as null": {"stream": None},
    "user_config": {"user_config": {"model_list": []}},
    "another base": {"api_base": "http://127.0.0.1:9"},
    "another base within": {"extra_body": {"api_base": "http://127.0.0.1:9"}},
    "another provider": {"custom_llm_provider": "openai"},
    "a call type": {"call_type": "aembedding", "acompletion": False},
    "inner flags": {"_litellm_raw_sse_stream": True, "_litellm_skip_openai_stream_done": True},
    "secret fields": {"secret_fields": {"raw_headers": {}}, "standard_logging_object": {}},
    "complete_response": {"complete_response": True},
    "a batch of models": {"model": f"openai/{MODEL},openai/{MODEL}"},
    "a list of models": {"model": [f"openai/{MODEL}"]},
    "our settings": {"luthien": {"policy": None}, "policy": {"class": "noop"}},
    "tools of no shape": {"tools": [{"type": "function", "function": "x"}, {"function": None}]},
    "messages of no shape": {"messages": [[["tulip"]], None, 7], "input": [[["tulip"]], None, 7]},
    "a user of no shape": {"user": {"a": [1]}},
    "a great number": {"seed": 10**300, "temperature": 1e308},
}
HEADERS: Mapping[str, str] = {
    "x-litellm-disable-callbacks": "luthien,luthien_litellm_hooks.luthien",
    "x-litellm-spend-logs-metadata": '{"luthien": 1}',
    "x-litellm-call-id": "mine",
    "x-litellm-num-retries": "5",
    "litellm-disable-message-redaction": "true",
    "traceparent": f"00-{'0' * 32}-{'0' * 16}-01",
    "content-type": "application/x-www-form-urlencoded",
}
RAW: Mapping[str, str] = {
    "nested": "[" * 300 + "]" * 300,
    "nested deeply": "[" * 900 + "]" * 900,
    "nested beyond all readers": "[" * 100_000 + "]" * 100_000,
    "not closed": "[" * 100_000,
    "a number of many digits": "9" * 100_000,
    "infinite": "1e999",
    "no number": "NaN",
    "half of a surrogate pair": r'"\ud800"',
    "a null character": r'"a\u0000b"',
    "a byte order mark": '"\ufeff"',
    "a key twice": '1, "stream": false, "x": 2',
}


@pytest.fixture(scope="module")
def proxy(proxies: Proxies, provider: ScriptedProvider) -> Proxy:
    provider.answers[MODEL] = ANSWER
    return proxies.lab(selected_in_a_row(POLICIES))


def check(proxy: Proxy, path: str, body: str, headers: Mapping[str, str]) -> None:
    """Whatever the client gets, it is nothing that the policy withholds, and no exception of ours."""
    given = {"content-type": "application/json", "authorization": f"Bearer {KEY}", **proxy.headers, **headers}
    answer = httpx.post(proxy.url + path, content=body, headers=given, timeout=60)
    assert FORBIDDEN not in answer.text
    assert "orchid" not in answer.text
    assert not any(word in answer.text for word in ("Traceback", "luthien_litellm_hooks", "could not be checked (")), (
        answer.text
    )


def check_everywhere(
    proxy: Proxy,
    fields: Mapping[str, Any],
    headers: Mapping[str, str],
    raw: str = "",
    streams: Sequence[bool] = (True,),
) -> None:
    """Sends the request on each route; `raw` is JSON that stands in its body as it is."""

    def check_one(case: tuple[str, bool]) -> None:
        path, stream = case
        body = json.dumps({**BODIES[path], "stream": stream, **fields})
        check(proxy, path, f'{body[:-1]}, "x": {raw}}}' if raw else body, headers)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(check_one, product(BODIES, streams)))


@pytest.fixture
def asked(provider: ScriptedProvider) -> int:
    return len(provider.requests)


def assert_was_governed(provider: ScriptedProvider, asked: int) -> None:
    seen = json.dumps([request.body for request in provider.requests[asked:] if MODEL in str(request.body)])
    assert "tulip" not in seen


@pytest.mark.parametrize("name", FIELDS)
def test_no_field_of_a_body_switches_the_policy_off(
    proxy: Proxy, provider: ScriptedProvider, asked: int, name: str
) -> None:
    check_everywhere(proxy, FIELDS[name], {}, streams=(False, True))
    assert_was_governed(provider, asked)


@pytest.mark.parametrize("path", BODIES)
def test_no_client_has_an_answer_written_into_the_log_of_the_proxy(proxy: Proxy, path: str) -> None:
    before = len(proxy.output)
    response = proxy.http.post(path, json={**BODIES[path], "litellm_request_debug": True})
    assert response.status_code == 200, response.text
    assert FORBIDDEN not in proxy.output[before:]
    assert "RAW RESPONSE" not in proxy.output[before:]


@pytest.mark.parametrize("name", HEADERS)
def test_no_header_switches_the_policy_off(proxy: Proxy, provider: ScriptedProvider, asked: int, name: str) -> None:
    check_everywhere(proxy, {}, {name: HEADERS[name]})
    assert_was_governed(provider, asked)


@pytest.mark.parametrize("name", RAW)
def test_no_body_is_too_hostile_to_be_governed(proxy: Proxy, provider: ScriptedProvider, asked: int, name: str) -> None:
    check_everywhere(proxy, {}, {}, RAW[name])
    assert_was_governed(provider, asked)


@pytest.mark.parametrize("path", BODIES)
def test_the_same_request_without_any_of_that_is_answered(proxy: Proxy, path: str) -> None:
    answer = proxy.http.post(path, json=BODIES[path])
    assert (answer.status_code, "flower" in answer.text, "[luthien]" in answer.text) == (200, True, True)
