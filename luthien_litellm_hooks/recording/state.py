"""State shared by the workers of a proxy: in a file of SQLite, or in the proxy's PostgreSQL or Redis.

An entry is a text under a key. It has a version, for changes by compare-and-set, and an end, by the store's own clock.
"""

import asyncio
import json
import sqlite3
import threading
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from luthien_litellm_hooks.errors import StateError
from luthien_litellm_hooks.recording.sqlite import create_tables, inode_of, one_transaction, open_private, records_path
from luthien_litellm_hooks.telemetry.redis_clients import RedisCommands

T = TypeVar("T")
_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Entry:
    """A value of the store. Each write gives it another version."""

    key: str
    value: str
    version: str


class Store(Protocol):
    """Values with an end. Every method raises `StateError` if the store cannot be reached."""

    poll_s: float
    """Seconds between two looks for the change of another process."""

    async def get(self, *keys: str) -> dict[str, Entry]:
        """Returns the present entries of these keys."""
        ...

    async def put(self, key: str, value: str, valid_s: float, *, replacing: str | None) -> bool:
        """Writes an entry that ends in so many seconds. Returns False unless the present one has the version
        `replacing`, or is absent if that is None. Of several writers at once, one succeeds."""
        ...

    async def scan(self, prefix: str) -> list[Entry]:
        """Returns the entries with such keys."""
        ...


def approvals_path(environment: Mapping[str, str]) -> Path:
    """Returns the path of the file with approvals, beside that of the records."""
    return records_path(environment).with_name("approvals.sqlite")


# SQLite

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS state (
    key TEXT PRIMARY KEY, value TEXT NOT NULL, version TEXT NOT NULL, ends_on REAL NOT NULL
) WITHOUT ROWID;
"""
_GET = """
SELECT key, value, version FROM state
WHERE key IN (SELECT value FROM json_each(?)) AND ends_on > julianday('now')
"""
_SCAN = "SELECT key, value, version FROM state WHERE key >= ? AND key < ? AND ends_on > julianday('now') ORDER BY key"
_REPLACE = "UPDATE state SET value = ?, version = ?, ends_on = julianday('now') + ? WHERE key = ? AND version = ?"
_INSERT = "INSERT OR IGNORE INTO state (value, version, ends_on, key) VALUES (?, ?, julianday('now') + ?, ?)"
_REMOVE = "DELETE FROM state WHERE ends_on <= julianday('now')"
_SECONDS_A_DAY = 86_400.0
_AFTER_ALL = "\U0010ffff"


class SqliteStore:
    """Store in a file, for the workers of one machine, and for the commands of its user."""

    poll_s = 0.2

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None

    async def get(self, *keys: str) -> dict[str, Entry]:
        rows = await self._run(lambda connection: connection.execute(_GET, [json.dumps(keys)]).fetchall())
        return {row[0]: Entry(*row) for row in rows}

    async def put(self, key: str, value: str, valid_s: float, *, replacing: str | None) -> bool:
        def write(connection: sqlite3.Connection) -> bool:
            values: list[object] = [value, _new_version(), valid_s / _SECONDS_A_DAY, key]
            with one_transaction(connection):
                connection.execute(_REMOVE)
                if replacing is None:
                    return connection.execute(_INSERT, values).rowcount == 1
                return connection.execute(_REPLACE, [*values, replacing]).rowcount == 1

        return await self._run(write)

    async def scan(self, prefix: str) -> list[Entry]:
        bounds = [prefix, prefix + _AFTER_ALL]
        return [Entry(*row) for row in await self._run(lambda connection: connection.execute(_SCAN, bounds).fetchall())]

    def close(self) -> None:
        """Closes the file; the next use opens it again."""
        with self._lock:
            self._drop()

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.to_thread(self._locked, work)

    def _locked(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            try:
                return work(self._opened())
            except (sqlite3.Error, OSError) as error:
                self._drop()
                raise StateError(f"{self._path}: {error}") from error

    def _opened(self) -> sqlite3.Connection:
        path = self._path.expanduser()
        if self._connection is not None and inode_of(path) != self._inode:
            self._drop()
        if self._connection is None:
            self._connection, self._inode = open_private(path, lambda made: create_tables(made, _SCHEMA, _VERSION))
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _new_version() -> str:
    """Returns a version that no other write has, whatever became of the entry in between."""
    return uuid.uuid4().hex


# PostgreSQL

_CREATE = (
    "CREATE SCHEMA IF NOT EXISTS luthien",
    """CREATE TABLE IF NOT EXISTS luthien.state (
        key TEXT PRIMARY KEY, value TEXT NOT NULL, version TEXT NOT NULL, ends_at TIMESTAMPTZ NOT NULL
    )""",
)
"""A schema of our own: LiteLLM drops tables that it does not know from its own."""
_PG_GET = """
SELECT key, value, version FROM luthien.state
WHERE key IN (SELECT jsonb_array_elements_text($1::jsonb)) AND ends_at > now()
"""
_PG_SCAN = """
SELECT key, value, version FROM luthien.state WHERE starts_with(key, $1) AND ends_at > now() ORDER BY key
"""
_PG_INSERT = """
INSERT INTO luthien.state (key, value, version, ends_at)
VALUES ($1, $2, $3, now() + $4::float8 * interval '1 second')
ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = excluded.version, ends_at = excluded.ends_at
WHERE luthien.state.ends_at <= now()
"""
_PG_REPLACE = """
UPDATE luthien.state SET value = $2, version = $3, ends_at = now() + $4::float8 * interval '1 second'
WHERE key = $1 AND version = $5 AND ends_at > now()
"""
_PG_REMOVE = "DELETE FROM luthien.state WHERE ends_at <= now()"


class Database(Protocol):
    """Connection of the proxy to its database, as Prisma gives it."""

    async def query_raw(self, query: str, *args: object) -> Sequence[Mapping[str, Any]]:
        """Returns the rows of a query."""
        ...

    async def execute_raw(self, query: str, *args: object) -> int:
        """Returns the number of changed rows."""
        ...


class PostgresStore:
    """Store in the proxy's PostgreSQL, for all its instances. `database` returns None while the proxy has none."""

    poll_s = 0.5

    def __init__(self, database: Callable[[], Database | None]) -> None:
        self._database = database
        self._is_ready = False

    async def get(self, *keys: str) -> dict[str, Entry]:
        rows = await self._run(lambda database: database.query_raw(_PG_GET, json.dumps(keys)))
        return {row["key"]: Entry(**row) for row in rows}

    async def put(self, key: str, value: str, valid_s: float, *, replacing: str | None) -> bool:
        values = (key, value, _new_version(), valid_s)
        if replacing is not None:
            return await self._run(lambda database: database.execute_raw(_PG_REPLACE, *values, replacing)) == 1
        await self._run(lambda database: database.execute_raw(_PG_REMOVE))
        return await self._run(lambda database: database.execute_raw(_PG_INSERT, *values)) == 1

    async def scan(self, prefix: str) -> list[Entry]:
        return [Entry(**row) for row in await self._run(lambda database: database.query_raw(_PG_SCAN, prefix))]

    async def _run(self, work: Callable[[Database], Any]) -> Any:
        database = self._database()
        if database is None:
            raise StateError("the proxy has no database")
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                if not self._is_ready:
                    await self._create(database)
                return await work(database)
        except Exception as error:  # Prisma has many, and is not imported
            raise StateError(f"PostgreSQL: {type(error).__name__}: {error}") from error

    async def _create(self, database: Database) -> None:
        """Creates the schema and the table. Two workers may do so at once, and one of them then fails."""
        for statement in _CREATE:
            with suppress(Exception):
                await database.execute_raw(statement)
        await database.query_raw(_PG_GET, "[]")
        self._is_ready = True


