"""What a transaction told: spans, metrics and events, as their readers get them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from luthien_litellm_hooks.telemetry import NoOpObservabilityContext
from luthien_litellm_hooks.telemetry.metrics import Metrics
from luthien_litellm_hooks.telemetry.publisher import EventPublisher
from luthien_litellm_hooks.telemetry.spans import Telemetry


class Lines:
    """A sink that keeps what it gets."""

    name = "lines"

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, lines: Sequence[str]) -> int:
        self.lines += lines
        return len(lines)


@dataclass
class Measured:
    """Metrics with a reader of their own. `registry` is a Prometheus registry, or None."""

    registry: object | None = None
    reader: InMemoryMetricReader = field(default_factory=InMemoryMetricReader)

    def __post_init__(self) -> None:
        self.metrics = Metrics(MeterProvider([self.reader], shutdown_on_exit=False), self.registry)

    def read(self, name: str) -> dict[tuple[str, ...], float]:
        """The counts of a counter, or how many values a histogram got, by the values of its labels."""
        data = self.reader.get_metrics_data()
        return {
            tuple(str(value) for value in (point.attributes or {}).values()): (
                point.count if isinstance(point, HistogramDataPoint) else point.value
            )
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        }


class Told(NoOpObservabilityContext):
    """The metrics and events of one transaction, as they were told."""

    def __init__(self, transaction_id: str = "transaction-1") -> None:
        super().__init__(transaction_id)
        self.metrics: list[tuple[str, float, dict[str, str]]] = []
        self.events: list[tuple[str, dict[str, object]]] = []

    def record_metric(self, name: str, value: float, labels: Mapping[str, str] | None = None) -> None:
        self.metrics.append((name, value, dict(labels or {})))

    async def emit_event(self, event_type: str, data: Mapping[str, object]) -> None:
        self.events.append((event_type, dict(data)))


class Observed:
    """A `Telemetry` and all that it told."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._measured = Measured()
        self._sink = Lines()
        self._publisher = EventPublisher([self._sink], metrics=self._measured.metrics)
        self.telemetry = Telemetry(
            self._publisher, metrics=self._measured.metrics, tracer_provider=lambda: self.provider
        )

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        """The spans that ended, by name."""
        return {span.name: span for span in self._exporter.get_finished_spans()}

    def metric(self, name: str) -> dict[tuple[str, ...], float]:
        return self._measured.read(name)

    def events(self) -> list[str]:
        """The events as they were published, after which no more are."""
        self._publisher.close()
        return self._sink.lines
