"""The parts of an Anthropic message that streamed and full answers share: blocks, calls, quotes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, cast

from luthien_litellm_hooks.adapters import readable
from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import Quote, ToolCallDelta

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
"""What each block is to a policy, and the fields that its type has."""

_MESSAGE = frozenset(
    {"id", "type", "role", "model", "content", "usage", "stop_reason", "stop_details", "service_tier", "provider"}
)
_PLAIN = frozenset(
    {"caller", "cache_control", "provider_specific_fields"}
    | {"container", "context_management", "diagnostics", "input_transformations"}
)
"""The fields with identifiers, counts and signatures, and nothing to read in them."""

_REFUSAL = frozenset({"type", "category", "recommended_model", "fallback_credit_token", "fallback_has_prefill_claim"})


@dataclass(frozen=True, slots=True)
class Rest:
    """The unit `whole` with the fields that may repeat what a policy judges; `said` is the same unit without them."""

    whole: JSON
    said: JSON


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the model stopped, which a policy judges, in the unit that else is `said`."""

    details: JSON
    said: JSON


def fields(value: object, what: str) -> JSON:
    """`value` as the JSON object that it must be."""
    if not isinstance(value, dict):
        raise WireError(f"{what} was no JSON object")
    return cast(JSON, value)


def text_of(value: Mapping[str, object], name: str) -> str:
    """The text of a field; "" where it is null or absent."""
    text = value.get(name)
    if text is not None and not isinstance(text, str):
        raise WireError(f"{name!r} was no text")
    return text or ""


def kind_of(type: str) -> Kind:
    """What a block of this `type` is to a policy."""
    return _BLOCKS[type][0] if type in _BLOCKS else "unknown"


# Fields that no policy judges


def without_rest(given: JSON, known: frozenset[str]) -> JSON:
    """`given` without the fields that may repeat what a policy judges; the same object if there are none.

    Those are all that are not `known` and say anything."""
    rest = [name for name, value in given.items() if value and name not in known and not _is_plain(name, value)]
    if not rest:
        return given
    said = {name: value for name, value in given.items() if name not in rest}
    return {**said, "stop_sequence": None} if "stop_sequence" in rest else said


def _is_plain(name: str, value: object) -> bool:
    return value is True or (name in _PLAIN and not readable.read({"": value}))


def block_without_rest(block: JSON) -> JSON:
    """`block` without the fields that its type does not have."""
    return without_rest(block, _BLOCKS[text_of(block, "type")][1])


def message_without_rest(message: JSON) -> JSON:
    """`message` without what is none of its own."""
    return without_rest(message, _MESSAGE)


# Calls


def is_server_call(block: JSON) -> bool:
    """Whether the provider runs this call itself."""
    return block.get("type") in ("server_tool_use", "mcp_tool_use")


def read_call(block: JSON, index: int, arguments: str) -> ToolCallDelta:
    """The event of a block with a call. A changed call keeps the fields that say more of it."""
    kept = _CALL - {"type"} if block.get("type") == "mcp_tool_use" else _CALL
    return ToolCallDelta(
        index=index,
        id=text_of(block, "id") or None,
        name=text_of(block, "name"),
        arguments=arguments,
        form="server" if is_server_call(block) else "function",
        extra={name: value for name, value in block.items() if name not in kept},
    )


def write_call(event: ToolCallDelta, call_input: JSON, answer_id: str) -> JSON:
    """The block of `event`. One without an id gets one that is unique in its answer."""
    type, prefix = ("server_tool_use", "srvtoolu") if event.form == "server" else ("tool_use", "toolu")
    id = event.id or f"{prefix}_{answer_id.removeprefix('msg_')}_{event.index or 0}"
    return {"type": type, "id": id, "name": event.name, "input": call_input, **event.extra}


def is_named(event: ToolCallDelta, block: JSON) -> bool:
    """Whether `block` has the name and id of `event`."""
    return event.name == text_of(block, "name") and event.id == (block.get("id") or None)


def dump(value: object) -> str:
    """Arguments of a call as the text that a policy judges."""
    return json.dumps(value, ensure_ascii=False)


# Quotes


def is_result(block: JSON) -> bool:
    """Whether the block is what a call of the provider's own brought."""
    return block.get("type") in _RESULTS


def text_of_result(block: JSON) -> str:
    """The readable text of a result."""
    return readable.read({"": block.get("content")})


def write_result(block: JSON, text: str) -> JSON:
    """A result with another text; one that failed if that is empty."""
    if text == text_of_result(block):
        return block
    if text:
        return {**block, "content": readable.written({"": block["content"]}, text)[""]}
    if block["type"] == "mcp_tool_result":
        return {**block, "content": [], "is_error": True}
    return {**block, "content": {"type": f"{block['type']}_error", "error_code": "unavailable"}}


def read_citation(citation: object, index: int) -> Quote | None:
    """The quote of one citation; None if there is nothing to read in it."""
    text = readable.read(fields(citation, "a citation"))
    return Quote(role="detail", kind="text", index=index, text=text) if text else None


def write_citation(citation: JSON, text: str) -> JSON:
    """A citation with another text."""
    return citation if text == readable.read(citation) else readable.written(citation, text)


def read_refusal(details: object) -> Quote | None:
    """The quote of why the model stopped, which belongs to no block; None if there is nothing to read in it."""
    text = readable.read(_explanation(fields(details, "the details of a stop"))) if details else ""
    return Quote(role="detail", kind="text", index=-1, text=text) if text else None


def write_refusal(details: JSON, text: str) -> JSON:
    """Why the model stopped, with another text."""
    explanation = _explanation(details)
    return details if text == readable.read(explanation) else {**details, **readable.written(explanation, text)}


def _explanation(details: JSON) -> JSON:
    return {name: value for name, value in details.items() if name not in _REFUSAL}


# What is made anew


def empty_text() -> JSON:
    """A block of text as it begins."""
    return {"type": "text", "text": ""}


def empty_thinking() -> JSON:
    """A block of reasoning as it begins."""
    return {"type": "thinking", "thinking": "", "signature": ""}


def empty_message(model: str, id: str) -> JSON:
    """A message as it begins."""
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
