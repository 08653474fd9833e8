"""Items of the responses wire that are calls, or the results of calls, and hold no text of their own: they are judged
when all of them has come."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from luthien_litellm_hooks.adapters.responses_parts import Kind, get, plain
from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import ToolForm


@dataclass(frozen=True, slots=True)
class _Shape:
    """The fields of an item that say what a call does, and those with what the provider's own run of it returned.

    `says` tells how fields make arguments: the object in one is the `value`, the JSON in one is the `text`, or all
    are `named`. A result may stand in a field of a field.
    """

    fields: tuple[str, ...]
    says: str = "value"
    results: tuple[str, ...] = ()
    is_servers: bool = False


_SHAPES: Mapping[str, _Shape] = {
    "local_shell_call": _Shape(("action",)),
    "shell_call": _Shape(("action",)),
    "apply_patch_call": _Shape(("operation",)),
    "computer_call": _Shape(("action", "actions"), "named"),
    "tool_search_call": _Shape(("arguments",)),
    "web_search_call": _Shape(("action",), results=("results", "action.sources"), is_servers=True),
    "file_search_call": _Shape(("queries",), "named", ("results",), is_servers=True),
    "code_interpreter_call": _Shape(("code",), "named", ("outputs",), is_servers=True),
    "image_generation_call": _Shape(("prompt", "revised_prompt"), "named", is_servers=True),
    "program": _Shape(("code",), "named", is_servers=True),
    "mcp_call": _Shape(("arguments",), "text", ("output", "error"), is_servers=True),
    "mcp_approval_request": _Shape(("arguments",), "text", is_servers=True),
}
ACTIONS: Mapping[str, Kind] = {
    type: Kind(type, "tool_call", type, "", "", "", "response.output_item") for type in _SHAPES
}
"""The calls that are no function's, by the types of their items."""
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
"""The items that say something which is no call, and the fields with it."""
_ALONE = frozenset({"additional_tools", "mcp_approval_response", "mcp_list_tools"})
_BY_LENGTH = sorted((*ACTIONS, *RESULTS), key=len, reverse=True)


def item_type_of(event_type: str) -> str | None:
    """The type of the items that events of this type are about, if these are calls or results."""
    said = event_type.removeprefix("response.")
    return next((type for type in _BY_LENGTH if said.startswith(type)), None) if said != event_type else None


def leaves_whole(item_type: str) -> bool:
    """Whether nothing of an item may leave before all of it came: a result that follows no call always leaves."""
    return item_type in ACTIONS or (item_type in RESULTS and item_type not in _ALONE)


def form_of(item: object) -> ToolForm:
    """`server` for what the provider runs itself."""
    if get(item, "type") == "shell_call":
        return "server" if get(get(item, "environment"), "type") == "container_reference" else "function"
    is_servers = get(item, "execution") == "server" or _SHAPES[get(item, "type")].is_servers
    return "server" if is_servers else "function"


def name_of(item: object) -> str:
    """The name of the tool that an action calls."""
    type: str = get(item, "type")
    own: object = get(item, "name")
    return own if _SHAPES[type].says == "text" and isinstance(own, str) else type.removesuffix("_call")


def arguments_of(item: object) -> str:
    """What an action is to do, as JSON: its payload, or its fields by their names."""
    payload = _payload(item)
    is_text = _SHAPES[get(item, "type")].says == "text" and isinstance(payload, str)
    return payload if is_text else json.dumps(payload, ensure_ascii=False)


def results_of(item: object) -> dict[str, Any]:
    """What the provider's run of a call returned, or what a result says."""
    type: str = get(item, "type")
    names = RESULTS.get(type) or _SHAPES[type].results
    return {name: value for name in names if (value := plain(_at(item, name)))}


def placed(item: object, results: Mapping[str, object]) -> dict[str, Any]:
    """The fields of `item` that hold `results`."""
    changes: dict[str, Any] = {}
    for name, value in results.items():
        field, _, within = name.partition(".")
        changes[field] = {**plain(get(item, field)), within: value} if within else value
    return changes


