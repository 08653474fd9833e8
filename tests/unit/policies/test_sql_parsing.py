"""Which statements a text of SQL would run."""

import shlex
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthien_litellm_hooks.policies.rules.sql import SqlPattern, is_sql
from luthien_litellm_hooks.policies.rules.statements import find_sql
from luthien_litellm_hooks.policies.sql_protection import SqlProtection
from tests.unit.policies.test_presets import bash, is_blocked, preset

PATTERNS = [SqlPattern.parse(text) for text in ("DROP", "TRUNCATE", "DELETE without WHERE", "UPDATE without WHERE")]

DESTRUCTIVE = [
    ("DROP TABLE users", "DROP"),
    ("drop database prod", "DROP"),
    ("Drop Schema public cascade;", "DROP"),
    ("DROP/**/TABLE users", "DROP"),
    ("-- harmless\nDROP TABLE users", "DROP"),
    ("SELECT 1; DROP TABLE users", "DROP"),
    ("SELECT 1;;;\n\tDROP TABLE users --", "DROP"),
    ("SELECT ';' ; DROP TABLE users", "DROP"),
    ("DROP TABLE `users`", "DROP"),
    ("DROP TABLE [dbo].[users]", "DROP"),
    ("ALTER TABLE users DROP COLUMN email", "DROP"),
    ("/*!50000 DROP TABLE users */", "DROP"),
    ("/*! DROP TABLE users */", "DROP"),
    ("/*!50000DROP*/ TABLE users", "DROP"),
    ("EXEC('DROP TABLE users')", "DROP"),
    ("EXECUTE IMMEDIATE 'DROP TABLE users'", "DROP"),
    ("PREPARE s FROM 'drop table users'", "DROP"),
    ("DO $$ BEGIN DROP TABLE users; END $$", "DROP"),
    ("CREATE FUNCTION f() RETURNS void AS $$ DROP TABLE users $$ LANGUAGE sql", "DROP"),
    ("IF 1=1 DROP TABLE users", "DROP"),
    ("SELECT 'it''s' drop table users", "DROP"),
    ("SELECT '\\''; DROP TABLE users; -- '", "DROP"),
    ("TRUNCATE users", "TRUNCATE"),
    ("TRUNCATE TABLE a, b CASCADE", "TRUNCATE"),
    ("DELETE FROM users", "DELETE without WHERE"),
    ("DELETE FROM `a`.`b`", "DELETE without WHERE"),
    ("DELETE FROM users WHERE 1=1", "DELETE without WHERE"),
    ("DELETE FROM users WHERE TRUE", "DELETE without WHERE"),
    ("DELETE FROM users WHERE 1", "DELETE without WHERE"),
    ("DELETE FROM users WHERE id = id", "DELETE without WHERE"),
    ("DELETE FROM users WHERE ('a' = 'a')", "DELETE without WHERE"),
    ("DELETE FROM users WHERE id = 1 OR 1=1", "DELETE without WHERE"),
    ("DELETE FROM users WHERE NOT FALSE", "DELETE without WHERE"),
    ("DELETE FROM users LIMIT 10", "DELETE without WHERE"),
    ("DELETE FROM users -- WHERE id = 1", "DELETE without WHERE"),
    ("DELETE FROM users /* WHERE id = 1 */", "DELETE without WHERE"),
    ("WITH gone AS (DELETE FROM users RETURNING *) SELECT * FROM gone WHERE id = 1", "DELETE without WHERE"),
    ("BEGIN; DELETE FROM users; COMMIT", "DELETE without WHERE"),
    ("BEGIN TRANSACTION DELETE FROM users COMMIT", "DELETE without WHERE"),
    ("EXPLAIN ANALYZE DELETE FROM users", "DELETE without WHERE"),
    ("UPDATE users SET admin = true", "UPDATE without WHERE"),
    ("UPDATE users SET a = (SELECT b FROM c WHERE d = 1)", "UPDATE without WHERE"),
]

HARMLESS = [
    "",
    "   ;;",
    "SELECT * FROM users",
    "SELECT 'DROP TABLE users'",
    "SELECT 1 -- DROP TABLE users",
    "SELECT 1 /* DROP TABLE users */",
    "SELECT drop_date, truncated, deleted FROM updates",
    'SELECT "drop" FROM users',
    "SELECT * FROM users WHERE note = 'please DELETE FROM this list'",
    "INSERT INTO log VALUES ('TRUNCATE users')",
    "INSERT INTO t VALUES (1) ON CONFLICT (id) DO UPDATE SET a = 1",
    "INSERT INTO t VALUES (1) ON DUPLICATE KEY UPDATE a = 1",
    "CREATE TABLE x (id int REFERENCES y ON DELETE CASCADE ON UPDATE CASCADE)",
    "SELECT * FROM users FOR UPDATE",
    "DELETE FROM users WHERE id = 7",
    "DELETE FROM users WHERE id = 7 AND 1=1",
    "UPDATE users SET admin = false WHERE id = 7",
    "UPDATE users SET note = 'x' WHERE note LIKE 'y%'",
    "DELETE a FROM a JOIN b ON a.i = b.i WHERE b.old",
    "MERGE INTO t USING s ON t.id = s.id WHEN MATCHED THEN UPDATE SET a = 1",
    "ALTER TABLE users ADD COLUMN email TEXT",
    "CREATE INDEX i ON users (email)",
    "GRANT SELECT ON users TO reader",
]


@pytest.mark.parametrize(("sql", "expected"), DESTRUCTIVE)
def test_a_destructive_statement_is_found(sql: str, expected: str) -> None:
    assert str(find_sql(sql, PATTERNS)) == expected


