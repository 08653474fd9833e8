"""Page of a transaction: its facts and decisions, and its request and response, original beside final.

It shows what `luthien-hooks show` shows, and `?full=1` what `show --full` does. Its JSON is that of `show --json` and
`diff --json`. A long line is cut, and a long comparison too: the JSON has all of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from luthien_litellm_hooks.monitor.facts import (
    Explained,
    again_words,
    as_stored,
    changed_span,
    compared,
    differences,
    explained,
    facts,
    outcome_of,
)
from luthien_litellm_hooks.monitor.outline import Gap, Pair, fold
from luthien_litellm_hooks.monitor.pages.labels import LabelledCall, labelled_calls, labels_file
from luthien_litellm_hooks.monitor.rows import in_thread
from luthien_litellm_hooks.monitor.site import Page, Site, json_response, render, wants_json
from luthien_litellm_hooks.monitor.transactions import Decision, Record, Transaction
from luthien_litellm_hooks.monitor.words import HOW_TO_STORE, REASONS, changed_parts, would_be

_CONTEXT = 20
_LONGEST_LINE = 1_000
_LONGEST_LINE_IN_FULL = 20_000
_MOST_LINES = 400
_MOST_CHARACTERS = 40_000
"""Characters of both sides of a part, so that a page stays below 100 KB."""
_MOST_DECISIONS = 200


@dataclass(frozen=True, slots=True)
class Piece:
    """A line, or the beginning of one, with the part that differs from the other side's, and the number of further
    characters."""

    head: str
    changed: str = ""
    tail: str = ""
    cut: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a comparison. `mark` is empty for an equal one, "-", "+" or "~"; a gap has `equal` lines."""

    before: Piece | None = None
    after: Piece | None = None
    mark: str = ""
    equal: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """The request or the response. An unchanged one has one column. `cut` lines are left out at its end."""

    title: str
    note: str
    is_changed: bool
    lines: Sequence[Line]
    cut: int


@dataclass(frozen=True, slots=True)
class Judged:
    """A judgement that had no effect, or of a second response: its heading and its decisions."""

    title: str
    words: str
    decisions: Sequence[Explained]


@dataclass(frozen=True, slots=True)
class Took:
    """Time of a decision."""

    title: str
    milliseconds: float


@dataclass(frozen=True, slots=True)
class Shown:
    """View of the page. `notes` say why something is not shown, `labels_problem` why no label can be given."""

    id: str
    outcome: str
    session: str | None
    facts: dict[str, str]
    decisions: Sequence[Explained]
    more_decisions: int
    others: Sequence[Judged]
    took: Sequence[Took]
    milliseconds: float
    notes: Sequence[str]
    parts: Sequence[Part]
    is_full: bool
    calls: Sequence[LabelledCall] = ()
    labels_problem: str | None = None


async def _transaction(site: Site, request: Request) -> Response:
    wanted = request.path_params["id"]
    found = await site.rows().find(wanted)
    if found is None or found.record is None:
        return _running(site, request, wanted)
    if wants_json(request):
        return json_response(await in_thread(_as_json, found, found.record))
    is_full = request.query_params.get("full") == "1"
    view = await in_thread(shown, found, found.record, is_full=is_full)
    labels = await labels_file(site)
    view = replace(view, calls=labelled_calls(labels, found.record), labels_problem=labels.problem)
    return render(request, "transaction.html", view)


def _running(site: Site, request: Request, wanted: str) -> Response:
    """Returns the page of a transaction that is not stored yet. Raises a 404."""
    row = site.feed.row(wanted)
    if row is None:
        raise HTTPException(404, "There is no such transaction, or its record is gone.")
    return render(request, "running.html", row)


def _as_json(transaction: Transaction, record: Record) -> dict[str, Any]:
    sides = record.sides
    return {**as_stored(transaction), "differences": None if sides is None else differences(*sides)}


