"""Fixtures that every test may use."""

import os
import signal
from collections.abc import Generator

import pytest

from luthien_litellm_hooks.testing.provider import ScriptedProvider
from luthien_litellm_hooks.testing.serving import serve
from tests.support.postgres import running_postgres
from tests.support.proxy import Proxies
from tests.support.redis import running_redis

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it, and a proxy would inherit that
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # LiteLLM would look for it on the network


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def provider() -> ScriptedProvider:
    return ScriptedProvider()


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
