"""Sealed part of a record, for the proxy's admins alone: encrypted as LiteLLM encrypts its own secrets."""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, cast

from litellm.proxy.common_utils.encrypt_decrypt_utils import (
    decrypt_if_encrypted_with,
    encrypt_value_helper,
    get_salt_key,
)

from luthien_litellm_hooks.recording.record import SEALED, clear_part

logger = logging.getLogger("luthien_litellm_hooks")

_MARK = "luthien_record"
"""Mark of a record among LiteLLM's other values under the same key."""


def seal(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the record with all but its clear part encrypted. Without a key the rest is dropped."""
    return clear_part(record) | {SEALED: _encrypted(json.dumps({_MARK: record}, default=str))}


def unseal(sealed: str, keys: Sequence[str]) -> dict[str, Any] | None:
    """Returns the whole record, opened with the first fitting key; None if none fits, or the text holds no record."""
    for key in keys:
        text = decrypt_if_encrypted_with(sealed, key)
        if text is not None:
            return _record_in(text)
    return None


def unseal_here(sealed: str) -> dict[str, Any] | None:
    """Opens a record with the key of this proxy, as `unseal` does."""
    key = get_salt_key()
    return unseal(sealed, [key]) if key else None


def _encrypted(text: str) -> str | None:
    if not get_salt_key():  # an empty key would keep nothing secret
        return None
    try:
        return encrypt_value_helper(text)
    except Exception:
        logger.exception("a record could not be sealed: its reasons and texts are not kept")
        return None


def _record_in(text: str) -> dict[str, Any] | None:
    try:
        held: object = json.loads(text)
    except ValueError:
        return None
    record: object = cast(dict[str, object], held).get(_MARK) if isinstance(held, dict) else None
    return cast(dict[str, Any], record) if isinstance(record, dict) else None
