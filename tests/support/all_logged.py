"""Loggers of LiteLLM's that write down all that they are handed, to the file that LOGGED_TO names."""

import asyncio
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import litellm
from litellm.integrations.custom_logger import CustomLogger
from pydantic import BaseModel

FILE_VARIABLE = "LOGGED_TO"
DELAYED = "delayed"
"""Begins the ids of calls whose loggers wait here a while, so that those in threads could be earlier."""
_DELAY_S = 3.0
_NOT_LOGGED = ("opentelemetry.", "asyncio.", "_asyncio")


def texts_in(value: object, seen: set[int] | None = None) -> Iterator[str]:
    """Every text that can be reached from a value: members, attributes, errors with their causes."""
    seen = set() if seen is None else seen
    if isinstance(value, str | bytes):
        yield value if isinstance(value, str) else value.decode(errors="replace")
        return
    if value is None or isinstance(value, int | float | type) or id(value) in seen:
        return
    seen.add(id(value))
    if type(value).__module__.startswith(_NOT_LOGGED):
        return
    for member in _members(value):
        yield from texts_in(member, seen)


def _members(value: Any) -> Iterator[object]:
    if isinstance(value, Mapping):
        yield from value.keys()
        yield from value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value
    if isinstance(value, httpx.Response) and value.is_closed and hasattr(value, "_content"):
        yield value.text
    if isinstance(value, BaseException):
        yield str(value)
        yield from value.args
        yield from (value.__cause__, value.__context__)
    if isinstance(value, BaseModel):
        yield from (value.__pydantic_extra__, value.__pydantic_private__)
    yield from vars(value).values() if hasattr(value, "__dict__") else ()


def _write(hook: str, kwargs: Any, *others: object) -> None:
    payload = kwargs.get("standard_logging_object") or {}
    line = {
        "hook": hook,
        "id": kwargs.get("litellm_call_id"),
        "response": json.dumps(payload.get("response"), default=str),
        "metadata": json.dumps(payload.get("metadata"), default=str),
        "texts": "\n".join(texts_in([kwargs, *others])),
    }
    with open(os.environ[FILE_VARIABLE], "a") as file:
        file.write(json.dumps(line) + "\n")


class _Everything(CustomLogger):
    async def async_logging_hook(self, kwargs: Any, result: Any, call_type: str) -> tuple[Any, Any]:
        if str(kwargs.get("litellm_call_id")).startswith(DELAYED):
            await asyncio.sleep(_DELAY_S)
        return kwargs, result

    async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        _write("async success", kwargs, response_obj)

    async def async_log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        _write("async failure", kwargs, response_obj)


def blocking(kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
    """As LiteLLM calls loggers that are functions, and those of its own that block."""
    _write("blocking", kwargs, response_obj)


logger = _Everything()
if FILE_VARIABLE in os.environ:
    litellm.failure_callback.append(blocking)  # of an answer LiteLLM asks no functions, where the call is async
