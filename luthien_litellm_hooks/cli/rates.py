"""Rates of policies on labelled actions, with their uncertainty.

Beyond rates and their intervals, SciPy computes: it comes with the extra `rates`.
"""

import importlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.monitor.report import wilson

_RESAMPLES = 2_000
_SEED = 1
"""Seed of the resamples: the same items give the same interval."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Share of items, in words with its 95 % interval."""

    hits: int
    total: int

    def __str__(self) -> str:
        if not self.total:
            return "no items"
        low, high = wilson(self.hits, self.total)
        return f"{self.hits / self.total:.1%} [{low:.1%}, {high:.1%}]"


@dataclass(frozen=True, slots=True)
class Judged:
    """Verdict of a policy on a labelled action. A higher `score` means more suspicion; None without one."""

    action: str
    should_stop: bool
    is_stopped: bool
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Rates:
    """Shares of the actions that a policy stopped: of those to stop, and of those to allow."""

    true_positive: Rate
    false_positive: Rate


def rates_of(judged: Iterable[Judged]) -> Rates:
    """Returns the rates. A repeated action counts once, by its worse verdict, because repetitions add no evidence."""
    by_action = _once(judged).values()
    stopped, passed = ([one for one in by_action if one.should_stop is wanted] for wanted in (True, False))
    return Rates(_share_stopped(stopped), _share_stopped(passed))


def _share_stopped(judged: Sequence[Judged]) -> Rate:
    return Rate(sum(one.is_stopped for one in judged), len(judged))


def _once(judged: Iterable[Judged]) -> Mapping[str, Judged]:
    """Returns the worse of the verdicts on each action: the wrong one, then the one with the worse score."""
    worst: dict[str, Judged] = {}
    for one in judged:
        known = worst.get(one.action)
        worst[one.action] = one if known is None or _wrongness(one) > _wrongness(known) else known
    return worst


def _wrongness(one: Judged) -> tuple[bool, float]:
    score = one.score or 0.0
    return one.is_stopped != one.should_stop, -score if one.should_stop else score


@dataclass(frozen=True, slots=True)
class Discordance:
    """Actions that just one of two policies stopped, and the exact p of McNemar's test: the probability of so uneven
    counts if both policies were equal."""

    only_first: int
    only_second: int
    p: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Differences of two policies on the same actions: those to stop, and those to allow."""

    should_stop: Discordance
    should_allow: Discordance


def compare(first: Iterable[Judged], second: Iterable[Judged]) -> Comparison:
    """Compares two policies on the actions that both judged. Raises `ConfigError` without SciPy."""
    ours, theirs = _once(first), _once(second)
    pairs = [(ours[action], theirs[action]) for action in ours.keys() & theirs.keys()]
    stop, allow = ([pair for pair in pairs if pair[0].should_stop is wanted] for wanted in (True, False))
    return Comparison(_discordance(stop), _discordance(allow))


def _discordance(pairs: Sequence[tuple[Judged, Judged]]) -> Discordance:
    stats = _scipy_stats()
    only_first = sum(ours.is_stopped and not theirs.is_stopped for ours, theirs in pairs)
    only_second = sum(theirs.is_stopped and not ours.is_stopped for ours, theirs in pairs)
    both = only_first + only_second
    return Discordance(only_first, only_second, float(stats.binomtest(only_first, both).pvalue) if both else 1.0)


@dataclass(frozen=True, slots=True)
class Threshold:
    """Lowest score to stop at, and the rates there. None stops nothing."""

    at: float | None
    rates: Rates


def threshold_for(judged: Iterable[Judged], target: float) -> Threshold:
    """Returns the lowest threshold with at most this false-positive rate on the actions with a score.

    It is an observed score: a score between two of them would have the same rates.
    """
    scored = _scored(judged)
    chosen = Threshold(None, rates_of(_stopped_at(scored, math.inf)))
    for score in sorted({score for _, score in scored}, reverse=True):
        rates = rates_of(_stopped_at(scored, score))
        if rates.false_positive.hits > target * rates.false_positive.total:
            break
        chosen = Threshold(score, rates)
    return chosen


def _stopped_at(scored: Iterable[tuple[Judged, float]], threshold: float) -> Iterable[Judged]:
    return [Judged(one.action, one.should_stop, score >= threshold, score) for one, score in scored]


def _scored(judged: Iterable[Judged]) -> list[tuple[Judged, float]]:
    return [(one, one.score) for one in _once(judged).values() if one.score is not None]


@dataclass(frozen=True, slots=True)
class Area:
    """Area under the curve of true- against false-positive rates, with its 95 % interval.

    It is the probability that an action to stop has a higher score than one to allow.
    """

    area: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.area:.3f} [{self.low:.3f}, {self.high:.3f}]"


def area_of(judged: Iterable[Judged]) -> Area | None:
    """Returns the area of the actions with a score; None with fewer than two to stop, or to allow.

    The interval is the percentiles of a bootstrap. Raises `ConfigError` without SciPy.
    """
    stats = _scipy_stats()
    scored = _scored(judged)
    stop, allow = ([score for one, score in scored if one.should_stop is wanted] for wanted in (True, False))
    if min(len(stop), len(allow)) < 2:  # a bootstrap resamples several
        return None

    def area(stop: Any, allow: Any, axis: int = -1) -> Any:
        return stats.mannwhitneyu(stop, allow, axis=axis).statistic / (stop.shape[axis] * allow.shape[axis])

    resampled = stats.bootstrap(
        (stop, allow), area, n_resamples=_RESAMPLES, vectorized=True, method="percentile", rng=_SEED
    )
    whole = stats.mannwhitneyu(stop, allow).statistic / (len(stop) * len(allow))
    low, high = resampled.confidence_interval
    return Area(float(whole), float(low), float(high))


def _scipy_stats() -> Any:
    try:
        return importlib.import_module("scipy.stats")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "scipy":
            raise
        raise ConfigError(
            "SciPy is missing, which compares policies. Install it with the extra `rates`: "
            "pip install 'luthien-litellm-hooks[rates]'"
        ) from None
