"""The monitor page at a real proxy without a database: who gets in, what is live, what a hostile text does to it."""

import os
import re
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from luthien_litellm_hooks.monitor.access import COOKIE, HEADERS
from luthien_litellm_hooks.monitor.app import PAGES
from luthien_litellm_hooks.monitor.site import Page
from luthien_litellm_hooks.recording.sqlite import RecordFile
from luthien_litellm_hooks.testing.answers import Answer, Call, Gate, Say, Wait
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.support.monitor import SAME, UI, Events, visiting
from tests.support.proxy import Proxy, proxy_config, running_proxy
from tests.support.record_file import line, row
from tests.support.waiting import wait_until

REPLACING = {"class": "string_replacement", "config": {"replacements": [["orchid", "rose"]]}}
SETTINGS = {
    "policy": {"class": "serial", "config": {"policies": [REPLACING, {"class": "block_dangerous_commands"}]}},
    "record": {"bodies": "always"},
    "ui": {"enabled": True, "url": "http://llm.example.com/luthien/ui/"},
}
ROOT = "/llm"
MAX_PAGE = 100_000
"""Bytes of a page."""
HOSTILE = "<script>alert(1)</script></td></pre>\u202egnp.exe\x1b[31m\u200b"


@pytest.fixture(scope="module")
def proxy(provider_url: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Proxy]:
    folder = tmp_path_factory.mktemp("monitor") / "proxy"
    with running_proxy(proxy_config(provider_url, SETTINGS), folder, {}) as proxy:
        yield proxy


@pytest.fixture
def visitor(proxy: Proxy) -> Generator[httpx.Client]:
    with visiting(proxy) as visitor:
        yield visitor


def ask(proxy: Proxy, model: str, path: str = "", **body: Any) -> httpx.Response:
    asked = {"model": f"openai/{model}", "messages": [{"role": "user", "content": "go"}], **body}
    return proxy.http.post(f"{path}/v1/chat/completions", json=asked)


def path_of(page: Page) -> str:
    return re.sub(r"\{\w+(:\w+)?\}", "x", page.path)


@pytest.mark.parametrize("cookie", [None, "forged"])
@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.method} {page.path}")
def test_every_route_is_closed_without_a_cookie(proxy: Proxy, page: Page, cookie: str | None) -> None:
    headers = {**SAME, **({} if cookie is None else {"cookie": f"{COOKIE}={cookie}"})}
    with httpx.Client(base_url=f"{proxy.url}{UI}") as stranger:
        response = stranger.request(page.method, path_of(page), headers=headers)
        as_json = stranger.request(page.method, f"{path_of(page)}?format=json", headers=headers)
    assert (response.status_code, as_json.status_code) == (403, 403)
    assert "Log in" in response.text
    assert as_json.json() == {"error": "Log in with a key of the proxy."}
    assert {name: response.headers.get(name) for name in HEADERS} == HEADERS


@pytest.mark.parametrize("page", [page for page in PAGES if page.method == "POST"], ids=lambda page: page.path)
def test_every_form_needs_its_token_and_a_page_of_this_origin(visitor: httpx.Client, page: Page) -> None:
    assert visitor.post(path_of(page), data={"token": "0" * 64}, headers=SAME).status_code == 403
    assert visitor.post(path_of(page), headers={"sec-fetch-site": "cross-site"}).status_code == 403


def test_a_key_of_litellms_api_is_no_cookie(proxy: Proxy) -> None:
    assert proxy.http.get(f"{UI}/").status_code == 403


def test_the_start_tells_the_address(proxy: Proxy) -> None:
    assert proxy.output.count("the monitor page is at http://llm.example.com/luthien/ui: log in") == 1


def test_a_streamed_response_is_seen_while_it_streams(
    proxy: Proxy, provider: ScriptedProvider, visitor: httpx.Client
) -> None:
    gate = Gate()
    danger = Call("Bash", '{"command": "mkfs.ext4 /dev/sda"}')
    provider.answers["live"] = Answer([Say("An orchid."), danger, Wait(gate)])
    events = Events(visitor)
    body = {"model": "anthropic/live", "messages": [{"role": "user", "content": "go"}], "stream": True, "max_tokens": 9}
    with proxy.http.stream("POST", "/v1/messages", json=body) as response:
        running = events.row_with("anthropic/live", "running", "modify text")
        page = visitor.get("/").text
        assert running["id"] in page
        assert "It runs in this process." in visitor.get(f"/t/{running['id']}").text
        assert visitor.get(f"/t/{running['id']}?format=json").json()["outcome"] is None
        gate.open()
        response.read()
    ended = events.row_with(running["id"], "blocked", "modify text", "block Bash")
    assert "running" not in ended["html"]
    wait_until(lambda: "It runs" not in visitor.get(f"/t/{running['id']}").text)
    listed = visitor.get("/?format=json&policy=block_dangerous_commands").json()["rows"]
    assert [one["outcome"] for one in listed if one["id"] == running["id"]] == ["blocked"]
    assert running["id"] not in visitor.get("/?outcome=timeout").text


