"""The answer that a policy gives to a request, delivered as any other answer is."""

from luthien_litellm_hooks.policy.base import Policy
from luthien_litellm_hooks.policy.context import StreamingResponseContext
from luthien_litellm_hooks.policy.helpers import drop_block, send_text
from luthien_litellm_hooks.policy.request import Answer


class InStead(Policy):
    """Delivers one text, and nothing of what comes: a cache, say, may have brought a model's answer."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        drop_block(ctx)

    on_reasoning_delta = on_tool_call_delta = on_content_delta

    async def on_stream_complete(self, ctx: StreamingResponseContext) -> None:
        await send_text(ctx, self._answer.text)
