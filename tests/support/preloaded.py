"""Proxies and commands that are forked from a process that has imported LiteLLM, which takes most of a start.

LiteLLM's own `--run_gunicorn` with `preload_app` forks its workers so too.
"""

import gc
import importlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """The process that has imported LiteLLM. It ends with this one, and is asked by one thread at once."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            env=dict(environment),
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

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
            assert self._process.stdin, "a pipe, for it was asked for"
            assert self._process.stdout, "a pipe, for it was asked for"
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())


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
    _parents[wanted] = Parent(environment)
    return _parents[wanted]


IMPORTED = (
    *("luthien_litellm_hooks.hooks.guardrail", "luthien_litellm_hooks.hooks.startup", "openai.resources"),
    *("luthien_litellm_hooks.hooks.admin.monitor", "luthien_litellm_hooks.policies.rules.statements"),
)
"""What LiteLLM imports when it loads its config, or for its first request. It changes nothing of LiteLLM."""


def _import_all() -> None:
    from litellm.proxy.proxy_server import app
    from litellm.rust_bridge.fork_guard import reserve_process_for_forking

    for name in IMPORTED:
        importlib.import_module(name)
    for route in app.routes:  # which FastAPI builds when they are looked at
        route.matches({"type": "http", "method": "GET", "path": "/nowhere", "headers": []})
    reserve_process_for_forking("the parent of the tests' proxies")


def _serve() -> None:
    """Forks as it is told until nobody can tell it anything."""
    gc.disable()  # what is imported stays
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what LiteLLM says is no answer
    _import_all()
    assert threading.active_count() == 1, threading.enumerate()
    gc.collect()
    gc.freeze()
    gc.enable()
    for line in sys.stdin.buffer:
        question = json.loads(line)
        if "start" in question:
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                answers.close()
                _become(question["start"])
                return
            answers.write(b"%d\n" % pid)
        else:
            pid, status = os.waitpid(question["code of"], os.WNOHANG)
            answers.write(json.dumps(os.waitstatus_to_exitcode(status) if pid else None).encode() + b"\n")


def _become(order: Mapping[str, Any]) -> None:
    os.setsid()
    os.chdir(order["cwd"])
    written = [(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for path in order["outputs"]]
    for number, (path, flags) in enumerate([(os.devnull, os.O_RDONLY), *written]):
        opened = os.open(path, flags)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(order["environment"])
    module, _, function = order["program"].partition(":")
    sys.argv = [module, *order["arguments"]]
    getattr(importlib.import_module(module), function)()


if __name__ == "__main__":
    _serve()
