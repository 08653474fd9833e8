"""Record of the wire of Anthropic's messages."""

import json
from collections.abc import Iterable, Iterator, Sequence
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
    arguments_of,
    event_payloads,
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
    marks_blocks=True,
    has_text_after_calls=False,
    stop_reason="end_turn",
    tool_reasons=("tool_use",),
    cut_reasons=("max_tokens", "model_context_window_exceeded"),
)


def _adapter(new: NewResponse) -> Adapter:
    from luthien_litellm_hooks.wire.messages.adapter import MessagesAdapter

    return MessagesAdapter(_RULES, model=new.model, id=f"msg_{new.id.hex}", takes_flags=new.takes_flags)


_PIECES = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
    "input_json_delta": "input",
}
"""Members of a block of content, by the kind of the deltas that add to them."""


def _takes_flags(body: Json) -> bool:
    from luthien_litellm_hooks.wire.messages.safeguards import asks_for_verdicts

    return asks_for_verdicts(body)


def _next_body(body: Json, response: Sequence[object], refusals: Sequence[Refusal]) -> JsonObject | None:
    """Returns the body with the response's blocks, thinking with its signature, and the refusals behind its
    messages."""
    is_full = bool(response) and isinstance(response[0], dict)
    content: list[Json] = [*cast(Json, response[0])["content"]] if is_full else [*_streamed_content(response)]
    calls = [block["id"] for block in content if block["type"] == "tool_use"]
    if calls != [refusal.id for refusal in refusals]:
        return None
    results = [
        {"type": "tool_result", "tool_use_id": refusal.id, "content": refusal.text, "is_error": True}
        for refusal in refusals
    ]
    said = [{"role": "assistant", "content": content}, {"role": "user", "content": results}]
    return {**body, "messages": [*body["messages"], *said]}


def _streamed_content(stream: Iterable[object]) -> list[JsonObject]:
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


def _question(text: str, max_tokens: int) -> JsonObject:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": max_tokens}


def _logged(logged: Json, blocks: Blocks, finish_reason: str | None) -> JsonObject:
    content = [_block(block) for block in blocks]
    return {"content": content, "stop_reason": finish_reason or logged.get("stop_reason")}


def _block(block: Json) -> JsonObject:
    if block["type"] == "tool_call":
        return {"type": "tool_use", "id": block["id"], "name": block["name"], "input": arguments_of(block)}
    if block["type"] == "reasoning":
        return {"type": "thinking", "thinking": block["text"]}
    return {"type": "text", "text": block["text"]}


def _read_block(block: Json) -> Iterator[ToolCall | ToolResult | Thought]:
    """Yields the reasoning, the call or the result that is a block of content."""
    kind = string_in(block, "type")
    if kind == "thinking":
        yield Thought(string_in(block, "thinking"))
    elif kind.endswith("tool_use"):
        yield tool_call(block, block.get("input"), form="function" if kind == "tool_use" else "server")
    elif kind.endswith("tool_result"):
        content: object = block.get("content")
        has_failed = block.get("is_error") is True or _is_error(content)
        yield tool_result(block, content, id="tool_use_id", is_error=has_failed)


def _is_error(content: object) -> bool:
    """Tells whether the content of a server's result is an error."""
    return isinstance(content, dict) and string_in(cast(Json, content), "type").endswith("_error")


_OF_THE_MACHINE = ("permission_mode", "platform", "live_cwd", "home_dir", "trusted_directories")
"""Fields of Claude Code's `classifier_context` that describe the machine and the mode. Its others quote files that an
agent may have written: `rules` those of the project, `git_state` the names of branches."""


def _surroundings(body: Json) -> Json:
    """Returns the description that Claude Code gives in its auto mode for a classifier."""
    asked: object = body.get("safeguards")
    for safeguard in cast(list[object], asked) if isinstance(asked, list) else []:
        context: object = cast(Json, safeguard).get("classifier_context") if isinstance(safeguard, dict) else None
        if isinstance(context, dict):
            given = cast(Json, context)
            return {key: given[key] for key in _OF_THE_MACHINE if _is_text(given.get(key))}
    return {}


def _is_text(value: object) -> bool:
    """Tells whether a value is a text, or a list of them."""
    texts = cast(list[object], value if isinstance(value, list) else [value])
    return all(isinstance(text, str) for text in texts)


_TEXT_FIELDS = ("text", "content", "title", "context", "stdout", "stderr", "lines", "error_message")
_CITATIONS = ("citations", "cited_text", "document_title")
_BROWSER = ("tabs", "state_changes", "error")
_OF_REQUEST = ("edits", "instructions", "classifier_context", "rules")
"""Members of `context_management` and `safeguards`."""

FORMAT = WireFormat(
    name="messages",
    operation="chat",
    call_types=("anthropic_messages", "aanthropic_messages"),
    paths=("/v1/messages",),
    adapter=_adapter,
    rules=_RULES,
    request=RequestShape(
        texts={
            "system": "system",
            "messages": "user",
            **dict.fromkeys(("stop_sequences", "context_management", "compaction", "safeguards"), "system"),
        },
        conversation=("messages",),
        instructions=("system",),
        text_fields=frozenset((*_TEXT_FIELDS, *_CITATIONS, *_BROWSER, *_OF_REQUEST)),
        contents=("content",),
        named_texts=frozenset({"rules", "auto_mode", "git_state"}),
        signed_types=frozenset({"thinking", "redacted_thinking"}),
        sources={"text": "data", "content": "content"},
        result_types=("tool_result",),
        result_parts=frozenset({"tool_result"}),
        arguments=frozenset({"input"}),
        readers=(_read_block,),
        surroundings=(_surroundings,),
        tools=("tools",),
        schemas=("input_schema",),
        tool_choices=("tool_choice",),
        added_tools=frozenset({"tool_addition"}),
        unlisted_tools=("mcp_servers",),
        token_limits=(("max_tokens",),),
    ),
    response_texts=frozenset({"text", "thinking"}),
    recognises=lambda payload: payload.get("type") in ("message", "message_start"),
    log=LogShape(
        holds=lambda logged: isinstance(logged.get("content"), list),
        content=_logged,
        other_fields=frozenset({"id", "type", "role", "model", "usage", "stop_reason"}),
    ),
    logged_fields=("messages",),
    question=_question,
    next_turn=NextTurn(call="aanthropic_messages", body=_next_body),
    takes_flags=_takes_flags,
)
