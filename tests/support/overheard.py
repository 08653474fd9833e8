"""A logger of the operator's, for tests: writes all that LiteLLM hands to it into the file that OVERHEARD names."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from litellm.integrations.custom_logger import CustomLogger
from pydantic import BaseModel


class Overhearing(CustomLogger):
    """Takes the arguments of every event, and what stands in the objects among them."""

    def log_pre_api_call(self, model: object, messages: object, kwargs: dict[str, Any]) -> None:
        self._write("pre_api_call", kwargs, messages)

    def log_post_api_call(
        self, kwargs: dict[str, Any], response_obj: object, start_time: object, end_time: object
    ) -> None:
        self._write("post_api_call", kwargs, None)

    async def async_log_success_event(
        self, kwargs: dict[str, Any], response_obj: object, start_time: object, end_time: object
    ) -> None:
        self._write("success", kwargs, None)

    async def async_log_failure_event(
        self, kwargs: dict[str, Any], response_obj: object, start_time: object, end_time: object
    ) -> None:
        self._write("failure", kwargs, None)

    def _write(self, event: str, kwargs: dict[str, Any], said: object) -> None:
        call = kwargs.get("litellm_logging_obj") or kwargs.get("logging_obj")
        places = dict(_texts({**kwargs, "said": said, "logging": vars(call or self)}, ""))
        with Path(os.environ["OVERHEARD"]).open("a") as file:
            file.write(json.dumps({"event": event, "texts": places}) + "\n")


def _texts(value: Any, path: str, depth: int = 0) -> Iterator[tuple[str, str]]:
    """Every text in `value`, by its path."""
    if isinstance(value, str):
        yield path, value
    elif depth < 12:
        for key, item in _items(value):
            yield from _texts(item, f"{path}.{key}", depth + 1)


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, list | tuple):
        return enumerate(cast(Iterable[Any], value))
    fields: Any = vars(value) if isinstance(value, BaseModel) else value
    return fields.items() if isinstance(fields, dict) else ()


logger = Overhearing()
