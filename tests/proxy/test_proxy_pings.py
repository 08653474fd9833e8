"""A client that is kept waiting by a policy, at a real proxy: pings come, and the answer is the one without them."""

from collections.abc import Generator, Mapping
from typing import Any

import pytest

from luthien_litellm_hooks.testing.answers import Answer, Call, Gate, Say, Wait
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from luthien_litellm_hooks.testing.routes import ROUTES as WIRES
from luthien_litellm_hooks.testing.routes import RouteName
from tests.support.clients import ROUTES, Said
from tests.support.held import GATE, THEN
from tests.support.leaving import asking
from tests.support.proxy import KEY, Proxies, Proxy
from tests.support.tapped import counted

SETTINGS: Mapping[str, Any] = {"policy": {"class": "tests.support.held:Held"}, "ping_s": 0.1}
TEXT, CALL = "I look it up.", Call("read", '{"path": "a"}', "call_first")
MODELS: Mapping[RouteName, str] = {  # LiteLLM streams Responses only of models whose price it knows
    "chat": "gpt-4o",
    "messages": "claude-sonnet-4-5",
    "responses": "gpt-4o",
    "completions": "gpt-4o",
    "gemini": "gemini-2.5-flash",
}
PINGS: Mapping[RouteName, bytes] = {
    "chat": b'"delta":{}}],"provider_specific_fields":{}}',
    "completions": b'"text":""}]}',
    "messages": b'event: ping\ndata: {"type": "ping"}',
    "responses": b'{"type":"keepalive","sequence_number":',
    "gemini": b'"parts": [{"text": ""}]',
}


@pytest.fixture
def proxy(proxies: Proxies) -> Proxy:
    return proxies.get(SETTINGS)


@pytest.fixture
def gate(provider: ScriptedProvider) -> Generator[Gate]:
    gate = Gate()
    provider.answers[GATE] = Answer([Wait(gate), Say("open")])
    yield gate
    gate.open()


def answer_with(provider: ScriptedProvider, route: RouteName) -> Said:
    """Scripts the answer of a route, and returns what a client makes of it."""
    has_calls = route != "completions"
    provider.answers[MODELS[route]] = Answer([Say(TEXT), *([CALL] if has_calls else [])])
    return Said(TEXT, (("read", {"path": "a"}),) if has_calls else ())


@pytest.mark.parametrize("route", ROUTES)
def test_an_official_client_reads_a_held_answer_as_if_it_had_come_at_once(
    proxy: Proxy, provider: ScriptedProvider, gate: Gate, route: RouteName
) -> None:
    expected = answer_with(provider, route)
    with counted(proxy, PINGS[route], 4, gate.open) as own:
        assert ROUTES[route](own, MODELS[route], True, {}) == expected


@pytest.mark.parametrize("route", ROUTES)
def test_a_notice_after_pings_is_all_that_a_client_gets(
    proxy: Proxy, provider: ScriptedProvider, gate: Gate, route: RouteName
) -> None:
    answer_with(provider, route)
    with counted(proxy, PINGS[route], 4, gate.open) as own:
        said = ROUTES[route](own, MODELS[route], True, {THEN: "block"})
    assert said.anonymous == Said("Held, and refused.")


@pytest.mark.parametrize("route", ROUTES)
def test_a_client_that_leaves_after_a_ping_ends_the_hook(
    proxy: Proxy, provider: ScriptedProvider, gate: Gate, route: RouteName
) -> None:
    answer_with(provider, route)
    wire = {"messages": "anthropic", "gemini": "gemini"}.get(route, "openai")
    model = f"{wire}/{MODELS[route]}"
    body: dict[str, Any] = {**WIRES[route].body, "model": model, "stream": True}
    path = f"/v1beta/models/{model}:streamGenerateContent?alt=sse" if route == "gemini" else WIRES[route].path
    gone = len(provider.disconnects)
    with asking(proxy, KEY, path, body) as client:
        gate.wait_reached()
        client.read_until(PINGS[route])
        client.leave()
    provider.disconnects.wait_for(gone + 1)  # the hook waited there


@pytest.mark.parametrize("route", ["chat", "messages"])
def test_where_pings_are_off_none_comes(
    proxies: Proxies, provider: ScriptedProvider, gate: Gate, route: RouteName
) -> None:
    proxy = proxies.get({**SETTINGS, "ping_s": 0})
    expected, pings = answer_with(provider, route), []
    gate.open()
    with counted(proxy, PINGS[route], 2 if route == "messages" else 1, lambda: pings.append(route)) as own:
        assert ROUTES[route](own, MODELS[route], True, {}) == expected
    assert not pings
