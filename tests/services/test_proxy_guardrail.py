"""The guardrail form on a real proxy with real keys: what LiteLLM selects is governed as by the callback."""

import json
import re
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from luthien_litellm_hooks.testing.routes import RouteName
from tests.support.postgres import spend_logs
from tests.support.prisma_client import prisma_environment
from tests.support.proxy import START_SECONDS, Proxy, proxy_config, running_proxy, starting_proxy

FULL_NAME, SHORT_NAME = "luthien_litellm_hooks.LuthienGuardrail", "luthien"
MODES = ["pre_call", "post_call"]
PATHS: Mapping[RouteName, str] = {
    "chat": "/v1/chat/completions",
    "messages": "/v1/messages",
    "responses": "/v1/responses",
}
GOVERNED: list[RouteName] = list(PATHS)
WORDS = ("one", "two", "TWO", "orchid", "rose", "ROSE", "violet", "daisy")
SAID, ASKED = "one orchid", "say: one orchid"


def replacing(word: str) -> dict[str, Any]:
    """A policy that puts `word` for "orchid"."""
    return {"class": "string_replacement", "config": {"replacements": [["orchid", word]]}}


def entry(name: str, policy: dict[str, Any], guardrail: str = FULL_NAME, **params: Any) -> dict[str, Any]:
    return {
        "guardrail_name": name,
        "litellm_params": {"guardrail": guardrail, "mode": MODES, "policy": policy, **params},
    }


def started(
    provider_url: str, folder: Path, database_url: str, guardrails: list[dict[str, Any]], luthien: dict[str, Any] | None
) -> Any:
    config = proxy_config(provider_url, luthien)
    guarded = {"model": "openai/scripted", "api_base": f"{provider_url}/v1", "api_key": "k", "guardrails": ["by-model"]}
    config["model_list"].insert(0, {"model_name": "guarded", "litellm_params": guarded})
    broken = {"model": "openai/scripted", "api_base": "http://127.0.0.1:9/v1", "api_key": "k"}
    config["model_list"].insert(0, {"model_name": "broken", "litellm_params": broken})
    config["router_settings"]["fallbacks"] = [{"broken": ["guarded"]}]
    config["guardrails"] = guardrails
    names = [one["guardrail_name"] for one in guardrails]
    config["policies"] = {name: {"guardrails": {"add": name.split("+")}} for name in [*names, "+".join(names[:2])]}
    config["policy_attachments"] = [
        {"policy": name, scope: [f"{name}-*"]} for name in config["policies"] for scope in ("keys", "teams")
    ]
    return running_proxy(config, folder, prisma_environment(database_url))


@pytest.fixture(scope="module")
def proxy(provider_url: str, postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Proxy]:
    """With guardrails alone."""
    guardrails = [
        entry("blue", replacing("violet")),
        entry("red", replacing("rose")),
        entry("by-model", replacing("daisy")),
        entry("lab", {"class": "tests.support.lab:Lab"}),
        entry("strict", {"class": "tests.support.lab:Lab"}, on_block="error", block_status=451),
    ]
    with started(
        provider_url, tmp_path_factory.mktemp("guardrails") / "proxy", postgres_url, guardrails, None
    ) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def both(provider_url: str, postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Proxy]:
    """With the callback, and guardrails beside it."""
    guardrails = [
        entry("always", {"class": "string_replacement", "config": {"replacements": [["one", "two"]]}}, default_on=True),
        entry("loud", {"class": "all_caps"}, SHORT_NAME),
        entry("again", replacing("rose"), SHORT_NAME),
        entry("lab", {"class": "tests.support.lab:Lab"}),
    ]
    settings = {"policy": replacing("rose")}
    folder = tmp_path_factory.mktemp("both") / "proxy"
    with started(provider_url, folder, postgres_url, guardrails, settings) as proxy:
        yield proxy


def body(route: RouteName, *, is_streamed: bool, **settings: Any) -> dict[str, Any]:
    model = "anthropic/scripted" if route == "messages" else "openai/gpt-4o"
    turn = {"input": ASKED} if route == "responses" else {"messages": [{"role": "user", "content": ASKED}]}
    limit = {"max_tokens": 50} if route == "messages" else {}
    return {"model": model, "stream": is_streamed, **turn, **limit, **settings}


