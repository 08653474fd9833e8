"""Patterns that cannot hang the proxy: regular expressions by RE2, and globs.

RE2 takes time in proportion to the text, for any text. Its syntax is https://github.com/google/re2/wiki/Syntax: that of
most regular expressions, without look-around and back-references.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, AnyStr, Protocol, TypeVar, cast

import re2
from pydantic import AfterValidator

MAX_SIZE = 5_000
"""Limit of a compiled pattern in instructions: about one for each character, a thousand for `\\pL`. The cost of a text
grows with it. Usually the growth is nil, but at worst (measured) a megabyte takes half a minute."""

_LARGE_MEMORY = 64 << 20  # bytes at most; with too few for its states, RE2 takes a hundred times longer
_UNSUPPORTED = ("invalid perl operator", "invalid escape sequence")


class Match(Protocol):
    """Match of a pattern. A group is a number, 0 for the whole, or a name."""

    def start(self, group: int = 0) -> int:
        """Returns the beginning, in characters."""
        ...

    def end(self, group: int = 0) -> int:
        """Returns the end, in characters."""
        ...

    def span(self, group: int = 0) -> tuple[int, int]:
        """Returns both; (-1, -1) for a group without a part in the match."""
        ...

    def group(self, group: int | str = 0) -> str | None:
        """Returns the matched text; None for a group without a part in the match."""
        ...


class Pattern:
    """A compiled pattern; `is_large` lifts the limit of its size.

    A lone surrogate in a text counts as U+FFFD, because RE2 reads UTF-8.
    """

    def __init__(self, text: str, *, ignore_case: bool = False, is_large: bool = False) -> None:
        self.text = text
        self._regexp = _compile(text, ignore_case=ignore_case, is_large=is_large)

    @property
    def groups(self) -> int:
        """Number of groups."""
        return self._regexp.groups

    @property
    def group_names(self) -> Mapping[str, int]:
        """Numbers of the named groups."""
        return self._regexp.groupindex

    def search(self, text: str, start: int = 0, end: int | None = None) -> Match | None:
        """Returns the first match between `start` and `end`. `^`, `$` and `\\b` still see the text beyond them. Each
        call reads all of `text`."""
        if text.isascii():
            return _in_ascii(self._regexp.search(text.encode(), start, end))
        return self._regexp.search(_readable(text), start, end)

    def match(self, text: str, start: int, end: int) -> Match | None:
        """Returns the match that begins at `start` and ends by `end`. As `search`, it sees the text beyond them."""
        if text.isascii():
            return _in_ascii(self._regexp.match(text.encode(), start, end))
        return self._regexp.match(_readable(text), start, end)

    def fullmatch(self, text: str, start: int = 0) -> Match | None:
        """Returns the match of all the text from `start` on. `^` and `\\b` still see the text before it."""
        if text.isascii():
            return _in_ascii(self._regexp.fullmatch(text.encode(), start))
        return self._regexp.fullmatch(_readable(text), start)

    def finditer(self, text: str) -> Iterator[Match]:
        """Yields all matches, left to right, without overlaps."""
        if text.isascii():
            return map(_AsciiMatch, self._regexp.finditer(text.encode()))
        return self._regexp.finditer(_readable(text))

    def sub(self, change: Callable[[Match], str], text: str) -> str:
        """Returns `text` with every match changed."""
        parts: list[str] = []
        end = 0
        for match in self.finditer(text):
            parts += text[end : match.start()], change(match)
            end = match.end()
        return "".join([*parts, text[end:]])


def compile_pattern(text: str, *, ignore_case: bool = False) -> Pattern:
    """Compiles a pattern. Raises a `ValueError` with the fault and its place."""
    return Pattern(text, ignore_case=ignore_case)


def glob_pattern(glob: str, *, ignore_case: bool = False) -> Pattern:
    """Compiles `glob`; use `fullmatch` of the result.

    `*` is any text without "/", `?` one character except "/", `[abc]`, `[a-z]` and `[!a]` are one of or none of these,
    `{a,b}` is either. `**/` is any number of directories, even none; `/**` at the end is the directory and everything
    below it; `**` elsewhere is any text. A backslash makes the next character plain. Raises a `ValueError`.
    """
    try:
        return compile_pattern(r"(?s:" + _GLOB.sub(_translate, glob) + ")", ignore_case=ignore_case)
    except ValueError as error:
        raise ValueError(f"bad glob {glob!r}: check its brackets and braces") from error


def quoted(text: str) -> str:
    """Returns the pattern of exactly `text`."""
    return _re2.escape(text)


def _checked(text: str) -> str:
    compile_pattern(text)
    return text


PatternText = Annotated[str, AfterValidator(_checked)]
"""A pattern in a policy's settings: reading the settings rejects a bad one."""


_Read = TypeVar("_Read", str, bytes, covariant=True)


class _Found(Protocol[_Read]):
    """Match in a text or in bytes."""

    def start(self, group: int = 0) -> int: ...
    def end(self, group: int = 0) -> int: ...
    def span(self, group: int = 0) -> tuple[int, int]: ...
    def group(self, group: int | str = 0) -> _Read | None: ...


class _AsciiMatch:
    """Match in the bytes of an ASCII text, whose places are those of its characters.

    In a text RE2 would count the characters before each place again and again.
    """

    __slots__ = ("_found", "end", "span", "start")

    def __init__(self, found: _Found[bytes]) -> None:
        self._found = found
        self.start, self.end, self.span = found.start, found.end, found.span

    def group(self, group: int | str = 0) -> str | None:
        matched = self._found.group(group)
        return None if matched is None else matched.decode()


def _in_ascii(found: _Found[bytes] | None) -> Match | None:
    return None if found is None else _AsciiMatch(found)


class _Regexp(Protocol):
    groups: int
    groupindex: dict[str, int]
    programsize: int

    def search(self, text: AnyStr, pos: int | None = None, endpos: int | None = None) -> _Found[AnyStr] | None: ...
    def match(self, text: AnyStr, pos: int | None = None, endpos: int | None = None) -> _Found[AnyStr] | None: ...
    def fullmatch(self, text: AnyStr, pos: int | None = None, endpos: int | None = None) -> _Found[AnyStr] | None: ...
    def finditer(self, text: AnyStr) -> Iterator[_Found[AnyStr]]: ...


class _Options(Protocol):
    log_errors: bool
    max_mem: int
    case_sensitive: bool


class _RE2(Protocol):
    """Used part of `re2`, which has no types."""

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
    """Returns RE2's message, the place of the faulty part, and the remedy."""
    raw = cast(object, error.args[0])
    message = raw.decode(errors="replace") if isinstance(raw, bytes) else str(raw)
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
