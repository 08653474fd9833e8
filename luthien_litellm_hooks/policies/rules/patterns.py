"""Patterns in rules: globs of paths, in any spelling of an agent, and patterns of commands.

A command pattern is written like a command: `rm -rf`, `git push --force`, `kubectl delete *`.
"""

import posixpath
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import takewhile
from types import MappingProxyType
from typing import Self
from urllib.parse import unquote, urlsplit

from luthien_litellm_hooks.policies.shell import Command, Word, program_of
from luthien_litellm_hooks.policy.patterns import Pattern, compile_pattern, glob_pattern, quoted

MAX_PATH_CHARACTERS = 4_096
"""Length of the longest path that a system accepts."""

_HOMES = ("/home/user", "/root")  # possible places of `~`, to resolve `~/..`
_HOME = re.compile(r"(?i)(?:/home/[^/]+|/users/[^/]+|/[a-z]:?/users/[^/]+|/root|/var/root)(?=/|$)")
_TILDE = re.compile(r"(?i)(?:~[^/]*|\$home|\$\{home\}|%userprofile%)(?=/|$)")
_EXPANSION = re.compile(r"[$`%][^/]*(?=/)")
_ALIAS = re.compile(r"(?i)(?:/private(?=/(?:etc|var|tmp)(?:/|$))|/proc/[^/]+/root(?=/|$))")
_WILDCARD = frozenset("*?[{")
_READ_APART = frozenset("[{\\")  # characters with a meaning in a glob
_DRIVE = re.compile(r"(?i)[a-z]:/")


class PathPattern:
    """A glob of paths: from the root (`/etc/**`), of any home (`~/.ssh/**`), or else anywhere (`*.pem`,
    `.git/hooks/**`).

    Case does not count, because some file systems ignore it. A glob after `!` is an exception to the other patterns.
    """

    def __init__(self, text: str) -> None:
        """Raises `ValueError`."""
        self.is_exception = text.startswith("!")
        text = text.removeprefix("!")
        glob = next(iter(_normal_forms(text))) if text.startswith(("/", "~")) else f"**/{text.removeprefix('**/')}"
        self._glob = glob_pattern(glob, ignore_case=True)
        self._base = _plain_parts(glob)
        self._part = _part_of_all(glob)

    @property
    def pattern(self) -> str:
        """The glob as a pattern, without the expansion of a path's own wildcards."""
        return self._glob.text

    def matches(self, form: str) -> bool:
        """Tells if a form of a path matches, or may match after the expansion of its own wildcards."""
        return self._is_match(form) or (bool(self._base) and self._may_expand_to(form))

    def _is_match(self, form: str) -> bool:
        if (
            form.isascii() and self._part not in form.lower()
        ):  # rejects nearly all forms in a tenth of the pattern's time
            return False
        return self._glob.fullmatch(form) is not None

    def _may_expand_to(self, form: str) -> bool:
        parts = form.split("/")[: len(self._base)]
        if len(parts) < len(self._base) or parts[0] != self._base[0] or not _WILDCARD.intersection("".join(parts)):
            return False
        return all(_may_be(part, plain) for part, plain in zip(parts, self._base, strict=True))


class PathPatterns:
    """Globs of paths, and exceptions from them."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Raises `ValueError`."""
        patterns = [PathPattern(text) for text in texts]
        self._globs = tuple(pattern for pattern in patterns if not pattern.is_exception)
        self._exceptions = tuple(pattern for pattern in patterns if pattern.is_exception)
        self._any = Pattern("|".join(glob.pattern for glob in self._globs), ignore_case=True, is_large=True)

    def matches(self, forms: Iterable[str]) -> bool:
        """Tells if a path with these forms, from `forms_of_path`, may match."""
        return any(
            self._may_match(form)
            and any(glob.matches(form) for glob in self._globs)
            and not any(exception.matches(form) for exception in self._exceptions)
            for form in forms
        )

    def _may_match(self, form: str) -> bool:
        """Rejects nearly all forms by one search for many globs."""
        is_plain = len(self._globs) > 1 and _WILDCARD.isdisjoint(form)
        return not is_plain or self._any.fullmatch(form) is not None


def forms_of_path(path: str, directory: str = "") -> frozenset[str]:
    """Returns all possible forms of a path: without `..` and aliases, with `~` for any home.

    From an unknown directory a path may lead to a home, and a climbing one anywhere, unless it begins with a wildcard.
    """
    path = path.strip()
    if not path or len(path) > MAX_PATH_CHARACTERS or "\0" in path:
        return frozenset()
    if path.lower().startswith("file:"):
        path = unquote(urlsplit(path).path)
    paths = [path.replace("\\", "/")]
    if directory and not _is_anchored(paths[0]):
        paths.append(posixpath.join(directory.replace("\\", "/"), paths[0]))
    return frozenset(form for each in paths for form in _forms(each))


