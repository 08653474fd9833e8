"""Proxies and commands that are forked from a process that has imported LiteLLM, which takes most of a start.

LiteLLM's own `--run_gunicorn` with `preload_app` forks its workers so too.
"""

import fcntl
import gc
import hashlib
import importlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from pydantic import BaseModel

_ROOT = str(Path(__file__).parents[2])
READ_LATE = frozenset(
    {
        *("ANTHROPIC_API_BASE", "ANTHROPIC_API_KEY", "OPENAI_API_BASE", "OPENAI_API_KEY"),
        *("DATABASE_URL", "DISABLE_SCHEMA_UPDATE", "PATH", "PRISMA_QUERY_ENGINE_BINARY"),
        *("COLUMNS", "KEEPALIVE_TIMEOUT", "LANGSMITH_BATCH_SIZE"),
        *("LITELLM_MASTER_KEY", "LITELLM_SALT_KEY", "LITELLM_WORKER_STARTUP_HOOKS"),
        *("OTEL_BSP_SCHEDULE_DELAY", "OTEL_ENDPOINT", "OTEL_EXPORTER"),
        *("NUM_WORKERS", "TIMEOUT_WORKER_HEALTHCHECK"),
        *("FLAG", "GATE_URL", "LOGGED_TO", "LUTHIEN_POLICY_CONFIG", "LUTHIEN_RECORDS", "OVERHEARD"),
    }
)
"""Variables that nothing reads when LiteLLM is imported."""
READ_EARLY = frozenset({"LITELLM_LOCAL_MODEL_COST_MAP", "PYTHONFAULTHANDLER", "PYTHONPATH"})
"""Variables that are read then: who differs in these has another parent."""


class Forked:
    """A process of a parent's. Like `subprocess.Popen`, as far as tests need it."""

    def __init__(self, parent: "Parent", pid: int) -> None:
        self._parent, self.pid = parent, pid
        self._code: int | None = None

    def poll(self) -> int | None:
        if self._code is None:
            self._code = self._parent.ask({"code of": self.pid})
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("litellm", timeout or 0)
            time.sleep(0.02)
        return code


class Parent:
    """The process at `address` that has imported LiteLLM, started where there is none. All workers of a run share it.

    It ends with the last of them, and is asked by one thread at once."""

    def __init__(self, address: str, environment: Mapping[str, str]) -> None:
        self._lock = threading.Lock()
        folder = os.open(_ROOT, os.O_RDONLY)
        fcntl.flock(folder, fcntl.LOCK_EX)
        try:
            self._connection = _connected(address)
        except (FileNotFoundError, ConnectionRefusedError):
            _start_parent(address, environment)
            self._connection = _connected(address)
        finally:
            os.close(folder)

    def start(
        self,
        program: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        output: Path,
        errors: Path | None = None,
    ) -> Forked:
        """Starts the program, MODULE:FUNCTION, in this environment, in a process group of its own.

        `output` also has its errors, unless there is a file for them."""
        order = {
            "program": program,
            "arguments": arguments,
            "environment": dict(environment),
            "outputs": [str(output), str(errors or output)],
            "cwd": os.getcwd(),
        }
        return Forked(self, self.ask({"start": order}))

    def ask(self, question: Mapping[str, Any]) -> Any:
        with self._lock:
            self._connection.send(question)
            return self._connection.recv()


def _connected(address: str) -> Connection:
    client = socket.socket(socket.AF_UNIX)
    client.connect(address)
    return Connection(client.detach())


def _start_parent(address: str, environment: Mapping[str, str]) -> None:
    """Starts a process that listens there: who connects meanwhile waits."""
    Path(address).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        subprocess.Popen(
            [sys.executable, "-m", __name__, address],
            env=dict(environment),
            cwd=_ROOT,
            stdin=listener.fileno(),
            stdout=2,  # what LiteLLM says is not for the terminal of a test
            start_new_session=True,
        )


@dataclass(frozen=True)
class _Early:
    """What a parent has read early: its folders of modules, and all else."""

    path: str | None
    others: tuple[str | None, ...]

    def fits(self, wanted: "_Early") -> bool:
        """Whether a program that wants this may have it: LiteLLM's client of a database disturbs nobody without one."""
        return self.others == wanted.others and wanted.path in (self.path, _ROOT)


_parents: dict[_Early, Parent] = {}


