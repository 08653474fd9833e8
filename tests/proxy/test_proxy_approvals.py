"""A person's approval at a real proxy without a database: official clients wait, and the command decides."""

import json
import os
import signal
import sqlite3
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from luthien_litellm_hooks.telemetry.webhooks import signature_of
from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.proxy.test_records import run
from tests.support.approving import approvals, waiting_for
from tests.support.clients import ROUTES, Said
from tests.support.command import COMMAND, run_alone
from tests.support.pages import blocks, commands
from tests.support.proxy import KEY, ROOT, Proxies, Proxy, proxy_config, running_proxy
from tests.support.waiting import wait_until
from tests.support.webhook import receiver

POLICY = {"class": "tool_rules", "config": {"rules": [{"action": "ask", "tool": "push*", "reason": "it leaves us"}]}}
HELD: Mapping[str, Any] = {"policy": POLICY, "approvals": {"hold_s": 110, "hold_full_s": 110}}
AT_ONCE: Mapping[str, Any] = {"policy": POLICY, "approvals": {"hold_s": 0}}
MODELS = {"chat": "gpt-4o", "messages": "claude-sonnet-4-5", "responses": "gpt-4o", "gemini": "gemini-2.5-flash"}
TEXT = "I push it."


@pytest.fixture
def tool(provider: ScriptedProvider) -> str:
    """A tool of this test alone, which the models call."""
    name = f"push_{uuid.uuid4().hex[:8]}"
    script(provider, name, '{"branch": "main"}')
    return name


def script(provider: ScriptedProvider, tool: str, arguments: str) -> None:
    for model in MODELS.values():
        provider.answers[model] = Answer([Say(TEXT), Call(tool, arguments, f"call_{uuid.uuid4().hex[:8]}")])


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def asking(pool: ThreadPoolExecutor, proxy: Proxy, route: str, session: str, stream: bool = True) -> Future[Said]:
    headers = {"x-litellm-session-id": session} if session else {}
    return pool.submit(ROUTES[route], proxy, MODELS[route], stream, headers)


def said(proxy: Proxy, route: str, session: str, stream: bool = True) -> Said:
    with ThreadPoolExecutor(1) as pool:
        return asking(pool, proxy, route, session, stream).result(120)


# Held, and decided in another terminal


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "full"])
@pytest.mark.parametrize("route", MODELS)
def test_an_approved_call_leaves_as_it_came(
    proxies: Proxies, pool: ThreadPoolExecutor, tool: str, route: str, stream: bool
) -> None:
    proxy = proxies.get(HELD)
    client = asking(pool, proxy, route, tool, stream)
    call = waiting_for(proxy, tool)
    assert f"approved: {tool}" in approvals(proxy, "approve", call["id"])
    assert client.result(60) == Said(TEXT, ((tool, {"branch": "main"}),))


@pytest.mark.parametrize("route", MODELS)
def test_a_denied_call_leaves_as_a_notice(proxies: Proxies, pool: ThreadPoolExecutor, tool: str, route: str) -> None:
    proxy = proxies.get(HELD)
    client = asking(pool, proxy, route, tool)
    call = waiting_for(proxy, tool)
    approvals(proxy, "deny", call["id"], "--message", "Ask me on Monday.")
    got = client.result(60)
    assert got.calls == ()
    assert f"[luthien] A person denied the call of {tool} ({call['id']}): Ask me on Monday." in got.text


@pytest.mark.parametrize("route", MODELS)
def test_an_edited_call_leaves_as_it_was_edited(
    proxies: Proxies, pool: ThreadPoolExecutor, tool: str, route: str, tmp_path: Path
) -> None:
    proxy = proxies.get(HELD)
    client = asking(pool, proxy, route, tool)
    call = waiting_for(proxy, tool)
    file = tmp_path / "arguments.json"
    file.write_text("[]")
    assert "should be a JSON object" in approvals(proxy, "approve", call["id"], "--arguments", str(file), code=1)
    file.write_text('{"branch": "draft"}')
    assert "as you edited it" in approvals(proxy, "approve", call["id"], "--arguments", str(file))
    assert client.result(60) == Said(TEXT, ((tool, {"branch": "draft"}),))


