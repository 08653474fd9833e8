"""Stored transactions: in LiteLLM's database, through the Prisma client that LiteLLM generates, over the HTTP API of a
proxy, or in the file of a proxy without a database."""

import asyncio
import importlib
import json
import os
import re
import sqlite3
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, cast
from uuid import UUID

import httpx

from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.monitor.transactions import Transaction, read_transaction
from luthien_litellm_hooks.recording.sqlite import RecordReader


@dataclass(frozen=True, slots=True)
class Filter:
    """Criteria of transactions to list; None matches all. A key is named by alias or hash, a team by alias or id."""

    outcome: str | None = None
    policy: str | None = None
    model: str | None = None
    key: str | None = None
    team: str | None = None
    since: datetime | None = None
    session: str | None = None

    @property
    def criteria(self) -> Mapping[str, str]:
        """The criteria without the time, by name."""
        names = ("outcome", "policy", "model", "key", "team", "session")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def matches(self, transaction: Transaction) -> bool:
        """Tells if the transaction has a record and meets the criteria."""
        record = transaction.record
        return (
            record is not None
            and self.outcome in (None, record.outcome)
            and self.policy in (None, *(policy.name for policy in record.policies))
            and self.model in (None, transaction.model, transaction.model_group)
            and self.key in (None, transaction.key_hash, transaction.key_alias)
            and self.team in (None, transaction.team_id, transaction.team_alias)
            and self.session in (None, record.session)
            and (self.since is None or self.since <= transaction.time)
        )


_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def moment(text: str) -> datetime:
    """Parses a time, or an age. A time without a zone is in UTC, as in the list."""
    age = re.fullmatch(r"(\d+)([smhdw])", text)
    try:
        if age:
            return datetime.now(UTC) - timedelta(**{_UNITS[age[2]]: int(age[1])})
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ConfigError(f"`since` {text!r} is not a time: write 30m, 2h, 7d, or 2026-05-31T12:00.") from None


class SpendLogs(Protocol):
    """A way to the stored transactions. All methods raise `ConfigError` if they cannot be read."""

    poll_s: float
    """Seconds between two calls of `new`."""

    def find(self, wanted: str) -> Sequence[Transaction]:
        """Returns the rows with this id of a transaction, response or LiteLLM call, or this beginning of a
        transaction's id; at most a few."""
        ...

    def latest(self, chosen: Filter, limit: int) -> Iterator[Transaction]:
        """Yields the transactions with a record, newest first, and reads them page by page."""
        ...

    def new(self) -> Sequence[Transaction]:
        """Returns the transactions that were recorded since the last call, oldest first; none at the first call."""
        ...


class _Polled(ABC):
    """A way to the spend logs, which have no order of writing: the latest rows are read again and again."""

    poll_s = 2.0

    def __init__(self) -> None:
        self._seen: set[str] | None = None

    @abstractmethod
    def latest(self, chosen: Filter, limit: int) -> Iterator[Transaction]: ...

    def new(self) -> Sequence[Transaction]:
        rows = list(self.latest(Filter(since=datetime.now(UTC) - _LONGEST_TRANSACTION), _POLLED))
        seen, self._seen = self._seen, {row.response_id for row in rows}
        return [] if seen is None else [row for row in reversed(rows) if row.response_id not in seen]


_LONGEST_TRANSACTION = timedelta(hours=1)
_POLLED = 100
"""Rows of a poll."""


def best_matches(found: Sequence[Transaction], wanted: str) -> Sequence[Transaction]:
    """Returns the matches of the id that is hardest to forge: a client may choose its LiteLLM call id, and through it
    the response id of a failed call, but never our transaction id."""
    of_ours = [transaction for transaction in found if transaction.transaction_id == wanted]
    begun = [transaction for transaction in found if (transaction.transaction_id or "").startswith(wanted)]
    of_responses = [transaction for transaction in found if transaction.response_id == wanted]
    return of_ours or begun or of_responses or found


MAX_FOUND = 20

# The id of a transaction has no index, so the query searches for it only if $2, its beginning, is given.
_FIND = """
SELECT request_id, litellm_call_id, call_type, api_key, model, model_group, "startTime", metadata
FROM "LiteLLM_SpendLogs"
WHERE request_id = $1 OR litellm_call_id = $1
   OR starts_with(metadata #>> '{spend_logs_metadata,luthien,transaction_id}', $2::text)
ORDER BY (metadata #>> '{spend_logs_metadata,luthien,transaction_id}' = $1) DESC NULLS LAST,
    request_id = $1 DESC, "startTime" DESC
LIMIT $3::int
"""

