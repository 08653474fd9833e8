"""Real proxies for tests: a stock LiteLLM with a config of the test's, in front of the scripted provider."""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import yaml

from luthien_litellm_hooks.testing.proxy import HOST, answers, proxy_process
from tests.support.prisma_client import prisma_environment

KEY = "sk-0123456789abcdef"
START_SECONDS = 90
SPEND_LOG_SECONDS = 1
"""How often a proxy writes spend logs. LiteLLM adds up to 5 seconds of its own choice."""
STARTUP_HOOKS = "LITELLM_WORKER_STARTUP_HOOKS"
"""Functions that LiteLLM calls when it starts: `module:name`, with commas between them."""
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Proxy:
    """A running proxy. `output` is what it has written."""

    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @cached_property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)

    @cached_property
    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0, timeout=60)

    @cached_property
    def anthropic(self) -> anthropic.Anthropic:
        return anthropic.Anthropic(base_url=self.url, api_key=KEY, max_retries=0, timeout=60)

    def close_clients(self) -> None:
        """Closes the connections of those clients that were used."""
        for used in ("http", "openai", "anthropic"):
            if used in vars(self):
                getattr(self, used).close()

    def virtual_key(self, **settings: Any) -> str:
        """A new key of LiteLLM's, with these settings. The proxy needs a database."""
        response = self.http.post("/key/generate", json=settings)
        assert response.is_success, response.text
        return response.json()["key"]


def proxy_config(provider_url: str, luthien: Mapping[str, Any] | None) -> dict[str, Any]:
    """A LiteLLM config whose models `openai/NAME`, `anthropic/NAME` and `gemini/NAME` are the
    provider's NAME, with the plugin's settings, or without the plugin."""
    bases = {"openai": f"{provider_url}/v1", "anthropic": provider_url, "gemini": f"{provider_url}/v1beta"}
    config: dict[str, Any] = {
        "model_list": [
            {"model_name": f"{wire}/*", "litellm_params": {"model": f"{wire}/*", "api_base": base, "api_key": "k"}}
            for wire, base in bases.items()
        ],
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
        "litellm_settings": {"num_retries": 0},
    }
    if luthien is not None:
        config["litellm_settings"]["callbacks"] = ["luthien_litellm_hooks.luthien"]
        config["callback_settings"] = {"luthien": dict(luthien)}
    return config


def free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return listener.getsockname()[1]


MAX_PROXIES = 8
"""Each takes 400 MB."""


@dataclass(frozen=True)
class _Running:
    proxy: Proxy
    process: subprocess.Popen[bytes]
    stack: ExitStack

    def check(self) -> None:
        """Fails if the proxy has ended by itself."""
        code = self.process.poll()
        if code is not None:
            self.stack.close()
            how = signal.Signals(-code).name if code < 0 else code
            raise AssertionError(f"the proxy ended by itself ({how}) since it was last asked for:\n{self.proxy.output}")


class Proxies:
    """Starts each proxy at its first use, and ends those that were not used for the longest time."""

    def __init__(self, provider_url: str, folder: Path) -> None:
        self._provider_url = provider_url
        self._folder = folder
        self.flag = folder / "flag"
        """A file whose presence the lab policy looks for."""
        self._started = 0
        self._running: dict[str, _Running] = {}  # the latest used last
        self._lock = threading.Lock()  # tests ask in several threads at once

    def get(
        self,
        luthien: Mapping[str, Any] | None,
        *,
        database_url: str | None = None,
        general_settings: Mapping[str, Any] | None = None,
        **litellm_settings: Any,
    ) -> Proxy:
        """The proxy with these settings of the plugin (None for the stock proxy without it), and
        these `litellm_settings` and `general_settings`. With a database it has virtual keys, and writes spend logs."""
        name = yaml.safe_dump([luthien, litellm_settings, database_url, general_settings])
        with self._lock:
            running = self._running.pop(name, None)
            if running is None:
                self._end_oldest()
                config = proxy_config(self._provider_url, luthien)
                config["litellm_settings"].update(litellm_settings)
                config["general_settings"] = dict(general_settings or {})
                running = self._start(config, database_url)
            else:
                running.check()  # one that has ended fails one test: the next one starts it anew
            self._running[name] = running
        return running.proxy

    def _start(self, config: Mapping[str, Any], database_url: str | None) -> _Running:
        self._started += 1
        environment = {"GATE_URL": self._provider_url, "FLAG": str(self.flag), **self._pass_through()}
        if database_url is not None:
            environment |= prisma_environment(database_url) | {"PROXY_BATCH_WRITE_AT": str(SPEND_LOG_SECONDS)}
        with ExitStack() as stack:
            starting = starting_proxy(config, self._folder / f"proxy-{self._started}", environment)
            process, proxy = stack.enter_context(starting)
            _wait_for_start(process, proxy)
            return _Running(proxy, process, stack.pop_all())

    def _end_oldest(self) -> None:
        while len(self._running) >= MAX_PROXIES:
            self._running.pop(next(iter(self._running))).stack.close()

    def _pass_through(self) -> dict[str, str]:
        """What LiteLLM's pass-through routes need, so that a request of theirs gets as far as it can."""
        return {
            "ANTHROPIC_API_KEY": "k",
            "ANTHROPIC_API_BASE": self._provider_url,
            "OPENAI_API_KEY": "k",
            "OPENAI_API_BASE": f"{self._provider_url}/v1",
        }

    def close(self) -> None:
        while self._running:
            self._running.popitem()[1].stack.close()


@contextmanager
def running_proxy(config: Mapping[str, Any], folder: Path, environment: Mapping[str, str]) -> Generator[Proxy]:
    """A proxy that serves `config`, as soon as it answers."""
    with starting_proxy(config, folder, environment) as (process, proxy):
        _wait_for_start(process, proxy)
        yield proxy


def _wait_for_start(process: subprocess.Popen[bytes], proxy: Proxy) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not answers(proxy.port):
        assert process.poll() is None, f"the proxy ended by itself:\n{proxy.output}"
        assert time.monotonic() < deadline, f"the proxy did not start:\n{proxy.output}"
        time.sleep(0.05)


@contextmanager
def starting_proxy(
    config: Mapping[str, Any], folder: Path, environment: Mapping[str, str]
) -> Generator[tuple[subprocess.Popen[bytes], Proxy]]:
    """A proxy process that has just been started."""
    folder.mkdir(parents=True)
    path, log = folder / "config.yaml", folder / "output.txt"
    path.write_text(yaml.safe_dump(dict(config)))
    proxy = Proxy(free_port(), log)
    base = {"LITELLM_MASTER_KEY": KEY, "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"}
    environment = {**base, **environment, STARTUP_HOOKS: _startup_hooks(environment)}
    with log.open("wb") as output, proxy_process(path, proxy.port, environment, output) as process:
        try:
            yield process, proxy
        finally:
            proxy.close_clients()


def _startup_hooks(environment: Mapping[str, str]) -> str:
    """Those of the test's, and what spares Python 3.11 a crash."""
    own = [environment[STARTUP_HOOKS]] if STARTUP_HOOKS in environment else []
    return ",".join([*own, *(["tests.support.finalizers:remove"] if sys.version_info < (3, 12) else [])])
