"""The pages over LiteLLM's database, whose records are sealed, for an admin and for one who may only view."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.monitored import BASE, SAME_ORIGIN, text_of, token_of
from tests.support.postgres import spend_logs
from tests.support.prisma_client import prisma_environment
from tests.support.proxy import KEEPS_PROMPTS, KEY, Proxy, proxy_config, running_proxy

CALL = Call("Bash", json.dumps({"command": "make clean"}), id="call_a")
RULE = {"tool": "Bash", "action": "block", "reason": "no cleaning"}
SETTINGS: dict[str, Any] = {
    "policy": {"class": "tool_rules", "config": {"rules": [RULE]}, "enforce": False},
    "ui": {"enabled": True},
}


@pytest.fixture(scope="module")
def proxy(provider_url: str, postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Proxy]:
    folder = tmp_path_factory.mktemp("monitor_database")
    config = {**proxy_config(provider_url, SETTINGS), "general_settings": dict(KEEPS_PROMPTS)}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with running_proxy(config, folder / "proxy", prisma_environment(postgres_url)) as proxy:
            yield proxy


@contextmanager
def visiting(proxy: Proxy, key: str) -> Generator[httpx.Client]:
    with httpx.Client(base_url=proxy.url + BASE, timeout=60) as visitor:
        response = visitor.post("/login", data={"key": key}, headers=SAME_ORIGIN)
        assert response.status_code == 303, response.text
        yield visitor


def viewer_key(proxy: Proxy) -> str:
    made = {"user_role": "proxy_admin_viewer", "auto_create_key": False}
    user = proxy.http.post("/user/new", json=made).raise_for_status().json()["user_id"]
    return proxy.virtual_key(user_id=user)


def test_sealed_records_are_opened_and_one_who_may_only_view_changes_nothing(
    proxy: Proxy, provider: ScriptedProvider, postgres_url: str
) -> None:
    provider.answers["cleans"] = Answer([Say("I clean up."), CALL])
    asker = proxy.virtual_key()
    headers = {"authorization": f"Bearer {asker}", "x-litellm-session-id": f"session-{asker[-8:]}"}
    for number in range(3):
        body = {"model": "openai/cleans", "messages": [{"role": "user", "content": f"Clean {number}."}]}
        proxy.http.post("/v1/chat/completions", json=body, headers=headers).raise_for_status()
    stored = spend_logs(postgres_url, asker, 3)
    ids = [row["metadata"]["spend_logs_metadata"]["luthien"]["transaction_id"] for row in stored]
    with visiting(proxy, viewer_key(proxy)) as viewer:
        said = text_of(viewer.get(f"/s/session-{asker[-8:]}").text)
        assert [said.index(f"Asked Clean {number}.") for number in range(3)] == sorted(
            said.index(f"Asked Clean {number}.") for number in range(3)
        )
        assert "runs make clean" in said
        [policy] = viewer.get("/report?policy=tool_rules&format=json").json()["policies"]
        assert policy["numbers"]["blocked"] >= 3
        assert {example["transaction_id"] for example in policy["examples"]} >= set(ids)
        assert policy["examples"][0]["calls"][0]["arguments"] == CALL.arguments
        token = token_of(viewer.get("/policy").text)
        for path in ("/label", "/policy"):
            fields = {"token": token, "transaction": ids[0], "block": "1", "label": "block", "policy": "noop"}
            assert viewer.post(path, data=fields, headers=SAME_ORIGIN).status_code == 403
    with visiting(proxy, KEY) as admin:
        token = token_of(admin.get("/policy").text)
        fields = {"token": token, "policy": "tool_rules", "settings": json.dumps({"rules": [RULE]}), "on": ids[1]}
        page = admin.post("/policy", data=fields, headers=SAME_ORIGIN)
        assert page.text.count("newly blocked") == 1
        marked = {"token": token, "transaction": ids[1], "block": "1", "label": "block"}
        assert admin.post("/label", data=marked, headers=SAME_ORIGIN).status_code == 303
        assert "labelled block" in text_of(admin.get(f"/t/{ids[1]}").text)
