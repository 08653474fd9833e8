"""Writes the reference in `docs/commands.md` from the command itself: `python -m docs.commands`, from the
repository's root. What stands before the mark is written by hand."""

import inspect
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import typer

from luthien_litellm_hooks.cli import app

PAGE = Path(__file__).with_suffix(".md")
MARK = "<!-- What follows is written by `python -m docs.commands`. -->\n"


def page() -> str:
    """The page as it should be."""
    by_hand = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    return by_hand + MARK + "".join(_reference(typer.main.get_command(app), "luthien-hooks"))


def _reference(command: Any, name: str) -> Iterator[str]:
    for short_name, inner in sorted(getattr(command, "commands", {}).items()):
        if hasattr(inner, "commands"):
            yield from _reference(inner, f"{name} {short_name}")
        else:
            yield from _one(inner, f"{name} {short_name}")


def _one(command: Any, name: str) -> Iterator[str]:
    yield f"\n## `{name}`\n\n{inspect.cleandoc(command.help)}\n"
    if command.params:
        yield "\n| | | Default |\n| --- | --- | --- |\n"
        yield from map(_parameter, command.params)


def _parameter(parameter: Any) -> str:
    is_argument = parameter.param_type_name == "argument"
    names = parameter.metavar or parameter.name.upper() if is_argument else ", ".join(parameter.opts)
    given = parameter.default.value if isinstance(parameter.default, Enum) else parameter.default
    default = "" if given in (None, "", False) or callable(given) else f"`{given}`"
    if parameter.required:
        default = "required"
    if getattr(parameter, "envvar", None):
        default = f"{default}{', ' if default else ''}or `{parameter.envvar}`"
    return f"| `{names}` | {parameter.help or ''} | {default} |\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
