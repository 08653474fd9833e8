"""A provider's errors behind a real proxy, on every route and through every bridge: where a policy judges the answer,
the client gets status, class and transaction, and not a word that nobody has judged."""

import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx
import openai
import pytest
from google.genai import errors

from luthien_litellm_hooks.testing.answers import JSON, Answer, Call, Cut, Gate, Say, Wait
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from luthien_litellm_hooks.testing.routes import ROUTES, RouteName
from tests.support.fault_matrix import FORWARDING, faulty_proxy
from tests.support.postgres import spend_logs
from tests.support.proxy import Proxies, Proxy, proxy_config, running_proxy

MARK = "zanzibar"
"""Stands wherever a provider can put words."""
WITHHOLDS = {"class": "tests.support.withholding:WithholdsAll"}
ASKED = {"x-policy": "withhold"}
ANY_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")
MODELS: Mapping[str, str] = {"openai": "gpt-4o", "anthropic": "claude-sonnet-4-5"}
WIRES = (*MODELS, "gemini")
WAYS: Sequence[tuple[RouteName, str]] = [
    *(("chat", wire) for wire in WIRES),
    *(("messages", wire) for wire in WIRES),
    *(("responses", wire) for wire in ("openai", "anthropic")),
    ("completions", "openai"),
    *(("gemini", wire) for wire in ("gemini", "openai")),
]
STREAM = pytest.mark.parametrize("stream", [False, True], ids=["full", "stream"])
WAY = pytest.mark.parametrize(("route", "wire"), WAYS, ids=["-".join(way) for way in WAYS])
STATUSES = (400, 401, 403, 404, 413, 422, 429, 500, 503, 529)
ERROR: JSON = {
    "type": "error",
    "error": {
        "message": MARK,
        "type": MARK,
        "code": MARK,
        "status": MARK,
        "param": MARK,
        "details": [MARK],
        "failed_generation": MARK,
        MARK: MARK,
    },
}
HEADERS = {"x-request-id": MARK, "request-id": MARK, "retry-after-ms": MARK, "x-ratelimit-limit-requests": MARK}
UNREADABLE: Mapping[str, bytes] = {
    "no-JSON": b"<html>" + MARK.encode(),
    "no-object": json.dumps([MARK]).encode(),
    "cut-JSON": b'{"id": "1", "content": "' + MARK.encode(),
    "error-with-status-200": json.dumps(ERROR).encode(),
}


@dataclass(frozen=True)
class Got:
    """All that a client was sent."""

    response: httpx.Response

    @property
    def all(self) -> str:
        return "\n".join([f"{self.response.status_code}", *map(str, self.response.headers.items()), self.response.text])

    @property
    def message(self) -> str:
        """What the error says, which may be one within a stream."""
        if self.response.headers["content-type"] == "application/json":
            return self.response.json()["error"]["message"]
        said = [json.loads(data) for data in re.findall(r"^data: (\{.*)", self.response.text, re.MULTILINE)]
        error = said[-1].get("error") or said[-1]["response"]["error"]
        return error["message"]


def ask(
    proxy: Proxy, route: RouteName, wire: str, stream: bool, answer: str, headers: Mapping[str, str], **extra: Any
) -> Got:
    """What a client gets when the provider gives this `answer`."""
    is_named = "gemini" in (route, wire)  # where LiteLLM forwards no headers, models may have any name
    model, said = f"{wire}/{answer if is_named else MODELS[wire]}", ROUTES[route]
    body: dict[str, Any] = {**said.body, "model": model, **({"stream": True} if stream else {}), **extra}
    path = said.path
    if route == "gemini":
        path = f"/v1beta/models/{model}:{'streamGenerateContent?alt=sse' if stream else 'generateContent'}"
        body = {**said.body, **extra}
    return Got(proxy.http.post(path, json=body, headers={"x-answer": answer, **headers}))


def config_of(provider_url: str, luthien: Mapping[str, Any] | None) -> dict[str, Any]:
    config = proxy_config(provider_url, luthien)
    config["general_settings"] = dict(FORWARDING)
    return config


@pytest.fixture(scope="module")
def proxy(proxies: Proxies, provider_url: str, postgres_url: str) -> Proxy:
    """Where requests that ask for it have a policy, in the callback; spend logs hold texts."""
    return faulty_proxy(proxies, provider_url, postgres_url, [{**WITHHOLDS, "when": {"headers": ASKED}}])


