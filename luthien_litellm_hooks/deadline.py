"""The deadline of one hook call, which `keepalive()` moves."""

import asyncio
import time
from collections.abc import Awaitable, Generator
from contextlib import contextmanager
from typing import TypeVar

from luthien_litellm_hooks.errors import PolicyTimeoutError

T = TypeVar("T")


class HookDeadline:
    """Runs hooks one after the other, each for at most `timeout_s` seconds since it began or last
    called `keepalive()`.

    Only the policy's own time counts: the provider is awaited outside, and the wait for a slow
    client is `paused()`.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._scope: asyncio.Timeout | None = None
        self._moved_at = time.monotonic()

    async def run(self, hook: Awaitable[T]) -> T:
        """What `hook` returns. Raises `PolicyTimeoutError` when it takes too long, also if the
        hook itself swallowed the cancellation."""
        self._moved_at = time.monotonic()
        scope = asyncio.timeout(self.timeout_s)
        try:
            async with scope:
                self._scope = scope
                result = await hook
        except TimeoutError:
            if not scope.expired():
                raise  # the hook's own
            raise self._error() from None
        finally:
            self._scope = None
        if scope.expired():
            raise self._error()
        return result

    def keepalive(self) -> None:
        """Gives the running hook its whole time again."""
        self._moved_at = time.monotonic()
        self._reschedule(asyncio.get_running_loop().time() + self.timeout_s)

    def time_since_keepalive(self) -> float:
        """Seconds since the deadline was last moved."""
        return time.monotonic() - self._moved_at

    @contextmanager
    def paused(self) -> Generator[None]:
        """Stops the clock; leaving starts it anew."""
        self._reschedule(None)
        try:
            yield
        finally:
            self.keepalive()

    def _reschedule(self, when: float | None) -> None:
        if self._scope is not None and not self._scope.expired():
            self._scope.reschedule(when)

    def _error(self) -> PolicyTimeoutError:
        return PolicyTimeoutError(f"no keepalive() for {self.timeout_s:g} s")
