"""Two texts line by line: which stand side by side, and what may be left out because it is equal."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby, zip_longest

_MOST_LINES = 2_000
"""Of what differs: beyond it, no line is looked for elsewhere, which would take too long."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A line before and after; None where there is none."""

    before: str | None
    after: str | None

    @property
    def is_equal(self) -> bool:
        return self.before == self.after


@dataclass(frozen=True, slots=True)
class Gap:
    """So many equal lines that are not shown."""

    lines: int


def compare(before: Sequence[str], after: Sequence[str]) -> list[Pair]:
    """All lines of both, in order."""
    first, last = shared_ends(before, after)
    middle = _compare_middle(before[first : len(before) - last], after[first : len(after) - last])
    return [*_equal(before[:first]), *middle, *_equal(before[len(before) - last :])]


def fold(pairs: Iterable[Pair], context: int, *, keeps_ends: bool) -> Iterator[Pair | Gap]:
    """Leaves out equal lines that are more than `context` lines away from a change; with `keeps_ends`
    also from the beginning and the end."""
    runs = [(is_equal, list(run)) for is_equal, run in groupby(pairs, lambda pair: pair.is_equal)]
    for number, (is_equal, run) in enumerate(runs):
        head = context if number or keeps_ends else 0
        tail = context if number < len(runs) - 1 or keeps_ends else 0
        left_out = len(run) - head - tail
        if is_equal and left_out > 1:
            yield from run[:head]
            yield Gap(left_out)
            yield from run[len(run) - tail :]
        else:
            yield from run


def shared_ends(before: Sequence[str], after: Sequence[str]) -> tuple[int, int]:
    """How many items, or characters, two sequences share at their beginnings, and then at their ends."""
    first = _shared(before, after)
    return first, _shared(before[first:][::-1], after[first:][::-1])


def _shared(before: Sequence[str], after: Sequence[str]) -> int:
    differences = (number for number, (one, other) in enumerate(zip(before, after, strict=False)) if one != other)
    return next(differences, min(len(before), len(after)))


def _equal(lines: Iterable[str]) -> list[Pair]:
    return [Pair(line, line) for line in lines]


def _compare_middle(before: Sequence[str], after: Sequence[str]) -> list[Pair]:
    if max(len(before), len(after)) > _MOST_LINES:
        return list(_side_by_side(before, after))
    pairs: list[Pair] = []
    for _, start, end, start_after, end_after in SequenceMatcher(None, before, after).get_opcodes():
        pairs += _side_by_side(before[start:end], after[start_after:end_after])
    return pairs


def _side_by_side(before: Sequence[str], after: Sequence[str]) -> Iterator[Pair]:
    for line_before, line_after in zip_longest(before, after):
        yield Pair(line_before, line_after)
