"""What is read of a proxy's process while the traffic runs, and when it is over."""

import asyncio
import time
from dataclasses import dataclass, field
from statistics import median

import httpx

from soak.gauges import PATH, Gauges

EVERY_S = 5.0
SETTLING_S = 60.0
_WINDOW = 6
"""How many samples make up one figure of memory: those of half a minute."""


@dataclass(slots=True)
class Samples:
    """Gauges of one proxy, at `EVERY_S` from the start of the traffic on."""

    proxy_port: int
    provider_port: int
    taken: list[Gauges] = field(default_factory=list[Gauges])
    first: Gauges | None = None
    """Before the traffic, when all has been collected that can be."""
    last: Gauges | None = None
    """When all traffic was over, and collected likewise."""

    def resident(self, start: int) -> float:
        """The median of a window of samples, in MB."""
        return median(one.resident for one in self.taken[start:][:_WINDOW]) / 1e6

    @property
    def growth(self) -> tuple[float, float]:
        """Memory after the first minute, or third of a shorter run, and at the end, in MB."""
        first = min(int(60 / EVERY_S), len(self.taken) // 3)
        return self.resident(first), self.resident(-_WINDOW)

    def sockets(self, gauges: Gauges) -> tuple[int, int]:
        """Connections from clients, save the one that asks for gauges, and to the provider."""
        clients = sum(own == self.proxy_port for own, _ in gauges.connections)
        provider = sum(other == self.provider_port for _, other in gauges.connections)
        return clients - 1, provider

    def is_quiet(self, gauges: Gauges) -> bool:
        """Whether nothing is left of any request."""
        return not gauges.tasks and self.sockets(gauges) == (0, 0)


async def sample(url: str, samples: Samples) -> None:
    """Reads until it is cancelled."""
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        began = time.monotonic()
        while True:
            await asyncio.sleep(max(began + EVERY_S * (len(samples.taken) + 1) - time.monotonic(), 0))
            samples.taken.append(await _read(client))


async def settle(url: str, samples: Samples) -> None:
    """Waits until nothing is left of any request, or the time is up; and reads once more."""
    deadline = time.monotonic() + SETTLING_S
    async with httpx.AsyncClient(base_url=url, timeout=30, params={"is_collected": True}) as client:
        while True:
            samples.last = await _read(client)
            if samples.is_quiet(samples.last) or time.monotonic() > deadline:
                return
            await asyncio.sleep(0.5)


async def gauges(url: str, *, is_collected: bool = False) -> Gauges:
    """What a process holds now; if `is_collected`, what only the garbage collector could free is freed first."""
    params = {"is_collected": is_collected}
    async with httpx.AsyncClient(base_url=url, timeout=30, params=params) as client:
        return await _read(client)


async def _read(client: httpx.AsyncClient) -> Gauges:
    return Gauges(**(await client.get(PATH)).json())
