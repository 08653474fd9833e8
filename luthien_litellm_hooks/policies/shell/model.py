"""Commands of a shell script, their words and redirections."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Self


@dataclass(frozen=True, slots=True)
class Word:
    """A word after quote removal and expansion; `~` and `$HOME` stay as `~`."""

    text: str

    is_resolved: bool = True
    """False if `text` still holds an expansion of unknown value, as it was written."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """A redirection to or from a file, such as `> file`. Heredocs and here-strings are not included."""

    operator: str
    target: Word


HERE = Word("")

UNKNOWN = Word("$luthien_unknown", is_resolved=False)
"""Value that only running code of another language would tell. A shell reads its text as an unknown variable."""

Runs = Word | tuple[Word, ...]
"""A script for the shell, or a program with its arguments."""


@dataclass(frozen=True, slots=True)
class Command:
    """One simple command."""

    name: str
    """Base name of the program (`rm` for `/bin/rm`); "" for a lone redirection or an unknown program."""

    words: tuple[Word, ...] = ()
    """Arguments of the program."""

    redirects: tuple[Redirect, ...] = ()

    piped_from: Self | None = field(default=None, repr=False, compare=False)
    """The command on the left of the pipe."""

    fed_by: tuple[Self, ...] = field(default=(), repr=False, compare=False)
    """All commands whose output reaches its standard input."""

    built_from: tuple[Self, ...] = field(default=(), repr=False, compare=False)
    """All commands whose output is part of its words, through a substitution or a variable."""

    program: str = ""
    """The program as it was written, such as `./run.sh`."""

    is_name_resolved: bool = True
    """False if an expansion of unknown value names the program."""

    stdin: Word | None = None
    """Text on standard input, known from a heredoc, a here-string or a literal `echo`."""

    directory: Word = HERE
    """Working directory relative to the script's start (""), as far as `cd` shows it."""

    is_in_background: bool = False

    is_self_call: bool = False
    """True if a function calls itself."""

    texts: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """Texts of the words, made once because every check asks for them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "texts", tuple([word.text for word in self.words]))


@dataclass(frozen=True, slots=True)
class Script:
    """All commands of a script, in the order of the text."""

    commands: tuple[Command, ...]

    is_understood: bool = True
    """False if part of the script was unreadable, so `commands` may be incomplete."""


def program_of(command: Command) -> str:
    """Returns the name for comparison with a pattern; "$" for an unknown program."""
    return command.name if command.is_name_resolved else "$"


class Origins:
    """Search for commands that match `is_wanted` among the sources of other commands.

    It visits each command once: use one instance for all commands of a script.
    """

    def __init__(self, is_wanted: Callable[[Command], bool]) -> None:
        self._is_wanted = is_wanted
        self._known: dict[int, bool] = {}

    def among(self, commands: Iterable[Command]) -> bool:
        """Tells if one of `commands` matches, or directly or indirectly gets output of a match."""
        return any(self._reaches(command) for command in commands)

    def _reaches(self, command: Command) -> bool:
        waiting = [command]
        while waiting:
            current = waiting[-1]
            feeders = (*current.fed_by, *current.built_from)
            unknown = [feeder for feeder in feeders if id(feeder) not in self._known]
            if id(current) in self._known or not unknown or self._is_wanted(current):
                self._known[id(current)] = self._is_wanted(current) or any(self._known.get(id(f)) for f in feeders)
                waiting.pop()
            else:
                waiting += unknown
        return self._known[id(command)]
