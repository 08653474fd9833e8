"""Operator's side of a running proxy: reload of the settings, and routes for admins.

The settings are read on a change of their files, on SIGHUP, and on an admin's request.
"""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import Future
from inspect import signature
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Annotated, Any, cast

import litellm
from fastapi import APIRouter, Depends, HTTPException
from fastapi.routing import APIRoute
from litellm.proxy import proxy_server
from litellm.proxy._types import LitellmUserRoles, ProxyException, UserAPIKeyAuth
from litellm.proxy.auth.user_api_key_auth import user_api_key_auth
from litellm.proxy.proxy_server import ProxyConfig
from litellm.types.guardrails import GuardrailInfoResponse, ListGuardrailsResponse
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from luthien_litellm_hooks.config.settings import GUARDRAIL, POLICY_FILE_VARIABLE, SHORT_NAME, Settings, load_settings
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.hooks.active_policy import ActivePolicy, PolicyHolder
from luthien_litellm_hooks.hooks.config_file import checked_config
from luthien_litellm_hooks.hooks.routes import refusal
from luthien_litellm_hooks.recording.sealing import unseal_here
from luthien_litellm_hooks.telemetry.log_lines import logger
from luthien_litellm_hooks.telemetry.metrics import FailOpen, process_metrics
from luthien_litellm_hooks.telemetry.names import READINGS

_BUCKET_VARIABLE = "LITELLM_CONFIG_BUCKET_NAME"

Stamp = tuple[int, ...] | None
"""State of a file; None while it is absent."""


class SettingsSource:
    """Source of the settings, read by LiteLLM's own code. `stamps` are the states of their files at the last reading,
    by path; empty before that."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.stamps: Mapping[str, Stamp] = {}

    def file_states(self) -> dict[str, Stamp]:
        """Returns the present state of the files with settings: LiteLLM's config with its includes, and the policy's
        own file.

        A config in a bucket is left out.
        """
        config = None if self._is_in_bucket else proxy_server.user_config_file_path
        named = (config, self._environment.get(POLICY_FILE_VARIABLE), *self.stamps)
        return {path: _stamp(path) for path in named if path}

    def read(self) -> Mapping[str, object]:
        """Returns LiteLLM's `callback_settings`, as a start would read them. Raises `ConfigError`. Must not run in an
        event loop."""
        reader = _ConfigReader(self.file_states())
        self.stamps = reader.stamps
        if proxy_server.user_config_file_path is None and not self._is_in_bucket:
            return cast(Mapping[str, object], litellm.callback_settings)  # the proxy has no config file
        try:
            config: dict[str, Any] = asyncio.run(cast(Any, reader).get_config())
        except Exception as error:
            where = "its bucket" if self._is_in_bucket else proxy_server.user_config_file_path
            raise ConfigError(f"the config in {where} cannot be read: {type(error).__name__}: {error}") from error
        return cast(Mapping[str, object], config.get("callback_settings") or {})

    @property
    def _is_in_bucket(self) -> bool:
        return _BUCKET_VARIABLE in self._environment


class _ConfigReader(ProxyConfig):
    """LiteLLM's own reader, for one reading: it follows `include`, and resolves `os.environ/`."""

    def __init__(self, stamps: dict[str, Stamp]) -> None:
        super().__init__()
        self.stamps = stamps

    def _load_yaml_file(self, file_path: str) -> dict[str, Any]:
        """Reads an included file, and notes its state."""
        self.stamps[file_path] = _stamp(file_path)
        return cast(Any, super())._load_yaml_file(file_path)

    async def _update_config_from_db(
        self, prisma_client: object, config: dict[str, Any], store_model_in_db: bool | None
    ) -> dict[str, Any]:
        """Ignores the database: it holds no `callback_settings`, and its client belongs to another event loop."""
        return config


def _stamp(path: str) -> Stamp:
    try:
        found = os.stat(path)  # of a link's target: Kubernetes changes the link
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


POLL_S = 0.5
"""Seconds between two looks at the files. A change counts after it has lasted from one look to the next: an unfinished
file may hold half a policy."""

AFTER_RESTART = ("events", "state", "ui")
"""Settings without effect before a restart."""


