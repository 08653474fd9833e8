"""`ToolGatePolicy`: judges the tool calls of a response side by side, while its text streams on."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from typing import assert_never, cast

from luthien_litellm_hooks.policy.base import Policy
from luthien_litellm_hooks.policy.context import PolicyContext, Question, StreamingResponseContext
from luthien_litellm_hooks.policy.limits import keep_undecided, tally
from luthien_litellm_hooks.policy.notices import notice, one_line
from luthien_litellm_hooks.policy.sending import (
    drop_block,
    passthrough_accumulated_chunks,
    send_flag,
    send_notice,
    send_text,
    send_tool_call,
)
from luthien_litellm_hooks.recording.decision import Approval, PolicyAction, Spent
from luthien_litellm_hooks.wire.events import StreamBlock, ToolCall, ToolCallStreamBlock

_SHOWN_NAME = 100  # characters
_LEFT_TO_USER = "The proxy's policy leaves this call to its user."
_PROMPT_S = 0.005
"""Seconds to wait for a prompt verdict, so that its call need not wait for later events."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Verdict on one tool call: it passes, `instead` replaces it, a person is asked, or it is withheld.

    `message` is for the client. `reason`, `evidence` and `score` are for the operator alone, as in `Decision`. A person
    who is asked sees the first two. `milliseconds` and `spent` are measured. The gate sets `approval`.
    """

    action: PolicyAction
    instead: tuple[ToolCall | str, ...] = ()
    message: str | None = None
    reason: str | None = None
    score: float | None = None
    evidence: str | None = None
    milliseconds: float | None = None
    spent: Spent | None = None
    approval: Approval | None = None

    @property
    def texts(self) -> list[str]:
        """Texts in `instead`."""
        return [piece for piece in self.instead if isinstance(piece, str)]

    @property
    def calls(self) -> list[ToolCall]:
        """Calls in `instead`."""
        return [piece for piece in self.instead if isinstance(piece, ToolCall)]


ALLOW = Verdict("allow")


class ToolGatePolicy(Policy):
    """Base class of policies on tool calls: holds each call of a response until its verdict.

    `judge_tool_call` runs for every call as soon as the call is whole, for several side by side. After the model's
    finish, one notice gives all messages. Texts that replace calls follow, then the remaining calls in their order. If
    text may follow a call (`ctx.has_text_after_calls`), the first allowed calls without a message leave earlier.

    A call with the verdict `ask` is put before a person. The response waits for the decision as long as the settings
    allow. The approved call passes, with the person's changes, and any other is withheld.

    If a verdict fails, the calls withheld by other verdicts stay withheld, regardless of `on_policy_error`. A server's
    call gets its verdict at once, because its result follows. If a withheld call was cut off by the model's token
    limit, the message says only that.
    """

    async def judge_tool_call(self, tool_call: ToolCall, ctx: PolicyContext) -> Verdict:
        """Returns the verdict on one call.

        It runs beside the hooks, so it may wait as long as it must. `timeout_s` limits the wait of the finished
        response for it, but not for a person.
        """
        raise NotImplementedError

    async def on_tool_call_delta(self, ctx: StreamingResponseContext) -> None:
        await _release_allowed(ctx)

    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        if isinstance(ctx.block, ToolCallStreamBlock):
            verdict = asyncio.create_task(measured(partial(self.judge_tool_call, ctx.block.tool_call), ctx))
            _pending(ctx).append(_Pending(ctx.block, verdict))
            if ctx.block.form == "server":
                await _deliver(ctx, [_pending(ctx)[-1]])
                return
            try:
                if ctx.has_text_after_calls:
                    await asyncio.wait([verdict], timeout=_PROMPT_S)
                await _release_allowed(ctx)
            except asyncio.CancelledError:  # at the deadline, held calls may pass
                _withhold(ctx, _pending(ctx))
                _withhold(ctx, _pending(ctx), "ask")
                raise

    async def on_finish_reason(self, ctx: StreamingResponseContext) -> None:
        await _deliver(ctx, [call for call in _pending(ctx) if call.block.choice == ctx.choice])

    async def on_stream_complete(self, ctx: StreamingResponseContext) -> None:
        for choice in sorted({call.block.choice for call in _pending(ctx)}):  # choices without a finish
            ctx.choice = choice
            await _deliver(ctx, [call for call in _pending(ctx) if call.block.choice == choice])

    async def on_stream_closed(self, ctx: StreamingResponseContext) -> None:
        pending = _pending(ctx)
        for call in pending:
            call.verdict.cancel()
        for outcome in await asyncio.gather(*(call.verdict for call in pending), return_exceptions=True):
            if isinstance(outcome, BaseException):
                outcome.__traceback__ = None  # its frames hold the calls, and the calls hold the outcome


async def measured(judge: Callable[[PolicyContext], Awaitable[Verdict]], ctx: PolicyContext) -> Verdict:
    """Returns the verdict with its time and its model calls.

    The calls of a failed judgement stay for the decision about the failure.
    """
    began = time.monotonic()
    with tally() as counted:
        try:
            verdict = await judge(ctx)
        except Exception:
            keep_undecided(ctx.scratchpad, counted.spent)
            raise
    milliseconds = (time.monotonic() - began) * 1000
    return replace(verdict, milliseconds=milliseconds, spent=counted.spent if counted.spent.calls else None)


@dataclass(frozen=True, slots=True)
class _Pending:
    block: ToolCallStreamBlock
    verdict: asyncio.Task[Verdict]


def _pending(ctx: StreamingResponseContext) -> list[_Pending]:
    """Returns the held calls."""
    return cast(list[_Pending], ctx.scratchpad.setdefault("tool_gate.pending", []))


async def _release_allowed(ctx: StreamingResponseContext) -> None:
    """Releases the first allowed calls without a message, if a notice about a later call may follow them."""
    pending = _pending(ctx) if ctx.has_text_after_calls else []
    while pending and (verdict := _verdict_of(pending[0])) and verdict.action == "allow" and not verdict.message:
        await _apply(ctx, pending[0].block, verdict)
        pending.pop(0)


async def _deliver(ctx: StreamingResponseContext, calls: Sequence[_Pending]) -> None:
    if not calls:
        return
    verdicts: list[tuple[ToolCallStreamBlock, Verdict]] = []
    try:
        try:
            await asyncio.wait([call.verdict for call in calls])
        finally:
            _withhold(ctx, calls)
        # `result` raises the error of a failed verdict
        made = [_explained(ctx, call, call.verdict.result()) for call in calls]
        settled = await _settled(ctx, [call.block.tool_call for call in calls], made)
        verdicts = [(call.block, verdict) for call, verdict in zip(calls, settled, strict=True)]
    finally:
        if not verdicts:  # at the deadline, or when a verdict fails, the rest may pass
            _withhold(ctx, calls, "ask")
    delivered = {id(call) for call in calls}
    _pending(ctx)[:] = [call for call in _pending(ctx) if id(call) not in delivered]
    if messages := [verdict.message for _, verdict in verdicts if verdict.message]:
        await send_notice(ctx, "\n".join(dict.fromkeys(messages)))
    for text in [text for _, verdict in verdicts for text in verdict.texts]:
        await send_text(ctx, text)
    for block, verdict in verdicts:
        await _apply(ctx, block, verdict)


def _explained(ctx: StreamingResponseContext, call: _Pending, verdict: Verdict) -> Verdict:
    """Returns `verdict`, with another message if the call was cut off: nothing in it was forbidden."""
    if verdict.action not in ("block", "ask") or not ctx.is_cut_off or _is_whole(call.block.tool_call):
        return verdict
    message = (
        f"The tool call {one_line(call.block.name, _SHOWN_NAME)} was cut off before its end, so it was not delivered."
    )
    reason = "cut off before its end" if verdict.reason is None else f"cut off before its end: {verdict.reason}"
    return replace(verdict, action="block", message=message, reason=reason)


def _is_whole(call: ToolCall) -> bool:
    """Tells if the arguments of `call` are complete; free text never shows it."""
    if call.form == "custom":
        return False
    try:
        json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        return False
    return True


async def _settled(
    ctx: StreamingResponseContext, calls: Sequence[ToolCall], verdicts: Sequence[Verdict]
) -> list[Verdict]:
    """Returns the verdicts, with a person's decision where the policy asks for one."""
    asked = [number for number, verdict in enumerate(verdicts) if verdict.action == "ask"]
    approvals: list[Approval] = []
    if asked and ctx.approvals is not None and not ctx.is_observed:
        questions = [Question(calls[each], verdicts[each].reason, verdicts[each].evidence) for each in asked]
        approvals = await ctx.approvals.ask(ctx, questions)
    settled = [*verdicts]
    for number, approval in zip_longest(asked, approvals):
        settled[number] = _with_approval(verdicts[number], calls[number], approval)
    return settled


