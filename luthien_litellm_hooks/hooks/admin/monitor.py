"""Mount of the monitor page before LiteLLM's routes, with LiteLLM's keys, roles and database."""

import os
import signal
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from litellm.proxy import plugin_routes, proxy_server
from litellm.proxy._types import LitellmUserRoles, SpecialProxyStrings, UserAPIKeyAuth
from litellm.proxy.auth.auth_checks import get_user_object
from litellm.proxy.auth.user_api_key_auth import user_api_key_auth
from litellm.proxy.common_utils.encrypt_decrypt_utils import get_salt_key
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from luthien_litellm_hooks.config.settings import (
    ApprovalsSettings,
    Approvers,
    Store,
    UiSettings,
    build_executor,
    load_settings,
)
from luthien_litellm_hooks.engine.executor import PolicyExecutor
from luthien_litellm_hooks.hooks.admin import is_admin
from luthien_litellm_hooks.hooks.admin.approvals import Decision, Desk, is_approver, name_of
from luthien_litellm_hooks.hooks.routes import RefusedError
from luthien_litellm_hooks.hooks.spend_logs import keeps_file
from luthien_litellm_hooks.monitor.access import Access, Credential, Right, Visitor
from luthien_litellm_hooks.monitor.app import monitor_app
from luthien_litellm_hooks.monitor.feed import Feed
from luthien_litellm_hooks.monitor.hour import LastHour
from luthien_litellm_hooks.monitor.rows import DatabaseRows, FileRows, Rows
from luthien_litellm_hooks.monitor.site import Site
from luthien_litellm_hooks.recording.sealing import unseal_here
from luthien_litellm_hooks.recording.sqlite import records_path
from luthien_litellm_hooks.telemetry.log_lines import logger

PATH = "/luthien/ui"
PLUGIN = "luthien"
"""Name of the monitor in LiteLLM's `general_settings.plugins`."""
_SALT_VARIABLE = "LITELLM_SALT_KEY"
_ASKED_AS = "/luthien/approvals"
"""Path for which LiteLLM checks a visitor's key: the one that keys of approvers are allowed."""


def monitor_route(
    ui: UiSettings,
    store: Callable[[], Store],
    approvals: Callable[[], ApprovalsSettings],
    policy: Callable[[], Mapping[str, Any] | None],
    desk: Desk,
) -> tuple[BaseRoute, Feed]:
    """Returns the route of the monitor and the feed of its pages, and logs its address. `policy` describes the one in
    force, if the callback has one."""

    async def ask(credential: Credential, request: Request) -> Visitor | None:
        user = await _user_of(credential, request)
        if user is None:
            return None
        is_reader = "key" not in credential or await _user_of(credential, request, PATH) is not None
        return _visitor(user, approvals().approvers, is_reader=is_reader)

    rows = _rows(store)
    feed = Feed(rows, _is_ending)
    site = Site(
        access=Access(get_salt_key, ask, is_https=(ui.url or "").startswith("https:")),
        rows=rows,
        feed=feed,
        hour=LastHour(rows),
        credential_of=credential_of,
        policy=policy,
        build=build_policy,
        inbox=_Inbox(desk),
    )
    logger.info("the monitor page is at %s: log in with the master key", ui.url or f"{PATH} of this proxy")
    return _Mounted(monitor_app(site)), feed


class _Inbox:
    """The desk of approvers for visitors of the page."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def calls(self, visitor: Visitor) -> Sequence[Mapping[str, Any]]:
        with _as_page():
            return await self._desk.calls(_user_behind(visitor), every=True)

    async def decide(self, visitor: Visitor, id: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            body = Decision.model_validate(given)
        except ValidationError as error:
            wrong = ".".join(map(str, error.errors()[0]["loc"]))
            raise HTTPException(400, f"The form cannot be read: {wrong}") from None
        with _as_page():
            return await self._desk.decide(_user_behind(visitor), id, body)


def _user_behind(visitor: Visitor) -> UserAPIKeyAuth:
    if not isinstance(visitor.user, UserAPIKeyAuth):
        raise HTTPException(403, "The proxy does not know you.")
    return visitor.user


@contextmanager
def _as_page() -> Generator[None]:
    """Makes a refusal of the routes one of the page."""
    try:
        yield
    except RefusedError as error:
        raise HTTPException(int(error.code or 500), error.message) from None


def _is_ending() -> bool:
    """Asks uvicorn, which has its own handler of the signal, and waits for open connections before it ends."""
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return bool(getattr(server, "should_exit", False))


class _Mounted(BaseRoute):
    """Route to an app below its path, behind a proxy that strips `SERVER_ROOT_PATH` and behind one that does not."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        root = str(scope.get("root_path") or "").rstrip("/")
        path = str(scope["path"]).removeprefix(root)
        if scope["type"] != "http" or not (path == PATH or path.startswith(f"{PATH}/")):
            return Match.NONE, {}
        rest = path.removeprefix(PATH) or "/"
        return Match.FULL, {"root_path": root + PATH, "path": root + PATH + rest, "app_root_path": root + PATH}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def build_policy(name: str, settings: Mapping[str, Any]) -> PolicyExecutor:
    """Builds a policy, which is in force nowhere. Raises `ConfigError`."""
    given = {"luthien": {"policy": {"class": name, "config": dict(settings)}}}
    return build_executor(load_settings(given, {}))


