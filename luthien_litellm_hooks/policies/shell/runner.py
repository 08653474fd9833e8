"""Runner of a script's commands: follows each into functions, aliases, scripts and other programs."""

import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext

from tree_sitter import Node

from luthien_litellm_hooks.policies.shell.environment import Environment
from luthien_litellm_hooks.policies.shell.launchers import (
    SAME_SHELL,
    positional_of,
    quoted,
    runs_of,
    script_file_of,
)
from luthien_litellm_hooks.policies.shell.model import Command, Redirect, Word
from luthien_litellm_hooks.policies.shell.streams import FILTERS, Input
from luthien_litellm_hooks.policies.shell.syntax import is_whole, syntax_tree
from luthien_litellm_hooks.policies.shell.words import TooMuchError

MAX_COMMANDS = 5_000
MAX_WORDS = 20_000
MAX_CHARACTERS = 1_000_000
"""Shared limit of characters: the script and scripts inside it, functions at each call, values of variables at each
use, input of filters, words of commands."""

BODY_COST = 10
"""Cost of reading a character of a function again, at each call."""

MAX_FEEDS = 100_000
"""Limit of the links between a command's output and another command."""

MAX_SCRIPT_DEPTH = 8


class Runner:
    """Recorder of the commands, in the order of their run. `read` reads the statements below a node."""

    def __init__(self, read: Callable[[Node], None]) -> None:
        self.commands: list[Command] = []
        self.is_understood = True
        self.is_assembled = False
        """True inside a script that was put together from unknown values."""
        self.environment = Environment()
        self.input = Input()
        self._read = read
        self._functions: dict[str, Node] = {}
        self._uncalled: dict[str, Node] = {}
        self._calling: frozenset[str] = frozenset()
        self._script_depth = 0
        self._words_left = MAX_WORDS
        self._characters_left = MAX_CHARACTERS
        self._feeds_left = MAX_FEEDS

    def run_script(self, script: str) -> None:
        """Reads a script at the point of its run."""
        self._characters_left -= len(script)
        is_within_bounds = self._script_depth < MAX_SCRIPT_DEPTH and self._characters_left >= 0
        root = syntax_tree(script) if is_within_bounds else None
        if root is None:
            self.is_understood = False
            return
        if root.has_error and not is_whole(root):
            self.is_understood = False
        self._script_depth += 1
        self._read(root)
        self._script_depth -= 1

    def define(self, name: str, body: Node) -> None:
        self._functions[name] = self._uncalled[name] = body

    def run_uncalled(self) -> None:
        """Reads the functions without a call in the script."""
        while self._uncalled:
            name, body = self._uncalled.popitem()
            self._read_body(name, body)

    def command_of(
        self,
        words: Sequence[Word],
        redirects: tuple[Redirect, ...] = (),
        stdin: Word | None = None,
        *,
        built_from: tuple[Command, ...] = (),
        is_in_background: bool,
    ) -> Command:
        """Returns the command of a program and its arguments, with the current directory and input, unless `stdin`
        replaces the input."""
        program = words[0]
        name = re.split(r"[/\\]", program.text)[-1].removesuffix(".exe") if program.is_resolved else ""
        return Command(
            name=name,
            words=tuple(words[1:]),
            redirects=redirects,
            program=program.text,
            is_name_resolved=program.is_resolved,
            piped_from=self.input.piped_from,
            fed_by=self.input.fed_by,
            built_from=built_from,
            stdin=stdin or self.input.stdin,
            directory=self.environment.directory,
            is_in_background=is_in_background,
            is_self_call=name in self._calling,
        )

    def note(self, command: Command) -> None:
        """Records `command`, without its inner programs. Raises `TooMuchError`."""
        self._words_left -= len(command.words)
        self._feeds_left -= len(command.fed_by) + len(command.built_from)
        self.charge(sum(len(word.text) for word in command.words))
        if command.name in FILTERS and command.stdin is not None:
            self.charge(len(command.stdin.text))
        if len(self.commands) >= MAX_COMMANDS or min(self._words_left, self._feeds_left) < 0:
            raise TooMuchError
        self.commands.append(command)

    def charge(self, characters: int) -> None:
        """Takes `characters` from the remaining allowance. Raises `TooMuchError`."""
        self._characters_left -= characters
        if self._characters_left < 0:
            raise TooMuchError

    def run(self, command: Command) -> None:
        """Records `command`, its effects on later words, and its inner programs."""
        self.note(command)
        self.environment.write_output(command)
        with self.reading_from(Input(command.stdin, command.piped_from, command.fed_by)):
            if command.name in self.environment.aliases:
                self._run_alias(command)
            elif command.name in self._functions and not command.is_self_call:
                self._call(command)
            else:
                self.environment.run_builtin(command)
                self._run_inner(command)

    @contextmanager
    def _assembled(self, script: Word) -> Generator[None]:
        outer, self.is_assembled = self.is_assembled, self.is_assembled or not script.is_resolved
        yield
        self.is_assembled = outer

    @contextmanager
    def reading_from(self, source: Input) -> Generator[None]:
        """Sets `source` as the standard input of the commands inside the block."""
        outer, self.input = self.input, source
        yield
        self.input = outer

    def _run_alias(self, command: Command) -> None:
        value = self.environment.aliases.pop(command.name)
        self.run_script(" ".join([value, *map(quoted, command.words)]))
        self.environment.aliases[command.name] = value

    def _call(self, command: Command) -> None:
        with self.environment.variables.positional(command.words):
            self._read_body(command.name, self._functions[command.name])

    def _read_body(self, name: str, body: Node) -> None:
        self._uncalled.pop(name, None)
        self.charge(BODY_COST * (body.end_byte - body.start_byte))
        calling, self._calling = self._calling, self._calling | {name}
        with self.environment.variables.function():
            self._read(body)
        self._calling = calling

    def _run_inner(self, command: Command) -> None:
        built_from = (*command.built_from, *(command.fed_by if command.name in ("xargs", "parallel") else ()))
        variables = self.environment.variables
        for inner in runs_of(command):
            if isinstance(inner, Word):
                arguments = positional_of(command)[1:]
                own = nullcontext() if command.name in SAME_SHELL else self.environment.isolated()
                given = variables.positional(arguments) if arguments else nullcontext()
                rest = Input(None, command.piped_from, command.fed_by) if inner is command.stdin else self.input
                with own, given, self.reading_from(rest), self._assembled(inner):
                    self.run_script(inner.text)
            elif inner and self._script_depth < MAX_SCRIPT_DEPTH * 2:
                self._script_depth += 1
                self.run(self.command_of(inner, built_from=built_from, is_in_background=command.is_in_background))
                self._script_depth -= 1
            else:
                self.is_understood = False
        file = script_file_of(command)
        text = self.environment.files.text(file.text if file else command.program)
        if text is not None:
            self.run_script(text)