def _with_approval(verdict: Verdict, call: ToolCall, approval: Approval | None) -> Verdict:
    """Returns the verdict on an asked call: it passes, as the person may have edited it, or it is withheld."""
    if approval is not None and approval.state == "in_client":
        return replace(verdict, message=None, approval=replace(approval, message=verdict.message or _LEFT_TO_USER))
    if approval is not None and approval.passes:
        edited = () if approval.arguments is None else (replace(call, arguments=approval.arguments),)
        return replace(verdict, message=None, instead=edited, approval=approval)
    words = [verdict.message, _refusal(one_line(call.name, _SHOWN_NAME), approval)]
    return replace(verdict, message=" ".join(filter(None, words)), instead=(), approval=approval)


def _refusal(name: str, approval: Approval | None) -> str:
    """Returns the message to the client about a call that no person has approved."""
    state = "unavailable" if approval is None else approval.state
    id = "" if approval is None else approval.id
    said = f": {approval.message}" if approval is not None and approval.message else "."
    match state:
        case "pending":
            return (
                f"The call of {name} waits for a person's approval ({id}). "
                "Make exactly this call again later, or go on with other work."
            )
        case "denied":
            return f"A person denied the call of {name} ({id}){said}"
        case "too_many":
            return f"The call of {name} needs a person's approval, and too many calls wait for one. Do not repeat it."
        case "too_large":
            return f"The call of {name} needs a person's approval, and is too long for a person to read."
        case "unavailable":
            return f"The call of {name} needs a person's approval, and nobody can be asked now."
        case "approved" | "in_client":
            raise ValueError("a call that passes is not refused")
        case _:
            assert_never(state)


