"""Stored transactions for the pages: filters, pages by keyset, and the time that these take with many rows."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from luthien_litellm_hooks.monitor import hour as hour_module
from luthien_litellm_hooks.monitor.hour import LastHour, hour_of
from luthien_litellm_hooks.monitor.rows import Count, FileRows, Position
from luthien_litellm_hooks.monitor.spend_logs import Filter
from luthien_litellm_hooks.recording.sqlite import RecordFile
from tests.support.record_file import line, row

ALL = Filter()
PAGE_S = 0.2
"""Time for a page of the 10,000 rows."""


def store(path: Path, *rows: dict[str, Any]) -> FileRows:
    RecordFile(path).write([line(one) for one in rows])
    return FileRows(path)


async def pages(rows: FileRows, chosen: Filter = ALL, size: int = 10) -> list[list[str]]:
    found: list[list[str]] = []
    before: Position | None = None
    while True:
        listing = await rows.latest(chosen, before, size)
        found.append([one.response_id for one in listing.transactions])
        if listing.older is None:
            return found
        before = Position.read(str(listing.older))  # as in a link


async def test_all_rows_come_page_by_page_once_and_newest_first(tmp_path: Path) -> None:
    same = row(3)["startTime"]
    stored = [row(number) | ({"startTime": same} if number in range(3, 17) else {}) for number in range(25)]
    found = await pages(store(tmp_path / "r", *stored))
    assert [len(page) for page in found] == [10, 10, 5]
    ids = [id for page in found for id in page]
    assert sorted(ids) == sorted(one["request_id"] for one in stored)
    assert ids[:3] == ["response-0", "response-1", "response-2"]
    assert ids[-1] == "response-24"


async def test_rows_without_a_file_are_none(tmp_path: Path) -> None:
    rows = FileRows(tmp_path / "none")
    assert await pages(rows) == [[]]
    assert await rows.find("x") is None
    assert await rows.counts(datetime.now(UTC)) == []
    assert await rows.recorded_after(None) == ([], 0)


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        (Filter(outcome="blocked"), ["response-1"]),
        (Filter(policy="rules"), ["response-1", "response-2"]),
        (Filter(model="gpt"), ["response-3"]),
        (Filter(key="blue"), ["response-4"]),
        (Filter(key="ab" * 32), ["response-4"]),
        (Filter(team="green"), ["response-5"]),
        (Filter(session="s' OR 1=1 --"), ["response-6"]),
        (Filter(policy="rules", outcome="complete"), ["response-2"]),
        (Filter(outcome="none"), []),
    ],
)
async def test_a_filter_chooses_rows(tmp_path: Path, chosen: Filter, found: list[str]) -> None:
    policies = [{"name": "first"}, {"name": "rules"}]
    keyed, of_team = row(4), row(5)
    keyed["api_key"], keyed["metadata"]["user_api_key_alias"] = "ab" * 32, "blue"
    of_team["metadata"]["user_api_key_team_alias"] = "green"
    rows = store(
        tmp_path / "r",
        row(0),
        row(1, outcome="blocked", policies=policies),
        row(2, outcome="complete", policies=policies),
        row(3) | {"model": "gpt-5", "model_group": "gpt"},
        keyed,
        of_team,
        row(6, session="s' OR 1=1 --"),
    )
    assert await pages(rows, chosen) == [found]


@pytest.mark.parametrize("text", ["", "x", "2026-01-01~a", "2026-01-01T00:00:00+00:00~", "~a"])
def test_a_wrong_position_is_no_position(text: str) -> None:
    with pytest.raises(ValueError, match=r"isoformat|a position is"):
        Position.read(text)


async def test_rows_are_followed_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "r"
    rows = FileRows(path)
    found, last = await rows.recorded_after(None)
    assert found == []
    store(path, row(1), row(2))
    found, last = await rows.recorded_after(last)
    assert [one.response_id for one in found] == ["response-1", "response-2"]
    assert [one.record.original for one in found if one.record is not None] == [None, None]  # a list needs no texts
    store(path, row(0))
    found, last = await rows.recorded_after(last)
    assert [one.response_id for one in found] == ["response-0"]
    assert (await rows.recorded_after(last))[0] == []


async def test_the_last_hour_is_counted_by_minute_and_outcome(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    rows = store(
        tmp_path / "r",
        row(0, outcome="complete"),
        row(0, outcome="complete") | {"request_id": "other"},
        row(1, outcome="blocked", age=timedelta(minutes=30)),
        row(2, outcome="blocked", age=timedelta(hours=2)),
    )
    counts = await rows.counts(now - timedelta(hours=1))
    assert sorted((one.outcome, one.number) for one in counts) == [("blocked", 1), ("complete", 2)]
    hour = hour_of(counts, now)
    assert (hour.total, hour.outcomes) == (3, {"blocked": 1, "complete": 2})
    assert [(bar.kind, bar.height) for bar in hour.bars] == [("bad", 24.0), ("good", 48.0)]
    assert all(0 <= bar.x < hour.width for bar in hour.bars)


async def test_no_page_waits_for_a_count_but_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hour_module, "_FRESH_S", 0.0)
    monkeypatch.setattr(hour_module, "_SHARE", 0)
    counted = asyncio.Semaphore(1)

    class Slow(FileRows):
        async def counts(self, since: datetime) -> Sequence[Count]:
            await counted.acquire()
            return await super().counts(since)

    rows = Slow(tmp_path / "r")
    last = LastHour(lambda: rows)
    assert (await last.now()).total == 0
    store(tmp_path / "r", row(0, outcome="complete"))
    assert [(await last.now()).total for _ in range(3)] == [0, 0, 0]  # while the second count waits
    counted.release()
    async with asyncio.timeout(20):
        [counting] = [task for task in asyncio.all_tasks() if task.get_name() == "luthien-monitor-count"]
        await counting
    assert (await last.now()).total == 1


def test_an_empty_hour_has_no_bars_and_an_older_minute_does_not_count() -> None:
    now = datetime(2026, 5, 31, 12, 0, tzinfo=UTC)
    old = Count("2026-05-31T11:00", "complete", 5)
    assert hour_of([old], now).total == hour_of([], now).total == 0
    assert hour_of([Count("2026-05-31T11:01", "odd", 5)], now).bars[0].x == 0


async def test_ten_thousand_rows_are_paged_quickly(tmp_path: Path) -> None:
    path = tmp_path / "r"
    for start in range(0, 10_000, 1_000):
        store(path, *(row(number, outcome="complete") for number in range(start, start + 1_000)))
    rows = FileRows(path)
    middle = Position((await rows.latest(ALL, None, 5_000)).transactions[-1].time, "")
    took: dict[str, float] = {}
    for name, chosen, before in (
        ("first", ALL, None),
        ("middle", ALL, middle),
        ("filtered", Filter(outcome="complete"), middle),
        ("nothing fits", Filter(outcome="blocked"), None),
    ):
        began = time.perf_counter()
        await rows.latest(chosen, before, 50)
        took[name] = time.perf_counter() - began
    assert max(took.values()) < PAGE_S, took
