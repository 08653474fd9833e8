"""Records in a file of SQLite, for proxies without a database: written by all workers, and read by the commands.

A row has the form of LiteLLM's spend logs, so that readers read both alike. The texts of a transaction are in a column
of their own, compressed: a list does not read them.
"""

import fcntl
import json
import os
import sqlite3
import stat
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from luthien_litellm_hooks.recording.record import KEY, SLOT
from luthien_litellm_hooks.telemetry.log_lines import logger

FILE_VARIABLE = "LUTHIEN_RECORDS"
"""Variable with the path of the file, for the proxy and the commands."""
_TEXTS = ("original", "final")
_VERSION = 1
"""Version of the tables below."""
_BUSY_S = 10.0
_WAL_BYTES = 16 * 1024 * 1024
_SHARE_REMOVED = 10
"""A file that is too large loses its oldest tenth, and so on until it fits."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    transaction_id TEXT PRIMARY KEY, response_id TEXT, call_id TEXT, time TEXT NOT NULL, row TEXT NOT NULL, texts BLOB
);
CREATE INDEX IF NOT EXISTS records_by_time ON records (time);
CREATE INDEX IF NOT EXISTS records_by_response ON records (response_id);
CREATE INDEX IF NOT EXISTS records_by_call ON records (call_id);
"""
_PUT = "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?, ?)"
_REMOVE_OLDEST = """
DELETE FROM records WHERE rowid IN (
    SELECT rowid FROM records ORDER BY time LIMIT (SELECT max(count(*) / ?, 1) FROM records)
)
"""


def records_path(environment: Mapping[str, str]) -> Path:
    """Returns the path of the file: the one in `LUTHIEN_RECORDS`, or one in the user's folder of states."""
    state = environment.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(environment.get(FILE_VARIABLE) or f"{state}/luthien/records.sqlite")


class RecordFile:
    """Sink of records. Only one thread of a process writes; several processes may share the file.

    A line is a JSON object with a `row`, and `max_days` and `max_bytes`, the bounds of the file. The file is opened at
    the first line, in a folder and with rights for its user alone, and anew if it was removed.
    """

    name = "SQLite"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._is_told = False

    def write(self, lines: Sequence[str]) -> int:
        entries = [json.loads(line) for line in lines]
        try:
            connection = self._opened()
            with one_transaction(connection):
                connection.executemany(_PUT, [_columns(entry["row"]) for entry in entries])
            _prune(connection, entries[-1]["max_days"], entries[-1]["max_bytes"])
        except BaseException:
            self.close()
            raise
        return len(lines)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _opened(self) -> sqlite3.Connection:
        path = self._path.expanduser()
        if self._connection is not None and inode_of(path) != self._inode:
            self.close()
        if self._connection is None:
            self._connection, self._inode = open_private(path, _prepare)
            if not self._is_told:  # a full disk closes it again and again
                self._is_told = True
                logger.info("records of transactions are in %s: see `luthien-hooks list`", path)
        return self._connection


def open_private(
    path: Path, prepare: Callable[[sqlite3.Connection], None]
) -> tuple[sqlite3.Connection, tuple[int, int] | None]:
    """Opens a file for its user alone, or creates it, and prepares its tables. Returns its inode, too.

    One process at a time: a change to write-ahead logging waits for no lock.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        _ensure_private(path)
        connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection, inode_of(path)
    finally:
        os.close(folder)


def _ensure_private(path: Path) -> None:
    """Creates the file for its user alone. Raises `PermissionError` for a file of another user."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid() or not stat.S_ISREG(found.st_mode):
            raise PermissionError(f"{path} is not a file of this user: name another in {FILE_VARIABLE}")
        if found.st_mode & 0o077:
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def _prepare(connection: sqlite3.Connection) -> None:
    create_tables(connection, _SCHEMA, _VERSION)


def create_tables(connection: sqlite3.Connection, schema: str, version: int) -> None:
    """Creates the tables of a write-ahead logged file. Raises `sqlite3.DatabaseError` for one of a later version."""
    [found] = connection.execute("PRAGMA user_version").fetchone()
    if found > version:
        raise sqlite3.DatabaseError("a newer version of luthien_litellm_hooks wrote the file")
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
    connection.executescript(f"BEGIN IMMEDIATE; {schema} PRAGMA user_version = {version}; COMMIT;")


