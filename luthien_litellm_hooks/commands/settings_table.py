"""A policy's settings for people: rows out of a JSON Schema, and an example that is valid."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

_DEFINITIONS = "#/$defs/"
_PLAIN: Mapping[str, object] = {"string": "...", "integer": 1, "number": 1.0, "boolean": True, "object": {}}


@dataclass(frozen=True, slots=True)
class Row:
    """One setting. Of an item of a list the key ends in `[]`; `default` is None of one that must be given."""

    key: str
    kind: str
    default: str | None
    description: str


def rows(schema: Mapping[str, Any]) -> list[Row]:
    """Each setting of a schema, and those of a section below the first that holds it."""
    return list(_rows(schema, schema.get("$defs", {}), "", set()))


def example(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The least that a schema takes."""
    return _required(schema, schema.get("$defs", {}))


def _rows(schema: Mapping[str, Any], defs: Mapping[str, Any], above: str, shown: set[str]) -> Iterator[Row]:
    for name, field in schema.get("properties", {}).items():
        key = f"{above}{name}"
        is_required = name in schema.get("required", ())
        default = None if is_required else json.dumps(field.get("default"), ensure_ascii=False)
        text = field.get("description", "").replace("\n", " ")
        yield Row(key, _kind(field), default, text)
        inner = _section(field)
        if inner and inner[0] not in shown:  # a condition may hold conditions
            shown.add(inner[0])
            yield from _rows(defs[inner[0]], defs, f"{key}{inner[1]}.", shown)


def _section(field: Mapping[str, Any]) -> tuple[str, str] | None:
    """The definition that a field holds, and how one gets to it."""
    if "$ref" in field:
        return field["$ref"].removeprefix(_DEFINITIONS), ""
    for choice in (*field.get("anyOf", ()), *field.get("allOf", ())):
        if found := _section(choice):
            return found
    if "items" in field and (found := _section(field["items"])):
        return found[0], f"[]{found[1]}"
    return None


def _kind(field: Mapping[str, Any]) -> str:
    """What a value may be, in a few words."""
    if "enum" in field or "const" in field:
        return " | ".join(json.dumps(value) for value in field.get("enum", [field.get("const")]))
    if "anyOf" in field:
        return " | ".join(dict.fromkeys(_kind(choice) for choice in field["anyOf"] if choice.get("type") != "null"))
    if "$ref" in field:
        return "section"
    if field.get("type") == "array":
        return f"list of {_kind(field['items'])}" if "items" in field else "list"
    return cast(str, field.get("format") or field.get("type") or "any")


def _required(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> dict[str, Any]:
    fields: Mapping[str, Any] = schema.get("properties", {})
    return {name: _value(name, fields[name], defs) for name in schema.get("required", ())}


def _value(name: str, field: Mapping[str, Any], defs: Mapping[str, Any]) -> object:
    if "$ref" in field:
        return _of_definition(name, defs[field["$ref"].removeprefix(_DEFINITIONS)], defs)
    if "enum" in field:
        return field["enum"][0]
    if "anyOf" in field:
        return _value(name, field["anyOf"][0], defs)
    if field.get("type") == "array":
        items = field.get("prefixItems") or [field.get("items", {})]
        return [_value(name, item, defs) for item in items]
    return "noop" if name == "class" else _PLAIN.get(field.get("type", ""), "...")


def _of_definition(name: str, definition: Mapping[str, Any], defs: Mapping[str, Any]) -> object:
    is_section = definition.get("type") == "object"
    return _required(definition, defs) if is_section else _value(name, definition, defs)