def parent_for(environment: Mapping[str, str], own: Mapping[str, str]) -> Parent | None:
    """The parent for programs in this environment; None if what is the program's `own` in it may be read too early."""
    elsewhere = "DATABASE_URL" not in own and own.get("PYTHONPATH", _ROOT) != _ROOT
    # All objects and threads of a process; but several workers are no forks.
    counted = "soak.gauges" in own.get("LITELLM_WORKER_STARTUP_HOOKS", "") and "NUM_WORKERS" not in own
    if elsewhere or counted or not set(own) <= READ_LATE | READ_EARLY:
        return None
    others = sorted(READ_EARLY - {"PYTHONPATH"})
    wanted = _Early(environment.get("PYTHONPATH"), tuple(environment.get(name) for name in others))
    for early, parent in _parents.items():
        if early.fits(wanted):
            return parent
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    name = hashlib.sha256(repr((run, wanted)).encode()).hexdigest()[:16]
    _parents[wanted] = Parent(str(Path(tempfile.gettempdir()) / f"litellm-{name}"), environment)
    return _parents[wanted]


IMPORTED = (
    *("luthien_litellm_hooks.hooks.guardrail", "luthien_litellm_hooks.hooks.startup", "openai.resources"),
    *("luthien_litellm_hooks.hooks.admin.monitor", "luthien_litellm_hooks.policies.rules.statements"),
    *(f"luthien_litellm_hooks.wire.{wire}.adapter" for wire in ("chat", "gemini", "messages", "responses")),
    *("litellm.proxy.proxy_cli", "litellm.proxy.admin_mcp", "litellm.proxy.hooks.mcp_semantic_filter"),
    "litellm.proxy._experimental.mcp_server.mcp_server_manager",
    "litellm.proxy.pass_through_endpoints.llm_passthrough_endpoints",
    *("litellm.integrations.otel.logger", "litellm.integrations.otel.presets.destinations"),
    *("litellm.integrations.shadow_eval_logger", "litellm.litellm_core_utils.default_encoding"),
    *("uvicorn.loops.uvloop", "uvicorn.protocols.http.auto", "uvicorn.protocols.websockets.auto"),
    *("anyio._backends._asyncio", "nacl.secret", "prometheus_client"),
)
"""What LiteLLM imports when it loads its config, or for its first requests. It changes nothing of LiteLLM."""
BUILT = ("litellm.proxy._types", "litellm.types.llms.openai", "litellm.types.router", "litellm.types.utils")
"""Modules with models of which pydantic builds each when it is first used."""


def _import_all() -> None:
    from litellm.proxy.proxy_server import app
    from litellm.rust_bridge.fork_guard import reserve_process_for_forking

    for name in IMPORTED:
        importlib.import_module(name)
    for model in [kind for name in BUILT for kind in vars(sys.modules[name]).values()]:
        if isinstance(model, type) and issubclass(model, BaseModel) and model.__module__ in BUILT:
            model.model_rebuild(raise_errors=False)
    for route in app.routes:  # which FastAPI builds when they are looked at
        route.matches({"type": "http", "method": "GET", "path": "/nowhere", "headers": []})
    reserve_process_for_forking("the parent of the tests' proxies")


def _serve() -> None:
    """Forks as it is told until nobody is there who could tell it anything."""
    gc.disable()  # what is imported stays
    given = set(os.environ)
    _import_all()
    added = {name: os.environ[name] for name in os.environ.keys() - given}
    assert threading.active_count() == 1, threading.enumerate()
    gc.freeze()
    gc.enable()
    listener, asking = socket.socket(fileno=os.dup(0)), list[Connection]()
    while True:
        for ready in wait([listener, *asking]):
            if ready is listener:
                asking.append(Connection(listener.accept()[0].detach()))
                continue
            client = next(one for one in asking if one is ready)
            try:
                question = client.recv()
            except (EOFError, ConnectionError):
                asking.remove(client)
                if not asking:
                    Path(sys.argv[1]).unlink(missing_ok=True)
                    if not wait([listener], 0):  # who came before that
                        return
                continue
            if "start" in question:
                sys.stdout.flush()
                if (pid := os.fork()) == 0:
                    for inherited in (listener, *asking):
                        inherited.close()
                    _become(question["start"], added)
                    return
                client.send(pid)
            else:
                pid, status = os.waitpid(question["code of"], os.WNOHANG)
                client.send(os.waitstatus_to_exitcode(status) if pid else None)


def _become(order: Mapping[str, Any], added: Mapping[str, str]) -> None:
    """Runs what is ordered; `added` are variables that imports have set."""
    os.setsid()
    os.chdir(order["cwd"])
    written = [(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for path in order["outputs"]]
    for number, (path, flags) in enumerate([(os.devnull, os.O_RDONLY), *written]):
        opened = os.open(path, flags)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update({**added, **order["environment"]})
    module, _, function = order["program"].partition(":")
    sys.argv = [module, *order["arguments"]]
    getattr(importlib.import_module(module), function)()


if __name__ == "__main__":
    _serve()
