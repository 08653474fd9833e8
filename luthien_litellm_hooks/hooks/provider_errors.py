"""The error that a client gets where a policy judges the answer: it quotes nobody."""

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from fastapi import HTTPException
from litellm.exceptions import MidStreamFallbackError
from litellm.litellm_core_utils.exception_mapping_utils import ExceptionCheckers
from litellm.proxy._types import ProxyException

from luthien_litellm_hooks.adapters.told_errors import CONTEXT_EXCEEDED, known_code, known_type, sentence

_CONTEXT_ERROR = "ContextWindowExceededError"
_NO_DEPLOYMENT = "No deployments available"  # by which LiteLLM finds status 429
_PASSED_HEADERS = re.compile(
    r"(llm_provider-)?(retry-after|retry-after-ms|x-should-retry|x-ratelimit-(limit|remaining|reset)-(requests|tokens))"
)
_PASSED_VALUES = re.compile(r"[\d.hms]{1,32}|true|false")


@dataclass(frozen=True, slots=True)
class Told:
    """All that a client may know of an error: nothing in it is a provider's, or a model's, own text."""

    message: str
    type: str
    code: str | None
    status: int
    headers: Mapping[str, str]

    @classmethod
    def of(cls, error: Exception, transaction_id: str) -> "Told":
        """Of `error`, whatever it is: never raises."""
        while isinstance(error, MidStreamFallbackError) and error.original_exception is not None:
            error = error.original_exception
        status, name = _status_of(error), type(error).__name__
        if status in (400, 413) and ExceptionCheckers.is_error_str_context_window_exceeded(text_of(error)):
            name = _CONTEXT_ERROR
        code = CONTEXT_EXCEEDED if name == _CONTEXT_ERROR else known_code(_attribute(error, "code"))
        prefix = "litellm." if type(error).__module__.partition(".")[0] == "litellm" else ""
        message = f"{prefix}{name}: {sentence(status, name)} (status {status}, transaction {transaction_id})"
        return cls(message, known_type(_attribute(error, "type"), status), code, status, _headers_of(error))


class ToldError(ProxyException, HTTPException):
    """LiteLLM takes an `HTTPException` from the failure hook, and sends a `ProxyException` just as it is."""

    def __init__(self, told: Told) -> None:
        cast(Any, ProxyException).__init__(self, told.message, told.type, None, told.status, openai_code=told.code)
        HTTPException.__init__(self, told.status, told.message, dict(told.headers))


class ToldInStreamError(Exception):
    """What a stream ends with instead of its provider's error: it has no more than what LiteLLM writes for clients."""

    def __init__(self, told: Told) -> None:
        super().__init__(told.message)
        self.message = told.message
        self.type = told.type
        self.param = None
        self.code = told.code
        self.status_code = told.status


def unsay(error: Exception, told: Told) -> None:
    """Makes `error` itself say what `told` says: on messages and text completions LiteLLM takes no other instead, and
    those who log it after us read it."""
    said: dict[str, object] = {"message": told.message, "args": (told.message,), "type": told.type, "code": told.code}
    said |= {
        "detail": told.message,
        "status_code": told.status,
        "param": None,
        "body": None,
        "provider_specific_fields": None,
    }
    if isinstance(error, ProxyException):
        said |= {"headers": dict(told.headers), "code": str(told.status)}
    for name, value in said.items():
        if name == "message" or _attribute(error, name) is not None:
            with suppress(Exception):  # of what cannot be set
                setattr(error, name, value)
    if _attribute(error, "message") != told.message:  # as that of a group of exceptions, which only its class can hide
        kind = type(error)
        cast(Any, error).__class__ = type(kind.__name__, (kind,), {"message": told.message})


def text_of(error: Exception) -> str:
    """What `error` says, for the operator."""
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
    """When to ask again, and what is left of limits: values that are numbers."""
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
