"""Digest of a tool call's action, the same for each repetition of it."""

import hashlib
import json

VERSION = 1
"""Version of the digest; another way to compute it needs another number."""


def action_digest(name: str, arguments: str) -> str:
    """Returns the SHA-256 of a tool and its arguments, in hexadecimal digits.

    White space and the order of keys do not count. Arguments that clients may read in different ways count as written:
    those that are not JSON, have a key twice, or a number in an unusual spelling.
    """
    try:
        text = _canonical({"v": VERSION, "name": name, "arguments": _parsed(arguments or "{}")})
    except (ValueError, RecursionError):
        text = _canonical({"v": VERSION, "name": name, "text": arguments})
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _parsed(arguments: str) -> object:
    """Raises `ValueError` or `RecursionError` for arguments that count as written."""
    return json.loads(
        arguments, object_pairs_hook=_members, parse_int=_whole, parse_float=_float, parse_constant=_refuse
    )


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a key twice")
    return members


def _whole(digits: str) -> int:
    number = int(digits)
    return number if str(number) == digits else _refuse(digits)


def _float(digits: str) -> float:
    number = float(digits)
    return number if repr(number) == digits else _refuse(digits)


def _refuse(word: str) -> int:
    raise ValueError(f"readers may differ in {word}")
