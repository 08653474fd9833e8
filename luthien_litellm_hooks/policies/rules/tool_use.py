"""Effects of a tool call: scripts, written paths, contacted hosts, SQL."""

import re
import shlex
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Generic, TypeVar

from luthien_litellm_hooks.policies.rules.arguments import entries
from luthien_litellm_hooks.policies.rules.code_mode import (
    CODE_MODE_TOOL,
    CodeMode,
    Reading,
    code_mode_of,
    readings_of,
    scripts_in_javascript,
)
from luthien_litellm_hooks.policies.rules.kinds import (
    PROSE_KEYS,
    QUERY_WORDS,
    URL_WORDS,
    WORKDIR_KEYS,
    Kind,
    Language,
    clean_name,
    is_certain_shell,
    key_of,
    language_said,
    patched_paths,
    paths_of,
    sources_of,
    words_of,
    writes_files,
)
from luthien_litellm_hooks.policies.rules.patterns import forms_of_path
from luthien_litellm_hooks.policies.rules.sql import is_sql
from luthien_litellm_hooks.policies.shell import (
    UNKNOWN_HOST,
    Command,
    Script,
    contacts_network,
    host_of,
    hosts_of_command,
    parse_shell,
    program_of,
    proxies_of,
    written_paths,
)
from luthien_litellm_hooks.wire.events import ToolCall

_PATCH_MARK = "*** Begin Patch"  # first line of Codex's heredoc for `apply_patch`
_COMMAND_OPTIONS, _EXECUTE_OPTIONS, _QUERY_OPTIONS = ("-c", "--command"), ("-e", "--execute"), ("-q", "--query")
_SQL_OPTIONS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("psql", "pgcli", "usql", "duckdb", "wrangler", "heroku", "vsql", "ysqlsh"), _COMMAND_OPTIONS),
    **dict.fromkeys(
        ("mysql", "mariadb", "mycli", "litecli", "cqlsh", "trino", "presto", "hive", "spark-sql"), _EXECUTE_OPTIONS
    ),
    **dict.fromkeys(("cockroach", "beeline", "iredis", "tidb", "mysqlsh", "crash"), (*_EXECUTE_OPTIONS, "--sql")),
    **dict.fromkeys(("clickhouse", "clickhouse-client", "snowsql", "snow", "impala-shell", "dolt"), _QUERY_OPTIONS),
    **dict.fromkeys(("sqlcmd", "mssql-cli", "go-sqlcmd"), ("-Q", "-q", "--query")),
    **dict.fromkeys(("sqlite3", "sqlite", "bq", "turso", "supabase", "sqlplus", "isql", "tsql", "prisma", "osql"), ()),
    **dict.fromkeys(("sqlite-utils", "libsql", "rqlite", "db2", "sqlcl", "mclient", "athenacli"), ()),
    "gcloud": ("--sql",),
}
"""Clients of databases, with their options for a statement; words and standard input count for all."""

_RUNS = frozenset({"run", "query", "execute", "exec", "statement"})
"""Words in the name of a tool that runs its query."""


MAX_SCRIPTS = 50
MAX_PATHS = 1_000
"""Limit of the paths in a readable call; reading more would take too long, and no agent needs them."""
MAX_STATEMENTS = 10
"""Limit of separate SQL texts; more are read as one."""


T = TypeVar("T")


