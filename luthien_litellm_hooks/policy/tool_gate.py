"""`ToolGatePolicy`: judges the tool calls of an answer, all at once, while its text streams on."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

from luthien_litellm_hooks.events import StreamBlock, ToolCall, ToolCallStreamBlock
from luthien_litellm_hooks.policy.base import Policy
from luthien_litellm_hooks.policy.context import PolicyContext, StreamingResponseContext
from luthien_litellm_hooks.policy.helpers import (
    drop_block,
    passthrough_accumulated_chunks,
    send_notice,
    send_text,
    send_tool_call,
)
from luthien_litellm_hooks.policy.notices import one_line

_SHOWN_NAME = 100  # characters of a tool's name
_PROMPT_S = 0.005
"""A verdict that takes no longer is waited for, so that the call need not wait for what comes next."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one tool call: it passes, what stands in `instead` leaves in its place, or it is
    withheld. The client is told `message`; `reason`, `evidence` and `score` are for the operator alone,
    as in `Decision`.
    """

    action: Literal["allow", "modify", "block"]
    instead: tuple[ToolCall | str, ...] = ()
    message: str | None = None
    reason: str | None = None
    score: float | None = None
    evidence: str | None = None
    milliseconds: float | None = None

    @property
    def texts(self) -> list[str]:
        """The texts that leave in its place."""
        return [piece for piece in self.instead if isinstance(piece, str)]

    @property
    def calls(self) -> list[ToolCall]:
        """The calls that leave in its place."""
        return [piece for piece in self.instead if isinstance(piece, ToolCall)]


ALLOW = Verdict("allow")


class ToolGatePolicy(Policy):
    """Holds the tool calls of an answer until each has its verdict.

    `judge_tool_call` runs for every call as soon as the call is whole, for several side by side.
    When the model has finished, one notice tells what there is to tell, and the calls that remain
    follow in their order; text that leaves in place of calls comes before them. Where text may follow
    a call (`ctx.has_text_after_calls`), the first calls of which there is nothing to tell do not wait for that.
    If a verdict fails, the calls that others withheld stay withheld, whatever `on_policy_error` says of the rest.
    A server's call has its verdict at once, because its result follows. Of a withheld call that the model's token
    limit cut off the client is told just that.
    """

    async def judge_tool_call(self, tool_call: ToolCall, ctx: PolicyContext) -> Verdict:
        """The verdict on one call. Runs beside the hooks, so it may wait as long as it must; what
        `timeout_s` limits is how long the finished answer waits for it."""
        raise NotImplementedError

    async def on_tool_call_delta(self, ctx: StreamingResponseContext) -> None:
        await _let_out_allowed(ctx)

    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        if isinstance(ctx.block, ToolCallStreamBlock):
            verdict = asyncio.create_task(_timed(self.judge_tool_call, ctx.block.tool_call, ctx))
            _pending(ctx).append(_Pending(ctx.block, verdict))
            if ctx.block.form == "server":
                await _deliver(ctx, [_pending(ctx)[-1]])
                return
            try:
                if ctx.has_text_after_calls:
                    await asyncio.wait([verdict], timeout=_PROMPT_S)
                await _let_out_allowed(ctx)
            except asyncio.CancelledError:  # at the deadline: what is held may pass then
                _withhold(ctx, _pending(ctx))
                raise

    async def on_finish_reason(self, ctx: StreamingResponseContext) -> None:
        await _deliver(ctx, [call for call in _pending(ctx) if call.block.choice == ctx.choice])

    async def on_stream_complete(self, ctx: StreamingResponseContext) -> None:
        for choice in sorted({call.block.choice for call in _pending(ctx)}):  # that the provider did not finish
            ctx.choice = choice
            await _deliver(ctx, [call for call in _pending(ctx) if call.block.choice == choice])

    async def on_stream_closed(self, ctx: StreamingResponseContext) -> None:
        pending = _pending(ctx)
        for call in pending:
            call.verdict.cancel()
        for outcome in await asyncio.gather(*(call.verdict for call in pending), return_exceptions=True):
            if isinstance(outcome, BaseException):
                outcome.__traceback__ = None  # its frames hold the calls, and these the outcome


async def _timed(
    judge: Callable[[ToolCall, PolicyContext], Awaitable[Verdict]], tool_call: ToolCall, ctx: PolicyContext
) -> Verdict:
    began = time.monotonic()
    verdict = await judge(tool_call, ctx)
    return replace(verdict, milliseconds=(time.monotonic() - began) * 1000)


@dataclass(frozen=True, slots=True)
class _Pending:
    block: ToolCallStreamBlock
    verdict: asyncio.Task[Verdict]


def _pending(ctx: StreamingResponseContext) -> list[_Pending]:
    """The calls that are held."""
    return cast(list[_Pending], ctx.scratchpad.setdefault("tool_gate.pending", []))


async def _let_out_allowed(ctx: StreamingResponseContext) -> None:
    """Lets out the first calls of which there is nothing to tell, where a notice about a later one may follow them."""
    pending = _pending(ctx) if ctx.has_text_after_calls else []
    while pending and (verdict := _known(pending[0])) and verdict.action == "allow" and not verdict.message:
        await _let_out(ctx, pending[0].block, verdict)
        pending.pop(0)


async def _deliver(ctx: StreamingResponseContext, calls: Sequence[_Pending]) -> None:
    if not calls:
        return
    try:
        await asyncio.wait([call.verdict for call in calls])
    finally:  # also at the deadline, and when a verdict fails
        _withhold(ctx, calls)
    verdicts = [(call.block, _told(ctx, call, call.verdict.result())) for call in calls]  # raises what one failed with
    for call in calls:
        _pending(ctx).remove(call)
    await _tell(ctx, [verdict.message for _, verdict in verdicts if verdict.message])
    for text in [text for _, verdict in verdicts for text in verdict.texts]:
        await send_text(ctx, text)
    for block, verdict in verdicts:
        await _let_out(ctx, block, verdict)


def _told(ctx: StreamingResponseContext, call: _Pending, verdict: Verdict) -> Verdict:
    """`verdict`, with other words for a call that never was whole: nothing in it was forbidden."""
    if verdict.action != "block" or not ctx.is_cut_off or _is_whole(call.block.tool_call):
        return verdict
    told = (
        f"The tool call {one_line(call.block.name, _SHOWN_NAME)} was cut off before its end, so it was not delivered."
    )
    reason = "cut off before its end" if verdict.reason is None else f"cut off before its end: {verdict.reason}"
    return replace(verdict, message=told, reason=reason)


def _is_whole(call: ToolCall) -> bool:
    """Whether the arguments of `call` have an end; free text never shows it."""
    if call.form == "custom":
        return False
    try:
        json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        return False
    return True


def _withhold(ctx: StreamingResponseContext, calls: Sequence[_Pending]) -> None:
    for call in calls:
        if (verdict := _known(call)) and verdict.action == "block":
            _decide(ctx, call.block, _told(ctx, call, verdict))
            drop_block(ctx, call.block)


def _known(call: _Pending) -> Verdict | None:
    """The verdict on a call; None if it is not there, or has failed."""
    verdict = call.verdict
    is_there = verdict.done() and not verdict.cancelled() and verdict.exception() is None
    return verdict.result() if is_there else None


async def _tell(ctx: StreamingResponseContext, messages: Sequence[str]) -> None:
    if messages:
        await send_notice(ctx, "\n".join(dict.fromkeys(messages)))


async def _let_out(ctx: StreamingResponseContext, block: ToolCallStreamBlock, verdict: Verdict) -> None:
    if verdict.action == "allow":
        await passthrough_accumulated_chunks(ctx, block)
    for call in verdict.calls:
        await send_tool_call(ctx, call, block)
    if verdict.action == "modify":
        drop_block(ctx, block)
    if verdict.action == "modify" or (verdict.action == "allow" and verdict.reason is not None):
        _decide(ctx, block, verdict)


def _decide(ctx: StreamingResponseContext, block: StreamBlock, verdict: Verdict) -> None:
    ctx.decide(
        verdict.action,
        block=block,
        reason=verdict.reason,
        message=verdict.message,
        score=verdict.score,
        evidence=verdict.evidence,
        milliseconds=verdict.milliseconds,
    )
