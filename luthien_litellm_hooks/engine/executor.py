"""Runs policies over a request and over the response to it, from the provider's wire format to the client's."""

import asyncio
import math
import sys
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Sequence,
)
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Literal, Self, cast

from pydantic import BaseModel

from luthien_litellm_hooks.engine.again import Model, Second, SecondTry
from luthien_litellm_hooks.engine.composition import (
    HOOK_TIMEOUT_S,
    Composition,
    ConfiguredPolicy,
    ConfiguredStage,
    OnPolicyError,
    begin_with,
    clock_of,
    contexts_of,
    members_of,
    settle_request,
    stages_for,
)
from luthien_litellm_hooks.engine.egress_queue import (
    MAX_AHEAD,
    MAX_ITEMS,
    MEMORY,
    MEMORY_APART,
    PUT_TIMEOUT_S,
    EgressItem,
    EgressQueue,
)
from luthien_litellm_hooks.engine.hook_call import HookDeadline, call_hook, failure_notice, is_cancelled, record_refusal
from luthien_litellm_hooks.engine.parallel import ParallelStage
from luthien_litellm_hooks.engine.pipeline import Pace, RunningStage, Stage, StageInput, no_chunks, relay, start_worker
from luthien_litellm_hooks.engine.request_hooks import run_request_hooks
from luthien_litellm_hooks.engine.sequencer import Sequencer, is_unchanged
from luthien_litellm_hooks.engine.stage import PolicyStage, has_response_hook
from luthien_litellm_hooks.errors import LimitExceededError, LuthienError, PolicyBlockedError, PolicyError, WireError
from luthien_litellm_hooks.policy.base import Policy
from luthien_litellm_hooks.policy.context import PolicyContext, StreamingResponseContext
from luthien_litellm_hooks.policy.limits import DEFAULT_LIMITS, Limits, off_loop
from luthien_litellm_hooks.policy.request import Answer, Request
from luthien_litellm_hooks.policy.sending import send_text
from luthien_litellm_hooks.recording.recorder import Outcome, TransactionRecorder
from luthien_litellm_hooks.telemetry.log_lines import logger
from luthien_litellm_hooks.wire.events import Chunk, Finish, StreamEvent, TextDelta, text_of
from luthien_litellm_hooks.wire.format import Adapter, EchoingAdapter, FlaggingAdapter

PING_S = 10.0
"""Seconds of a client's wait for a policy between two pings. The shortest known limit of an agent is 20 s."""
PING = EgressItem(None)
"""Item in place of an encoded one."""

OnBlock = Literal["notice", "error", "retry"]
Unjudged = Literal["withhold", "pass"]


