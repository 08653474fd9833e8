"""Opening of sealed records, with the proxy's key or through the running proxy."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import httpx
from pydantic import ValidationError

from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.monitor.transactions import Record, Transaction

_PATH = "/luthien/open"
_AT_ONCE = 10
"""Records in one request; each may have megabytes."""
_TIMEOUT_S = 60.0
_NO_KEY = (
    "is sealed, and no key is given: set LITELLM_SALT_KEY as the proxy has it, or if it has none "
    "LITELLM_MASTER_KEY; or read it from the running proxy with --url"
)
_WRONG_KEY = (
    "was sealed with another key than the given one: use the LITELLM_SALT_KEY that the proxy had at the "
    "time, or if it had none its master key"
)
_NEVER_STORED = (
    "has no reasons and no texts: the proxy had no key to seal them with, neither LITELLM_SALT_KEY nor a master key"
)


class Opener(Protocol):
    """A way to open records. `why_not` is the reason why one stayed closed."""

    why_not: str

    def open(self, sealed: Sequence[str]) -> Sequence[Mapping[str, Any] | None]:
        """Returns the content of each record; None if it cannot be opened."""
        ...


class WithKeys:
    """Opener in this process, with the first key that fits."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = [key for key in keys if key]
        self.why_not = _WRONG_KEY if self._keys else _NO_KEY

    def open(self, sealed: Sequence[str]) -> Sequence[Mapping[str, Any] | None]:
        if not self._keys:
            return [None] * len(sealed)
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no download
        from luthien_litellm_hooks.recording.sealing import unseal

        return [unseal(text, self._keys) for text in sealed]


class ByProxy:
    """Opener through the proxy at `url`, for the holder of an admin's key."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url.rstrip("/") + _PATH
        self._key = key
        self.why_not = _WRONG_KEY

    def open(self, sealed: Sequence[str]) -> Sequence[Mapping[str, Any] | None]:
        starts = range(0, len(sealed), _AT_ONCE)
        return [record for start in starts for record in self._ask(sealed[start : start + _AT_ONCE])]

    def _ask(self, sealed: Sequence[str]) -> Sequence[Mapping[str, Any] | None]:
        try:
            response = httpx.post(
                self._url,
                json={"sealed": list(sealed)},
                headers={"Authorization": f"Bearer {self._key}"},
                timeout=_TIMEOUT_S,
            )
            if response.is_success:
                return cast(Sequence[Mapping[str, Any] | None], response.json()["records"])
            self.why_not = f"is sealed, and {self._url} does not open it: HTTP {response.status_code}"
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
            self.why_not = f"is sealed, and {self._url} does not open it: {error}"
        return [None] * len(sealed)


@dataclass(frozen=True, slots=True)
class Opened:
    """Transactions with opened records, and a complaint for each incomplete record."""

    transactions: Sequence[Transaction]
    complaints: Sequence[str]


def opened(transactions: Sequence[Transaction], opener: Opener) -> Opened:
    """Opens the sealed records."""
    closed = [one.record.sealed for one in transactions if one.record is not None and one.record.sealed is not None]
    contents = iter(opener.open(closed) if closed else ())
    opened_rows = [_with_record(one, contents) for one in transactions]
    records = [one.record for one in opened_rows if one.record is not None]
    without_rest = [_complaint(record, _NEVER_STORED) for record in records if record.is_without_rest]
    still_closed = [_complaint(record, opener.why_not) for record in records if record.sealed is not None]
    return Opened(opened_rows, [*without_rest, *still_closed])


def _with_record(transaction: Transaction, contents: Iterator[Mapping[str, Any] | None]) -> Transaction:
    record = transaction.record
    if record is None or record.sealed is None:
        return transaction
    content = next(contents)
    if content is None or content.get("transaction_id") != record.transaction_id:
        return transaction
    try:
        return transaction.model_copy(update={"record": Record.model_validate(content)})
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ConfigError(
            f"The record of {record.transaction_id} has a form that this version cannot read: {where}"
        ) from None


def _complaint(record: Record, why: str) -> str:
    return f"The record of {record.transaction_id} {why}."
