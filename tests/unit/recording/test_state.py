"""The file with what workers share: changed by one writer at a time, with an end by its own clock, and private."""

import asyncio
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from luthien_litellm_hooks.errors import StateError
from luthien_litellm_hooks.recording.state import Entry, PostgresStore, SqliteStore, approvals_path

LONG = 3600.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "private" / "approvals.sqlite"


async def test_an_entry_is_read_as_it_was_written(path: Path) -> None:
    store = SqliteStore(path)
    assert await store.get("a/1") == {}
    assert await store.put("a/1", '{"x": "\u202e\\u0000"}', LONG, replacing=None)
    found = await of(store, "a/1")
    assert (found.key, found.value) == ("a/1", '{"x": "\u202e\\u0000"}')
    assert await SqliteStore(path).get("b", "a/1") == {"a/1": found}


async def test_a_writer_that_knows_another_version_changes_nothing(path: Path) -> None:
    store = SqliteStore(path)
    assert await store.put("k", "first", LONG, replacing=None)
    assert not await store.put("k", "again", LONG, replacing=None)
    first = await of(store)
    assert await store.put("k", "second", LONG, replacing=first.version)
    assert not await store.put("k", "third", LONG, replacing=first.version)
    second = await of(store)
    assert second.value == "second"
    assert second.version != first.version


async def of(store: SqliteStore, key: str = "k") -> Entry:
    return (await store.get(key))[key]


async def test_an_entry_that_has_ended_is_absent_and_a_new_one_has_another_version(path: Path) -> None:
    store = SqliteStore(path)
    await store.put("k", "first", LONG, replacing=None)
    first = await of(store)
    assert await store.put("k", "ended", -1.0, replacing=first.version)
    assert (await store.get("k"), await store.scan("k")) == ({}, [])
    assert not await store.put("k", "late", LONG, replacing=first.version)
    assert await store.put("k", "new", LONG, replacing=None)
    assert not await store.put("k", "late", LONG, replacing=first.version)


async def test_a_scan_returns_the_entries_with_a_prefix(path: Path) -> None:
    store = SqliteStore(path)
    for key in ("a/1", "a/2", "b/1", "a"):
        await store.put(key, key, LONG, replacing=None)
    assert [entry.value for entry in await store.scan("a/")] == ["a/1", "a/2"]


async def test_only_its_user_may_read_the_file(path: Path) -> None:
    await SqliteStore(path).put("k", "v", LONG, replacing=None)
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_a_file_that_was_removed_is_begun_anew(path: Path) -> None:
    store = SqliteStore(path)
    await store.put("k", "v", LONG, replacing=None)
    for file in path.parent.iterdir():
        file.unlink()
    assert await store.get("k") == {}
    assert await store.put("k", "again", LONG, replacing=None)


def test_a_file_that_cannot_be_used_is_an_error_of_the_store(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.write_text("this is no database, but long enough to look like one " * 50)
    with pytest.raises(StateError, match=r"approvals\.sqlite"):
        asyncio.run(SqliteStore(path).get("k"))
    path.unlink()
    store = SqliteStore(path)
    assert asyncio.run(store.put("k", "v", LONG, replacing=None))
    with sqlite3.connect(path) as other:
        other.execute("DROP TABLE state")
    with pytest.raises(StateError):
        asyncio.run(store.get("k"))


RACE = """
import asyncio, sys
from pathlib import Path
from luthien_litellm_hooks.recording.state import SqliteStore

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    print("ready", flush=True)
    sys.stdin.readline()
    won = 0
    for number in range(50):
        won += await store.put(str(number), "taken", 3600, replacing=sys.argv[2 + number])
    print(won)

asyncio.run(main())
"""


async def free(store: SqliteStore) -> list[str]:
    """The versions of fifty new entries."""
    for number in range(50):
        await store.put(str(number), "free", LONG, replacing=None)
    return [(await of(store, str(number))).version for number in range(50)]


def test_of_several_processes_one_changes_an_entry(path: Path) -> None:
    versions = asyncio.run(free(SqliteStore(path)))
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(path), *versions],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    assert all(process.stdout and process.stdout.readline() == "ready\n" for process in started)
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert sum(int(process.communicate()[0]) for process in started) == 50


async def test_a_proxy_without_a_database_has_no_such_store() -> None:
    with pytest.raises(StateError, match="no database"):
        await PostgresStore(lambda: None).get("k")


def test_the_file_is_beside_the_records() -> None:
    assert approvals_path({"LUTHIEN_RECORDS": "/x/records.sqlite"}) == Path("/x/approvals.sqlite")
    assert approvals_path({}) == Path("~/.local/state/luthien/approvals.sqlite")
