"""Execution environment of a shell: effects of a command on the commands after it."""

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from tree_sitter import Node

from luthien_litellm_hooks.policies.shell.model import HERE, Command, Word
from luthien_litellm_hooks.policies.shell.paths import joined_path
from luthien_litellm_hooks.policies.shell.streams import Files, output_of
from luthien_litellm_hooks.policies.shell.syntax import text_of
from luthien_litellm_hooks.policies.shell.words import (
    BLANKS,
    MAX_ALTERNATIVES,
    Scope,
    TooMuchError,
    Value,
    text_words,
    words_of,
)

MAX_DIRECTORY_CHARACTERS = 1_024
"""Limit of a path's length; no script of a person goes deeper."""


class Environment:
    """Variables, aliases, working directory and files."""

    def __init__(self) -> None:
        self.variables = Variables()
        self.aliases: dict[str, str] = {}
        self.files = Files()
        self.directory = HERE

    @contextmanager
    def isolated(self) -> Generator[None]:
        """Runs a subshell: afterwards its variables and its directory are restored."""
        outer = self.directory
        with self.variables.isolated():
            yield
        self.directory = outer

    def write_output(self, command: Command) -> None:
        """Records the files receiving the output of `command`."""
        text = output_of(command)
        if text is None:
            return
        names = [redirect.target.text for redirect in command.redirects if redirect.operator.startswith((">", "&>"))]
        for name in (*names, *(command.texts if command.name == "tee" else ())):
            self.files.write(name, text.text)

    def run_builtin(self, command: Command) -> None:
        """Applies the effect of `command` on the environment, if it is such a builtin."""
        match command.name:
            case "cd" | "pushd" | "chdir" | "popd":
                self.directory = self._directory_after(command)
            case "alias":
                for text in command.texts:
                    name, _, value = text.partition("=")
                    self.aliases[name] = value
            case "read" | "mapfile" | "readarray":
                self._read_input(command)
            case "getopts":
                for text in command.texts:
                    self.variables.set(text, ())
            case "unset" if "-f" not in command.texts:
                for text in command.texts:
                    self.variables.set(text, ((Word(" " if text == "IFS" else ""),),))
            case "set" if "--" in command.texts:
                self.variables.set_positional(command.words[command.texts.index("--") + 1 :])
            case "printf" if len(command.words) > 2 and command.texts[0] == "-v":
                value = output_of(replace(command, words=command.words[2:]))
                self.variables.set(command.texts[1], ((value,),) if value else ())
            case _:
                return

    def _read_input(self, command: Command) -> None:
        """Sets the variables of `read` to the fields of each line of its input, and that of `mapfile` to its lines."""
        is_array = command.name != "read" or any(text.startswith("-") and text.endswith("a") for text in command.texts)
        names = _names_read(command)
        text = command.stdin
        lines = [line for line in re.split(r"[\n\0]", text.text) if line.strip()] if text and text.is_resolved else []
        if command.name != "read":
            rows = [lines[: MAX_ELEMENTS + 1]] if lines else []
        else:
            separators = self.variables.separators()
            rows = [_fields_read(line, separators, 0 if is_array else len(names)) for line in lines]
        for index, name in enumerate(names):
            if is_array:
                values = tuple(tuple(map(Word, row)) for row in rows if len(row) <= MAX_ELEMENTS)
            else:
                values = tuple((Word(row[index] if index < len(row) else ""),) for row in rows)
            self.variables.set(name, values if len(values) == len(rows) <= MAX_ALTERNATIVES else ())
            self.variables.add_sources(name, (*command.fed_by, *command.built_from))

    def _directory_after(self, command: Command) -> Word:
        targets = [word for word in command.words if not word.text.startswith("-") or word.text == "-"]
        if command.name == "popd" or (targets and targets[0].text == "-"):
            return Word("$OLDPWD", is_resolved=False)
        if not targets:
            return Word("~")
        path = joined_path(self.directory.text, targets[0].text)
        if len(path) > MAX_DIRECTORY_CHARACTERS:
            raise TooMuchError
        return Word(path, targets[0].is_resolved and (self.directory.is_resolved or path[0] in "/~"))


