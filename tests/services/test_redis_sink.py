"""Events on their way into a real Redis, which may be gone for a while, or refuse them."""

import logging
from collections.abc import Sequence

import pytest
import redis

from luthien_litellm_hooks.telemetry.publisher import RedisSink
from luthien_litellm_hooks.telemetry.redis_clients import redis_client
from tests.support.proxy import free_port
from tests.support.redis import running_redis
from tests.support.telemetry import Measured
from tests.support.waiting import wait_until
from tests.unit.telemetry.test_event_sinks import dropped, event, numbers, publisher


def test_a_stream_of_redis_gets_every_event_in_order(redis_url: str) -> None:
    events = publisher(RedisSink(lambda: redis_client(redis_url), stream="all"))
    for number in range(250):
        events.publish(event(number))
    events.close()
    assert numbers(entries(redis_url, "all")) == list(range(250))


def test_the_stream_is_trimmed(redis_url: str) -> None:
    sink = RedisSink(lambda: redis_client(redis_url), stream="trimmed", length=100)
    for _ in range(20):
        sink.write(["{}"] * 100)
    assert 100 <= len(entries(redis_url, "trimmed")) < 500


class Counting(RedisSink):
    """Counts what Redis said it has."""

    written = 0

    def write(self, lines: Sequence[str]) -> int:
        self.written += super().write(lines)
        return len(lines)


def test_losing_redis_is_said_once_and_so_is_its_return_and_what_waited_comes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    port, measured = free_port(), Measured()
    url = f"redis://127.0.0.1:{port}/0"
    sink = Counting(lambda: redis_client(url))
    events = publisher(sink, measured=measured, max_waiting=50)
    with running_redis(port):
        events.publish(event(0))
        wait_until(lambda: sink.written == 1)
    events.publish(event(1))
    wait_until(lambda: len(caplog.records) == 1)
    for number in range(2, 100):
        events.publish(event(number))
    assert dropped(measured) == {("redis",): 49}
    with running_redis(port):
        wait_until(lambda: len(entries(url)) == 50)
        assert numbers(entries(url)) == list(range(1, 51))
        events.close()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3
    assert "cannot be written to redis" in said[0]
    assert "dropped" in said[1]
    assert "written to redis again; 49 were dropped" in said[2]


def test_a_redis_that_refuses_costs_nothing_but_the_events(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set("no-stream", "x")
    measured = Measured()
    events = publisher(RedisSink(lambda: redis_client(redis_url), stream="no-stream"), measured=measured)
    events.publish(event(1))
    wait_until(lambda: "WRONGTYPE" in caplog.text)
    events.close()
    assert dropped(measured) == {("redis",): 1}


def entries(url: str, stream: str = "luthien:events") -> list[bytes]:
    with redis.Redis.from_url(url) as client:
        try:
            return [fields[b"event"] for _, fields in client.xrange(stream)]
        except redis.ConnectionError:
            return []