@pytest.mark.parametrize("sql", HARMLESS)
def test_a_harmless_statement_is_not(sql: str) -> None:
    assert find_sql(sql, PATTERNS) is None


@pytest.mark.parametrize(
    ("pattern", "sql", "is_found"),
    [
        ("drop table", "DROP TABLE users", True),
        ("DROP TABLE", "DROP VIEW recent", False),
        ("DROP TABLE", "EXEC('DROP VIEW recent')", True),  # nobody can tell
        ("DELETE", "DELETE FROM users WHERE id = 1", True),
        ("INSERT", "INSERT INTO users VALUES (1)", True),
        ("ALTER TABLE", "ALTER TABLE users ADD COLUMN a INT", True),
        ("GRANT", "GRANT ALL ON users TO public", True),
        ("SELECT", "SELECT 1", True),
        ("CREATE USER", "CREATE TABLE x (a int)", False),
    ],
)
def test_a_pattern_names_a_statement_and_what_it_is_about(pattern: str, sql: str, is_found: bool) -> None:
    assert (find_sql(sql, [SqlPattern.parse(pattern)]) is not None) == is_found


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "write a statement"),
        ("DROP TABLE users", "write a statement"),
        ("DESTROY", "DESTROY is an unknown statement"),
        ("DROP without WHERE", "only DELETE and UPDATE"),
        ("WHERE", "is an unknown statement"),
    ],
)
def test_a_wrong_pattern_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        SqlPattern.parse(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT 1", True),
        ("  -- note\nDROP TABLE x", True),
        ("update users set a = 1", True),
        ("WITH a AS (SELECT 1) SELECT * FROM a", True),
        ("SELECT 1; DELETE FROM x", True),
        ("update the docs", False),
        ("drop it", False),
        ("how to drop a table in postgres", False),
        ("deleted files", False),
        ("", False),
    ],
)
def test_sql_is_told_from_prose(text: str, expected: bool) -> None:
    assert is_sql(text) == expected


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT " + "(" * 5_000 + "; DROP TABLE x",
        "SELECT " + "NOT " * 1_500 + "1; DROP TABLE x",
        "SELECT " + "+".join(["a"] * 3_500) + "; DROP TABLE x",
        "SELECT 1;" * 800 + "DROP TABLE x",
        "SELECT " + "x," * 500_000 + "1; DROP TABLE x",
        "\n(" * 4_000 + "DROP TABLE x",
    ],
    ids=["parentheses", "nots", "sum", "statements", "long", "lines"],
)
def test_a_hostile_text_costs_little_and_hides_nothing(sql: str) -> None:
    began = time.perf_counter()
    assert find_sql(sql, PATTERNS) is not None
    is_sql(sql)
    assert time.perf_counter() - began < 2


PIECES = [*"'\"`();-/*$[] \n\\1a", "DROP ", "DELETE FROM ", "WHERE ", "UPDATE ", "CASE "]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_no_text_makes_it_fail(sql: str) -> None:
    find_sql(sql, PATTERNS)
    is_sql(sql)


GAPS = [
    "/**/",
    "/* a */",
    "/* a /* b */ c */",
    "--x\n",
    "#x\n",
    "\t",
    "\n",
    "\r\n",
    "\v",
    "\f",
    "\xa0",
    "\u3000",
    " -- x\n ",
]
SPLIT = [
    ("DROP", "TABLE", "users"),
    ("TRUNCATE", "users"),
    ("DELETE", "FROM", "users"),
    ("UPDATE", "users", "SET", "a=1"),
    ("DROP", 'TABLE"users"'),
    ("DROP", "TABLE`users`"),
    ('UPDATE"users"SET a=1',),
]
CLIENTS = [
    "sqlite3 app.db %s",
    "duckdb app.db %s",
    "duckdb -c %s app.db",
    "psql -c %s",
    "mysql -e %s app",
    "clickhouse-client --query %s",
    "bq query %s",
    "sqlcmd -Q %s",
    "sqlite-utils app.db %s",
    "dolt sql -q %s",
    "turso db shell app %s",
]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("words", SPLIT, ids=" ".join)
async def test_no_gap_between_its_words_hides_a_statement_of_a_client(client: str, words: tuple[str, ...]) -> None:
    policy = preset(SqlProtection)
    for gap in GAPS:
        for sql in (gap.join(words), gap + gap.join(words), f"/* a */{gap.join(words)}"):
            assert await is_blocked(policy, *bash(client.replace("%s", shlex.quote(sql)))), sql
            assert await is_blocked(policy, "mcp__db__run_query", {"query": sql}), sql


@pytest.mark.parametrize(
    "script",
    [
        "sqlite3 app.db 'SELECT/**/*/**/FROM/**/users'",
        "sqlite3 app.db '/* DROP TABLE users */ SELECT 1'",
        "sqlite3 app.db '-- DROP TABLE users'",
        "duckdb app.db 'DELETE/**/FROM/**/users/**/WHERE/**/id=7'",
        "sqlite3 drop/table.db .tables",
        "duckdb 'update#1.db' -c 'SELECT 1'",
        "turso db create drop-table",
        "bq ls drop_table",
    ],
)
async def test_a_harmless_statement_of_a_client_passes(script: str) -> None:
    assert not await is_blocked(preset(SqlProtection), *bash(script))


@pytest.mark.parametrize(
    "text", ["drop/table", "/* update the docs */", "update#1 set", "drop -- the table", "call(me)"]
)
def test_prose_with_the_marks_of_comments_is_no_sql(text: str) -> None:
    assert not is_sql(text)
