"""What a policy sees of a request through a real proxy: route, headers without credentials, turn, tools."""

import json
from typing import Any

import pytest

from tests.support.proxy import KEY, Proxies, Proxy
from tests.support.selected import LAB

JSON = dict[str, Any]
HELLO = {"messages": [{"role": "user", "content": "hello"}]}
BASH_CHAT = {"type": "function", "function": {"name": "Bash", "parameters": {"type": "object", "properties": {}}}}
BASH_MESSAGES = {"name": "Bash", "input_schema": {"type": "object", "properties": {}}}
BASH_GEMINI = {"functionDeclarations": [{"name": "Bash"}]}
CONTENTS = [{"role": "user", "parts": [{"text": "hello"}]}]
ASKED: dict[str, JSON] = {
    "/v1/chat/completions": {"model": "openai/x", **HELLO, "tools": [BASH_CHAT]},
    "/chat/completions": {"model": "openai/x", **HELLO, "tools": [BASH_CHAT]},
    "/v1/messages": {"model": "anthropic/x", "max_tokens": 9, **HELLO, "tools": [BASH_MESSAGES]},
    "/v1/responses": {"model": "openai/x", "input": "hello", "tools": [{"type": "function", "name": "Bash"}]},
    "/v1beta/models/gemini/x:generateContent": {"contents": CONTENTS, "tools": [BASH_GEMINI]},
}
SECRETS = {
    "x-api-key": "secret-anthropic",
    "api-key": "secret-azure",
    "x-goog-api-key": "secret-google",
    "cookie": "session=secret-cookie",
    "x-litellm-api-key": f"Bearer {KEY}",
    "x-mcp-auth": "secret-mcp",
    "x-amz-security-token": "secret-amz",
}


def described(proxy: Proxy, path: str, **more: Any) -> JSON:
    """What the policy saw of a request."""
    headers = {"X-Team": "red", "User-Agent": "claude-cli/2.0", **SECRETS}
    response = proxy.http.post(path, json={**ASKED[path], "user": "describe", **more}, headers=headers)
    assert response.status_code == 200, response.text
    assert "secret-" not in response.text
    assert KEY not in response.text
    return json.loads(_said(response.json()))


def _said(answer: JSON) -> str:
    match answer:
        case {"choices": [{"message": {"content": str(text)}}]}:
            return text
        case {"content": [{"text": str(text)}]}:
            return text
        case {"output": [{"content": [{"text": str(text)}]}]}:
            return text
        case {"candidates": [{"content": {"parts": [{"text": str(text)}]}}]}:
            return text
        case other:
            raise AssertionError(other)


@pytest.mark.parametrize("path", ASKED)
def test_route_headers_turn_and_tools_arrive_and_credentials_do_not(proxies: Proxies, path: str) -> None:
    seen = described(proxies.lab(LAB), path)
    assert seen["route"] == path
    assert (seen["headers"]["x-team"], seen["headers"]["user-agent"]) == ("red", "claude-cli/2.0")
    assert not seen["headers"].keys() & {name.lower() for name in (*SECRETS, "authorization")}
    assert (seen["turn"], seen["tools"]) == ("user", ["Bash"])


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_a_probe_is_known_through_the_proxy(proxies: Proxies, path: str) -> None:
    assert described(proxies.lab(LAB), path, max_tokens=1)["turn"] == "side"


def test_a_probe_of_gemini_is_known_through_the_proxy(proxies: Proxies) -> None:
    path = "/v1beta/models/gemini/x:generateContent"
    assert described(proxies.lab(LAB), path, generationConfig={"maxOutputTokens": 1})["turn"] == "side"
