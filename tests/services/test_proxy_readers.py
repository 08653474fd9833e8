"""Who may read at a real proxy what was withheld, and why: each role asks every route that shows spend logs."""

import json
import re
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest
from litellm.proxy.common_utils.encrypt_decrypt_utils import encrypt_value_helper

from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.command import run, run_alone, run_forked
from tests.support.postgres import spend_logs
from tests.support.prisma_client import prisma_environment
from tests.support.proxy import KEEPS_PROMPTS, KEY, PYTHON, Proxies, Proxy
from tests.support.selected import selected

SECRET, REASON = "zanzibar", "rules-of-the-operator"
RULE = {"tool": "Bash", "action": "block", "reason": REASON, "message": "That is not done here."}
WITHHOLDING = selected({"class": "tool_rules", "config": {"rules": [RULE]}})
ROLES = ("internal_user", "internal_user_viewer", "team member", "team admin", "proxy_admin_viewer")
CALL = Call("Bash", json.dumps({"command": f"echo {SECRET}"}), id="call_a")

_SKIPPED = re.compile(
    r"path\\}$|passthrough|^/(sso|mcp|toolset|health|fallback|onboarding|get_|ui|docs|redoc|openapi|login|logout)"
    r"|/mcp$|/oauth|/authorize|/\\.well-known|cost_map|latest_release|events?$|stream"
)
"""Routes that lead elsewhere, sign people in, or never end."""
_TELLING = re.compile("spend|log|activity|session|audit|trace|usage|guardrail|request|response|report|error|cache|tool")
"""Words that stand in the path of a route that may show what stands in spend logs."""


@dataclass(frozen=True)
class Block:
    """A blocked call of each role, by its key; and the ids under which the logs may be asked for it."""

    keys: Mapping[str, str]
    ids: Mapping[str, Mapping[str, str]]


@pytest.fixture(scope="module")
def proxy(proxies: Proxies, postgres_url: str) -> Proxy:
    return proxies.lab(WITHHOLDING, database_url=postgres_url, general_settings=KEEPS_PROMPTS)


def post(proxy: Proxy, path: str, **body: Any) -> dict[str, Any]:
    response = proxy.http.post(path, json=body)
    assert response.is_success, response.text
    return response.json()


@pytest.fixture(scope="module")
def blocked(proxy: Proxy, provider: ScriptedProvider, postgres_url: str) -> Generator[Block]:
    provider.answers["gpt-4o"] = Answer([Say("I look."), CALL])
    team = post(proxy, "/team/new", team_alias="readers")["team_id"]
    keys: dict[str, str] = {}
    ids: dict[str, dict[str, str]] = {}
    for role in ROLES:
        in_team = role.startswith("team")
        user_role = "internal_user" if in_team else role
        user = post(proxy, "/user/new", user_role=user_role, auto_create_key=False)["user_id"]
        if in_team:
            post(proxy, "/team/member_add", team_id=team, member={"role": "user", "user_id": user})
        if role == "team admin":
            _make_admin(postgres_url, team, user)
        keys[role] = post(proxy, "/key/generate", user_id=user, **({"team_id": team} if in_team else {}))["key"]
        ids[role] = _blocked_call(proxy, keys[role], postgres_url) | {"user_id": user, "team_id": team}
    yield Block(keys, ids)
    del provider.answers["gpt-4o"]


def _make_admin(postgres_url: str, team: str, user: str) -> None:
    """In the database: LiteLLM's API does so for Enterprise users only."""
    query = """
        UPDATE "LiteLLM_TeamTable" SET admins = array_append(admins, %(user)s), members_with_roles = (
            SELECT jsonb_agg(
                CASE WHEN member ->> 'user_id' = %(user)s THEN jsonb_set(member, '{role}', '"admin"') ELSE member END
            ) FROM jsonb_array_elements(members_with_roles) AS member
        ) WHERE team_id = %(team)s
    """
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        assert connection.execute(query, {"user": user, "team": team}).rowcount == 1


def _blocked_call(proxy: Proxy, key: str, postgres_url: str) -> dict[str, str]:
    body = {"model": "openai/gpt-4o", "messages": [{"role": "user", "content": "look"}], "litellm_session_id": key[-9:]}
    asker = key
    if proxy.http.post("/v1/chat/completions", json=body, headers=_bearer(key)).status_code != 200:
        asker = KEY  # one who may only view asks no model: the master key asks in the same minute
        assert proxy.http.post("/v1/chat/completions", json=body).is_success
    row = spend_logs(postgres_url, asker)[-1]
    record = row["metadata"]["spend_logs_metadata"]["luthien"]
    assert REASON in record["decisions"][-1]["reason"]
    assert SECRET in str(record["original"])
    return {
        "request_id": row["request_id"],
        "session_id": str(row["session_id"]),
        "transaction_id": record["transaction_id"],
        "call_id": str(row["litellm_call_id"]),
    }


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def paths(postgres_url: str) -> list[str]:
    """Every route that LiteLLM answers a GET on, as this version has them, also those that it loads late."""
    environment = {**PYTHON, **prisma_environment(postgres_url)}
    listed = run_forked(program="tests.support.listed_routes:main", **environment)
    every = json.loads(listed.stdout.splitlines()[-1])
    return [path for path in every if _TELLING.search(path) and not _SKIPPED.search(path)]