def _rows(store: Callable[[], Store]) -> Callable[[], Rows]:
    file, database = FileRows(records_path(os.environ)), DatabaseRows(_query, unseal_here)
    return lambda: file if keeps_file(store()) or _client() is None else database


def _client() -> Any:
    return cast(Any, proxy_server).prisma_client


async def _query(query: str, *values: object) -> list[dict[str, Any]]:
    return await _client().db.query_raw(query, *values)


def credential_of(fields: Mapping[str, str]) -> Credential | None:
    """Returns the credential of a login: a key, or the user of a claim that LiteLLM's Admin UI got for this plugin."""
    if "claim" not in fields:
        return {"key": fields["key"]} if fields.get("key") else None
    if not os.environ.get(_SALT_VARIABLE):
        return None  # LiteLLM would accept a claim made with an empty key
    try:
        claim: Mapping[str, Any] = cast(Any, plugin_routes).verify_plugin_session_claim(PLUGIN, fields["claim"])
    except ValueError:
        return None
    return {"user": str(claim["user_id"]), "role": str(claim["user_role"])}


async def _user_of(credential: Credential, request: Request, path: str = _ASKED_AS) -> UserAPIKeyAuth | None:
    """Returns LiteLLM's user as it knows them now; None if it does not, or does not let the key reach the path."""
    try:
        if "key" in credential:
            return await _holder(credential["key"], request, path)
        return await _user(credential["user"], credential["role"])
    except Exception as error:  # LiteLLM raises its own, FastAPI's and Python's
        logger.info("the monitor page refused a visitor of %s: %s", path, type(error).__name__)
        return None


async def _holder(key: str, request: Request, path: str) -> UserAPIKeyAuth:
    """Returns the holder of a key, by LiteLLM's own check. Raises if it refuses the key."""
    header: object = cast(Any, proxy_server).general_settings.get("litellm_key_header_name") or "authorization"
    headers = [(str(header).lower().encode(), f"Bearer {key}".encode())]
    asked = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": headers}
    scope: dict[str, Any] = {**asked, "client": request.scope.get("client"), "root_path": "", "state": {}}
    check = cast(Any, user_api_key_auth)

    async def nothing() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    return await check(
        request=Request(scope, nothing),
        api_key=f"Bearer {key}",
        azure_api_key_header=None,
        anthropic_api_key_header=None,
        google_ai_studio_api_key_header=None,
        azure_apim_header=None,
        custom_litellm_key_header=None,
    )


async def _user(user_id: str, role: str) -> UserAPIKeyAuth | None:
    """Returns a user with their present role. One without an entry in the database has logged in with the name and the
    password in the proxy's environment."""
    if user_id != SpecialProxyStrings.default_user_id.value:
        found: Any = await cast(Any, get_user_object)(
            user_id=user_id,
            prisma_client=_client(),
            user_api_key_cache=cast(Any, proxy_server).user_api_key_cache,
            user_id_upsert=False,
        )
        if found is None:
            return None
        role = found.user_role or ""
    return UserAPIKeyAuth.model_validate({"user_id": user_id, "user_role": role})


def _visitor(user: UserAPIKeyAuth, approvers: Approvers, *, is_reader: bool) -> Visitor | None:
    rights: set[Right] = set()
    if is_admin(user):
        rights = {"read", "approve", "admin"} if is_reader else {"approve"}
    elif user.user_role == LitellmUserRoles.PROXY_ADMIN_VIEW_ONLY and is_reader:
        rights.add("read")
    if is_approver(user, approvers):
        rights.add("approve")
    return Visitor(name_of(user), frozenset(rights), user) if rights else None