class PolicyExecutor:
    """Runs a policy, or a composition of several, over requests and responses.

    The engine calls a policy's hooks in the promised order, each under a deadline: `timeout_s` seconds for one
    call, restarted by `keepalive()`. `on_policy_error` decides about a failing hook: `block` ends the response
    with a notice, `pass` forwards the rest of the response without the policy. In a composition each
    member has its own of both. `on_block` decides about an ended full response: it carries the notice, or
    raises it as `PolicyBlockedError`. With `retry` the model is asked once more if all calls of a response were
    withheld. `unjudged` decides about a part of a response unknown to the adapter, where a
    policy judges the response. A response larger than `limits.max_stream_bytes` ends with a notice. A policy
    fails if it holds more than there is memory for, or takes longer than `limits.max_hold_s` in one transaction.
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
        ping_s: float = PING_S,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        if isinstance(policy, Policy):
            policy = ConfiguredPolicy(policy, name or type(policy).__name__, timeout_s, on_policy_error)
        self.composition: Composition = policy
        self.on_block: OnBlock = on_block
        self.unjudged: Unjudged = unjudged
        self.max_items = max_items
        self.put_timeout_s = put_timeout_s
        self.ping_s = ping_s
        self.limits = limits

    def with_policies(self, composition: Composition, on_block: OnBlock) -> "PolicyExecutor":
        """Returns an executor of other policies with the same bounds."""
        return PolicyExecutor(
            composition,
            on_block=on_block,
            unjudged=self.unjudged,
            max_items=self.max_items,
            put_timeout_s=self.put_timeout_s,
            ping_s=self.ping_s,
            limits=self.limits,
        )

    def judges(self, ctx: PolicyContext) -> bool:
        """Holds if a policy for this request has a hook of its own for the response."""
        return any(map(_has_response_hook, stages_for(self.composition, ctx)))

    async def on_request(self, ctx: PolicyContext) -> Request | Answer:
        """Runs the policies over `ctx.final_request`, as earlier policies left it, and returns the result.

        Sets `ctx.final_request`. Raises `PolicyBlockedError` when a policy refuses, or fails and is to block.
        """
        result = ctx.final_request
        for stage, contexts in self._stages(ctx):
            result = await run_request_hooks(stage, result, contexts, ctx, self.limits.max_hold_s)
            if isinstance(result, Answer):
                return result
        settle_request(ctx, result)
        return result

    async def run(
        self, stream: AsyncIterable[object], adapter: Adapter, ctx: PolicyContext, model: Model | None = None
    ) -> AsyncGenerator[object, None]:
        """Yields the client's stream for a provider's `stream`. With `on_block: retry` it may ask the `model` again.

        If a policy has answered the request (`ctx.answer`), the stream carries that answer alone. Raises the errors
        of the provider's stream, as the same objects, but never a policy's failure. Closing the generator closes the
        provider's stream.
        """
        decoder = RecordingDecoder(
            adapter.decode,
            adapter.flush,
            ctx.recorder,
            self.limits.max_stream_bytes,
            cast(EchoingAdapter, adapter).is_long if adapter.rules.blocks_overlap else None,
        )
        running = self._start(stream, decoder, adapter, ctx, self.max_items, is_streamed=True)
        sequencer = _sequencer(adapter, running, ctx.recorder.add_egress_chunk)
        again = decoder.again = self._second_try(model, adapter, ctx, sequencer)
        queue, pace = _Kept(running[-1].queue, again), Pace()
        pings = _Pings(running, queue, decoder, self.ping_s)
        async with _Ending(running[-1], ctx, ctx.recorder.finalize_streaming, lambda: sequencer.has_finished):
            while (item := await pings.next_item()) is not None:
                for encoded in _pinged(sequencer) if item is PING else _encoded(sequencer, item, queue.get_now, pace):
                    yield encoded
                if pace.is_due:
                    await pace.give_turn()
            if again is not None and again.is_due:
                asking = start_worker(self._ask_again(again, is_streamed=True), ctx.transaction_id)
                try:
                    while not asking.done():
                        await asyncio.wait([asking], timeout=self.ping_s or None)
                        for encoded in () if asking.done() else _pinged(sequencer):
                            yield encoded
                finally:
                    asking.cancel()
                second = None if asking.cancelled() else asking.result()
                for item in again.ending(second, adapter.rules.cut_reasons):
                    for encoded in _encoded(sequencer, item, _nothing, pace):
                        yield encoded
            if sequencer.is_cut or ctx.answer is not None:
                for encoded in _encoded_end(sequencer, adapter):
                    yield encoded

    async def run_full(
        self, response: object, adapter: Adapter, ctx: PolicyContext, model: Model | None = None
    ) -> object:
        """Returns the client's response for a provider's full `response`: the same object if nothing changed.

        Calls the same hooks as for a stream. Raises `PolicyBlockedError` if the response is ended and
        `on_block` is `error`.
        """
        decoder = await _full_decoder(response, adapter, ctx.recorder, self.limits.max_stream_bytes)
        running = self._start(_one(response), decoder, adapter, ctx, sys.maxsize, is_streamed=False)
        sequencer = _sequencer(adapter, running)
        again = decoder.again = self._second_try(model, adapter, ctx, sequencer)
        async with _Ending(running[-1], ctx, ctx.recorder.finalize_non_streaming):
            events = await _sequenced(sequencer, _Kept(running[-1].queue, again))
            if again is not None and again.is_due:
                second = await self._ask_again(again, is_streamed=False)
                events += [
                    event
                    for item in again.ending(second, adapter.rules.cut_reasons)
                    for event in sequencer.sequence(item)
                ]
            notice = next((each.stage.notice for each in running if each.stage.notice is not None), None)
            if notice is not None and self.on_block == "error":
                raise PolicyBlockedError(notice)
            final = response
            if decoder.latest is None or not is_unchanged(decoder.latest, events):
                events += sequencer.finish() if sequencer.is_cut or ctx.answer is not None else ()
                is_long = len(events) > _MANY_PARTS
                final = (
                    await off_loop(adapter.encode_full, response, events)
                    if is_long
                    else adapter.encode_full(response, events)
                )
            delivered = final
            for stage, contexts in self._stages(ctx):
                if isinstance(stage, ConfiguredPolicy) and ctx.answer is None:
                    delivered = await self._process_full(stage, delivered, adapter, contexts[0])
            chunk = Chunk(tuple(events)) if delivered is final else adapter.decode_full(delivered)
            ctx.recorder.add_egress_chunk(chunk)
            return delivered

    def _second_try(
        self, model: Model | None, adapter: Adapter, ctx: PolicyContext, sequencer: Sequencer
    ) -> SecondTry | None:
        if model is None or self.on_block != "retry" or ctx.answer is not None:
            return None
        return SecondTry(model, ctx, sequencer, (adapter.rules.stop_reason, *adapter.rules.tool_reasons))

    async def _ask_again(self, again: SecondTry, *, is_streamed: bool) -> Second | None:
        async def judge(
            response: object, adapter: Adapter, view: PolicyContext, recorder: TransactionRecorder
        ) -> Sequence[StreamEvent] | None:
            decoder = await _full_decoder(response, adapter, recorder, self.limits.max_stream_bytes)
            running = self._start(_one(response), decoder, adapter, view, sys.maxsize, is_streamed=is_streamed)
            sequencer = _sequencer(adapter, running)
            async with _Ending(running[-1], view, recorder.finalize_non_streaming):
                events = await _sequenced(sequencer, _Kept(running[-1].queue, None))
            return None if sequencer.is_cut else events

        return await again.response(self.on_request, judge, self.limits.max_hold_s)

    def _stages(self, ctx: PolicyContext) -> list[tuple[ConfiguredStage, list[PolicyContext]]]:
        """Returns the stages for this transaction, with their views of it."""
        ctx.budget.limits = self.limits
        if isinstance(self.composition, ConfiguredPolicy):
            begin_with(ctx, self.composition, self.composition.name)
        stages = stages_for(self.composition, ctx) or (PASS_THROUGH,)
        return [(stage, contexts_of(stage, ctx)) for stage in stages]

    def _start(
        self,
        stream: AsyncIterable[object],
        decoder: "RecordingDecoder",
        adapter: Adapter,
        ctx: PolicyContext,
        max_items: int,
        *,
        is_streamed: bool,
    ) -> list[RunningStage]:
        """Starts the stages, each on the output of the one before it. Raises `LuthienError` alone."""
        flagging = _flagging(adapter)
        source = StageInput(
            stream,
            decoder.decode,
            decoder.flush,
            adapter.rules,
            self.unjudged == "pass",
            max_items,
            None,
            self.limits,
            is_streamed,
            MEMORY_APART if ctx.is_observed else MEMORY,
            flagging is not None and flagging.takes_flags,
        )
        running: list[RunningStage] = []
        try:
            stages = self._stages(ctx)
            if ctx.answer is not None:  # a cache, say, may still bring a model's response
                source = replace(source, decode=no_chunks)
                stages = [(ConfiguredPolicy(FixedResponse(ctx.answer), "answer"), [ctx])]
            stages = [each for each in stages if _has_response_hook(each[0])] or stages[:1]
            for number, (config, contexts) in enumerate(stages, 1):
                if number == len(stages):  # feeds the client, the others a stage with deadlines of its own
                    source = replace(source, put_timeout_s=self.put_timeout_s)
                queue = EgressQueue(source.max_items, source.put_timeout_s, source.limits.max_held_bytes, source.memory)
                stage: Stage = (
                    PolicyStage(config, contexts[0], queue, source)
                    if isinstance(config, ConfiguredPolicy)
                    else ParallelStage(config, contexts, ctx, queue, source)
                )
                running.append(RunningStage(queue, stage, stage.start()))
                source = replace(source, stream=relay(running[-1], adapter), decode=_decoded, flush=no_chunks)
        except Exception as error:
            logger.exception("no policy could be put to work on a response")
            raise PolicyError("no policy could be put to work") from error
        return running

    async def _process_full(
        self, member: ConfiguredPolicy, response: object, adapter: Adapter, ctx: PolicyContext
    ) -> object:
        """Runs `process_full_response` of a policy of its own."""
        if type(member.policy).process_full_response is Policy.process_full_response:
            return response
        deadline = HookDeadline(member.timeout_s, clock_of(ctx), self.limits.max_hold_s)

        async def run() -> object:
            try:
                final = await deadline.run_in_task(member.policy.process_full_response(response, ctx))
            except PolicyBlockedError as refusal:
                record_refusal(ctx, refusal)
                raise
            if type(final) is not type(response):
                raise PolicyError(f"a {type(final).__name__} was returned for a {type(response).__name__}")
            return final

        try:
            return await call_hook(ctx, "process_full_response", run, member.on_policy_error, fallback=response)
        except PolicyBlockedError as refusal:
            notice = refusal.message
        except PolicyError:
            notice = failure_notice(ctx)
        if self.on_block == "error":
            raise PolicyBlockedError(notice)
        return adapter.encode_full(response, [TextDelta(text=notice), Finish(reason=adapter.rules.stop_reason)])


class FixedResponse(Policy):
    """Sends a policy's answer to the request, as a whole response."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def on_stream_complete(self, ctx: StreamingResponseContext) -> None:
        await send_text(ctx, self._answer.text)


