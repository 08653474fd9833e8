"""Transactions in a terminal: tables, and what came beside what left. What was recorded is escaped, and
never read as markup."""

import os
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from luthien_litellm_hooks.inspection.comparison import Gap, Pair, compare, fold, shared_ends
from luthien_litellm_hooks.inspection.outline import answer_lines, block_title, ending_lines, request_lines
from luthien_litellm_hooks.inspection.transactions import Decision, Failure, Record, Side, Transaction
from luthien_litellm_hooks.printable import one_line

HOW_TO_STORE = (
    "The texts of this transaction are not stored. To store those to come, set `store_prompts_in_spend_logs: true` "
    "under LiteLLM's `general_settings`, or `record: {bodies: always}` under `callback_settings.luthien`."
)
_CLOSED = "Reasons, evidence and texts are not shown: see the complaint."
_OUTCOMES: Mapping[str | None, str] = {"complete": "green", "blocked": "red", "policy_error": "bold red"}
_ACTIONS: Mapping[str, str] = {"allow": "green", "modify": "yellow", "block": "red", "error": "bold red"}
_OTHER = "yellow"
_BEFORE, _AFTER, _QUIET = "red", "green", "dim"
_WIDTH_OF_A_FILE = 200
_DEEPEST_INDENT = 24
_CONTEXT_SHOWN = 20
_CONTEXT_OF_A_DIFF = 3


def terminal() -> Console:
    """Where to print: as wide as the terminal, or as COLUMNS says."""
    console = Console(highlight=False, markup=False, emoji=False)
    is_measured = console.is_terminal or "COLUMNS" in os.environ
    return console if is_measured else Console(highlight=False, markup=False, emoji=False, width=_WIDTH_OF_A_FILE)


def print_transaction(console: Console, transaction: Transaction, record: Record, *, is_full: bool) -> None:
    """All that is known of a transaction. Unless `is_full`, long equal parts are left out."""
    console.print(_header(transaction, record))
    console.print(_decisions(record.decisions))
    if record.is_closed:
        console.print(Text(_CLOSED, "yellow"))
    elif record.original is None or record.final is None:
        console.print(Text(HOW_TO_STORE, "yellow"))
    else:
        _print_bodies(console, record, is_full=is_full)


def print_trial(console: Console, record: Record, *, is_full: bool) -> None:
    """What a policy made of an answer that nobody waits for."""
    console.print(Text.assemble(("outcome  ", "bold"), _outcome(record)))
    console.print(_decisions(record.decisions))
    _print_bodies(console, record, is_full=is_full)


def _print_bodies(console: Console, record: Record, *, is_full: bool) -> None:
    if record.original is None or record.final is None:
        return
    for title, pairs in compared(record.original, record.final).items():
        folded = pairs if is_full else list(fold(pairs, _CONTEXT_SHOWN, keeps_ends=True))
        console.print(_body(title, folded, is_changed=title in changed_parts(record)))


