"""Waiting for what another process does in its own time."""

import time
from collections.abc import Callable

LIMIT_S = 30.0


def wait_until(is_so: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    """Looks again and again until it is so. Fails after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline, f"it was not so within {limit_s:g} s"
        time.sleep(0.05)
