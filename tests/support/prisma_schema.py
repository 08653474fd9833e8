"""What LiteLLM's schema has and a database lacks, as SQL.

LiteLLM's migrations come in a package of their own. Of a release whose package an index has not, an older one
leaves tables out, and LiteLLM then writes no spend logs at all.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

_TYPES = {
    "BigInt": "bigint",
    "Boolean": "boolean",
    "Bytes": "bytea",
    "DateTime": "timestamp(3)",
    "Decimal": "decimal(65,30)",
    "Float": "double precision",
    "Int": "integer",
    "Json": "jsonb",
    "String": "text",
}


@dataclass
class _Model:
    table: str
    columns: dict[str, str] = field(default_factory=dict)
    """Each field's name, with its column's definition."""
    keys: list[str] = field(default_factory=list)
    primary: str = ""


def missing_sql(schema: str, present: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Statements that add the enums, tables and columns of a Prisma schema, but for the `present` (table, column)s.

    They have keys and defaults, which queries need, and no indexes or relations.
    """
    enums = dict(re.findall(r"^enum (\w+) \{(.*?)^\}", schema, re.MULTILINE | re.DOTALL))
    tables = {table for table, _ in present}
    for enum, body in enums.items():
        values = ", ".join(f"'{value}'" for value in body.split())
        yield f"""DO $$ BEGIN CREATE TYPE "{enum}" AS ENUM ({values}); EXCEPTION WHEN duplicate_object THEN END $$"""
    for name, body in re.findall(r"^model (\w+) \{(.*?)^\}", schema, re.MULTILINE | re.DOTALL):
        model = _read_model(name, body, enums)
        if model.table not in tables:
            yield f'CREATE TABLE "{model.table}" ({", ".join([*model.columns.values(), model.primary])})'
            yield from model.keys
        else:
            for column in model.columns.values():
                if (model.table, column.split('"')[1]) not in present:
                    yield f'ALTER TABLE "{model.table}" ADD COLUMN {column}'


def _read_model(name: str, body: str, enums: dict[str, str]) -> _Model:
    model = _Model(_mapped(body, "@@map") or name)
    for line in body.splitlines():
        if match := re.match(r"\s+(\w+)\s+(\w+)(\[\]|\?)?(.*)", line):
            column, kind, suffix, rest = match.groups()
            if (sql := f'"{kind}"' if kind in enums else _TYPES.get(kind)) is not None:
                _add_column(model, column, sql, suffix or "", rest)
        elif match := re.match(r"\s+@@(id|unique)\(\[([^]]*)\]", line):
            _add_key(model, match[1], re.findall(r"(\w+)(?:\([^)]*\))?", match[2]))
    return model


def _add_column(model: _Model, column: str, sql: str, suffix: str, rest: str) -> None:
    name = _mapped(rest, "@map") or column
    if "autoincrement()" in rest:
        sql = "bigserial"
    sql += "[]" if suffix == "[]" else ""
    default = _default(rest)
    null = "" if suffix else " NOT NULL"
    model.columns[column] = f'"{name}" {sql}{null}{default}'
    if re.search(r"@(id|unique)\b", rest):
        _add_key(model, "id" if "@id" in rest else "unique", [column])


def _add_key(model: _Model, kind: str, fields: Sequence[str]) -> None:
    columns = ", ".join(f'"{model.columns[name].split(chr(34))[1]}"' for name in fields)
    if kind == "id":
        model.primary = f"PRIMARY KEY ({columns})"
    else:
        model.keys.append(f'CREATE UNIQUE INDEX ON "{model.table}" ({columns})')


def _default(rest: str) -> str:
    """SQL for a default that the database gives. The engine gives those of uuid() and the like."""
    if "@default(now())" in rest:
        return " DEFAULT CURRENT_TIMESTAMP"
    match = re.search(r'@default\((?:"([^"]*)"|(\w+|-?[\d.]+))\)', rest)
    return "" if match is None else f" DEFAULT '{match[1] if match[2] is None else match[2]}'"


def _mapped(text: str, attribute: str) -> str | None:
    match = re.search(rf'(?<!@){attribute}\("([^"]*)"\)', text)
    return match and match[1]