def ask(
    proxy: Proxy, key: str, route: RouteName = "chat", *, is_streamed: bool = False, **settings: Any
) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"}
    return proxy.http.post(PATHS[route], json=body(route, is_streamed=is_streamed, **settings), headers=headers)


def said(response: httpx.Response) -> str:
    """Which of the words the client got to read, in whatever frames."""
    assert response.is_success, response.text
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: {")]
    text = "".join(word for line in lines or [response.text] for word in _texts(json.loads(line)))
    return "+".join(word for word in WORDS if word in text)


def _texts(payload: object) -> Iterator[str]:
    if isinstance(payload, Mapping):
        for key, value in payload.items():
            if isinstance(value, str) and key in ("content", "text", "delta"):
                yield value
            else:
                yield from _texts(value)
    elif isinstance(payload, list):
        for item in payload:
            yield from _texts(item)


def key_of(proxy: Proxy, *guardrails: str) -> str:
    """A key that LiteLLM selects these guardrails for: by its alias, as it has no license for another way."""
    return proxy.virtual_key(key_alias=alias(guardrails))


def team_key(proxy: Proxy, *guardrails: str) -> str:
    """A key of a team that LiteLLM selects these guardrails for."""
    created = proxy.http.post("/team/new", json={"team_alias": alias(guardrails)})
    assert created.is_success, created.text
    return proxy.virtual_key(team_id=created.json()["team_id"])


def alias(guardrails: Sequence[str]) -> str:
    return f"{'+'.join(guardrails)}-{uuid.uuid4().hex}"


forms = pytest.mark.parametrize("is_streamed", [True, False], ids=["stream", "full"])


@forms
@pytest.mark.parametrize("route", GOVERNED)
def test_a_guardrail_of_one_key_governs_that_key_alone(proxy: Proxy, route: RouteName, is_streamed: bool) -> None:
    assert said(ask(proxy, key_of(proxy, "red"), route, is_streamed=is_streamed)) == "one+rose"
    assert said(ask(proxy, key_of(proxy), route, is_streamed=is_streamed)) == "one+orchid"


@forms
@pytest.mark.parametrize("route", GOVERNED)
def test_two_teams_have_two_policies(proxy: Proxy, route: RouteName, is_streamed: bool) -> None:
    assert said(ask(proxy, team_key(proxy, "red"), route, is_streamed=is_streamed)) == "one+rose"
    assert said(ask(proxy, team_key(proxy, "blue"), route, is_streamed=is_streamed)) == "one+violet"


@forms
def test_a_request_can_ask_for_a_guardrail(proxy: Proxy, is_streamed: bool) -> None:
    assert said(ask(proxy, key_of(proxy), is_streamed=is_streamed, guardrails=["blue"])) == "one+violet"


@forms
def test_a_model_can_have_a_guardrail(proxy: Proxy, is_streamed: bool) -> None:
    assert said(ask(proxy, key_of(proxy), is_streamed=is_streamed, model="guarded")) == "one+daisy"


@forms
@pytest.mark.parametrize("route", GOVERNED)
def test_a_request_that_falls_back_to_a_model_with_a_guardrail_is_not_answered_past_it(
    proxy: Proxy, route: RouteName, is_streamed: bool
) -> None:
    response = ask(proxy, key_of(proxy), route, is_streamed=is_streamed, model="broken")
    assert (response.is_success, "its policy could not check it" in response.text) == (False, True), response.text
    assert "orchid" not in response.text


OPTING_OUT: Mapping[str, dict[str, Any]] = {
    "no guardrails": {"guardrails": []},
    "no guardrails in the metadata": {"metadata": {"guardrails": []}},
    "no guardrails in litellm_metadata": {"litellm_metadata": {"guardrails": []}},
    "another one": {"guardrails": ["none of that name"]},
    "another one in the metadata": {"metadata": {"guardrails": ["none of that name"]}},
    "switched off": {"guardrails": {"red": False}},
    "off for all": {"disable_global_guardrails": True, "metadata": {"disable_global_guardrails": True}},
    "as if the key had said so": {
        "metadata": {"user_api_key_metadata": {"disable_global_guardrails": True, "guardrails": []}},
        "litellm_metadata": {"user_api_key_metadata": {"disable_global_guardrails": True, "guardrails": []}},
    },
    "as if it had been asked": {"metadata": {"pre_call_executed_guardrails": ["red"]}},
}


@pytest.mark.parametrize("route", GOVERNED)
@pytest.mark.parametrize("how", OPTING_OUT)
def test_a_request_cannot_opt_out_of_its_keys_guardrail(proxy: Proxy, red_key: str, route: RouteName, how: str) -> None:
    response = ask(proxy, red_key, route, is_streamed=True, **OPTING_OUT[how])
    assert said(response) == "one+rose" if response.is_success else "orchid" not in response.text


@pytest.mark.parametrize("route", GOVERNED)
@pytest.mark.parametrize("how", OPTING_OUT)
def test_a_request_cannot_opt_out_of_a_guardrail_that_is_always_on(
    both: Proxy, plain_key: str, route: RouteName, how: str
) -> None:
    response = ask(both, plain_key, route, is_streamed=True, **OPTING_OUT[how])
    assert said(response) == "two+rose" if response.is_success else "orchid" not in response.text


@pytest.fixture(scope="module")
def plain_key(both: Proxy) -> str:
    return key_of(both)


@pytest.fixture(scope="module")
def red_key(proxy: Proxy) -> str:
    return key_of(proxy, "red")


@forms
@pytest.mark.parametrize("route", GOVERNED)
def test_a_refused_request_gets_the_notice_in_a_well_formed_answer(
    proxy: Proxy, route: RouteName, is_streamed: bool
) -> None:
    response = ask(proxy, key_of(proxy, "lab"), route, is_streamed=is_streamed, user="refuse request")
    assert (response.status_code, "This request is refused." in response.text) == (200, True), response.text


@pytest.mark.parametrize("route", GOVERNED)
def test_a_refused_request_gets_the_status_of_its_guardrail(proxy: Proxy, route: RouteName) -> None:
    response = ask(proxy, key_of(proxy, "strict"), route, user="refuse request")
    assert (response.status_code, "This request is refused." in response.text) == (451, True), response.text


@forms
def test_the_record_names_the_guardrails_policy(proxy: Proxy, postgres_url: str, is_streamed: bool) -> None:
    key = key_of(proxy, "red")
    ask(proxy, key, is_streamed=is_streamed)
    [row] = spend_logs(postgres_url, key)
    record = row["metadata"]["spend_logs_metadata"]["luthien"]
    assert [policy["name"] for policy in record["policies"]] == ["string_replacement"]
    assert (record["outcome"], record["changed"]["answer"]) == ("complete", True)


def test_several_guardrails_of_a_key_are_asked_in_the_order_of_the_config(proxy: Proxy, postgres_url: str) -> None:
    key = key_of(proxy, "blue", "red")
    assert said(ask(proxy, key, is_streamed=True)) == "one+violet", "the first leaves the second nothing to replace"
    [row] = spend_logs(postgres_url, key)
    assert len(row["metadata"]["spend_logs_metadata"]["luthien"]["policies"]) == 2


def test_the_guardrails_are_listed_with_their_settings(proxy: Proxy) -> None:
    listed = {one["guardrail_name"]: one for one in proxy.http.get("/v2/guardrails/list").json()["guardrails"]}
    assert listed["red"]["litellm_params"]["policy"] == replacing("rose")
    info = proxy.http.get(f"/guardrails/{listed['red']['guardrail_id']}/info")
    assert (info.status_code, info.json().get("guardrail_name")) == (200, "red"), info.text


@pytest.mark.parametrize("path", ["/guardrails/apply_guardrail", "/apply_guardrail"])
def test_the_playground_shows_what_the_policy_makes_of_an_answer(proxy: Proxy, path: str) -> None:
    given = {"guardrail_name": "red", "text": SAID, "input_type": "response"}
    response = proxy.http.post(path, json=given)
    assert (response.status_code, response.json()["response_text"]) == (200, "one rose"), response.text


def test_the_playground_shows_what_the_policy_makes_of_a_request(proxy: Proxy) -> None:
    response = proxy.http.post("/guardrails/apply_guardrail", json={"guardrail_name": "red", "text": SAID})
    assert (response.status_code, response.json()["response_text"]) == (200, SAID), response.text


@forms
@pytest.mark.parametrize("route", GOVERNED)
def test_a_guardrail_comes_behind_the_callback_and_both_are_in_one_record(
    both: Proxy, postgres_url: str, route: RouteName, is_streamed: bool
) -> None:
    key = key_of(both, "loud")
    assert said(ask(both, key, route, is_streamed=is_streamed)) == "TWO+ROSE"
    [row] = spend_logs(postgres_url, key)
    record = row["metadata"]["spend_logs_metadata"]["luthien"]
    assert [policy["name"] for policy in record["policies"]] == ["string_replacement", "string_replacement", "all_caps"]


@forms
@pytest.mark.parametrize("route", GOVERNED)
def test_what_no_guardrail_is_for_is_governed_by_the_callback(both: Proxy, route: RouteName, is_streamed: bool) -> None:
    assert said(ask(both, key_of(both), route, is_streamed=is_streamed)) == "two+rose"


@forms
def test_a_policy_that_is_in_both_forms_governs_once(both: Proxy, postgres_url: str, is_streamed: bool) -> None:
    key = key_of(both, "again")
    assert said(ask(both, key, is_streamed=is_streamed)) == "two+rose"
    [row] = spend_logs(postgres_url, key)
    record = row["metadata"]["spend_logs_metadata"]["luthien"]
    assert len(record["policies"]) == 2, "the callback's, and that which is always on"


@forms
@pytest.mark.parametrize("route", GOVERNED)
def test_a_guardrail_beside_the_callback_can_refuse(both: Proxy, route: RouteName, is_streamed: bool) -> None:
    response = ask(both, key_of(both, "lab"), route, is_streamed=is_streamed, user="refuse request")
    assert (response.status_code, "This request is refused." in response.text) == (200, True), response.text


def test_a_proxy_with_a_wrong_guardrail_does_not_start_and_says_why(provider_url: str, tmp_path: Path) -> None:
    """LiteLLM goes on without a guardrail that fails in most other ways."""
    config = proxy_config(provider_url, None)
    config["guardrails"] = [entry("red", {"class": "string_replacment"})]
    with starting_proxy(config, tmp_path / "proxy", {}) as (process, proxy):
        assert process.wait(START_SECONDS) != 0
        assert re.search(r"config\.yaml:\d+: error: guardrails\.0\.litellm_params\.policy\.class: ", proxy.output)


LISTS = ("/guardrails/list", "/v2/guardrails/list")


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize("role", ["internal_user", "internal_user_viewer", "proxy_admin_viewer", "proxy_admin"])
def test_litellms_lists_of_guardrails_show_rules_to_admins_alone(proxy: Proxy, role: str, path: str) -> None:
    user = proxy.http.post("/user/new", json={"user_role": role, "auto_create_key": False}).json()["user_id"]
    bearer = {"Authorization": f"Bearer {proxy.virtual_key(user_id=user)}"}
    answer = httpx.get(proxy.url + path, headers=bearer, timeout=60)
    if not answer.is_success:
        assert answer.status_code in (401, 403)
        return
    listed = {one["guardrail_name"]: one["litellm_params"] for one in answer.json()["guardrails"]}
    assert listed.keys() >= {"blue", "red", "lab"}
    assert [listed["blue"]["mode"], listed["blue"]["guardrail"]] == [MODES, FULL_NAME]
    assert ("orchid" in answer.text) is (role == "proxy_admin")
    if role == "proxy_admin":
        assert listed["blue"]["policy"] == replacing("violet")


@pytest.mark.parametrize("role", ["internal_user", "internal_user_viewer"])
def test_no_other_route_on_guardrails_shows_rules_to_users(proxy: Proxy, role: str) -> None:
    user = proxy.http.post("/user/new", json={"user_role": role, "auto_create_key": False}).json()["user_id"]
    bearer = {"Authorization": f"Bearer {proxy.virtual_key(user_id=user)}"}
    ids = [one["guardrail_id"] for one in proxy.http.get(LISTS[1]).json()["guardrails"]]
    paths = [f"/guardrails/{id}{end}" for id in ids for end in ("", "/info")]
    paths += ["/guardrails/submissions", "/guardrails/usage/overview", "/guardrails/usage/logs", "/config/yaml"]
    for path in [*paths, "/get/config/callbacks", "/config/list?config_type=general_settings"]:
        assert "orchid" not in httpx.get(proxy.url + path, headers=bearer, timeout=60).text, path
