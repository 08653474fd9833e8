"""The calls in a chat message or delta: the entries of `tool_calls`, and the old `function_call`."""

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

from luthien_litellm_hooks.adapters import chat_parts
from luthien_litellm_hooks.adapters.chat_parts import CAME, Piece
from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import Opaque, StreamEvent, ToolCallDelta, ToolForm, Unknown, from_wire

DeltaTool = ChatCompletionDeltaToolCall | ChatCompletionDeltaCustomToolCall
MessageTool = ChatCompletionMessageToolCall | ChatCompletionMessageCustomToolCall
Tool = DeltaTool | MessageTool
UnknownCalls = set[tuple[int, int]]
"""The choices and numbers of calls of an unknown type, which only their first piece tells."""

_TYPES = ("function", "custom", "builtin_function", "", None)  # the third is Moonshot's
_FIELDS = frozenset({"index", "id", "type", "function", "custom"})
_SIGNED = frozenset({"provider_specific_fields", "extra_content", "caller"})  # Gemini's signature, Claude's caller
_SERVER_ID = "srvtoolu_"  # by nothing else does LiteLLM tell calls that Anthropic runs from the client's


def read(fields: Mapping[str, Any], choice: int, unknown: UnknownCalls | None = None) -> Iterator[StreamEvent]:
    """The events of the calls in the fields of a delta, or, without `unknown`, of a message."""
    calls: object = fields.get("tool_calls", ())
    if not isinstance(calls, list | tuple):
        raise WireError("the tool calls of a chat completion are no list")
    left: list[StreamEvent] = []  # in a message a later call may be withheld
    for place, tool in enumerate(cast(Sequence[object], calls)):
        if not isinstance(tool, DeltaTool | MessageTool):
            raise WireError("an entry of the tool calls of a chat completion is none")
        number: object = place if unknown is None else getattr(tool, "index", None)
        if not (number is None or (isinstance(number, int) and number >= 0)):
            raise WireError("a tool call has a number that is none")
        unjudged = _unjudged(tool)
        event = _read_entry(tool, choice, number, set() if unknown is None else unknown, is_empty=not unjudged)
        yield event
        if unjudged and isinstance(event, ToolCallDelta):
            left.append(from_wire(Opaque(choice=choice, repeats=True), Piece("call", unjudged, tool)))
    yield from left
    if "function_call" in fields:
        yield _read_function_call(fields["function_call"], choice)


def _read_entry(tool: Tool, choice: int, number: int | None, unknown: UnknownCalls, *, is_empty: bool) -> StreamEvent:
    event = _read_call(tool, choice, number)
    key, is_head = (choice, number or 0), bool(event.id or event.name)
    if tool.type not in _TYPES or (key in unknown and not is_head):
        unknown.add(key)
        return from_wire(Unknown(choice=choice, kind="tool call"), Piece("call", {}, tool))
    unknown.discard(key)
    if is_empty and not (is_head or event.arguments or event.extra):
        return _stub(choice)
    return from_wire(event, Piece("call", {}, tool))


def _stub(choice: int) -> Opaque:
    """An empty entry: no call, and no place for one. It waits for what is held, because clients count entries."""
    return from_wire(Opaque(choice=choice, repeats=True), CAME)


def _read_call(tool: Tool, choice: int, number: int | None) -> ToolCallDelta:
    name, arguments = _said(tool)
    if not all(said is None or isinstance(said, str) for said in (tool.id, name, arguments)):
        raise WireError("a tool call has an id, a name or arguments that are no text")
    extra = {name: value for name, value in (tool.model_extra or {}).items() if _is_signed(name, value)}
    form: ToolForm = "custom" if _is_custom(tool) else "function"
    if tool.id and tool.id.startswith(_SERVER_ID):
        form = "server"
    return ToolCallDelta(
        choice=choice, index=number, id=tool.id, name=name, arguments=arguments or "", form=form, extra=extra
    )


def _read_function_call(call: object, choice: int) -> StreamEvent:
    if not isinstance(call, FunctionCall):
        raise WireError("the function call of a chat completion is none")
    fields = chat_parts.set_fields(call)
    name, arguments = chat_parts.text_in(fields, "name"), chat_parts.text_in(fields, "arguments")
    if not (name or arguments):
        return _stub(choice)
    event = ToolCallDelta(choice=choice, name=name or None, arguments=arguments, form="legacy_function")
    return from_wire(event, CAME)


def _unjudged(tool: Tool) -> dict[str, Any]:
    """The fields of an entry that no policy judges."""
    fields = (tool.model_extra or {}).items()
    return {
        name: value
        for name, value in fields
        if name not in _FIELDS and value is not None and not _is_signed(name, value)
    }


def _is_signed(name: str, value: object) -> bool:
    """Whether a field is for the provider alone, so that a changed call keeps it."""
    return name == "thought_signature" or (name in _SIGNED and chat_parts.is_unreadable(value))


def written(event: ToolCallDelta, came: Tool | None, *, is_delta: bool) -> Tool:
    """The entry that says `event`: a copy of the one that `came`, without fields that no policy judges."""
    if came is not None and event.name == _said(came)[0]:
        names = frozenset(_unjudged(came))
        is_moved = is_delta and getattr(came, "index", None) != event.index
        return chat_parts.without(_bare(came), names, {"index": event.index} if is_moved else {})
    if event.form == "custom":
        kind = ChatCompletionDeltaCustomToolCall if is_delta else ChatCompletionMessageCustomToolCall
        payload = {"type": "custom", "custom": {"name": event.name, "input": event.arguments}}
    else:
        kind = ChatCompletionDeltaToolCall if is_delta else ChatCompletionMessageToolCall
        payload = {"type": "function", "function": {"name": event.name, "arguments": event.arguments}}
    number = {"index": event.index or 0} if is_delta else {}
    return cast(Any, kind)(id=event.id, **number, **payload, **event.extra)


def _bare(tool: Tool) -> Tool:
    """`tool` with a payload that says just its name and its arguments."""
    name = "custom" if _is_custom(tool) else "function"
    payload = getattr(tool, name)
    more = frozenset(payload.model_extra or ())
    return tool.model_copy(update={name: chat_parts.without(payload, more, {})}) if more else tool


def _is_custom(tool: Tool) -> bool:
    return isinstance(tool, ChatCompletionDeltaCustomToolCall | ChatCompletionMessageCustomToolCall)


def _said(tool: Tool) -> tuple[Any, Any]:
    """The name and the arguments in an entry, whatever LiteLLM has put there: it checks little."""
    payload: Any = getattr(tool, "custom" if _is_custom(tool) else "function", None)
    if not isinstance(payload, BaseModel):
        raise WireError("a tool call is neither a function's nor a custom tool's")
    said = chat_parts.set_fields(payload)
    return said.get("name"), said.get("input" if _is_custom(tool) else "arguments")
