"""The deadline of one hook call, which `keepalive()` moves."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from luthien_litellm_hooks.errors import PolicyError, PolicyTimeoutError
from luthien_litellm_hooks.limits import DEFAULT_LIMITS, HoldClock

STOP_GRACE_S = 2.0
"""How long a hook that is past its deadline may take to stop."""

T = TypeVar("T")
OnStuck = Callable[[PolicyTimeoutError], None]


class HookDeadline:
    """Runs hooks one after the other, each for at most `timeout_s` seconds since it began or last
    called `keepalive()`; and all hooks of one transaction, whose `clock` this is, for at most
    `max_hold_s` in all.

    Only the policies' own time counts: the provider is awaited outside, and the wait for a slow
    client is `paused()`.
    """

    def __init__(
        self,
        timeout_s: float,
        clock: HoldClock | None = None,
        max_hold_s: float = DEFAULT_LIMITS.max_hold_s,
    ) -> None:
        self._timeout_s = timeout_s
        self._clock = clock or HoldClock()
        self._max_hold_s = max_hold_s
        self._scope: asyncio.Timeout | None = None
        self._on_stuck: OnStuck | None = None  # only while a hook waits: whom it tells holds this deadline
        self._stuck: asyncio.TimerHandle | None = None
        self._is_paused = self._is_counted = False
        self._moved_at = time.monotonic()

    async def run(self, hook: Awaitable[T], on_stuck: OnStuck | None = None) -> T:
        """What `hook` returns. Raises `PolicyTimeoutError` when it takes too long, also if the hook
        itself swallowed the cancellation. `on_stuck` is called when it goes on though it was cancelled.

        A hook that waits for nothing costs no more than a call.
        """
        self._moved_at = time.monotonic()
        if not hasattr(hook, "__await__"):
            raise PolicyError(f"a hook must be `async def`; this one returned a {type(hook).__name__}")
        steps = hook.__await__()
        try:
            waits_for: object = next(steps)
        except StopIteration as done:
            return cast(T, done.value)
        return await self._finish(_Rest(steps, waits_for), on_stuck)

    async def _finish(self, rest: Awaitable[T], on_stuck: OnStuck | None) -> T:
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._scope, self._on_stuck = scope, on_stuck
                self._count()
                self._reschedule()
                result = await rest
        except TimeoutError:
            if not scope.expired():
                raise  # the hook's own
            raise self._error() from None
        finally:
            self._scope = self._on_stuck = None
            self._count()
            self._watch(None)
            is_expired = scope.expired()
            del scope  # it holds the task, and that a cancellation whose traceback holds this frame
        if is_expired:
            raise self._error()
        return result

    def keepalive(self) -> None:
        """Gives the running hook its whole time again."""
        self._moved_at = time.monotonic()
        self._reschedule()

    def time_since_keepalive(self) -> float:
        """Seconds since the deadline was last moved."""
        return time.monotonic() - self._moved_at

    @contextmanager
    def paused(self) -> Generator[None]:
        """Stops the clock; leaving starts it anew."""
        self._is_paused = True
        self._count()
        self._reschedule()
        try:
            yield
        finally:
            self._is_paused = False
            self._count()
            self.keepalive()

    def _count(self) -> None:
        """The transaction's clock runs while a hook waits that is not paused."""
        is_counted = self._scope is not None and not self._is_paused
        if is_counted != self._is_counted:
            self._is_counted = is_counted
            (self._clock.start if is_counted else self._clock.stop)()

    def _reschedule(self) -> None:
        if self._scope is None or self._scope.expired():
            return
        when = None
        if not self._is_paused:
            left = min(self._timeout_s, self._max_hold_s - self._clock.seconds)
            when = asyncio.get_running_loop().time() + max(left, 0)
        self._scope.reschedule(when)
        self._watch(when)

    def _watch(self, when: float | None) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None
        if when is not None and self._on_stuck is not None:
            self._stuck = asyncio.get_running_loop().call_at(when + STOP_GRACE_S, self._tell_stuck)

    def _tell_stuck(self) -> None:
        if self._on_stuck is not None:
            self._on_stuck(self._error())

    def _error(self) -> PolicyTimeoutError:
        if self._clock.seconds >= self._max_hold_s:
            return PolicyTimeoutError(f"the policies took more than limits.max_hold_s: {self._max_hold_s:g} s in all")
        return PolicyTimeoutError(f"no keepalive() for {self._timeout_s:g} s")


class _Rest(Generator[object, Any, T]):
    """What is left of an awaitable whose first step was taken, and which now `waits_for` something."""

    def __init__(self, steps: Generator[Any, Any, T], waits_for: object) -> None:
        self._steps = steps
        self._first: tuple[object, ...] = (waits_for,)

    def __await__(self) -> Generator[object, Any, T]:
        return self

    def send(self, value: Any, /) -> object:
        if self._first:
            (waits_for,), self._first = self._first, ()
            return waits_for
        return self._steps.send(value)

    def throw(self, *error: Any) -> object:
        try:
            return self._steps.throw(*error)
        finally:
            del error  # its traceback holds this frame


async def run_apart(hook: Awaitable[T], timeout_s: float, clock: HoldClock, max_hold_s: float) -> T:
    """What `hook` returns, run in a task of its own: one that cannot be stopped is left behind. Raises
    `PolicyTimeoutError` as `HookDeadline` does."""
    stuck: asyncio.Future[PolicyTimeoutError] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(HookDeadline(timeout_s, clock, max_hold_s).run(hook, stuck.set_result))
    running.add_done_callback(_retrieve)
    try:
        await asyncio.wait((running, stuck), return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        running.cancel()
        raise
    if not running.done():
        raise stuck.result()
    if running.cancelled():
        raise PolicyError("something that the hook awaited was cancelled")
    return running.result()


def _retrieve(task: asyncio.Task[T]) -> None:
    """Says that somebody looks at how a task ended that may have been left behind."""
    if not task.cancelled():
        task.exception()
