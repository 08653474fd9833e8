"""Approvals in the proxy's PostgreSQL: two proxies share them, and only some keys decide."""

import json
import time
import uuid
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.approving import approvals, waiting_for
from tests.support.prisma_client import prisma_environment
from tests.support.proxy import KEY, Proxy, proxy_config, running_proxy
from tests.support.waiting import wait_until

SETTINGS: Mapping[str, Any] = {
    "policy": {"class": "tool_rules", "config": {"rules": [{"action": "ask", "tool": "push*"}]}},
    "approvals": {"hold_s": 110, "approvers": {"users": ["alice"], "teams": ["oncall"]}},
}
ROUTE = "/luthien/approvals"


@dataclass(frozen=True, slots=True)
class Two:
    """Two proxies on one database."""

    first: Proxy
    second: Proxy

    def key(self, **settings: Any) -> dict[str, str]:
        """The header of a new key."""
        response = self.first.http.post("/key/generate", json=settings)
        assert response.is_success, response.text
        return {"Authorization": f"Bearer {response.json()['key']}"}


@pytest.fixture(scope="module")
def two(provider_url: str, postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Two]:
    folder, environment = tmp_path_factory.mktemp("two"), prisma_environment(postgres_url)
    config = proxy_config(provider_url, SETTINGS)
    with (
        running_proxy(config, folder / "first", environment) as first,
        running_proxy(config, folder / "second", environment) as second,
    ):
        users = [{"user_id": "alice"}, {"user_id": "bob"}, {"user_id": "root", "user_role": "proxy_admin"}]
        for user in users:
            assert first.http.post("/user/new", json=user).is_success
        for team in ("oncall", "builders"):
            assert first.http.post("/team/new", json={"team_id": team}).is_success
        yield Two(first, second)


@pytest.fixture
def tool(provider: ScriptedProvider) -> str:
    name = f"push_{uuid.uuid4().hex[:8]}"
    provider.answers["pushes"] = Answer([Say("I push it."), Call(name, '{"branch": "main"}')])
    return name


def ask(proxy: Proxy, headers: Mapping[str, str], *, stream: bool = False) -> str:
    """The answer of a model that calls the tool."""
    body = {"model": "openai/pushes", "messages": [{"role": "user", "content": "Push."}], "stream": stream}
    response = httpx.post(proxy.url + "/v1/chat/completions", json=body, headers=headers, timeout=150)
    assert response.status_code == 200, response.text
    return response.text


def open_id(proxy: Proxy, tool: str) -> str:
    return waiting_for(proxy, tool, "--url", proxy.url, "--api-key", KEY)["id"]


def decide(proxy: Proxy, id: str, headers: Mapping[str, str], decision: str = "approve") -> httpx.Response:
    return httpx.post(f"{proxy.url}{ROUTE}/{id}", json={"decision": decision}, headers=headers, timeout=60)


APPROVES: Any = {"allowed_routes": [ROUTE]}
ASKS_TOO: Any = {"allowed_routes": ["llm_api_routes", ROUTE]}


def test_a_call_that_one_proxy_holds_is_approved_at_the_other(two: Two, tool: str) -> None:
    agent, alice = two.key(user_id="bob"), two.key(user_id="alice", **APPROVES)
    with ThreadPoolExecutor(1) as pool:
        client = pool.submit(ask, two.first, agent, stream=True)
        id = open_id(two.second, tool)
        assert decide(two.second, id, alice).json()["by"] == "alice"
        decided = time.monotonic()
        answer = client.result(60)
    assert time.monotonic() - decided < 10  # some 0.5 s on an idle machine
    assert "tool_calls" in answer
    assert tool in answer


def test_a_call_passes_once_on_any_proxy_after_its_approval(two: Two, tool: str) -> None:
    agent = two.key(user_id="bob")
    assert "waits for a person's approval" in ask(two.first, agent)
    id = open_id(two.second, tool)
    printed = approvals(two.second, "approve", id, "--url", two.second.url, "--api-key", KEY)
    assert printed == f"approved: {tool} ({id})\n"
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: ask((two.first, two.second)[number % 2], agent), range(8)))
    assert sum("tool_calls" in answer for answer in answers) == 1
    assert open_id(two.first, tool) != id


