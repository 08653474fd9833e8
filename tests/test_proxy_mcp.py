"""MCP through a real proxy and a real MCP server: calls are judged before, what servers give back after."""

import json
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.client.session import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import MCPServer
from mcp.types import (
    AudioContent,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)
from pydantic import BaseModel

from luthien_litellm_hooks.testing.provider import ScriptedProvider
from luthien_litellm_hooks.testing.serving import serve
from tests.support.proxy import KEY, Proxy, proxy_config, running_proxy

NOOP = {"class": "noop"}
ALL_CAPS = {"class": "all_caps", "config": {"tool_arguments": True}}
NO_CALLS = {"class": "tests.support.lab:NoCalls"}
FAILS = {"class": "tests.support.lab:FailsOnText"}
DROPS = {"class": "tests.support.lab:DropsText"}
MARK = "mark-7"
PIXEL = "iVBORw0KGgo="


class Weather(BaseModel):
    city: str
    said: str


def rich() -> CallToolResult:
    """A result with a mark in every text of it."""
    link = ResourceLink(type="resource_link", uri="file:///a", name=f"n {MARK}", title=MARK, description=MARK)
    resource = TextResourceContents(uri="file:///b", text=f"resource {MARK}")
    return CallToolResult(
        content=[
            TextContent(type="text", text=f"text {MARK}"),
            ImageContent(type="image", data=PIXEL, mime_type="image/png"),
            AudioContent(type="audio", data=PIXEL, mime_type="audio/wav"),
            EmbeddedResource(type="resource", resource=resource),
            link,
        ],
        structured_content={"said": f"structured {MARK}"},
        _meta={"note": MARK},
    )


@dataclass
class Lab:
    """`heard` is what the tool `echo` was called with."""

    url: str
    heard: list[str]


@pytest.fixture(scope="module")
def lab() -> Generator[Lab]:
    """A real MCP server."""
    heard: list[str] = []
    server = MCPServer("lab")

    @server.tool(structured_output=False)
    def echo(text: str) -> str:
        """Says it again."""
        heard.append(text)
        return f"you said {text}"

    @server.tool()
    def weather(city: str) -> Weather:
        """Tells the weather."""
        return Weather(city=city, said=f"sunny {MARK}")

    @server.tool(name="rich")
    def rich_tool() -> CallToolResult:
        """Gives everything back that there is."""
        return rich()

    @server.tool(structured_output=False)
    def fails() -> str:
        """Fails."""
        raise ValueError(f"no {MARK}")

    @server.prompt()
    def advice(topic: str) -> str:
        """Advice on a topic."""
        return f"mind {topic} {MARK}"

    @server.resource("notes://today")
    def notes() -> str:
        """The notes."""
        return f"notes {MARK}"

    with serve(server.streamable_http_app(stateless_http=True)) as url:
        yield Lab(f"{url}/mcp", heard)


Connect = Callable[..., AbstractAsyncContextManager[ClientSession]]


@pytest.fixture(scope="module")
def proxy_of(lab: Lab, provider_url: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Callable[..., Proxy]]:
    """The proxy with a policy, or the stock one."""
    running: dict[str, tuple[Proxy, Any]] = {}

    def proxy_of(policy: dict[str, Any] | None, **settings: Any) -> Proxy:
        name = json.dumps([policy, settings])
        if name not in running:
            stack = _proxy(policy, lab.url, provider_url, tmp_path_factory.mktemp("mcp") / "proxy", **settings)
            running[name] = stack.__enter__(), stack
        return running[name][0]

    yield proxy_of
    for _, stack in running.values():
        stack.__exit__(None, None, None)


@contextmanager
def _proxy(
    policy: dict[str, Any] | None, server_url: str, provider_url: str, folder: Path, **settings: Any
) -> Generator[Proxy]:
    config = proxy_config(provider_url, None if policy is None else {"policy": policy, **settings})
    config["mcp_servers"] = {"lab": {"url": server_url, "transport": "http"}}
    with running_proxy(config, folder, {}) as proxy:
        yield proxy


