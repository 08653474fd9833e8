"""What a shell script comes down to: commands, their words and their redirections."""

from dataclasses import dataclass, field
from typing import Self


@dataclass(frozen=True, slots=True)
class Word:
    """A word after quote removal and expansion; `~` and `$HOME` stay as `~`."""

    text: str

    is_resolved: bool = True
    """False if an expansion remains in `text` (as it was written) whose value cannot be known."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """A redirection to or from a file, such as `> file`; never one of a heredoc or a here-string."""

    operator: str
    target: Word


HERE = Word("")


@dataclass(frozen=True, slots=True)
class Command:
    """One simple command."""

    name: str
    """The program's base name (`rm` for `/bin/rm`); "" for a lone redirection or an unknown program."""

    words: tuple[Word, ...] = ()
    """The arguments."""

    redirects: tuple[Redirect, ...] = ()

    piped_from: Self | None = field(default=None, repr=False, compare=False)
    """The command on the left of the pipe."""

    fed_by: tuple[Self, ...] = field(default=(), repr=False, compare=False)
    """Every command whose output reaches its standard input."""

    built_from: tuple[Self, ...] = field(default=(), repr=False, compare=False)
    """Every command whose output is part of its words: through a substitution or a variable."""

    program: str = ""
    """The program as it was written, such as `./run.sh`."""

    is_name_resolved: bool = True
    """False if the program is named by an expansion whose value cannot be known."""

    stdin: Word | None = None
    """The text on standard input, where a heredoc, a here-string or a literal `echo` tells it."""

    directory: Word = HERE
    """Where it runs, seen from where the script began (""), as far as `cd` tells."""

    is_in_background: bool = False

    is_self_call: bool = False
    """A function that calls itself."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of `words`."""
        return tuple(word.text for word in self.words)


@dataclass(frozen=True, slots=True)
class Script:
    """Every command that a script may run, in the order of the text."""

    commands: tuple[Command, ...]

    is_understood: bool = True
    """False if part of the script could not be read, so that `commands` may lack some."""
