"""Patterns that also know their own beginnings, so that a text that comes in is held only where a
match may have begun."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from luthien_litellm_hooks.parsing.patterns import Match, Pattern, quoted
from luthien_litellm_hooks.parsing.rewriting import CONTEXT, WHOLE_PIECE, Edit, leftmost, step_over


@dataclass(frozen=True, slots=True)
class Part:
    """`whole` is the pattern of a match; `begun` that of everything, also of nothing, that more text
    may make one or lengthen."""

    whole: str
    begun: str


NOTHING = Part("", "")

EDGE = Part(r"\b", "")
"""Where a word begins or ends."""


def plain(*options: str) -> Part:
    """One of these texts."""
    beginnings = dict.fromkeys(option[:length] for option in options for length in range(len(option)))
    return Part(_any(map(quoted, options)), _any(map(quoted, beginnings)))


def run(characters: str, least: int, most: int | None = None) -> Part:
    """`least` to `most` of a class of characters, as many as there are."""
    return Part(f"{characters}{{{least},{'' if most is None else most}}}", _up_to(characters, most))


def then(*parts: Part) -> Part:
    """These, one after the other."""
    wholes = [part.whole for part in parts]
    begun = ("".join([*wholes[:number], part.begun]) for number, part in enumerate(parts))
    return Part("".join(wholes), _any(begun))


def either(*parts: Part) -> Part:
    """The first of these that matches."""
    return Part(_any(part.whole for part in parts), _any(part.begun for part in parts))


def maybe(part: Part) -> Part:
    """This, if it is there."""
    return Part(f"(?:{part.whole})?", f"(?:{part.begun})?")


def any_case(part: Part) -> Part:
    """This, in upper or lower case."""
    return Part(f"(?i:{part.whole})", f"(?i:{part.begun})")


@dataclass(frozen=True, slots=True)
class Rule:
    """What to find: `part`, between what must stand before and after it; and what to write for it. It
    stays if `change` gives it back."""

    label: str
    part: Part
    change: Callable[[str], str]
    before: Part = NOTHING
    after: Part = NOTHING


class GrowingRewriter:
    """Rewrites by rules, the first rule first where several match.

    `may_begin` is asked with what stands before a match, `CONTEXT` characters of it at most. What is
    longer than `reach` is rewritten up to there.
    """

    def __init__(self, rules: Sequence[Rule], *, reach: int, may_begin: Callable[[str], bool] | None = None) -> None:
        self._rules = tuple(rules)
        self._may_begin = may_begin
        wholes = (f"{rule.before.whole}({rule.part.whole}){rule.after.whole}" for rule in rules)
        begun = either(*(then(rule.before, rule.part, rule.after) for rule in rules)).begun
        self._whole = Pattern("|".join(wholes), is_large=True)
        self._begun = Pattern(rf"(?:{begun})\z", is_large=True)
        self.reach = reach
        self.slack = WHOLE_PIECE

    def next_edit(self, text: str, start: int) -> Edit | None:
        found = leftmost(self._whole, text, start, self.reach)
        if found is None:
            return None
        place, match = found
        if match is None or (self._may_begin and not self._may_begin(text[max(0, place - CONTEXT) : place])):
            return step_over(text, place)
        return self._edit(text, match)

    def _edit(self, text: str, match: Match) -> Edit:
        number, rule = next(item for item in enumerate(self._rules, 1) if match.span(item[0]) != (-1, -1))
        start, end = match.span(number)
        changed = text[match.start() : start] + rule.change(text[start:end]) + text[end : match.end()]
        return Edit(match.start(), match.end(), changed, rule.label)

    def first_open(self, text: str, start: int) -> int:
        begun = self._begun.search(text, start)
        return max(start, len(text) - self.reach, len(text) if begun is None else begun.start())


def _any(patterns: Iterable[str]) -> str:
    return f"(?:{'|'.join(patterns)})"


def _up_to(characters: str, most: int | None) -> str:
    return f"{characters}*" if most is None else f"{characters}{{0,{most}}}"