@asynccontextmanager
async def session_of(proxy: Proxy, path: str = "/mcp/") -> AsyncGenerator[ClientSession]:
    headers = {"x-litellm-api-key": f"Bearer {KEY}"}
    async with (
        httpx2.AsyncClient(headers=headers, follow_redirects=True) as client,
        streamable_http_client(f"{proxy.url}{path}", http_client=client) as (read, write, *_),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        yield session


async def call(proxy: Proxy, tool: str, path: str = "/mcp/", **arguments: str) -> CallToolResult:
    async with session_of(proxy, path) as session:
        names = [found.name for found in (await session.list_tools()).tools]
        [name] = [name for name in names if name.endswith(tool)]
        return await session.call_tool(name, arguments)


def texts(result: CallToolResult) -> list[str]:
    return [content.text for content in result.content if isinstance(content, TextContent)]


PATHS = pytest.mark.parametrize("path", ["/mcp/", "/lab/mcp"])


@PATHS
async def test_noop_changes_nothing(proxy_of: Any, lab: Lab, path: str) -> None:
    result = await call(proxy_of(NOOP), "echo", path, text="hello")
    assert (lab.heard[-1], texts(result), result.is_error) == ("hello", ["you said hello"], False)


@PATHS
async def test_arguments_are_rewritten_before_the_call_and_the_result_after(proxy_of: Any, lab: Lab, path: str) -> None:
    result = await call(proxy_of(ALL_CAPS), "echo", path, text="hello")
    assert (lab.heard[-1], texts(result)) == ("HELLO", ["YOU SAID HELLO"])


async def test_a_call_that_is_withheld_is_not_made(proxy_of: Any, lab: Lab) -> None:
    before = len(lab.heard)
    result = await call(proxy_of(NO_CALLS), "echo", text="hello")
    assert result.is_error
    assert "were withheld" in texts(result)[0]
    assert len(lab.heard) == before


async def test_a_call_that_no_policy_is_for_is_not_made_if_such_are_refused(proxy_of: Any, lab: Lab) -> None:
    before = len(lab.heard)
    nobodys = {**ALL_CAPS, "when": {"users": "nobody"}}
    result = await call(proxy_of(nobodys, unselected="refuse"), "echo", text="hello")
    assert result.is_error
    assert "no policy of this proxy is for it" in texts(result)[0]
    assert len(lab.heard) == before


async def test_a_result_that_cannot_be_judged_is_withheld(proxy_of: Any) -> None:
    result = await call(proxy_of(FAILS), "echo", text="hello")
    assert "you said" not in str(result)
    assert "secret" not in str(result)
    assert "a policy check failed" in texts(result)[0]


@pytest.mark.parametrize("tool", ["weather", "rich", "fails"])
async def test_what_nobody_changes_is_what_stock_delivers(proxy_of: Any, tool: str) -> None:
    arguments = {"city": "Rome"} if tool == "weather" else {}
    ours, stock = [await call(proxy_of(policy), tool, **arguments) for policy in (NOOP, None)]
    assert ours.model_dump() == stock.model_dump()
    assert ours.is_error == (tool == "fails")
    assert (ours.structured_content is None) == (tool == "fails")


@pytest.mark.parametrize("tool", ["echo", "weather", "rich", "fails"])
async def test_no_text_of_a_result_that_is_dropped_leaves(proxy_of: Any, tool: str) -> None:
    arguments = {"weather": {"city": "Rome"}, "echo": {"text": MARK}}.get(tool, {})
    result = await call(proxy_of(DROPS), tool, **arguments)
    assert MARK not in result.model_dump_json()
    kinds = {content.type for content in result.content}
    assert kinds == ({"image", "audio"} if tool == "rich" else set())


async def test_every_text_of_a_result_is_judged(proxy_of: Any) -> None:
    result = await call(proxy_of(ALL_CAPS), "rich")
    said = result.model_dump_json()
    assert MARK not in said
    assert said.count(MARK.upper()) == 6
    assert [content.type for content in result.content] == ["text", "image", "audio", "resource", "resource_link"]
    assert result.structured_content == {"SAID": f"STRUCTURED {MARK.upper()}"}
    assert not result.is_error


async def test_prompts_and_resources_are_judged(proxy_of: Any) -> None:
    for policy, expected in ((NOOP, MARK), (ALL_CAPS, MARK.upper())):
        async with session_of(proxy_of(policy)) as session:
            [prompt] = (await session.list_prompts()).prompts
            got = (await session.get_prompt(prompt.name, {"topic": "x"})).model_dump_json()
            [resource] = (await session.list_resources()).resources
            read = (await session.read_resource(resource.uri)).model_dump_json()
        assert expected in got
        assert expected in read


async def test_no_prompt_or_resource_leaves_that_is_dropped(proxy_of: Any) -> None:
    async with session_of(proxy_of(DROPS)) as session:
        [prompt] = (await session.list_prompts()).prompts
        [resource] = (await session.list_resources()).resources
        assert MARK not in (await session.get_prompt(prompt.name, {"topic": "x"})).model_dump_json()
        assert MARK not in (await session.read_resource(resource.uri)).model_dump_json()


def rest(proxy: Proxy, tool: str, arguments: dict[str, str]) -> dict[str, Any]:
    listed = proxy.http.get("/mcp-rest/tools/list").json()["tools"]
    [found] = [entry for entry in listed if entry["name"].endswith(tool)]
    body = {"server_id": found["mcp_info"]["server_id"], "name": found["name"], "arguments": arguments}
    response = proxy.http.post("/mcp-rest/tools/call", json=body)
    assert response.is_success, response.text
    return response.json()


def test_calls_over_http_are_judged(proxy_of: Any, lab: Lab) -> None:
    assert MARK in json.dumps(rest(proxy_of(NOOP), "rich", {}))
    assert MARK not in json.dumps(rest(proxy_of(DROPS), "rich", {}))
    assert "YOU SAID HI" in json.dumps(rest(proxy_of(ALL_CAPS), "echo", {"text": "hi"}))
    assert lab.heard[-1] == "HI"


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/responses"])
def test_calls_that_litellm_makes_for_a_model_are_judged(
    proxy_of: Any, lab: Lab, provider: ScriptedProvider, route: str
) -> None:
    said = f'call: lab-echo {{"text": "{MARK}"}}'
    tool = {"type": "mcp", "server_url": "litellm_proxy/mcp/lab", "server_label": "lab", "require_approval": "never"}
    asked = {"messages": [{"role": "user", "content": said}]} if "chat" in route else {"input": said}
    before = len(provider.requests)
    response = proxy_of(ALL_CAPS).http.post(route, json={"model": "openai/scripted", "tools": [tool], **asked})
    assert response.is_success, response.text
    assert lab.heard[-1] == MARK.upper()
    assert f"YOU SAID {MARK.upper()}" in json.dumps(provider.requests[-1].body)
    assert len(provider.requests) - before == 2
