"""`luthien-hooks demo`: the stock LiteLLM proxy in front of a scripted provider, without any key."""

import fcntl
import http
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from rich.console import Console

from luthien_litellm_hooks.cli.check import find
from luthien_litellm_hooks.cli.demo.browser import PAGE, has_browser, login_address, opened
from luthien_litellm_hooks.cli.demo.proxy import HOST, is_serving, proxy_process
from luthien_litellm_hooks.cli.demo.watching import watched_config
from luthien_litellm_hooks.cli.output import complain
from luthien_litellm_hooks.cli.starter import agent_commands, demo_text
from luthien_litellm_hooks.cli.watch import LiveView
from luthien_litellm_hooks.config.check import format_finding
from luthien_litellm_hooks.config.check.source import LaunchEnvironment, Source, read_source
from luthien_litellm_hooks.config.policy_spec import PolicySpec, load_composition
from luthien_litellm_hooks.config.settings import POLICY_FILE_VARIABLE
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.testing.provider import DEFAULT_MODEL, ScriptedProvider, serve

_PATH = "/v1/chat/completions"
_ASK_SECONDS = 60
_HARMLESS = 'say: I look.\ncall: Bash {"command": "ls -la"}'
_DANGEROUS = 'say: I tidy up.\ncall: Bash {"command": "rm -rf /"}'
_PAUSE_SECONDS = 0.1
_LOG_TAIL = 4000
_RECORD_SECONDS = 10.0
"""Longest wait for the records of responses that came."""


@dataclass(frozen=True, slots=True)
class Demo:
    """A demo of one config: its name, its values, and a policy in place of its own."""

    name: str
    port: int
    values: Mapping[str, Any]
    policy: Mapping[str, object] | None
    folder: Path

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"


@dataclass(frozen=True, slots=True)
class MasterKey:
    """Key of the clients. LiteLLM does not start without one."""

    value: str
    shown: str  # in a command for a shell

    @classmethod
    def from_environment(cls) -> "MasterKey":
        """Returns the key of the environment, which is not shown, or a new one for this run."""
        if value := os.environ.get("LITELLM_MASTER_KEY"):
            return cls(value, shown="$LITELLM_MASTER_KEY")
        value = f"sk-{secrets.token_hex(16)}"
        return cls(value, shown=value)


class _StopRequest:
    """Flag that SIGINT, SIGTERM or SIGHUP sets. The demo polls it."""

    def __init__(self) -> None:
        self.received = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._receive)

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        self.received = True


@dataclass(frozen=True, slots=True)
class _Session:
    """The running proxy, its view, and the signal to stop."""

    proxy: subprocess.Popen[bytes]
    stop: _StopRequest
    view: LiveView

    @property
    def is_on(self) -> bool:
        return self.proxy.poll() is None and not self.stop.received

    def wait(self, what: str, is_done: Callable[[], bool]) -> None:
        """Returns once `is_done` holds, the proxy has ended, or a signal came; until then it tells that it waits."""
        started = time.monotonic()
        with self.view.progress(what) as tell:
            while self.is_on and not is_done():
                tell(int(time.monotonic() - started))
                time.sleep(_PAUSE_SECONDS)


def run_demo(config: Path | None, port: int, policy: str | None) -> int:
    """Serves until Ctrl-C, with the policy called `policy` or else the config's own; without `config` a built-in one.
    Returns 1 if it cannot, 2 if the config cannot be read."""
    with tempfile.TemporaryDirectory(prefix="luthien-demo-") as name:
        folder = Path(name)
        if config is None:
            (folder / "built-in.yaml").write_text(demo_text(), encoding="utf-8")
        try:
            source = read_source(config or folder / "built-in.yaml")
            chosen = _in_policy_file(source) if policy is None else _default(policy)
        except ConfigError as error:
            complain(str(error))
            return 2
        errors = [finding for finding in find(source) if finding.level == "error"]
        for finding in errors:
            complain(format_finding(finding))
        os.environ.pop(POLICY_FILE_VARIABLE, None)  # the served config contains its policy
        if errors:
            return 1
        with _claimed(port) as is_claimed:
            if not is_claimed:
                return _fail(f"Port {port} is taken. Stop what listens there, or choose another: --port {port + 1}")
            return _serve(Demo(str(config or "its built-in config"), port, source.values, chosen, folder))


def _default(policy: str) -> dict[str, object]:
    """Returns the spec of a policy without settings. Raises `ConfigError`."""
    spec: dict[str, object] = {"class": policy}
    load_composition(PolicySpec.model_validate(spec), where="--policy")
    return spec


def _in_policy_file(source: Source) -> dict[str, object] | None:
    policy_file = LaunchEnvironment.of(source, os.environ).policy_file
    return {"class": "serial", "config": {"policies": [policy_file.values.get("policy")]}} if policy_file else None


