"""`luthien-hooks report`: what the policies that only observed would have done."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from luthien_litellm_hooks.cli.output import complain, print_json, terminal
from luthien_litellm_hooks.cli.show import Source, complain_once, with_plain_errors
from luthien_litellm_hooks.monitor.report import MOST, TITLES, PolicyReport, Report, report_on
from luthien_litellm_hooks.monitor.spend_logs import Filter, moment
from luthien_litellm_hooks.telemetry.log_lines import one_line


@with_plain_errors
def run_report(source: Source, *, since: str, policy: str | None, as_json: bool) -> int:
    found = source.opened(list(source.open().latest(Filter(since=moment(since)), MOST)))
    report = report_on(found.transactions, policy)
    complain_once(found.complaints)
    if as_json:
        print_json(report.as_json())
    elif report.observed or report.not_observed:
        _print(terminal(), report)
    if not report.policies:
        named = "No policy" if policy is None else f"No policy {policy!r}"
        complain(f"{named} has observed a response since {since}: see `enforce` in docs/observing.md.")
        return 1
    return 0


def _print(console: Console, report: Report) -> None:
    missing = sum(report.not_observed.values())
    console.print(Text(f"{report.observed:,} responses observed, {missing:,} not observed", "bold"))
    for count, word, reason in report.missing:
        console.print(Text(one_line(f"  {count:,} {word}: {reason}")), soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in TITLES:
        table.add_column(title, justify="left" if title in TITLES[:2] else "right")
    for one in report.policies:
        table.add_row(*map(one_line, one.cells()))
    console.print(table)
    for one in report.policies:
        _print_policy(console, one)


def _print_policy(console: Console, one: PolicyReport) -> None:
    for error, count in one.not_judged.items():
        console.print(Text(one_line(f"{one.policy} could not judge {count:,}: {error}")), soft_wrap=True)
    if one.examples:
        console.print(Text(one_line(f"{one.policy} ({one.version}), the newest examples:"), "bold"))
    for example in one.examples:
        line = f"  {example.transaction_id} {example.verdict}: {example.reason or 'no reason'}"
        console.print(Text(one_line(line)), soft_wrap=True)
