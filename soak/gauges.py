"""What a proxy process holds at a moment, told by itself: LiteLLM loads `serve` into each worker.

LITELLM_WORKER_STARTUP_HOOKS=soak.gauges:serve
"""

import asyncio
import gc
from dataclasses import asdict, dataclass

import psutil
from litellm.proxy import proxy_server

PATH = "/soak/gauges"
_PACKAGE = "luthien_litellm_hooks"


@dataclass(frozen=True, slots=True)
class Gauges:
    """`process` is its id. `resident` is in bytes. `tasks` are those of the plugin's that live, `other_tasks` how
    many others do. `connections` are pairs of ports: the process's own, and that at the other end. `objects` are
    those that Python's garbage collector knows, `full_collections` how often it has looked through all of them."""

    process: int
    resident: int
    tasks: list[str]
    other_tasks: int
    connections: list[tuple[int, int]]
    objects: int
    full_collections: int


def serve() -> None:
    """Adds a route to LiteLLM's app, for whoever asks."""
    proxy_server.app.add_api_route(PATH, _read)


async def _read(is_collected: bool = False) -> dict[str, object]:
    """`is_collected`: what only the garbage collector could free is freed first, which takes it half a second."""
    if is_collected:
        gc.collect()
    tasks = asyncio.all_tasks()
    own = [task.get_name() for task in tasks if _is_own(task)]
    process = psutil.Process()
    open_ones = [one for one in process.net_connections("tcp") if one.raddr]
    connections = [(one.laddr.port, one.raddr.port) for one in open_ones]
    gauges = Gauges(
        process.pid,
        process.memory_info().rss,
        own,
        len(tasks) - len(own),
        connections,
        len(gc.get_objects()),
        gc.get_stats()[-1]["collections"],
    )
    return asdict(gauges)


def _is_own(task: asyncio.Task[object]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return task.get_name().startswith("luthien-") or (code is not None and _PACKAGE in code.co_filename)
