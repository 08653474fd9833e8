"""SQL as a rule sees it: which statements a text would run, in the dialects that databases speak."""

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from luthien_litellm_hooks.parsing.patterns import compile_pattern

MAX_PARSED_CHARACTERS = 5_000
"""A longer text is not parsed, only searched for words: parsing is slow, and blocks other answers."""

_DIALECTS = (None, "mysql", "postgres", "tsql")  # None is sqlglot's own, which takes most of the others
_OPAQUE = exp.Command | exp.Execute | exp.Anonymous  # statements that sqlglot does not read on
_PROGRAMS = frozenset({"FUNCTION", "PROCEDURE", "TRIGGER", "EVENT"})  # CREATE brings SQL in a string
_WORD = re.compile(r"\w+")
_STARTS = compile_pattern(
    r"(?is)(?:\A|;|\*/|\n)[\s(]*"
    r"(?:DROP\s+(?:TABLE|DATABASE|SCHEMA|VIEW|MATERIALIZED|INDEX|SEQUENCE|FUNCTION|PROCEDURE|TRIGGER|TYPE|ROLE|USER)"
    r"|TRUNCATE\s+\w|DELETE\s+(?:TOP\b|FROM)\b|UPDATE\s[^;]*\bSET\b|ALTER\s+(?:TABLE|DATABASE|SCHEMA|USER|ROLE)"
    r"|INSERT\s+INTO|MERGE\s+INTO|SELECT\s|WITH\s+(?:RECURSIVE\s+)?\S+\s+AS\b|CREATE\s+(?:OR\s+REPLACE\s+)?\w+\s"
    r"|EXPLAIN\s|GRANT\s|REVOKE\s|EXEC(?:UTE)?\b|CALL\s|DECLARE\s|DO\s+\$|BEGIN\b|PRAGMA\s)"
)

# It would write the statements that it cannot read to the proxy's log.
logging.getLogger("sqlglot").setLevel(logging.ERROR)


@dataclass(frozen=True, slots=True)
class SqlPattern:
    """Statements that a rule is about: `DROP`, `DROP TABLE`, `DELETE without WHERE`."""

    verb: str
    object: str | None = None
    is_without_where: bool = False

    @classmethod
    def parse(cls, text: str) -> "SqlPattern":
        """Reads a pattern, in any case. Raises `ValueError`."""
        words = text.upper().split()
        is_without_where = words[-2:] == ["WITHOUT", "WHERE"]
        head = words[:-2] if is_without_where else words
        if len(head) not in (1, 2) or not all(word.isalpha() for word in head):
            raise ValueError('write a statement like "DROP", "DROP TABLE" or "DELETE without WHERE"')
        if head[0] not in _VERBS.values():
            raise ValueError(f"{head[0]} is no statement known here; known are {', '.join(_VERBS.values())}")
        if is_without_where and head not in (["DELETE"], ["UPDATE"]):
            raise ValueError("only DELETE and UPDATE can be `without WHERE`")
        return cls(head[0], head[1] if len(head) > 1 else None, is_without_where)

    def __str__(self) -> str:
        words = (self.verb, self.object, "without WHERE" if self.is_without_where else None)
        return " ".join(word for word in words if word)


@dataclass(frozen=True, slots=True)
class _Statement:
    """A statement as far as patterns ask; `object` is None if it is unknown."""

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
    """The first of `patterns` that a statement in `text` is of, also within others (CTEs, ALTER).

    A condition that is always true (`WHERE 1=1`) is none. A text is read in several dialects, and
    any may find. What none can read, and SQL that runs from a string, is searched for the words:
    then a verb anywhere counts as the statement, without a WHERE.
    """
    words = _words(text)
    if not any(pattern.verb in words for pattern in patterns):
        return None
    statements = set(_statements(text, words))
    return next((pattern for pattern in patterns if any(_is_of(found, pattern) for found in statements)), None)


def is_only_sql(text: str, patterns: Sequence[SqlPattern]) -> bool:
    """Whether `text` can be read, and every statement in it is of one of `patterns`."""
    statements = [list(_found(each)) for tree in _readings(_without_version_comments(text)) for each in tree]
    return bool(statements) and all(
        bool(found) and all(any(_is_of(part, pattern) for pattern in patterns) for part in found)
        for found in statements
    )


def is_sql(text: str) -> bool:
    """Whether a statement seems to begin in `text`; "update the docs" does not."""
    return _STARTS.search(text[:MAX_PARSED_CHARACTERS]) is not None or (
        len(text) > MAX_PARSED_CHARACTERS and not _words(text).isdisjoint(_VERBS.values())
    )


def _words(text: str) -> frozenset[str]:
    return frozenset(word.upper() for word in _WORD.findall(text))


def _is_of(statement: _Statement, pattern: SqlPattern) -> bool:
    return (
        statement.verb == pattern.verb
        and (pattern.object is None or statement.object in (None, pattern.object))
        and not (pattern.is_without_where and statement.has_where)
    )


def _statements(text: str, words: frozenset[str]) -> Iterable[_Statement]:
    """What `text` would run. Statements of unknown text are all that its words could say."""
    text = _without_version_comments(text)
    readable = _readings(text)
    if not readable:
        return [_Statement(verb) for verb in _VERBS.values() if verb in words]
    return [found for tree in readable for statement in tree for found in _found(statement)]


def _readings(text: str) -> list[list[exp.Expr]]:
    """The statements of `text`, once for each dialect that can read all of it."""
    trees = [tree for dialect in _DIALECTS for tree in [_parse(text, dialect)] if tree is not None]
    return [tree for tree in trees if not any(_is_opaque(statement) for statement in tree)]


def _without_version_comments(text: str) -> str:
    """MySQL runs what stands in `/*!50000 … */`."""
    return re.sub(r"/\*M?!\d*", " ", text).replace("*/", " ") if "!" in text and "/*" in text else text


def _parse(text: str, dialect: str | None) -> list[exp.Expr] | None:
    if len(text) > MAX_PARSED_CHARACTERS:
        return None
    try:
        return [tree for tree in sqlglot.parse(text, read=dialect) if isinstance(tree, exp.Expr)]
    except (SqlglotError, RecursionError, ValueError, TypeError, AttributeError, IndexError, KeyError):
        return None  # the latter are its faults on texts that are no SQL


def _is_opaque(statement: exp.Expr) -> bool:
    return isinstance(statement, _OPAQUE) or (
        isinstance(statement, exp.Create) and str(statement.args.get("kind")).upper() in _PROGRAMS
    )


def _found(statement: exp.Expr) -> Iterator[_Statement]:
    for node in statement.walk():
        verb = _VERBS.get(type(node))
        if verb is not None and not isinstance(node.parent, exp.When):  # of a MERGE: its rows are matched
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
