"""Spans, metrics and events of a transaction."""

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

from opentelemetry import trace
from opentelemetry.trace import Span, Status, StatusCode, Tracer, TracerProvider

from luthien_litellm_hooks.telemetry import AttributeValue, HookDecision, ObservabilityContext, Watcher, names
from luthien_litellm_hooks.telemetry.metrics import FailOpen, Metrics, process_metrics
from luthien_litellm_hooks.telemetry.publisher import EventPublisher
from luthien_litellm_hooks.wire.events import (
    ContentStreamBlock,
    ReasoningStreamBlock,
    StreamBlock,
    ToolCallStreamBlock,
)

MAX_TEXT_LENGTH = 1000
"""Characters of a text in an attribute."""


class DefaultObservabilityContext(ObservabilityContext):
    """Telemetry of one transaction until it ends. Created by `Telemetry.begin`.

    The span is never the current one: hooks of one response run in several tasks, and a context set in one task cannot
    be reset in another.
    """

    def __init__(
        self,
        transaction_id: str,
        route: str,
        span: Span,
        tracer: Tracer,
        metrics: Metrics,
        fail_open: FailOpen,
        publisher: EventPublisher | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        self._transaction_id = transaction_id
        self._route = route
        self._span = span
        self._tracer = tracer
        self._metrics = metrics
        self._fail_open = fail_open
        self._publisher = publisher
        self._watcher = watcher
        self._has_ended = False

    @property
    def transaction_id(self) -> str:
        return self._transaction_id

    @property
    def has_listeners(self) -> bool:
        return self._publisher is not None or self._watcher is not None

    async def emit_event(self, event_type: str, data: Mapping[str, object]) -> None:
        """Gives the event to the publisher; the span gets only its name."""
        with self._fail_open:
            if self._span.is_recording():  # a record is published after the end
                self._span.add_event(event_type)
            if self._publisher is not None:
                self._publisher.publish(self._event(event_type, data))
        if self._watcher is not None:
            with self._fail_open:
                self._watcher.happened(self._transaction_id, event_type, data)

    def record_metric(self, name: str, value: float, labels: Mapping[str, str] | None = None) -> None:
        with self._fail_open:
            self._metrics.record(name, value, labels)

    def add_span_attribute(self, key: str, value: AttributeValue) -> None:
        with self._fail_open:
            self._span.set_attribute(key, _bounded(value))

    def add_span_event(self, name: str, attributes: Mapping[str, AttributeValue] | None = None) -> None:
        with self._fail_open:
            self._span.add_event(name, {key: _bounded(value) for key, value in (attributes or {}).items()})

    def hook_ran(
        self, policy: str, hook: str, *, started_ns: int, ended_ns: int, decisions: Iterable[HookDecision] = ()
    ) -> None:
        """Counts a call of a policy's hook, and its decisions; a deciding call gets a span.

        Times are nanoseconds since the epoch (`time.time_ns()`).
        """
        with self._fail_open:
            seconds = max(ended_ns - started_ns, 0) / 1e9
            self._metrics.record(names.POLICY_SECONDS.name, seconds, {"policy": policy, "hook": hook})
            decided = tuple(decisions)
            for decision in decided:
                labels = {"policy": decision.policy, "action": decision.action, "mode": names.ENFORCED}
                self._metrics.record(names.DECISIONS.name, 1, labels)
            if decided and self._watcher is not None:
                self._watcher.decided(self._transaction_id, decided)
            if decided and self._span.is_recording():
                self._add_hook_span(policy, hook, started_ns, ended_ns, decided)

    def _add_hook_span(
        self, policy: str, hook: str, started_ns: int, ended_ns: int, decisions: Iterable[HookDecision]
    ) -> None:
        span = self._tracer.start_span(
            f"{names.HOOK_SPAN} {policy}.{hook}",
            context=trace.set_span_in_context(self._span),
            attributes={names.POLICY: policy, names.HOOK: hook},
            start_time=started_ns,
        )
        for decision in decisions:
            span.add_event(*_decision_event(decision), timestamp=ended_ns)
        span.end(ended_ns)

    def end(
        self,
        outcome: str,
        *,
        attributes: Mapping[str, AttributeValue | None] | None = None,
        added_latency_s: float | None = None,
    ) -> None:
        """Ends the transaction's span and counts it. Later calls do nothing.

        `attributes` are those of `names` that are known only now; None is omitted.
        """
        if self._has_ended:
            return
        self._has_ended = True
        with self._fail_open:
            self._metrics.record(names.TRANSACTIONS.name, 1, {"route": self._route, "outcome": outcome})
            if added_latency_s is not None:
                self._metrics.record(names.ADDED_LATENCY.name, max(added_latency_s, 0.0))
        with self._fail_open:
            self._span.set_attributes({names.OUTCOME: outcome, **_without_none(attributes or {})})
            if outcome in names.FAILED_OUTCOMES:
                self._span.set_attribute(names.ERROR_TYPE, outcome)
                self._span.set_status(Status(StatusCode.ERROR))
            self._span.end()

    def _event(self, event_type: str, data: Mapping[str, object]) -> Mapping[str, object]:
        """Returns the event for publication. `data` is a member of its own, so that it cannot overwrite others."""
        context = self._span.get_span_context()
        return {
            "type": event_type,
            "transaction_id": self._transaction_id,
            "time": datetime.now(UTC).isoformat(timespec="microseconds"),
            "trace_id": f"{context.trace_id:032x}" if context.is_valid else None,
            "span_id": f"{context.span_id:016x}" if context.is_valid else None,
            "data": data,
        }


class Telemetry:
    """Telemetry of a process. Each transaction asks `tracer_provider` anew, because LiteLLM creates its provider after
    it has loaded us.

    LiteLLM's `otel` callback uses the global provider, or creates it.
    """

    def __init__(
        self,
        publisher: EventPublisher | None = None,
        *,
        metrics: Metrics | None = None,
        tracer_provider: Callable[[], TracerProvider] = trace.get_tracer_provider,
        watcher: Watcher | None = None,
    ) -> None:
        self._publisher = publisher
        self._watcher = watcher
        self._metrics = metrics or process_metrics()
        self._fail_open = FailOpen(self._metrics)
        self._tracer_provider = tracer_provider
        self._tracer: tuple[TracerProvider, Tracer] | None = None

    def begin(
        self,
        transaction_id: str,
        *,
        route: str,
        operation: str | None = None,
        model: str | None = None,
        is_streaming: bool = False,
        parent: object = None,
    ) -> DefaultObservabilityContext:
        """Begins a transaction's span, below `parent` if that is a span, else below the current one.

        `route` is one of a few names: metrics have it as a label. `operation` is OpenTelemetry's name for the kind
        of call.
        """
        span, tracer = trace.INVALID_SPAN, trace.NoOpTracer()
        with self._fail_open:
            tracer = self._current_tracer()
            attributes = {
                names.TRANSACTION_ID: transaction_id,
                names.ROUTE: route,
                names.OPERATION_NAME: operation,
                names.REQUEST_MODEL: model,
                names.REQUEST_STREAM: is_streaming,
            }
            context = trace.set_span_in_context(parent) if isinstance(parent, Span) else None
            span = tracer.start_span(
                names.TRANSACTION_SPAN, context=context, attributes=_without_none(attributes), start_time=time.time_ns()
            )
        return DefaultObservabilityContext(
            transaction_id, route, span, tracer, self._metrics, self._fail_open, self._publisher, self._watcher
        )

    def _current_tracer(self) -> Tracer:
        provider = self._tracer_provider()
        if self._tracer is None or self._tracer[0] is not provider:
            self._tracer = (provider, provider.get_tracer(names.SCOPE))
        return self._tracer[1]


def _bounded(value: AttributeValue) -> AttributeValue:
    if isinstance(value, str):
        return value[:MAX_TEXT_LENGTH]
    return value if isinstance(value, bool | int | float) else [item[:MAX_TEXT_LENGTH] for item in value]


def _without_none(attributes: Mapping[str, AttributeValue | None]) -> dict[str, AttributeValue]:
    return {key: _bounded(value) for key, value in attributes.items() if value is not None}


def _decision_event(decision: HookDecision) -> tuple[str, Mapping[str, AttributeValue]]:
    """Returns the name and the attributes of a decision's event."""
    if decision.score is None:
        attributes = {names.POLICY: decision.policy, names.ACTION: decision.action, names.REASON: decision.reason}
        return names.DECISION_EVENT, _without_none({**attributes, **_block_attributes(decision.block)})
    scored = {
        names.EVALUATION_NAME: decision.policy,
        names.SCORE_VALUE: decision.score,
        names.SCORE_LABEL: decision.action,
        names.EXPLANATION: decision.reason,
    }
    return names.EVALUATION_EVENT, _without_none({**scored, **_block_attributes(decision.block)})


def _block_attributes(block: StreamBlock | None) -> Mapping[str, str | None]:
    match block:
        case ToolCallStreamBlock():
            return {names.BLOCK_KIND: "tool_call", names.TOOL_NAME: block.name, names.TOOL_CALL_ID: block.id}
        case ReasoningStreamBlock():
            return {names.BLOCK_KIND: "reasoning"}
        case ContentStreamBlock():
            return {names.BLOCK_KIND: "text"}
        case _:
            return {}
