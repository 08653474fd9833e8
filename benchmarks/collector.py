"""How long Python's garbage collector took to go through all that a measured proxy holds.

LiteLLM has a million objects, so that takes half a second of CPU time, and falls on whichever answer runs just then.
"""

import gc
import mmap
import os
import struct
import time
from pathlib import Path

FILE = "LUTHIEN_BENCHMARK_COLLECTIONS"
"""The environment variable that names the file to which a proxy writes."""
HOOK = "benchmarks.collector:note"
"""What LiteLLM is to call when it starts."""
_SECONDS = struct.Struct("d")
_OLDEST = 2


class Collections:
    """The file of one proxy."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _SECONDS.size)

    @classmethod
    def create(cls, path: Path) -> "Collections":
        """Of a proxy that is to be started."""
        path.write_bytes(bytes(_SECONDS.size))
        return cls(path)

    @property
    def seconds(self) -> float:
        """What full collections have taken until now."""
        (seconds,) = _SECONDS.unpack_from(self._map)
        return seconds

    def add(self, seconds: float) -> None:
        _SECONDS.pack_into(self._map, 0, self.seconds + seconds)


def note() -> None:
    """Notes each full collection of this process from now on."""
    collections = Collections(Path(os.environ[FILE]))
    began = 0.0

    def collecting(phase: str, said: dict[str, int]) -> None:
        nonlocal began
        if said["generation"] != _OLDEST:
            return
        if phase == "start":
            began = time.thread_time()
        else:
            collections.add(time.thread_time() - began)

    gc.callbacks.append(collecting)
