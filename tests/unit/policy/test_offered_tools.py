"""The tools that a request offers, on whatever wire; and what does not say which they are."""

from typing import Any

import pytest

from luthien_litellm_hooks import Request
from luthien_litellm_hooks.policy.base import When
from luthien_litellm_hooks.recording.decision import Identity

REFERENCE = {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "Bash"}}


def added(definition: dict[str, Any]) -> dict[str, Any]:
    """A part of a message of Anthropic's that defines a tool."""
    return {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": definition}}


NAMED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "chat": ({"tools": [{"type": "function", "function": {"name": "Bash"}}]}, ("Bash",)),
    "chat, custom": ({"tools": [{"type": "custom", "custom": {"name": "Bash"}}]}, ("Bash",)),
    "chat, two names": ({"tools": [{"type": "function", "name": "x", "function": {"name": "Bash"}}]}, ("x", "Bash")),
    "functions": ({"functions": [{"name": "Bash"}]}, ("Bash",)),
    "a search": ({"web_search_options": {"search_context_size": "low"}}, ("web_search",)),
    "messages": ({"tools": [{"name": "Bash", "input_schema": {}}]}, ("Bash",)),
    "messages, the provider's": ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, ("bash",)),
    "responses": ({"tools": [{"type": "function", "name": "Bash"}]}, ("Bash",)),
    "responses, the provider's": ({"tools": [{"type": "web_search"}]}, ("web_search",)),
    "responses, a namespace": (
        {"tools": [{"type": "namespace", "name": "shell", "tools": [{"type": "function", "name": "Bash"}]}]},
        ("shell", "Bash"),
    ),
    "responses, found by a search": (
        {"input": [{"type": "tool_search_output", "tools": [{"type": "function", "name": "Bash"}]}]},
        ("Bash",),
    ),
    "responses, added later": (
        {"input": [{"type": "additional_tools", "role": "developer", "tools": [{"type": "function", "name": "Bash"}]}]},
        ("Bash",),
    ),
    "messages, added later": ({"messages": [{"role": "system", "content": [added({"name": "Bash"})]}]}, ("Bash",)),
    "messages, added before a summary": (
        {
            "messages": [
                {"role": "assistant", "content": [{"type": "compaction", "tool_changes": [added({"name": "Bash"})]}]}
            ]
        },
        ("Bash",),
    ),
    "messages, referred to": (
        {"tools": [{"name": "Bash"}], "messages": [{"role": "system", "content": [REFERENCE]}]},
        ("Bash",),
    ),
    "gemini": ({"tools": [{"functionDeclarations": [{"name": "Bash"}]}]}, ("Bash",)),
    "gemini, the provider's": (
        {"tools": [{"googleSearch": {}}, {"code_execution": {}}]},
        ("googleSearch", "code_execution"),
    ),
}
UNTOLD: dict[str, dict[str, Any]] = {
    "chat, of an MCP server": {"tools": [{"type": "mcp", "server_url": "litellm_proxy/mcp/files"}]},
    "messages, of an MCP server": {"mcp_servers": [{"type": "url", "url": "https://mcp.example.com"}]},
    "messages, a set of an MCP server's": {"tools": [{"type": "mcp_toolset", "mcp_server_name": "files"}]},
    "messages, a set that is added later": {
        "messages": [{"role": "system", "content": [added({"type": "mcp_toolset", "mcp_server_name": "files"})]}]
    },
    "in a namespace": {"tools": [{"type": "namespace", "name": "x", "tools": [{"type": "mcp", "server_url": "y"}]}]},
    "of a stored prompt": {"prompt": {"id": "pmpt_1"}},
    "of LiteLLM's stored prompt": {"prompt_id": "p"},
    "of cached content": {"cachedContent": "cachedContents/1"},
    "no list": {"tools": {"name": "Bash"}},
    "no objects": {"tools": ["Bash"]},
}
SHELL = When.model_validate({"tools": ["Ba*"]})


@pytest.mark.parametrize("name", NAMED)
def test_the_names_of_tools(name: str) -> None:
    body, names = NAMED[name]
    assert (Request(body).tool_names, Request(body).has_untold_tools) == (names, False)


@pytest.mark.parametrize("name", UNTOLD)
def test_a_policy_for_a_tool_governs_where_the_tools_cannot_be_told(name: str) -> None:
    assert SHELL.applies_to(Request(UNTOLD[name]), Identity())


@pytest.mark.parametrize("body", [{}, {"tools": []}, {"tools": None}, {"prompt": "text"}, {"mcp_servers": []}])
def test_a_policy_for_a_tool_does_not_govern_where_there_is_none(body: dict[str, Any]) -> None:
    assert not SHELL.applies_to(Request(body), Identity())
