"""How much of requests and answers may come, may be judged, may wait in memory, and how long."""

import sys
import time
from dataclasses import dataclass

from luthien_litellm_hooks.errors import LimitExceededError
from luthien_litellm_hooks.events import StreamEvent, text_of

EVENT_BYTES = 4096
"""What an event that waits takes beside its text, at most: the largest unit is the chunk of chat completions, for
which tracemalloc shows 3.7 KB with its event."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one answer, of one process, and of one transaction."""

    max_stream_bytes: int = 256 * 2**20
    max_held_bytes: int = 2**30
    max_hold_s: float = 600.0
    max_request_values: int = 50_000
    max_judged_characters: int = 20_000_000
    max_judged_blocks: int = 10_000


DEFAULT_LIMITS = Limits()


class Budget:
    """How much the policies of one transaction have judged, all of them together."""

    def __init__(self) -> None:
        self.limits = DEFAULT_LIMITS
        self._characters = 0
        self._blocks = 0

    def spend(self, characters: int, blocks: int) -> None:
        """Counts what a policy is about to judge. Raises `LimitExceededError` where that is too much."""
        self._characters += characters
        self._blocks += blocks
        if self._characters > self.limits.max_judged_characters:
            raise LimitExceededError(f"limits.max_judged_characters: {self.limits.max_judged_characters}")
        if self._blocks > self.limits.max_judged_blocks:
            raise LimitExceededError(f"limits.max_judged_blocks: {self.limits.max_judged_blocks}")


class Memory:
    """How many bytes are taken of what answers may hold."""

    def __init__(self) -> None:
        self.taken = 0

    def take(self, size: int, limit: int) -> None:
        """Takes `size` bytes. Raises `LimitExceededError` where these would be more than `limit` in all."""
        if self.taken + size > limit:
            raise LimitExceededError(f"answers hold {self.taken + size} bytes (limits.max_held_bytes: {limit})")
        self.taken += size


MEMORY = Memory()
"""What all answers of this process hold: a process has one memory, however many executors it has."""


class HoldClock:
    """How long policies have kept one transaction waiting: the time in which a hook of any of them ran."""

    def __init__(self) -> None:
        self._running = 0
        self._began = 0.0
        self._spent = 0.0

    def start(self) -> None:
        """A hook begins, or goes on."""
        if self._running == 0:
            self._began = time.monotonic()
        self._running += 1

    def stop(self) -> None:
        """It ends, or waits for something that is not the policy's."""
        self._running -= 1
        if self._running == 0:
            self._spent += time.monotonic() - self._began

    @property
    def seconds(self) -> float:
        """Until now."""
        return self._spent + (time.monotonic() - self._began if self._running else 0.0)


def size_of(event: StreamEvent) -> int:
    """How many bytes of memory an event takes that waits, rather too many than too few."""
    return EVENT_BYTES + sys.getsizeof(text_of(event))