# PostgreSQL takes an equality for rare, and would read the whole table in place of its index by time.
_LATEST = """
SELECT request_id, litellm_call_id, call_type, api_key, model, model_group, "startTime", {metadata}
FROM "LiteLLM_SpendLogs"
WHERE jsonb_typeof(metadata #> '{spend_logs_metadata,luthien}') NOT IN ('null', 'array', 'string', 'number', 'boolean')
  AND ($1::text IS NULL OR metadata #>> '{spend_logs_metadata,luthien,outcome}' = $1)
  AND ($2::text IS NULL OR metadata #> '{spend_logs_metadata,luthien,policies}'
       @> jsonb_build_array(jsonb_build_object('name', $2::text)))
  AND ($3::text IS NULL OR $3 IN (model, model_group))
  AND ($4::text IS NULL OR $4 IN (api_key, metadata ->> 'user_api_key_alias'))
  AND ($5::text IS NULL OR $5 IN (metadata ->> 'user_api_key_team_id', metadata ->> 'user_api_key_team_alias'))
  AND ($6::text IS NULL OR "startTime" >= ($6::timestamptz AT TIME ZONE 'UTC'))
  AND ($7::text IS NULL OR $7 IN (session_id, metadata #>> '{spend_logs_metadata,luthien,session}'))
  AND ($8::text IS NULL OR ("startTime", request_id) < ($8::timestamptz AT TIME ZONE 'UTC', $9::text))
ORDER BY "startTime" DESC, request_id DESC
LIMIT $10::int
"""
_WITHOUT_TEXTS = """
metadata #- '{spend_logs_metadata,luthien,sealed}' #- '{spend_logs_metadata,luthien,original}'
    #- '{spend_logs_metadata,luthien,final}' AS metadata
"""
_PAGE_OF_ROWS = 200
"""Rows of a page; each may have megabytes."""


def find_query(wanted: str) -> tuple[str, *tuple[object, ...]]:
    """Returns the query for the rows with an id, and its values."""
    return _FIND, wanted, beginning_of_id(wanted), MAX_FOUND


def latest_query(
    chosen: Filter, time: str | None, id: str | None, size: int, *, with_texts: bool = True
) -> tuple[str, *tuple[object, ...]]:
    """Returns the query for the newest rows with a record, before the one with this time and id, and its values."""
    query = _LATEST.replace("{metadata}", "metadata" if with_texts else _WITHOUT_TEXTS)
    since = chosen.since.isoformat() if chosen.since else None
    criteria = (chosen.outcome, chosen.policy, chosen.model, chosen.key, chosen.team, since, chosen.session)
    return query, *criteria, time, id, size


_ENDED = """
SELECT request_id FROM "LiteLLM_SpendLogs"
WHERE "startTime" >= ($1::timestamptz AT TIME ZONE 'UTC') AND "endTime" >= ($2::timestamptz AT TIME ZONE 'UTC')
ORDER BY "startTime" DESC LIMIT 500
"""
_THESE = """
SELECT request_id, litellm_call_id, call_type, api_key, model, model_group, "startTime", {metadata}
FROM "LiteLLM_SpendLogs"
WHERE request_id IN (SELECT jsonb_array_elements_text($1::text::jsonb))
  AND jsonb_typeof(metadata #> '{spend_logs_metadata,luthien}') = 'object'
"""
_COUNTS = """
SELECT to_char(minute, 'YYYY-MM-DD"T"HH24:MI') AS minute, outcome, count(*)::int AS number FROM (
    SELECT date_trunc('minute', "startTime") AS minute, metadata #>> '{spend_logs_metadata,luthien,outcome}' AS outcome
    FROM "LiteLLM_SpendLogs"
    WHERE "startTime" >= ($1::timestamptz AT TIME ZONE 'UTC')
      AND jsonb_typeof(metadata #> '{spend_logs_metadata,luthien}') = 'object'
    ORDER BY "startTime" DESC LIMIT 5000
) AS latest GROUP BY 1, 2
"""


def ended_query(begun: datetime, ended: datetime) -> tuple[str, *tuple[object, ...]]:
    """Returns the query for the ids of rows that began and ended since then. It reads no metadata."""
    return _ENDED, begun.isoformat(), ended.isoformat()


def these_query(response_ids: Sequence[str]) -> tuple[str, *tuple[object, ...]]:
    """Returns the query for the rows with a record and one of these ids, without their texts."""
    return _THESE.replace("{metadata}", _WITHOUT_TEXTS), json.dumps(list(response_ids))


