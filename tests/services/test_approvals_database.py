"""Approvals in the proxy's PostgreSQL, or in its Redis: two proxies share them, and only some keys decide."""

import json
import os
import re
import signal
import time
import uuid
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import redis

from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.approving import approvals, waiting_for
from tests.support.prisma_client import prisma_environment
from tests.support.proxy import CONFIG, KEY, Proxy, free_port, proxy_config, running_proxy, write_config
from tests.support.redis import running_redis
from tests.support.waiting import wait_until

SETTINGS: Mapping[str, Any] = {
    "policy": {"class": "tool_rules", "config": {"rules": [{"action": "ask", "tool": "push*"}]}},
    "approvals": {"hold_s": 110, "approvers": {"users": ["alice"], "teams": ["oncall"]}},
    "ui": {"enabled": True},
}
ROUTE = "/luthien/approvals"


@dataclass(slots=True)
class Redis:
    """A Redis that can be cut off."""

    port: int = field(default_factory=free_port)
    running: ExitStack = field(default_factory=ExitStack)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self.running.enter_context(running_redis(self.port))

    @contextmanager
    def gone(self) -> Generator[None]:
        """Kills it, and starts an empty one at the end."""
        self.running.close()
        try:
            yield
        finally:
            self.start()


@dataclass(frozen=True, slots=True)
class Two:
    """Two proxies with one store of approvals."""

    first: Proxy
    second: Proxy
    config: Mapping[str, Any]
    environment: Mapping[str, str]
    redis: Redis | None

    def key(self, **settings: Any) -> dict[str, str]:
        """The header of a new key."""
        response = self.first.http.post("/key/generate", json=settings)
        assert response.is_success, response.text
        return {"Authorization": f"Bearer {response.json()['key']}"}

    @contextmanager
    def with_settings(self, **approvals: Any) -> Generator[Proxy]:
        """The first one, with other settings."""
        luthien = {**SETTINGS, "approvals": {**SETTINGS["approvals"], **approvals}}
        state = self.config["callback_settings"]["luthien"].get("state", "auto")
        self._change({**self.config, "callback_settings": {"luthien": {**luthien, "state": state}}})
        try:
            yield self.first
        finally:
            self._change(self.config)

    def _change(self, config: Mapping[str, Any]) -> None:
        write_config(self.first.log.with_name(CONFIG), config)
        told = self.first.http.post("/luthien/reload").json()
        assert (told["error"], told["after_restart"]) == (None, []), told


def redis_config(config: Mapping[str, Any], own: Redis) -> dict[str, Any]:
    """The config of a proxy with this Redis of its own."""
    return {**config, "general_settings": {"coordination_redis": {"url": own.url}}}


@pytest.fixture(scope="module", params=["postgres", "redis"])
def two(
    request: pytest.FixtureRequest, provider_url: str, postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Two]:
    folder, environment = tmp_path_factory.mktemp("two"), prisma_environment(postgres_url)
    own = Redis() if request.param == "redis" else None
    config = proxy_config(provider_url, SETTINGS if own is None else {**SETTINGS, "state": "redis"})
    with ExitStack() as stack:
        if own is not None:
            stack.callback(own.running.close)
            own.start()
            config = redis_config(config, own)
        first = stack.enter_context(running_proxy(config, folder / "first", environment))
        second = stack.enter_context(running_proxy(config, folder / "second", environment))
        users = [{"user_id": "alice"}, {"user_id": "bob"}, {"user_id": "root", "user_role": "proxy_admin"}]
        for user in users:  # there already, from the other store's proxies
            assert first.http.post("/user/new", json=user).status_code in (200, 409)
        for team in ("oncall", "builders"):
            assert first.http.post("/team/new", json={"team_id": team}).status_code in (200, 400)
        yield Two(first, second, config, environment, own)


@pytest.fixture
def tool(provider: ScriptedProvider) -> str:
    name = f"push_{uuid.uuid4().hex[:8]}"
    script(provider, name, '{"branch": "main"}')
    return name


def script(provider: ScriptedProvider, tool: str, arguments: str) -> None:
    provider.answers["pushes"] = Answer([Say("I push it."), Call(tool, arguments)])


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
GRANTS: Any = {"allowed_routes": [ROUTE, "/luthien/grants"]}
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
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda number: ask((two.first, two.second)[number % 2], agent), range(10)))
    assert sum("tool_calls" in answer for answer in answers) == 1
    assert open_id(two.first, tool) != id


def approve(two: Two, tool: str) -> None:
    assert decide(two.second, open_id(two.second, tool), {"Authorization": f"Bearer {KEY}"}).is_success


