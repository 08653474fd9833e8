"""Publisher of events, and its sinks: a file of JSON lines, or a stream of Redis.

It never blocks on a sink, and counts every dropped event.
"""

import fcntl
import json
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from threading import Condition, Event, Thread
from typing import Protocol

from luthien_litellm_hooks.telemetry.log_lines import logger
from luthien_litellm_hooks.telemetry.metrics import Metrics, process_metrics
from luthien_litellm_hooks.telemetry.names import EVENTS_DROPPED, OBSERVER_FAILURES
from luthien_litellm_hooks.telemetry.redis_clients import RedisClient

MAX_WAITING = 10_000
MAX_WAITING_BYTES = 64 * 1024 * 1024
MAX_BATCH = 100
RETRY_S = 1.0
STDOUT = "-"
STREAM = "luthien:events"
STREAM_LENGTH = 100_000


class Sink(Protocol):
    """Destination of events. Only one thread, never the event loop's, calls it."""

    @property
    def name(self) -> str:
        """Name in the log and in metrics."""
        ...

    def write(self, lines: Sequence[str]) -> int:
        """Writes events, each one a line of JSON, from the first on. Returns their number, at least one.

        Raises if it cannot write any; it then gets all of them again after a delay.
        """
        ...


class EventPublisher:
    """Publisher of each event to every sink, in order.

    Each sink has its own queue, bounded in events and bytes. If it is full, an event is dropped and counted. A failing
    sink is retried until it accepts the queued events; the log has one line for the failure, and one for the recovery.
    A LiteLLM process ends without warning, so events are written at once. `what` names them in the log.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        *,
        metrics: Metrics | None = None,
        max_waiting: int = MAX_WAITING,
        retry_s: float = RETRY_S,
        what: str = "events",
    ) -> None:
        self._metrics = metrics or process_metrics()
        self._outlets = [_Outlet(sink, self._metrics, max_waiting, retry_s, what) for sink in sinks]

    def publish(self, event: Mapping[str, object]) -> None:
        """Queues the event in its present state. Never waits, never raises; callable from any thread."""
        try:
            line = json.dumps(event, default=str, allow_nan=False)
            for outlet in self._outlets:
                outlet.put(line)
        except Exception as error:  # a value of the event may raise anything
            for outlet in self._outlets:
                outlet.drop(f"one failed with {type(error).__name__}")

    def close(self, timeout_s: float = 5.0) -> None:
        """Waits until all is written, or the time is over. Drops the rest, and all later events."""
        deadline = time.monotonic() + timeout_s
        for outlet in self._outlets:
            outlet.close(deadline)


class _Outlet:
    """Queue of one sink, and the thread that writes it, started with the first event."""

    def __init__(self, sink: Sink, metrics: Metrics, max_waiting: int, retry_s: float, what: str) -> None:
        self._sink = sink
        self._what = what
        self._metrics = metrics
        self._max_waiting = max_waiting
        self._retry_s = retry_s
        self._waiting: deque[str] = deque()
        self._bytes = 0
        self._changed = Condition()
        self._closing = Event()
        self._thread: Thread | None = None
        self._is_failing = False
        self._dropped: Counter[str] = Counter()
        """Number of dropped events by reason, since the last recovery of the sink."""

    def put(self, line: str) -> None:
        with self._changed:
            has_room = len(self._waiting) < self._max_waiting and self._bytes + len(line) <= MAX_WAITING_BYTES
            is_accepted = has_room and not self._closing.is_set()
            if is_accepted:
                self._waiting.append(line)
                self._bytes += len(line)
                self._start()
                self._changed.notify_all()
        if not is_accepted:
            self.drop("the queue is full")

    def drop(self, why: str) -> None:
        """Counts a dropped event. Each reason is logged once until the sink recovers."""
        self._dropped[why] += 1
        self._metrics.record(EVENTS_DROPPED.name, 1, {"sink": self._sink.name})
        if self._dropped[why] == 1:
            logger.error("%s for %s are dropped: %s; responses continue", self._what, self._sink.name, why)

    def close(self, deadline: float) -> None:
        with self._changed:
            self._closing.set()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(max(deadline - time.monotonic(), 0))
        for _ in range(len(self._waiting)):
            self.drop("the process ends")

    def _start(self) -> None:
        if self._thread is None:
            thread = Thread(target=self._run, name=f"{self._what} to {self._sink.name}", daemon=True)
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        while batch := self._next_batch():
            try:
                written = self._sink.write(batch)
            except Exception as error:  # a sink's library may raise anything; the thread must survive
                self._failed(error)
                if self._closing.wait(self._retry_s):
                    return
            else:
                self._succeeded(written)

    def _next_batch(self) -> list[str]:
        """Returns the next events to write; none at the end of the process."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing.is_set())
            return list(islice(self._waiting, MAX_BATCH))

    def _failed(self, error: Exception) -> None:
        self._metrics.record(OBSERVER_FAILURES.name, 1)
        if not self._is_failing:
            self._is_failing = True
            logger.error("%s cannot be written to %s; retrying: %s", self._what, self._sink.name, error)

    def _succeeded(self, written: int) -> None:
        with self._changed:
            self._bytes -= sum(len(self._waiting.popleft()) for _ in range(written))
        if self._is_failing:
            self._is_failing = False
            lost = self._dropped.total()
            logger.warning("%s are written to %s again; %d were dropped", self._what, self._sink.name, lost)
            self._dropped.clear()


