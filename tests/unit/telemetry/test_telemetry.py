"""What operators see of a transaction: spans, metrics, events."""

import asyncio
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import StatusCode

from luthien_litellm_hooks import NoOpObservabilityContext
from luthien_litellm_hooks.recording.decision import Decision
from luthien_litellm_hooks.telemetry import ObservabilityContext, metrics, names
from luthien_litellm_hooks.telemetry.spans import DefaultObservabilityContext, Telemetry
from luthien_litellm_hooks.wire.events import ContentStreamBlock, StreamBlock, ToolCallStreamBlock
from tests.support.collector import collector
from tests.support.telemetry import Measured, Observed

TRANSACTION = "0b0e1e9c-7a51-4c52-9a55-3f5a3c3a2b10"


@pytest.fixture
def observed() -> Observed:
    return Observed()


def begin(observed: Observed, **rest: Any) -> DefaultObservabilityContext:
    return observed.telemetry.begin(TRANSACTION, route="chat", operation="chat", **rest)


def tool_call() -> StreamBlock:
    block = ToolCallStreamBlock(0)
    block.id, block.name = "call_1", "bash"
    block.append('{"command": "rm -rf /"}')
    return block


def test_a_transaction_is_one_span_that_says_what_it_was_and_how_it_ended(observed: Observed) -> None:
    ctx = begin(observed, model="gpt-5", is_streaming=True)
    ctx.end("complete", attributes={names.FINISH_REASONS: ["stop"], names.INPUT_TOKENS: 7, names.RESPONSE_ID: None})
    ctx.end("client_disconnected")

    (span,) = observed.spans.values()
    assert span.name == "luthien.transaction"
    assert dict(span.attributes or {}) == {
        "luthien.transaction.id": TRANSACTION,
        "luthien.route": "chat",
        "luthien.outcome": "complete",
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-5",
        "gen_ai.request.stream": True,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 7,
    }
    assert observed.metric("luthien_transactions_total") == {("chat", "complete"): 1}


@pytest.mark.parametrize(
    ("outcome", "is_error"),
    [
        ("complete", False),
        ("blocked", False),
        ("client_disconnected", False),
        ("policy_error", True),
        ("provider_error", True),
        ("timeout", True),
    ],
)
def test_a_failure_is_an_error_of_the_span_and_a_block_is_none(
    observed: Observed, outcome: str, is_error: bool
) -> None:
    begin(observed).end(outcome)
    (span,) = observed.spans.values()
    assert (span.status.status_code is StatusCode.ERROR) == is_error
    assert (span.attributes or {}).get("error.type") == (outcome if is_error else None)


def test_the_span_is_below_the_parent_it_is_given(observed: Observed) -> None:
    parent = observed.provider.get_tracer("litellm").start_span("Received Proxy Server Request")
    begin(observed, parent=parent).end("complete")
    span = observed.spans["luthien.transaction"]
    assert span.parent == parent.get_span_context()


def test_the_span_is_below_the_current_one_if_it_is_given_no_parent(observed: Observed) -> None:
    with observed.provider.get_tracer("fastapi").start_as_current_span("POST /v1/messages") as current:
        begin(observed, parent="no span at all").end("complete")
    assert observed.spans["luthien.transaction"].parent == current.get_span_context()


async def test_no_span_is_made_the_current_one_so_that_each_item_of_a_stream_may_come_in_a_task_of_its_own(
    observed: Observed,
) -> None:
    ctx = begin(observed)

    async def answer() -> AsyncIterator[bool]:
        for number in range(3):
            now = time.time_ns()
            ctx.hook_ran("p", f"hook_{number}", started_ns=now, ended_ns=now, decisions=[Decision("p", "allow")])
            yield trace.get_current_span().get_span_context().is_valid
        ctx.end("complete")

    items = answer()
    seen = [await asyncio.create_task(anext(items)) for _ in range(3)]
    assert await asyncio.create_task(anext(items, None)) is None
    assert seen == [False, False, False]
    transaction = observed.spans["luthien.transaction"]
    hooks = [span for name, span in observed.spans.items() if name != "luthien.transaction"]
    assert [span.parent.span_id for span in hooks if span.parent] == [transaction.get_span_context().span_id] * 3


