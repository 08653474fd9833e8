"""`all_caps`: upper-cases responses; a good first policy, because its effect shows at once."""

from dataclasses import replace

from luthien_litellm_hooks.policy.base import Policy, PolicyConfig
from luthien_litellm_hooks.policy.context import StreamingResponseContext
from luthien_litellm_hooks.policy.json_strings import map_json_strings
from luthien_litellm_hooks.policy.limits import LONG, off_loop
from luthien_litellm_hooks.policy.sending import (
    passthrough_accumulated_chunks,
    passthrough_last_chunk,
    send_text,
    send_tool_call,
)
from luthien_litellm_hooks.wire.events import ToolCallStreamBlock


class AllCapsConfig(PolicyConfig):
    """Settings of `all_caps`."""

    tool_arguments: bool = False
    """Also upper-case the string values (not the keys) of tool arguments. A tool call is then held until it is whole.
    """


class AllCaps(Policy):
    """Upper-cases text as it streams, and tool arguments if asked. Reasoning stays unchanged."""

    Config = AllCapsConfig

    def __init__(self, config: AllCapsConfig | None = None) -> None:
        self._tool_arguments = (config or AllCapsConfig()).tool_arguments

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        text = ctx.delta or ""
        if text.upper() == text:
            await passthrough_last_chunk(ctx)
        else:
            await send_text(ctx, text.upper())

    async def on_tool_call_delta(self, ctx: StreamingResponseContext) -> None:
        if not self._tool_arguments:
            await passthrough_last_chunk(ctx)

    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        if not self._tool_arguments or not isinstance(ctx.block, ToolCallStreamBlock):
            return
        call = ctx.block.tool_call
        if len(call.arguments) > LONG:
            arguments = await off_loop(map_json_strings, call.arguments, str.upper)
        else:
            arguments = map_json_strings(call.arguments, str.upper)
        if arguments is None or arguments == call.arguments:
            await passthrough_accumulated_chunks(ctx)
        else:
            await send_tool_call(ctx, replace(call, arguments=arguments))
