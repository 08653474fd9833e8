"""Changes the strings in a JSON text and nothing else of it."""

import json
from collections.abc import Callable

from luthien_litellm_hooks.parsing.patterns import Match, compile_pattern

_STRING = compile_pattern(r'("(?:[^"\\]|\\.)*")(\s*:)?')


def map_json_strings(text: str, change: Callable[[str], str]) -> str | None:
    """`text` with each string value (not the keys) changed, or None if it is not JSON.

    What is not changed keeps its very characters: numbers, spaces, keys that come twice. Of JSON that is
    too deep to tell whether it is any, what stands outside of strings is changed too.
    """
    try:
        json.loads(text, strict=False, parse_int=str, parse_float=str)  # a number may be of any length
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
    except ValueError:  # only in what is too deep to be checked
        return change(literal)
    changed = change(value)
    return literal if changed == value else as_json(changed)


def as_json(value: object) -> str:
    """`value` as JSON; half of a surrogate pair is written as an escape, since no wire can carry it."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text
