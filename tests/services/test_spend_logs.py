"""LiteLLM's spend logs on a real PostgreSQL: one row for each transaction, however it ended, with the whole record."""

import asyncio
import json
import re
import uuid
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest

from luthien_litellm_hooks.monitor.spend_logs import Filter, latest_query
from luthien_litellm_hooks.testing.answers import Answer, Cut, Gate, Say, Wait
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from luthien_litellm_hooks.testing.routes import ROUTES, RouteName
from tests.support.leaving import asking
from tests.support.postgres import spend_logs
from tests.support.proxy import CANCELS, KEEPS_PROMPTS, Proxies, Proxy

LAB = {"policy": {"class": "tests.support.lab:Lab"}}  # alone: records name all policies of a proxy
ASKED, CAME = "ask tulip", "one orchid"
ENDED, REFUSED = "This answer is ended.", "This request is refused."

# LiteLLM streams Responses, and logs Gemini's streams, only of models whose price it knows.
MODELS: Mapping[str, Mapping[str, str]] = {
    "openai": {"says": "gpt-4o", "fails": "gpt-4o-mini", "waits": "gpt-4.1-mini"},
    "anthropic": {"says": "claude-sonnet-4-5", "fails": "claude-haiku-4-5", "waits": "claude-opus-4-1"},
    "gemini": {"says": "gemini-2.5-flash", "fails": "gemini-2.5-pro", "waits": "gemini-2.5-flash-lite"},
}
BREAKING_OFF: Mapping[RouteName, str] = {
    "chat": "gpt-4.1",
    "messages": "claude-opus-4-5",
    "responses": "gpt-4.1-nano",
    "completions": "gpt-4-turbo",
    "gemini": "gemini-2.0-flash",
}
WIRES: Mapping[RouteName, str] = {
    "chat": "openai",
    "messages": "anthropic",
    "responses": "openai",
    "completions": "openai",
    "gemini": "gemini",
}
BODIES: Mapping[RouteName, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": ASKED}]},
    "messages": {"messages": [{"role": "user", "content": ASKED}], "max_tokens": 50},
    "responses": {"input": ASKED},
    "completions": {"prompt": ASKED},
    "gemini": {"contents": [{"role": "user", "parts": [{"text": ASKED}]}]},
}
REWRITES: Mapping[RouteName, str] = {
    "chat": "rewrite request",
    "messages": "rewrite request",
    "responses": "rewrite input",
    "completions": "rewrite prompt",
    "gemini": "rewrite contents",
}


@dataclass(frozen=True)
class Case:
    """What a policy and a provider do with a transaction, and what its record must say. `None` among the texts
    is for those that hold a transaction's id, or depend on when the stream broke."""

    user: str | None
    provider: str
    outcome: str
    status: str
    came: str | None
    left: str | None
    is_request_changed: bool = False
    is_answer_changed: bool = False


PASSED, STOPPED, FAILED = "success", "guardrail_intervened", "guardrail_failed_to_respond"
CASES: Mapping[str, Case] = {
    "allow": Case(None, "says", "complete", PASSED, CAME, CAME),
    "modify the request": Case("rewrite", "says", "complete", PASSED, CAME, CAME, is_request_changed=True),
    "modify the answer": Case("redact", "says", "complete", PASSED, CAME, "one [flower]", is_answer_changed=True),
    "refuse the request": Case("refuse request", "says", "blocked", STOPPED, "", REFUSED, is_answer_changed=True),
    "answer instead": Case("answer", "says", "complete", PASSED, "", "answered by the policy", is_answer_changed=True),
    "block the answer": Case("end answer", "says", "blocked", STOPPED, CAME, ENDED, is_answer_changed=True),
    "fail on the request": Case("fail on request", "says", "policy_error", FAILED, "", None, is_answer_changed=True),
    "fail on the answer": Case("fail on text", "says", "policy_error", FAILED, CAME, None, is_answer_changed=True),
    "provider fails": Case(None, "fails", "provider_error", PASSED, "", ""),
    "provider breaks off": Case(None, "breaks off", "provider_error", PASSED, None, None),
    "client leaves": Case(None, "waits", "client_disconnected", PASSED, None, None),
}
IN_A_STREAM = ("provider breaks off", "client leaves")
AS_ERRORS = ("refuse the request", "block the answer", "fail on the request", "fail on the answer")


