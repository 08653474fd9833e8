"""Conditions of grants: exactly this call, or calls like it. All that a call does must match."""

import json
from collections.abc import Mapping
from typing import Any, cast

from luthien_litellm_hooks.policies.rules import Rule, ToolRulesConfig
from luthien_litellm_hooks.policies.rules.arguments import read_arguments, text_of
from luthien_litellm_hooks.policies.rules.conditions import compile_condition
from luthien_litellm_hooks.policies.rules.kinds import PROSE_KEYS, WORKDIR_KEYS, Kind, key_of, kinds_of_name
from luthien_litellm_hooks.policies.rules.narrowing import (
    CHANGES_FOLDER,
    WAYS_OUT,
    Read,
    allowing,
    is_hidden,
    is_plain_path,
    is_plain_script,
    literal,
    may_be_whole,
    patterns_of,
    without_other_effects,
)
from luthien_litellm_hooks.policies.rules.tool_use import ToolUse
from luthien_litellm_hooks.policies.shell import UNKNOWN_HOST
from luthien_litellm_hooks.policies.tool_rules import ToolRules
from luthien_litellm_hooks.policy.asked_calls import action_of
from luthien_litellm_hooks.policy.context import PolicyContext, new_view
from luthien_litellm_hooks.policy.grants import Condition
from luthien_litellm_hooks.policy.limits import LONG, off_loop
from luthien_litellm_hooks.policy.patterns import quoted
from luthien_litellm_hooks.recording.digest import action_digest
from luthien_litellm_hooks.wire.events import ToolCall

_LONGEST = 4_000
"""Characters of a call that a person may grant the like of. The time to find its condition grows with their square."""
_WORDS_BESIDE = PROSE_KEYS - WORKDIR_KEYS - {"session_id", "id"}
"""Keys of texts beside a script, with which a model describes the call anew each time."""
_FILE_WRITE: frozenset[Kind] = frozenset({"file_write"})
_CHARACTER = r"[^/.~$`\\=<>*?{\[-]|\w[/.-]|\./|\.(?:\s|\z)"
"""Parts of scripts without variables, wildcards, redirections, and paths out of the working directory. No word in them
begins with a dash."""


def exact_condition(call: ToolCall) -> Condition:
    """Returns the condition that holds for this call alone, whatever its description of a script."""
    readings = _members(call)
    if readings is None:
        return Condition(exact=_digest(call))
    values = dict(Read(_use(call, readings), 1).values)
    return Condition(exact=_digest(call), rule=allowing(call.name, **({"args": values} if values else {})))


def like_condition(call: ToolCall) -> Condition | None:
    """Returns the condition for calls like this one: commands with the same first words and no other flags, or files in
    the same folder. None if the call is of another kind or very long, or too wide a condition would be needed."""
    if len(call.arguments) > _LONGEST:
        return None
    members = _members(call)
    if members is None or any("." in name for name in members):  # in a rule, a dot divides a path
        return None
    use = _use(call, members)
    rule = _like_command(use) if use.scripts else _like_path(use)
    if rule is None:
        return None
    programs = tuple(dict.fromkeys(command.program for command in use.commands))
    return Condition(arguments=_deciding(members), programs=programs, rule=rule)


async def permits(condition: Condition, call: ToolCall, ctx: PolicyContext) -> bool:
    """Tells if the condition holds for every reading of a call, and all that it does."""
    is_long = len(call.arguments) > LONG
    if not (await off_loop(_may_hold, condition, call) if is_long else _may_hold(condition, call)):
        return False
    if condition.rule is None or condition.exact is not None:
        return condition.exact is not None
    rules = ToolRules(ToolRulesConfig(rules=(Rule.model_validate(condition.rule),), default="block"))
    verdict = await rules.judge_tool_call(call, new_view(ctx, ctx.request))
    return verdict.action == "allow"


def words_of(condition: Condition) -> str:
    """Returns the condition for a person."""
    rule = condition.rule or {}
    if condition.exact is not None:
        return "exactly this call"
    if "commands" in rule:
        return f"commands that begin with {', or '.join(rule['commands'])}, with any more words and no other flags"
    return f"files of {rule['paths'][0]}"


