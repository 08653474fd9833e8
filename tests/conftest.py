"""Fixtures that every test may use."""

import functools
import gc
import os
import signal
import ssl
import tempfile
from collections.abc import AsyncGenerator, Generator
from pathlib import PurePath
from typing import Any

import pytest

from luthien_litellm_hooks.testing.provider import ScriptedProvider, serve
from tests.support.postgres import running_postgres
from tests.support.proxy import Proxies
from tests.support.redis import running_redis

# nohup ignores the first, a shell's background job the second, and processes of tests would inherit that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # LiteLLM would look for it on the network
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each process of a test would compile this package for half a second
os.environ["LUTHIEN_RECORDS"] = os.path.join(tempfile.mkdtemp(), "records.sqlite")  # not the developer's own
# Each client would read the authorities of the world, up to three times for 25 ms, and none of them speaks TLS.
ssl.create_default_context = functools.cache(ssl.create_default_context)


ALONE = {
    "tests/proxy": {
        "demo",
        "failing_starts",
        "load",
        "proxies_fixture",
        "proxy_failover",
        "proxy_log_lines",
        "proxy_monitor",
        "proxy_monitor_pages",
    },
    "tests/services": {
        *("approvals_database", "killed_worker", "live_policy", "proxy_client_faults", "proxy_guardrail"),
        "monitor_pages_database",
        *("lingering_policies", "prompt_storage", "proxy_logged_requests", "proxy_loggers", "proxy_mcp_record"),
        *("proxy_observed", "redis_sink"),
    },
}
"""Of these folders the files that share no proxy with others."""
FAULTS = {"proxy_policy_faults", "proxy_provider_errors", "proxy_provider_faults"}
"""Files that share the proxy of `tests.support.fault_matrix`."""

LONGEST = ("tests/proxy", "tests/services", "faults", "tests/proxy/test_load.py")
"""Groups with which the workers begin, so that all end at the same time."""
_RANKS = {group: rank for rank, group in enumerate(LONGEST)}


def group_of(file: str) -> str:
    """The files that one worker runs, for they share proxies: each is started once, in place of once a worker."""
    folder, name = str(PurePath(file).parent), PurePath(file).stem.removeprefix("test_")
    if name in FAULTS:
        return "faults"
    return folder if name not in ALONE.get(folder, {name}) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadfile`, a worker gets all files of a group."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler.loadfile import LoadFileScheduling

    class ByProxy(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(super()._split_scope(nodeid))

    return ByProxy(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Spares the million objects that imports make from collections of garbage, now and later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest groups first."""
    items.sort(key=lambda item: _RANKS.get(group_of(item.nodeid.partition("::")[0]), len(_RANKS)))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def litellm_connections() -> AsyncGenerator[None]:
    """LiteLLM's connections of this process to models, which belong to the event loop of one test and end with it."""
    import litellm
    from litellm.llms.custom_httpx.async_client_cleanup import close_litellm_async_clients

    litellm.in_memory_llm_clients_cache.flush_cache()
    yield
    await close_litellm_async_clients()
    litellm.in_memory_llm_clients_cache.flush_cache()


@pytest.fixture(scope="session")
def provider() -> ScriptedProvider:
    return ScriptedProvider()


@pytest.fixture(scope="module", autouse=True)
def _own_answers(provider: ScriptedProvider) -> Generator[None]:
    """Ends the answers that a module gave to names of models, which another module may use for its own."""
    yield
    provider.answers.clear()
    provider.next_answers.clear()


@pytest.fixture(scope="session")
def provider_url(provider: ScriptedProvider) -> Generator[str]:
    with serve(provider) as url:
        yield url


@pytest.fixture(scope="session")
def proxies(provider_url: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Proxies]:
    proxies = Proxies(provider_url, tmp_path_factory.mktemp("proxies"))
    yield proxies
    proxies.close()


@pytest.fixture(scope="session")
def postgres_url(proxies: Proxies) -> Generator[str]:
    with running_postgres() as url:
        yield url
        proxies.close()  # while they can still write


@pytest.fixture(scope="session")
def redis_url() -> Generator[str]:
    with running_redis() as url:
        yield url
