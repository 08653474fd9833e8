"""Record of the wire of Gemini's generateContent."""

import json
from collections.abc import Iterator, Sequence
from typing import cast

from pydantic import BaseModel

from luthien_litellm_hooks.wire.events import ToolCall
from luthien_litellm_hooks.wire.format import (
    Adapter,
    Blocks,
    JsonObject,
    LogShape,
    NewResponse,
    NextTurn,
    Refusal,
    ResponseRules,
    WireFormat,
    arguments_of,
    event_payloads,
    of_choice,
)
from luthien_litellm_hooks.wire.gemini.read import CODE
from luthien_litellm_hooks.wire.request_shape import (
    Json,
    RequestShape,
    Thought,
    ToolResult,
    string_in,
    tool_call,
    tool_result,
)

_RULES = ResponseRules(
    marks_blocks=False,
    has_text_after_calls=False,
    stop_reason="STOP",
    tool_reasons=("STOP",),
    cut_reasons=("MAX_TOKENS",),
)


def _adapter(new: NewResponse) -> Adapter:
    from luthien_litellm_hooks.wire.gemini.adapter import GeminiAdapter

    return GeminiAdapter(_RULES, template={"modelVersion": new.model, "responseId": str(new.id)})


def _next_body(body: Json, response: Sequence[object], refusals: Sequence[Refusal]) -> JsonObject | None:
    """Returns the body with the response's parts, each with its signature, and the refusals behind its contents."""
    parts = [part for payload in _payloads(response) for part in _said_parts(payload)]
    calls: list[Json] = [part["functionCall"] for part in parts if "functionCall" in part]
    if [call.get("name") for call in calls] != [refusal.name for refusal in refusals]:
        return None
    results = [
        {
            "functionResponse": {
                **({"id": call["id"]} if call.get("id") else {}),
                "name": refusal.name,
                "response": {"error": refusal.text},
            }
        }
        for call, refusal in zip(calls, refusals, strict=True)
    ]
    said = [{"role": "model", "parts": parts}, {"role": "user", "parts": results}]
    return {**body, "contents": [*body["contents"], *said]}


def _payloads(response: Sequence[object]) -> Iterator[Json]:
    first = response[0] if response else None
    if isinstance(first, BaseModel):
        yield first.model_extra or {}
    elif isinstance(first, dict):
        yield cast(Json, first)
    else:
        yield from event_payloads(b"".join(item for item in response if isinstance(item, bytes)).decode())


def _said_parts(payload: Json) -> list[Json]:
    candidates: list[Json] = payload.get("candidates") or [{}]
    content: Json = candidates[0].get("content") or {}
    parts: list[Json] = content.get("parts") or []
    return [part for part in parts if part != {"text": ""}]


def _question(text: str, max_tokens: int) -> JsonObject:
    contents = [{"role": "user", "parts": [{"text": text}]}]
    return {"contents": contents, "generationConfig": {"maxOutputTokens": max_tokens}}


def _provider_reply(text: str, is_streaming: bool) -> str:
    candidate = {"content": {"parts": [{"text": text}], "role": "model"}, "finishReason": "STOP", "index": 0}
    usage = {"promptTokenCount": 0, "candidatesTokenCount": 0, "totalTokenCount": 0}
    body = json.dumps({"candidates": [candidate], "usageMetadata": usage})
    return f"data: {body}\n\n" if is_streaming else body


def _tokens(response: Json) -> tuple[int, int] | None:
    counts = response.get("usageMetadata")
    if not counts:
        return None
    completion = (counts.get("candidatesTokenCount") or 0) + (counts.get("thoughtsTokenCount") or 0)
    return counts.get("promptTokenCount") or 0, completion


