"""LiteLLM's routes: governed, without model output, or refused unless the operator opens them.

A route is named by the `call_type` that LiteLLM gives `async_pre_call_hook`. The governed ones are in `wire.FORMATS`.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from litellm.proxy._types import ProxyException
from litellm.types.utils import CallTypes
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from luthien_litellm_hooks.config.settings import SETTINGS_KEY
from luthien_litellm_hooks.config.validation import did_you_mean
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.policy.request import Request
from luthien_litellm_hooks.telemetry.log_lines import logger
from luthien_litellm_hooks.wire import FORMATS
from luthien_litellm_hooks.wire.format import Adapter, NewResponse, WireFormat

UngovernedSetting = Literal["refuse", "allow"] | Sequence[str]

KNOWN = frozenset(call_type.value for call_type in CallTypes)
"""LiteLLM's names for the kinds of requests."""
HOOKLESS_PATHS = (
    "/queue/chat/completions",
    *("/v1/threads", "/threads", "/v1/assistants", "/assistants"),
    *("/v1/rag/query", "/rag/query"),
)
"""Paths of requests for which LiteLLM calls no request hook."""
HOOKLESS = "a route on which LiteLLM asks no policy"
"""Kind of all other routes without a request hook."""
SAMPLING = "/mcp/sampling/createMessage"
"""Path that LiteLLM gives to the request of an MCP server for a model's response."""
_POLICY_VIOLATION = 1008  # https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1

_VIDEO = (
    *("acreate_video", "create_video", "avideo_generation", "video_generation", "avideo_retrieve", "video_retrieve"),
    *("avideo_content", "video_content", "avideo_remix", "video_remix", "avideo_list", "video_list"),
    *("avideo_retrieve_job", "video_retrieve_job", "avideo_delete", "video_delete", "avideo_edit", "video_edit"),
    *("avideo_create_character", "video_create_character", "avideo_get_character", "video_get_character"),
    *("avideo_extension", "video_extension"),
)
_OF_REALTIME = (
    *("arealtime_calls", "arealtime_translation_calls", "acreate_realtime_client_secret"),
    *("acreate_realtime_transcription_session", "acreate_realtime_translation_client_secret"),
)
_OF_STORES_AND_MODELS = (
    *("avector_store_file_create", "vector_store_file_create", "avector_store_file_list", "vector_store_file_list"),
    *("avector_store_file_retrieve", "vector_store_file_retrieve"),
    *("avector_store_file_update", "vector_store_file_update"),
    *("avector_store_file_delete", "vector_store_file_delete"),
    *("acreate_fine_tuning_job", "create_fine_tuning_job", "acancel_fine_tuning_job", "cancel_fine_tuning_job"),
    *("list_fine_tuning_jobs", "aretrieve_fine_tuning_job", "retrieve_fine_tuning_job"),
)

IMAGES = frozenset({"aimage_generation", "image_generation", "aimage_edit", "image_edit"})
"""Routes for pictures. The prompt beside a picture, revised by a model, is judged."""


def _by_call_type(*groups: tuple[str, Iterable[str]]) -> Mapping[str, str]:
    return MappingProxyType({call_type: reason for reason, call_types in groups for call_type in call_types})


NO_MODEL_OUTPUT: Mapping[str, str] = _by_call_type(
    ("pictures", IMAGES),
    ("numbers", ("aembedding", "embedding")),
    ("scores of the client's text", ("amoderation", "moderation")),
    ("the client's documents in another order", ("arerank", "rerank")),
    ("sound, in which the client's text is read out", ("aspeech", "speech")),
    ("texts of people, found on the web", ("asearch", "search")),
    ("texts that clients stored", ("avector_store_search", "vector_store_search")),
    ("names and sizes of files", ("acreate_file", "create_file", "afile_retrieve", "file_retrieve")),
    ("names and sizes of files", ("afile_list", "file_list", "afile_delete", "file_delete")),
    ("names of jobs; LiteLLM gives this name to its list of files, too", ("alist_fine_tuning_jobs",)),
    ("the name of a store", ("avector_store_create", "vector_store_create")),
    ("what guardrails make of the client's text", ("apply_guardrail",)),
    ("the tools of MCP servers, which policies see in the request that brings them to a model", ("list_mcp_tools",)),
)
"""Routes without output of a model, and their content. They pass as they are; all others are refused."""

