"""`regex_replacement`: replaces matches of patterns, also across the cuts of a stream."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from luthien_litellm_hooks.policies.rewriting import WHOLE_PIECE, ApplyTo, Edit, TextRewriting, leftmost, step_over
from luthien_litellm_hooks.policy.base import PolicyConfig
from luthien_litellm_hooks.policy.patterns import Match, Pattern, PatternText, compile_pattern


def _checked(text: str) -> str:
    if compile_pattern(text).fullmatch(""):
        raise ValueError(f"the pattern {text!r} matches the empty text, so it would match everywhere")
    return text


class RegexReplacementConfig(PolicyConfig):
    """Settings of `regex_replacement`."""

    replacements: Annotated[
        tuple[tuple[Annotated[PatternText, AfterValidator(_checked)], str], ...], Field(min_length=1)
    ]
    """Pairs of a pattern (RE2 syntax, `(?i)` for any case) and its replacement. In a replacement, `\\1` or `\\g<name>`
    is a group's match, `\\g<0>` the whole match, and `\\\\` a backslash. Of matches at the same place the first in the
    list counts. Replacements are not searched again."""
    max_match_length: Annotated[int, Field(ge=1, le=10_000)] = 100
    """The longest match, in characters. Text arrives that much later, because a match might begin in it. A longer match
    is cut to this length, or does not count."""
    apply_to: ApplyTo = "response"
    """`request`: all words of people, tools and models on their way to the provider."""
    tool_arguments: bool = False
    """Also in the string values of tool arguments. A tool call is then held until it is whole."""

    @model_validator(mode="after")
    def _check_groups(self) -> "RegexReplacementConfig":
        for pattern, replacement in self.replacements:
            _template(compile_pattern(pattern), replacement)
        return self


class RegexReplacement(TextRewriting):
    """Replaces matches of patterns.

    It holds at most `max_match_length` characters, and 100 more if that avoids cutting a piece of the response.
    """

    Config = RegexReplacementConfig

    def __init__(self, config: RegexReplacementConfig) -> None:
        rewriter = _PatternRewriter(config.replacements, config.max_match_length)
        super().__init__(rewriter, apply_to=config.apply_to, tool_arguments=config.tool_arguments)


_Template = tuple[str | int, ...]  # literal text, and numbers of groups


class _PatternRewriter:
    def __init__(self, replacements: Sequence[tuple[str, str]], reach: int) -> None:
        patterns = [compile_pattern(pattern) for pattern, _ in replacements]
        templates = [_template(pattern, text) for pattern, (_, text) in zip(patterns, replacements, strict=True)]
        self._rules = tuple(zip(patterns, templates, strict=True))
        self.reach = reach
        self.slack = reach + WHOLE_PIECE

    def next_edit(self, text: str, start: int) -> Edit | None:
        found = [(leftmost(pattern, text, start, self.reach), template) for pattern, template in self._rules]
        place = min((at[0] for at, _ in found if at is not None), default=None)
        if place is None:
            return None
        for at, template in found:
            if at is not None and at[0] == place and (match := at[1]) is not None:
                return Edit(match.start(), match.end(), _expanded(template, match), "text")
        return step_over(text, place)

    def first_open(self, text: str, start: int) -> int:
        return max(start, len(text) - self.reach)


_REFERENCE = compile_pattern(r"(?s)\\(?:([1-9][0-9]?)|g<([^>]*)>|(\\)|.?)")


def _template(pattern: Pattern, text: str) -> _Template:
    parts: list[str | int] = []
    end = 0
    for match in _REFERENCE.finditer(text):
        parts += text[end : match.start()], "\\" if match.group(3) else _group_number(pattern, match)
        end = match.end()
    return (*parts, text[end:])


def _group_number(pattern: Pattern, reference: Match) -> int:
    name = reference.group(1) or reference.group(2) or ""
    number = int(name) if name.isascii() and name.isdigit() else pattern.group_names.get(name)
    if number is None or number > pattern.groups:
        raise ValueError(
            f"replacements: {reference.group()!r} in a replacement is not a group of {pattern.text!r}; "
            r"write \\ for a backslash"
        )
    return number


def _expanded(template: _Template, match: Match) -> str:
    return "".join(part if isinstance(part, str) else match.group(part) or "" for part in template)
