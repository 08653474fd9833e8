"""The request in LiteLLM's own log: what the policies made of it, where LiteLLM copied it before they were asked."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

from litellm.litellm_core_utils.litellm_logging import Logging

from luthien_litellm_hooks.hooks.routes import NAMES
from luthien_litellm_hooks.policy.request import Request
from luthien_litellm_hooks.policy.request_texts import iter_texts

_FIELDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "chat": ("messages",),
        "messages": ("messages",),
        "responses": ("input", "messages"),
        "completions": ("prompt",),
    }
)
"""What LiteLLM logs of a request, by the route's name: the first of these that there is."""


def log_request(data: Mapping[str, Any], call_type: str, final: Request) -> None:
    """Puts `final`, which LiteLLM's `data` have become, into what LiteLLM's loggers get."""
    call: object = data.get("litellm_logging_obj")
    if not isinstance(call, Logging):
        return
    route = NAMES[call_type]
    given = _last_asked(final) if route == "gemini" else _first(data, _FIELDS[route])
    cast(Any, call).update_messages(_as_messages(given))
    params = cast(dict[str, Any], cast(Any, call).litellm_params)
    params |= {key: data[key] for key in params.keys() & final.body.keys() if key in data}
    call.model_call_details["input"] = given


def _first(data: Mapping[str, Any], fields: tuple[str, ...]) -> object:
    return next((data[field] for field in fields if data.get(field)), None)


def _last_asked(request: Request) -> str:
    """What the user said last, which is all that LiteLLM logs on Gemini's route."""
    return next((said.text for said in reversed(list(iter_texts(request))) if said.role == "user"), "")


def _as_messages(given: object) -> object:
    """A copy in chat's form, as LiteLLM makes one of a text."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list):
        return given
    items = cast(list[object], given)
    return [{"role": "user", "content": item} if isinstance(item, str) else item for item in items]
