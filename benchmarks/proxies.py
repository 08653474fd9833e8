"""The proxies of one run, all up at the same time, and what they take of the machine."""

import os
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.collector import FILE, HOOK, Collections
from benchmarks.variants import Config
from luthien_litellm_hooks.cli.demo.proxy import is_serving
from tests.support.proxy import START_SECONDS, STARTUP_HOOKS, starting_proxy

_QUIET_S = 0.04
_QUIET_CPU_S = 0.0005
_MOST_S = 20.0


@dataclass(frozen=True, slots=True)
class MeasuredProxy:
    """A running proxy, of one process."""

    port: int
    process: psutil.Process
    collections: Collections

    @property
    def cpu_s(self) -> float:
        return cpu_seconds(self.process.pid)

    @property
    def collected_s(self) -> float:
        """The part of it that full collections of the garbage collector took."""
        return self.collections.seconds

    @property
    def resident_bytes(self) -> int:
        return self.process.memory_info().rss

    def settle(self) -> None:
        """Waits until the process does nothing more: LiteLLM logs an answer after the client has it."""
        deadline, before = time.monotonic() + _MOST_S, self.cpu_s
        while True:
            time.sleep(_QUIET_S)
            now = self.cpu_s
            if now - before < _QUIET_CPU_S and self.process.status() == psutil.STATUS_SLEEPING:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"process {self.process.pid} does not come to rest")
            before = now


def cpu_seconds(pid: int) -> float:
    """The CPU time that a process has taken, to the nanosecond; psutil has it in hundredths."""
    return time.clock_gettime(~pid << 3 | 2)  # Linux's clock of it, as clock_getcpuclockid(3) makes it


@contextmanager
def running_proxies(configs: Mapping[str, Config], folder: Path) -> Generator[dict[str, MeasuredProxy]]:
    """A proxy of each config, as soon as all answer."""
    with ExitStack() as stack:
        collections = {name: Collections.create(folder / f"{name}.collections") for name in configs}
        started = {
            name: stack.enter_context(starting_proxy(config, folder / name, _environment(folder, name)))
            for name, config in configs.items()
        }
        deadline = time.monotonic() + START_SECONDS * len(configs)
        for name, (process, proxy) in started.items():
            while not is_serving(proxy.port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the proxy {name} did not start:\n{proxy.output[-2000:]}")
                time.sleep(0.1)
        yield {
            name: MeasuredProxy(proxy.port, psutil.Process(process.pid), collections[name])
            for name, (process, proxy) in started.items()
        }


def _environment(folder: Path, name: str) -> dict[str, str]:
    return {STARTUP_HOOKS: HOOK, FILE: str(folder / f"{name}.collections")}


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))