def inode_of(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def one_transaction(connection: sqlite3.Connection) -> Generator[None]:
    """Commits what is written within, or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _columns(row: dict[str, Any]) -> tuple[str | bytes | None, ...]:
    record = cast(dict[str, Any], row["metadata"][SLOT][KEY])
    texts = {name: record.pop(name) for name in _TEXTS if name in record}
    packed = zlib.compress(json.dumps(texts).encode(), 1) if texts else None
    ids = record["transaction_id"], row["request_id"], row["litellm_call_id"]
    return *ids, row["startTime"], json.dumps(row), packed


def _prune(connection: sqlite3.Connection, max_days: float, max_bytes: int) -> None:
    """Removes records that are too old, and the oldest ones of a file that is too large."""
    with one_transaction(connection):
        oldest = datetime.now(UTC) - timedelta(days=max_days)
        connection.execute("DELETE FROM records WHERE time < ?", [timestamp(oldest)])
        while _bytes_used(connection) > max_bytes:
            if connection.execute(_REMOVE_OLDEST, [_SHARE_REMOVED]).rowcount < 1:
                break
    connection.execute("PRAGMA incremental_vacuum").fetchall()


def _bytes_used(connection: sqlite3.Connection) -> int:
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def timestamp(moment: datetime) -> str:
    """Returns the form in which the file has times: texts sort as the times do."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


_FIND = """
SELECT row, texts FROM records
WHERE transaction_id = :id OR response_id = :id OR call_id = :id
   OR (transaction_id >= :prefix AND transaction_id < :end)
ORDER BY transaction_id = :id DESC, time DESC LIMIT :limit
"""
_LATEST = "SELECT row FROM records WHERE time >= ? ORDER BY time DESC, rowid DESC"
_LAST = "SELECT coalesce(max(rowid), 0) FROM records"
_WRITTEN = "SELECT rowid, row, texts FROM records WHERE rowid > ? ORDER BY rowid LIMIT ?"
_AT_ONCE = 100
_WHOLE = "SELECT row, texts FROM records WHERE transaction_id = ?"


_CRITERIA: Mapping[str, str] = {
    "outcome": "json_extract(row, '{record}.outcome') = :outcome",
    "policy": ":policy IN (SELECT json_extract(value, '$.name') FROM json_each(row, '{record}.policies'))",
    "model": ":model IN (json_extract(row, '$.model'), json_extract(row, '$.model_group'))",
    "key": ":key IN (json_extract(row, '$.api_key'), json_extract(row, '$.metadata.user_api_key_alias'))",
    "team": ":team IN (json_extract(row, '$.metadata.user_api_key_team_id'),"
    " json_extract(row, '$.metadata.user_api_key_team_alias'))",
    "session": "json_extract(row, '{record}.session') = :session",
}
_OF_RECORD = f"$.metadata.{SLOT}.{KEY}"
_COUNTS = """
SELECT substr(time, 1, 16), json_extract(row, '{record}.outcome'), count(*)
FROM records WHERE time >= ? GROUP BY 1, 2
"""
_PAGE = "SELECT row FROM records WHERE {criteria} ORDER BY time DESC, transaction_id DESC LIMIT :size"


class RecordReader:
    """Reader of the file. Raises `sqlite3.Error` if it cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def find(self, wanted: str, prefix: str | None, limit: int) -> list[dict[str, Any]]:
        """Returns the rows with an id, or with a transaction's id that begins with `prefix`."""
        end = None if prefix is None else f"{prefix}\U0010ffff"
        values = {"id": wanted, "prefix": prefix, "end": end, "limit": limit}
        return [_whole(*columns) for columns in self._query(_FIND, values)]

    def latest(self, since: datetime | None) -> Iterator[dict[str, Any]]:
        """Yields the rows since then without their texts, newest first."""
        for [row] in self._query(_LATEST, ["" if since is None else timestamp(since)]):
            yield json.loads(row)

    def page(
        self, criteria: Mapping[str, str], since: datetime | None, before: tuple[datetime, str] | None, size: int
    ) -> list[dict[str, Any]]:
        """Returns the newest rows that meet the criteria, without their texts: from then on, and before this time and
        id of a transaction."""
        conditions = ["time >= :since", *(_CRITERIA[name] for name in criteria)]
        values = {**criteria, "since": "" if since is None else timestamp(since), "size": size}
        if before is not None:
            conditions.append("(time, transaction_id) < (:time, :id)")
            values |= {"time": timestamp(before[0]), "id": before[1]}
        query = _PAGE.replace("{criteria}", " AND ".join(conditions)).replace("{record}", _OF_RECORD)
        return [json.loads(row) for [row] in self._query(query, values)]

    def whole(self, transaction_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Returns the rows of these transactions with their texts; a removed one is left out."""
        return [_whole(*columns) for wanted in transaction_ids for columns in self._query(_WHOLE, [wanted])]

    def written_after(self, last: int | None, *, with_texts: bool = True) -> tuple[list[dict[str, Any]], int]:
        """Returns at most 100 rows that were written after the row of number `last`, and the number of the last one.

        Without a number it returns no rows. A file that was begun anew is read from its beginning.
        """
        [newest] = next(self._query(_LAST), (0,))
        if last is None:
            return [], newest
        found = list(self._query(_WRITTEN, [last if last <= newest else 0, _AT_ONCE]))
        rows = [_whole(row, texts if with_texts else None) for _, row, texts in found]
        return rows, found[-1][0] if found else newest

    def counts(self, since: datetime) -> list[tuple[str, str | None, int]]:
        """Returns the minutes since then with their transactions: the minute, the outcome, and their number."""
        query = _COUNTS.replace("{record}", _OF_RECORD)
        return [(minute, outcome, number) for minute, outcome, number in self._query(query, [timestamp(since)])]

    def _query(self, query: str, values: Sequence[object] | Mapping[str, object] = ()) -> Iterator[Any]:
        """Yields rows; none of a file that a process has just begun."""
        uri = f"file:{quote(str(self._path.expanduser()))}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_S)) as connection:
            if connection.execute("PRAGMA user_version").fetchone() != (0,):
                yield from connection.execute(query, cast(Any, values))


def _whole(row: str, texts: bytes | None) -> dict[str, Any]:
    whole: dict[str, Any] = json.loads(row)
    if texts is not None:
        whole["metadata"][SLOT][KEY] |= json.loads(zlib.decompress(texts))
    return whole
