"""`when` at a real proxy: whatever way a request says what it wants, the policies that are for it judge it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import httpx
import pytest
from packaging.version import Version

from luthien_litellm_hooks.testing.answers import Answer, Say
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from luthien_litellm_hooks.testing.routes import RouteName
from tests.support import selected
from tests.support.proxy import Proxies, Proxy
from tests.support.selected import selected_in_a_row

SAID = "orchid tulip lily"
UNTOUCHED, WATCHED, ARMED, CHATTING = SAID, "ROSE tulip lily", "orchid DAISY lily", "orchid tulip PEONY"
MODELS: Mapping[str, str] = {"openai": "gpt-4o", "anthropic": "claude-sonnet-4-5", "gemini": "gemini-2.5-flash"}
WIRES: Mapping[RouteName, str] = {
    "chat": "openai",
    "messages": "anthropic",
    "responses": "openai",
    "completions": "openai",
    "gemini": "gemini",
}
PATHS: Mapping[RouteName, str] = {
    "chat": "/v1/chat/completions",
    "messages": "/v1/messages",
    "responses": "/v1/responses",
    "completions": "/v1/completions",
}
FAILS = "selection-fails"


def replacing(old: str, new: str, **when: Any) -> dict[str, Any]:
    return {"class": "string_replacement", "config": {"replacements": [[old, new]]}, "when": when}


POLICIES = selected_in_a_row(
    [
        replacing("orchid", "ROSE", models=["*-watched"]),
        replacing("tulip", "DAISY", tools=["Bash"]),
        replacing("lily", "PEONY", routes=["/v1/chat/completions"]),
    ]
)
for wire, model in MODELS.items():
    kinds = {"watched": model, "other": model, "failing": FAILS, "unsure": FAILS}
    selected.MODELS.update({f"{wire}-{kind}": f"{wire}/{its_model}" for kind, its_model in kinds.items()})
    selected.ALIASES[f"{wire}-nick"] = f"{wire}-watched"
    selected.FALLBACKS[f"{wire}-unsure"] = [f"{wire}-watched"]


@pytest.fixture(scope="module")
def proxy(proxies: Proxies, provider: ScriptedProvider) -> Proxy:
    """Of each wire a model that is watched, one that is not, and one that fails; "WIRE-unsure" falls back on the
    one that is watched."""
    provider.answers[FAILS] = Answer([Say("busy")], status=500)
    return proxies.lab(POLICIES)


@dataclass(frozen=True)
class Asking:
    """How a request says what it wants; "WIRE" stands for the route's."""

    model: str | None = "WIRE-other"
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])
    path: str | None = None


def ask(proxy: Proxy, route: RouteName, asking: Asking) -> str:
    wire = WIRES[route]
    model, fields = json.loads(json.dumps([asking.model, asking.fields]).replace("WIRE", wire))
    message = {"role": "user", "content": f"say: {SAID}"}
    bodies: Mapping[RouteName, dict[str, Any]] = {
        "chat": {"messages": [message]},
        "messages": {"messages": [message], "max_tokens": 99},
        "responses": {"input": message["content"]},
        "completions": {"prompt": message["content"]},
        "gemini": {"contents": [{"role": "user", "parts": [{"text": message["content"]}]}]},
    }
    path = (asking.path or PATHS.get(route, "/v1beta/models/{model}:generateContent")).replace("WIRE", wire)
    named = {} if model is None or "{model}" in path else {"model": model}
    response = proxy.http.post(path.replace("{model}", str(model)), json={**bodies[route], **named, **fields})
    return said(response)


def said(response: httpx.Response) -> str:
    assert response.is_success, response.text
    answer = response.json()
    if "choices" in answer:
        choice = answer["choices"][0]
        return choice["text"] if "text" in choice else choice["message"]["content"]
    if "output" in answer:
        return answer["output"][0]["content"][0]["text"]
    if "candidates" in answer:
        return answer["candidates"][0]["content"]["parts"][0]["text"]
    return answer["content"][0]["text"]


def with_routes(asked: Mapping[str, Asking], routes: Mapping[str, tuple[RouteName, ...]]) -> list[Any]:
    """Each way on the routes that know it."""
    return [
        pytest.param(route, asking, id=f"{name}, {route}".replace(" ", "_"))
        for name, asking in asked.items()
        for route in routes.get(name, ("chat", "messages", "responses", "completions", "gemini"))
    ]


NESTED = Asking("WIRE-failing", {"fallbacks": [{"model": "WIRE-failing", "n": 1, "fallbacks": ["WIRE-watched"]}]})
NAMING_A_WATCHED_MODEL = {
    "by its name": Asking("WIRE-watched"),
    "by an alias": Asking("WIRE-nick"),
    "by its deployment": Asking("WIRE-watched-by-id"),
    "as a fallback": Asking("WIRE-failing", {"fallbacks": ["WIRE-watched"]}),
    "as a fallback with fields": Asking("WIRE-failing", {"fallbacks": [{"model": "WIRE-watched", "temperature": 0.1}]}),
    "as a fallback of a fallback": NESTED,
    "as a fallback of a name": Asking("WIRE-failing", {"fallbacks": [{"WIRE-failing": ["WIRE-watched"]}]}),
    "as the operator's fallback": Asking("WIRE-unsure"),
    "as one for long requests": Asking(fields={"context_window_fallback_dict": {"gpt-4o": "WIRE-watched"}}),
    "in the path of an engine": Asking("WIRE-other", path="/engines/WIRE-watched/chat/completions"),
    "in the path of a deployment": Asking(None, path="/openai/deployments/WIRE-watched/chat/completions"),
    "in the query": Asking(None, path="/v1/chat/completions?model=WIRE-watched"),
    "in a list": Asking("WIRE-watched, WIRE-failing", {"fastest_response": True}),
}
ON: Mapping[str, tuple[RouteName, ...]] = {
    **dict.fromkeys(
        (
            "in the path of an engine",
            "in the path of a deployment",
            "in the query",
            "in a list",
            "as one for long requests",
        ),
        ("chat",),
    ),
}