@dataclass(frozen=True)
class Cell:
    """One transaction of the matrix."""

    case: str
    route: RouteName
    is_streamed: bool

    def __str__(self) -> str:
        return f"{self.case}, {self.route}, {'stream' if self.is_streamed else 'full'}".replace(" ", "_")


def matrix(*cases: str) -> list[Cell]:
    return [
        Cell(case, route, is_streamed)
        for case in cases
        for route in ROUTES
        for is_streamed in (True, False)
        if is_streamed or case not in IN_A_STREAM
    ]


EVERY = matrix(*CASES)
ERRORS = matrix("allow", "modify the answer", *AS_ERRORS)
Rows = Mapping[Cell, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def gates(provider: ScriptedProvider) -> Generator[Mapping[str, Gate]]:
    """What the providers whose streams break off wait for; those that wait do so to the end of the tests."""
    before = dict(provider.answers)
    gates = {model: Gate() for model in BREAKING_OFF.values()}
    endless = Gate()
    for model, gate in gates.items():
        provider.answers[model] = Answer([Say(CAME), Wait(gate), Cut()])
    for models in MODELS.values():
        provider.answers[models["says"]] = Answer([Say(CAME)])
        provider.answers[models["fails"]] = Answer([Say("overloaded")], status=500)
        provider.answers[models["waits"]] = Answer([Say(CAME), Wait(endless), Say("never")])
    yield gates
    endless.open()
    provider.answers.clear()
    provider.answers.update(before)


def request(cell: Cell) -> tuple[str, dict[str, Any]]:
    """The path and the body of a cell's request."""
    case, wire = CASES[cell.case], WIRES[cell.route]
    model = BREAKING_OFF[cell.route] if case.provider == "breaks off" else MODELS[wire][case.provider]
    user = REWRITES[cell.route] if case.user == "rewrite" else case.user
    body = {**BODIES[cell.route], **({} if user is None else {"user": user})}
    if cell.route == "gemini":
        method = "streamGenerateContent?alt=sse" if cell.is_streamed else "generateContent"
        return f"/v1beta/models/gemini/{model}:{method}", body
    return ROUTES[cell.route].path, {**body, "model": f"{wire}/{model}", "stream": cell.is_streamed}


def ask(proxy: Proxy, key: str, cell: Cell, gates: Mapping[str, Gate], call_id: str) -> None:
    path, body = request(cell)
    headers = {"Authorization": f"Bearer {key}", "x-litellm-call-id": call_id}
    try:
        with proxy.http.stream("POST", path, json=body, headers=headers, timeout=30) as response:
            items = response.iter_bytes()
            if cell.case in IN_A_STREAM:
                seen = b""
                while b"one" not in seen:
                    seen += next(items)
            if cell.case == "provider breaks off":
                gates[BREAKING_OFF[cell.route]].open()
            if cell.case != "client leaves":
                list(items)
    except httpx.RemoteProtocolError:
        assert cell.case == "provider breaks off"


def all_asked(proxy: Proxy, url: str, cells: list[Cell], gates: Mapping[str, Gate]) -> Rows:
    """The rows of each cell, asked all at once; a last request shows that none is to come."""
    key = proxy.virtual_key()
    ids = {cell: str(uuid.uuid4()) for cell in cells}
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda cell: ask(proxy, key, cell, gates, ids[cell]), cells))
    ask(proxy, key, cells[0], gates, str(uuid.uuid4()))
    rows = spend_logs(url, key, len(cells) + 1)
    return {cell: [row for row in rows if row["litellm_call_id"] == id] for cell, id in ids.items()}


@pytest.fixture(scope="module")
def proxy(proxies: Proxies, postgres_url: str) -> Proxy:
    """Where refusals are notices, and LiteLLM keeps prompts."""
    return proxies.get(LAB, database_url=postgres_url, general_settings=KEEPS_PROMPTS)


@pytest.fixture(scope="module")
def logged(proxy: Proxy, postgres_url: str, gates: Mapping[str, Gate]) -> Rows:
    return all_asked(proxy, postgres_url, EVERY, gates)


