"""Page of a session: its transactions as a timeline, with the scores of their decisions as a plot."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from luthien_litellm_hooks.monitor.pages.cutting import Cutter
from luthien_litellm_hooks.monitor.pages.live import position_of
from luthien_litellm_hooks.monitor.rows import in_thread
from luthien_litellm_hooks.monitor.session import Part, Turn, timeline
from luthien_litellm_hooks.monitor.site import Page, Site, render
from luthien_litellm_hooks.monitor.spend_logs import Filter

_SIZE = 25
_MOST_PARTS = 12
"""Blocks of a turn that are shown."""
_MOST_SCORES = 40
_LONGEST = 500
_ROOM = 40_000
"""Characters of all texts on a page."""
_LONGEST_NAME = 60
_WIDTH, _HEIGHT, _MARGIN = 600, 120, 8
_COLOURS = 6
"""Colours of the style sheet for the policies of a plot."""


@dataclass(frozen=True, slots=True)
class ShownTurn:
    """A turn with its texts cut; `more` counts the blocks that are left out."""

    turn: Turn
    more: int


@dataclass(frozen=True, slots=True)
class Point:
    """A score in the plot. `label` names its decision."""

    x: float
    y: float
    label: str


@dataclass(frozen=True, slots=True)
class Line:
    """Scores of one policy; `colour` is a number of the style sheet's."""

    policy: str
    colour: int
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class SessionView:
    """View of the page. `older` and `newest` are queries of links, None without such a page."""

    session: str
    turns: Sequence[ShownTurn]
    older: str | None
    newest: str | None

    @property
    def lines(self) -> Sequence[Line]:
        """Lines of the plot, from the scores of the turns."""
        return plot([shown.turn for shown in self.turns])


async def _session(site: Site, request: Request) -> Response:
    session = request.path_params["session"]
    before = position_of(request)
    listing = await site.rows().whole(Filter(session=session), before, _SIZE)
    turns = await in_thread(lambda: _shown(timeline(listing.transactions)))
    if not turns and before is None:
        raise HTTPException(404, "No stored transaction has this session.")
    older = None if listing.older is None else f"?{urlencode({'before': str(listing.older)})}"
    return render(request, "session.html", SessionView(session, turns, older, None if before is None else "?"))


def plot(turns: Sequence[Turn]) -> Sequence[Line]:
    """Returns a line a policy, in a picture with a turn's scores above each other; scores above 1 are at the top."""
    by_policy: dict[str, list[Point]] = {}
    step = (_WIDTH - 2 * _MARGIN) / max(1, len(turns) - 1)
    for number, turn in enumerate(turns):
        for score in turn.scores:
            height = min(1.0, max(0.0, score.value)) * (_HEIGHT - 2 * _MARGIN)
            name = f"{score.policy} (observes)" if score.is_observed else score.policy
            label = f"{name}: {score.value:g} for {score.about}, {turn.time:%H:%M:%S}"
            point = Point(round(_MARGIN + number * step, 1), round(_HEIGHT - _MARGIN - height, 1), label)
            by_policy.setdefault(name, []).append(point)
    return [Line(name, number % _COLOURS, points) for number, (name, points) in enumerate(by_policy.items())]


def _shown(turns: Sequence[Turn]) -> Sequence[ShownTurn]:
    cut = Cutter(_ROOM, _LONGEST)
    return [
        ShownTurn(
            replace(
                turn,
                asked=cut.maybe(turn.asked),
                refused=cut.maybe(turn.refused),
                parts=[_cut_part(part, cut) for part in turn.parts[:_MOST_PARTS]],
                decided=[cut(text) for text in turn.decided[:_MOST_PARTS]],
                observed=[cut(text) for text in turn.observed[:_MOST_PARTS]],
                scores=[replace(one, about=one.about[:_LONGEST_NAME]) for one in turn.scores[:_MOST_SCORES]],
            ),
            max(0, len(turn.parts) - _MOST_PARTS),
        )
        for turn in turns
    ]


def _cut_part(part: Part, cut: Cutter) -> Part:
    return replace(
        part,
        name=cut.maybe(part.name),
        text=cut(part.text),
        effects=[cut(text) for text in part.effects],
        reason=cut.maybe(part.reason),
        instead=cut.maybe(part.instead),
    )


PAGES = (Page("/s/{session:path}", _session),)
