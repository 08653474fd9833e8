"""Blocks of an Anthropic message, streamed or full: kinds, known fields, calls, quotes, empty blocks."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.wire import readable
from luthien_litellm_hooks.wire.events import Quote, ToolCallDelta

JSON: TypeAlias = dict[str, Any]
Kind = Literal["text", "reasoning", "tool_call", "other", "unknown"]

_RESULTS = frozenset(
    f"{name}_tool_result"
    for name in (
        "web_search",
        "web_fetch",
        "code_execution",
        "bash_code_execution",
        "text_editor_code_execution",
        "tool_search",
        "advisor",
        "mcp",
    )
)
CALLS = ("tool_use", "server_tool_use", "mcp_tool_use")
_CALL = frozenset({"type", "id", "name", "input"})
_BLOCKS: Mapping[str, tuple[Kind, frozenset[str]]] = MappingProxyType(
    {
        "text": ("text", frozenset({"type", "text", "citations"})),
        "thinking": ("reasoning", frozenset({"type", "thinking", "signature"})),
        "redacted_thinking": ("reasoning", frozenset({"type", "data"})),
        "tool_use": ("tool_call", _CALL | {"toolset_name"}),
        "server_tool_use": ("tool_call", _CALL),
        "mcp_tool_use": ("tool_call", _CALL | {"server_name"}),
        "container_upload": ("other", frozenset({"type", "file_id"})),
        "compaction": ("other", frozenset({"type", "content", "encrypted_content", "signature", "tool_changes"})),
        **dict.fromkeys(_RESULTS, ("other", frozenset({"type", "tool_use_id", "content", "is_error"}))),
    }
)
"""By type of block, its kind for policies and its fields."""

_MESSAGE = frozenset(
    {"id", "type", "role", "model", "content", "usage", "stop_reason", "stop_details", "service_tier", "provider"}
)
_PLAIN = frozenset(
    {"caller", "cache_control", "provider_specific_fields"}
    | {"container", "context_management", "diagnostics", "input_transformations"}
)
"""Fields of identifiers, counts and signatures, without readable text."""

_REFUSAL = frozenset({"type", "category", "recommended_model", "fallback_credit_token", "fallback_has_prefill_claim"})


@dataclass(frozen=True, slots=True)
class ExtraFields:
    """Source of the event for fields that may repeat judged content: the unit with them and without, `bare`."""

    whole: JSON
    bare: JSON


@dataclass(frozen=True, slots=True)
class Refusal:
    """Source of the quote of why the model stopped: its details, and its unit without them, `bare`."""

    details: JSON
    bare: JSON


def fields(value: object, name: str) -> JSON:
    """Returns `value` if it is a JSON object. Raises `WireError` otherwise, with its `name`."""
    if not isinstance(value, dict):
        raise WireError(f"{name} is not a JSON object")
    return value  # pyright: ignore[reportUnknownVariableType]


def text_of(value: Mapping[str, object], name: str) -> str:
    """Returns the text of a field, "" if it is null or absent. Raises `WireError` if it is not a string."""
    text = value.get(name)
    if text is not None and not isinstance(text, str):
        raise WireError(f"{name!r} is not a string")
    return text or ""


def kind_of(type: str) -> Kind:
    return _BLOCKS[type][0] if type in _BLOCKS else "unknown"


# Fields that no policy judges


def without_extra(given: JSON, known: frozenset[str]) -> JSON:
    """Returns `given` without the fields that may repeat judged content; `given` itself if it has none.

    Such a field is not `known`, not empty, and holds readable text."""
    extra = [name for name, value in given.items() if value and name not in known and not _is_plain(name, value)]
    if not extra:
        return given
    bare = {name: value for name, value in given.items() if name not in extra}
    return {**bare, "stop_sequence": None} if "stop_sequence" in extra else bare


def _is_plain(name: str, value: object) -> bool:
    return value is True or (name in _PLAIN and not readable.read({"": value}))


def block_without_extra(block: JSON) -> JSON:
    return without_extra(block, _BLOCKS[text_of(block, "type")][1])


def message_without_extra(message: JSON) -> JSON:
    return without_extra(message, _MESSAGE)


# Calls


def is_server_call(block: JSON) -> bool:
    """Returns whether the provider runs this call itself."""
    return block.get("type") in ("server_tool_use", "mcp_tool_use")


def read_call(block: JSON, index: int, arguments: str) -> ToolCallDelta:
    """Returns the event of a call. `extra` holds the fields that a changed call keeps."""
    own = _CALL - {"type"} if block.get("type") == "mcp_tool_use" else _CALL
    return ToolCallDelta(
        index=index,
        id=text_of(block, "id") or None,
        name=text_of(block, "name"),
        arguments=arguments,
        form="server" if is_server_call(block) else "function",
        extra={name: value for name, value in block.items() if name not in own},
    )


def write_call(event: ToolCallDelta, call_input: JSON, response_id: str) -> JSON:
    """Returns the block of `event`. A call without an id gets one that is unique in its response."""
    type, prefix = ("server_tool_use", "srvtoolu") if event.form == "server" else ("tool_use", "toolu")
    id = event.id or f"{prefix}_{response_id.removeprefix('msg_')}_{event.index or 0}"
    return {"type": type, "id": id, "name": event.name, "input": call_input, **event.extra}


def is_named(event: ToolCallDelta, block: JSON) -> bool:
    """Returns whether `block` has the name and id of `event`."""
    return event.name == text_of(block, "name") and event.id == (block.get("id") or None)


def dump(value: object) -> str:
    """Returns arguments of a call as JSON, for a policy to judge."""
    return json.dumps(value, ensure_ascii=False)


# Quotes


_SUMMARY = "compaction"
"""Type of the block with the model's own summary of the conversation; a failed one has none."""


