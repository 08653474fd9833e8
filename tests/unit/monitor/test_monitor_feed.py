"""Feed of the live page: what a transaction leaves there, and what the pages get of it."""

import asyncio
import gzip
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest
from pydantic_core import to_jsonable_python

from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.monitor import feed as feed_module
from luthien_litellm_hooks.monitor.feed import KEPT, MAX_PAGES, REQUESTED, Feed, News, Row
from luthien_litellm_hooks.monitor.rows import FileRows
from luthien_litellm_hooks.monitor.site import fragment
from luthien_litellm_hooks.monitor.spend_logs import Filter
from luthien_litellm_hooks.monitor.transactions import Transaction
from luthien_litellm_hooks.recording.decision import Decision
from luthien_litellm_hooks.recording.sqlite import RecordFile
from luthien_litellm_hooks.telemetry.names import APPROVAL_ASKED
from luthien_litellm_hooks.telemetry.spans import Telemetry
from luthien_litellm_hooks.wire.events import ContentStreamBlock, ToolCallStreamBlock
from tests.support.record_file import line, row

ENDED = "transaction.streaming_response_recorded"
ALL = Filter()
CALL = ToolCallStreamBlock(0)
CALL.name = "Bash"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"_POLL_S": 0.02, "_TOGETHER_S": 0.001, "_IDLE_S": 0.05}.items():
        monkeypatch.setattr(feed_module, name, seconds)


