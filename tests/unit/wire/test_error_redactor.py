"""Errors in bytes of a stream, whose messages of the provider's own no client gets."""

import pytest

from luthien_litellm_hooks.wire.provider_errors import ErrorRedactor

MARK = "zanzibar"
TEXT = b'data: {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "no error"}}\n\n'


def error(key: str) -> bytes:
    return f'data: {{"{key}": {{"code": 503, "message": "{MARK}", "status": "UNAVAILABLE"}}}}\n\n'.encode()


@pytest.mark.parametrize("before", [b"", TEXT])
@pytest.mark.parametrize("key", ["error", r"\u0065rror", r"e\u0072ror", r"err\u006Fr"])
def test_an_error_leaves_without_the_providers_message_however_its_key_is_written(key: str, before: bytes) -> None:
    redactor = ErrorRedactor("transaction")
    left = redactor.redact(before + error(key))
    assert isinstance(left, bytes)
    assert left.startswith(before)
    assert MARK.encode() not in left
    assert redactor.failure is not None


@pytest.mark.parametrize("text", ["no error", r"caf\u00e9", r"\u006fk"])
def test_a_text_leaves_as_it_came(text: str) -> None:
    unit = TEXT.replace(b"no error", text.encode())
    assert ErrorRedactor("transaction").redact(unit) == unit
