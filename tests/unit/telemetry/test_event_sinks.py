"""Events on their way out: where they go, and what a sink that is gone costs."""

import json
import logging
import os
import stat
import subprocess
import sysconfig
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from luthien_litellm_hooks.telemetry import publisher as publishing
from luthien_litellm_hooks.telemetry.publisher import EventPublisher, JsonLinesSink, Sink
from tests.support.telemetry import Lines, Measured

RETRY_S = 0.02
PATIENCE_S = 20.0


def publisher(*sinks: Sink, measured: Measured | None = None, max_waiting: int = 10_000) -> EventPublisher:
    return EventPublisher(sinks, metrics=(measured or Measured()).metrics, max_waiting=max_waiting, retry_s=RETRY_S)


def event(number: int) -> Mapping[str, object]:
    return {"type": "e", "data": {"number": number}}


def numbers(lines: Sequence[str | bytes]) -> list[int]:
    return [json.loads(line)["data"]["number"] for line in lines]


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)


def dropped(measured: Measured) -> dict[tuple[str, ...], float]:
    return measured.read("luthien_events_dropped_total")


class Stuck:
    """A sink that takes nothing until it is let go."""

    name = "stuck"

    def __init__(self) -> None:
        self.go = threading.Event()
        self.lines: list[str] = []

    def write(self, lines: Sequence[str]) -> int:
        assert self.go.wait(PATIENCE_S)
        self.lines += lines
        return len(lines)


class Failing:
    """A sink that fails as often as it is told to."""

    name = "failing"

    def __init__(self, times: int) -> None:
        self.times = times
        self.lines: list[str] = []

    def write(self, lines: Sequence[str]) -> int:
        if self.times:
            self.times -= 1
            raise ValueError("a fault of the sink's own")
        self.lines += lines[:1]
        return 1


# The publisher


def test_every_sink_gets_every_event_in_order() -> None:
    first, second = Lines(), Lines()
    events = publisher(first, second)
    for number in range(250):
        events.publish(event(number))
    events.close()
    assert numbers(first.lines) == numbers(second.lines) == list(range(250))


def test_an_event_is_written_as_it_was_when_it_was_published() -> None:
    sink = Stuck()
    events = publisher(sink)
    data = {"number": 1}
    events.publish({"data": data})
    data["number"] = 2
    sink.go.set()
    events.close()
    assert numbers(sink.lines) == [1]


def test_events_of_many_threads_all_come() -> None:
    sink = Lines()
    events = publisher(sink)
    threads = [
        threading.Thread(target=lambda: [events.publish(event(number)) for number in range(100)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events.close()
    assert sorted(numbers(sink.lines)) == sorted(list(range(100)) * 8)


def test_what_finds_the_queue_full_is_dropped_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    sink, measured = Stuck(), Measured()
    events = publisher(sink, measured=measured, max_waiting=5)
    for number in range(12):
        events.publish(event(number))
    assert dropped(measured) == {("stuck",): 7}
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    sink.go.set()
    events.close()
    assert numbers(sink.lines) == [0, 1, 2, 3, 4]


def test_the_queue_is_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "MAX_WAITING_BYTES", 1000)
    sink, measured = Stuck(), Measured()
    events = publisher(sink, measured=measured)
    for number in range(10):
        events.publish({"data": {"number": number, "text": "x" * 300}})
    sink.go.set()
    events.close()
    assert numbers(sink.lines) == [0, 1]
    assert dropped(measured) == {("stuck",): 8}


def test_what_was_written_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "MAX_WAITING_BYTES", 1000)
    sink, measured = Lines(), Measured()
    events = publisher(sink, measured=measured)
    for number in range(50):
        events.publish({"data": {"number": number, "text": "x" * 50}})
        wait_until(lambda count=number + 1: len(sink.lines) == count)
    events.close()
    assert dropped(measured) == {}


def test_a_sink_that_is_stuck_keeps_no_event_from_another() -> None:
    stuck, other = Stuck(), Lines()
    events = publisher(stuck, other)
    events.publish(event(1))
    wait_until(lambda: len(other.lines) == 1)
    stuck.go.set()
    events.close()


def test_a_sink_that_fails_is_tried_again_and_nothing_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    sink, measured = Failing(times=3), Measured()
    events = publisher(sink, measured=measured)
    for number in range(10):
        events.publish(event(number))
    wait_until(lambda: len(sink.lines) == 10)
    events.close()
    assert numbers(sink.lines) == list(range(10))
    assert dropped(measured) == {}
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]


