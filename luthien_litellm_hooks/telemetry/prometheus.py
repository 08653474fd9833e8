"""Metrics in the registry of `prometheus_client`, which is what LiteLLM's `/metrics` shows.

Made with that library itself, not read from OpenTelemetry: with several workers LiteLLM serves what
the library wrote to PROMETHEUS_MULTIPROC_DIR, and nothing else. It comes with LiteLLM's images, but
is no dependency of ours: without it the metrics are OpenTelemetry's alone.
"""

import re
from collections.abc import Callable
from importlib import import_module
from typing import Protocol, cast

from luthien_litellm_hooks.log_lines import logger
from luthien_litellm_hooks.telemetry.names import Metric


class Series(Protocol):
    """The values of a metric that share all labels. A counter has `inc`, a histogram `observe`."""

    def inc(self, amount: float = 1) -> None: ...
    def observe(self, amount: float) -> None: ...


class Family(Series, Protocol):
    """A metric with all its series."""

    def labels(self, *values: str) -> Series: ...


def default_registry() -> object | None:
    """The registry that LiteLLM serves; None where `prometheus_client` is not installed."""
    try:
        return cast(object, import_module("prometheus_client").REGISTRY)
    except ImportError:
        return None


def family(metric: Metric, registry: object) -> Family | None:
    """Registers `metric`, with underscores for dots; None if Prometheus does not take the name, or has it."""
    kind = "Histogram" if metric.buckets else "Counter"
    make: Callable[..., Family] = getattr(import_module("prometheus_client"), kind)
    labels = [_name(label) for label in metric.labels]
    buckets = {"buckets": metric.buckets} if metric.buckets else {}
    try:
        return make(_name(metric.name), metric.description, labels, registry=registry, **buckets)
    except ValueError as error:
        logger.warning("metric %s is not shown to Prometheus: %s", metric.name, error)
        return None


def recording(family: Family, metric: Metric, values: tuple[str, ...]) -> Callable[[float], None]:
    """What records a value of the series with these label values."""
    series = family.labels(*values) if values else family
    return series.observe if metric.buckets else series.inc


def _name(name: str) -> str:
    return re.sub(r"\W", "_", name, flags=re.ASCII)