def shown(transaction: Transaction, record: Record, *, is_full: bool) -> Shown:
    """Returns the view of a transaction."""
    timed = [one for one in record.decisions if one.milliseconds is not None]
    took = [Took(f"{one.policy}: {one.action}", one.milliseconds or 0.0) for one in timed[:_MOST_DECISIONS]]
    most = None if is_full else _MOST_DECISIONS
    return Shown(
        id=record.transaction_id,
        outcome=outcome_of(record),
        session=record.session,
        facts=facts(transaction, record),
        decisions=_explained(record.decisions[:most]),
        more_decisions=0 if most is None else max(len(record.decisions) - most, 0),
        others=_others(record),
        took=took,
        milliseconds=max(record.milliseconds or 0.0, *(one.milliseconds for one in took), 0.1),
        notes=_notes(record),
        parts=_parts(record, is_full=is_full),
        is_full=is_full,
    )


def _explained(decisions: Sequence[Decision]) -> Sequence[Explained]:
    return [explained(one) for one in decisions]


def _others(record: Record) -> list[Judged]:
    found: list[Judged] = []
    if record.asked_again is not None:
        again = record.asked_again
        found.append(Judged("Asked again", again_words(again), _explained(again.decisions)))
    for one in () if isinstance(record.observed, str) else record.observed or ():
        held = "" if one.outcome is None else f" after {one.milliseconds:,.1f} ms"
        title = f"Observed: {one.policy} ({one.version or 'no version'})"
        found.append(Judged(title, f"{would_be(one)}{held}", _explained(one.decisions)))
    return found


def _notes(record: Record) -> list[str]:
    notes: list[str] = []
    if isinstance(record.observed, str):
        notes.append(f"Not observed: {REASONS.get(record.observed, record.observed)}.")
    if record.is_without_rest:
        notes.append("Reasons and texts are not stored: the proxy had no key to seal them with.")
    elif record.is_closed:
        notes.append("Reasons, evidence and texts are sealed with another key than this proxy has.")
    elif record.sides is None:
        notes.append(HOW_TO_STORE)
    return notes


def _parts(record: Record, *, is_full: bool) -> list[Part]:
    if record.is_closed or record.sides is None:
        return []
    found = compared(*record.sides, is_brief=not is_full).items()
    return [_part(title, pairs, title in changed_parts(record), is_full=is_full) for title, pairs in found]


def _part(title: str, pairs: Sequence[Pair], is_known_changed: bool, *, is_full: bool) -> Part:
    is_changed = not all(pair.is_equal for pair in pairs)
    note = "" if is_changed else "changed in a part that is not recorded" if is_known_changed else "unchanged"
    folded = pairs if is_full else list(fold(pairs, _CONTEXT, keeps_ends=True))
    lines: list[Line] = []
    left = _MOST_CHARACTERS
    for pair in folded:
        if not is_full and (left <= 0 or len(lines) >= _MOST_LINES):
            break
        line = _line(pair, _LONGEST_LINE_IN_FULL if is_full else _LONGEST_LINE)
        left -= sum(len(one.head) + len(one.changed) + len(one.tail) for one in (line.before, line.after) if one)
        lines.append(line)
    return Part(title, note if pairs else "nothing was recorded", is_changed, lines, len(folded) - len(lines))


def _line(pair: Pair | Gap, longest: int) -> Line:
    if isinstance(pair, Gap):
        return Line(equal=pair.lines)
    if pair.is_equal:
        return Line(_piece(pair.before, None, longest))
    mark = "-" if pair.after is None else "+" if pair.before is None else "~"
    return Line(_piece(pair.before, pair.after, longest), _piece(pair.after, pair.before, longest), mark)


def _piece(line: str | None, other: str | None, longest: int) -> Piece | None:
    """Returns a line up to so many characters. Of a similar line of the other side the difference is told apart."""
    if line is None:
        return None
    start, end = changed_span(line, other) or (len(line), len(line))
    cut = max(len(line) - longest, 0)
    return Piece(line[: min(start, longest)], line[start : min(end, longest)], line[end:longest], cut)


PAGES = (Page("/t/{id}", _transaction),)
