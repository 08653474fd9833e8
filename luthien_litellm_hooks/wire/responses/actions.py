"""Atomic items of the responses wire: calls other than a function's, and results. They are judged when complete."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.wire.events import ToolForm
from luthien_litellm_hooks.wire.responses.kinds import Kind, get, plain


@dataclass(frozen=True, slots=True)
class _Shape:
    """Fields of a call: those of its arguments, and those of the results of the provider's own run.

    By `layout` the arguments are the `value` of one field, the JSON `text` of one field, or several `named` fields.
    A result may be in a field of a field.
    """

    fields: tuple[str, ...]
    layout: str = "value"
    results: tuple[str, ...] = ()
    is_server_run: bool = False


_SHAPES: Mapping[str, _Shape] = {
    "local_shell_call": _Shape(("action",)),
    "shell_call": _Shape(("action",)),
    "apply_patch_call": _Shape(("operation",)),
    "computer_call": _Shape(("action", "actions"), "named"),
    "tool_search_call": _Shape(("arguments",)),
    "web_search_call": _Shape(("action",), results=("results", "action.sources"), is_server_run=True),
    "file_search_call": _Shape(("queries",), "named", ("results",), is_server_run=True),
    "code_interpreter_call": _Shape(("code",), "named", ("outputs",), is_server_run=True),
    "image_generation_call": _Shape(("prompt", "revised_prompt"), "named", is_server_run=True),
    "program": _Shape(("code",), "named", is_server_run=True),
    "mcp_call": _Shape(("arguments",), "text", ("output", "error"), is_server_run=True),
    "mcp_approval_request": _Shape(("arguments",), "text", is_server_run=True),
}
ACTIONS: Mapping[str, Kind] = {
    type: Kind(type, "tool_call", type, "", "", "", "response.output_item") for type in _SHAPES
}
"""Calls other than a function's, by type of item."""
ACTION_FIELDS = frozenset(name for shape in _SHAPES.values() for name in (*shape.fields, *shape.results))
RESULTS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            "apply_patch_call_output",
            "computer_call_output",
            "custom_tool_call_output",
            "function_call_output",
            "local_shell_call_output",
            "shell_call_output",
        ),
        ("output",),
    ),
    "additional_tools": ("tools",),
    "mcp_approval_response": ("reason",),
    "mcp_list_tools": ("tools", "error"),
    "program_output": ("result",),
    "tool_search_output": ("tools",),
}
"""Result fields of items that are not calls, by type of item."""
_ALONE = frozenset({"additional_tools", "mcp_approval_response", "mcp_list_tools"})
_BY_LENGTH = sorted((*ACTIONS, *RESULTS), key=len, reverse=True)


def item_type_of(event_type: str) -> str | None:
    """Returns the type of the item of such events, None if it is neither a call nor a result."""
    name = event_type.removeprefix("response.")
    return next((type for type in _BY_LENGTH if name.startswith(type)), None) if name != event_type else None


def is_atomic(item_type: str) -> bool:
    """Returns whether an item is sent only when complete. A result without a call is not: it is always sent."""
    return item_type in ACTIONS or (item_type in RESULTS and item_type not in _ALONE)


def form_of(item: object) -> ToolForm:
    """Returns `server` for a call that the provider runs itself."""
    if get(item, "type") == "shell_call":
        return "server" if get(get(item, "environment"), "type") == "container_reference" else "function"
    is_servers = get(item, "execution") == "server" or _SHAPES[get(item, "type")].is_server_run
    return "server" if is_servers else "function"


def name_of(item: object) -> str:
    """Returns the name of the tool that an action calls."""
    type: str = get(item, "type")
    name: object = get(item, "name")
    return name if _SHAPES[type].layout == "text" and isinstance(name, str) else type.removesuffix("_call")


def arguments_of(item: object) -> str:
    """Returns the arguments of an action as JSON: its payload, or its fields by name."""
    payload = _payload(item)
    is_text = _SHAPES[get(item, "type")].layout == "text" and isinstance(payload, str)
    return payload if is_text else json.dumps(payload, ensure_ascii=False)


def results_of(item: object) -> dict[str, Any]:
    """Returns the results of a call that the provider ran, or the contents of a result item."""
    type: str = get(item, "type")
    names = RESULTS.get(type) or _SHAPES[type].results
    return {name: value for name in names if (value := plain(_at(item, name)))}


