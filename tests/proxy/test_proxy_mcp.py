"""MCP through a real proxy and a real MCP server: calls are judged before, what servers give back after."""

import asyncio
import json
from collections.abc import Callable, Generator
from importlib.metadata import version
from typing import Any, cast

import pytest
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolResult
from packaging.version import Version

from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.approving import approvals
from tests.support.mcp_lab import MARK, Lab, call, running_asker, running_lab, session_of, texts
from tests.support.proxy import Proxies, Proxy, named_models

NOOP = {"class": "noop"}
ALL_CAPS = {"class": "all_caps", "config": {"tool_arguments": True}}
NO_CALLS = {"class": "tests.support.lab:NoCalls"}
FAILS = {"class": "tests.support.lab:FailsOnText"}
DROPS = {"class": "tests.support.lab:DropsText"}


@pytest.fixture(scope="module")
def lab() -> Generator[Lab]:
    with running_lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def proxy_of(lab: Lab, proxies: Proxies) -> Callable[..., Proxy]:
    """The proxy with a policy, or the stock one. No header selects here: an MCP call has none that a policy sees."""
    sections = {"mcp_servers": {"lab": {"url": lab.url, "transport": "http"}}}

    def proxy_of(policy: dict[str, Any] | None, **luthien: Any) -> Proxy:
        return proxies.get(None if policy is None else {"policy": policy, **luthien}, sections=sections)

    return proxy_of


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


async def test_a_call_that_a_person_approves_is_made_once(proxy_of: Any, lab: Lab) -> None:
    proxy = proxy_of({"class": "tool_rules", "config": {"rules": [{"action": "ask", "tool": "*echo"}]}})
    before = len(lab.heard)
    refused = await call(proxy, "echo", text="hello")
    [asked] = json.loads(await asyncio.to_thread(approvals, proxy, "list", "--json"))["approvals"]
    assert refused.is_error
    assert f"waits for a person's approval ({asked['id']})" in texts(refused)[0]
    await asyncio.to_thread(approvals, proxy, "approve", asked["id"])
    other, made, again = [await call(proxy, "echo", text=text) for text in ("other", "hello", "hello")]
    assert [result.is_error for result in (other, made, again)] == [True, False, True]
    assert lab.heard[before:] == ["hello"]


async def test_a_call_that_no_policy_is_for_is_not_made_if_such_are_refused(proxy_of: Any, lab: Lab) -> None:
    before = len(lab.heard)
    nobodys = {**ALL_CAPS, "when": {"users": "nobody"}}
    result = await call(proxy_of(nobodys, unselected="refuse"), "echo", text="hello")
    assert result.is_error
    assert "no policy of this proxy is for it" in texts(result)[0]
    assert len(lab.heard) == before


@pytest.mark.parametrize(
    "when",
    [{"models": "x"}, {"tools": "x"}, {"routes": "/v1/messages"}, {"headers": {"x": "x"}}],
    ids=lambda when: next(iter(when)),
)
async def test_a_policy_judges_a_call_that_fits_as_far_as_litellm_tells(proxy_of: Any, lab: Lab, when: Any) -> None:
    proxy = proxy_of({**ALL_CAPS, "when": when})
    result = await call(proxy, "echo", text="hello")
    assert (lab.heard[-1], texts(result)) == ("HELLO", ["YOU SAID HELLO"])
    async with session_of(proxy) as session:
        [prompt] = (await session.list_prompts()).prompts
        assert MARK.upper() in (await session.get_prompt(prompt.name, {"topic": "x"})).model_dump_json()


async def test_a_policy_for_another_key_leaves_a_call_alone(proxy_of: Any, lab: Lab) -> None:
    result = await call(proxy_of({**ALL_CAPS, "when": {"keys": "nobodys"}}), "echo", text="hello")
    assert (lab.heard[-1], texts(result)) == ("hello", ["you said hello"])


async def test_no_prompt_or_resource_leaves_that_no_policy_is_for_if_such_are_refused(proxy_of: Any) -> None:
    nobodys = {**ALL_CAPS, "when": {"users": "nobody"}}
    async with session_of(proxy_of(nobodys, unselected="refuse")) as session:
        [prompt] = (await session.list_prompts()).prompts
        [resource] = (await session.list_resources()).resources
        got = (await session.get_prompt(prompt.name, {"topic": "x"})).model_dump_json()
        assert MARK not in got + (await session.read_resource(resource.uri)).model_dump_json()
    assert "no policy of this proxy is for it" in got


@pytest.mark.parametrize(
    ("policy", "said"), [(NOOP, f"half {MARK}"), (ALL_CAPS, f"HALF {MARK.upper()}"), (DROPS, None)]
)
async def test_what_a_server_tells_meanwhile_is_judged(proxy_of: Any, policy: Any, said: str | None) -> None:
    told: list[str | None] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append(message)

    async with session_of(proxy_of(policy)) as session:
        [name] = [found.name for found in (await session.list_tools()).tools if found.name.endswith("steps")]
        result = await session.call_tool(name, {}, progress_callback=hear)
    assert set(told) <= ({said} if Version(version("litellm")) >= Version("1.108") else {None})
    expected = {NOOP["class"]: [f"done {MARK}"], ALL_CAPS["class"]: [f"DONE {MARK.upper()}"]}
    assert texts(cast(CallToolResult, result)) == expected.get(policy["class"], [])


@pytest.fixture(scope="module")
def asker() -> Generator[Lab]:
    with running_asker("one") as asker:
        yield asker


@pytest.fixture(scope="module")
def asking_proxy_of(asker: Lab, proxies: Proxies, provider_url: str) -> Callable[..., Proxy]:
    server = {"url": asker.url, "transport": "http", "allow_sampling": True}
    sections = {"mcp_servers": {"asker": server}, "model_list": named_models(provider_url)}
    return lambda policy, **luthien: proxies.get({"policy": policy, **luthien}, sections=sections)


@pytest.mark.parametrize(("opened", "count"), [("refuse", 0), (["/mcp/sampling"], 1)], ids=["closed", "opened"])
async def test_no_server_gets_what_a_model_says_unless_the_operator_lets_it(
    asking_proxy_of: Any, asker: Lab, opened: Any, count: int
) -> None:
    asker.heard.clear()
    result = await call(asking_proxy_of(DROPS, ungoverned_routes=opened), "ask")
    assert (len(asker.heard), result.is_error) == (count, count == 0)
    assert (MARK in "".join(asker.heard)) == (count == 1)


async def broken(proxy: Proxy) -> list[str]:
    """All that a client gets of a tool, a prompt and a resource that a server answers with an error."""
    said = [(await call(proxy, "breaks")).model_dump_json()]
    async with session_of(proxy) as session:
        [prompt] = (await session.list_prompts()).prompts
        [resource] = (await session.list_resources()).resources
        for asked in (session.get_prompt(prompt.name, {}), session.read_resource(resource.uri)):
            with pytest.raises(MCPError) as raised:
                await asked
            said.append(repr(raised.value) + str(raised.value.error))
    return said


async def test_no_error_of_a_server_quotes_what_is_dropped(asking_proxy_of: Any) -> None:
    said = await broken(asking_proxy_of(DROPS))
    assert [MARK in text for text in said] == [False] * 3, said


async def test_where_no_policy_judges_a_servers_error_leaves(asking_proxy_of: Any) -> None:
    said = await broken(asking_proxy_of(NOOP))
    assert [MARK in text for text in said] == [True] * 3, said


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
