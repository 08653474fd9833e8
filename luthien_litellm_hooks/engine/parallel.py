"""Runs several policies over one response side by side, each as it came. Their votes decide on each block."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import NoReturn, cast

from luthien_litellm_hooks.engine.composition import ConfiguredPolicy, Parallel, run_of, view_of
from luthien_litellm_hooks.engine.egress_queue import EgressItem, EgressQueue, size_of
from luthien_litellm_hooks.engine.hold_buffer import HoldBuffer
from luthien_litellm_hooks.engine.hook_call import HookDeadline, record_failure, report_hook
from luthien_litellm_hooks.engine.pipeline import (
    CLOSE_GRACE_S,
    ENDING,
    StageInput,
    close_stream,
    no_chunks,
    read_items,
    start_worker,
)
from luthien_litellm_hooks.engine.stage import WITHHELD_CALLS, PolicyStage
from luthien_litellm_hooks.engine.votes import BlockVotes, PendingEvent, VoterOutput
from luthien_litellm_hooks.errors import LimitExceededError, PolicyTimeoutError, QueueFullError, StreamClosedError
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.notices import notice
from luthien_litellm_hooks.wire.assembler import BlockAssembler
from luthien_litellm_hooks.wire.events import (
    BlockMarker,
    Chunk,
    Finish,
    ProviderFailure,
    Quote,
    StreamBlock,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    ToolCallStreamBlock,
)

FEED_ITEMS = 1000
"""Largest lead of the quickest member over the slowest, in items."""
Feed = Callable[[], Sequence[Chunk]] | BaseException | None
"""Input of a member: chunks, or the end of the stream, with the provider's own error if there was one."""


class ParallelStage:
    """Runs every member of a `Parallel` over the same response.

    Text and reasoning leave as soon as enough members have passed them. When enough members object to
    a block, the rest of its choice waits until all have seen the whole of it; tool calls always wait.
    Then each block leaves as the votes decide.
    """

    def __init__(
        self,
        parallel: Parallel,
        contexts: Sequence[PolicyContext],
        ctx: PolicyContext,
        queue: EgressQueue,
        source: StageInput,
    ) -> None:
        self.queue = queue
        self._source = source
        self._memory_taken = 0
        # A member that waits for the client has its own deadline paused.
        self._buffer = HoldBuffer(queue, HookDeadline(0), memory=source.memory, keeps_order=False)
        self.notice: str | None = None
        self._ctx = view_of(ctx, parallel.name, parallel.name)
        self._needed = parallel.objections_needed
        self._voters = [
            Voter(self, number, member, context, source)
            for number, (member, context) in enumerate(zip(parallel.members, contexts, strict=True))
        ]
        self._counted = range(len(parallel.voters))
        self._assembler = BlockAssembler(marks_blocks=source.rules.marks_blocks)
        self._pending: dict[int, PendingEvent] = {}
        self._endings: list[PendingEvent] = []  # pending events that end a response
        self._votes: dict[StreamBlock, BlockVotes] = {}
        self._waiting: set[int] = set()  # choices with a block that enough members object to
        self._has_provider_failed = False  # by its own word
        self._lock = asyncio.Lock()
        self._voted = asyncio.Event()
        run_of(ctx).pending_votes.append(self._voted)

    @property
    def is_modified(self) -> bool:
        return self._buffer.is_modified or any(voter.stage.is_modified for voter in self._voters[: len(self._counted)])

    @property
    def judges(self) -> bool:
        return True  # a call waits for the votes, even those of members without a hook for it

    def keeps_reader_waiting(self, *, has_input: bool) -> bool:
        voters = [self._voters[number] for number in self._counted]
        if any(voter.stage.keeps_reader_waiting(has_input=has_input) for voter in voters):
            return True
        is_withheld = self.notice is not None or not all(pending.has_left for pending in self._pending.values())
        return has_input and is_withheld

    def start(self) -> asyncio.Task[None]:
        """Starts the worker task."""
        self.worker = start_worker(self._run(), self._ctx.transaction_id)
        return self.worker

    # The response, for every member

    async def _run(self) -> None:
        source = self._source
        workers = [voter.start() for voter in self._voters]
        try:
            error = await read_items(source.stream, partial(self._feed, source.decode))
            if error is None:
                await self._feed(source.flush)
            await self._feed_all(error)
            for number in self._counted:
                await self._voters[number].stage.ended.wait()
            async with self._lock:
                await self._forward_rest(error)
            self.queue.close(None if self.notice is not None else error)
            for voter in self._voters:
                await voter.stage.ended.wait()
            self._record_votes()
        finally:
            for worker in workers:
                worker.cancel()
            self.queue.close()
            self._source.memory.taken -= self._memory_taken
            await close_stream(source.stream)
            await asyncio.wait(workers, timeout=CLOSE_GRACE_S)
            self._record_votes()

    async def _feed(self, decode: Callable[..., Awaitable[Sequence[Chunk]]], *raw: object) -> bool:
        """Feeds new chunks to every member. Returns False if the rest of the stream is not wanted."""
        try:
            chunks = await decode(*raw)
            for chunk in chunks:
                self._note(chunk)
        except Exception as error:
            await self._feed_all(partial(_raise, error))  # ends each member
            return not isinstance(error, LimitExceededError)
        for chunk in chunks:
            await self._feed_all(lambda chunk=chunk: (chunk,))
        return True

    async def _feed_all(self, item: Feed) -> None:
        for voter in self._voters:
            if voter.is_closed:
                continue
            if voter.number in self._counted:
                await voter.feed.put(item)
            else:
                voter.offer(item)

    def _note(self, chunk: Chunk) -> None:
        """Notes the events of `chunk` as pending."""
        for event in chunk.events:
            self._source.memory.take(size_of(event), self._source.limits.max_held_bytes)
            self._memory_taken += size_of(event)
            fed = self._assembler.feed(event)
            is_unjudged = (
                isinstance(event, BlockMarker) and event.kind in ("other", "unknown") and not isinstance(event, Quote)
            )
            block = None if fed.is_late or is_unjudged else fed.block
            pending = self._pending[id(event)] = PendingEvent(chunk, event, block)
            if block is not None:
                self._votes.setdefault(block, BlockVotes(block)).pending.append(pending)
            if isinstance(event, ENDING):
                self._endings.append(pending)
            elif isinstance(event, ProviderFailure):
                self._has_provider_failed = True

    # The members' output

    async def on_output(self, voter: "Voter", item: EgressItem) -> None:
        """Takes output of a member."""
        async with self._lock:
            for event, block in zip(item.events, item.blocks, strict=True):
                if item.chunk is None:
                    self._on_made(voter, event, item.about, is_in_block=block is not None)
                elif (pending := self._pending.get(id(event))) is not None:
                    await self._on_passed(voter, pending)
                else:  # a quote with another text, held with its block until now
                    self._on_made(voter, event, block, is_in_block=True)

    def _on_made(self, voter: "Voter", event: StreamEvent, about: StreamBlock | None, *, is_in_block: bool) -> None:
        output = VoterOutput(made=event, is_in_block=is_in_block)
        if about is None:
            voter.unattached.append(output)
        else:
            own = self._own(about)
            self._votes[own].note(voter.number, output)
            self._wait_if_objected(own)

    def add_objection(self, voter: "Voter", block: StreamBlock) -> None:
        """Takes the objection of a member: it dropped something of a block."""
        own = self._own(block)
        self._votes[own].objectors.add(voter.number)
        self._wait_if_objected(own)

    def _own(self, block: StreamBlock) -> StreamBlock:
        """Returns this stage's object for a member's block: all members see the same blocks in one order."""
        return self._assembler.state.blocks[block.place]

    def _wait_if_objected(self, block: StreamBlock) -> None:
        if self._votes[block].winner(self._counted, self._needed) is not None:
            self._waiting.add(block.choice)

    async def _on_passed(self, voter: "Voter", pending: PendingEvent) -> None:
        block = pending.block
        pending.passed_by.add(voter.number)
        if block is not None:
            self._votes[block].note(voter.number, VoterOutput(pending))
        if self.notice is not None or pending.has_left:
            return
        if isinstance(pending.event, ENDING):
            await self._forward_endings()
        elif self._passes(pending) > len(self._counted) - self._needed:
            waits = isinstance(block, ToolCallStreamBlock) or (block is not None and block.choice in self._waiting)
            if not waits:
                await self._forward(pending)

    def _passes(self, pending: PendingEvent) -> int:
        return sum(number in pending.passed_by for number in self._counted)

    # The stage's output

    async def _forward(self, pending: PendingEvent) -> None:
        pending.has_left = True
        await self._buffer.forward(pending.chunk, pending.event, pending.block)

    async def _forward_endings(self) -> None:
        """Forwards the ending events passed by all voters, in the order that they came. A voter with a notice may pass
        them before the others do."""
        for pending in self._endings:
            if not pending.has_left and self._passes(pending) == len(self._counted):
                if isinstance(pending.event, Finish):
                    await self._forward_blocks(pending.event.choice)
                await self._forward(pending)
        self._endings = [pending for pending in self._endings if not pending.has_left]

    async def _forward_rest(self, error: BaseException | None) -> None:
        """Forwards the waiting rest, when every voter has seen everything."""
        if error is not None or self.notice is not None or self._has_provider_failed:
            return
        for choice in dict.fromkeys(block.choice for block in self._votes):
            await self._forward_blocks(choice)
        for pending in self._endings:
            if not pending.has_left:
                await self._forward(pending)

    async def _forward_blocks(self, choice: int) -> None:
        """Forwards the waiting blocks of a choice as the votes decide, texts before the remaining calls."""
        waiting = [votes for votes in self._votes.values() if votes.block.choice == choice and not votes.has_left]
        for votes in waiting:
            votes.close(self._counted)
            votes.has_left = True
        winners = {votes: votes.winner(self._counted, self._needed) for votes in waiting}
        outputs = [(votes.block, output) for votes, winner in winners.items() for output in votes.version(winner)]
        outputs += [
            (None, output)
            for voter in self._delivered_voters(winners.values())
            for output in voter.take_unattached(choice)
        ]
        outputs.sort(key=lambda item: _is_of_call(*item))
        for block, output in outputs:
            if output.pending is not None:
                await self._forward(output.pending)
            elif output.made is not None:
                await self._buffer.send(output.made, block if output.is_in_block else None)
        has_calls = any(isinstance(votes.block, ToolCallStreamBlock) for votes in waiting)
        if has_calls and choice not in self._buffer.delivered:
            text = notice(WITHHELD_CALLS, self._ctx.transaction_id)
            await self._buffer.send(TextDelta(choice=choice, text=text))

    def _delivered_voters(self, winners: Iterable[int | None]) -> list["Voter"]:
        """Returns the voters with delivered unattached output: the winners, or all if one objection is enough."""
        numbers = set(self._counted if self._needed == 1 else winners)
        return [voter for voter in self._voters if voter.number in numbers]

    # A member that ends the response

    def end(self, voter: "Voter", notice: str) -> None:
        """Takes a member's notice at its end of the response; ends the stage, if enough members have ended."""
        voter.notice = notice
        choices = dict.fromkeys([0, *(block.choice for block in self._votes)])
        voter.unattached = [VoterOutput(made=TextDelta(choice=choice, text=notice)) for choice in choices]
        ended = [self._voters[number].notice for number in self._counted]
        notices = [notice for notice in ended if notice is not None]
        if len(notices) >= self._needed and self.notice is None:
            self.notice = notices[0]
            self._buffer.end_with_notice(notices[0])

    def forward_ending(self, voter: "Voter", item: EgressItem) -> None:
        """Takes the ending events of a member after its notice."""
        for event in item.events:
            pending = self._pending.get(id(event))
            if pending is None:
                continue
            pending.passed_by.add(voter.number)
            if self.notice is not None and not pending.has_left:
                pending.has_left = True
                self._buffer.forward_ending(pending.chunk, (event,))

    # The operator's record

    def _record_votes(self) -> None:
        if self._voted.is_set():
            return
        self._voted.set()
        started_ns, decided = time.time_ns(), len(self._ctx.decisions)
        for block, on_block in self._votes.items():
            on_block.close(range(len(self._voters)))
            votes = {f"{voter.number}: {voter.name}": on_block.vote(voter.number) for voter in self._voters}
            if set(votes.values()) != {"allow"}:
                winner = on_block.winner(self._counted, self._needed)
                action = "allow" if winner is None else on_block.vote(winner)
                listed = ", ".join(f"{name} {vote}" for name, vote in votes.items())
                self._ctx.decide(action, block=block, reason=f"votes: {listed}")
        report_hook(self._ctx, "vote", started_ns, decided)