class PolicyReload:
    """Reload of the settings, one reading at a time, in a daemon thread.

    Wrong settings leave the active policy as it is.
    """

    def __init__(
        self, holder: PolicyHolder, settings: Settings, source: SettingsSource, environment: Mapping[str, str]
    ) -> None:
        self._holder = holder
        self._settings = settings
        self._source = source
        self._environment = environment
        self._requests: SimpleQueue[Future[None]] = SimpleQueue()  # a signal handler may put into it

    def start(self) -> None:
        """Begins to watch the files and to handle SIGHUP."""
        threading.Thread(target=self._work, name="luthien-policy-reload", daemon=True).start()
        if _is_sighup_free():
            signal.signal(signal.SIGHUP, self._on_sighup)

    async def now(self) -> None:
        """Returns after the settings were read again; `PolicyHolder` has the result."""
        request: Future[None] = Future()
        self._requests.put(request)
        await asyncio.wrap_future(request)

    def _on_sighup(self, number: int, frame: FrameType | None) -> None:
        self._requests.put(Future())

    def _work(self) -> None:
        seen = self._source.file_states()
        while True:
            request = self._wait()
            before, seen = seen, self._source.file_states()
            if request is not None and request.set_running_or_notify_cancel():
                self._read()
                request.set_result(None)
            elif seen == before != self._source.stamps:
                self._read()

    def _wait(self) -> Future[None] | None:
        try:
            return self._requests.get(timeout=POLL_S)
        except Empty:
            return None

    def _read(self) -> None:
        try:
            given = self._source.read()
            with checked_config():
                result = self._replace(load_settings(given, self._environment))
        except ConfigError as error:
            result = "failed"
            self._report(str(error))
        except BaseException as error:  # policies are built by foreign code
            result = "failed"
            self._report(f"{type(error).__name__}: {error}")
            logger.exception("the settings could not be read")
        metrics = process_metrics()
        with FailOpen(metrics):
            metrics.record(READINGS.name, 1, {"result": result})

    def _replace(self, settings: Settings) -> str:
        holder = self._holder
        unchanged = {key: getattr(self._settings, key) for key in AFTER_RESTART}
        waiting = tuple(key for key in AFTER_RESTART if getattr(settings, key) != unchanged[key])
        settings = settings.model_copy(update=unchanged)
        is_changed = settings != self._settings
        if is_changed:
            holder.current = ActivePolicy.of(settings, self._environment)
            self._settings = settings
            logger.warning("the policy was changed: %s", holder.current)
        elif holder.error is not None:
            logger.warning("the settings are right again, and unchanged: %s", holder.current)
        if waiting and waiting != holder.after_restart:
            logger.warning("the change of %s takes effect after a restart", ", ".join(waiting))
        holder.after_restart, holder.error = waiting, None
        return "changed" if is_changed else "unchanged"

    def _report(self, error: str) -> None:
        self._holder.error = error
        logger.error("the settings are wrong: %s; still in force is %s", error, self._holder.current)


def _is_sighup_free() -> bool:
    """Returns whether the signal is free: it may be ignored, or report that a terminal is gone."""
    if sys.platform == "win32":
        return False
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL and not _has_terminal()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


User = Annotated[UserAPIKeyAuth, Depends(user_api_key_auth)]
"""User of the request, from LiteLLM's own check of the key."""


_FOR_ANY_KEY = "/v1/models"
"""Path that LiteLLM lets every key reach."""
_REFUSES_ROUTE = "403"


class PersonRoute(APIRoute):
    """Route for people. A key that LiteLLM knows, and does not let reach it, gets status 403 instead of LiteLLM's 401.

    LiteLLM checks the route before any dependency of ours runs.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except ProxyException as error:
                if str(error.code) == "401" and await _is_known(request):
                    raise refusal(403, "This key may not reach the routes for admins and approvers.") from None
                raise

        return answer


async def _is_known(request: Request) -> bool:
    """Tells whether LiteLLM knows the key of a request it has refused."""
    headers, client = request.scope["headers"], request.scope.get("client")
    scope = {"type": "http", "method": "GET", "path": _FOR_ANY_KEY, "query_string": b"", "headers": headers}
    asked = Request({**scope, "client": client, "root_path": "", "state": {}}, _no_body)
    check = cast(Any, user_api_key_auth)
    parameters = {name: one.default for name, one in signature(check).parameters.items() if name != "request"}
    try:
        await check(asked, **{name: await default.dependency(asked) for name, default in parameters.items()})
    except ProxyException as error:
        return str(error.code) == _REFUSES_ROUTE
    except HTTPException as error:
        return str(error.status_code) == _REFUSES_ROUTE
    return True


async def _no_body() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


def is_admin(user: UserAPIKeyAuth) -> bool:
    """Returns whether the key is the master key or a proxy admin's; false for an admin who may only view."""
    return user.user_role == LitellmUserRoles.PROXY_ADMIN


