"""An event loop whose time passes at once: hours of waiting take no time, and no machine is too slow for it."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Its clock stands while anything can run, in a thread too, and then jumps to the next timer."""

    def __init__(self) -> None:
        self._now = 0.0
        self.in_threads = 0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self._now

    def pass_time(self, seconds: float) -> None:
        self._now += seconds

    def run_in_executor(self, executor: Executor | None, func: Callable[..., T], *args: Any) -> "asyncio.Future[T]":
        future = super().run_in_executor(executor, func, *args)
        self.in_threads += 1
        future.add_done_callback(self._end_in_thread)
        return future

    def _end_in_thread(self, _: object) -> None:
        self.in_threads -= 1

    @property
    def timers(self) -> list[asyncio.TimerHandle]:
        """The timers that are still to run."""
        return [timer for timer in self._scheduled if not timer.cancelled()]


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        waits = timeout is None or (timeout > 0 and self._loop.in_threads > 0)
        found = super().select(None if waits else 0)
        if timeout and not found:
            self._loop.pass_time(timeout)
        return found


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs `main` to its end; it begins at second 0."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
