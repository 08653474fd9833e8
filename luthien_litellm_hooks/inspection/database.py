"""The spend logs in LiteLLM's database, through the Prisma client that LiteLLM generates."""

import asyncio
import importlib
import subprocess
from collections.abc import Sequence
from typing import Any, Protocol, cast

import httpx
from prisma.errors import PrismaError

from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.inspection.transactions import Filter, Transaction, may_be_ours, read_transaction

_FOUND_AT_MOST = 20

# The id of a transaction has no index, so it is only looked for where $2 says that this may be one.
_FIND = """
SELECT request_id, litellm_call_id, call_type, api_key, model, model_group, "startTime", metadata
FROM "LiteLLM_SpendLogs"
WHERE request_id = $1 OR litellm_call_id = $1
   OR ($2::boolean AND metadata #>> '{spend_logs_metadata,luthien,transaction_id}' = $1)
ORDER BY (metadata #>> '{spend_logs_metadata,luthien,transaction_id}' = $1) DESC NULLS LAST,
    request_id = $1 DESC, "startTime" DESC
LIMIT $3::int
"""

_LATEST = """
SELECT request_id, litellm_call_id, call_type, api_key, model, model_group, "startTime", metadata
FROM "LiteLLM_SpendLogs"
WHERE jsonb_typeof(metadata #> '{spend_logs_metadata,luthien}') = 'object'
  AND ($1::text IS NULL OR metadata #>> '{spend_logs_metadata,luthien,outcome}' = $1)
  AND ($2::text IS NULL OR metadata #> '{spend_logs_metadata,luthien,policies}'
       @> jsonb_build_array(jsonb_build_object('name', $2::text)))
  AND ($3::text IS NULL OR $3 IN (model, model_group))
  AND ($4::text IS NULL OR $4 IN (api_key, metadata ->> 'user_api_key_alias'))
  AND ($5::text IS NULL OR "startTime" >= ($5::timestamptz AT TIME ZONE 'UTC'))
ORDER BY "startTime" DESC
LIMIT $6::int
"""


class _Client(Protocol):
    """What is used of the generated client, which type checkers do not see."""

    async def connect(self) -> None: ...
    async def disconnect(self) -> None: ...
    async def query_raw(self, query: str, *args: object) -> list[dict[str, Any]]: ...


class Database:
    """The spend logs in the PostgreSQL at `url`."""

    def __init__(self, url: str) -> None:
        self._url = url

    def find(self, wanted: str) -> Sequence[Transaction]:
        return self._read(_FIND, wanted, may_be_ours(wanted), _FOUND_AT_MOST)

    def latest(self, chosen: Filter, limit: int) -> Sequence[Transaction]:
        since = chosen.since.isoformat() if chosen.since else None
        return self._read(_LATEST, chosen.outcome, chosen.policy, chosen.model, chosen.key, since, limit)

    def _read(self, query: str, *values: object) -> Sequence[Transaction]:
        try:
            rows = asyncio.run(_query(_client(self._url), query, values))
        except (PrismaError, httpx.HTTPError, OSError, subprocess.SubprocessError) as error:
            detail = str(error).replace(self._url, "***") or type(error).__name__
            raise ConfigError(f"The spend logs cannot be read from the database: {detail}") from None
        return [read_transaction(row) for row in rows]


def _client(url: str) -> _Client:
    try:
        return cast(_Client, importlib.import_module("prisma").Prisma(datasource={"url": url}))
    except RuntimeError:
        raise ConfigError(
            "LiteLLM's Prisma client has not been generated in this Python environment. Run the command where the "
            "proxy runs, which generates it at its start, or read from the running proxy with --url."
        ) from None


async def _query(client: _Client, query: str, values: Sequence[object]) -> list[dict[str, Any]]:
    await client.connect()
    try:
        return await client.query_raw(query, *values)
    finally:
        await client.disconnect()