MAX_ELEMENTS = 256
"""Elements of the longest known array; a longer one is unknown."""

VALUED_OF_READ = frozenset({"-d", "-i", "-n", "-N", "-p", "-t", "-u"})
VALUED_OF_MAPFILE = frozenset({"-d", "-n", "-O", "-s", "-u", "-C", "-c"})


def _names_read(command: Command) -> list[str]:
    """Returns the variables that `read` or `mapfile` sets."""
    valued = VALUED_OF_READ if command.name == "read" else VALUED_OF_MAPFILE
    texts = command.texts
    names = [
        text
        for index, text in enumerate(texts)
        if not text.startswith("-")
        and not (index and texts[index - 1][:1] == "-" and f"-{texts[index - 1][-1]}" in valued)
    ]
    return names or ["REPLY" if command.name == "read" else "MAPFILE"]


def _fields_read(line: str, separators: str, count: int) -> list[str]:
    """Splits a line at the separators, into `count` fields at most; into any number for 0."""
    if not separators or count == 1:
        return [line.strip(separators)]
    return re.split(f"[{re.escape(separators)}]+", line.strip(separators), maxsplit=max(0, count - 1))


WELL_KNOWN = (("HOME", "~"), ("IFS", " "), ("SHELL", "/bin/bash"), ("BASH", "/bin/bash"))
POSITIONAL = ("@", "*", *"123456789")


