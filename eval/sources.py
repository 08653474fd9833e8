"""Shell commands that stand in Python sources, read without running or importing them."""

import ast
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

SHELL_CALLS = frozenset(
    ("Popen", "call", "check_call", "check_output", "getoutput", "getstatusoutput", "popen", "run", "system")
)
"""The functions of `subprocess` and `os` that take a command first."""


def commands_run(source: str) -> Iterator[str]:
    """The commands that a source runs, where they are literals. Nothing if it is no Python."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr=name), args=[first, *_]) if name in SHELL_CALLS:
                yield from _literal_command(first)
            case _:
                pass


def commands_listed(source: str) -> dict[str, list[str]]:
    """The lists that a source assigns to `commands`, by the name of the function; "" for the module itself."""
    found: dict[str, list[str]] = {}
    for scope in ast.walk(ast.parse(source)):
        if isinstance(scope, ast.Module | ast.FunctionDef):
            for name, value in _assignments(scope.body):
                if name == "commands":
                    found[getattr(scope, "name", "")] = cast(list[str], ast.literal_eval(value))
    return found


def constants(sources: Iterable[str]) -> dict[str, str]:
    """The text constants of modules."""
    return {
        name: value.value
        for source in sources
        for name, value in _assignments(ast.parse(source).body)
        if isinstance(value, ast.Constant) and isinstance(value.value, str)
    }


def cases(source: str, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The first two members of each tuple of four that has a text and an f-string there.

    `names` has the values that stand in the f-strings. Raises `KeyError` if one is missing.
    """
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Tuple(elts=[ast.Constant(value=str(name)), ast.JoinedStr(values=parts), _, _]):
                yield name, "".join(_text(part, names) for part in parts)
            case _:
                pass


def _literal_command(node: ast.expr) -> Iterator[str]:
    try:
        value: object = ast.literal_eval(node)
    except ValueError:
        return
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        words = [str(word) for word in cast(list[object], value)]
        yield words[0] if len(words) == 1 else shlex.join(words)


def _assignments(body: Iterable[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    for node in body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield name, value
            case _:
                pass


def _text(part: ast.expr, names: Mapping[str, str]) -> str:
    match part:
        case ast.Constant(value=str(text)):
            return text
        case ast.FormattedValue(value=ast.Name(id=name)):
            return names[name]
        case _:
            raise ValueError(f"no plain f-string: {ast.unparse(part)}")
