"""`when` by who asks, with LiteLLM's own keys, users and teams; and what becomes of those whom no policy is for."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from luthien_litellm_hooks.testing.provider import ScriptedProvider
from luthien_litellm_hooks.testing.routes import ROUTES, RouteName
from tests.support.postgres import spend_logs
from tests.support.proxy import CANCELS, KEEPS_PROMPTS, Proxies, Proxy
from tests.support.selected import selected_in_a_row

SAID, OF_TEAM, OF_USER = "orchid tulip", "ROSE tulip", "orchid DAISY"
TEAM, USER, MAIL = "watched-team", "watched-user", "watched@example.com"
NO_POLICY = "no policy of this proxy is for it"


def replacing(old: str, new: str, **when: Any) -> dict[str, Any]:
    return {"class": "string_replacement", "config": {"replacements": [[old, new]]}, "when": when}


POLICY = selected_in_a_row([replacing("orchid", "ROSE", teams=[TEAM]), replacing("tulip", "DAISY", users=[USER, MAIL])])
REFUSING: Mapping[str, Any] = {"policy": replacing("orchid", "ROSE", users=[USER]), "unselected": "refuse"}
BODIES: Mapping[RouteName, dict[str, Any]] = {
    "chat": {"model": "openai/gpt-4o", "messages": [{"role": "user", "content": f"say: {SAID}"}]},
    "messages": {
        "model": "anthropic/claude-sonnet-4-5",
        "messages": [{"role": "user", "content": f"say: {SAID}"}],
        "max_tokens": 9,
    },
    "responses": {"model": "openai/gpt-4o", "input": f"say: {SAID}"},
    "completions": {"model": "openai/gpt-4o", "prompt": f"say: {SAID}"},
    "gemini": {"contents": [{"role": "user", "parts": [{"text": f"say: {SAID}"}]}]},
}


@dataclass(frozen=True)
class People:
    """A proxy with users, and a key of their own for each."""

    proxy: Proxy
    team_id: str
    member: str
    watched: str
    mailed: str
    nobody: str


def new_user(proxy: Proxy, **settings: Any) -> str:
    """A key of a new user of LiteLLM's, who may make others."""
    response = proxy.http.post("/user/new", json={"user_role": "internal_user", **settings})
    assert response.is_success, response.text
    return response.json()["key"]


def own_key(proxy: Proxy, key: str, **settings: Any) -> str:
    """Another key that the user of `key` makes."""
    response = proxy.http.post("/key/generate", json=settings, headers={"Authorization": f"Bearer {key}"})
    assert response.is_success, response.text
    return response.json()["key"]


@pytest.fixture(scope="module")
def people(proxies: Proxies, postgres_url: str) -> People:
    proxy = proxies.lab(POLICY, database_url=postgres_url, general_settings=KEEPS_PROMPTS)
    team_id = proxy.http.post("/team/new", json={"team_alias": TEAM}).json()["team_id"]
    user_id = f"member-{uuid.uuid4().hex}"
    member = new_user(proxy, user_id=user_id)
    joined = proxy.http.post(
        "/team/member_add", json={"team_id": team_id, "member": {"role": "user", "user_id": user_id}}
    )
    assert joined.is_success, joined.text
    watched, mailed = new_user(proxy, user_id=USER), new_user(proxy, user_email=MAIL)
    return People(proxy, team_id, member, watched, mailed, new_user(proxy))


def ask(proxy: Proxy, key: str, route: RouteName = "chat", *, is_streamed: bool = False) -> httpx.Response:
    path = ROUTES[route].path.replace("scripted", "gemini/gemini-2.5-flash")
    if route == "gemini":
        path = path.replace(":generateContent", ":streamGenerateContent?alt=sse") if is_streamed else path
        body = BODIES[route]
    else:
        body = {**BODIES[route], "stream": is_streamed}
    return proxy.http.post(path, json=body, headers={"Authorization": f"Bearer {key}"})


def said(proxy: Proxy, key: str) -> str:
    response = ask(proxy, key)
    assert response.is_success, response.text
    return response.json()["choices"][0]["message"]["content"]


