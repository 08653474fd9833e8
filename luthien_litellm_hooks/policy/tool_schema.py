"""Check of a tool's arguments against its JSON schema.

The schema is a client's, so it can neither hang the proxy nor make it fetch anything.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, cast

from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import UnknownType, ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable

from luthien_litellm_hooks.errors import LuthienError
from luthien_litellm_hooks.policy.patterns import compile_pattern

_MAX_STEPS = 20_000
"""Most keywords applied in one check; a long text counts as several."""
_MAX_UNIQUE = 1_000
_STEP = 1_000  # characters of a text
_SHOWN = 300
_REGEXPS_BY_NAME = ("patternProperties",)
"""Keywords whose expressions the validator runs by itself."""
_TYPES = frozenset({"STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL"})
_UNREADABLE = (
    *(LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError),
    *(UnknownType, Unresolvable),
)
"""Errors that a schema in an odd form, or with a reference to elsewhere, causes."""
_Keyword = Callable[[Any, Any, Any, Mapping[str, Any]], "Iterator[ValidationError] | None"]


class UncheckedSchemaError(LuthienError):
    """Schema that nothing can be checked against."""


def schema_fault(schema: Mapping[str, Any], arguments: object) -> str | None:
    """Returns the first fault of `arguments`, with its place; None without one. Raises `UncheckedSchemaError`."""
    steps = _Steps()
    try:
        plain = _plain(schema)
        if _has_key(plain, _REGEXPS_BY_NAME):
            raise UncheckedSchemaError(f"{_REGEXPS_BY_NAME[0]} cannot be checked")
        known: Any = cast(Any, validators).validator_for(plain, default=Draft202012Validator)
        counted = {name: partial(steps.apply, name, keyword) for name, keyword in known.VALIDATORS.items()}
        checking: Any = cast(Any, validators).extend(known, counted)
        own: Any = cast(Any, Registry)()  # with it no reference is fetched
        fault: ValidationError | None = next(checking(plain, registry=own).iter_errors(arguments), None)
    except _UNREADABLE as error:
        raise UncheckedSchemaError(f"it is not readable ({type(error).__name__})") from None
    if fault is None:
        return None
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault.absolute_path).lstrip(".")
    said = fault.message if len(fault.message) <= _SHOWN else fault.message[:_SHOWN] + "..."
    return f"{place or 'the arguments'}: {said}"


class _Steps:
    """Bounded count of the keywords applied in one check."""

    def __init__(self) -> None:
        self._left = _MAX_STEPS

    def apply(
        self, name: str, keyword: _Keyword, validator: Any, value: Any, instance: Any, schema: Mapping[str, Any]
    ) -> Iterator[ValidationError]:
        """Yields the faults of `instance`. Raises `UncheckedSchemaError` beyond the bound."""
        self._left -= 1 + (len(instance) // _STEP if isinstance(instance, str) else 0)
        is_long = (
            name == "uniqueItems" and isinstance(instance, list) and len(cast(list[object], instance)) > _MAX_UNIQUE
        )
        if self._left < 0 or is_long:
            raise UncheckedSchemaError("it takes too long")
        if name == "pattern":
            yield from _pattern_faults(value, cast(object, instance))
        else:
            yield from keyword(validator, value, instance, schema) or ()


def _pattern_faults(pattern: object, instance: object) -> Iterator[ValidationError]:
    if not isinstance(instance, str):
        return
    try:
        found = compile_pattern(str(pattern)).search(instance)
    except ValueError:
        raise UncheckedSchemaError("it has a pattern that RE2 cannot read") from None
    if found is None:
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _plain(schema: object) -> Any:
    """Returns the schema with the types of Gemini in lower case, and its `nullable` as a type."""
    if isinstance(schema, list):
        return [_plain(each) for each in cast(list[object], schema)]
    if not isinstance(schema, dict):
        return schema
    plain = {name: _plain(value) for name, value in cast(dict[str, object], schema).items()}
    kind: object = plain.get("type")
    if isinstance(kind, str) and kind in _TYPES:
        plain["type"] = [kind.lower(), "null"] if plain.get("nullable") is True else kind.lower()
    return plain


def _has_key(value: object, names: tuple[str, ...]) -> bool:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            members = cast(dict[str, object], one)
            if not members.keys().isdisjoint(names):
                return True
            waiting += members.values()
        elif isinstance(one, list):
            waiting += cast(list[object], one)
    return False
