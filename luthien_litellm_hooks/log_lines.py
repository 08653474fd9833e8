"""The package's loggers: what a client, a model or a provider wrote cannot forge a line, nor fill the log."""

import json
import logging
import traceback
from collections.abc import Iterator
from typing import Final, cast

from luthien_litellm_hooks.printable import bounded_line

NAME: Final = "luthien_litellm_hooks"
MAX_LINE = 4_000
"""How many characters of a line are kept; in a traceback, of the text of each exception."""
MAX_DEBUG_LINE = 200_000
"""The same for the lines of the policy `debug_logging`, which show whole requests."""
_MAX_WORD = 200
_MAX_EXCEPTIONS = 20


def quoted(word: str | None) -> str:
    """A foreign word, at most 200 characters of it, in quotes that it cannot end; `null` for none."""
    return json.dumps(word if word is None else bounded_line(word, _MAX_WORD), ensure_ascii=False)


class SafeLines(logging.Filter):
    """Puts each record into one line without control or invisible characters, and its traceback into
    lines of which each exception's text takes one.

    It stands at the logger: every handler, whoever has set it up, gets records that it has seen.
    """

    def __init__(self, max_length: int) -> None:
        super().__init__()
        self._max_length = max_length

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = bounded_line(_message(record), self._max_length), None
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            record.exc_text = "\n".join(_lines(error))  # which formatters take in place of a text of their own
        return True


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # of an object that cannot be shown
        return str(record.msg)


def _lines(error: BaseException) -> Iterator[str]:
    """A traceback of `error`, and of what led to it, first what came last."""
    pending, seen = [("", error)], set[int]()
    while pending and len(seen) < _MAX_EXCEPTIONS:
        led, error = pending.pop(0)
        if id(error) in seen:
            continue
        seen.add(id(error))
        if led:
            yield led
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
    """The text of `error`, whose own code may fail."""
    try:
        return str(error)
    except Exception:
        return "(its text cannot be shown)"


def _logger(name: str, max_length: int) -> logging.Logger:
    made = logging.getLogger(name)
    made.addFilter(SafeLines(max_length))
    return made


logger: Final = _logger(NAME, MAX_LINE)
debug_logger: Final = _logger(f"{NAME}.debug", MAX_DEBUG_LINE)
