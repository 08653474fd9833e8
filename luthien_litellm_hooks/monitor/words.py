"""Facts of stored transactions in words, the same in the terminal and on a page."""

from collections.abc import Mapping

from luthien_litellm_hooks.monitor.transactions import Approval, Decision, Observed, Record, Spent
from luthien_litellm_hooks.telemetry.log_lines import one_line

HOW_TO_STORE = (
    "The texts of this transaction are not stored. To store future ones, set `store_prompts_in_spend_logs: true` "
    "under LiteLLM's `general_settings`, or `record: {bodies: always}` under `callback_settings.luthien`."
)

REASONS: Mapping[str, str] = {
    "late": "its observers took longer than the writing of the record could wait",
    "full": "too many responses were waiting to be observed",
    "unfinished": "the client left, or the provider failed",
    "unanswered": "no provider was asked: a policy refused or answered, or the request failed before",
    "truncated": "the response is larger than its record",
    "route": "observers do not judge MCP calls and pictures",
    "failed": "observing failed; the log has the error",
    "closed": "the record stays closed",
}

WOULD_ASK = "would have asked a person"


def would_be(one: Observed) -> str:
    """Returns in words what an observed policy would have done."""
    if one.outcome is None:
        return f"could not judge: {one_line(one.error or 'unknown')}"
    if one.outcome == "blocked":
        has_blocked = any(decision.action == "block" for decision in one.decisions)
        is_asking = any(decision.action == "ask" for decision in one.decisions)
        return WOULD_ASK if is_asking and not has_blocked else "would have blocked"
    if one.outcome != "complete":
        return f"would have failed ({one.outcome})"
    parts = {"request": one.changed.request, "response": one.changed.answer}
    changed = " and ".join(part for part, is_changed in parts.items() if is_changed)
    return f"would have changed the {changed}" if changed else "would have changed nothing"


def changed_parts(record: Record) -> list[str]:
    """Returns the changed parts of `request` and `response`, known even if the texts are not stored."""
    parts = {"request": record.changed.request, "response": record.changed.answer}
    return [part for part, is_changed in parts.items() if is_changed]


def spent_words(spent: Spent) -> str:
    """Describes model calls with their price."""
    return f"{spent.calls:,} {'call' if spent.calls == 1 else 'calls'}, {spent.tokens:,} tokens, ${spent.cost:.6f}"


def deciding(record: Record) -> list[Decision]:
    """Returns the decisions that changed something."""
    return [decision for decision in record.decisions if decision.action != "allow" and not decision.is_vote]


def in_short(decision: Decision) -> str:
    """Says the object of a decision, its reason and its policy, and an action other than a block:
    `bash: recursive deletion of / (no_deletes)`."""
    block = decision.block
    about = "request" if block is None else block.name or block.type
    action = "" if decision.action == "block" else f"{decision.action} "
    why = decision.reason or decision.error
    asked = "" if decision.approval is None else f", {said_of(decision.approval)}"
    return f"{action}{about}" + (f": {why}" if why else "") + asked + f" ({decision.policy})"


_SAID: Mapping[str, str] = {
    "pending": "waits for a person",
    "too_many": "nobody was asked: too many calls of the session waited",
    "too_large": "nobody was asked: it is too long to read",
    "in_client": "left to the client's own user",
    "unavailable": "nobody could be asked",
}
_HELD_MS = 100.0


def said_of(approval: Approval) -> str:
    """Returns in words what became of a question to a person."""
    said = _SAID.get(approval.state, f"{approval.state} by {approval.by or 'an unknown person'}")
    edited = " and edited" if approval.edited else ""
    held = f" after {approval.waited_ms / 1000:,.1f} s" if approval.waited_ms >= _HELD_MS else ""
    granted = f" with grant {approval.grant}" if approval.grant else ""
    return f"{said}{edited}{granted}{held}" + (f" ({approval.id})" if approval.id else "")