# Redis

STATE_INDEX = "{luthien}:state"
"""Keys of all entries, by their end. The braces put them and the entries into one slot of a cluster."""
_VERSION_LENGTH = 32
_REDIS_PUT = f"""
local stored = redis.call('GET', KEYS[1])
local present = stored and string.sub(stored, 1, {_VERSION_LENGTH}) or ''
if present == string.sub(ARGV[2], 1, {_VERSION_LENGTH}) then return 1 end
if present ~= ARGV[1] then return 0 end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local left = tonumber(ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
if left <= 0 then
    redis.call('DEL', KEYS[1])
    redis.call('ZREM', KEYS[2], ARGV[4])
    return 1
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', left)
redis.call('ZADD', KEYS[2], now + left, ARGV[4])
redis.call('PEXPIRE', KEYS[2], math.max(left, redis.call('PTTL', KEYS[2])))
return 1
"""
"""Compare-and-set. It may run again after a lost connection, so the version that it writes may be there."""


@dataclass(frozen=True, slots=True)
class RedisPlace:
    """A connection to Redis, and the namespace of its keys: several proxies may share a Redis."""

    client: RedisCommands
    namespace: str | None = None

    def key(self, name: str = "") -> str:
        """Returns the key of an entry; without a name that of the index."""
        index = f"{self.namespace}:{STATE_INDEX}" if self.namespace else STATE_INDEX
        return f"{index}:{name}" if name else index


class RedisStore:
    """Store in the proxy's Redis, for all its instances. `place` returns None while the proxy has none."""

    poll_s = 0.2

    def __init__(self, place: Callable[[], RedisPlace | None]) -> None:
        self._place = place

    async def get(self, *keys: str) -> dict[str, Entry]:
        async def read(place: RedisPlace) -> dict[str, Entry]:
            values = await place.client.execute_command("MGET", *map(place.key, keys)) if keys else ()
            pairs = zip(keys, values, strict=True)
            return {key: _entry(key, _text(stored)) for key, stored in pairs if stored is not None}

        return await self._run(read)

    async def put(self, key: str, value: str, valid_s: float, *, replacing: str | None) -> bool:
        stored = _new_version() + value
        given = (replacing or "", stored, int(valid_s * 1000), key)

        async def write(place: RedisPlace) -> bool:
            keys = (place.key(key), place.key())
            return await place.client.execute_command("EVAL", _REDIS_PUT, len(keys), *keys, *given) == 1

        return await self._run(write)

    async def scan(self, prefix: str) -> list[Entry]:
        async def names(place: RedisPlace) -> list[str]:
            return [_text(name) for name in await place.client.execute_command("ZRANGE", place.key(), 0, -1)]

        found = await self.get(*(name for name in await self._run(names) if name.startswith(prefix)))
        return [found[key] for key in sorted(found)]

    async def _run(self, work: Callable[[RedisPlace], Awaitable[T]]) -> T:
        try:
            place = self._place()
            if place is None:
                raise StateError("the proxy has no Redis of its own: set general_settings.coordination_redis")
            async with asyncio.timeout(_TIMEOUT_S):
                with suppress(Exception):  # a connection from before a restart of Redis fails once
                    return await work(place)
                return await work(place)
        except StateError:
            raise
        except Exception as error:  # the client has many, and is not imported
            raise StateError(f"Redis: {type(error).__name__}: {error}") from error


def _text(received: str | bytes) -> str:
    return received.decode() if isinstance(received, bytes) else received


def _entry(key: str, stored: str) -> Entry:
    return Entry(key, stored[_VERSION_LENGTH:], stored[:_VERSION_LENGTH])
