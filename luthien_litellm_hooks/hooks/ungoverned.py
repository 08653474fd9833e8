"""Routes whose answers no policy can see: closed, unless the operator opens them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from litellm.proxy._types import ProxyException
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from luthien_litellm_hooks.log_lines import logger

UngovernedSetting = Literal["refuse", "allow"] | Sequence[str]

# LiteLLM calls no request hook on these.
HOOKLESS_PATHS = (
    "/queue/chat/completions",
    *("/v1/threads", "/threads", "/v1/assistants", "/assistants"),
    *("/v1/rag/query", "/rag/query"),
)
UNASKED = "a route on which LiteLLM asks no policy"
"""The kind of all others of that sort."""
_POLICY_VIOLATION = 1008  # https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1


class UngovernedRoutes:
    """Which of them the operator has opened.

    A list of them holds paths ("/v1/threads", with all below it) or LiteLLM's call types
    ("pass_through_endpoint"). `counts` is how often each kind of route was asked for, whatever came of it.
    """

    def __init__(self, setting: UngovernedSetting) -> None:
        self._setting = setting
        self.counts: dict[str, int] = {}

    def check(self, kind: str, path: str | None = None, why: str | None = None) -> None:
        """Raises a refusal, which says why, unless the kind of route, or the client's `path`, is open."""
        if not self.is_open(kind, path):
            raise refusal(403, _closed(kind, why))

    def is_open(self, kind: str, path: str | None = None) -> bool:
        """Returns whether a request may pass that no policy will see; tells the operator of the first of its kind.

        `kind` is one of a few: a client's own path would fill memory and log.
        """
        self.counts[kind] = self.counts.get(kind, 0) + 1
        is_open = self._is_open(kind, path)
        if self.counts[kind] == 1:
            logger.warning(
                "%s is not governed by the policy: its requests are %s", kind, "let through" if is_open else "refused"
            )
        return is_open

    def _is_open(self, *names: str | None) -> bool:
        if isinstance(self._setting, str):
            return self._setting == "allow"
        return any(_is_at_or_below(name, opened) for name in names if name for opened in self._setting)


class ClosedPaths(BaseRoute):
    """Stands before LiteLLM's own routes and answers for those that no hook is called on."""

    def __init__(self, routes: Callable[[], UngovernedRoutes]) -> None:
        self._routes = routes

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        kind = _hookless(_path(scope)) if scope["type"] in ("http", "websocket") else None
        is_closed = kind is not None and not self._routes().is_open(kind, _path(scope))
        return (Match.FULL, {}) if is_closed else (Match.NONE, {})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await WebSocket(scope, receive, send).close(_POLICY_VIOLATION)
        else:
            message = _closed(kind_of(_path(scope)))
            error = {"message": message, "type": "policy_error", "param": None, "code": "403"}
            await JSONResponse({"error": error}, 403)(scope, receive, send)


class RefusedError(ProxyException):
    """Of ours: what it says is for the client. LiteLLM sends its kind well formed, and as it is, on every route."""

    def __init__(self, status: int, message: str) -> None:
        cast(Any, super()).__init__(message=message, type="policy_error", param=None, code=status)
        self.status_code = status  # what some routes look at


def refusal(status: int, message: str) -> RefusedError:
    """What is raised to refuse a request, or a response."""
    return RefusedError(status, message)


def path_of(data: Mapping[str, Any]) -> str | None:
    """The path of the client's request that LiteLLM's `data` or `kwargs` belong to; None if there
    is no client: a health check, say, or a call of a policy's own."""
    litellm_params = cast(Mapping[str, Any], data.get("litellm_params") or {})
    request: object = data.get("proxy_server_request") or litellm_params.get("proxy_server_request")
    url: object = cast(Mapping[str, Any], request).get("url") if isinstance(request, Mapping) else None
    return urlsplit(url).path if isinstance(url, str) else None


def kind_of(path: str | None) -> str:
    """The kind of a route that LiteLLM has called no request hook on."""
    return _hookless(path or "") or UNASKED


def _hookless(path: str) -> str | None:
    return next((top for top in HOOKLESS_PATHS if _is_at_or_below(path, top)), None)


def _path(scope: Scope) -> str:
    return str(scope["path"]).removeprefix(str(scope.get("root_path") or ""))


def _is_at_or_below(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top.rstrip('/')}/")


def _closed(kind: str, why: str | None = None) -> str:
    reason = f" ({why})" if why else ""
    return (
        f"This proxy's policy cannot see the answers of {kind}{reason}, so it is closed. "
        "Its operator can open it with `ungoverned_routes`."
    )
