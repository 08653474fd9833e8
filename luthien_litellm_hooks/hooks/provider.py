"""Provider's side of a transaction: its errors as a client may read them, and the end of its stream."""

import math
import re
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import httpx
from fastapi import HTTPException
from litellm.exceptions import MidStreamFallbackError
from litellm.litellm_core_utils.exception_mapping_utils import ExceptionCheckers
from litellm.proxy import proxy_server
from litellm.proxy._types import ProxyException, UserAPIKeyAuth
from litellm.proxy.common_request_processing import ProxyBaseLLMRequestProcessing

from luthien_litellm_hooks.engine.pipeline import close_stream
from luthien_litellm_hooks.hooks.spend_logs import SpendLogEntry
from luthien_litellm_hooks.wire import FORMATS
from luthien_litellm_hooks.wire.format import event_payloads
from luthien_litellm_hooks.wire.provider_errors import CONTEXT_EXCEEDED, known_code, known_type, sentence

_CONTEXT_ERROR = "ContextWindowExceededError"
_NO_DEPLOYMENT = "No deployments available"  # LiteLLM finds status 429 by it
_PASSED_HEADERS = re.compile(
    r"(llm_provider-)?(retry-after|retry-after-ms|x-should-retry|x-ratelimit-(limit|remaining|reset)-(requests|tokens))"
)
_PASSED_VALUES = re.compile(r"[\d.hms]{1,32}|true|false")


@dataclass(frozen=True, slots=True)
class SafeError:
    """Facts of an error for the client; none of them is a provider's or a model's own text."""

    message: str
    type: str
    code: str | None
    status: int
    headers: Mapping[str, str]

    @classmethod
    def of(cls, error: Exception, transaction_id: str) -> "SafeError":
        """Reads `error`, of any class. Never raises."""
        while isinstance(error, MidStreamFallbackError) and error.original_exception is not None:
            error = error.original_exception
        status, name = _status_of(error), type(error).__name__
        if status in (400, 413) and ExceptionCheckers.is_error_str_context_window_exceeded(text_of(error)):
            name = _CONTEXT_ERROR
        code = CONTEXT_EXCEEDED if name == _CONTEXT_ERROR else known_code(_attribute(error, "code"))
        prefix = "litellm." if type(error).__module__.partition(".")[0] == "litellm" else ""
        message = f"{prefix}{name}: {sentence(status, name)} (status {status}, transaction {transaction_id})"
        return cls(message, known_type(_attribute(error, "type"), status), code, status, _headers_of(error))


class SafeProxyError(ProxyException, HTTPException):
    """Error for unchanged delivery: LiteLLM takes an `HTTPException` from the failure hook, and sends a
    `ProxyException` as it is."""

    def __init__(self, safe: SafeError) -> None:
        cast(Any, ProxyException).__init__(self, safe.message, safe.type, None, safe.status, openai_code=safe.code)
        HTTPException.__init__(self, safe.status, safe.message, dict(safe.headers))


class SafeStreamError(Exception):
    """Error at the end of a stream, instead of the provider's. It has only LiteLLM's attributes for clients."""

    def __init__(self, safe: SafeError) -> None:
        super().__init__(safe.message)
        self.message = safe.message
        self.type = safe.type
        self.param = None
        self.code = safe.code
        self.status_code = safe.status


def make_safe(error: Exception, safe: SafeError) -> None:
    """Replaces the texts in `error` itself by those of `safe`.

    On messages and text completions LiteLLM takes no other error, and loggers behind this one read it.
    """
    attributes: dict[str, object] = {
        "message": safe.message,
        "args": (safe.message,),
        "type": safe.type,
        "code": safe.code,
        "detail": safe.message,
        "status_code": safe.status,
        "param": None,
        "body": None,
        "provider_specific_fields": None,
    }
    if isinstance(error, ProxyException):
        attributes |= {"headers": dict(safe.headers), "code": str(safe.status)}
    for name, value in attributes.items():
        if name == "message" or _attribute(error, name) is not None:
            with suppress(Exception):  # some attributes cannot be set
                setattr(error, name, value)
    if _attribute(error, "message") != safe.message:  # only its class can hide the message of a group of exceptions
        kind = type(error)
        cast(Any, error).__class__ = type(kind.__name__, (kind,), {"message": safe.message})


