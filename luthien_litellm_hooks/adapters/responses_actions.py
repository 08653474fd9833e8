"""Items of the responses wire that are actions of the client's: tool calls whose arguments are no text."""

import json
from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel

from luthien_litellm_hooks.adapters.responses_parts import Kind, get
from luthien_litellm_hooks.errors import WireError

_FIELDS: Mapping[str, tuple[str, ...]] = {
    "local_shell_call": ("action",),
    "shell_call": ("action",),
    "apply_patch_call": ("operation",),
    "computer_call": ("action", "actions"),
}
ACTIONS: Mapping[str, Kind] = {
    type: Kind(type, "tool_call", type, "", "", "", "response.output_item") for type in _FIELDS
}
"""The actions that the client carries out, by the types of their items.

`mcp_call`, web search, file search, code interpreter and the like are none: the provider has carried
them out by the time that anybody could judge them, so they stay items that nobody judges."""
ACTION_FIELDS = frozenset(name for names in _FIELDS.values() for name in names)


def is_early(type: object) -> bool:
    """Whether an event of this type brings pieces of an action, which repeat what its item says."""
    return isinstance(type, str) and type.startswith(tuple(f"response.{name}" for name in ACTIONS))


def name_of(item_type: str) -> str:
    """The name of the tool that an action calls."""
    return item_type.removesuffix("_call")


def arguments_of(item: object) -> str:
    """What an action is to do, as JSON: its payload, or both of a computer's by their names."""
    return json.dumps(_payload(item), ensure_ascii=False)


def written(kind: Kind, name: str | None, arguments: str) -> dict[str, Any]:
    """The fields of an action that a policy changed. Raises `WireError` if it has none for that."""
    try:
        payload: object = json.loads(arguments)
    except (ValueError, RecursionError) as error:
        raise WireError(f"a {kind.name} cannot say arguments that are not JSON") from error
    if name != name_of(kind.name) or not isinstance(payload, dict):
        raise WireError(f"a {kind.name} has no other name, and no arguments but a JSON object")
    fields = cast(dict[str, Any], payload)
    first, *others = names = _FIELDS[kind.name]
    if not others:
        return {first: fields}
    if not fields or fields.keys() - {*names}:
        raise WireError(f"a {kind.name} has no arguments but {names}")
    return fields


def as_judged(item: object, kind: Kind, arguments: str, *, is_partial: bool = False) -> dict[str, Any]:
    """What must change in `item` for it to say no more than `arguments`, and no less unless `is_partial`."""
    said, judged = _payload(item), json.loads(arguments)
    if said == judged or (is_partial and _is_within(said, judged)):
        return {}
    first, *others = names = _FIELDS[kind.name]
    return {name: judged.get(name) for name in names} if others else {first: judged}


def _payload(item: object) -> Any:
    first, *others = names = _FIELDS[get(item, "type")]
    said = {name: _plain(value) for name in names if (value := get(item, name)) is not None}
    return said if others else said.get(first, {})


def _plain(value: Any) -> Any:
    """`value` as JSON has it, without what says nothing: LiteLLM's models fill in every field."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", warnings=False)
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in cast(dict[str, Any], value).items() if part is not None}
    return [_plain(part) for part in cast(list[Any], value)] if isinstance(value, list) else value


def _is_within(part: Any, whole: Any) -> bool:
    """Whether `part` is a beginning of `whole`."""
    if isinstance(part, dict) and isinstance(whole, dict):
        some, every = cast(dict[str, Any], part), cast(dict[str, Any], whole)
        return all(name in every and _is_within(value, every[name]) for name, value in some.items())
    if isinstance(part, list) and isinstance(whole, list):
        begun, all_of_it = cast(list[Any], part), cast(list[Any], whole)
        return len(begun) <= len(all_of_it) and all(map(_is_within, begun, all_of_it))
    return whole.startswith(part) if isinstance(part, str) and isinstance(whole, str) else part == whole
