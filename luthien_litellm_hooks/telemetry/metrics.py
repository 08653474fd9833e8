"""Metrics for OpenTelemetry and for Prometheus, bounded whatever a policy records."""

from collections.abc import Callable, Mapping
from functools import cache
from threading import Lock

from opentelemetry.metrics import MeterProvider, get_meter

from luthien_litellm_hooks.telemetry import prometheus
from luthien_litellm_hooks.telemetry.names import METRICS, SCOPE, Metric

MAX_SERIES = 200
"""How many combinations of label values a metric has; what comes later counts as `OTHER`."""
MAX_OWN_METRICS = 100
"""How many metrics policies may add to ours."""
MAX_LABEL_LENGTH = 100
OTHER = "other"

Record = Callable[[float], None]


class Metrics:
    """Every metric, made once. `registry` is a `prometheus_client` registry, or None for no Prometheus.

    Of a metric of ours only its own labels are kept; of a policy's those that it first came with.
    """

    def __init__(self, meter_provider: MeterProvider | None = None, registry: object | None = None) -> None:
        self._meter = get_meter(SCOPE, meter_provider=meter_provider)
        self._registry = registry
        self._lock = Lock()
        self._instruments = {metric.name: self._make(metric) for metric in METRICS}

    def record(self, name: str, value: float, labels: Mapping[str, str] | None = None) -> None:
        """Adds to a counter, or to a histogram. Raises `ValueError` for what is no metric, or no amount."""
        if not 0 <= value < float("inf"):
            raise ValueError(f"{value} cannot be added to a metric")
        labels = labels or {}
        instrument = self._instruments.get(name) or self._add(name, labels)
        instrument.record(value, labels)

    def _add(self, name: str, labels: Mapping[str, str]) -> "_Instrument":
        with self._lock:
            if name not in self._instruments:
                if len(self._instruments) >= len(METRICS) + MAX_OWN_METRICS:
                    raise ValueError("policies have added too many metrics")
                self._instruments[name] = self._make(Metric(name, "A policy's own.", tuple(labels)))
            return self._instruments[name]

    def _make(self, metric: Metric) -> "_Instrument":
        family = None if self._registry is None else prometheus.family(metric, self._registry)
        if metric.buckets:
            histogram = self._meter.create_histogram(
                metric.name, metric.unit, metric.description, explicit_bucket_boundaries_advisory=metric.buckets
            )
            return _Instrument(metric, histogram.record, family)
        counter = self._meter.create_counter(metric.name, metric.unit, metric.description)
        return _Instrument(metric, counter.add, family)


class _Instrument:
    """One metric, with the series that it has so far."""

    def __init__(
        self, metric: Metric, add: Callable[[float, Mapping[str, str]], None], family: prometheus.Family | None
    ) -> None:
        self._metric = metric
        self._add = add
        self._family = family
        self._series: dict[tuple[str, ...], Record] = {}

    def record(self, value: float, labels: Mapping[str, str]) -> None:
        values = tuple(str(labels.get(label, ""))[:MAX_LABEL_LENGTH] for label in self._metric.labels)
        record = self._series.get(values)
        if record is None:
            if len(self._series) >= MAX_SERIES:
                values = (OTHER,) * len(values)
            record = self._series.setdefault(values, self._new_series(values))
        record(value)

    def _new_series(self, values: tuple[str, ...]) -> Record:
        attributes = dict(zip(self._metric.labels, values, strict=True))
        add, family = self._add, self._family
        if family is None:
            return lambda value: add(value, attributes)
        to_prometheus = prometheus.recording(family, self._metric, values)

        def to_both(value: float) -> None:
            add(value, attributes)
            to_prometheus(value)

        return to_both


@cache
def process_metrics() -> Metrics:
    """The metrics of this process: for the global meter provider, as soon as somebody sets one, and
    for LiteLLM's `/metrics`."""
    return Metrics(registry=prometheus.default_registry())
