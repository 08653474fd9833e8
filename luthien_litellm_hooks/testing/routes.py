"""What LiteLLM hands to a plugin on each route, for an answer of the scripted provider."""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, cast

from litellm.llms.openai.responses.transformation import OpenAIResponsesAPIConfig
from litellm.types.llms.openai import ResponsesAPIResponse
from litellm.types.utils import ModelResponse, ModelResponseStream, TextCompletionResponse

from luthien_litellm_hooks.adapters.sse import SseDecoder, data_of
from luthien_litellm_hooks.testing import anthropic_wire, completions_wire, gemini_wire, openai_wire, responses_wire
from luthien_litellm_hooks.testing.answers import JSON, Answer, Cut, Wait, replay
from luthien_litellm_hooks.testing.provider import Wire

RouteName = Literal["chat", "messages", "responses", "completions", "gemini"]
_USAGE: JSON = {"stream_options": {"include_usage": True}}  # LiteLLM asks for it, whatever the client does
_TURN: JSON = {"messages": [{"role": "user", "content": "hello"}]}


@dataclass(frozen=True, slots=True)
class Route:
    """One route: LiteLLM's name for it, its path, the least body of a request, and how LiteLLM reads
    what its provider sends: the items of a frame of a stream, and a whole answer."""

    call_type: str
    path: str
    body: JSON
    wire: Wire
    items: Callable[[bytes], Sequence[object]]
    whole: Callable[[JSON], object]

    async def stream(self, answer: Answer, request: Mapping[str, Any]) -> AsyncIterator[object]:
        """The items of a streamed answer; or of recorded frames, if `answer` has them."""
        frames = self.wire.stream(answer, {**request, **_USAGE}) if answer.raw is None else replay(answer.raw)
        for frame in frames:
            match frame:
                case Wait(gate):
                    await gate.passed()
                case Cut():
                    return
                case bytes():
                    for item in self.items(frame):
                        yield item

    def full(self, answer: Answer, request: Mapping[str, Any]) -> object:
        """An answer that is not streamed."""
        if answer.raw is not None:
            raise ValueError("a recorded stream is no full answer")
        return self.whole(self.wire.full(answer, dict(request)))


def _payloads(frame: bytes) -> list[JSON]:
    decoder = SseDecoder()
    frames = [*decoder.feed(frame), *decoder.flush()]
    return [json.loads(data) for data in map(data_of, frames) if data and data != "[DONE]"]


def _chat_items(frame: bytes) -> Sequence[object]:
    return [ModelResponseStream(**payload) for payload in _payloads(frame) if "choices" in payload]


def _completions_items(frame: bytes) -> Sequence[object]:
    return [TextCompletionResponse(**payload) for payload in _payloads(frame)]


def _responses_items(frame: bytes) -> Sequence[object]:
    config = cast(Any, OpenAIResponsesAPIConfig())
    return [config.transform_streaming_response("scripted", payload, None) for payload in _payloads(frame)]


def _frames(frame: bytes) -> Sequence[object]:
    return [frame]


def _chat_whole(payload: JSON) -> object:
    return ModelResponse(**payload)


def _completions_whole(payload: JSON) -> object:
    return TextCompletionResponse(**payload)


def _responses_whole(payload: JSON) -> object:
    return ResponsesAPIResponse(**payload)


def _as_it_is(payload: JSON) -> object:
    return payload


ROUTES: Mapping[RouteName, Route] = MappingProxyType(
    {
        "chat": Route("acompletion", "/v1/chat/completions", _TURN, openai_wire, _chat_items, _chat_whole),
        "messages": Route(
            "anthropic_messages", "/v1/messages", {**_TURN, "max_tokens": 1024}, anthropic_wire, _frames, _as_it_is
        ),
        "responses": Route(
            "aresponses", "/v1/responses", {"input": "hello"}, responses_wire, _responses_items, _responses_whole
        ),
        "completions": Route(
            "atext_completion",
            "/v1/completions",
            {"prompt": "hello"},
            completions_wire,
            _completions_items,
            _completions_whole,
        ),
        "gemini": Route(
            "agenerate_content",
            "/v1beta/models/scripted:generateContent",
            {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]},
            gemini_wire,
            _frames,
            _as_it_is,
        ),
    }
)
