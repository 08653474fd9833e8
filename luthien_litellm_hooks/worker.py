"""The task that works on an answer: how it begins, what it reads, and who cancelled it."""

import asyncio
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine

from luthien_litellm_hooks.log_lines import logger

CLOSE_GRACE_S = 5.0
"""How long a worker that is cancelled may take to clean up."""
TURN_S = 0.01
"""How long a worker goes on before other tasks get a turn."""
STEPS = 32
"""After how many steps it looks at the time, which costs more than some steps do."""
_workers: set[asyncio.Task[None]] = set()  # the event loop itself keeps only weak references


class Pace:
    """Gives the event loop a turn now and then while work goes on that waits for nothing."""

    def __init__(self) -> None:
        self.is_due = False
        """The loop has waited long enough for a turn."""
        self._steps = 0
        self._since = time.monotonic()

    def step(self) -> bool:
        """Counts a step of the work, and tells `is_due`."""
        self._steps += 1
        if self._steps % STEPS == 0:
            self.is_due = self.is_due or time.monotonic() - self._since > TURN_S
        return self.is_due

    async def give_turn(self) -> None:
        """Lets whatever else is ready run once."""
        await asyncio.sleep(0)
        self.is_due, self._since = False, time.monotonic()


def is_cancelled() -> bool:
    """Whether it is this task that is cancelled, not something that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def start_worker(work: Coroutine[None, None, None], transaction_id: str) -> asyncio.Task[None]:
    """Runs `work` in a task that lives until it is done."""
    task = asyncio.create_task(work, name=f"luthien-{transaction_id}")
    _workers.add(task)
    task.add_done_callback(_workers.discard)
    return task


async def read_items(stream: AsyncIterable[object], take: Callable[[object], Awaitable[bool]]) -> BaseException | None:
    """Reads a provider's stream to its end, or until `take` wants no more, and returns the error that
    it ended with."""
    items, pace = aiter(stream), Pace()
    while True:
        try:
            raw = await anext(items)
        except StopAsyncIteration:
            return None
        except asyncio.CancelledError as error:
            if is_cancelled():
                raise
            return error
        except Exception as error:
            return error
        if not await take(raw):
            return None
        if pace.step():
            await pace.give_turn()


async def close_stream(stream: AsyncIterable[object]) -> None:
    """Closes a provider's stream, if it can be closed."""
    close = getattr(stream, "aclose", None)
    if close is None:
        return
    try:
        await close()
    except Exception as error:
        logger.warning("closing the provider's stream failed", exc_info=error)
