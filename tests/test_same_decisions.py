"""One policy, one request, one answer: the same decisions whatever the route, streamed or not."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from litellm.types.llms.openai import ResponsesAPIResponse
from litellm.types.utils import ModelResponse, ModelResponseStream, TextCompletionResponse

from luthien_litellm_hooks import (
    Decision,
    PolicyBlockedError,
    PolicyContext,
    PolicyExecutor,
    Request,
    SimplePolicy,
    ToolCall,
    ToolCallStreamBlock,
)
from luthien_litellm_hooks.adapters.base import Adapter
from luthien_litellm_hooks.adapters.sse import SseDecoder
from luthien_litellm_hooks.hooks.routes import GOVERNED
from luthien_litellm_hooks.testing import anthropic_wire, completions_wire, gemini_wire, openai_wire, responses_wire
from luthien_litellm_hooks.testing.answers import Answer, Call, Say, Think
from tests.support import responses
from tests.support.chat import provide, pull

REQUEST = {"model": "m", "messages": [], "stream_options": {"include_usage": True}}
TEXT_ALONE = Answer([Say("one secret, two")])
EVERYTHING = Answer(
    [
        Think("step by step", signature="sig"),
        Say("one secret, two"),
        Call("search", '{"q": 1}', id="call_a"),
        Call("delete", '{"path": "/"}', id="call_b"),
        Call("search", '{"q": 2}', id="call_c"),
    ]
)


class Mixed(SimplePolicy):
    """Changes text, drops one call, changes another."""

    async def on_response_content(self, content: str, request: Request) -> str | None:
        return content.replace("secret", "***")

    async def on_response_tool_call(self, tool_call: ToolCall, request: Request) -> ToolCall | None:
        if tool_call.name == "delete":
            return None
        return replace(tool_call, arguments='{"q": 0}') if '"q": 2' in tool_call.arguments else tool_call


class Refuses(SimplePolicy):
    """Ends the answer at a call."""

    async def on_response_tool_call(self, tool_call: ToolCall, request: Request) -> ToolCall | None:
        if tool_call.name == "delete":
            raise PolicyBlockedError("No.", reason="it deletes")
        return tool_call


class Fails(SimplePolicy):
    """Breaks."""

    async def on_response_content(self, content: str, request: Request) -> str | None:
        raise KeyError("broken")


def _payloads(frames: Iterable[Any]) -> list[dict[str, Any]]:
    decoder = SseDecoder()
    read = [frame.data for item in frames if isinstance(item, bytes) for frame in decoder.feed(item)]
    return [json.loads(data) for data in read if data and data != "[DONE]"]


def _bytes(frames: Iterable[Any]) -> list[Any]:
    return [item for item in frames if isinstance(item, bytes)]


# What LiteLLM hands to a plugin on each route: a stream, and a full answer.
ROUTES: dict[str, tuple[str, Callable[[Answer], Sequence[Any]], Callable[[Answer], Any]]] = {
    "chat": (
        "acompletion",
        lambda answer: [ModelResponseStream(**chunk) for chunk in _payloads(openai_wire.stream(answer, REQUEST))],
        lambda answer: ModelResponse(**openai_wire.full(answer, REQUEST)),
    ),
    "completions": (
        "atext_completion",
        lambda answer: [TextCompletionResponse(**c) for c in _payloads(completions_wire.stream(answer, REQUEST))],
        lambda answer: TextCompletionResponse(**completions_wire.full(answer, REQUEST)),
    ),
    "messages": (
        "anthropic_messages",
        lambda answer: _bytes(anthropic_wire.stream(answer, REQUEST)),
        lambda answer: anthropic_wire.full(answer, REQUEST),
    ),
    "responses": (
        "aresponses",
        lambda answer: [responses.parse(event) for event in _payloads(responses_wire.stream(answer, REQUEST))],
        lambda answer: ResponsesAPIResponse(**responses_wire.full(answer, REQUEST)),
    ),
    "gemini": (
        "agenerate_content",
        lambda answer: _bytes(gemini_wire.stream(answer, REQUEST)),
        lambda answer: gemini_wire.full(answer, REQUEST),
    ),
}


async def _decisions(policy: SimplePolicy, route: str, answer: Answer, is_streamed: bool) -> list[Any]:
    call_type, stream, full = ROUTES[route]
    ctx = PolicyContext("transaction", Request(REQUEST))
    adapter: Adapter = GOVERNED[call_type](ctx.request)
    executor = PolicyExecutor(policy)
    if is_streamed:
        await pull(executor.run(provide(stream(answer)), adapter, ctx))
    else:
        await executor.run_full(full(answer), adapter, ctx)
    return [_record(decision) for decision in ctx.decisions]


def _record(decision: Decision) -> tuple[Any, ...]:
    block = decision.block
    said = (block.name, json.loads(block.arguments)) if isinstance(block, ToolCallStreamBlock) else None
    return (decision.policy, decision.action, type(block).__name__, said, decision.reason, decision.message)


@pytest.mark.parametrize("is_streamed", [True, False], ids=["stream", "full"])
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("policy", [Mixed(), Refuses(), Fails()], ids=lambda policy: type(policy).__name__)
async def test_the_decisions_are_those_of_chat(policy: SimplePolicy, route: str, is_streamed: bool) -> None:
    answer = TEXT_ALONE if route == "completions" else EVERYTHING
    expected = await _decisions(policy, "chat", answer, is_streamed=True)
    assert await _decisions(policy, route, answer, is_streamed) == expected
    assert expected or (type(policy) is Refuses and answer is TEXT_ALONE)
