"""`ChunkPolicy`: a policy that changes text piece by piece, while it streams."""

from typing import cast

from luthien_litellm_hooks.errors import PolicyError
from luthien_litellm_hooks.events import StreamBlock
from luthien_litellm_hooks.policy.base import Policy
from luthien_litellm_hooks.policy.context import StreamingResponseContext
from luthien_litellm_hooks.policy.helpers import passthrough_last_chunk, send_text


class ChunkPolicy(Policy):
    """Sees each piece of text as it comes, and delivers another in place of it, at once.

    How a provider cuts a text into pieces means nothing: what must see whole words or sentences is a
    `SimplePolicy`, or keeps the rest in `ctx.scratchpad` and sends it in `on_content_complete`. A full
    answer is one piece. Reasoning and tool calls pass.
    """

    async def process_chunk(self, delta: str, ctx: StreamingResponseContext) -> str:
        """Returns the text that the client is to get in place of `delta`; "" for nothing."""
        raise NotImplementedError

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        delta = ctx.delta or ""
        _decided_before(ctx)
        text = cast(object, await self.process_chunk(delta, ctx))
        if not isinstance(text, str):
            raise PolicyError(f"process_chunk returned a {type(text).__name__}, not a str")
        if text == delta:
            await passthrough_last_chunk(ctx)
        else:
            _note_change(ctx)
            await send_text(ctx, text)


def _note_change(ctx: StreamingResponseContext) -> None:
    """Records the change of a block, once."""
    since = _decided_before(ctx)
    made = (decision for decision in ctx.decisions[since:] if decision.block is ctx.block)
    if not any(decision.policy == ctx.policy_name for decision in made):
        ctx.decide("modify")


def _decided_before(ctx: StreamingResponseContext) -> int:
    """How many decisions there were when the block began."""
    before = cast(dict[StreamBlock | None, int], ctx.scratchpad.setdefault("chunk.decided_before", {}))
    return before.setdefault(ctx.block, len(ctx.decisions))
