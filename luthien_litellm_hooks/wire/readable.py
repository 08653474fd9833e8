"""Readable text in a structure of the wire, and the same structure with another text."""

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
"""Names of fields with identifiers, numbers, kinds and times, and of fields that only the provider can read."""


def read(structure: object) -> str:
    """Returns the texts of `structure`, in their order, joined by line feeds."""
    return "\n".join(container[key] for container, key in _leaves(structure))


def written(structure: _StructureT, text: str) -> _StructureT:
    """Returns a copy of `structure` with `text` instead of `read(structure)`.

    Replaces line by line if the number of lines is the same; otherwise the first text gets all of it, the others ""."""
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
    """Returns `structure` with copies of all containers, at any depth."""
    top: list[Any] = [structure]
    pending: list[_Container] = [top]
    while pending:
        container: Any = pending.pop()
        for key, value in items(container):
            if isinstance(value, dict | list):
                container[key] = value.copy()
                pending.append(container[key])
    return top[0]


def _leaves(structure: object) -> Iterator[tuple[Any, Any]]:
    """Yields a container and a key for each text. `structure` itself may not be a text."""
    iterators = [iter(items(structure))]
    containers: list[Any] = [structure]
    while iterators:
        key, value = next(iterators[-1], (None, None))
        if key is None:
            iterators.pop()
            containers.pop()
        elif not _is_text_field(containers[-1], key):
            continue
        elif isinstance(value, str) and value:
            yield containers[-1], key
        elif isinstance(value, dict | list):
            iterators.append(iter(items(cast(_Container, value))))
            containers.append(value)


def items(container: object) -> list[tuple[Any, Any]]:
    """Returns the keys and values of an object or a list; none of anything else."""
    if isinstance(container, dict):
        return list(cast(dict[Any, Any], container).items())
    return list(enumerate(cast(list[Any], container))) if isinstance(container, list) else []


def _is_text_field(container: Any, key: object) -> bool:
    if key == "data":  # binary, unless its type is text
        kinds = [container.get(name) for name in ("type", "media_type", "mimeType")]
        return any(isinstance(kind, str) and kind.startswith("text") for kind in kinds)
    return not (isinstance(key, str) and _NO_TEXT.fullmatch(key))
