"""The answer in LiteLLM's own log: what the client got, in the shape that LiteLLM logged the provider's in."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import httpx
from pydantic import BaseModel, ValidationError

from luthien_litellm_hooks.recorder import DefaultTransactionRecorder

_JSON = dict[str, Any]

_ANSWERS = ("complete_streaming_response", "async_complete_streaming_response", "complete_response")
"""Where LiteLLM's details of a call hold an answer that it has read."""
_RAW = "original_response"
_HTTP = "httpx_response"
_SAYS_NOTHING = frozenset(
    {"id", "object", "type", "role", "status", "created", "created_at", "completed_at", "model", "usage"}
    | {"modelVersion", "responseId", "createTime", "usageMetadata", "system_fingerprint", "service_tier"}
    | {"stop_reason", "parallel_tool_calls", "tool_choice", "tools", "temperature", "top_p", "max_output_tokens"}
    | {"previous_response_id", "store", "truncation"}
)
"""The fields beside an answer that cannot repeat what was withheld from it."""


def to_log(result: object, kept: DefaultTransactionRecorder) -> object:
    """What LiteLLM is to log of a provider's answer: the answer itself if the client got it as it came, else a copy
    that says what the client got."""
    if result is None or kept.is_delivered_as_it_came:
        return result
    if isinstance(result, dict):
        return as_delivered(cast(_JSON, result), kept.egress.content(), kept.egress.finish_reason)
    if not isinstance(result, BaseModel):
        return None
    inner: object = getattr(result, "response", None)
    if isinstance(inner, BaseModel):  # an event that ends a stream
        return result.model_copy(update={"response": to_log(inner, kept)})
    said = as_delivered(_dumped(result), kept.egress.content(), kept.egress.finish_reason)
    return _rebuilt(result, said)


def put_delivered(details: _JSON, kept: DefaultTransactionRecorder) -> None:
    """Puts the delivered answer wherever LiteLLM's details of a call hold the provider's."""
    if kept.is_delivered_as_it_came:
        return
    for name in _ANSWERS:
        if details.get(name) is not None:
            details[name] = to_log(details[name], kept)
    content, reason = kept.egress.content(), kept.egress.finish_reason
    if details.get(_RAW) is not None:
        details[_RAW] = json.dumps(as_delivered(_read(details[_RAW]), content, reason))
    response: object = details.get(_HTTP)
    if isinstance(response, httpx.Response):
        details[_HTTP] = httpx.Response(200, json=as_delivered(_body_of(response), content, reason))


def hide_answer(details: _JSON) -> None:
    """Takes the provider's answer out of LiteLLM's details of a call that failed."""
    for name in (*_ANSWERS, _RAW, _HTTP):
        if details.get(name) is not None:
            details[name] = None


def as_delivered(logged: _JSON, blocks: Sequence[Mapping[str, Any]], finish_reason: str | None) -> _JSON:
    """What `blocks` say, the content of a record, in the shape of `logged`. Of the other fields those stay that cannot
    repeat the provider's answer."""
    kept = {name: value for name, value in logged.items() if name in _SAYS_NOTHING}
    if isinstance(logged.get("choices"), list):
        return {**kept, "choices": _choices(logged["choices"] or [{"message": {}}], blocks, finish_reason)}
    if isinstance(logged.get("candidates"), list):
        return {**kept, "candidates": _candidates(logged["candidates"] or [{}], blocks, finish_reason)}
    if isinstance(logged.get("content"), list):
        content = [_anthropic_block(block) for block in blocks]
        return {**kept, "content": content, "stop_reason": finish_reason or logged.get("stop_reason")}
    return {**kept, "output": [_output_item(block) for block in blocks]}


def _body_of(response: httpx.Response) -> _JSON:
    try:
        return _read(response.text)
    except httpx.StreamError:  # it was a stream, which others have read
        return {}


def _read(text: object) -> _JSON:
    """The JSON object in a provider's answer; empty if it is something else."""
    try:
        value: object = json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        return {}
    return cast(_JSON, value) if isinstance(value, dict) else {}


def _dumped(answer: BaseModel) -> _JSON:
    return answer.model_dump(warnings=False)


def _rebuilt(answer: BaseModel, said: _JSON) -> BaseModel:
    """An object of the same class that says `said`, with LiteLLM's own notes on the call."""
    try:
        made = type(answer)(**said)
    except ValidationError:
        made = type(answer).model_construct(**said)
    notes: object = getattr(answer, "_hidden_params", None)
    if isinstance(notes, dict):
        hidden = {name: value for name, value in cast(_JSON, notes).items() if name != _RAW}
        cast(Any, made)._hidden_params = hidden
    return made


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
        made: _JSON = {"index": choice.get("index") or 0, "finish_reason": finish_reason or choice.get("finish_reason")}
        if "message" in choice:
            made["message"] = {"role": "assistant", "content": _text(said), "tool_calls": _calls(said) or None}
            if reasoning := _text(said, "reasoning"):
                made["message"]["reasoning_content"] = reasoning
        else:
            made["text"] = _text(said)
        choices.append(made)
    return choices


def _candidates(logged: list[_JSON], blocks: Sequence[Mapping[str, Any]], finish_reason: str | None) -> list[_JSON]:
    return [
        {
            "index": index,
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
