"""Arguments of a tool call: all ways in which a client may read them, and access by path."""

import json
from collections.abc import Iterator, Sequence
from typing import cast

from luthien_litellm_hooks.wire.events import ToolCall

MAX_CHARACTERS = 2_000_000
"""Length of the longest readable arguments, beyond any model's. A file of one megabyte still fits."""

MAX_DEPTH = 100
"""Depth of the most nested readable arguments. Readers differ in the depth that they accept."""

MAX_VALUES = 50_000
MAX_KEY_CHARACTERS = 1_000
"""Limits of values and of a key's length in readable arguments."""

JsonPairs = list[tuple[str, object]]


def read_arguments(tool_call: ToolCall) -> tuple[object, ...]:
    """Returns the arguments, once for each way of reading them; empty if they are unreadable.

    Some readers take the first value of a duplicate key, some the last. A text of JSON inside the text (encoded twice,
    or for a tool with free text) is read both ways.
    """
    if len(tool_call.arguments) > MAX_CHARACTERS or not _is_text(tool_call.arguments):
        return ()
    if tool_call.form == "custom":
        return (tool_call.arguments, *_inner(tool_call.arguments))
    if not tool_call.arguments.strip():
        return ({},)
    found = _read(tool_call.arguments)
    return (*found, *(inner for value in found if isinstance(value, str) for inner in _inner(value)))


def values_at(arguments: object, path: Sequence[str]) -> list[object]:
    """Returns the values at a path of keys (in any case) and list indices; `*` is every element."""
    values = [arguments]
    for part in path:
        values = [inner for value in values for inner in _members(value, part)]
    return values


def text_of(value: object) -> str:
    """Returns a value as text for a pattern: text unchanged, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def entries(arguments: object) -> Iterator[tuple[str, str | list[str]]]:
    """Yields every text and every flat list with a text in it, in order, each with its key ("" outside of any)."""
    stack: list[tuple[str, object]] = [("", arguments)]
    while stack:
        key, value = stack.pop()
        words = _words(value)
        if isinstance(value, str) or words:
            yield key, words or cast(str, value)
        else:
            stack += reversed(_children(key, value))


def objects(arguments: object) -> Iterator[dict[str, object]]:
    """Yields every JSON object in the arguments, themselves included."""
    stack: list[tuple[str, object]] = [("", arguments)]
    while stack:
        key, value = stack.pop()
        stack += reversed(_children(key, value))
        if isinstance(value, dict):
            yield cast(dict[str, object], value)


def with_value(arguments: object, path: Sequence[str], value: object) -> object:
    """Returns the arguments with `value` at `path`; missing objects on the way are created.

    Raises `ValueError` if another value is in the way.
    """
    if not path:
        return value
    part, rest = path[0], path[1:]
    if isinstance(arguments, list):
        items = cast(list[object], arguments)
        if part != "*" and not (part.isdecimal() and int(part) < len(items)):
            raise ValueError(f"a list has no element {part!r}")
        return [
            with_value(item, rest, value) if part in ("*", str(index)) else item for index, item in enumerate(items)
        ]
    if not isinstance(arguments, dict):
        raise ValueError(f"{part!r} cannot be set, because its parent is not an object")
    members = cast(dict[str, object], arguments)
    keys = list(members) if part == "*" else [part]
    return {**members, **{key: with_value(members.get(key, {}), rest, value) for key in keys}}


def _inner(text: str) -> tuple[object, ...]:
    """Returns the JSON value inside a text, unless it is a mere word or number."""
    return tuple(value for value in _read(text) if _is_compound(value))


def _read(text: str) -> tuple[object, ...]:
    has_duplicates = False

    def first_of(pairs: JsonPairs) -> dict[str, object]:
        nonlocal has_duplicates
        members = dict(reversed(pairs))
        has_duplicates = has_duplicates or len(members) < len(pairs)
        return {key: members[key] for key, _ in pairs}

    try:
        first: object = json.loads(text, strict=False, object_pairs_hook=first_of)
        last: object = json.loads(text, strict=False) if has_duplicates else first
        if _is_beyond_reading([first, last] if has_duplicates else [first]):
            return ()
        if "\\u" in text and not _is_text(json.dumps([first, last], ensure_ascii=False)):
            return ()
    except (ValueError, RecursionError):
        return ()
    return (first, last) if has_duplicates else (first,)


def _is_beyond_reading(values: list[object]) -> bool:
    """Tells if the values are nested too deep, or have too many or too long parts."""
    seen, level = 0, values
    for _ in range(MAX_DEPTH):
        members = [member for each in level for member in _children("", each)]
        seen += len(members)
        if seen > MAX_VALUES or any(len(key) > MAX_KEY_CHARACTERS for key, _ in members):
            return True
        level = [inner for _, inner in members if _is_compound(inner)]
        if not level:
            return False
    return True


def _is_text(text: str) -> bool:
    """Tells if the text has no half of a surrogate pair, which cannot be sent or matched."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _members(value: object, part: str) -> list[object]:
    if isinstance(value, dict):
        members = cast(dict[str, object], value)
        wanted = part.casefold()
        return [member for key, member in members.items() if part == "*" or key.casefold() == wanted]
    if isinstance(value, list):
        return [item for index, item in enumerate(cast(list[object], value)) if part in ("*", str(index))]
    return []


def _children(key: str, value: object) -> list[tuple[str, object]]:
    if isinstance(value, dict):
        return list(cast(dict[str, object], value).items())
    return [(key, item) for item in cast(list[object], value)] if isinstance(value, list) else []


def _is_compound(value: object) -> bool:
    return isinstance(value, dict | list)


def _words(value: object) -> list[str]:
    """Returns the elements of a list with at least one text and no compound element; empty for any other."""
    if not isinstance(value, list):
        return []
    items = cast(list[object], value)
    is_flat = not any(map(_is_compound, items))
    return [text_of(item) for item in items] if is_flat and any(isinstance(item, str) for item in items) else []
