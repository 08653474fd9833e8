"""The package's loggers. Text of a client, a model or a provider can neither forge a line nor flood the log."""

import json
import logging
import traceback
import unicodedata
from collections.abc import Iterator
from typing import Final, cast

NAME: Final = "luthien_litellm_hooks"
MAX_LINE = 4_000
"""Characters of a line; in a traceback, of the text of each exception."""
MAX_DEBUG_LINE = 200_000
"""Characters of a line of the policy `debug_logging`, which logs whole requests."""
_MAX_WORD = 200
_MAX_EXCEPTIONS = 20
_UNSEEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories of control and format characters, lone surrogates, line and paragraph separators."""
_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
"""Letters and marks without a shape of their own: joiners, fillers, blanks."""


def escape(text: str, keep: str = "\n\t") -> str:
    r"""Escapes invisible characters, and those that move or colour a terminal's output, as `\x1b` or `\u202e`.

    Only characters in `keep` stay. A model's text may be written to deceive its reader.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if character in keep else _escaped(character) for character in text)


def one_line(text: str) -> str:
    """Escapes `text`, its line ends and tabs included."""
    return escape(text.replace("\n", "\\n").replace("\t", "\\t"), keep="")


def bounded_line(text: str, length: int) -> str:
    """Returns the first `length` characters of `text`, escaped in one line, and the number of further ones."""
    cut = len(text) - length
    return one_line(text) if cut <= 0 else f"{one_line(text[:length])}... ({cut} more characters)"


def _escaped(character: str) -> str:
    if character not in _UNSEEN and unicodedata.category(character) not in _UNSEEN_CATEGORIES:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def quoted(word: str | None) -> str:
    """Returns at most 200 characters of a foreign word, in quotes that it cannot end; `null` for None."""
    return json.dumps(word if word is None else bounded_line(word, _MAX_WORD), ensure_ascii=False)


class SafeLines(logging.Filter):
    """Filter that puts each record into one line without control or invisible characters. In its traceback, each
    exception's text takes one line.

    It is attached to the logger, so that every handler gets filtered records.
    """

    def __init__(self, max_length: int) -> None:
        super().__init__()
        self._max_length = max_length

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = bounded_line(_message(record), self._max_length), None
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            record.exc_text = "\n".join(_lines(error))  # formatters use it instead of their own text
        return True


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # an argument cannot be formatted
        return str(record.msg)


def _lines(error: BaseException) -> Iterator[str]:
    """Yields a traceback of `error` and of its causes, the latest first."""
    pending, seen = [("", error)], set[int]()
    while pending and len(seen) < _MAX_EXCEPTIONS:
        relation, error = pending.pop(0)
        if id(error) in seen:
            continue
        seen.add(id(error))
        if relation:
            yield relation
        yield "Traceback (most recent call last):"
        yield "".join(traceback.format_tb(error.__traceback__)).rstrip("\n")
        yield bounded_line(f"{type(error).__qualname__}: {error_text(error)}", MAX_LINE)
        if error.__cause__ is not None:
            pending.append(("Caused by:", error.__cause__))
        elif error.__context__ is not None and not error.__suppress_context__:
            pending.append(("While handling:", error.__context__))
        if isinstance(error, BaseExceptionGroup):
            parts = cast(tuple[BaseException, ...], error.exceptions)
            pending += [("Part of it:", part) for part in parts]


def error_text(error: BaseException) -> str:
    """Returns the text of `error`, whose own code may fail."""
    try:
        return str(error)
    except Exception:
        return "(its text cannot be shown)"


def _logger(name: str, max_length: int) -> logging.Logger:
    logger = logging.getLogger(name)
    logger.addFilter(SafeLines(max_length))
    return logger


logger: Final = _logger(NAME, MAX_LINE)
debug_logger: Final = _logger(f"{NAME}.debug", MAX_DEBUG_LINE)
