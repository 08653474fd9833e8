"""Timeline of a session: in each transaction what was asked, said and called, and what the policies made of it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

from luthien_litellm_hooks.monitor.comparison import Judged, on_blocks, on_request
from luthien_litellm_hooks.monitor.transactions import Block, Decision, Record, Transaction
from luthien_litellm_hooks.monitor.words import deciding, in_short, would_be
from luthien_litellm_hooks.policies.rules.effects import effects_of
from luthien_litellm_hooks.policy.request import Turn as Origin
from luthien_litellm_hooks.policy.request import turn_of
from luthien_litellm_hooks.policy.trajectory import Said, trajectory_of
from luthien_litellm_hooks.recording.decision import Action
from luthien_litellm_hooks.wire.events import ToolCall

_MOST_EFFECTS = 10
_LONGEST_READ = 20_000
"""Characters of arguments that are read for their effects."""


@dataclass(frozen=True, slots=True)
class Score:
    """Suspicion of one decision. `about` is the tool, the kind of the block, or "request"."""

    policy: str
    value: float
    about: str
    is_observed: bool
    is_vote: bool


@dataclass(frozen=True, slots=True)
class Part:
    """A block of a response as the provider sent it, with its fate.

    `policy` and `reason` are those of the severest decision about it. `effects` are a call's, a line each. `instead` is
    the content that was delivered for it.
    """

    kind: str
    text: str
    verdict: Action
    is_delivered: bool
    name: str | None = None
    effects: Sequence[str] = ()
    policy: str | None = None
    reason: str | None = None
    instead: str | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One transaction of a session.

    `origin` is that of the request, None if its text is not stored. `asked` is the user's last text, None if it was the
    same in the turn before. `refused` is the reason for a refusal of the request. `decided` are the decisions that
    changed something, `observed` those of policies that only observe, both in words. `is_closed`: the record is sealed.
    """

    transaction_id: str
    time: datetime
    model: str
    outcome: str | None
    milliseconds: float | None
    origin: Origin | None
    asked: str | None
    refused: str | None
    parts: Sequence[Part]
    decided: Sequence[str]
    observed: Sequence[str]
    scores: Sequence[Score]
    is_closed: bool


def timeline(transactions: Iterable[Transaction]) -> Sequence[Turn]:
    """Returns the turns of a session, the oldest first; transactions without a record are left out."""
    turns: list[Turn] = []
    last: str | None = None
    for transaction in sorted(transactions, key=lambda one: one.time):
        if transaction.record is not None:
            origin, asked = _asked(transaction.record)
            turns.append(_turn(transaction, transaction.record, origin, None if asked == last else asked))
            last = asked or last
    return turns


def _asked(record: Record) -> tuple[Origin | None, str | None]:
    """Returns the origin of the request, and the user's last text in it."""
    sides = [side.request for side in (record.original, record.final) if side is not None]
    body = next((request for request in sides if request), None)
    if body is None:
        return None, None
    said = [one.text for one in trajectory_of(body, record.session) if isinstance(one, Said) and one.author == "user"]
    return turn_of(body), said[-1] if said else None


def _turn(transaction: Transaction, record: Record, origin: Origin | None, asked: str | None) -> Turn:
    of_request = on_request(record)
    content = () if record.original is None else record.original.answer.content
    verdicts = on_blocks(content, record) if record.final is not None else [Judged("allow")] * len(content)
    observed = () if isinstance(record.observed, str) else record.observed or ()
    return Turn(
        transaction_id=record.transaction_id,
        time=transaction.time,
        model=transaction.model_group or transaction.model,
        outcome=record.outcome,
        milliseconds=record.milliseconds,
        origin=origin,
        asked=asked,
        refused=None if of_request.is_delivered else of_request.reason or "for no reason",
        parts=[_part(block, judged) for block, judged in zip(content, verdicts, strict=True)],
        decided=list(dict.fromkeys(map(in_short, deciding(record)))),
        observed=[f"{one.policy} {would_be(one)}" for one in observed],
        scores=[
            *_scores(record.decisions, is_observed=False),
            *_scores(chain.from_iterable(one.decisions for one in observed), is_observed=True),
        ],
        is_closed=record.is_closed,
    )


def _part(block: Block, judged: Judged) -> Part:
    is_call = block.type == "tool_call"
    return Part(
        kind=block.type,
        text=block.arguments if is_call else block.text,
        verdict=judged.verdict,
        is_delivered=judged.is_delivered,
        name=block.name if is_call else None,
        effects=_effects(block) if is_call else (),
        policy=judged.policy,
        reason=judged.reason,
        instead=judged.instead,
    )


def _effects(block: Block) -> Sequence[str]:
    if len(block.arguments) > _LONGEST_READ:
        return ["is too long to be read here"]
    form = "custom" if (block.model_extra or {}).get("form") == "custom" else "function"
    found = effects_of(ToolCall(block.id, block.name or "", block.arguments, form))
    more = len(found) - _MOST_EFFECTS
    return found if more <= 0 else [*found[:_MOST_EFFECTS], f"({more} more)"]


def _scores(decisions: Iterable[Decision], *, is_observed: bool) -> Iterator[Score]:
    for decision in decisions:
        if decision.score is not None:
            block = decision.block
            about = "request" if block is None else block.name or block.type
            yield Score(decision.policy, decision.score, about, is_observed, decision.is_vote)
