"""The names of the models that may answer, as LiteLLM's own router takes one for the other."""

from collections.abc import Mapping
from typing import Any

import pytest
from litellm.proxy import proxy_server
from litellm.router import Router

from luthien_litellm_hooks.hooks.active_policy import models_of


def deployment(name: str, model: str, **info: Any) -> dict[str, Any]:
    params = {"model": model, "api_key": "k", **({"prompt_id": "p"} if name == "prompted" else {})}
    return {"model_name": name, "litellm_params": params, "model_info": info}


@pytest.fixture(autouse=True)
def _router(monkeypatch: pytest.MonkeyPatch) -> None:
    models = [
        deployment("openai/*", "openai/*"),
        deployment("house/*", "anthropic/*"),
        deployment("smart", "azure/gpt-5", id="its-id"),
        deployment("cheap", "azure/gpt-5"),
        deployment("prompted", "openai/gpt-4o"),
        deployment("model_of_red", "gemini/flash", team_id="red", team_public_model_name="fast"),
    ]
    router = Router(
        models,
        model_group_alias={"nick": "smart"},
        fallbacks=[{"smart": ["cheap"]}, {"one": ["two"]}, {"two": ["one", {"model": "three"}]}],
        context_window_fallbacks=[{"cheap": ["long"]}],
    )
    monkeypatch.setattr(proxy_server, "llm_router", router)


def named(model: str, team_id: str | None = None, **data: Any) -> set[str] | None:
    names = models_of({"model": model, **data}, None, team_id)
    return None if names is None else set(names)


KNOWN: Mapping[str, tuple[str, set[str]]] = {
    "a group": ("cheap", {"cheap", "azure/gpt-5", "gpt-5", "long"}),
    "an alias": ("nick", {"nick", "smart", "azure/gpt-5", "gpt-5", "cheap", "long"}),
    "a deployment": ("its-id", {"its-id", "smart", "azure/gpt-5", "gpt-5"}),
    "the provider's name": ("gemini/flash", {"gemini/flash", "flash", "model_of_red", "fast"}),
    "a wildcard": ("openai/gpt-4o", {"openai/gpt-4o", "gpt-4o", "openai/*", "*"}),
    "a wildcard for another": (
        "house/claude-sonnet-4-5",
        {"house/claude-sonnet-4-5", "house/*", "anthropic/claude-sonnet-4-5", "claude-sonnet-4-5"},
    ),
    "a name without its provider": ("gpt-4o", {"gpt-4o", "openai/gpt-4o", "openai/*", "*"}),
    "several": ("a, b", {"a, b", "a", "b"}),
    "fallbacks in a circle": ("one", {"one", "two", "three"}),
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_names_of(name: str) -> None:
    model, names = KNOWN[name]
    assert named(model) == names


def test_a_model_of_a_team_has_its_name_there() -> None:
    found = named("fast", team_id="red")
    assert found is not None
    assert found >= {"fast", "model_of_red", "gemini/flash"}


def test_the_settings_of_a_key_count() -> None:
    override = {"model_group_alias": {"mine": "cheap"}, "fallbacks": [{"*": ["other"]}]}
    assert named("mine", router_settings_override=override) == {
        "mine",
        "cheap",
        "azure/gpt-5",
        "gpt-5",
        "long",
        "other",
    }


@pytest.mark.parametrize("data", [{"prompt_id": "p"}, {"user_config": {"model_list": []}}])
def test_a_request_whose_model_is_set_later_has_no_names(data: dict[str, Any]) -> None:
    assert named("smart", **data) is None


def test_a_model_that_a_prompt_sets_has_no_names() -> None:
    assert named("prompted") is None


def test_an_agent_whose_session_a_router_may_have_bound_has_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """LiteLLM may take the session's choice for whatever model such an agent asks for."""
    agent = {"proxy_server_request": {"headers": {"x-claude-code-agent-id": "a"}}}
    assert named("cheap", **agent) == KNOWN["a group"][1]
    strategy = deployment("chooses", "auto_router/complexity_router")
    strategy["litellm_params"] |= {"complexity_router_default_model": "cheap"}
    router = Router([deployment("cheap", "azure/gpt-5"), strategy])
    monkeypatch.setattr(proxy_server, "llm_router", router)
    assert named("cheap", **agent) is None
    assert named("cheap") == {"cheap", "azure/gpt-5", "gpt-5"}


def test_without_a_router_a_model_has_the_clients_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_server, "llm_router", None)
    assert named("openai/gpt-4o") == {"openai/gpt-4o", "gpt-4o"}
