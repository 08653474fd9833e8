"""Facts of a stored transaction and of its decisions, the same in the terminal and on its page."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from luthien_litellm_hooks.monitor.outline import (
    Gap,
    Pair,
    block_title,
    brief_lines,
    compare,
    ending_lines,
    fold,
    request_lines,
    response_lines,
    shared_ends,
)
from luthien_litellm_hooks.monitor.transactions import AskedAgain, Decision, Failure, Record, Side, Transaction
from luthien_litellm_hooks.monitor.words import changed_parts, said_of, spent_words
from luthien_litellm_hooks.wire import FORMATS

_NOT_STORED = "The request as it came is not stored: see `record.original`."
_CONTEXT_OF_A_DIFF = 3


def facts(transaction: Transaction, record: Record) -> dict[str, str]:
    """Returns everything known of a transaction beside its decisions and its texts, by title."""
    took = "" if record.milliseconds is None else f" after {record.milliseconds:,.0f} ms"
    return {
        "transaction": record.transaction_id,
        "response": transaction.response_id,
        "call": transaction.call_id or "-",
        "time": f"{transaction.time:%Y-%m-%d %H:%M:%S} UTC",
        "model": _model(transaction),
        "key": _key(transaction),
        **({"team": _team(transaction)} if transaction.team_id or transaction.team_alias else {}),
        "path": transaction.path,
        **({"session": record.session} if record.session else {}),
        **{f"header {name}": value for name, value in record.headers.items()},
        "outcome": f"{outcome_of(record)}{took}",
        "changed": ", ".join(changed_parts(record)) or "nothing",
        "chunks": f"{record.chunks.ingress} received, {record.chunks.egress} sent",
        **({} if record.spent is None else {"judges": spent_words(record.spent)}),
        "policies": ", ".join(f"{policy.name} ({policy.version or 'no version'})" for policy in record.policies) or "-",
        **({} if record.error is None else {"error": _error(record.error)}),
    }


def outcome_of(record: Record) -> str:
    return record.outcome or "unfinished"


def _error(error: Failure) -> str:
    return error.kind if error.message is None else f"{error.kind}: {error.message}"


def _model(transaction: Transaction) -> str:
    model, requested = transaction.model, transaction.model_group
    return f"{model} (requested as {requested})" if requested and requested != model else model


def _key(transaction: Transaction) -> str:
    return f"{transaction.key_alias} ({transaction.key_hash})" if transaction.key_alias else transaction.key_hash


def _team(transaction: Transaction) -> str:
    alias, team_id = transaction.team_alias, transaction.team_id
    return f"{alias} ({team_id})" if alias and team_id else alias or team_id or ""


@dataclass(frozen=True, slots=True)
class Explained:
    """A decision in words: its action, its object, its policy with figures, and its texts, each with a title."""

    action: str
    about: str
    by: str
    texts: Sequence[tuple[str, str]]


def explained(decision: Decision) -> Explained:
    """Describes a decision: its block, its policy and time, its reason, the message to the client, and the evidence."""
    figures = [
        f"vote of {decision.policy}" if decision.is_vote else f"by {decision.policy}",
        "" if decision.score is None else f"score {decision.score:g}",
        "" if decision.milliseconds is None else f"{decision.milliseconds:,.1f} ms",
        "" if decision.spent is None else spent_words(decision.spent),
        "" if decision.approval is None else said_of(decision.approval),
    ]
    texts = [
        ("", decision.reason),
        ("message to the client: ", decision.message),
        ("evidence: ", decision.evidence),
        ("edited arguments: ", None if decision.approval is None else decision.approval.arguments),
    ]
    return Explained(
        decision.action,
        block_title(decision.block) if decision.block else "request",
        ", ".join(filter(None, figures)),
        [(title, text) for title, text in texts if text],
    )


def again_words(again: AskedAgain) -> str:
    """Describes the second call of a model."""
    reason = f" ({again.reason})" if again.reason else ""
    spent = f", {spent_words(again.spent)}" if again.spent is not None else ""
    return f"{', '.join(again.tools)} was withheld: {again.result}{reason} after {again.milliseconds:,.0f} ms{spent}"


def compared(original: Side, final: Side, *, is_brief: bool = False) -> dict[str, list[Pair]]:
    """Compares the lines of the request and of the response, original and final."""
    before = original.request or {}
    after = before if final.request is None else final.request
    is_stored = original.request is not None or final.request is None
    if is_brief:
        is_named = all(before.get(name) == after.get(name) for name in FORMATS.request.tools)
        requests = [brief_lines(body, names_tools=is_named) for body in (before, after)]
    else:
        requests = [request_lines(body) for body in (before, after)]
    if not is_stored:
        requests[0] = [_NOT_STORED]
    return {
        "request": compare(*requests),
        "response": compare(response_lines(original.answer), response_lines(final.answer))
        + compare(ending_lines(original.answer), ending_lines(final.answer)),
    }


def diff_lines(pairs: Sequence[Pair]) -> list[str]:
    """Returns the changed lines and a few around them, each behind `-`, `+` or a blank; `@` marks a gap."""
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


def differences(original: Side, final: Side) -> dict[str, list[str]]:
    """Returns the changed lines by part of a record, none of an unchanged part."""
    lines = {
        title: [] if all(pair.is_equal for pair in pairs) else diff_lines(pairs)
        for title, pairs in compared(original, final).items()
    }
    return {"request": lines["request"], "answer": lines["response"]}  # the keys of a record


def changed_span(line: str | None, other: str | None) -> tuple[int, int] | None:
    """Returns the beginning and the end of the difference in a line that is similar to the other side's; else None."""
    if line is None or other is None:
        return None
    first, last = shared_ends(line, other)
    return (first, len(line) - last) if 2 * (first + last) > min(len(line), len(other)) else None


def as_stored(transaction: Transaction, without: AbstractSet[str] = frozenset()) -> dict[str, Any]:
    """Returns the row's facts and the record as they were written, except the members in `without`."""
    return transaction.model_dump(mode="json", exclude_unset=True, exclude={"record": set(without)})
