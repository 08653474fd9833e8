"""Changes to the strings in a JSON text, and to nothing else in it."""

import json
from collections.abc import Callable

from luthien_litellm_hooks.policy.patterns import Match, compile_pattern

_STRING = compile_pattern(r'("(?:[^"\\]|\\.)*")(\s*:)?')


def map_json_strings(text: str, change: Callable[[str], str]) -> str | None:
    """Returns `text` with each string value (not the keys) changed, or None if it is not JSON.

    Everything else keeps its exact characters: numbers, spaces, duplicate keys. If nesting is too deep to check for
    JSON, text outside of strings is changed too.
    """
    try:
        json.loads(text, strict=False, parse_int=str, parse_float=str)  # numbers of any length
    except ValueError:
        return None
    except RecursionError:
        return _change_all(text, change)
    return _STRING.sub(lambda match: _change(match, change), text)


def _change_all(text: str, change: Callable[[str], str]) -> str:
    parts: list[str] = []
    end = 0
    for match in _STRING.finditer(text):
        parts += change(text[end : match.start()]), _change(match, change)
        end = match.end()
    return "".join([*parts, change(text[end:])])


def _change(match: Match, change: Callable[[str], str]) -> str:
    literal = match.group(1) or ""
    if match.group(2) is not None:
        return match.group() or ""
    try:
        value = str(json.loads(literal, strict=False))
    except ValueError:  # only in text too deep to check
        return change(literal)
    changed = change(value)
    return literal if changed == value else as_json(changed)


def as_json(value: object) -> str:
    """Returns `value` as JSON; half of a surrogate pair becomes an escape, because no wire can carry it."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text
