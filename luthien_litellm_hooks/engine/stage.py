"""Runs one policy over one response: hook order and failure handling."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache, partial

from luthien_litellm_hooks.engine.composition import ConfiguredPolicy, OnPolicyError, clock_of
from luthien_litellm_hooks.engine.egress_queue import EgressSink
from luthien_litellm_hooks.engine.hold_buffer import HoldBuffer, StageControl
from luthien_litellm_hooks.engine.hook_call import (
    HookDeadline,
    call_hook,
    failure_notice,
    record_error,
    record_failure,
    record_refusal,
    stalled_notice,
)
from luthien_litellm_hooks.engine.pipeline import ENDING, Pace, StageInput, close_stream, read_items, start_worker
from luthien_litellm_hooks.errors import (
    LimitExceededError,
    PolicyBlockedError,
    PolicyError,
    PolicyTimeoutError,
    QueueFullError,
    StreamClosedError,
    WireError,
)
from luthien_litellm_hooks.policy.base import Policy
from luthien_litellm_hooks.policy.context import PolicyContext, StreamingResponseContext
from luthien_litellm_hooks.policy.notices import NOTICE_MARK, notice
from luthien_litellm_hooks.telemetry.log_lines import logger
from luthien_litellm_hooks.wire.assembler import MAX_RUN, BlockAssembler
from luthien_litellm_hooks.wire.events import (
    DELTAS,
    EVERY_CHOICE,
    BlockMarker,
    Chunk,
    ContentStreamBlock,
    DeltaEvent,
    Finish,
    Opaque,
    ProviderFailure,
    Quote,
    ReasoningStreamBlock,
    StreamBlock,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    ToolCallStreamBlock,
    Unknown,
    text_of,
)

WITHHELD_CALLS = f"{NOTICE_MARK} The tool calls of this answer were withheld."

HOOKS = tuple(name for name in vars(Policy) if name.startswith("on_"))
_DELTA_HOOKS: dict[type[StreamBlock], str] = {
    ContentStreamBlock: "on_content_delta",
    ReasoningStreamBlock: "on_reasoning_delta",
    ToolCallStreamBlock: "on_tool_call_delta",
}
_COMPLETE_HOOKS: dict[type[StreamBlock], str] = {
    ContentStreamBlock: "on_content_complete",
    ReasoningStreamBlock: "on_reasoning_complete",
    ToolCallStreamBlock: "on_tool_call_complete",
}
_BLOCK_HOOKS = (*_DELTA_HOOKS.values(), *_COMPLETE_HOOKS.values())
_FREQUENT_HOOKS = frozenset({"on_chunk_received", *_DELTA_HOOKS.values()})
_PACED_EVENTS = 100
"""Most events of a chunk without turns for other tasks between them."""
_CHARGED_AT_ONCE = 1_000
"""Characters counted towards the limits in one step."""


@lru_cache(maxsize=256)  # each request asks several times
def _own_hooks(kind: type[Policy]) -> frozenset[str]:
    """Returns the hooks of a policy's own. Those of `Policy` itself forward everything, so the engine does not call
    them."""
    hooks = (*HOOKS, "process_full_response")
    return frozenset(hook for hook in hooks if getattr(kind, hook) is not getattr(Policy, hook))


@lru_cache(maxsize=256)
def _skippable_hooks(kind: type[Policy]) -> frozenset[str]:
    """Returns the delta hooks that `count_untouched` knows: those of its own class, or of classes before it."""
    owners = [next(base for base in kind.__mro__ if name in vars(base)) for name in _DELTA_HOOKS.values()]
    asked = next(base for base in kind.__mro__ if "count_untouched" in vars(base))
    known = frozenset(
        name for name, owner in zip(_DELTA_HOOKS.values(), owners, strict=True) if issubclass(asked, owner)
    )
    return known if asked is not Policy else frozenset()


def has_response_hook(policy: Policy) -> bool:
    """Holds for a policy with a hook of its own for responses; any other lets them through."""
    return not _own_hooks(type(policy)) <= {"on_request"}


class PolicyStage:
    """Runs one policy over one response, in a worker task of its own.

    The worker alone touches the provider's stream and the policy; the stage's reader takes from the queue.
    After any failure the worker closes the queue and the provider's stream, and calls `on_stream_closed`.
    `_run`, `_process_chunk` and `_complete_stream` keep the promise of `Policy`: the order of its hooks.
    """

    def __init__(
        self,
        member: ConfiguredPolicy,
        transaction: PolicyContext,
        queue: EgressSink,
        source: StageInput,
        *,
        on_drop: Callable[[StreamBlock], None] | None = None,
    ) -> None:
        policy = self._policy = member.policy
        self._on_policy_error: OnPolicyError = member.on_policy_error
        self._queue = queue
        self._source = source
        self._deadline = HookDeadline(member.timeout_s, clock_of(transaction), source.limits.max_hold_s)
        self._assembler = BlockAssembler(marks_blocks=source.rules.marks_blocks)
        self._state = self._assembler.state
        self._buffer = HoldBuffer(
            queue,
            self._deadline,
            on_drop,
            source.limits.max_held_bytes,
            source.memory,
            has_text_after_calls=source.rules.has_text_after_calls,
        )
        self._control = StageControl(
            self._state,
            self._buffer,
            self._deadline,
            source.rules,
            source.is_streamed,
            source.takes_flags,
        )
        self._ctx = StreamingResponseContext(transaction, self._control)
        self.notice: str | None = None
        self.ended = asyncio.Event()
        """Set when nothing of the response follows; the worker may still have to clean up."""
        self._is_abandoned = False
        self._client_stalled = False
        self._has_provider_failed = False  # by its own word; such a response is never complete
        self._own_hooks = _own_hooks(type(policy))
        self._called = self._own_hooks  # empty after a failure with `on_policy_error: pass`
        self._judged: frozenset[type[StreamBlock]] = frozenset(
            kind for kind in _DELTA_HOOKS if {_DELTA_HOOKS[kind], _COMPLETE_HOOKS[kind]} & self._own_hooks
        )
        self._look_ahead = MAX_RUN  # pieces to ask the policy about; few where it changes many
        self._is_next_judged = False  # the policy has said that the next piece needs its hook
        self._pace = Pace()
        self._charged_blocks = 0
        self._uncharged = 0  # characters
        self._unreported_ns: dict[str, int] = {}  # time of the frequent hooks
        self._finished: set[int] = set()
        self._deferred: list[tuple[Chunk, StreamEvent]] = []  # leave after on_stream_complete
        self._repeats: list[tuple[Chunk, StreamEvent]] = []  # leave after the held content that they may repeat
        self._withheld_kinds: set[str] = set()  # of units unknown to the adapter

    @property
    def judges(self) -> bool:
        return not self._called.isdisjoint(_BLOCK_HOOKS)

    @property
    def is_modified(self) -> bool:
        return self._buffer.is_modified

    def keeps_reader_waiting(self, *, has_input: bool) -> bool:
        is_withheld = self.notice is not None or self.is_modified or not self._buffer.is_empty
        return self._deadline.is_running or (has_input and bool(is_withheld or self._deferred or self._repeats))

    def start(self) -> asyncio.Task[None]:
        """Starts the worker task, and keeps no reference: the frames of a cancelled task refer to this object."""
        return start_worker(self._run(), self._ctx.transaction_id)

    # The order of the hooks

    async def _run(self) -> None:
        """Reads the response to its end: each chunk in turn, then `on_stream_complete` if all of it came,
        and `on_stream_closed` always, and last."""
        source, error = self._source, None
        try:
            error = await read_items(source.stream, partial(self._take, source.decode))
            if self.notice is not None:
                error = None  # the notice tells the client how this response ends
            if error is None:
                await self._take(source.flush)
                await self._complete_stream()
        finally:
            self._end(error)
            if self._client_stalled:  # the reader may never come to record it
                await self._ctx.recorder.finalize_streaming("client_disconnected")
            await close_stream(source.stream)
            await self._close()

    async def _take(self, decode: Callable[..., Awaitable[Sequence[Chunk]]], *raw: object) -> bool:
        """Decodes and processes chunks. Returns False if the rest of the stream is not wanted."""
        chunks: Sequence[Chunk] = ()
        try:
            chunks = await decode(*raw)
        except Exception as error:
            self._fail(error)
            if isinstance(error, LimitExceededError):
                return False
        number = 0
        while number < len(chunks):
            if number and self._pace.step():
                await self._pace.give_turn()
            chunk, passed = chunks[number], 0
            if self.notice is None:
                try:
                    passed = await self._pass_run(chunks, number) if number + 1 < len(chunks) else 0
                    if not passed:
                        await self._process_chunk(chunk)
                except Exception as error:
                    self._fail(error)
            if self.notice is not None:
                self._buffer.forward_ending(chunk, (event for event in chunk.events if isinstance(event, ENDING)))
            number += passed or 1
        await self._queue.yield_to_reader()
        return not (self._is_abandoned or self._client_stalled)

    async def _process_chunk(self, chunk: Chunk) -> None:
        """Calls `on_chunk_received`; then for each event the complete hook of each block it ends, the delta
        hook of the block it adds to, and `on_finish_reason` if it is the finish of a choice."""
        self._assembler.begin(chunk)
        self._control.passes_chunk = False
        if "on_chunk_received" in self._called:
            await self._call("on_chunk_received")
        pace = Pace() if self._judged and len(chunk.events) > _PACED_EVENTS else None
        for event in chunk.events:
            if pace is not None and pace.step():  # the rest of the chunk leaves apart, if this has left
                await pace.give_turn()
            if isinstance(event, Quote):
                await self._on_quote(chunk, event)
                continue
            completed, block, is_late = self._assembler.feed(event)
            for ended in completed:
                await self._complete(ended)
            if isinstance(event, DELTAS) and block is not None:
                if type(block) in self._judged:
                    await self._on_delta(chunk, event, block, is_late=is_late)
                else:
                    await self._buffer.forward(chunk, event, block)
            elif isinstance(event, Finish):
                await self._on_finish(chunk, event)
            elif isinstance(event, BlockMarker):
                await self._on_marker(chunk, event, block)
            else:
                await self._on_other(chunk, event)

    async def _pass_run(self, chunks: Sequence[Chunk], start: int) -> int:
        """Forwards the chunks from `start` on that only add to a block, as far as the policy needs no hook for them.
        Returns their number."""
        block = self._assembler.run_block
        if block is None or "on_chunk_received" in self._called or self._buffer.holds(block):
            return 0
        if self._is_next_judged:
            self._is_next_judged = False
            return 0
        is_judged = type(block) in self._judged
        run = self._assembler.run_in(chunks, start, self._look_ahead if is_judged else MAX_RUN)
        if len(run) < 2:
            return 0
        pieces = [text_of(chunk.events[0]) for chunk in run]
        if is_judged:
            count = await self._count_untouched(block, pieces)
            self._is_next_judged = 0 < count < len(run)
            self._look_ahead = min(2 * count + 2, MAX_RUN)
            run, pieces = run[:count], pieces[:count]
            self._uncharged += sum(map(len, pieces))
            if self._uncharged > _CHARGED_AT_ONCE:
                self._charge()
        if run:
            self._assembler.feed_run(run, pieces)
            await self._buffer.forward_run(run, pieces, block)
        return len(run)

    async def _complete_stream(self) -> None:
        """Completes the open blocks, calls `on_stream_complete`, and forwards the deferred rest."""
        if self.notice is not None or self._has_provider_failed:
            return
        try:
            self._control.is_over = True
            for block in self._assembler.finish():
                await self._complete(block)
            await self._call("on_stream_complete")
            self._buffer.drop_all()  # nobody decides about the rest now, and the finish must fit what leaves
            for choice in {block.choice for block in self._state.blocks}:
                await self._replace_withheld_calls(choice)
            await self._forward_repeats(EVERY_CHOICE)
            self._buffer.keeps_order = True  # nothing older than these is left
            for chunk, event in self._deferred:
                await self._buffer.forward(chunk, event)
        except Exception as error:
            self._fail(error)

    async def _close(self) -> None:
        """Calls `on_stream_closed`, even after a failure of the policy."""
        self._called = self._own_hooks
        try:
            await self._call("on_stream_closed")
        except Exception as error:
            if not isinstance(error, PolicyError):
                logger.warning("on_stream_closed failed", exc_info=error)
        for hook, spent_ns in self._unreported_ns.items():
            labels = {"policy": self._ctx.policy_name, "hook": hook}
            self._ctx.observability.record_metric("luthien_policy_seconds", spent_ns / 1e9, labels)

    # One event

    async def _on_delta(self, chunk: Chunk, event: DeltaEvent, block: StreamBlock, *, is_late: bool) -> None:
        delta = event.arguments if isinstance(event, ToolCallDelta) else event.text
        self._uncharged += len(delta)
        if self._uncharged > _CHARGED_AT_ONCE or len(self._state.blocks) != self._charged_blocks:
            self._charge()
        hook = _DELTA_HOOKS[type(block)]
        if hook not in self._called:
            await self._buffer.forward(chunk, event, block)
            return
        if is_late:
            self._buffer.mark_modified(block.choice)
            return
        if isinstance(block, ToolCallStreamBlock) and block.is_renamed:
            # It leaves under the judged name, whichever piece a client reads the name from.
            self._buffer.mark_modified(block.choice)
        await self._hold_or_forward(chunk, event, block)
        self._control.event = event
        await self._call(hook, block, delta)
        self._control.event = None

    async def _complete(self, block: StreamBlock) -> None:
        self._state.just_completed = block
        await self._call(_COMPLETE_HOOKS[type(block)], block)
        self._state.just_completed = None

    async def _on_finish(self, chunk: Chunk, event: Finish) -> None:
        if event.choice not in self._finished:
            self._finished.add(event.choice)
            self._ctx.choice = event.choice
            await self._call("on_finish_reason")
            if not self._must_wait(event):
                await self._replace_withheld_calls(event.choice)
        await self._forward_repeats(event.choice)
        await self._forward_or_defer(chunk, event)

    async def _on_marker(self, chunk: Chunk, event: BlockMarker, block: StreamBlock | None) -> None:
        if event.kind in ("other", "unknown"):
            if event.kind == "unknown" and self._withholds_unknown:
                self._withhold_unknown(event.choice, "block")
            else:
                await self._buffer.forward_detail(chunk, event, block)
            return
        if type(block) in self._judged and len(self._state.blocks) != self._charged_blocks:
            self._charge()
        if block is None:
            await self._buffer.forward(chunk, event)
        elif event.role == "detail":
            await self._buffer.forward_detail(chunk, event, block)
        elif event.role == "end":
            if _COMPLETE_HOOKS[type(block)] not in self._called:
                await self._buffer.release_empty(block)
            await self._buffer.forward_end(chunk, event, block)
        elif _DELTA_HOOKS[type(block)] not in self._called:
            await self._buffer.forward(chunk, event, block)
        else:
            await self._hold_or_forward(chunk, event, block)

    async def _on_quote(self, chunk: Chunk, event: Quote) -> None:
        """Judges a quote as a whole block; then it leaves with its host."""
        if event.repeats_content and self._buffer.is_choice_modified(event.choice):
            return
        block = self._assembler.feed(event).block
        if not isinstance(block, ContentStreamBlock):
            return
        if "on_content_delta" not in self._called:
            await self._buffer.forward(chunk, event, block)
        else:
            await self._hold_or_forward(chunk, event, block)
        self._control.event = event
        await self._call("on_content_delta", block, event.text)
        self._control.event = None
        await self._complete(block)
        await self._buffer.send_quote(event, block)

    async def _on_other(self, chunk: Chunk, event: StreamEvent) -> None:
        """Forwards an event without a hook, now or after the content that it may repeat."""
        if isinstance(event, ProviderFailure):  # nobody can judge the rest of what is held
            self._has_provider_failed = True
            self._buffer.drop_all()
            await self._buffer.forward(chunk, event)
        elif isinstance(event, Unknown) and self._withholds_unknown:
            self._withhold_unknown(event.choice, event.kind, is_malformed=event.is_malformed)
        elif isinstance(event, Opaque) and event.repeats_content and self._may_repeat_more(event.choice):
            self._repeats.append((chunk, event))
        else:
            await self._forward_or_defer(chunk, event)

    # Hold, forward, defer

    async def _hold_or_forward(self, chunk: Chunk, event: StreamEvent, block: StreamBlock) -> None:
        if self._control.passes_chunk:
            await self._buffer.forward(chunk, event, block)
            return
        try:
            self._buffer.hold(chunk, event, block)
        except LimitExceededError as error:  # the policy holds too much, so it is the one that fails
            record_failure(self._ctx, self._ctx.policy_name, self._on_policy_error, "holding a block", error)
            if self._on_policy_error == "block":
                raise PolicyError("holding a block failed") from error
            await self._leave_out_policy()
            await self._buffer.forward(chunk, event, block)

    async def _forward_or_defer(self, chunk: Chunk, event: StreamEvent) -> None:
        if self._must_wait(event):
            self._buffer.keeps_order = False
            self._deferred.append((chunk, event))
        else:
            await self._buffer.forward(chunk, event)

    def _must_wait(self, event: StreamEvent) -> bool:
        """Holds for a finish before held events of its choice, or before `on_stream_complete`, because
        the hook may send more; and for every event after such a finish."""
        if self._deferred:
            return True
        return isinstance(event, Finish) and (
            "on_stream_complete" in self._own_hooks or self._buffer.holds_any(event.choice)
        )

    def _may_repeat_more(self, choice: int) -> bool:
        """Holds if a field may repeat held or future content of `choice`."""
        if self._buffer.holds_any(choice):
            return True
        has_begun = any(choice in (block.choice, EVERY_CHOICE) for block in self._state.blocks)
        return self.judges and not has_begun

    async def _forward_repeats(self, choice: int) -> None:
        """Forwards the repeats of `choice` after its content; for `EVERY_CHOICE` those of all choices."""
        waiting, self._repeats = self._repeats, []
        for chunk, event in waiting:
            if choice in (event.choice, EVERY_CHOICE) and not self._buffer.holds_any(event.choice):
                await self._buffer.forward(chunk, event)
            else:
                self._repeats.append((chunk, event))

    async def _replace_withheld_calls(self, choice: int) -> None:
        """Sends a short text if every tool call was withheld: agents stall on an empty message, and providers
        refuse it in the next request."""
        blocks = [block for block in self._state.blocks if block.choice == choice]
        has_calls = any(isinstance(block, ToolCallStreamBlock) and block.form != "server" for block in blocks)
        if has_calls and choice not in self._buffer.delivered:
            text = notice(WITHHELD_CALLS, self._ctx.transaction_id)
            await self._buffer.send(TextDelta(choice=choice, text=text))

    @property
    def _withholds_unknown(self) -> bool:
        return self.judges and not self._source.passes_unknown and not self._control.passes_chunk

    def _withhold_unknown(self, choice: int, kind: str, *, is_malformed: bool = False) -> None:
        if is_malformed:
            raise WireError(f"the provider sent a malformed {kind}")
        self._buffer.mark_modified(choice)
        if kind not in self._withheld_kinds:
            self._withheld_kinds.add(kind)
            reason = f"no policy can judge this unknown {kind} (`unjudged: pass` lets such pass)"
            self._ctx.decide("block", reason=reason)

    def _charge(self) -> None:
        """Counts new characters and blocks towards the limits of the transaction."""
        characters, self._uncharged = self._uncharged, 0
        counted, self._charged_blocks = self._charged_blocks, len(self._state.blocks)
        self._ctx.charge(characters, self._charged_blocks - counted)

    # One hook

    async def _call(self, hook: str, block: StreamBlock | None = None, delta: str | None = None) -> None:
        """Calls a hook of the policy's own, then drops the events replaced by it."""
        if hook not in self._called:
            return
        ctx, buffer = self._ctx, self._buffer
        ctx.block, ctx.delta = block, delta
        if block is not None:
            ctx.choice = block.choice
        buffer.has_sent = False
        try:
            has_failed = await call_hook(
                ctx,
                hook,
                lambda: self._deadline.run(getattr(self._policy, hook)(ctx), self._abandon),
                self._on_policy_error,
                fallback=_FAILED,
                is_failure=self._is_failure,
                unreported_ns=self._unreported_ns if hook in _FREQUENT_HOOKS else None,
            )
            if buffer.has_sent:
                if block is not None:
                    buffer.drop(block)
                elif hook == "on_finish_reason":
                    buffer.drop_choice(ctx.choice)
                elif hook != "on_chunk_received":
                    buffer.drop_all()
            if has_failed is _FAILED:
                await self._leave_out_policy()
        finally:
            ctx.block = ctx.delta = None
            ctx.choice = 0

    async def _count_untouched(self, block: StreamBlock, pieces: Sequence[str]) -> int:
        """Asks the policy which of the next pieces need no delta hook."""
        hook, ctx, policy = _DELTA_HOOKS[type(block)], self._ctx, self._policy
        if hook not in self._called:
            return len(pieces)
        if hook not in _skippable_hooks(type(policy)):
            return 0

        async def count() -> int | None:
            return policy.count_untouched(ctx, pieces)

        ctx.block, ctx.choice = block, block.choice
        try:
            counted = await call_hook(
                ctx,
                hook,
                count,
                self._on_policy_error,
                fallback=None,
                is_failure=self._is_failure,
                unreported_ns=self._unreported_ns,
            )
        finally:
            ctx.block, ctx.choice = None, 0
        if counted is None:
            await self._leave_out_policy()
        return counted or 0

    def _is_failure(self, error: Exception) -> bool:
        """Holds unless the policy refuses, or the response has ended without it."""
        return not (isinstance(error, PolicyBlockedError | StreamClosedError) or self._is_abandoned)

    async def _leave_out_policy(self) -> None:
        """Forwards the rest of the response without the failed policy."""
        self._called, self._judged = frozenset[str](), frozenset[type[StreamBlock]]()
        await self._buffer.release_all()

    # The end

    def _fail(self, error: Exception) -> None:
        """Ends the response with a notice. The error's own text is for the operator alone."""
        if self.notice is not None:
            return
        notice = failure_notice(self._ctx)
        if isinstance(error, PolicyBlockedError):
            notice = error.message
            record_refusal(self._ctx, error)
        elif isinstance(error, QueueFullError):
            self._client_stalled = True
            notice = stalled_notice(self._ctx)
            record_error(self._ctx, "the response was ended", error)
            logger.warning("transaction %s: %s", self._ctx.transaction_id, error)
        elif not isinstance(error, PolicyError):  # those are recorded already
            record_error(self._ctx, "the response was ended", error)
            logger.error("transaction %s: the response was ended", self._ctx.transaction_id, exc_info=error)
        self.notice = notice
        self._buffer.end_with_notice(notice)
        for chunk, event in self._deferred:
            self._buffer.forward_ending(chunk, (event,) if isinstance(event, ENDING) else ())

    def _abandon(self, error: PolicyTimeoutError) -> None:
        """Ends the response if a hook ignores its cancellation, and leaves the worker behind."""
        if self.ended.is_set():
            return
        self._is_abandoned = True
        record_failure(self._ctx, self._ctx.policy_name, "block", "a hook that cannot be stopped", error)
        self._fail(error)
        self._end()
        start_worker(close_stream(self._source.stream), self._ctx.transaction_id)

    def _end(self, error: BaseException | None = None) -> None:
        self._buffer.drop_all()
        self._queue.close(error)
        self.ended.set()


_FAILED = object()
