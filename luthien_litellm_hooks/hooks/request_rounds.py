"""What policies make of a request, and of those that LiteLLM may make in its stead."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from luthien_litellm_hooks.errors import PolicyBlockedError
from luthien_litellm_hooks.executor import PolicyExecutor
from luthien_litellm_hooks.hooks.request_data import Alternative, alternatives_in, read_body, write_request
from luthien_litellm_hooks.policy.context import Decision, PolicyContext
from luthien_litellm_hooks.policy.request import Answer, Request


@dataclass(frozen=True, slots=True)
class Judged:
    """The reply to the client's request; and of each alternative LiteLLM's data of its request, as they came,
    and that request as the policies leave it."""

    reply: Request | Answer | PolicyBlockedError
    alternatives: Sequence[tuple[Alternative, dict[str, Any], Request]] = ()

    def write(self, data: dict[str, Any], final: Request) -> None:
        """Puts `final` into LiteLLM's data, and into the alternatives what differs from it."""
        write_request(data, final)
        for alternative, made, its_final in self.alternatives:
            write_request(made, its_final)
            alternative.put(data, made)


async def judge_request(executor: PolicyExecutor, context: PolicyContext, data: dict[str, Any]) -> Judged:
    """Asks the policies about the request, and about each alternative as a request of its own. What they refuse
    or answer themselves of one, they refuse or answer of all."""
    alternatives = [(alternative, alternative.applied_to(data)) for alternative in alternatives_in(data)]
    finals: list[tuple[Alternative, dict[str, Any], Request]] = []
    try:
        reply = await executor.on_request(context)
        for alternative, made in alternatives:
            if not isinstance(reply, Request):
                break
            its_reply = await _of_alternative(executor, context, made)
            if isinstance(its_reply, Request):
                finals.append((alternative, made, its_reply))
            else:
                reply = its_reply
    except PolicyBlockedError as blocked:
        return Judged(blocked)
    return Judged(reply, finals)


async def _of_alternative(executor: PolicyExecutor, context: PolicyContext, made: dict[str, Any]) -> Request | Answer:
    came = context.request
    request = replace(came, body=read_body(made), alternatives=(came, *came.alternatives))
    of_alternative = PolicyContext(
        context.transaction_id,
        request,
        identity=context.identity,
        observability=context.observability,
        recorder=context.recorder,
    )
    of_alternative.hold_clock = context.hold_clock
    try:
        return await executor.on_request(of_alternative)
    finally:
        known = [_said(decision) for decision in context.decisions]
        context.decisions += [decision for decision in of_alternative.decisions if _said(decision) not in known]


def _said(decision: Decision) -> Decision:
    """A decision without the time that it took."""
    return replace(decision, milliseconds=None)
