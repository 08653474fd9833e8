"""A stock LiteLLM proxy as a child process on loopback, killed at the end."""

import http
import http.client
import os
import signal
import subprocess
import sysconfig
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

HOST = "127.0.0.1"
_GRACE_SECONDS = 5.0


@contextmanager
def proxy_process(
    config: Path, port: int, environment: Mapping[str, str], output: IO[bytes] | None = None
) -> Generator[subprocess.Popen[bytes]]:
    """Starts `litellm` of this Python environment, serving `config`, in a process group of its own.

    `environment` is added to this process's. The proxy writes to `output`, or to this process's output.
    """
    litellm = Path(sysconfig.get_path("scripts")) / "litellm"
    process = subprocess.Popen(
        [litellm, "--config", config, "--host", HOST, "--port", str(port)],
        env={**os.environ, **quiet_start(), **environment},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if output is not None else None,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        end(process)


def is_serving(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", "/health/liveliness")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def quiet_start() -> dict[str, str]:
    """Returns the variables with which a proxy asks no other host when it starts."""
    not_proxied = ",".join(filter(None, [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), HOST]))
    return {
        "NO_PROXY": not_proxied,
        "no_proxy": not_proxied,
        # The copies that come with LiteLLM, rather than a download.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    }


def end(process: subprocess.Popen[bytes]) -> None:
    """Asks the process group to end, and kills its remains after a grace period."""
    _signal_group(process, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_SECONDS)
    _signal_group(process, signal.SIGKILL)
    process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
