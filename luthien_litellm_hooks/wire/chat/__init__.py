"""Record of the wire of OpenAI's chat completions."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

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
    of_choice,
    text_of,
)
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
    has_text_after_calls=True,
    stop_reason="stop",
    tool_reasons=("tool_calls", "function_call"),
    cut_reasons=("length",),
)


def _adapter(new: NewResponse) -> Adapter:
    from litellm.types.utils import ModelResponseStream

    from luthien_litellm_hooks.wire.chat.adapter import ChatAdapter

    return ChatAdapter(_RULES, lambda: ModelResponseStream(id=f"chatcmpl-{new.id}", model=new.model))


_SENT_BACK = ("role", "content", "tool_calls", "function_call", "reasoning_content", "thinking_blocks")


def _next_body(body: Json, response: Sequence[object], refusals: Sequence[Refusal]) -> JsonObject | None:
    """Returns the body with the response's message and the refusals behind its messages."""
    from litellm.types.utils import Choices, ModelResponse

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
    import litellm

    return cast(Any, litellm).stream_chunk_builder([*response])


def _result(refusal: Refusal) -> JsonObject:
    if refusal.id is None:
        return {"role": "function", "name": refusal.name, "content": refusal.text}
    return {"role": "tool", "tool_call_id": refusal.id, "content": refusal.text}


def _question(text: str, max_tokens: int) -> JsonObject:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": max_tokens}


def choices_of(payload: Json) -> list[Json]:
    """Returns the choices of a response of this wire, or of text completions."""
    choices: object = payload.get("choices")
    items = cast(list[object], choices) if isinstance(choices, list) else []
    return [cast(Json, choice) for choice in items if isinstance(choice, dict)]


def has_texts(payload: Json) -> bool:
    """Tells whether a choice holds a bare text, as in text completions."""
    return any("text" in choice and "message" not in choice for choice in choices_of(payload))


def _recognises(payload: Json) -> bool:
    return isinstance(payload.get("choices"), list) and not has_texts(payload)


def _logged(logged: Json, blocks: Blocks, finish_reason: str | None) -> JsonObject:
    return {"choices": [_choice(choice, blocks, finish_reason) for choice in choices_of(logged) or [{}]]}


def _choice(logged: Json, blocks: Blocks, finish_reason: str | None) -> JsonObject:
    index = logged.get("index") or 0
    delivered = of_choice(blocks, index)
    calls = [
        {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
        for call in delivered
        if call["type"] == "tool_call"
    ]
    message: JsonObject = {"role": "assistant", "content": text_of(delivered), "tool_calls": calls or None}
    if reasoning := text_of(delivered, "reasoning"):
        message["reasoning_content"] = reasoning
    return {"index": index, "finish_reason": finish_reason or logged.get("finish_reason"), "message": message}


def _read_message(message: Json) -> Iterator[ToolCall | ToolResult | Thought]:
    """Yields the reasoning and the calls of a message, or the result in it."""
    if message.get("role") in ("tool", "function") and "content" in message:
        yield tool_result(message, message["content"], id="tool_call_id")
    if message.get("role") != "assistant":
        return
    if reasoning := string_in(message, "reasoning_content") or string_in(message, "reasoning"):
        yield Thought(reasoning)
    calls: object = message.get("tool_calls")
    for call in cast(list[object], calls) if isinstance(calls, list) else []:
        if isinstance(call, dict):
            yield from _read_call(cast(JsonObject, call))
    if isinstance(legacy := message.get("function_call"), dict):
        legacy = cast(JsonObject, legacy)
        yield tool_call(legacy, legacy.get("arguments"), form="legacy_function")


def _read_call(call: JsonObject) -> Iterator[ToolCall]:
    if isinstance(custom := call.get("custom"), dict):
        custom = cast(JsonObject, custom)
        yield tool_call({**custom, "id": call.get("id")}, custom.get("input"), form="custom")
    elif isinstance(function := call.get("function"), dict):
        function = cast(JsonObject, function)
        yield tool_call({**function, "id": call.get("id")}, function.get("arguments"))


_ADDED_TEXTS = {
    "prediction": "user",
    "documents": "user",
    "user_continue_message": "user",
    "assistant_continue_message": "assistant",
    **dict.fromkeys(("initial_prompt_value", "final_prompt_value", "bos_token", "eos_token"), "system"),
    **dict.fromkeys(("stop", "preamble", "system_prompt"), "system"),
    **dict.fromkeys(("message", "chat_history"), "user"),
    "tool_results": "tool",
}
"""Texts beside the messages: the predicted output, documents, stop sequences, LiteLLM's additions to messages and
prompts, and fields of Cohere and Replicate, which LiteLLM passes on."""
_COHERE_ROLES = {"SYSTEM": "system", "USER": "user", "CHATBOT": "assistant", "TOOL": "tool"}
_TEXT_FIELDS = ("text", "content", "refusal", "title", "pre_message", "post_message", "message", "tool_plan")

FORMAT = WireFormat(
    name="chat",
    operation="chat",
    call_types=("acompletion", "completion"),
    paths=(
        *("/v1/chat/completions", "/chat/completions"),
        *("/engines/{model}/chat/completions", "/openai/deployments/{model}/chat/completions"),
    ),
    adapter=_adapter,
    rules=_RULES,
    request=RequestShape(
        texts={"litellm_system_prompt": "system", "messages": "user", **_ADDED_TEXTS},
        conversation=("messages",),
        variables=("prompt_variables", "roles"),
        roles={"developer": "system", "function": "tool", **_COHERE_ROLES},
        text_fields=frozenset((*_TEXT_FIELDS, "snippet", "annotations", "url_citation")),
        contents=("content",),
        results={"tool_results": "outputs"},
        named_texts=frozenset({"data"}),
        calls=frozenset({"tool_calls", "function", "function_call", "custom", "call"}),
        arguments=frozenset({"arguments", "input", "parameters"}),
        readers=(_read_message,),
        tools=("tools", "functions"),
        tool_choices=("tool_choice", "function_call"),
        declarations=("function", "custom"),
        schemas=("parameters",),
        implied_tools={"web_search_options": "web_search"},
        unlisted_tools=("prompt_id",),
        token_limits=(("max_tokens",), ("max_completion_tokens",)),
    ),
    response_texts=frozenset({"content", "refusal", "reasoning_content", "arguments"}),
    recognises=_recognises,
    log=LogShape(
        holds=_recognises,
        content=_logged,
        other_fields=frozenset({"id", "object", "created", "model", "usage", "system_fingerprint", "service_tier"}),
    ),
    logged_fields=("messages",),
    question=_question,
    next_turn=NextTurn(call="acompletion", body=_next_body),
    makes_mock_streams=True,
)