PASS_THROUGH = ConfiguredPolicy(Policy(), "none")
"""Policy for a request without any: it forwards everything."""


class RecordingDecoder:
    """Decodes the items of a provider's stream, records their chunks, and limits their size.

    A thread decodes an item if it is large, or if it `is_long`. Both methods raise `LimitExceededError` once a
    response has brought more than `limit` bytes, or characters on wires of objects.
    """

    def __init__(
        self,
        decode: Callable[[object], Sequence[Chunk]],
        flush: Callable[[], Sequence[Chunk]],
        recorder: TransactionRecorder,
        limit: int,
        is_long: Callable[[object], bool] | None = None,
    ) -> None:
        self._decode = decode
        self._flush = flush
        self._recorder = recorder
        self._limit = limit
        self._is_long = is_long
        self._time = asyncio.get_running_loop().time
        self._received = 0
        self._counts_bytes = False
        self.again: SecondTry | None = None
        """Listener for a second call of the model."""
        self.latest: Chunk | None = None
        """Latest chunk."""
        self.latest_at = -math.inf
        """Time of the latest chunk, by the event loop's clock."""

    async def decode(self, raw: object) -> Sequence[Chunk]:
        """Returns the chunks of one item."""
        is_long = self._is_long is not None and self._is_long(raw)
        if isinstance(raw, bytes):
            self._counts_bytes = True
            self._received += len(raw)
            is_long = is_long or len(raw) > _MANY_BYTES
        chunks: Sequence[Chunk] = ()
        if self._received <= self._limit:
            chunks = await off_loop(self._decode, raw) if is_long else self._decode(raw)
        if self.again is not None:
            self.again.note(raw, chunks)
        return self._record(chunks)

    async def flush(self) -> Sequence[Chunk]:
        """Returns the remaining chunks at the end of the stream."""
        chunks = self._flush()
        if self.again is not None:
            self.again.note(None, chunks)
        return self._record(chunks)

    def _record(self, chunks: Sequence[Chunk]) -> Sequence[Chunk]:
        for chunk in chunks:
            self._recorder.add_ingress_chunk(chunk)
            if not self._counts_bytes:
                self._received += sum(map(len, map(text_of, chunk.events)))
        if chunks:
            self.latest, self.latest_at = chunks[-1], self._time()
        if self._received > self._limit:
            raise LimitExceededError(
                f"a response brought {self._received} bytes (limits.max_stream_bytes: {self._limit})"
            )
        return chunks


