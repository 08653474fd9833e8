"""Settings of `tool_rules` and of the presets made of it: rules and their conditions."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from luthien_litellm_hooks.policies.rules.kinds import Kind
from luthien_litellm_hooks.policies.rules.patterns import CommandPattern, PathPattern
from luthien_litellm_hooks.policies.rules.sql import SqlPattern
from luthien_litellm_hooks.policy.base import PolicyConfig
from luthien_litellm_hooks.policy.patterns import compile_pattern, quoted

DEFAULT_MESSAGE = (
    "A policy blocked the call of {tool_name}. Do not try to reach the same by other means; ask the user how to go on."
)
SET_PREFIX = "args."

RuleAction = Literal["block", "ask", "allow", "rewrite"]
T = TypeVar("T")
_WILDCARDS = MappingProxyType({"*": ".*", "?": "."})


class TextPattern:
    """Pattern of a text: `re:` and a regular expression to search for, or a glob of the whole text.

    In a glob, `*` is any text and `?` one character.
    """

    def __init__(self, text: str, *, ignore_case: bool = False) -> None:
        """Raises `ValueError`."""
        self.text = text
        is_regex = text.startswith("re:")
        self._pattern = compile_pattern(text[3:] if is_regex else _glob(text), ignore_case=ignore_case)
        self._is_regex = is_regex
        is_literal = text.isascii() and not is_regex and _WILDCARDS.keys().isdisjoint(text)
        self._literal = (text.lower() if ignore_case else text) if is_literal else None
        self._ignores_case = ignore_case

    def matches(self, text: str) -> bool:
        if self._literal is not None and text.isascii():  # beyond ASCII, RE2 equates more letters
            return self._literal == (text.lower() if self._ignores_case else text)
        return (self._pattern.search(text) if self._is_regex else self._pattern.fullmatch(text)) is not None


def _glob(text: str) -> str:
    return f"(?s:{''.join(_WILDCARDS.get(character) or quoted(character) for character in text)})"


def split_path(path: str) -> tuple[str, ...]:
    """Splits a path in arguments, such as `edits.*.new_string`. Raises `ValueError`."""
    parts = tuple(path.split("."))
    if not all(parts):
        raise ValueError('write keys and list indices with a dot between, such as "options.path" or "edits.*.text"')
    return parts


def _path_to_set(path: str) -> str:
    if not path.startswith(SET_PREFIX):
        raise ValueError(f'write "{SET_PREFIX}" before the path of the argument to set, such as "args.options.path"')
    split_path(path)
    return path


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _as_json(value: object) -> object:
    return json.dumps(value) if isinstance(value, bool | int | float) else value


def _checked_by(read: Any) -> AfterValidator:
    def check(text: str) -> str:
        read(text)
        return text

    return AfterValidator(check)


Several = Annotated[
    tuple[T, ...], BeforeValidator(_as_list, json_schema_input_type=str | list[str]), Field(min_length=1)
]
PathText = Annotated[str, _checked_by(PathPattern)]
SqlText = Annotated[str, _checked_by(SqlPattern.parse)]
ValuePattern = Annotated[
    str, BeforeValidator(_as_json, json_schema_input_type=str | bool | int | float), _checked_by(TextPattern)
]


class Condition(PolicyConfig):
    """Condition on a tool call; all given parts must hold."""

    tool: Several[Annotated[str, _checked_by(TextPattern)]] | None = None
    """Globs or `re:` patterns of the tool's name, in any case."""
    kind: Several[Kind] | None = None
    """Effects of the call, with any tool."""
    args: Annotated[dict[Annotated[str, _checked_by(split_path)], ValuePattern], Field(min_length=1)] | None = None
    """Arguments by their path, with a glob or a `re:` pattern for the value's text."""
    paths: Several[PathText] | None = None
    """Globs of a path touched by the call."""
    commands: Several[Annotated[str, _checked_by(CommandPattern.parse)]] | None = None
    """Commands of the call in a shell."""
    dangerous: Literal[True, False, "strict"] = False
    """The built-in catalogue of dangerous commands."""
    sql: Several[SqlText] | None = None
    """Statements of the call in a database."""
    hosts_outside: tuple[str, ...] | None = None
    """Globs of hosts; holds if the call contacts a host outside of them, or a host that it does not name."""
    any_: tuple["Condition", ...] | None = Field(default=None, alias="any", min_length=1)
    """Conditions; at least one must hold."""
    all_: tuple["Condition", ...] | None = Field(default=None, alias="all", min_length=1)
    """Conditions that must all hold."""
    not_: "Condition | None" = Field(default=None, alias="not")
    """A condition that must not hold."""

    @model_validator(mode="after")
    def _has_a_condition(self) -> Self:
        asked = [getattr(self, name) for name in Condition.model_fields]
        if all(value is None or value is False for value in asked):
            raise ValueError(
                f"give a condition, one of {', '.join(_CONDITIONS)}; for all other calls there is `default`"
            )
        return self


_CONDITIONS = tuple(field.alias or name for name, field in Condition.model_fields.items())


class Rule(Condition):
    """A condition, and the action on the calls for which it holds."""

    action: RuleAction
    """Action on the call."""
    set_: dict[Annotated[str, AfterValidator(_path_to_set)], Any] | None = Field(default=None, alias="set")
    """Values that `rewrite` sets in the arguments, by path."""
    message: str | None = None
    """Message to the client about a blocked call, if not the general `message`; with `ask` the beginning of it."""
    reason: str | None = None
    """Reason for the operator."""

    @model_validator(mode="after")
    def _does_what_its_action_needs(self) -> Self:
        if (self.action == "rewrite") != bool(self.set_):
            raise ValueError("`action: rewrite` needs `set`, and no other action takes it")
        if self.message is not None and self.action == "allow":
            raise ValueError("`message` is for calls that do not pass; `action: allow` takes none")
        return self


class ToolPolicyConfig(PolicyConfig):
    """Settings of every policy made of rules."""

    message: str = DEFAULT_MESSAGE
    """Message to the client about a blocked call; `{tool_name}` becomes the tool's name."""
    kinds: dict[Kind, Several[Annotated[str, _checked_by(TextPattern)]]] | None = None
    """Globs or `re:` patterns of the names of tools of your own, by their kind."""


class ToolRulesConfig(ToolPolicyConfig):
    """Settings of `tool_rules`."""

    rules: tuple[Rule, ...] = ()
    """Rules in order; the first that holds decides."""
    default: Literal["allow", "ask", "block"] = "allow"
    """Action on a call for which no rule holds."""

    @classmethod
    def blocking(cls, *rules: Mapping[str, object], reason: str, config: ToolPolicyConfig) -> Self:
        """Returns the settings of a preset: it blocks every call for which one of its conditions holds."""
        made = [{"action": "block", "reason": reason, **rule} for rule in rules]
        return cls.model_validate({"rules": made, "message": config.message, "kinds": config.kinds})
