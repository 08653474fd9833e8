"""What policies make of a request, before the provider is called."""

import asyncio
import time
from collections.abc import Sequence

from luthien_litellm_hooks.ballot import Vote
from luthien_litellm_hooks.composition import Member, Parallel, Stage
from luthien_litellm_hooks.deadline import run_apart
from luthien_litellm_hooks.errors import PolicyBlockedError, PolicyError
from luthien_litellm_hooks.failures import failure_notice, note_failure
from luthien_litellm_hooks.policy.base import Policy
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.request import Answer, Request

Reply = Request | Answer | PolicyBlockedError


async def ask(
    stage: Stage, request: Request, contexts: Sequence[PolicyContext], ctx: PolicyContext, max_hold_s: float
) -> Request | Answer:
    """What a stage makes of `request`. Raises `PolicyBlockedError` when it refuses, or fails and is
    to block. All hooks of the transaction may take `max_hold_s` seconds."""
    if isinstance(stage, Member):
        reply = await _reply(stage, request, contexts[0], max_hold_s)
    else:
        members = zip(stage.members, contexts, strict=True)
        replies = await asyncio.gather(*(_reply(member, request, context, max_hold_s) for member, context in members))
        reply = _elect(stage, request, replies, ctx)
    if isinstance(reply, PolicyBlockedError):
        raise reply
    return reply


async def _reply(member: Member, request: Request, ctx: PolicyContext, max_hold_s: float) -> Reply:
    ctx.request = request
    if type(member.policy).on_request is Policy.on_request:
        return request
    ctx.hook_began = time.monotonic()
    started_ns, decided = time.time_ns(), len(ctx.decisions)
    try:
        return await _ask_policy(member, request, ctx, max_hold_s)
    finally:
        made = [decision for decision in ctx.decisions[decided:] if decision.policy == member.name]
        ctx.observability.hook_ran(
            member.name, "on_request", started_ns=started_ns, ended_ns=time.time_ns(), decisions=made
        )


async def _ask_policy(member: Member, request: Request, ctx: PolicyContext, max_hold_s: float) -> Reply:
    try:
        result = await run_apart(member.policy.on_request(request, ctx), member.timeout_s, ctx.hold_clock, max_hold_s)
        _check(request, result)
    except PolicyBlockedError as refusal:
        ctx.decide("block", reason=refusal.reason, message=refusal.message)
        return refusal
    except Exception as error:
        note_failure(ctx, member.name, member.on_policy_error, "on_request", error)
        return request if member.on_policy_error == "pass" else PolicyBlockedError(failure_notice(ctx))
    return result


def _check(request: Request, result: object) -> None:
    if not isinstance(result, Request | Answer):
        raise PolicyError(f"on_request returned a {type(result).__name__}, not a Request or an Answer")
    if isinstance(result, Request) and result.is_streaming != request.is_streaming:
        raise PolicyError("on_request changed 'stream', which decides the format that the client reads")


def _elect(panel: Parallel, request: Request, replies: Sequence[Reply], ctx: PolicyContext) -> Reply:
    """The reply that the votes are for; refusals come before answers, and these before changes."""
    objections = [reply for reply in replies[: len(panel.voters)] if reply != request]
    elected = request
    if len(objections) >= panel.objections_needed:
        elected = min(objections, key=lambda reply: _SEVERITY.index(type(reply)))
    if any(reply != request for reply in replies):
        votes = ", ".join(
            f"{number}: {member.name} {_vote(reply, request)}"
            for number, (member, reply) in enumerate(zip(panel.members, replies, strict=True))
        )
        ctx.of_member(panel.name, panel.name).decide(_vote(elected, request), reason=f"votes: {votes}")
    return elected


_SEVERITY: tuple[type[Reply], ...] = (PolicyBlockedError, Answer, Request)


def _vote(reply: Reply, request: Request) -> Vote:
    if isinstance(reply, Request):
        return "allow" if reply == request else "modify"
    return "block"
