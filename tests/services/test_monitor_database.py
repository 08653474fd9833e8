"""The monitor page with LiteLLM's database: roles of keys and of the Admin UI's session, and sealed records."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from luthien_litellm_hooks.hooks.admin.monitor import PLUGIN
from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.monitor import SAME, UI, Events, visiting
from tests.support.postgres import spend_logs
from tests.support.prisma_client import prisma_environment
from tests.support.proxy import KEEPS_PROMPTS, KEY, Proxy, proxy_config, running_proxy

REASON, SECRET = "rules-of-the-operator", "zanzibar"
RULE = {"tool": "Bash", "action": "block", "reason": REASON, "message": "That is not done here."}
APPROVERS = {"users": ["a-lead"]}
LUTHIEN = {
    "policy": {"class": "tool_rules", "config": {"rules": [RULE]}},
    "approvals": {"approvers": APPROVERS},
    "ui": {"enabled": True},
}
SALT = KEY
"""As `spend_logs` opens the records."""


@dataclass(frozen=True)
class Asked:
    """A blocked call, by its transaction's id, and its client's key."""

    id: str
    key: str


@pytest.fixture(scope="module")
def proxy(provider_url: str, postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Proxy]:
    plugins = [{"name": PLUGIN, "display_name": "Luthien", "url": "http://127.0.0.1/luthien/ui"}]
    config = {**proxy_config(provider_url, LUTHIEN), "general_settings": {**KEEPS_PROMPTS, "plugins": plugins}}
    folder = tmp_path_factory.mktemp("monitor") / "proxy"
    environment = {**prisma_environment(postgres_url), "LITELLM_SALT_KEY": SALT}
    with running_proxy(config, folder, environment) as proxy:
        yield proxy


def key_of(proxy: Proxy, user_id: str, role: str, **settings: Any) -> str:
    made = proxy.http.post("/user/new", json={"user_id": user_id, "user_role": role, "auto_create_key": False})
    assert made.is_success, made.text
    return proxy.virtual_key(user_id=user_id, **settings)


def ask(proxy: Proxy, key: str) -> None:
    body = {"model": "openai/blocked", "messages": [{"role": "user", "content": "look"}]}
    response = proxy.http.post("/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"})
    assert response.is_success, response.text


@pytest.fixture(scope="module")
def asked(proxy: Proxy, provider: ScriptedProvider, postgres_url: str) -> Asked:
    provider.answers["blocked"] = Answer([Say("I look."), Call("Bash", f'{{"command": "echo {SECRET}"}}')])
    key = key_of(proxy, "a-client", "internal_user", key_alias="blue")
    ask(proxy, key)
    record = spend_logs(postgres_url, key)[-1]["metadata"]["spend_logs_metadata"]["luthien"]
    return Asked(record["transaction_id"], key)


@pytest.mark.parametrize("role", ["the master key", "proxy_admin_viewer"])
def test_admins_and_viewers_read_what_is_sealed(proxy: Proxy, asked: Asked, role: str) -> None:
    key = {} if role == "the master key" else {"key": key_of(proxy, f"a-{role}", role)}
    with visiting(proxy, **key) as visitor:
        listed = visitor.get("/?key=blue&outcome=blocked&policy=tool_rules&format=json").json()
        assert [one["id"] for one in listed["rows"]] == [asked.id]
        assert "blocked" in listed["hour"]["outcomes"]
        page = visitor.get(f"/t/{asked.id}")
        assert page.status_code == 200
        assert REASON in page.text
        assert SECRET in page.text


def test_another_role_gets_no_cookie(proxy: Proxy, asked: Asked) -> None:
    for key in (asked.key, key_of(proxy, "a-reader", "internal_user_viewer")):
        with httpx.Client(base_url=f"{proxy.url}{UI}") as client:
            response = client.post("/login", data={"key": key}, headers=SAME)
            assert (response.status_code, "set-cookie" in response.headers) == (403, False)


@pytest.mark.parametrize(("user", "role"), [("a-lead", "internal_user"), ("an-admin", "proxy_admin")])
def test_a_key_for_approvals_does_not_read(proxy: Proxy, asked: Asked, user: str, role: str) -> None:
    key = key_of(proxy, user, role, allowed_routes=["/luthien/approvals"])
    with httpx.Client(base_url=f"{proxy.url}{UI}") as client:
        assert client.post("/login", data={"key": key}, headers=SAME).status_code == 303
        for path in ("/", f"/t/{asked.id}", "/events"):
            response = client.get(path)
            assert (response.status_code, SECRET in response.text) == (403, False)
        assert client.get("/approvals").status_code == 200


def test_a_session_of_the_admin_ui_opens_the_page_and_a_forged_one_does_not(proxy: Proxy) -> None:
    asked_for = proxy.http.get(f"/api/plugins/auth-token?plugin_name={PLUGIN}")
    claim = asked_for.json()["session_claim"]
    with visiting(proxy, claim=claim) as visitor:
        assert visitor.get("/").status_code == 200
    client = {"Authorization": f"Bearer {key_of(proxy, 'another-client', 'internal_user')}"}
    others = proxy.http.get(f"/api/plugins/auth-token?plugin_name={PLUGIN}", headers=client).json()
    with httpx.Client(base_url=f"{proxy.url}{UI}") as stranger:
        for forged in (claim[:-4] + "AAA=", "", others.get("session_claim", "")):
            assert stranger.post("/login", data={"claim": forged}, headers=SAME).status_code == 403


def test_a_page_follows_what_is_written_to_the_database(proxy: Proxy, asked: Asked) -> None:
    with visiting(proxy) as visitor:
        events = Events(visitor)
        ask(proxy, asked.key)
        running = events.row_with("openai/blocked", "blue", "block Bash", REASON)
        events.row_with(running["id"], "blocked", REASON)
        first = visitor.get("/?format=json").json()["rows"]
        assert {asked.id, running["id"]} <= {one["id"] for one in first}
