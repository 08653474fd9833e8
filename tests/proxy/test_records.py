"""Records of a proxy without a database: what `list`, `show` and `watch` tell of it in another terminal."""

import json
import random
import re
import resource
import signal
import sqlite3
import stat
import subprocess
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from luthien_litellm_hooks.recording.sqlite import RecordReader
from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support import command
from tests.support.proxy import KEY, Proxies, Proxy, proxy_config, running_proxy, starting_proxy, wait_for_start
from tests.support.waiting import wait_until

GUARD = {"policy": {"class": "block_dangerous_commands"}, "record": {"store": "auto"}}
WITH_TEXTS = {"policy": {"class": "block_dangerous_commands"}, "record": {"bodies": "always"}}
MANY = 200


def run(records: Path, *arguments: str) -> str:
    """What the command prints in another terminal, without an option that names the records."""
    done = command.run(*arguments, LUTHIEN_RECORDS=str(records))
    assert (done.code, done.stderr) == (0, "")
    return done.stdout


def listed(records: Path, *arguments: str) -> list[dict[str, Any]]:
    if not records.exists():
        return []
    return json.loads(run(records, "list", "--json", "--limit", "1000", *arguments) or '{"transactions": []}')[
        "transactions"
    ]


@contextmanager
def watching(records: Path) -> Generator[subprocess.Popen[str]]:
    """`luthien-hooks watch` in another terminal, as soon as it watches."""
    environment = command.alone(LUTHIEN_RECORDS=str(records))
    process = subprocess.Popen(
        [command.COMMAND, "watch"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == f"Watching {records}. Ctrl-C ends it.\n"
        yield process
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


DELETES = Answer([Say("I clean up."), Call("Bash", '{"command": "sudo rm -rf /"}', id="call_a")])


@pytest.fixture(autouse=True)
def deleting_model(provider: ScriptedProvider) -> None:
    provider.answers["deletes"] = DELETES


def ask(proxy: Proxy, path: str = "/v1/messages", *, text: str = "Clean up.", model: str = "deletes") -> httpx.Response:
    model = f"anthropic/{model}" if path == "/v1/messages" else f"openai/{model}"
    body = {"model": model, "max_tokens": 100, "stream": True, "messages": [{"role": "user", "content": text}]}
    response = httpx.post(proxy.url + path, json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=120)
    return response.raise_for_status()


def test_a_blocked_call_is_told_in_another_terminal(proxies: Proxies) -> None:
    proxy = proxies.get(GUARD)
    with watching(proxy.records) as watch:
        ask(proxy)
        assert watch.stdout is not None
        told = [watch.stdout.readline() for _ in range(3)]
    assert re.search(r"request +anthropic/deletes", told[0])
    assert re.search(r"block +block_dangerous_commands: Bash: dangerous command: recursive deletion of /$", told[1])
    assert re.search(r"ended +blocked", told[2])
    line = next(line for line in run(proxy.records, "list", "--outcome", "blocked").splitlines() if "blocked" in line)
    assert "Bash: dangerous command: recursive deletion of /" in line
    assert len(line) <= 100
    shown = run(proxy.records, "show", "last")
    assert re.search(r"^path +/v1/messages", shown, re.MULTILINE)
    assert "tool call Bash (call_a) by block_dangerous_commands" in shown
    assert "Clean up." not in shown
    [beginning] = re.findall(r"\b[0-9a-f]{8}\b", line)
    alone = command.run_alone("show", beginning, LUTHIEN_RECORDS=str(proxy.records))
    assert alone == command.Done(0, shown, "")
    assert stat.S_IMODE(proxy.records.stat().st_mode) == 0o600


def test_texts_are_shown_and_judged_anew_where_they_are_kept(proxies: Proxies) -> None:
    proxy = proxies.get(WITH_TEXTS)
    with watching(proxy.records) as watch:
        ask(proxy, "/v1/chat/completions")
        assert watch.stdout is not None
        told = "".join(watch.stdout.readline() for _ in range(6))
    assert re.search(r"request +Clean up\.", told)
    assert 'call Bash {"command": "sudo rm -rf /"}' in told
    assert "[luthien] A policy blocked the call of Bash" in told
    shown = run(proxy.records, "show", "last")
    for part in ("/v1/chat/completions", "Clean up.", "command: sudo rm -rf /", "evidence: rm -rf /"):
        assert part in shown
    assert "command: sudo rm -rf /" in run(proxy.records, "diff", "last")
    assert "sudo rm -rf /" in run(proxy.records, "try", "noop", "--record", "last")
    assert listed(proxy.records, "--tool", "Bash")
    assert listed(proxy.records, "--tool", "Read") == []


def test_many_at_once_leave_as_many_right_records(proxies: Proxies, provider: ScriptedProvider) -> None:
    assert_many_are_kept(proxies.get(WITH_TEXTS), provider)


def assert_many_are_kept(proxy: Proxy, provider: ScriptedProvider) -> None:
    provider.answers |= {"harmless": Answer([Say("Nothing to do.")]), "deletes": DELETES}
    before = {record_of(row)["transaction_id"] for row in kept(proxy.records)}
    models = {f"request {number}": "deletes" if number % 2 else "harmless" for number in range(MANY)}
    with ThreadPoolExecutor(MANY) as threads:
        list(threads.map(lambda text: ask(proxy, "/v1/chat/completions", text=text, model=models[text]), models))
    wait_until(lambda: len(kept(proxy.records)) >= len(before) + MANY)
    new = [id for row in kept(proxy.records) if (id := record_of(row)["transaction_id"]) not in before]
    rows = {record_of(row)["original"]["request"]["messages"][0]["content"]: row for row in whole(proxy.records, new)}
    assert len(new) == MANY
    assert rows.keys() == models.keys()
    for text, row in rows.items():
        assert row["model"].endswith(models[text])
        assert record_of(row)["outcome"] == ("blocked" if models[text] == "deletes" else "complete")


def kept(records: Path) -> list[dict[str, Any]]:
    """The rows in the file, without their texts."""
    try:
        return list(RecordReader(records).latest(None)) if records.exists() else []
    except sqlite3.Error:  # not begun yet
        return []


def whole(records: Path, ids: Sequence[str]) -> list[dict[str, Any]]:
    return RecordReader(records).whole(ids)


def record_of(row: dict[str, Any]) -> dict[str, Any]:
    return row["metadata"]["spend_logs_metadata"]["luthien"]


def test_losing_the_file_loses_no_answer_and_the_next_record_is_kept(proxies: Proxies) -> None:
    proxy = proxies.get(GUARD)
    ask(proxy)
    wait_until(lambda: len(listed(proxy.records)) > 0)
    for file in proxy.records.parent.glob("records.sqlite*"):
        file.unlink()
    ask(proxy)
    wait_until(lambda: len(listed(proxy.records)) == 1)


def test_where_no_file_can_be_written_answers_go_on_and_it_is_said_once(provider_url: str, tmp_path: Path) -> None:
    blocked = {"LUTHIEN_RECORDS": "/dev/full/records.sqlite"}
    with running_proxy(proxy_config(provider_url, GUARD), tmp_path / "proxy", blocked) as proxy:
        for _ in range(3):
            assert "[luthien]" in ask(proxy).text
        wait_until(lambda: "records cannot be written to SQLite" in proxy.output)
        assert "[luthien]" in ask(proxy).text
        assert proxy.output.count("cannot be written to SQLite") == 1


def test_a_full_disk_loses_no_answer_and_is_said_once_and_later_all_is_written(
    provider_url: str, provider: ScriptedProvider, tmp_path: Path
) -> None:
    provider.answers["harmless"] = Answer([Say("Nothing to do.")])
    config = proxy_config(provider_url, WITH_TEXTS)

    def say(number: int) -> None:
        text = f"{number} {random.Random(number).randbytes(45_000).hex()}"  # noise: texts are compressed
        assert '"finish_reason":"stop"' in ask(proxy, "/v1/chat/completions", text=text, model="harmless").text

    with starting_proxy(config, tmp_path / "proxy", {}) as (process, proxy):
        wait_for_start(process, proxy)
        say(0)
        wait_until(lambda: len(kept(proxy.records)) == 1)
        largest = max(file.stat().st_size for file in (proxy.log, *proxy.records.parent.glob("records.sqlite*")))
        _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (largest + 100_000, hard))
        for number in range(1, 9):
            say(number)
        wait_until(lambda: "records cannot be written to SQLite" in proxy.output)
        say(9)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        wait_until(lambda: "records are written to SQLite again; 0 were dropped" in proxy.output)
        wait_until(lambda: len(kept(proxy.records)) == 10)
        assert proxy.output.count("cannot be written to SQLite") == 1
        assert proxy.output.count("records of transactions are in") == 1


@pytest.mark.parametrize("store", ["off", "spend_logs"])
def test_no_file_is_written_where_the_operator_wants_none(provider_url: str, store: str, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    settings = {**GUARD, "record": {"store": store}, "events": {"jsonl": str(events)}}
    last = "transaction.recorded" if store == "spend_logs" else "transaction.streaming_response_recorded"
    with running_proxy(proxy_config(provider_url, settings), tmp_path / "proxy", {}) as proxy:
        ask(proxy)
        wait_until(lambda: events.exists() and last in events.read_text())
        assert not proxy.records.exists()


def test_an_event_has_the_whole_record_with_who_asked_for_what(provider_url: str, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    settings = {**WITH_TEXTS, "events": {"jsonl": str(events)}}
    with running_proxy(proxy_config(provider_url, settings), tmp_path / "proxy", {}) as proxy:
        body = {"model": "anthropic/deletes", "max_tokens": 9, "messages": [{"role": "user", "content": "Clean up."}]}
        proxy.http.post("/v1/messages", json=body, headers={"x-claude-code-session-id": "session-7"}).raise_for_status()
        wait_until(lambda: events.exists() and "transaction.recorded" in events.read_text())
        told = [json.loads(line) for line in events.read_text().splitlines()]
        [event] = [of for of in told if of["type"] == "transaction.recorded"]
        data, record = event["data"], event["data"]["record"]
        assert (data["route"], data["model_group"]) == ("messages", "anthropic/deletes")
        assert data["model"].endswith("deletes")
        assert (record["format"], record["path"], record["session"]) == (2, "/v1/messages", "session-7")
        assert (record["outcome"], record["final"]["request"]) == ("blocked", None)
        assert record["original"]["request"]["messages"] == body["messages"]
        assert record["original"]["answer"]["content"][-1]["arguments"] == '{"command": "sudo rm -rf /"}'
        wait_until(lambda: bool(kept(proxy.records)))
        [row] = listed(proxy.records)
        assert row["record"]["identity"] == record["identity"] == {"user_id": "default_user_id"}
        assert data["identity"]["user_id"] == "default_user_id"
        assert row["response_id"] == data["response_id"]
        assert "session-7" in run(proxy.records, "show", "last")
