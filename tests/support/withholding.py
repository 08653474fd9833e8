"""Policies for tests that let nothing of an answer through."""

from luthien_litellm_hooks import Request, SimplePolicy, ToolCall


class WithholdsAll(SimplePolicy):
    """Withholds every block."""

    async def on_response_content(self, content: str, request: Request) -> str | None:
        return None

    async def on_response_reasoning(self, content: str, request: Request) -> str | None:
        return None

    async def on_response_tool_call(self, tool_call: ToolCall, request: Request) -> ToolCall | None:
        return None
