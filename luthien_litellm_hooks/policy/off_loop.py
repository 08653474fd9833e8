"""Runs long work that waits for nothing in a thread, so that other requests and answers go on meanwhile."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

LONG = 2_048
"""Characters of a text that is worth a thread: judging a shorter one takes a few milliseconds at most."""

P = ParamSpec("P")
T = TypeVar("T")

# Threads of Python share one interpreter: with many at work the event loop would wait for its turn.
_THREADS = ThreadPoolExecutor(2, thread_name_prefix="luthien-judging")


async def off_loop(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Returns what `work` does, which runs in a thread. No thread can be stopped: if the caller is cancelled, the
    work goes on to its end, and its result is dropped."""
    return await asyncio.get_running_loop().run_in_executor(_THREADS, partial(work, *args, **kwargs))
