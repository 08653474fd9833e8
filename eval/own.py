"""Writes labelled tool calls of our own, one JSON object a line, made from the tables of the tests.

Each call is labelled for one preset alone. The presets were made with these tables, so the rates are no measure of
calls that nobody has seen: they show what is promised, and that it holds in every wrapping. Labels are those of the
tables:

* of each preset, the calls that it must block and their neighbours that must pass;
* of block_dangerous_commands and protect_work, commands, also wrapped (`sudo`, a loop, a function, a substitution,
  a heredoc for a shell, `ssh`): a simple command in all wrappings, any other as it is;
* of sql_protection, statements, given to a database's tool and to three clients in a shell.
"""

import json
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator

from luthien_litellm_hooks.policies import SHORT_NAMES
from luthien_litellm_hooks.policies.tool_rules import ToolRules
from tests.support.work_cases import DESTROYS, KEEPS, WRAPPINGS
from tests.unit.policies.test_dangerous_commands import DANGEROUS, DANGEROUS_INDIRECTLY, HARMLESS, HARMLESS_NEIGHBOURS
from tests.unit.policies.test_presets import BLOCKED, PASSES
from tests.unit.policies.test_sql_parsing import DESTRUCTIVE
from tests.unit.policies.test_sql_parsing import HARMLESS as HARMLESS_SQL

SIMPLE = re.compile(r"(?!\w+=)[\w./:=@^~*, +{}-]+")
"""Commands that mean the same in any wrapping."""
CLIENTS = ("psql -c {}", "mysql -e {}", "cockroach sql --execute={}")

Line = dict[str, object]


def line(preset: str, source: str, tool: str, arguments: object, *, is_harmful: bool) -> Line:
    """Returns a call as a line of a corpus; its content makes its id."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {
        "id": f"{preset}/{tool}/{text}",
        "source": source,
        "tool": tool,
        "arguments": text,
        "labels": {preset: is_harmful},
    }


def preset_calls() -> Iterator[Line]:
    """The calls of the presets' tests."""
    for table, is_harmful in ((BLOCKED, True), (PASSES, False)):
        for policy, calls in table.items():
            for tool, arguments in calls:
                if any(str(pid) in str(arguments) for pid in (os.getpid(), os.getppid())):
                    continue  # about a process that is gone when the rates are measured
                yield line(_name_of(policy), "own calls", tool, arguments, is_harmful=is_harmful)


def commands() -> Iterator[Line]:
    """The commands of the tests, as they are and wrapped."""
    work = [[command for commands in table.values() for command in commands] for table in (DESTROYS, KEEPS)]
    yield from _wrapped("protect_work", work[0], is_harmful=True)
    yield from _wrapped("protect_work", work[1], is_harmful=False)
    yield from _wrapped("block_dangerous_commands", (*DANGEROUS, *DANGEROUS_INDIRECTLY), is_harmful=True)
    yield from _wrapped("block_dangerous_commands", (*HARMLESS, *HARMLESS_NEIGHBOURS), is_harmful=False)


def statements() -> Iterator[Line]:
    """The statements of the tests, in a database's tool and in clients."""
    harmful = [statement for statement, _ in DESTRUCTIVE]
    for table, is_harmful in ((harmful, True), (filter(str.strip, HARMLESS_SQL), False)):
        for statement in table:
            yield line("sql_protection", "own SQL", "execute_sql", {"query": statement}, is_harmful=is_harmful)
            for client in CLIENTS:
                command = client.replace("{}", shlex.quote(statement))
                yield line("sql_protection", "own SQL", "Bash", {"command": command}, is_harmful=is_harmful)


def _wrapped(preset: str, table: Iterable[str], *, is_harmful: bool) -> Iterator[Line]:
    for command in table:
        for wrapping in WRAPPINGS if SIMPLE.fullmatch(command) else WRAPPINGS[:1]:
            script = wrapping.replace("{}", command)
            source = "own commands, wrapped" if wrapping != WRAPPINGS[0] else "own commands"
            yield line(preset, source, "Bash", {"command": script}, is_harmful=is_harmful)


def _name_of(policy: type[ToolRules]) -> str:
    place = f"{policy.__module__}:{policy.__name__}"
    return next(name for name, known in SHORT_NAMES.items() if known == place)


def own_calls() -> list[Line]:
    """Returns every call once."""
    found = {str(each["id"]): each for each in (*preset_calls(), *commands(), *statements())}
    return list(found.values())


if __name__ == "__main__":
    sys.stdout.writelines(f"{json.dumps(each, ensure_ascii=False)}\n" for each in own_calls())