class Variables:
    """Variables of a script: every possible value, and the commands that produced it.

    A variable without values is unknown.
    """

    def __init__(self) -> None:
        self._values: dict[str, tuple[Value, ...]] = {name: ((Word(text),),) for name, text in WELL_KNOWN}
        self._sources: dict[str, tuple[Command, ...]] = {}
        self._references: dict[str, str] = {}
        self._locals: dict[str, tuple[Value, ...] | None] | None = None
        """Values before, of the variables that the current function declared; None outside of one."""
        self._is_conditional = False
        self._replaced: list[tuple[str, tuple[Value, ...] | None]] = []
        """Variables set in a subshell, with their values before."""

    def values(self, name: str) -> tuple[Value, ...]:
        """Returns every possible value of the variable; empty if unknown."""
        return self._values.get(self._references.get(name, name), ())

    def sources(self, name: str) -> tuple[Command, ...]:
        """Returns the commands behind its values."""
        return self._sources.get(self._references.get(name, name), ())

    def add_sources(self, name: str, sources: Sequence[Command]) -> None:
        """Records more commands behind the values of a variable."""
        if sources:
            self._sources[name] = (*self.sources(name), *sources)[-MAX_ALTERNATIVES:]

    def refer(self, name: str, target: str) -> None:
        """Makes `name` another name of the variable `target`, as `declare -n` does."""
        self._references[name] = target

    def separators(self) -> str:
        """Returns the characters of IFS; those of all its possible values."""
        values = self._values.get("IFS", ())
        if values in (((Word(" "),),), ()) or not all(value and value[0].is_resolved for value in values):
            return BLANKS
        return "".join(dict.fromkeys("".join(BLANKS if value[0].text == " " else value[0].text for value in values)))

    def declare_local(self, name: str) -> None:
        """Declares a variable of the current function: its value before comes back after the function."""
        if self._locals is not None:
            self._locals.setdefault(name, self._values.get(name))
            self._restore(name, None)

    @contextmanager
    def function(self) -> Generator[None]:
        """Runs the body of a function: afterwards the variables that it declared have their old values."""
        outer, self._locals = self._locals, {}
        yield
        for name, values in self._locals.items():
            self._restore(name, values)
        self._locals = outer

    @contextmanager
    def restoring(self, names: Sequence[str]) -> Generator[None]:
        """Runs a command with its own assignments: afterwards these variables have their old values."""
        outer = {name: self._values.get(name) for name in names}
        yield
        for name, values in outer.items():
            self._restore(name, values)

    def _restore(self, name: str, values: tuple[Value, ...] | None) -> None:
        self._replaced.append((name, self._values.get(name)))
        if values is None:
            self._values.pop(name, None)
        else:
            self._values[name] = values

    def assign(self, assignment: Node, values: tuple[Value, ...], sources: Sequence[Command]) -> None:
        """Assigns `X=values`, `X+=values` or `X[0]=values`; the output of `sources` is part of `values`."""
        named = assignment.child_by_field_name("name")
        if named is None:
            return
        name = text_of(named).partition("[")[0]
        if any(child.type == "+=" for child in assignment.children):
            values = _appended(self.values(name), values)
        self._sources[name] = (*self.sources(name), *sources)[:MAX_ALTERNATIVES]
        name = self._references.get(name, name)
        self.set(name, values if named.type != "subscript" else (*self.values(name), *values))

    def set(self, name: str, values: tuple[Value, ...]) -> None:
        """Sets the values. In conditional code the old values stay possible."""
        if not values or (self._is_conditional and self._values.get(name) == ()):
            self._put(name, ())
            return
        old = self.values(name) if self._is_conditional else ()
        self._put(name, _bounded(tuple(dict.fromkeys((*old, *values)))))

    def set_in_turn(self, name: str, values: tuple[Value, ...]) -> None:
        """Sets the variable of a loop: inside the loop it has no other values."""
        self._put(name, _bounded(values))

    def set_positional(self, words: tuple[Word, ...]) -> None:
        """Sets `$1` and the like, `$@` and `$*`."""
        for name in "@*":
            self._put(name, (words,) if len(words) <= MAX_ELEMENTS else ())
        for number in range(1, 10):
            self._put(str(number), ((words[number - 1],),) if number <= len(words) else ())

    def _put(self, name: str, values: tuple[Value, ...]) -> None:
        self._replaced.append((name, self._values.get(name)))
        self._values[name] = values

    @contextmanager
    def positional(self, words: tuple[Word, ...]) -> Generator[None]:
        """Runs a function with its own positional parameters."""
        outer = {name: self.values(name) for name in POSITIONAL}
        self.set_positional(words)
        yield
        for name, values in outer.items():
            self._put(name, values)

    @contextmanager
    def isolated(self) -> Generator[None]:
        """Runs a subshell: afterwards its assignments are undone."""
        outer, self._replaced = self._replaced, []
        yield
        for name, values in reversed(self._replaced):
            if values is None:
                self._values.pop(name, None)
            else:
                self._values[name] = values
        self._replaced = outer

    @contextmanager
    def conditional(self) -> Generator[None]:
        """Runs code the script may skip."""
        outer, self._is_conditional = self._is_conditional, True
        yield
        self._is_conditional = outer


def assigned_values(assignment: Node, scope: Scope) -> tuple[Value, ...]:
    """Returns the possible values of an assignment's right-hand side."""
    value = assignment.child_by_field_name("value")
    if value is None:
        return ((Word(""),),)
    if value.type == "array":
        words = tuple(word for child in value.named_children for word in words_of(child, scope))
        return (words,) if len(words) <= MAX_ELEMENTS else ()
    return tuple((word,) for word in text_words(value, scope))


def _bounded(values: tuple[Value, ...]) -> tuple[Value, ...]:
    return values if len(values) <= MAX_ALTERNATIVES else ()


def _appended(old: tuple[Value, ...], new: tuple[Value, ...]) -> tuple[Value, ...]:
    """Returns the result of `X+=text` and `X+=(more)`, for each pair of values."""
    return tuple(
        (*before, *after)
        if len(before) != 1 or len(after) != 1
        else (Word(before[0].text + after[0].text, before[0].is_resolved and after[0].is_resolved),)
        for before in old or ((Word(""),),)
        for after in new
    )
