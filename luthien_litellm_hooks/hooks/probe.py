"""Probes of `luthien-hooks doctor`, told by a header of the client's request."""

from collections.abc import Mapping
from typing import Any, cast

from luthien_litellm_hooks.doctor_proof import HEADER, is_nonce


def nonce_of(data: Mapping[str, Any]) -> str | None:
    """The nonce of the probe that LiteLLM's `data` belongs to; None for every other request."""
    came = cast(Mapping[str, Any], data.get("proxy_server_request") or {})
    headers = cast(Mapping[str, Any], came.get("headers") or {})
    value: object = headers.get(HEADER)
    return value if isinstance(value, str) and is_nonce(value) else None