def result_fields(item: object, results: Mapping[str, object]) -> dict[str, Any]:
    """Returns the fields of `item` with `results` in them."""
    changes: dict[str, Any] = {}
    for name, value in results.items():
        field, _, within = name.partition(".")
        changes[field] = {**plain(get(item, field)), within: value} if within else value
    return changes


def emptied(value: object) -> object:
    """Returns the empty value for a withheld result."""
    return "" if isinstance(value, str) else [] if isinstance(value, list) else {}


def action_fields(kind: Kind, name: str | None, arguments: str) -> dict[str, Any]:
    """Returns the fields of an action that a policy changed. Raises `WireError` if the type cannot express them."""
    shape = _SHAPES[kind.name]
    if shape.layout == "text":
        return {"name": name, shape.fields[0]: arguments}
    try:
        payload: object = json.loads(arguments)
    except (ValueError, RecursionError) as error:
        raise WireError(f"a {kind.name} cannot encode arguments that are not JSON") from error
    if name != name_of({"type": kind.name}) or not isinstance(payload, dict):
        raise WireError(f"a {kind.name} has a fixed name, and a JSON object as arguments")
    fields = cast(dict[str, Any], payload)
    if shape.layout == "value":
        return {shape.fields[0]: fields}
    if not fields or fields.keys() - {*shape.fields}:
        raise WireError(f"a {kind.name} has only the arguments {shape.fields}")
    return fields


def judged_fields(item: object, kind: Kind, arguments: str, *, is_partial: bool = False) -> dict[str, Any]:
    """Returns changes so that `item` has exactly `arguments`; with `is_partial`, a beginning of them needs none."""
    shape, present = _SHAPES[kind.name], _payload(item)
    judged: Any = arguments if shape.layout == "text" else json.loads(arguments)
    if present == judged or (is_partial and _is_within(present, judged)):
        return {}
    if shape.layout == "named":
        return {name: judged.get(name) for name in shape.fields if name in judged or get(item, name) is not None}
    return {shape.fields[0]: judged}


def adds_nothing(units: Sequence[object], item: object, texts: Sequence[str]) -> bool:
    """Returns whether units have only text of `texts` or of the action `item`. Joins the pieces of deltas."""
    known = {*texts, *(_leaves([_payload(item), results_of(item)]) if item is not None else ())}
    joined: dict[tuple[object, ...], str] = {}
    for unit in units:
        for name in _TEXT_FIELDS:
            text: object = get(unit, name)
            if name == "delta" and isinstance(text, str):
                place = (get(unit, "type"), get(unit, "command_index"))
                joined[place] = joined.get(place, "") + text
            elif text is not None and text not in known:
                return False
    return all(any(whole.startswith(text) for whole in known) for text in joined.values())


_TEXT_FIELDS = ("delta", "code", "arguments", "diff", "command", "input", "text")


def _leaves(value: Any) -> Iterator[str]:
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pending.extend(cast(dict[str, Any], value).values())
        elif isinstance(value, list):
            pending.extend(cast(list[Any], value))
        elif isinstance(value, str):
            yield value


def _at(item: object, name: str) -> object:
    field, _, within = name.partition(".")
    return get(get(item, field), within) if within else get(item, field)


def _payload(item: object) -> Any:
    shape = _SHAPES[get(item, "type")]
    fields = {name: plain(value) for name in shape.fields if (value := get(item, name)) is not None}
    for name in shape.results:
        field, _, within = name.partition(".")
        if isinstance(fields.get(field), dict):
            fields[field].pop(within, None)
    if shape.layout == "named":
        return fields
    return fields.get(shape.fields[0], "" if shape.layout == "text" else {})


def _is_within(part: Any, whole: Any) -> bool:
    """Returns whether `part` is a beginning of `whole`."""
    if isinstance(part, dict) and isinstance(whole, dict):
        begun, whole_fields = cast(dict[str, Any], part), cast(dict[str, Any], whole)
        return all(name in whole_fields and _is_within(value, whole_fields[name]) for name, value in begun.items())
    if isinstance(part, list) and isinstance(whole, list):
        items, whole_items = cast(list[Any], part), cast(list[Any], whole)
        return len(items) <= len(whole_items) and all(map(_is_within, items, whole_items))
    return whole.startswith(part) if isinstance(part, str) and isinstance(whole, str) else part == whole