def test_an_approval_is_for_this_call_by_this_key_in_this_session(
    two: Two, tool: str, provider: ScriptedProvider
) -> None:
    agent, other = two.key(user_id="bob"), two.key(user_id="bob")
    one, another = ({**agent, "x-litellm-session-id": f"{name} {tool}"} for name in ("one", "another"))
    ask(two.first, one)
    approve(two, tool)
    assert "tool_calls" not in ask(two.first, other)
    assert "tool_calls" not in ask(two.first, {**other, "x-litellm-session-id": f"one {tool}"})
    assert "tool_calls" not in ask(two.second, another)
    script(provider, tool, '{"branch": "maim"}')
    assert "tool_calls" not in ask(two.second, one)
    script(provider, tool, '{"branch": "main"}')
    assert "tool_calls" in ask(two.second, one)
    assert "tool_calls" not in ask(two.first, one)


def listed(proxy: Proxy) -> dict[str, dict[str, Any]]:
    """The calls at a proxy, decided or not, by their tools. The command would take seconds."""
    response = proxy.http.get(ROUTE, params={"state": "all"})
    assert response.is_success, response.text
    return {call["tool"]: call for call in response.json()["approvals"]}


def test_an_approval_that_comes_too_late_counts_for_nothing(two: Two, tool: str) -> None:
    agent = two.key(user_id="bob")
    admin = {"Authorization": f"Bearer {KEY}"}
    with two.with_settings(hold_s=0, valid_s=8) as proxy:
        ask(proxy, agent)
        id = listed(two.second)[tool]["id"]
        wait_until(lambda: tool not in listed(two.second))
        assert decide(two.second, id, admin).status_code == 404
        ask(proxy, agent)
        assert decide(two.second, listed(two.second)[tool]["id"], admin).is_success
        wait_until(lambda: tool not in listed(two.second))
        assert "tool_calls" not in ask(two.second, agent)


def test_a_call_whose_proxy_was_killed_passes_at_another(two: Two, tool: str, tmp_path: Path) -> None:
    agent = two.key(user_id="bob")
    with ThreadPoolExecutor(1) as pool, running_proxy(two.config, tmp_path / "third", two.environment) as third:
        client = pool.submit(ask, third, agent, stream=True)
        open_id(two.second, tool)
        os.kill(third.process, signal.SIGKILL)
        assert client.exception(60) is not None
    approve(two, tool)
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
    for plain in (two.key(user_id="bob"), two.key(user_id="bob", allowed_routes=["/v1/messages"])):
        for decision in ("approve", "deny"):
            assert decide(two.first, id, plain, decision).status_code == 403
        for path in (ROUTE, f"{ROUTE}/{id}", "/luthien/policy"):
            assert httpx.get(two.first.url + path, headers=plain, timeout=60).status_code == 403
    for unknown in ({}, {"Authorization": "Bearer sk-unknown"}):
        assert decide(two.first, id, unknown).status_code == 401
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


def test_a_grant_for_a_team_holds_on_any_proxy_for_its_keys_alone(two: Two, tool: str) -> None:
    agents = [two.key(team_id="builders"), two.key(team_id="builders", user_id="bob")]
    ask(two.first, agents[0])
    alice = two.key(user_id="alice", **GRANTS)
    body = {"decision": "approve", "grant": {"scope": "team"}}
    given = httpx.post(f"{two.second.url}{ROUTE}/{open_id(two.second, tool)}", json=body, headers=alice, timeout=60)
    assert given.is_success, given.text
    for number in range(4):  # the approval, and then the grant
        assert "tool_calls" in ask((two.first, two.second)[number % 2], agents[0])
    assert "tool_calls" in ask(two.second, agents[1])
    assert "tool_calls" not in ask(two.second, two.key(user_id="bob"))
    path = f"{two.first.url}/luthien/grants/{given.json()['grant']['id']}"
    for other in (*agents, two.key(user_id="bob", **GRANTS), two.key(team_id="builders", **GRANTS)):
        assert httpx.delete(path, headers=other, timeout=60).status_code in (401, 403)
    assert httpx.delete(path, headers=alice, timeout=60).is_success
    assert "tool_calls" not in ask(two.second, agents[0])


def test_postgres_has_the_state_in_a_schema_of_its_own(two: Two, tool: str, postgres_url: str) -> None:
    ask(two.first, two.key(user_id="bob"))
    with psycopg.connect(postgres_url) as database:
        rows = database.execute("SELECT value FROM luthien.state WHERE ends_at > now()").fetchall()
        tables = database.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'luthien'").fetchone()
    assert (tool in {json.loads(value)["tool"] for (value,) in rows}) == (two.redis is None)
    assert tables == (1,)
    assert not two.first.records.with_name("approvals.sqlite").exists()


