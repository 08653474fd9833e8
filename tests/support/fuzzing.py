"""What fuzzing needs: how long it searches, a loop whose clock stands until it is told, and marked answers."""

import asyncio
import math
import os
import re
from collections.abc import Callable, Coroutine
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from luthien_litellm_hooks.testing.answers import Answer, Call, Say, Think
from luthien_litellm_hooks.testing.routes import RouteName

FACTOR = int(os.environ.get("FUZZ_FACTOR", "1"))
"""How many times the short budget of `make test` is searched. The short search is always the same one."""

MARK = re.compile(r"Z[trcnix]\d{4}z")
MARK_LENGTH = 7


def budget(examples: int, **more: Any) -> settings:
    """`examples` of them, times `FUZZ_FACTOR`."""
    return settings(
        max_examples=examples * FACTOR,
        derandomize=FACTOR == 1,
        deadline=None,
        print_blob=True,
        phases=[Phase.explicit, Phase.generate] if FACTOR == 1 else list(Phase),
        suppress_health_check=list(HealthCheck),
        **more,
    )


def marks_in(text: str) -> list[str]:
    """The marks in `text`: each piece of a provider's answer has its own, and each that a policy makes."""
    return MARK.findall(text)


# The loop


class StandingClock(asyncio.SelectorEventLoop):
    """A loop that is run by hand, in which no time passes but what `pass_time` says."""

    MOST_ROUNDS = 100_000

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._scheduled_soon = 0
        self._quiet = 0
        self._seen = 0
        self._rounds = 0
        self.faults: list[dict[str, Any]] = []
        """What nobody has caught."""
        self.set_exception_handler(lambda _, fault: self.faults.append(fault))

    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        self._scheduled_soon += 1
        return super().call_soon(callback, *args, context=context)

    def settle(self) -> None:
        """Runs until all wait for something."""
        self._quiet = self._rounds = 0
        self._seen = self._scheduled_soon
        super().call_soon(self._look)
        self.run_forever()
        assert self._rounds < self.MOST_ROUNDS, "the loop never comes to rest"

    def pass_time(self, seconds: float) -> None:
        """Moves the clock, second by second, and runs what then is due."""
        for _ in range(math.ceil(seconds)):
            self._now += 1
            self.settle()

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Starts a task, and runs until it waits."""
        task = self.create_task(work)
        self.settle()
        return task

    def _look(self) -> None:
        self._rounds += 1
        self._quiet = self._quiet + 1 if self._scheduled_soon == self._seen else 0
        self._seen = self._scheduled_soon
        if self._quiet > 1 or self._rounds >= self.MOST_ROUNDS:  # timers that are due run after the first look
            self.stop()
        else:
            super().call_soon(self._look)


class Provider:
    """A provider's stream that brings what it is told to, when it is told to."""

    def __init__(self, items: list[object]) -> None:
        self.coming = items
        self.came: list[object] = []
        self.is_closed = False
        self._allowed = 0
        self._error: BaseException | None = None
        self._is_over = False
        self._may_go_on = asyncio.Event()

    def give(self, count: int) -> None:
        """Lets `count` more items come."""
        self._allowed += count
        self._may_go_on.set()

    def end(self, error: BaseException | None = None) -> None:
        """Ends the stream after what was let come; with `error`, if there is one."""
        self._is_over, self._error = True, error
        self._may_go_on.set()

    def insert(self, item: object) -> None:
        """Lets `item` come next."""
        self.coming.insert(self._allowed - len(self.came) if self._allowed > len(self.came) else 0, item)
        self.give(1)

    def __aiter__(self) -> "Provider":
        return self

    async def __anext__(self) -> object:
        while True:
            if len(self.came) < self._allowed and self.coming:
                item = self.coming.pop(0)
                self.came.append(item)
                return item
            if self._is_over or not self.coming:
                if self._error is not None:
                    raise self._error
                if self._is_over:
                    raise StopAsyncIteration
            self._may_go_on.clear()
            await self._may_go_on.wait()

    async def aclose(self) -> None:
        self.is_closed = True


# Answers in which each piece has a mark


@st.composite
def answers(draw: st.DrawFn, route: RouteName) -> Answer:
    """A provider's answer in pieces of the length of a mark."""
    kinds = draw(st.lists(st.sampled_from([_say, _think, _call]), max_size=4))
    if route == "messages":  # where nothing follows calls
        kinds.sort(key=lambda kind: kind is _call)
    steps = [kind(block, draw(st.integers(1, 3))) for block, kind in enumerate(kinds)]
    return Answer(steps, piece=MARK_LENGTH, interleave=draw(st.booleans()))


def _marks(kind: str, block: int, count: int) -> str:
    return "".join(f"Z{kind}{block:02}{piece:02}z" for piece in range(count))


def _say(block: int, pieces: int) -> Say:
    return Say(_marks("t", block, pieces))


def _think(block: int, pieces: int) -> Think:
    return Think(_marks("r", block, pieces), "signature")


def _call(block: int, pieces: int) -> Call:
    arguments = f'{{"a": "{_marks("c", block, pieces)}"}}'
    return Call(_marks("n", block, 1), arguments, id=_marks("i", block, 1))


Kind = Callable[[int, int], Say | Think | Call]
