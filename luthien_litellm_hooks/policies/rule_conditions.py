"""The conditions of `tool_rules`, made ready to be checked.

A condition holds, does not hold, or cannot be told (None): the arguments are no JSON, or a script is
beyond the shell's parser. What cannot be told stays so through `any`, `all` and `not`.

A call may touch several paths and run several commands. A rule that blocks is about any of them; one
that allows is about every one, so that nothing slips through beside what is allowed. `not` turns
this round.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from luthien_litellm_hooks.parsing.command_patterns import CommandPattern
from luthien_litellm_hooks.parsing.dangers import find_danger
from luthien_litellm_hooks.parsing.sql import SqlPattern, find_sql, is_only_sql
from luthien_litellm_hooks.policies.path_patterns import PathPatterns
from luthien_litellm_hooks.policies.rule_config import Condition, TextPattern, split_path
from luthien_litellm_hooks.policies.tool_arguments import text_of, values_at
from luthien_litellm_hooks.policies.tool_contacts import UNKNOWN_HOST
from luthien_litellm_hooks.policies.tool_kinds import Kind, clean_name
from luthien_litellm_hooks.policies.tool_use import ToolUse

_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether a condition holds, None if it cannot be told; what made it so in the words of the
    settings, and the text of the call that did."""

    holds: bool | None
    what: str = ""
    evidence: str = ""


Check = Callable[[ToolUse], Outcome]

_NO = Outcome(False)
_UNREADABLE = Outcome(None, "arguments that cannot be read")
_NOT_UNDERSTOOD = Outcome(None, "a script that cannot be read, or more than can be")


def compile_condition(condition: Condition, *, is_for_every: bool) -> Check:
    """A check of all that the condition asks for, of any or of every path, command and so on."""
    checks = tuple(_checks(condition, is_for_every))
    return checks[0] if len(checks) == 1 else _all(checks)


def _checks(condition: Condition, is_for_every: bool) -> Iterator[Check]:
    if condition.tool is not None:
        yield _tool(condition.tool)
    if condition.kind is not None:
        yield _kind(frozenset(condition.kind))
    if condition.args is not None:
        yield from (_argument(path, pattern, is_for_every) for path, pattern in condition.args.items())
    if condition.paths is not None:
        yield _paths(condition.paths, is_for_every)
    if condition.commands is not None:
        yield _commands(condition.commands, is_for_every)
    if condition.dangerous:
        yield _danger(is_strict=condition.dangerous == "strict")
    if condition.sql is not None:
        yield _sql(condition.sql, is_for_every)
    if condition.hosts_outside is not None:
        yield _hosts_outside(condition.hosts_outside)
    if condition.any_ is not None:
        yield _any(tuple(compile_condition(inner, is_for_every=is_for_every) for inner in condition.any_))
    if condition.all_ is not None:
        yield _all(tuple(compile_condition(inner, is_for_every=is_for_every) for inner in condition.all_))
    if condition.not_ is not None:
        yield _not(compile_condition(condition.not_, is_for_every=not is_for_every))


# Combined


def _all(checks: tuple[Check, ...]) -> Check:
    def check(use: ToolUse) -> Outcome:
        unknown, held = None, list[Outcome]()
        for each in checks:
            outcome = each(use)
            if outcome.holds is False:
                return _NO
            if outcome.holds is None:
                unknown = unknown or outcome
            held.append(outcome)
        return unknown or Outcome(True, _joined(each.what for each in held), _joined(each.evidence for each in held))

    return check


def _any(checks: tuple[Check, ...]) -> Check:
    def check(use: ToolUse) -> Outcome:
        unknown = None
        for each in checks:
            outcome = each(use)
            if outcome.holds:
                return outcome
            if outcome.holds is None:
                unknown = unknown or outcome
        return unknown or _NO

    return check


def _not(inner: Check) -> Check:
    def check(use: ToolUse) -> Outcome:
        outcome = inner(use)
        return outcome if outcome.holds is None else Outcome(not outcome.holds)

    return check


# On what the call says


def _tool(patterns: Iterable[str]) -> Check:
    names = tuple(TextPattern(pattern, ignore_case=True) for pattern in patterns)

    def check(use: ToolUse) -> Outcome:
        return by_setting("tool", (pattern.text for pattern in names if pattern.matches(use.clean_name)))

    return check


