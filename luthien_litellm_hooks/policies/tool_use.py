"""What a tool call would do: run, write, contact, ask of a database."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from luthien_litellm_hooks.parsing.command_patterns import program_of
from luthien_litellm_hooks.parsing.shell import parse_shell
from luthien_litellm_hooks.parsing.shell_model import Command, Script
from luthien_litellm_hooks.parsing.shell_writes import contacts_network, written_paths
from luthien_litellm_hooks.parsing.sql import is_sql
from luthien_litellm_hooks.policies.path_patterns import forms_of_path
from luthien_litellm_hooks.policies.tool_arguments import entries
from luthien_litellm_hooks.policies.tool_contacts import UNKNOWN_HOST, host_of, hosts_of_command
from luthien_litellm_hooks.policies.tool_kinds import (
    PROSE_KEYS,
    QUERY_WORDS,
    URL_WORDS,
    WORKDIR_KEYS,
    Kind,
    clean_name,
    key_of,
)
from luthien_litellm_hooks.policies.tool_paths import patched_paths, paths_of, writes_files
from luthien_litellm_hooks.policies.tool_scripts import scripts_of

_PATCH_MARK = "*** Begin Patch"  # what Codex gives to its `apply_patch` in a heredoc
_SQL_OPTIONS = {
    "psql": ("-c", "--command"),
    "mysql": ("-e", "--execute"),
    "mariadb": ("-e", "--execute"),
    "sqlcmd": ("-Q", "-q"),
    "sqlite3": (),
    "duckdb": ("-c",),
}


MAX_SCRIPTS = 50
MAX_PATHS = 1_000
"""A call with more is beyond reading: it would take too long, and no agent needs so many."""
MAX_STATEMENTS = 10
"""More texts of SQL are read as one."""


@dataclass(frozen=True)
class ToolUse:
    """One way to read a tool call. `named_kinds` is what its name or the settings say that the tool
    is; the rest is read from the arguments when it is asked for."""

    name: str
    arguments: object
    named_kinds: frozenset[Kind]
    is_readable: bool = True
    """False if the arguments cannot be read; then nothing is found in them."""

    @cached_property
    def clean_name(self) -> str:
        """The name as rules compare it."""
        return clean_name(self.name)

    @cached_property
    def kinds(self) -> frozenset[Kind]:
        """What the call does, by whichever means: a `curl` in a shell is `shell` and `web`."""
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

    @cached_property
    def scripts(self) -> tuple[str, ...]:
        """What a shell would run, at most `MAX_SCRIPTS`."""
        return self._all_scripts[:MAX_SCRIPTS]

    @cached_property
    def parsed_scripts(self) -> tuple[Script, ...]:
        """The scripts, read."""
        return tuple(map(parse_shell, self.scripts))

    @cached_property
    def commands(self) -> tuple[Command, ...]:
        """Every command of the scripts."""
        return tuple(command for script in self.parsed_scripts for command in script.commands)

    @cached_property
    def programs(self) -> frozenset[str]:
        """The programs of the commands, as patterns of commands name them."""
        return frozenset(map(program_of, self.commands))

    @cached_property
    def is_understood(self) -> bool:
        """Whether the scripts and the paths could be read, all of them."""
        return (
            len(self._all_scripts) <= MAX_SCRIPTS
            and len(self._all_paths) <= MAX_PATHS
            and all(script.is_understood for script in self.parsed_scripts)
        )

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """The paths that the call touches: those a file tool is given, and those a shell would write;
        at most `MAX_PATHS`."""
        return self._all_paths[:MAX_PATHS]

    @cached_property
    def forms_of_paths(self) -> tuple[tuple[str, frozenset[str]], ...]:
        """The paths, each with all that it may come down to."""
        return tuple((path, forms_of_path(path, self.directory)) for path in self.paths)

    @cached_property
    def directory(self) -> str:
        """Where the call works, if it says so."""
        return next((text for key, text in self._texts if key in WORKDIR_KEYS), "")

    @cached_property
    def hosts(self) -> tuple[str, ...]:
        """The hosts that the call contacts, `UNKNOWN_HOST` among them for those it does not name."""
        named = [host_of(text) for key, text in self._texts if key.rpartition("_")[2] in URL_WORDS and _is_url(text)]
        if "web" in self.named_kinds and not named:
            named = [UNKNOWN_HOST]
        used = [host for command in self.commands if contacts_network(command) for host in hosts_of_command(command)]
        return tuple(dict.fromkeys([*named, *used]))

    @cached_property
    def sql(self) -> tuple[str, ...]:
        """What a database would run."""
        named = [text for key, text in self._texts if self._is_for_database(key, text)]
        piped = [text for command in self.commands for text in _sql_of_command(command)]
        texts = tuple(dict.fromkeys([*named, *piped]))
        return texts if len(texts) <= MAX_STATEMENTS else (";\n".join(texts),)

    @cached_property
    def _all_scripts(self) -> tuple[str, ...]:
        return scripts_of(self.name, self.arguments, self._entries, is_shell="shell" in self.named_kinds)

    @cached_property
    def _all_paths(self) -> tuple[str, ...]:
        named = () if "shell" in self.named_kinds else paths_of(self._texts, is_file_tool=self._is_file_tool)
        return tuple(dict.fromkeys([*named, *self._shell_writes]))

    @cached_property
    def _texts(self) -> tuple[tuple[str, str], ...]:
        return tuple(
            (key, text) for key, value in self._entries for text in ([value] if isinstance(value, str) else value)
        )

    @cached_property
    def _entries(self) -> tuple[tuple[str, str | list[str]], ...]:
        return tuple((key_of(key), value) for key, value in entries(self.arguments))

    @property
    def _is_file_tool(self) -> bool:
        return "file_write" in self.named_kinds

    @cached_property
    def _writes_files(self) -> bool:
        return writes_files(self.name, self._texts, is_file_tool=self._is_file_tool)

    @cached_property
    def _shell_writes(self) -> tuple[str, ...]:
        patches = [script for script in self.scripts if _PATCH_MARK in script]
        patched = [path for patch in patches for path in patched_paths(patch)]
        return tuple(dict.fromkeys([*written_paths(self.commands), *patched]))

    def _is_for_database(self, key: str, text: str) -> bool:
        """A database's tool runs its queries; of other tools, what stands under a key for queries
        and begins like a statement."""
        word = key.rpartition("_")[2]
        if word == "sql":
            return True
        if "sql" in self.named_kinds:
            return word in QUERY_WORDS or (key not in PROSE_KEYS and is_sql(text))
        return not self.named_kinds and word in QUERY_WORDS and is_sql(text)


def _is_url(text: str) -> bool:
    return "://" in text and not text.lower().startswith("file:")


def _sql_of_command(command: Command) -> Iterator[str]:
    """The SQL that a database's client is given in its words or on its standard input."""
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
        elif word[:2] in options or (not word.startswith("-") and is_sql(word)):
            yield word[2:] if word[:2] in options else word
    if command.stdin is not None:
        yield command.stdin.text
