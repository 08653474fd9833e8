"""The second call of `on_block: retry` on a real PostgreSQL: a row of its own, charged to the key that asked."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from luthien_litellm_hooks.testing.answers import Answer
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.proxy.test_proxy_again import FIRST, MODELS, RETRY, SECOND, script
from tests.services.test_judge_costs import KEY_SPEND, mark_of, spent_of
from tests.support.postgres import spend_logs
from tests.support.prisma_client import prisma_environment
from tests.support.proxy import Proxy, deployment, proxy_config, running_proxy

PATHS: dict[str, tuple[str, Any]] = {
    "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
    "messages": ("/v1/messages", {"max_tokens": 99, "messages": [{"role": "user", "content": "x"}]}),
    "responses": ("/v1/responses", {"input": "x", "store": False}),
    "gemini": ("", {"contents": [{"role": "user", "parts": [{"text": "x"}]}]}),
}


@pytest.fixture(scope="module")
def proxy(
    provider: ScriptedProvider, provider_url: str, postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    environment = {**prisma_environment(postgres_url), "PROXY_BATCH_WRITE_AT": "1"}
    config = proxy_config(provider_url, RETRY)
    config["general_settings"] = {"store_prompts_in_spend_logs": True}
    for number in range(8):
        own = deployment(provider_url, "shared", f"openai/shared-{number}")
        groups = {"access_groups": ["own" if number == 0 else "others"], "id": f"shared-{number}"}
        config["model_list"].append({**own, "model_info": groups})
    config["model_list"].append(deployment(provider_url, "failing", "openai/failing"))
    config["router_settings"]["fallbacks"] = [{"failing": [f"openai/{MODELS['chat']}"]}]
    with running_proxy(config, tmp_path_factory.mktemp("proxy") / "p", environment) as proxy:
        yield proxy


def send(proxy: Proxy, key: str, route: str, stream: bool) -> None:
    path, body = PATHS[route]
    model = f"{route if route == 'gemini' else 'anthropic' if route == 'messages' else 'openai'}/{MODELS[route]}"
    if route == "gemini":
        path = f"/v1beta/models/{model}:" + ("streamGenerateContent?alt=sse" if stream else "generateContent")
    else:
        body = {**body, "model": model, "stream": stream}
    response = proxy.http.post(path, json=body, headers={"Authorization": f"Bearer {key}"})
    assert response.is_success, response.text
    assert "read" in response.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", PATHS)
def test_the_key_pays_for_both_calls(
    proxy: Proxy, provider: ScriptedProvider, postgres_url: str, route: str, stream: bool
) -> None:
    script(provider)
    key = proxy.virtual_key(key_alias=f"{route}-{stream}")
    send(proxy, key, route, stream)
    rows = spend_logs(postgres_url, key, 2)
    records: list[Any] = [row["metadata"].get("spend_logs_metadata") or {} for row in rows]
    [record] = [found["luthien"] for found in records if "luthien" in found]
    [second] = [row for row in rows if "luthien:again" in row["request_tags"]]
    assert (record["outcome"], record["asked_again"]["result"]) == ("blocked", "delivered")
    assert second["spend"] > 0
    assert record["asked_again"]["cost"] == pytest.approx(second["spend"])
    assert record["spent"]["cost"] == pytest.approx(second["spend"])
    shown = json.dumps(second, default=str)
    assert [text for text in ("Then I read.", "I tidy up.", "Not this one.") if text in shown] == []
    spend = sum(row["spend"] for row in rows)
    assert spend > second["spend"]
    assert spent_of(postgres_url, KEY_SPEND, rows[0]["api_key"], spend) == pytest.approx(spend)
    if route != "gemini":
        assert mark_of(second) is not None


def chat(proxy: Proxy, model: str, **settings: Any) -> str:
    headers = {"Authorization": f"Bearer {proxy.virtual_key(**settings)}"}
    body = {"model": model, "messages": [{"role": "user", "content": "x"}]}
    response = proxy.http.post("/v1/chat/completions", json=body, headers=headers)
    assert response.is_success, response.text
    return response.text


def test_a_key_with_a_group_of_deployments_has_no_other_in_the_second_call(
    proxy: Proxy, provider: ScriptedProvider
) -> None:
    for number in range(8):
        provider.answers[f"shared-{number}"], provider.next_answers[f"shared-{number}"] = FIRST, SECOND
    seen = len(provider.requests)
    assert "Then I read." in chat(proxy, "shared", models=["own"])
    assert [request.body["model"] for request in provider.requests[seen:]] == ["shared-0"] * 2


def test_a_key_without_fallbacks_has_none_in_the_second_call(proxy: Proxy, provider: ScriptedProvider) -> None:
    script(provider)
    provider.answers["failing"], provider.next_answers["failing"] = FIRST, Answer(status=500)
    assert "Then I read." in chat(proxy, "failing")
    assert "Then I read." not in chat(proxy, "failing", metadata={"disable_fallbacks": True})
