"""Copies of a request: every logger of LiteLLM's gets what the policies made of it, on every route."""

import json
import uuid
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from luthien_litellm_hooks.testing.answers import Answer, Say
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.collector import Collector, collector
from tests.support.postgres import spend_logs
from tests.support.prisma_client import prisma_environment
from tests.support.proxy import Proxy, proxy_config, running_proxy
from tests.support.waiting import wait_until

SECRET = "ghp_" + "a1B2" * 9
REDACTED = "[redacted:github_token]"
SAID = f"say: it is {SECRET}"
FAILS = "logged-requests-fails"
EVENTS = "transactions.jsonl"
HEADERS = {"x-team": "red", "x-note": "orange", "x-team-token": "plum"}
GEMINI = "/v1beta/models/{model}:generateContent"


def turn(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


CONTENTS = [{"role": "user", "parts": [{"text": SAID}]}]
ASKED: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", "openai/gpt-4o", {"messages": turn(SAID)}),
    "chat to Claude": ("/v1/chat/completions", "anthropic/claude-sonnet-4-5", {"messages": turn(SAID)}),
    "messages": ("/v1/messages", "anthropic/claude-sonnet-4-5", {"messages": turn(SAID), "max_tokens": 9}),
    "messages to OpenAI": ("/v1/messages", "openai/gpt-4o", {"messages": turn(SAID), "max_tokens": 9}),
    "responses": ("/v1/responses", "openai/gpt-4o", {"input": SAID, "instructions": SAID}),
    "responses, items": ("/v1/responses", "openai/gpt-4o", {"input": turn(SAID)}),
    "responses to Claude": ("/v1/responses", "anthropic/claude-sonnet-4-5", {"input": SAID}),
    "completions": ("/v1/completions", "openai/gpt-4o", {"prompt": SAID}),
    "completions, several": ("/v1/completions", "openai/gpt-4o", {"prompt": [SAID, "say: more"]}),
    "gemini": (GEMINI, "gemini/gemini-2.5-flash", {"contents": CONTENTS}),
    "gemini to OpenAI": (GEMINI, "openai/gpt-4o", {"contents": CONTENTS}),
}


@dataclass(frozen=True)
class Overheard:
    """A proxy, and all that it tells its loggers."""

    proxy: Proxy
    spans: Collector
    file: Path

    def events(self) -> list[dict[str, Any]]:
        lines = self.file.read_text().splitlines(keepends=True) if self.file.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]


@pytest.fixture(scope="module")
def overheard(
    provider: ScriptedProvider, provider_url: str, postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Overheard]:
    provider.answers[FAILS] = Answer([Say("busy")], status=500)
    folder = tmp_path_factory.mktemp("overheard")
    policy = {"class": "secrets", "config": {"apply_to": "request"}, "when": {"headers": {"X-Team": "*"}}}
    own = {"record": {"bodies": "always", "original": "never"}, "events": {"jsonl": str(folder / EVENTS)}}
    config = proxy_config(provider_url, {"policy": policy, **own})
    ours = config["litellm_settings"]["callbacks"]
    config["litellm_settings"]["callbacks"] = ["otel", "tests.support.overheard.logger", *ours]
    config["general_settings"] = {"store_prompts_in_spend_logs": True}
    with collector() as spans:
        environment = {
            **prisma_environment(postgres_url),
            "OTEL_EXPORTER": "otlp_http",
            "OTEL_ENDPOINT": spans.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OVERHEARD": str(folder / "events.jsonl"),
        }
        with running_proxy(config, folder / "proxy", environment) as proxy:
            yield Overheard(proxy, spans, folder / "events.jsonl")


