"""The parts of an Anthropic message that streamed and full answers share: what blocks there are, and calls."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, cast

from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import ToolCallDelta

JSON: TypeAlias = dict[str, Any]
Kind = Literal["text", "reasoning", "tool_call", "other", "unknown"]

_KINDS: Mapping[object, Kind] = MappingProxyType(
    {"text": "text", "thinking": "reasoning", "redacted_thinking": "reasoning", "tool_use": "tool_call"}
)
_CALL_FIELDS = frozenset({"type", "id", "name", "input"})


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


def kind_of(block: JSON) -> Kind:
    """What a block is to a policy."""
    return _KINDS.get(text_of(block, "type"), "other")


def read_call(block: JSON, index: int, arguments: str) -> ToolCallDelta:
    """The event of a `tool_use` block."""
    return ToolCallDelta(
        index=index,
        id=text_of(block, "id") or None,
        name=text_of(block, "name"),
        arguments=arguments,
        extra={name: value for name, value in block.items() if name not in _CALL_FIELDS},
    )


def write_call(event: ToolCallDelta, call_input: JSON, answer_id: str) -> JSON:
    """The `tool_use` block of `event`. One without an id gets one that is unique in its answer."""
    id = event.id or f"toolu_{answer_id.removeprefix('msg_')}_{event.index or 0}"
    return {"type": "tool_use", "id": id, "name": event.name, "input": call_input, **event.extra}


def is_named(event: ToolCallDelta, block: JSON) -> bool:
    """Whether `block` has the name and id of `event`."""
    return event.name == text_of(block, "name") and event.id == (block.get("id") or None)


def dump(value: object) -> str:
    """Arguments of a call as the text that a policy judges."""
    return json.dumps(value, ensure_ascii=False)


def empty_text() -> JSON:
    """A block of text as it begins."""
    return {"type": "text", "text": ""}


def empty_thinking() -> JSON:
    """A block of reasoning as it begins."""
    return {"type": "thinking", "thinking": "", "signature": ""}
