"""Routes whose answers no policy can see: closed, unless the operator opens them."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from litellm.proxy._types import ProxyException
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

logger = logging.getLogger("luthien_litellm_hooks")

UngovernedSetting = Literal["refuse", "allow"] | Sequence[str]

# LiteLLM calls no request hook on these.
HOOKLESS_PATHS = (
    "/queue/chat/completions",
    *("/v1/threads", "/threads", "/v1/assistants", "/assistants"),
    *("/v1/rag/query", "/rag/query"),
)
_POLICY_VIOLATION = 1008  # https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1


class UngovernedRoutes:
    """Which of them the operator has opened.

    A list of them holds paths ("/v1/threads", with all below it) or LiteLLM's call types
    ("pass_through_endpoint"). `counts` is how often each was asked for, whatever came of it.
    """

    def __init__(self, setting: UngovernedSetting) -> None:
        self._setting = setting
        self.counts: dict[str, int] = {}

    def check(self, route: str, *names: str | None) -> None:
        """Raises a refusal unless `route` is open, by its own or one of its other `names`."""
        if not self.is_open(route, *names):
            raise refusal(403, _closed(route))

    def is_open(self, route: str, *names: str | None) -> bool:
        """Whether a request may pass that no policy will see; tells the operator of the first."""
        self.counts[route] = self.counts.get(route, 0) + 1
        is_open = self._is_open(route, *names)
        if self.counts[route] == 1:
            logger.warning(
                "%s is not governed by the policy: its requests are %s", route, "let through" if is_open else "refused"
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
        is_ours = scope["type"] in ("http", "websocket") and any(
            _is_at_or_below(_path(scope), closed) for closed in HOOKLESS_PATHS
        )
        return (Match.FULL, {}) if is_ours and not self._routes().is_open(_path(scope)) else (Match.NONE, {})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await WebSocket(scope, receive, send).close(_POLICY_VIOLATION)
        else:
            error = {"message": _closed(_path(scope)), "type": "policy_error", "param": None, "code": "403"}
            await JSONResponse({"error": error}, 403)(scope, receive, send)


class RefusedError(ProxyException):
    """Of ours: what it says is for the client. LiteLLM sends its kind well formed, and as it is, on every route."""


def refusal(status: int, message: str) -> RefusedError:
    """What LiteLLM is to send."""
    return RefusedError(message=message, type="policy_error", param=None, code=status)


def path_of(data: Mapping[str, Any]) -> str | None:
    """The path of the client's request that LiteLLM's `data` or `kwargs` belong to; None if there
    is no client: a health check, say, or a call of a policy's own."""
    litellm_params = cast(Mapping[str, Any], data.get("litellm_params") or {})
    request: object = data.get("proxy_server_request") or litellm_params.get("proxy_server_request")
    url: object = cast(Mapping[str, Any], request).get("url") if isinstance(request, Mapping) else None
    return urlsplit(url).path if isinstance(url, str) else None


def _path(scope: Scope) -> str:
    return str(scope["path"]).removeprefix(str(scope.get("root_path") or ""))


def _is_at_or_below(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top.rstrip('/')}/")


def _closed(route: str) -> str:
    return (
        f"This proxy's policy cannot see the answers of {route}, so it is closed. "
        "Its operator can open it with `ungoverned_routes`."
    )