def text_of(error: Exception) -> str:
    """Returns the text of `error`, for the operator."""
    with suppress(Exception):
        return str(_attribute(error, "message") or error)
    return ""


def _attribute(error: object, name: str) -> object:
    with suppress(Exception):
        return getattr(error, name, None)
    return None


def _status_of(error: Exception) -> int:
    carried = (_attribute(error, "status_code"), _attribute(_attribute(error, "response"), "status_code"))
    for value in (*carried, _attribute(error, "code")):
        if isinstance(value, int | str) and str(value).isdecimal() and 400 <= int(value) <= 599:
            return int(value)
    return 429 if _NO_DEPLOYMENT in text_of(error) else 500


def _headers_of(error: Exception) -> Mapping[str, str]:
    """Returns the headers about retries and rate limits, if their values are numbers."""
    holders = (error, _attribute(error, "response"))
    sources = [_attribute(holder, "headers") for holder in holders] + [_attribute(error, "litellm_response_headers")]
    headers: dict[str, str] = {}
    for source in sources:
        if isinstance(source, Mapping):
            named = ((str(name).lower(), str(value)) for name, value in cast(Mapping[object, object], source).items())
            headers |= {
                name.removeprefix("llm_provider-"): value
                for name, value in named
                if _PASSED_HEADERS.fullmatch(name) and _PASSED_VALUES.fullmatch(value)
            }
    cooldown: object = _attribute(error, "cooldown_time")
    if isinstance(cooldown, int | float) and cooldown > 0:
        headers["retry-after"] = str(math.ceil(cooldown))
    return headers


class ProviderStream:
    """Provider's stream. It is logged when it is closed because the client does not read.

    By itself LiteLLM would log it only at the end of the client's connection, perhaps never. `log` logs what LiteLLM
    does not.
    """

    def __init__(
        self,
        response: AsyncIterable[object],
        entry: SpendLogEntry,
        request_data: dict[str, Any],
        user: UserAPIKeyAuth,
        log: Callable[[], None],
    ) -> None:
        self._response = response
        self._entry = entry
        self._request_data = request_data
        self._user = user
        self._log = log

    def __aiter__(self) -> AsyncIterator[object]:
        return aiter(self._response)

    def ensure_row(self) -> None:
        """Has the transaction logged, with the tokens that a departed client is to pay for."""
        self._note_tokens()
        self._log()

    async def aclose(self) -> None:
        """Closes the stream, and its connection: LiteLLM leaves it open when it closes one of Responses."""
        if self._entry.recorder.outcome == "client_disconnected":
            await cast(Any, ProxyBaseLLMRequestProcessing).finalize_streaming_generator_cleanup(
                None,
                self._request_data,
                _unwrapped(self._response),
                client_disconnected=True,
                user_api_key_dict=self._user,
                proxy_logging_obj=cast(Any, proxy_server).proxy_logging_obj,
            )
            if self._note_tokens():
                self._log()
        await close_stream(self._response)
        connection: object = getattr(self._response, "response", None)
        if isinstance(connection, httpx.Response):
            await connection.aclose()

    def _note_tokens(self) -> bool:
        """Returns whether the client has left a stream whose tokens are known, and LiteLLM logs none such."""
        if self._entry.recorder.outcome == "client_disconnected":
            self._entry.withheld = _counted(_unwrapped(self._response))
        return self._entry.withheld is not None


def _counted(response: object) -> object:
    """Returns the latest payload with a count of tokens, from the bytes that LiteLLM keeps of a stream of Gemini's.

    Returns None for other streams.
    """
    for item in reversed(cast(Sequence[object], getattr(response, "collected_chunks", ()))):
        text = item.decode(errors="replace") if isinstance(item, bytes) else ""
        for payload in event_payloads(text):
            if any(wire.tokens(payload) is not None for wire in FORMATS):
                return payload
    return None


def _unwrapped(response: object) -> object:
    """Returns the stream inside LiteLLM's own wrapper.

    On Python 3.12 and newer LiteLLM cannot see through it: a protocol's check no longer asks `__getattr__`.
    """
    is_wrapped = type(response).__name__ == "_UpstreamStreamBoundary"
    return getattr(response, "_source", response) if is_wrapped else response
