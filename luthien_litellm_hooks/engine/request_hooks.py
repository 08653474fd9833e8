"""Runs policies over a request, before the provider is called."""

import asyncio
from collections.abc import Sequence
from typing import assert_never

from luthien_litellm_hooks.engine.composition import ConfiguredPolicy, ConfiguredStage, Parallel, clock_of, view_of
from luthien_litellm_hooks.engine.hook_call import HookDeadline, call_hook, failure_notice, record_refusal
from luthien_litellm_hooks.errors import PolicyBlockedError, PolicyError
from luthien_litellm_hooks.policy.base import Policy
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.request import Answer, Request
from luthien_litellm_hooks.recording.decision import SEVERITY, PolicyAction

Reply = Request | Answer | PolicyBlockedError


async def run_request_hooks(
    stage: ConfiguredStage, request: Request, contexts: Sequence[PolicyContext], ctx: PolicyContext, max_hold_s: float
) -> Request | Answer:
    """Runs the `on_request` hooks of a stage over `request`, and returns the result.

    Raises `PolicyBlockedError` when a policy refuses, or fails and is to block. All hooks of the transaction
    together get `max_hold_s` seconds.
    """
    if isinstance(stage, ConfiguredPolicy):
        reply = await _reply(stage, request, contexts[0], max_hold_s)
    else:
        members = zip(stage.members, contexts, strict=True)
        replies = await asyncio.gather(*(_reply(member, request, context, max_hold_s) for member, context in members))
        reply = _tally(stage, request, replies, ctx)
    if isinstance(reply, PolicyBlockedError):
        raise reply
    return reply


async def _reply(member: ConfiguredPolicy, request: Request, ctx: PolicyContext, max_hold_s: float) -> Reply:
    ctx.request = request
    if type(member.policy).on_request is Policy.on_request:
        return request
    deadline = HookDeadline(member.timeout_s, clock_of(ctx), max_hold_s)

    async def run() -> Reply:
        try:
            result = await deadline.run_in_task(member.policy.on_request(request, ctx))
        except PolicyBlockedError as refusal:
            record_refusal(ctx, refusal)
            return refusal
        _check(request, result)
        return result

    try:
        return await call_hook(ctx, "on_request", run, member.on_policy_error, fallback=request)
    except PolicyError:
        return PolicyBlockedError(failure_notice(ctx))


def _check(request: Request, result: object) -> None:
    if not isinstance(result, Request | Answer):
        raise PolicyError(f"on_request returned a {type(result).__name__}, not a Request or an Answer")
    if isinstance(result, Request) and result.is_streaming != request.is_streaming:
        raise PolicyError("on_request changed 'stream', which decides the format that the client reads")


def _tally(parallel: Parallel, request: Request, replies: Sequence[Reply], ctx: PolicyContext) -> Reply:
    """Returns the winner of the vote: refusals win over answers, answers over changes."""
    objections = [reply for reply in replies[: len(parallel.voters)] if reply != request]
    winner = request
    if len(objections) >= parallel.objections_needed:
        winner = max(
            objections, key=lambda reply: (SEVERITY[_action(reply, request)], isinstance(reply, PolicyBlockedError))
        )
    if any(reply != request for reply in replies):
        votes = ", ".join(
            f"{number}: {member.name} {_action(reply, request)}"
            for number, (member, reply) in enumerate(zip(parallel.members, replies, strict=True))
        )
        view_of(ctx, parallel.name, parallel.name).decide(_action(winner, request), reason=f"votes: {votes}")
    return winner


def _action(reply: Reply, request: Request) -> PolicyAction:
    match reply:
        case Request():
            return "allow" if reply == request else "modify"
        case Answer() | PolicyBlockedError():
            return "block"
        case _:
            assert_never(reply)
