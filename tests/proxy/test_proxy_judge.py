"""The judging policies in a real proxy: what is judged when, by how many calls, and by whom."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from luthien_litellm_hooks.testing.answers import Answer, Call, Gate, Say, Wait
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.clients import ROUTES, Said, apart
from tests.support.judge import JSON, JudgeModel, by_content, rating
from tests.support.proxy import START_SECONDS, Proxies, Proxy, proxy_config, starting_proxy
from tests.support.selected import selected

ANSWERS = {
    "judged": Answer([Say("Early."), Call("look", "{}", id="call_a"), Call("wipe", "{}", id="call_b")]),
    "judged-three": Answer([Say("Early."), *(Call("look", "{}", id=f"call_{n}") for n in range(3))], piece=6),
    "judged-text": Answer([Say("The code is 42.")]),
}
LOOK = ("look", {})
STREAM = pytest.mark.parametrize("stream", [False, True], ids=["full", "stream"])
EVERY_ROUTE = pytest.mark.parametrize("route", ROUTES)
ROUTE = pytest.mark.parametrize("route", [route for route in ROUTES if route != "completions"])

RULES: JSON = {
    "rules": [
        {"name": "no codes", "rule": "No codes are told.", "applies_to": ["text"], "action": "replace"},
        {"name": "no wiping", "rule": "Nothing is wiped.", "applies_to": ["tool_call"], "message": "Withheld."},
    ]
}


@pytest.fixture(scope="module", autouse=True)
def _answers(provider: ScriptedProvider) -> None:
    provider.answers.update(ANSWERS)


@pytest.fixture(scope="module")
def served_judge() -> Iterator[JudgeModel]:
    with JudgeModel().served() as judge:
        yield judge


@pytest.fixture
def judge(served_judge: JudgeModel) -> Iterator[JudgeModel]:
    """A judge that has not been asked anything, and finds harm in wiping alone."""
    served_judge.asked.clear()
    served_judge.opinion = by_content({'"wipe"': rating(0.9, "it deletes")}, rating(0.1))
    served_judge.gate = Gate()
    served_judge.gate.open()
    yield served_judge
    served_judge.gate.open()


def judging(proxies: Proxies, judge: JudgeModel) -> Proxy:
    """The proxy with `tool_call_judge`."""
    config = {**judge.config, "message": "Withheld."}
    return proxies.lab(selected({"class": "tool_call_judge", "config": config}))


# tool_call_judge


@ROUTE
@STREAM
def test_the_harmful_call_is_withheld_and_the_other_delivered(
    proxies: Proxies, judge: JudgeModel, route: str, stream: bool
) -> None:
    said = ROUTES[route](judging(proxies, judge), "judged", stream, {})
    assert said.anonymous == Said(f"Early.{apart(route)}[luthien] Withheld.", (LOOK,))
    assert sorted(shown["name"] for _, shown in judge.asked) == ["look", "wipe"]


@ROUTE
@STREAM
def test_three_calls_are_with_the_judge_at_once_and_each_just_once(
    proxies: Proxies, judge: JudgeModel, route: str, stream: bool
) -> None:
    judge.gate = Gate()
    with ThreadPoolExecutor() as threads:
        asking = threads.submit(ROUTES[route], judging(proxies, judge), "judged-three", stream, {})
        judge.asked.wait_for(3)  # none has its answer yet
        judge.gate.open()
        assert asking.result(timeout=30) == Said("Early.", (LOOK, LOOK, LOOK))
    assert len(judge.asked) == 3


PATHS: dict[str, tuple[str, JSON]] = {
    "chat": ("/v1/chat/completions", {"model": "openai/judged-three", "messages": [{"role": "user", "content": "x"}]}),
    "messages": (
        "/v1/messages",
        {"model": "anthropic/judged-three", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]},
    ),
    "responses": ("/v1/responses", {"model": "openai/judged-three", "input": "x"}),
    "gemini": (
        "/v1beta/models/gemini/judged-three:streamGenerateContent?alt=sse",
        {"contents": [{"role": "user", "parts": [{"text": "x"}]}]},
    ),
}


@ROUTE
def test_the_text_before_a_judged_call_arrives_while_the_judge_still_thinks(
    proxies: Proxies, judge: JudgeModel, route: str
) -> None:
    judge.gate = Gate()
    path, body = PATHS[route]
    with judging(proxies, judge).http.stream("POST", path, json={**body, "stream": True}) as response:
        lines = response.iter_lines()
        early = next(line for line in lines if "Early." in line)
        assert "look" not in early
        judge.asked.wait_for(3)
        judge.gate.open()
        assert any("look" in line for line in lines)


def test_a_client_that_leaves_takes_the_judges_call_along(
    proxies: Proxies, provider: ScriptedProvider, provider_url: str
) -> None:
    gate = Gate()
    provider.answers["judge-left"] = Answer([Wait(gate), Say("too late")])
    config = {"model": "openai/judge-left", "api_base": f"{provider_url}/v1", "api_key": "k"}
    proxy = proxies.lab(selected({"class": "tool_call_judge", "config": config}))
    path, body = PATHS["chat"]
    before, asked = len(provider.disconnects), len(provider.requests)
    with proxy.http.stream("POST", path, json={**body, "stream": True}) as response:
        lines = response.iter_lines()  # the client leaves when nothing holds it any more
        next(line for line in lines if "Early." in line)
        provider.requests.wait_for(asked + 4)  # the client's, and three of the judge
    provider.disconnects.wait_for(before + 3)
    gate.open()


# llm_rules and llm_rewrite


@EVERY_ROUTE
@STREAM
def test_rules_replace_text_and_withhold_calls(proxies: Proxies, judge: JudgeModel, route: str, stream: bool) -> None:
    judge.opinion = by_content({"42": rating(1, replacement="No."), '"wipe"': rating(1)}, rating(0))
    proxy = proxies.lab(selected({"class": "llm_rules", "config": {**judge.config, **RULES}}))
    assert ROUTES[route](proxy, "judged-text", stream, {}) == Said("No.")
    if route != "completions":
        said = ROUTES[route](proxy, "judged", stream, {})
        assert said.anonymous == Said(f"Early.{apart(route)}[luthien] Withheld.", (LOOK,))


@EVERY_ROUTE
@STREAM
def test_the_rewriter_replaces_text_and_calls(proxies: Proxies, judge: JudgeModel, route: str, stream: bool) -> None:
    code = {"type": "text", "text": "The code is secret."}
    moved = {"type": "tool_call", "name": "wipe", "arguments": {"to": "bin"}}
    judge.opinion = by_content(
        {
            "42": {"action": "replace", "blocks": [code]},
            '"wipe"': {"action": "replace", "blocks": [{"type": "text", "text": " Gently."}, moved, moved]},
        },
        {"action": "pass"},
    )
    config = {**judge.config, "instructions": "Be careful."}
    proxy = proxies.lab(selected({"class": "llm_rewrite", "config": config}))
    assert ROUTES[route](proxy, "judged-text", stream, {}) == Said("The code is secret.")
    if route != "completions":
        said = ROUTES[route](proxy, "judged", stream, {})
        assert said == Said("Early. Gently.", (LOOK, ("wipe", {"to": "bin"}), ("wipe", {"to": "bin"})))


# The judge is one of the proxy's own models


def judged_by(model: str) -> dict[str, Any]:
    """A policy that would judge the judge's text too, without end, if that were governed."""
    rule = {"name": "no harm", "rule": "Nothing harmful is said.", "applies_to": ["text"], "message": "Withheld."}
    return {"class": "llm_rules", "config": {"model": model, "model_group": True, "rules": [rule]}}


