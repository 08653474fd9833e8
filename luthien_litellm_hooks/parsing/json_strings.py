"""Changes the strings in a JSON text and nothing else of it."""

import json
from collections.abc import Callable

from luthien_litellm_hooks.parsing.patterns import Match, compile_pattern

_STRING = compile_pattern(r'("(?:[^"\\]|\\.)*")(\s*:)?')


def map_json_strings(text: str, change: Callable[[str], str]) -> str | None:
    """`text` with each string value (not the keys) changed, or None if it is not JSON.

    What is not changed keeps its very characters: numbers, spaces, keys that come twice.
    """
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return None
    return _STRING.sub(lambda match: _change(match, change), text)


def _change(match: Match, change: Callable[[str], str]) -> str:
    literal = match.group(1) or ""
    if match.group(2) is not None:
        return match.group() or ""
    value = str(json.loads(literal))
    changed = change(value)
    return literal if changed == value else _literal(changed)


def _literal(value: str) -> str:
    """`value` as JSON; half of a surrogate pair is written as an escape, since no wire can carry it."""
    literal = json.dumps(value, ensure_ascii=False)
    try:
        literal.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return literal
