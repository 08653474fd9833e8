"""A wire between a client and a proxy, which somebody listens to."""

import socket
import socketserver
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

from luthien_litellm_hooks.cli.demo.proxy import HOST
from tests.support.proxy import Proxy

_PIECE = 65536


class _Relay(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int, hear: Callable[[bytes], None]) -> None:
        super().__init__((HOST, 0), _Connection)
        self.behind, self.hear = port, hear


class _Connection(socketserver.BaseRequestHandler):
    server: _Relay
    request: socket.socket

    def handle(self) -> None:
        with socket.create_connection((HOST, self.server.behind)) as behind, suppress(OSError):
            threading.Thread(target=self._send_on, args=[behind], daemon=True).start()
            while piece := behind.recv(_PIECE):
                self.request.sendall(piece)
                self.server.hear(piece)

    def _send_on(self, behind: socket.socket) -> None:
        with suppress(OSError):
            while piece := self.request.recv(_PIECE):
                behind.sendall(piece)
            behind.shutdown(socket.SHUT_WR)


@contextmanager
def tapped(proxy: Proxy, hear: Callable[[bytes], None]) -> Generator[Proxy]:
    """The same proxy at another port; `hear` is called with each piece of an answer after the client has got it."""
    with _Relay(proxy.port, hear) as relay:
        threading.Thread(target=relay.serve_forever, daemon=True).start()
        own = Proxy(relay.server_address[1], proxy.log, proxy.headers)
        try:
            yield own
        finally:
            own.close_clients()
            relay.shutdown()


@contextmanager
def counted(proxy: Proxy, word: bytes, count: int, then: Callable[[], None]) -> Generator[Proxy]:
    """The same proxy; `then` is called as soon as `word` has come so many times."""
    heard = bytearray()

    def hear(piece: bytes) -> None:
        heard.extend(piece)
        if heard.count(word) >= count:
            then()

    with tapped(proxy, hear) as own:
        yield own
