"""Spans, metrics and events of this proxy's transactions, as the settings want them."""

from collections.abc import Callable, Mapping
from typing import Any, cast

from litellm.proxy import proxy_server

from luthien_litellm_hooks.config import EventsSettings
from luthien_litellm_hooks.telemetry.fail_open import FailOpen
from luthien_litellm_hooks.telemetry.metrics import process_metrics
from luthien_litellm_hooks.telemetry.names import READINGS
from luthien_litellm_hooks.telemetry.publisher import EventPublisher, Sink
from luthien_litellm_hooks.telemetry.sinks import JsonLinesSink, RedisClient, RedisSink, redis_client
from luthien_litellm_hooks.telemetry.spans import Telemetry


def telemetry(events: EventsSettings, environment: Mapping[str, str]) -> Telemetry:
    """What tells of this process's transactions."""
    sinks: list[Sink] = []
    if events.jsonl is not None:
        sinks.append(JsonLinesSink(events.jsonl))
    if events.redis is not False:
        sinks.append(RedisSink(_connection(events.redis, environment)))
    return Telemetry(EventPublisher(sinks) if sinks else None)


def _connection(redis: str | bool, environment: Mapping[str, str]) -> Callable[[], RedisClient]:
    url = redis if isinstance(redis, str) else environment.get("REDIS_URL")
    return (lambda: redis_client(url)) if url else _own_redis


def _own_redis() -> RedisClient:
    """The Redis that the proxy has for itself; it is there once the proxy has read its config."""
    cache: Any = cast(Any, proxy_server).redis_usage_cache
    if cache is None:
        raise RuntimeError("events.redis: the proxy has no Redis of its own; set REDIS_URL, or write the URL here")
    return cast(RedisClient, cache.redis_client)


def count_reading(result: str) -> None:
    """Counts that the settings were read again while the proxy runs."""
    metrics = process_metrics()
    with FailOpen(metrics):
        metrics.record(READINGS.name, 1, {"result": result})
