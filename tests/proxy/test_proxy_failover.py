"""LiteLLM's own answers to a provider that fails, with the plugin in the way: fallbacks and cooldowns, which need
the provider's very exception."""

from collections.abc import Iterator, Mapping
from itertools import product

import anthropic
import openai
import pytest
from google.genai import errors

from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.clients import ROUTES, Said
from tests.support.fault_matrix import MODELS
from tests.support.proxy import Proxy, proxy_config, running_proxy

WIRES: Mapping[str, str] = {"chat": "openai", "messages": "anthropic", "responses": "openai", "gemini": "gemini"}
SOUND: Mapping[str, str] = {
    "openai": "gpt-4.1-mini-2025-04-14",
    "anthropic": "failover-sound",
    "gemini": "gemini-sound",
}
FAULTS: Mapping[str, Answer] = {
    "limited": Answer([Say("busy")], status=429),
    "broken": Answer([Say("busy")], status=500),
}
FAILING: Mapping[tuple[str, str], str] = {
    ("openai", "limited"): "gpt-4.1-nano-2025-04-14",
    ("openai", "broken"): "gpt-4.1-2025-04-14",
    ("anthropic", "limited"): "failover-limited",
    ("anthropic", "broken"): "failover-broken",
    ("gemini", "limited"): "gemini-limited",
    ("gemini", "broken"): "gemini-broken",
}
NEVER_LEFT_ALONE = ("gemini",)
"""Routes of whose failures LiteLLM keeps no count, also by itself."""
EACH_ROUTE = pytest.mark.parametrize("route", MODELS)
STREAM = pytest.mark.parametrize("stream", [False, True], ids=["full", "stream"])
FAULT = pytest.mark.parametrize("fault", FAULTS)


@pytest.fixture(scope="module")
def proxy(provider: ScriptedProvider, provider_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Where each case has two models of its own: "fragile" fails, and falls back on "sound"; "team" has a deployment
    that fails, which is as good as always chosen while it is not left alone, and one that is sound."""
    provider.answers |= {name: FAULTS[fault] for (_, fault), name in FAILING.items()}
    provider.answers |= dict.fromkeys(SOUND.values(), Answer([Say("Sound."), Call("look", "{}")]))
    policy = {"class": "tests.support.faulty_policies:HoldsCalls"}
    config = proxy_config(provider_url, {"policy": policy})
    bases = {entry["model_name"][:-2]: entry["litellm_params"]["api_base"] for entry in config["model_list"]}
    config["model_list"] = []

    def deploy(wire: str, group: str, model: str, weight: int = 1) -> None:
        where = {"model": f"{wire}/{model}", "api_base": bases[wire], "api_key": "k", "weight": weight}
        config["model_list"].append({"model_name": f"{wire}/{group}", "litellm_params": where})

    for wire, sound in SOUND.items():
        deploy(wire, "sound", sound)
    fallbacks: list[dict[str, list[str]]] = []
    for route, stream, fault in product(MODELS, (False, True), FAULTS):
        wire, case = WIRES[route], f"{route}-{stream}-{fault}"
        deploy(wire, f"fragile-{case}", FAILING[wire, fault])
        fallbacks.append({f"{wire}/fragile-{case}": [f"{wire}/sound"]})
        deploy(wire, f"team-{case}", FAILING[wire, fault], 1_000_000)
        deploy(wire, f"team-{case}", SOUND[wire])
    config["router_settings"] = {"num_retries": 0, "allowed_fails": 0, "cooldown_time": 600, "fallbacks": fallbacks}
    with running_proxy(config, tmp_path_factory.mktemp("failover") / "proxy", {}) as running:
        yield running


def asked_since(provider: ScriptedProvider, before: int) -> list[str]:
    """The models, of which Gemini's wire tells in the path."""
    seen = provider.requests[before:]
    return [request.body.get("model") or request.path.rpartition("/")[2].partition(":")[0] for request in seen]


@EACH_ROUTE
@STREAM
@FAULT
def test_a_request_whose_provider_fails_is_asked_of_the_fallback(
    proxy: Proxy, provider: ScriptedProvider, route: str, stream: bool, fault: str
) -> None:
    before = len(provider.requests)
    assert ROUTES[route](proxy, f"fragile-{route}-{stream}-{fault}", stream, {}) == Said("Sound.", (("look", {}),))
    assert asked_since(provider, before) == [FAILING[WIRES[route], fault], SOUND[WIRES[route]]]


@EACH_ROUTE
@STREAM
@FAULT
def test_a_deployment_that_failed_is_left_alone_where_litellm_counts_failures(
    proxy: Proxy, provider: ScriptedProvider, route: str, stream: bool, fault: str
) -> None:
    before, group = len(provider.requests), f"team-{route}-{stream}-{fault}"
    for _ in range(2 if route in NEVER_LEFT_ALONE else 1):
        with pytest.raises((openai.APIStatusError, anthropic.APIStatusError, errors.APIError)):
            ROUTES[route](proxy, group, stream, {})
    if route in NEVER_LEFT_ALONE:
        assert asked_since(provider, before) == [FAILING[WIRES[route], fault]] * 2
        return
    assert ROUTES[route](proxy, group, stream, {}) == Said("Sound.", (("look", {}),))
    assert asked_since(provider, before) == [FAILING[WIRES[route], fault], SOUND[WIRES[route]]]