def test_another_key_has_an_approval_of_its_own(two: Two, tool: str) -> None:
    agent, other = two.key(user_id="bob"), two.key(user_id="bob")
    ask(two.first, agent)
    assert decide(two.first, open_id(two.first, tool), {"Authorization": f"Bearer {KEY}"}).is_success
    assert "tool_calls" not in ask(two.first, other)
    assert "tool_calls" in ask(two.first, agent)


def test_neither_the_asking_key_nor_its_user_or_team_decides(two: Two, tool: str) -> None:
    asking = two.key(user_id="alice", team_id="oncall", **ASKS_TOO)
    ask(two.first, asking)
    id = open_id(two.first, tool)
    refused = [
        asking,
        two.key(user_id="alice", **APPROVES),
        two.key(team_id="oncall", **APPROVES),
        two.key(user_id="bob", **APPROVES),
        two.key(team_id="builders", **APPROVES),
    ]
    for headers in refused:
        for decision in ("approve", "deny"):
            response = decide(two.first, id, headers, decision)
            assert response.status_code == 403, (headers, response.text)
    for headers in refused[3:]:
        for path in (ROUTE, f"{ROUTE}/{id}"):
            response = httpx.get(two.first.url + path, headers=headers, timeout=60)
            assert (response.status_code, tool in response.text) == (403, False), response.text
    for decision in ("approve", "deny"):  # LiteLLM itself refuses a key without the route
        assert decide(two.first, id, two.key(user_id="bob"), decision).status_code in (401, 403)
    shown = httpx.get(f"{two.first.url}{ROUTE}/{id}", headers=asking, timeout=60).json()
    assert (shown["state"], shown["may_decide"]) == ("pending", False)


@pytest.mark.parametrize("who", ["the master key", "an admin", "a user", "a team"])
def test_a_person_who_is_named_decides(two: Two, tool: str, who: str) -> None:
    ask(two.first, two.key(user_id="bob", team_id="builders"))
    headers = {
        "the master key": lambda: {"Authorization": f"Bearer {KEY}"},
        "an admin": lambda: two.key(user_id="root"),
        "a user": lambda: two.key(user_id="alice", **APPROVES),
        "a team": lambda: two.key(team_id="oncall", key_alias=f"pager-{tool}", **APPROVES),
    }[who]()
    response = decide(two.first, open_id(two.first, tool), headers, "deny")
    by = {"the master key": "the master key", "an admin": "root", "a user": "alice", "a team": f"pager-{tool}"}[who]
    assert (response.status_code, response.json().get("by")) == (200, by), response.text


def test_an_admins_agent_is_not_approved_by_its_own_user(two: Two, tool: str) -> None:
    ask(two.first, two.key(user_id="root"))
    assert decide(two.first, open_id(two.first, tool), two.key(user_id="root")).status_code == 403


def test_the_state_is_in_a_schema_of_its_own(two: Two, tool: str, postgres_url: str) -> None:
    ask(two.first, two.key(user_id="bob"))
    with psycopg.connect(postgres_url) as database:
        rows = database.execute("SELECT value FROM luthien.state WHERE ends_at > now()").fetchall()
        tables = database.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'luthien'").fetchone()
    assert tool in {json.loads(value)["tool"] for (value,) in rows}
    assert tables == (1,)
    assert not two.first.records.with_name("approvals.sqlite").exists()


def test_a_database_without_the_table_denies_and_says_so(two: Two, tool: str, postgres_url: str) -> None:
    agent = two.key(user_id="bob")
    ask(two.first, agent)  # both have their table by now
    with psycopg.connect(postgres_url, autocommit=True) as database:
        database.execute("ALTER TABLE luthien.state RENAME TO gone")
        try:
            answer = ask(two.first, agent)
            listed = two.first.http.get(ROUTE)
        finally:
            database.execute("ALTER TABLE luthien.gone RENAME TO state")
    assert "nobody can be asked now" in answer
    assert "tool_calls" not in answer
    assert listed.status_code == 503
    wait_until(lambda: "nobody could be asked about a tool call" in two.first.output)


def test_the_command_says_why_it_cannot_read(two: Two, tmp_path: Path) -> None:
    wrong = approvals(two.first, "list", "--url", two.first.url, "--api-key", "sk-wrong", code=2)
    assert "HTTP 401" in wrong
    assert "cannot be reached" in approvals(two.first, "list", "--url", "http://127.0.0.1:1", "--api-key", KEY, code=2)
    assert "There are no approvals in" in approvals(two.first, "list", "--records", str(tmp_path / "x.sqlite"), code=2)
