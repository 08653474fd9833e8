"""What a transaction tells OpenTelemetry, the metrics and the sinks of events."""

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

from opentelemetry import trace
from opentelemetry.trace import Span, Status, StatusCode, Tracer, TracerProvider

from luthien_litellm_hooks.events import ContentStreamBlock, ReasoningStreamBlock, StreamBlock, ToolCallStreamBlock
from luthien_litellm_hooks.telemetry import AttributeValue, HookDecision, ObservabilityContext, names
from luthien_litellm_hooks.telemetry.fail_open import FailOpen
from luthien_litellm_hooks.telemetry.metrics import Metrics, process_metrics
from luthien_litellm_hooks.telemetry.publisher import EventPublisher

MAX_TEXT_LENGTH = 1000
"""How many characters of a text an attribute keeps."""


class DefaultObservabilityContext(ObservabilityContext):
    """Tells of one transaction until it ends. Made by `Telemetry.begin`.

    The span is never made the current one: hooks of one answer run in several tasks, and a span
    made current in one cannot be taken back in another.
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
    ) -> None:
        self._transaction_id = transaction_id
        self._route = route
        self._span = span
        self._tracer = tracer
        self._metrics = metrics
        self._fail_open = fail_open
        self._publisher = publisher
        self._has_ended = False

    @property
    def transaction_id(self) -> str:
        return self._transaction_id

    async def emit_event(self, event_type: str, data: Mapping[str, object]) -> None:
        """Gives the event to the publisher; the span gets its name, and no data."""
        with self._fail_open:
            self._span.add_event(event_type)
            if self._publisher is not None:
                self._publisher.publish(self._event(event_type, data))

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
        """Counts a call of a policy's hook, and its decisions; one that decided gets a span.

        The times are nanoseconds since the epoch (`time.time_ns()`).
        """
        with self._fail_open:
            seconds = max(ended_ns - started_ns, 0) / 1e9
            self._metrics.record(names.POLICY_SECONDS.name, seconds, {"policy": policy, "hook": hook})
            decided = tuple(decisions)
            for decision in decided:
                self._metrics.record(names.DECISIONS.name, 1, {"policy": decision.policy, "action": decision.action})
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
        """Ends the transaction's span and counts it; from the second time on it does nothing.

        `attributes` are those of `names` that only the end knows; None is left out.
        """
        if self._has_ended:
            return
        self._has_ended = True
        with self._fail_open:
            self._metrics.record(names.TRANSACTIONS.name, 1, {"route": self._route, "outcome": outcome})
            if added_latency_s is not None:
                self._metrics.record(names.ADDED_LATENCY.name, max(added_latency_s, 0.0))
        with self._fail_open:
            self._span.set_attributes({names.OUTCOME: outcome, **_known(attributes or {})})
            if outcome in names.FAILED_OUTCOMES:
                self._span.set_attribute(names.ERROR_TYPE, outcome)
                self._span.set_status(Status(StatusCode.ERROR))
            self._span.end()

    def _event(self, event_type: str, data: Mapping[str, object]) -> Mapping[str, object]:
        """The event as it is published. `data` stands apart, so that it can overwrite nothing."""
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
    """Made once for a process. `tracer_provider` is asked at each transaction, because LiteLLM makes
    its provider after it has loaded us.

    The global provider is the one that LiteLLM's `otel` callback uses, and makes if there is none.
    """

    def __init__(
        self,
        publisher: EventPublisher | None = None,
        *,
        metrics: Metrics | None = None,
        tracer_provider: Callable[[], TracerProvider] = trace.get_tracer_provider,
    ) -> None:
        self._publisher = publisher
        self._metrics = metrics or process_metrics()
        self._fail_open = FailOpen(self._metrics)
        self._tracer_provider = tracer_provider
        self._tracer: tuple[TracerProvider, Tracer] | None = None

    def begin(
        self,
        transaction_id: str,
        *,
        route: str,
        model: str | None = None,
        is_streaming: bool = False,
        parent: object = None,
    ) -> DefaultObservabilityContext:
        """Begins a transaction's span, below `parent` if that is a span, else below the current one.

        `route` is one of a few names, as in `names.OPERATIONS`.
        """
        span, tracer = trace.INVALID_SPAN, trace.NoOpTracer()
        with self._fail_open:
            tracer = self._current_tracer()
            attributes = {
                names.TRANSACTION_ID: transaction_id,
                names.ROUTE: route,
                names.OPERATION_NAME: names.OPERATIONS.get(route),
                names.REQUEST_MODEL: model,
                names.REQUEST_STREAM: is_streaming,
            }
            context = trace.set_span_in_context(parent) if isinstance(parent, Span) else None
            span = tracer.start_span(
                names.TRANSACTION_SPAN, context=context, attributes=_known(attributes), start_time=time.time_ns()
            )
        return DefaultObservabilityContext(
            transaction_id, route, span, tracer, self._metrics, self._fail_open, self._publisher
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


def _known(attributes: Mapping[str, AttributeValue | None]) -> dict[str, AttributeValue]:
    return {key: _bounded(value) for key, value in attributes.items() if value is not None}


def _decision_event(decision: HookDecision) -> tuple[str, Mapping[str, AttributeValue]]:
    """The event of a decision: its name and its attributes."""
    if decision.score is None:
        said = {names.POLICY: decision.policy, names.ACTION: decision.action, names.REASON: decision.reason}
        return names.DECISION_EVENT, _known({**said, **_about(decision.block)})
    scored = {
        names.EVALUATION_NAME: decision.policy,
        names.SCORE_VALUE: decision.score,
        names.SCORE_LABEL: decision.action,
        names.EXPLANATION: decision.reason,
    }
    return names.EVALUATION_EVENT, _known({**scored, **_about(decision.block)})


def _about(block: StreamBlock | None) -> Mapping[str, str | None]:
    match block:
        case ToolCallStreamBlock():
            return {names.BLOCK_KIND: "tool_call", names.TOOL_NAME: block.name, names.TOOL_CALL_ID: block.id}
        case ReasoningStreamBlock():
            return {names.BLOCK_KIND: "reasoning"}
        case ContentStreamBlock():
            return {names.BLOCK_KIND: "text"}
        case _:
            return {}
