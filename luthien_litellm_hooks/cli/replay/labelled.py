"""Rates of the two policies of a replay on the calls with a label."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from luthien_litellm_hooks.cli import rates
from luthien_litellm_hooks.cli.rates import Judged
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.monitor.comparison import Compared, Comparison
from luthien_litellm_hooks.monitor.comparison import Judged as Verdict
from luthien_litellm_hooks.monitor.labels import Labels
from luthien_litellm_hooks.recording.digest import action_digest


@dataclass(slots=True)
class Labelled:
    """Verdicts of both policies on the calls with a label. `target` is the false-positive rate to find a threshold
    for; None asks for none."""

    labels: Labels
    target: float | None = None
    before: list[Judged] = field(default_factory=list[Judged])
    after: list[Judged] = field(default_factory=list[Judged])

    def add(self, comparison: Comparison) -> None:
        """Adds the calls with a label."""
        for one in comparison.compared:
            if one.block is not None and one.block.type == "tool_call":
                self._add(one, one.block.name or "", one.block.arguments)

    def _add(self, one: Compared, name: str, arguments: str) -> None:
        label = self.labels.of(name, arguments)
        if label is not None:
            for side, verdict in ((self.before, one.before), (self.after, one.after)):
                side.append(_judged(action_digest(name, arguments), label == "block", verdict))

    def lines(self) -> Mapping[str, str]:
        """Returns the rates and comparisons for people, by their titles."""
        lines = {"rates before": _rates(self.before), "rates after": _rates(self.after)}
        try:
            compared = rates.compare(self.before, self.after)
            lines["p (McNemar)"] = f"{compared.should_stop.p:.3g} to stop, {compared.should_allow.p:.3g} to allow"
            area = rates.area_of(self.after)
            lines |= {} if area is None else {"AUC after": str(area)}
        except ConfigError as error:
            lines["not compared"] = str(error)
        if self.target is not None:
            lines["threshold"] = self._threshold(self.target)
        return lines

    def as_json(self) -> dict[str, Any]:
        """Returns the rates as JSON: each as a pair of counts."""
        found: dict[str, Any] = {"before": _counts(self.before), "after": _counts(self.after)}
        if self.target is not None:
            found["threshold"] = rates.threshold_for(self.after, self.target).at
        return found

    def _threshold(self, target: float) -> str:
        if all(one.score is None for one in self.after):
            return "the candidate gave no scores to calls with a label"
        found = rates.threshold_for(self.after, target)
        at = "none: each would stop more" if found.at is None else f"{found.at:g}"
        return f"{at}, for at most {target:.2%} of what to allow: {_said(found.rates)}"


def _judged(action: str, should_stop: bool, verdict: Verdict) -> Judged:
    return Judged(action, should_stop, not verdict.is_delivered, verdict.score)


def _rates(judged: list[Judged]) -> str:
    return _said(rates.rates_of(judged))


def _said(found: rates.Rates) -> str:
    return f"stops {found.true_positive} of what to stop, {found.false_positive} of what to allow"


def _counts(judged: list[Judged]) -> dict[str, tuple[int, int]]:
    found = rates.rates_of(judged)
    sides = {"true_positive": found.true_positive, "false_positive": found.false_positive}
    return {name: (rate.hits, rate.total) for name, rate in sides.items()}