def admin_router() -> APIRouter:
    """Returns a router below `/luthien` for admins only."""
    return APIRouter(prefix="/luthien", tags=["luthien"], dependencies=[Depends(_admin)], route_class=PersonRoute)


async def _admin(user: User) -> None:
    if not is_admin(user):
        raise refusal(403, "The policy is for the proxy's admins: use the master key.")


def policy_routes(holder: PolicyHolder, reload: Callable[[], Awaitable[None]]) -> APIRouter:
    """Returns `GET /luthien/policy` and `POST /luthien/reload`. Both respond with the active policy.

    The second reads the settings first, and responds with status 400 if they are wrong.
    """
    router = admin_router()

    async def show() -> JSONResponse:
        return JSONResponse(described(holder))

    async def read_again() -> JSONResponse:
        await reload()
        return JSONResponse(described(holder), 200 if holder.error is None else 400)

    router.add_api_route("/policy", show, methods=["GET"])
    router.add_api_route("/reload", read_again, methods=["POST"])
    return router


def described(holder: PolicyHolder) -> dict[str, Any]:
    """Describes the active policy, the settings that wait for a restart, and the error of the last reading."""
    current, problem = holder.current, holder.error
    error = None if problem is None else {"message": problem, "type": "config_error", "param": None, "code": "400"}
    return {
        "version": current.version,
        "policies": [{"name": name, "version": version} for name, version in current.policies],
        "after_restart": holder.after_restart,
        "error": error,
    }


class _Closed(BaseModel):
    sealed: Annotated[list[str], Field(max_length=100)]


def record_routes() -> APIRouter:
    """Returns `POST /luthien/open`: it responds with the records in the texts under `sealed`.

    A text without a record, or sealed with another proxy's key, becomes null.
    """
    router = admin_router()

    async def open_records(closed: _Closed) -> JSONResponse:
        return JSONResponse({"records": [unseal_here(sealed) for sealed in closed.sealed]})

    router.add_api_route("/open", open_records, methods=["POST"])
    return router


_PUBLIC_FIELDS = frozenset({"guardrail", "mode", "default_on"})
"""Fields of a guardrail's `litellm_params` for every key."""


def guardrail_list_routes() -> APIRouter:
    """Returns LiteLLM's two lists of guardrails, without the rules of our guardrails unless the user is an admin."""
    router = APIRouter(tags=["Guardrails"])

    async def of_config(user: User) -> ListGuardrailsResponse:
        from litellm.proxy.guardrails.guardrail_endpoints import list_guardrails  # LiteLLM imports it late, too

        return _for(user, await list_guardrails())

    async def of_all(user: User) -> ListGuardrailsResponse:
        from litellm.proxy.guardrails.guardrail_endpoints import list_guardrails_v2

        return _for(user, await list_guardrails_v2(user_api_key_dict=user))

    router.add_api_route("/guardrails/list", of_config, methods=["GET"], response_model=ListGuardrailsResponse)
    router.add_api_route("/v2/guardrails/list", of_all, methods=["GET"], response_model=ListGuardrailsResponse)
    return router


def _for(user: UserAPIKeyAuth, listed: ListGuardrailsResponse) -> ListGuardrailsResponse:
    if is_admin(user):
        return listed
    return ListGuardrailsResponse(guardrails=[_without_rules(one) for one in listed.guardrails])


def _without_rules(guardrail: GuardrailInfoResponse) -> GuardrailInfoResponse:
    params = guardrail.litellm_params
    if params is None or not _is_ours(guardrail):
        return guardrail
    shown = {name: value for name, value in params.model_dump().items() if name in _PUBLIC_FIELDS}
    return guardrail.model_copy(update={"litellm_params": type(params).model_construct(**shown)})


def _is_ours(guardrail: GuardrailInfoResponse) -> bool:
    """Recognises a guardrail of ours by its kind, or by LiteLLM's object of it: an operator may subclass it."""
    is_named = getattr(guardrail.litellm_params, "guardrail", None) in (GUARDRAIL, SHORT_NAME)
    ours = (one for one in litellm.callbacks if isinstance(getattr(one, "in_force", None), ActivePolicy))
    return is_named or any(getattr(one, "guardrail_name", None) == guardrail.guardrail_name for one in ours)