@pytest.fixture(scope="module")
def errors_proxy(proxies: Proxies, postgres_url: str) -> Proxy:
    """Where refusals are errors, and LiteLLM keeps no prompts, and does not wait for what no client does."""
    return proxies.get({**LAB, "on_block": "error"}, database_url=postgres_url, general_settings=CANCELS)


@pytest.fixture(scope="module")
def logged_errors(errors_proxy: Proxy, postgres_url: str, gates: Mapping[str, Gate]) -> Rows:
    return all_asked(errors_proxy, postgres_url, ERRORS, gates)


def record(row: Mapping[str, Any]) -> dict[str, Any]:
    return row["metadata"]["spend_logs_metadata"]["luthien"]


def text(answer: Mapping[str, Any]) -> str:
    return "".join(block["text"] for block in answer["content"])


@pytest.mark.parametrize("cell", EVERY, ids=str)
def test_each_transaction_has_one_row_with_the_whole_record(logged: Rows, cell: Cell) -> None:
    case = CASES[cell.case]
    [row] = logged[cell]
    kept = record(row)
    assert kept["outcome"] == case.outcome
    assert kept["changed"] == {"request": case.is_request_changed, "answer": case.is_answer_changed}
    assert [policy["name"] for policy in kept["policies"]] == ["tests.support.lab:Lab"]
    assert len(kept["policies"][0]["version"]) == 12
    original, final = kept["original"], kept["final"]
    assert ASKED in str(original["request"])
    assert (final["request"] is not None) is case.is_request_changed
    assert ("rewritten" in str(final["request"])) is case.is_request_changed
    came, left = text(original["answer"]), text(final["answer"])
    assert case.came in (None, came)
    assert case.left in (None, left)
    if cell.case in IN_A_STREAM:
        assert left
        assert came.startswith(left)
        assert CAME.startswith(came)
    assert [entry["guardrail_status"] for entry in row["metadata"]["guardrail_information"]] == [case.status]


@pytest.mark.parametrize("cell", matrix("modify the answer", "block the answer", "fail on the answer"), ids=str)
def test_the_logged_answer_is_the_delivered_one_and_the_count_of_tokens_the_providers(logged: Rows, cell: Cell) -> None:
    [row] = logged[cell]
    [untouched] = logged[Cell("allow", cell.route, cell.is_streamed)]
    assert text(record(row)["final"]["answer"]) in json.dumps(row["response"])
    assert "orchid" not in json.dumps(row["response"])
    assert "orchid" in json.dumps(untouched["response"])
    assert (row["spend"], row["total_tokens"]) == (untouched["spend"], untouched["total_tokens"])


@pytest.mark.parametrize("cell", ERRORS, ids=str)
def test_without_prompts_a_row_tells_all_but_texts(logged_errors: Rows, cell: Cell) -> None:
    case = CASES[cell.case]
    [row] = logged_errors[cell]
    kept = record(row)
    assert kept["outcome"] == case.outcome
    assert kept.keys().isdisjoint({"original", "final"})
    assert [decision["action"] for decision in kept["decisions"]] == {
        "blocked": ["block"],
        "policy_error": ["error"],
    }.get(case.outcome, [])
    assert not [word for word in ("tulip", "orchid", "flower", "secret of the policy") if word in str(row)]


@pytest.mark.parametrize("route", list(ROUTES))
def test_an_answer_that_is_withheld_is_paid_for(logged_errors: Rows, route: RouteName) -> None:
    [withheld] = logged_errors[Cell("block the answer", route, is_streamed=False)]
    [untouched] = logged_errors[Cell("allow", route, is_streamed=False)]
    assert (withheld["status"], untouched["status"]) == ("failure", "success")
    assert (withheld["spend"], withheld["total_tokens"]) == (untouched["spend"], untouched["total_tokens"])
    assert withheld["spend"] > 0


