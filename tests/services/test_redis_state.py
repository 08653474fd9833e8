"""What workers share, in a real Redis: one node, a cluster, one that is gone for a while."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis.asyncio
from litellm.caching.redis_cache import RedisCache
from litellm.caching.redis_cluster_cache import RedisClusterCache

from luthien_litellm_hooks.errors import StateError
from luthien_litellm_hooks.recording.state import Entry, RedisPlace, RedisStore
from luthien_litellm_hooks.telemetry.redis_clients import asynchronous_client
from tests.support.proxy import HOST, free_port
from tests.support.redis import running_cluster, running_redis

LONG = 3600.0
pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("litellm_connections")]


@pytest.fixture(scope="module")
def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as url:
        yield url


@asynccontextmanager
async def opened(client: Any, namespace: str | None = None) -> AsyncGenerator[RedisStore]:
    try:
        yield RedisStore(lambda: RedisPlace(client, namespace))
    finally:
        await client.aclose()


@pytest.fixture(params=["bytes", "text", "LiteLLM's", "LiteLLM's cluster"])
async def store(request: pytest.FixtureRequest, redis_url: str, cluster_url: str) -> AsyncGenerator[RedisStore]:
    """An empty store, by each kind of client."""
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        await client.flushdb()
    async with redis.asyncio.Redis.from_url(cluster_url) as client:
        await client.flushdb()
    made: Any
    match request.param:
        case "bytes" | "text":
            made = redis.asyncio.Redis.from_url(redis_url, decode_responses=request.param == "text")
        case "LiteLLM's":
            made = RedisCache(url=redis_url).init_async_client()
        case _:
            nodes = [{"host": HOST, "port": port_of(cluster_url)}]
            made = RedisClusterCache(startup_nodes=nodes).init_async_client()
    async with opened(made) as store:
        yield store


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


async def of(store: RedisStore, key: str = "k") -> Entry:
    return (await store.get(key))[key]


async def test_an_entry_is_read_as_it_was_written(store: RedisStore) -> None:
    assert await store.get("a/1") == {}
    assert await store.get() == {}
    assert await store.put("a/1", '{"x": "\u202e\\u0000\n"}', LONG, replacing=None)
    found = await of(store, "a/1")
    assert (found.key, found.value) == ("a/1", '{"x": "\u202e\\u0000\n"}')
    assert await store.get("b", "a/1") == {"a/1": found}


async def test_a_writer_that_knows_another_version_changes_nothing(store: RedisStore) -> None:
    assert not await store.put("k", "no entry has it", LONG, replacing="0" * 32)
    assert await store.put("k", "first", LONG, replacing=None)
    assert not await store.put("k", "again", LONG, replacing=None)
    first = await of(store)
    assert await store.put("k", "second", LONG, replacing=first.version)
    assert not await store.put("k", "third", LONG, replacing=first.version)
    second = await of(store)
    assert (second.value, second.version != first.version) == ("second", True)


async def test_an_entry_that_has_ended_is_absent_and_a_new_one_has_another_version(store: RedisStore) -> None:
    await store.put("k", "first", LONG, replacing=None)
    first = await of(store)
    assert await store.put("k", "ended", -1.0, replacing=first.version)
    assert (await store.get("k"), await store.scan("k")) == ({}, [])
    assert not await store.put("k", "late", LONG, replacing=first.version)
    assert await store.put("k", "new", 0.2, replacing=None)
    await asyncio.sleep(0.5)  # Redis has a clock of its own
    assert await store.get("k") == {}
    assert await store.scan("") == []
    assert not await store.put("k", "late", LONG, replacing=first.version)
    assert await store.put("k", "newest", LONG, replacing=None)


async def test_a_scan_returns_the_entries_with_a_prefix(store: RedisStore) -> None:
    for key in ("a/2", "a/1", "b/1", "a"):
        await store.put(key, key, LONG, replacing=None)
    assert [entry.value for entry in await store.scan("a/")] == ["a/1", "a/2"]
    assert await store.scan("c") == []


async def test_of_many_writers_at_once_one_changes_an_entry(store: RedisStore) -> None:
    for number in range(20):
        await store.put(str(number), "free", LONG, replacing=None)
        version = (await of(store, str(number))).version
        won = await asyncio.gather(
            *(store.put(str(number), f"taken by {each}", LONG, replacing=version) for each in range(10))
        )
        assert sum(won) == 1
        assert (await of(store, str(number))).value == f"taken by {won.index(True)}"


async def test_nothing_stays_behind(redis_url: str) -> None:
    async with redis.asyncio.Redis.from_url(redis_url) as client, opened(client) as store:
        await client.flushdb()
        await store.put("k", "v", 0.2, replacing=None)
        await asyncio.sleep(0.5)  # Redis has a clock of its own
        assert await client.dbsize() == 0


async def test_two_namespaces_share_nothing(redis_url: str) -> None:
    async with (
        redis.asyncio.Redis.from_url(redis_url) as client,
        opened(client, "one") as one,
        opened(client, "two") as two,
    ):
        await one.put("k", "v", LONG, replacing=None)
        assert (await two.scan(""), await two.get("k")) == ([], {})
        assert await two.put("k", "w", LONG, replacing=None)
        assert [entry.value for entry in await one.scan("")] == ["v"]


class LosesTheReply:
    """A client that sends each change twice, as one does whose connection broke before the reply."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def execute_command(self, *args: str | int) -> Any:
        if args[0] == "EVAL":
            await self._client.execute_command(*args)
        return await self._client.execute_command(*args)


async def test_a_change_that_was_sent_again_is_told_as_made(redis_url: str) -> None:
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        await client.flushdb()
        store = RedisStore(lambda: RedisPlace(LosesTheReply(client)))
        assert await store.put("k", "v", LONG, replacing=None)
        assert not await store.put("k", "w", LONG, replacing=None)


async def test_a_redis_that_is_gone_is_an_error_and_one_that_is_back_is_empty() -> None:
    port = free_port()
    async with opened(asynchronous_client(f"redis://{HOST}:{port}/0")) as store:
        with pytest.raises(StateError, match=r"^Redis: ConnectionError"):
            await store.get("k")
        with running_redis(port):
            assert await store.put("k", "v", LONG, replacing=None)
        for work in (store.get("k"), store.scan(""), store.put("k", "w", LONG, replacing=None)):
            with pytest.raises(StateError, match=r"^Redis: "):
                await work
        with running_redis(port):
            assert await store.get("k") == {}
            assert await store.put("k", "v", LONG, replacing=None)


async def test_a_proxy_without_a_redis_has_no_such_store() -> None:
    with pytest.raises(StateError, match="no Redis"):
        await RedisStore(lambda: None).get("k")
