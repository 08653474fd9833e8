"""Report on the policies that only observed: how often each would have acted, with the uncertainty, and examples."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

from luthien_litellm_hooks.monitor.transactions import Decision, Observed, Record, Transaction
from luthien_litellm_hooks.monitor.words import REASONS, WOULD_ASK, in_short, would_be

TITLES = ("policy", "version", "seen", "would block", "95 % interval", "ask", "modify", "fail", "held p50/p95", "cost")
MOST = 20_000
"""Records of a report."""
_EXAMPLES = 5
_FAILED = ("policy_error", "timeout")
_Z_95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call of a response, with its number among them, from 1."""

    number: int
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Example:
    """A transaction with something that a policy would have done; `calls` are those it would have done it to."""

    transaction_id: str
    verdict: str
    reason: str
    calls: Sequence[Call] = ()


@dataclass(slots=True)
class PolicyReport:
    """Judgements of one version of a policy; `not_judged` counts its own errors."""

    policy: str
    version: str
    seen: int = 0
    blocked: int = 0
    asked: int = 0
    modified: int = 0
    failed: int = 0
    cost: float = 0.0
    not_judged: Counter[str] = field(default_factory=Counter[str])
    milliseconds: list[float] = field(default_factory=list[float])
    examples: list[Example] = field(default_factory=list[Example])

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the share of blocked responses."""
        return wilson(self.blocked, self.seen) if self.seen else (0.0, 1.0)

    @property
    def held(self) -> tuple[float, float]:
        """Median and 95th percentile of the milliseconds for which it would have held a response."""
        return _percentile(self.milliseconds, 0.5) or 0.0, _percentile(self.milliseconds, 0.95) or 0.0

    def add(self, record: Record, one: Observed) -> None:
        """Counts a judgement; the newest must come first."""
        self.cost += one.cost
        if one.outcome is None:
            self.not_judged[one.error or "unknown"] += 1
            return
        self.seen += 1
        self.milliseconds.append(one.milliseconds)
        is_changed = one.changed.request or one.changed.answer
        is_question = would_be(one) == WOULD_ASK
        self.asked += is_question
        self.blocked += one.outcome == "blocked" and not is_question
        self.failed += one.outcome in _FAILED
        self.modified += one.outcome == "complete" and is_changed
        if (one.outcome != "complete" or is_changed) and len(self.examples) < _EXAMPLES:
            decided = [decision for decision in one.decisions if decision.action != "allow"]
            reason = "; ".join(dict.fromkeys(map(in_short, decided)))
            self.examples.append(Example(record.transaction_id, would_be(one), reason, _calls(record, decided)))

    def cells(self) -> Sequence[str]:
        """Returns the texts below `TITLES`."""
        low, high = self.interval
        median, longest = self.held
        return [
            self.policy,
            self.version,
            f"{self.seen:,}",
            f"{self.blocked:,}",
            f"{low:.1%}-{high:.1%}",
            f"{self.asked:,}",
            f"{self.modified:,}",
            f"{self.failed:,}",
            f"{median:,.1f}/{longest:,.1f} ms",
            f"${self.cost:.4f}",
        ]

    def as_json(self) -> dict[str, Any]:
        return {
            "policy": self.policy,
            "version": self.version,
            "seen": self.seen,
            "blocked": self.blocked,
            "rate": self.blocked / self.seen if self.seen else None,
            "interval": self.interval if self.seen else None,
            "asked": self.asked,
            "modified": self.modified,
            "failed": self.failed,
            "not_judged": dict(self.not_judged),
            "held_ms": {"p50": _percentile(self.milliseconds, 0.5), "p95": _percentile(self.milliseconds, 0.95)},
            "cost": round(self.cost, 12),
            "examples": [
                {"transaction_id": one.transaction_id, "verdict": one.verdict, "reason": one.reason}
                for one in self.examples
            ],
        }


@dataclass(slots=True)
class Report:
    """Judgements of all observed policies, and the responses without any, by reason; `policy` is the only one that
    counts, if it is given."""

    policy: str | None = None
    observed: int = 0
    not_observed: Counter[str] = field(default_factory=Counter[str])
    _by_version: dict[tuple[str, str], PolicyReport] = field(default_factory=dict[tuple[str, str], PolicyReport])

    @property
    def policies(self) -> Sequence[PolicyReport]:
        return list(self._by_version.values())

    @property
    def missing(self) -> Sequence[tuple[int, str, str]]:
        """Numbers of responses without a judgement, each with the record's word and the reason, the most first."""
        return [(count, word, REASONS.get(word, "unknown")) for word, count in self.not_observed.most_common()]

    def add_all(self, transactions: Iterable[Transaction]) -> None:
        """Counts transactions; the newest of all must come first."""
        for record in (one.record for one in transactions if one.record is not None):
            judged = _judged(record)
            if isinstance(judged, str):
                self.not_observed[judged] += 1
                continue
            self.observed += bool(judged)
            for one in judged:
                if self.policy in (None, one.policy):
                    key = (one.policy, one.version or "")
                    self._by_version.setdefault(key, PolicyReport(*key)).add(record, one)

    def as_json(self) -> dict[str, Any]:
        return {
            "observed": self.observed,
            "not_observed": dict(self.not_observed),
            "policies": [one.as_json() for one in self.policies],
        }


def report_on(transactions: Iterable[Transaction], policy: str | None = None) -> Report:
    """Returns the report on transactions, newest first; `policy` is the only one to count."""
    report = Report(policy)
    report.add_all(transactions)
    return report


def _judged(record: Record) -> Sequence[Observed] | str:
    if record.is_closed:
        return "closed"
    return record.observed or ()


def _calls(record: Record, decisions: Sequence[Decision]) -> Sequence[Call]:
    """Returns the calls of the response that the decisions are about; none if they are not stored."""
    decided = {(one.block.id, one.block.name) for one in decisions if one.block is not None}
    content = () if record.original is None else record.original.answer.content
    calls = enumerate((block for block in content if block.type == "tool_call"), 1)
    return [Call(at, call.name or "", call.arguments) for at, call in calls if (call.id, call.name) in decided]


def _percentile(values: Sequence[float], share: float) -> float | None:
    """Returns the smallest value that at least this share does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def wilson(hits: int, total: int) -> tuple[float, float]:
    """Returns the 95 % score interval (Wilson 1927) of a proportion. `total` is at least 1."""
    proportion, z2 = hits / total, _Z_95**2
    centre = (proportion + z2 / (2 * total)) / (1 + z2 / total)
    spread = _Z_95 / (1 + z2 / total) * math.sqrt(proportion * (1 - proportion) / total + z2 / (4 * total**2))
    return max(0.0, centre - spread), min(1.0, centre + spread)
