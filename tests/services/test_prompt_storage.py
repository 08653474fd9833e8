"""LiteLLM 1.110's rules of what texts are stored for keys, for teams and of last turns: records follow them."""

import json
from collections.abc import Generator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from luthien_litellm_hooks.testing.routes import ROUTES, RouteName
from tests.services.test_spend_logs import WIRES, record
from tests.support.postgres import spend_logs
from tests.support.prisma_client import prisma_environment
from tests.support.proxy import KEEPS_PROMPTS, Proxy, proxy_config, running_proxy
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(
    tuple(map(int, version("litellm").split(".")[:2])) < (1, 110), reason="these rules are new in LiteLLM 1.110"
)
FIRST, LAST = "say: a tulip", "say: a daisy"
TURNS = [
    {"role": "user", "content": FIRST},
    {"role": "assistant", "content": "A tulip."},
    {"role": "user", "content": LAST},
]
EVENTS = "events.jsonl"
OUT = {"store_prompts_in_spend_logs": False}


def _proxy(provider_url: str, postgres_url: str, folder: Path, **general: Any) -> Generator[Proxy]:
    settings = {"policy": {"class": "block_dangerous_commands"}, "events": {"jsonl": str(folder / EVENTS)}}
    config = proxy_config(provider_url, settings) | {"general_settings": {**KEEPS_PROMPTS, **general}}
    environment = prisma_environment(postgres_url)
    with running_proxy(config, folder / "proxy", environment) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def proxy(provider_url: str, postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Proxy]:
    yield from _proxy(provider_url, postgres_url, tmp_path_factory.mktemp("keeps"))


@pytest.fixture(scope="module")
def brief_proxy(provider_url: str, postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Proxy]:
    """Where LiteLLM stores only the last turn."""
    folder = tmp_path_factory.mktemp("brief")
    yield from _proxy(provider_url, postgres_url, folder, spend_logs_prompt_storage="latest_turn")


def ask(proxy: Proxy, key: str, route: RouteName) -> None:
    field = "input" if route == "responses" else "messages"
    body: dict[str, Any] = {"model": f"{WIRES[route]}/scripted", field: TURNS}
    body |= {"max_tokens": 50} if route == "messages" else {}
    response = proxy.http.post(ROUTES[route].path, json=body, headers={"Authorization": f"Bearer {key}"})
    assert response.is_success, response.text


def told(proxy: Proxy, transaction_id: str) -> str:
    """The events of a transaction, when its record is among them."""
    file = proxy.log.parent.parent / EVENTS

    def lines() -> list[str]:
        return [line for line in file.read_text().splitlines() if json.loads(line)["transaction_id"] == transaction_id]

    wait_until(lambda: any("transaction.recorded" in line for line in lines()))
    return "\n".join(lines())


@pytest.mark.parametrize("whose", ["key", "team"])
@pytest.mark.parametrize("route", ["chat", "messages", "responses"])
def test_a_key_or_team_that_stores_no_texts_has_none_in_its_records(
    proxy: Proxy, postgres_url: str, route: RouteName, whose: str
) -> None:
    if whose == "team":
        team = proxy.http.post("/team/new", json={"metadata": OUT}).raise_for_status().json()["team_id"]
        key = proxy.virtual_key(team_id=team)
    else:
        key = proxy.virtual_key(metadata=OUT)
    ask(proxy, key, route)
    [row] = spend_logs(postgres_url, key)
    assert record(row)["outcome"] == "complete"
    assert record(row).keys().isdisjoint({"original", "final"})
    for texts in (json.dumps(row, default=str), told(proxy, record(row)["transaction_id"])):
        assert "daisy" not in texts


@pytest.mark.parametrize("route", ["chat", "messages", "responses"])
def test_others_have_the_texts_in_their_records(proxy: Proxy, postgres_url: str, route: RouteName) -> None:
    key = proxy.virtual_key()
    ask(proxy, key, route)
    [row] = spend_logs(postgres_url, key)
    assert "tulip" in json.dumps(record(row)["original"]["request"])


@pytest.mark.parametrize("route", ["chat", "messages", "responses"])
def test_only_the_last_turn_is_recorded_where_litellm_stores_no_more(
    brief_proxy: Proxy, postgres_url: str, route: RouteName
) -> None:
    key = brief_proxy.virtual_key()
    ask(brief_proxy, key, route)
    [row] = spend_logs(postgres_url, key)
    kept = record(row)["original"]["request"]
    assert kept.keys() == {"model", "input" if route == "responses" else "messages"}
    for texts in (json.dumps(row, default=str), told(brief_proxy, record(row)["transaction_id"])):
        assert "daisy" in texts
        assert "tulip" not in texts
