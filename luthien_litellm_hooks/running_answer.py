"""One answer on its way through a policy: which hook is called when, and what a failure does."""

import asyncio
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from functools import partial

from luthien_litellm_hooks.assembler import BlockAssembler
from luthien_litellm_hooks.deadline import HookDeadline
from luthien_litellm_hooks.egress import ParcelSink
from luthien_litellm_hooks.errors import (
    LimitExceededError,
    PolicyBlockedError,
    PolicyError,
    PolicyTimeoutError,
    QueueFullError,
    StreamClosedError,
    WireError,
)
from luthien_litellm_hooks.events import (
    DELTAS,
    EVERY_CHOICE,
    Chunk,
    ContentStreamBlock,
    DeltaEvent,
    End,
    Failure,
    Finish,
    Frame,
    Opaque,
    Quote,
    ReasoningStreamBlock,
    StreamBlock,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    ToolCallStreamBlock,
    Unknown,
    Usage,
)
from luthien_litellm_hooks.failures import OnPolicyError, failure_notice, note_failure, unread_notice
from luthien_litellm_hooks.limits import Limits
from luthien_litellm_hooks.log_lines import logger
from luthien_litellm_hooks.outbox import Outbox
from luthien_litellm_hooks.policy.base import Policy
from luthien_litellm_hooks.policy.context import Engine, PolicyContext, StreamingResponseContext
from luthien_litellm_hooks.policy.notices import NOTICE_MARK, notice
from luthien_litellm_hooks.worker import Pace, close_stream, is_cancelled, read_items, start_worker

WITHHELD_CALLS = f"{NOTICE_MARK} The tool calls of this answer were withheld."
Hook = Callable[[StreamingResponseContext], Awaitable[None]]
Decode = Callable[[object], Sequence[Chunk]]
Flush = Callable[[], Sequence[Chunk]]


