"""Access to the monitor: who gets a cookie, how long it counts, and what a form needs."""

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from cryptography.fernet import Fernet
from starlette.requests import Request
from starlette.responses import Response

from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.hooks.admin.monitor import build_policy
from luthien_litellm_hooks.monitor import access
from luthien_litellm_hooks.monitor.access import Access, Credential, Right, Visitor
from luthien_litellm_hooks.monitor.app import monitor_app
from luthien_litellm_hooks.monitor.feed import Feed
from luthien_litellm_hooks.monitor.hour import LastHour
from luthien_litellm_hooks.monitor.rows import FileRows
from luthien_litellm_hooks.monitor.site import Page, Site, json_response

SECRET = "sk-the-proxys-own"
ADMIN: frozenset[Right] = frozenset({"read", "approve", "admin"})
SAME = {"sec-fetch-site": "same-origin"}


@dataclass
class Proxy:
    """What the proxy knows: the rights of each key, as they are now. `asked` counts the questions."""

    rights: dict[str, frozenset[Right]] = field(default_factory=lambda: {"sk-admin": ADMIN})
    secret: str | None = SECRET
    asked: int = 0

    async def ask(self, credential: Credential, request: Request) -> Visitor | None:
        self.asked += 1
        rights = self.rights.get(credential.get("key", ""))
        return None if rights is None else Visitor(credential["key"], rights)


async def _secret(site: Site, request: Request) -> Response:
    return json_response({"secret": "withheld"})


async def _changed(site: Site, request: Request) -> Response:
    return json_response({"form": request.state.form})


async def _broken(site: Site, request: Request) -> Response:
    raise ValueError("the text of an exception")


async def _unread(site: Site, request: Request) -> Response:
    raise ConfigError("The records cannot be read.")


PAGES = (
    Page("/", _secret, title="Secret"),
    Page("/admin", _secret, may="admin", title="Admins"),
    Page("/inbox", _secret, may="approve"),
    Page("/change", _changed, may="admin", method="POST"),
    Page("/broken", _broken),
    Page("/unread", _unread),
)


@pytest.fixture
def proxy() -> Proxy:
    return Proxy()


@pytest.fixture
async def client(proxy: Proxy, tmp_path: Path) -> AsyncGenerator[httpx.AsyncClient]:
    def rows() -> FileRows:
        return FileRows(tmp_path / "records.sqlite")

    def credential_of(fields: Mapping[str, str]) -> Credential | None:
        return {"key": fields["key"]} if fields.get("key") else None

    access = Access(lambda: proxy.secret, proxy.ask)
    site = Site(access, rows, Feed(rows), LastHour(rows), credential_of, lambda: None, build_policy)
    transport = httpx.ASGITransport(cast(Any, monitor_app(site, PAGES)), root_path="")
    async with httpx.AsyncClient(transport=transport, base_url="http://proxy.test") as client:
        yield client


async def log_in(client: httpx.AsyncClient, key: str = "sk-admin", **headers: str) -> httpx.Response:
    return await client.post("/login", data={"key": key}, headers={**SAME, **headers})


def sealed(content: object, secret: str = SECRET, use: str = "cookie", **made: int) -> str:
    key = hmac.new(secret.encode(), f"luthien ui: {use}".encode(), hashlib.sha256).digest()
    fernet = Fernet(base64.urlsafe_b64encode(key))
    text = json.dumps(content).encode()
    return (fernet.encrypt_at_time(text, made["at"]) if made else fernet.encrypt(text)).decode()


def form_token(cookie: str, secret: str = SECRET) -> str:
    key = hmac.new(secret.encode(), b"luthien ui: forms", hashlib.sha256).digest()
    return hmac.new(key, cookie.encode(), hashlib.sha256).hexdigest()


def has_headers(response: httpx.Response) -> bool:
    return all(response.headers.get(name) == value for name, value in access.HEADERS.items())


async def test_a_key_opens_the_pages_and_its_cookie_is_for_this_path_and_no_script(client: httpx.AsyncClient) -> None:
    response = await log_in(client)
    assert response.status_code == 303
    given = response.headers["set-cookie"].lower()
    assert all(part in given for part in ("httponly", "samesite=strict", "max-age=28800", "path=")), given
    assert "sk-admin" not in given
    assert (await client.get("/")).json() == {"secret": "withheld"}


async def test_the_cookie_of_an_encrypted_address_travels_encrypted_only(client: httpx.AsyncClient) -> None:
    response = await client.post("https://proxy.test/login", data={"key": "sk-admin"}, headers=SAME)
    assert "secure" in response.headers["set-cookie"].lower()


@pytest.mark.parametrize("key", ["", "sk-other", "x" * 3000])
async def test_another_key_opens_nothing(client: httpx.AsyncClient, key: str) -> None:
    response = await log_in(client, key)
    assert (response.status_code, "set-cookie" in response.headers) == (403, False)


@pytest.mark.parametrize("secret", [None, ""])
async def test_without_a_key_of_the_proxys_own_nobody_is_admitted(
    client: httpx.AsyncClient, proxy: Proxy, secret: str | None
) -> None:
    proxy.secret = secret
    assert (await log_in(client)).status_code == 403
    client.cookies.set(access.COOKIE, sealed({"key": "sk-admin"}, ""))
    assert (await client.get("/")).status_code == 403


