"""The answer that a policy gives to a request, delivered as any other answer is."""

from luthien_litellm_hooks.policy.base import Policy
from luthien_litellm_hooks.policy.context import StreamingResponseContext
from luthien_litellm_hooks.policy.helpers import send_text
from luthien_litellm_hooks.policy.request import Answer


class InStead(Policy):
    """Delivers one text, as a whole answer."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def on_stream_complete(self, ctx: StreamingResponseContext) -> None:
        await send_text(ctx, self._answer.text)
