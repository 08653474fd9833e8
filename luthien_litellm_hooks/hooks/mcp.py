"""MCP calls through LiteLLM's gateway: judged before they are made, their results after."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, cast

from litellm.proxy._types import UserAPIKeyAuth
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolResult, GetPromptResult, PromptMessage, ReadResourceResult, TextContent
from pydantic import BaseModel

from luthien_litellm_hooks.engine.executor import outcome_of
from luthien_litellm_hooks.errors import PolicyBlockedError
from luthien_litellm_hooks.hooks.active_policy import ActivePolicy, PolicyHolder, select
from luthien_litellm_hooks.hooks.request_data import read_request
from luthien_litellm_hooks.hooks.spend_logs import MCP_CALL, SpendLogEntry
from luthien_litellm_hooks.hooks.transaction import (
    Transaction,
    WithheldError,
    begin,
    current_call,
    set_current,
)
from luthien_litellm_hooks.policy.context import Asking, PolicyContext
from luthien_litellm_hooks.policy.request import Request
from luthien_litellm_hooks.recording.recorder import DefaultTransactionRecorder, Outcome
from luthien_litellm_hooks.telemetry.log_lines import logger
from luthien_litellm_hooks.telemetry.spans import Telemetry
from luthien_litellm_hooks.wire.events import Chunk, Finish, TextDelta
from luthien_litellm_hooks.wire.unstreamed import McpCall, McpCallAdapter, TextsAdapter

Texts = Sequence[str | None]
McpResult = CallToolResult | GetPromptResult | ReadResourceResult

_WITHHELD_ERROR = "The error of the MCP server was withheld."
_UNCHECKED = "The tool call was withheld: it could not be checked."


class McpRecorder(DefaultTransactionRecorder):
    """Recorder of an MCP call: the call is recorded as a request, its result as the response.

    The executor runs the policies once over the call and once over the result. Only the second run is recorded as a
    response, and ends the transaction. `task` is the call's own.
    """

    has_request = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.task = asyncio.current_task()

    async def record_request(self, original: Mapping[str, Any], final: Mapping[str, Any]) -> None:
        self.has_request = True
        await super().record_request(original, final)

    def add_ingress_chunk(self, chunk: Chunk) -> None:
        if self.has_request:
            super().add_ingress_chunk(chunk)

    def add_egress_chunk(self, chunk: Chunk) -> None:
        if self.has_request:
            super().add_egress_chunk(chunk)

    async def finalize_non_streaming(self, outcome: Outcome) -> None:
        if self.has_request or outcome == "client_disconnected":
            await super().finalize_non_streaming(outcome)


async def govern_call(
    in_force: ActivePolicy,
    telemetry: Telemetry,
    data: dict[str, Any],
    user: UserAPIKeyAuth | None,
    approvals: Asking | None = None,
) -> SpendLogEntry | None:
    """Puts the released arguments into `data`. Raises `WithheldError` if the call is withheld.

    Returns the entry of the call, not over yet; None without a call.
    """
    if "mcp_tool_name" not in data and "proxy_server_request" in data:
        return None  # the HTTP request around the call; LiteLLM asks about the call itself next
    transaction = Transaction(MCP_CALL, in_force)
    request = replace(read_request(data), is_untold=True)
    entry = begin(transaction, telemetry, user, request, data, McpRecorder)
    entry.context.approvals = approvals
    set_current(transaction)
    call = McpCall(str(data.get("mcp_tool_name") or ""), cast(dict[str, Any], data.get("mcp_arguments") or {}))
    final, has_failed = call, False
    try:
        await select(entry.context, in_force, data, user)
        final = cast(McpCall, await in_force.executor.run_full(call, McpCallAdapter(), entry.context))
        if call.arguments and not final.arguments:
            raise ValueError("a policy removed all arguments, which LiteLLM reads as none changed")
    except PolicyBlockedError as blocked:
        final = replace(call, notice=blocked.message)
    except Exception:
        logger.exception("a tool call could not be checked; it is withheld")
        final, has_failed = replace(call, notice=_UNCHECKED), True
    await entry.recorder.record_request(_request(call), _request(final))
    if final.notice is not None:
        notice = (TextDelta(text=final.notice), Finish(reason=McpCallAdapter.rules.stop_reason))
        entry.recorder.add_egress_chunk(Chunk(notice))
        outcome = "policy_error" if has_failed else outcome_of(entry.context, None)
        await entry.recorder.finalize_non_streaming(outcome)
        raise WithheldError(final.notice)
    if final is not call:
        data["modified_arguments"] = final.arguments
    return entry


def _request(call: McpCall) -> dict[str, Any]:
    return {"name": call.name, "arguments": call.arguments}


class JudgedResults:
    """Replacement for a function of LiteLLM: it judges the results of MCP servers.

    LiteLLM asks guardrails about results. It asks callbacks only when it logs: without the structured result, without
    some kinds of content, and a failing callback does not stop the result.
    """

    def __init__(self, holder: PolicyHolder, telemetry: Telemetry, inner: Callable[..., Awaitable[object]]) -> None:
        self._holder = holder
        self._telemetry = telemetry
        self._inner = inner

    @classmethod
    def install(cls, holder: PolicyHolder, telemetry: Telemetry, proxy_logging: object, manager: object) -> None:
        """Replaces LiteLLM's hook for results of tools, and its `manager`'s functions for other contents.

        An earlier replacement is replaced.
        """
        for owner, name in ((proxy_logging, _TOOL_RESULTS), *((manager, name) for name in OTHER_CONTENTS)):
            inner = getattr(owner, name)
            setattr(owner, name, cls(holder, telemetry, inner._inner if isinstance(inner, JudgedResults) else inner))

    async def __call__(self, *args: Any, **kwargs: Any) -> object:
        user = kwargs.get("user_api_key_dict") or kwargs.get("user_api_key_auth")
        try:
            result = await self._inner(*args, **kwargs)
        except MCPError as error:
            raise await self._judged_error(error, user) from None
        if not isinstance(result, CallToolResult | GetPromptResult | ReadResourceResult):
            return result
        call = current_call() if isinstance(result, CallToolResult) else None
        entry = None if call is None or call.is_over else call.log_entry
        if entry is None:
            return await self._govern_alone(result, user)
        recorder = entry.recorder
        is_progress = isinstance(recorder, McpRecorder) and recorder.task is not asyncio.current_task()
        context = _beside(entry.context) if is_progress else entry.context
        try:
            return await govern_result(entry.in_force, context, result)
        finally:
            if is_progress:
                entry.context.decisions += context.decisions

    async def _judged_error(self, error: MCPError, user: UserAPIKeyAuth | None) -> MCPError:
        """Returns the error for the client: the same object, if the policy changes no text of it."""
        beside = None if error.error.data is None else {"data": error.error.data}
        told = CallToolResult(content=[TextContent(type="text", text=error.error.message)], structured_content=beside)
        judged = await self._govern_alone(told, user)
        if judged is told:
            return error
        texts = [content.text for content in _contents(judged) if isinstance(content, TextContent)]
        return MCPError(error.error.code, "\n".join(texts) or _WITHHELD_ERROR)

    async def _govern_alone(self, result: McpResult, user: UserAPIKeyAuth | None) -> McpResult:
        """Judges a prompt or a resource, a transaction of its own: LiteLLM asks about its request no callback, and logs
        nothing of it."""
        in_force = self._holder.current
        entry = begin(Transaction(MCP_CALL, in_force), self._telemetry, user, Request({}, is_untold=True), {})
        await entry.recorder.record_request({}, {})
        try:
            await select(entry.context, in_force, {}, user)
        except PolicyBlockedError as refused:
            await entry.recorder.finalize_non_streaming(outcome_of(entry.context, None))
            return _with_notice(result, refused.message)
        return await govern_result(in_force, entry.context, result)


def _beside(context: PolicyContext) -> PolicyContext:
    """Returns a context for a text of a call's progress. Since 1.108 LiteLLM asks about it as about a result, but in
    another task than the call's."""
    return PolicyContext(
        context.transaction_id, context.request, identity=context.identity, observability=context.observability
    )