def _argument(path: str, text: str, is_for_every: bool) -> Check:
    parts, pattern = split_path(path), TextPattern(text)

    def check(use: ToolUse) -> Outcome:
        if not use.is_readable:
            return _UNREADABLE
        texts = [text_of(value) for value in values_at(use.arguments, parts)]
        if is_for_every:
            return Outcome(bool(texts) and all(map(pattern.matches, texts)), f"args.{path}")
        return by_text(f"args.{path}", (text for text in texts if pattern.matches(text)))

    return check


# On what the call does


def _kind(kinds: frozenset[Kind]) -> Check:
    def check(use: ToolUse) -> Outcome:
        found = kinds & use.kinds
        return Outcome(True, f"kind {min(found)}") if found else unless_unclear(use)

    return check


def _paths(patterns: Iterable[str], is_for_every: bool) -> Check:
    globs = PathPatterns(patterns)

    def check(use: ToolUse) -> Outcome:
        if is_for_every:
            return _of_every("paths", use, [globs.matches(forms) for _, forms in use.forms_of_paths])
        touched = (path for path, forms in use.forms_of_paths if globs.matches(forms))
        return by_text("path", touched, unless_unclear(use))

    return check


def _commands(patterns: Iterable[str], is_for_every: bool) -> Check:
    wanted = tuple((pattern, CommandPattern.parse(pattern)) for pattern in patterns)

    def check(use: ToolUse) -> Outcome:
        if is_for_every:
            results = [any(pattern.matches(command) for _, pattern in wanted) for command in use.commands]
            return _of_every("commands", use, results)
        run = (text for text, pattern in wanted if _runs(use, pattern))
        return by_setting("command", run, unless_unclear(use))

    return check


def _runs(use: ToolUse, pattern: CommandPattern) -> bool:
    return pattern.may_name(use.programs) and any(map(pattern.matches, use.commands))


def _danger(*, is_strict: bool) -> Check:
    def check(use: ToolUse) -> Outcome:
        dangers = (find_danger(script, strict=is_strict) for script in use.parsed_scripts)
        return by_text("danger", (danger for danger in dangers if danger is not None), unless_unclear(use))

    return check


def _sql(patterns: Iterable[str], is_for_every: bool) -> Check:
    statements = tuple(SqlPattern.parse(pattern) for pattern in patterns)

    def check(use: ToolUse) -> Outcome:
        if is_for_every:
            return _of_every("sql", use, [is_only_sql(text, statements) for text in use.sql])
        found = (find_sql(text, statements) for text in use.sql)
        return by_setting("sql", (str(pattern) for pattern in found if pattern is not None), unless_unclear(use))

    return check


def _hosts_outside(patterns: Iterable[str]) -> Check:
    inside = tuple(TextPattern(pattern, ignore_case=True) for pattern in patterns)

    def check(use: ToolUse) -> Outcome:
        outside = (host for host in use.hosts if host == UNKNOWN_HOST or not any(p.matches(host) for p in inside))
        return by_text("host", (host or "unknown" for host in outside), unless_unclear(use))

    return check


def _of_every(what: str, use: ToolUse, results: Sequence[bool]) -> Outcome:
    unclear = unless_unclear(use)
    return unclear if unclear.holds is None else Outcome(bool(results) and all(results), what)


def by_setting(what: str, matches: Iterator[str], otherwise: Outcome = _NO) -> Outcome:
    """That a setting holds, if one of `matches` does."""
    match = next(matches, None)
    return otherwise if match is None else Outcome(True, f"{what} {match}")


def by_text(what: str, matches: Iterator[str], otherwise: Outcome = _NO) -> Outcome:
    """That a text of the call makes a condition hold, if there is one."""
    match = next(matches, None)
    return otherwise if match is None else Outcome(True, what, _shown(match))


def _joined(texts: Iterable[str]) -> str:
    return ", ".join(text for text in texts if text)


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def unless_unclear(use: ToolUse) -> Outcome:
    """That nothing was found, which says something only if all could be read."""
    if not use.is_readable:
        return _UNREADABLE
    return _NO if use.is_understood else _NOT_UNDERSTOOD


def named_kinds(patterns: Mapping[Kind, Iterable[str]]) -> Callable[[str], frozenset[Kind]]:
    """What the settings say of a tool by its name."""
    named: list[tuple[Kind, TextPattern]] = [
        (kind, TextPattern(text, ignore_case=True)) for kind, texts in patterns.items() for text in texts
    ]

    def kinds_of(name: str) -> frozenset[Kind]:
        cleaned = clean_name(name)
        return frozenset({kind for kind, pattern in named if pattern.matches(cleaned)})

    return kinds_of
