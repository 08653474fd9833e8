"""Patterns for paths, which know a path however an agent writes it."""

import posixpath
import re
from collections.abc import Iterable, Iterator
from itertools import takewhile
from urllib.parse import unquote, urlsplit

from luthien_litellm_hooks.parsing.patterns import compile_pattern, glob_pattern, quoted

MAX_PATH_CHARACTERS = 4_096
"""What is longer no system takes for a path."""

_HOMES = ("/home/user", "/root")  # where `~` may be, to follow `~/..`
_HOME = re.compile(r"(?i)(?:/home/[^/]+|/users/[^/]+|/[a-z]:?/users/[^/]+|/root|/var/root)(?=/|$)")
_TILDE = re.compile(r"(?i)(?:~[^/]*|\$home|\$\{home\}|%userprofile%)(?=/|$)")
_EXPANSION = re.compile(r"[$`%][^/]*(?=/)")
_ALIAS = re.compile(r"(?i)(?:/private(?=/(?:etc|var|tmp)(?:/|$))|/proc/[^/]+/root(?=/|$))")
_WILDCARD = frozenset("*?[{")
_READ_APART = frozenset("[{\\")  # what begins something of a glob that is no plain text
_DRIVE = re.compile(r"(?i)[a-z]:/")


class PathPattern:
    """A glob of paths: from the root (`/etc/**`), of any home (`~/.ssh/**`), or else anywhere
    (`*.pem`, `.git/hooks/**`). Case does not count, because to some file systems it does not.
    One that begins with `!` takes its paths out of what other patterns match.
    """

    def __init__(self, text: str) -> None:
        """Raises `ValueError`."""
        self.is_exception = text.startswith("!")
        text = text.removeprefix("!")
        glob = next(iter(_normal_forms(text))) if text.startswith(("/", "~")) else f"**/{text.removeprefix('**/')}"
        self._glob = glob_pattern(glob, ignore_case=True)
        self._base = _plain_parts(glob)
        self._part = _part_of_all(glob)

    def matches(self, form: str) -> bool:
        """Whether a form of a path is one of the glob's, or has wildcards itself that may make it one."""
        return self._is_match(form) or (bool(self._base) and self._may_expand_to(form))

    def _is_match(self, form: str) -> bool:
        if form.isascii() and self._part not in form.lower():  # nearly all, a tenth of the time of a pattern
            return False
        return self._glob.fullmatch(form) is not None

    def _may_expand_to(self, form: str) -> bool:
        parts = form.split("/")[: len(self._base)]
        if len(parts) < len(self._base) or not _WILDCARD.intersection("".join(parts)):
            return False
        return all(_may_be(part, plain) for part, plain in zip(parts, self._base, strict=True))


class PathPatterns:
    """Globs of paths, and exceptions from them."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Raises `ValueError`."""
        patterns = [PathPattern(text) for text in texts]
        self._globs = tuple(pattern for pattern in patterns if not pattern.is_exception)
        self._exceptions = tuple(pattern for pattern in patterns if pattern.is_exception)

    def matches(self, forms: Iterable[str]) -> bool:
        """Whether a path with these forms, of `forms_of_path`, may be one of theirs."""
        return any(
            any(glob.matches(form) for glob in self._globs)
            and not any(exception.matches(form) for exception in self._exceptions)
            for form in forms
        )


def forms_of_path(path: str, directory: str = "") -> frozenset[str]:
    """All that a path may come down to: without `..` and aliases, with `~` for any home.

    From a directory that is not known, a path may lead to a home, and one that climbs anywhere.
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
    """Whether a shell may expand `part` to `plain`; what brackets and braces say is not read."""
    head, *unread = re.split(r"[\[{]", re.sub(r"\*+", "*", part), maxsplit=1)
    if len(head.replace("*", "")) > len(plain):
        return False
    wildcards = {"*": ".*", "?": "."}
    pattern = "".join(wildcards.get(character) or quoted(character) for character in head) + (".*" if unread else "")
    return compile_pattern(pattern, ignore_case=True).fullmatch(plain) is not None


def _plain_parts(glob: str) -> list[str]:
    """The parts of an anchored glob before its first wildcard."""
    parts = glob.split("/")
    plain = list(takewhile(lambda part: _WILDCARD.isdisjoint(part), parts))
    return plain if any(plain) else []


def _part_of_all(glob: str) -> str:
    """What all that the glob matches has in it, in lower case; "" if there is no telling."""
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
    yield from _normal_forms(f"~/{stripped}")
    if stripped != relative or expansion:
        yield from _normal_forms(f"/{stripped}")


def _normal_forms(path: str) -> Iterator[str]:
    """An anchored path without `..`; several if it climbs out of a home that is not known."""
    tilde = _TILDE.match(path)
    starts = [path] if tilde is None else [home + path[tilde.end() :] for home in _HOMES]
    for start in starts:
        normal = posixpath.normpath("/" + start.lstrip("/"))
        while alias := _ALIAS.match(normal):
            normal = normal[alias.end() :] or "/"
        yield _HOME.sub("~", normal, count=1) if _HOME.match(normal) else normal


def _is_anchored(path: str) -> bool:
    return path.startswith("/") or _TILDE.match(path) is not None or _DRIVE.match(path) is not None
