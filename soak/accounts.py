"""The records in LiteLLM's spend logs, against the requests that were sent."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic, sleep
from typing import Any

import psycopg
from psycopg.rows import dict_row

from soak.traffic import Sent

_PATIENCE_S = 60.0


@dataclass(slots=True)
class Account:
    """Of one kind of request: how many there were, and what is wrong."""

    requests: int = 0
    wrong_answers: list[str] = field(default_factory=list[str])
    missing: list[str] = field(default_factory=list[str])
    doubled: list[str] = field(default_factory=list[str])
    wrong_records: list[str] = field(default_factory=list[str])

    @property
    def is_good(self) -> bool:
        return not (self.wrong_answers or self.missing or self.doubled or self.wrong_records)


def rows_of(url: str, sent: Sequence[Sent]) -> list[dict[str, Any]]:
    """The rows of these requests, as soon as there is one of each, or after `_PATIENCE_S`; LiteLLM writes late."""
    query = 'SELECT litellm_call_id, metadata FROM "LiteLLM_SpendLogs" WHERE litellm_call_id = ANY(%s)'
    calls = [one.call_id for one in sent]
    deadline = monotonic() + _PATIENCE_S
    with psycopg.connect(url, autocommit=True) as connection, connection.cursor(row_factory=dict_row) as cursor:
        while True:
            rows = cursor.execute(query, [calls]).fetchall()
            if len({row["litellm_call_id"] for row in rows}) == len(calls) or monotonic() > deadline:
                return rows
            sleep(1)


def accounts(sent: Sequence[Sent], rows: Sequence[Mapping[str, Any]]) -> dict[str, Account]:
    """An account for each case's name."""
    by_call: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        by_call[row["litellm_call_id"]].append(row)
    result: dict[str, Account] = defaultdict(Account)
    for one in sent:
        _enter(result[one.case.name], one, by_call[one.call_id])
    return dict(result)


def _enter(account: Account, one: Sent, rows: Sequence[Mapping[str, Any]]) -> None:
    account.requests += 1
    if one.wrong is not None:
        account.wrong_answers.append(f"{one} ({one.call_id}): {one.wrong}")
    if not rows:
        account.missing.append(f"{one} ({one.call_id}): no record")
    elif len(rows) > 1:
        account.doubled.append(f"{one} ({one.call_id}): {len(rows)} records")
    elif (outcome := _outcome(rows[0])) != one.case.outcome:
        account.wrong_records.append(f"{one} ({one.call_id}): {outcome} instead of {one.case.outcome}")


def _outcome(row: Mapping[str, Any]) -> object:
    metadata: dict[str, Any] = row["metadata"]
    ours: dict[str, Any] = metadata.get("spend_logs_metadata") or {}
    return ours["luthien"]["outcome"] if "luthien" in ours else "a row without a record"