class Followed(FileRows):
    """The file of records. `reads` has a name of a task for each time that its new rows were read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.reads: asyncio.Queue[str] = asyncio.Queue()

    async def recorded_after(self, last: object) -> tuple[Sequence[Transaction], object]:
        found = await super().recorded_after(last)
        task = asyncio.current_task()
        self.reads.put_nowait("" if task is None else task.get_name())
        return found


class Broken(Followed):
    async def recorded_after(self, last: object) -> tuple[Sequence[Transaction], object]:
        await super().recorded_after(last)
        raise ConfigError("The disk is gone.")


@pytest.fixture
def records(tmp_path: Path) -> Path:
    return tmp_path / "records.sqlite"


@pytest.fixture
def rows(records: Path) -> Followed:
    return Followed(records)


@pytest.fixture
def feed(rows: Followed) -> Feed:
    return Feed(lambda: rows)


def begin(feed: Feed, id: str, model: str = "m", **identity: str) -> None:
    data = {"identity": identity, "policies": [{"name": "rules"}], "original_model": model, "session": "s1"}
    feed.happened(id, REQUESTED, data)


async def news(feed: Feed, mark: str, chosen: Filter = ALL) -> AsyncGenerator[News]:
    """What comes after the mark; the signs of life are left out."""
    async with aclosing(feed.news(mark, chosen, for_s=60)) as found:
        async for one in found:
            if one is not None:
                yield one


async def first(feed: Feed, mark: str, chosen: Filter = ALL) -> Sequence[Row]:
    async with asyncio.timeout(20), aclosing(news(feed, mark, chosen)) as found:
        return (await anext(found)).rows


async def test_a_transaction_is_seen_as_it_begins_decides_and_ends(feed: Feed) -> None:
    async with asyncio.timeout(20), aclosing(news(feed, feed.mark)) as found:
        begin(feed, "t1", key_alias="blue", key_hash="ab" * 32)
        [row] = (await anext(found)).rows
        assert (row.id, row.outcome, row.model, row.key, row.session) == ("t1", None, "m", "blue", "s1")
        assert (row.policies, feed.running()) == (("rules",), 1)
        feed.decided(
            "t1", [Decision("rules", "block", CALL, reason="no"), Decision("one", "allow", CALL, is_vote=True)]
        )
        [row] = (await anext(found)).rows
        assert [(one.action, one.about, one.reason) for one in row.decisions] == [("block", "Bash", "no")]
        feed.happened("t1", APPROVAL_ASKED, {"policy": "rules", "tool": "Bash"})
        [row] = (await anext(found)).rows
        assert [one.action for one in row.decisions] == ["block", "waits"]
        feed.happened("t1", ENDED, {"outcome": "blocked"})
        [row] = (await anext(found)).rows
        assert (row.outcome, feed.running()) == ("blocked", 0)


async def test_what_happens_at_once_comes_once_in_its_present_state(feed: Feed) -> None:
    mark = feed.mark
    for number in range(3):
        begin(feed, f"t{number}")
    feed.happened("t0", ENDED, {"outcome": "complete"})
    rows = await first(feed, mark)
    assert [(row.id, row.outcome) for row in rows] == [("t1", None), ("t2", None), ("t0", "complete")]


async def test_a_page_that_comes_back_gets_what_it_missed_and_one_of_another_process_gets_all(feed: Feed) -> None:
    begin(feed, "t1")
    mark = feed.mark
    begin(feed, "t2")
    assert [row.id for row in await first(feed, mark)] == ["t2"]
    for other in ("", "another.7", "another", f"{feed.mark}x"):
        assert [row.id for row in await first(feed, other)] == ["t1", "t2"]


async def test_a_page_gets_only_what_its_filter_chooses(feed: Feed) -> None:
    begin(feed, "t1", model="a", key_alias="blue")
    begin(feed, "t2", model="b", key_alias="red")
    feed.happened("t2", ENDED, {"outcome": "complete"})
    chosen = [Filter(model="b"), Filter(key="red"), Filter(outcome="complete"), Filter(policy="rules", model="b")]
    assert [[row.id for row in await first(feed, "", one)] for one in chosen] == [["t2"]] * 4
    assert feed.latest(Filter(session="s2")) == []


def test_the_memory_is_bounded(feed: Feed) -> None:
    for number in range(KEPT + 50):
        begin(feed, str(number), model="x" * 10_000)
    for _ in range(100):
        feed.decided(str(KEPT + 49), [Decision("rules", "block", ContentStreamBlock(), reason="z" * 10_000)])
    rows = feed.latest(ALL)
    assert len(rows) == KEPT
    assert (len(rows[0].decisions), rows[0].more_decisions) == (5, 95)
    assert len(repr(rows[0])) < 20_000


async def test_a_page_that_reads_slowly_holds_nothing_up(feed: Feed) -> None:
    async with aclosing(feed.news(feed.mark, ALL, for_s=60)) as slow:
        assert await anext(slow) is None
        for number in range(10_000):
            begin(feed, str(number))
        one = await anext(slow)
        assert one is not None
        assert (len(one.rows), one.mark) == (50, feed.mark)


async def test_what_another_worker_records_comes_to_an_open_page(feed: Feed, rows: Followed, records: Path) -> None:
    write = RecordFile(records).write
    write([line(row(0, transaction_id="before"))])
    async with asyncio.timeout(20), aclosing(news(feed, feed.mark)) as found:
        waiting = asyncio.ensure_future(anext(found))
        await rows.reads.get()  # what is written from then on is new
        write([line(row(1, transaction_id="other", outcome="blocked"))])
        assert [(one.id, one.outcome) for one in (await waiting).rows] == [("other", "blocked")]


async def test_records_are_read_only_while_a_page_is_open_and_once_for_all(feed: Feed, rows: Followed) -> None:
    begin(feed, "t1")
    await asyncio.sleep(0.1)
    assert rows.reads.empty()
    pages = [feed.news(feed.mark, ALL, for_s=60) for _ in range(10)]
    for page in pages:
        await anext(page)
    polls = [task for task in asyncio.all_tasks() if task.get_name() == "luthien-monitor-poll"]
    assert len(polls) == 1
    async with asyncio.timeout(20):
        assert [await rows.reads.get() for _ in range(3)] == ["luthien-monitor-poll"] * 3
        for page in pages:
            await page.aclose()
        await polls[0]


async def test_records_that_cannot_be_read_leave_the_rest_live(caplog: pytest.LogCaptureFixture, records: Path) -> None:
    rows = Broken(records)
    feed = Feed(lambda: rows)
    async with asyncio.timeout(20), aclosing(news(feed, feed.mark)) as found:
        waiting = asyncio.ensure_future(anext(found))
        await rows.reads.get()
        begin(feed, "t1")
        assert [row.id for row in (await waiting).rows] == ["t1"]
    assert "The disk is gone." in caplog.text


async def test_the_pages_are_closed_when_the_process_ends(records: Path) -> None:
    is_ending = False
    feed = Feed(lambda: FileRows(records), lambda: is_ending)
    async with asyncio.timeout(20), aclosing(feed.news(feed.mark, ALL, for_s=3600)) as found:
        await anext(found)
        is_ending = True
        assert [one async for one in found if one is not None] == []


async def test_open_pages_are_bounded(feed: Feed) -> None:
    pages = [feed.news(feed.mark, ALL, for_s=60) for _ in range(MAX_PAGES)]
    for page in pages:
        assert not feed.is_full
        await anext(page)
    assert feed.is_full
    for page in pages:
        await page.aclose()
    assert not feed.is_full


async def test_a_watcher_that_fails_disturbs_no_transaction(caplog: pytest.LogCaptureFixture) -> None:
    class Failing:
        def happened(self, transaction_id: str, event_type: str, data: object) -> None:
            raise ValueError("no")

        def decided(self, transaction_id: str, decisions: object) -> None:
            raise ValueError("no")

    context = Telemetry(watcher=Failing()).begin("t1", route="chat")
    await context.emit_event(REQUESTED, {})
    context.hook_ran("rules", "on_request", started_ns=0, ended_ns=1, decisions=[Decision("rules", "allow")])
    assert "telemetry failed" in caplog.text


async def test_a_stored_row_keeps_the_reasons_that_only_this_process_knows(
    feed: Feed, rows: Followed, records: Path
) -> None:
    """In a database the reasons of a row are sealed."""
    begin(feed, "t1")
    feed.decided("t1", [Decision("rules", "block", CALL, reason="no")])
    feed.happened("t1", ENDED, {"outcome": "blocked"})
    kept = {"decisions": [{"policy": "rules", "action": "block"}], "outcome": "blocked", "session": None}
    async with asyncio.timeout(20), aclosing(news(feed, feed.mark)) as found:
        waiting = asyncio.ensure_future(anext(found))
        await rows.reads.get()  # what is written from then on is new
        RecordFile(records).write([line(row(1, transaction_id="t1", **kept))])
        [stored] = (await waiting).rows
    assert [(one.about, one.reason) for one in stored.decisions] == [("Bash", "no")]
    assert stored.session == "s1"


def test_the_rows_are_json(feed: Feed) -> None:
    begin(feed, "t1")
    feed.decided("t1", [Decision("rules", "block", CALL, reason="no")])
    assert json.loads(json.dumps(to_jsonable_python(feed.latest(ALL))))[0]["decisions"][0]["about"] == "Bash"


def test_a_decision_of_an_unknown_transaction_begins_its_row(feed: Feed) -> None:
    """A policy may refuse a request before it is recorded."""
    feed.decided("t1", [Decision("rules", "block", None)])
    begin(feed, "t1")
    assert [(row.id, [one.about for one in row.decisions]) for row in feed.latest(ALL)] == [("t1", ["request"])]
    feed.happened("t2", ENDED, {"outcome": "complete"})
    assert feed.row("t2") is None


def test_a_full_page_of_hostile_rows_stays_small(feed: Feed) -> None:
    long = "<&>\u202e" * 5_000
    called = ToolCallStreamBlock(0)
    called.name = long
    for number in range(50):
        begin(feed, f"{number:036}", model=long, key_alias=long)
        feed.decided(f"{number:036}", [Decision("a_policy_of_mine", "block", called, reason=long)] * 50)
    rows = [fragment("row.html", "/luthien/ui", row=row) for row in feed.latest(ALL)]
    assert len(gzip.compress("".join(rows).encode())) < 10_000
    assert max(map(len, rows)) < 6_000
    assert not any("\u202e" in row or "<&" in row for row in rows)