@pytest.mark.parametrize("route", ["chat", "messages", "responses"])
@pytest.mark.usefixtures("gates")
def test_a_client_that_leaves_before_a_full_answer_has_a_row(
    errors_proxy: Proxy, provider: ScriptedProvider, postgres_url: str, route: RouteName
) -> None:
    key = errors_proxy.virtual_key()
    path, body = request(Cell("client leaves", route, is_streamed=False))
    before = len(provider.requests)
    with asking(errors_proxy, key, path, body) as client:
        provider.requests.wait_for(before + 1)
        client.leave()
    [row] = spend_logs(postgres_url, key)
    assert (row["status"], record(row)["outcome"]) == ("failure", "client_disconnected")


async def test_two_hundred_transactions_at_once_have_their_own_rows(proxy: Proxy, postgres_url: str) -> None:
    key = proxy.virtual_key()
    bearer = {"Authorization": f"Bearer {key}"}

    async def say(number: int) -> None:
        wire, path = [("openai", "/v1/chat/completions"), ("anthropic", "/v1/messages")][number % 2]
        messages = [{"role": "user", "content": f"say: orchid {number}."}]
        body = {"model": f"{wire}/scripted", "max_tokens": 50, "messages": messages, "stream": number % 4 > 1}
        response = await client.post(path, json={**body, "user": "redact" if number % 5 else "nobody"}, headers=bearer)
        assert response.status_code == 200, response.text

    async with httpx.AsyncClient(
        base_url=proxy.url, headers=dict(proxy.headers), timeout=60, limits=httpx.Limits()
    ) as client:
        await say(0)  # LiteLLM looks the key up for each of many that come before it knows the key
        await asyncio.gather(*(say(number) for number in range(1, 200)))
    kept = [record(row) for row in spend_logs(postgres_url, key, 200)]
    told = [(text(one["original"]["answer"]), text(one["final"]["answer"]), one["changed"]["answer"]) for one in kept]
    flowers = [(f"orchid {number}.", "[flower]" if number % 5 else "orchid", number) for number in range(200)]
    assert sorted(told) == sorted((came, f"{left} {number}.", number % 5 > 0) for came, left, number in flowers)
    for one, (came, _, _) in zip(kept, told, strict=True):
        assert f"say: {came}" in str(one["original"]["request"])
    assert len({one["transaction_id"] for one in kept}) == 200


FORGED = {"spend_logs_metadata": {"luthien": {"outcome": "forged"}, "own": 1}}


@pytest.mark.parametrize("user", ["nobody", "refuse request"])
@pytest.mark.parametrize("route", ["chat", "messages"])
@pytest.mark.usefixtures("gates")
def test_a_client_can_neither_write_nor_read_a_record(
    proxy: Proxy, postgres_url: str, route: RouteName, user: str
) -> None:
    key = proxy.virtual_key()
    path, body = request(Cell("allow", route, is_streamed=False))
    body |= {"user": user, "metadata": FORGED, "litellm_metadata": FORGED, "include_guardrail_response": True}
    headers = {"x-litellm-spend-logs-metadata": json.dumps(FORGED["spend_logs_metadata"])}
    response = proxy.http.post(path, json=body, headers={**headers, "Authorization": f"Bearer {key}"})
    assert response.status_code == 200
    assert "luthien" not in response.text
    assert "reason" not in response.json().get("guardrail_information", "")
    [row] = spend_logs(postgres_url, key)
    assert record(row)["outcome"] == ("complete" if user == "nobody" else "blocked")
    assert row["metadata"]["spend_logs_metadata"]["own"] == 1


HIDING = {
    "no-log": {"no-log": True},
    "metadata that is a list": {"metadata": {"spend_logs_metadata": ["x"]}},
    "metadata that is text": {"litellm_metadata": {"spend_logs_metadata": "x"}},
}


@pytest.mark.parametrize("is_streamed", [True, False], ids=["streamed", "full"])
@pytest.mark.parametrize("route", ["chat", "messages", "responses"])
@pytest.mark.parametrize("fields", HIDING)
@pytest.mark.usefixtures("gates")
def test_a_client_cannot_hide_from_the_record(
    proxy: Proxy, postgres_url: str, fields: str, route: RouteName, is_streamed: bool
) -> None:
    key = proxy.virtual_key()
    path, body = request(Cell("allow", route, is_streamed=is_streamed))
    response = proxy.http.post(path, json=body | HIDING[fields], headers={"Authorization": f"Bearer {key}"})
    assert response.status_code == 200, response.text
    [row] = spend_logs(postgres_url, key)
    assert record(row)["outcome"] == "complete"


