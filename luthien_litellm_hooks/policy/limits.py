"""Limits of policies' work: those of the operator, what a transaction has spent of them, and threads for long work."""

import asyncio
import threading
from collections.abc import Callable, Generator, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, TypeVar, cast

from luthien_litellm_hooks.errors import JudgeError, LimitExceededError
from luthien_litellm_hooks.recording.decision import Spent

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one response, of one process, and of one transaction."""

    max_stream_bytes: int = 256 * 2**20
    max_held_bytes: int = 2**30
    max_hold_s: float = 600.0
    max_request_values: int = 50_000
    max_judged_characters: int = 20_000_000
    max_judged_blocks: int = 10_000


DEFAULT_LIMITS = Limits()


class Budget:
    """Amount judged by all policies of one transaction together."""

    def __init__(self) -> None:
        self.limits = DEFAULT_LIMITS
        self._characters = 0
        self._blocks = 0

    def spend(self, characters: int, blocks: int) -> None:
        """Counts data to be judged. Raises `LimitExceededError` beyond a limit."""
        self._characters += characters
        self._blocks += blocks
        if self._characters > self.limits.max_judged_characters:
            raise LimitExceededError(f"limits.max_judged_characters: {self.limits.max_judged_characters}")
        if self._blocks > self.limits.max_judged_blocks:
            raise LimitExceededError(f"limits.max_judged_blocks: {self.limits.max_judged_blocks}")


class Readings:
    """Results that several policies of one transaction would each work out again: what they read in the same call.

    It keeps the first ones, within a bound of memory, until the response has ended.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, object] = {}
        self._lock = threading.Lock()
        self._room = MAX_KEPT_CHARACTERS

    def get(self, key: Hashable, characters: int, make: Callable[[], T]) -> T:
        """Returns the result under `key`; by default the one of `make`, which must be quick. It counts as `characters`.

        Safe in any thread. `key` must hold everything that the result depends on, settings of a policy included.
        """
        with self._lock:
            if key in self._kept:
                return cast(T, self._kept[key])
            made = make()
            cost = characters + KEPT_COST
            if cost <= self._room:
                self._room -= cost
                self._kept[key] = made
            return made

    def clear(self) -> None:
        """Forgets all results, and keeps none from now on."""
        with self._lock:
            self._kept.clear()
            self._room = 0


MAX_KEPT_CHARACTERS = 262_144
"""Characters of one transaction's calls with kept readings: two of the longest scripts that are read."""
KEPT_COST = 256
"""Cost of a kept reading beside its characters."""

LONG = 2_048
"""Characters of a text that is worth a thread. Judging a shorter one takes a few milliseconds at most."""

# Python's threads share one interpreter: with many of them the event loop would wait for its turn.
_THREADS = ThreadPoolExecutor(2, thread_name_prefix="luthien-judging")
_THREAD_APART = ThreadPoolExecutor(1, thread_name_prefix="luthien-observing")
_is_apart: ContextVar[bool] = ContextVar("luthien_is_apart", default=False)


@contextmanager
def judging_apart() -> Generator[None]:
    """Has long work in this context, and in the tasks that it starts, done by another thread: nothing that is delivered
    waits for it."""
    token = _is_apart.set(True)
    try:
        yield
    finally:
        _is_apart.reset(token)


async def off_loop(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Returns the result of `work`, from a thread: other requests and responses go on meanwhile.

    `work` must wait for nothing. A thread cannot be stopped: if the caller is cancelled, the work runs to its end, and
    its result is dropped.
    """
    return await asyncio.get_running_loop().run_in_executor(
        _THREAD_APART if _is_apart.get() else _THREADS, partial(work, *args, **kwargs)
    )


class Spending:
    """Model calls of all policies for one transaction."""

    def __init__(self) -> None:
        self.total = Spent()
        self._begun = 0

    def begin(self, max_calls: int) -> None:
        """Counts a call that is about to be made. Raises `JudgeError` if there were `max_calls` before."""
        if self._begun >= max_calls:
            raise JudgeError(f"a transaction may cause no more than {max_calls} calls (max_calls)")
        self._begun += 1

    def add(self, spent: Spent) -> None:
        """Adds an answered call, here and to the running tally."""
        self.total += spent
        tally = _running.get()
        if tally is not None:
            tally.spent += spent


class Tally:
    """Model calls for one decision."""

    def __init__(self) -> None:
        self.spent = Spent()


_running: ContextVar[Tally | None] = ContextVar("luthien_tally", default=None)


@contextmanager
def tally() -> Generator[Tally]:
    """Counts the model calls in this context, and in the tasks that it starts."""
    counted = Tally()
    token = _running.set(counted)
    try:
        yield counted
    finally:
        _running.reset(token)


_UNDECIDED = "spending.undecided"


def keep_undecided(scratchpad: dict[str, Any], spent: Spent) -> None:
    """Keeps the model calls of a failed judgement for the decision about the failure."""
    scratchpad[_UNDECIDED] = scratchpad.get(_UNDECIDED, Spent()) + spent


def take_undecided(scratchpad: dict[str, Any]) -> Spent | None:
    """Returns the model calls of the failed judgements, once."""
    spent: Spent = scratchpad.pop(_UNDECIDED, Spent())
    return spent if spent.calls else None
