"""Request of Anthropic's messages after a response with tool calls."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

from luthien_litellm_hooks.wire.format import JsonObject, Refusal, event_payloads
from luthien_litellm_hooks.wire.request_shape import Json

_PIECES = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
    "input_json_delta": "input",
}
"""Members of a block of content, by the kind of the deltas that add to them."""


def next_body(body: Json, response: Sequence[object], refusals: Sequence[Refusal]) -> JsonObject | None:
    """Returns the body with the response's blocks, thinking with its signature, and the refusals behind its
    messages."""
    is_full = bool(response) and isinstance(response[0], dict)
    content: list[Json] = [*cast(Json, response[0])["content"]] if is_full else [*_content(response)]
    calls = [block["id"] for block in content if block["type"] == "tool_use"]
    if calls != [refusal.id for refusal in refusals]:
        return None
    results = [
        {"type": "tool_result", "tool_use_id": refusal.id, "content": refusal.text, "is_error": True}
        for refusal in refusals
    ]
    said = [{"role": "assistant", "content": content}, {"role": "user", "content": results}]
    return {**body, "messages": [*body["messages"], *said]}


def _content(stream: Iterable[object]) -> list[JsonObject]:
    """Returns the blocks of a streamed message."""
    blocks: dict[int, JsonObject] = {}
    inputs: dict[int, str] = {}
    for payload in _payloads(stream):
        index: int = payload.get("index", 0)
        if payload["type"] == "content_block_start":
            blocks[index] = {**payload["content_block"]}
        elif payload["type"] == "content_block_delta":
            delta: Json = payload["delta"]
            name = _PIECES.get(delta["type"])
            if name == "input":
                inputs[index] = inputs.get(index, "") + delta["partial_json"]
            elif name is not None:
                blocks[index][name] = (blocks[index].get(name) or "") + delta[name]
            elif delta["type"] == "citations_delta":
                blocks[index]["citations"] = [*(blocks[index].get("citations") or ()), delta["citation"]]
    for index, text in inputs.items():
        blocks[index]["input"] = json.loads(text or "{}")
    return [block for _, block in sorted(blocks.items()) if block["type"] != "text" or block["text"]]


def _payloads(stream: Iterable[object]) -> Iterator[dict[str, Any]]:
    text = b"".join(item for item in stream if isinstance(item, bytes)).decode()
    return (dict(payload) for payload in event_payloads(text) if "type" in payload)