@pytest.mark.parametrize("wish", ["header", "key"])
@pytest.mark.parametrize("route", ["chat", "messages", "responses"])
@pytest.mark.usefixtures("gates")
def test_a_wish_for_redaction_empties_what_litellm_logs_and_not_the_record(
    proxy: Proxy, postgres_url: str, route: RouteName, wish: str
) -> None:
    variables = {
        "turn_off_message_logging": "true",
        "langsmith_api_key": "k",
        "langsmith_base_url": "http://127.0.0.1:9",
    }
    logging = [{"callback_name": "langsmith", "callback_type": "success", "callback_vars": variables}]
    key = proxy.virtual_key(metadata={"logging": logging} if wish == "key" else {})
    path, body = request(Cell("modify the answer", route, is_streamed=False))
    headers = {"x-litellm-enable-message-redaction": "true"} if wish == "header" else {}
    response = proxy.http.post(path, json=body, headers={**headers, "Authorization": f"Bearer {key}"})
    assert response.status_code == 200, response.text
    [row] = spend_logs(postgres_url, key)
    assert "flower" not in json.dumps(row["response"])
    assert text(record(row)["original"]["answer"]) == CAME
    assert ASKED in str(record(row)["original"]["request"])


@pytest.mark.parametrize(("has_key", "path", "status"), [(True, "/v1/embeddings", 404), (False, "/v1/messages", 401)])
def test_a_client_cannot_write_a_record_where_none_is_kept(
    proxy: Proxy, postgres_url: str, has_key: bool, path: str, status: int
) -> None:
    key = proxy.virtual_key() if has_key else f"sk-{uuid.uuid4()}"
    body = {"model": "openai/none", "input": "x", "metadata": FORGED, "litellm_metadata": FORGED}
    response = proxy.http.post(path, json=body, headers={"Authorization": f"Bearer {key}"})
    assert response.status_code == status
    [row] = spend_logs(postgres_url, key)
    assert "forged" not in str(row["metadata"]["spend_logs_metadata"])


@pytest.mark.usefixtures("gates")
def test_an_answer_that_litellm_does_not_log_has_a_row_too(
    proxy: Proxy, provider: ScriptedProvider, postgres_url: str
) -> None:
    """LiteLLM gives up logging a stream of Gemini's whose price it does not know."""
    provider.answers["of-no-price"] = Answer([Say(CAME)])
    key = proxy.virtual_key()
    path = "/v1beta/models/gemini/of-no-price:streamGenerateContent?alt=sse"
    proxy.http.post(path, json=BODIES["gemini"], headers={"Authorization": f"Bearer {key}"})
    [row] = spend_logs(postgres_url, key)
    assert (row["status"], record(row)["outcome"]) == ("success", "complete")
    assert text(record(row)["final"]["answer"]) == CAME


ROWS = """
INSERT INTO "LiteLLM_SpendLogs" (request_id, call_type, "startTime", "endTime", metadata)
SELECT 'plan-' || number, 'acompletion', now() - number * interval '1 second', now(),
    jsonb_build_object(
        'spend_logs_metadata', jsonb_build_object('luthien', jsonb_build_object('sealed', repeat('x', 500)))
    )
FROM generate_series(1, 5000) number
"""


def test_the_newest_of_many_rows_are_read_by_the_index(postgres_url: str) -> None:
    query, *values = latest_query(Filter(), None, None, 50, with_texts=False)
    placed = re.sub(r"\$(\d+)", r"%(p\1)s", query.replace("%", "%%"))
    given = {f"p{number}": value for number, value in enumerate(values, 1)}
    with psycopg.connect(postgres_url) as connection, connection.transaction(force_rollback=True):
        connection.execute(ROWS)
        connection.execute('ANALYZE "LiteLLM_SpendLogs"')
        plan = "\n".join(row[0] for row in connection.execute(f"EXPLAIN {placed}", given).fetchall())
    assert "Index Scan" in plan, plan
    assert "Seq Scan" not in plan, plan
