"""Request of OpenAI's responses after a response with tool calls."""

from collections.abc import Sequence
from typing import Any, cast

from litellm.types.llms.openai import ResponsesAPIResponse
from pydantic import BaseModel

from luthien_litellm_hooks.wire.format import JsonObject, Refusal
from luthien_litellm_hooks.wire.request_shape import Json
from luthien_litellm_hooks.wire.responses.kinds import FINISHES, ITEM_DONE, get, pieces

_RESULTS = {"function_call": "function_call_output", "custom_tool_call": "custom_tool_call_output"}
_OTHERS = ("message", "reasoning")
_STORED = ("previous_response_id", "conversation", "prompt")


def next_body(body: Json, response: Sequence[object], refusals: Sequence[Refusal]) -> JsonObject | None:
    """Returns the body with the response's items and the refusals behind its input; None if the provider stores the
    response, because the client may name it instead of its items."""
    if body.get("store") is not False or any(body.get(name) for name in _STORED):
        return None
    items = [_plain(item) for item in _items(response)]
    calls = [item for item in items if item["type"] not in _OTHERS]
    if [call.get("call_id") for call in calls] != [refusal.id for refusal in refusals]:
        return None
    if any(call["type"] not in _RESULTS for call in calls):
        return None
    results = [
        {"type": _RESULTS[call["type"]], "call_id": refusal.id, "output": refusal.text}
        for call, refusal in zip(calls, refusals, strict=True)
    ]
    asked: object = body.get("input")
    before = [{"role": "user", "content": asked}] if isinstance(asked, str) else cast(list[object], asked or [])
    return {**body, "input": [*before, *filter(_can_be_sent_back, items), *results]}


def _items(response: Sequence[object]) -> list[object]:
    """Returns the items of a full response, or of a stream: of its last unit, or else its complete ones."""
    if response and isinstance(response[0], ResponsesAPIResponse):
        return pieces(response[0], "output")
    last = next((unit for unit in reversed(response) if get(unit, "type") in FINISHES), None)
    done = [get(unit, "item") for unit in response if get(unit, "type") == ITEM_DONE]
    return pieces(get(last, "response"), "output") or done


def _plain(item: object) -> JsonObject:
    """Returns an item without its id, which a provider only knows of what it stores."""
    fields: dict[str, Any] = (
        item.model_dump(exclude_none=True) if isinstance(item, BaseModel) else dict(cast(Json, item))
    )
    return {name: value for name, value in fields.items() if name != "id" and value is not None}


def _can_be_sent_back(item: JsonObject) -> bool:
    """Holds unless it is reasoning that the provider cannot know again."""
    return item["type"] != "reasoning" or bool(item.get("encrypted_content"))