REFUSED: Mapping[str, str] = _by_call_type(
    ("a file may be what a batch has answered", ("afile_content", "file_content")),
    ("a file may be what a batch has answered", ("avector_store_file_content", "vector_store_file_content")),
    ("it brings what a model has heard", ("atranscription", "transcription")),
    ("it brings what a model has read", ("aocr", "ocr", "aextraction", "extraction")),
    ("its answers come later, in a file", ("acreate_batch", "create_batch", "aretrieve_batch", "retrieve_batch")),
    ("its answers come later, in a file", ("acancel_batch", "cancel_batch")),
    ("its answers come through a socket", ("_arealtime", "_aresponses_websocket", *_OF_REALTIME)),
    ("it keeps to the provider's own format", ("pass_through_endpoint", "llm_passthrough_route")),
    ("it keeps to the provider's own format", ("allm_passthrough_route",)),
    ("it brings the choices of a model", ("adecisions", "decisions", "asystemone", "systemone")),
    ("it brings the items of a stored request", ("alist_input_items",)),
    ("it is about a stored answer", ("aget_responses", "get_responses", "acancel_responses", "cancel_responses")),
    ("it is about a stored answer", ("adelete_responses", "delete_responses")),
    ("it brings a conversation as a model shortened it", ("acompact_responses", "compact_responses")),
    ("the agent runs elsewhere", ("aget_assistants", "get_assistants", "acreate_assistants", "create_assistants")),
    ("the agent runs elsewhere", ("adelete_assistant", "delete_assistant", "acreate_thread", "create_thread")),
    ("the agent runs elsewhere", ("aget_thread", "get_thread", "a_add_message", "add_message")),
    ("the agent runs elsewhere", ("aget_messages", "get_messages", "arun_thread", "run_thread")),
    ("the agent runs elsewhere", ("arun_thread_stream", "run_thread_stream", "asend_message", "send_message")),
    ("the agent runs elsewhere", ("acreate_interaction", "create_interaction", "acreate_skill")),
    ("it answers from what it retrieves", ("aquery", "query", "aingest", "ingest")),
    ("code runs elsewhere", ("acreate_container", "create_container", "alist_containers", "list_containers")),
    ("code runs elsewhere", ("aretrieve_container", "retrieve_container", "adelete_container", "delete_container")),
    ("code runs elsewhere", ("alist_container_files", "list_container_files")),
    ("code runs elsewhere", ("aupload_container_file", "upload_container_file")),
    ("code runs elsewhere", ("acreate_sandbox", "create_sandbox", "adelete_sandbox", "delete_sandbox")),
    ("code runs elsewhere", ("arun_code", "run_code", "acode_interpreter_tool", "code_interpreter_tool")),
    ("it may repeat a prompt that a model revised", _VIDEO),
    ("it was not looked into", _OF_STORES_AND_MODELS),
)
"""Routes with responses out of reach of a policy, and the reason. Routes in no table are refused, too."""


def governed_format(call_type: str) -> WireFormat:
    """Returns the wire format of a governed route. Raises `LookupError` for another route."""
    wire = FORMATS.of_call_type(call_type)
    if wire is None:
        raise LookupError(f"no wire format has the call type {call_type!r}")
    return wire


def adapter_for(call_type: str, request: Request) -> Adapter:
    """Returns a new adapter for the response to a governed request."""
    wire = governed_format(call_type)
    takes_flags = wire.takes_flags(request.body)
    return wire.adapter(NewResponse(request.model, uuid.uuid4(), int(time.time()), takes_flags))


def paths_of(call_type: str, model: str) -> tuple[str, ...]:
    """Returns all paths of a route for a request of this model; a client may take any of them."""
    wire = FORMATS.of_call_type(call_type)
    return () if wire is None else tuple(path.replace("{model}", model) for path in (*wire.paths, *wire.stream_paths))


def check_route_names(setting: str | Sequence[str], where: str = SETTINGS_KEY) -> None:
    """Raises `ConfigError` for each name under `ungoverned_routes` that is neither a path nor a call type of LiteLLM:
    it would open nothing, without a word."""
    listed = () if isinstance(setting, str) else setting
    problems = [
        (
            f"{where}.ungoverned_routes.{number}",
            f"should be a path, or a call type of LiteLLM{did_you_mean(name, KNOWN)}",
        )
        for number, name in enumerate(listed)
        if not name.startswith("/") and name not in KNOWN
    ]
    if problems:
        raise ConfigError.at(*problems)


class UngovernedRoutes:
    """Routes out of reach of a policy, as the operator has set them: open or closed.

    A list in the setting holds paths ("/v1/threads", with all below it) or LiteLLM's call types
    ("pass_through_endpoint"). `counts` has the number of requests for each kind of route, open or closed.
    """

    def __init__(self, setting: UngovernedSetting) -> None:
        self._setting = setting
        self.counts: dict[str, int] = {}

    def check(self, kind: str, path: str | None = None, why: str | None = None) -> None:
        """Raises a refusal, with its reason, unless the kind of route or the client's `path` is open."""
        if not self.is_open(kind, path):
            raise refusal(403, _closed(kind, why))

    def is_open(self, kind: str, path: str | None = None) -> bool:
        """Tells whether a request may pass without a policy; logs the first of its kind.

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
    """Route before LiteLLM's own that refuses closed requests for which no hook is called."""

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
    """Refusal of ours, with a message for the client. LiteLLM sends this class well formed on every route."""

    def __init__(self, status: int, message: str) -> None:
        cast(Any, super()).__init__(message=message, type="policy_error", param=None, code=status)
        self.status_code = status  # some routes read this one


def refusal(status: int, message: str) -> RefusedError:
    """Returns the error to raise for a refused request or response."""
    return RefusedError(status, message)


def path_of(data: Mapping[str, Any]) -> str | None:
    """Returns the path of the client's request behind LiteLLM's `data` or `kwargs`; None without a client, as for a
    health check or a policy's own call."""
    litellm_params = cast(Mapping[str, Any], data.get("litellm_params") or {})
    request: object = data.get("proxy_server_request") or litellm_params.get("proxy_server_request")
    url: object = cast(Mapping[str, Any], request).get("url") if isinstance(request, Mapping) else None
    return urlsplit(url).path if isinstance(url, str) else None


def kind_of(path: str | None) -> str:
    """Returns the kind of a route without a request hook."""
    return _hookless(path or "") or HOOKLESS


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
