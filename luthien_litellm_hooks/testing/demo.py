"""The stock LiteLLM proxy in front of a scripted provider, to try a policy without any key."""

import fcntl
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from rich.console import Console

from luthien_litellm_hooks.testing.live_view import Feed, LiveView
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from luthien_litellm_hooks.testing.proxy import HOST, answers, proxy_process
from luthien_litellm_hooks.testing.serving import serve
from luthien_litellm_hooks.testing.watching import watched_config

_PAUSE_SECONDS = 0.1
_SHOWN_OF_LOG = 4000


@dataclass(frozen=True, slots=True)
class _MasterKey:
    """What clients authenticate with, which LiteLLM does not start without."""

    value: str
    shown: str  # in a command for a shell

    @classmethod
    def from_environment(cls) -> "_MasterKey":
        """The one that is set, which is not for the screen, or else a new one for this run."""
        if value := os.environ.get("LITELLM_MASTER_KEY"):
            return cls(value, shown="$LITELLM_MASTER_KEY")
        value = f"sk-{secrets.token_hex(16)}"
        return cls(value, shown=value)


class _StopRequest:
    """Whether a signal has asked the demo to end. Asked by polling: its handler only sets a flag."""

    def __init__(self) -> None:
        self.received = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._receive)

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        self.received = True


def run_demo(config: Path, port: int, values: Mapping[str, Any], policy: Mapping[str, object] | None = None) -> int:
    """Serve `config`, whose `values` these are, with its own policy or `policy`, until a signal or the
    proxy's end, and return the exit code. Takes over the process's signal handlers."""
    with _claimed(port) as is_claimed:
        if not is_claimed:
            return _fail(f"Port {port} is taken. Stop what listens there, or choose another: --port {port + 1}")
        return _serve(config, port, values, policy)


def _serve(config: Path, port: int, values: Mapping[str, Any], policy: Mapping[str, object] | None) -> int:
    stop = _StopRequest()
    key = _MasterKey.from_environment()
    console = Console(highlight=False, markup=False, emoji=False)
    with tempfile.TemporaryDirectory(prefix="luthien-demo-") as folder, serve(ScriptedProvider()) as provider_url:
        watched, feed, log = (Path(folder) / name for name in ("config.yaml", "events.jsonl", "proxy.log"))
        watched.write_text(yaml.safe_dump(watched_config(values, policy, str(feed))), encoding="utf-8")
        with (
            log.open("wb") as output,
            proxy_process(
                watched,
                port,
                _environment(provider_url, key),
                output if console.is_terminal else None,  # else it would write into the view
            ) as proxy,
        ):
            _pause_until_ready(proxy, port, stop)
            if proxy.poll() is None and not stop.received:
                with LiveView(console, _introduction(config, port, key, policy)) as view:
                    _follow(Feed(feed), view, proxy, stop)
        if not stop.received:
            told = log.read_text(errors="replace")[-_SHOWN_OF_LOG:] if console.is_terminal else "see its output above"
            return _fail(f"The proxy ended by itself with exit code {proxy.returncode}: {told}")
    return 0


def _follow(feed: Feed, view: LiveView, proxy: subprocess.Popen[bytes], stop: _StopRequest) -> None:
    while proxy.poll() is None and not stop.received:
        for event in feed.take():
            view.show(event)
        time.sleep(_PAUSE_SECONDS)


@contextmanager
def _claimed(port: int) -> Generator[bool]:
    """Keeps the port for this demo, of which the proxy takes a while to listen there. False if something listens, or
    another demo has claimed it: LiteLLM itself would silently move to a random port."""
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


def _environment(provider_url: str, key: _MasterKey) -> dict[str, str]:
    """What the configuration refers to."""
    return {
        "LITELLM_MASTER_KEY": key.value,
        "SCRIPTED_PROVIDER_URL": f"{provider_url}/v1",
        "SCRIPTED_PROVIDER_ANTHROPIC_URL": provider_url,
    }


def _pause_until_ready(proxy: subprocess.Popen[bytes], port: int, stop: _StopRequest) -> None:
    """Return once the proxy answers, has ended, or need not be waited for any more."""
    while proxy.poll() is None and not stop.received and not answers(port):
        time.sleep(_PAUSE_SECONDS)


def _introduction(config: Path, port: int, key: _MasterKey, policy: Mapping[str, object] | None) -> str:
    url = f"http://{HOST}:{port}"
    chosen = f" with the policy {policy['class']}" if policy else ""
    return f"""
LiteLLM serves {config} on {url}{chosen}; its model `scripted` needs no network.

A whole answer:

{_curl(url, key)}

A streamed answer:

{_curl(url, key, stream=True)}

Ctrl-C ends it.
"""


def _curl(url: str, key: _MasterKey, *, stream: bool = False) -> str:
    """A command in lines that no terminal has to break: copied from one, a broken line stays broken."""
    flags, field = ("-sSN", ' "stream": true,') if stream else ("-sS", "")
    return f"""\
curl {flags} {url}/v1/chat/completions \\
  -H 'Content-Type: application/json' \\
  -H "Authorization: Bearer {key.shown}" \\
  -d '{{"model": "scripted",{field}
       "messages": [{{"role": "user", "content": "hello"}}]}}'"""
