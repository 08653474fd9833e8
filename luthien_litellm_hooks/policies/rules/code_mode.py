"""Code as a tool's argument: its language, and the calls of other tools in a code mode.

A code mode is JavaScript that calls tools as `tools.NAME(…)`, such as the free text of Codex's tool `exec`.
"""

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import cast

from tree_sitter import Node

from luthien_litellm_hooks.policies.rules.kinds import (
    CODE_KEYS,
    PATCH_KEYS,
    QUERY_WORDS,
    SCRIPT_KEYS,
    Language,
    Source,
    key_of,
    language_described,
)
from luthien_litellm_hooks.policies.shell import (
    UNKNOWN,
    Name,
    Program,
    TooMuchError,
    Word,
    parse_shell,
    parsed_python,
    plain_values,
    runs_of_program,
    text_of,
)
from luthien_litellm_hooks.wire.events import ToolCall

CODE_MODE_TOOL = "exec"
MAX_CALLS = 100
MAX_LINES = 40
"""Lines of a text in another language that a shell may run before it stops at its first error."""

_ROOTS = frozenset({"tools", "codemode"})
_REACHES_OUT = frozenset(
    {"eval", "Function", "require", "process", "globalThis", "global", "window", "self", "Reflect", "Proxy", "Deno"}
    | {"Bun", "fetch", "WebSocket", "XMLHttpRequest", "WebAssembly", "importScripts", "__import__"}
)
"""Names that a code mode does not have, or that lead to its tools by another way."""
_PROPERTIES = frozenset({"constructor", "__proto__", "__defineGetter__", "__lookupGetter__", "prototype"})
_RUN_KEYS = SCRIPT_KEYS | CODE_KEYS | PATCH_KEYS | QUERY_WORDS
_LISTS = frozenset({"Object.keys", "Object.getOwnPropertyNames"})
_QUESTIONS = frozenset(
    {"call_expression", "expression_statement", "unary_expression", "binary_expression", "ternary_expression"}
    | {"if_statement", "while_statement", "template_substitution"}
)
"""Places that call a tool, or only tell if there is one."""
_DEFINITIONS = frozenset(
    {"pair_pattern", "array_pattern", "assignment_pattern", "formal_parameters", "for_in_statement"}
)


Reading = tuple[Language, str]


@dataclass(frozen=True, slots=True)
class CodeMode:
    """Calls of the tools in a script. `is_understood` is False if there may be others."""

    calls: tuple[ToolCall, ...] = ()
    is_understood: bool = True


UNREADABLE = CodeMode(is_understood=False)


def readings_of(
    source: Source, said: Language | None, described: Callable[[], str], *, is_certain: bool
) -> tuple[Reading, ...]:
    """Returns the texts to be judged, each with its language: that of its tool, or else each in which it is whole.

    A text that is not whole in its tool's language is judged as if the tool said none.
    """
    text, usual = source.text, source.usual
    is_shell = (is_certain and said in (None, "shell") and usual == "shell") or (
        source.is_command and said != "javascript" and _is_whole("shell", text)
    )
    if is_shell:
        return (("shell", text),)
    if said is not None and said != "shell" and not source.is_command and _is_whole(said, text):
        return ((said, text),)
    if Program.read(text) is None:
        return (("javascript", text),)  # too long to be read, so it may be anything
    candidates: tuple[Language, ...] = (
        ("shell", "javascript", "python") if usual == "shell" else ("javascript", "python")
    )
    whole: list[Reading] = [(language, text) for language in candidates if _is_whole(language, text)]
    if not whole or whole == [(usual, text)]:
        return ((usual, text),)
    declared = language_described(described())
    if declared is not None and (declared, text) in whole:
        return ((declared, text),)
    start = before_error(text) if usual == "shell" and ("shell", text) not in whole else ""
    return (*whole, ("shell", start)) if start else tuple(whole)


def before_error(script: str) -> str:
    """Returns the first lines of a script that a shell runs before it meets a syntax error."""
    lines = script.split("\n", MAX_LINES)[:-1]
    ends = (end for end in range(len(lines), 0, -1) if _is_whole("shell", "\n".join(lines[:end])))
    return "\n".join(lines[: next(ends, 0)])


def _is_whole(language: Language, text: str) -> bool:
    match language:
        case "shell":
            return parse_shell(text).is_understood
        case "python":
            return parsed_python(text) is not None
        case "javascript":
            program = Program.read(text)
            return program is None or not program.has_error


def scripts_in_javascript(code: str) -> tuple[str, ...]:
    """Returns what a shell would run for the same effects. In a code mode only the effects beside its tools count."""
    program = Program.read(code)
    if program is None or not _uses_tools(program):
        return (f"node -e {shlex.quote(code)}",)
    try:
        runs = list(runs_of_program(program))
    except TooMuchError:
        return ()
    return tuple(run.text if isinstance(run, Word) else _joined(run) for run in runs)


