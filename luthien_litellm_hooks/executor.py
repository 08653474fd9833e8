"""Runs a policy over a request and its answer, and decides what happens when the policy fails."""

import asyncio
import logging
import sys
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Sequence
from typing import Literal

import anyio

from luthien_litellm_hooks.adapters.base import Adapter
from luthien_litellm_hooks.deadline import HookDeadline
from luthien_litellm_hooks.egress import MAX_ITEMS, PUT_TIMEOUT_S, EgressQueue, Parcel
from luthien_litellm_hooks.errors import PolicyBlockedError, PolicyError, WireError
from luthien_litellm_hooks.events import Chunk, Finish, StreamEvent, TextDelta
from luthien_litellm_hooks.policy.base import Policy
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.in_stead import InStead
from luthien_litellm_hooks.policy.request import Answer, Request
from luthien_litellm_hooks.running_answer import Decode, OnPolicyError, RunningAnswer, failure_notice, note_failure
from luthien_litellm_hooks.way_out import WayOut, is_whole

logger = logging.getLogger("luthien_litellm_hooks")

OnBlock = Literal["notice", "error"]
HOOK_TIMEOUT_S = 30.0
CLOSE_GRACE_S = 5.0


class PolicyExecutor:
    """Calls one policy's hooks in the promised order, each under a deadline.

    `timeout_s` is what one hook call may take without `keepalive()`. `on_policy_error` says what
    happens when a hook fails: `block` ends the answer with a notice, `pass` lets what was not
    delivered through and leaves the policy out of the rest of the answer. `on_block` says whether
    a full answer that is ended carries the notice, or raises it as `PolicyBlockedError`.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        name: str | None = None,
        timeout_s: float = HOOK_TIMEOUT_S,
        on_policy_error: OnPolicyError = "block",
        on_block: OnBlock = "notice",
        max_items: int = MAX_ITEMS,
        put_timeout_s: float = PUT_TIMEOUT_S,
    ) -> None:
        self.policy = policy
        self.name = name or type(policy).__name__
        self.timeout_s = timeout_s
        self.on_policy_error: OnPolicyError = on_policy_error
        self.on_block: OnBlock = on_block
        self.max_items = max_items
        self.put_timeout_s = put_timeout_s

    async def on_request(self, ctx: PolicyContext) -> Request | Answer:
        """What the policy makes of `ctx.request`; also sets `ctx.final_request`.

        Raises `PolicyBlockedError` when the policy refuses, or fails and is to block.
        """
        ctx.policy_name = self.name
        try:
            result = await HookDeadline(self.timeout_s).run(self.policy.on_request(ctx.request, ctx))
            _check_request(ctx.request, result)
        except PolicyBlockedError as refusal:
            ctx.decide("block", reason=refusal.reason, message=refusal.message)
            raise
        except Exception as error:
            note_failure(ctx, self.name, self.on_policy_error, "on_request", error)
            if self.on_policy_error == "block":
                raise PolicyBlockedError(failure_notice(ctx)) from error
            result = ctx.request
        if isinstance(result, Request):
            ctx.final_request = result
        return result

    async def run(
        self, stream: AsyncIterable[object], adapter: Adapter, ctx: PolicyContext
    ) -> AsyncGenerator[object, None]:
        """The client's stream for a provider's `stream`.

        If the policy has answered the request itself (`ctx.answer`), that is what the client gets,
        whatever comes. What the provider's stream raises is raised here, as the same object. A policy's failure
        never is. Closing the generator closes the provider's stream.
        """
        queue = EgressQueue(self.max_items, self.put_timeout_s)
        running = self._running(queue, ctx, adapter)
        decode = adapter.decode if ctx.answer is None else _nothing
        worker = running.start(stream, decode, adapter.flush)
        way_out = WayOut(adapter)
        is_over = False
        try:
            while (parcel := await queue.take()) is not None:
                for item in _encode(way_out, parcel):
                    yield item
            is_over = True
            if running.outbox.is_touched:
                for item in _close(way_out, adapter):
                    yield item
        finally:
            if not is_over:
                await _stop(worker)

    async def run_full(self, response: object, adapter: Adapter, ctx: PolicyContext) -> object:
        """The client's answer for a provider's whole `response`: the same object if nothing of it
        was changed. The same hooks are called as for a stream. Raises `PolicyBlockedError` if the
        answer is ended and `on_block` is `error`."""
        queue = EgressQueue(sys.maxsize, self.put_timeout_s)
        running = self._running(queue, ctx, adapter)
        decode = _splitting(adapter) if ctx.answer is None else _nothing
        worker = running.start(_one(response), decode, tuple)
        way_out = WayOut(adapter)
        events: list[StreamEvent] = []
        is_over = False
        try:
            while (parcel := await queue.take()) is not None:
                events += way_out.admit(parcel)
            is_over = True
        finally:
            if not is_over:
                await _stop(worker)
        if running.notice is not None and self.on_block == "error":
            raise PolicyBlockedError(running.notice)
        chunk = running.state.raw_chunks[-1] if running.state.raw_chunks else None
        if chunk is None or not is_whole(chunk, events):
            response = adapter.join(response, events + way_out.finish())
        return await self._process_full(response, adapter, ctx)

    def _running(self, queue: EgressQueue, ctx: PolicyContext, adapter: Adapter) -> RunningAnswer:
        ctx.policy_name = self.name
        deadline = HookDeadline(self.timeout_s)
        policy = self.policy if ctx.answer is None else InStead(ctx.answer)
        return RunningAnswer(policy, queue, deadline, ctx, self.on_policy_error, is_framed=adapter.is_framed)

    async def _process_full(self, response: object, adapter: Adapter, ctx: PolicyContext) -> object:
        if ctx.answer is not None or type(self.policy).process_full_response is Policy.process_full_response:
            return response
        try:
            final = await HookDeadline(self.timeout_s).run(self.policy.process_full_response(response, ctx))
            if type(final) is not type(response):
                raise PolicyError(f"a {type(final).__name__} was returned for a {type(response).__name__}")
        except PolicyBlockedError as refusal:
            ctx.decide("block", reason=refusal.reason, message=refusal.message)
            return self._end_full(response, adapter, refusal.message)
        except Exception as error:
            note_failure(ctx, self.name, self.on_policy_error, "process_full_response", error)
            return (
                self._end_full(response, adapter, failure_notice(ctx)) if self.on_policy_error == "block" else response
            )
        return final

    def _end_full(self, response: object, adapter: Adapter, notice: str) -> object:
        if self.on_block == "error":
            raise PolicyBlockedError(notice)
        return adapter.join(response, [TextDelta(text=notice), Finish(reason=adapter.stop_reason)])


def _check_request(request: Request, result: object) -> None:
    if not isinstance(result, Request | Answer):
        raise PolicyError(f"on_request returned a {type(result).__name__}, not a Request or an Answer")
    if isinstance(result, Request) and result.is_streaming != request.is_streaming:
        raise PolicyError("on_request changed 'stream', which decides the format that the client reads")


def _encode(way_out: WayOut, parcel: Parcel) -> list[object]:
    try:
        return list(way_out.encode(parcel))
    except Exception as error:
        logger.exception("an answer could not be encoded")
        raise WireError("an answer could not be encoded") from error


def _close(way_out: WayOut, adapter: Adapter) -> Iterable[object]:
    owed = way_out.finish()
    return adapter.encode(owed, None) if owed else ()


def _splitting(adapter: Adapter) -> Decode:
    return lambda raw: (adapter.split(raw),)


def _nothing(raw: object) -> Sequence[Chunk]:
    """What is decoded of an answer that nobody gets: a cache, say, may have brought a model's."""
    return ()


async def _one(item: object) -> AsyncIterator[object]:
    yield item


async def _stop(worker: asyncio.Task[None]) -> None:
    """Cancels `worker` and gives it a moment to clean up, though the caller is itself cancelled."""
    worker.cancel()
    with anyio.CancelScope(shield=True):
        await asyncio.wait([worker], timeout=CLOSE_GRACE_S)