def emptied(value: object) -> object:
    """What stands in place of a result that was withheld."""
    return "" if isinstance(value, str) else [] if isinstance(value, list) else {}


def written(kind: Kind, name: str | None, arguments: str) -> dict[str, Any]:
    """The fields of an action that a policy changed. Raises `WireError` if it has none for that."""
    shape = _SHAPES[kind.name]
    if shape.says == "text":
        return {"name": name, shape.fields[0]: arguments}
    try:
        payload: object = json.loads(arguments)
    except (ValueError, RecursionError) as error:
        raise WireError(f"a {kind.name} cannot say arguments that are not JSON") from error
    if name != name_of({"type": kind.name}) or not isinstance(payload, dict):
        raise WireError(f"a {kind.name} has no other name, and no arguments but a JSON object")
    fields = cast(dict[str, Any], payload)
    if shape.says == "value":
        return {shape.fields[0]: fields}
    if not fields or fields.keys() - {*shape.fields}:
        raise WireError(f"a {kind.name} has no arguments but {shape.fields}")
    return fields


def as_judged(item: object, kind: Kind, arguments: str, *, is_partial: bool = False) -> dict[str, Any]:
    """What must change in `item` for it to say no more than `arguments`, and no less unless `is_partial`."""
    shape, said = _SHAPES[kind.name], _payload(item)
    judged: Any = arguments if shape.says == "text" else json.loads(arguments)
    if said == judged or (is_partial and _is_within(said, judged)):
        return {}
    if shape.says == "named":
        return {name: judged.get(name) for name in shape.fields if name in judged or get(item, name) is not None}
    return {shape.fields[0]: judged}


def says_no_more(units: Sequence[object], item: object, texts: Sequence[str]) -> bool:
    """Whether units say only what `texts` or the action `item` say as a whole. Pieces are joined first."""
    said = {*texts, *(_leaves([_payload(item), results_of(item)]) if item is not None else ())}
    joined: dict[tuple[object, ...], str] = {}
    for unit in units:
        for name in _SPOKEN:
            text: object = get(unit, name)
            if name == "delta" and isinstance(text, str):
                place = (get(unit, "type"), get(unit, "command_index"))
                joined[place] = joined.get(place, "") + text
            elif text is not None and text not in said:
                return False
    return all(any(whole.startswith(text) for whole in said) for text in joined.values())


_SPOKEN = ("delta", "code", "arguments", "diff", "command", "input", "text")


def _leaves(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend(cast(dict[str, Any], value).values())
        elif isinstance(value, list):
            waiting.extend(cast(list[Any], value))
        elif isinstance(value, str):
            yield value


def _at(item: object, name: str) -> object:
    field, _, within = name.partition(".")
    return get(get(item, field), within) if within else get(item, field)


def _payload(item: object) -> Any:
    shape = _SHAPES[get(item, "type")]
    said = {name: plain(value) for name in shape.fields if (value := get(item, name)) is not None}
    for name in shape.results:
        field, _, within = name.partition(".")
        if isinstance(said.get(field), dict):
            said[field].pop(within, None)
    if shape.says == "named":
        return said
    return said.get(shape.fields[0], "" if shape.says == "text" else {})


def _is_within(part: Any, whole: Any) -> bool:
    """Whether `part` is a beginning of `whole`."""
    if isinstance(part, dict) and isinstance(whole, dict):
        some, every = cast(dict[str, Any], part), cast(dict[str, Any], whole)
        return all(name in every and _is_within(value, every[name]) for name, value in some.items())
    if isinstance(part, list) and isinstance(whole, list):
        begun, all_of_it = cast(list[Any], part), cast(list[Any], whole)
        return len(begun) <= len(all_of_it) and all(map(_is_within, begun, all_of_it))
    return whole.startswith(part) if isinstance(part, str) and isinstance(whole, str) else part == whole
