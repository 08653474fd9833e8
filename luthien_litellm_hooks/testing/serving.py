"""Serves an ASGI app on a free loopback port for the time of a test, over real sockets."""

import contextlib
import socket
import threading
from collections.abc import Generator

import uvicorn
from starlette.types import ASGIApp

_START_SECONDS = 30.0
_STOP_SECONDS = 30.0

KEEP_ALIVE_SECONDS = 300
"""How long a connection may rest. LiteLLM keeps one for 120 s (`AIOHTTP_KEEPALIVE_TIMEOUT`), and a request on one that
the server closes at that moment fails; uvicorn's own 5 s make that likely."""


class _Server(uvicorn.Server):
    """A server that says when it accepts connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.settled = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.settled.set()

    def run_until_stopped(self, listener: socket.socket) -> None:
        """The body of the server thread; `settled` is set also when the app fails to start."""
        with contextlib.suppress(SystemExit):
            self.run(sockets=[listener])
        self.settled.set()


@contextlib.contextmanager
def serve(app: ASGIApp) -> Generator[str]:
    """Run the app in a background thread and yield its base URL, without a path."""
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="critical",
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=1,
    )
    server = _Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        thread = threading.Thread(target=server.run_until_stopped, args=(listener,), name=f"serve-{port}", daemon=True)
        thread.start()
        try:
            if not server.settled.wait(_START_SECONDS) or not server.started:
                raise RuntimeError("the app did not start")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join(_STOP_SECONDS)