def _members(call: ToolCall) -> Mapping[str, object] | None:
    """Returns the arguments of a call that can be read in one way alone."""
    readings = read_arguments(call)
    is_object = len(readings) == 1 and isinstance(readings[0], dict)
    return cast(dict[str, object], readings[0]) if is_object else None


def _use(call: ToolCall, members: Mapping[str, object]) -> ToolUse:
    return ToolUse(call.name, members, kinds_of_name(call.name))


def _digest(call: ToolCall) -> str:
    """Returns the digest of the call, without the words beside a script if nothing is read in them."""
    members = _members(call)
    if members is not None and call.form != "custom":
        whole, rest = _use(call, members), {name: members[name] for name in _deciding(members)}
        if whole.scripts and whole.scripts == _use(call, rest).scripts:
            return action_digest(call.name, json.dumps(rest))
    return action_of(call)


def _deciding(members: Mapping[str, object]) -> tuple[str, ...]:
    """Returns the names of the arguments that decide what the call does."""
    return tuple(name for name in members if key_of(name) not in _WORDS_BESIDE)


def _may_hold(condition: Condition, call: ToolCall) -> bool:
    """Tells if the condition holds, apart from its rule."""
    if condition.exact is not None:
        return _digest(call) == condition.exact
    members = _members(call)
    if members is None or not {*_deciding(members)} <= {*condition.arguments}:
        return False
    return {command.program for command in _use(call, members).commands} <= {*condition.programs}


def _pinned(members: Mapping[str, object], key: str) -> dict[str, str]:
    """Returns the other arguments, as patterns of just these values."""
    return {name: literal(text_of(members[name])) for name in _deciding(members) if name != key}


def _like_command(use: ToolUse) -> dict[str, Any] | None:
    read = Read(use, 1)
    is_understood = "shell" in use.kinds <= {"shell", "web"} and is_plain_script(use)
    if not is_understood or len(read.script_keys) != 1:
        return None
    key = read.script_keys[0]
    script = read.members[key]
    if not isinstance(script, str):
        return None
    words = [word.text for command in use.commands for word in command.words if word.text.startswith("-")]
    flags = sorted({word.partition("=")[0] for word in words})
    part = "|".join([_CHARACTER, *(rf"{quoted(flag)}(?:[=\s]|\z)" for flag in flags)])
    moved = CHANGES_FOLDER.match(script)
    start = f"(?:{quoted(moved[0])})?" if moved else ""
    hosts = {} if UNKNOWN_HOST in use.hosts else {"hosts_outside": list(use.hosts)}
    effects = without_other_effects(use.kinds, dangerous="strict", **hosts)["not"]["any"]
    ways_out = [{"args": {name: text}} for name, text in WAYS_OUT if text_of(read.members.get(name)) != text]
    rule = allowing(
        use.name,
        commands=patterns_of([read], 1),
        args={key: rf"re:\A{start}(?:{part})*\z", **_pinned(read.members, key)},
        **{"not": {"any": [*effects, *ways_out]}},
    )
    return rule if rule["commands"] and _holds(rule, use) else None


def _like_path(use: ToolUse) -> dict[str, Any] | None:
    read = Read(use, 1)
    keys = [name for name, value in read.members.items() if (value,) == use.paths]
    if not use.kinds <= {"file_write"} or len(keys) != 1:
        return None
    folder, _, name = use.paths[0].rpartition("/")
    if not (name and is_plain_path(folder) and may_be_whole(folder.split("/"))) or is_hidden(use.paths[0]):
        return None
    others = {} if use.named_kinds == _FILE_WRITE else _pinned(read.members, keys[0])
    rule = allowing(
        use.name,
        paths=[f"{folder}/*", "!.*"],
        args={keys[0]: rf"re:\A{quoted(folder)}/[^/\\]+\z", **others},
        **without_other_effects(use.kinds),
    )
    return rule if _holds(rule, use) else None


def _holds(rule: Mapping[str, Any], use: ToolUse) -> bool:
    """Tells if the rule can be written, and holds for the call that it was made from."""
    try:
        check = compile_condition(Rule.model_validate(rule), is_for_every=True)
    except ValueError:
        return False
    return check(use).holds is True
