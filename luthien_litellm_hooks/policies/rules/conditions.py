"""Conditions of `tool_rules`, compiled to checks.

A condition holds, does not hold, or is undecidable (None): the arguments are not JSON, or the shell's parser cannot
read a script. An undecidable condition stays so through `any`, `all` and `not`.

A call may touch several paths and run several commands. A blocking rule holds if any of them matches. An allowing rule
holds only if all of them match, so nothing passes beside an allowed one. `not` swaps the two.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from luthien_litellm_hooks.policies.rules import Condition, TextPattern, split_path
from luthien_litellm_hooks.policies.rules.arguments import text_of, values_at
from luthien_litellm_hooks.policies.rules.kinds import Kind, clean_name
from luthien_litellm_hooks.policies.rules.patterns import CommandPattern, PathPatterns
from luthien_litellm_hooks.policies.rules.sql import SqlPattern
from luthien_litellm_hooks.policies.rules.tool_use import ToolUse
from luthien_litellm_hooks.policies.shell import UNKNOWN_HOST, find_danger, split_danger

_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a condition; an undecidable one has None in `holds`.

    `cause` is in the words of the settings, `evidence` is the text of the call.
    """

    holds: bool | None
    cause: str = ""
    evidence: str = ""


Check = Callable[[ToolUse], Outcome]

_NO = Outcome(False)
_UNREADABLE = Outcome(None, "unreadable arguments")
_NOT_UNDERSTOOD = Outcome(None, "an unreadable script, or too many scripts or paths")


def compile_condition(condition: Condition, *, is_for_every: bool) -> Check:
    """Returns a check of all parts of the condition, for any or for every path, command and so on."""
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


# Combinations


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
        return unknown or Outcome(True, _joined(each.cause for each in held), _joined(each.evidence for each in held))

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


# Conditions on the call's own words


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


# Conditions on the call's effects


def _kind(kinds: frozenset[Kind]) -> Check:
    def check(use: ToolUse) -> Outcome:
        found = kinds & use.kinds
        return Outcome(True, f"kind {min(found)}") if found else unless_unclear(use)

    return check


def _paths(patterns: Iterable[str], is_for_every: bool) -> Check:
    globs = PathPatterns(patterns)

    def check(use: ToolUse) -> Outcome:
        if is_for_every:
            return _every("paths", use, [globs.matches(forms) for _, forms in use.forms_of_paths])
        touched = (path for path, forms in use.forms_of_paths if globs.matches(forms))
        return by_text("path", touched, unless_unclear(use))

    return check


def _commands(patterns: Iterable[str], is_for_every: bool) -> Check:
    wanted = tuple((pattern, CommandPattern.parse(pattern)) for pattern in patterns)

    def check(use: ToolUse) -> Outcome:
        if is_for_every:
            results = [any(pattern.matches(command) for _, pattern in wanted) for command in use.commands]
            return _every("commands", use, results)
        run = (text for text, pattern in wanted if _runs(use, pattern))
        return by_setting("command", run, unless_unclear(use))

    return check


def _runs(use: ToolUse, pattern: CommandPattern) -> bool:
    return pattern.may_name(use.programs) and any(map(pattern.matches, use.commands))


def _danger(*, is_strict: bool) -> Check:
    def check(use: ToolUse) -> Outcome:
        dangers = (find_danger(script, strict=is_strict) for script in use.parsed_scripts)
        danger = next((danger for danger in dangers if danger is not None), None)
        if danger is None:
            return unless_unclear(use)
        kind, quote = split_danger(danger)
        return Outcome(True, kind, _shown(quote))

    return check


def _sql(patterns: Iterable[str], is_for_every: bool) -> Check:
    from luthien_litellm_hooks.policies.rules.statements import find_sql, is_only_sql

    statements = tuple(SqlPattern.parse(pattern) for pattern in patterns)

    def check(use: ToolUse) -> Outcome:
        if is_for_every:
            return _every("sql", use, [is_only_sql(text, statements) for text in use.sql])
        found = (find_sql(text, statements) for text in use.sql)
        return by_setting("sql", (str(pattern) for pattern in found if pattern is not None), unless_unclear(use))

    return check


def _hosts_outside(patterns: Iterable[str]) -> Check:
    inside = tuple(TextPattern(pattern, ignore_case=True) for pattern in patterns)

    def check(use: ToolUse) -> Outcome:
        outside = (host for host in use.hosts if host == UNKNOWN_HOST or not any(p.matches(host) for p in inside))
        return by_text("host", (host or "unknown" for host in outside), unless_unclear(use))

    return check


def _every(cause: str, use: ToolUse, results: Sequence[bool]) -> Outcome:
    unclear = unless_unclear(use)
    return unclear if unclear.holds is None else Outcome(bool(results) and all(results), cause)


def by_setting(cause: str, matches: Iterator[str], otherwise: Outcome = _NO) -> Outcome:
    """Returns a positive outcome if a setting has a match, else `otherwise`."""
    match = next(matches, None)
    return otherwise if match is None else Outcome(True, f"{cause} {match}")


def by_text(cause: str, matches: Iterator[str], otherwise: Outcome = _NO) -> Outcome:
    """Returns a positive outcome if a text of the call matches, else `otherwise`."""
    match = next(matches, None)
    return otherwise if match is None else Outcome(True, cause, _shown(match))


def _joined(texts: Iterable[str]) -> str:
    return ", ".join(text for text in texts if text)


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def unless_unclear(use: ToolUse) -> Outcome:
    """Returns a negative outcome if the whole call was readable, else an undecidable one."""
    if not use.is_readable:
        return _UNREADABLE
    return _NO if use.is_understood else _NOT_UNDERSTOOD


def named_kinds(patterns: Mapping[Kind, Iterable[str]]) -> Callable[[str], frozenset[Kind]]:
    """Returns a function from a tool's name to its kinds according to the settings."""
    named: list[tuple[Kind, TextPattern]] = [
        (kind, TextPattern(text, ignore_case=True)) for kind, texts in patterns.items() for text in texts
    ]

    def kinds_of(name: str) -> frozenset[Kind]:
        cleaned = clean_name(name)
        return frozenset({kind for kind, pattern in named if pattern.matches(cleaned)})

    return kinds_of