class _Kept:
    """Items of the last stage, but for those that a second try keeps back."""

    def __init__(self, queue: EgressQueue, again: SecondTry | None) -> None:
        self._queue = queue
        self._again = again
        self.is_ready = queue.is_ready

    async def get(self) -> EgressItem | None:
        """Returns the next item, or None at the end."""
        while (item := await self._queue.get()) is not None and self._is_kept(item):
            pass
        return item

    def get_now(self) -> EgressItem | None:
        """Returns the next item, or None if the reader has to wait."""
        while (item := self._queue.get_now()) is not None and self._is_kept(item):
            pass
        return item

    def _is_kept(self, item: EgressItem) -> bool:
        return self._again is not None and self._again.keeps(item)


def _nothing() -> None:
    return None


async def _sequenced(sequencer: Sequencer, queue: _Kept) -> list[StreamEvent]:
    """Returns the events of all items, as they may leave."""
    events, pace = list[StreamEvent](), Pace()
    while (item := await queue.get()) is not None:
        if pace.step():
            await pace.give_turn()
        events += sequencer.sequence(item)
    return events


class _Pings:
    """Items of the last stage, and a `PING` whenever a policy has kept the client waiting for `every_s` seconds.

    A provider's own silence does not count: with no hook running, the provider must have sent something meanwhile.
    """

    def __init__(
        self, running: Sequence[RunningStage], queue: _Kept, decoder: RecordingDecoder, every_s: float
    ) -> None:
        self._running = running
        self._queue = queue
        self._decoder = decoder
        self._every_s = every_s

    async def next_item(self) -> EgressItem | None:
        """Returns the next item, `PING`, or None at the end."""
        queue = self._queue
        while self._every_s and not await queue.is_ready(self._every_s):
            has_input = asyncio.get_running_loop().time() - self._decoder.latest_at <= self._every_s
            if any(each.stage.keeps_reader_waiting(has_input=has_input) for each in self._running):
                return PING
        return await queue.get()