def expected(route: RouteName, words: str) -> str:
    """With what the policy for chat does there."""
    return words.replace("lily", "PEONY") if route == "chat" else words


@pytest.fixture
def _followed(asking: Asking) -> None:
    """Skips a request whose second fallback the router does not ask: the one of LiteLLM 1.110 follows none of
    a fallback's own."""
    if asking is NESTED and Version(version("litellm")) >= Version("1.110"):
        pytest.skip("LiteLLM follows no fallbacks of a fallback from 1.110 on")


@pytest.mark.usefixtures("_followed")
@pytest.mark.parametrize(("route", "asking"), with_routes(NAMING_A_WATCHED_MODEL, ON))
def test_a_policy_for_a_model_governs_whatever_names_it(proxy: Proxy, route: RouteName, asking: Asking) -> None:
    assert ask(proxy, route, asking) == expected(route, WATCHED)


NAMING_ANOTHER_MODEL = {
    "by its name": Asking("WIRE-other"),
    "as a fallback": Asking("WIRE-failing", {"fallbacks": ["WIRE-other"]}),
    "as a fallback with fields": Asking("WIRE-failing", {"fallbacks": [{"model": "WIRE-other", "temperature": 0.1}]}),
    "in the path of an engine": Asking("WIRE-failing", path="/engines/WIRE-other/chat/completions"),
    "in a list": Asking("WIRE-other, WIRE-failing", {"fastest_response": True}),
}


@pytest.mark.parametrize(("route", "asking"), with_routes(NAMING_ANOTHER_MODEL, ON))
def test_a_policy_for_a_model_leaves_the_others_alone(proxy: Proxy, route: RouteName, asking: Asking) -> None:
    assert ask(proxy, route, asking) == expected(route, UNTOUCHED)


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}


BASH, READ = tool("Bash"), tool("Read")
OFFERING_A_SHELL = {
    "among the tools": Asking(fields={"tools": [READ, BASH]}),
    "in extra_body": Asking(fields={"extra_body": {"tools": [BASH]}}),
    "in extra_body, beside others": Asking(fields={"tools": [READ], "extra_body": {"tools": [BASH]}}),
    "in extra_body's own": Asking(fields={"extra_body": {"extra_body": {"tools": [BASH]}}}),
    "in a fallback": Asking("WIRE-failing", {"fallbacks": [{"model": "WIRE-other", "tools": [BASH]}]}),
    "in a fallback's extra_body": Asking(
        "WIRE-failing", {"fallbacks": [{"model": "WIRE-other", "extra_body": {"tools": [BASH]}}]}
    ),
}


@pytest.mark.parametrize("asking", OFFERING_A_SHELL.values(), ids=[name.replace(" ", "_") for name in OFFERING_A_SHELL])
def test_a_policy_for_a_tool_governs_wherever_it_is_offered(proxy: Proxy, asking: Asking) -> None:
    assert ask(proxy, "chat", asking) == expected("chat", ARMED)


OFFERING_NO_SHELL = {
    "nothing": Asking(),
    "another": Asking(fields={"tools": [READ]}),
    "another in extra_body": Asking(fields={"extra_body": {"tools": [READ], "top_k": 3}}),
    "another in a fallback": Asking("WIRE-failing", {"fallbacks": [{"model": "WIRE-other", "tools": [READ]}]}),
}


@pytest.mark.parametrize(
    "asking", OFFERING_NO_SHELL.values(), ids=[name.replace(" ", "_") for name in OFFERING_NO_SHELL]
)
def test_a_policy_for_a_tool_leaves_the_others_alone(proxy: Proxy, asking: Asking) -> None:
    assert ask(proxy, "chat", asking) == expected("chat", UNTOUCHED)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/chat/completions",
        "/engines/{model}/chat/completions",
        "/openai/deployments/{model}/chat/completions",
    ],
)
def test_a_policy_for_a_route_governs_each_of_its_paths(proxy: Proxy, path: str) -> None:
    response = proxy.http.post(path.replace("{model}", "openai-other"), json=chat())
    assert said(response) == CHATTING


def chat() -> dict[str, Any]:
    return {"model": "openai-other", "messages": [{"role": "user", "content": f"say: {SAID}"}]}


@pytest.mark.parametrize("route", ["messages", "responses", "completions", "gemini"])
def test_a_policy_for_a_route_leaves_the_others_alone(proxy: Proxy, route: RouteName) -> None:
    assert ask(proxy, route, Asking()) == UNTOUCHED


def test_a_request_with_too_many_fallbacks_is_refused(proxy: Proxy, provider: ScriptedProvider) -> None:
    before = len(provider.requests)
    response = proxy.http.post("/v1/chat/completions", json={**chat(), "fallbacks": ["openai-other"] * 11})
    assert (response.status_code, len(provider.requests)) == (400, before), response.text
    assert "fallbacks" in response.json()["error"]["message"]
