"""A provider in a process of its own that writes prepared frames, one write each.

It does next to nothing for a chunk, so that it takes little of the machine from what is measured.
"""

import multiprocessing
import multiprocessing.synchronize
import socket
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from typing import IO

from benchmarks.streams import Frame, Route
from luthien_litellm_hooks.cli.demo.proxy import HOST

Scripts = Mapping[tuple[Route, str], Sequence[Frame]]
"""Frames by the route and the load, which the path of a request begins with."""

_ROUTES: Mapping[str, Route] = {"completions": "chat", "messages": "messages", "responses": "responses"}
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_FORK = multiprocessing.get_context("fork")  # so that the frames need not be copied


@dataclass(frozen=True, slots=True)
class Provider:
    """A running provider. `marks` gets when each marked frame of an answer was written, on the
    clock of `time.monotonic`. A frame that is held is written once `gate` is set; `held` is released
    for each that waits."""

    url: str
    marks: "SimpleQueue[list[float]]"
    gate: multiprocessing.synchronize.Event
    held: multiprocessing.synchronize.Semaphore


@contextmanager
def running_provider(scripts: Scripts) -> Generator[Provider]:
    """A provider that answers until the context ends."""
    with socket.create_server((HOST, 0), backlog=1024) as listener:
        url = f"http://{HOST}:{listener.getsockname()[1]}"
        provider = Provider(url, _FORK.SimpleQueue(), _FORK.Event(), _FORK.Semaphore(0))
        process = _FORK.Process(target=_serve, args=(listener, scripts, provider), daemon=True)
        process.start()
        try:
            yield provider
        finally:
            process.terminate()
            process.join()


def _serve(listener: socket.socket, scripts: Scripts, provider: Provider) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_answer_all, args=(connection, scripts, provider), daemon=True).start()


def _answer_all(connection: socket.socket, scripts: Scripts, provider: Provider) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection, connection.makefile("rb") as requests, suppress(OSError):
        while (asked := _read_request(requests)) is not None:
            connection.sendall(_HEAD)
            marks = [time for frame in scripts[asked] if (time := _write(connection, frame, provider)) is not None]
            connection.sendall(b"0\r\n\r\n")
            if marks:
                provider.marks.put(marks)


def _read_request(requests: IO[bytes]) -> tuple[Route, str] | None:
    """Which answer is asked for; None if nobody asks for one any more."""
    line = requests.readline()
    if not line.startswith(b"POST"):
        return None
    headers = dict(header.lower().split(b":", 1) for header in iter(requests.readline, b"\r\n"))
    requests.read(int(headers[b"content-length"]))
    load, *_, last = line.split()[1].decode().partition("?")[0].strip("/").split("/")
    return _ROUTES[last], load


def _write(connection: socket.socket, frame: Frame, provider: Provider) -> float | None:
    """Writes a frame; returns when, if it is marked."""
    if frame.pause_s:
        time.sleep(frame.pause_s)
    if frame.is_held:
        provider.held.release()
        provider.gate.wait()
    written_at = time.monotonic()
    connection.sendall(b"%x\r\n%b\r\n" % (len(frame.data), frame.data))
    return None if frame.mark is None else written_at
