"""A store in memory for tests, with a clock of its own, and a switch that cuts it off."""

import asyncio
import uuid
from dataclasses import dataclass, field

from luthien_litellm_hooks.errors import StateError
from luthien_litellm_hooks.recording.state import Entry


@dataclass(slots=True)
class MemoryStore:
    """Entries with their ends, by the event loop's time."""

    poll_s: float = 0.5
    is_down: bool = False
    reads: int = 0
    _entries: dict[str, tuple[Entry, float]] = field(default_factory=dict[str, tuple[Entry, float]])

    async def get(self, *keys: str) -> dict[str, Entry]:
        return {entry.key: entry for entry in await self.scan("") if entry.key in keys}

    async def put(self, key: str, value: str, valid_s: float, *, replacing: str | None) -> bool:
        before = (await self.get(key)).get(key)
        if (before.version if before else None) != replacing:
            return False
        self._entries[key] = Entry(key, value, uuid.uuid4().hex), asyncio.get_running_loop().time() + valid_s
        return True

    async def scan(self, prefix: str) -> list[Entry]:
        self.reads += 1
        if self.is_down:
            raise StateError("it is down")
        now = asyncio.get_running_loop().time()
        return [entry for entry, end in self._entries.values() if entry.key.startswith(prefix) and end > now]
