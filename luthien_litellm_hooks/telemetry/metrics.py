"""Metrics for OpenTelemetry and for Prometheus, bounded whatever a policy records.

Prometheus metrics use `prometheus_client` itself, not OpenTelemetry: with several workers LiteLLM serves only the files
that the library wrote to PROMETHEUS_MULTIPROC_DIR. LiteLLM's images include it, but it is not a dependency of ours:
without it only OpenTelemetry gets the metrics.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from threading import Lock
from types import TracebackType
from typing import Protocol, cast

from opentelemetry.metrics import MeterProvider, get_meter

from luthien_litellm_hooks.telemetry.log_lines import logger
from luthien_litellm_hooks.telemetry.names import METRICS, OBSERVER_FAILURES, SCOPE, Metric

MAX_SERIES = 200
"""Combinations of label values of a metric; later ones count as `OTHER`."""
MAX_OWN_METRICS = 100
"""Metrics that policies may add to ours."""
MAX_LABEL_LENGTH = 100
OTHER = "other"

Record = Callable[[float], None]


class _Series(Protocol):
    """Values of a metric with the same labels. A counter has `inc`, a histogram `observe`."""

    def inc(self, amount: float = 1) -> None: ...
    def observe(self, amount: float) -> None: ...


class _Family(_Series, Protocol):
    """A metric with all its series."""

    def labels(self, *values: str) -> _Series: ...


class Metrics:
    """All metrics, each created once. `registry` is a `prometheus_client` registry, or None without Prometheus.

    Our metrics accept only their own labels; a policy's metric only those of its first record.
    """

    def __init__(self, meter_provider: MeterProvider | None = None, registry: object | None = None) -> None:
        self._meter = get_meter(SCOPE, meter_provider=meter_provider)
        self._registry = registry
        self._lock = Lock()
        self._instruments = {metric.name: self._make(metric) for metric in METRICS}

    def record(self, name: str, value: float, labels: Mapping[str, str] | None = None) -> None:
        """Adds to a counter or a histogram. Raises `ValueError` for an invalid name or amount."""
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
        family = None if self._registry is None else _register(metric, self._registry)
        if metric.buckets:
            histogram = self._meter.create_histogram(
                metric.name, metric.unit, metric.description, explicit_bucket_boundaries_advisory=metric.buckets
            )
            return _Instrument(metric, histogram.record, family)
        counter = self._meter.create_counter(metric.name, metric.unit, metric.description)
        return _Instrument(metric, counter.add, family)


class _Instrument:
    """One metric with its series so far."""

    def __init__(self, metric: Metric, add: Callable[[float, Mapping[str, str]], None], family: _Family | None) -> None:
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
        to_prometheus = _prometheus_series(family, self._metric, values)

        def to_both(value: float) -> None:
            add(value, attributes)
            to_prometheus(value)

        return to_both


class FailOpen:
    """Context manager that counts and suppresses exceptions, since observers must not disturb a response. Each type is
    logged once."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._logged: set[type[BaseException]] = set()

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if kind is None or not issubclass(kind, Exception):
            return False
        self._metrics.record(OBSERVER_FAILURES.name, 1)
        if kind not in self._logged:
            self._logged.add(kind)
            logger.error("telemetry failed; responses continue, and this error is logged once", exc_info=error)
        return True


@cache
def process_metrics() -> Metrics:
    """Returns the metrics of this process, for the global meter provider, even if set later, and for LiteLLM's
    `/metrics`."""
    return Metrics(registry=_default_registry())


def _default_registry() -> object | None:
    """Returns the registry that LiteLLM serves; None if `prometheus_client` is not installed."""
    try:
        return cast(object, import_module("prometheus_client").REGISTRY)
    except ImportError:
        return None


def _register(metric: Metric, registry: object) -> _Family | None:
    """Registers `metric`, with underscores for dots; None if Prometheus rejects the name or already has it."""
    kind = "Histogram" if metric.buckets else "Counter"
    make: Callable[..., _Family] = getattr(import_module("prometheus_client"), kind)
    labels = [_name(label) for label in metric.labels]
    buckets = {"buckets": metric.buckets} if metric.buckets else {}
    try:
        return make(_name(metric.name), metric.description, labels, registry=registry, **buckets)
    except ValueError as error:
        logger.warning("metric %s cannot be registered with Prometheus: %s", metric.name, error)
        return None


def _prometheus_series(family: _Family, metric: Metric, values: tuple[str, ...]) -> Callable[[float], None]:
    """Returns the function that records a value of the series with these label values."""
    series = family.labels(*values) if values else family
    return series.observe if metric.buckets else series.inc


def _name(name: str) -> str:
    return re.sub(r"\W", "_", name, flags=re.ASCII)
