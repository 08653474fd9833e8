"""Counts and plot of the last hour."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.monitor.rows import Count, Rows

_MINUTES = 60
_HEIGHT = 48
_WIDTH = 10
_FRESH_S = 2.0
_OLD_S = 60.0
_SHARE = 50
"""Counting takes at most this part of the time: the longer it takes, the more seldom it is done."""
_KINDS: Mapping[str, str] = {"complete": "good", "blocked": "bad", "policy_error": "bad"}
_OTHER = "odd"


@dataclass(frozen=True, slots=True)
class Bar:
    """A part of a minute's bar, as a rectangle of the plot."""

    kind: str
    x: int
    y: float
    height: float
    title: str


@dataclass(frozen=True, slots=True)
class Hour:
    """Transactions of the last hour: their number by outcome, and the bars of the plot."""

    total: int
    outcomes: Mapping[str, int]
    bars: Sequence[Bar]
    width: int = _MINUTES * _WIDTH
    height: int = _HEIGHT
    bar_width: int = _WIDTH - 2


class LastHour:
    """Counts of the last hour, shared by all pages. They are made anew in the background, so that no page waits."""

    def __init__(self, rows: Callable[[], Rows]) -> None:
        self._rows = rows
        self._known: Hour | None = None
        self._made_at = 0.0
        self._fresh_s = _FRESH_S
        self._counting: asyncio.Task[None] | None = None

    async def now(self) -> Hour:
        """Returns the counts as they are, or were a moment ago. Raises `ConfigError` if there are none to show."""
        age = time.monotonic() - self._made_at
        if self._known is None or age > _OLD_S:
            return await self._count()
        if age > self._fresh_s and (self._counting is None or self._counting.done()):
            self._counting = asyncio.create_task(self._count_again(), name="luthien-monitor-count")
        return self._known

    async def _count_again(self) -> None:
        with suppress(ConfigError):  # the former counts stay until they are too old
            await self._count()

    async def _count(self) -> Hour:
        began, moment = time.monotonic(), datetime.now(UTC)
        known = hour_of(await self._rows().counts(moment - timedelta(minutes=_MINUTES - 1)), moment)
        self._known, self._made_at = known, time.monotonic()
        self._fresh_s = max(_FRESH_S, (self._made_at - began) * _SHARE)
        return known


def hour_of(counts: Sequence[Count], now: datetime) -> Hour:
    """Returns the hour that ends now."""
    first = now - timedelta(minutes=_MINUTES - 1)
    places = {(first + timedelta(minutes=one)).strftime("%Y-%m-%dT%H:%M"): one for one in range(_MINUTES)}
    outcomes, minutes = Counter[str](), [Counter[str]() for _ in places]
    for count in counts:
        place = places.get(count.minute)
        if place is not None:
            outcomes[count.outcome] += count.number
            minutes[place][_KINDS.get(count.outcome, _OTHER)] += count.number
    highest = max((minute.total() for minute in minutes), default=0) or 1
    bars = [bar for (name, place) in places.items() for bar in _bars(name[11:], place, minutes[place], highest)]
    return Hour(outcomes.total(), dict(sorted(outcomes.items())), bars)


def _bars(name: str, place: int, minute: Counter[str], highest: int) -> Sequence[Bar]:
    bars: list[Bar] = []
    top = float(_HEIGHT)
    title = f"{name} UTC: {minute.total()}"
    for kind in ("good", _OTHER, "bad"):
        height = round(minute[kind] / highest * _HEIGHT, 1)
        top -= height
        if height:
            bars.append(Bar(kind, place * _WIDTH, round(top, 1), height, title))
    return bars