@pytest.fixture(scope="module")
def guarded(provider_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Where a guardrail has the policy."""
    config = config_of(provider_url, None)
    modes = ["pre_call", "post_call"]
    params = {"guardrail": "luthien_litellm_hooks.LuthienGuardrail", "mode": modes, "default_on": True}
    config["guardrails"] = [{"guardrail_name": "withholds", "litellm_params": {**params, "policy": WITHHOLDS}}]
    with running_proxy(config, tmp_path_factory.mktemp("provider-errors") / "guarded", {}) as running:
        yield running


@pytest.fixture(scope="module")
def stock(proxies: Proxies) -> Proxy:
    return proxies.get(None, general_settings=FORWARDING)


@pytest.fixture(autouse=True)
def _answers(provider: ScriptedProvider) -> None:
    error = json.dumps(ERROR).encode()
    for status in STATUSES:
        provider.answers[f"status-{status}"] = Answer(raw=error, status=status, headers=HEADERS)
    for name, raw in UNREADABLE.items():
        provider.answers[name] = Answer(raw=raw)


FORMS = [*(("proxy", status) for status in STATUSES), ("guarded", 400), ("guarded", 429)]


@WAY
@STREAM
@pytest.mark.parametrize(("form", "status"), FORMS)
def test_an_error_has_status_class_and_transaction_and_no_word_of_the_provider(
    request: pytest.FixtureRequest, stock: Proxy, route: RouteName, wire: str, stream: bool, form: str, status: int
) -> None:
    got = ask(request.getfixturevalue(form), route, wire, stream, f"status-{status}", ASKED)
    plain = ask(stock, route, wire, stream, f"status-{status}", {})
    assert MARK in plain.all
    assert MARK not in got.all
    assert got.response.status_code == plain.response.status_code
    assert re.search(r"Error: .* \(status \d+, transaction [\w-]{36}\)$", got.message), got.message


@WAY
@STREAM
@pytest.mark.parametrize("name", UNREADABLE)
def test_what_litellm_cannot_read_is_not_quoted(
    proxy: Proxy, route: RouteName, wire: str, stream: bool, name: str
) -> None:
    got = ask(proxy, route, wire, stream, name, ASKED)
    assert MARK not in got.all
    assert "Traceback" not in got.all
    assert "site-packages" not in got.all


@WAY
@STREAM
def test_where_no_policy_judges_the_answer_litellms_own_error_leaves(
    proxy: Proxy, stock: Proxy, route: RouteName, wire: str, stream: bool
) -> None:
    got, plain = (ask(one, route, wire, stream, "status-400", {}) for one in (proxy, stock))
    assert got.response.status_code == plain.response.status_code
    assert ANY_ID.sub("", got.response.text) == ANY_ID.sub("", plain.response.text)
    assert names_of(got) == names_of(plain)


def names_of(got: Got) -> set[str]:
    """Those of the headers that tell of the error."""
    return {name for name in got.response.headers if not name.startswith("x-litellm-")}


NOT_ASKED: Mapping[str, Mapping[str, Any]] = {
    "an unknown model": {"model": "nobody/knows"},
    "a model of no kind": {"model": 7},
    "no model": {"model": None},
}


@pytest.mark.parametrize("error", NOT_ASKED)
@pytest.mark.parametrize("route", ["chat", "messages", "responses", "completions"])
@STREAM
def test_an_error_of_litellms_own_before_a_provider_is_asked_leaves_as_it_is(
    proxy: Proxy, stock: Proxy, route: RouteName, stream: bool, error: str
) -> None:
    got, plain = (ask(one, route, "openai", stream, "never", ASKED, **NOT_ASKED[error]) for one in (proxy, stock))
    assert plain.response.status_code >= 400
    assert (got.response.status_code, got.response.text) == (plain.response.status_code, plain.response.text)


RAISED: Mapping[int, tuple[type[Exception], type[Exception], type[Exception]]] = {
    400: (openai.BadRequestError, anthropic.BadRequestError, errors.ClientError),
    401: (openai.AuthenticationError, anthropic.AuthenticationError, errors.ClientError),
    403: (openai.PermissionDeniedError, anthropic.PermissionDeniedError, errors.ClientError),
    404: (openai.NotFoundError, anthropic.NotFoundError, errors.ClientError),
    429: (openai.RateLimitError, anthropic.RateLimitError, errors.ClientError),
    500: (openai.InternalServerError, anthropic.InternalServerError, errors.ServerError),
}


@STREAM
@pytest.mark.parametrize("status", RAISED)
def test_official_clients_raise_what_they_raise_without_us(proxy: Proxy, status: int, stream: bool) -> None:
    headers = {"x-answer": f"status-{status}", **ASKED}
    of_openai, of_anthropic, of_google = RAISED[status]
    messages: Any = [{"role": "user", "content": "hello"}]
    model = f"openai/{MODELS['openai']}"
    with pytest.raises(of_openai):
        proxy.openai.chat.completions.create(model=model, messages=messages, stream=stream, extra_headers=headers)
    with pytest.raises(of_openai):
        proxy.openai.responses.create(model=model, input="hello", stream=stream, extra_headers=headers)
    with pytest.raises(of_anthropic):
        proxy.anthropic.messages.create(
            model=f"anthropic/{MODELS['anthropic']}",
            max_tokens=9,
            messages=messages,
            stream=stream,
            extra_headers=headers,
        )
    models = proxy.genai.models
    body: Any = {
        "model": f"gemini/status-{status}",
        "contents": "hello",
        "config": {"http_options": {"headers": ASKED}},
    }
    with pytest.raises(of_google, match=f"^{status} "):
        list(models.generate_content_stream(**body)) if stream else models.generate_content(**body)


@STREAM
@pytest.mark.parametrize("route", ["chat", "responses"])
def test_a_client_is_told_when_to_ask_again(
    proxy: Proxy, provider: ScriptedProvider, route: RouteName, stream: bool
) -> None:
    limits = {"retry-after": "7", "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1m3.5s"}
    provider.answers["limited"] = Answer([Say(MARK)], status=429, headers={**limits, "x-said": MARK})
    got = ask(proxy, route, "openai", stream, "limited", ASKED)
    assert got.response.status_code == 429
    assert {name: got.response.headers.get(name) for name in limits} == limits
    assert MARK not in got.all


TOO_LONG: Mapping[str, str] = {
    "openai": "This model's maximum context length is 128000 tokens, not zanzibar",
    "anthropic": "prompt is too long: 212345 tokens > 200000 maximum zanzibar",
}


@STREAM
@pytest.mark.parametrize(("route", "wire"), [way for way in WAYS if way[1] in TOO_LONG])
def test_an_agent_is_told_that_its_prompt_is_too_long(
    proxy: Proxy, provider: ScriptedProvider, route: RouteName, wire: str, stream: bool
) -> None:
    provider.answers["too-long"] = Answer([Say(TOO_LONG[wire])], status=400)
    got = ask(proxy, route, wire, stream, "too-long", ASKED)
    assert got.response.status_code in (200, 400)
    assert "prompt is too long" in got.message
    assert "context_length_exceeded" in got.message
    assert MARK not in got.all


IN_STREAM: Mapping[str, bytes] = {
    "chat": b"data: " + json.dumps({"error": ERROR["error"]}).encode() + b"\n\n",
    "completions": b"data: " + json.dumps({"error": ERROR["error"]}).encode() + b"\n\n",
    "messages": b"event: error\ndata: " + json.dumps(ERROR).encode() + b"\n\n",
    "responses": b"event: error\ndata: "
    + json.dumps({"type": "error", **dict.fromkeys(("code", "message", "param"), MARK), "sequence_number": 9}).encode()
    + b"\n\n",
    "gemini": b"data: " + json.dumps({"error": ERROR["error"]}).encode() + b"\n\n",
}
FAILED = {"id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-4o", "status": "failed", "output": []}
BROKEN_OFF: Mapping[str, bytes] = {
    "an error": b"",
    "a failed response": b"event: response.failed\ndata: "
    + json.dumps(
        {
            "type": "response.failed",
            "sequence_number": 9,
            "response": {**FAILED, "error": {"code": MARK, "message": MARK}},
        }
    ).encode()
    + b"\n\n",
    "no JSON": b"data: {" + MARK.encode() + b"\n\n",
    "no event": MARK.encode() + b"\n\n",
}
NATIVE: Mapping[RouteName, str] = {
    "chat": "openai",
    "messages": "anthropic",
    "responses": "openai",
    "completions": "openai",
    "gemini": "gemini",
}


@pytest.mark.parametrize("begins", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize(
    ("route", "error"),
    [
        (route, error)
        for error in BROKEN_OFF
        for route in NATIVE
        if error != "a failed response" or route == "responses"
    ],
)
def test_an_error_within_a_stream_is_not_quoted(
    proxy: Proxy, provider: ScriptedProvider, route: RouteName, error: str, begins: bool
) -> None:
    name, wire = f"in-stream-{uuid.uuid4().hex}", ROUTES[route].wire
    if route == "completions":
        wire = ROUTES["chat"].wire
    sent = wire.stream(Answer([Say("orchid"), Call("tulip", "{}"), Cut()]), {"model": MODELS.get(NATIVE[route])})
    before = b"".join(frame for frame in sent if isinstance(frame, bytes)) if begins else b""
    provider.answers[name] = Answer(raw=before + (BROKEN_OFF[error] or IN_STREAM[route]))
    got = ask(proxy, route, NATIVE[route], True, name, ASKED)
    assert MARK not in got.all
    assert "orchid" not in got.all, "the policy withholds it"


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}
READ_OTHERWISE: Mapping[str, Mapping[str, Any]] = {
    "enforce_validation": {
        "response_format": {"type": "json_object", "response_schema": SCHEMA, "enforce_validation": True}
    },
    "enable_json_schema_validation": {"response_format": JSON_SCHEMA, "enable_json_schema_validation": True},
    "extra_body.stream": {"extra_body": {"stream": True, "stream_options": {"include_usage": True}}},
    "complete_response": {"complete_response": True},
    "fallbacks": {"fallbacks": [{"model": "openai/gpt-4o", "extra_body": {"stream": True}}]},
}


@WAY
@pytest.mark.parametrize("field", READ_OTHERWISE)
def test_no_field_of_a_request_makes_litellm_fail_over_an_answer(
    proxy: Proxy, provider: ScriptedProvider, route: RouteName, wire: str, field: str
) -> None:
    provider.answers["said"] = Answer([Say(MARK), Call("tulip", json.dumps({"said": MARK}))])
    got = ask(proxy, route, wire, False, "said", ASKED, **READ_OTHERWISE[field])
    assert MARK not in got.all
    assert "tulip" not in got.all
    assert got.response.status_code == 200, got.all


@pytest.fixture(scope="module")
def pinging(provider_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Where a client that waits gets comments, so that an error comes when the status is sent."""
    config = config_of(provider_url, {"policy": WITHHOLDS})
    config["litellm_settings"]["sse_keepalive_ping_interval_seconds"] = 0.05
    with running_proxy(config, tmp_path_factory.mktemp("provider-errors") / "pinging", {}) as running:
        yield running


@WAY
def test_an_error_that_comes_after_a_ping_is_not_quoted(
    pinging: Proxy, provider: ScriptedProvider, route: RouteName, wire: str
) -> None:
    gate = Gate()
    name = f"late-{route}-{wire}"
    provider.answers[name] = Answer([Wait(gate), Say(MARK)], status=400)
    body = {**ROUTES[route].body, "model": f"{wire}/{name}", "stream": True}
    path = ROUTES[route].path
    if route == "gemini":
        path, body = f"/v1beta/models/{wire}/{name}:streamGenerateContent?alt=sse", ROUTES[route].body
    if route == "gemini":  # where LiteLLM does not ping before it has an answer
        gate.open()
    said = ""
    with pinging.http.stream("POST", path, json=body, headers={"x-answer": name}) as response:
        for piece in response.iter_text():
            said += piece
            if ": ping" in said:
                gate.open()
    assert MARK not in said
    assert "transaction " in said


def test_the_record_says_what_happened_and_the_rest_of_the_row_does_not_quote(
    proxy: Proxy, provider: ScriptedProvider, postgres_url: str
) -> None:
    provider.answers["quoting"] = Answer([Say(MARK)], status=400)
    key = proxy.virtual_key()
    told: dict[str, str] = {}
    for stream in (False, True):
        for route, wire in NATIVE.items():
            call = f"{route}-{stream}"
            headers = {"Authorization": f"Bearer {key}", "x-litellm-call-id": call, **ASKED}
            told[call] = ask(proxy, route, wire, stream, "quoting", headers).message
    rows = spend_logs(postgres_url, key, len(told))
    for row in rows:
        copies = [row["metadata"], *(row["proxy_server_request"].get(name) or {} for name in BUCKETS)]
        record, *_ = [copy["spend_logs_metadata"].pop("luthien") for copy in copies if "spend_logs_metadata" in copy]
        assert record["outcome"] == "provider_error"
        assert record["error"]["kind"].endswith("Error")
        assert MARK in record["error"]["message"], "where texts may be kept, the operator reads it here"
        assert f"transaction {record['transaction_id']}" in told[row["request_id"]]
        assert MARK not in json.dumps(row, default=str), "its owner may read the row"


BUCKETS = ("metadata", "litellm_metadata")
