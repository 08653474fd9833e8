"""The monitor's app without a proxy, over a file of records: its real pages, with keys of three visitors."""

import html
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from starlette.requests import Request

from luthien_litellm_hooks.hooks.admin.monitor import build_policy
from luthien_litellm_hooks.monitor.access import Access, Credential, Right, Visitor
from luthien_litellm_hooks.monitor.app import monitor_app
from luthien_litellm_hooks.monitor.feed import Feed
from luthien_litellm_hooks.monitor.hour import LastHour
from luthien_litellm_hooks.monitor.rows import FileRows
from luthien_litellm_hooks.monitor.site import Site
from luthien_litellm_hooks.recording.sqlite import RecordFile
from tests.support.record_file import line

BASE = "/luthien/ui"
RIGHTS: Mapping[str, frozenset[Right]] = {
    "admin": frozenset({"read", "approve", "admin"}),
    "viewer": frozenset({"read"}),
    "approver": frozenset({"approve"}),
}
IN_FORCE: Mapping[str, Any] = {
    "version": "v0",
    "policies": [{"name": "secrets", "version": "v1"}],
    "after_restart": [],
    "error": None,
}
SAME_ORIGIN = {"sec-fetch-site": "same-origin"}


def store(records: Path, *rows: dict[str, Any]) -> None:
    file = RecordFile(records)
    assert file.write([line(one) for one in rows]) == len(rows)
    file.close()


def site_of(folder: Path, in_force: Mapping[str, Any] | None = IN_FORCE) -> Site:
    rows = FileRows(folder / "records.sqlite")

    async def ask(credential: Credential, request: Request) -> Visitor | None:
        rights = RIGHTS.get(credential["key"])
        return None if rights is None else Visitor(credential["key"], rights)

    return Site(
        access=Access(lambda: "a secret of the proxy", ask),
        rows=lambda: rows,
        feed=Feed(lambda: rows, lambda: False),
        hour=LastHour(lambda: rows),
        credential_of=lambda fields: {"key": fields["key"]} if "key" in fields else None,
        policy=lambda: in_force,
        build=build_policy,
        labels=folder / "labels.jsonl",
    )


@asynccontextmanager
async def visiting(site: Site, key: str | None = "admin") -> AsyncGenerator[httpx.AsyncClient]:
    """A browser of the visitor with this key, or of nobody."""
    transport = httpx.ASGITransport(app=monitor_app(site), root_path=BASE)
    async with httpx.AsyncClient(transport=transport, base_url="http://proxy") as client:
        if key is not None:
            response = await client.post(f"{BASE}/login", data={"key": key}, headers=SAME_ORIGIN)
            assert response.status_code == 303, response.text
        yield client


async def sent(client: httpx.AsyncClient, path: str, page: str, **fields: str) -> httpx.Response:
    """The response to a form of a page, with the page's token."""
    token = token_of((await client.get(BASE + page)).text)
    return await client.post(BASE + path, data={"token": token, **fields}, headers=SAME_ORIGIN)


def token_of(page: str) -> str:
    [token] = re.findall('<meta name="luthien-token" content="([^"]*)">', page)
    return token


def text_of(page: str) -> str:
    """What a page says, without its tags."""
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", page)).split())
