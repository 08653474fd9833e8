"""Access to the monitor: the cookie of a visitor, the token of its forms, and the headers of each response.

The cookie holds what the visitor came with, encrypted and authenticated with a key derived from the proxy's own. It
counts for eight hours, and the proxy is asked for the visitor's role again every five minutes.
"""

import base64
import hashlib
import hmac
import json
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal, cast
from urllib.parse import urlsplit

from cryptography.fernet import Fernet, InvalidToken
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "luthien_ui"
TOKEN = "token"  # noqa: S105  # the name of a field
TOKEN_HEADER = "x-luthien-token"  # noqa: S105  # the name of a header
VALID_S = 8 * 3600
ASKED_EVERY_S = 300.0
_MOST_REMEMBERED = 1_000
_LONGEST_CREDENTIAL = 2_000
"""Characters. Browsers drop a cookie of more than 4096."""

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
    ),
    "X-Frame-Options": "SAMEORIGIN",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Headers of every response, unless a page has set its own `Cache-Control`."""

Right = Literal["read", "approve", "admin"]


@dataclass(frozen=True, slots=True)
class Visitor:
    """A person with a valid cookie. `user` is the proxy's own view of them, for those that ask the proxy."""

    name: str
    rights: frozenset[Right]
    user: object = None

    def may(self, right: Right) -> bool:
        return right in self.rights


Credential = Mapping[str, str]
"""Proof of a visitor, in the proxy's own terms."""


class Access:
    """Cookies of the visitors.

    `secret` is the proxy's key. Without one no visitor is admitted. `ask` returns the visitor with a
    credential, None if the proxy does not know it or it opens no page.
    """

    def __init__(
        self,
        secret: Callable[[], str | None],
        ask: Callable[[Credential, Request], Awaitable[Visitor | None]],
        *,
        is_https: bool = False,
    ) -> None:
        self._secret = secret
        self._ask = ask
        self._is_https = is_https
        self._known: OrderedDict[str, tuple[Visitor, float]] = OrderedDict()

    async def visitor(self, request: Request) -> Visitor | None:
        """Returns the visitor with the request's cookie; None without a valid one."""
        sealed = cookie_of(request)
        credential = self._opened(sealed)
        if sealed is None or credential is None:
            return None
        digest = hashlib.sha256(sealed.encode()).hexdigest()
        known = self._known.get(digest)
        if known is not None and time.monotonic() - known[1] < ASKED_EVERY_S:
            return known[0]
        self._known.pop(digest, None)
        visitor = await self._ask(credential, request)
        if visitor is not None:
            self._known[digest] = (visitor, time.monotonic())
            while len(self._known) > _MOST_REMEMBERED:
                self._known.popitem(last=False)
        return visitor

    async def admit(self, credential: Credential, request: Request, response: Response) -> Visitor | None:
        """Gives the response the cookie of a visitor; no cookie, and None, if the proxy knows no such visitor."""
        fernet = self._fernet()
        text = json.dumps(dict(credential))
        if fernet is None or len(text) > _LONGEST_CREDENTIAL:
            return None
        visitor = await self._ask(credential, request)
        if visitor is not None:
            self._set_cookie(request, response, fernet.encrypt(text.encode()).decode(), VALID_S)
        return visitor

    def dismiss(self, request: Request, response: Response) -> None:
        """Takes the cookie away."""
        self._known.pop(hashlib.sha256((cookie_of(request) or "").encode()).hexdigest(), None)
        self._set_cookie(request, response, "", 0)

    def token(self, request: Request) -> str:
        """Returns the token for the forms of the request's visitor, which only their own pages can know."""
        sealed, key = cookie_of(request), self._derived("forms")
        return hmac.new(key, sealed.encode(), hashlib.sha256).hexdigest() if sealed and key else ""

    def has_token(self, request: Request, given: str) -> bool:
        expected = self.token(request)
        return bool(expected) and hmac.compare_digest(expected.encode(), given.encode())

    def _set_cookie(self, request: Request, response: Response, value: str, seconds: int) -> None:
        response.set_cookie(
            COOKIE,
            value,
            max_age=seconds,
            path=base_of(request) or "/",
            httponly=True,
            samesite="strict",
            secure=self._is_https or request.url.scheme == "https",
        )

    def _opened(self, sealed: str | None) -> Credential | None:
        fernet = self._fernet()
        if sealed is None or fernet is None:
            return None
        try:
            return cast(Credential, json.loads(fernet.decrypt(sealed, ttl=VALID_S)))
        except (InvalidToken, ValueError):
            return None

    def _fernet(self) -> Fernet | None:
        key = self._derived("cookie")
        return None if key is None else Fernet(base64.urlsafe_b64encode(key))

    def _derived(self, use: str) -> bytes | None:
        secret = self._secret()
        return hmac.new(secret.encode(), f"luthien ui: {use}".encode(), hashlib.sha256).digest() if secret else None


def cookie_of(request: Request) -> str | None:
    """Returns the cookie, None if there are several: a page beside this one may have set another."""
    found = [
        part.partition("=")[2].strip('"')
        for header in request.headers.getlist("cookie")
        for part in (piece.strip() for piece in header.split(";"))
        if part.partition("=")[0] == COOKIE
    ]
    return found[0] if len(found) == 1 else None


def base_of(request: Request) -> str:
    """Returns the path of the monitor, as browsers have it."""
    return str(request.scope.get("root_path") or "")


def check_origin(request: Request) -> None:
    """Raises a 403 unless a page of this very origin sends the request.

    Browsers tell so with `Sec-Fetch-Site`, and on an address without encryption, other than localhost, with `Origin`
    alone.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    is_ours = origin is not None and urlsplit(origin).netloc == request.headers.get("host")
    if not (site == "same-origin" if site is not None else is_ours):
        raise HTTPException(403, "The request does not come from a page of this proxy.")


class WithHeaders:
    """App whose every response has the headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = list(cast(list[tuple[bytes, bytes]], message.get("headers") or []))
                names = {name.lower() for name, _ in given}
                added = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*given, *(one for one in added if one[0] not in names)]
            await send(message)

        await self._app(scope, receive, send_with_headers)
