"""MCP calls, and prompts beside pictures, at a real proxy: their records, spans and metrics are like any other's."""

import json
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from luthien_litellm_hooks.testing.answers import Gate
from luthien_litellm_hooks.testing.provider import ScriptedProvider, serve
from tests.support.collector import Collector, collector
from tests.support.leaving import asking
from tests.support.mcp_lab import MARK, Lab, call, running_lab, session_of, texts
from tests.support.postgres import open_metadata, running_postgres
from tests.support.prisma_client import prisma_environment
from tests.support.proxy import KEY, Proxy, proxy_config, running_proxy
from tests.support.waiting import wait_until

FORBIDDEN = "forbidden"
RULE = {"action": "block", "tool": "*echo", "args": {"text": f"re:{FORBIDDEN}"}}
POLICY = {
    "class": "serial",
    "config": {
        "policies": [
            {"class": "tool_rules", "config": {"rules": [RULE]}},
            {"class": "all_caps", "config": {"tool_arguments": True}},
        ]
    },
}
PICTURE = {"b64_json": "aGk=", "revised_prompt": f"a dog {MARK}"}


@dataclass(frozen=True)
class Observed:
    """A proxy with an MCP server, a database, and a collector of spans."""

    proxy: Proxy
    lab: Lab
    spans: Collector
    database_url: str

    def record_of(self, text: str, model: str = "MCP: %") -> dict[str, Any]:
        """The record of the only row of such a model whose original request names `text`, as soon as there is one."""
        found: list[dict[str, Any]] = []

        def read() -> bool:
            found[:] = [record for record in self._records(model) if text in json.dumps(record["original"]["request"])]
            return bool(found)

        wait_until(read, 60)
        [record] = found
        return record

    def _records(self, model: str) -> list[dict[str, Any]]:
        query = 'SELECT metadata FROM "LiteLLM_SpendLogs" WHERE model LIKE %s'
        with psycopg.connect(self.database_url, autocommit=True, row_factory=dict_row) as connection:
            rows = connection.execute(query, [model]).fetchall()
        for row in rows:
            open_metadata(row["metadata"])
        kept = [(row["metadata"].get("spend_logs_metadata") or {}).get("luthien") for row in rows]
        return [record for record in kept if record is not None]

    def metric(self, name: str, **labels: str) -> float:
        page = httpx.get(
            f"{self.proxy.url}/metrics/",
            headers={"Authorization": f"Bearer {KEY}"},
            follow_redirects=True,
            timeout=60,
        ).text
        said = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
        return next((float(line.split()[-1]) for line in page.splitlines() if line.startswith(f"{name}{{{said}}}")), 0)

    def span_of(self, transaction_id: str) -> Any:
        """The span of a transaction, as soon as it came."""

        def found() -> list[Any]:
            return [
                span for span in self.spans.spans if _attributes(span).get("luthien.transaction.id") == transaction_id
            ]

        wait_until(lambda: bool(found()))
        [span] = found()
        return span


def _attributes(span: Any) -> dict[str, str]:
    return {attribute.key: attribute.value.string_value for attribute in span.attributes}


def _slow_call(observed: Observed, text: str) -> dict[str, Any]:
    listed = observed.proxy.http.get("/mcp-rest/tools/list").json()["tools"]
    [found] = [entry for entry in listed if entry["name"].endswith("slow")]
    return {"server_id": found["mcp_info"]["server_id"], "name": found["name"], "arguments": {"text": text}}