class RunningAnswer:
    """Feeds one answer to one policy, in a worker task of its own.

    The worker alone touches the provider's stream and the policy; its reader takes from the queue.
    Whatever fails, the worker closes the queue and the provider's stream, and calls
    `on_stream_closed`.
    """

    def __init__(
        self,
        policy: Policy,
        queue: ParcelSink,
        timeout_s: float,
        transaction: PolicyContext,
        on_policy_error: OnPolicyError,
        *,
        is_framed: bool,
        limits: Limits,
        passes_unknown: bool = False,
        cut_reasons: tuple[str, ...] = (),
        has_text_after_calls: bool = False,
        on_drop: Callable[[StreamBlock], None] | None = None,
    ) -> None:
        self._policy = policy
        self.queue = queue
        self._deadline = HookDeadline(timeout_s, transaction.hold_clock, limits.max_hold_s)
        self._on_policy_error: OnPolicyError = on_policy_error
        self._passes_unknown = passes_unknown
        self._withheld_kinds: set[str] = set()  # of what the adapter does not know
        self._assembler = BlockAssembler(is_framed=is_framed)
        self.state = self._assembler.state
        self.outbox = Outbox(
            queue, self._deadline, on_drop, limits.max_held_bytes, has_text_after_calls=has_text_after_calls
        )
        self._engine = Engine(self.state, self.outbox, self._deadline, has_text_after_calls, cut_reasons)
        self._ctx = StreamingResponseContext(transaction, self._engine)
        self.notice: str | None = None
        """What the answer was ended with; then nothing may follow but how answers end."""
        self.ended = asyncio.Event()
        """Nothing of the answer follows; the worker may still have to clean up."""
        self._is_abandoned = False
        self._is_unread = False  # the client was given up
        self._has_provider_failed = False  # it said so; then its answer never is whole
        self._untold_ns: dict[str, int] = {}  # what the hooks took of which nobody was told
        self._finished: set[int] = set()
        self._tail: list[tuple[Chunk, StreamEvent]] = []  # what must leave after on_stream_complete
        self._repeats: list[tuple[Chunk, StreamEvent]] = []  # what must wait for what is held
        # Those of `Policy` let pass, which needs no call.
        self._own_hooks = frozenset(hook for hook in HOOKS if getattr(type(policy), hook) is not getattr(Policy, hook))
        self._judged: frozenset[type[StreamBlock]] = frozenset(
            kind for kind in _DELTA_HOOKS if {_DELTA_HOOKS[kind], _COMPLETE_HOOKS[kind]} & self._own_hooks
        )
        self._blocks = 0  # of the answer, as far as they are counted
        self._uncharged = 0  # characters that are not
        self._called = self._own_hooks  # none when the policy has failed and is to be passed over
        self._has_last_word = "on_stream_complete" in self._own_hooks

    @property
    def judges(self) -> bool:
        """Whether the policy has a hook for the blocks of a response."""
        return not self._called.isdisjoint(_BLOCK_HOOKS)

    @property
    def is_touched(self) -> bool:
        """The answer is no longer just what came."""
        return self.outbox.is_touched

    def start(self, stream: AsyncIterable[object], decode: Decode, flush: Flush) -> asyncio.Task[None]:
        """Starts the worker task. It is not kept here: one that is cancelled holds its frames, and they this."""
        self._stream = stream
        return start_worker(self._work(stream, decode, flush), self._ctx.transaction_id)

    # The stream

    async def _work(self, stream: AsyncIterable[object], decode: Decode, flush: Flush) -> None:
        error: BaseException | None = None
        try:
            error = await read_items(stream, lambda raw: self._take(partial(decode, raw)))
            if self.notice is not None:
                error = None  # the client has been told how this answer ends
            if error is None:
                await self._take(flush)
                await self._complete_answer()
        finally:
            self._end(error)
            if self._is_unread:  # the reader may never come to say so
                await self._ctx.recorder.finalize_streaming("client_disconnected")
            await close_stream(stream)
            await self._say_closed()

    def _end(self, error: BaseException | None = None) -> None:
        self.outbox.drop_all()
        self.queue.close(error)
        self.ended.set()

    def _abandon(self, error: PolicyTimeoutError) -> None:
        """Ends an answer whose hook goes on though it was cancelled, and leaves the worker behind."""
        if self.ended.is_set():
            return
        self._is_abandoned = True
        note_failure(self._ctx, self._ctx.policy_name, "block", "a hook that cannot be stopped", error)
        self._fail(error)
        self._end()
        start_worker(close_stream(self._stream), self._ctx.transaction_id)

    async def _take(self, decode: Flush) -> bool:
        """Takes in what came; False if nothing that follows is wanted."""
        chunks: Sequence[Chunk] = ()
        try:
            chunks = decode()
        except Exception as error:
            self._fail(error)
            if isinstance(error, LimitExceededError):
                return False
        for chunk in chunks:
            if self.notice is None:
                try:
                    await self._judge(chunk)
                except Exception as error:
                    self._fail(error)
            if self.notice is not None:
                self.outbox.let_out_ending(chunk, (event for event in chunk.events if isinstance(event, _ENDING)))
        await self.queue.let_read()
        return not (self._is_abandoned or self._is_unread)

    def _fail(self, error: Exception) -> None:
        """Ends the answer with a notice. The error's own text is for the operator alone."""
        if self.notice is not None:
            return
        notice = failure_notice(self._ctx)
        if isinstance(error, PolicyBlockedError):
            notice = error.message
            self._ctx.decide("block", reason=error.reason, message=notice)
        elif isinstance(error, QueueFullError):
            self._is_unread = True
            notice = unread_notice(self._ctx)
            self._ctx.note_error("the answer was ended", error)
            logger.warning("transaction %s: %s", self._ctx.transaction_id, error)
        elif not isinstance(error, PolicyError):  # of which the operator was told where it was caught
            self._ctx.note_error("the answer was ended", error)
            logger.error("transaction %s: the answer was ended", self._ctx.transaction_id, exc_info=error)
        self.notice = notice
        self.outbox.end_with(notice)
        for chunk, event in self._tail:
            self.outbox.let_out_ending(chunk, (event,) if isinstance(event, _ENDING) else ())

    # The hooks, in their order

    async def _judge(self, chunk: Chunk) -> None:
        self._assembler.begin(chunk)
        self._engine.passes_chunk = False
        if "on_chunk_received" in self._called:
            await self._call("on_chunk_received")
        pace = Pace() if self._judged and len(chunk.events) > _MANY_EVENTS else None
        for event in chunk.events:
            if pace is not None and pace.step():  # the rest of the chunk leaves apart, if this has left
                await pace.give_turn()
            if isinstance(event, DELTAS):
                await self._add(chunk, event)
            elif isinstance(event, Finish):
                await self._finish(chunk, event)
            elif isinstance(event, Quote):
                await self._quote(chunk, event)
            elif isinstance(event, Frame) and event.kind in ("other", "unknown"):
                await self._frame_of_other(chunk, event)
            elif isinstance(event, Frame):
                await self._frame(chunk, event)
            elif isinstance(event, Failure):
                await self._let_out_failure(chunk, event)
            elif isinstance(event, Unknown) and self._withholds_unknown:
                self._withhold_unknown(event.choice, event.kind, is_malformed=event.is_malformed)
            elif isinstance(event, Opaque) and event.repeats and self._may_yet_change(event.choice):
                self._repeats.append((chunk, event))
            else:
                await self._let_out_in_order(chunk, event)

    async def _add(self, chunk: Chunk, event: DeltaEvent) -> None:
        step = self._assembler.feed(event)
        if step.completed:
            await self._complete(step.completed)
        block = step.block
        if block is None:
            return
        delta = event.arguments if isinstance(event, ToolCallDelta) else event.text
        if type(block) in self._judged:
            self._uncharged += len(delta)
            if self._uncharged > _CHARGED_AT_ONCE or len(self.state.blocks) != self._blocks:
                self._charge()
        hook = _DELTA_HOOKS[type(block)]
        if hook not in self._called:
            await self.outbox.let_out(chunk, event, block)
            return
        if step.is_late:
            self.outbox.touch(block.choice)
            return
        if isinstance(block, ToolCallStreamBlock) and block.is_renamed:
            self.outbox.touch(block.choice)  # it leaves under the name that is judged, whichever piece a client takes
        if self._engine.passes_chunk:
            await self.outbox.let_out(chunk, event, block)
        else:
            await self._hold(chunk, event, block)
        self._engine.event = event
        await self._call(hook, block, delta)
        self._engine.event = None

    def _charge(self) -> None:
        """Counts what has come for the policy to judge since this was last called."""
        characters, self._uncharged = self._uncharged, 0
        counted, self._blocks = self._blocks, len(self.state.blocks)
        self._ctx.charge(characters, self._blocks - counted)

    async def _frame(self, chunk: Chunk, event: Frame) -> None:
        step = self._assembler.feed(event)
        if type(step.block) in self._judged and len(self.state.blocks) != self._blocks:
            self._charge()
        await self._complete(step.completed)
        block = step.block
        if block is None:
            await self.outbox.let_out(chunk, event)
        elif event.role == "detail":
            await self.outbox.let_out_detail(chunk, event, block)
        elif event.role == "end":
            if _COMPLETE_HOOKS[type(block)] not in self._called:
                await self.outbox.release_empty(block)
            await self.outbox.let_out_end(chunk, event, block)
        elif self._engine.passes_chunk or _DELTA_HOOKS[type(block)] not in self._called:
            await self.outbox.let_out(chunk, event, block)
        else:
            await self._hold(chunk, event, block)

    async def _quote(self, chunk: Chunk, event: Quote) -> None:
        """Judges a quote as the whole block that it is; then it leaves with what it belongs to."""
        if event.repeats and self.outbox.is_touched_in(event.choice):
            return
        block = self._assembler.feed(event).block
        if not isinstance(block, ContentStreamBlock):
            return
        if "on_content_delta" not in self._called or self._engine.passes_chunk:
            await self.outbox.let_out(chunk, event, block)
        else:
            await self._hold(chunk, event, block)
        self._engine.event = event
        await self._call("on_content_delta", block, event.text)
        self._engine.event = None
        await self._complete([block])
        await self.outbox.send_quote(event, block)

    async def _frame_of_other(self, chunk: Chunk, event: Frame) -> None:
        if event.kind == "unknown" and self._withholds_unknown:
            self._withhold_unknown(event.choice, "block")
        else:
            await self.outbox.let_out_detail(chunk, event, self._assembler.feed(event).block)

    @property
    def _withholds_unknown(self) -> bool:
        return self.judges and not self._passes_unknown and not self._engine.passes_chunk

    def _withhold_unknown(self, choice: int, kind: str, *, is_malformed: bool = False) -> None:
        if is_malformed:
            raise WireError(f"the provider sent a malformed {kind}")
        self.outbox.touch(choice)
        if kind not in self._withheld_kinds:
            self._withheld_kinds.add(kind)
            reason = f"no policy can judge this unknown {kind} (`unjudged: pass` lets such pass)"
            self._ctx.decide("block", reason=reason)

    def _may_yet_change(self, choice: int) -> bool:
        """Whether a field that may repeat what `choice` says must wait: for what is held, or for its beginning."""
        if self.outbox.holds_of(choice):
            return True
        has_begun = any(choice in (block.choice, EVERY_CHOICE) for block in self.state.blocks)
        return self.judges and not has_begun

    async def _let_out_failure(self, chunk: Chunk, event: Failure) -> None:
        """What is held at this point stays withheld: nobody can judge what is not whole."""
        self._has_provider_failed = True
        self.outbox.drop_all()
        await self.outbox.let_out(chunk, event)

    async def _hold(self, chunk: Chunk, event: StreamEvent, block: StreamBlock) -> None:
        try:
            self.outbox.hold(chunk, event, block)
        except LimitExceededError as error:  # the policy lets nothing out, so it is the one that fails
            await self._policy_failed("holding a block", error)
            await self.outbox.let_out(chunk, event, block)

    async def _finish(self, chunk: Chunk, event: Finish) -> None:
        await self._complete(self._assembler.feed(event).completed)
        if event.choice not in self._finished:
            self._finished.add(event.choice)
            self._ctx.choice = event.choice
            await self._call("on_finish_reason")
            if not self._must_wait(event):
                await self._mind_withheld_calls(event.choice)
        await self._let_out_repeats(event.choice)
        await self._let_out_in_order(chunk, event)

    async def _complete_answer(self) -> None:
        if self.notice is not None or self._has_provider_failed:
            return
        try:
            await self._have_last_word()
        except Exception as error:
            self._fail(error)

    async def _have_last_word(self) -> None:
        self._engine.is_over = True
        await self._complete(self._assembler.finish())
        await self._call("on_stream_complete")
        for choice in {block.choice for block in self.state.blocks}:
            await self._mind_withheld_calls(choice)
        await self._let_out_repeats(EVERY_CHOICE)
        for chunk, event in self._tail:
            await self.outbox.let_out(chunk, event)

    async def _mind_withheld_calls(self, choice: int) -> None:
        """An agent that gets nothing at all in place of its calls can do nothing, and a provider
        refuses an empty answer in its next request."""
        blocks = [block for block in self.state.blocks if block.choice == choice]
        has_calls = any(isinstance(block, ToolCallStreamBlock) and block.form != "server" for block in blocks)
        if has_calls and choice not in self.outbox.delivered:
            words = notice(WITHHELD_CALLS, self._ctx.transaction_id)
            await self.outbox.send(TextDelta(choice=choice, text=words))

    async def _complete(self, blocks: Sequence[StreamBlock]) -> None:
        for block in blocks:
            self.state.just_completed = block
            await self._call(_COMPLETE_HOOKS[type(block)], block)
            self.state.just_completed = None

    async def _let_out_in_order(self, chunk: Chunk, event: StreamEvent) -> None:
        """Lets `event` out now, or, if it ends the answer, when the policy has had its last word."""
        if self._must_wait(event):
            self.outbox.keeps_order = False
            self._tail.append((chunk, event))
        else:
            await self.outbox.let_out(chunk, event)

    def _must_wait(self, event: StreamEvent) -> bool:
        """Nothing of a choice may follow its finish: not what is held, nor what may be said when all has come."""
        if self._tail:
            return True
        return isinstance(event, Finish) and (self._has_last_word or self.outbox.holds_of(event.choice))

    async def _let_out_repeats(self, choice: int) -> None:
        """Lets out those that wait for `choice`, of which all has come; at the end for every choice."""
        waiting, self._repeats = self._repeats, []
        for chunk, event in waiting:
            if choice in (event.choice, EVERY_CHOICE) and not self.outbox.holds_of(event.choice):
                await self.outbox.let_out(chunk, event)
            else:
                self._repeats.append((chunk, event))

    # One hook

    async def _call(self, hook: str, block: StreamBlock | None = None, delta: str | None = None) -> None:
        if hook not in self._called:
            return
        self._ctx.block, self._ctx.delta = block, delta
        if block is not None:
            self._ctx.choice = block.choice
        self.outbox.has_spoken = False
        try:
            await self._run(hook)
        except (PolicyBlockedError, StreamClosedError):
            raise
        except Exception as error:
            self._settle(hook, block)
            await self._policy_failed(hook, error)
        else:
            self._settle(hook, block)
        finally:
            self._ctx.block = self._ctx.delta = None
            self._ctx.choice = 0

    async def _run(self, hook: str) -> None:
        self._ctx.hook_began = time.monotonic()
        started_ns, decided = time.time_ns(), len(self._ctx.decisions)
        try:
            await self._await(hook)
        finally:
            self._tell(hook, started_ns, decided)

    def _tell(self, hook: str, started_ns: int, decided: int) -> None:
        """Tells observers of a hook that ran; of pieces there are too many to tell of each."""
        ended_ns = time.time_ns()
        if hook in _FREQUENT_HOOKS and len(self._ctx.decisions) == decided:
            self._untold_ns[hook] = self._untold_ns.get(hook, 0) + ended_ns - started_ns
            return
        policy = self._ctx.policy_name
        made = [decision for decision in self._ctx.decisions[decided:] if decision.policy == policy]
        self._ctx.observability.hook_ran(policy, hook, started_ns=started_ns, ended_ns=ended_ns, decisions=made)

    def _tell_rest(self) -> None:
        for hook, spent_ns in self._untold_ns.items():
            labels = {"policy": self._ctx.policy_name, "hook": hook}
            self._ctx.observability.record_metric("luthien_policy_seconds", spent_ns / 1e9, labels)

    async def _await(self, hook: str) -> None:
        was_cancelled = is_cancelled()  # before on_stream_closed, when the client has left
        try:
            await self._deadline.run(getattr(self._policy, hook)(self._ctx), self._abandon)
        except asyncio.CancelledError as error:
            if is_cancelled():
                raise
            raise PolicyError("something that the hook awaited was cancelled") from error
        finally:
            if is_cancelled() and not was_cancelled:  # which the hook may have kept to itself
                raise asyncio.CancelledError

    def _settle(self, hook: str, block: StreamBlock | None) -> None:
        """Drops what the hook has replaced by words of its own."""
        if not self.outbox.has_spoken:
            return
        if block is not None:
            self.outbox.drop(block)
        elif hook == "on_finish_reason":
            self.outbox.drop_choice(self._ctx.choice)
        elif hook != "on_chunk_received":
            self.outbox.drop_all()

    async def _policy_failed(self, hook: str, error: Exception) -> None:
        if self._is_abandoned:
            raise PolicyError(f"{hook} failed, and the answer was ended for it") from error
        note_failure(self._ctx, self._ctx.policy_name, self._on_policy_error, hook, error)
        if self._on_policy_error == "block":
            raise PolicyError(f"{hook} failed") from error
        self._called, self._judged = frozenset[str](), frozenset[type[StreamBlock]]()
        await self.outbox.release_all()

    async def _say_closed(self) -> None:
        self._called = self._own_hooks
        try:
            await self._call("on_stream_closed")
        except Exception as error:
            if not isinstance(error, PolicyError):
                logger.warning("on_stream_closed failed", exc_info=error)
        self._tell_rest()


def has_answer_hook(policy: Policy) -> bool:
    """Whether `policy` has a hook of its own for answers; one without lets all of them through."""
    hooks = (*HOOKS, "process_full_response")
    return any(getattr(type(policy), hook) is not getattr(Policy, hook) for hook in hooks if hook != "on_request")


_MANY_EVENTS = 100
_CHARGED_AT_ONCE = 1_000
_ENDING = (Finish, Usage, End)
HOOKS = tuple(name for name in vars(Policy) if name.startswith("on_"))
_FREQUENT_HOOKS = ("on_chunk_received", "on_content_delta", "on_reasoning_delta", "on_tool_call_delta")
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
