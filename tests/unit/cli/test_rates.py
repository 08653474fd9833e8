"""Rates on labelled actions: published values, those of SciPy, and counts by hand."""

import sys
from collections.abc import Iterable

import pytest
from scipy import stats

from luthien_litellm_hooks.cli.rates import (
    Area,
    Discordance,
    Judged,
    Rate,
    Rates,
    area_of,
    compare,
    rates_of,
    threshold_for,
    wilson,
)
from luthien_litellm_hooks.errors import ConfigError


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_that_of_newcombes_table(hits: int, total: int, low: float, high: float) -> None:
    """Newcombe 1998, Statistics in Medicine 17:857, table I, method 3."""
    assert wilson(hits, total) == pytest.approx((low, high), abs=5e-5)
    assert wilson(total - hits, total) == pytest.approx((1 - high, 1 - low), abs=5e-5)


@pytest.mark.parametrize("total", [1, 2, 7, 100, 12_345])
def test_the_interval_is_that_of_scipy(total: int) -> None:
    for hits in {0, 1, total // 3, total - 1, total}:
        low, high = stats.binomtest(hits, total).proportion_ci(method="wilson")
        assert wilson(hits, total) == pytest.approx((low, high), abs=1e-12)


def stopped(count: int, total: int, *, should_stop: bool) -> list[Judged]:
    """Verdicts on different actions, the first of them stopped."""
    return [Judged(f"{should_stop}{number}", should_stop, number < count) for number in range(total)]


def test_rates_are_shares_of_the_actions_with_each_label() -> None:
    judged = stopped(3, 4, should_stop=True) + stopped(1, 10, should_stop=False)
    rates = rates_of(judged)
    assert rates == Rates(Rate(3, 4), Rate(1, 10))
    assert str(rates.false_positive) == "10.0% [1.8%, 40.4%]"
    assert rates_of([]) == Rates(Rate(0, 0), Rate(0, 0))
    assert str(Rate(0, 0)) == "no items"


def test_a_repeated_action_counts_once_by_its_worse_verdict() -> None:
    judged = [Judged("bad", True, True), Judged("bad", True, False), Judged("bad", True, True)]
    judged += [Judged("good", False, False), Judged("good", False, True), Judged("good", False, False)]
    assert rates_of(judged) == Rates(Rate(0, 1), Rate(1, 1))


def test_policies_are_compared_on_the_actions_that_both_judged() -> None:
    """Agresti, Categorical Data Analysis, 10.1: of 15 discordant pairs 5 against 10."""

    def verdicts(pairs: Iterable[bool], extra: str) -> list[Judged]:
        known = [Judged(str(number), True, is_stopped) for number, is_stopped in enumerate(pairs)]
        return [*known, Judged(extra, True, True), Judged("fine", False, False)]

    first = verdicts([True] * 5 + [False] * 10 + [True] * 20, "only here")
    second = verdicts([False] * 5 + [True] * 10 + [True] * 20, "only there")
    compared = compare(first, second)
    assert compared.should_allow == Discordance(0, 0, 1.0)
    assert (compared.should_stop.only_first, compared.should_stop.only_second) == (5, 10)
    assert compared.should_stop.p == pytest.approx(2 * sum(stats.binom.pmf(range(6), 15, 0.5)))
    assert compare(first, first).should_stop.p == 1.0


def scored(stop: Iterable[float], allow: Iterable[float]) -> list[Judged]:
    """Verdicts of a policy that stops at 0.5."""
    return [
        Judged(f"{should_stop}{number}", should_stop, score >= 0.5, score)
        for should_stop, scores in ((True, stop), (False, allow))
        for number, score in enumerate(scores)
    ]


def test_a_threshold_keeps_to_the_target() -> None:
    judged = scored([0.9, 0.8, 0.4, 0.1], [0.85, 0.4, *[0.0] * 98])
    assert threshold_for(judged, 0.0).at == 0.9
    at_one = threshold_for(judged, 0.01)
    assert (at_one.at, at_one.rates) == (0.8, Rates(Rate(2, 4), Rate(1, 100)))
    assert threshold_for(judged, 0.02).at == 0.1
    assert threshold_for(judged, 1.0).at == 0.0


def test_a_target_that_no_score_meets_stops_nothing() -> None:
    found = threshold_for(scored([0.5], [0.9]), 0.0)
    assert (found.at, found.rates) == (None, Rates(Rate(0, 1), Rate(0, 1)))
    assert threshold_for([Judged("a", True, True)], 0.5).at is None


def test_the_area_is_the_share_of_pairs_in_the_right_order() -> None:
    area = area_of(scored([0.9, 0.6, 0.5], [0.5, 0.4, 0.1, 0.7]))
    assert area is not None
    assert area.area == pytest.approx((4 + 3 + 2.5) / 12)
    assert 0 <= area.low < area.area < area.high <= 1
    assert area == area_of(scored([0.9, 0.6, 0.5], [0.5, 0.4, 0.1, 0.7]))
    assert area_of(scored([0.9], [])) is None
    assert area_of(scored([0.9], [0.5, 0.1])) is None
    assert area_of([Judged("a", True, True), Judged("b", False, False)]) is None


def test_perfect_scores_have_the_whole_area() -> None:
    area = area_of(scored([0.9, 0.8], [0.2, 0.1]))
    assert area == Area(1.0, 1.0, 1.0)
    assert str(area) == "1.000 [1.000, 1.000]"


def test_the_interval_of_the_area_narrows_with_more_items() -> None:
    few = area_of(scored([0.2, 0.6, 0.9], [0.1, 0.5, 0.7]))
    many = area_of(scored([0.2, 0.6, 0.9] * 50, [0.1, 0.5, 0.7] * 50))
    assert few is not None
    assert many is not None
    assert few.area == pytest.approx(many.area)
    assert many.high - many.low < (few.high - few.low) / 2


def test_without_scipy_rates_work_and_the_rest_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "scipy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy", None)
    judged = scored([0.9], [0.1])
    assert str(rates_of(judged).true_positive) == "100.0% [20.7%, 100.0%]"
    assert threshold_for(judged, 0.0).at == 0.9
    for needs in (lambda: area_of(judged), lambda: compare(judged, judged)):
        with pytest.raises(ConfigError, match=r"pip install 'luthien-litellm-hooks\[rates\]'"):
            needs()
