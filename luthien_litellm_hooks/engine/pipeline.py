"""The stages of one response, one after the other: their input, their tasks, and the relay between two of them."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import anyio

from luthien_litellm_hooks.engine.egress_queue import EgressItem, EgressQueue, MemoryBudget
from luthien_litellm_hooks.engine.hook_call import is_cancelled
from luthien_litellm_hooks.engine.sequencer import Sequencer, is_unchanged
from luthien_litellm_hooks.policy.limits import Limits
from luthien_litellm_hooks.telemetry.log_lines import logger
from luthien_litellm_hooks.wire.events import Chunk, Finish, StreamEnd, Usage
from luthien_litellm_hooks.wire.format import Adapter, ResponseRules

Decode = Callable[[object], Awaitable[Sequence[Chunk]]]
ResultT = TypeVar("ResultT")
Flush = Callable[[], Awaitable[Sequence[Chunk]]]

ENDING = (Finish, Usage, StreamEnd)
"""Events allowed after the notice at the end of a response."""
CLOSE_GRACE_S = 5.0
"""Seconds for a cancelled worker to clean up."""
TURN_S = 0.01
"""Seconds of work before other tasks get a turn."""
STEPS = 32
"""Steps between two looks at the time, because a look costs more than some steps do."""
_workers: set[asyncio.Task[Any]] = set()  # the event loop itself keeps only weak references


async def no_chunks(_: object = None) -> Sequence[Chunk]:
    """Decodes any item to no chunks."""
    return ()


@dataclass(frozen=True, slots=True)
class StageInput:
    """Input of a stage: a stream, how to decode it, the rules of its wire, the limits, and the memory that held events
    count in."""

    stream: AsyncIterable[object]
    decode: Decode
    flush: Flush
    rules: ResponseRules
    passes_unknown: bool
    max_items: int
    put_timeout_s: float | None
    limits: Limits
    is_streamed: bool
    memory: MemoryBudget
    takes_flags: bool = False


class Stage(Protocol):
    """One policy, or several by vote, over one response. Its output goes into a queue."""

    notice: str | None
    """Text at the end of a response that the stage ended; only `ENDING` events may follow it."""

    @property
    def is_modified(self) -> bool:
        """The output differs from the input."""
        ...

    @property
    def judges(self) -> bool:
        """The stage may change or delay the blocks of a response."""
        ...

    def keeps_reader_waiting(self, *, has_input: bool) -> bool:
        """Holds if a hook is running, or if the stage `has_input` that it does not let leave as it came."""
        ...

    def start(self) -> asyncio.Task[None]:
        """Starts the worker: it reads the input and closes the queue at the end."""
        ...


@dataclass(frozen=True, slots=True)
class RunningStage:
    """A started stage, and the queue with its output."""

    queue: EgressQueue
    stage: Stage
    worker: asyncio.Task[None]

    async def stop(self) -> None:
        """Cancels the worker and gives it time to clean up, even if the caller itself is cancelled."""
        self.worker.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([self.worker], timeout=CLOSE_GRACE_S)
        self.queue.discard()


async def relay(running: RunningStage, adapter: Adapter) -> AsyncGenerator[Sequence[Chunk]]:
    """Yields the output of a stage for the next one, in a legal order: each time all that is ready."""
    sequencer, pace = Sequencer(adapter, is_untouched=lambda: not running.stage.is_modified), Pace()
    is_over = False
    try:
        while (item := await running.queue.get()) is not None:
            chunks: list[Chunk] = []
            following: EgressItem | None = item
            while following is not None:
                if following.run and sequencer.continues(following):
                    chunks += following.run
                elif not following.run and following.chunk is not None and sequencer.passes(following):
                    chunks.append(following.chunk)
                else:
                    for each in following.apart() if following.run else (following,):
                        chunks += _sequenced(sequencer, each)
                following = None if pace.step() else running.queue.get_now()
            yield chunks
            if pace.is_due:
                await pace.give_turn()
        is_over = True
        if sequencer.is_cut and (owed := sequencer.finish()):
            yield [Chunk(tuple(owed))]
    finally:
        if not is_over:
            await running.stop()


def _sequenced(sequencer: Sequencer, item: EgressItem) -> Sequence[Chunk]:
    chunk, events = item.chunk, sequencer.sequence(item)
    if chunk is None:
        return (Chunk(tuple(events)),)
    if not events:
        return ()
    return (chunk if is_unchanged(chunk, events) else chunk.subset(tuple(events)),)


# A stage's worker


class Pace:
    """Gives the event loop a turn now and then during work without waits."""

    def __init__(self) -> None:
        self.is_due = False
        """The loop has waited long enough for a turn."""
        self._steps_left = STEPS
        self._since = time.monotonic()

    def step(self) -> bool:
        """Counts a step of the work, and returns `is_due`."""
        self._steps_left -= 1
        if not self._steps_left:
            self._steps_left = STEPS
            self.is_due = self.is_due or time.monotonic() - self._since > TURN_S
        return self.is_due

    async def give_turn(self) -> None:
        """Runs every other ready task once."""
        await asyncio.sleep(0)
        self.is_due, self._since = False, time.monotonic()


def start_worker(work: Coroutine[None, None, ResultT], transaction_id: str) -> asyncio.Task[ResultT]:
    """Runs `work` in a task, and refers to the task until it is done."""
    task = asyncio.create_task(work, name=f"luthien-{transaction_id}")
    _workers.add(task)
    task.add_done_callback(_workers.discard)
    return task


async def read_items(stream: AsyncIterable[object], take: Callable[[object], Awaitable[bool]]) -> BaseException | None:
    """Reads a stream until it ends or `take` returns False. Returns the stream's error, if it ended with one."""
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