def _logged(logged: Json, blocks: Blocks, finish_reason: str | None) -> JsonObject:
    return {
        "candidates": [
            {
                "index": index,
                "content": {"role": "model", "parts": [_part(block) for block in of_choice(blocks, index)]},
                "finishReason": finish_reason or candidate.get("finishReason"),
            }
            for index, candidate in enumerate(cast(list[Json], logged["candidates"]) or [{}])
        ]
    }


def _part(block: Json) -> JsonObject:
    if block["type"] == "tool_call":
        return {"functionCall": {"name": block["name"], "args": arguments_of(block)}}
    return {"text": block["text"], **({"thought": True} if block["type"] == "reasoning" else {})}


def _read_part(part: Json) -> Iterator[ToolCall | ToolResult | Thought]:
    """Yields the reasoning, the call or the result that is a part."""
    if part.get("thought") is True:
        yield Thought(string_in(part, "text"))
    if "role" in part:
        return
    for key, value in part.items():
        if not isinstance(value, dict):
            continue
        held = cast(JsonObject, value)
        if key in ("functionCall", "function_call"):
            yield tool_call(held, held.get("args"))
        elif key == "toolCall":
            yield tool_call({**held, "name": held.get("toolType")}, held.get("args"), form="server")
        elif key == "executableCode":
            yield tool_call({**held, "name": CODE}, {"code": held.get("code")}, form="server")
        elif key in ("functionResponse", "function_response", "toolResponse"):
            content: object = held.get("response")
            yield tool_result(held, content, id="id", is_error=isinstance(content, dict) and "error" in content)
        elif key == "codeExecutionResult":
            has_failed = held.get("outcome") not in (None, "OUTCOME_OK")
            yield tool_result({**held, "name": CODE}, held.get("output"), id="id", is_error=has_failed)


FORMAT = WireFormat(
    name="gemini",
    operation="generate_content",
    call_types=("agenerate_content", "generate_content", "agenerate_content_stream", "generate_content_stream"),
    streaming_call_types=("agenerate_content_stream", "generate_content_stream"),
    paths=("/v1beta/models/{model}:generateContent", "/models/{model}:generateContent"),
    stream_paths=("/v1beta/models/{model}:streamGenerateContent", "/models/{model}:streamGenerateContent"),
    stream_query="alt=sse",
    adapter=_adapter,
    rules=_RULES,
    request=RequestShape(
        texts={
            **dict.fromkeys(("systemInstruction", "system_instruction"), "system"),
            "contents": "user",
            **dict.fromkeys(("generationConfig", "config"), "system"),
        },
        conversation=("contents",),
        instruction_messages=("systemInstruction", "system_instruction"),
        roles={"model": "assistant", "function": "tool"},
        text_fields=frozenset({"text", "parts", "stopSequences", "stop_sequences"}),
        contents=("parts",),
        user_members=frozenset({"parts"}),
        signed_flags=frozenset({"thought"}),
        results={
            **dict.fromkeys(("functionResponse", "function_response", "toolResponse"), "response"),
            **dict.fromkeys(("codeExecutionResult", "code_execution_result"), "output"),
        },
        calls=frozenset({"functionCall", "toolCall", "executableCode", "executable_code"}),
        arguments=frozenset({"args", "code"}),
        readers=(_read_part,),
        tools=("tools",),
        declarations=("functionDeclarations", "function_declarations"),
        schemas=("parameters", "parametersJsonSchema", "parameters_json_schema"),
        unlisted_tools=("cachedContent", "cached_content"),
        token_limits=(("generationConfig", "maxOutputTokens"),),
    ),
    response_texts=frozenset({"text"}),
    recognises=lambda payload: "candidates" in payload,
    log=LogShape(
        holds=lambda logged: isinstance(logged.get("candidates"), list),
        content=_logged,
        other_fields=frozenset({"modelVersion", "responseId", "createTime", "usageMetadata"}),
    ),
    question=_question,
    next_turn=NextTurn(call="agenerate_content", body=_next_body),
    makes_mock_streams=True,
    provider_reply=_provider_reply,
    tokens=_tokens,
)
