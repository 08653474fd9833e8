"""The monitor page's own figures: `python -m benchmarks.monitor_page`.

A proxy keeps its records in a file, another in PostgreSQL; Chromium shows the live page of the first. All times are of
the machine's one clock. Responses with a hundred open pages and with none are asked for in turn, so that what else the
machine does falls on both alike.
"""

import asyncio
import json
import re
import sqlite3
import tempfile
import time
import uuid
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from html import unescape
from pathlib import Path
from statistics import median

import httpx
import psycopg
from playwright.sync_api import Page

from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.provider import ScriptedProvider, serve
from tests.support.chromium import running_chromium
from tests.support.monitor_page import PATH, running_monitor, sign_in
from tests.support.postgres import running_postgres, spend_logs
from tests.support.proxy import KEY, Proxy, proxy_config, running_proxy

EVENTS = 30
TRANSACTIONS = 10_000
READS = 20
OPEN_PAGES = 100
PAGES_DOWN = 20
PAIRS = 10
RESPONSES = 20
BODY: Mapping[str, object] = {"model": "openai/scripted", "messages": [{"role": "user", "content": "go"}]}
_SEEN = """
window.seen = {};
const see = () => {
  for (const row of document.querySelectorAll("#live tbody tr")) {
    const id = row.cells[3].textContent, outcome = row.cells[1].textContent.trim();
    seen[id] ??= {};
    seen[id][outcome] ??= Date.now() / 1000;
  }
};
new MutationObserver(see).observe(document.querySelector("#live tbody"), { childList: true, subtree: true });
"""


@contextmanager
def monitored() -> Generator[tuple[ScriptedProvider, Proxy]]:
    provider = ScriptedProvider()
    with serve(provider) as url, tempfile.TemporaryDirectory() as folder:
        config = proxy_config(url, {"policy": {"class": "block_dangerous_commands"}, "ui": {"enabled": True}})
        with running_proxy(config, Path(folder) / "proxy", {}) as proxy:
            yield provider, proxy


def ask(proxy: Proxy, model: str) -> tuple[float, float]:
    """Clock at the request, and at the end of its streamed response."""
    body = {"model": f"openai/{model}", "stream": True, "messages": [{"role": "user", "content": "go"}]}
    began = time.time()
    with proxy.http.stream("POST", "/v1/chat/completions", json=body) as response:
        for _ in response.iter_lines():
            pass
    return began, time.time()


def delays(provider: ScriptedProvider, proxy: Proxy, page: Page) -> tuple[Sequence[float], Sequence[float]]:
    """Seconds from requests to their rows, and from ends of responses to their outcomes on the page."""
    begun: list[float] = []
    ended: list[float] = []
    sign_in(page, proxy)
    page.locator("#state", has_text="live").wait_for()
    page.evaluate(_SEEN)
    for _ in range(EVENTS):
        model = uuid.uuid4().hex
        provider.answers[model] = Answer([Say("I tidy up."), Call("Bash", json.dumps({"command": "rm -rf /"}))])
        request, end = ask(proxy, model)
        row = page.locator("tr", has_text=model)
        row.locator(".mark.blocked").wait_for()
        seen = page.evaluate("model => seen[model]", f"openai/{model}")
        begun.append(min(seen.values()) - request)
        ended.append(seen["blocked"] - end)
    return begun, ended


def fill_file(file: Path) -> None:
    """Copies the newest stored transaction until there are so many, each a second before the one after it."""
    with sqlite3.connect(file) as records:
        [newest] = records.execute("SELECT * FROM records ORDER BY time DESC LIMIT 1").fetchall()
        transaction, response, call, written, row, texts = newest
        began = datetime.fromisoformat(written)
        for number in range(TRANSACTIONS):
            id, moment = str(uuid.uuid4()), (began - timedelta(seconds=number + 1)).isoformat()
            copied = row.replace(transaction, id).replace(written, moment)
            values = (id, f"{response}-{number}", f"{call}-{number}", moment, copied, texts)
            records.execute("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)", values)


_OLDER = re.compile(r'rel="next" href="[^"?]*([^"]+)"')
_COPY = """
INSERT INTO "LiteLLM_SpendLogs"
SELECT (jsonb_populate_record(NULL::"LiteLLM_SpendLogs", to_jsonb(stored) || jsonb_build_object(
    'request_id', stored.request_id || number,
    'startTime', stored."startTime" - number * interval '1 second',
    'metadata', replace(stored.metadata::text, %(id)s, gen_random_uuid()::text)::jsonb
))).*
FROM (SELECT * FROM "LiteLLM_SpendLogs" ORDER BY "startTime" DESC LIMIT 1) stored, generate_series(1, %(count)s) number
"""