_TOOL_RESULTS = "post_mcp_call_hook"
OTHER_CONTENTS = ("get_prompt_from_server", "read_resource_from_server")


def mcp_manager() -> object:
    """Returns LiteLLM's source of prompts and resources of MCP servers."""
    try:
        return import_module("litellm.proxy.mcp_server.mcp_server_manager").global_mcp_server_manager
    except ModuleNotFoundError:  # until 1.109
        return import_module("litellm.proxy._experimental.mcp_server.mcp_server_manager").global_mcp_server_manager


async def govern_result(in_force: ActivePolicy, context: PolicyContext, result: McpResult) -> McpResult:
    """Returns the result for the client: the same object, if the policy changes nothing."""
    original = texts_of(result)
    try:
        texts = cast(Sequence[str | None], await in_force.executor.run_full(original, TextsAdapter(), context))
        return result if texts == original else with_texts(result, texts)
    except PolicyBlockedError as blocked:
        return _with_notice(result, blocked.message)
    except Exception:
        logger.exception("the result of a tool could not be checked; it is withheld")
        return _with_notice(result, "The result was withheld: it could not be checked.")


def _with_notice(result: McpResult, words: str) -> McpResult:
    added = TextContent(type="text", text=words)
    if isinstance(result, GetPromptResult):
        return GetPromptResult(messages=[PromptMessage(role="user", content=added)])
    if isinstance(result, ReadResourceResult):
        return ReadResourceResult(contents=[])
    return CallToolResult(content=[added], is_error=True)


