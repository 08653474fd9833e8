"""`luthien-hooks policies` and `schema`: the policies, their settings, and the JSON Schema of settings."""

import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import yaml
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from luthien_litellm_hooks.cli.output import complain, print_json, terminal
from luthien_litellm_hooks.config.policy_loading import COMPOSITIONS, config_model, policy_class, short_names
from luthien_litellm_hooks.config.policy_spec import ParallelConfig, PolicySpec, SerialConfig, config_schema
from luthien_litellm_hooks.config.settings import Settings
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.telemetry.log_lines import escape

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DEFINITIONS = "#/$defs/"
_PLAIN: Mapping[str, object] = {"string": "...", "integer": 1, "number": 1.0, "boolean": True, "object": {}}
_COMPOSITIONS: dict[str, type[SerialConfig]] = dict(zip(COMPOSITIONS, (SerialConfig, ParallelConfig), strict=True))


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy for people: `target` is its "module:Class", `summary` the first paragraph of its documentation."""

    name: str
    target: str
    documentation: str

    @classmethod
    def called(cls, name: str) -> "Policy":
        """Finds a policy by its name. Raises `ConfigError` if it is unknown or cannot be imported."""
        found = _COMPOSITIONS.get(name) or policy_class(name, where=name)
        target = short_names().get(name, name if ":" in name else f"{found.__module__}:{found.__name__}")
        return cls(name, target, inspect.getdoc(found) or "")

    @property
    def summary(self) -> str:
        return " ".join(self.documentation.split("\n\n")[0].split())

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "class": self.target, "summary": self.summary}


def run_list(*, as_json: bool) -> int:
    """Prints every policy with a short name. Returns 1 if one of them cannot be used."""
    found: list[Policy] = []
    failures: list[str] = []
    for name in (*short_names(), *COMPOSITIONS):
        try:
            found.append(Policy.called(name))
        except ConfigError as error:
            failures.append(str(error))
    if as_json:
        print_json({"policies": [policy.as_json() for policy in found]})
    else:
        _print_list(terminal(), found)
    for failure in failures:
        complain(failure)
    return int(bool(failures))


def run_show(name: str, *, as_json: bool) -> int:
    """Prints one policy's documentation, settings and an example. Returns 2 if the policy is unknown."""
    try:
        policy, schema = Policy.called(name), config_schema(name)
    except ConfigError as error:
        complain(str(error))
        return 2
    text = yaml.safe_dump({"policy": {"class": name, **_config(schema)}}, sort_keys=False)
    if as_json:
        print_json({**policy.as_json(), "documentation": policy.documentation, "schema": schema, "example": text})
    else:
        _print_policy(terminal(), policy, schema, text)
    return 0


def _config(schema: dict[str, Any]) -> dict[str, Any]:
    config = example(schema)
    return {"config": config} if config else {}


