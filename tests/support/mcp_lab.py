"""A real MCP server for tests, and clients that reach it through a proxy."""

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import httpx2
from mcp.client.session import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPError
from mcp.types import (
    AudioContent,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ModelHint,
    ModelPreferences,
    ResourceLink,
    SamplingMessage,
    TextContent,
    TextResourceContents,
)
from pydantic import BaseModel

from luthien_litellm_hooks.testing.answers import Gate
from luthien_litellm_hooks.testing.provider import serve
from tests.support.proxy import KEY, Proxy

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
    """`heard` is what the tool `echo` was called with; the tool `slow` waits at the `gate` of its text."""

    url: str
    heard: list[str]
    gates: dict[str, Gate]


@contextmanager
def running_lab() -> Generator[Lab]:
    """A real MCP server."""
    heard: list[str] = []
    gates: dict[str, Gate] = {}
    server = MCPServer("lab")

    @server.tool(structured_output=False)
    def echo(text: str) -> str:
        """Says it again."""
        heard.append(text)
        return f"you said {text}"

    @server.tool(structured_output=False)
    async def slow(text: str) -> str:
        """Says it again, when it may."""
        await gates[text].passed()
        return f"you said {text}"

    @server.tool(structured_output=False)
    async def steps(context: Context) -> str:
        """Tells how far it is."""
        await context.report_progress(1, 2, f"half {MARK}")
        return f"done {MARK}"

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
        yield Lab(f"{url}/mcp", heard, gates)


@contextmanager
def running_asker(model: str) -> Generator[Lab]:
    """A real MCP server with a tool that asks the client's model, and errors of the protocol with a mark.

    `heard` is what the model answered.
    """
    heard: list[str] = []
    server = MCPServer("asker")

    @server.tool(structured_output=False)
    async def ask(context: Context) -> str:
        """Asks the client's model."""
        question = SamplingMessage(role="user", content=TextContent(type="text", text=f"say: {MARK}"))
        wanted = ModelPreferences(hints=[ModelHint(name=model)])
        answer = await context.session.create_message(
            [question], max_tokens=99, model_preferences=wanted, related_request_id=context.request_id
        )
        heard.append(answer.model_dump_json())
        return "asked"

    def break_down() -> str:
        raise MCPError(-32000, f"no {MARK}", {"why": MARK})

    server.tool(name="breaks", structured_output=False)(break_down)
    server.prompt(name="broken")(break_down)
    server.resource("notes://broken")(break_down)

    with serve(server.streamable_http_app()) as url:
        yield Lab(f"{url}/mcp", heard, {})


@asynccontextmanager
async def session_of(proxy: Proxy, path: str = "/mcp/") -> AsyncGenerator[ClientSession]:
    headers = {"x-litellm-api-key": f"Bearer {KEY}"}
    async with (
        httpx2.AsyncClient(headers=headers, follow_redirects=True, timeout=60) as client,
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
