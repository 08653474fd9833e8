"""MCP tool calls through LiteLLM's gateway: judged before they are made, their results after."""

import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from importlib import import_module
from typing import Any, cast

from litellm.exceptions import GuardrailRaisedException
from litellm.proxy._types import UserAPIKeyAuth
from mcp.types import CallToolResult, GetPromptResult, PromptMessage, ReadResourceResult, TextContent

from luthien_litellm_hooks.adapters.mcp import McpCall, McpCallAdapter
from luthien_litellm_hooks.adapters.texts import TextsAdapter
from luthien_litellm_hooks.errors import PolicyBlockedError
from luthien_litellm_hooks.executor import PolicyExecutor
from luthien_litellm_hooks.hooks.identity import read_identity
from luthien_litellm_hooks.hooks.in_force import InForce, LivePolicy
from luthien_litellm_hooks.hooks.mcp_results import McpResult, texts_of, with_texts
from luthien_litellm_hooks.hooks.request_data import read_request
from luthien_litellm_hooks.hooks.selecting import select
from luthien_litellm_hooks.log_lines import logger
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.request import Request

_call: ContextVar[tuple[PolicyExecutor, PolicyContext] | None] = ContextVar("luthien_mcp_call", default=None)


async def govern_call(in_force: InForce, data: dict[str, Any], user: UserAPIKeyAuth | None) -> None:
    """Puts the arguments that the policy lets through into `data`. Raises if the call is not to be
    made; LiteLLM tells the client just the message of it."""
    context = PolicyContext(str(uuid.uuid4()), read_request(data), identity=read_identity(user))
    executor = in_force.executor
    _call.set((executor, context))
    call = McpCall(str(data.get("mcp_tool_name") or ""), cast(dict[str, Any], data.get("mcp_arguments") or {}))
    try:
        await select(context, in_force, data, user)
        final = cast(McpCall, await executor.run_full(call, McpCallAdapter(), context))
    except PolicyBlockedError as blocked:
        raise withheld(blocked.message) from None
    except Exception:
        logger.exception("a tool call could not be checked; it is withheld")
        raise withheld("The tool call was withheld: it could not be checked.") from None
    if final.notice is not None:
        raise withheld(final.notice)
    if final is not call:
        data["modified_arguments"] = final.arguments


def withheld(message: str) -> GuardrailRaisedException:
    """What tells the client that a call is not made."""
    return GuardrailRaisedException("luthien", message, should_wrap_with_default_message=False)


class JudgedResults:
    """Stands in the place of a function of LiteLLM's through which the results of MCP servers go, and judges them.

    LiteLLM asks guardrails about results, and callbacks only when it logs them: without the structured
    result, not with each kind of content, and without harm to a result of which the callback fails.
    """

    def __init__(self, live: LivePolicy, inner: Callable[..., Awaitable[object]]) -> None:
        self._live = live
        self._inner = inner

    @classmethod
    def install(cls, live: LivePolicy, proxy_logging: object, manager: object) -> None:
        """Puts one before LiteLLM's own hook for results of tools, and one before each function of its `manager`
        that brings other contents; where one was installed before, in its place."""
        for owner, name in ((proxy_logging, _TOOL_RESULTS), *((manager, name) for name in OTHER_CONTENTS)):
            inner = getattr(owner, name)
            setattr(owner, name, cls(live, inner._inner if isinstance(inner, JudgedResults) else inner))

    async def __call__(self, *args: Any, **kwargs: Any) -> object:
        result = await self._inner(*args, **kwargs)
        if not isinstance(result, CallToolResult | GetPromptResult | ReadResourceResult):
            return result
        user = kwargs.get("user_api_key_dict") or kwargs.get("user_api_key_auth")
        executor, context = _call.get() or _unasked(self._live, user)
        return await govern_result(executor, result, context)


_TOOL_RESULTS = "post_mcp_call_hook"
OTHER_CONTENTS = ("get_prompt_from_server", "read_resource_from_server")


def mcp_manager() -> object:
    """LiteLLM's object through which prompts and resources of MCP servers come."""
    try:
        return import_module("litellm.proxy.mcp_server.mcp_server_manager").global_mcp_server_manager
    except ModuleNotFoundError:  # until 1.109
        return import_module("litellm.proxy._experimental.mcp_server.mcp_server_manager").global_mcp_server_manager


def _unasked(live: LivePolicy, user: UserAPIKeyAuth | None) -> tuple[PolicyExecutor, PolicyContext]:
    """For what is no tool call's: the policy in force now."""
    return live.current.executor, PolicyContext(str(uuid.uuid4()), Request({}), identity=read_identity(user))


async def govern_result(executor: PolicyExecutor, result: McpResult, context: PolicyContext) -> McpResult:
    """The result that the client is to get: the same object, if the policy changed nothing."""
    came = texts_of(result)
    try:
        texts = cast(Sequence[str | None], await executor.run_full(came, TextsAdapter(), context))
        return result if texts == came else with_texts(result, texts)
    except PolicyBlockedError as blocked:
        return _instead(result, blocked.message)
    except Exception:
        logger.exception("the result of a tool could not be checked; it is withheld")
        return _instead(result, "The result was withheld: it could not be checked.")


def _instead(result: McpResult, words: str) -> McpResult:
    said = TextContent(type="text", text=words)
    if isinstance(result, GetPromptResult):
        return GetPromptResult(messages=[PromptMessage(role="user", content=said)])
    if isinstance(result, ReadResourceResult):
        return ReadResourceResult(contents=[])
    return CallToolResult(content=[said], is_error=True)
