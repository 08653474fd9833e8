"""A model provider without a model: it responds by script on every wire of `ROUTES`.

It is the upstream of `make run` and of every end-to-end test, so neither needs a key or a network.
"""

import argparse
import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from luthien_litellm_hooks.policy.request import turn_of
from luthien_litellm_hooks.testing.answers import (
    JSON,
    PATIENCE_SECONDS,
    Answer,
    Cut,
    Emission,
    Wait,
    answer_to,
    replay,
    whole,
)
from luthien_litellm_hooks.testing.routes import ROUTES, Wire
from luthien_litellm_hooks.wire import FORMATS

DEFAULT_MODEL = "scripted"
_START_SECONDS = 30.0
_STOP_SECONDS = 30.0

KEEP_ALIVE_SECONDS = 300
"""Idle time of a connection. LiteLLM keeps one for 120 s (`AIOHTTP_KEEPALIVE_TIMEOUT`). A request fails if the server
closes the connection at that moment; uvicorn's own 5 s make that likely."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """Request as the provider received it; header names are in lower case."""

    path: str
    headers: dict[str, str]
    body: JSON


class Log(list[_T]):
    """List that the server thread appends to and a test can wait on."""

    def __init__(self) -> None:
        super().__init__()
        self._grown = threading.Condition()

    def append(self, item: _T, /) -> None:
        with self._grown:
            super().append(item)
            self._grown.notify_all()

    def wait_for(self, count: int, timeout: float = PATIENCE_SECONDS) -> None:
        """Blocks until there are `count` entries. Raises `TimeoutError` otherwise."""
        with self._grown:
            if not self._grown.wait_for(lambda: len(self) >= count, timeout):
                raise TimeoutError(f"{len(self)} entries instead of {count}")


class ScriptedProvider:
    """ASGI app with scripted responses by the name of a model, or by the request's header `x-answer`. It logs the
    requests. `next_answers` come before the others where the request ends with the result of a tool."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.next_answers: dict[str, Answer] = {}
        self.requests: Log[SeenRequest] = Log()
        self.disconnects: Log[SeenRequest] = Log()
        self._app = Starlette(
            routes=[
                *(route for name in ROUTES for route in self._endpoints(name)),
                Route("/v1/models", self._models, methods=["GET"]),
            ],
            exception_handlers={404: _not_found, 405: _not_found},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    def _endpoints(self, name: str) -> Iterator[Route]:
        """Yields the endpoints of a wire: providers have the paths of LiteLLM's own."""
        wire, spoken = FORMATS[name], ROUTES[name].wire

        async def reply(request: Request) -> Response:
            return await self._reply(request, spoken, {})

        async def reply_in_full(request: Request) -> Response:
            return await self._reply(request, spoken, {"stream": False})

        async def reply_in_stream(request: Request) -> Response:
            return await self._reply(request, spoken, {"stream": True})

        for path in wire.paths:
            yield Route(path, reply_in_full if wire.stream_paths else reply, methods=["POST"])
        for path in wire.stream_paths:
            yield Route(path, reply_in_stream, methods=["POST"])

    async def _models(self, request: Request) -> Response:
        models = [
            {"id": name, "object": "model", "created": 0, "owned_by": "luthien"}
            for name in dict.fromkeys([DEFAULT_MODEL, *self.answers])
        ]
        return JSONResponse({"object": "list", "data": models})

    async def _reply(self, request: Request, wire: Wire, of_path: JSON) -> Response:
        try:
            body: JSON = await request.json()
        except ValueError:
            return JSONResponse(wire.error(400, "the body is not JSON"), 400)
        seen = SeenRequest(request.url.path, dict(request.headers), body)
        self.requests.append(seen)
        body = {**body, **request.path_params, **of_path}
        names = (seen.headers.get("x-answer", ""), body.get("model", ""))
        answers = {**self.answers, **self.next_answers} if turn_of(body) == "tool" else self.answers
        answer = next((answers[name] for name in names if name in answers), None) or answer_to(body)
        if answer.status >= 400:
            for step in answer.steps:
                if isinstance(step, Wait):
                    await step.gate.passed()
            return _error(answer, wire)
        media_type = "text/event-stream" if body.get("stream") else "application/json"
        emissions = _emissions(answer, body, wire)
        return _Playback(emissions, media_type, answer.headers, lambda: self.disconnects.append(seen))


def _error(answer: Answer, wire: Wire) -> Response:
    if answer.raw is not None:
        return Response(answer.raw, answer.status, answer.headers, media_type="application/json")
    return JSONResponse(wire.error(answer.status, answer.text or "scripted error"), answer.status, answer.headers)


class _Playback(Response):
    """Response that sends emissions one by one, obeys the control steps, and notices a disconnected client."""

    def __init__(
        self,
        emissions: Iterator[Emission],
        media_type: str,
        headers: Mapping[str, str],
        on_disconnect: Callable[[], None],
    ) -> None:
        self.status_code = 200
        self.media_type = media_type
        self.background = None
        self.init_headers({"cache-control": "no-cache", **headers})
        self._emissions = emissions
        self._on_disconnect = on_disconnect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        play = asyncio.create_task(self._play(send))
        gone = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait({play, gone}, return_when=asyncio.FIRST_COMPLETED)
            if play.done():
                play.result()
            else:
                self._on_disconnect()
        finally:
            play.cancel()
            gone.cancel()

    async def _play(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for emission in self._emissions:
            match emission:
                case Wait(gate):
                    await gate.passed()
                case Cut():
                    # The server closes the connection of an incomplete response.
                    return
                case bytes():
                    await send({"type": "http.response.body", "body": emission, "more_body": True})
                    # Sending does not yield to the loop, which must notice a closed connection.
                    await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _emissions(answer: Answer, body: JSON, wire: Wire) -> Iterator[Emission]:
    if answer.raw is not None:
        return replay(answer.raw)
    return wire.stream(answer, body) if body.get("stream") else whole(answer, wire.full(answer, body))


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _not_found(request: Request, exc: Exception) -> Response:
    return JSONResponse(ROUTES["chat"].wire.error(404, f"no such endpoint: {request.method} {request.url.path}"), 404)


class _Server(uvicorn.Server):
    """Server that reports when it accepts connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.settled = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.settled.set()

    def run_until_stopped(self, listener: socket.socket) -> None:
        """Runs the server in its thread. It sets `settled` also when the app fails to start."""
        with contextlib.suppress(SystemExit):
            self.run(sockets=[listener])
        self.settled.set()


@contextlib.contextmanager
def serve(app: ASGIApp) -> Generator[str]:
    """Runs the app in a background thread and yields its base URL, without a path."""
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


def main() -> None:
    """Serves the provider on loopback until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    port: int = parser.parse_args().port
    uvicorn.run(ScriptedProvider(), host="127.0.0.1", port=port, timeout_keep_alive=KEEP_ALIVE_SECONDS)


if __name__ == "__main__":
    main()
