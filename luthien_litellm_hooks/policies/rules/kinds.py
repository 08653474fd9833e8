"""Tools and their arguments by name: kinds of a tool, and the scripts and paths in its arguments."""

import re
import shlex
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, cast

from luthien_litellm_hooks.policies.rules.arguments import objects, text_of
from luthien_litellm_hooks.policies.rules.patterns import MAX_PATH_CHARACTERS
from luthien_litellm_hooks.wire.events import ToolForm

Kind = Literal["shell", "file_write", "web", "sql"]
Language = Literal["shell", "python", "javascript"]

_WORD = re.compile(r"[^\W_]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_MAX_CACHED = 100  # characters of a name whose words are cached: models make up names of any length
_SERVER = re.compile(r"__|[./:]")  # between a server's name and its tool's


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
_CHANGES = _words("write edit delete remove move rename replace insert overwrite patch unlink")
"""Verbs in the name of a tool that changes the files at its paths."""
_EDITORS = frozenset({"str_replace_editor", "str_replace_based_edit_tool", "text_editor", "editor", "memory"})
_OWN_COMMANDS = _EDITORS | {"slash_command", "skill"}
EDITOR_READS = frozenset({"view"})
"""Commands of an editor without changes on disk."""

_WEB = _words("web webfetch websearch browser http https url urls curl wget scrape crawl webpage website internet")
_WEB_SERVICES = _words(
    "tavily exa firecrawl brave perplexity serpapi serper duckduckgo playwright puppeteer browserbase"
)
_WEB_NAMES = _words("fetch navigate goto browse google_search")

_DATABASES = _words(
    "sql mysql postgres postgresql psql sqlite mariadb mssql sqlserver duckdb snowflake bigquery redshift clickhouse "
    "oracle cockroachdb database db"
)

SCRIPT_KEYS = _words(
    "command commands cmd cmds script scripts command_line commandline shell shell_command bash bash_command"
)
"""Keys of scripts for a shell, in any tool."""
CODE_KEYS = _words("code python python_code javascript js js_code javascript_code node_code")
EVALUATED_KEYS = _words("function expression js_function page_function text input")
"""Keys of code in tools whose name says that they evaluate JavaScript."""
_COMMAND_KEYS = SCRIPT_KEYS - {"script", "scripts"}
LANGUAGE_KEYS = _words("language lang interpreter kernel runtime")
PROSE_KEYS = _words(
    "description explanation reason justification title summary toolsummary thought thoughts workdir cwd "
    "working_directory directory dir timeout session_id id"
)
"""Keys of texts that no shell and no database runs."""
PATH_WORDS = _words(
    "path paths file files filename filenames filepath filepaths destination dest target source src uri directory dir "
    "folder"
)
"""Last words of the keys for paths."""
CONTENT_WORDS = _words("content contents text str string data body edits diff patch code cell")
PATCH_KEYS = frozenset({"", "input", "patch", "patch_text", "diff"})
QUERY_WORDS = _words("sql query queries statement statements")
URL_WORDS = _words("url urls uri href link endpoint website domain host")
WORKDIR_KEYS = _words("workdir cwd working_directory directory dir")


def clean_name(name: str) -> str:
    """Returns a name for comparison: only visible characters, in one form of Unicode, in lower case.

    Some models write `functions.` before it, and agents remove that.
    """
    return _visible(name).strip().casefold().removeprefix("functions.")


def words_of(name: str) -> tuple[str, ...]:
    """Returns the words of a name, joined in any way: `run_command`, `run-command`, `runCommand`."""
    return _cached_words(name) if len(name) <= _MAX_CACHED else _split(name)


def _split(name: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(_CAMEL.sub(" ", _visible(name)).casefold()))


_cached_words = lru_cache(maxsize=1_024)(_split)


def key_of(name: str) -> str:
    """Returns a key of arguments in the spelling of the sets above."""
    return "_".join(words_of(name))


def kinds_of_name(name: str) -> frozenset[Kind]:
    """Returns the kinds according to a tool's name; empty if it says nothing."""
    words = words_of(_SERVER.split(name)[-1])
    tool, joined = frozenset(words), "_".join(words)
    kinds: set[Kind] = set()
    if not _DATABASES.isdisjoint(words_of(name)):
        kinds.add("sql")
    if tool & _SHELLS or (tool & _RUNS and tool & _RUNNABLE) or joined in _SHELL_NAMES:
        kinds.add("shell")
    if (tool & _WRITES and tool & _WRITABLE) or joined in _WRITE_NAMES or joined in _EDITORS:
        kinds.add("file_write")
    if tool & _WEB or joined in _WEB_NAMES or not _WEB_SERVICES.isdisjoint(words_of(name)):
        kinds.add("web")
    return frozenset(kinds)


def is_own_search(name: str, form: ToolForm) -> bool:
    """Tells if a call is a search that the provider runs over its own index.

    Unlike a fetch, it reaches no host named by an agent.
    """
    return form == "server" and "search" in words_of(name)


def is_editor(name: str) -> bool:
    """Tells if the tool also reads files, depending on its `command`."""
    return _joined(name) in _EDITORS


def has_own_commands(name: str) -> bool:
    """Tells if `command` is a word of the tool's own (`view`, `/review`) instead of a shell's."""
    return _joined(name) in _OWN_COMMANDS


def _joined(name: str) -> str:
    """Returns the name without its server's, in the spelling of the sets above."""
    return "_".join(words_of(_SERVER.split(name)[-1]))


def _visible(name: str) -> str:
    if name.isascii() and name.isprintable():  # unchanged by NFKC
        return name
    normal = unicodedata.normalize("NFKC", name)
    return "".join(character for character in normal if unicodedata.category(character) not in ("Cc", "Cf"))


_SHELL_LANGUAGES = frozenset({"bash", "sh", "shell", "zsh"})
_LANGUAGES: dict[Language, frozenset[str]] = {
    "javascript": _words("javascript js node nodejs deno bun typescript ts v8 ecmascript"),
    "python": _words("python python3 py ipython jupyter pyodide"),
    "shell": _words("bash shell sh zsh powershell pwsh terminal ssh cmd"),
}
_EVALUATES = _words("evaluate eval evaluates")
_BROWSERS = _words("browser puppeteer playwright chrome page devtools webpage")
_LANGUAGE_NAME = re.compile(
    r"\b(?:(?P<javascript>JavaScript|TypeScript|Node(?:\.?js)?|ECMAScript|V8)|(?P<python>I?Python)"
    r"|(?P<shell>bash|shell|zsh|sh|terminal|PowerShell))\b",
    re.IGNORECASE,
)
_PLURALS = frozenset({"commands", "cmds", "scripts"})
Entry = tuple[str, str | list[str]]
"""A key in the form of `key_of`, and a text or a list of words under it."""
_ARGUMENT_KEYS = frozenset({"args", "arguments", "argv", "parameters"})


def language_said(name: str, entries: Sequence[Entry]) -> Language | None:
    """Returns the language of a tool's code according to its name or an argument; None for none, or several."""
    named = [value.strip().casefold() for key, value in entries if key in LANGUAGE_KEYS and isinstance(value, str)]
    own, every = frozenset(words_of(_SERVER.split(name)[-1])), frozenset(words_of(name))
    for words in (frozenset(named), own, every):
        said: list[Language] = [language for language, known in _LANGUAGES.items() if words & known]
        if said:
            return said[0] if len(said) == 1 else None
    return "javascript" if own & _EVALUATES and every & _BROWSERS else None


def language_described(description: str) -> Language | None:
    """Returns the language that a description names first."""
    found = _LANGUAGE_NAME.search(description)
    return cast(Language, found.lastgroup) if found is not None else None


def is_certain_shell(name: str) -> bool:
    """Tells if the name of a shell's tool leaves no other language: not that of `exec` or `run`."""
    words = frozenset(words_of(_SERVER.split(name)[-1]))
    return bool(words & _LANGUAGES["shell"]) or bool(words & _RUNS and words & (_RUNNABLE - {"script", "scripts"}))


@dataclass(frozen=True, slots=True)
class Source:
    """A text that something runs. `usual` is its language, unless the tool says another; a `is_command` is a shell's if
    a shell can read it."""

    text: str
    usual: Language
    is_command: bool = False


def sources_of(
    name: str, arguments: object, entries: Sequence[Entry], *, is_shell: bool, is_evaluating: bool
) -> tuple[Source, ...]:
    """Returns the texts that would be run, if the client reads `arguments` as tools of its kind do. `entries` are the
    entries of `arguments`.

    With `is_shell`, every text except prose is a script. In other tools, texts under keys like `command` are scripts,
    and code is a program.
    """
    runs_shell_code = is_shell or _is_in_shell_language(entries)
    found: list[Source] = []
    for word, value in entries:
        is_script = word in SCRIPT_KEYS and not (word == "command" and has_own_commands(name))
        if is_script or (is_shell and word not in PROSE_KEYS | LANGUAGE_KEYS):
            is_plain = isinstance(value, str) and word not in _COMMAND_KEYS
            found += [Source(text, "shell", not is_plain) for text in _scripts(word, value)]
        elif word in CODE_KEYS or (is_evaluating and word in EVALUATED_KEYS):
            code = value if isinstance(value, str) else "\n".join(value)
            found.append(Source(code, "python"))
            found += [Source(code, "shell", is_command=True)] if runs_shell_code else []
    found += [Source(text, "shell", is_command=True) for text in _commands_with_arguments(arguments)]
    return tuple(dict.fromkeys(found))


def _scripts(key: str, value: str | list[str]) -> list[str]:
    """Returns a text as a script. A list is the words of one command, and also several scripts if its key says so or
    its first word cannot be a program's name."""
    if isinstance(value, str):
        return [value]
    are_scripts = key in _PLURALS or len(value) == 1 or any(character.isspace() for character in value[0])
    return [shlex.join(value), *(value if are_scripts else [])]


def _commands_with_arguments(arguments: object) -> Iterator[str]:
    """Yields commands with their words in a list beside them: `{"command": "rm", "args": ["-rf", "x"]}`."""
    for members in objects(arguments):
        words = [_joined_words(value) for key, value in members.items() if key_of(key) in _ARGUMENT_KEYS]
        for key, command in members.items():
            if key_of(key) in SCRIPT_KEYS and isinstance(command, str):
                yield from (f"{command} {more}" for more in words if more)


def _joined_words(value: object) -> str:
    if isinstance(value, str):
        return value
    return shlex.join(map(text_of, cast(list[object], value))) if isinstance(value, list) else ""


def _is_in_shell_language(entries: Sequence[Entry]) -> bool:
    return any(
        key in LANGUAGE_KEYS and isinstance(value, str) and value.strip().casefold() in _SHELL_LANGUAGES
        for key, value in entries
    )


_PATCHED = re.compile(
    r"(?m)^[ \t]*\*\*\* (?:Add File|Update File|Delete File|Move to):(.+)$"
    r"|^(?:---|\+\+\+) (?:[ab]/)?([^\t\n]+)|^rename (?:from|to) (.+)$"
)


def paths_of(texts: Sequence[tuple[str, str]], *, is_file_tool: bool) -> tuple[str, ...]:
    """Returns the paths in the texts of a call, each given with its key.

    If a file tool has no key for a path, every short text counts.
    """
    named = [text for key, text in texts if _ends_in(key, PATH_WORDS)]
    patched = [path for key, text in texts if key in PATCH_KEYS for path in patched_paths(text)]
    if is_file_tool and not named and not patched:
        named = [text for key, text in texts if key not in PROSE_KEYS and "\n" not in text]
    return tuple(dict.fromkeys(path for path in [*named, *patched] if len(path) <= MAX_PATH_CHARACTERS))


def patched_paths(patch: str) -> Iterator[str]:
    """Yields the files changed by a patch, in Codex's format or a unified diff."""
    for match in _PATCHED.finditer(patch):
        path = next(group for group in match.groups() if group is not None).strip()
        if path != "/dev/null":
            yield path


def writes_files(name: str, texts: Sequence[tuple[str, str]], *, is_file_tool: bool) -> bool:
    """Tells if the call changes files: by the tool's kind, by a path together with content or a verb, or by a patch.

    An editor may also just read.
    """
    if is_editor(name):
        return [text for key, text in texts if key == "command" and text in EDITOR_READS] == []
    keys = [key for key, _ in texts]
    has_path = any(_ends_in(key, PATH_WORDS) for key in keys)
    has_change = not _CHANGES.isdisjoint(words_of(_SERVER.split(name)[-1]))
    return (
        is_file_tool
        or (has_path and (has_change or any(_ends_in(key, CONTENT_WORDS) for key in keys)))
        or any(key in PATCH_KEYS and _PATCHED.search(text) is not None for key, text in texts)
    )


def _ends_in(key: str, words: frozenset[str]) -> bool:
    return key.rpartition("_")[2] in words