@contextmanager
def without_a_store(two: Two, postgres_url: str) -> Generator[None]:
    if two.redis is not None:
        with two.redis.gone():
            yield
        return
    with psycopg.connect(postgres_url, autocommit=True) as database:
        database.execute("ALTER TABLE luthien.state RENAME TO gone")
        try:
            yield
        finally:
            database.execute("ALTER TABLE luthien.gone RENAME TO state")


def test_a_store_that_is_gone_denies_and_says_so(two: Two, tool: str, postgres_url: str) -> None:
    agent = two.key(user_id="bob")
    ask(two.first, agent)  # both have used it by now
    with without_a_store(two, postgres_url):
        answer = ask(two.first, agent)
        listed = two.first.http.get(ROUTE)
    assert "nobody can be asked now" in answer
    assert "tool_calls" not in answer
    assert listed.status_code == 503
    wait_until(lambda: "nobody could be asked about a tool call" in two.first.output)
    assert "waits for a person's approval" in ask(two.first, agent)  # it is back


def test_a_call_that_redis_forgets_in_a_hold_is_asked_about_anew(two: Two, tool: str) -> None:
    if two.redis is None:
        pytest.skip("a database forgets nothing")
    with ThreadPoolExecutor(1) as pool:
        client = pool.submit(ask, two.first, two.key(user_id="bob"), stream=True)
        first = open_id(two.second, tool)
        with redis.Redis.from_url(two.redis.url) as connection:
            connection.flushdb()
        wait_until(lambda: first not in approvals(two.second, "list", "--url", two.second.url, "--api-key", KEY))
        approve(two, tool)
        assert "tool_calls" in client.result(60)


def test_auto_takes_the_redis_of_a_proxy_without_a_database(provider_url: str, tool: str, tmp_path: Path) -> None:
    own = Redis()
    own.start()
    settings = {**SETTINGS, "approvals": {"hold_s": 0}}
    config = redis_config(proxy_config(provider_url, settings), own)
    with own.running, running_proxy(config, tmp_path / "proxy", {}) as proxy:
        agent = {"Authorization": f"Bearer {KEY}"}
        ask(proxy, agent)
        id = waiting_for(proxy, tool, "--url", own.url)["id"]
        assert approvals(proxy, "approve", id, "--url", own.url) == f"approved: {tool} ({id})\n"
        assert "tool_calls" in ask(proxy, agent)
        assert not proxy.records.with_name("approvals.sqlite").exists()
        own.running.close()
        assert "cannot be read: Redis" in approvals(proxy, "list", "--url", own.url, code=2)


def test_the_command_says_why_it_cannot_read(two: Two, tmp_path: Path) -> None:
    wrong = approvals(two.first, "list", "--url", two.first.url, "--api-key", "sk-wrong", code=2)
    assert "HTTP 401" in wrong
    assert "cannot be reached" in approvals(two.first, "list", "--url", "http://127.0.0.1:1", "--api-key", KEY, code=2)
    assert "There are no approvals in" in approvals(two.first, "list", "--records", str(tmp_path / "x.sqlite"), code=2)


# The inbox page

UI = "/luthien/ui"
OURS = {"sec-fetch-site": "same-origin"}


class Page:
    """The inbox in the browser of a key's holder."""

    def __init__(self, proxy: Proxy, headers: Mapping[str, str]) -> None:
        self.client = httpx.Client(base_url=proxy.url, timeout=60)
        key = headers["Authorization"].removeprefix("Bearer ")
        response = self.client.post(f"{UI}/login", data={"key": key}, headers=OURS)
        self.status, self.home = response.status_code, response.headers.get("location", "")

    def inbox(self) -> str:
        response = self.client.get(f"{UI}/approvals")
        assert response.status_code == 200, response.text
        return response.text

    def decide(self, id: str, headers: Mapping[str, str] = OURS, **fields: str) -> httpx.Response:
        token = re.findall('name="luthien-token" content="([0-9a-f]+)"', self.inbox())[0]
        return self.client.post(f"{UI}/approvals/{id}", data={"token": token, **fields}, headers=headers)


