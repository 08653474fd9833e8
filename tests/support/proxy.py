"""Real proxies for tests: a stock LiteLLM with a config of the test's, in front of the scripted provider."""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import yaml
from google import genai
from google.genai.types import HttpOptions

from luthien_litellm_hooks.cli.demo.proxy import HOST, end, is_serving, proxy_process, quiet_start
from tests.support import selected
from tests.support.preloaded import Forked, parent_for
from tests.support.prisma_client import prisma_environment

KEY = "sk-0123456789abcdef"
START_SECONDS = 600
"""Patience with a start; one that fails ends by itself."""
KEEPS_PROMPTS: Mapping[str, Any] = {"store_prompts_in_spend_logs": True}
"""General settings of LiteLLM's with which its spend logs hold texts."""
CANCELS: Mapping[str, Any] = {"cancel_on_disconnect": True}
"""General settings with which LiteLLM does not wait for what no client does."""
STARTUP_HOOKS = "LITELLM_WORKER_STARTUP_HOOKS"
"""Functions that LiteLLM calls when it starts: `module:name`, with commas between them."""
ROOT = Path(__file__).parents[2]
CONFIG = "config.yaml"
PYTHON: Mapping[str, str] = {"PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"}
"""Variables that each proxy's interpreter has."""


@dataclass(frozen=True)
class Proxy:
    """A running proxy.

    `output` is what it has written; `headers` are sent with each request; without a database, `records` is its file
    of records.
    """

    port: int
    log: Path
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    process: int = 0
    """The id of its process."""

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def records(self) -> Path:
        return self.log.with_name("records.sqlite")

    @cached_property
    def http(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {KEY}", **self.headers}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60)

    @cached_property
    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=KEY, max_retries=0, timeout=60, default_headers=self.headers
        )

    @cached_property
    def anthropic(self) -> anthropic.Anthropic:
        return anthropic.Anthropic(
            base_url=self.url, api_key=KEY, max_retries=0, timeout=60, default_headers=self.headers
        )

    @cached_property
    def genai(self) -> genai.Client:
        """The client of the version whose routes LiteLLM serves: the client's own default is `/v1`."""
        options = HttpOptions(base_url=self.url, api_version="v1beta", timeout=60_000, headers=dict(self.headers))
        return genai.Client(api_key=KEY, http_options=options)

    def close_clients(self) -> None:
        """Closes the connections of those clients that were used."""
        for used in ("http", "openai", "anthropic", "genai"):
            if used in vars(self):
                getattr(self, used).close()

    def virtual_key(self, **settings: Any) -> str:
        """A new key of LiteLLM's, with these settings. The proxy needs a database."""
        response = self.http.post("/key/generate", json=settings)
        assert response.is_success, response.text
        return response.json()["key"]


PATHS: Mapping[str, str] = {"openai": "/v1", "anthropic": "", "gemini": "/v1beta"}
"""Where the provider speaks each wire."""


def deployment(provider_url: str, name: str, model: str, **parameters: Any) -> dict[str, Any]:
    """An entry of `model_list`: the group `name` has the provider's `model`, WIRE/MODEL."""
    base = provider_url + PATHS[model.partition("/")[0]]
    given = {"model": model, "api_base": base, "api_key": "k", **parameters}
    return {"model_name": name, "litellm_params": given, "model_info": {"id": f"{name}-by-id"}}


def proxy_config(provider_url: str, luthien: Mapping[str, Any] | None) -> dict[str, Any]:
    """A LiteLLM config whose models `openai/NAME`, `anthropic/NAME` and `gemini/NAME` are the
    provider's NAME, with the plugin's settings, or without the plugin."""
    wildcards = (f"{wire}/*" for wire in PATHS)
    config: dict[str, Any] = {
        "model_list": [deployment(provider_url, wildcard, wildcard) for wildcard in wildcards],
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
        "litellm_settings": {"num_retries": 0},
    }
    if luthien is not None:
        config["litellm_settings"]["callbacks"] = ["luthien_litellm_hooks.luthien"]
        config["callback_settings"] = {"luthien": dict(luthien)}
    return config


