"""A server that takes the notes of webhooks, and fails as often as a test says."""

import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

from luthien_litellm_hooks.cli.demo.proxy import HOST


@dataclass(slots=True)
class Receiver:
    """What came to `url`. It answers with each of `statuses` once, and then with 200; not before `may_answer`."""

    url: str = ""
    statuses: list[int] = field(default_factory=list[int])
    got: list[tuple[dict[str, str], bytes, float]] = field(default_factory=list[tuple[dict[str, str], bytes, float]])
    may_answer: Event = field(default_factory=Event)

    @property
    def notes(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body, _ in self.got]


@contextmanager
def receiver() -> Generator[Receiver]:
    """A server that listens until the context ends."""
    receiver = Receiver()
    receiver.may_answer.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.got.append((dict(self.headers), body, time.monotonic()))
            receiver.may_answer.wait(60)
            self.send_response(receiver.statuses.pop(0) if receiver.statuses else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            return None

    server = ThreadingHTTPServer((HOST, 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    receiver.url = f"http://{HOST}:{server.server_port}/services/T0/B0/secret-path"
    try:
        yield receiver
    finally:
        receiver.may_answer.set()
        server.shutdown()
        thread.join()
        server.server_close()