def _withhold(ctx: StreamingResponseContext, calls: Sequence[_Pending], action: PolicyAction = "block") -> None:
    for call in calls:
        if (verdict := _verdict_of(call)) and (explained := _explained(ctx, call, verdict)).action == action:
            record_verdict(ctx, explained, call.block)
            drop_block(ctx, call.block)


def _verdict_of(call: _Pending) -> Verdict | None:
    """Returns the verdict on a call; None if it is missing or failed."""
    verdict = call.verdict
    is_there = verdict.done() and not verdict.cancelled() and verdict.exception() is None
    return verdict.result() if is_there else None


async def _apply(ctx: StreamingResponseContext, block: ToolCallStreamBlock, verdict: Verdict) -> None:
    if verdict.action == "allow":
        await passthrough_accumulated_chunks(ctx, block)
    for call in verdict.calls:
        await send_tool_call(ctx, call, block)
    match verdict.action:
        case "allow":
            if verdict.reason is not None:
                record_verdict(ctx, verdict, block)
        case "modify":
            drop_block(ctx, block)
            record_verdict(ctx, verdict, block)
        case "ask":
            if verdict.approval is not None and verdict.approval.passes and not verdict.calls:
                if verdict.approval.state == "in_client" and block.id:
                    explanation = notice(verdict.approval.message or "", ctx.transaction_id)
                    await send_flag(ctx, block, block.id, explanation)
                await passthrough_accumulated_chunks(ctx, block)
            else:
                drop_block(ctx, block)
            record_verdict(ctx, verdict, block)
        case "block":  # withheld and recorded before
            pass
        case _:
            assert_never(verdict.action)


def record_verdict(ctx: StreamingResponseContext, verdict: Verdict, block: StreamBlock | None = None) -> None:
    """Records `verdict` as the decision about `block`, by default the hook's block."""
    ctx.decide(
        verdict.action,
        block=block,
        reason=verdict.reason,
        message=verdict.message,
        score=verdict.score,
        evidence=verdict.evidence,
        milliseconds=verdict.milliseconds,
        spent=verdict.spent,
        approval=verdict.approval,
    )