def _joined(words: tuple[Word, ...]) -> str:
    return " ".join(shlex.quote(word.text) if word.is_resolved else f'"{word.text}"' for word in words)


def code_mode_of(code: str, *, is_strict: bool) -> CodeMode | None:
    """Returns the calls of tools in a script; None if it calls none, and might call none by other means.

    With `is_strict` the script runs in a code mode for certain, also if it names no tools.
    """
    program = Program.read(code)
    if program is None:
        return UNREADABLE
    if not _uses_tools(program) and not is_strict:
        return None
    try:
        if program.has_error or _reaches_out(program):
            return UNREADABLE
        calls = list(islice(_calls_in(program), MAX_CALLS + 1))
    except (ValueError, TooMuchError):
        return UNREADABLE
    return CodeMode(tuple(calls)) if len(calls) <= MAX_CALLS else UNREADABLE


def _uses_tools(program: Program) -> bool:
    return any(text_of(use) in _ROOTS and not program.is_own(text_of(use)) for use, _ in program.uses)


def _reaches_out(program: Program) -> bool:
    """Tells if the script may reach tools in a way that is not read."""
    names = {text_of(use) for use, _ in program.uses}
    if any(not program.is_own(name) for name in names & _REACHES_OUT) or not _PROPERTIES.isdisjoint(program.properties):
        return True
    return any(_is_hidden(program, call.function) for call in program.calls) or _escape(program)


def _is_hidden(program: Program, function: Node) -> bool:
    """Tells if a call's function is a member whose name only a run would tell, or one that leads out."""
    if function.type == "subscript_expression":
        keys = program.texts(function.child_by_field_name("index"))
        return any(not key.is_resolved or key.text in _PROPERTIES for key in keys)
    return function.type == "import"


def _escape(program: Program) -> bool:
    """Tells if a tool is used otherwise than in a call, by a name of its own, or in a question."""
    names = {text_of(use) for use, _ in program.uses}
    tools = {name for name in names if _is_tool(program, name)}
    return any(text_of(use) in tools and not _is_harmless(program, use, around) for use, around in program.uses)


def _is_tool(program: Program, name: str) -> bool:
    return any(isinstance(value, Name) and value.path.split(".")[0] in _ROOTS for value in program.named(name))


def _is_harmless(program: Program, use: Node, around: Sequence[Node]) -> bool:
    top = use
    for place in range(len(around) - 1, -1, -1):
        node = around[place]
        match node.type:
            case "member_expression":
                pass
            case "subscript_expression" if node.child_by_field_name("object") == top:
                if not all(key.is_resolved for key in program.texts(node.child_by_field_name("index"))):
                    return False
            case "parenthesized_expression" | "await_expression" | "sequence_expression":
                pass
            case "ternary_expression" if node.child_by_field_name("condition") != top:
                pass
            case "binary_expression" if text_of(node.children[1]) in ("||", "&&", "??"):
                pass
            case "variable_declarator" | "assignment_expression":
                pattern = node.child_by_field_name("name") or node.child_by_field_name("left")
                if pattern is None or any(part.type == "rest_pattern" for part in pattern.children):
                    return False
                return pattern.type in ("identifier", "object_pattern")
            case "arguments":
                function = around[place - 1].child_by_field_name("function") if place else None
                return function is not None and text_of(function) in _LISTS
            case _:
                return node.type in _QUESTIONS or node.type in _DEFINITIONS
        top = node
    return False


def _calls_in(program: Program) -> Iterator[ToolCall]:
    """Yields the calls of tools, one for each possible value of their arguments. Raises `ValueError` and
    `TooMuchError`."""
    for call in program.calls:
        names = [value.path.split(".") for value in program.values(call.function) if isinstance(value, Name)]
        for name in dict.fromkeys(".".join(path[1:]) for path in names if path[0] in _ROOTS):
            if name.endswith((".call", ".apply", ".bind")) or not name:
                raise ValueError("a tool is called in a roundabout way")
            arguments = call.arguments.named_children if call.arguments is not None else []
            given = [child for child in arguments if child.type != "comment"]
            if call.arguments is not None and call.arguments.type != "arguments":
                raise ValueError("a tagged template")
            values = plain_values(program.values(given[0])) if given else [dict[str, object]()]
            yield from (_tool_call(name, value) for value in values)


def _tool_call(name: str, value: object) -> ToolCall:
    is_object = isinstance(value, dict)
    if value == UNKNOWN.text or (is_object and _runs_something_unknown(cast(Mapping[str, object], value))):
        raise ValueError("only a run would tell the arguments")
    if isinstance(value, str):
        return ToolCall(None, name, value, "custom")
    return ToolCall(None, name, json.dumps(value, ensure_ascii=False))


def _runs_something_unknown(members: Mapping[str, object]) -> bool:
    for key, value in members.items():
        parts = cast(list[object], value) if isinstance(value, list) else [value]
        if UNKNOWN.text in parts and key_of(key) in _RUN_KEYS:
            return True
    return False
