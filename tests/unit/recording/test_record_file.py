"""The file of records: shared by processes, private, bounded, and no harm when it is lost, full or broken."""

import asyncio
import logging
import os
import sqlite3
import stat
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.monitor.spend_logs import Filter, LocalFile
from luthien_litellm_hooks.recording.sqlite import RecordFile, RecordReader, records_path
from luthien_litellm_hooks.telemetry.publisher import EventPublisher
from tests.support.record_file import NOW, ids, line, publish, row, written
from tests.support.recorded import NoDeletes, recorded
from tests.support.waiting import wait_until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "private" / "records.sqlite"


def test_a_row_is_read_as_it_was_written(path: Path) -> None:
    given = row(1)
    assert RecordFile(path).write([line(given)]) == 1
    [found] = RecordReader(path).find("response-1", None, 20)
    assert found == given


def test_only_its_user_may_read_the_file_and_its_folder(path: Path) -> None:
    before, records = os.umask(0), RecordFile(path)
    try:
        records.write([line(row(1))])
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(file.stat().st_mode) for file in (path, *path.parent.glob("records.sqlite-*"))]
    records.close()
    assert modes == [0o600] * 3
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_file_that_others_may_read_is_closed_to_them(path: Path) -> None:
    path.parent.mkdir()
    path.touch(mode=0o644)
    RecordFile(path).write([line(row(1))])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        RecordFile(path).write([line(row(1))])


@pytest.mark.parametrize("wanted", ["response-1", "call-1", "whole", "prefix"])
def test_a_row_is_found_by_each_of_its_ids(path: Path, wanted: str) -> None:
    rows = [row(number) for number in range(3)]
    RecordFile(path).write(list(map(line, rows)))
    transaction_id = rows[1]["metadata"]["spend_logs_metadata"]["luthien"]["transaction_id"]
    asked = {"whole": transaction_id, "prefix": transaction_id[:13]}.get(wanted, wanted)
    [found] = LocalFile(path).find(asked)
    assert found.transaction_id == transaction_id


def test_the_latest_come_first_and_only_the_chosen_ones(path: Path) -> None:
    rows = [row(number, outcome="blocked" if number % 2 else "complete") for number in range(6)]
    RecordFile(path).write(list(map(line, reversed(rows))))
    logs = LocalFile(path)
    chosen = list(logs.latest(Filter(outcome="blocked", team="red"), 2))
    assert [of.response_id for of in chosen] == ["response-1", "response-3"]
    assert all(of.record is not None and of.record.original is not None for of in chosen)
    assert not list(logs.latest(Filter(team="blue"), 2))
    assert len(list(logs.latest(Filter(since=NOW - timedelta(seconds=2.5)), 10))) == 3


def test_a_record_that_is_written_again_replaces_the_first(path: Path) -> None:
    first = row(1, transaction_id="one", outcome=None)
    RecordFile(path).write([line(first)])
    RecordFile(path).write([line(row(1, transaction_id="one", outcome="complete"))])
    [found] = RecordReader(path).find("one", None, 20)
    assert found["metadata"]["spend_logs_metadata"]["luthien"]["outcome"] == "complete"


def test_what_is_too_old_leaves(path: Path) -> None:
    file = RecordFile(path)
    file.write([line(row(1, age=timedelta(days=8)))])
    file.write([line(row(2), max_days=7)])
    assert ids(path) == ["response-2"]


def test_a_file_that_is_too_large_loses_its_oldest_records(path: Path) -> None:
    file = RecordFile(path)
    for number in range(100, 0, -1):
        noise = os.urandom(20_000).hex()
        file.write([line(row(number, text=noise), max_bytes=500_000)])
    file.close()
    assert path.stat().st_size <= 600_000
    kept = ids(path)
    assert kept == [f"response-{number}" for number in range(1, len(kept) + 1)]
    assert len(kept) >= 8


WRITER = """
import json, sys, time
from pathlib import Path
from luthien_litellm_hooks.recording.sqlite import RecordFile
from luthien_litellm_hooks.telemetry.publisher import EventPublisher
from tests.support.record_file import row
publisher = EventPublisher([RecordFile(Path(sys.argv[1]))], what="records")
for number in range(50):
    of = row(number, text="x" * 10_000)
    of["request_id"] = f"{sys.argv[2]}-{number}"
    publisher.publish({"row": of, "max_days": 30, "max_bytes": 10**9})
publisher.close(60)
"""


def test_four_processes_share_a_file_and_none_has_to_try_again(path: Path) -> None:
    workers = [
        subprocess.Popen([sys.executable, "-c", WRITER, path, str(worker)], stderr=subprocess.PIPE, text=True)
        for worker in range(4)
    ]
    said = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4, said
    assert not any("cannot be written" in text for text in said)
    assert sorted(ids(path)) == sorted(f"{worker}-{number}" for worker in range(4) for number in range(50))
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_reader_does_not_wait_for_a_writer(path: Path) -> None:
    RecordFile(path).write([line(row(1))])
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    assert ids(path) == ["response-1"]
    writer.execute("ROLLBACK")


