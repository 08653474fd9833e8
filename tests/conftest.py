"""Fixtures that every test may use."""

import os
from collections.abc import Generator

import pytest

from luthien_litellm_hooks.testing.provider import ScriptedProvider
from luthien_litellm_hooks.testing.serving import serve
from tests.support.proxy import Proxies

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
