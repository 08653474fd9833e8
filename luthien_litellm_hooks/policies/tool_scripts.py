"""The shell scripts in the arguments of a tool call."""

import shlex
from collections.abc import Iterator, Sequence
from typing import cast

from luthien_litellm_hooks.policies.tool_arguments import objects, text_of
from luthien_litellm_hooks.policies.tool_kinds import (
    CODE_KEYS,
    LANGUAGE_KEYS,
    PROSE_KEYS,
    SCRIPT_KEYS,
    has_own_commands,
    key_of,
)

_SHELL_LANGUAGES = frozenset({"bash", "sh", "shell", "zsh"})
_PLURALS = frozenset({"commands", "cmds", "scripts"})
Entry = tuple[str, str | list[str]]
"""A key as `key_of` writes it, and a text or a list of words under it."""
_ARGUMENT_KEYS = frozenset({"args", "arguments", "argv", "parameters"})


def scripts_of(name: str, arguments: object, entries: Sequence[Entry], *, is_shell: bool) -> tuple[str, ...]:
    """What a shell would run, if the client reads `arguments`, whose entries are given too, as tools of its kind do.

    Of a tool that `is_shell`, every text but prose; of any other, texts under keys like `command`,
    and code, as a program that is given to Python.
    """
    runs_shell_code = is_shell or _is_in_shell_language(entries)
    found: list[str] = []
    for word, value in entries:
        is_script = word in SCRIPT_KEYS and not (word == "command" and has_own_commands(name))
        if is_script or (is_shell and word not in PROSE_KEYS):
            found += _scripts(word, value)
        elif word in CODE_KEYS:
            code = value if isinstance(value, str) else "\n".join(value)
            found += [f"python3 -c {shlex.quote(code)}", *([code] if runs_shell_code else [])]
    return tuple(dict.fromkeys([*found, *_commands_with_arguments(arguments)]))


def _scripts(key: str, value: str | list[str]) -> list[str]:
    """A text is a script. A list is the words of one command; or several scripts, if its key says so
    or its first word could be no program's name."""
    if isinstance(value, str):
        return [value]
    are_scripts = key in _PLURALS or len(value) == 1 or any(character.isspace() for character in value[0])
    return [shlex.join(value), *(value if are_scripts else [])]


def _commands_with_arguments(arguments: object) -> Iterator[str]:
    """Commands whose words stand in a list beside them: `{"command": "rm", "args": ["-rf", "x"]}`."""
    for members in objects(arguments):
        words = [_words(value) for key, value in members.items() if key_of(key) in _ARGUMENT_KEYS]
        for key, command in members.items():
            if key_of(key) in SCRIPT_KEYS and isinstance(command, str):
                yield from (f"{command} {more}" for more in words if more)


def _words(value: object) -> str:
    if isinstance(value, str):
        return value
    return shlex.join(map(text_of, cast(list[object], value))) if isinstance(value, list) else ""


def _is_in_shell_language(entries: Sequence[Entry]) -> bool:
    return any(
        key in LANGUAGE_KEYS and isinstance(value, str) and value.strip().casefold() in _SHELL_LANGUAGES
        for key, value in entries
    )
