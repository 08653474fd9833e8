"""What the author of a rule writes to mean commands: `rm -rf`, `git push --force`, `kubectl delete *`."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Self

from luthien_litellm_hooks.parsing.shell_model import Command, Word

_RECURSIVE_AND_FORCED = MappingProxyType({"R": "r", "recursive": "r", "force": "f"})
NO_SYNONYMS: Mapping[str, str] = MappingProxyType({})
_WILDCARDS = frozenset("*?[")
_RECURSIVE = MappingProxyType({"recursive": "R"})
_FORCED = MappingProxyType({"f": "force"})

SYNONYMS = MappingProxyType(
    {
        "rm": _RECURSIVE_AND_FORCED,
        "cp": _RECURSIVE_AND_FORCED,
        "chmod": _RECURSIVE,
        "chown": _RECURSIVE,
        "chgrp": _RECURSIVE,
        "git": _FORCED,
        "docker": _FORCED,
        "podman": _FORCED,
        "ln": _FORCED,
        "mv": _FORCED,
    }
)
"""Flags that mean the same, for the programs that rules are mostly about."""


@dataclass(frozen=True, slots=True)
class CommandPattern:
    """A program, flags and words that a command must have.

    The program and the words are globs (`*`, `?`, `[...]`). The flags may stand anywhere, in any order and clustered,
    and the command may have others. The words must come in order and from the first; only what stands right after a
    flag, and so may be its value, is stepped over. More words may follow. What cannot be resolved matches just `*`.
    """

    name: str
    flags: frozenset[str]
    words: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises `ValueError` if `text` is no pattern."""
        try:
            parts = shlex.split(text)
        except ValueError as error:
            raise ValueError(f"{text!r} is no command pattern: a quote is not closed") from error
        if not parts or parts[0].startswith("-"):
            raise ValueError(f"{text!r} is no command pattern: it must begin with a program, as in 'rm -rf'")
        if any(part in ("|", "||", "&&", ";", "&", ">", ">>", "<") for part in parts):
            raise ValueError(f"{text!r} is no command pattern: give one command, without pipes or redirections")
        flags = frozenset(part for part in parts[1:] if _is_flag(part))
        return cls(parts[0], flags, tuple(part for part in parts[1:] if not _is_flag(part)))

    def may_name(self, programs: frozenset[str]) -> bool:
        """Whether it may match a command of one of `programs`, by `program_of`: quick to tell before `matches`."""
        return self.name in programs or not _WILDCARDS.isdisjoint(self.name)

    def matches(self, command: Command) -> bool:
        """Whether `command` is one of those meant."""
        if not fnmatchcase(program_of(command), self.name):
            return False
        synonyms = SYNONYMS.get(command.name, NO_SYNONYMS)
        given = _flags(command.words, synonyms)
        return all(_has_flag(flag, given, synonyms) for flag in self.flags) and self._words_match(command.words)

    def _words_match(self, words: Sequence[Word]) -> bool:
        wanted = list(self.words)
        is_after_flag = False
        for word in words:
            if not wanted:
                return True
            if word.is_resolved and _is_flag(word.text):
                is_after_flag = True
                continue
            if wanted[0] == "*" or (word.is_resolved and fnmatchcase(word.text, wanted[0])):
                wanted.pop(0)
            elif not is_after_flag:
                return False
            is_after_flag = False
        return not wanted


def program_of(command: Command) -> str:
    """The name that a pattern's is compared with; "$" for an unknown program."""
    return command.name if command.is_name_resolved else "$"


def _is_flag(text: str) -> bool:
    return len(text) > 1 and text.startswith("-") and text != "--"


def _flags(words: Sequence[Word], synonyms: Mapping[str, str]) -> frozenset[str]:
    """The flags of `words`: single letters, long names without dashes, and those with their values."""
    found: set[str] = set()
    for word in words:
        if word.text == "--":
            break
        if _is_flag(word.text):
            bare = word.text.lstrip("-")
            found |= {bare, bare.partition("=")[0]}
            found |= set(bare) if not word.text.startswith("--") else set()
    return frozenset(synonyms.get(flag, flag) for flag in found)


def _has_flag(flag: str, given: frozenset[str], synonyms: Mapping[str, str]) -> bool:
    bare = flag.lstrip("-")
    if any(fnmatchcase(other, synonyms.get(bare, bare)) for other in given):
        return True
    return not flag.startswith("--") and all(synonyms.get(letter, letter) in given for letter in bare)