@pytest.fixture(scope="module")
def observed(provider_url: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Observed]:
    def draw(request: Request) -> Response:
        return JSONResponse({"created": 1, "data": [PICTURE]})

    with ExitStack() as stack:
        lab = stack.enter_context(running_lab())
        pictures_url = stack.enter_context(
            serve(Starlette(routes=[Route("/images/generations", draw, methods=["POST"])]))
        )
        database_url, spans = stack.enter_context(running_postgres()), stack.enter_context(collector())
        config = proxy_config(provider_url, {"policy": POLICY, "record": {"bodies": "always"}})
        config["litellm_settings"]["callbacks"] = ["otel", "prometheus", "luthien_litellm_hooks.luthien"]
        config["mcp_servers"] = {"lab": {"url": lab.url, "transport": "http"}}
        pictures = {"model": "openai/draw", "api_base": pictures_url, "api_key": "k"}
        config["model_list"].append({"model_name": "draw", "litellm_params": pictures})
        environment = prisma_environment(database_url) | {
            "OTEL_EXPORTER": "otlp_http",
            "OTEL_ENDPOINT": spans.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        proxy = stack.enter_context(running_proxy(config, tmp_path_factory.mktemp("mcp") / "proxy", environment))
        yield Observed(proxy, lab, spans, database_url)


async def test_a_call_that_is_made_has_its_record_span_and_metric(observed: Observed) -> None:
    before = observed.metric("luthien_transactions_total", outcome="complete", route="mcp")
    result = await call(observed.proxy, "echo", text="fine one")
    assert texts(result) == ["YOU SAID FINE ONE"]
    record = observed.record_of("fine one")
    assert record["outcome"] == "complete"
    assert record["changed"] == {"request": True, "answer": True}
    assert record["original"]["request"] == {"name": "echo", "arguments": {"text": "fine one"}}
    assert record["final"]["request"] == {"name": "echo", "arguments": {"text": "FINE ONE"}}
    assert [block["text"] for block in record["original"]["answer"]["content"]] == ["you said FINE ONE"]
    assert [block["text"] for block in record["final"]["answer"]["content"]] == ["YOU SAID FINE ONE"]
    assert [policy["name"] for policy in record["policies"]] == ["tool_rules", "all_caps"]
    assert observed.metric("luthien_transactions_total", outcome="complete", route="mcp") == before + 1
    told = _attributes(observed.span_of(record["transaction_id"]))
    assert (told["luthien.route"], told["luthien.outcome"]) == ("mcp", "complete")
    assert told["gen_ai.operation.name"] == "execute_tool"


async def test_a_call_that_is_blocked_has_its_record_span_and_metric(observed: Observed) -> None:
    counted = [("luthien_transactions_total", {"outcome": "blocked", "route": "mcp"})]
    counted += [("luthien_decisions_total", {"action": "block", "mode": "enforced", "policy": "tool_rules"})]
    before = [observed.metric(name, **labels) for name, labels in counted]
    result = await call(observed.proxy, "echo", text=f"{FORBIDDEN} one")
    assert result.is_error
    record = observed.record_of(f"{FORBIDDEN} one")
    assert record["outcome"] == "blocked"
    [decision] = record["decisions"]
    assert (decision["policy"], decision["action"]) == ("tool_rules", "block")
    assert decision["block"]["name"] == "echo"
    assert record["final"]["answer"]["content"][0]["text"] in texts(result)[0]
    assert [observed.metric(name, **labels) for name, labels in counted] == [count + 1 for count in before]
    span = observed.span_of(record["transaction_id"])
    wait_until(lambda: any(other.parent_span_id == span.span_id for other in observed.spans.spans))
    [hook] = [other for other in observed.spans.spans if other.parent_span_id == span.span_id]
    assert hook.name.startswith("luthien.hook tool_rules.")


async def test_a_tool_that_fails_has_its_record(observed: Observed) -> None:
    result = await call(observed.proxy, "fails")
    assert result.is_error
    record = observed.record_of("fails")
    assert record["outcome"] == "complete"


async def test_what_a_server_tells_meanwhile_is_no_result(observed: Observed) -> None:
    async def hear(progress: float, total: float | None, message: str | None) -> None:
        pass

    labels = {"outcome": "complete", "route": "mcp"}
    before = observed.metric("luthien_transactions_total", **labels)
    async with session_of(observed.proxy) as session:
        [name] = [found.name for found in (await session.list_tools()).tools if found.name.endswith("steps")]
        await session.call_tool(name, {}, progress_callback=hear)
    record = observed.record_of("steps")
    assert [block["text"] for block in record["final"]["answer"]["content"]] == [f"DONE {MARK.upper()}"]
    assert observed.metric("luthien_transactions_total", **labels) == before + 1


async def test_prompts_and_resources_are_counted_and_traced(observed: Observed) -> None:
    labels = {"outcome": "complete", "route": "mcp"}
    before = observed.metric("luthien_transactions_total", **labels)
    async with session_of(observed.proxy) as session:
        [prompt] = (await session.list_prompts()).prompts
        await session.get_prompt(prompt.name, {"topic": "x"})
        [resource] = (await session.list_resources()).resources
        await session.read_resource(resource.uri)
    assert observed.metric("luthien_transactions_total", **labels) == before + 2


def test_calls_over_http_have_one_record(observed: Observed) -> None:
    listed = observed.proxy.http.get("/mcp-rest/tools/list").json()["tools"]
    [found] = [entry for entry in listed if entry["name"].endswith("echo")]
    for text in ("fine rest", f"{FORBIDDEN} rest"):
        body = {"server_id": found["mcp_info"]["server_id"], "name": found["name"], "arguments": {"text": text}}
        observed.proxy.http.post("/mcp-rest/tools/call", json=body)
    assert observed.record_of("fine rest")["outcome"] == "complete"
    assert observed.record_of(f"{FORBIDDEN} rest")["outcome"] == "blocked"


def test_a_call_ends_with_the_connection_of_its_client(observed: Observed) -> None:
    text = "LEFT ON MCP"
    gate = observed.lab.gates[text] = Gate()
    labels = {"outcome": "client_disconnected", "route": "mcp"}
    before = observed.metric("luthien_transactions_total", **labels)
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": _slow_call(observed, text)}
    with asking(observed.proxy, KEY, "/mcp/", asked, Accept="application/json, text/event-stream") as client:
        gate.wait_reached()
        client.leave()
    wait_until(lambda: observed.metric("luthien_transactions_total", **labels) == before + 1)
    gate.open()
    assert observed.record_of(text)["outcome"] == "client_disconnected"


def test_a_call_that_litellm_goes_on_with_ends_though_its_client_left(observed: Observed) -> None:
    text = "LEFT OVER HTTP"
    gate = observed.lab.gates[text] = Gate()
    body = _slow_call(observed, text)
    with asking(observed.proxy, KEY, "/mcp-rest/tools/call", body) as client:
        gate.wait_reached()
        client.leave()
    gate.open()
    assert observed.record_of(text)["outcome"] == "complete"


@pytest.mark.parametrize("text", ["fine nested", f"{FORBIDDEN} nested"])
def test_a_call_that_litellm_makes_for_a_model_has_a_record_beside_the_models(
    observed: Observed, provider: ScriptedProvider, text: str
) -> None:
    tool = {"type": "mcp", "server_url": "litellm_proxy/mcp/lab", "server_label": "lab", "require_approval": "never"}
    messages = [{"role": "user", "content": f"call: lab-echo {json.dumps({'text': text})}"}]
    body = {"model": "openai/scripted", "tools": [tool], "messages": messages}
    response = observed.proxy.http.post("/v1/chat/completions", json=body)
    assert response.is_success, response.text
    outcome = "blocked" if FORBIDDEN in text else "complete"
    record = observed.record_of(text)
    assert (record["outcome"], record["original"]["request"]["name"]) == (outcome, "echo")
    models = observed.record_of(json.dumps(text)[1:-1], "openai/scripted")
    assert (models["outcome"], models["original"]["request"]["messages"]) == ("complete", messages)
    assert models["transaction_id"] != record["transaction_id"]
    assert "is logged unfinished" not in observed.proxy.output


def test_the_prompt_beside_a_picture_has_its_record_span_and_metric(observed: Observed) -> None:
    before = observed.metric("luthien_transactions_total", outcome="complete", route="images")
    response = observed.proxy.http.post("/v1/images/generations", json={"model": "draw", "prompt": "draw a dog"})
    assert response.json()["data"][0]["revised_prompt"] == f"A DOG {MARK.upper()}"
    record = observed.record_of("draw a dog", "%draw")
    assert record["outcome"] == "complete"
    assert record["changed"] == {"request": False, "answer": True}
    assert [block["text"] for block in record["final"]["answer"]["content"]] == [f"A DOG {MARK.upper()}"]
    assert observed.metric("luthien_transactions_total", outcome="complete", route="images") == before + 1
    assert _attributes(observed.span_of(record["transaction_id"]))["luthien.route"] == "images"
