"""What code in a language without a parser here hands to a shell, where it says so with literals."""

import re
from collections.abc import Iterator
from types import MappingProxyType

CALL = re.compile(
    r"(?:system|execSync|exec|spawnSync|spawn|popen|shell_exec|passthru|do shell script|qx|`)\s*+(?:\(\s*+)?"
)
CLOSING = MappingProxyType({'"': '"', "'": "'", "{": "}"})


def shell_calls(code: str) -> Iterator[str]:
    """The literals that `code` hands to `system` and its like, or puts between backticks."""
    marks = _Marks(code)
    end = 0
    for call in CALL.finditer(code):
        if call.start() >= end and (literal := _literal(code, call.end(), marks)) is not None:
            yield literal
            end = call.end() + len(literal) + 1


def _literal(code: str, start: int, marks: "_Marks") -> str | None:
    closing = CLOSING.get(code[start : start + 1])
    if closing is not None:
        end = marks.next(closing, start + 1)
        return code[start + 1 : end] if end < len(code) else None
    end = marks.next("`", start)
    is_plain = all(marks.next(mark, start) >= end for mark in "\"'({")
    return code[start:end] if start < end < len(code) and is_plain else None


class _Marks:
    """Where each mark stands next. Asked from left to right, it reads the code once for each."""

    def __init__(self, code: str) -> None:
        self._code = code
        self._places: dict[str, int] = {}

    def next(self, mark: str, start: int) -> int:
        """The first place of `mark` at or after `start`; the length of the code if there is none."""
        place = self._places.get(mark, -1)
        if place < start:
            found = self._code.find(mark, start)
            self._places[mark] = place = len(self._code) if found < 0 else found
        return place
