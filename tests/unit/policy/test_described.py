"""Descriptions of settings, from the docstrings of their fields."""

from pydantic import Field, create_model

from luthien_litellm_hooks import PolicyConfig


class _Inner(PolicyConfig):
    depth: int = 1
    """Depth of the inner one."""


class _Outer(PolicyConfig):
    inner: _Inner = _Inner()
    """Inner settings,
    in two lines."""
    when_: str | None = Field(default=None, alias="when")
    """Time, by its alias."""
    told: int = Field(default=1, description="In the field.")
    """In the docstring."""
    plain: int = 1


class _Derived(_Outer):
    own: int = 1
    """Own setting."""


def _descriptions(model: type[PolicyConfig]) -> dict[str, str | None]:
    return {key: field.get("description") for key, field in model.model_json_schema()["properties"].items()}


OUTER = {
    "inner": "Inner settings,\nin two lines.",
    "when": "Time, by its alias.",
    "told": "In the field.",
    "plain": None,
}


def test_a_schema_has_the_docstrings_of_all_fields() -> None:
    assert _descriptions(_Outer) == OUTER
    assert _descriptions(_Derived) == {**OUTER, "own": "Own setting."}
    inner = _Outer.model_json_schema()["$defs"]["_Inner"]["properties"]["depth"]
    assert inner["description"] == "Depth of the inner one."


def test_a_class_without_source_has_the_descriptions_that_it_inherits() -> None:
    assert _descriptions(create_model("Made", __base__=_Outer, more=(int, 1))) == {**OUTER, "more": None}


def test_a_class_in_a_function_has_descriptions() -> None:
    class Local(PolicyConfig):
        size: int = 1
        """Size in
lines that are less indented than their class."""
        name: str = ""
        """Name of it."""

    size = "Size in\nlines that are less indented than their class."
    assert _descriptions(Local) == {"size": size, "name": "Name of it."}
