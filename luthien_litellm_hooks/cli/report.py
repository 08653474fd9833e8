"""`luthien-hooks report`: what the policies that only observed would have done."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from luthien_litellm_hooks.cli.output import complain, print_json, terminal
from luthien_litellm_hooks.cli.rates import wilson
from luthien_litellm_hooks.cli.show import Source, complain_once, moment, with_plain_errors
from luthien_litellm_hooks.cli.show.printing import REASONS, WOULD_ASK, in_short, would_be
from luthien_litellm_hooks.monitor.spend_logs import Filter
from luthien_litellm_hooks.monitor.transactions import Observed, Record, Transaction
from luthien_litellm_hooks.telemetry.log_lines import one_line

_MOST = 20_000
"""Records of a report."""
_EXAMPLES = 5
_TITLES = ("policy", "version", "seen", "would block", "95 % interval", "ask", "modify", "fail", "held p50/p95", "cost")
_FAILED = ("policy_error", "timeout")


@dataclass(frozen=True, slots=True)
class Example:
    """A transaction with something that a policy would have done."""

    transaction_id: str
    verdict: str
    reason: str


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

    def add(self, transaction_id: str, one: Observed) -> None:
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
            decided = (in_short(decision) for decision in one.decisions if decision.action != "allow")
            self.examples.append(Example(transaction_id, would_be(one), "; ".join(dict.fromkeys(decided))))

    def as_json(self) -> dict[str, Any]:
        return {
            "policy": self.policy,
            "version": self.version,
            "seen": self.seen,
            "blocked": self.blocked,
            "rate": self.blocked / self.seen if self.seen else None,
            "interval": wilson(self.blocked, self.seen) if self.seen else None,
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


@dataclass(frozen=True, slots=True)
class Report:
    """Judgements of all observed policies, and the responses without any, by reason."""

    observed: int
    not_observed: Mapping[str, int]
    policies: Sequence[PolicyReport]


@with_plain_errors
def run_report(source: Source, *, since: str, policy: str | None, as_json: bool) -> int:
    found = source.opened(list(source.open().latest(Filter(since=moment(since)), _MOST)))
    report = report_on(found.transactions, policy)
    complain_once(found.complaints)
    if as_json:
        missing = {"observed": report.observed, "not_observed": dict(report.not_observed)}
        print_json({**missing, "policies": [one.as_json() for one in report.policies]})
    elif report.observed or report.not_observed:
        _print(terminal(), report)
    if not report.policies:
        named = "No policy" if policy is None else f"No policy {policy!r}"
        complain(f"{named} has observed a response since {since}: see `enforce` in docs/observing.md.")
        return 1
    return 0


def report_on(transactions: Iterable[Transaction], policy: str | None = None) -> Report:
    """Returns the report on transactions, newest first; `policy` is the only one to count."""
    observed, not_observed = 0, Counter[str]()
    policies: dict[tuple[str, str], PolicyReport] = {}
    for record in (one.record for one in transactions if one.record is not None):
        judged = _judged(record)
        if isinstance(judged, str):
            not_observed[judged] += 1
            continue
        observed += bool(judged)
        for one in judged:
            if policy in (None, one.policy):
                key = (one.policy, one.version or "")
                policies.setdefault(key, PolicyReport(*key)).add(record.transaction_id, one)
    return Report(observed, not_observed, list(policies.values()))


def _judged(record: Record) -> Sequence[Observed] | str:
    if record.is_closed:
        return "closed"
    return record.observed or ()


def _percentile(values: Sequence[float], share: float) -> float | None:
    """Returns the smallest value that at least this share does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def _print(console: Console, report: Report) -> None:
    missing = sum(report.not_observed.values())
    console.print(Text(f"{report.observed:,} responses observed, {missing:,} not observed", "bold"))
    for reason, count in sorted(report.not_observed.items(), key=lambda one: -one[1]):
        console.print(Text(f"  {count:,} {reason}: {one_line(REASONS.get(reason, 'unknown'))}"), soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in _TITLES:
        table.add_column(title, justify="left" if title in _TITLES[:2] else "right")
    for one in report.policies:
        table.add_row(*map(one_line, _row(one)))
    console.print(table)
    for one in report.policies:
        _print_policy(console, one)


def _row(one: PolicyReport) -> list[str]:
    low, high = wilson(one.blocked, one.seen) if one.seen else (0.0, 1.0)
    held = [_percentile(one.milliseconds, share) or 0.0 for share in (0.5, 0.95)]
    return [
        one.policy,
        one.version,
        f"{one.seen:,}",
        f"{one.blocked:,}",
        f"{low:.1%}-{high:.1%}",
        f"{one.asked:,}",
        f"{one.modified:,}",
        f"{one.failed:,}",
        f"{held[0]:,.1f}/{held[1]:,.1f} ms",
        f"${one.cost:.4f}",
    ]


def _print_policy(console: Console, one: PolicyReport) -> None:
    for error, count in one.not_judged.items():
        console.print(Text(one_line(f"{one.policy} could not judge {count:,}: {error}")), soft_wrap=True)
    if one.examples:
        console.print(Text(one_line(f"{one.policy} ({one.version}), the newest examples:"), "bold"))
    for example in one.examples:
        line = f"  {example.transaction_id} {example.verdict}: {example.reason or 'no reason'}"
        console.print(Text(one_line(line)), soft_wrap=True)
