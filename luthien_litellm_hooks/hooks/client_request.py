"""The client's own part in LiteLLM's `data` of a request."""

from collections.abc import Mapping
from typing import Any, cast

LITELLM_OWN = frozenset(
    {"metadata", "litellm_metadata", "_litellm_skip_openai_stream_done", "_litellm_raw_sse_stream"}
    | {"litellm_logging_obj", "proxy_server_request", "secret_fields"}  # objects of its own, whatever a client sent
)


def body_of(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The body as it came, or as LiteLLM noted it since."""
    return cast(Mapping[str, Any], _came(data).get("body") or {})


def headers_of(data: Mapping[str, Any]) -> dict[str, str]:
    """The headers, with names in lower case."""
    headers = cast(Mapping[str, str], _came(data).get("headers") or {})
    return {name.lower(): value for name, value in headers.items()}


def keys_of(data: Mapping[str, Any]) -> set[str]:
    """The keys of `data` that the client set, and the model, which may come in the path or the query."""
    return ((body_of(data).keys() | {"model"}) & data.keys()) - LITELLM_OWN


def _came(data: Mapping[str, Any]) -> Mapping[str, Any]:
    return cast(Mapping[str, Any], data.get("proxy_server_request") or {})