def _print_list(console: Console, policies: list[Policy]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("name", no_wrap=True, style="bold")
    table.add_column("description", overflow="fold")
    for policy in policies:
        table.add_row(escape(policy.name), Text(escape(policy.summary)))
    console.print(table)


def _print_policy(console: Console, policy: Policy, schema: dict[str, Any], text: str) -> None:
    console.print(Text.assemble((escape(policy.name), "bold"), f"  {escape(policy.target)}\n"), soft_wrap=True)
    console.print(Text(escape(policy.documentation)))
    settings = rows(schema)
    if settings:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for title in ("setting", "value", "default", "meaning"):
            table.add_column(title, overflow="fold", style="bold" if title == "setting" else None)
        for row in settings:
            table.add_row(
                *(Text(escape(cell)) for cell in (row.key, row.kind, row.default or "required", row.description))
            )
        console.print(table)
    else:
        console.print(Text("\nIt has no settings.\n"))
    console.print(Text(escape(text.rstrip()), "cyan"), soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Row:
    """One setting. The key of a setting in a list's items contains `[]`; `default` is None for a required setting."""

    key: str
    kind: str
    default: str | None
    description: str


def rows(schema: Mapping[str, Any]) -> list[Row]:
    """Lists the settings of a schema. The settings of a section follow the first setting of its type."""
    return list(_rows(schema, schema.get("$defs", {}), "", set()))


def example(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the smallest valid value of a schema."""
    return _required(schema, schema.get("$defs", {}))


def _rows(schema: Mapping[str, Any], defs: Mapping[str, Any], above: str, shown: set[str]) -> Iterator[Row]:
    for name, field in schema.get("properties", {}).items():
        key = f"{above}{name}"
        is_required = name in schema.get("required", ())
        default = None if is_required else json.dumps(field.get("default"), ensure_ascii=False)
        text = field.get("description", "").replace("\n", " ")
        yield Row(key, _kind(field), default, text)
        inner = _section(field)
        if inner and inner[0] not in shown:  # conditions can be nested
            shown.add(inner[0])
            yield from _rows(defs[inner[0]], defs, f"{key}{inner[1]}.", shown)


def _section(field: Mapping[str, Any]) -> tuple[str, str] | None:
    """Returns the definition that a field refers to, and the suffix of its key."""
    if "$ref" in field:
        return field["$ref"].removeprefix(_DEFINITIONS), ""
    for choice in (*field.get("anyOf", ()), *field.get("allOf", ())):
        if found := _section(choice):
            return found
    if "items" in field and (found := _section(field["items"])):
        return found[0], f"[]{found[1]}"
    return None


def _kind(field: Mapping[str, Any]) -> str:
    """Returns the type of a value in a few words."""
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
        return _definition_value(name, defs[field["$ref"].removeprefix(_DEFINITIONS)], defs)
    if "enum" in field:
        return field["enum"][0]
    if "anyOf" in field:
        return _value(name, field["anyOf"][0], defs)
    if field.get("type") == "array":
        items = field.get("prefixItems") or [field.get("items", {})]
        return [_value(name, item, defs) for item in items]
    return "noop" if name == "class" else _PLAIN.get(field.get("type", ""), "...")


def _definition_value(name: str, definition: Mapping[str, Any], defs: Mapping[str, Any]) -> object:
    is_section = definition.get("type") == "object"
    return _required(definition, defs) if is_section else _value(name, definition, defs)


def run_schema(policy: str | None, *, is_of_file: bool) -> int:
    """Prints the schema of a policy's settings; without a policy that of all settings, or of a LiteLLM config with
    them. Returns 2 if the policy is unknown."""
    try:
        schema = settings_schema() if policy is None else config_schema(policy)
    except ConfigError as error:
        complain(str(error))
        return 2
    print_json(_file_schema(schema) if is_of_file and policy is None else schema)
    return 0


def settings_schema() -> dict[str, Any]:
    """Returns the schema of `callback_settings.luthien`, with the settings of each policy that has a short name."""
    models = dict(_config_models())
    chosen: list[type[BaseModel]] = [Settings, PolicySpec, *models.values()]
    references, schema = models_json_schema([(model, "validation") for model in dict.fromkeys(chosen)])
    definitions = schema["$defs"]
    spec = definitions[_definition_name(references[PolicySpec, "validation"])]
    spec["properties"]["class"]["examples"] = list(models)
    spec["allOf"] = [_choice(name, references[model, "validation"]) for name, model in models.items()]
    top = definitions.pop(_definition_name(references[Settings, "validation"]))
    return {"$schema": _DIALECT, **top, "$defs": definitions}


def _config_models() -> Iterator[tuple[str, type[BaseModel]]]:
    yield from zip(COMPOSITIONS, (SerialConfig, ParallelConfig), strict=True)
    for name in short_names():
        try:
            yield name, config_model(name)
        except ConfigError as error:
            complain(str(error))


def _choice(name: str, reference: dict[str, Any]) -> dict[str, Any]:
    is_chosen = {"properties": {"class": {"const": name}}, "required": ["class"]}
    return {"if": is_chosen, "then": {"properties": {"config": reference}}}


def _definition_name(reference: dict[str, Any]) -> str:
    return reference["$ref"].rpartition("/")[2]


def _file_schema(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the schema of a whole LiteLLM config, with only our settings described."""
    own = {key: value for key, value in settings.items() if key not in ("$schema", "$defs")}
    section = {"type": "object", "properties": {"luthien": own}}
    return {
        "$schema": _DIALECT,
        "type": "object",
        "properties": {"callback_settings": section},
        "$defs": settings["$defs"],
    }