def test_a_hook_that_decided_has_a_span_with_the_decision(observed: Observed) -> None:
    ctx = begin(observed)
    decision = Decision("tool_rules", "block", tool_call(), reason="deletes the root", message="no")
    ctx.hook_ran("tool_rules", "on_tool_call_complete", started_ns=10, ended_ns=2_000_010, decisions=[decision])
    ctx.end("blocked")

    span = observed.spans["luthien.hook tool_rules.on_tool_call_complete"]
    assert span.parent
    assert span.parent.span_id == observed.spans["luthien.transaction"].get_span_context().span_id
    assert (span.start_time, span.end_time) == (10, 2_000_010)
    assert dict(span.attributes or {}) == {"luthien.policy": "tool_rules", "luthien.hook": "on_tool_call_complete"}
    (event,) = span.events
    assert (event.name, event.timestamp) == ("luthien.decision", 2_000_010)
    assert dict(event.attributes or {}) == {
        "luthien.policy": "tool_rules",
        "luthien.action": "block",
        "luthien.reason": "deletes the root",
        "luthien.block.kind": "tool_call",
        "gen_ai.tool.name": "bash",
        "gen_ai.tool.call.id": "call_1",
    }
    assert observed.metric("luthien_decisions_total") == {("tool_rules", "block", "enforced"): 1}
    assert observed.metric("luthien_policy_seconds") == {("tool_rules", "on_tool_call_complete"): 1}


@pytest.mark.parametrize("score", [0.0, 0.7])
def test_a_score_is_told_as_an_evaluation(observed: Observed, score: float) -> None:
    ctx = begin(observed)
    decision = Decision("tool_call_judge", "allow", ContentStreamBlock(), reason="harmless", score=score)
    ctx.hook_ran("tool_call_judge", "on_content_complete", started_ns=1, ended_ns=2, decisions=[decision])

    (event,) = observed.spans["luthien.hook tool_call_judge.on_content_complete"].events
    assert event.name == "gen_ai.evaluation.result"
    assert dict(event.attributes or {}) == {
        "gen_ai.evaluation.name": "tool_call_judge",
        "gen_ai.evaluation.score.value": score,
        "gen_ai.evaluation.score.label": "allow",
        "gen_ai.evaluation.explanation": "harmless",
        "luthien.block.kind": "text",
    }


def test_a_hook_that_did_not_decide_is_only_measured(observed: Observed) -> None:
    begin(observed).hook_ran("p", "on_content_delta", started_ns=1, ended_ns=2)
    assert observed.spans == {}
    assert observed.metric("luthien_policy_seconds") == {("p", "on_content_delta"): 1}


def test_nothing_is_in_a_span_that_the_table_of_names_does_not_tell(observed: Observed) -> None:
    ctx = begin(observed, model="m")
    for score in (None, 0.5):
        decision = Decision("p", "block", tool_call(), reason="r", score=score)
        ctx.hook_ran("p", f"hook {score}", started_ns=1, ended_ns=2, decisions=[decision])
    ctx.end("timeout", attributes={names.RESPONSE_MODEL: "m", names.OUTPUT_TOKENS: 1})
    told = {key for span in observed.spans.values() for key in span.attributes or {}}
    told |= {key for span in observed.spans.values() for event in span.events for key in event.attributes or {}}
    assert told
    assert {key for key in told if f"`{key}`" not in (names.__doc__ or "")} == set()


async def test_an_event_says_whose_it_is_when_and_where_in_the_trace_and_its_data_cannot_overwrite_that(
    observed: Observed,
) -> None:
    forged = {"transaction_id": "another", "time": "never", "trace_id": "0", "span_id": "0", "type": "x", "text": "t"}
    ctx = begin(observed)
    before = datetime.now(UTC)
    await ctx.emit_event("policy.noted", forged)
    ctx.end("complete")

    (line,) = observed.events()
    event = json.loads(line)
    context = observed.spans["luthien.transaction"].get_span_context()
    assert before <= datetime.fromisoformat(event.pop("time")) <= datetime.now(UTC)
    assert event == {
        "type": "policy.noted",
        "transaction_id": TRANSACTION,
        "trace_id": f"{context.trace_id:032x}",
        "span_id": f"{context.span_id:016x}",
        "data": forged,
    }


async def test_the_span_tells_an_events_name_and_none_of_its_data(observed: Observed) -> None:
    ctx = begin(observed)
    await ctx.emit_event("policy.noted", {"text": "the prompt"})
    ctx.end("complete")
    (event,) = observed.spans["luthien.transaction"].events
    assert (event.name, dict(event.attributes or {})) == ("policy.noted", {})


async def test_an_event_has_no_ids_of_a_trace_where_nobody_traces() -> None:
    observed = Observed()
    observed.telemetry._tracer_provider = trace.NoOpTracerProvider
    await begin(observed).emit_event("e", {})
    event = json.loads(observed.events()[0])
    assert (event["trace_id"], event["span_id"]) == (None, None)


