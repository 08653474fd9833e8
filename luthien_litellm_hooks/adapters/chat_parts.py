"""The parts of a chat message that streamed and full answers share: reasoning and tool calls."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from litellm.types.utils import (
    ChatCompletionDeltaCustomToolCall,
    ChatCompletionDeltaToolCall,
    ChatCompletionMessageCustomToolCall,
    ChatCompletionMessageToolCall,
    FunctionCall,
)
from pydantic import BaseModel

from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import ReasoningDelta, ToolCallDelta

ToolDelta = ChatCompletionDeltaToolCall | ChatCompletionDeltaCustomToolCall
MessageToolCall = ChatCompletionMessageToolCall | ChatCompletionMessageCustomToolCall

REASONING_FIELDS = ("reasoning_content", "thinking_blocks", "reasoning_items", "reasoning_details")
MESSAGE_FIELDS = frozenset({"role", "content", "tool_calls", "function_call", *REASONING_FIELDS})
_PLAIN_FIELDS = MESSAGE_FIELDS - frozenset(REASONING_FIELDS)
_HIDDEN_REASONING = frozenset(REASONING_FIELDS) - {"reasoning_content"}
_TOOL_FIELDS = frozenset({"index", "id", "type", "function", "custom"})


def set_fields(model: BaseModel) -> dict[str, Any]:
    """The fields of `model` that say something, declared or not. Asking pydantic for one that is
    not there is slow, and a delta has more of those than others."""
    fields = {name: value for name, value in model.__dict__.items() if value is not None}
    if extra := model.model_extra:
        fields |= {name: value for name, value in extra.items() if value is not None}
    return fields


def rest(fields: Mapping[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """The `fields` that are not among the `known`."""
    return {name: value for name, value in fields.items() if name not in known}


def read_text(message: Mapping[str, Any]) -> str:
    """The text in a delta's or message's fields. Mistral sends a list of parts for a string."""
    content: object = message.get("content")
    return content if isinstance(content, str) else "".join(_texts(content, "text"))


def read_reasoning(message: Mapping[str, Any]) -> str | None:
    """The reasoning in a delta's or message's fields; "" where there is only a signature or a
    redacted piece, None where there is none. LiteLLM repeats the text of `thinking_blocks` as
    `reasoning_content`."""
    if message.keys() <= _PLAIN_FIELDS and isinstance(message.get("content", ""), str):
        return None
    text: object = message.get("reasoning_content")
    if isinstance(text, str) and text:
        return text
    pieces = [*_texts(message.get("thinking_blocks"), "thinking"), *_texts(message.get("content"), "thinking")]
    pieces = pieces or [*_texts(message.get("reasoning_details"), "text")]
    return "".join(pieces) if pieces or _HIDDEN_REASONING & message.keys() else None


def _texts(parts: object, kind: str) -> Iterator[str]:
    """The texts of the parts of a `kind`; a part's text is a string, or again a list of parts."""
    for part in cast(list[object], parts) if isinstance(parts, list) else ():
        if isinstance(part, dict):
            fields = cast(dict[str, object], part)
            text = fields.get(kind)
            if isinstance(text, str):
                yield text
            elif isinstance(text, list):
                yield "".join(_texts(cast(object, text), "text"))


def reasoning_fields(event: ReasoningDelta, came: Mapping[str, Any] | None) -> dict[str, Any]:
    """The fields that say `event`: those it came in, or text of a policy's own."""
    fields = {name: came[name] for name in REASONING_FIELDS if name in came} if came else {}
    return fields or {"reasoning_content": event.text}


def tool_calls_of(fields: Mapping[str, Any]) -> Sequence[Any]:
    """The entries of `tool_calls` in a delta's or message's fields: LiteLLM checks each of a list, and nothing else."""
    calls: object = fields.get("tool_calls", ())
    if not isinstance(calls, list | tuple):
        raise WireError("the tool calls of a chat completion are no list")
    return cast(Sequence[Any], calls)


def read_tool_delta(tool: ToolDelta, choice: int) -> ToolCallDelta:
    """The event of one entry of a delta's `tool_calls`."""
    return _read_tool(tool, choice, tool.index)


def read_tool_call(tool: MessageToolCall, choice: int, index: int) -> ToolCallDelta:
    """The event of one entry of a message's `tool_calls`."""
    return _read_tool(tool, choice, index)


def read_function_call(call: FunctionCall, choice: int) -> ToolCallDelta:
    """The event of a `function_call`, of which an answer has one at most."""
    if not isinstance(cast(object, call), FunctionCall):
        raise WireError("the function call of a chat completion is none")
    return ToolCallDelta(choice=choice, name=call.name, arguments=call.arguments or "", form="legacy_function")


def write_tool_delta(event: ToolCallDelta, came: ToolDelta | None) -> ToolDelta:
    """The entry of a delta's `tool_calls` that says `event`; a copy of `came` but for its number."""
    if came is not None and event.name == _name(came):
        return came if came.index == event.index else came.model_copy(update={"index": event.index})
    kind = ChatCompletionDeltaCustomToolCall if event.form == "custom" else ChatCompletionDeltaToolCall
    return kind(index=event.index or 0, **_call_fields(event))


def write_tool_call(event: ToolCallDelta) -> MessageToolCall:
    """The entry of a message's `tool_calls` that says `event`."""
    kind = ChatCompletionMessageCustomToolCall if event.form == "custom" else ChatCompletionMessageToolCall
    return kind(**_call_fields(event))


def _call_fields(event: ToolCallDelta) -> Mapping[str, Any]:
    if event.form == "custom":
        payload = {"custom": {"name": event.name, "input": event.arguments}}
    else:
        payload = {"function": {"name": event.name, "arguments": event.arguments}}
    return {"id": event.id, "type": event.form, **payload, **event.extra}


def _read_tool(tool: ToolDelta | MessageToolCall, choice: int, index: int) -> ToolCallDelta:
    if isinstance(tool, ChatCompletionDeltaCustomToolCall | ChatCompletionMessageCustomToolCall):
        form, arguments = "custom", tool.custom.input
    else:
        form, arguments = "function", tool.function.arguments
    if not all(_is_a(str, said) for said in (tool.id, _name(tool), arguments)) or not _is_a(int, index):
        raise WireError("a tool call has an id, a name or arguments that are no text, or a number that is none")
    return ToolCallDelta(
        choice=choice,
        index=index,
        id=tool.id,
        name=_name(tool),
        arguments=arguments or "",
        form=form,
        extra=rest(set_fields(tool), _TOOL_FIELDS),
    )


def _is_a(kind: type, said: object) -> bool:
    """LiteLLM makes its models without checks, of whatever a provider sent."""
    return said is None or isinstance(said, kind)


def _name(tool: ToolDelta | MessageToolCall) -> str | None:
    if isinstance(tool, ChatCompletionDeltaCustomToolCall | ChatCompletionMessageCustomToolCall):
        return tool.custom.name
    return tool.function.name