def print_list(console: Console, transactions: Iterable[Transaction]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for title in ("time (UTC)", "transaction", "outcome"):
        table.add_column(title, no_wrap=True)
    for title in ("model", "key", "decisions"):
        table.add_column(title, overflow="fold")
    for transaction in transactions:
        if transaction.record is not None:
            table.add_row(*_summary(transaction, transaction.record))
    console.print(table)


def print_diff(console: Console, original: Side, final: Side) -> None:
    """Only what changed, with a few lines around it."""
    for title, pairs in compared(original, final).items():
        if not all(pair.is_equal for pair in pairs):
            console.print(Text(title, "bold"))
            console.print(_diff(diff_lines(pairs)))


def compared(original: Side, final: Side) -> dict[str, list[Pair]]:
    """The lines of the request and of the answer, as they came and as they left."""
    return {
        "request": compare(request_lines(original.request), request_lines(final.request)),
        "answer": compare(answer_lines(original.answer), answer_lines(final.answer))
        + compare(ending_lines(original.answer), ending_lines(final.answer)),
    }


def changed_parts(record: Record) -> list[str]:
    """Which of `request` and `answer` left otherwise than it came; the texts need not be stored for that."""
    parts = {"request": record.changed.request, "answer": record.changed.answer}
    return [part for part, is_changed in parts.items() if is_changed]


def diff_lines(pairs: Sequence[Pair]) -> list[str]:
    """The changed lines and a few around them, each behind `-`, `+` or a blank; `@` where lines are left out."""
    lines: list[str] = []
    added: list[str] = []
    for pair in fold(pairs, _CONTEXT_OF_A_DIFF, keeps_ends=False):
        if isinstance(pair, Pair) and not pair.is_equal:
            lines += [] if pair.before is None else [f"- {pair.before}"]
            added += [] if pair.after is None else [f"+ {pair.after}"]
            continue
        lines += [*added, f"@ {pair.lines} equal lines" if isinstance(pair, Gap) else f"  {pair.before}"]
        added = []
    return lines + added


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
    for title, text in _facts(transaction, record).items():
        table.add_row(title, text if isinstance(text, Text) else Text(one_line(text)))
    return table


def _facts(transaction: Transaction, record: Record) -> dict[str, str | Text]:
    milliseconds = "" if record.milliseconds is None else f" after {record.milliseconds:,.0f} ms"
    outcome = Text.assemble(_outcome(record), milliseconds)
    error = {"error": _error(record.error)} if record.error is not None else {}
    return {
        "transaction": record.transaction_id,
        "response": transaction.response_id,
        "call": transaction.call_id or "-",
        "time": f"{transaction.time:%Y-%m-%d %H:%M:%S} UTC",
        "model": _model(transaction),
        "key": _key(transaction),
        "route": transaction.route,
        "outcome": outcome,
        "changed": ", ".join(changed_parts(record)) or "nothing",
        "chunks": f"{record.chunks.ingress} came, {record.chunks.egress} left",
        "policies": ", ".join(f"{policy.name} ({policy.version or 'no version'})" for policy in record.policies) or "-",
        **error,
    }


def _error(error: Failure) -> str:
    return error.type if error.message is None else f"{error.type}: {error.message}"


def _model(transaction: Transaction) -> str:
    asked = transaction.model_group
    return f"{transaction.model} (asked for as {asked})" if asked and asked != transaction.model else transaction.model


def _key(transaction: Transaction) -> str:
    return f"{transaction.key_alias} ({transaction.key_hash})" if transaction.key_alias else transaction.key_hash


def _outcome(record: Record) -> Text:
    return Text(one_line(record.outcome or "unfinished"), _OUTCOMES.get(record.outcome, _OTHER))


def _decisions(decisions: Sequence[Decision]) -> RenderableType:
    if not decisions:
        return Text("\nNo policy decided anything.\n")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("decision", no_wrap=True)
    table.add_column("about what, by whom, and why", overflow="fold")
    for decision in decisions:
        action = Text(one_line(decision.action), _ACTIONS.get(decision.action, _OTHER))
        table.add_row(action, Text("\n").join(_reasons(decision)))
    return table


def _reasons(decision: Decision) -> list[Text]:
    """What was decided about, by whom and how fast; why; what the client was told; and what that rests on."""
    about = block_title(decision.block) if decision.block else "request"
    facts = [
        f"vote of {decision.policy}" if decision.is_vote else f"by {decision.policy}",
        "" if decision.score is None else f"score {decision.score:g}",
        "" if decision.milliseconds is None else f"{decision.milliseconds:,.1f} ms",
    ]
    told = [("", decision.reason), ("the client was told: ", decision.message), ("evidence: ", decision.evidence)]
    return [
        Text.assemble((about, "bold"), " ", one_line(", ".join(filter(None, facts)))),
        *(Text.assemble((title, _QUIET), one_line(text)) for title, text in told if text),
    ]


def _summary(transaction: Transaction, record: Record) -> list[Text]:
    deciding = [decision for decision in record.decisions if decision.action != "allow" and not decision.is_vote]
    told = dict.fromkeys(f"{decision.action}: {decision.policy}" for decision in deciding)
    return [
        Text(f"{transaction.time:%m-%d %H:%M:%S}"),
        Text(one_line(record.transaction_id)),
        _outcome(record),
        Text(one_line(transaction.model_group or transaction.model)),
        Text(one_line(transaction.key_alias or transaction.key_hash[:8])),
        Text(one_line(", ".join(told))),
    ]


def _body(title: str, pairs: Sequence[Pair | Gap], *, is_changed: bool) -> RenderableType:
    if not pairs:
        return Text(f"{title}: nothing was recorded\n")
    if all(isinstance(pair, Gap) or pair.is_equal for pair in pairs):
        note = "changed in what is not recorded" if is_changed else "unchanged"
        return _alone(f"{title}, {note}", pairs)
    return _side_by_side(title, pairs)


def _side_by_side(title: str, pairs: Sequence[Pair | Gap]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    table.add_column(f"{title} as it came", ratio=1, overflow="fold")
    table.add_column("", width=1)
    table.add_column(f"{title} as it left", ratio=1, overflow="fold")
    for pair in pairs:
        table.add_row(*_cells(pair))
    return table


def _alone(heading: str, pairs: Sequence[Pair | Gap]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    table.add_column(heading, overflow="fold")
    for pair in pairs:
        table.add_row(_cells(pair)[0])
    return table


def _cells(pair: Pair | Gap) -> tuple[RenderableType, Text, RenderableType]:
    """A line before, a mark, and the line after."""
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
    """A line in its colour; if it has much in common with the other side's, what differs is underlined."""
    text = Text(line or "", style)
    if line is not None and other is not None:
        first, last = shared_ends(line, other)
        if 2 * (first + last) > min(len(line), len(other)):
            text.stylize("bold underline", first, len(line) - last)
    return text


def _hanging(line: Text) -> RenderableType:
    """A line whose rest, where it is too long for one row, is as far from the margin as its beginning, so
    that no text can pass for what stands at the margin."""
    indent = min(len(line.plain) - len(line.plain.lstrip(" ")), _DEEPEST_INDENT)
    return Padding(line[indent:], (0, 0, 0, indent)) if indent else line
