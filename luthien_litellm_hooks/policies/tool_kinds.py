"""What kind of tool a name stands for, and what the keys of its arguments mean, as agents name them."""

import re
import unicodedata
from functools import lru_cache
from typing import Literal

from luthien_litellm_hooks.events import ToolForm

Kind = Literal["shell", "file_write", "web", "sql"]

_WORD = re.compile(r"[^\W_]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_LONGEST_KEPT = 100  # characters of a key that is remembered: models make up keys, of any length
_SERVER = re.compile(r"__|[./:]")  # what parts a server's name from its tool's


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SHELLS = _words("bash shell sh zsh powershell pwsh terminal cmd exec subprocess ssh")
_RUNS = _words("run execute exec start send write interact")
_RUNNABLE = _words("command commands script scripts process stdin program")
_SHELL_NAMES = frozenset({"run", "execute", "command"})

_WRITES = _words(
    "write edit create delete remove move rename copy append patch replace insert save update overwrite modify apply "
    "touch unlink trash upload put"
)
_WRITABLE = _words("file files patch diff edits notebook directory folder path")
_WRITE_NAMES = _words(
    "write edit multiedit multi_edit create patch str_replace search_replace search_and_replace insert_content "
    "edit_block rm mv cp mkdir"
)
_EDITORS = frozenset({"str_replace_editor", "str_replace_based_edit_tool", "text_editor", "editor", "memory"})
_OWN_COMMANDS = _EDITORS | {"slash_command", "skill"}
EDITOR_READS = frozenset({"view"})
"""Commands of an editor that change nothing on disk."""

_WEB = _words("web webfetch websearch browser http https url urls curl wget scrape crawl webpage website internet")
_WEB_NAMES = _words("fetch navigate goto browse google_search")

_DATABASES = _words(
    "sql mysql postgres postgresql psql sqlite mariadb mssql sqlserver duckdb snowflake bigquery redshift clickhouse "
    "oracle cockroachdb database db"
)

SCRIPT_KEYS = _words(
    "command commands cmd cmds script scripts command_line commandline shell shell_command bash bash_command"
)
"""A text under one of these is a shell's, whatever the tool is called."""
CODE_KEYS = _words("code python python_code")
LANGUAGE_KEYS = _words("language lang interpreter kernel runtime")
PROSE_KEYS = _words(
    "description explanation reason justification title summary toolsummary thought thoughts workdir cwd "
    "working_directory directory dir timeout session_id id"
)
"""What stands under these no shell and no database runs."""
PATH_WORDS = _words(
    "path paths file files filename filenames filepath filepaths destination dest target source src uri directory dir "
    "folder"
)
"""A key that ends in one of these names a path."""
CONTENT_WORDS = _words("content contents text str string data body edits diff patch code cell")
PATCH_KEYS = frozenset({"", "input", "patch", "patch_text", "diff"})
QUERY_WORDS = _words("sql query queries statement statements")
URL_WORDS = _words("url urls uri href link endpoint website domain host")
WORKDIR_KEYS = _words("workdir cwd working_directory directory dir")


def clean_name(name: str) -> str:
    """A name as rules compare it: without what cannot be seen, in one form of Unicode, in lower case. Some models
    write `functions.` before it, which agents take away."""
    return _visible(name).strip().casefold().removeprefix("functions.")


def words_of(name: str) -> list[str]:
    """The words of a name, however it joins them: `run_command`, `run-command`, `runCommand`."""
    return _WORD.findall(_CAMEL.sub(" ", _visible(name)).casefold())


def key_of(name: str) -> str:
    """A key of arguments as the sets here write it."""
    return _key_of(name) if len(name) <= _LONGEST_KEPT else "_".join(words_of(name))


@lru_cache(maxsize=1_024)
def _key_of(name: str) -> str:
    return "_".join(words_of(name))


def kinds_of_name(name: str) -> frozenset[Kind]:
    """The kinds that a tool's name stands for; none if it says nothing."""
    words = words_of(_SERVER.split(name)[-1])
    tool, joined = frozenset(words), "_".join(words)
    kinds: set[Kind] = set()
    if not _DATABASES.isdisjoint(words_of(name)):
        kinds.add("sql")
    if tool & _SHELLS or (tool & _RUNS and tool & _RUNNABLE) or joined in _SHELL_NAMES:
        kinds.add("shell")
    if (tool & _WRITES and tool & _WRITABLE) or joined in _WRITE_NAMES or joined in _EDITORS:
        kinds.add("file_write")
    if tool & _WEB or joined in _WEB_NAMES:
        kinds.add("web")
    return frozenset(kinds)


def is_own_search(name: str, form: ToolForm) -> bool:
    """Whether a call is a search that the provider runs itself, over an index of its own: it reaches no host that an
    agent names, unlike a fetch."""
    return form == "server" and "search" in words_of(name)


def is_editor(name: str) -> bool:
    """Whether it is a tool that also looks at files, as its `command` says."""
    return _joined(name) in _EDITORS


def has_own_commands(name: str) -> bool:
    """Whether its `command` is a word of its own (`view`, `/review`), and no shell's."""
    return _joined(name) in _OWN_COMMANDS


def _joined(name: str) -> str:
    """The name without its server's, as the sets here write it."""
    return "_".join(words_of(_SERVER.split(name)[-1]))


def _visible(name: str) -> str:
    if name.isascii() and name.isprintable():  # which NFKC leaves as it is
        return name
    normal = unicodedata.normalize("NFKC", name)
    return "".join(character for character in normal if unicodedata.category(character) not in ("Cc", "Cf"))
