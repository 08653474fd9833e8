"""Patterns that cannot hang the proxy: regular expressions by RE2, and globs.

RE2 takes time in proportion to the text, whatever the text. Its syntax is
https://github.com/google/re2/wiki/Syntax: that of most regular expressions, without look-around and
back-references.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Protocol, cast

import re2
from pydantic import AfterValidator

MAX_SIZE = 5_000
"""Instructions of a compiled pattern: about one for each character, a thousand for `\\pL`. What a
text costs grows with it: usually not at all, but at worst (measured) a megabyte takes half a minute."""

_LARGE_MEMORY = 64 << 20  # bytes at most; with too few for its states, RE2 takes a hundred times longer
_UNSUPPORTED = ("invalid perl operator", "invalid escape sequence")


class Match(Protocol):
    """Where a pattern matched. A group is a number, 0 for the whole, or a name."""

    def start(self, group: int = 0) -> int:
        """Where it begins, in characters."""
        ...

    def end(self, group: int = 0) -> int:
        """Where it ends, in characters."""
        ...

    def span(self, group: int = 0) -> tuple[int, int]:
        """Both; (-1, -1) for a group that took no part."""
        ...

    def group(self, group: int | str = 0) -> str | None:
        """What it matched; None for a group that took no part."""
        ...


class Pattern:
    """A compiled pattern; one that `is_large` may be as large as it must.

    A lone surrogate in a text counts as U+FFFD, because RE2 reads UTF-8.
    """

    def __init__(self, text: str, *, ignore_case: bool = False, is_large: bool = False) -> None:
        self.text = text
        self._regexp = _compile(text, ignore_case=ignore_case, is_large=is_large)

    @property
    def groups(self) -> int:
        """The number of groups."""
        return self._regexp.groups

    @property
    def group_names(self) -> Mapping[str, int]:
        """The numbers of the groups that have a name."""
        return self._regexp.groupindex

    def search(self, text: str, start: int = 0, end: int | None = None) -> Match | None:
        """The first match that lies between `start` and `end`. What is beyond them is still seen by
        `^`, `$` and `\\b`. Each call reads all of `text`."""
        return self._regexp.search(_readable(text), start, end)

    def fullmatch(self, text: str) -> Match | None:
        """The match of the whole of `text`."""
        return self._regexp.fullmatch(_readable(text))

    def finditer(self, text: str) -> Iterator[Match]:
        """All matches, left to right, none overlapping another."""
        return self._regexp.finditer(_readable(text))

    def sub(self, change: Callable[[Match], str], text: str) -> str:
        """`text` with every match changed."""
        parts: list[str] = []
        end = 0
        for match in self.finditer(text):
            parts += text[end : match.start()], change(match)
            end = match.end()
        return "".join([*parts, text[end:]])


def compile_pattern(text: str, *, ignore_case: bool = False) -> Pattern:
    """The pattern. Raises a `ValueError` that says what is wrong with it and where."""
    return Pattern(text, ignore_case=ignore_case)


def glob_pattern(glob: str, *, ignore_case: bool = False) -> Pattern:
    """The pattern that `glob` stands for; use its `fullmatch`.

    `*` is any text without "/", `?` one character but "/", `[abc]`, `[a-z]` and `[!a]` are one of or
    none of these, `{a,b}` is either. `**/` is any number of directories, none included; `/**` at the
    end is the directory and all that is below it; `**` elsewhere is any text. A backslash makes the
    next character plain. Raises a `ValueError`.
    """
    try:
        return compile_pattern(r"(?s:" + _GLOB.sub(_translate, glob) + ")", ignore_case=ignore_case)
    except ValueError as error:
        raise ValueError(f"bad glob {glob!r}: check its brackets and braces") from error


def quoted(text: str) -> str:
    """The pattern that matches just `text`."""
    return _re2.escape(text)


def _checked(text: str) -> str:
    compile_pattern(text)
    return text


PatternText = Annotated[str, AfterValidator(_checked)]
"""A pattern in a policy's settings: a bad one is refused when the settings are read."""


class _Regexp(Protocol):
    groups: int
    groupindex: dict[str, int]
    programsize: int

    def search(self, text: str, pos: int | None = None, endpos: int | None = None) -> Match | None: ...
    def fullmatch(self, text: str) -> Match | None: ...
    def finditer(self, text: str) -> Iterator[Match]: ...


class _Options(Protocol):
    log_errors: bool
    max_mem: int
    case_sensitive: bool


class _RE2(Protocol):
    """What is used of `re2`, which brings no types."""

    error: type[Exception]

    def Options(self) -> _Options: ...
    def compile(self, pattern: str, options: _Options) -> _Regexp: ...
    def escape(self, pattern: str) -> str: ...


_re2 = cast(_RE2, re2)


def _compile(text: str, *, ignore_case: bool, is_large: bool) -> _Regexp:
    options = _re2.Options()
    options.max_mem = _LARGE_MEMORY if is_large else options.max_mem
    options.log_errors = False
    options.case_sensitive = not ignore_case
    try:
        regexp = _re2.compile(text, options)
    except _re2.error as error:
        raise ValueError(f"bad pattern {text!r}: {_cause(error, text)}") from None
    except UnicodeEncodeError:
        raise ValueError(f"bad pattern {text!r}: half of a surrogate pair is no character") from None
    if regexp.programsize > MAX_SIZE and not is_large:
        raise ValueError(f"bad pattern {text[:60]!r}…: too large; write smaller repetitions, or several patterns")
    return regexp


def _cause(error: Exception, text: str) -> str:
    """What RE2 says, where the part that it complains of stands, and what to do."""
    said = cast(object, error.args[0])
    message = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
    place = text.find(message.partition(": ")[2])
    where = f" (character {place + 1})" if place >= 0 else ""
    is_unsupported = message.startswith(_UNSUPPORTED)
    return message + where + ("; look-around and back-references are not supported" if is_unsupported else "")


def _readable(text: str) -> str:
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text)
    return text


_GLOB = compile_pattern(r"(?s)/\*\*\z|\*\*/|\*\*|\*|\?|\[[!^]?\]?[^\]]*\]|\{[^{}]*\}|\\.|[^*?\[{\\/]+|.")


def _translate(match: Match) -> str:
    part = match.group() or ""
    if part in _WILDCARDS:
        return _WILDCARDS[part]
    if len(part) > 2 and part.startswith("["):
        return _translate_class(part[1:-1])
    if len(part) > 1 and part.startswith("{"):
        return "(?:" + "|".join(_GLOB.sub(_translate, option) for option in part[1:-1].split(",")) + ")"
    return quoted(part[1:] if part.startswith("\\") and len(part) > 1 else part)


_WILDCARDS = {"/**": "(?:/.*)?", "**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def _translate_class(inside: str) -> str:
    negation = "^/" if inside[0] in "!^" else ""
    characters = inside[1:] if negation else inside
    return f"[{negation}{''.join(quoted(c) if c != '-' else c for c in characters)}]"
