"""Events on their way out of the process: nobody waits for a sink, and none is lost in silence."""

import json
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from itertools import islice
from threading import Condition, Event, Thread
from typing import Protocol

from luthien_litellm_hooks.log_lines import logger
from luthien_litellm_hooks.telemetry.metrics import Metrics, process_metrics
from luthien_litellm_hooks.telemetry.names import EVENTS_DROPPED, OBSERVER_FAILURES

MAX_WAITING = 10_000
MAX_WAITING_BYTES = 64 * 1024 * 1024
MAX_BATCH = 100
RETRY_S = 1.0


class Sink(Protocol):
    """Where events go. Only one thread, which is not the event loop's, calls it."""

    @property
    def name(self) -> str:
        """Its name in the log and in metrics."""
        ...

    def write(self, lines: Sequence[str]) -> int:
        """Writes events, each one a line of JSON, from the first on; returns how many, which is at
        least one. Raises if it cannot write even one: all are then given to it again, a while later.
        """
        ...


class EventPublisher:
    """Hands each event to every sink, in order.

    Each sink has a queue of its own, bounded in events and bytes; what finds it full is dropped and
    counted. A sink that fails is tried again until it takes what waits; the log says once that it
    failed, and once that it is back. Nothing tells a LiteLLM process that it is about to end: events
    are written as soon as they come.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        *,
        metrics: Metrics | None = None,
        max_waiting: int = MAX_WAITING,
        retry_s: float = RETRY_S,
    ) -> None:
        self._metrics = metrics or process_metrics()
        self._outlets = [_Outlet(sink, self._metrics, max_waiting, retry_s) for sink in sinks]

    def publish(self, event: Mapping[str, object]) -> None:
        """Takes the event as it is now. Never waits, never raises; from any thread."""
        try:
            line = json.dumps(event, default=str, allow_nan=False)
            for outlet in self._outlets:
                outlet.put(line)
        except Exception as error:  # what is in the event may raise anything
            for outlet in self._outlets:
                outlet.drop(f"one failed with {type(error).__name__}")

    def close(self, timeout_s: float = 5.0) -> None:
        """Waits until all is written, or the time is up. What is left, and what comes later, is dropped."""
        deadline = time.monotonic() + timeout_s
        for outlet in self._outlets:
            outlet.close(deadline)


class _Outlet:
    """What waits for one sink, and the thread that writes it, which starts with the first event."""

    def __init__(self, sink: Sink, metrics: Metrics, max_waiting: int, retry_s: float) -> None:
        self._sink = sink
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
        """How many events were dropped, by the reason, since the sink was last back."""

    def put(self, line: str) -> None:
        with self._changed:
            has_room = len(self._waiting) < self._max_waiting and self._bytes + len(line) <= MAX_WAITING_BYTES
            is_taken = has_room and not self._closing.is_set()
            if is_taken:
                self._waiting.append(line)
                self._bytes += len(line)
                self._start()
                self._changed.notify_all()
        if not is_taken:
            self.drop("too many wait")

    def drop(self, why: str) -> None:
        """Counts an event that is not taken. Each reason is logged once until the sink is back."""
        self._dropped[why] += 1
        self._metrics.record(EVENTS_DROPPED.name, 1, {"sink": self._sink.name})
        if self._dropped[why] == 1:
            logger.error("events for %s are dropped: %s; answers go on", self._sink.name, why)

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
            thread = Thread(target=self._run, name=f"events to {self._sink.name}", daemon=True)
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        while batch := self._next_batch():
            try:
                written = self._sink.write(batch)
            except Exception as error:  # a sink's library may raise anything, and the thread must live
                self._failed(error)
                if self._closing.wait(self._retry_s):
                    return
            else:
                self._succeeded(written)

    def _next_batch(self) -> list[str]:
        """What is to be written next; nothing when there is nothing left and the process ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing.is_set())
            return list(islice(self._waiting, MAX_BATCH))

    def _failed(self, error: Exception) -> None:
        self._metrics.record(OBSERVER_FAILURES.name, 1)
        if not self._is_failing:
            self._is_failing = True
            logger.error("events cannot be written to %s, which is tried again: %s", self._sink.name, error)

    def _succeeded(self, written: int) -> None:
        with self._changed:
            self._bytes -= sum(len(self._waiting.popleft()) for _ in range(written))
        if self._is_failing:
            self._is_failing = False
            logger.warning("events are written to %s again; %d were dropped", self._sink.name, self._dropped.total())
            self._dropped.clear()
