"""The task that works on an answer: how it begins, what it reads, and who cancelled it."""

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine

from luthien_litellm_hooks.log_lines import logger

CLOSE_GRACE_S = 5.0
"""How long a worker that is cancelled may take to clean up."""
_workers: set[asyncio.Task[None]] = set()  # the event loop itself keeps only weak references


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
    items = aiter(stream)
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


async def close_stream(stream: AsyncIterable[object]) -> None:
    """Closes a provider's stream, if it can be closed."""
    close = getattr(stream, "aclose", None)
    if close is None:
        return
    try:
        await close()
    except Exception as error:
        logger.warning("closing the provider's stream failed", exc_info=error)