def test_an_edit_has_to_fit_the_schema_of_the_offered_tool(proxies: Proxies, tool: str, tmp_path: Path) -> None:
    proxy, file = proxies.get(AT_ONCE), tmp_path / "arguments.json"
    schema = {"type": "object", "properties": {"branch": {"enum": ["main", "draft"]}}, "additionalProperties": False}
    body = {
        "model": MODELS["chat"],
        "messages": [{"role": "user", "content": "Push."}],
        "tools": [{"type": "function", "function": {"name": tool, "parameters": schema}}],
    }
    headers = {"authorization": f"Bearer {KEY}", "x-litellm-session-id": tool}

    def calls() -> list[dict[str, Any]]:
        got = httpx.post(f"{proxy.url}/v1/chat/completions", json=body, headers=headers, timeout=60).json()
        return [call["function"] for call in got["choices"][0]["message"].get("tool_calls") or ()]

    assert calls() == []
    id = waiting_for(proxy, tool)["id"]
    for edited, fault in (
        ('{"branch": "x"}', "branch: 'x' is not one of"),
        ('{"brunch": 1}', "'brunch' was unexpected"),
    ):
        file.write_text(edited)
        assert fault in approvals(proxy, "approve", id, "--arguments", str(file), code=1)
    file.write_text('{"branch": "draft"}')
    approvals(proxy, "approve", id, "--arguments", str(file))
    [call] = calls()
    assert json.loads(call["arguments"]) == {"branch": "draft"}


# Made again


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "full"])
@pytest.mark.parametrize("route", MODELS)
def test_an_undecided_call_passes_once_after_its_approval(
    proxies: Proxies, tool: str, route: str, stream: bool
) -> None:
    proxy = proxies.get(AT_ONCE)
    first = said(proxy, route, tool, stream)
    call = waiting_for(proxy, tool)
    assert first.calls == ()
    assert f"[luthien] The call of {tool} waits for a person's approval ({call['id']})." in first.text
    approvals(proxy, "approve", call["id"])
    assert said(proxy, route, tool, stream) == Said(TEXT, ((tool, {"branch": "main"}),))
    assert said(proxy, route, tool, stream).calls == ()
    assert waiting_for(proxy, tool)["id"] != call["id"]


def test_an_approval_is_for_this_call_in_this_session(proxies: Proxies, provider: ScriptedProvider, tool: str) -> None:
    proxy = proxies.get(AT_ONCE)
    said(proxy, "chat", f"one {tool}")
    approvals(proxy, "approve", waiting_for(proxy, tool)["id"])
    assert said(proxy, "chat", f"two {tool}").calls == ()
    assert said(proxy, "chat", "").calls == ()
    script(provider, tool, '{"branch": "maim"}')
    assert said(proxy, "chat", f"one {tool}").calls == ()
    script(provider, tool, '{ "branch":"main" }')
    assert said(proxy, "chat", f"one {tool}").calls == ((tool, {"branch": "main"}),)


def test_an_approval_that_comes_too_late_counts_for_nothing(proxies: Proxies, tool: str) -> None:
    proxy = proxies.get({"policy": POLICY, "approvals": {"hold_s": 0, "valid_s": 1}})
    said(proxy, "chat", tool)
    call = waiting_until_over(proxy, tool)
    assert "there is no approval" in approvals(proxy, "approve", call, code=1)
    assert said(proxy, "chat", tool).calls == ()


def waiting_until_over(proxy: Proxy, tool: str) -> str:
    """The id of a call whose time is over."""
    text = said(proxy, "chat", tool).text
    wait_until(lambda: tool not in approvals(proxy, "list"))
    return text.partition("approval (")[2].partition(")")[0]


# Granted


def forget(proxy: Proxy) -> None:
    """Ends all questions: a key may have only so many."""
    file = proxy.records.with_name("approvals.sqlite")
    if file.exists():
        with closing(sqlite3.connect(file)) as connection, connection:
            connection.execute("DELETE FROM state")


@pytest.fixture
def at_once(proxies: Proxies) -> Iterator[Proxy]:
    """The proxy that holds nothing, without questions of other tests."""
    proxy = proxies.get(AT_ONCE)
    forget(proxy)
    yield proxy
    forget(proxy)


