"""What clients of each wire make of an answer: readers that object to a stream that is not legal."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from litellm.types.llms.openai import ResponsesAPIResponse
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from luthien_litellm_hooks.testing.routes import RouteName
from tests.support import messages, responses
from tests.support.chat import Delivered

Items = Sequence[Any]


def text_of(item: Any) -> str:
    """All that stands in an item, as it goes over the wire, or would if it could."""
    if isinstance(item, bytes):
        return item.decode(errors="replace")
    if isinstance(item, dict):
        return json.dumps(item)
    if not isinstance(item, BaseModel):  # a provider's garbage
        return repr(item)
    try:
        return item.model_dump_json(exclude_none=True, warnings=False)
    except PydanticSerializationError:  # a lone surrogate, or a list too deep: LiteLLM's own trouble
        return repr(item)


def _plain(item: Any) -> dict[str, Any]:
    return json.loads(text_of(item))


@dataclass(frozen=True)
class Client:
    """A wire's reader. `piece` is what an item says that no other item says again; `check` fails if
    the items are no legal answer."""

    piece: Callable[[Any], str]
    check: Callable[[Items], None]


def check_chat(items: Items) -> None:
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for item in items:
        state.handle_chunk(ChatCompletionChunk.construct(**_plain(item)))
    delivered = Delivered.of(items)
    [reason] = delivered.finish_reasons
    assert reason not in ("tool_calls", "function_call") or delivered.calls, "stops for a call that is not there"
    assert all(id and name for id, name, _ in delivered.calls), "a call without a head"
    assert len({id for id, _, _ in delivered.calls}) == len(delivered.calls), "two calls have the same id"


def check_messages(items: Items) -> None:
    frames = messages.payloads(b"".join(items))
    for frame in frames:
        if frame.get("delta", {}).get("type") == "input_json_delta":
            frame["delta"]["partial_json"] = ""  # a policy may let half of a call out
    messages.check(frames)
    messages.accumulated(frames)


def check_responses(items: Items) -> None:
    responses.read_strictly(items)


def check_completions(items: Items) -> None:
    reasons: list[str] = []
    for choice in (choice for item in items for choice in item.choices):
        assert not (reasons and choice.text), "after the finish"
        reasons += [choice.finish_reason] if choice.finish_reason else []
    assert len(reasons) == 1


def check_gemini(items: Items) -> None:
    reasons: list[str] = []
    for line in b"".join(items).decode().splitlines():
        payload = json.loads(line.removeprefix("data:")) if line else {}
        for candidate in payload.get("candidates", ()):
            parts = candidate["content"]["parts"]
            assert not reasons or all(part == {"text": ""} for part in parts), "after the finish"
            reasons += [candidate["finishReason"]] if "finishReason" in candidate else []
    assert len(reasons) == 1


def _response_piece(item: Any) -> str:
    """Of a stream of this wire only deltas, and the heads of calls, bring something new."""
    if isinstance(item, ResponsesAPIResponse) or not isinstance(item, BaseModel):
        return text_of(item)
    if item.type.endswith(".delta"):
        return item.delta
    return text_of(item) if item.type == "response.output_item.added" else ""


CLIENTS: Mapping[RouteName, Client] = {
    "chat": Client(text_of, check_chat),
    "messages": Client(text_of, check_messages),
    "responses": Client(_response_piece, check_responses),
    "completions": Client(text_of, check_completions),
    "gemini": Client(text_of, check_gemini),
}
