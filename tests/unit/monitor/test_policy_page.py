"""The page of the policy: what is in force, and try-outs on recorded transactions."""

import asyncio
import html
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from luthien_litellm_hooks.engine.executor import PolicyExecutor
from luthien_litellm_hooks.hooks.admin.monitor import build_policy
from luthien_litellm_hooks.monitor.site import Site
from tests.support.monitored import BASE, IN_FORCE, SAME_ORIGIN, sent, site_of, store, text_of, visiting
from tests.support.record_file import row

CALL = {"type": "tool_call", "id": "c1", "name": "Bash", "arguments": json.dumps({"command": "ls"})}
POLICY = "/policy"
RULES = "rules:\n- {action: block, tool: Bash, reason: not here}\n"


def stored(number: int, *content: dict[str, Any]) -> dict[str, Any]:
    side = {"request": {"messages": []}, "answer": {"content": list(content) or [CALL], "finish_reason": "stop"}}
    return row(number, transaction_id=f"0000000{number}-t", outcome="complete", original=side, final=side)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    store(tmp_path / "records.sqlite", stored(1), stored(2), stored(3))
    return site_of(tmp_path)


async def tried(client: httpx.AsyncClient, **fields: str) -> httpx.Response:
    return await sent(
        client, POLICY, POLICY, **{"policy": "tool_rules", "settings": RULES, "on": "", "last": "1", **fields}
    )


async def test_what_is_in_force_is_shown_with_what_is_wrong(tmp_path: Path) -> None:
    async with visiting(site_of(tmp_path), "viewer") as client:
        said = text_of((await client.get(BASE + POLICY)).text)
        assert "secrets v1" in said
        assert "failed" not in said
        assert "Trying a policy is for admins" in said
        assert (await client.get(f"{BASE}{POLICY}?format=json")).json()["in_force"] == IN_FORCE
    wrong = {**IN_FORCE, "policies": [], "after_restart": ["ui"], "error": {"message": "policy.class: unknown <b>"}}
    async with visiting(site_of(tmp_path, wrong), "viewer") as client:
        page = (await client.get(BASE + POLICY)).text
    assert "still in force: policy.class: unknown <b>" in html.unescape(page)
    assert "unknown <b>" not in page
    assert "in force after a restart: ui" in text_of(page)
    assert "No policy has an effect" in text_of(page)
    async with visiting(site_of(tmp_path, None), "viewer") as client:
        assert "Guardrails of LiteLLM's configuration" in text_of((await client.get(BASE + POLICY)).text)


async def test_a_policy_is_tried_on_one_transaction_or_on_the_newest(site: Site) -> None:
    async with visiting(site) as client:
        page = (await tried(client, on="00000002-t")).text
        assert f'href="{BASE}/t/00000002-t"' in page
        assert page.count("newly blocked") == 1
        said = text_of(page)
        assert "tool_rules: not here: tool Bash" in said
        assert "policy: class: tool_rules config: rules: - action: block" in said
        newest = (await tried(client, last="2")).text
        assert [f"/t/0000000{number}-t" in newest for number in (1, 2, 3)] == [True, True, False]
        answer = await client.post(
            f"{BASE}{POLICY}?format=json",
            json={"policy": "noop", "on": "00000003-t", "token": _token(page)},
            headers=SAME_ORIGIN,
        )
    view = answer.json()
    assert view["result"]["yaml"] == "policy:\n  class: noop\n"
    assert [one["change"] for one in view["result"]["tried"][0]["verdicts"]] == ["unchanged", "unchanged"]


def _token(page: str) -> str:
    return page.split('name="luthien-token" content="')[1].split('"')[0]


async def test_lines_end_as_browsers_send_them(site: Site) -> None:
    async with visiting(site) as client:
        page = await tried(client, settings=RULES.replace("\n", "\r\n"))
        assert "newly blocked" in page.text
        assert "\\x0d" not in page.text
        assert html.unescape(page.text.split('placeholder="none">\n')[1]).startswith(RULES)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"policy": "debug_logging"}, "The policy is one of noop"),
        ({"policy": "os:path"}, "The policy is one of noop"),
        ({"settings": "a: &x [1]\nb: *x"}, "anchors and aliases"),
        ({"settings": "!!python/object/apply:os.getcwd []"}, "could not determine a constructor"),
        ({"settings": "rules: [{reason: os.environ/LITELLM_MASTER_KEY}]"}, "a variable of the proxy's"),
        ({"policy": "llm_rules", "settings": "{model: m, api_base: 'http://169.254.169.254'}"}, "`api_base` cannot"),
        ({"settings": "rulez: []"}, "rulez"),
        ({"settings": "</textarea><script>alert(1)</script>"}, "should be names with values"),
        ({"on": "00000009-t"}, "There is no such transaction"),
        ({"on": "<script>alert(1)</script>"}, "There is no such transaction"),
    ],
)
async def test_what_cannot_be_tried_is_told_beside_the_form(site: Site, fields: dict[str, str], said: str) -> None:
    async with visiting(site) as client:
        response = await tried(client, **fields)
    assert response.status_code == 400
    assert said in text_of(response.text)
    assert "<script>" not in response.text
    if "settings" in fields:
        assert html.escape(fields["settings"], quote=False) in response.text.replace("&#39;", "'").replace("&#34;", '"')


async def test_without_records_the_page_says_what_to_do(tmp_path: Path) -> None:
    async with visiting(site_of(tmp_path)) as client:
        assert "send a request through this proxy first" in (await tried(client)).text


async def test_only_an_admin_tries_with_the_token_of_a_page_of_this_origin(site: Site) -> None:
    def unreachable(name: str, settings: Mapping[str, Any]) -> PolicyExecutor:
        raise AssertionError(name)

    site = replace(site, build=unreachable)
    for key in ("viewer", "approver", None):
        async with visiting(site, key) as client:
            assert (await client.post(BASE + POLICY, data={"policy": "noop"}, headers=SAME_ORIGIN)).status_code == 403
    async with visiting(site) as client:
        token = _token((await client.get(BASE + POLICY)).text)
        for headers, given in ((SAME_ORIGIN, ""), ({"sec-fetch-site": "cross-site"}, token), ({}, token)):
            response = await client.post(BASE + POLICY, data={"policy": "noop", "token": given}, headers=headers)
            assert response.status_code == 403


async def test_one_policy_is_tried_at_a_time(site: Site) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(name: str, settings: Mapping[str, Any]) -> PolicyExecutor:
        loop.call_soon_threadsafe(entered.set)
        asyncio.run_coroutine_threadsafe(leave.wait(), loop).result(60)
        return build_policy(name, settings)

    async with visiting(replace(site, build=slow)) as client:
        first = asyncio.create_task(tried(client))
        await entered.wait()
        assert (await tried(client)).status_code == 429
        leave.set()
        assert (await first).status_code == 200


async def test_texts_of_a_model_are_never_markup_and_stay_in_their_bounds(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>\u202e\x1b[31m</td>" + "<" * 10_000
    content = [{"type": "text", "text": hostile}, {**CALL, "name": hostile, "arguments": hostile}] * 5
    store(tmp_path / "records.sqlite", *(stored(number, *content) for number in range(1, 6)))
    settings = "replacements: [['<script>', '<b>\u202e']]"
    async with visiting(site_of(tmp_path)) as client:
        page = (await tried(client, policy="string_replacement", settings=settings, last="5")).text
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert not {"\u202e", "\x1b"}.intersection(page)
    assert len(page) < 100_000
