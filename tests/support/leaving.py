"""A client on a bare socket, which reads as much as the test says, and leaves when it says."""

import json
import socket
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from luthien_litellm_hooks.testing.provider import Log
from tests.support.proxy import Proxy

_SECONDS = 30
_PIECE = 65536
_SMALL_BUFFER = 4096
"""What the kernel takes in for a client that does not read; it makes of it what it must."""


class Client:
    """One request that has been sent. `received` is what was read of its answer."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.received = bytearray()

    def read_until(self, word: bytes) -> None:
        """Reads until `word` has come. Fails if the answer ends before."""
        seen = 0
        while self.received.find(word, max(0, seen - len(word))) < 0:
            seen = len(self.received)
            piece = self._connection.recv(_PIECE)
            assert piece, f"the answer ended before {word!r}: {self.received[-_PIECE:]!r}"
            self.received += piece

    def leave(self) -> None:
        """Closes the connection, whatever is still to come."""
        self._connection.close()


@contextmanager
def asking(proxy: Proxy, key: str, path: str, body: Mapping[str, Any], **headers: str) -> Generator[Client]:
    """A client that has sent a request and read nothing. It has left when the context ends."""
    address = urlsplit(proxy.url)
    content = json.dumps(dict(body)).encode()
    lines = {
        "Host": address.netloc,
        "Authorization": f"Bearer {key}",
        "Content-Type": "application/json",
        "Content-Length": str(len(content)),
        **headers,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    with socket.socket() as connection:
        connection.settimeout(_SECONDS)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
        connection.connect((address.hostname, address.port))
        connection.sendall(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + content)
        yield Client(connection)


class SilentProvider:
    """The ASGI app of a provider that, when it `is_silent`, takes a request and says nothing until its caller
    is gone, or no more than the head of an answer if it `has_head`, and its `first_words`; else it is `talking`.
    `asked` and `gone` are the paths of the requests that it met with silence."""

    def __init__(self, talking: ASGIApp) -> None:
        self.is_silent = self.has_head = False
        self.first_words = b""
        self.asked: Log[str] = Log()
        self.gone: Log[str] = Log()
        self._talking = talking

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self.is_silent:
            await self._talking(scope, receive, send)
            return
        body = await Request(scope, receive).json()
        if self.has_head:
            kind = b"text/event-stream" if body.get("stream") else b"application/json"
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
            if self.first_words:
                await send({"type": "http.response.body", "body": self.first_words, "more_body": True})
        self.asked.append(scope["path"])
        while (await receive())["type"] != "http.disconnect":
            pass
        self.gone.append(scope["path"])
