"""`luthien-hooks show`, `list` and `diff` on a real PostgreSQL, through Prisma and through a real proxy's API."""

import json
import os
import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from luthien_litellm_hooks.cli.demo.proxy import HOST
from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.command import COMMAND, Done, run, run_forked
from tests.support.postgres import spend_logs
from tests.support.prisma_client import prisma_environment
from tests.support.proxy import (
    KEEPS_PROMPTS,
    KEY,
    PYTHON,
    Proxies,
    Proxy,
    free_port,
    proxy_config,
    running_proxy,
)
from tests.support.recorded import TIME, AsksPolitely, NoDeletes, Untouched, insert, recorded, row
from tests.support.selected import selected

GUARD = {"policy": {"class": "block_dangerous_commands"}}


class Database:
    """Commands that read from PostgreSQL, in processes of their own: LiteLLM's client is not generated for this one."""

    def __init__(self, url: str, **environment: str) -> None:
        self._environment = {**PYTHON, **prisma_environment(url), "LITELLM_MASTER_KEY": KEY, **environment}

    def run(self, *arguments: str) -> Done:
        return run_forked(*arguments, **self._environment)


class Api:
    """Commands that read from a proxy."""

    def __init__(self, proxy: Proxy) -> None:
        self._url = proxy.url

    def run(self, *arguments: str) -> Done:
        return run(*arguments, "--url", self._url, LITELLM_MASTER_KEY=KEY)


Logs = Database | Api


@pytest.fixture(scope="module")
def proxy(proxies: Proxies, postgres_url: str) -> Proxy:
    return proxies.lab(selected(GUARD["policy"]), database_url=postgres_url, general_settings=KEEPS_PROMPTS)


@pytest.fixture
def api(proxy: Proxy) -> Api:
    return Api(proxy)


@pytest.fixture(params=["database", "api"])
def logs(request: pytest.FixtureRequest, postgres_url: str) -> Logs:
    return Database(postgres_url) if request.param == "database" else request.getfixturevalue("api")


async def test_a_transaction_is_found_by_each_of_its_ids(logs: Logs, postgres_url: str) -> None:
    record = await recorded(NoDeletes())
    columns = row(record)
    insert(postgres_url, columns)
    outputs = set[str]()
    for wanted in (record["transaction_id"], columns["request_id"], columns["litellm_call_id"]):
        shown = logs.run("show", wanted)
        assert (shown.code, shown.stderr) == (0, "")
        outputs.add(shown.stdout)
    (output,) = outputs
    assert "it deletes a database" in output
    assert "│ rm -rf /var/lib/postgresql" in output
    assert "[luthien] This command was not run." in output
    assert max(map(len, output.splitlines())) <= 100


def test_a_blocked_call_is_shown_as_the_model_made_it_with_who_withheld_it_and_why(
    proxy: Proxy, provider: ScriptedProvider, postgres_url: str
) -> None:
    call = Call("Bash", '{"command": "sudo rm -rf /"}', id="call_a")
    provider.answers["shown"] = Answer([Say("I clean up."), call])
    key = proxy.virtual_key(key_alias=f"agent-{uuid.uuid4()}")
    body = {"model": "openai/shown", "stream": True, "messages": [{"role": "user", "content": "Clean up."}]}
    proxy.http.post("/v1/chat/completions", headers={"Authorization": f"Bearer {key}"}, json=body).raise_for_status()
    [logged] = spend_logs(postgres_url, key)
    shown = Database(postgres_url).run("show", logged["request_id"])
    assert (shown.code, shown.stderr) == (0, "")
    words = " ".join(shown.stdout.split())
    for part in (
        "outcome blocked",
        "block tool call Bash (call_a) by block_dangerous_commands",
        "dangerous command: recursive deletion of / message to the client: A policy blocked the call of Bash.",
        "evidence: rm -rf /",
        "command: sudo rm -rf /",
        "[luthien] A policy blocked the call",
        "original response",
        "final response",
    ):
        assert part in words


def test_a_providers_error_is_shown_to_the_operator(
    proxy: Proxy, provider: ScriptedProvider, postgres_url: str
) -> None:
    provider.answers["failing"] = Answer([Say("no such model here")], status=400)
    key = proxy.virtual_key(key_alias=f"agent-{uuid.uuid4()}")
    body = {"model": "openai/failing", "messages": [{"role": "user", "content": "Clean up."}]}
    response = proxy.http.post("/v1/chat/completions", headers={"Authorization": f"Bearer {key}"}, json=body)
    assert response.status_code == 400
    [logged] = spend_logs(postgres_url, key)
    shown = Database(postgres_url).run("show", logged["request_id"])
    assert (shown.code, shown.stderr) == (0, "")
    words = " ".join(shown.stdout.split())
    assert "outcome provider_error" in words
    assert "error BadRequestError: " in words
    assert "no such model here" in words