def is_quoted(block: JSON) -> bool:
    """Returns whether the content of the block is a quote: a result of a call that the provider ran, or a summary."""
    return block.get("type") in _RESULTS or block.get("type") == _SUMMARY


def text_of_result(block: JSON) -> str:
    """Returns the readable text of a result, or of a summary."""
    return readable.read({"": block.get("content")})


def write_result(block: JSON, text: str) -> JSON:
    """Returns a result or a summary with another text; a failed one if `text` is empty."""
    if text == text_of_result(block):
        return block
    if block["type"] == _SUMMARY:
        return write_summary({name: value for name, value in block.items() if name != "signature"}, text)
    if text:
        return {**block, "content": readable.written({"": block["content"]}, text)[""]}
    if block["type"] == "mcp_tool_result":
        return {**block, "content": [], "is_error": True}
    return {**block, "content": {"type": f"{block['type']}_error", "error_code": "unavailable"}}


def write_summary(holder: JSON, text: str) -> JSON:
    """Returns a summary, or the delta with it, with another text."""
    return {**holder, "content": text or None}


def read_citation(citation: object, index: int) -> Quote | None:
    """Returns the quote of one citation, None if it has no readable text."""
    text = readable.read(fields(citation, "a citation"))
    return Quote(role="detail", kind="text", index=index, text=text) if text else None


def write_citation(citation: JSON, text: str) -> JSON:
    """Returns a citation with another text."""
    return citation if text == readable.read(citation) else readable.written(citation, text)


def read_refusal(details: object) -> Quote | None:
    """Returns the quote of why the model stopped, None if `details` has no readable text. It belongs to no block."""
    text = readable.read(_explanation(fields(details, "the details of a stop"))) if details else ""
    return Quote(role="detail", kind="text", index=-1, text=text) if text else None


def write_refusal(details: JSON, text: str) -> JSON:
    """Returns the details of a stop with another text."""
    explanation = _explanation(details)
    return details if text == readable.read(explanation) else {**details, **readable.written(explanation, text)}


def _explanation(details: JSON) -> JSON:
    return {name: value for name, value in details.items() if name not in _REFUSAL}


# Empty blocks and messages


def empty_text() -> JSON:
    return {"type": "text", "text": ""}


def empty_thinking() -> JSON:
    return {"type": "thinking", "thinking": "", "signature": ""}


def empty_message(model: str, id: str) -> JSON:
    return {
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }
