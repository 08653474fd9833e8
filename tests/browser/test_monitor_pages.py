"""The pages of the monitor in Chromium: hostile texts are texts, each page is accessible, and none is heavy."""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, Response

from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from tests.browser.conftest import Visit
from tests.support.monitor_page import PATH
from tests.support.postgres import spend_logs
from tests.support.proxy import Proxy

MOST_BYTES = 100_000
HOSTILE = (
    "<script>hacked = 1</script><img src=x onerror='hacked = 1'></td></table></pre></main>"
    '"\' onmouseover="hacked = 1" {{ 7 * 7 }} </script><svg onload=hacked=1> javascript:hacked=1 '
    "\u202eevil\u2066 \u200b\x1b[31mred\x1b]8;;https://example.com\x07link\x1b]8;;\x07 \x00\x08 &lt;script&gt;"
)
LONG = "x" * 1_000_000


@dataclass(frozen=True, slots=True)
class Stored:
    """A transaction in the spend logs, and the paths of the pages that show it."""

    id: str
    session: str

    @property
    def pages(self) -> Sequence[str]:
        session = quote(self.session, safe="")
        return ("/", f"/?session={session}", f"/t/{self.id}", f"/t/{self.id}?full=1", f"/s/{session}")


def send(
    monitor: Proxy, provider: ScriptedProvider, postgres_url: str, text: str, arguments: str, *, name: str = "Bash<b>"
) -> Stored:
    """Sends a request with the text everywhere, and gets it back with a call."""
    unique = uuid.uuid4().hex
    model, session = f"<b>{unique}", f"<img src=x onerror=hacked=1>{unique}"
    provider.answers[model] = Answer([Say(text), Call(name, arguments)], piece=100_000)
    key = monitor.virtual_key(key_alias=unique)
    messages = [{"role": "system", "content": text}, {"role": "user", "content": text}]
    body: dict[str, Any] = {"model": f"openai/{model}", "messages": messages, "user": text[:200]}
    headers = {"Authorization": f"Bearer {key}", "x-litellm-session-id": session}
    assert monitor.http.post("/v1/chat/completions", json=body, headers=headers).is_success
    [row] = spend_logs(postgres_url, key)
    return Stored(row["metadata"]["spend_logs_metadata"]["luthien"]["transaction_id"], row["session_id"])


@pytest.fixture(scope="module")
def ordinary(monitor: Proxy, provider: ScriptedProvider, postgres_url: str) -> Stored:
    return send(monitor, provider, postgres_url, "I tidy up.", json.dumps({"command": "rm -rf /"}))


@pytest.fixture(scope="module")
def hostile(monitor: Proxy, provider: ScriptedProvider, postgres_url: str) -> Stored:
    return send(monitor, provider, postgres_url, HOSTILE, json.dumps({"command": f"rm -rf / # {HOSTILE}"}))


@pytest.fixture(scope="module")
def long(monitor: Proxy, provider: ScriptedProvider, postgres_url: str) -> Stored:
    return send(monitor, provider, postgres_url, LONG, json.dumps({"command": f"rm -rf / # {LONG}"}))


def opened(visit: Visit, monitor: Proxy, path: str) -> Page:
    response = visit.page.goto(f"{monitor.url}{PATH}{path}")
    assert response is not None
    assert response.status == 200, path
    return visit.page


def overflow(page: Page) -> int:
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("kind", ["hostile", "long"])
def test_hostile_texts_run_nothing_and_break_no_layout(
    kind: str, width: int, visit: Visit, monitor: Proxy, request: pytest.FixtureRequest
) -> None:
    stored: Stored = request.getfixturevalue(kind)
    visit.page.set_viewport_size({"width": width, "height": 800})
    for path in stored.pages:
        page = opened(visit, monitor, path)
        assert overflow(page) <= 0, path
        assert page.evaluate("typeof hacked") == "undefined", path
        assert page.locator("main").count() == 1, path
    assert visit.heard.said == []


def test_a_hostile_text_is_shown_as_it_is_written(visit: Visit, monitor: Proxy, hostile: Stored) -> None:
    shown = opened(visit, monitor, f"/t/{hostile.id}").locator("main").inner_text()
    assert "<script>hacked = 1</script>" in shown
    assert "{{ 7 * 7 }}" in shown
    assert r"\u202e" in shown
    assert not set("\u202e\u2066\u200b\x1b\x00\x08") & set(visit.page.content())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_a_serious_finding_of_axe(
    scheme: Literal["light", "dark"], visit: Visit, monitor: Proxy, ordinary: Stored, long: Stored
) -> None:
    visit.page.emulate_media(color_scheme=scheme)
    found = {}
    for path in [*ordinary.pages, *long.pages, *listed(visit, monitor), "/login", "/no-such-page"]:
        visit.page.goto(f"{monitor.url}{PATH}{path}")
        findings = Axe().run(visit.page).response["violations"]
        found[path] = [
            (finding["id"], [node["html"] for node in finding["nodes"]])
            for finding in findings
            if finding["impact"] in ("serious", "critical")
        ]
    assert {path: findings for path, findings in found.items() if findings} == {}


def listed(visit: Visit, monitor: Proxy) -> list[str]:
    """The paths of the pages in the navigation."""
    links = opened(visit, monitor, "/").locator("header nav a").all()
    return [str(link.get_attribute("href")).removeprefix(PATH) for link in links]


def test_no_page_weighs_more_than_100_kb(visit: Visit, monitor: Proxy, ordinary: Stored, long: Stored) -> None:
    paths, responses = [*ordinary.pages, *long.pages, *listed(visit, monitor)], list[Response]()
    visit.page.on("response", lambda response: responses.append(response))
    weighed: dict[str, int] = {}
    for path in paths:
        responses.clear()
        opened(visit, monitor, path)
        weighed[path] = sum(len(response.body()) for response in responses if is_part(response))
    assert {path: size for path, size in weighed.items() if size > MOST_BYTES} == {}


def is_part(response: Response) -> bool:
    """Tells if it is the page, its style sheet or a script: a stream of events has no end."""
    return response.request.resource_type in ("document", "stylesheet", "script")