class _Ending:
    """Stops the stages and finalizes the record, however a response ends."""

    def __init__(
        self,
        last: RunningStage,
        ctx: PolicyContext,
        finalize: Callable[[Outcome], Awaitable[None]],
        has_finished: Callable[[], bool] = lambda: False,
    ) -> None:
        self._last = last
        self._ctx = ctx
        self._finalize = finalize
        self._has_finished = has_finished

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None:
            await self._last.stop()
        if _is_leaving(error) and self._has_finished():
            error = None  # some clients leave as soon as the response has finished
        outcome, error = outcome_of(self._ctx, error), None  # its traceback holds this frame
        self._ctx.readings.clear()
        await self._finalize(outcome)


def outcome_of(ctx: PolicyContext, failure: BaseException | None) -> Outcome:
    """Returns the outcome of a transaction. `failure` is the error in its response, if any."""
    errors = {decision.error for decision in ctx.decisions if decision.error is not None and not decision.is_vote}
    if isinstance(failure, GeneratorExit) or _is_leaving(failure) or "QueueFullError" in errors:
        return "client_disconnected"
    if failure is not None and not isinstance(failure, LuthienError):
        return "provider_error"
    if errors or isinstance(failure, WireError):
        return "timeout" if "PolicyTimeoutError" in errors else "policy_error"
    is_blocked = any(decision.withholds and not decision.is_vote for decision in ctx.decisions)
    return "blocked" if is_blocked else "complete"


def _has_response_hook(stage: ConfiguredStage) -> bool:
    return any(has_response_hook(member.policy) for member in members_of(stage))


def _is_leaving(failure: BaseException | None) -> bool:
    """Holds if the client left while it waited for more; any other cancellation is the provider's own."""
    return isinstance(failure, asyncio.CancelledError) and is_cancelled()


