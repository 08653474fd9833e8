"""Arguments of a Gemini call that come in pieces, each at a JSON path (`partialArgs`).

https://ai.google.dev/api/caching#FunctionCall
"""

import copy
import json
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, cast

_STEP = re.compile(r"""\.([^.\[\]]+)|\[(\d+)\]|\['([^']*)'\]|\["([^"]*)"\]""")
_VALUES = ("stringValue", "numberValue", "boolValue", "nullValue")
_UNREADABLE = "{"  # no JSON, so that a policy takes the call for one that it cannot read


class PartialArguments:
    """The arguments so far. A piece of text for a place that has some is added to it."""

    def __init__(self, args: Mapping[str, Any]) -> None:
        self._args: dict[str, Any] = copy.deepcopy(dict(args))
        self._is_readable = True

    def add(self, pieces: object) -> None:
        """Adds the pieces of one part. One that cannot be read makes the arguments no JSON."""
        if pieces is None:
            return
        for piece in cast(list[object], pieces) if isinstance(pieces, list) else [pieces]:
            self._is_readable = (
                self._is_readable and isinstance(piece, dict) and self._add_piece(cast(dict[str, Any], piece))
            )

    def text(self) -> str:
        """All of them as JSON."""
        return json.dumps(self._args, ensure_ascii=False) if self._is_readable else _UNREADABLE

    def _add_piece(self, piece: Mapping[str, Any]) -> bool:
        path, names = piece.get("jsonPath"), [name for name in _VALUES if name in piece]
        steps = _steps(path) if isinstance(path, str) else None
        if not steps or len(names) != 1:
            return False
        value = None if names[0] == "nullValue" else piece[names[0]]
        if isinstance(value, dict | list):
            return False
        return _set(self._args, steps, value)


def _steps(path: str) -> list[str | int] | None:
    """The keys and places that lead from the root to a value; None for another kind of path."""
    if not path.startswith("$"):
        return None
    steps: list[str | int] = []
    position = 1
    while position < len(path):
        match = _STEP.match(path, position)
        if match is None:
            return None
        name, place, *quoted = match.groups()
        steps.append(int(place) if place is not None else next(text for text in (name, *quoted) if text is not None))
        position = match.end()
    return steps


def _set(args: dict[str, Any], steps: list[str | int], value: object) -> bool:
    """Puts `value` where `steps` lead, and what is missing on the way; False if there is no such place."""
    container: Any = args
    for step, following in pairwise(steps):
        if not _has_place(container, step):
            return False
        if _at(container, step) is None:
            _put(container, step, [] if isinstance(following, int) else {})
        container = _at(container, step)
    if not _has_place(container, steps[-1]):
        return False
    came = _at(container, steps[-1])
    _put(container, steps[-1], came + value if isinstance(came, str) and isinstance(value, str) else value)
    return True


def _has_place(container: Any, step: str | int) -> bool:
    if isinstance(step, int):
        return isinstance(container, list) and step <= len(cast(list[Any], container))
    return isinstance(container, dict)


def _at(container: Any, step: str | int) -> Any:
    if isinstance(step, int):
        return container[step] if step < len(container) else None
    return container.get(step)


def _put(container: Any, step: str | int, value: object) -> None:
    if isinstance(step, int) and step == len(container):
        container.append(value)
    else:
        container[step] = value
