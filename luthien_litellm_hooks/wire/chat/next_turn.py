"""Request of a chat completion after a response with tool calls."""

from collections.abc import Sequence
from typing import Any, cast

import litellm
from litellm.types.utils import Choices, ModelResponse

from luthien_litellm_hooks.wire.format import JsonObject, Refusal
from luthien_litellm_hooks.wire.request_shape import Json

_SENT_BACK = ("role", "content", "tool_calls", "function_call", "reasoning_content", "thinking_blocks")


def next_body(body: Json, response: Sequence[object], refusals: Sequence[Refusal]) -> JsonObject | None:
    """Returns the body with the response's message and the refusals behind its messages."""
    whole = response[0] if response and isinstance(response[0], ModelResponse) else _joined(response)
    choice: object = whole.choices[0] if isinstance(whole, ModelResponse) and len(whole.choices) == 1 else None
    if not isinstance(choice, Choices):
        return None
    message = choice.message.model_dump(exclude_none=True, include=set(_SENT_BACK))
    calls: list[JsonObject] = message.get("tool_calls", [])
    for call in calls:
        call.pop("index", None)
    if len(calls) != len(refusals) and not ("function_call" in message and len(refusals) == 1):
        return None
    return {**body, "messages": [*body["messages"], message, *map(_result, refusals)]}


def _joined(response: Sequence[object]) -> object:
    return cast(Any, litellm).stream_chunk_builder([*response])


def _result(refusal: Refusal) -> JsonObject:
    if refusal.id is None:
        return {"role": "function", "name": refusal.name, "content": refusal.text}
    return {"role": "tool", "tool_call_id": refusal.id, "content": refusal.text}
