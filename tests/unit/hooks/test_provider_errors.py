"""All exceptions that LiteLLM and its providers know, with words wherever they take any: none leaves with an error, on
any route, whatever becomes of the exception."""

import importlib
import inspect
import json
import logging
import pkgutil
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, cast

import httpx
import litellm.exceptions
import litellm.llms
import pydantic
import pytest
from fastapi import HTTPException
from litellm.proxy import proxy_server
from litellm.proxy._types import ProxyException, UserAPIKeyAuth
from litellm.proxy.common_request_processing import ProxyBaseLLMRequestProcessing
from starlette.testclient import TestClient

from luthien_litellm_hooks import Policy, PolicyContext, Request, SimplePolicy
from luthien_litellm_hooks.engine.executor import PolicyExecutor
from luthien_litellm_hooks.hooks.active_policy import ActivePolicy, PolicyHolder
from luthien_litellm_hooks.hooks.callback import LuthienCallback
from luthien_litellm_hooks.hooks.provider import SafeStreamError
from luthien_litellm_hooks.hooks.routes import RefusedError
from luthien_litellm_hooks.hooks.spend_logs import SpendLogEntry
from luthien_litellm_hooks.hooks.transaction import Transaction, UngovernedError, set_current
from luthien_litellm_hooks.policies.noop import NoOp
from luthien_litellm_hooks.recording.recorder import DefaultTransactionRecorder
from luthien_litellm_hooks.testing.routes import ROUTES, RouteName

MARK = "zanzibar"
RESPONSE = httpx.Response(
    400,
    text=json.dumps({"error": {"message": MARK}}),
    headers={"x-said": MARK, "retry-after": MARK},
    request=httpx.Request("POST", f"http://{MARK}"),
)
ARGUMENTS: Mapping[str, Any] = {
    "status_code": 500,  # below it LiteLLM tells by some only that a request was wrong, and asks no hook
    "code": 400,
    "response": RESPONSE,
    "raw_response": RESPONSE,
    "original_response": None,
    "request": RESPONSE.request,
    "headers": {"x-said": MARK},
    "litellm_response_headers": {"x-said": MARK},
    "body": {"message": MARK, "type": MARK, "code": MARK, "param": MARK},
    "request_data": {},
    "original_exception": ValueError(MARK),
    "provider_specific_fields": {"said": MARK},
    "current_cost": 1.0,
    "max_budget": 1.0,
    "cooldown_time": 1.0,
    "failures": [{"vector_store_id": MARK, "error": MARK}],
}


def _loaded() -> list[type[Exception]]:
    """The classes of exceptions of LiteLLM and of the libraries by which it asks providers."""
    for module in pkgutil.walk_packages(litellm.llms.__path__, "litellm.llms."):
        if module.name.rpartition(".")[2] in ("common_utils", "exceptions", "errors"):
            with suppress(ImportError):
                importlib.import_module(module.name)
    found: dict[type[Exception], None] = {}

    def collect(base: type[Exception]) -> None:
        for each in base.__subclasses__():
            if each not in found:
                found[each] = None
                collect(each)

    collect(Exception)
    return [each for each in found if each.__module__.partition(".")[0] in ("litellm", "openai", "httpx", "fastapi")]


def _made(kind: type[Exception]) -> Exception | None:
    """An exception of this kind that says the mark wherever it can; None if it is none of a call."""
    made: Exception | None = None
    with suppress(Exception):
        made = kind(**_arguments(kind)) if "__init__" in dir_of(kind) else kind(MARK)
    for name in ("body", "message", "type", "param", "llm_provider", "litellm_debug_info", "failed_generation"):
        with suppress(Exception):
            setattr(made, name, ARGUMENTS.get(name, MARK))
    return made


def _arguments(kind: type[Exception]) -> dict[str, Any]:
    named = [each for each in inspect.signature(kind).parameters.values() if each.kind not in _VARIADIC]
    return {each.name: ARGUMENTS.get(each.name, MARK) for each in named}


def dir_of(kind: type[Exception]) -> set[str]:
    """What a class and those that it is made of bring, but for Python's own."""
    return {name for each in kind.__mro__ if each.__module__ != "builtins" for name in vars(each)}


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_OURS = (RefusedError, UngovernedError, SafeStreamError)
_ANSWERS = ("ModifyResponseException", "RejectedRequestError", "SensitiveDataRouteException")
"""Which LiteLLM makes an answer of: they are raised by guardrails, for the client."""


class _Shape(pydantic.BaseModel):
    said: int


def _others() -> list[Exception]:
    """Others that code may raise which reads an answer."""
    raised: list[Exception] = [ValueError(MARK), KeyError(MARK), TypeError(MARK), AttributeError(MARK), OSError(MARK)]
    raised.append(ExceptionGroup(MARK, [ValueError(MARK)]))
    raised.append(httpx.HTTPStatusError(MARK, request=RESPONSE.request, response=RESPONSE))
    raised.append(HTTPException(418, {"error": {"message": MARK, "said": MARK}}, {"x-said": MARK}))
    raised.append(ProxyException(MARK, MARK, MARK, 400, {"x-said": MARK}, MARK, {"said": MARK}))
    for read in (lambda: _Shape.model_validate({"said": MARK}), lambda: json.loads(MARK), lambda: {}[MARK]):
        try:
            read()
        except (ValueError, KeyError) as error:
            raised.append(error)
    wrapped = RuntimeError(MARK)
    wrapped.__cause__ = AttributeError(MARK)
    return [*raised, wrapped]


