"""What a real proxy tells of its transactions: spans below LiteLLM's own, metrics, events."""

import json
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.clients import ROUTES
from tests.support.collector import Collector, collector
from tests.support.postgres import running_postgres
from tests.support.prisma_client import prisma_environment
from tests.support.proxy import KEY, Proxy, proxy_config, running_proxy
from tests.support.redis import running_redis
from tests.support.waiting import wait_until

POLICY = {"class": "block_dangerous_commands"}
MARKER = "zanzibar"
ANSWER = Answer(
    [Say(f"I clean up {MARKER}."), Call("Bash", json.dumps({"command": f"rm -rf / # {MARKER}"}), id="call_a")]
)


@dataclass(frozen=True)
class Observed:
    """A proxy, and everybody who watches it."""

    proxy: Proxy
    spans: Collector
    events: Path
    redis_url: str


@pytest.fixture(scope="module")
def observed(
    provider: ScriptedProvider, provider_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Observed]:
    provider.answers["observed"] = ANSWER
    folder = tmp_path_factory.mktemp("observed")
    events = folder / "events.jsonl"
    config = proxy_config(provider_url, {"policy": POLICY, "events": {"jsonl": str(events), "redis": redis_url}})
    config["litellm_settings"]["callbacks"] = ["otel", "prometheus", "luthien_litellm_hooks.luthien"]
    with collector() as spans:
        environment = {
            "OTEL_EXPORTER": "otlp_http",
            "OTEL_ENDPOINT": spans.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }
        with running_proxy(config, folder / "proxy", environment) as proxy:
            yield Observed(proxy, spans, events, redis_url)


@pytest.fixture(scope="module")
def asked(observed: Observed) -> Observed:
    """One blocked call on each route, streamed and not."""
    for route in ("chat", "messages", "responses"):
        for stream in (False, True):
            assert "[luthien]" in ROUTES[route](observed.proxy, "observed", stream, {}).text
    return observed


def events_of(observed: Observed, kind: str) -> list[dict[str, Any]]:
    lines = observed.events.read_text().splitlines() if observed.events.exists() else []
    return [event for line in lines if (event := json.loads(line))["type"] == kind]


def test_each_transaction_has_a_span_below_litellms_and_its_decision_below_that(asked: Observed) -> None:
    def transactions() -> list[Any]:
        return [span for span in asked.spans.spans if span.name == "luthien.transaction"]

    def parents() -> list[str | None]:  # LiteLLM ends its own later, so they may come later
        return [asked.spans.parent_of(span) for span in transactions()]

    wait_until(lambda: len(transactions()) >= 6 and None not in parents())
    assert parents() == ["Received Proxy Server Request"] * 6
    ids = {span.span_id for span in transactions()}
    hooks = [span for span in asked.spans.spans if span.name.startswith("luthien.hook")]
    assert {span.parent_span_id for span in hooks} == ids
    [event] = {event.name for span in hooks for event in span.events}
    assert event == "luthien.decision"


def test_spans_and_events_hold_no_text(asked: Observed) -> None:
    wait_until(lambda: len(events_of(asked, "transaction.streaming_response_recorded")) >= 3)
    own = [span for span in asked.spans.spans if span.name.startswith("luthien")]
    assert own
    assert MARKER not in "".join(str(span) for span in own)
    assert MARKER not in asked.events.read_text()


def test_the_events_of_a_transaction_are_in_the_file_and_in_redis(asked: Observed) -> None:
    wait_until(lambda: len(events_of(asked, "transaction.non_streaming_response_recorded")) >= 3)
    requests = events_of(asked, "transaction.request_recorded")
    ended = [
        event
        for kind in ("streaming", "non_streaming")
        for event in events_of(asked, f"transaction.{kind}_response_recorded")
    ]
    assert {event["transaction_id"] for event in requests} == {event["transaction_id"] for event in ended}
    assert [event["data"]["outcome"] for event in ended] == ["blocked"] * 6
    assert all(len(event["trace_id"]) == 32 for event in ended)
    assert sorted({event["data"]["route"] for event in requests + ended}) == ["chat", "messages", "responses"]
    for data in (event["data"] for event in ended):
        assert [policy["name"] for policy in data["policies"]] == ["block_dangerous_commands"]
        [decision] = data["decisions"]
        assert (decision["policy"], decision["action"]) == ("block_dangerous_commands", "block")
        assert decision["reason"].startswith("dangerous command")
        assert "evidence" not in decision
        assert data["version"]
        assert KEY not in str(data["identity"])
    client = redis.Redis.from_url(asked.redis_url)
    entries: Any = client.xrange("luthien:events")
    own = {event["transaction_id"] for event in requests}  # other tests use this Redis too
    published = [fields[b"event"].decode() for _, fields in entries]
    lines = asked.events.read_text().splitlines()
    assert sorted(text for text in published if json.loads(text)["transaction_id"] in own) == sorted(lines)


def test_metrics_are_on_litellms_page(asked: Observed) -> None:
    wait_until(lambda: len(events_of(asked, "transaction.streaming_response_recorded")) >= 3)
    page = metrics(asked.proxy)
    for route in ("chat", "messages", "responses"):
        assert f'luthien_transactions_total{{outcome="blocked",route="{route}"}} 2.0' in page
    assert 'luthien_decisions_total{action="block",mode="enforced",policy="block_dangerous_commands"} 6.0' in page
    assert 'luthien_policy_seconds_count{hook="on_finish_reason",policy="block_dangerous_commands"} 6.0' in page
    assert "luthien_added_latency_seconds_count 6.0" in page


def test_answers_go_on_when_those_who_are_told_are_gone(
    provider: ScriptedProvider, provider_url: str, tmp_path: Path
) -> None:
    provider.answers["observed"] = ANSWER
    with running_postgres() as database_url, running_redis() as redis_url:
        luthien = {"policy": POLICY, "events": {"jsonl": "/dev/full", "redis": redis_url}}
        config = proxy_config(provider_url, luthien)
        config["litellm_settings"]["callbacks"] = ["prometheus", "luthien_litellm_hooks.luthien"]
        proxies = ExitStack()
        proxy = proxies.enter_context(running_proxy(config, tmp_path / "proxy", prisma_environment(database_url)))
        assert "[luthien]" in ROUTES["chat"](proxy, "observed", True, {}).text
    with proxies:
        for stream in (True, False):
            assert "[luthien]" in ROUTES["chat"](proxy, "observed", stream, {}).text
        for sink in ("jsonl", "redis"):
            said = f"events cannot be written to {sink}"
            wait_until(lambda said=said: said in proxy.output)
            assert proxy.output.count(said) == 1
        assert "luthien_observer_failures_total" in metrics(proxy)


def metrics(proxy: Proxy) -> str:
    return proxy.http.get("/metrics/", follow_redirects=True).text