def test_policies_add_attributes_and_events_to_the_span_and_long_texts_are_cut(observed: Observed) -> None:
    ctx = begin(observed)
    ctx.add_span_attribute("judge.model", "small")
    ctx.add_span_attribute("judge.prompt", "x" * 5000)
    ctx.add_span_event("judge.asked", {"count": 3, "is_cached": False})
    ctx.end("complete")
    span = observed.spans["luthien.transaction"]
    assert (span.attributes or {})["judge.model"] == "small"
    assert (span.attributes or {})["judge.prompt"] == "x" * 1000
    (event,) = span.events
    assert (event.name, dict(event.attributes or {})) == ("judge.asked", {"count": 3, "is_cached": False})


class Hostile:
    """Fails whatever is done with it."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__
    __hash__ = None


FAILING: dict[str, Callable[[Any], Any]] = {
    "a negative amount": lambda ctx: ctx.record_metric("m", -1),
    "no number": lambda ctx: ctx.record_metric("m", float("nan")),
    "a text for a number": lambda ctx: ctx.record_metric("m", "many"),
    "a name that is none": lambda ctx: ctx.record_metric("", 1),
    "a label without a text": lambda ctx: ctx.record_metric("m", 1, {"label": Hostile()}),
    "labels that are none": lambda ctx: ctx.record_metric("n", 1, 5),
    "an attribute that is none": lambda ctx: ctx.add_span_attribute("a", Hostile()),
    "attributes that are none": lambda ctx: ctx.add_span_event("e", Hostile()),
    "decisions that are none": lambda ctx: ctx.hook_ran("p", "h", started_ns=1, ended_ns=2, decisions=[Hostile()]),
    "times that are none": lambda ctx: ctx.hook_ran("p", "h", started_ns="now", ended_ns=2),
    "attributes of the end that are none": lambda ctx: ctx.end("complete", attributes=Hostile()),
}


@pytest.mark.parametrize("fails", FAILING)
def test_no_method_raises_and_each_failure_is_counted(observed: Observed, fails: str) -> None:
    FAILING[fails](begin(observed))
    assert observed.metric("luthien_observer_failures_total") == {(): 1}


async def test_an_event_that_cannot_be_written_is_counted_and_nothing_is_raised(observed: Observed) -> None:
    await begin(observed).emit_event("e", {"value": Hostile()})
    assert observed.events() == []
    assert observed.metric("luthien_events_dropped_total") == {("lines",): 1}


def test_a_failure_is_logged_once(observed: Observed, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        begin(observed).record_metric("m", -1)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert observed.metric("luthien_observer_failures_total") == {(): 3}


def test_a_transaction_goes_on_if_it_cannot_be_traced() -> None:
    def no_provider() -> TracerProvider:
        raise RuntimeError("no provider")

    measured = Measured()
    telemetry = Telemetry(metrics=measured.metrics, tracer_provider=no_provider)
    telemetry.begin(TRANSACTION, route="chat").end("complete")
    assert measured.read("luthien_transactions_total") == {("chat", "complete"): 1}
    assert measured.read("luthien_observer_failures_total") == {(): 1}


async def test_the_context_that_tells_nobody_takes_every_call() -> None:
    ctx: ObservabilityContext = NoOpObservabilityContext(TRANSACTION)
    await ctx.emit_event("e", {"a": 1})
    ctx.record_metric("m", 1, {"l": "v"})
    ctx.add_span_attribute("k", 1)
    ctx.add_span_event("e", {"k": 1})
    assert ctx.transaction_id == TRANSACTION


# Metrics


def test_a_metric_of_ours_keeps_no_label_but_its_own() -> None:
    measured = Measured()
    measured.metrics.record("luthien_transactions_total", 1, {"route": "chat", "transaction_id": TRANSACTION})
    assert measured.read("luthien_transactions_total") == {("chat", ""): 1}


def test_a_policys_metric_keeps_the_labels_that_it_first_came_with() -> None:
    measured = Measured()
    measured.metrics.record("judge.calls", 1, {"model": "small"})
    measured.metrics.record("judge.calls", 2, {"model": "small", "call_id": "1"})
    assert measured.read("judge.calls") == {("small",): 3}


def test_label_values_beyond_a_bound_count_as_others() -> None:
    measured = Measured()
    for number in range(metrics.MAX_SERIES + 50):
        measured.metrics.record("judge.calls", 1, {"call_id": str(number)})
    counts = measured.read("judge.calls")
    assert len(counts) == metrics.MAX_SERIES + 1
    assert counts[(metrics.OTHER,)] == 50


def test_policies_cannot_add_metrics_without_end() -> None:
    measured = Measured()
    for number in range(metrics.MAX_OWN_METRICS):
        measured.metrics.record(f"m{number}", 1)
    with pytest.raises(ValueError, match="too many"):
        measured.metrics.record("one_more", 1)
    measured.metrics.record("m0", 1)
    assert measured.read("m0") == {(): 2}


PROMETHEUS = """
import sys
from luthien_litellm_hooks.telemetry.metrics import process_metrics
metrics = process_metrics()
metrics.record("luthien_transactions_total", 1, {"route": "chat", "outcome": "blocked"})
metrics.record("response.chunks.ingress", 12)
metrics.record("luthien_added_latency_seconds", 0.003)
metrics.record("judge.calls", 2, {"judge-model": "small"})
"""
SERVE = """
import prometheus_client
from prometheus_client import CollectorRegistry, multiprocess
registry = prometheus_client.REGISTRY
if {is_multiprocess}:
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
print(prometheus_client.generate_latest(registry).decode())
"""


@pytest.mark.parametrize("is_multiprocess", [False, True])
def test_the_metrics_stand_in_the_registry_that_litellm_serves_with_one_worker_and_with_several(
    is_multiprocess: bool, tmp_path: Path
) -> None:
    pytest.importorskip("prometheus_client")
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)} if is_multiprocess else {}
    script = PROMETHEUS + SERVE.format(is_multiprocess=is_multiprocess)
    output = run_python(script, environment)
    for line in (
        'luthien_transactions_total{outcome="blocked",route="chat"} 1.0',
        "response_chunks_ingress_total 12.0",
        'luthien_added_latency_seconds_bucket{le="0.005"} 1.0',
        'judge_calls_total{judge_model="small"} 2.0',
    ):
        assert line in output


def test_a_name_that_prometheus_already_has_is_left_to_opentelemetry(caplog: pytest.LogCaptureFixture) -> None:
    registry = pytest.importorskip("prometheus_client").CollectorRegistry()
    Measured(registry)
    second = Measured(registry)
    second.metrics.record("response.chunks.egress", 3)
    assert second.read("response.chunks.egress") == {(): 3}
    assert len(caplog.records) == len(names.METRICS)


def run_python(script: str, environment: dict[str, str] | None = None) -> str:
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


# LiteLLM's own tracing

LITELLM = """
import json
from datetime import datetime
from litellm.integrations.opentelemetry import OpenTelemetry, OpenTelemetryConfig
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from luthien_litellm_hooks.telemetry.spans import Telemetry