class JsonLinesSink:
    """Sink that appends to a file, or to standard output for the path `-`. Each line is one write, so that lines of
    several workers do not mix.

    The file is opened for each batch: it may be rotated, or be writable again after its disk was full. An incomplete
    last line, from a full disk or a process that was killed, gets its end first. Only the proxy's user may read a new
    file, since reasons are the operator's.
    """

    def __init__(self, path: str) -> None:
        self.name = "stdout" if path == STDOUT else "jsonl"
        self._path = path

    def write(self, lines: Sequence[str]) -> int:
        is_stdout = self._path == STDOUT
        target = 1 if is_stdout else self._path
        with open(target, "ab", buffering=0, closefd=not is_stdout, opener=None if is_stdout else _private) as file:
            if not is_stdout:
                with suppress(OSError):  # some file systems have no locks
                    fcntl.flock(file, fcntl.LOCK_EX)  # so that no line of another worker looks incomplete
            start = "\n" if _is_torn("/dev/stdout" if is_stdout else self._path) else ""
            for count, line in enumerate(lines):
                try:
                    _write_whole(file.write, f"{line}\n" if count else f"{start}{line}\n")
                except OSError:
                    if count == 0:
                        raise
                    return count
        return len(lines)


def _is_torn(path: str) -> bool:
    """Tells whether the last line of a file has no end."""
    try:
        with open(path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) not in (b"\n", b"")
    except OSError:  # an empty file, a pipe, or one that the proxy may not read
        return False


def _write_whole(write: Callable[[bytes], int | None], text: str) -> None:
    whole = text.encode()
    if (write(whole) or 0) < len(whole):
        raise OSError("a line was not, or not fully, written")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class RedisSink:
    """Sink that adds each event to one stream, as its field `event`, and trims the stream to about `length`.

    The sink's own thread calls `connect` at the first event, because LiteLLM creates its client after it has loaded us.
    An event may be there twice, if the connection was lost while it was added.
    """

    name = "redis"

    def __init__(self, connect: Callable[[], RedisClient], stream: str = STREAM, length: int = STREAM_LENGTH) -> None:
        self._connect = connect
        self._stream = stream
        self._length = length
        self._client: RedisClient | None = None

    def write(self, lines: Sequence[str]) -> int:
        if self._client is None:
            self._client = self._connect()
        pipeline = self._client.pipeline(transaction=False)
        for line in lines:
            pipeline.execute_command("XADD", self._stream, "MAXLEN", "~", self._length, "*", "event", line)
        pipeline.execute()
        return len(lines)