@pytest.mark.parametrize("version", ["0.11.0", pytest.param("0.13.1", marks=pytest.mark.stock)])
def test_rows_are_whole_and_can_be_read_with_an_older_prisma(
    version: str, provider_url: str, provider: ScriptedProvider, postgres_url: str, tmp_path: Path
) -> None:
    """0.11.0 is what LiteLLM's images have."""
    provider.answers["older"] = Answer([Call("Bash", '{"command": "sudo rm -rf /"}')])
    environment = prisma_environment(postgres_url, version)
    with running_proxy(proxy_config(provider_url, GUARD), tmp_path / "proxy", environment) as proxy:
        key = proxy.virtual_key(key_alias=f"agent-{uuid.uuid4()}")
        body = {"model": "openai/older", "stream": True, "messages": [{"role": "user", "content": "Clean up."}]}
        proxy.http.post(
            "/v1/chat/completions", headers={"Authorization": f"Bearer {key}"}, json=body
        ).raise_for_status()
        [logged] = spend_logs(postgres_url, key)
    shown = Database(postgres_url, **environment).run("show", logged["request_id"], "--json")
    assert (shown.code, shown.stderr) == (0, "")
    record = json.loads(shown.stdout)["record"]
    assert record["outcome"] == "blocked"


@pytest.fixture
def without_prisma(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "prisma"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prisma", None)


@pytest.mark.usefixtures("without_prisma")
@pytest.mark.parametrize("command", [["show", "x"], ["diff", "x"], ["list"], ["try", "noop", "--record", "x"]])
def test_without_prisma_it_is_told_what_reads_a_database(command: list[str]) -> None:
    done = run(*command, DATABASE_URL="postgresql://127.0.0.1:9/litellm")
    assert done.code == 2
    words = " ".join(done.stderr.split())
    assert "The package prisma is missing, which reads LiteLLM's database. Install it (pip install 'prisma" in words


@pytest.mark.usefixtures("without_prisma")
def test_a_proxy_is_read_without_prisma(api: Api) -> None:
    done = api.run("list", "--key", "nobody", "--json")
    assert (done.code, json.loads(done.stdout)) == (0, {"transactions": []})


TALKING_PRISMA = """
import subprocess
class errors:
    class PrismaError(Exception): ...
class Prisma:
    def __init__(self, datasource): ...
    async def connect(self): subprocess.run(["echo", "query-engine 5.4.2"], check=True)
    async def disconnect(self): ...
    async def query_raw(self, *query): return []
"""


def test_what_prismas_engine_prints_is_kept_off_the_output(tmp_path: Path) -> None:
    """prisma 0.11 has it say its version, where it finds it beside the generated client."""
    (tmp_path / "prisma.py").write_text(TALKING_PRISMA)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "DATABASE_URL": "postgresql://127.0.0.1:9/litellm"}
    command = [COMMAND, "list", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"transactions": []}


def test_a_client_of_another_version_of_prisma_is_told(tmp_path: Path) -> None:
    """As after an upgrade of prisma, which leaves the modules of the generated client where they are."""
    (tmp_path / "prisma.py").write_text("from typing import AbstractEngine")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "DATABASE_URL": "postgresql://127.0.0.1:9/litellm"}
    done = subprocess.run([COMMAND, "list"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    words = " ".join(done.stderr.split())
    assert "LiteLLM's Prisma client cannot be loaded: cannot import name 'AbstractEngine'" in words
    assert "Another version of prisma generated it" in words


async def test_a_diff_is_of_what_changed(api: Api, postgres_url: str) -> None:
    record = await recorded(AsksPolitely())
    insert(postgres_url, row(record))
    shown = api.run("diff", record["transaction_id"])
    assert shown.code == 0
    lines = [line.rstrip() for line in shown.stdout.splitlines()]
    assert lines[:5] == ["request", "- model: gpt-5", "- temperature: 0.2", "+ model: gpt-5-mini", "+ temperature: 0"]
    assert "response" not in lines
    machine = json.loads(api.run("diff", record["transaction_id"], "--json").stdout)
    assert machine["request"][:2] == ["- model: gpt-5", "- temperature: 0.2"]
    assert machine["answer"] == []


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ([], ["new", "old"]),
        (["--limit", "1"], ["new"]),
        (["--since", "30m", "--model", "gpt-5"], ["new"]),
        (["--since", "2h", "--model", "gpt-5-old"], ["old"]),
        (["--outcome", "blocked", "--policy", "NoDeletes"], ["old"]),
        (["--policy", "Deletes"], []),
    ],
    ids=" ".join,
)
async def test_a_list_has_what_is_asked_for_newest_first(
    logs: Logs, postgres_url: str, options: list[str], found: list[str]
) -> None:
    alias = str(uuid.uuid4())
    now = datetime.now(UTC)
    policies = {"new": Untouched(), "old": NoDeletes()}
    records = {name: await recorded(policy) for name, policy in policies.items()}
    times = {"new": now, "old": now - timedelta(hours=1)}
    for name in ("old", "new"):
        columns = row(records[name], startTime=times[name], model=f"gpt-5-{name}")
        columns["metadata"]["user_api_key_alias"] = alias
        insert(postgres_url, columns)
    listed = logs.run("list", "--key", alias, "--json", *options)
    assert listed.code == 0, listed.stderr
    transactions = json.loads(listed.stdout)["transactions"]
    assert [of["record"]["transaction_id"] for of in transactions] == [
        records[name]["transaction_id"] for name in found
    ]
    assert all(of["record"].keys().isdisjoint({"original", "final"}) for of in transactions)