def test_what_another_process_records_comes_to_an_open_page(proxy: Proxy, visitor: httpx.Client) -> None:
    ask(proxy, "any")
    wait_until(proxy.records.exists)
    events = Events(visitor, "?outcome=timeout")

    def is_seen() -> bool:
        """Writes another row each time: one that comes before the page has begun to read is not news."""
        RecordFile(proxy.records).write([line(row(0, outcome="timeout"))])
        return events.has_row("timeout")

    wait_until(is_seen)


def test_a_hostile_text_is_neither_markup_nor_a_long_line(
    proxy: Proxy, provider: ScriptedProvider, visitor: httpx.Client
) -> None:
    provider.answers["hostile"] = Answer([Say(HOSTILE + "x" * 900_000), Call(HOSTILE, '{"command": "mkfs /dev/sda"}')])
    asked = ask(proxy, "hostile", user=HOSTILE, tools=[{"type": "function", "function": {"name": HOSTILE}}])
    assert asked.status_code == 200
    wait_until(lambda: "openai/hostile" in visitor.get("/?model=openai/hostile&format=json").text)
    [stored, *_] = visitor.get("/?model=openai/hostile&format=json").json()["rows"]
    for path in ("/", f"/t/{stored['id']}", f"/?{urlencode({'session': HOSTILE})}"):
        page = visitor.get(path)
        assert page.status_code == 200
        assert "<script>alert" not in page.text
        assert not {"\u202e", "\x1b", "\u200b"} & set(page.text)
        assert len(page.content) < MAX_PAGE
    shown = visitor.get(f"/t/{stored['id']}").text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown
    assert "\\u202egnp.exe\\x1b[31m\\u200b" in shown
    assert "more characters" in shown
    whole = visitor.get(f"/t/{stored['id']}?format=json").json()
    assert whole["record"]["original"]["answer"]["content"][0]["text"].startswith(HOSTILE)


def test_a_changed_response_is_shown_beside_its_original(
    proxy: Proxy, provider: ScriptedProvider, visitor: httpx.Client
) -> None:
    provider.answers["changed"] = Answer([Say("I look."), Call("Bash", '{"command": "mkfs.ext4 /dev/sda"}')])
    ask(proxy, "changed")
    wait_until(lambda: "openai/changed" in visitor.get("/?model=openai/changed&format=json").text)
    [stored, *_] = visitor.get("/?model=openai/changed&format=json").json()["rows"]
    page = visitor.get(f"/t/{stored['id']}").text
    assert "mkfs.ext4 /dev/sda" in page
    assert re.search(r'class="before">[^<]*tool call Bash', page)
    assert "by block_dangerous_commands" in page
    assert "<meter" in page
    found = visitor.get(f"/t/{stored['id']}?format=json").json()
    assert found["record"]["decisions"][0]["action"] == "block"
    assert any(one.startswith("- tool call Bash") for one in found["differences"]["answer"])
    assert visitor.get(f"/t/{stored['id']}?full=1").status_code == 200
    assert visitor.get("/t/none").status_code == 404


@pytest.mark.parametrize("query", ["before=x", "before=2026-01-01", "before=9999-99-99~x"])
def test_a_wrong_position_is_refused_with_a_word(visitor: httpx.Client, query: str) -> None:
    response = visitor.get(f"/?{query}")
    assert response.status_code == 400
    assert "follow the links" in response.text


def test_the_proxy_ends_though_a_page_is_open(provider_url: str, tmp_path: Path) -> None:
    """And the monitor is below the proxy's own root path."""
    config, environment = proxy_config(provider_url, SETTINGS), {"SERVER_ROOT_PATH": ROOT}
    with running_proxy(config, tmp_path / "proxy", environment) as proxy, visiting(proxy, ROOT) as visitor:
        assert [cookie.path for cookie in visitor.cookies.jar] == [f"{ROOT}{UI}"]
        page = visitor.get("/").text
        links = re.findall(r'(?:href|src|action|data-events)="(/[^"]*)"', page)
        assert links
        assert all(link.startswith(f"{ROOT}{UI}/") for link in links), links
        stripped = httpx.get(f"{proxy.url}{UI}/static/monitor.css")  # as behind a proxy that takes the root away
        assert stripped.status_code == 200
        events = Events(visitor)
        os.kill(proxy.process, signal.SIGTERM)
        assert events.ended.wait(20)
        wait_until(lambda: "Finished server process" in proxy.output)
