"""`luthien-hooks suggest`: rules that would have allowed what was allowed, as YAML for review."""

import asyncio
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from luthien_litellm_hooks.cli.output import complain
from luthien_litellm_hooks.cli.replay.transcripts import (
    BROKEN,
    UNKNOWN,
    is_transcript,
    read_transcripts,
    transcript_files,
    usual_places,
)
from luthien_litellm_hooks.cli.show import Source, criteria
from luthien_litellm_hooks.config.policy_loading import load_policy
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.monitor.labels import Labels, read_labels
from luthien_litellm_hooks.monitor.spend_logs import Filter
from luthien_litellm_hooks.monitor.transactions import Block, Record, Transaction
from luthien_litellm_hooks.policies.rules.narrowing import Proposal, Seen, propose
from luthien_litellm_hooks.policies.tool_rules import ToolRules
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.request import Request
from luthien_litellm_hooks.recording.digest import action_digest
from luthien_litellm_hooks.telemetry.log_lines import one_line
from luthien_litellm_hooks.wire.events import ToolCall, ToolForm

_TOLD = 20
"""Actions that are told of those without a rule."""
_SHOWN = 120


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Settings of `tool_rules`, the rules' counts, and the actions that they do not allow."""

    config: Mapping[str, Any]
    counts: Sequence[int]
    allowed: int
    left_out: Sequence[Seen]


def run_suggest(
    source: Source, place: str | None, labels: Path | None, *, min_count: int, since: str | None, limit: int
) -> int:
    """Prints the policy. Returns 1 if there is nothing to suggest, 2 if something cannot be read."""
    skipped = Counter[str]()
    try:
        known = Labels() if labels is None else read_labels(labels)
        for text in known.complaints(labels) if labels is not None else ():
            complain(text)
        chosen = criteria(since=since)
        pairs = _recorded(source, chosen, limit) if place is None else _transcribed(place, chosen, skipped)
        calls, transactions = _allowed_calls(pairs, known)
        suggestion = asyncio.run(suggest(calls, min_count))
    except ConfigError as error:
        complain(str(error))
        return 2
    if lines := skipped[BROKEN] + skipped[UNKNOWN]:
        complain(f"Skipped: {lines} lines that are not of a transcript.")
    if not suggestion.counts:
        complain(f"There is nothing to suggest: of {len(calls)} allowed actions none was seen {min_count} times.")
        return 1
    print(_as_yaml(suggestion, transactions))
    _tell_rest(suggestion.left_out, min_count)
    return 0


async def suggest(calls: Sequence[Seen], min_count: int) -> Suggestion:
    """Returns the narrowest rules for calls that were seen so often, as the policy itself judges them."""
    proposals = [
        Proposal({**one.rule, "reason": f"seen {_times(one.count)}" if one.count else "never seen"}, one.count)
        for one in propose(calls, min_count)
    ]
    config = {"default": "block", "rules": [dict(one.rule) for one in proposals]}
    policy = cast(ToolRules, load_policy("tool_rules", config))
    verdicts = await _verdicts(policy, calls)
    allowed = sum(one.count for one, passes in zip(calls, verdicts, strict=True) if passes)
    left_out = [one for one, passes in zip(calls, verdicts, strict=True) if not passes]
    return Suggestion(config, [one.count for one in proposals], allowed, left_out)


async def _verdicts(policy: ToolRules, calls: Iterable[Seen]) -> Sequence[bool]:
    return [
        (await policy.judge_tool_call(one.call, PolicyContext("suggest", Request({})))).action == "allow"
        for one in calls
    ]


def _recorded(source: Source, chosen: Filter, limit: int) -> Iterator[tuple[Transaction, Record]]:
    opened = source.opened(list(source.open().latest(chosen, limit)))
    for text in opened.complaints[:1]:
        complain(text)
    return ((one, one.record) for one in opened.transactions if one.record is not None)


def _transcribed(place: str, chosen: Filter, skipped: Counter[str]) -> Iterator[tuple[Transaction, Record]]:
    """Yields the turns of transcripts, in a file, a folder, or an agent's usual folder."""
    folder = usual_places(os.environ).get(place) or Path(place).expanduser()
    files = transcript_files(folder)
    if not any(map(is_transcript, files)):
        raise ConfigError(f"{folder} has no transcript of Claude Code or Codex. Name a file of records with --records.")
    return (pair for pair in read_transcripts(files, skipped) if chosen.matches(pair[0]))


def _allowed_calls(pairs: Iterable[tuple[Transaction, Record]], labels: Labels) -> tuple[Sequence[Seen], int]:
    """Returns the actions that were allowed, and the number of transactions.

    A label decides; without one, the call was delivered, and no person refused it.
    """
    calls: dict[str, ToolCall] = {}
    counts = Counter[str]()
    transactions = 0
    for _, record in pairs:
        transactions += 1
        original, final = record.sides or (None, None)
        delivered = _calls(final.answer.content) if final is not None else []
        blocked = [
            one for one in (_calls(original.answer.content) if original is not None else []) if one not in delivered
        ]
        for block, is_delivered in [*((one, True) for one in delivered), *((one, False) for one in blocked)]:
            name = block.name or ""
            label = labels.of(name, block.arguments)
            if label == "allow" or (label is None and is_delivered and not block.is_refused):
                digest = action_digest(name, block.arguments)
                calls.setdefault(digest, ToolCall(block.id, name, block.arguments, _form(block)))
                counts[digest] += 1
    return [Seen(call, counts[digest]) for digest, call in calls.items()], transactions


def _calls(content: Iterable[Block]) -> list[Block]:
    return [block for block in content if block.type == "tool_call"]


def _form(block: Block) -> ToolForm:
    form = (block.model_extra or {}).get("form")
    return cast(ToolForm, form) if form in ("custom", "server") else "function"


def _as_yaml(suggestion: Suggestion, transactions: int) -> str:
    total = suggestion.allowed + sum(one.count for one in suggestion.left_out)
    head = f"# Of {total} allowed calls in {transactions} transactions, {suggestion.allowed} pass.\n"
    policy = {"policy": {"class": "tool_rules", "config": suggestion.config}}
    return (
        head + yaml.safe_dump(policy, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120).rstrip()
    )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _tell_rest(left_out: Sequence[Seen], min_count: int) -> None:
    if not left_out:
        return
    times = sum(one.count for one in left_out)
    complain(
        f"Without a rule: {len(left_out)} action{'s' * (len(left_out) > 1)}, seen {_times(times)}. Each was seen less "
        f"than {_times(min_count)} in a form that a narrow rule could allow:"
    )
    for one in sorted(left_out, key=lambda one: -one.count)[:_TOLD]:
        complain(f"  {one.count}  {one_line(f'{one.call.name} {one.call.arguments}')[:_SHOWN]}")
    if len(left_out) > _TOLD:
        complain(f"  ... and {len(left_out) - _TOLD} more")
