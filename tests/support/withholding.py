"""Policies for tests that hold an answer, or let nothing of it through."""

from luthien_litellm_hooks import (
    Policy,
    Request,
    SimplePolicy,
    StreamingResponseContext,
    ToolCall,
    passthrough_accumulated_chunks,
)


class Holding(Policy):
    """Holds every block until it is whole, then lets it out as it came, or does with it as a subclass says."""

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None: ...

    on_reasoning_delta = on_tool_call_delta = on_content_delta

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        await passthrough_accumulated_chunks(ctx)

    async def on_reasoning_complete(self, ctx: StreamingResponseContext) -> None:
        await passthrough_accumulated_chunks(ctx)

    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        await passthrough_accumulated_chunks(ctx)


class WithholdsAll(SimplePolicy):
    """Withholds every block."""

    async def on_response_content(self, content: str, request: Request) -> str | None:
        return None

    async def on_response_reasoning(self, content: str, request: Request) -> str | None:
        return None

    async def on_response_tool_call(self, tool_call: ToolCall, request: Request) -> ToolCall | None:
        return None