def _serve(demo: Demo) -> int:
    stop, key = _StopRequest(), MasterKey.from_environment()
    watched, feed, log = (demo.folder / name for name in ("config.yaml", "events.jsonl", "proxy.log"))
    watched.write_text(yaml.safe_dump(watched_config(demo.values, demo.policy, str(feed))), encoding="utf-8")
    with serve(ScriptedProvider()) as provider_url:
        environment = _environment(provider_url, key)
        with log.open("wb") as output, proxy_process(watched, demo.port, environment, output) as proxy:
            session = _Session(proxy, stop, LiveView(Console(highlight=False, markup=False, emoji=False), feed, log))
            _run(demo, key, session)
        if not stop.received:
            log_tail = log.read_text(errors="replace")[-_LOG_TAIL:]
            return _fail(f"The proxy ended by itself with exit code {proxy.returncode}: {log_tail}")
    return 0


def _run(demo: Demo, key: MasterKey, session: _Session) -> None:
    session.wait("LiteLLM starts", lambda: is_serving(demo.port))
    answered = [ask(demo.port, key, trial) for trial in trials_of(demo.values) if session.is_on].count(True)
    latest = time.monotonic() + _RECORD_SECONDS
    session.wait("LiteLLM answers", lambda: session.view.ended >= answered or time.monotonic() > latest)
    if not session.is_on:
        return
    session.view.open(introduction(demo, key, login_address(demo.port, key.value) if sys.stdout.isatty() else None))
    with opened(login_address(demo.port, key.value) if has_browser(os.environ) else None):
        while session.is_on:
            session.view.refresh()
            time.sleep(_PAUSE_SECONDS)


@contextmanager
def _claimed(port: int) -> Generator[bool]:
    """Claims the port for this demo, since the proxy needs a while to listen there. Yields False if it is taken.

    LiteLLM itself would silently move to a random port.
    """
    path = Path(tempfile.gettempdir()) / f"luthien-demo-{os.getuid()}-{port}.lock"
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        with socket.socket() as probe:
            is_free = probe.connect_ex((HOST, port)) != 0
        yield is_free


def _fail(message: str) -> int:
    print(message, file=sys.stderr)
    return 1


def _environment(provider_url: str, key: MasterKey) -> dict[str, str]:
    """Returns the variables that the configuration refers to."""
    return {
        "LITELLM_MASTER_KEY": key.value,
        "SCRIPTED_PROVIDER_URL": f"{provider_url}/v1",
        "SCRIPTED_PROVIDER_ANTHROPIC_URL": provider_url,
    }


def trials_of(values: Mapping[str, Any]) -> Sequence[str]:
    """Returns the messages that the demo sends first: none if the config does not serve the scripted model."""
    served = [model.get("model_name") for model in values.get("model_list") or ()]
    return (_HARMLESS, _DANGEROUS) if DEFAULT_MODEL in served else ()


def ask(port: int, key: MasterKey, message: str) -> bool:
    """Sends a message to the scripted model, and waits for the end of its response. Returns whether one came."""
    connection = http.client.HTTPConnection(HOST, port, timeout=_ASK_SECONDS)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key.value}"}
    try:
        connection.request("POST", _PATH, json.dumps(_body(message)), headers)
        response = connection.getresponse()
        response.read()
        return response.status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def introduction(demo: Demo, key: MasterKey, login: str | None) -> str:
    """Returns the heading of the demo, with commands in lines that fit a narrow terminal; `login` is the address that
    logs a browser in."""
    policies = ", ".join(_policies(demo.policy or demo.values["callback_settings"]["luthien"]["policy"]))
    served = f"LiteLLM serves {demo.name} on {demo.url},\nwith the policy {policies}.\n\n{_watching(demo, key, login)}"
    if not trials_of(demo.values):
        return f"\n{served}\n\nCtrl-C ends it. What the model says and what reaches the client:\n"
    return f"""
{served}

Its model `{DEFAULT_MODEL}` needs no network: it does what the message says.
A harmless call:

{_curl(demo.url, key, _HARMLESS)}

A dangerous call:

{_curl(demo.url, key, _DANGEROUS)}

Claude Code and Codex with this proxy as their provider:

{agent_commands(demo.url, key.shown, f"{DEFAULT_MODEL}-claude", DEFAULT_MODEL)}

Ctrl-C ends it. Both calls were just made. What the model said, and what
reached the client:
"""


def _watching(demo: Demo, key: MasterKey, login: str | None) -> str:
    if login is None:
        return f"Watch it in a browser, with the key {key.shown}:\n\n{demo.url}{PAGE}/login"
    return f"Watch it in a browser, which this link logs in once, within ten minutes:\n\n{login}"


def _policies(spec: Mapping[str, Any]) -> Sequence[str]:
    members: Sequence[Mapping[str, Any]] = spec["config"]["policies"] if spec["class"] == "serial" else ()
    return [name for member in members for name in _policies(member)] or [str(spec["class"])]


def _body(message: str) -> dict[str, Any]:
    return {"model": DEFAULT_MODEL, "stream": True, "messages": [{"role": "user", "content": message}]}


def _curl(url: str, key: MasterKey, message: str) -> str:
    """Returns a command in short lines: a copied command keeps the breaks of a terminal."""
    return f"""\
curl -sSN {url}{_PATH} \\
  -H 'Content-Type: application/json' \\
  -H "Authorization: Bearer {key.shown}" \\
  -d '{{"model": "{DEFAULT_MODEL}", "stream": true, "messages": [{{"role": "user",
       "content": {json.dumps(message)}}}]}}'"""
