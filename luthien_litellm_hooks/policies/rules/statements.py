"""Statements of a text of SQL, in several dialects.

It brings sqlglot, of 8 MB: only what is set up to read SQL imports it.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from luthien_litellm_hooks.policies.rules.sql import (
    MAX_PARSED_CHARACTERS,
    VERBS,
    SqlPattern,
    sql_words,
    without_version_comments,
)
from luthien_litellm_hooks.policy.patterns import compile_pattern

_DIALECTS = (None, "mysql", "postgres", "tsql")  # None is sqlglot's own, close to most others
_OPAQUE = exp.Command | exp.Execute | exp.Anonymous  # statements with content unread by sqlglot
_PROGRAMS = frozenset({"FUNCTION", "PROCEDURE", "TRIGGER", "EVENT"})  # CREATE has their SQL in a string
_EVENTS = compile_pattern(
    r"(?is)\b(?:AFTER|BEFORE|INSTEAD\s+OF)\s+"
    r"(?:(?:INSERT|UPDATE|DELETE|TRUNCATE)(?:\s+OF\s+[\w\", ]+?)?(?:\s+OR\s+|\s*,\s*|\s+))+ON\b"
    r"|\bON\s+(?:DELETE|UPDATE)\s+(?:CASCADE|SET\s+(?:NULL|DEFAULT)|RESTRICT|NO\s+ACTION)\b"
    r"|\bFOR\s+(?:NO\s+KEY\s+)?UPDATE\s*(?:;|\)|\z|OF\b|NOWAIT\b|SKIP\b)|\bKEY\s+UPDATE\b"
    r"|\bpublish\s*=\s*'[\w, ]*'"
)
"""Verbs that name an event or a lock instead of a statement."""

# sqlglot would log unreadable statements to the proxy's log.
logging.getLogger("sqlglot").setLevel(logging.ERROR)


@dataclass(frozen=True, slots=True)
class _Statement:
    """A statement as far as patterns need it; an unknown `object` is None."""

    verb: str
    object: str | None = None
    has_where: bool = False


_VERBS: dict[type[exp.Expr], str] = {
    exp.Drop: "DROP",
    exp.TruncateTable: "TRUNCATE",
    exp.Delete: "DELETE",
    exp.Update: "UPDATE",
    exp.Alter: "ALTER",
    exp.Insert: "INSERT",
    exp.Merge: "MERGE",
    exp.Create: "CREATE",
    exp.Grant: "GRANT",
    exp.Revoke: "REVOKE",
    exp.Select: "SELECT",
}


def find_sql(text: str, patterns: Sequence[SqlPattern]) -> SqlPattern | None:
    """Returns the first of `patterns` with a matching statement in `text`, also inside others (CTEs, ALTER).

    A condition does not count if it is always true (`WHERE 1=1`). The text is read in several dialects, and a match in
    any of them counts. Text unreadable in all of them, and SQL run from a string, is searched for words: any verb then
    counts as a statement without a WHERE.
    """
    words = sql_words(without_version_comments(text))
    if not any(pattern.verb in words for pattern in patterns):
        return None
    statements = _read(text) if len(text) <= MAX_PARSED_CHARACTERS else _statements(text)
    return next((pattern for pattern in patterns if any(_is_of(found, pattern) for found in statements)), None)


def is_only_sql(text: str, patterns: Sequence[SqlPattern]) -> bool:
    """Tells if `text` is readable and each of its statements matches one of `patterns`."""
    statements = [list(_found(each)) for tree in _readings(without_version_comments(text)) for each in tree]
    return bool(statements) and all(
        bool(found) and all(any(_is_of(part, pattern) for pattern in patterns) for part in found)
        for found in statements
    )


def _is_of(statement: _Statement, pattern: SqlPattern) -> bool:
    return (
        statement.verb == pattern.verb
        and (pattern.object is None or statement.object in (None, pattern.object))
        and not (pattern.is_without_where and statement.has_where)
    )


def _statements(text: str) -> frozenset[_Statement]:
    """Returns the statements in `text`. Unreadable text gives every verb among its words."""
    text = without_version_comments(text)
    readable = _readings(text)
    if not readable:
        words = sql_words(_EVENTS.sub(lambda _: " ", text))
        return frozenset(_Statement(verb) for verb in VERBS if verb in words)
    return frozenset(found for tree in readable for statement in tree for found in _found(statement))


_read = lru_cache(maxsize=16)(_statements)  # several policies ask about the same text


def _readings(text: str) -> list[list[exp.Expr]]:
    """Returns the statements of `text`, once for each dialect that can read all of it."""
    trees = [tree for dialect in _DIALECTS for tree in [_parse(text, dialect)] if tree is not None]
    return [tree for tree in trees if not any(_is_opaque(statement) for statement in tree)]


def _parse(text: str, dialect: str | None) -> list[exp.Expr] | None:
    if len(text) > MAX_PARSED_CHARACTERS:
        return None
    try:
        return [tree for tree in sqlglot.parse(text, read=dialect) if isinstance(tree, exp.Expr)]
    except (SqlglotError, RecursionError, ValueError, TypeError, AttributeError, IndexError, KeyError):
        return None  # the last four are its bugs on texts that are not SQL


def _is_opaque(statement: exp.Expr) -> bool:
    return isinstance(statement, _OPAQUE) or (
        isinstance(statement, exp.Create) and str(statement.args.get("kind")).upper() in _PROGRAMS
    )


def _found(statement: exp.Expr) -> Iterator[_Statement]:
    for node in statement.walk():
        verb = _VERBS.get(type(node))
        if verb is not None and not isinstance(node.parent, exp.When):  # not inside a MERGE, whose rows are matched
            kind = node.args.get("kind")
            yield _Statement(verb, str(kind).upper() if kind else None, _has_where(node))


def _has_where(statement: exp.Expr) -> bool:
    where = statement.args.get("where")
    return isinstance(where, exp.Where) and not _is_always_true(where.this)


def _is_always_true(condition: object) -> bool:
    match condition:
        case exp.Paren():
            return _is_always_true(condition.this)
        case exp.Boolean():
            return bool(condition.this)
        case exp.Literal():
            return condition.this.strip("0.") != ""
        case exp.Not():
            return isinstance(condition.this, exp.Boolean) and not condition.this.this
        case exp.Or():
            return _is_always_true(condition.left) or _is_always_true(condition.right)
        case exp.And():
            return _is_always_true(condition.left) and _is_always_true(condition.right)
        case exp.EQ() | exp.GTE() | exp.LTE() | exp.Like() | exp.NullSafeEQ():
            return condition.left == condition.right
        case _:
            return False