telemetry = Telemetry()  # before LiteLLM's logger is made, as with `callbacks`
exporter = InMemorySpanExporter()
logger = OpenTelemetry(OpenTelemetryConfig(exporter=exporter))
parent = logger.create_litellm_proxy_request_started_span(datetime.now(), {})
context = telemetry.begin("t", route="chat", parent=parent)
parent.end()  # LiteLLM may end its span before ours
context.end("complete")
spans = exporter.get_finished_spans()
print(json.dumps({span.name: [span.context.span_id, span.parent and span.parent.span_id] for span in spans}))
"""


def test_litellms_own_exporter_gets_the_span_below_litellms() -> None:
    spans = json.loads(run_python(LITELLM, {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}).splitlines()[-1])
    proxy_span, _ = spans["Received Proxy Server Request"]
    assert spans["luthien.transaction"][1] == proxy_span


# A collector


def test_a_collector_gets_the_tree_of_spans_over_a_socket(observed: Observed) -> None:
    exporting = pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")

    with collector() as got:
        observed.provider.add_span_processor(BatchSpanProcessor(exporting.OTLPSpanExporter(endpoint=got.url)))
        parent = observed.provider.get_tracer("litellm").start_span("Received Proxy Server Request")
        ctx = begin(observed, parent=parent)
        decision = Decision("p", "block", tool_call(), reason="r", score=0.9)
        ctx.hook_ran("p", "on_tool_call_complete", started_ns=1, ended_ns=2, decisions=[decision])
        ctx.end("blocked", attributes={names.FINISH_REASONS: ["tool_calls"]})
        parent.end()
        observed.provider.shutdown()

    assert {span.name: got.parent_of(span) for span in got.spans} == {
        "Received Proxy Server Request": None,
        "luthien.transaction": "Received Proxy Server Request",
        "luthien.hook p.on_tool_call_complete": "luthien.transaction",
    }
    assert [event.name for span in got.spans for event in span.events] == ["gen_ai.evaluation.result"]
    assert got.scopes == {"litellm", "luthien_litellm_hooks"}