def test_what_a_failing_sink_could_not_take_before_the_end_is_counted() -> None:
    sink, measured = Failing(times=1_000_000), Measured()
    events = publisher(sink, measured=measured)
    for number in range(3):
        events.publish(event(number))
    events.close()
    events.publish(event(4))
    assert dropped(measured) == {("failing",): 4}


@pytest.mark.parametrize("data", [{(1, 2): 3}, float("nan")], ids=["a key that is no text", "no number"])
def test_what_is_no_json_is_dropped_and_counted(data: object) -> None:
    sink, measured = Lines(), Measured()
    events = publisher(sink, measured=measured)
    events.publish({"data": data})
    events.publish(event(1))
    events.close()
    assert numbers(sink.lines) == [1]
    assert dropped(measured) == {("lines",): 1}


# JSON lines


def test_a_file_gets_one_line_an_event_and_keeps_what_it_had(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"data": {"number": -1}}\n')
    events = publisher(JsonLinesSink(str(path)))
    for number in range(3):
        events.publish({"data": {"number": number, "text": "two\nlines \ud800 ü"}})
    events.close()
    assert numbers(path.read_text().splitlines()) == [-1, 0, 1, 2]


def test_a_new_file_is_the_proxys_alone(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    JsonLinesSink(str(path)).write(["{}"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    sink = JsonLinesSink(str(path))
    sink.write(["1"])
    path.rename(tmp_path / "events.1")
    sink.write(["2"])
    assert (path.read_text(), (tmp_path / "events.1").read_text()) == ("2\n", "1\n")


def test_lines_of_several_writers_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    writers = [publisher(JsonLinesSink(str(path))) for _ in range(4)]
    for number in range(200):
        for events in writers:
            events.publish({"data": {"number": number, "text": "x" * 5000}})
    for events in writers:
        events.close()
    assert sorted(numbers(path.read_text().splitlines())) == sorted(list(range(200)) * 4)


def test_a_dash_is_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    events = publisher(JsonLinesSink("-"))
    events.publish(event(1))
    events.publish(event(2))
    events.close()
    assert numbers(capfd.readouterr().out.splitlines()) == [1, 2]


def test_a_full_disk_is_said_once_and_counted_and_nobody_waits(caplog: pytest.LogCaptureFixture) -> None:
    measured = Measured()
    events = publisher(JsonLinesSink("/dev/full"), measured=measured, max_waiting=10)
    for number in range(100):
        events.publish(event(number))
    wait_until(lambda: any("No space left" in record.getMessage() for record in caplog.records))
    events.close()
    assert dropped(measured) == {("jsonl",): 100}
    assert sum("No space left" in record.getMessage() for record in caplog.records) == 1


def test_a_line_that_the_disk_cut_short_does_not_spoil_the_next(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a disk that becomes full, and then has room again."""
    path = tmp_path / "events.jsonl"
    script = f"""
import resource, signal
from luthien_litellm_hooks.telemetry.publisher import JsonLinesSink
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sink, lines = JsonLinesSink({str(path)!r}), ["[1, 1, 1, 1]", "[2, 2, 2, 2]"]
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
assert sink.write(lines) == 1
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
assert sink.write(lines[1:]) == 1
"""
    subprocess.run([Path(sysconfig.get_path("scripts")) / "python", "-c", script], check=True)
    assert path.read_text() == "[1, 1, 1, 1]\n[2, 2, \n[2, 2, 2, 2]\n"


@pytest.mark.parametrize(("left", "start"), [("", ""), ("[1]\n", "[1]\n"), ("[1", "[1\n")])
def test_the_first_event_after_a_restart_has_a_line_of_its_own(tmp_path: Path, left: str, start: str) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(left)
    sink = JsonLinesSink(str(path))
    assert sink.write(["[2]", "[3]"]) == 2
    assert sink.write(["[4]"]) == 1
    assert path.read_text() == f"{start}[2]\n[3]\n[4]\n"


def test_a_pipe_gets_the_lines_that_a_file_would(tmp_path: Path) -> None:
    path = tmp_path / "events.fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert JsonLinesSink(str(path)).write(["[1]", "[2]"]) == 2
        assert os.read(reader, 100) == b"[1]\n[2]\n"
    finally:
        os.close(reader)