def _sequencer(
    adapter: Adapter, running: Sequence[RunningStage], on_leave: Callable[[Chunk], None] | None = None
) -> Sequencer:
    flagging = _flagging(adapter)
    if on_leave is not None and flagging is not None and flagging.takes_flags:
        on_leave = partial(_noted, flagging.note_left, on_leave)
    return Sequencer(
        adapter,
        on_leave,
        is_untouched=lambda: not any(each.stage.is_modified for each in running),
        is_judged=any(each.stage.judges for each in running),
    )


def _flagging(adapter: Adapter) -> FlaggingAdapter | None:
    return cast(FlaggingAdapter, adapter) if hasattr(adapter, "takes_flags") else None


def _noted(first: Callable[[Chunk], None], second: Callable[[Chunk], None], chunk: Chunk) -> None:
    first(chunk)
    second(chunk)


def _encoded(
    sequencer: Sequencer, item: EgressItem, next_item: Callable[[], EgressItem | None], pace: Pace
) -> Iterator[object]:
    """Encodes `item` and the items behind it, before the first leaves.

    Between two items a process does so much else: encoding each by itself takes several times as long. All bytes
    leave as one item: each item costs LiteLLM and the server more than it costs us.
    """
    encoded: list[object] = []
    following: EgressItem | None = item
    try:
        while following is not None:
            encoded += [*sequencer.encode(following)]  # the whole item, or nothing
            is_enough = pace.step() or (len(encoded) >= MAX_AHEAD and not isinstance(encoded[-1], bytes))
            following = None if is_enough else next_item()
    except Exception as error:
        yield from encoded
        raise _encoding_error() from error
    if len(encoded) > 1 and {*map(type, encoded)} == {bytes}:
        encoded = [b"".join(cast(list[bytes], encoded))]
    yield from encoded


def _pinged(sequencer: Sequencer) -> list[object]:
    try:
        return list(sequencer.ping())
    except Exception as error:
        raise _encoding_error() from error


def _encoded_end(sequencer: Sequencer, adapter: Adapter) -> list[object]:
    try:
        owed = sequencer.finish()
        return list(adapter.encode(owed, None)) if owed else []
    except Exception as error:
        raise _encoding_error() from error


def _encoding_error() -> WireError:
    logger.exception("a response could not be encoded")
    return WireError("a response could not be encoded")


async def _decoded(chunks: object) -> Sequence[Chunk]:
    return cast(Sequence[Chunk], chunks)


# Work that takes long

_MANY_BYTES = 100_000
"""Largest item of a stream, in bytes, to decode on the event loop; a thread decodes larger ones."""
_MANY_PARTS = 2_000
"""Most parts of a full response, or events, to decode or encode on the event loop."""
_NESTED_LISTS = 4


async def _one(item: object) -> AsyncIterator[object]:
    yield item


async def _full_decoder(
    response: object, adapter: Adapter, recorder: TransactionRecorder, limit: int
) -> RecordingDecoder:
    """Returns the decoder of a full response. A thread decodes one with many parts, now."""
    chunk: Chunk | None = None
    if _has_many_parts(response):
        with suppress(Exception):  # the stage decodes it again, and handles the failure
            chunk = await off_loop(adapter.decode_full, response)
    return RecordingDecoder(lambda raw: (chunk or adapter.decode_full(raw),), tuple, recorder, limit)


def _has_many_parts(response: object) -> bool:
    """Holds if the lists of a response have many items, as deep as any wire nests them."""
    level, left = [response], _MANY_PARTS
    for _ in range(_NESTED_LISTS):
        values = [value for thing in level for value in _values(thing)]
        level = [item for value in values if isinstance(value, list) for item in cast(list[object], value)]
        level += [value for value in values if isinstance(value, dict | BaseModel)]
        left -= len(level)
        if left < 0:
            return True
    return False


def _values(thing: object) -> Collection[object]:
    if isinstance(thing, BaseModel):
        return [*thing.__dict__.values(), *(thing.model_extra or {}).values()]
    return cast(dict[str, object], thing).values() if isinstance(thing, dict) else ()
