"""Effects of a tool call in words, for a person who decides about it."""

import shlex
from collections.abc import Iterator

from luthien_litellm_hooks.policies.rules.arguments import read_arguments
from luthien_litellm_hooks.policies.rules.kinds import kinds_of_name
from luthien_litellm_hooks.policies.rules.tool_use import ToolUse
from luthien_litellm_hooks.policies.shell import Command
from luthien_litellm_hooks.wire.events import ToolCall

_MAX_LINES = 100
_UNREADABLE = "has a part that the parser cannot read"


def effects_of(call: ToolCall) -> list[str]:
    """Returns what the shell's parser and its kin read in a call: its commands, paths, hosts and SQL, a line each.

    They help to read the call, and replace no look at its arguments. At most 100 lines.
    """
    found = list(dict.fromkeys(_lines(call)))
    cut = len(found) - _MAX_LINES
    return found if cut <= 0 else [*found[:_MAX_LINES], f"({cut} more)"]


def command_line(command: Command) -> str:
    """Returns a command as it would be typed."""
    words = (command.program or command.name, *map(_quoted, command.texts))
    redirects = (f"{redirect.operator} {redirect.target.text}" for redirect in command.redirects)
    return " ".join(filter(None, (*words, *redirects)))


def _quoted(word: str) -> str:
    return shlex.quote(word) if not word or any(character.isspace() for character in word) else word


def _lines(call: ToolCall) -> Iterator[str]:
    kinds = kinds_of_name(call.name) or (frozenset({"shell"}) if call.form == "custom" else frozenset())
    readings = read_arguments(call)
    if not readings:
        yield _UNREADABLE
    for arguments in readings:
        use = ToolUse(call.name, arguments, frozenset(kinds))
        for command in use.commands:
            yield f"runs {command_line(command)}"
            if command.stdin is not None:
                yield f"gives {command.program} {command.stdin.text}"
        yield from (f"touches {path}" for path in use.paths)
        yield from (f"contacts {host or 'a host that it does not name'}" for host in use.hosts)
        yield from (f"sends SQL {text}" for text in use.sql)
        yield from (f"calls {inner.name} {inner.arguments}" for inner in use.inner_calls)
        if not use.is_understood:
            yield _UNREADABLE
