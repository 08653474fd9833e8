"""A model that judges by a function of the test's, served over real sockets."""

import asyncio
import json
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from luthien_litellm_hooks.testing import openai_wire
from luthien_litellm_hooks.testing.answers import Answer, Gate, Say
from luthien_litellm_hooks.testing.provider import Log, serve

JSON = dict[str, Any]
Opinion = Callable[[str, JSON], object]
"""Of the instructions and what is judged; what is no text is said as JSON."""


class JudgeModel:
    """Answers each request as `opinion` says, which a test may set, when `gate` is open. `asked` is
    what it was shown, `cancelled` that of it of which the caller closed the connection before; `bodies` are the
    whole requests. It answers with `finish_reason`, and the requests from number `hold_from` on never."""

    def __init__(self) -> None:
        self.opinion: Opinion = lambda _instructions, _shown: rating(0)
        self.gate = Gate()
        self.gate.open()
        self.asked: Log[tuple[str, JSON]] = Log()
        self.bodies: Log[JSON] = Log()
        self.finish_reason = "stop"
        self.hold_from: int | None = None
        self.cancelled: Log[tuple[str, JSON]] = Log()
        self.base = ""

    @property
    def config(self) -> JSON:
        """How a policy is told to ask it."""
        return {"model": "openai/judge", "api_base": self.base, "api_key": "k"}

    @contextmanager
    def served(self) -> Generator["JudgeModel"]:
        app = Starlette(routes=[Route("/v1/chat/completions", self._reply, methods=["POST"])])
        with serve(app) as url:
            self.base = f"{url}/v1"
            yield self

    async def _reply(self, request: Request) -> JSONResponse:
        body = await request.json()
        system, user = body["messages"]
        assert (system["role"], user["role"]) == ("system", "user")
        asked = system["content"], json.loads(user["content"])
        self.bodies.append(body)
        self.asked.append(asked)
        if self.hold_from is not None and len(self.asked) >= self.hold_from:
            self.gate = Gate()
        if not await _passed(self.gate, request):
            self.cancelled.append(asked)
        opinion = self.opinion(*asked)
        text = opinion if isinstance(opinion, str) else json.dumps(opinion)
        reply = openai_wire.full(Answer([Say(text)]), body)
        reply["choices"][0]["finish_reason"] = self.finish_reason
        return JSONResponse(reply)


async def _passed(gate: Gate, request: Request) -> bool:
    """Waits at the gate; False if the caller was gone before it opened."""
    passing, leaving = asyncio.create_task(gate.passed()), asyncio.create_task(_disconnected(request))
    await asyncio.wait({passing, leaving}, return_when=asyncio.FIRST_COMPLETED)
    is_open = passing.done()
    passing.cancel()
    leaving.cancel()
    return is_open


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def rating(probability: float, explanation: str = "because", **more: Any) -> JSON:
    return {"probability": probability, "explanation": explanation, **more}


def by_content(opinions: Mapping[str, object], otherwise: object) -> Opinion:
    """The first opinion whose key stands in what is judged, or in the instructions."""

    def opinion(instructions: str, shown: JSON) -> object:
        text = instructions + json.dumps(shown)
        return next((found for key, found in opinions.items() if key in text), otherwise)

    return opinion
