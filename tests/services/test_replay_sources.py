"""`luthien-hooks replay` of the same transactions from PostgreSQL, a proxy's API, a file of records, and events."""

import asyncio
import json
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.services.test_show_command import Api, Database
from tests.support.command import Done, run
from tests.support.postgres import spend_logs
from tests.support.proxy import KEEPS_PROMPTS, KEY, Proxies
from tests.support.recorded import insert
from tests.support.selected import NOOP
from tests.support.traffic import (
    ANSWERS,
    NO_DEPLOYS,
    POLICIES,
    WAYS,
    ask_all,
    executor_of,
    policy_of,
    record_of,
    transactions,
    write_events,
    write_sqlite,
)
from tests.support.waiting import wait_until

COUNT = 300


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


TAKEN = [way for number, way in enumerate(WAYS) if number % 4 in (0, 3)]
"""Each scene on each route, streamed or full."""
LUTHIEN = {"policy": policy_of(*POLICIES), "record": {"bodies": "always"}}


def test_the_records_of_a_real_proxy_are_judged_as_it_judged_them(
    proxies: Proxies, provider: ScriptedProvider, postgres_url: str, tmp_path: Path
) -> None:
    provider.answers |= ANSWERS
    with_rows = proxies.get(LUTHIEN, database_url=postgres_url, general_settings=KEEPS_PROMPTS)
    alias = f"agents-{uuid.uuid4()}"
    key = with_rows.virtual_key(key_alias=alias)
    ask_all(with_rows, key, TAKEN)
    spend_logs(postgres_url, key, len(TAKEN))
    with_file, since = proxies.get(LUTHIEN), datetime.now(UTC).isoformat()
    ask_all(with_file, KEY, TAKEN)
    of_file = ("--records", str(with_file.records), "--since", since, "--limit", "1000")
    wait_until(lambda: run("list", *of_file, "--json").stdout.count('"transaction_id"') == len(TAKEN), every_s=1)
    sources: Mapping[str, Callable[..., Done]] = {
        "database": lambda *asked: Database(postgres_url).run(*asked, "--key", alias),
        "api": lambda *asked: Api(with_rows).run(*asked, "--key", alias),
        "file": lambda *asked: run(*asked, *of_file),
    }
    planted = sum(way.question == "deploy" for way in TAKEN)
    (tmp_path / "same.yaml").write_text(json.dumps({"policy": policy_of(*POLICIES)}))
    (tmp_path / "more.yaml").write_text(json.dumps({"policy": policy_of(*POLICIES, NO_DEPLOYS)}))
    for name, source in sources.items():
        for candidate, blocked in (("same.yaml", 0), ("more.yaml", planted)):
            out = tmp_path / f"{name}.jsonl"
            done = source("replay", str(tmp_path / candidate), "--out", str(out), "--json")
            assert done.code == 0, (name, done.stderr)
            report, changes = json.loads(done.stdout), [json.loads(line) for line in out.read_text().splitlines()]
            assert (report["transactions"], report["not_replayed"]) == (len(TAKEN), {}), name
            assert report["counterfactual"]["transactions"] == 0, (name, changes)
            assert [(one["change"], one.get("tool")) for one in changes] == [("newly_blocked", "deploy")] * blocked