@pytest.mark.parametrize(
    "cookie",
    [
        "",
        "nonsense",
        sealed({"key": "sk-admin"}, "another secret"),
        sealed({"key": "sk-admin"}, use="forms"),
        sealed({"key": "sk-other"}),
        sealed({"key": "sk-admin"}, at=1_000_000_000),
        sealed({"key": "sk-admin"})[:-4] + "AAA=",
    ],
)
async def test_a_forged_or_an_expired_cookie_opens_nothing(client: httpx.AsyncClient, cookie: str) -> None:
    client.cookies.set(access.COOKIE, cookie)
    response = await client.get("/")
    assert (response.status_code, "withheld" in response.text) == (403, False)


async def test_two_cookies_of_the_name_count_as_none(client: httpx.AsyncClient) -> None:
    """A page beside the monitor may set one for a longer path."""
    mine = sealed({"key": "sk-admin"})
    both = {"cookie": f"{access.COOKIE}={mine}; {access.COOKIE}={mine}"}
    assert (await client.get("/", headers=both)).status_code == 403
    assert (await client.get("/", headers={"cookie": f"{access.COOKIE}={mine}"})).status_code == 200


async def test_a_role_opens_its_own_pages(client: httpx.AsyncClient, proxy: Proxy) -> None:
    proxy.rights |= {"sk-viewer": frozenset({"read"}), "sk-approver": frozenset({"approve"})}
    opened: dict[str, list[int]] = {}
    for key in ("sk-admin", "sk-viewer", "sk-approver"):
        client.cookies.clear()
        await log_in(client, key)
        opened[key] = [(await client.get(path)).status_code for path in ("/", "/admin", "/inbox")]
    assert opened == {"sk-admin": [200, 200, 200], "sk-viewer": [200, 403, 403], "sk-approver": [403, 403, 200]}


async def test_a_lost_role_counts_after_five_minutes(
    client: httpx.AsyncClient, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(access.time, "monotonic", lambda: now)
    await log_in(client)
    assert (await client.get("/")).status_code == 200
    asked = proxy.asked
    proxy.rights.clear()
    now += access.ASKED_EVERY_S - 1
    assert ((await client.get("/")).status_code, proxy.asked) == (200, asked)
    now += 2
    assert (await client.get("/")).status_code == 403


async def test_a_form_needs_the_token_of_its_visitor_and_a_page_of_this_origin(client: httpx.AsyncClient) -> None:
    await log_in(client)
    cookie = client.cookies[access.COOKIE].strip('"')
    right = form_token(cookie)
    attempts = {
        "all of it": (SAME, right, 200),
        "no token": (SAME, None, 403),
        "the token of another": (SAME, form_token("another cookie"), 403),
        "another site": ({"sec-fetch-site": "cross-site", "origin": "http://proxy.test"}, right, 403),
        "another page of the site": ({"sec-fetch-site": "same-site"}, right, 403),
        "an address that somebody typed": ({"sec-fetch-site": "none"}, right, 403),
        "no browser": ({}, right, 403),
        "without encryption": ({"origin": "http://proxy.test"}, right, 200),
        "another origin without encryption": ({"origin": "http://evil.test"}, right, 403),
        "an opaque origin": ({"origin": "null"}, right, 403),
    }
    found = {
        name: (
            await client.post("/change", data={"a": "b", **({"token": token} if token else {})}, headers=headers)
        ).status_code
        for name, (headers, token, _) in attempts.items()
    }
    assert found == {name: status for name, (_, _, status) in attempts.items()}
    in_header = await client.post("/change", json={"a": 1}, headers={**SAME, access.TOKEN_HEADER: right})
    assert in_header.json() == {"form": {"a": "1"}}


async def test_a_login_from_another_site_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.post("/login", data={"key": "sk-admin"}, headers={"sec-fetch-site": "cross-site"})
    assert (response.status_code, "set-cookie" in response.headers) == (403, False)


async def test_a_logout_takes_the_cookie_away(client: httpx.AsyncClient) -> None:
    await log_in(client)
    cookie = client.cookies[access.COOKIE].strip('"')
    response = await client.post("/logout", data={"token": form_token(cookie)}, headers=SAME)
    assert (response.status_code, access.COOKIE in client.cookies) == (303, False)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 403),
        ("GET", "/login", 200),
        ("GET", "/static/monitor.css", 200),
        ("GET", "/static/none.css", 404),
        ("GET", "/static/..%2Fapp.py", 404),
        ("GET", "/nowhere", 404),
        ("DELETE", "/login", 405),
        ("POST", "/logout", 403),
    ],
)
async def test_every_response_has_the_headers(client: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    response = await client.request(method, path)
    assert response.status_code == status
    expected = {**access.HEADERS, **({"Cache-Control": "no-cache"} if path == "/static/monitor.css" else {})}
    assert {name: response.headers.get(name) for name in expected} == expected


async def test_a_failing_page_is_one_of_ours_without_the_text_of_the_exception(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    await log_in(client)
    response = await client.get("/broken")
    assert (response.status_code, has_headers(response)) == (500, True)
    assert "the text of an exception" not in response.text
    assert "the monitor page failed" in caplog.text
    unread = await client.get("/unread?format=json")
    assert (unread.status_code, unread.json()["error"]) == (503, "The records cannot be read.")


async def test_a_form_is_bounded(client: httpx.AsyncClient) -> None:
    response = await client.post("/login", content=b"key=" + b"x" * 1_100_000, headers=SAME)
    assert response.status_code == 413
    assert (await client.post("/login", content=b"\xff", headers=SAME)).status_code == 400
