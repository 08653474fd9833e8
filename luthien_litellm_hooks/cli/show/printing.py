"""Transactions in a terminal: tables, and the original beside the final text. Recorded text is escaped, and never read
as markup."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from luthien_litellm_hooks.monitor.facts import (
    again_words,
    changed_span,
    compared,
    diff_lines,
    explained,
    facts,
    outcome_of,
)
from luthien_litellm_hooks.monitor.outline import Gap, Pair, fold
from luthien_litellm_hooks.monitor.transactions import Decision, Record, Side, Transaction
from luthien_litellm_hooks.monitor.words import HOW_TO_STORE, REASONS, changed_parts, deciding, in_short, would_be
from luthien_litellm_hooks.telemetry.log_lines import one_line

_CLOSED = "Reasons, evidence and texts are not shown: see the complaint."
_OUTCOMES: Mapping[str | None, str] = {"complete": "green", "blocked": "red", "policy_error": "bold red"}
_ACTIONS: Mapping[str, str] = {
    "allow": "green",
    "modify": "yellow",
    "ask": "yellow",
    "block": "red",
    "error": "bold red",
}
_OTHER = "yellow"
_BEFORE, _AFTER, _QUIET = "red", "green", "dim"
_DEEPEST_INDENT = 24
_CONTEXT_SHOWN = 20


def print_transaction(console: Console, transaction: Transaction, record: Record, *, is_full: bool) -> None:
    """Prints everything known of a transaction. Unless `is_full`, long equal parts are folded, tools are named, and the
    last turns stand first."""
    console.print(_header(transaction, record))
    console.print(_decisions(record.decisions))
    _print_asked_again(console, record)
    _print_observed(console, record)
    if record.is_closed:
        console.print(Text(_CLOSED, "yellow"))
    elif record.sides is None:
        console.print(Text(HOW_TO_STORE, "yellow"))
    else:
        _print_bodies(console, record, is_full=is_full)


def _print_asked_again(console: Console, record: Record) -> None:
    """Prints what became of a second call of the model."""
    again = record.asked_again
    if again is None:
        return
    console.print(Text.assemble(("asked again ", "bold"), one_line(again_words(again))))
    if again.decisions:
        console.print(_decisions(again.decisions))


def _print_observed(console: Console, record: Record) -> None:
    """Prints what the policies that only observed would have done."""
    if isinstance(record.observed, str):
        console.print(Text(f"Not observed: {REASONS.get(record.observed, record.observed)}."))
    for one in record.observed or () if not isinstance(record.observed, str) else ():
        verdict = would_be(one)
        style = {"would have blocked": "red", "would have changed nothing": "green"}.get(verdict, _OTHER)
        held = "" if one.outcome is None else f" after {one.milliseconds:,.1f} ms"
        name = one_line(f"{one.policy} ({one.version or 'no version'}) ")
        console.print(Text.assemble(("observed ", "bold"), name, (verdict, style), one_line(held)))
        if one.decisions:
            console.print(_decisions(one.decisions))


def print_trial(console: Console, record: Record, *, is_full: bool) -> None:
    """Prints the result of a policy that ran without a proxy."""
    console.print(Text.assemble(("outcome  ", "bold"), _outcome(record)))
    console.print(_decisions(record.decisions))
    _print_bodies(console, record, is_full=is_full)


def _print_bodies(console: Console, record: Record, *, is_full: bool) -> None:
    if record.sides is None:
        return
    for title, pairs in compared(*record.sides, is_brief=not is_full).items():
        folded = pairs if is_full else list(fold(pairs, _CONTEXT_SHOWN, keeps_ends=True))
        console.print(_body(title, folded, is_changed=title in changed_parts(record)))


def print_list(console: Console, transactions: Sequence[Transaction]) -> None:
    """Prints a line for each transaction. If whole ids leave too little room, only their beginnings are printed, which
    `show` takes as well."""
    records = [(transaction, transaction.record) for transaction in transactions if transaction.record is not None]
    whole = _listed(console, records, None)
    if console.measure(whole, options=console.options.update(max_width=_ANY_WIDTH)).maximum > console.width:
        whole = _listed(console, records, letters_of_ids([record.transaction_id for _, record in records]))
    console.print(whole)


def _listed(console: Console, records: Sequence[tuple[Transaction, Record]], letters: int | None) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    for title in ("time (UTC)", "transaction" if letters is None else "id", "outcome"):
        table.add_column(title, no_wrap=True)
    table.add_column("decisions")
    has_keys = any(transaction.key_hash not in _OPERATORS for transaction, _ in records)
    for title in ("model", "key") if has_keys else ("model",):
        table.add_column(title, max_width=max(console.width // 8, 8))
    for transaction, record in records:
        table.add_row(*_summary(transaction, record, letters)[: len(table.columns)])
    return table


_ANY_WIDTH = 10_000
_FEWEST = 8
_OPERATORS = ("", "litellm_proxy_master_key")
"""Keys in LiteLLM's rows that are the operator's own."""


def letters_of_ids(ids: Sequence[str]) -> int:
    """Returns how many letters tell the ids apart, at least eight."""
    return next((size for size in range(_FEWEST, 36) if len({one[:size] for one in ids}) == len(set(ids))), 36)


def print_diff(console: Console, original: Side, final: Side) -> None:
    """Prints only the changes, with a few lines around each."""
    for title, pairs in compared(original, final).items():
        if not all(pair.is_equal for pair in pairs):
            console.print(Text(title, "bold"))
            console.print(_diff(diff_lines(pairs)))


def _diff(lines: Sequence[str]) -> Table:
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for line in lines:
        mark, _, rest = line.partition(" ")
        style = {"-": _BEFORE, "+": _AFTER}.get(mark, _QUIET)
        table.add_row(Text(mark, style), _hanging(Text(rest, style)))
    return table


def _header(transaction: Transaction, record: Record) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for title, text in facts(transaction, record).items():
        table.add_row(title, _outcome(record, text) if title == "outcome" else Text(one_line(text)))
    return table


def _outcome(record: Record, words: str = "") -> Text:
    """Returns the outcome in its colour, with the rest of the words about it."""
    outcome = one_line(outcome_of(record))
    return Text.assemble((outcome, _OUTCOMES.get(record.outcome, _OTHER)), one_line(words).removeprefix(outcome))


def _decisions(decisions: Sequence[Decision]) -> RenderableType:
    if not decisions:
        return Text("\nNo policy decided anything.\n")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("decision", no_wrap=True)
    table.add_column("block, policy and reason", overflow="fold")
    for decision in decisions:
        action = Text(one_line(decision.action), _ACTIONS.get(decision.action, _OTHER))
        table.add_row(action, Text("\n").join(_reasons(decision)))
    return table


def _reasons(decision: Decision) -> list[Text]:
    words = explained(decision)
    return [
        Text.assemble((words.about, "bold"), " ", one_line(words.by)),
        *(Text.assemble((title, _QUIET), one_line(text)) for title, text in words.texts),
    ]


def _summary(transaction: Transaction, record: Record, letters: int | None) -> list[Text]:
    is_of_today = transaction.time.date() == datetime.now(UTC).date()
    return [
        Text(f"{transaction.time:%H:%M:%S}" if is_of_today else f"{transaction.time:%m-%d %H:%M:%S}"),
        Text(one_line(record.transaction_id[:letters])),
        _outcome(record),
        _cut("; ".join(dict.fromkeys(map(in_short, deciding(record))))),
        _cut(transaction.model_group or transaction.model),
        _cut(transaction.key_alias or transaction.key_hash[:8]),
    ]


def _cut(text: str) -> Text:
    """Returns a text of one line, cut where its column ends."""
    return Text(one_line(text), no_wrap=True, overflow="ellipsis")


def _body(title: str, pairs: Sequence[Pair | Gap], *, is_changed: bool) -> RenderableType:
    if not pairs:
        return Text(f"{title}: nothing was recorded\n")
    if all(isinstance(pair, Gap) or pair.is_equal for pair in pairs):
        note = "changed in a part that is not recorded" if is_changed else "unchanged"
        return _one_column(f"{title}, {note}", pairs)
    return _side_by_side(title, pairs)


def _side_by_side(title: str, pairs: Sequence[Pair | Gap]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    table.add_column(f"original {title}", ratio=1, overflow="fold")
    table.add_column("", width=1)
    table.add_column(f"final {title}", ratio=1, overflow="fold")
    for pair in pairs:
        table.add_row(*_cells(pair))
    return table


def _one_column(heading: str, pairs: Sequence[Pair | Gap]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    table.add_column(heading, overflow="fold")
    for pair in pairs:
        table.add_row(_cells(pair)[0])
    return table


def _cells(pair: Pair | Gap) -> tuple[RenderableType, Text, RenderableType]:
    """Returns a line before, a mark, and the line after."""
    if isinstance(pair, Gap):
        gap = Text(f"⋯ {pair.lines} equal lines (--full shows them)", _QUIET)
        return gap, Text(""), gap
    if pair.is_equal:
        line = _hanging(Text(pair.before or ""))
        return line, Text(""), line
    mark = "-" if pair.after is None else "+" if pair.before is None else "~"
    before = _changed(pair.before, pair.after, _BEFORE)
    return _hanging(before), Text(mark, "bold"), _hanging(_changed(pair.after, pair.before, _AFTER))


def _changed(line: str | None, other: str | None, style: str) -> Text:
    """Returns a line in its colour. If it is similar to the other side's, the difference is underlined."""
    text = Text(line or "", style)
    span = changed_span(line, other)
    if span is not None:
        text.stylize("bold underline", *span)
    return text


def _hanging(line: Text) -> RenderableType:
    """Indents the continuation of a long line like its beginning, so that no text can pass for one at the margin."""
    indent = min(len(line.plain) - len(line.plain.lstrip(" ")), _DEEPEST_INDENT)
    return Padding(line[indent:], (0, 0, 0, indent)) if indent else line