def ask(overheard: Overheard, key: str, name: str, is_streamed: bool, *, fails: bool = False) -> list[dict[str, Any]]:
    """What the loggers were told of the request."""
    path, model, body = ASKED[name]
    model = f"{model.partition('/')[0]}/{FAILS}" if fails else model
    path = path.replace("{model}", model)
    if path.endswith(":generateContent"):
        path = path.replace(":generateContent", ":streamGenerateContent?alt=sse") if is_streamed else path
    else:
        body = {**body, "model": model, "stream": is_streamed}
    word = uuid.uuid4().hex  # what LiteLLM translates for another wire gets another id
    asked = json.loads(json.dumps(body).replace("it is", word))
    response = overheard.proxy.http.post(path, json=asked, headers={**HEADERS, "Authorization": f"Bearer {key}"})
    assert response.is_error == fails, response.text

    def told() -> list[dict[str, Any]]:
        return [event for event in overheard.events() if any(word in text for text in event["texts"].values())]

    wait_until(lambda: any(event["event"] in ("success", "failure") for event in told()))
    return told()


def places_of(events: list[dict[str, Any]], text: str) -> set[str]:
    return {f"{one['event']}{path}" for one in events for path, found in one["texts"].items() if text in found}


each = pytest.mark.parametrize("name", ASKED, ids=[name.replace(" ", "_") for name in ASKED])
forms = pytest.mark.parametrize("is_streamed", [False, True], ids=["full", "stream"])


@pytest.fixture(scope="module")
def key(overheard: Overheard) -> str:
    return overheard.proxy.virtual_key()


@each
@forms
def test_loggers_get_the_request_as_the_policy_left_it(
    overheard: Overheard, key: str, name: str, is_streamed: bool
) -> None:
    events = ask(overheard, key, name, is_streamed)
    assert places_of(events, SECRET) == set()
    assert places_of(events, REDACTED), "the request was not logged at all"


@each
def test_loggers_get_no_more_of_a_request_that_fails(overheard: Overheard, key: str, name: str) -> None:
    assert places_of(ask(overheard, key, name, is_streamed=False, fails=True), SECRET) == set()


def test_rows_events_and_spans_hold_the_request_as_the_policy_left_it(overheard: Overheard, postgres_url: str) -> None:
    key = overheard.proxy.virtual_key()
    for name in ASKED:
        ask(overheard, key, name, is_streamed=False)
    rows = spend_logs(postgres_url, key, len(ASKED))
    assert REDACTED in json.dumps([row["proxy_server_request"] for row in rows])
    assert SECRET not in json.dumps(rows, default=str)
    wait_until(lambda: sum(span.name == "litellm_request" for span in overheard.spans.spans) >= len(ASKED))
    assert SECRET not in "".join(map(str, overheard.spans.spans))
    for row in rows:
        record = row["metadata"]["spend_logs_metadata"]["luthien"]
        assert record["original"]["request"] is None
        assert REDACTED in json.dumps(record["final"]["request"])
        assert record["headers"] == {"x-team": "red"}
        assert record["changed"]["request"]
    events = (overheard.file.parent / EVENTS).read_text()
    assert events.count("transaction.recorded") >= len(ASKED)
    assert REDACTED in events
    for told in (events, overheard.proxy.output):
        assert SECRET not in told


UNTOUCHED = "say: nothing to hide"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"model": "openai/gpt-4o", "input": UNTOUCHED}),
        ("/v1/completions", {"model": "openai/gpt-4o", "prompt": UNTOUCHED}),
        ("/v1beta/models/gemini/gemini-2.5-flash:generateContent", {"contents": [{"parts": [{"text": UNTOUCHED}]}]}),
    ],
    ids=["responses", "completions", "gemini"],
)
def test_a_request_that_no_policy_changed_is_logged_as_it_came(
    overheard: Overheard, key: str, path: str, body: dict[str, Any]
) -> None:
    call = uuid.uuid4().hex
    headers = {**HEADERS, "Authorization": f"Bearer {key}", "x-litellm-call-id": call}
    assert overheard.proxy.http.post(path, json=body, headers=headers).is_success

    def told() -> list[str]:
        return [
            event["texts"].get(".messages.0.content", "")
            for event in overheard.events()
            if event["event"] == "success" and event["texts"].get(".litellm_call_id") == call
        ]

    wait_until(lambda: bool(told()))
    assert told() == [UNTOUCHED]