def grants_of(proxy: Proxy, tool: str) -> list[dict[str, Any]]:
    return [grant for grant in json.loads(approvals(proxy, "grants", "--json"))["grants"] if grant["tool"] == tool]


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "full"])
@pytest.mark.parametrize("route", MODELS)
def test_a_call_that_is_granted_for_a_session_passes_in_it(at_once: Proxy, tool: str, route: str, stream: bool) -> None:
    proxy = at_once
    said(proxy, route, tool, stream)
    printed = approvals(proxy, "approve", waiting_for(proxy, tool)["id"], "--session")
    [grant] = grants_of(proxy, tool)
    assert f"granted: {grant['id']} {tool}: exactly this call; session {tool}, until " in printed
    for _ in range(3):  # the approval, and then the grant
        assert said(proxy, route, tool, stream) == Said(TEXT, ((tool, {"branch": "main"}),))
    wait_until(lambda: f"with grant {grant['id']}" in shown_last(proxy))
    assert said(proxy, route, f"other {tool}", stream).calls == ()
    approvals(proxy, "revoke", grant["id"])
    assert said(proxy, route, tool, stream).calls == ()


def test_a_call_like_a_granted_one_passes_and_one_that_looks_like_it_does_not(
    at_once: Proxy, provider: ScriptedProvider, tool: str
) -> None:
    proxy = at_once
    script(provider, tool, '{"command": "npm test"}')
    said(proxy, "chat", tool)
    call = waiting_for(proxy, tool)
    assert "--like: commands that begin with npm test" in approvals(proxy, "show", call["id"])
    approvals(proxy, "approve", call["id"], "--like", "--session")
    assert said(proxy, "chat", tool).calls
    for command in ("npm test unit", "npm test e2e | npm test"):
        script(provider, tool, json.dumps({"command": command}))
        assert said(proxy, "chat", tool).calls == ((tool, {"command": command}),)
    for command in ("npm test; npm publish", "npm test $(npm publish)", "npm test\nnpm publish", "cd ..; npm test"):
        script(provider, tool, json.dumps({"command": command}))
        got = said(proxy, "chat", tool)
        assert (got.calls, "waits for a person's approval" in got.text) == ((), True), command


def test_a_change_of_the_policy_voids_a_grant(proxies: Proxies, at_once: Proxy, tool: str) -> None:
    said(at_once, "chat", tool)
    approvals(at_once, "approve", waiting_for(at_once, tool)["id"], "--session")
    for _ in range(2):  # the approval, and then the grant
        assert said(at_once, "chat", tool).calls
    rules = [{"action": "ask", "tool": "push*", "reason": "another"}]
    other = proxies.get({**AT_ONCE, "policy": {"class": "tool_rules", "config": {"rules": rules}}})
    assert said(other, "chat", tool).calls == ()


def test_the_key_that_asks_grants_nothing(at_once: Proxy, tool: str) -> None:
    proxy = at_once
    said(proxy, "chat", tool)
    call = waiting_for(proxy, tool)
    path = f"/luthien/approvals/{call['id']}"
    given = {"decision": "approve", "grant": {"scope": "key"}}
    assert proxy.http.post(path, json=given).status_code == 403
    assert grants_of(proxy, tool) == []
    approvals(proxy, "approve", call["id"], "--session")
    [grant] = grants_of(proxy, tool)
    assert proxy.http.delete(f"/luthien/grants/{grant['id']}").status_code == 403
    assert proxy.http.get(f"/luthien/grants/{grant['id']}").status_code in (404, 405)
    assert proxy.http.delete("/luthien/grants/none-such").status_code == 404
    assert (
        grants_of(proxy, tool)
        == [grant]
        == [one for one in proxy.http.get("/luthien/grants").json()["grants"] if one["tool"] == tool]
    )
    assert httpx.get(f"{proxy.url}/luthien/grants", timeout=30).status_code in (400, 401, 403)


