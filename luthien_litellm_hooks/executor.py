"""Runs policies over a request and its answer, and decides what happens when one fails."""

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Literal, cast

from pydantic import BaseModel

from luthien_litellm_hooks.adapters.base import Adapter
from luthien_litellm_hooks.answering import Answering, Source, hand_on, stop
from luthien_litellm_hooks.composition import (
    HOOK_TIMEOUT_S,
    Composition,
    Member,
    Stage,
    contexts_of,
    members_of,
    stages_for,
)
from luthien_litellm_hooks.deadline import run_apart
from luthien_litellm_hooks.egress import MAX_AHEAD, MAX_ITEMS, PUT_TIMEOUT_S, EgressQueue, Parcel
from luthien_litellm_hooks.errors import (
    LimitExceededError,
    LuthienError,
    PolicyBlockedError,
    PolicyError,
    WireError,
)
from luthien_litellm_hooks.events import Chunk, Finish, StreamEvent, TextDelta, text_of
from luthien_litellm_hooks.failures import OnPolicyError, failure_notice, note_failure
from luthien_litellm_hooks.limits import DEFAULT_LIMITS, Limits
from luthien_litellm_hooks.log_lines import logger
from luthien_litellm_hooks.policy.base import Policy
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.in_stead import InStead
from luthien_litellm_hooks.policy.off_loop import off_loop
from luthien_litellm_hooks.policy.request import Answer, Request
from luthien_litellm_hooks.recorder import Outcome, TransactionRecorder
from luthien_litellm_hooks.request_round import ask
from luthien_litellm_hooks.running_answer import Decode, Flush, has_answer_hook
from luthien_litellm_hooks.way_out import WayOut, is_whole
from luthien_litellm_hooks.worker import Pace, is_cancelled

OnBlock = Literal["notice", "error"]
Unjudged = Literal["withhold", "pass"]


