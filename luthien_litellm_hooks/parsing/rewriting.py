"""Rewrites a text that is still coming in: what of it is settled, and what later text may change.

How the text is cut does not matter: the edits are those of the whole text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from luthien_litellm_hooks.parsing.patterns import Match, Pattern

CONTEXT = 16
"""How many characters before a place may matter to what is found there."""

WHOLE_PIECE = 100
"""Characters of a piece that is better held for a moment as a whole than cut: few pieces are longer."""

_WINDOW = 4_096


@dataclass(frozen=True, slots=True)
class Edit:
    """`text` stands for what came from `start` to `end`. `label` says in one word why."""

    start: int
    end: int
    text: str
    label: str


class Rewriter(Protocol):
    """What to look for, and what to write for it.

    `reach` is the length of the longest match. A piece of an answer whose end is not settled is
    held as it is while no more than `slack` characters are held with it; beyond that it is cut.
    """

    @property
    def reach(self) -> int: ...

    @property
    def slack(self) -> int: ...

    def next_edit(self, text: str, start: int) -> Edit | None:
        """The first edit at or after `start`; one that changes nothing only says that what it covers
        is not searched."""
        ...

    def first_open(self, text: str, start: int) -> int:
        """The first place at or after `start` where more text may complete, lengthen or prevent a
        match; the length of `text` if there is none."""
        ...


def settle(rewriter: Rewriter, text: str, start: int, *, is_final: bool) -> tuple[list[Edit], int]:
    """The edits that no later text changes, and up to where `text` is settled.

    What is before `start` was settled earlier. A final text is settled as a whole. A long text is
    gone through bit by bit: what one search costs grows with the text that it is given.
    """
    edits: list[Edit] = []
    window = _WINDOW + 2 * rewriter.reach
    while start < len(text):
        base = max(0, start - CONTEXT)
        is_last = len(text) - start <= window
        found, settled = _settle(rewriter, text[base : start + window], start - base, is_final and is_last)
        edits += (replace(edit, start=base + edit.start, end=base + edit.end) for edit in found)
        start = base + settled
        if is_last:
            break
    return [edit for edit in edits if edit.text != text[edit.start : edit.end]], start


def edits_of(rewriter: Rewriter, text: str) -> list[Edit]:
    """All edits of a whole text."""
    return settle(rewriter, text, 0, is_final=True)[0]


def apply_edits(text: str, edits: Sequence[Edit], start: int = 0, end: int | None = None) -> str:
    """`text` from `start` to `end`, edited."""
    parts: list[str] = []
    for edit in edits:
        parts += text[start : edit.start], edit.text
        start = edit.end
    return "".join([*parts, text[start:end]])


def leftmost(pattern: Pattern, text: str, start: int, reach: int) -> tuple[int, Match | None] | None:
    """The first place at or after `start` where the pattern matches, and the match there; without it if none there is
    within `reach` and says anything, so that the search has to go on after that place."""
    match = pattern.search(text, start)
    if match is None:
        return None
    first = match.start()
    if match.end() - first > reach:
        match = pattern.search(text, first, first + reach)
    is_there = match is not None and match.start() == first < match.end()
    return first, match if is_there else None


def step_over(text: str, place: int) -> Edit:
    """An edit that changes nothing: the search goes on after one character."""
    return Edit(place, place + 1, text[place : place + 1], "")


def _settle(rewriter: Rewriter, text: str, start: int, is_final: bool) -> tuple[list[Edit], int]:
    edits: list[Edit] = []
    open_at = len(text) if is_final else rewriter.first_open(text, start)
    while start < open_at and (edit := rewriter.next_edit(text, start)) is not None and edit.start < open_at:
        edits.append(edit)
        start = edit.end
        if start > open_at:
            open_at = rewriter.first_open(text, start)
    return edits, max(start, open_at)