def offered(proxy: Proxy, headers: Mapping[str, str], tool: str) -> list[dict[str, Any]]:
    """The calls of a streamed response to a request that offers the tool."""
    schema = {"type": "object", "properties": {"branch": {"type": "string"}}, "additionalProperties": False}
    body = {
        "model": "openai/pushes",
        "messages": [{"role": "user", "content": "Push it <b>now</b>\u202e."}],
        "tools": [{"type": "function", "function": {"name": tool, "parameters": schema}}],
        "stream": True,
    }
    response = httpx.post(proxy.url + "/v1/chat/completions", json=body, headers=headers, timeout=150)
    assert response.status_code == 200, response.text
    found: dict[int, dict[str, str]] = {}
    for line in response.text.splitlines():
        for choice in json.loads(line[5:])["choices"] if line.startswith("data: {") else ():
            for piece in choice["delta"].get("tool_calls") or ():
                call = found.setdefault(piece["index"], {"name": "", "arguments": ""})
                for part in call:
                    call[part] += piece["function"].get(part) or ""
    return [{"name": call["name"], **json.loads(call["arguments"])} for call in found.values()]


@pytest.mark.parametrize("decision", ["approve", "edit", "deny"])
def test_a_held_call_is_decided_on_the_page_of_another_proxy(two: Two, tool: str, decision: str) -> None:
    page = Page(two.second, two.key(user_id="alice", **APPROVES))
    assert (page.status, page.home) == (303, f"{UI}/approvals")
    with ThreadPoolExecutor(1) as pool:
        client = pool.submit(offered, two.first, two.key(user_id="bob"), tool)
        id = open_id(two.second, tool)
        shown = page.inbox()
        assert tool in shown
        assert "Push it &lt;b&gt;now&lt;/b&gt;\\u202e." in shown
        fields = {
            "approve": {"decision": "approve"},
            "edit": {"decision": "approve", "arguments": '{\r\n  "branch": "draft"\r\n}'},
            "deny": {"decision": "deny", "message": "Not on a Sunday."},
        }[decision]
        if decision == "edit":
            wrong = page.decide(id, decision="approve", arguments='{"branch": 1}')
            assert wrong.status_code == 400
            assert "branch: 1 is not of type" in wrong.text
            assert not client.done()
        assert page.decide(id, **fields).status_code == 303
        branch = {"approve": "main", "edit": "draft"}.get(decision)
        assert client.result(60) == ([{"name": tool, "branch": branch}] if branch else [])
    late = page.decide(id, decision="approve")
    assert late.status_code == 409
    assert "already, by alice" in late.text
    state = {"approve": "used", "edit": "used", "deny": "denied"}[decision]
    cards = {card["id"]: card for card in page.client.get(f"{UI}/approvals/cards").json()["cards"]}
    assert cards[id]["state"] == state
    assert "Approve as edited" not in cards[id]["html"]


def test_the_page_grants_later_calls_of_a_session(two: Two, tool: str) -> None:
    page = Page(two.second, two.key(user_id="alice", **GRANTS))
    key = two.key(user_id="bob")
    session = {**key, "x-litellm-session-id": f"session-{tool}"}
    ask(two.first, session)
    id = open_id(two.second, tool)
    assert "exactly so, in this session" in page.inbox()
    assert page.decide(id, decision="approve", grant="more").status_code == 400
    assert page.decide(id, decision="approve", grant="session").status_code == 303
    for _ in range(3):  # the approval, and then the grant
        assert "tool_calls" in ask(two.first, session)
    assert "tool_calls" not in ask(two.first, key)


def test_the_page_decides_for_nobody_else(two: Two, tool: str) -> None:
    asking = two.key(user_id="alice", **ASKS_TOO)
    with ThreadPoolExecutor(1) as pool:
        client = pool.submit(ask, two.first, asking, stream=True)
        id = open_id(two.second, tool)
        for holder in (asking, two.key(user_id="alice", **APPROVES)):  # the key, and its user
            page = Page(two.second, holder)
            assert "Another person must decide" in page.inbox()
            assert page.decide(id, decision="approve").status_code == 403
        person = Page(two.second, two.key(team_id="oncall", **APPROVES))
        assert person.client.get(f"{UI}/").status_code == 403  # an approver's inbox is all they see
        assert person.decide(id, {"sec-fetch-site": "cross-site"}, decision="approve").status_code == 403
        assert person.decide(id, decision="approve", token="0" * 64).status_code == 403
        assert person.client.get(f"{UI}/approvals/{id}?decision=approve").status_code == 405
        assert person.decide(id, decision="maybe").status_code == 400
        assert person.decide("none-such", decision="approve").status_code == 404
        for path in ("approvals", "approvals/cards"):
            assert httpx.get(f"{two.first.url}{UI}/{path}", timeout=60).status_code == 403
        assert httpx.post(f"{two.first.url}{UI}/approvals/{id}", headers=OURS, timeout=60).status_code == 403
        assert Page(two.second, two.key(user_id="bob")).status == 403
        assert not client.done()
        assert person.decide(id, decision="deny").status_code == 303
        assert "A person denied the call" in client.result(60)
