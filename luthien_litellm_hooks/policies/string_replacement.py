"""`string_replacement`: replaces texts, also across the cuts of a stream."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated

from pydantic import Field, model_validator

from luthien_litellm_hooks.policies.rewriting import ApplyTo, Edit, TextRewriting
from luthien_litellm_hooks.policy.base import PolicyConfig
from luthien_litellm_hooks.policy.patterns import Pattern, quoted


class StringReplacementConfig(PolicyConfig):
    """Settings of `string_replacement`."""

    replacements: Annotated[tuple[tuple[Annotated[str, Field(min_length=1)], str], ...], Field(min_length=1)]
    """Pairs of a text and its replacement. Of several matches the longest counts. Replacements are not searched again.
    """
    match_capitalization: bool = False
    """Find texts in any case, and write the replacement in the same case: lower, capitals, or a capital first letter.
    For any other case it is written unchanged."""
    apply_to: ApplyTo = "response"
    """`request`: all words of people, tools and models on their way to the provider."""
    tool_arguments: bool = False
    """Also in the string values of tool arguments. A tool call is then held until it is whole."""

    @model_validator(mode="after")
    def _check_is_unambiguous(self) -> "StringReplacementConfig":
        seen: set[str] = set()
        for text, _ in self.replacements:
            if (found := _fold(text) if self.match_capitalization else text) in seen:
                raise ValueError(f"replacements: {text!r} has two replacements; remove one")
            seen.add(found)
        return self


class StringReplacement(TextRewriting):
    """Replaces texts. It holds at most one character less than the longest text to find."""

    Config = StringReplacementConfig

    def __init__(self, config: StringReplacementConfig) -> None:
        rewriter = _LiteralRewriter(config.replacements, ignore_case=config.match_capitalization)
        super().__init__(rewriter, apply_to=config.apply_to, tool_arguments=config.tool_arguments)


class _LiteralRewriter:
    def __init__(self, replacements: Sequence[tuple[str, str]], *, ignore_case: bool) -> None:
        self._ignore_case = ignore_case
        self._replacements: Mapping[str, str] = MappingProxyType(
            {_fold(text) if ignore_case else text: replacement for text, replacement in replacements}
        )
        longest_first = sorted(self._replacements, key=len, reverse=True)
        self._pattern = Pattern("|".join(map(quoted, longest_first)), is_large=True)
        self._beginnings = frozenset(text[:length] for text in longest_first for length in range(1, len(text)))
        self.reach = len(longest_first[0])
        self.slack = self.reach - 1

    def next_edit(self, text: str, start: int) -> Edit | None:
        match = self._pattern.search(self._folded(text), start)
        if match is None:
            return None
        found = text[match.start() : match.end()]
        written = self._replacements[self._folded(found)]
        if self._ignore_case:
            written = _in_case_of(found, written)
        return Edit(match.start(), match.end(), written, "text")

    def first_open(self, text: str, start: int) -> int:
        tail = max(start, len(text) - self.slack)
        text = self._folded(text)
        return next((place for place in range(tail, len(text)) if text[place:] in self._beginnings), len(text))

    def _folded(self, text: str) -> str:
        return _fold(text) if self._ignore_case else text


def _fold(text: str) -> str:
    """Lowers the case of each character separately, so that places stay the same."""
    return text.lower() if text.isascii() else "".join(_lowered(text))


def _lowered(text: str) -> Iterator[str]:
    for character in text:
        lower = character.lower()
        yield lower if len(lower) == 1 else character


def _in_case_of(found: str, text: str) -> str:
    """Returns `text` in the case of `found`, if that is a plain one."""
    if found.islower():
        return text.lower()
    if found.isupper() and sum(map(str.isalpha, found)) > 1:
        return text.upper()
    if found.istitle() and " " in found:
        return " ".join(map(_capitalized, text.split(" ")))
    return _capitalized(text) if found[0].isupper() and not any(map(str.isupper, found[1:])) else text


def _capitalized(text: str) -> str:
    """Returns `text` in lower case, with its first letter in upper case."""
    text = text.lower()
    place = next((place for place, character in enumerate(text) if character.islower()), None)
    return text if place is None else text[:place] + text[place].upper() + text[place + 1 :]