class lazy(Generic[T]):
    """Property with a value that is made at its first use.

    `functools.cached_property` locks until Python 3.12: one object's long work would then stop all others.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self._name = make.__name__
        self.__doc__ = make.__doc__

    def __get__(self, owner: object, _: type | None = None) -> T:
        value = self._make(owner)
        owner.__dict__[self._name] = value
        return value


@dataclass(frozen=True)
class ToolUse:
    """One reading of a tool call. `named_kinds` are the tool's kinds by its name or the settings.

    Everything else is read from the arguments on first use.
    """

    name: str
    arguments: object
    named_kinds: frozenset[Kind]
    is_readable: bool = True
    """False if the arguments are unreadable; then they are empty."""
    is_declared_shell: bool = False
    """True if the settings call it a shell's tool."""
    described: Callable[[], str] = str
    """Getter of the words with which the request offers the tool."""

    @lazy
    def clean_name(self) -> str:
        """Name in the form for rules."""
        return clean_name(self.name)

    @lazy
    def kinds(self) -> frozenset[Kind]:
        """Effects of the call by any means: a `curl` in a shell is `shell` and `web`."""
        kinds: set[Kind] = set()
        if "shell" in self.named_kinds or self.scripts:
            kinds.add("shell")
        if self._writes_files or self._shell_writes:
            kinds.add("file_write")
        if self.hosts:
            kinds.add("web")
        if self.sql:
            kinds.add("sql")
        return frozenset(kinds)

    @lazy
    def scripts(self) -> tuple[str, ...]:
        """Scripts for a shell, at most `MAX_SCRIPTS`."""
        return self._all_scripts[:MAX_SCRIPTS]

    @lazy
    def parsed_scripts(self) -> tuple[Script, ...]:
        return tuple(map(parse_shell, self.scripts))

    @lazy
    def commands(self) -> tuple[Command, ...]:
        """Commands of all scripts."""
        return tuple(command for script in self.parsed_scripts for command in script.commands)

    @lazy
    def programs(self) -> frozenset[str]:
        """Programs of the commands, for comparison with patterns."""
        return frozenset(map(program_of, self.commands))

    @lazy
    def is_understood(self) -> bool:
        """True if all scripts and paths were readable."""
        return (
            len(self._all_scripts) <= MAX_SCRIPTS
            and len(self._all_paths) <= MAX_PATHS
            and all(script.is_understood for script in self.parsed_scripts)
            and all(mode.is_understood for mode in self._code_modes)
        )

    @lazy
    def inner_calls(self) -> tuple[ToolCall, ...]:
        """Calls of other tools by the code in the arguments."""
        return tuple(dict.fromkeys(call for mode in self._code_modes for call in mode.calls))

    @lazy
    def paths(self) -> tuple[str, ...]:
        """Paths touched by the call, with a file tool or in a shell, at most `MAX_PATHS`."""
        return self._all_paths[:MAX_PATHS]

    @lazy
    def forms_of_paths(self) -> tuple[tuple[str, frozenset[str]], ...]:
        """Paths with all their possible forms."""
        return tuple((path, forms_of_path(path, self.directory)) for path in self.paths)

    @lazy
    def directory(self) -> str:
        """Working directory of the call; "" if unknown."""
        return next((text for key, text in self._texts if key in WORKDIR_KEYS), "")

    @lazy
    def hosts(self) -> tuple[str, ...]:
        """Hosts contacted by the call; `UNKNOWN_HOST` is among them if a host is not named."""
        named = [host_of(text) for key, text in self._texts if key.rpartition("_")[2] in URL_WORDS and _is_url(text)]
        if "web" in self.named_kinds and not named:
            named = [UNKNOWN_HOST]
        used = [host for command in self.commands if contacts_network(command) for host in hosts_of_command(command)]
        proxies = [host for script in self.scripts for host in proxies_of(script)] if used else []
        return tuple(dict.fromkeys([*named, *used, *proxies]))

    @lazy
    def sql(self) -> tuple[str, ...]:
        """SQL for a database."""
        named = [text for key, text in self._texts if self._is_for_database(key, text)]
        piped = [text for command in self.commands for text in _sql_of_command(command)]
        texts = tuple(dict.fromkeys([*named, *piped]))
        return texts if len(texts) <= MAX_STATEMENTS else (";\n".join(texts),)

    @lazy
    def _all_scripts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(script for reading in self._code for script in _scripts_of(*reading)))

    @lazy
    def _code(self) -> tuple[Reading, ...]:
        """Texts that something runs, in each language in which they may be written."""
        is_shell = "shell" in self.named_kinds
        said = language_said(self.name, self._entries)
        is_certain = self.is_declared_shell or (is_shell and is_certain_shell(self.name))
        is_evaluating = said == "javascript"
        sources = sources_of(self.name, self.arguments, self._entries, is_shell=is_shell, is_evaluating=is_evaluating)
        readings = (readings_of(each, said, self.described, is_certain=is_certain) for each in sources)
        return tuple(dict.fromkeys(chain(*readings)))

    @lazy
    def _code_modes(self) -> tuple[CodeMode, ...]:
        """Readings of the code that calls other tools."""
        is_strict = isinstance(self.arguments, str) and clean_name(self.name) == CODE_MODE_TOOL
        codes = (text for language, text in self._code if language == "javascript")
        modes = (code_mode_of(code, is_strict=is_strict) for code in codes)
        return tuple(mode for mode in modes if mode is not None)

    @lazy
    def _all_paths(self) -> tuple[str, ...]:
        named = () if "shell" in self.named_kinds else paths_of(self._texts, is_file_tool=self._is_file_tool)
        return tuple(dict.fromkeys([*named, *self._shell_writes]))

    @lazy
    def _texts(self) -> tuple[tuple[str, str], ...]:
        return tuple(
            (key, text) for key, value in self._entries for text in ([value] if isinstance(value, str) else value)
        )

    @lazy
    def _entries(self) -> tuple[tuple[str, str | list[str]], ...]:
        return tuple((key_of(key), value) for key, value in entries(self.arguments))

    @property
    def _is_file_tool(self) -> bool:
        return "file_write" in self.named_kinds

    @lazy
    def _writes_files(self) -> bool:
        return writes_files(self.name, self._texts, is_file_tool=self._is_file_tool)

    @lazy
    def _shell_writes(self) -> tuple[str, ...]:
        patches = [script for script in self.scripts if _PATCH_MARK in script]
        patched = [path for patch in patches for path in patched_paths(patch)]
        patched += [path for command in self.commands for path in _patched_by(command)]
        return tuple(dict.fromkeys([*written_paths(self.commands), *patched]))

    def _is_for_database(self, key: str, text: str) -> bool:
        """Tells if a database would run the text: a query of a database's tool, or in another tool a statement under a
        key for queries."""
        word = key.rpartition("_")[2]
        if word == "sql":
            return True
        if "sql" in self.named_kinds:
            return word in QUERY_WORDS or (key not in PROSE_KEYS and is_sql(text))
        if word not in QUERY_WORDS or "web" in self.named_kinds or "file_write" in self.named_kinds:
            return False
        return is_sql(text, is_expected=not _RUNS.isdisjoint(words_of(self.name)))


