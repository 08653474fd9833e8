"""A browser, and a proxy with the monitor page, for the tests of pages."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, StorageState

from tests.support.chromium import new_context, running_chromium
from tests.support.monitor_page import Heard, running_monitor, sign_in
from tests.support.proxy import Proxy

POLICIES: Any = [
    {"class": "block_dangerous_commands"},
    {"class": "secrets"},
    {"class": "protect_work", "enforce": False},
    {"class": "tool_rules", "config": {"rules": [{"action": "ask", "commands": ["npm publish"]}]}},
]


@dataclass(frozen=True, slots=True)
class Visit:
    """A person who is signed in, the page they look at, and what went wrong there."""

    page: Page
    heard: Heard


@pytest.fixture(scope="session")
def monitor(provider_url: str, postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Proxy]:
    folder = tmp_path_factory.mktemp("monitor") / "proxy"
    with running_monitor(
        provider_url, postgres_url, folder, {"policy": {"class": "serial", "config": {"policies": POLICIES}}}
    ) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def chromium() -> Generator[Browser]:
    with running_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def signed_in(chromium: Browser, monitor: Proxy) -> StorageState:
    """The cookies of somebody who has signed in with the master key."""
    with new_context(chromium) as context:
        sign_in(context.new_page(), monitor)
        return context.storage_state()


@pytest.fixture
def visit(chromium: Browser, signed_in: StorageState) -> Generator[Visit]:
    with new_context(chromium, storage_state=signed_in) as context:
        heard = Heard.on(context)
        yield Visit(context.new_page(), heard)
