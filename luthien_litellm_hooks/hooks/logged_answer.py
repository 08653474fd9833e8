"""The answer in LiteLLM's own log: what the client got, in the shape that LiteLLM logged the provider's in."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

_JSON = dict[str, Any]


def as_delivered(logged: _JSON, blocks: Sequence[Mapping[str, Any]], finish_reason: str | None) -> _JSON:
    """A copy of `logged` that says `blocks`, the content of a record; usage and all else stay the
    provider's. An answer of a shape that is not known is returned as it is."""
    if isinstance(logged.get("choices"), list):
        return {**logged, "choices": _choices(logged["choices"], blocks, finish_reason)}
    if isinstance(logged.get("output"), list):
        return {**logged, "output": [_output_item(block) for block in blocks]}
    if isinstance(logged.get("candidates"), list):
        return {**logged, "candidates": _candidates(logged["candidates"], blocks, finish_reason)}
    if isinstance(logged.get("content"), list):
        content = [_anthropic_block(block) for block in blocks]
        return {**logged, "content": content, "stop_reason": finish_reason or logged.get("stop_reason")}
    return logged


def _of_choice(blocks: Sequence[Mapping[str, Any]], index: int) -> list[Mapping[str, Any]]:
    return [block for block in blocks if block.get("choice", 0) == index]


def _text(blocks: Sequence[Mapping[str, Any]], kind: str = "text") -> str:
    return "".join(block["text"] for block in blocks if block["type"] == kind)


def _calls(blocks: Sequence[Mapping[str, Any]]) -> list[_JSON]:
    return [
        {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
        for call in blocks
        if call["type"] == "tool_call"
    ]


def _choices(logged: list[_JSON], blocks: Sequence[Mapping[str, Any]], finish_reason: str | None) -> list[_JSON]:
    choices: list[_JSON] = []
    for choice in logged:
        said = _of_choice(blocks, choice.get("index") or 0)
        changed: _JSON = {"finish_reason": finish_reason or choice.get("finish_reason")}
        if "message" in choice:
            message = cast(_JSON, choice["message"] or {})
            changed["message"] = {**message, "content": _text(said), "tool_calls": _calls(said) or None}
            if "reasoning_content" in message:
                changed["message"]["reasoning_content"] = _text(said, "reasoning")
                changed["message"].pop("thinking_blocks", None)
        else:
            changed["text"] = _text(said)
        choices.append({**choice, **changed})
    return choices


def _candidates(logged: list[_JSON], blocks: Sequence[Mapping[str, Any]], finish_reason: str | None) -> list[_JSON]:
    return [
        {
            **candidate,
            "content": {"role": "model", "parts": [_part(block) for block in _of_choice(blocks, index)]},
            "finishReason": finish_reason or candidate.get("finishReason"),
        }
        for index, candidate in enumerate(logged)
    ]


def _part(block: Mapping[str, Any]) -> _JSON:
    if block["type"] == "tool_call":
        return {"functionCall": {"name": block["name"], "args": _arguments(block)}}
    return {"text": block["text"], **({"thought": True} if block["type"] == "reasoning" else {})}


def _anthropic_block(block: Mapping[str, Any]) -> _JSON:
    if block["type"] == "tool_call":
        return {"type": "tool_use", "id": block["id"], "name": block["name"], "input": _arguments(block)}
    if block["type"] == "reasoning":
        return {"type": "thinking", "thinking": block["text"]}
    return {"type": "text", "text": block["text"]}


def _output_item(block: Mapping[str, Any]) -> _JSON:
    if block["type"] == "tool_call":
        call = {"call_id": block["id"], "name": block["name"], "arguments": block["arguments"]}
        return {"type": "function_call", "status": "completed", **call}
    if block["type"] == "reasoning":
        return {"type": "reasoning", "summary": [{"type": "summary_text", "text": block["text"]}]}
    part: _JSON = {"type": "output_text", "text": block["text"], "annotations": []}
    return {"type": "message", "role": "assistant", "status": "completed", "content": [part]}


def _arguments(block: Mapping[str, Any]) -> object:
    try:
        return json.loads(block["arguments"] or "{}")
    except ValueError:
        return block["arguments"]