def test_a_grant_is_for_the_call_as_it_is(at_once: Proxy, tool: str, tmp_path: Path) -> None:
    proxy = at_once
    said(proxy, "chat", tool)
    id = waiting_for(proxy, tool)["id"]
    edited = tmp_path / "edited.json"
    edited.write_text("{}")
    assert "without --arguments" in approvals(proxy, "approve", id, "--session", "--arguments", str(edited), code=2)
    assert "approve it alone" in approvals(proxy, "approve", id, "--like", code=1)
    assert waiting_for(proxy, tool)["id"] == id


# Told


def test_a_webhook_is_told_and_a_response_does_not_wait_for_it(proxies: Proxies, tool: str) -> None:
    with receiver() as server:
        server.may_answer.clear()
        server.statuses = [500]
        notify = {"url": server.url, "secret": "s3cret"}
        proxy = proxies.get({"policy": POLICY, "approvals": {"hold_s": 0, "notify": [notify]}})
        assert "waits for a person's approval" in said(proxy, "chat", tool).text
        wait_until(lambda: bool(server.got))
        server.may_answer.set()  # the response has come before
        wait_until(lambda: len(server.got) >= 2)
        call = waiting_for(proxy, tool)
        for note in server.notes:
            assert (note["id"], note["tool"], note["session"]) == (call["id"], tool, tool)
            assert call["id"] in note["text"]
            assert "branch" not in json.dumps(note)
        headers, body, _ = server.got[1]
        seconds = int(headers["Luthien-Signature"].partition(",")[0].removeprefix("t="))
        assert headers["Luthien-Signature"] == signature_of("s3cret", body, seconds)
        proxies.get(AT_ONCE)  # before the server ends


# Who may decide, and what a person sees


def test_the_key_that_asks_decides_nothing(proxies: Proxies, tool: str) -> None:
    proxy = proxies.get(AT_ONCE)
    said(proxy, "chat", tool)
    call = waiting_for(proxy, tool)
    path = f"/luthien/approvals/{call['id']}"
    for decision in ("approve", "deny"):
        response = proxy.http.post(path, json={"decision": decision})
        assert (response.status_code, "Another person" in response.text) == (403, True)
    shown = proxy.http.get(path).json()
    assert (shown["may_decide"], shown["state"], shown["tool"]) == (False, "pending", tool)
    assert call["id"] in [one["id"] for one in proxy.http.get("/luthien/approvals").json()["approvals"]]
    for headers in ({}, {"Authorization": "Bearer sk-none"}):
        response = httpx.post(proxy.url + path, json={"decision": "approve"}, headers=headers, timeout=30)
        assert response.status_code in (400, 401, 403)
    complaint = approvals(proxy, "approve", call["id"], "--url", proxy.url, "--api-key", KEY, code=1)
    assert "HTTP 403: Another person must decide" in complaint
    assert waiting_for(proxy, tool)["id"] == call["id"]


def test_a_get_decides_nothing_and_an_unknown_id_is_not_found(proxies: Proxies, tool: str) -> None:
    proxy = proxies.get(AT_ONCE)
    said(proxy, "chat", tool)
    call = waiting_for(proxy, tool)
    for query in ("", "?decision=approve"):
        assert proxy.http.get(f"/luthien/approvals/{call['id']}{query}").status_code == 200
    assert waiting_for(proxy, tool)["state"] == "pending"
    assert proxy.http.post("/luthien/approvals/none-such", json={"decision": "approve"}).status_code == 404
    assert approvals(proxy, "show", "none-such", code=1).startswith("there is no approval none-such")


def test_what_a_person_sees_is_escaped(proxies: Proxies, provider: ScriptedProvider, tool: str) -> None:
    proxy = proxies.get(AT_ONCE)
    hidden = json.dumps({"command": "ls \u202e\u200b\x1b[2J && git push", "description": "\x9b31m"})
    script(provider, tool, hidden)
    said(proxy, "chat", tool)
    call = waiting_for(proxy, tool)
    for text in (approvals(proxy, "show", call["id"]), approvals(proxy, "list")):
        assert not any(character in text for character in "\u202e\u200b\x1b\x9b")
    shown = approvals(proxy, "show", call["id"])
    for part in ("\\u202e", "\\u200b", "\\x1b[2J", "it leaves us", "git push", "hello", "tool_rules"):
        assert part in shown, part
    raw = proxy.http.get(f"/luthien/approvals/{call['id']}")
    assert raw.text.isascii()
    assert raw.json()["arguments"] == hidden or json.loads(raw.json()["arguments"]) == json.loads(hidden)