def _may_be(part: str, plain: str) -> bool:
    """Tells if a shell may expand `part` to `plain`. Content of brackets and braces is not read.

    A dot at the beginning needs a dot.
    """
    if plain.startswith(".") and not part.startswith((".", "{")):
        return False
    head, *unread = re.split(r"[\[{]", re.sub(r"\*+", "*", part), maxsplit=1)
    if len(head.replace("*", "")) > len(plain):
        return False
    wildcards = {"*": ".*", "?": "."}
    pattern = "".join(wildcards.get(character) or quoted(character) for character in head) + (".*" if unread else "")
    return compile_pattern(pattern, ignore_case=True).fullmatch(plain) is not None


def _plain_parts(glob: str) -> list[str]:
    """Returns the parts of an anchored glob before its first wildcard."""
    parts = glob.split("/")
    plain = list(takewhile(lambda part: _WILDCARD.isdisjoint(part), parts))
    return plain if any(plain) else []


def _part_of_all(glob: str) -> str:
    """Returns a text present in every match of the glob, in lower case; "" if unknown."""
    if not glob.isascii() or not _READ_APART.isdisjoint(glob):
        return ""
    return max(re.split(r"[*?/]+", glob), key=len).lower()


def _forms(path: str) -> Iterator[str]:
    expansion = _EXPANSION.match(path) if not _TILDE.match(path) else None
    rest = path[expansion.end() :].lstrip("/") if expansion else path
    if _is_anchored(rest):
        yield from _normal_forms(rest)
        return
    relative = posixpath.normpath(rest)
    stripped = relative
    while stripped.startswith("../"):
        stripped = stripped.removeprefix("../")
    yield relative
    if stripped.startswith(("*", "?", "[")):  # anything, in a directory that may be any
        return
    yield from _normal_forms(f"~/{stripped}")
    if stripped != relative or expansion:
        yield from _normal_forms(f"/{stripped}")


def _normal_forms(path: str) -> Iterator[str]:
    """Yields an anchored path without `..`; several forms if it climbs out of an unknown home."""
    tilde = _TILDE.match(path)
    starts = [path] if tilde is None else [home + path[tilde.end() :] for home in _HOMES]
    for start in starts:
        normal = posixpath.normpath("/" + start.lstrip("/"))
        while alias := _ALIAS.match(normal):
            normal = normal[alias.end() :] or "/"
        yield _HOME.sub("~", normal, count=1) if _HOME.match(normal) else normal


def _is_anchored(path: str) -> bool:
    return path.startswith("/") or _TILDE.match(path) is not None or _DRIVE.match(path) is not None


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
"""Equivalent flags, for the usual programs in rules."""


@dataclass(frozen=True, slots=True)
class CommandPattern:
    """A program, flags and words that a command must have.

    The program and the words are globs (`*`, `?`, `[...]`). Flags match in any place and order, also clustered, and the
    command may have more of them. Words match in order and from the first. A word directly after a flag may be its
    value, and is skipped if it does not match. More words may follow. An unresolved word matches only `*`.
    """

    name: str
    flags: frozenset[str]
    words: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses a pattern. Raises `ValueError`."""
        try:
            parts = shlex.split(text)
        except ValueError as error:
            raise ValueError(f"{text!r} is not a command pattern: a quote is not closed") from error
        if not parts or parts[0].startswith("-"):
            raise ValueError(f"{text!r} is not a command pattern: it must begin with a program, as in 'rm -rf'")
        if any(part in ("|", "||", "&&", ";", "&", ">", ">>", "<") for part in parts):
            raise ValueError(f"{text!r} is not a command pattern: give one command, without pipes or redirections")
        flags = frozenset(part for part in parts[1:] if _is_flag(part))
        return cls(parts[0], flags, tuple(part for part in parts[1:] if not _is_flag(part)))

    def may_name(self, programs: frozenset[str]) -> bool:
        """Tells if it may match a command of one of `programs`, from `program_of`: a quick test before `matches`."""
        return self.name in programs or not _WILDCARDS.isdisjoint(self.name)

    def matches(self, command: Command) -> bool:
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


def _is_flag(text: str) -> bool:
    return len(text) > 1 and text.startswith("-") and text != "--"


def _flags(words: Sequence[Word], synonyms: Mapping[str, str]) -> frozenset[str]:
    """Returns the flags of `words`: single letters, long names without dashes, and both with their values."""
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
