"""Verdicts on the parts of a transaction, and comparison of two policies by them."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from luthien_litellm_hooks.monitor.transactions import Block, Decision, Record, Side
from luthien_litellm_hooks.policy.notices import parted
from luthien_litellm_hooks.recording.decision import SEVERITY, Action

Change = Literal["unchanged", "newly_blocked", "newly_allowed", "changed"]
CHANGES: Sequence[Change] = get_args(Change)
_SEVERITY: Mapping[str, int] = {**SEVERITY}


@dataclass(frozen=True, slots=True)
class Judged:
    """Verdict on a block, or on the request. `policy` is the deciding one, None without a decision. `instead` is the
    text that was delivered instead of a modified block. `score` is the highest of the decisions."""

    verdict: Action
    is_delivered: bool = True
    policy: str | None = None
    reason: str | None = None
    instead: str | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """Verdicts of two policies on one block of the response; on the request if `block` is None. `index` is the block's
    place in the response."""

    index: int | None
    block: Block | None
    before: Judged
    after: Judged

    @property
    def change(self) -> Change:
        before, after = self.before, self.after
        if before.is_delivered != after.is_delivered:
            return "newly_allowed" if after.is_delivered else "newly_blocked"
        is_same = (before.verdict, before.instead) == (after.verdict, after.instead)
        return "unchanged" if is_same else "changed"

    @property
    def policy(self) -> str:
        """Policy with the severer verdict."""
        both = sorted((self.before, self.after), key=lambda one: SEVERITY[one.verdict], reverse=True)
        return next((one.policy for one in both if one.policy), "")

    @property
    def about(self) -> str:
        """Name of the tool, the kind of the block, or "request"."""
        return "request" if self.block is None else self.block.name or self.block.type


@dataclass(frozen=True, slots=True)
class Comparison:
    """Verdicts of two policies on one transaction. It `is_counterfactual` if one of them sends the provider another
    request than the recorded one: the response to that is unknown."""

    compared: Sequence[Compared]
    is_counterfactual: bool


@dataclass(slots=True)
class Totals:
    """Numbers of verdicts by their change, also for each policy and tool, and numbers of transactions."""

    changes: Counter[Change] = field(default_factory=Counter[Change])
    by_policy: defaultdict[tuple[str, str], Counter[Change]] = field(
        default_factory=lambda: defaultdict[tuple[str, str], Counter[Change]](Counter)
    )
    transactions: int = 0
    changed_transactions: int = 0

    def add(self, comparison: Comparison) -> None:
        self.transactions += 1
        self.changed_transactions += any(one.change != "unchanged" for one in comparison.compared)
        for one in comparison.compared:
            self.changes[one.change] += 1
            if one.change != "unchanged":
                self.by_policy[one.policy, one.about][one.change] += 1


def compare(recorded: Record, before: Record, after: Record) -> Comparison:
    """Compares two records of the transaction `recorded`, which has the request and the response as they came.

    If one policy refused the request, the verdicts on the request are all there is to compare.
    """
    content = () if recorded.original is None else recorded.original.answer.content
    of_request = Compared(None, None, on_request(before), on_request(after))
    is_counterfactual = not _sent(recorded) == _sent(before) == _sent(after)
    if not (of_request.before.is_delivered and of_request.after.is_delivered):
        return Comparison([of_request], is_counterfactual=False)
    pairs = zip(content, on_blocks(content, before), on_blocks(content, after), strict=True)
    return Comparison(
        [of_request, *(Compared(index, *of_block) for index, of_block in enumerate(pairs))], is_counterfactual
    )


def _sent(record: Record) -> object:
    """Returns the request for the provider."""
    if record.final is not None and record.final.request is not None:
        return record.final.request
    return None if record.original is None else record.original.request


def on_request(record: Record) -> Judged:
    """Returns the verdict on the request. Decisions without a block are about the response, if there was one."""
    about = [one for one in record.decisions if one.block is None and not one.is_vote]
    is_refused = any(_SEVERITY.get(one.action, 0) >= SEVERITY["block"] for one in about)
    is_answered = record.final is not None and bool(record.final.answer.content)
    if _has_response(record.original) or not (is_refused or is_answered):
        return Judged("modify" if record.changed.request else "allow")
    return _worst(Judged("block", is_delivered=False), about, record)


def _has_response(original: Side | None) -> bool:
    return original is not None and (bool(original.answer.content) or original.answer.finish_reason is not None)


def on_blocks(content: Sequence[Block], record: Record) -> list[Judged]:
    """Returns the verdict on each block of the response as it came: of the decisions about it and its delivery the
    severer one."""
    final = () if record.final is None else record.final.answer.content
    found: dict[int, Judged] = dict(_on_calls(content, final))
    for key in dict.fromkeys((block.type, block.choice) for block in content if block.type != "tool_call"):
        places = [place for place, block in enumerate(content) if (block.type, block.choice) == key]
        left = "\n\n".join(block.text for block in final if (block.type, block.choice) == key)
        found |= zip(places, _on_texts([content[place].text for place in places], left), strict=True)
    return [
        _worst(found[place], list(_about(content, place, found, record.decisions)), record)
        for place in range(len(content))
    ]


def _on_calls(content: Sequence[Block], final: Sequence[Block]) -> Iterator[tuple[int, Judged]]:
    delivered = defaultdict[object, list[Block]](list)
    for block in final:
        if block.type == "tool_call":
            delivered[_identity(block)].append(block)
    for place, block in enumerate(content):
        if block.type == "tool_call":
            same = delivered[_identity(block)]
            yield place, _on_call(block, same.pop(0) if same else None)


def _identity(call: Block) -> object:
    return call.choice, call.id or (call.name,)


def _on_call(came: Block, left: Block | None) -> Judged:
    if left is None:
        return Judged("block", is_delivered=False)
    if (came.name, came.arguments) == (left.name, left.arguments):
        return Judged("allow")
    return Judged("modify", instead=f"{left.name} {left.arguments}")


def _on_texts(texts: Sequence[str], delivered: str) -> list[Judged]:
    """Finds each text in the delivered one, in their order. The others are modified if anything else was delivered, but
    for our notices."""
    position, places, rest = 0, list[int](), ""
    for text in texts:
        place = delivered.find(text.strip(), position)
        places.append(place)
        if place >= 0:
            rest += delivered[position:place]
            position = place + len(text.strip())
    rest += delivered[position:]
    other = "\n\n".join(text for text, is_notice in parted(rest) if not is_notice).strip()
    missing = Judged("modify", instead=other) if other else Judged("block", is_delivered=False)
    return [missing if place < 0 else Judged("allow") for place in places]


def _about(
    content: Sequence[Block], place: int, found: Mapping[int, Judged], decisions: Sequence[Decision]
) -> Iterator[Decision]:
    """Yields the decisions about a block. A record does not tell which of several texts a decision is about: it counts
    for those that did not leave as they came, or else for the last."""
    block = content[place]
    if block.type != "tool_call":
        same = [at for at, one in enumerate(content) if (one.type, one.choice) == (block.type, block.choice)]
        touched = [at for at in same if found[at].verdict != "allow"] or same[-1:]
        if place not in touched:
            return
    for decision in decisions:
        about = decision.block
        if about is not None and not decision.is_vote and (about.type, about.choice) == (block.type, block.choice):
            is_same = block.type != "tool_call" or (about.id, about.name) == (block.id, block.name)
            if is_same:
                yield decision


def _worst(judged: Judged, about: Sequence[Decision], record: Record) -> Judged:
    """Returns the severer of a verdict and the decisions about it, with the policy and its reason. A block without a
    decision was withheld by the one that ended the response."""
    judged = replace(judged, score=max((one.score for one in about if one.score is not None), default=None))
    severest = max(about, key=lambda one: _SEVERITY.get(one.action, 0), default=None)
    if severest is not None and severest.action == "ask":  # a person's part is in neither side
        return replace(judged, verdict="ask", is_delivered=False, policy=severest.policy, reason=severest.reason)
    if severest is not None and severest.action == "modify" and not judged.is_delivered:  # under another id
        return replace(judged, verdict="modify", is_delivered=True, policy=severest.policy, reason=severest.reason)
    if severest is None or _SEVERITY.get(severest.action, 0) < SEVERITY[judged.verdict]:
        endings = [one for one in record.decisions if one.action != "allow" and not one.is_vote]
        if judged.verdict == "allow" or not endings:
            return judged
        severest = endings[-1]
    has_failed = severest.action == "error"
    is_withheld = severest.action == "block" and judged.verdict == "modify"  # a part had been delivered before
    return replace(
        judged,
        verdict="error" if has_failed else "block" if severest.action == "block" else judged.verdict,
        is_delivered=judged.is_delivered and not is_withheld,
        policy=severest.policy,
        reason=severest.reason or severest.error,
    )


def row_of(one: Compared, record: Record) -> dict[str, Any]:
    """Returns a change as JSON. `block` is the number of a call among those of the response, as `label` counts them."""
    block = one.block
    row: dict[str, Any] = {"transaction": record.transaction_id, "change": one.change}
    if block is None:
        row |= {"kind": "request"}
    elif block.type == "tool_call":
        before = () if record.original is None else record.original.answer.content[: one.index]
        number = 1 + sum(other.type == "tool_call" for other in before)
        row |= {"kind": block.type, "block": number, "tool": block.name or "", "arguments": block.arguments}
    else:
        row |= {"kind": block.type, "text": block.text}
    return {**row, "before": _judged_row(one.before), "after": _judged_row(one.after)}


def _judged_row(judged: Judged) -> dict[str, Any]:
    fields = {"verdict": judged.verdict, "policy": judged.policy, "reason": judged.reason}
    return {name: value for name, value in fields.items() if value is not None}