def counts_query(since: datetime) -> tuple[str, *tuple[object, ...]]:
    """Returns the query for the number of transactions since then, by minute and outcome; of the latest 5,000."""
    return _COUNTS, since.isoformat()


class _Client(Protocol):
    """The generated client, as far as we use it; type checkers do not see it."""

    async def connect(self) -> None: ...
    async def disconnect(self) -> None: ...
    async def query_raw(self, query: str, *args: object) -> list[dict[str, Any]]: ...


class Database(_Polled):
    """Spend logs in the PostgreSQL at `url`."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._prisma = _import_prisma()

    def find(self, wanted: str) -> Sequence[Transaction]:
        return self._read(*find_query(wanted))

    def latest(self, chosen: Filter, limit: int) -> Iterator[Transaction]:
        last: tuple[str | None, str | None] = (None, None)
        with self._plain_errors(), asyncio.Runner() as loop, _connected(self._client(), loop) as query:
            while limit > 0:
                size = min(limit, _PAGE_OF_ROWS)
                rows = [read_transaction(row) for row in query(*latest_query(chosen, *last, size))]
                yield from rows
                if len(rows) < size:
                    return
                limit -= size
                last = rows[-1].time.isoformat(), rows[-1].response_id

    def _read(self, *query: object) -> Sequence[Transaction]:
        with self._plain_errors(), asyncio.Runner() as loop, _connected(self._client(), loop) as ask:
            return [read_transaction(row) for row in ask(*query)]

    @contextmanager
    def _plain_errors(self) -> Generator[None]:
        try:
            yield
        except (self._prisma.errors.PrismaError, httpx.HTTPError, OSError, subprocess.SubprocessError) as error:
            detail = str(error).replace(self._url, "***") or type(error).__name__
            raise ConfigError(f"The spend logs cannot be read from the database: {detail}") from None

    def _client(self) -> _Client:
        try:
            return cast(_Client, self._prisma.Prisma(datasource={"url": self._url}))
        except RuntimeError:
            raise ConfigError(
                "LiteLLM's Prisma client has not been generated in this Python environment. Run the command where the "
                "proxy runs, which generates it at its start, or read from the running proxy with --url."
            ) from None


def _import_prisma() -> Any:
    """Imports `prisma`, with the client that LiteLLM has generated into it, if any."""
    try:
        return importlib.import_module("prisma")
    except ModuleNotFoundError as error:
        if error.name != "prisma":
            raise
        raise ConfigError(
            "The package prisma is missing, which reads LiteLLM's database. Install it "
            "(pip install 'prisma>=0.11,<1'), or read from the running proxy with --url."
        ) from None
    except ImportError as error:
        raise ConfigError(
            f"LiteLLM's Prisma client cannot be loaded: {error}. Another version of prisma "
            "generated it. Install that version again, or read from the running proxy with --url."
        ) from None


@contextmanager
def _connected(client: _Client, loop: asyncio.Runner) -> Generator[Callable[..., list[dict[str, Any]]]]:
    """Connects to the database, and yields a function for queries."""

    def ask(query: str, *values: object) -> list[dict[str, Any]]:
        return loop.run(client.query_raw(query, *values))

    with _no_output():  # the engine of prisma 0.11 prints a version
        loop.run(client.connect())
    try:
        yield ask
    finally:
        loop.run(client.disconnect())


@contextmanager
def _no_output() -> Generator[None]:
    """Keeps the output of other processes off our standard output, which a machine may read."""
    ours, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    try:
        yield
    finally:
        os.dup2(ours, 1)
        os.close(ours)
        os.close(nothing)


_PATH = "/spend/logs/v2"
_TIMEOUT_S = 60.0
_PAGE_SIZE = 100
_MOST_SEARCHED = 20_000
"""Rows that are searched for an id: LiteLLM's API has no filter for our records."""
_BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)


