"""A tool's arguments against its schema, which is a stranger's."""

import re
import time
from typing import Any

import pytest

from luthien_litellm_hooks import Request
from luthien_litellm_hooks.policy.asked_calls import schema_text
from luthien_litellm_hooks.policy.request import schema_of_tool
from luthien_litellm_hooks.policy.tool_schema import UncheckedSchemaError, schema_fault

PUSH = {
    "type": "object",
    "properties": {
        "branch": {"type": "string", "pattern": "^[a-z]+$"},
        "force": {"type": "boolean"},
        "files": {"type": "array", "items": {"$ref": "#/$defs/file"}},
    },
    "required": ["branch"],
    "additionalProperties": False,
    "$defs": {"file": {"type": "object", "properties": {"mode": {"enum": [1, 2]}}}},
}


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"branch": "main", "files": [{"mode": 1}, {}]}, None),
        ({}, "the arguments: 'branch' is a required property"),
        ({"branch": 1}, "branch: 1 is not of type 'string'"),
        ({"branch": "Main"}, "branch: 'Main' does not match '^[a-z]+$'"),
        ({"branch": "main", "files": [{}, {"mode": 3}]}, "files[1].mode: 3 is not one of [1, 2]"),
        ({"branch": "main", "x": 1}, "the arguments: Additional properties are not allowed ('x' was unexpected)"),
    ],
)
def test_the_first_fault_is_told_with_its_place(arguments: object, fault: str | None) -> None:
    assert schema_fault(PUSH, arguments) == fault


def test_a_long_value_is_told_shortened() -> None:
    fault = schema_fault({"properties": {"a": {"type": "integer"}}}, {"a": "x" * 10_000})
    assert fault is not None
    assert len(fault) < 400


def test_geminis_types_are_read() -> None:
    schema = {"type": "OBJECT", "properties": {"a": {"type": "STRING", "nullable": True}, "b": {"type": "INTEGER"}}}
    assert schema_fault(schema, {"a": None, "b": 1}) is None
    assert schema_fault(schema, {"a": 1}) == "a: 1 is not of type 'string', 'null'"
    assert schema_fault(schema, {"b": None}) == "b: None is not of type 'integer'"


def bomb() -> dict[str, Any]:
    """Each definition asks for the next one twice."""
    defs: dict[str, Any] = {str(n): {"allOf": [{"$ref": f"#/$defs/{n + 1}"}] * 2} for n in range(40)}
    return {"$defs": defs | {"40": {"type": "object"}}, "$ref": "#/$defs/0"}


HOSTILE: dict[str, dict[str, Any]] = {
    "doubling references": bomb(),
    "a reference to itself": {"$ref": "#"},
    "a reference to elsewhere": {"$ref": "http://127.0.0.1:9/schema.json"},
    "another dialect from elsewhere": {"$schema": "http://127.0.0.1:9/x", "$ref": "http://127.0.0.1:9/x#/a"},
    "a file": {"$ref": "file:///etc/passwd"},
    "names by expressions": {"patternProperties": {"(a+)+$": {}}, "additionalProperties": False},
    "what RE2 cannot read": {"properties": {"a": {"pattern": r"(a)\1"}}},
    "an unknown type": {"type": "thing"},
    "an odd form": {"properties": [1]},
    "an odd dialect": {"$schema": ["x"], "type": 1},
    "many to compare": {"properties": {"many": {"uniqueItems": True}}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_schema_is_told_in_no_time(name: str) -> None:
    arguments = {"a": "a" * 50_000 + "!", "many": [{"n": n} for n in range(20_000)]}
    began = time.monotonic()
    with pytest.raises(UncheckedSchemaError):
        schema_fault(HOSTILE[name], arguments)
    assert time.monotonic() - began < 5


def test_an_expression_that_hangs_pythons_own_engine_does_not_hang() -> None:
    evil = r"^(a+)+$"
    assert re.search(evil, "a" * 10 + "!") is None
    began = time.monotonic()
    fault = schema_fault({"properties": {"a": {"pattern": evil}}}, {"a": "a" * 50_000 + "!"})
    assert fault is not None
    assert fault.startswith("a: 'aaa")
    assert time.monotonic() - began < 5


def test_a_schema_is_stored_as_it_is_unless_it_is_too_long() -> None:
    assert schema_text(None) is None
    assert schema_text({"type": "object"}) == '{"type": "object"}'
    assert schema_text({"description": "x" * 30_000}) == "false"


SCHEMA = {"type": "object", "required": ["branch"]}


@pytest.mark.parametrize(
    "body",
    [
        {"tools": [{"type": "function", "function": {"name": "push", "parameters": SCHEMA}}]},
        {"functions": [{"name": "push", "parameters": SCHEMA}]},
        {"tools": [{"name": "pull", "input_schema": {}}, {"name": "push", "input_schema": SCHEMA}]},
        {"tools": [{"type": "function", "name": "push", "parameters": SCHEMA}]},
        {"tools": [{"type": "namespace", "name": "git", "tools": [{"name": "push", "parameters": SCHEMA}]}]},
        {"tools": [{"functionDeclarations": [{"name": "push", "parametersJsonSchema": SCHEMA}]}]},
    ],
)
def test_the_schema_of_a_tool_is_found_on_each_wire(body: dict[str, Any]) -> None:
    assert schema_of_tool(Request(body), "push") == SCHEMA
    assert schema_of_tool(Request(body), "other") is None
