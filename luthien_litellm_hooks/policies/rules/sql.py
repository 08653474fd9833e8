"""SQL for rules: patterns of statements, and the texts with SQL in them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from luthien_litellm_hooks.policy.patterns import compile_pattern

MAX_PARSED_CHARACTERS = 5_000
"""Length of the longest text to parse; longer ones are searched for words. Parsing is slow, and blocks other responses.
"""

_WORD = re.compile(r"\w+")
_STARTS = compile_pattern(
    r"(?is)(?:\A|;|\*/|\n)[\s(]*"
    r"(?:DROP\s+(?:TABLE|DATABASE|SCHEMA|VIEW|MATERIALIZED|INDEX|SEQUENCE|FUNCTION|PROCEDURE|TRIGGER|TYPE|ROLE|USER"
    r"|EXTENSION|STAGE|MODEL|MACRO|CLUSTER|SINK|SOURCE|POLICY|PUBLICATION|SUBSCRIPTION|STATISTICS|ICEBERG|EXTERNAL|FOREIGN"
    r"|DOMAIN|COLLATION|AGGREGATE|OPERATOR|RULE|SERVER|TABLESPACE|WAREHOUSE|TASK|STREAM|PIPE|KEYSPACE|EVENT|CATALOG|SECRET"
    r"|CONNECTION|LOGIN|DYNAMIC|TEMPORARY|TEMP|TRANSIENT|ALIAS|SYNONYM|PACKAGE|DICTIONARY|OWNED|SHARE|GROUP)\s"
    r"|TRUNCATE\s+\w|DELETE\s+(?:TOP\b|FROM)\b|UPDATE\s[^;]*\bSET\b|ALTER\s+(?:TABLE|DATABASE|SCHEMA|USER|ROLE)"
    r"|INSERT\s+INTO|MERGE\s+INTO|SELECT\s|WITH\s+(?:RECURSIVE\s+)?(?:\S+|[^\s(]+\s*\([^()]*\))\s*\bAS\b|CREATE\s+(?:OR\s+REPLACE\s+)?\w+\s"
    r"|EXPLAIN\s|GRANT\s|REVOKE\s|EXEC(?:UTE)?\b|CALL\s|DECLARE\s|DO\s+\$|BEGIN\b|PRAGMA\s)"
)

_COMMENT = compile_pattern(r"(?s)/\*.*?\*/|\*/|(?:--|#)[^\r\n]*")
_COMMENT_MARK = re.compile(r"/\*|\*/")
_BLANK = re.compile(r"[^\S\n]|\ufeff|(?<=\w)(?=[\"'`\[*@])")
"""White space of any database, and the places between a word and a mark, where none is needed."""
_BEGINS = compile_pattern(r"(?is)\A[\s(]*(?:DROP|DELETE|TRUNCATE|ALTER|MERGE)\s+[\w\"`\[]")

VERBS = ("DROP", "TRUNCATE", "DELETE", "UPDATE", "ALTER", "INSERT", "MERGE", "CREATE", "GRANT", "REVOKE", "SELECT")
"""Statements that a pattern may name."""


@dataclass(frozen=True, slots=True)
class SqlPattern:
    """A kind of statement in a rule: `DROP`, `DROP TABLE`, `DELETE without WHERE`."""

    verb: str
    object: str | None = None
    is_without_where: bool = False

    @classmethod
    def parse(cls, text: str) -> "SqlPattern":
        """Parses a pattern, in any case. Raises `ValueError`."""
        words = text.upper().split()
        is_without_where = words[-2:] == ["WITHOUT", "WHERE"]
        head = words[:-2] if is_without_where else words
        if len(head) not in (1, 2) or not all(word.isalpha() for word in head):
            raise ValueError('write a statement like "DROP", "DROP TABLE" or "DELETE without WHERE"')
        if head[0] not in VERBS:
            raise ValueError(f"{head[0]} is an unknown statement; known are {', '.join(VERBS)}")
        if is_without_where and head not in (["DELETE"], ["UPDATE"]):
            raise ValueError("only DELETE and UPDATE can be `without WHERE`")
        return cls(head[0], head[1] if len(head) > 1 else None, is_without_where)

    def __str__(self) -> str:
        words = (self.verb, self.object, "without WHERE" if self.is_without_where else None)
        return " ".join(word for word in words if word)


def is_sql(text: str, *, is_expected: bool = False) -> bool:
    """Tells if a statement seems to begin in `text`; "update the docs" does not.

    Where SQL is expected, "DELETE users" is a statement, too.
    """
    start = text[:MAX_PARSED_CHARACTERS]
    forms = (start, *_spaced(start))
    if any(_STARTS.search(form) or (is_expected and _BEGINS.search(form)) for form in dict.fromkeys(forms)):
        return True
    return len(text) > MAX_PARSED_CHARACTERS and not sql_words(text).isdisjoint(VERBS)


def _spaced(text: str) -> Iterator[str]:
    """Yields a text with a space for each comment, and wherever two words of SQL may meet without one.

    Comments nest in some databases, and end at the first `*/` in others.
    """
    uncovered = without_version_comments(text).replace("\r", "\n")
    for plain in dict.fromkeys((uncovered, _without_nested(uncovered))):
        yield _BLANK.sub(" ", _COMMENT.sub(lambda _: " ", plain))


def _without_nested(text: str) -> str:
    parts: list[str] = []
    depth = end = 0
    for mark in _COMMENT_MARK.finditer(text):
        if depth == 0:
            parts.append(text[end : mark.start()])
        depth = depth + 1 if mark[0] == "/*" else max(0, depth - 1)
        end = mark.end()
    return " ".join((*parts, text[end:] if depth == 0 else ""))


def sql_words(text: str) -> frozenset[str]:
    return frozenset(word.upper() for word in _WORD.findall(text))


def without_version_comments(text: str) -> str:
    """Uncovers the content of `/*!50000 … */`, which MySQL runs."""
    return re.sub(r"/\*M?!\d*", " ", text).replace("*/", " ") if "!" in text and "/*" in text else text
