"""The texts in a request, on whatever route it came: those that people, tools and models wrote.

Covered are chat messages, Anthropic messages, responses, text completions and Gemini contents: what
is said, what tools gave back, and, if asked, the arguments of earlier tool calls. Left alone are
reasoning, which providers sign, the descriptions of tools, ids, names, and anything that is no text.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from luthien_litellm_hooks.parsing.json_strings import map_json_strings
from luthien_litellm_hooks.policy.notices import NOTICE_MARK, parted
from luthien_litellm_hooks.policy.request import Request


@dataclass(frozen=True, slots=True)
class RequestText:
    """A text of a request. `role` is "system" (also a developer's), "user", "assistant" or "tool",
    in every wire format. `is_notice` tells what we said ourselves in an earlier answer."""

    role: str
    text: str
    is_notice: bool


def iter_texts(request: Request) -> Iterator[RequestText]:
    """The texts of the request, in its order."""
    texts: list[RequestText] = []

    def note(role: str, text: str) -> str:
        texts.extend(RequestText(role, part, is_ours) for part, is_ours in _parted(role, text))
        return text

    _map_body(request.body, note, None)
    return iter(texts)


def map_texts(request: Request, change: Callable[[str], str], *, tool_arguments: bool = False) -> Request:
    """The request with every text of it changed; with `tool_arguments` also the strings in the arguments
    of earlier tool calls. Of our own notices the mark stays, and no more: anybody can write it. The same
    object if nothing was changed."""

    def changed(role: str, text: str) -> str:
        return "\n\n".join(_marked(part, change) if is_ours else change(part) for part, is_ours in _parted(role, text))

    body = _map_body(request.body, changed, change if tool_arguments else None)
    return request if body is request.body else request.replace(**body)


def _marked(text: str, change: Callable[[str], str]) -> str:
    before, mark, after = text.partition(NOTICE_MARK)
    return before + mark + change(after)


def _parted(role: str, text: str) -> list[tuple[str, bool]]:
    return parted(text) if role == "assistant" and NOTICE_MARK in text else [(text, False)]


_Change = Callable[[str, str], str]  # of a role and a text
_TextChange = Callable[[str], str]

_BODY_ROLES = {
    "system": "system",
    "instructions": "system",
    "litellm_system_prompt": "system",
    "systemInstruction": "system",
    "system_instruction": "system",
    "messages": "user",
    "input": "user",
    "prompt": "user",
    "suffix": "user",
    "contents": "user",
}
_ROLES = {"developer": "system", "model": "assistant", "function": "tool"}
_TEXTS = frozenset({"text", "content", "parts", "output", "refusal"})
_SIGNED = frozenset({"thinking", "redacted_thinking", "reasoning"})
_RESULT_ENDINGS = ("tool_result", "_output", "mcp_call")
_CALLS = frozenset({"function", "function_call", "functionCall", "custom"})
_ARGUMENTS = frozenset({"arguments", "args", "input", "action"})


def _map_body(body: Mapping[str, Any], change: _Change, of_arguments: _TextChange | None) -> Mapping[str, Any]:
    def field_of_prompt(key: str, value: object) -> object:
        return _map_variables(value, change) if key == "variables" else value

    def field(key: str, value: object) -> object:
        if key == "prompt_variables":
            return _map_variables(value, change)
        if key == "prompt" and isinstance(value, dict):  # one that the provider keeps
            return _map_fields(cast(dict[str, Any], value), field_of_prompt)
        return _map(value, _BODY_ROLES[key], change, of_arguments) if key in _BODY_ROLES else value

    return _map_fields(body, field)


def _map_variables(variables: object, change: _Change) -> object:
    """The texts that are put into a stored prompt, by name."""
    if not isinstance(variables, dict):
        return variables
    return _map_fields(cast(dict[str, Any], variables), lambda _, value: _map(value, "user", change, None))


def _map(value: object, role: str, change: _Change, of_arguments: _TextChange | None) -> object:
    """`value`, which stands where texts stand: a text, a message, a part, or several."""
    if isinstance(value, str):
        return change(role, value)
    if isinstance(value, list):
        return _map_items(cast(list[object], value), lambda item: _map(item, role, change, of_arguments))
    if isinstance(value, dict):
        return _map_part(cast(dict[str, object], value), role, change, of_arguments)
    return value


def _map_part(part: dict[str, object], role: str, change: _Change, of_arguments: _TextChange | None) -> object:
    if str(part.get("type")) in _SIGNED or part.get("thought") is True:
        return part
    role = _role(part, role)

    def field(key: str, value: object) -> object:
        if key in _TEXTS:
            return _map(value, role, change, of_arguments)
        if key == "source" and isinstance(value, dict):
            return _map_source(cast(dict[str, object], value), role, change)
        if key in ("functionResponse", "function_response") and isinstance(value, dict):
            return _map_gemini_result(cast(dict[str, object], value), change)
        return value if of_arguments is None else _map_call_field(key, value, of_arguments)

    return _map_fields(part, field)


def _role(part: Mapping[str, object], role: str) -> str:
    kind, own = part.get("type"), part.get("role")
    if isinstance(kind, str) and kind.endswith(_RESULT_ENDINGS):
        return "tool"
    if role == "system" or not isinstance(own, str):  # Gemini CLI calls its system instruction a user's
        return role
    return _ROLES.get(own, own)


def _map_source(source: dict[str, object], role: str, change: _Change) -> object:
    """The source of an Anthropic document: a text, or parts; an image's is neither."""
    texts = {"text": "data", "content": "content"}.get(str(source.get("type")))
    return _map_fields(source, lambda key, value: _map(value, role, change, None) if key == texts else value)


def _map_gemini_result(result: dict[str, object], change: _Change) -> object:
    def field(key: str, value: object) -> object:
        return _map_strings(value, lambda text: change("tool", text)) if key == "response" else value

    return _map_fields(result, field)


def _map_call_field(key: str, value: object, change: _TextChange) -> object:
    """A field that may hold tool calls, or the arguments of one."""
    if key == "tool_calls" and isinstance(value, list):
        return _map_items(cast(list[object], value), lambda call: _map_call(call, change))
    if key in _CALLS:
        return _map_call(value, change)
    if key not in _ARGUMENTS:
        return value
    mapped = map_json_strings(value, change) if isinstance(value, str) else None
    return _map_strings(value, change) if mapped is None else mapped


def _map_call(call: object, change: _TextChange) -> object:
    if not isinstance(call, dict):
        return call
    return _map_fields(cast(dict[str, object], call), lambda key, value: _map_call_field(key, value, change))


def _map_strings(value: object, change: _TextChange) -> object:
    """`value` with each string in it changed, but for keys."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return _map_items(cast(list[object], value), lambda item: _map_strings(item, change))
    if isinstance(value, dict):
        return _map_fields(cast(dict[str, object], value), lambda _, item: _map_strings(item, change))
    return value


def _map_items(items: list[object], change: Callable[[object], object]) -> list[object]:
    """The same list if nothing in it was changed."""
    changed = [change(item) for item in items]
    return items if all(map(_is_same, items, changed)) else changed


def _map_fields(fields: Mapping[str, Any], change: Callable[[str, object], object]) -> Mapping[str, Any]:
    """The same mapping if nothing in it was changed."""
    changed = {key: change(key, value) for key, value in fields.items()}
    return fields if all(map(_is_same, fields.values(), changed.values())) else changed


def _is_same(old: object, new: object) -> bool:
    return new is old or (isinstance(new, str) and new == old)
