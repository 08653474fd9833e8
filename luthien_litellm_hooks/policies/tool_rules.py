"""`tool_rules`: tool calls are blocked, allowed or rewritten by rules, of which the first decides."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from luthien_litellm_hooks.events import ToolCall
from luthien_litellm_hooks.parsing.shell_syntax import MAX_BYTES
from luthien_litellm_hooks.policies import code_mode
from luthien_litellm_hooks.policies.rule_conditions import Check, Outcome, compile_condition, named_kinds
from luthien_litellm_hooks.policies.rule_config import SET_PREFIX, Rule, RuleAction, ToolRulesConfig, split_path
from luthien_litellm_hooks.policies.tool_arguments import read_arguments, with_value
from luthien_litellm_hooks.policies.tool_kinds import Kind, is_own_search, kinds_of_name
from luthien_litellm_hooks.policies.tool_use import ToolUse
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.notices import one_line
from luthien_litellm_hooks.policy.off_loop import LONG, off_loop
from luthien_litellm_hooks.policy.tool_gate import ALLOW, ToolGatePolicy, Verdict

_STRICTNESS = ("allow", "modify", "block")
_SHOWN_NAME = 100
SCRIPT_COST = 10
"""How many characters of another text it is worth to read one of a shell's."""
_SHELL: frozenset[Kind] = frozenset({"shell"})
_WEB: frozenset[Kind] = frozenset({"web"})


class ToolRules(ToolGatePolicy):
    """Judges each tool call by the first rule whose condition holds.

    What cannot be told (arguments that are no JSON, a script beyond the parser) is never let through
    for it: a `block` and a `rewrite` rule that could hold block, an `allow` rule does not hold. A call
    that its client may read in two ways (a key that stands twice) gets the stricter verdict.
    """

    Config = ToolRulesConfig

    def __init__(self, config: ToolRulesConfig | None = None) -> None:
        config = config or ToolRulesConfig()
        self._rules = tuple(_compiled(number, rule) for number, rule in enumerate(config.rules))
        self._is_allowed_by_default = config.default == "allow"
        self._message = config.message
        self._declared_kinds = named_kinds(config.kinds or {})

    async def judge_tool_call(self, tool_call: ToolCall, ctx: PolicyContext) -> Verdict:
        if len(tool_call.arguments) <= LONG:
            return self._strictest(tool_call, ctx)
        return await off_loop(self._strictest, tool_call, ctx)

    def _strictest(self, tool_call: ToolCall, ctx: PolicyContext) -> Verdict:
        verdicts: list[Verdict] = []
        for use in self._uses(tool_call):
            ctx.charge(SCRIPT_COST * sum(min(len(script), MAX_BYTES) for script in use.scripts))
            verdicts.append(self._judge(tool_call, use))
        return max(verdicts, key=lambda verdict: _STRICTNESS.index(verdict.action))

    def _uses(self, tool_call: ToolCall) -> Iterator[ToolUse]:
        """Every way to read the call. Free text of a tool whose name says nothing may be a script."""
        kinds = kinds_of_name(tool_call.name)
        if is_own_search(tool_call.name, tool_call.form):
            kinds -= _WEB
        kinds |= self._declared_kinds(tool_call.name)
        is_code = tool_call.form == "custom" and tool_call.name == code_mode.TOOL
        if is_code and (calls := code_mode.calls_of(tool_call.arguments)) is not None:
            yield ToolUse(tool_call.name, {}, kinds)
            for call in calls:
                yield from self._uses(call)
            return
        if tool_call.form == "custom" and not kinds:
            kinds = _SHELL
        readings = read_arguments(tool_call)
        for arguments in readings:
            yield ToolUse(tool_call.name, arguments, kinds)
        if not readings:
            yield ToolUse(tool_call.name, None, kinds, is_readable=False)

    def _judge(self, tool_call: ToolCall, use: ToolUse) -> Verdict:
        for rule in self._rules:
            outcome = rule.check(use)
            if outcome.holds or (outcome.holds is None and rule.action != "allow"):
                return self._apply(rule, outcome, tool_call, use)
        return ALLOW if self._is_allowed_by_default else self._block(tool_call, "no rule allows it")

    def _apply(self, rule: "CompiledRule", outcome: Outcome, tool_call: ToolCall, use: ToolUse) -> Verdict:
        reason, evidence = f"{rule.reason}: {outcome.what}", outcome.evidence or None
        if rule.action == "allow":
            return Verdict("allow", reason=reason, evidence=evidence)
        if rule.action == "rewrite" and outcome.holds:
            try:
                changed = _rewritten(tool_call, use, rule.values)
                return Verdict("modify", instead=(changed,), reason=reason, evidence=evidence)
            except ValueError as error:
                reason = f"{reason}; it cannot be rewritten: {error}"
        return self._block(tool_call, reason, evidence, rule.message)

    def _block(
        self, tool_call: ToolCall, reason: str, evidence: str | None = None, message: str | None = None
    ) -> Verdict:
        told = (message or self._message).replace("{tool_name}", one_line(tool_call.name, _SHOWN_NAME))
        return Verdict("block", message=told, reason=reason, evidence=evidence)


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule that is ready to be checked. `values` are what a rewrite sets, by path."""

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
    """The call with the values set. Raises `ValueError` if its arguments have no place for one."""
    if tool_call.form == "custom":
        raise ValueError("its arguments are free text")
    arguments = use.arguments
    for path, value in values:
        arguments = with_value(arguments, path, value)
    return replace(tool_call, arguments=json.dumps(arguments, ensure_ascii=False, allow_nan=False))
