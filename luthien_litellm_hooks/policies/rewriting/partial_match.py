"""Patterns that also match their own beginnings: a stream is held only from a possible beginning of a match."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from luthien_litellm_hooks.policies.rewriting import CONTEXT, WHOLE_PIECE, Edit, leftmost, step_over
from luthien_litellm_hooks.policy.patterns import Match, Pattern, quoted


@dataclass(frozen=True, slots=True)
class Part:
    """Pattern `whole` of a match, and pattern `begun` of every text that more text may complete or lengthen. `begun`
    may match nothing.

    Every match begins with `opening`: itself, or its first required part. With `is_empty`, `whole` may match nothing.
    """

    whole: str
    begun: str
    opening: "Part | None" = None
    is_empty: bool = False


NOTHING = Part("", "", is_empty=True)

EDGE = Part(r"\b", "", is_empty=True)
"""Beginning or end of a word."""


def plain(*options: str) -> Part:
    """Matches one of these texts."""
    beginnings = dict.fromkeys(option[:length] for option in options for length in range(len(option)))
    return Part(_any(map(quoted, options)), _any(map(quoted, beginnings)))


def run(characters: str, least: int, most: int | None = None) -> Part:
    """Matches `least` to `most` of a class of characters, as many as there are."""
    whole = f"{characters}{{{least},{'' if most is None else most}}}"
    return Part(whole, _up_to(characters, most), is_empty=not least)


def then(*parts: Part) -> Part:
    """Matches these parts in sequence."""
    first = next((number for number, part in enumerate(parts) if not part.is_empty), None)
    if first is None:
        return _sequence(parts, is_empty=True)
    return _sequence(parts, _sequence([*parts[:first], parts[first].opening or parts[first]]))


def either(*parts: Part) -> Part:
    """Matches the first possible of these parts."""
    return _either(parts, _either([part.opening or part for part in parts]))


def maybe(part: Part) -> Part:
    """Matches the part, or nothing."""
    return Part(f"(?:{part.whole})?", f"(?:{part.begun})?", is_empty=True)


def any_case(part: Part) -> Part:
    """Matches the part in upper or lower case."""
    opening = any_case(part.opening) if part.opening else None
    return Part(f"(?i:{part.whole})", f"(?i:{part.begun})", opening, part.is_empty)


@dataclass(frozen=True, slots=True)
class Rule:
    """A `part` to find, between `before` and `after`, and its replacement. A match stays if `change` returns it
    unchanged; in its part, other rules may then find something after `before`.

    `may_follow` gets at most `CONTEXT` characters before a match, and may refuse it. Later rules do not see a refused
    place.
    """

    label: str
    part: Part
    change: Callable[[str], str]
    before: Part = NOTHING
    after: Part = NOTHING
    may_follow: Callable[[str], bool] | None = None


class GrowingRewriter:
    """Rewriter by rules; of several matches at one place the first rule's counts.

    A match beyond `reach` is rewritten up to there. To find an unfinished match, a search for the openings, which are
    cheap to find, comes first.
    """

    def __init__(self, rules: Sequence[Rule], *, reach: int) -> None:
        self._rules = tuple(rules)
        self._patterns: dict[tuple[int, int], Pattern] = {}
        self._latest = 0  # number of a rule
        self._whole = self._any_of(0, len(rules))
        parts = [then(rule.before, rule.part, rule.after) for rule in rules]
        opening = either(*(part.opening or part for part in parts))
        self._opening = Pattern(opening.whole, is_large=True)
        self._opening_begun = Pattern(rf"(?:{opening.begun})\z", is_large=True)
        self._begun = Pattern(either(*parts).begun, is_large=True)
        self.reach = reach
        self.slack = WHOLE_PIECE

    def next_edit(self, text: str, start: int) -> Edit | None:
        found = leftmost(self._whole, text, start, self.reach)
        if found is None:
            return None
        place, match = found
        return step_over(text, place) if match is None else self._edit(text, match)

    def _edit(self, text: str, match: Match) -> Edit:
        place, end = match.span()
        rule, (start, stop) = self._rule_at(text, place, end)
        if rule.may_follow and not rule.may_follow(text[max(0, place - CONTEXT) : place]):
            return step_over(text, place)
        changed = rule.change(text[start:stop])
        if start > place and changed == text[start:stop]:
            return Edit(place, start, text[place:start], rule.label)
        return Edit(place, end, text[place:start] + changed + text[stop:end], rule.label)

    def _rule_at(self, text: str, place: int, end: int) -> tuple[Rule, tuple[int, int]]:
        """Returns the first rule that matches at `place`, and its part. It is often the rule of the place before."""
        before = max(0, place - 1)
        near, place, end = text[before : end + 1], place - before, end - before
        number = self._latest
        match = self._whole_of(number).match(near, place, end)
        if match is None or (number > 0 and self._any_of(0, number).match(near, place, end) is not None):
            self._latest = number = self._first_of(near, place, end)
            match = self._whole_of(number).match(near, place, end)
        start, stop = match.span(1) if match else (place, place)
        return self._rules[number], (before + start, before + stop)

    def _first_of(self, text: str, place: int, end: int) -> int:
        """Returns the number of the first rule that matches at `place`. Halving is cheaper than a group for each rule:
        RE2 copies all groups at each step."""
        first, last = 0, len(self._rules)
        while last - first > 1:
            middle = (first + last) // 2
            is_left = self._any_of(first, middle).match(text, place, end) is not None
            first, last = (first, middle) if is_left else (middle, last)
        return first

    def _whole_of(self, number: int) -> Pattern:
        """Returns the pattern of one rule, with its part as a group, made at its first use."""
        if (number, number) not in self._patterns:
            rule = self._rules[number]
            text = f"{rule.before.whole}({rule.part.whole}){rule.after.whole}"
            self._patterns[number, number] = Pattern(text, is_large=True)
        return self._patterns[number, number]

    def _any_of(self, first: int, last: int) -> Pattern:
        """Returns the pattern of these rules together, made at its first use."""
        if (first, last) not in self._patterns:
            wholes = (then(rule.before, rule.part, rule.after).whole for rule in self._rules[first:last])
            self._patterns[first, last] = Pattern(_any(wholes), is_large=True)
        return self._patterns[first, last]

    def first_open(self, text: str, start: int) -> int:
        first = max(start, len(text) - self.reach)
        before = max(0, len(text) - _OPENING - 1)
        begun = self._opening_begun.search(text[before:], max(0, first - before))
        end = len(text) if begun is None else before + begun.start()
        for place in self._openings(text, first):
            before = max(0, place - 1)
            if place >= end or self._begun.fullmatch(text[before:], place - before) is not None:
                return min(place, end)
        return end

    def _openings(self, text: str, place: int) -> Iterator[int]:
        """Yields the places of all openings from `place` on, even of those that overlap."""
        while place < len(text):
            before = max(0, place - 1)
            found = self._opening.search(text[before : place + _STRIDE + _OPENING], place - before)
            if found is None:
                place += _STRIDE
            else:
                yield before + found.start()
                place = before + found.start() + 1


_OPENING = 100
"""Characters of the longest opening."""

_STRIDE = 1_000
"""Characters that one search for an opening covers: each search reads all of its text."""


def _sequence(parts: Sequence[Part], opening: Part | None = None, *, is_empty: bool = False) -> Part:
    wholes = [part.whole for part in parts]
    begun = ("".join([*wholes[:number], part.begun]) for number, part in enumerate(parts))
    return Part("".join(wholes), _any(begun), opening, is_empty)


def _either(parts: Sequence[Part], opening: Part | None = None) -> Part:
    whole, begun = _any(part.whole for part in parts), _any(part.begun for part in parts)
    return Part(whole, begun, opening, any(part.is_empty for part in parts))


def _any(patterns: Iterable[str]) -> str:
    return f"(?:{'|'.join(patterns)})"


def _up_to(characters: str, most: int | None) -> str:
    return f"{characters}*" if most is None else f"{characters}{{0,{most}}}"