JUDGED_BY_ITS_OWN = {"policy": judged_by("openai/judge-group")}


@EVERY_ROUTE
@STREAM
@pytest.mark.parametrize(("probability", "told"), [(0.1, "The code is 42."), (0.9, "[luthien] Withheld.")])
def test_the_proxys_own_model_judges_and_is_not_judged(
    proxies: Proxies, provider: ScriptedProvider, route: str, stream: bool, probability: float, told: str
) -> None:
    opinion = f'{{"probability": {probability}, "explanation": "x"}}'
    provider.answers["judge-group"] = Answer([Say(opinion)])
    proxy = proxies.get(JUDGED_BY_ITS_OWN)
    before = len(provider.requests)
    assert ROUTES[route](proxy, "judged-text", stream, {}).anonymous == Said(told)
    seen = [request.body.get("model") for request in provider.requests[before:]]
    assert len(seen) == 2
    assert seen[1] == "judge-group"
    assert provider.requests[-1].headers["authorization"] == "Bearer k"


def test_a_model_that_the_proxy_does_not_have_stops_the_start(provider_url: str, tmp_path: Path) -> None:
    config = proxy_config(provider_url, {"policy": judged_by("nobody")})
    with starting_proxy(config, tmp_path / "proxy", {}) as (process, proxy):
        assert process.wait(START_SECONDS) != 0
        assert "config.model: no entry of model_list has the model_name 'nobody'" in proxy.output
