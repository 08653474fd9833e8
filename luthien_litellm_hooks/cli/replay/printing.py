"""Result of a replay, for people and for machines: first of all what it does not cover."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from luthien_litellm_hooks.cli.output import terminal
from luthien_litellm_hooks.cli.replay.candidates import Candidate
from luthien_litellm_hooks.cli.replay.judge_replies import JudgeReplies
from luthien_litellm_hooks.cli.replay.labelled import Labelled
from luthien_litellm_hooks.cli.replay.sources import Chosen
from luthien_litellm_hooks.monitor.comparison import CHANGES, Change, Compared, Comparison, Judged, Totals
from luthien_litellm_hooks.monitor.transactions import Record
from luthien_litellm_hooks.telemetry.log_lines import bounded_line, one_line

_TITLES: Mapping[Change, str] = {
    "unchanged": "unchanged",
    "newly_blocked": "newly blocked",
    "newly_allowed": "newly allowed",
    "changed": "otherwise changed",
}
_STYLES: Mapping[Change, str] = {"newly_blocked": "yellow", "newly_allowed": "red", "changed": "cyan"}
_EXAMPLES = 10
_SHOWN_CHARACTERS = 300
_SHOWN_VERSIONS = 5


@dataclass(slots=True)
class Report:
    """Result of a replay. `against` is None if the records are what the candidate is compared with."""

    candidate: Candidate
    against: Candidate | None
    place: str
    chosen: Chosen
    replies: JudgeReplies
    labelled: Labelled | None = None
    totals: Totals = field(default_factory=Totals)
    counterfactual: Totals = field(default_factory=Totals)
    """Changes after another request than the recorded one: its response may have been another, too."""
    examples: list[tuple[Record, Compared]] = field(default_factory=list[tuple[Record, Compared]])
    recorded_policies: Counter[str] = field(default_factory=Counter[str])
    """Number of transactions that each policy was in force for, by its name and version."""
    old_format: int = 0
    seconds: float = 0.0

    def add(self, record: Record, result: Comparison | str) -> None:
        """Adds a transaction: its comparison, or the reason against one."""
        if isinstance(result, str):
            self.chosen.left_out[result] += 1
            return
        self.recorded_policies.update({f"{one.name} ({one.version or 'no version'})" for one in record.policies})
        self.old_format += bool(record.policies) and (record.model_extra or {}).get("format", 1) == 1
        (self.counterfactual if result.is_counterfactual else self.totals).add(result)
        if self.labelled is not None:
            self.labelled.add(result)
        changed = [(record, one) for one in result.compared if one.change != "unchanged"]
        self.examples += changed[: _EXAMPLES - len(self.examples)]

    def has(self, change: str | None) -> bool:
        """Tells if there is a change of this kind, or with "changed" any."""
        counts = self.totals.changes + self.counterfactual.changes
        if change == "changed":
            return counts.total() > counts["unchanged"]
        return change == "newly-allowed" and counts["newly_allowed"] > 0

    @property
    def notes(self) -> Iterator[str]:
        if self.old_format:
            yield (
                f"Records of format 1, without the client's path and identity: {self.old_format:,}. A `when` may "
                "choose differently for them."
            )
        if self.candidate.selects_by_headers or (self.against is not None and self.against.selects_by_headers):
            yield (
                "Records have only the headers that a `when` in force named: policies that select by others judged "
                "nothing."
            )
        if skipped := self.chosen.skipped:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in skipped.most_common())
            yield f"Lines that are no part of a transaction: {kinds}."


def as_json(report: Report) -> dict[str, Any]:
    """Returns the result as JSON."""
    against = report.against
    totals, replies = report.totals, report.replies
    return {
        "candidate": _versions(report.candidate),
        "against": {"name": "recorded", "policies": dict(report.recorded_policies)}
        if against is None
        else _versions(against),
        "from": report.place,
        "not_replayed": dict(report.chosen.left_out.most_common()),
        "notes": list(report.notes),
        "transactions": totals.transactions,
        "changed_transactions": totals.changed_transactions,
        **_changes(totals),
        "by_policy": _by_policy(totals),
        "counterfactual": {
            "transactions": report.counterfactual.transactions,
            **_changes(report.counterfactual),
            "by_policy": _by_policy(report.counterfactual),
        },
        **({} if report.labelled is None else {"labelled": report.labelled.as_json()}),
        "judges": {"asked": replies.asked, "reused": replies.reused, "cost": replies.cost},
        "seconds": round(report.seconds, 3),
    }


def _versions(candidate: Candidate) -> dict[str, Any]:
    return {"name": candidate.name, "version": candidate.version, "policies": candidate.policies}


def _changes(totals: Totals) -> dict[str, int]:
    return {change: totals.changes[change] for change in CHANGES}


def _by_policy(totals: Totals) -> list[dict[str, Any]]:
    return [
        {"policy": policy, "about": about, **{change: counts[change] for change in CHANGES[1:]}}
        for (policy, about), counts in sorted(totals.by_policy.items())
    ]


def print_report(report: Report) -> None:
    console = terminal()
    console.print(_not_replayed(report))
    console.print(_sides(report))
    console.print(_verdicts(report.totals))
    if report.totals.by_policy:
        console.print(_policies(report.totals))
    if report.counterfactual.transactions:
        count = report.counterfactual.transactions
        title = f"Counterfactual: {count:,} transactions whose request changes, so that their response may, too"
        console.print(Text(title, "bold"))
        console.print(_verdicts(report.counterfactual))
        if report.counterfactual.by_policy:
            console.print(_policies(report.counterfactual))
    if report.examples:
        console.print(_examples(report))
    _print_notes(console, report)


def _not_replayed(report: Report) -> Table | Text:
    left_out = report.chosen.left_out
    if not left_out:
        return Text("Every transaction was replayed.\n", "green")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("not replayed", style="yellow")
    table.add_column("transactions", justify="right")
    for reason, count in left_out.most_common():
        table.add_row(Text(one_line(reason)), f"{count:,}")
    return table


def _sides(report: Report) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    pairs = report.chosen.pairs
    between = f", {pairs[0][0].time:%Y-%m-%d %H:%M} to {pairs[-1][0].time:%Y-%m-%d %H:%M} UTC" if pairs else ""
    count = report.totals.transactions + report.counterfactual.transactions
    before = report.against
    recorded = [f"{name} in {count:,}" for name, count in report.recorded_policies.most_common(_SHOWN_VERSIONS)]
    rows = {
        "replayed": f"{count:,} transactions from {report.place}{between}, in {report.seconds:.1f} s",
        "before": f"recorded: {', '.join(recorded) or 'no policy'}" if before is None else _named(before),
        "after": _named(report.candidate),
    }
    replies = report.replies
    if replies.asked or replies.reused:
        rows["judges"] = f"{replies.asked:,} calls, ${replies.cost:.6f}; {replies.reused:,} earlier replies"
    rows |= {} if report.labelled is None else report.labelled.lines()
    for title, text in rows.items():
        table.add_row(title, Text(one_line(text)))
    return table


def _named(candidate: Candidate) -> str:
    return f"{candidate.name}, version {candidate.version}: {', '.join(candidate.policies)}"


def _verdicts(totals: Totals) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("verdicts on requests and blocks")
    table.add_column("", justify="right")
    for change, title in _TITLES.items():
        count = totals.changes[change]
        table.add_row(Text(title, _STYLES.get(change, "") if count else ""), f"{count:,}")
    return table


def _policies(totals: Totals) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("policy", overflow="fold")
    table.add_column("tool or kind", overflow="fold")
    for change in CHANGES[1:]:
        table.add_column(_TITLES[change], justify="right")
    for (policy, about), counts in sorted(totals.by_policy.items()):
        numbers = (Text(f"{counts[change]:,}", _STYLES[change] if counts[change] else "dim") for change in CHANGES[1:])
        table.add_row(Text(one_line(policy or "-")), Text(one_line(about)), *numbers)
    return table


def _examples(report: Report) -> Table:
    changes = report.totals.changes + report.counterfactual.changes
    count = changes.total() - changes["unchanged"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("transaction", no_wrap=True)
    table.add_column("before → after", no_wrap=True)
    shown = len(report.examples)
    table.add_column(f"the first {shown} changes of {count:,}" if shown < count else "changes", overflow="fold")
    for record, one in report.examples:
        verdicts = Text(f"{one.before.verdict} → {one.after.verdict}", _STYLES[one.change])
        table.add_row(Text(one_line(record.transaction_id)[:8]), verdicts, Text("\n").join(_lines(one)))
    return table


def _lines(one: Compared) -> Iterator[Text]:
    """Yields the block, and the reasons of both sides."""
    block = one.block
    content = "" if block is None else block.arguments if block.type == "tool_call" else block.text
    yield Text.assemble((one_line(one.about), "bold"), " ", bounded_line(content, _SHOWN_CHARACTERS))
    for title, judged in (("before: ", one.before), ("after: ", one.after)):
        if text := _why(judged):
            yield Text.assemble((title, "dim"), one_line(text))


def _why(judged: Judged) -> str:
    return ": ".join(filter(None, (judged.policy, judged.reason)))


def _print_notes(console: Console, report: Report) -> None:
    for note in report.notes:
        console.print(Text(one_line(note), "dim"))