class PolicyExecutor:
    """Runs a policy, or a composition of several, over requests and their answers.

    A policy's hooks are called in the promised order, each under a deadline: `timeout_s` is what one
    call may take without `keepalive()`. `on_policy_error` says what happens when a hook fails: `block`
    ends the answer with a notice, `pass` lets what was not delivered through and leaves the policy
    out of the rest of the answer. In a composition each member has its own of both. `on_block` says
    whether a full answer that is ended carries the notice, or raises it as `PolicyBlockedError`.
    `unjudged` says what happens to a part of a response that no adapter knows, where a policy judges the response.
    An answer larger than `limits.max_stream_bytes` is ended with a notice; a policy that holds what
    there is no memory for, or takes longer than `limits.max_hold_s` in one transaction, fails.
    """

    def __init__(
        self,
        policy: Policy | Composition,
        *,
        name: str | None = None,
        timeout_s: float = HOOK_TIMEOUT_S,
        on_policy_error: OnPolicyError = "block",
        on_block: OnBlock = "notice",
        unjudged: Unjudged = "withhold",
        max_items: int = MAX_ITEMS,
        put_timeout_s: float = PUT_TIMEOUT_S,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        if isinstance(policy, Policy):
            policy = Member(policy, name or type(policy).__name__, timeout_s, on_policy_error)
        self.composition: Composition = policy
        self.on_block: OnBlock = on_block
        self.unjudged: Unjudged = unjudged
        self.max_items = max_items
        self.put_timeout_s = put_timeout_s
        self.limits = limits

    def of(self, composition: Composition, on_block: OnBlock) -> "PolicyExecutor":
        """One with the same bounds for other policies."""
        return PolicyExecutor(
            composition,
            on_block=on_block,
            unjudged=self.unjudged,
            max_items=self.max_items,
            put_timeout_s=self.put_timeout_s,
            limits=self.limits,
        )

    def judges(self, ctx: PolicyContext) -> bool:
        """Whether any of the policies that this request is for has a hook of its own for the answer."""
        stages = stages_for(self.composition, ctx)
        return any(has_answer_hook(member.policy) for stage in stages for member in members_of(stage))

    async def on_request(self, ctx: PolicyContext) -> Request | Answer:
        """What the policy makes of the request, as others have left it that were asked before:
        `ctx.final_request`, which this also sets.

        Raises `PolicyBlockedError` when a policy refuses, or fails and is to block.
        """
        result = ctx.final_request
        stages = self._stages(ctx)
        for stage, contexts in stages:
            result = await ask(stage, result, contexts, ctx, self.limits.max_hold_s)
            if isinstance(result, Answer):
                return result
        ctx.settle(result)
        return result

    async def run(
        self, stream: AsyncIterable[object], adapter: Adapter, ctx: PolicyContext
    ) -> AsyncGenerator[object, None]:
        """The client's stream for a provider's `stream`.

        If the policy has answered the request itself (`ctx.answer`), that is what the client gets,
        whatever comes. What the provider's stream raises is raised here, as the same object. A policy's failure
        never is. Closing the generator closes the provider's stream.
        """
        decode = self._taking_in(adapter.decode, ctx.recorder)
        flush = self._taking_in(lambda _: adapter.flush(), ctx.recorder)
        source = self._source(stream, decode, lambda: flush(None), adapter)
        answers = self._start(source, adapter, ctx)
        way_out, pace = _way_out(adapter, answers, ctx.recorder.add_egress_chunk), Pace()
        failure: BaseException | None = None
        try:
            while (parcel := await answers[-1].queue.take()) is not None:
                for item in _encoded(way_out, parcel, answers[-1].queue, pace):
                    yield item
                if pace.is_due:
                    await pace.give_turn()
            if way_out.is_cut or ctx.answer is not None:
                for item in _close(way_out, adapter):
                    yield item
        except BaseException as error:
            failure = error
            raise
        finally:
            if failure is not None:
                await stop(answers[-1])
            if _is_leaving(failure) and way_out.has_finished:
                failure = None  # some clients do not wait for a stream to end when the answer has
            outcome, failure = outcome_of(ctx, failure), None  # its traceback holds this frame
            await ctx.recorder.finalize_streaming(outcome)

    async def run_full(self, response: object, adapter: Adapter, ctx: PolicyContext) -> object:
        """The client's answer for a provider's whole `response`: the same object if nothing of it
        was changed. The same hooks are called as for a stream. Raises `PolicyBlockedError` if the
        answer is ended and `on_block` is `error`."""
        came: list[Chunk] = []
        read = await _read_beside(adapter, response)

        def split(raw: object) -> Sequence[Chunk]:
            came.append(read(raw))
            return came

        decode = self._taking_in(split, ctx.recorder)
        source = replace(self._source(_one(response), decode, tuple, adapter), max_items=sys.maxsize)
        answers = self._start(source, adapter, ctx)
        failure: BaseException | None = None
        try:
            return await self._finish_full(response, came, answers, adapter, ctx)
        except BaseException as error:
            failure = error
            raise
        finally:
            if failure is not None:
                await stop(answers[-1])
            outcome, failure = outcome_of(ctx, failure), None  # its traceback holds this frame
            await ctx.recorder.finalize_non_streaming(outcome)

    async def _finish_full(
        self,
        response: object,
        came: Sequence[Chunk],
        answers: Sequence[Answering],
        adapter: Adapter,
        ctx: PolicyContext,
    ) -> object:
        way_out = _way_out(adapter, answers)
        events: list[StreamEvent] = []
        pace = Pace()
        while (parcel := await answers[-1].queue.take()) is not None:
            if pace.step():
                await pace.give_turn()
            events += way_out.admit(parcel)
        notice = next((answer.engine.notice for answer in answers if answer.engine.notice is not None), None)
        if notice is not None and self.on_block == "error":
            raise PolicyBlockedError(notice)
        final = response
        if not (came and is_whole(came[0], events)):
            events += way_out.finish() if way_out.is_cut or ctx.answer is not None else ()
            is_long = len(events) > _MANY_PARTS
            final = await off_loop(adapter.join, response, events) if is_long else adapter.join(response, events)
        delivered = final
        for stage, contexts in self._stages(ctx):
            if isinstance(stage, Member) and ctx.answer is None:
                delivered = await self._process_full(stage, delivered, adapter, contexts[0])
        ctx.recorder.add_egress_chunk(Chunk(tuple(events)) if delivered is final else adapter.split(delivered))
        return delivered

    def _stages(self, ctx: PolicyContext) -> list[tuple[Stage, list[PolicyContext]]]:
        """The policies for this transaction, with their views of it."""
        ctx.budget.limits = self.limits
        if isinstance(self.composition, Member):
            ctx.be_of(self.composition, self.composition.name)
        stages = stages_for(self.composition, ctx) or (_NOBODY,)
        return [(stage, contexts_of(stage, ctx)) for stage in stages]

    def _source(self, stream: AsyncIterable[object], decode: Decode, flush: Flush, adapter: Adapter) -> Source:
        return Source(
            stream,
            decode,
            flush,
            adapter.is_framed,
            adapter.has_text_after_calls,
            self.unjudged == "pass",
            adapter.cut_reasons,
            self.max_items,
            self.put_timeout_s,
            self.limits,
        )

    def _taking_in(self, decode: Decode, recorder: TransactionRecorder) -> Decode:
        """`decode`, whose chunks are also recorded; it raises `LimitExceededError` at the end of what an
        answer may bring."""
        limit, came = self.limits.max_stream_bytes, 0

        def take_in(raw: object) -> Sequence[Chunk]:
            nonlocal came
            came += len(raw) if isinstance(raw, bytes) else 0
            chunks = decode(raw) if came <= limit else ()
            for chunk in chunks:
                recorder.add_ingress_chunk(chunk)
                if not isinstance(raw, bytes):
                    came += sum(map(len, map(text_of, chunk.events)))
            if came > limit:
                raise LimitExceededError(f"an answer brought {came} bytes (limits.max_stream_bytes: {limit})")
            return chunks

        return take_in

    def _start(self, source: Source, adapter: Adapter, ctx: PolicyContext) -> list[Answering]:
        """Puts each stage to work on what the one before it lets out. Raises `LuthienError` alone."""
        try:
            return self._start_stages(source, adapter, ctx)
        except Exception as error:
            logger.exception("no policy could be put to work on an answer")
            raise PolicyError("no policy could be put to work") from error

    def _start_stages(self, source: Source, adapter: Adapter, ctx: PolicyContext) -> list[Answering]:
        stages = self._stages(ctx)
        if ctx.answer is not None:
            source, stages = replace(source, decode=_nothing), [(Member(InStead(ctx.answer), "answer"), [ctx])]
        answers: list[Answering] = []
        for number, (stage, contexts) in enumerate(stages, 1):
            timeout_s = self.put_timeout_s if number == len(stages) else None  # only the last one feeds the client
            answer = Answering.start(stage, contexts, ctx, replace(source, put_timeout_s=timeout_s))
            answers.append(answer)
            source = replace(source, stream=hand_on(answer, adapter), decode=_as_it_is, flush=tuple)
        return answers

    async def _process_full(self, member: Member, response: object, adapter: Adapter, ctx: PolicyContext) -> object:
        if type(member.policy).process_full_response is Policy.process_full_response:
            return response
        try:
            hook = member.policy.process_full_response(response, ctx)
            final = await run_apart(hook, member.timeout_s, ctx.hold_clock, self.limits.max_hold_s)
            if type(final) is not type(response):
                raise PolicyError(f"a {type(final).__name__} was returned for a {type(response).__name__}")
        except PolicyBlockedError as refusal:
            ctx.decide("block", reason=refusal.reason, message=refusal.message)
            return self._end_full(response, adapter, refusal.message)
        except Exception as error:
            note_failure(ctx, member.name, member.on_policy_error, "process_full_response", error)
            passes = member.on_policy_error == "pass"
            return response if passes else self._end_full(response, adapter, failure_notice(ctx))
        return final

    def _end_full(self, response: object, adapter: Adapter, notice: str) -> object:
        if self.on_block == "error":
            raise PolicyBlockedError(notice)
        return adapter.join(response, [TextDelta(text=notice), Finish(reason=adapter.stop_reason)])


_MANY_PARTS = 2_000
"""Parts of a full response, or events, that are read or written beside the event loop."""


async def _read_beside(adapter: Adapter, response: object) -> Callable[[object], Chunk]:
    """Returns how to read `response`: one of many parts is read already, in a thread."""
    if not _has_many_parts(response):
        return adapter.split
    try:
        chunk = await off_loop(adapter.split, response)
    except Exception:
        return adapter.split  # fails again where failures are told
    return lambda _: chunk


def _has_many_parts(response: object) -> bool:
    """Whether the lists of a response hold many parts, as far as any wire nests them."""
    level, left = [response], _MANY_PARTS
    for _ in range(_LISTS_WITHIN_LISTS):
        values = [value for thing in level for value in _values_of(thing)]
        level = [item for value in values if isinstance(value, list) for item in cast(list[object], value)]
        level += [value for value in values if isinstance(value, dict | BaseModel)]
        left -= len(level)
        if left < 0:
            return True
    return False


_LISTS_WITHIN_LISTS = 4


def _values_of(thing: object) -> Collection[object]:
    if isinstance(thing, BaseModel):
        return [*thing.__dict__.values(), *(thing.model_extra or {}).values()]
    return cast(dict[str, object], thing).values() if isinstance(thing, dict) else ()


_NOBODY = Member(Policy(), "none")
"""Stands in where no policy is for a request: lets everything through."""


def _way_out(adapter: Adapter, answers: Sequence[Answering], on_leave: Callable[[Chunk], None] | None = None) -> WayOut:
    return WayOut(
        adapter,
        on_leave,
        is_untouched=lambda: not any(answer.engine.is_touched for answer in answers),
        is_judged=any(answer.engine.judges for answer in answers),
    )


def _encoded(way_out: WayOut, parcel: Parcel, queue: EgressQueue, pace: Pace) -> Iterator[object]:
    """The items for `parcel` and those that wait behind it, which are made before the first leaves: between two items a
    process does so much else that making each by itself takes several times as long. All bytes leave as one item, of
    which each costs LiteLLM and the server more than it costs us."""
    items: list[object] = []
    following: Parcel | None = parcel
    try:
        while following is not None:
            items += [*way_out.encode(following)]  # all that a parcel says, or nothing
            is_enough = pace.step() or (len(items) >= MAX_AHEAD and not isinstance(items[-1], bytes))
            following = None if is_enough else queue.take_now()
    except Exception as error:
        yield from items
        raise _unsayable() from error
    if len(items) > 1 and all(isinstance(item, bytes) for item in items):
        items = [b"".join(cast(list[bytes], items))]
    yield from items


def _close(way_out: WayOut, adapter: Adapter) -> list[object]:
    try:
        owed = way_out.finish()
        return list(adapter.encode(owed, None)) if owed else []
    except Exception as error:
        raise _unsayable() from error


def _unsayable() -> WireError:
    logger.exception("an answer could not be encoded")
    return WireError("an answer could not be encoded")


def outcome_of(ctx: PolicyContext, failure: BaseException | None) -> Outcome:
    """How a transaction ended, of which `failure` is what its answer was broken off with."""
    errors = {decision.error for decision in ctx.decisions if decision.error is not None and not decision.is_vote}
    if isinstance(failure, GeneratorExit) or _is_leaving(failure) or "QueueFullError" in errors:
        return "client_disconnected"
    if failure is not None and not isinstance(failure, LuthienError):
        return "provider_error"
    if errors or isinstance(failure, WireError):
        return "timeout" if "PolicyTimeoutError" in errors else "policy_error"
    is_blocked = any(decision.action == "block" and not decision.is_vote for decision in ctx.decisions)
    return "blocked" if is_blocked else "complete"


def _is_leaving(failure: BaseException | None) -> bool:
    """Whether the client left while it waited for more; otherwise a cancellation is the provider's own."""
    return isinstance(failure, asyncio.CancelledError) and is_cancelled()


def _as_it_is(chunk: object) -> Sequence[Chunk]:
    return (cast(Chunk, chunk),)


def _nothing(raw: object) -> Sequence[Chunk]:
    """What is decoded of an answer that nobody gets: a cache, say, may have brought a model's."""
    return ()


async def _one(item: object) -> AsyncIterator[object]:
    yield item
