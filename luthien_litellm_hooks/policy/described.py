"""Base class of settings: the docstring of a field is its description in the JSON Schema."""

import ast
import inspect
from collections.abc import Iterator
from itertools import pairwise

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


class Described(BaseModel):
    """Settings; an unknown key is an error.

    Docstrings are read when a schema is asked for. Pydantic's own `use_attribute_docstrings` reads them at each import,
    which in a proxy takes a quarter of a second.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, text in _docstrings(cls).items():
            field = cls.model_fields.get(name)
            key = name if field is None or field.alias is None else field.alias
            if key in properties:
                properties[key].setdefault("description", text)
        return schema


def _docstrings(cls: type[BaseModel]) -> dict[str, str]:
    """Returns the docstrings of a class's fields, and of those that it inherits."""
    return {name: text for base in reversed(cls.__mro__) if issubclass(base, Described) for name, text in _own(base)}


def _own(cls: type[BaseModel]) -> Iterator[tuple[str, str]]:
    try:
        source = inspect.getsource(cls)
    except (OSError, TypeError):  # there is none
        return
    tree = ast.parse(f"if True:\n{source}" if source[0].isspace() else source)
    definition = next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    for field, below in pairwise(definition.body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            yield field.target.id, inspect.cleandoc(below.value.value)
