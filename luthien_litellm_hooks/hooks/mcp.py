"""MCP tool calls through LiteLLM's gateway: judged before they are made, their results after."""

from typing import Any, cast

from litellm.exceptions import GuardrailRaisedException
from litellm.types.mcp import MCPPostCallResponseObject
from mcp.types import TextContent

from luthien_litellm_hooks.adapters.mcp import McpCall, McpCallAdapter, McpResultAdapter
from luthien_litellm_hooks.errors import PolicyBlockedError
from luthien_litellm_hooks.executor import PolicyExecutor
from luthien_litellm_hooks.log_lines import logger
from luthien_litellm_hooks.policy.context import PolicyContext


async def govern_call(executor: PolicyExecutor, data: dict[str, Any], context: PolicyContext) -> None:
    """Puts the arguments that the policy lets through into `data`. Raises if the call is not to be
    made; LiteLLM tells the client just the message of it."""
    call = McpCall(str(data.get("mcp_tool_name") or ""), cast(dict[str, Any], data.get("mcp_arguments") or {}))
    try:
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


async def govern_result(
    executor: PolicyExecutor, result: MCPPostCallResponseObject, context: PolicyContext
) -> MCPPostCallResponseObject:
    """The result that the client is to get. Never raises: LiteLLM would deliver the original."""
    try:
        content = await executor.run_full(list(result.mcp_tool_call_response), McpResultAdapter(), context)
    except Exception:
        logger.exception("the result of a tool could not be checked; it is withheld")
        content = [TextContent(type="text", text="The result was withheld: it could not be checked.")]
    return result.model_copy(update={"mcp_tool_call_response": content})
