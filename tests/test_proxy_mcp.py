"""MCP tool calls through a real proxy and a real MCP server: the call is judged before, its result after."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.client.session import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import MCPServer
from mcp.types import CallToolResult, TextContent

from luthien_litellm_hooks.testing.serving import serve
from tests.support.proxy import KEY, proxy_config, running_proxy

ALL_CAPS = {"class": "all_caps", "config": {"tool_arguments": True}}
NO_CALLS = {"class": "tests.support.lab:NoCalls"}
FAILS = {"class": "tests.support.lab:FailsOnText"}


@pytest.fixture(scope="module")
def heard() -> list[str]:
    """What the tool was called with."""
    return []


@pytest.fixture(scope="module")
def ask(heard: list[str], tmp_path_factory: pytest.TempPathFactory) -> Generator[Callable[..., Any]]:
    """Calls the tool through a proxy under a policy."""
    server = MCPServer("lab")

    @server.tool(structured_output=False)
    def echo(text: str) -> str:
        """Says it again."""
        heard.append(text)
        return f"you said {text}"

    with serve(server.streamable_http_app(stateless_http=True)) as url:

        async def ask(policy: dict[str, Any], **settings: Any) -> CallToolResult:
            luthien = {"policy": policy, **settings}
            with _proxy(luthien, f"{url}/mcp", tmp_path_factory.mktemp("mcp") / "proxy") as proxy_url:
                return await _call(proxy_url)

        yield ask


@contextmanager
def _proxy(luthien: dict[str, Any], server_url: str, folder: Path) -> Generator[str]:
    config = proxy_config("http://127.0.0.1:9", luthien)
    config["mcp_servers"] = {"lab": {"url": server_url, "transport": "http"}}
    with running_proxy(config, folder, {}) as proxy:
        yield proxy.url


async def _call(proxy_url: str) -> CallToolResult:
    headers = {"x-litellm-api-key": f"Bearer {KEY}"}
    async with (
        httpx2.AsyncClient(headers=headers, follow_redirects=True) as client,
        streamable_http_client(f"{proxy_url}/mcp/", http_client=client) as (read, write, *_),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        [tool] = (await session.list_tools()).tools
        return await session.call_tool(tool.name, {"text": "hello"})


def texts(result: CallToolResult) -> list[str]:
    return [content.text for content in result.content if isinstance(content, TextContent)]


async def test_noop_changes_nothing(ask: Callable[..., Any], heard: list[str]) -> None:
    result = await ask({"class": "noop"})
    assert (heard[-1], texts(result), result.is_error) == ("hello", ["you said hello"], False)


async def test_arguments_are_rewritten_before_the_call_and_the_result_after(
    ask: Callable[..., Any], heard: list[str]
) -> None:
    result = await ask(ALL_CAPS)
    assert (heard[-1], texts(result)) == ("HELLO", ["YOU SAID HELLO"])


async def test_a_call_that_is_withheld_is_not_made(ask: Callable[..., Any], heard: list[str]) -> None:
    before = len(heard)
    result = await ask(NO_CALLS)
    assert result.is_error
    assert "were withheld" in texts(result)[0]
    assert len(heard) == before


async def test_a_call_that_no_policy_is_for_is_not_made_if_such_are_refused(
    ask: Callable[..., Any], heard: list[str]
) -> None:
    before = len(heard)
    result = await ask({**ALL_CAPS, "when": {"users": "nobody"}}, unselected="refuse")
    assert result.is_error
    assert "no policy of this proxy is for it" in texts(result)[0]
    assert len(heard) == before


async def test_a_result_that_cannot_be_judged_is_withheld(ask: Callable[..., Any], heard: list[str]) -> None:
    result = await ask(FAILS)
    assert "you said" not in str(result)
    assert "secret" not in str(result)
    assert "a policy check failed" in texts(result)[0]