def test_the_decision_is_in_the_record(proxies: Proxies, tool: str) -> None:
    proxy = proxies.get(AT_ONCE)
    said(proxy, "chat", tool)
    call = waiting_for(proxy, tool)
    wait_until(lambda: f"ask {tool}: it leaves us" in run(proxy.records, "list", "--outcome", "blocked"))
    assert f"waits for a person ({call['id']})" in shown_last(proxy)
    approvals(proxy, "approve", call["id"])
    said(proxy, "chat", tool)
    wait_until(lambda: "approved by " in shown_last(proxy))
    assert f"({call['id']})" in shown_last(proxy)


def shown_last(proxy: Proxy) -> str:
    """What `show` prints, without the ends of its lines."""
    return " ".join(run(proxy.records, "show", "last").split())


def test_a_call_that_begins_to_wait_is_told_in_another_terminal(proxies: Proxies, tool: str) -> None:
    proxy = proxies.get(AT_ONCE)
    said(proxy, "chat", tool)
    waiting_for(proxy, tool)
    environment = {**os.environ, "COLUMNS": "200", "LUTHIEN_RECORDS": str(proxy.records)}
    command = [COMMAND, "approvals", "watch"]
    watch = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert watch.stdout is not None
        assert "Ctrl-C" in watch.stdout.readline()
        assert any(tool in line for line in watch.stdout)
        watch.send_signal(signal.SIGINT)
        assert watch.wait(60) == 0
    finally:
        watch.kill()
        watch.communicate()


PAGE = ROOT / "docs" / "approvals.md"
SHOWN = [words[2:] for block in blocks(PAGE) if block.language == "console" for words in commands(block)]


