"""`tool_rules`: blocks, allows or rewrites tool calls by rules, or asks a person about them."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, assert_never

from luthien_litellm_hooks.policies.rules import SET_PREFIX, Rule, RuleAction, ToolRulesConfig, split_path
from luthien_litellm_hooks.policies.rules.arguments import read_arguments, with_value
from luthien_litellm_hooks.policies.rules.conditions import Check, Outcome, compile_condition, named_kinds
from luthien_litellm_hooks.policies.rules.kinds import Kind, is_own_search, kinds_of_name
from luthien_litellm_hooks.policies.rules.tool_use import SharedUses, ToolUse
from luthien_litellm_hooks.policies.shell import MAX_BYTES, shared_readings
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.limits import LONG, off_loop
from luthien_litellm_hooks.policy.notices import one_line
from luthien_litellm_hooks.policy.request import description_of_tool
from luthien_litellm_hooks.policy.tool_gate import ALLOW, ToolGatePolicy, Verdict
from luthien_litellm_hooks.recording.decision import SEVERITY
from luthien_litellm_hooks.wire.events import ToolCall

_SHOWN_NAME = 100
SCRIPT_COST = 10
"""Cost of reading a script's character, in characters of other text; judging what was read costs one."""
MAX_CODE_DEPTH = 2
"""Depth of the code inside the calls of other code that is read."""
_SHELL: frozenset[Kind] = frozenset({"shell"})
_WEB: frozenset[Kind] = frozenset({"web"})


class ToolRules(ToolGatePolicy):
    """Judges each tool call by the first rule whose condition holds.

    An undecidable call (arguments that are not JSON, a script beyond the parser) does not pass: a `block` or `rewrite`
    rule that could hold blocks it, an `ask` rule asks, and an `allow` rule does not hold. If a client may read a call
    in two ways (a duplicate key), the stricter verdict counts.
    """

    Config = ToolRulesConfig

    def __init__(self, config: ToolRulesConfig | None = None) -> None:
        config = config or ToolRulesConfig()
        self._rules = tuple(_compiled(number, rule) for number, rule in enumerate(config.rules))
        self._default: Literal["allow", "ask", "block"] = config.default
        self._message = config.message
        self._kinds = tuple(sorted((config.kinds or {}).items()))
        self._declared_kinds = named_kinds(config.kinds or {})

    async def judge_tool_call(self, tool_call: ToolCall, ctx: PolicyContext) -> Verdict:
        if len(tool_call.arguments) <= LONG:
            return self._strictest(tool_call, ctx)
        return await off_loop(self._strictest, tool_call, ctx)

    def _strictest(self, tool_call: ToolCall, ctx: PolicyContext) -> Verdict:
        verdicts: list[Verdict] = []
        key = (tool_call.name, tool_call.arguments, tool_call.form, self._kinds, id(ctx.request))
        shared = ctx.readings.get(key, len(tool_call.arguments), SharedUses)
        with shared.lock, shared_readings():
            cost = 1 if shared.uses else SCRIPT_COST
            shared.uses = shared.uses or tuple(self._uses(tool_call, ctx))
            for use in shared.uses:
                ctx.charge(cost * sum(min(len(script), MAX_BYTES) for script in use.scripts))
                verdicts.append(self._judge(tool_call, use))
        return max(verdicts, key=lambda verdict: SEVERITY[verdict.action])

    def _uses(self, tool_call: ToolCall, ctx: PolicyContext, depth: int = 0) -> Iterator[ToolUse]:
        """Yields every reading of the call, and of the calls in its code. Free text for a tool with an unknown kind may
        be a script."""
        kinds = kinds_of_name(tool_call.name)
        if is_own_search(tool_call.name, tool_call.form):
            kinds -= _WEB
        declared = self._declared_kinds(tool_call.name)
        kinds |= declared
        if tool_call.form == "custom" and not kinds:
            kinds = _SHELL
        described = partial(description_of_tool, ctx.request, tool_call.name)
        readings = read_arguments(tool_call)
        for arguments in readings:
            use = ToolUse(tool_call.name, arguments, kinds, is_declared_shell="shell" in declared, described=described)
            yield use
            inner = use.inner_calls
            if inner and depth >= MAX_CODE_DEPTH:
                yield ToolUse(tool_call.name, None, kinds, is_readable=False)
            for call in inner if depth < MAX_CODE_DEPTH else ():
                yield from self._uses(call, ctx, depth + 1)
        if not readings:
            yield ToolUse(tool_call.name, None, kinds, is_readable=False)

    def _judge(self, tool_call: ToolCall, use: ToolUse) -> Verdict:
        for rule in self._rules:
            outcome = rule.check(use)
            if outcome.holds or (outcome.holds is None and rule.action != "allow"):
                return self._apply(rule, outcome, tool_call, use)
        match self._default:
            case "allow":
                return ALLOW
            case "ask":
                return Verdict("ask", reason="no rule allows it")
            case "block":
                return self._block(tool_call, "no rule allows it")

    def _apply(self, rule: "CompiledRule", outcome: Outcome, tool_call: ToolCall, use: ToolUse) -> Verdict:
        reason, evidence = f"{rule.reason}: {outcome.cause}", outcome.evidence or None
        match rule.action:
            case "allow":
                return Verdict("allow", reason=reason, evidence=evidence)
            case "ask":
                words = None if rule.message is None else _named(rule.message, tool_call)
                return Verdict("ask", message=words, reason=reason, evidence=evidence)
            case "rewrite" if outcome.holds:
                try:
                    changed = _rewritten(tool_call, use, rule.values)
                    return Verdict("modify", instead=(changed,), reason=reason, evidence=evidence)
                except ValueError as error:
                    reason = f"{reason}; it cannot be rewritten: {error}"
            case "rewrite" | "block":
                pass
            case _:
                assert_never(rule.action)
        return self._block(tool_call, reason, evidence, rule.message)

    def _block(
        self, tool_call: ToolCall, reason: str, evidence: str | None = None, message: str | None = None
    ) -> Verdict:
        return Verdict("block", message=_named(message or self._message, tool_call), reason=reason, evidence=evidence)


def _named(message: str, tool_call: ToolCall) -> str:
    return message.replace("{tool_name}", one_line(tool_call.name, _SHOWN_NAME))


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule ready for checks. A rewrite sets `values`, by path."""

    reason: str
    check: Check
    action: RuleAction = "block"
    message: str | None = None
    values: tuple[tuple[Sequence[str], object], ...] = ()


def _compiled(number: int, rule: Rule) -> CompiledRule:
    values = tuple((split_path(path.removeprefix(SET_PREFIX)), value) for path, value in (rule.set_ or {}).items())
    reason = rule.reason or f"rules.{number}"
    check = compile_condition(rule, is_for_every=rule.action == "allow")
    return CompiledRule(reason, check, rule.action, rule.message, values)


def _rewritten(tool_call: ToolCall, use: ToolUse, values: Iterable[tuple[Sequence[str], object]]) -> ToolCall:
    """Returns the call with the values set. Raises `ValueError` if its arguments have no place for one."""
    if tool_call.form == "custom":
        raise ValueError("its arguments are free text")
    arguments = use.arguments
    for path, value in values:
        arguments = with_value(arguments, path, value)
    return replace(tool_call, arguments=json.dumps(arguments, ensure_ascii=False, allow_nan=False))
