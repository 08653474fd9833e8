"""A model provider without a model: it answers by script on the OpenAI, Anthropic and Gemini wires.

It is the upstream of `make run` and of every end-to-end test, so neither needs a key or a network.
"""

import argparse
import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from luthien_litellm_hooks.testing import anthropic_wire, completions_wire, gemini_wire, openai_wire, responses_wire
from luthien_litellm_hooks.testing.answers import JSON, Answer, Cut, Emission, Wait, answer_to, replay, whole
from luthien_litellm_hooks.testing.serving import KEEP_ALIVE_SECONDS

DEFAULT_MODEL = "scripted"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """A request for an answer, as the provider got it; header names are in lower case."""

    path: str
    headers: dict[str, str]
    body: JSON


class Log(list[_T]):
    """A list that the server thread appends to and a test can wait on."""

    def __init__(self) -> None:
        super().__init__()
        self._grown = threading.Condition()

    def append(self, item: _T, /) -> None:
        with self._grown:
            super().append(item)
            self._grown.notify_all()

    def wait_for(self, count: int, timeout: float = 10.0) -> None:
        """Block until there are `count` entries; raise TimeoutError otherwise."""
        with self._grown:
            if not self._grown.wait_for(lambda: len(self) >= count, timeout):
                raise TimeoutError(f"{len(self)} entries instead of {count}")


class Wire(Protocol):
    """What a wire module offers."""

    def full(self, answer: Answer, request: JSON) -> JSON: ...
    def stream(self, answer: Answer, request: JSON) -> Iterator[Emission]: ...
    def error(self, status: int, message: str) -> JSON: ...


class ScriptedProvider:
    """The ASGI app; tests register answers by the name of a model, or the one that the request's header
    `x-answer` gives, and read what arrived."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.requests: Log[SeenRequest] = Log()
        self.disconnects: Log[SeenRequest] = Log()
        self._app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat_completions, methods=["POST"]),
                Route("/chat/completions", self._chat_completions, methods=["POST"]),
                Route("/v1/messages", self._messages, methods=["POST"]),
                Route("/v1/responses", self._responses, methods=["POST"]),
                Route("/v1/completions", self._completions, methods=["POST"]),
                Route("/v1beta/models/{model}:{method}", self._gemini, methods=["POST"]),
                Route("/v1/models", self._models, methods=["GET"]),
            ],
            exception_handlers={404: _not_found, 405: _not_found},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    async def _chat_completions(self, request: Request) -> Response:
        return await self._reply(request, openai_wire)

    async def _messages(self, request: Request) -> Response:
        return await self._reply(request, anthropic_wire)

    async def _completions(self, request: Request) -> Response:
        return await self._reply(request, completions_wire, completions_wire.as_chat)

    async def _responses(self, request: Request) -> Response:
        return await self._reply(request, responses_wire, responses_wire.as_chat)

    async def _gemini(self, request: Request) -> Response:
        model, method = request.path_params["model"], request.path_params["method"]
        return await self._reply(request, gemini_wire, lambda body: gemini_wire.as_chat(body, model, method))

    async def _models(self, request: Request) -> Response:
        models = [
            {"id": name, "object": "model", "created": 0, "owned_by": "luthien"}
            for name in dict.fromkeys([DEFAULT_MODEL, *self.answers])
        ]
        return JSONResponse({"object": "list", "data": models})

    async def _reply(
        self, request: Request, wire: Wire, as_chat: Callable[[JSON], JSON] = lambda body: body
    ) -> Response:
        try:
            body: JSON = await request.json()
        except ValueError:
            return JSONResponse(wire.error(400, "the body is not JSON"), 400)
        seen = SeenRequest(request.url.path, dict(request.headers), body)
        self.requests.append(seen)
        body = as_chat(body)
        names = (seen.headers.get("x-answer", ""), body.get("model", ""))
        answer = next((self.answers[name] for name in names if name in self.answers), None) or answer_to(body)
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
    """Sends emissions one by one, obeys the control steps, and notices a client that goes away."""

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
                    # The server closes the connection of a response that was begun and not completed.
                    return
                case bytes():
                    await send({"type": "http.response.body", "body": emission, "more_body": True})
                    # Sending alone does not yield to the loop, which must see a closed connection.
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
    return JSONResponse(openai_wire.error(404, f"no such endpoint: {request.method} {request.url.path}"), 404)


def main() -> None:
    """Serve the provider on loopback until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    port: int = parser.parse_args().port
    uvicorn.run(ScriptedProvider(), host="127.0.0.1", port=port, timeout_keep_alive=KEEP_ALIVE_SECONDS)


if __name__ == "__main__":
    main()