@dataclass(slots=True)
class SharedUses:
    """All readings of one tool call, for every policy of its transaction. A policy judges them under the `lock`."""

    uses: tuple[ToolUse, ...] = ()
    lock: threading.Lock = field(default_factory=threading.Lock)


def _scripts_of(language: Language, text: str) -> Iterator[str]:
    """Yields what a shell would run for a text in `language`."""
    match language:
        case "shell":
            yield text
        case "python":
            yield f"python3 -c {shlex.quote(text)}"
        case "javascript":
            yield from scripts_in_javascript(text)


_FROM_ROOT = re.compile(r"(?:etc|home|root|usr|boot|var/spool)/")


def _patched_by(command: Command) -> Iterator[str]:
    """Yields the files in the diff on the input of `patch` or `git apply`; it may run in the root directory."""
    is_patch = command.name == "patch" or (command.name == "git" and not {"apply", "am"}.isdisjoint(command.texts))
    if is_patch and command.stdin is not None:
        for path in patched_paths(command.stdin.text):
            yield f"/{path}" if _FROM_ROOT.match(path) else path


def _is_url(text: str) -> bool:
    return "://" in text and not text.lower().startswith("file:")


def _sql_of_command(command: Command) -> Iterator[str]:
    """Yields the SQL in the words or on the standard input of a database's client."""
    if command.name not in _SQL_OPTIONS:
        return
    options = _SQL_OPTIONS[command.name]
    words = command.texts
    for index, word in enumerate(words):
        option, has_value, value = word.partition("=")
        if word in options:
            yield from words[index + 1 : index + 2]
        elif has_value and option in options:
            yield value
        elif any(len(option) == 2 and re.fullmatch(rf"-[a-zA-Z]+{option[1]}", word) for option in options):
            yield from words[index + 1 : index + 2]
        elif word[:2] in options or ((word[:1] != "-" or "\n" in word) and is_sql(word, is_expected=True)):
            yield word[2:] if word[:2] in options else word
    if command.stdin is not None:
        yield command.stdin.text
