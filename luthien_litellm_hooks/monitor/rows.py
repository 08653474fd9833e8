"""Stored transactions for the pages, read within the proxy: from its file of records, or from its database.

Pages are read by keyset: the position of the last row leads to the next ones, however many there are.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.monitor.opening import opened
from luthien_litellm_hooks.monitor.spend_logs import (
    MAX_FOUND,
    Filter,
    beginning_of_id,
    best_matches,
    find_query,
    latest_query,
)
from luthien_litellm_hooks.monitor.transactions import Transaction, read_transaction
from luthien_litellm_hooks.recording.sqlite import RecordReader

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = ThreadPoolExecutor(2, thread_name_prefix="luthien-monitor")
"""Few: all pages together take little of the processor from the responses."""


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Returns the result of `work`, from one of the two threads of all pages."""
    return await asyncio.get_running_loop().run_in_executor(_THREADS, partial(work, *args, **kwargs))


@dataclass(frozen=True, slots=True)
class Position:
    """Place of a row among all, newest first. As text it is part of a link."""

    time: datetime
    id: str

    def __str__(self) -> str:
        return f"{self.time.isoformat()}~{self.id}"

    @classmethod
    def read(cls, text: str) -> "Position":
        """Raises `ValueError`."""
        time, _, id = text.partition("~")
        moment = datetime.fromisoformat(time)
        if moment.tzinfo is None or not id:
            raise ValueError("a position is a time with its zone, and an id")
        return cls(moment, id)


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of transactions, and the position from which the next one goes on; None at the end."""

    transactions: Sequence[Transaction]
    older: Position | None


class Rows(Protocol):
    """A way to the stored transactions. The methods raise `ConfigError` if they cannot be read."""

    async def latest(self, chosen: Filter, before: Position | None, size: int) -> Listing:
        """Returns the newest transactions before the position, without their texts."""
        ...

    async def find(self, wanted: str) -> Transaction | None:
        """Returns the transaction with this id of its own, or of its response or LiteLLM call, opened."""
        ...


class FileRows:
    """Transactions in the file of records."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader = RecordReader(path)

    async def latest(self, chosen: Filter, before: Position | None, size: int) -> Listing:
        return await in_thread(self._latest, chosen, before, size)

    def _latest(self, chosen: Filter, before: Position | None, size: int) -> Listing:
        rows: list[dict[str, Any]] = self._ask(
            lambda: self._reader.page(
                chosen.criteria, chosen.since, None if before is None else (before.time, before.id), size
            )
        )
        found = [read_transaction(row) for row in rows]
        last = found[-1] if len(found) == size else None
        return Listing(found, None if last is None else Position(last.time, last.transaction_id or ""))

    async def find(self, wanted: str) -> Transaction | None:
        rows: list[dict[str, Any]] = await in_thread(
            self._ask, lambda: self._reader.find(wanted, beginning_of_id(wanted), MAX_FOUND)
        )
        return _best([read_transaction(row) for row in rows], wanted)

    def _ask(self, read: Callable[[], T], nothing: Callable[[], T] = list) -> T:  # pyright: ignore[reportArgumentType]
        if not self._path.expanduser().exists():
            return nothing()
        try:
            return read()
        except (sqlite3.Error, OSError) as error:
            raise ConfigError(f"The records in {self._path} cannot be read: {error}") from None


Query = Callable[..., Awaitable[list[dict[str, Any]]]]
"""Raw query of the proxy's database, with its values."""


class DatabaseRows:
    """Transactions in the spend logs, through the proxy's own connection. `unseal` opens a sealed record with the
    proxy's key."""

    def __init__(self, query: Query, unseal: Callable[[str], Mapping[str, Any] | None]) -> None:
        self._query = query
        self._opener = _Here(unseal)

    async def latest(self, chosen: Filter, before: Position | None, size: int) -> Listing:
        last = (None, None) if before is None else (before.time.isoformat(), before.id)
        found = await self._ask(*latest_query(chosen, *last, size, with_texts=False))
        end = found[-1] if len(found) == size else None
        return Listing(found, None if end is None else Position(end.time, end.response_id))

    async def find(self, wanted: str) -> Transaction | None:
        best = _best(await self._ask(*find_query(wanted)), wanted)
        if best is None:
            return None
        [transaction] = (await in_thread(opened, [best], self._opener)).transactions
        return transaction

    async def _ask(self, query: str, *values: object) -> Sequence[Transaction]:
        try:
            rows = await self._query(query, *values)
        except Exception as error:
            raise ConfigError(f"The spend logs cannot be read from the database: {type(error).__name__}") from error
        return [read_transaction(row) for row in rows]


class _Here:
    """Opener with the key of this proxy."""

    why_not = "was sealed with another key than this proxy has"

    def __init__(self, unseal: Callable[[str], Mapping[str, Any] | None]) -> None:
        self._unseal = unseal

    def open(self, sealed: Sequence[str]) -> Sequence[Mapping[str, Any] | None]:
        return [self._unseal(text) for text in sealed]


def _best(found: Sequence[Transaction], wanted: str) -> Transaction | None:
    best = best_matches(found, wanted)
    return best[0] if best else None