def named_models(provider_url: str) -> list[dict[str, Any]]:
    """The `model_list` of `proxy_config`, and three models by names without a wildcard beside one of embeddings."""
    return [
        *proxy_config(provider_url, None)["model_list"],
        deployment(provider_url, "embedding", "openai/text-embedding-3-small"),
        *(deployment(provider_url, name, "openai/named") for name in ("one", "two", "three")),
    ]


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Writes as editors do: nobody ever sees half a file."""
    new = path.with_suffix(".new")
    new.write_text(yaml.safe_dump(dict(config)))
    new.rename(path)


def free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return listener.getsockname()[1]


MAX_PROXIES = 8
"""Each takes 400 MB."""


@dataclass
class _Running:
    """A proxy, with the settings that it has now. `labs` are the same proxy as clients of its policies see it."""

    proxy: Proxy
    process: "subprocess.Popen[bytes] | Forked"
    stack: ExitStack
    config: dict[str, Any]
    labs: dict[str, Proxy] = field(default_factory=dict[str, Proxy])

    def check(self) -> None:
        """Fails if the proxy has ended by itself."""
        code = self.process.poll()
        if code is not None:
            self.close()
            how = signal.Signals(-code).name if code < 0 else code
            raise AssertionError(f"the proxy ended by itself ({how}) since it was last asked for:\n{self.proxy.output}")

    def change(self, settings: Mapping[str, Any]) -> None:
        """Has these `callback_settings` in force when it returns: as an operator does, with the proxy running."""
        if settings == self.config["callback_settings"]:
            return
        self.config = {**self.config, "callback_settings": settings}
        write_config(self.proxy.log.with_name(CONFIG), self.config)
        told = self.proxy.http.post("/luthien/reload").json()
        assert (told["error"], told["after_restart"]) == (None, []), told

    def close(self) -> None:
        for lab in self.labs.values():
            lab.close_clients()
        self.stack.close()


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

    def get(self, luthien: Mapping[str, Any] | None, **settings: Any) -> Proxy:
        """The proxy with these settings of the plugin (None for the stock proxy without it).

        `settings` are LiteLLM's, as `_config` takes them. Where only those of the plugin differ, it is the same proxy,
        whose settings change: what was returned before for others has these now."""
        return self._with(luthien, "stock" if luthien is None else "own", **settings).proxy

    def lab(self, policy: str | None, sections: Mapping[str, Any] | None = None, **settings: Any) -> Proxy:
        """The proxy that has all policies of `tests.support.selected`, to a client whose requests select this one;
        None for a stock proxy with the same models and router."""
        models = proxy_config(self._provider_url, None)["model_list"]
        models += [deployment(self._provider_url, name, model) for name, model in selected.MODELS.items()]
        sections = {"model_list": models, "router_settings": selected.router_settings(), **(sections or {})}
        if policy is None:
            return self.get(None, sections=sections, **settings)
        running = self._with(selected.settings(), "lab", sections=sections, **settings)
        if policy not in running.labs:
            running.labs[policy] = replace(running.proxy, headers={selected.HEADER: policy})
        return running.labs[policy]

    def _with(self, luthien: Mapping[str, Any] | None, kind: str, **settings: Any) -> _Running:
        name = yaml.safe_dump([kind, settings])
        with self._lock:
            running = self._running.pop(name, None)
            if running is None:
                self._end_oldest()
                running = self._start(self._config(luthien, **settings), settings.get("database_url"))
            else:
                running.check()  # one that has ended fails one test: the next one starts it anew
            self._running[name] = running
            if luthien is not None:
                running.change({"luthien": dict(luthien)})
        return running

    def _config(
        self,
        luthien: Mapping[str, Any] | None,
        *,
        database_url: str | None = None,
        general_settings: Mapping[str, Any] | None = None,
        sections: Mapping[str, Any] | None = None,
        **litellm_settings: Any,
    ) -> dict[str, Any]:
        """LiteLLM's config. With a database the proxy has virtual keys, and writes spend logs. `sections` stand beside
        `litellm_settings` and `general_settings`."""
        config = proxy_config(self._provider_url, luthien)
        config["litellm_settings"].update(litellm_settings)
        return {**config, "general_settings": dict(general_settings or {}), **(sections or {})}

    def _start(self, config: dict[str, Any], database_url: str | None) -> _Running:
        self._started += 1
        environment = {"GATE_URL": self._provider_url, "FLAG": str(self.flag), **self._pass_through()}
        if database_url is not None:
            environment |= prisma_environment(database_url)
        with ExitStack() as stack:
            starting = starting_proxy(config, self._folder / f"proxy-{self._started}", environment)
            process, proxy = stack.enter_context(starting)
            wait_for_start(process, proxy)
            return _Running(proxy, process, stack.pop_all(), config)

    def _end_oldest(self) -> None:
        while len(self._running) >= MAX_PROXIES:
            self._running.pop(next(iter(self._running))).close()

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
            self._running.popitem()[1].close()


@contextmanager
def running_proxy(
    config: Mapping[str, Any], folder: Path, environment: Mapping[str, str], port: int | None = None
) -> Generator[Proxy]:
    """A proxy that serves `config`, as soon as it answers; on a free port where the config names none."""
    with starting_proxy(config, folder, environment, port) as (process, proxy):
        wait_for_start(process, proxy)
        yield proxy


def wait_for_start(process: subprocess.Popen[bytes], proxy: Proxy) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not is_serving(proxy.port):
        assert process.poll() is None, f"the proxy ended by itself:\n{proxy.output}"
        assert time.monotonic() < deadline, f"the proxy did not start:\n{proxy.output}"
        time.sleep(0.05)


@contextmanager
def starting_proxy(
    config: Mapping[str, Any], folder: Path, environment: Mapping[str, str], port: int | None = None
) -> Generator[tuple["subprocess.Popen[bytes] | Forked", Proxy]]:
    """A proxy process that has just been started."""
    folder.mkdir(parents=True)
    path = folder / CONFIG
    write_config(path, config)
    proxy = Proxy(port or free_port(), folder / "output.txt")
    base = {"LITELLM_MASTER_KEY": KEY, **PYTHON, "LUTHIEN_RECORDS": str(folder / "records.sqlite")}
    base["KEEPALIVE_TIMEOUT"] = "60"  # longer than the clients' 5 s: else both may close at once, and a request is lost
    if "SERVER_ROOT_PATH" in environment:
        base["LITELLM_UI_PATH"] = str(folder / "ui")  # LiteLLM writes that path into its installed Admin UI else
    whole = {**base, **environment, STARTUP_HOOKS: _startup_hooks(environment)}
    with litellm_process(path, proxy.port, whole, proxy.log) as process:
        proxy = replace(proxy, process=process.pid)
        try:
            yield process, proxy
        finally:
            proxy.close_clients()


@contextmanager
def litellm_process(
    config: Path, port: int, environment: Mapping[str, str], log: Path
) -> Generator["subprocess.Popen[bytes] | Forked"]:
    """As `proxy_process`, from a process that has imported LiteLLM where `environment` lets it be."""
    whole = {**os.environ, **quiet_start(), **environment}
    if (parent := parent_for(whole, environment)) is None:
        with log.open("wb") as output, proxy_process(config, port, environment, output) as started:
            yield started
        return
    arguments = ["--config", str(config), "--host", HOST, "--port", str(port)]
    process = parent.start("litellm:run_server", arguments, whole, log)
    try:
        yield process
    finally:
        end(process)


def _startup_hooks(environment: Mapping[str, str]) -> str:
    """That of all proxies, and those of the test's."""
    own = [environment[STARTUP_HOOKS]] if STARTUP_HOOKS in environment else []
    return ",".join(["tests.support.startup:prepare", *own])
