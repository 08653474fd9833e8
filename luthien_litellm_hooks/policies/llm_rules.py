"""`llm_rules`: rules in plain English, each judged by a model."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from luthien_litellm_hooks.errors import JudgeError
from luthien_litellm_hooks.policies.judges import (
    RATING_FORM,
    BlockJudgePolicy,
    Kind,
    Rating,
    RatingJudge,
    RatingJudgeConfig,
    shown,
)
from luthien_litellm_hooks.policies.judges.view import View
from luthien_litellm_hooks.policy.base import PolicyConfig
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.tool_gate import Verdict
from luthien_litellm_hooks.wire.events import ToolCall

RuleAction = Literal["block", "replace", "note"]

_QUESTION = (
    "You check one part of an AI agent's answer against one rule. Rate how probable it is that the part breaks the "
    "rule.\n\nThe rule: {rule}"
)
_REPLACEMENT_FORM = (
    'Add a third key, "replacement": the whole part as text, changed so that it keeps the rule and otherwise says '
    "the same; or null if the part keeps the rule as it is."
)


class Rule(PolicyConfig):
    """One rule, and the action on a block that breaks it."""

    name: Annotated[str, Field(min_length=1)]
    rule: Annotated[str, Field(min_length=1)]
    """The rule in plain English, for the judge."""
    applies_to: Annotated[frozenset[Kind], Field(min_length=1)] = frozenset({"text", "tool_call"})
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.6
    """Lowest probability at which the rule counts as broken."""
    action: RuleAction = "block"
    """`block` withholds the block, `replace` sends the judge's text instead, `note` passes it and adds `message`."""
    message: str | None = None
    """Message to the client; without it, the name of the rule."""

    @field_validator("message")
    @classmethod
    def _replacement_has_no_message(cls, message: str | None, info: ValidationInfo) -> str | None:
        if message is not None and info.data.get("action") == "replace":
            raise ValueError("with `action: replace` the client gets the judge's text: remove it")
        return message


class LlmRulesConfig(RatingJudgeConfig):
    """Settings of `llm_rules`."""

    view: View = View()
    """Parts of the conversation that the judge is shown beside the block."""
    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]
    """Rules for the response, each judged by itself."""
    max_tokens: Annotated[int, Field(gt=0)] = 1024
    """Length of the judge's reply. One that is cut off does not count."""


class Replacement(Rating):
    """Reply of a judge about a rule with the action `replace`."""

    replacement: str | None = None


@dataclass(frozen=True, slots=True)
class _Finding:
    rule: Rule
    rating: Rating

    @property
    def is_broken(self) -> bool:
        return self.rating.probability >= self.rule.threshold

    @property
    def replacement(self) -> str | None:
        return self.rating.replacement if isinstance(self.rating, Replacement) else None


class LlmRules(BlockJudgePolicy):
    """Asks a model about each rule for each block to which it applies, all at the same time.

    If a block breaks several rules, blocking wins over replacing, and replacing over noting. Two different replacements
    cannot both apply: the block is withheld.
    """

    Config = LlmRulesConfig

    def __init__(self, config: LlmRulesConfig) -> None:
        super().__init__({kind for rule in config.rules for kind in rule.applies_to})
        self._judge = RatingJudge(config)
        self._view = config.view
        self._rules = config.rules

    async def verdict_on(self, kind: Kind, content: str | ToolCall, ctx: PolicyContext) -> Verdict:
        rules = [rule for rule in self._rules if kind in rule.applies_to]
        data = {**shown(kind, content), **self._view.context(content, ctx)}
        results = await asyncio.gather(*(self._ask(rule, data, ctx) for rule in rules), return_exceptions=True)
        findings = [result for result in results if isinstance(result, _Finding)]
        verdict = _verdict(findings)
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures and verdict.action != "block":  # after a block by one rule, no other could pass it
            raise failures[0]
        return verdict

    async def _ask(self, rule: Rule, data: Mapping[str, object], ctx: PolicyContext) -> _Finding:
        question = f"{_QUESTION.format(rule=rule.rule)}\n\n{RATING_FORM}"
        form = Replacement if rule.action == "replace" else Rating
        if form is Replacement:
            question = f"{question} {_REPLACEMENT_FORM}"
        rating = await self._judge.rate(question, data, form, ctx, rule.threshold)
        finding = _Finding(rule, rating)
        if form is Replacement and finding.is_broken and finding.replacement is None:
            raise JudgeError(f"the judge found rule {rule.name!r} broken and gave no replacement")
        return finding


def _verdict(findings: Sequence[_Finding]) -> Verdict:
    """Combines the findings to one verdict."""
    broken = [finding for finding in findings if finding.is_broken]
    blocking, replacing, noting = (
        [finding for finding in broken if finding.rule.action == action] for action in ("block", "replace", "note")
    )
    verdict = Verdict(
        "allow", reason=_probabilities(findings), score=_score(findings), evidence=_explanations(findings)
    )
    texts = dict.fromkeys(finding.replacement or "" for finding in replacing)
    if blocking or len(texts) > 1:
        message = _message(blocking or replacing, "A part of this response was withheld by the rule {name!r}.")
        return replace(verdict, action="block", message=message)
    if texts:
        return replace(verdict, action="modify", instead=tuple(texts))
    return replace(verdict, message=_message(noting, "This may break the rule {name!r}.") or None)


def _message(findings: Sequence[_Finding], usual: str) -> str:
    messages = (finding.rule.message or usual.format(name=finding.rule.name) for finding in findings)
    return "\n".join(dict.fromkeys(messages))


def _probabilities(findings: Sequence[_Finding]) -> str:
    """Lists each rule with the probability that it is broken."""
    return "; ".join(f"{finding.rule.name}: {finding.rating.probability:.2f}" for finding in findings)


def _explanations(findings: Sequence[_Finding]) -> str:
    return "; ".join(f"{finding.rule.name}: {finding.rating.explanation}" for finding in findings)


def _score(findings: Sequence[_Finding]) -> float:
    return max((finding.rating.probability for finding in findings), default=0.0)
