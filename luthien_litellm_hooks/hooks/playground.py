"""What a policy makes of a single text, without a provider: for the playground of LiteLLM's guardrails."""

import uuid
from typing import Any, cast

from litellm.types.utils import Choices, Message, ModelResponse

from luthien_litellm_hooks.errors import PolicyBlockedError
from luthien_litellm_hooks.hooks.in_force import InForce
from luthien_litellm_hooks.hooks.routes import GOVERNED
from luthien_litellm_hooks.hooks.ungoverned import refusal
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.request import Answer, Request


async def judged_request(in_force: InForce, text: str) -> str:
    """The text of a user's request as the provider would get it, or what the client would get
    instead. Raises a refusal if that is an error."""
    context = _context(text)
    try:
        result = await in_force.executor.on_request(context)
    except PolicyBlockedError as blocked:
        if in_force.executor.on_block == "error":
            raise refusal(in_force.block_status, blocked.message) from None
        return blocked.message
    return result.text if isinstance(result, Answer) else str(result.body["messages"][-1]["content"])


async def judged_answer(in_force: InForce, text: str) -> str:
    """The text of an answer as the client would get it. Raises a refusal if that is an error."""
    context = _context("")
    choice = Choices(index=0, finish_reason="stop", message=Message(role="assistant", content=text))
    response = ModelResponse(model=context.request.model, choices=[choice])
    adapter = GOVERNED["acompletion"](context.request)
    try:
        judged = cast(Any, await in_force.executor.run_full(response, adapter, context))
    except PolicyBlockedError as blocked:
        raise refusal(in_force.block_status, blocked.message) from None
    return str(judged.choices[0].message.content or "")


def _context(text: str) -> PolicyContext:
    body = {"model": "playground", "messages": [{"role": "user", "content": text}]}
    return PolicyContext(str(uuid.uuid4()), Request(body))