def _errors() -> list[Exception]:
    made = [_made(kind) for kind in _loaded() if not issubclass(kind, _OURS) and kind.__name__ not in _ANSWERS]
    return [error for error in made if error is not None] + _others()


class Withholds(SimplePolicy):
    """Withholds every text."""

    async def on_response_content(self, content: str, request: Request) -> str | None:
        return None


def _begin(route: RouteName, policy: Policy) -> Transaction:
    """A transaction whose provider was asked."""
    context = PolicyContext(str(uuid.uuid4()), Request({**ROUTES[route].body, "model": "m"}))
    in_force = ActivePolicy(PolicyExecutor(policy))
    logged = SpendLogEntry(context, DefaultTransactionRecorder(), in_force, None)
    transaction = Transaction(ROUTES[route].call_type, in_force, context, log_entry=logged, is_provider_asked=True)
    set_current(transaction)
    return transaction


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """LiteLLM logs each with all that led to it."""
    monkeypatch.setattr(logging.getLogger("LiteLLM Proxy"), "disabled", True)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.setattr(
        litellm, "callbacks", [LuthienCallback(PolicyHolder(ActivePolicy(PolicyExecutor(Withholds()))))]
    )
    return TestClient(proxy_server.app, raise_server_exceptions=False)


def _answers(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, route: RouteName, policy: Policy, error: Exception
) -> httpx.Response:
    """What LiteLLM's own route answers when a call ends with `error`."""

    async def fail(*arguments: object, **named: object) -> None:
        _begin(route, policy)
        raise error

    monkeypatch.setattr(ProxyBaseLLMRequestProcessing, "base_process_llm_request", fail)
    return cast(httpx.Response, client.post(ROUTES[route].path, json={**ROUTES[route].body, "model": "m"}))


def _all(response: httpx.Response) -> str:
    return f"{response.status_code} {[*response.headers.items()]} {response.text}"


def test_the_exceptions_of_litellm_and_its_providers_are_among_those_that_are_tried() -> None:
    tried = {type(error) for error in _errors()}
    own = {each for each in vars(litellm.exceptions).values() if inspect.isclass(each) and issubclass(each, Exception)}
    missing = {each.__name__ for each in own if each.__module__ == "litellm.exceptions"} - {
        *(each.__name__ for each in tried),
        *_ANSWERS,
    }
    assert not missing
    assert len([each for each in tried if each.__module__.startswith("litellm.llms")]) > 30


@pytest.mark.parametrize("route", ROUTES)
def test_no_exception_of_a_full_answer_quotes_it(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, route: RouteName
) -> None:
    for error in _errors():
        name = f"{type(error).__module__}.{type(error).__name__}"
        answered = _answers(client, monkeypatch, route, Withholds(), error)
        assert answered.status_code >= 400, name
        assert MARK not in _all(answered), f"{name}: {_all(answered)}"
        assert "transaction " in answered.text, f"{name}: {_all(answered)}"
    ungoverned = (_answers(client, monkeypatch, route, NoOp(), error) for error in _errors())
    quoted = islice((answered for answered in ungoverned if MARK in _all(answered)), 11)
    assert len(list(quoted)) > 10, "without a policy that judges, LiteLLM quotes them"


@pytest.mark.anyio
@pytest.mark.parametrize("route", ROUTES)
async def test_no_exception_within_a_stream_quotes_it(monkeypatch: pytest.MonkeyPatch, route: RouteName) -> None:
    callback = LuthienCallback(PolicyHolder(ActivePolicy(PolicyExecutor(Withholds()))))
    monkeypatch.setattr(litellm, "callbacks", [callback])

    async def breaks(error: Exception) -> AsyncIterator[object]:
        raise error
        yield

    async def read(policy: Policy, error: Exception) -> str:
        transaction = _begin(route, policy)
        transaction.owner = ""
        user, data = UserAPIKeyAuth(request_route=ROUTES[route].path), {"model": "m", "metadata": {}}
        stream: Any
        if route == "messages":
            stream = ProxyBaseLLMRequestProcessing.async_sse_data_generator(
                breaks(error), user, data, proxy_server.proxy_logging_obj
            )
        else:
            stream = proxy_server.select_data_generator(
                breaks(error), user, data, responses_stream_errors=route == "responses"
            )
        return "".join([str(frame) async for frame in stream])

    for error in _errors():
        name = f"{type(error).__module__}.{type(error).__name__}"
        said = await read(Withholds(), error)
        assert MARK not in said, f"{name}: {said}"
        assert "transaction " in said, f"{name}: {said}"
    assert MARK in await read(NoOp(), ProxyException(MARK, MARK, MARK, 400))


@pytest.mark.parametrize("route", ROUTES)
def test_what_a_policy_says_is_delivered(client: TestClient, monkeypatch: pytest.MonkeyPatch, route: RouteName) -> None:
    refused = RefusedError(451, "The policy says so.")
    answered = _answers(client, monkeypatch, route, Withholds(), refused)
    assert answered.status_code == 451
    assert answered.json()["error"]["message"] == "The policy says so."
    assert "could not be checked" in _answers(client, monkeypatch, route, Withholds(), UngovernedError()).text
