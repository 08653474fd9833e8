"""`llm_rules`: rules in plain English, each judged by a model."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from luthien_litellm_hooks.errors import JudgeError
from luthien_litellm_hooks.events import ToolCall
from luthien_litellm_hooks.policies.judged_blocks import JudgedBlocksPolicy
from luthien_litellm_hooks.policies.judging import RATING_FORM, Judge, JudgeConfig, Kind, Rating, shown
from luthien_litellm_hooks.policy.base import PolicyConfig
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.tool_gate import Verdict

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
    """One rule, and what becomes of a block that breaks it."""

    name: Annotated[str, Field(min_length=1)]
    rule: Annotated[str, Field(min_length=1)]
    """In plain English, as the judge is to read it."""
    applies_to: Annotated[frozenset[Kind], Field(min_length=1)] = frozenset({"text", "tool_call"})
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.6
    """The rule counts as broken if the probability of it is this or more."""
    action: RuleAction = "block"
    """`block` withholds the block, `replace` puts the judge's text in its place, `note` lets it pass
    and says `message` with it."""
    message: str | None = None
    """What the client is told; if not given, the name of the rule."""

    @field_validator("message")
    @classmethod
    def _is_told(cls, message: str | None, info: ValidationInfo) -> str | None:
        if message is not None and info.data.get("action") == "replace":
            raise ValueError("with `action: replace` the judge's text is told: remove it")
        return message


class LlmRulesConfig(JudgeConfig):
    """Settings of `llm_rules`."""

    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]
    """What the answer is held to; each rule is asked about on its own."""
    max_tokens: Annotated[int, Field(gt=0)] = 1024
    """Of the judge's answer. One that is cut off counts as none."""


class RuleRating(Rating):
    """A judge's answer about one rule."""

    replacement: str | None = None


@dataclass(frozen=True, slots=True)
class _Finding:
    rule: Rule
    rating: RuleRating

    @property
    def is_broken(self) -> bool:
        return self.rating.probability >= self.rule.threshold


class LlmRules(JudgedBlocksPolicy):
    """Asks a model about each rule for each block that it applies to, all at the same time.

    Of the rules that a block breaks, those that block it win over those that replace it, and these
    over those that note it. Two texts in place of one are none: the block is withheld.
    """

    Config = LlmRulesConfig

    def __init__(self, config: LlmRulesConfig) -> None:
        super().__init__({kind for rule in config.rules for kind in rule.applies_to})
        self._judge = Judge(config)
        self._rules = config.rules

    async def verdict_on(self, kind: Kind, content: str | ToolCall, ctx: PolicyContext) -> Verdict:
        rules = [rule for rule in self._rules if kind in rule.applies_to]
        results = await asyncio.gather(*(self._ask(rule, kind, content) for rule in rules), return_exceptions=True)
        findings = [result for result in results if isinstance(result, _Finding)]
        verdict = _verdict(findings)
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures and verdict.action != "block":  # what one rule blocks no other could let pass
            raise failures[0]
        return verdict

    async def _ask(self, rule: Rule, kind: Kind, content: str | ToolCall) -> _Finding:
        form = f"{RATING_FORM} {_REPLACEMENT_FORM}" if rule.action == "replace" else RATING_FORM
        instructions = f"{_QUESTION.format(rule=rule.rule)}\n\n{form}"
        finding = _Finding(rule, await self._judge.ask(instructions, shown(kind, content), RuleRating))
        if rule.action == "replace" and finding.is_broken and finding.rating.replacement is None:
            raise JudgeError(f"the judge found rule {rule.name!r} broken and gave no replacement")
        return finding


def _verdict(findings: Sequence[_Finding]) -> Verdict:
    """What the findings come to."""
    broken = [finding for finding in findings if finding.is_broken]
    blocking, replacing, noting = (
        [finding for finding in broken if finding.rule.action == action] for action in ("block", "replace", "note")
    )
    verdict = Verdict("allow", reason=_in_words(findings), score=_score(findings), evidence=_explanations(findings))
    texts = dict.fromkeys(finding.rating.replacement or "" for finding in replacing)
    if blocking or len(texts) > 1:
        message = _message(blocking or replacing, "A part of this answer was withheld by the rule {name!r}.")
        return replace(verdict, action="block", message=message)
    if texts:
        return replace(verdict, action="modify", instead=tuple(texts))
    return replace(verdict, message=_message(noting, "This may break the rule {name!r}.") or None)


def _message(findings: Sequence[_Finding], usual: str) -> str:
    messages = (finding.rule.message or usual.format(name=finding.rule.name) for finding in findings)
    return "\n".join(dict.fromkeys(messages))


def _in_words(findings: Sequence[_Finding]) -> str:
    """How probable it is that each rule is broken."""
    return "; ".join(f"{finding.rule.name}: {finding.rating.probability:.2f}" for finding in findings)


def _explanations(findings: Sequence[_Finding]) -> str:
    return "; ".join(f"{finding.rule.name}: {finding.rating.explanation}" for finding in findings)


def _score(findings: Sequence[_Finding]) -> float:
    return max((finding.rating.probability for finding in findings), default=0.0)
