"""A client that only reads bytes, and notes when which came."""

import json
import socket
import time
from dataclasses import dataclass, field

from benchmarks.proxies import MeasuredProxy
from benchmarks.streams import FIRST_WORD, Load, Route
from luthien_litellm_hooks.cli.demo.proxy import HOST
from luthien_litellm_hooks.testing.routes import ROUTES
from tests.support.proxy import KEY

_TIMEOUT_S = 180
_LAST = {"chat": b"[DONE]", "messages": b"message_stop", "responses": b"response.completed"}
_OVERLAP = 64  # longer than anything that is looked for


class BrokenAnswerError(Exception):
    """An answer was not whole: some proxies cannot do on each route what they are to do."""


@dataclass(slots=True)
class Received:
    """An answer as it came: what it is made of, and when it began, and its first word and the marks of its calls
    came, on the clock of `time.monotonic`."""

    asked_at: float
    began_at: float = 0.0
    pieces: list[bytes] = field(default_factory=list[bytes])
    seen_at: dict[bytes, float] = field(default_factory=dict[bytes, float])

    @property
    def first_byte_s(self) -> float:
        """How long the first byte of the response took to come."""
        return self.began_at - self.asked_at

    @property
    def first_word_s(self) -> float:
        """How long the first of the model's text took to come."""
        return self.seen_at[FIRST_WORD] - self.asked_at


class Asked:
    """A request that was sent, the answer to which waits to be read."""

    def __init__(self, proxy: MeasuredProxy, route: Route, load: Load) -> None:
        self._route = route
        self._sought = list(load.marks or (FIRST_WORD,))
        request = _request(route, load)
        self._socket = socket.create_connection((HOST, proxy.port), timeout=_TIMEOUT_S)
        self._received = Received(time.monotonic())
        self._socket.sendall(request)

    def read_all(self) -> Received:
        """The whole answer. Raises `BrokenAnswerError`."""
        with self._socket:
            while data := self._socket.recv(1 << 20):
                self._note(data, time.monotonic())
        answer = b"".join(self._received.pieces)
        if self._sought or _LAST[self._route] not in answer:
            raise BrokenAnswerError(f"an answer on {self._route} was not whole; it ended {answer[-300:]!r}")
        return self._received

    def _note(self, data: bytes, now: float) -> None:
        received = self._received
        received.began_at = received.began_at or now
        seen = (received.pieces[-1][-_OVERLAP:] if received.pieces else b"") + data
        received.pieces.append(data)
        while self._sought and self._sought[0] in seen:
            received.seen_at[self._sought.pop(0)] = now


def _request(route: Route, load: Load) -> bytes:
    body = json.dumps(load.body(route)).encode()
    head = (
        f"POST {ROUTES[route].path} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