def test_a_policy_for_a_team_governs_the_keys_of_the_team(people: People) -> None:
    assert said(people.proxy, people.proxy.virtual_key(team_id=people.team_id)) == OF_TEAM


def test_a_policy_for_a_team_governs_a_members_key_without_the_team(people: People) -> None:
    assert said(people.proxy, own_key(people.proxy, people.member)) == OF_TEAM
    assert said(people.proxy, own_key(people.proxy, people.member, key_alias=f"mine-{uuid.uuid4().hex}")) == OF_TEAM


def test_a_policy_for_a_user_governs_their_keys(people: People) -> None:
    assert said(people.proxy, own_key(people.proxy, people.watched)) == OF_USER
    assert said(people.proxy, own_key(people.proxy, people.mailed)) == OF_USER


def test_a_policy_for_a_user_governs_a_key_that_they_made_for_a_team(people: People) -> None:
    settings = {"team_id": people.team_id, "member": {"role": "user", "user_id": USER}}
    assert people.proxy.http.post("/team/member_add", json=settings).is_success
    allowed = {"team_id": people.team_id, "team_member_permissions": ["/key/service-account/generate"]}
    assert people.proxy.http.post("/team/permissions_update", json=allowed).is_success
    response = people.proxy.http.post(
        "/key/service-account/generate",
        json={"team_id": people.team_id, "key_alias": uuid.uuid4().hex, "metadata": {"service_account_id": "robot"}},
        headers={"Authorization": f"Bearer {people.watched}"},
    )
    assert response.is_success, response.text
    assert said(people.proxy, response.json()["key"]) == "ROSE DAISY"


def test_others_are_left_alone(people: People) -> None:
    assert said(people.proxy, own_key(people.proxy, people.nobody)) == SAID
    assert said(people.proxy, people.proxy.virtual_key()) == SAID


forms = pytest.mark.parametrize("is_streamed", [False, True], ids=["full", "stream"])
routes = pytest.mark.parametrize("route", list(ROUTES))


@pytest.fixture
def refusing(proxies: Proxies, postgres_url: str) -> Proxy:
    return proxies.get(REFUSING, database_url=postgres_url, general_settings=CANCELS)


@pytest.fixture
def refusing_with_errors(proxies: Proxies, postgres_url: str) -> Proxy:
    luthien = {**REFUSING, "on_block": "error", "block_status": 451}
    return proxies.get(luthien, database_url=postgres_url, general_settings=CANCELS)


@routes
@forms
def test_a_request_that_no_policy_is_for_gets_a_well_formed_refusal(
    refusing: Proxy, provider: ScriptedProvider, route: RouteName, is_streamed: bool
) -> None:
    before = len(provider.requests)
    response = ask(refusing, refusing.virtual_key(), route, is_streamed=is_streamed)
    assert (response.status_code, NO_POLICY in response.text, SAID in response.text) == (200, True, False), (
        response.text
    )
    assert len(provider.requests) == before


@routes
@forms
def test_or_an_error(
    refusing_with_errors: Proxy, provider: ScriptedProvider, route: RouteName, is_streamed: bool
) -> None:
    before = len(provider.requests)
    response = ask(refusing_with_errors, refusing_with_errors.virtual_key(), route, is_streamed=is_streamed)
    assert (response.status_code, NO_POLICY in response.json()["error"]["message"]) == (451, True), response.text
    assert len(provider.requests) == before


@routes
@forms
def test_a_request_that_a_policy_is_for_is_answered(refusing: Proxy, route: RouteName, is_streamed: bool) -> None:
    response = ask(refusing, refusing.virtual_key(user_id=USER), route, is_streamed=is_streamed)
    assert response.is_success, response.text
    assert NO_POLICY not in response.text


def test_the_record_says_that_no_policy_was_for_it(refusing: Proxy, postgres_url: str) -> None:
    key = refusing.virtual_key()
    ask(refusing, key)
    [row] = spend_logs(postgres_url, key)
    record = row["metadata"]["spend_logs_metadata"]["luthien"]
    [decision] = record["decisions"]
    assert (record["outcome"], decision["policy"], decision["action"]) == ("blocked", "unselected", "block")


def test_by_default_such_a_request_passes(people: People) -> None:
    assert said(people.proxy, people.proxy.virtual_key()) == SAID
