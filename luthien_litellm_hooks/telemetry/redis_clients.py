"""Clients of Redis with short timeouts and no retries, and their used parts."""

from collections.abc import Awaitable
from typing import Any, Protocol, cast

_TIMEOUT_S = 5.0


class RedisPipeline(Protocol):
    """Used part of `redis.client.Pipeline`."""

    def execute_command(self, *arguments: str | int) -> object: ...
    def execute(self) -> object: ...


class RedisClient(Protocol):
    """Used part of `redis.Redis`."""

    def pipeline(self, transaction: bool) -> RedisPipeline: ...


class RedisCommands(Protocol):
    """Used part of `redis.asyncio.Redis` and of its `RedisCluster`."""

    def execute_command(self, *args: str | int) -> Awaitable[Any]: ...


class OwnRedisCommands(RedisCommands, Protocol):
    """The same, with its end."""

    async def aclose(self) -> None: ...


def redis_client(url: str) -> RedisClient:
    """Returns a client for one thread. Raises `ValueError` for another URL than a Redis's."""
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    client = Redis.from_url(  # pyright: ignore[reportUnknownMemberType]  # its **kwargs are untyped
        url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S, retry=Retry(NoBackoff(), 0)
    )
    return cast(RedisClient, client)


def asynchronous_client(url: str) -> OwnRedisCommands:
    """Returns a client for one event loop. Raises `ValueError` for another URL than a Redis's."""
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    client = Redis.from_url(  # pyright: ignore[reportUnknownMemberType]  # its **kwargs are untyped
        url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S, retry=Retry(NoBackoff(), 0)
    )
    return cast(OwnRedisCommands, client)