class Voter:
    """A member of a `ParallelStage`: the sink for the items of its own `PolicyStage`."""

    def __init__(
        self, parallel: ParallelStage, number: int, member: ConfiguredPolicy, ctx: PolicyContext, source: StageInput
    ) -> None:
        self.number = number
        self.name = member.name
        self.feed: asyncio.Queue[Feed] = asyncio.Queue(FEED_ITEMS)
        self.unattached: list[VoterOutput] = []
        """Output of the member about no block."""
        self.notice: str | None = None
        """Notice of the member, if it ended the response."""
        self.is_closed = False
        self._parallel = parallel
        self._ctx = ctx
        rules = replace(source.rules, has_text_after_calls=False)
        own = replace(source, stream=self._items(), decode=_unpack, flush=no_chunks, rules=rules)
        self.stage = PolicyStage(member, ctx, self, own, on_drop=self._on_drop)

    def start(self) -> asyncio.Task[None]:
        """Starts the member's own worker."""
        self._worker = self.stage.start()
        return self._worker

    def offer(self, item: Feed) -> None:
        """Feeds a member without a vote, and stops it if it is too far behind."""
        try:
            self.feed.put_nowait(item)
        except asyncio.QueueFull:
            error = PolicyTimeoutError(f"{FEED_ITEMS} items behind the member that decides")
            record_failure(self._ctx, self.name, "left behind", "the response", error)
            self.close()
            self._worker.cancel()

    def take_unattached(self, choice: int) -> list[VoterOutput]:
        """Removes and returns the member's output about `choice`, but no block."""
        taken = [output for output in self.unattached if output.made is not None and output.made.choice == choice]
        self.unattached = [output for output in self.unattached if output not in taken]
        return taken

    def put_nowait(self, item: EgressItem) -> bool:
        """Returns False: `put` pauses the member's deadline while it waits for the client."""
        return False

    async def put(self, item: EgressItem) -> None:
        if self.is_closed or self.notice is not None:
            raise StreamClosedError("the answer was ended")
        item.is_taken = True
        try:
            await self._parallel.on_output(self, item)
        except QueueFullError:  # not a fault of this member, and the end for all
            self._parallel.worker.cancel()
            raise

    def put_last(self, item: EgressItem) -> None:
        if item.notice is not None:
            self._parallel.end(self, item.notice)
        else:
            self._parallel.forward_ending(self, item)

    async def yield_to_reader(self) -> None:
        await self._parallel.queue.yield_to_reader()

    def close(self, error: BaseException | None = None) -> None:
        """Stops the member's output and input. The stage waits for its members' ends by itself."""
        self.is_closed = True
        while not self.feed.empty():  # makes room for a waiting writer
            self.feed.get_nowait()

    def _on_drop(self, block: StreamBlock) -> None:
        self._parallel.add_objection(self, block)

    async def _items(self) -> AsyncGenerator[Callable[[], Sequence[Chunk]]]:
        while (item := await self.feed.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item


async def _unpack(item: object) -> Sequence[Chunk]:
    return cast(Callable[[], Sequence[Chunk]], item)()


def _raise(error: Exception) -> NoReturn:
    raise error


def _is_of_call(block: StreamBlock | None, output: VoterOutput) -> bool:
    if output.made is not None:
        return isinstance(output.made, ToolCallDelta)
    return isinstance(block, ToolCallStreamBlock)
