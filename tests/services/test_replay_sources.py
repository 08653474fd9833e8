"""`luthien-hooks replay` of the same 1,000 transactions from PostgreSQL, a proxy's API, a file of records, and
events."""

import asyncio
import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.services.test_show_command import Api, Database, run
from tests.support.proxy import KEEPS_PROMPTS, Proxies
from tests.support.recorded import insert
from tests.support.selected import NOOP
from tests.support.traffic import (
    NO_DEPLOYS,
    POLICIES,
    executor_of,
    policy_of,
    record_of,
    transactions,
    write_events,
    write_sqlite,
)

COUNT = 1_000


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    made = asyncio.run(transactions(COUNT, executor_of(*POLICIES)))
    alias = f"agents-{uuid.uuid4()}"
    for row in made:
        row["metadata"]["user_api_key_alias"] = record_of(row)["identity"]["key_alias"] = alias
    return made


def test_each_source_tells_the_same(
    proxies: Proxies, postgres_url: str, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    insert(postgres_url, *rows)
    write_sqlite(tmp_path / "records.sqlite", rows)
    write_events(tmp_path / "events.jsonl", rows)
    proxy = proxies.lab(NOOP, database_url=postgres_url, general_settings=KEEPS_PROMPTS)
    (tmp_path / "same.yaml").write_text(json.dumps({"policy": policy_of(*POLICIES)}))
    (tmp_path / "more.yaml").write_text(json.dumps({"policy": policy_of(*POLICIES, NO_DEPLOYS)}))
    planted = sum("deploy" in json.dumps(record_of(row)["original"]["answer"]) for row in rows)
    assert planted > COUNT / 20
    key = rows[0]["metadata"]["user_api_key_alias"]
    for candidate, blocked in (("same.yaml", 0), ("more.yaml", planted)):
        asked = ("replay", str(tmp_path / candidate), "--key", key, "--limit", str(2 * COUNT), "--json")
        done = {
            "database": Database(postgres_url).run(*asked),
            "api": Api(proxy).run(*asked),
            "file": run(*asked, "--records", str(tmp_path / "records.sqlite")),
            "events": run(*asked, "--from", str(tmp_path / "events.jsonl")),
        }
        assert {way: one.code for way, one in done.items()} == dict.fromkeys(done, 0), done
        reports = {way: {**json.loads(one.stdout), "from": "", "seconds": 0} for way, one in done.items()}
        for report in reports.values():
            assert report == reports["file"]
            assert (report["transactions"], report["not_replayed"]) == (COUNT, {})
            assert (report["newly_blocked"], report["newly_allowed"], report["changed"]) == (blocked, 0, 0)
            assert report["changed_transactions"] == blocked
            assert report["counterfactual"]["transactions"] == 0
