"""`luthien-hooks try` on an answer from the spend logs of a real proxy."""

import asyncio
import json

from tests.support.proxy import KEEPS_PROMPTS, KEY, Proxies
from tests.support.recorded import NoDeletes, insert, recorded, row
from tests.support.selected import NOOP
from tests.unit.cli.test_try_command import run


def test_a_recorded_answer_is_judged_anew(proxies: Proxies, postgres_url: str) -> None:
    record = asyncio.run(recorded(NoDeletes()))
    without = asyncio.run(recorded(NoDeletes(), with_bodies=False))
    insert(postgres_url, row(record), row(without))
    proxy = proxies.lab(NOOP, database_url=postgres_url, general_settings=KEEPS_PROMPTS)
    way = ["--url", proxy.url, "--api-key", KEY]
    done = run("noop", "--json", "--record", record["transaction_id"], *way)
    assert done.exit_code == 0, (done.stderr, done.exception)
    made = json.loads(done.stdout)
    assert made["final"]["answer"]["content"] == record["original"]["answer"]["content"]
    assert made["original"]["request"]["messages"] == record["original"]["request"]["messages"]
    untold = run("noop", "--record", without["transaction_id"], *way)
    assert untold.exit_code == 2
    assert "store_prompts_in_spend_logs" in untold.stderr
    assert run("noop", "--record", "nothing", *way).exit_code == 1
