"""Waiting for what another process does in its own time."""

import time
from collections.abc import Callable

LIMIT_S = 30.0


def wait_until(is_so: Callable[[], bool]) -> None:
    """Looks again and again until it is so. Fails after `LIMIT_S`."""
    deadline = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < deadline, f"it was not so within {LIMIT_S:g} s"
        time.sleep(0.05)