_TEXT_FIELDS = ("text", "title", "name", "description")
"""Judged fields of a content, or of its resource. Addresses and names of types are not."""


def texts_of(result: McpResult) -> list[str]:
    """Returns all judged texts: those of the contents, then the text beside them."""
    beside = _extra_text(result)
    return [*(place.text for place in _places(_contents(result))), *([] if beside is None else [beside])]


def with_texts(result: McpResult, texts: Texts) -> McpResult:
    """Returns a copy with `texts` at the places of `texts_of`, and further texts at the end.

    A content whose text is None is left out. So is the result's unjudged `_meta`.
    """
    original = _contents(result)
    contents, rest = _replaced_all(original, texts)
    update: dict[str, Any] = {"meta": None}
    if (beside := _extra_text(result)) is not None:
        text, *rest = rest or [None]
        update |= {} if text == beside else _extra_fields(result, text)
    added = [TextContent(type="text", text=text) for text in rest if text]
    if isinstance(result, CallToolResult):
        update["content"] = [*(content for content in contents if content is not None), *added]
    elif isinstance(result, GetPromptResult):
        pairs = zip(result.messages, contents, strict=True)
        messages = [
            message.model_copy(update={"content": content}) for message, content in pairs if content is not None
        ]
        update["messages"] = [*messages, *(PromptMessage(role="user", content=content) for content in added)]
    else:
        update["contents"] = [content for content in contents if content is not None]
    return result.model_copy(update=update)


@dataclass(frozen=True, slots=True)
class _Place:
    """Text of the content at `index`, in its own field or in one of its `resource`."""

    index: int
    path: tuple[str, ...]
    text: str


def _contents(result: McpResult) -> Sequence[BaseModel]:
    if isinstance(result, CallToolResult):
        return result.content
    if isinstance(result, GetPromptResult):
        return [message.content for message in result.messages]
    return result.contents


def _places(contents: Sequence[BaseModel]) -> list[_Place]:
    return [place for index, content in enumerate(contents) for place in _places_in(content, index)]


def _places_in(content: BaseModel, index: int) -> Iterator[_Place]:
    for path in [(name,) for name in _TEXT_FIELDS] + [("resource", name) for name in _TEXT_FIELDS]:
        found: object = content
        for name in path:
            found = getattr(found, name, None)
        if isinstance(found, str) and found:
            yield _Place(index, path, found)


def _replaced_all(original: Sequence[BaseModel], texts: Texts) -> tuple[list[BaseModel | None], list[str | None]]:
    """Returns the contents, None for an omitted one, and the texts beyond them."""
    places, contents = _places(original), cast(list[BaseModel | None], list(original))
    for place, text in zip(places, texts, strict=False):
        content = contents[place.index]
        if content is not None and text != place.text:
            contents[place.index] = None if text is None else _replaced(content, place.path, text)
    return contents, list(texts[len(places) :])


def _replaced(content: BaseModel, path: tuple[str, ...], text: str) -> BaseModel:
    first, *rest = path
    inner: object = _replaced(getattr(content, first), tuple(rest), text) if rest else text
    return content.model_copy(update={first: inner, "meta": None})


def _extra_text(result: McpResult) -> str | None:
    """Returns the structured result as JSON, or the description of a prompt."""
    if isinstance(result, GetPromptResult):
        return result.description or None
    structured: object = result.structured_content if isinstance(result, CallToolResult) else None
    return None if structured is None else json.dumps(structured, ensure_ascii=False, default=str)


def _extra_fields(result: McpResult, text: str | None) -> dict[str, Any]:
    """Returns the fields for a changed text beside the contents.

    Invalid JSON is left out, and the result becomes an error: LiteLLM demands one or the other of a tool with an
    announced structured result.
    """
    if isinstance(result, GetPromptResult):
        return {"description": text}
    try:
        value: object = json.loads(text or "")
    except ValueError:
        value = None
    is_same_kind = value is not None and isinstance(value, type(getattr(result, "structured_content", None)))
    return {"structured_content": value} if is_same_kind else {"structured_content": None, "is_error": True}