def test_the_list_of_routes_has_those_that_show_spend_logs(paths: list[str]) -> None:
    known = {"/spend/logs", "/spend/logs/v2", "/spend/logs/ui", "/spend/logs/ui/{request_id}", "/spend/logs/session/ui"}
    assert known | {"/guardrails/list", "/v2/guardrails/list", "/user/daily/activity"} <= set(paths)


@pytest.mark.parametrize("role", ROLES)
def test_no_route_shows_what_was_withheld_or_why(proxy: Proxy, blocked: Block, paths: list[str], role: str) -> None:
    ids = blocked.ids[role]
    shown: dict[str, str] = {}

    def ask(path: str) -> None:
        filled = re.sub(r"\{(\w+)(:\w+)?\}", lambda name: ids.get(name[1], ids["request_id"]), path)
        asked = {"start_date": "2020-01-01 00:00:00", "end_date": "2100-01-01 00:00:00", **ids}
        for parameters in (asked, {"request_id": ids["request_id"]}) if "logs" in path else (asked,):
            try:
                answer = httpx.get(
                    proxy.url + filled, params=parameters, headers=_bearer(blocked.keys[role]), timeout=20
                )
            except httpx.HTTPError:  # a route that keeps its connection, or nothing behind it
                continue
            if answer.is_success:
                shown[path] = shown.get(path, "") + answer.text

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(ask, paths))
    telling = sorted(path for path, text in shown.items() if SECRET in text or REASON in text)
    assert telling == []
    rows = [path for path in shown if path.startswith("/spend/logs") and '"sealed' in shown[path]]
    assert rows, f"no route showed the row: {sorted(shown)}"
    assert ids["transaction_id"] in "".join(shown[path] for path in rows)


@pytest.mark.parametrize("role", ROLES)
def test_nobody_but_a_proxy_admin_has_records_opened(proxy: Proxy, blocked: Block, role: str) -> None:
    closed = proxy.http.post("/luthien/open", json={"sealed": ["x"]}, headers=_bearer(blocked.keys[role]))
    assert closed.status_code in (401, 403), closed.text
    assert proxy.http.post("/luthien/open", json={"sealed": ["x"]}).json() == {"records": [None]}


def test_the_route_opens_records_alone(proxy: Proxy) -> None:
    """LiteLLM encrypts providers' keys with the same key: an admin is not to have those read here."""
    sealed = encrypt_value_helper("sk-of-a-provider", new_encryption_key=KEY)
    assert proxy.http.post("/luthien/open", json={"sealed": [sealed]}).json() == {"records": [None]}


def test_the_admins_tools_show_it_with_the_key_or_through_the_proxy(
    proxy: Proxy, blocked: Block, postgres_url: str
) -> None:
    wanted = blocked.ids["internal_user"]["transaction_id"]
    database = prisma_environment(postgres_url)
    master, salt = {"LITELLM_MASTER_KEY": KEY}, {"LITELLM_SALT_KEY": KEY, "LITELLM_MASTER_KEY": "another"}
    cases = (
        (("show", wanted, "--json"), {**database, **master}),
        (("diff", wanted), {**database, **salt}),
        (("try", "noop", "--record", wanted), {**database, **master}),
    )
    for arguments, environment in cases:
        told = run_alone(*arguments, **environment)
        assert SECRET in told.stdout, told.stderr
        assert arguments[0] != "show" or REASON in told.stdout
    shown = run("show", wanted, "--json", "--url", proxy.url, **master)
    assert SECRET in shown.stdout, shown.stderr
    assert REASON in shown.stdout
    listed = run("list", "--json", "--url", proxy.url, **master)
    assert REASON in listed.stdout, listed.stderr


@pytest.mark.parametrize(
    ("command", "key", "complaint"),
    [
        ("show", {}, "is sealed, and no key is given: set LITELLM_SALT_KEY"),
        ("diff", {"LITELLM_SALT_KEY": "other"}, "was sealed with another key"),
        ("list", {"LITELLM_SALT_KEY": "other"}, "was sealed with another key"),
    ],
)
def test_without_the_right_key_the_clear_part_is_shown_and_the_complaint_says_what_it_takes(
    blocked: Block, postgres_url: str, command: str, key: dict[str, str], complaint: str
) -> None:
    wanted = blocked.ids["internal_user"]["transaction_id"]
    arguments = [] if command == "list" else [wanted]
    told = run_forked(command, *arguments, **{**PYTHON, **prisma_environment(postgres_url), **key})
    assert told.code == (0 if command == "list" else 2)
    assert complaint in told.stderr
    assert SECRET not in told.stdout + told.stderr
    assert REASON not in told.stdout + told.stderr
    assert command == "diff" or (wanted[:8] in told.stdout and "block" in told.stdout)