def test_a_file_that_is_lost_is_begun_anew(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    publisher = EventPublisher([RecordFile(path)], retry_s=0.01, what="records")
    publish(publisher, 1)
    wait_until(lambda: written(path) == {"response-1"})
    for file in path.parent.iterdir():
        file.unlink()
    publish(publisher, 2)
    wait_until(lambda: written(path) == {"response-2"})
    publisher.close()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_file_that_cannot_be_written_is_said_once_and_written_later(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir()
    path.write_text("no database, but a text that somebody wrote here" * 100)
    publisher = EventPublisher([RecordFile(path)], retry_s=0.01, what="records")
    publish(publisher, 1, 2)
    wait_until(lambda: "records cannot be written to SQLite" in caplog.text)
    publish(publisher, 3)
    path.unlink()
    wait_until(lambda: written(path) == {"response-1", "response-2", "response-3"})
    publisher.close()
    assert caplog.text.count("cannot be written") == 1
    assert "records are written to SQLite again; 0 were dropped" in caplog.text


FULL_DISK = """
import logging, resource, sys, time
from pathlib import Path
from luthien_litellm_hooks.recording.sqlite import RecordFile
from luthien_litellm_hooks.telemetry.publisher import EventPublisher
from tests.support.record_file import publish, written
from tests.support.waiting import wait_until
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
path = Path(sys.argv[1])
publisher = EventPublisher([RecordFile(path)], retry_s=0.01, max_waiting=10, what="records")
publish(publisher, 0)
wait_until(lambda: written(path) == {"response-0"})
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
began = time.monotonic()
publish(publisher, *range(1, 101))
print("took", time.monotonic() - began)
time.sleep(0.2)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
publish(publisher, 200)
wait_until(lambda: "response-1" in written(path))
publisher.close(30)
print("kept", len(written(path)))
"""


def test_a_full_disk_delays_nobody_and_is_said_once(path: Path) -> None:
    """A limit on the size of files stands in for a disk that becomes full, and then has room again."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    took, kept = (float(of.split()[1]) for of in done.stdout.splitlines())
    assert took < 5
    assert kept >= 10
    assert done.stderr.count("cannot be written to SQLite") == 1
    assert done.stderr.count("are dropped: the queue is full") == 1


def test_a_newer_file_is_left_alone(path: Path) -> None:
    RecordFile(path).write([line(row(1))])
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(sqlite3.DatabaseError, match="newer version"):
        RecordFile(path).write([line(row(2))])
    assert ids(path) == ["response-1"]


def test_what_is_new_is_told_once(path: Path) -> None:
    logs, file = LocalFile(path), RecordFile(path)
    assert not logs.new()  # it waits for the file
    file.write([line(row(number)) for number in (1, 2)])
    assert [of.response_id for of in logs.new()] == ["response-1", "response-2"]
    assert not logs.new()
    file.write([line(row(3))])
    assert [of.response_id for of in logs.new()] == ["response-3"]
    later = LocalFile(path)
    assert not later.new()
    for left in path.parent.iterdir():
        left.unlink()
    file.write([line(row(4))])
    assert [of.response_id for of in later.new()] == ["response-4"]


def test_a_file_that_is_missing_or_is_none_is_told(path: Path) -> None:
    with pytest.raises(ConfigError, match="There are no records in"):
        list(LocalFile(path).latest(Filter(), 1))
    path.parent.mkdir()
    path.touch()
    assert list(LocalFile(path).latest(Filter(), 1)) == LocalFile(path).new() == []
    path.write_text("no database" * 1000)
    with pytest.raises(ConfigError, match="cannot be read"):
        LocalFile(path).find("x")


def test_a_text_of_any_kind_is_kept(path: Path) -> None:
    record = asyncio.run(recorded(NoDeletes()))
    record["final"]["answer"]["content"][0]["text"] = "\x00\ud800 \u202e 👍"
    given = row(1, **record)
    EventPublisher([RecordFile(path)]).publish({"row": given, "max_days": 1, "max_bytes": 10**9})
    wait_until(lambda: written(path) == {"response-1"})
    assert RecordReader(path).whole([record["transaction_id"]]) == [given]


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({"LUTHIEN_RECORDS": "/a/b.sqlite", "XDG_STATE_HOME": "/s"}, "/a/b.sqlite"),
        ({"XDG_STATE_HOME": "/s"}, "/s/luthien/records.sqlite"),
        ({}, "~/.local/state/luthien/records.sqlite"),
    ],
)
def test_the_proxy_and_the_commands_look_in_the_same_place(environment: dict[str, str], found: str) -> None:
    assert str(records_path(environment)) == found