async def test_a_list_has_each_of_many_rows_of_the_same_times(logs: Logs, postgres_url: str) -> None:
    """LiteLLM pages by an order in which rows of one time may change places."""
    record, key = await recorded(Untouched()), uuid.uuid4().hex
    times = [TIME - timedelta(milliseconds=500 * (number // 20)) for number in range(400)]
    insert(postgres_url, *(row(record, api_key=key, startTime=time) for time in times))
    listed = json.loads(logs.run("list", "--key", key, "--limit", "1000", "--json").stdout)["transactions"]
    assert len({of["response_id"] for of in listed}) == len(listed) == len(times)
    assert [datetime.fromisoformat(of["time"]) for of in listed] == times


async def test_a_list_may_be_of_one_key_by_its_hash(logs: Logs, postgres_url: str) -> None:
    record, key = await recorded(Untouched()), uuid.uuid4().hex
    insert(postgres_url, row(record, api_key=key), row(None, api_key=key))
    listed = logs.run("list", "--key", key)
    assert listed.code == 0
    assert listed.stdout.count("gpt-5") == 1, "a row without a record is none of ours"
    assert record["transaction_id"] in listed.stdout


def test_a_list_of_nothing_says_so(logs: Logs) -> None:
    listed = logs.run("list", "--key", "nobody")
    assert (listed.code, listed.stdout) == (0, "")
    assert "no matching transaction" in listed.stderr


async def test_the_json_of_a_transaction_is_its_record_as_it_was_written(api: Api, postgres_url: str) -> None:
    record = await recorded(NoDeletes())
    columns = row(record, startTime=TIME)
    insert(postgres_url, columns)
    shown = json.loads(api.run("show", record["transaction_id"], "--json").stdout)
    assert shown.pop("record") == record
    assert shown.pop("time") == "2026-11-21T12:34:56Z"
    assert shown == {
        "response_id": columns["request_id"],
        "call_id": columns["litellm_call_id"],
        "route": "acompletion",
        "model": columns["model"],
        "model_group": "gpt-5",
        "key_hash": columns["api_key"],
        "key_alias": "build-agent",
    }


@pytest.mark.parametrize("wanted", ["00000000-0000-4000-8000-000000000000", "'; -- \x1b[31m"], ids=["uuid", "text"])
def test_what_is_not_there_is_not_found(logs: Logs, wanted: str) -> None:
    shown = logs.run("show", wanted)
    assert (shown.code, shown.stdout) == (1, "")
    assert "luthien-hooks list" in shown.stderr
    assert "\x1b" not in shown.stderr


async def test_a_row_that_no_policy_governed_is_told_from_one_that_is_missing(logs: Logs, postgres_url: str) -> None:
    columns = row(None)
    insert(postgres_url, columns)
    shown = logs.run("show", columns["request_id"])
    assert shown.code == 1
    assert "no policy governed it" in shown.stderr


async def test_a_call_id_that_a_client_used_twice_leads_to_both_transactions(api: Api, postgres_url: str) -> None:
    records, call_id = [await recorded(Untouched()) for _ in range(2)], str(uuid.uuid4())
    insert(postgres_url, *(row(record, litellm_call_id=call_id) for record in records))
    shown = api.run("show", call_id)
    assert shown.code == 1
    assert all(record["transaction_id"] in shown.stderr for record in records)


async def test_a_chosen_call_id_does_not_hide_a_transaction(logs: Logs, postgres_url: str) -> None:
    blocked, decoy = await recorded(NoDeletes()), await recorded(Untouched())
    insert(postgres_url, row(blocked), row(decoy, litellm_call_id=blocked["transaction_id"]))
    shown = logs.run("show", blocked["transaction_id"])
    assert "it deletes a database" in shown.stdout


async def test_without_texts_a_diff_only_names_what_changed(api: Api, postgres_url: str) -> None:
    blocked = await recorded(NoDeletes(), with_bodies=False)
    untouched = await recorded(Untouched(), with_bodies=False)
    insert(postgres_url, row(blocked), row(untouched))
    of_blocked, of_untouched = (api.run("diff", record["transaction_id"]) for record in (blocked, untouched))
    assert (of_blocked.code, of_blocked.stdout) == (1, "")
    assert "Changed: response. The texts of this transaction are not stored" in of_blocked.stderr
    assert "store_prompts_in_spend_logs" in of_blocked.stderr
    assert (of_untouched.code, of_untouched.stdout) == (0, "Nothing was changed.\n")


async def test_a_diff_of_what_is_not_recorded_says_so(api: Api, postgres_url: str) -> None:
    record = await recorded(Untouched())
    record["changed"]["request"] = True
    insert(postgres_url, row(record))
    assert "hides credentials" in api.run("diff", record["transaction_id"]).stdout
    shown = api.run("show", record["transaction_id"]).stdout
    assert "request, changed in a part that is not recorded" in shown
    assert "response, unchanged" in shown


async def test_hostile_text_does_not_reach_the_terminal(api: Api, postgres_url: str) -> None:
    answer = Answer([Say("\x1b]0;owned\x07\x9b31m\u202e [red]not red[/red]")])
    record = await recorded(Untouched(), answer)
    insert(postgres_url, row(record, model="\x1b[31m"))
    shown, machine = (api.run("show", record["transaction_id"], *options) for options in ((), ("--json",)))
    for done in (shown, machine):
        assert done.code == 0
        assert all(character.isprintable() or character == "\n" for character in done.stdout)
    assert "\\x1b]0;owned\\x07\\x9b31m\\u202e [red]not red[/red]" in shown.stdout


def assert_is_refused(refused: Done, *told: str) -> None:
    assert (refused.code, refused.stdout) == (2, "")
    assert "Traceback" not in refused.stderr
    for text in told:
        assert text in refused.stderr


def test_a_database_that_is_not_there_is_told_without_its_password() -> None:
    refused = Database(f"postgresql://user:secret@{HOST}:{free_port()}/litellm").run("list")
    assert_is_refused(refused, "cannot be read from the database", HOST)
    assert "secret" not in refused.stderr


@pytest.mark.parametrize("engine", ["/nonexistent", "/bin/false"])
def test_an_engine_that_does_not_start_is_told(engine: str) -> None:
    refused = Database(f"postgresql://{HOST}/litellm", PRISMA_QUERY_ENGINE_BINARY=engine).run("list")
    assert_is_refused(refused, "cannot be read from the database", engine)


def test_without_a_generated_client_it_says_what_to_do(postgres_url: str) -> None:
    assert_is_refused(run("list", DATABASE_URL=postgres_url), "Prisma client has not been generated", "--url")


@pytest.mark.parametrize("arguments", [("show", "x"), ("diff", "x"), ("list",)], ids=" ".join)
def test_a_proxy_that_is_not_there_is_told(arguments: tuple[str, ...]) -> None:
    url = f"http://{HOST}:{free_port()}"
    assert_is_refused(run(*arguments, "--url", url, LITELLM_MASTER_KEY=KEY), f"{url} cannot be reached")


@pytest.mark.parametrize("url", ["nonsense", "http://[", "ftp://127.0.0.1"])
def test_what_is_no_address_is_told(url: str) -> None:
    assert_is_refused(run("list", "--url", url, LITELLM_MASTER_KEY=KEY), f"{url} cannot be reached")


@pytest.mark.parametrize("key", ["", " ", "sk-ü", "two\nlines"])
def test_a_key_that_no_header_can_carry_is_told(key: str) -> None:
    refused = run("list", LITELLM_MASTER_KEY=key)
    assert_is_refused(refused, "LITELLM_MASTER_KEY")


def test_a_key_that_is_refused_is_told_and_not_printed(proxy: Proxy) -> None:
    refused = run("list", "--url", proxy.url, "--api-key", "sk-wrong-0123456789")
    assert_is_refused(refused, proxy.url, "an admin's key")
    assert "sk-wrong" not in refused.stderr


def test_what_is_no_proxy_is_told(provider_url: str) -> None:
    assert_is_refused(run("show", "x", "--url", provider_url, LITELLM_MASTER_KEY=KEY), provider_url)


@pytest.mark.parametrize("since", ["yesterday", "2x", "9999999999999d", "2026-13-01", ""])
def test_a_time_that_is_none_is_told(since: str) -> None:
    assert_is_refused(run("list", "--since", since, LITELLM_MASTER_KEY=KEY), "since", "2026-05-31T12:00")


def test_an_outcome_that_is_none_is_told_with_those_that_are() -> None:
    assert_is_refused(run("list", "--outcome", "fine", LITELLM_MASTER_KEY=KEY), "complete, blocked, policy_error")
