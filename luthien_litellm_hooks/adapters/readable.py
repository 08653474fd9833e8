"""The readable text in a structure of the wire, and the same structure with another text."""

import re
from collections.abc import Iterator
from typing import Any, TypeVar, cast

_Container = dict[str, Any] | list[Any]
_StructureT = TypeVar("_StructureT")

_NO_TEXT = re.compile(
    r"""(?x) role | object | status | signature | ttl | cache_?control | error_?code
    | (.*_)? (ids? | index | type | at) | [a-z].* (Ids? | Index | Type | Signature) | .*_signature
    | encrypted(_?[cC]ontent | _.*)?"""
)
"""The names of fields with identifiers, numbers, kinds and times, and of what only the provider can read."""


def read(structure: object) -> str:
    """Its texts, in their order, joined by line feeds."""
    return "\n".join(container[key] for container, key in _leaves(structure))


def written(structure: _StructureT, text: str) -> _StructureT:
    """A copy with `text` in the place of `read(structure)`: line by line if it has as many lines, otherwise
    all of it in the first place, and nothing in the others."""
    copied = _copied(structure)
    leaves = list(_leaves(copied))
    counts = [container[key].count("\n") + 1 for container, key in leaves]
    lines = text.split("\n")
    fits = len(lines) == sum(counts)
    for (container, key), count in zip(leaves, counts, strict=True):
        container[key] = "\n".join(lines[:count] if fits else lines)
        lines = lines[count:] if fits else []
    return copied


def _copied(structure: _StructureT) -> _StructureT:
    """`structure` with copies of all containers, however deep they are nested."""
    top: list[Any] = [structure]
    waiting: list[_Container] = [top]
    while waiting:
        container: Any = waiting.pop()
        for key, value in _items(container):
            if isinstance(value, dict | list):
                container[key] = value.copy()
                waiting.append(container[key])
    return top[0]


def _leaves(structure: object) -> Iterator[tuple[Any, Any]]:
    """The places of the texts: each a container and a key in it. `structure` may not be a text itself."""
    waiting = [iter(_items(structure))]
    containers: list[Any] = [structure]
    while waiting:
        key, value = next(waiting[-1], (None, None))
        if key is None:
            waiting.pop()
            containers.pop()
        elif not _is_text_field(containers[-1], key):
            continue
        elif isinstance(value, str) and value:
            yield containers[-1], key
        elif isinstance(value, dict | list):
            waiting.append(iter(_items(cast(_Container, value))))
            containers.append(value)


def _items(container: object) -> list[tuple[Any, Any]]:
    if isinstance(container, dict):
        return list(cast(dict[Any, Any], container).items())
    return list(enumerate(cast(list[Any], container))) if isinstance(container, list) else []


def _is_text_field(container: Any, key: object) -> bool:
    if key == "data":  # of a picture or a file, but not of a plain text
        kinds = [container.get(name) for name in ("type", "media_type", "mimeType")]
        return any(isinstance(kind, str) and kind.startswith("text") for kind in kinds)
    return not (isinstance(key, str) and _NO_TEXT.fullmatch(key))
