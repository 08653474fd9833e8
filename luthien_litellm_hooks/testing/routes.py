"""Scripted side of each wire: a provider's requests and responses, and LiteLLM's reading of them.

`ROUTES` has one entry for each format of `wire.FORMATS`, under its name. A format of your own needs one here, too, for
`run_policy` and the scripted provider.
"""

import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, cast

from luthien_litellm_hooks.policy.request import Request
from luthien_litellm_hooks.testing import anthropic_wire, completions_wire, gemini_wire, openai_wire, responses_wire
from luthien_litellm_hooks.testing.answers import JSON, Answer, Cut, Emission, Wait, replay
from luthien_litellm_hooks.wire import FORMATS
from luthien_litellm_hooks.wire.format import Adapter, NewResponse
from luthien_litellm_hooks.wire.sse import SseDecoder, data_of

RouteName: TypeAlias = str
"""Name of a wire format: "chat", "messages", "responses", "completions", "gemini", or another one that has a route."""
_USAGE: JSON = {"stream_options": {"include_usage": True}}  # LiteLLM asks for it, whatever the client does
_TURN: JSON = {"messages": [{"role": "user", "content": "hello"}]}


class Wire(Protocol):
    """Bodies that a provider of a wire sends."""

    def full(self, answer: Answer, request: JSON) -> JSON: ...
    def stream(self, answer: Answer, request: JSON) -> Iterator[Emission]: ...
    def error(self, status: int, message: str) -> JSON: ...


@dataclass(frozen=True, slots=True)
class Route:
    """One route: the least body of a request, the provider's bodies, and LiteLLM's reading of them: the items in a
    piece of a stream, and a full response."""

    name: RouteName
    body: JSON
    wire: Wire
    items: Callable[[bytes], Sequence[object]]
    whole: Callable[[JSON], object]

    @property
    def call_type(self) -> str:
        """LiteLLM's name for the route."""
        return FORMATS[self.name].call_types[0]

    @property
    def path(self) -> str:
        """Path of a request that is not streamed."""
        return FORMATS[self.name].paths[0].replace("{model}", "scripted")

    def adapter(self, request: Request) -> Adapter:
        """Returns a new adapter for the response to `request`."""
        wire = FORMATS[self.name]
        takes_flags = wire.takes_flags(request.body)
        return wire.adapter(NewResponse(request.model, uuid.uuid4(), int(time.time()), takes_flags))

    async def stream(self, answer: Answer, request: Mapping[str, Any]) -> AsyncIterator[object]:
        """Yields the items of a streamed response, or of recorded events, if `answer` has them."""
        emissions = self.wire.stream(answer, {**request, **_USAGE}) if answer.raw is None else replay(answer.raw)
        for emission in emissions:
            match emission:
                case Wait(gate):
                    await gate.passed()
                case Cut():
                    return
                case bytes():
                    for item in self.items(emission):
                        yield item

    def full(self, answer: Answer, request: Mapping[str, Any]) -> object:
        """Returns a full response."""
        if answer.raw is not None:
            raise ValueError("a recorded stream is not a full response")
        return self.whole(self.wire.full(answer, dict(request)))


def _payloads(event: bytes) -> list[JSON]:
    decoder = SseDecoder()
    frames = [*decoder.feed(event), *decoder.flush()]
    return [json.loads(data) for data in map(data_of, frames) if data and data != "[DONE]"]


def _chat_items(event: bytes) -> Sequence[object]:
    from litellm.types.utils import ModelResponseStream

    return [ModelResponseStream(**payload) for payload in _payloads(event) if "choices" in payload]


def _completions_items(event: bytes) -> Sequence[object]:
    from litellm.types.utils import TextCompletionResponse

    return [TextCompletionResponse(**payload) for payload in _payloads(event)]


def _responses_items(event: bytes) -> Sequence[object]:
    from litellm.llms.openai.responses.transformation import OpenAIResponsesAPIConfig

    config = cast(Any, OpenAIResponsesAPIConfig())
    return [config.transform_streaming_response("scripted", payload, None) for payload in _payloads(event)]


def _as_items(event: bytes) -> Sequence[object]:
    return [event]


def _chat_whole(payload: JSON) -> object:
    from litellm.types.utils import ModelResponse

    return ModelResponse(**payload)


def _completions_whole(payload: JSON) -> object:
    from litellm.types.utils import TextCompletionResponse

    return TextCompletionResponse(**payload)


def _responses_whole(payload: JSON) -> object:
    from litellm.types.llms.openai import ResponsesAPIResponse

    return ResponsesAPIResponse(**payload)


def _unchanged(payload: JSON) -> object:
    return payload


ROUTES: dict[RouteName, Route] = {
    route.name: route
    for route in (
        Route("chat", _TURN, openai_wire, _chat_items, _chat_whole),
        Route("messages", {**_TURN, "max_tokens": 1024}, anthropic_wire, _as_items, _unchanged),
        Route("responses", {"input": "hello"}, responses_wire, _responses_items, _responses_whole),
        Route("completions", {"prompt": "hello"}, completions_wire, _completions_items, _completions_whole),
        Route(
            "gemini", {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}, gemini_wire, _as_items, _unchanged
        ),
    )
}
"""Routes by the names of their formats. Add one of your own before you make a `ScriptedProvider`."""