class ProxyApi(_Polled):
    """Spend logs that the proxy at `url` shows the holder of `key`."""

    def __init__(self, url: str, key: str) -> None:
        super().__init__()
        if not (key and key.isascii() and key.isprintable()):
            raise ConfigError("The key is missing, or has characters that no header can carry: set LITELLM_MASTER_KEY.")
        self._url = url
        self._key = key

    def find(self, wanted: str) -> Sequence[Transaction]:
        known = list(self._rows(_BEGINNING, request_id=wanted))
        beginning = beginning_of_id(wanted)
        if beginning is None or any(row.transaction_id == wanted for row in known):
            return known
        searched = islice(self._rows(_BEGINNING), _MOST_SEARCHED)
        ours = (row for row in searched if (row.transaction_id or "").startswith(beginning))
        return [*islice(ours, 1 if _is_whole_id(wanted) else MAX_FOUND), *known]

    def latest(self, chosen: Filter, limit: int) -> Iterator[Transaction]:
        return islice(filter(chosen.matches, self._rows(chosen.since or _BEGINNING)), limit)

    def _rows(self, since: datetime, **criteria: str) -> Iterator[Transaction]:
        """Yields the rows since then, newest first; only those of one response or LiteLLM call if `request_id` is
        given.

        LiteLLM's order of rows of the same time may differ from page to page. So the rows after a page are requested
        anew from its last second on. Only a second that fills a page by itself continues on a next page.
        """
        seen = set[str]()
        until, page = _end_of_second(datetime.now(UTC) + timedelta(days=1)), 1
        while True:
            window = {"start_date": _time(since), "end_date": _time(until)}
            rows = list(
                map(read_transaction, self._page({**criteria, **window, "page": page, "page_size": _PAGE_SIZE}))
            )
            yield from (row for row in rows if row.response_id not in seen)
            if len(rows) < _PAGE_SIZE:
                return
            seen.update(row.response_id for row in rows)
            last = _end_of_second(rows[-1].time)
            until, page = (last, 1) if last < until else (until, page + 1)

    def _page(self, parameters: dict[str, str | int]) -> list[dict[str, Any]]:
        url = self._url.rstrip("/") + _PATH
        try:
            response = httpx.get(
                url, params=parameters, headers={"Authorization": f"Bearer {self._key}"}, timeout=_TIMEOUT_S
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ConfigError(f"{self._url} cannot be reached: {error}") from None
        if not response.is_success:
            raise ConfigError(
                f"{self._url} does not show its spend logs: HTTP {response.status_code}. "
                "It needs a proxy with a database, and an admin's key."
            )
        try:
            return cast(list[dict[str, Any]], response.json()["data"])
        except (ValueError, LookupError, TypeError):
            raise ConfigError(f"{self._url} is not a LiteLLM proxy: it lists no spend logs.") from None


def _end_of_second(moment: datetime) -> datetime:
    """Rounds up: LiteLLM's windows have whole seconds, both ends included."""
    return (moment + timedelta(seconds=1, microseconds=-1)).replace(microsecond=0)


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


_FEWEST_LETTERS = 4


def beginning_of_id(wanted: str) -> str | None:
    """Returns `wanted` if a transaction's id, which most logs have no index for, may begin with it."""
    begins = len(wanted) >= _FEWEST_LETTERS and re.fullmatch("[0-9a-f-]{1,36}", wanted)
    return wanted if begins else None


def _is_whole_id(wanted: str) -> bool:
    try:
        UUID(wanted)
    except ValueError:
        return False
    return True


class LocalFile:
    """Transactions of a proxy without a database, in its file at `path`."""

    poll_s = 0.2

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader = RecordReader(path)
        self._last: int | None = None

    def find(self, wanted: str) -> Sequence[Transaction]:
        with self._plain_errors():
            return [read_transaction(row) for row in self._reader.find(wanted, beginning_of_id(wanted), MAX_FOUND)]

    def latest(self, chosen: Filter, limit: int) -> Iterator[Transaction]:
        with self._plain_errors():
            rows = map(read_transaction, self._reader.latest(chosen.since))
            ids = (str(row.transaction_id) for row in islice(filter(chosen.matches, rows), limit))
            while page := list(islice(ids, _PAGE_OF_ROWS)):
                yield from map(read_transaction, self._reader.whole(page))

    def new(self) -> Sequence[Transaction]:
        """Waits for a file that is not there yet."""
        if not self._path.expanduser().exists():
            self._last = 0
            return []
        with self._plain_errors():
            rows, self._last = self._reader.written_after(self._last)
        return [read_transaction(row) for row in rows]

    @contextmanager
    def _plain_errors(self) -> Generator[None]:
        try:
            if not self._path.expanduser().exists():
                raise ConfigError(
                    f"There are no records in {self._path}, where a proxy without a database writes them. Name its "
                    "file with --records, a proxy with --url and LITELLM_MASTER_KEY, or a database with --database-url."
                )
            yield
        except (sqlite3.Error, OSError, RuntimeError) as error:  # RuntimeError: the user has no home
            raise ConfigError(f"The records in {self._path} cannot be read: {error}") from None