@pytest.mark.parametrize("words", [words for words in SHOWN if words[0] != "watch"], ids=" ".join)
def test_a_command_of_the_page_works(
    proxies: Proxies,
    provider: ScriptedProvider,
    tool: str,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxy = proxies.get(AT_ONCE)
    script(provider, tool, '{"command": "npm test"}')
    said(proxy, "chat", tool)
    call = waiting_for(proxy, tool)
    monkeypatch.chdir(tmp_path)
    Path("edited.json").write_text("{}")
    names = {"7f3k-92ax": call["id"], "http://127.0.0.1:4000": proxy.url}
    if words[0] in ("grants", "revoke"):
        approvals(proxy, "approve", call["id"], "--session")
        names["k4wd-7p2m"] = grants_of(proxy, tool)[0]["id"]
    given = [names.get(word, word) for word in words]
    given += ["--api-key", KEY] if "--url" in words else []
    done = run_alone("approvals", *given, COLUMNS="120", LUTHIEN_RECORDS=str(proxy.records))
    assert (done.code, done.stderr) == (0, "")
    assert tool in done.stdout


# Processes that end


def test_a_call_whose_proxy_was_killed_passes_at_the_next(
    provider_url: str, tool: str, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    config = proxy_config(provider_url, HELD)
    with running_proxy(config, tmp_path / "first", {}) as first:
        client = asking(pool, first, "chat", tool)
        call = waiting_for(first, tool)
        os.kill(first.process, signal.SIGKILL)
        assert client.exception(60) is not None
    with running_proxy(config, tmp_path / "second", {"LUTHIEN_RECORDS": str(first.records)}) as second:
        approvals(first, "approve", call["id"])
        assert said(second, "chat", tool).calls == ((tool, {"branch": "main"}),)


# The client's own user

IN_CLIENT: Mapping[str, Any] = {"policy": POLICY, "approvals": {"hold_s": 0, "in_client": True}}
SAFEGUARDS = [{"type": "dangerous_tool_use", "classifier_context": {"permission_mode": "auto"}}]


def of_messages(proxy: Proxy, *, stream: bool, **more: Any) -> dict[str, Any]:
    """A raw response on messages, with its results beside its stop reason."""
    body = {"model": MODELS["messages"], "max_tokens": 99, "messages": [{"role": "user", "content": "Push."}], **more}
    headers = {"authorization": f"Bearer {KEY}"}
    got = httpx.post(f"{proxy.url}/v1/messages", json={**body, "stream": stream}, headers=headers, timeout=60)
    assert got.status_code == 200, got.text
    if not stream:
        return got.json()
    frames = [json.loads(line[5:]) for line in got.text.splitlines() if line.startswith("data:")]
    [end] = [frame["delta"] for frame in frames if frame["type"] == "message_delta"]
    return {**end, "content": [frame["content_block"] for frame in frames if frame["type"] == "content_block_start"]}


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "full"])
def test_a_client_that_asks_its_own_user_gets_the_call_flagged(proxies: Proxies, tool: str, stream: bool) -> None:
    proxy = proxies.get(IN_CLIENT)
    got = of_messages(proxy, stream=stream, safeguards=SAFEGUARDS)
    [call] = [block for block in got["content"] if block["type"] == "tool_use"]
    [result] = got["safeguard_results"]
    verdict = result["status"]["tool_uses"].pop(call["id"])
    assert verdict["outcome"] == "flagged"
    assert verdict["explanation"].startswith("[luthien] The proxy's policy leaves this call to its user. (transaction ")
    assert (call["name"], got["stop_reason"], result["status"]["tool_uses"]) == (tool, "tool_use", {})
    headers = {"authorization": f"Bearer {KEY}"}
    assert tool not in httpx.get(f"{proxy.url}/luthien/approvals?state=all", headers=headers).text


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "full"])
def test_a_call_of_a_second_answer_is_flagged_too(
    proxies: Proxies, provider: ScriptedProvider, tool: str, stream: bool
) -> None:
    block = {"action": "block", "tool": "remove", "message": "Not this one."}
    rules = {"class": "tool_rules", "config": {"rules": [block, {"action": "ask", "tool": tool}]}}
    provider.next_answers[MODELS["messages"]] = provider.answers[MODELS["messages"]]
    provider.answers[MODELS["messages"]] = Answer([Call("remove", "{}")])
    proxy = proxies.get({**IN_CLIENT, "policy": rules, "on_block": "retry"})
    got = of_messages(proxy, stream=stream, safeguards=SAFEGUARDS)
    del provider.next_answers[MODELS["messages"]]
    [call] = [block for block in got["content"] if block["type"] == "tool_use"]
    [result] = got["safeguard_results"]
    assert call["name"] == tool
    assert result["status"]["tool_uses"][call["id"]]["outcome"] == "flagged"


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "full"])
def test_a_client_does_not_choose_who_is_asked(proxies: Proxies, tool: str, stream: bool) -> None:
    asked = {"safeguards": SAFEGUARDS, "tool_choice": {"type": "auto"}}
    got = of_messages(proxies.get(AT_ONCE), stream=stream, **asked)
    assert [block["type"] for block in got["content"]] == ["text"] * len(got["content"])
    assert got["safeguard_results"] == [
        {"type": "dangerous_tool_use", "status": {"type": "available", "tool_uses": {}}}
    ]
    got = of_messages(proxies.get(IN_CLIENT), stream=stream, safeguards=[{"type": "another"}])
    assert [block["type"] for block in got["content"]] == ["text"] * len(got["content"])
    assert "safeguard_results" not in got


def test_safeguards_on_another_wire_pass_no_call(proxies: Proxies, tool: str) -> None:
    body = {"model": MODELS["chat"], "messages": [{"role": "user", "content": "Push."}], "safeguards": SAFEGUARDS}
    headers = {"authorization": f"Bearer {KEY}"}
    url = f"{proxies.get(IN_CLIENT).url}/v1/chat/completions"
    got = httpx.post(url, json=body, headers=headers, timeout=60).json()
    assert not got["choices"][0]["message"].get("tool_calls")


def test_a_refused_request_says_that_there_are_no_calls_to_judge(proxies: Proxies) -> None:
    refusing = {"policy": {"class": "tests.support.refusing:RefusesAll"}}
    got = of_messages(proxies.get(refusing), stream=True, safeguards=SAFEGUARDS)
    assert got["safeguard_results"][0]["status"] == {"type": "available", "tool_uses": {}}
