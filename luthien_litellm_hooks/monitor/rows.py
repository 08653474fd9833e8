"""Stored transactions for the pages, read within the proxy: from its file of records, or from its database.

Pages are read by keyset: the position of the last row leads to the next ones, however many there are.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.monitor.opening import opened
from luthien_litellm_hooks.monitor.spend_logs import (
    MAX_FOUND,
    Filter,
    beginning_of_id,
    best_matches,
    counts_query,
    ended_query,
    find_query,
    latest_query,
    these_query,
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
        """Raises `ValueError`, or `OverflowError`."""
        time, _, id = text.partition("~")
        moment = datetime.fromisoformat(time)
        if moment.tzinfo is None or not id:
            raise ValueError("a position is a time with its zone, and an id")
        return cls(moment.astimezone(UTC), id)


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of transactions, and the position from which the next one goes on; None at the end."""

    transactions: Sequence[Transaction]
    older: Position | None


@dataclass(frozen=True, slots=True)
class Count:
    """Number of the transactions of a minute with an outcome. The minute is in UTC, as `2026-05-31T12:00`."""

    minute: str
    outcome: str
    number: int


class Rows(Protocol):
    """A way to the stored transactions. The methods raise `ConfigError` if they cannot be read."""

    async def latest(self, chosen: Filter, before: Position | None, size: int) -> Listing:
        """Returns the newest transactions before the position, without their texts."""
        ...

    async def whole(self, chosen: Filter, before: Position | None, size: int) -> Listing:
        """Returns the same ones with their texts, opened."""
        ...

    async def find(self, wanted: str) -> Transaction | None:
        """Returns the transaction with this id of its own, or of its response or LiteLLM call, opened."""
        ...

    async def recorded_after(self, last: object) -> tuple[Sequence[Transaction], object]:
        """Returns the transactions that any worker recorded since the call that returned `last`, without their texts,
        and the next `last`. None returns no transactions."""
        ...

    async def counts(self, since: datetime) -> Sequence[Count]:
        """Returns the numbers of the transactions since then."""
        ...


class FileRows:
    """Transactions in the file of records."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader = RecordReader(path)

    async def latest(self, chosen: Filter, before: Position | None, size: int) -> Listing:
        return await in_thread(self._latest, chosen, before, size)

    def _latest(self, chosen: Filter, before: Position | None, size: int) -> Listing:
        place = None if before is None else (before.time, before.id)
        rows = self._ask(lambda: self._reader.page(chosen.criteria, chosen.since, place, size), [])
        found = [read_transaction(row) for row in rows]
        last = found[-1] if len(found) == size else None
        return Listing(found, None if last is None else Position(last.time, last.transaction_id or ""))

    async def whole(self, chosen: Filter, before: Position | None, size: int) -> Listing:
        listing = await self.latest(chosen, before, size)
        ids = [str(one.transaction_id) for one in listing.transactions]
        return Listing(await in_thread(self._whole, ids), listing.older)

    def _whole(self, ids: Sequence[str]) -> Sequence[Transaction]:
        return [read_transaction(row) for row in self._ask(lambda: self._reader.whole(ids), [])]

    async def find(self, wanted: str) -> Transaction | None:
        rows = await in_thread(self._ask, lambda: self._reader.find(wanted, beginning_of_id(wanted), MAX_FOUND), [])
        return _best([read_transaction(row) for row in rows], wanted)

    async def recorded_after(self, last: object) -> tuple[Sequence[Transaction], object]:
        number = last if isinstance(last, int) else None
        if number is None and not self._is_there:
            return [], 0
        rows, newest = await in_thread(self._ask, lambda: self._reader.written_after(number, with_texts=False), ([], 0))
        return [read_transaction(row) for row in rows], newest

    async def counts(self, since: datetime) -> Sequence[Count]:
        found = await in_thread(self._ask, lambda: self._reader.counts(since), [])
        return [Count(minute, outcome or "unfinished", number) for minute, outcome, number in found]

    @property
    def _is_there(self) -> bool:
        return self._path.expanduser().exists()

    def _ask(self, read: Callable[[], T], nothing: T) -> T:
        """Reads the file; returns `nothing` before its first record."""
        if not self._is_there:
            return nothing
        try:
            return read()
        except (sqlite3.Error, OSError) as error:
            raise ConfigError(f"The records in {self._path} cannot be read: {error}") from None


Query = Callable[..., Awaitable[list[dict[str, Any]]]]
"""Raw query of the proxy's database, with its values."""


_LONGEST_TRANSACTION = timedelta(hours=1)
_LONGEST_WRITING = timedelta(minutes=2)
"""Time in which LiteLLM writes a row after its end."""


class DatabaseRows:
    """Transactions in the spend logs, through the proxy's own connection. `unseal` opens a sealed record with the
    proxy's key."""

    def __init__(self, query: Query, unseal: Callable[[str], Mapping[str, Any] | None]) -> None:
        self._query = query
        self._opener = _Here(unseal)

    async def latest(self, chosen: Filter, before: Position | None, size: int) -> Listing:
        return await self._page(chosen, before, size, with_texts=False)

    async def whole(self, chosen: Filter, before: Position | None, size: int) -> Listing:
        listing = await self._page(chosen, before, size, with_texts=True)
        return Listing((await in_thread(opened, listing.transactions, self._opener)).transactions, listing.older)

    async def _page(self, chosen: Filter, before: Position | None, size: int, *, with_texts: bool) -> Listing:
        last = (None, None) if before is None else (before.time.isoformat(), before.id)
        found = await self._ask(*latest_query(chosen, *last, size, with_texts=with_texts))
        end = found[-1] if len(found) == size else None
        return Listing(found, None if end is None else Position(end.time, end.response_id))

    async def find(self, wanted: str) -> Transaction | None:
        best = _best(await self._ask(*find_query(wanted)), wanted)
        if best is None:
            return None
        [transaction] = (await in_thread(opened, [best], self._opener)).transactions
        return transaction

    async def recorded_after(self, last: object) -> tuple[Sequence[Transaction], object]:
        """The rows have no order of writing, so those that ended lately are looked for again and again, by their ids
        alone."""
        now = datetime.now(UTC)
        rows = await self._raw(*ended_query(now - _LONGEST_TRANSACTION, now - _LONGEST_WRITING))
        ids = frozenset(str(row["request_id"]) for row in rows)
        new = [] if last is None else sorted(ids - cast(frozenset[str], last))
        return await self._ask(*these_query(new)) if new else [], ids

    async def counts(self, since: datetime) -> Sequence[Count]:
        rows = await self._raw(*counts_query(since))
        return [Count(row["minute"], row["outcome"] or "unfinished", row["number"]) for row in rows]

    async def _ask(self, query: str, *values: object) -> Sequence[Transaction]:
        return [read_transaction(row) for row in await self._raw(query, *values)]

    async def _raw(self, query: str, *values: object) -> Sequence[Mapping[str, Any]]:
        try:
            return await self._query(query, *values)
        except Exception as error:
            raise ConfigError(f"The spend logs cannot be read from the database: {type(error).__name__}") from error


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