def fill_database(url: str, proxy: Proxy) -> None:
    """As `fill_file`, in the spend logs."""
    key = proxy.virtual_key()
    proxy.http.post("/v1/chat/completions", json=BODY, headers={"Authorization": f"Bearer {key}"}).raise_for_status()
    [row] = spend_logs(url, key)
    id = row["metadata"]["spend_logs_metadata"]["luthien"]["transaction_id"]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_COPY, {"id": id, "count": TRANSACTIONS})
        connection.execute("ANALYZE")


def times_of(proxy: Proxy, cookies: httpx.Cookies) -> Mapping[str, float]:
    """Median milliseconds of each way to read the table: its first page, a page far down, and one that is filtered."""
    with httpx.Client(base_url=proxy.url, cookies=cookies, timeout=60) as client:
        path = f"{PATH}/"
        for _ in range(PAGES_DOWN):
            [query] = _OLDER.findall(client.get(path).text)
            path = f"{PATH}/{unescape(query)}"
        ways = {"first page": f"{PATH}/", f"page {PAGES_DOWN + 1}": path, "filtered": f"{PATH}/?outcome=error"}
        return {way: median(_milliseconds(client, path) for _ in range(READS)) for way, path in ways.items()}


def _milliseconds(client: httpx.Client, path: str) -> float:
    began = time.perf_counter()
    client.get(path).raise_for_status()
    return (time.perf_counter() - began) * 1000


@asynccontextmanager
async def open_pages(proxy: Proxy, cookies: httpx.Cookies, count: int) -> AsyncGenerator[None]:
    """Reads so many streams of the live page."""
    reading = asyncio.Event()

    async def read(client: httpx.AsyncClient) -> None:
        async with client.stream("GET", f"{PATH}/events") as response:
            response.raise_for_status()
            async for _ in response.aiter_raw():
                reading.set()

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=proxy.url, cookies=cookies, timeout=60, limits=limits) as client:
        tasks = [asyncio.create_task(read(client)) for _ in range(count)]
        if tasks:
            await reading.wait()
            await asyncio.sleep(1)  # until the others are open
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def in_pairs(proxy: Proxy, cookies: httpx.Cookies) -> tuple[Sequence[float], Sequence[float]]:
    """Milliseconds of a response, the median of each round: without an open page, and with many."""
    alone: list[float] = []
    watched: list[float] = []
    for _ in range(PAIRS):
        for count, found in ((0, alone), (OPEN_PAGES, watched)):
            async with open_pages(proxy, cookies, count):
                found.append(await asyncio.to_thread(lambda: median(_response_ms(proxy) for _ in range(RESPONSES))))
    return alone, watched


def _response_ms(proxy: Proxy) -> float:
    began, ended = ask(proxy, "scripted")
    return (ended - began) * 1000


def logged_in(proxy: Proxy) -> httpx.Cookies:
    headers = {"Origin": proxy.url, "Sec-Fetch-Site": "same-origin"}
    response = httpx.post(f"{proxy.url}{PATH}/login", data={"key": KEY}, headers=headers)
    if not response.cookies:
        raise SystemExit(f"the login failed: {response.text}")
    return response.cookies


def main() -> None:
    with monitored() as (provider, proxy):
        with running_chromium() as browser:
            begun, ended = delays(provider, proxy, browser.new_page())
        print(f"request to its row on the page: median {median(begun):.2f} s, slowest {max(begun):.2f} s")
        print(
            f"end of the response to its outcome on the page: median {median(ended):.2f} s, slowest {max(ended):.2f} s"
        )
        cookies = logged_in(proxy)
        alone, watched = asyncio.run(in_pairs(proxy, cookies))
        print(f"response: {median(alone):.1f} ms; with {OPEN_PAGES} open pages {median(watched):.1f} ms")
        delays_of_pairs = [after - before for before, after in zip(alone, watched, strict=True)]
        print(f"difference in pairs: median {median(delays_of_pairs):+.1f} ms of {sorted(map(round, delays_of_pairs))}")
        fill_file(proxy.records)
        print(f"table of {TRANSACTIONS} in a file, ms: {times_of(proxy, cookies)}")
    with (
        running_postgres() as url,
        serve(ScriptedProvider()) as provider_url,
        tempfile.TemporaryDirectory() as folder,
        running_monitor(provider_url, url, Path(folder) / "proxy", {"policy": {"class": "noop"}}) as proxy,
    ):
        fill_database(url, proxy)
        print(f"table of {TRANSACTIONS} in PostgreSQL, ms: {times_of(proxy, logged_in(proxy))}")


if __name__ == "__main__":
    main()
