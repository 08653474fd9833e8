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
    delay_s: float = 0.0
    is_down: bool = False
    uses: int = 0
    _entries: dict[str, tuple[Entry, float]] = field(default_factory=dict[str, tuple[Entry, float]])

    async def get(self, *keys: str) -> dict[str, Entry]:
        return {entry.key: entry for entry in await self.scan("") if entry.key in keys}

    async def put(self, key: str, value: str, valid_s: float, *, replacing: str | None) -> bool:
        await self._work()
        before = {entry.key: entry.version for entry in self._present()}
        if before.get(key) != replacing:
            return False
        self._entries[key] = Entry(key, value, uuid.uuid4().hex), asyncio.get_running_loop().time() + valid_s
        return True

    async def scan(self, prefix: str) -> list[Entry]:
        found = [entry for entry in self._present() if entry.key.startswith(prefix)]
        await self._work()
        return found

    def _present(self) -> list[Entry]:
        now = asyncio.get_running_loop().time()
        return [entry for entry, end in self._entries.values() if end > now]

    async def _work(self) -> None:
        self.uses += 1
        if self.is_down:
            raise StateError("it is down")
        await asyncio.sleep(self.delay_s)
