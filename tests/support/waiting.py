"""Waiting for what another process does in its own time."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

LIMIT_S = 120.0


def wait_until(is_so: Callable[[], bool], limit_s: float = LIMIT_S, every_s: float = 0.05) -> None:
    """Looks every so often until it is so. Fails after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline, f"it was not so within {limit_s:g} s"
        time.sleep(every_s)


def seconds_without_a_core(*processes: int) -> float:
    """How long the threads of these processes were ready to run, and had no core. 0 where the system does not say."""
    waited = 0
    for process in processes:
        for schedule in Path(f"/proc/{process}/task").glob("*/schedstat"):
            with suppress(OSError, IndexError):
                waited += int(schedule.read_text().split()[1])
    return waited / 1e9
