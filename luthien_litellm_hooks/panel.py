"""Several policies judge one answer side by side, each as it came; what leaves is what they vote for."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from typing import NoReturn, cast

from luthien_litellm_hooks.assembler import BlockAssembler
from luthien_litellm_hooks.ballot import Ballot, Motion, Piece
from luthien_litellm_hooks.composition import Member, Parallel
from luthien_litellm_hooks.deadline import HookDeadline
from luthien_litellm_hooks.egress import EgressQueue, Parcel
from luthien_litellm_hooks.errors import (
    LimitExceededError,
    PolicyTimeoutError,
    QueueFullError,
    StreamClosedError,
)
from luthien_litellm_hooks.events import (
    Chunk,
    End,
    Failure,
    Finish,
    Frame,
    Quote,
    StreamBlock,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    ToolCallStreamBlock,
    Usage,
)
from luthien_litellm_hooks.failures import note_failure
from luthien_litellm_hooks.limits import MEMORY, Limits, size_of
from luthien_litellm_hooks.outbox import Outbox
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.notices import notice
from luthien_litellm_hooks.running_answer import WITHHELD_CALLS, Decode, Flush, RunningAnswer
from luthien_litellm_hooks.worker import CLOSE_GRACE_S, close_stream, read_items, start_worker

FEED_ITEMS = 1000
"""How many items the quickest member may be ahead of the slowest."""


class Panel:
    """Runs every member of a `Parallel` over the same answer.

    Of text and reasoning, what enough members let out leaves at once. When enough of them object to
    a block, the rest of that choice waits until all have seen the whole of it; tool calls always do.
    Then each block leaves as the vote says.
    """

    def __init__(
        self,
        parallel: Parallel,
        contexts: Sequence[PolicyContext],
        ctx: PolicyContext,
        queue: EgressQueue,
        *,
        is_framed: bool,
        passes_unknown: bool,
        cut_reasons: tuple[str, ...],
        limits: Limits,
    ) -> None:
        self.queue = queue
        self._max_held_bytes = limits.max_held_bytes
        self._taken = 0  # of the memory of the process
        # A member that waits for the client has its own clock paused.
        self.outbox = Outbox(queue, HookDeadline(0), keeps_order=False)
        self.notice: str | None = None
        self._ctx = ctx.of_member(parallel.name, parallel.name)
        self._needed = parallel.objections_needed
        self._seats = [
            Seat(
                self,
                number,
                member,
                context,
                is_framed=is_framed,
                passes_unknown=passes_unknown,
                cut_reasons=cut_reasons,
                limits=limits,
            )
            for number, (member, context) in enumerate(zip(parallel.members, contexts, strict=True))
        ]
        self._voters = range(len(parallel.voters))
        self._assembler = BlockAssembler(is_framed=is_framed)
        self._motions: dict[int, Motion] = {}
        self._endings: list[Motion] = []  # of the motions those that end an answer, and have not left
        self._ballots: dict[StreamBlock, Ballot] = {}
        self._waiting: set[int] = set()  # choices of which enough members object to something
        self._has_provider_failed = False  # it said so
        self._lock = asyncio.Lock()
        self._voted = asyncio.Event()
        ctx.polls.append(self._voted)

    @property
    def is_touched(self) -> bool:
        """The answer is no longer just what came."""
        return self.outbox.is_touched or any(seat.running.is_touched for seat in self._seats[: len(self._voters)])

    @property
    def judges(self) -> bool:
        """Whether a member has a hook for the blocks of a response."""
        return any(seat.running.judges for seat in self._seats)

    def start(self, stream: AsyncIterable[object], decode: Decode, flush: Flush) -> asyncio.Task[None]:
        """Starts the worker task."""
        self.worker = start_worker(self._work(stream, decode, flush), self._ctx.transaction_id)
        return self.worker

    # What comes, to every member

    async def _work(self, stream: AsyncIterable[object], decode: Decode, flush: Flush) -> None:
        workers = [seat.start() for seat in self._seats]
        try:
            error = await self._feed(stream, decode, flush)
            for number in self._voters:
                await self._seats[number].running.ended.wait()
            async with self._lock:
                await self._let_out_rest(error)
            self.queue.close(None if self.notice is not None else error)
            for seat in self._seats:
                await seat.running.ended.wait()
            self._record_votes()
        finally:
            for worker in workers:
                worker.cancel()
            self.queue.close()
            MEMORY.taken -= self._taken
            await close_stream(stream)
            await asyncio.wait(workers, timeout=CLOSE_GRACE_S)
            self._record_votes()

    async def _feed(self, stream: AsyncIterable[object], decode: Decode, flush: Flush) -> BaseException | None:
        """Hands what comes to every member, and returns the error that the stream ended with."""
        error = await read_items(stream, lambda raw: self._hand_on(lambda: decode(raw)))
        if error is None:
            await self._hand_on(flush)
        await self._put_all(error)
        return error

    async def _hand_on(self, decode: Flush) -> bool:
        """Hands on what came; False if nothing that follows is wanted."""
        try:
            chunks = decode()
            for chunk in chunks:
                self._note(chunk)
        except Exception as error:
            failing = error  # on which each member ends
            await self._put_all(lambda: _raise(failing))
            return not isinstance(error, LimitExceededError)
        for chunk in chunks:
            await self._put_all(lambda chunk=chunk: (chunk,))
        return True

    async def _put_all(self, item: "Feed") -> None:
        for seat in self._seats:
            if seat.is_closed:
                continue
            if seat.number in self._voters:
                await seat.feed.put(item)
            else:
                seat.offer(item)

    def _note(self, chunk: Chunk) -> None:
        for event in chunk.events:
            MEMORY.take(size_of(event), self._max_held_bytes)
            self._taken += size_of(event)
            block = self._block_of(event)
            motion = self._motions[id(event)] = Motion(chunk, event, block)
            if block is not None:
                self._ballots.setdefault(block, Ballot(block)).motions.append(motion)
            if isinstance(event, _ENDING):
                self._endings.append(motion)
            elif isinstance(event, Failure):
                self._has_provider_failed = True

    def _block_of(self, event: StreamEvent) -> StreamBlock | None:
        """The block that members vote on when they let `event` out."""
        step = self._assembler.feed(event)
        is_other = isinstance(event, Frame) and event.kind in ("other", "unknown") and not isinstance(event, Quote)
        return None if step.is_late or is_other else step.block

    def _own(self, block: StreamBlock) -> StreamBlock:
        """The block here that is `block` to a member: all of them see the same blocks in one order."""
        return self._assembler.state.blocks[block.place]

    # What the members say

    async def hear(self, seat: "Seat", parcel: Parcel) -> None:
        """A member lets something out."""
        async with self._lock:
            for event, frame in zip(parcel.events, parcel.blocks, strict=True):
                if parcel.chunk is None:
                    self._hear_made(seat, event, parcel.about, is_in_frame=frame is not None)
                elif (motion := self._motions.get(id(event))) is not None:
                    await self._hear_passed(seat, motion)
                else:  # a quote with another text, which was held with its block
                    self._hear_made(seat, event, frame, is_in_frame=True)

    def _hear_made(self, seat: "Seat", event: StreamEvent, about: StreamBlock | None, *, is_in_frame: bool) -> None:
        piece = Piece(made=event, is_in_frame=is_in_frame)
        if about is None:
            seat.words.append(piece)
        else:
            self._ballots[self._own(about)].note(seat.number, piece)
            self._mind_objections(self._own(about))

    def object(self, seat: "Seat", block: StreamBlock) -> None:
        """A member withholds something of a block."""
        own = self._own(block)
        self._ballots[own].objectors.add(seat.number)
        self._mind_objections(own)

    def _mind_objections(self, block: StreamBlock) -> None:
        if self._ballots[block].pick(self._voters, self._needed) is not None:
            self._waiting.add(block.choice)

    async def _hear_passed(self, seat: "Seat", motion: Motion) -> None:
        motion.passed_by.add(seat.number)
        if motion.block is not None:
            self._ballots[motion.block].note(seat.number, Piece(motion))
        if self.notice is not None or motion.has_left:
            return
        if isinstance(motion.event, _ENDING):
            await self._let_out_endings()
        elif self._passes(motion) > len(self._voters) - self._needed and self._may_leave_now(motion):
            await self._let_out(motion)

    def _passes(self, motion: Motion) -> int:
        return sum(number in motion.passed_by for number in self._voters)

    def _may_leave_now(self, motion: Motion) -> bool:
        block = motion.block
        return block is None or not (isinstance(block, ToolCallStreamBlock) or block.choice in self._waiting)

    # What leaves

    async def _let_out(self, motion: Motion) -> None:
        motion.has_left = True
        await self.outbox.let_out(motion.chunk, motion.event, motion.block)

    async def _let_out_endings(self) -> None:
        """Lets out, in the order that they came, those that all voters let out: one that has ended the
        answer does so when the others may have already."""
        for motion in self._endings:
            if not motion.has_left and self._passes(motion) == len(self._voters):
                await self._end_choice(motion)
        self._endings = [motion for motion in self._endings if not motion.has_left]

    async def _end_choice(self, motion: Motion) -> None:
        if isinstance(motion.event, Finish):
            await self._let_out_blocks(motion.event.choice)
        await self._let_out(motion)

    async def _let_out_rest(self, error: BaseException | None) -> None:
        """Lets out what still waits when every voter has seen everything."""
        if error is not None or self.notice is not None or self._has_provider_failed:
            return
        for choice in dict.fromkeys(block.choice for block in self._ballots):
            await self._let_out_blocks(choice)
        for motion in self._endings:
            if not motion.has_left:
                await self._let_out(motion)

    async def _let_out_blocks(self, choice: int) -> None:
        """Lets out what waits of a choice; what is said of its calls comes before the calls that remain."""
        ballots = [ballot for ballot in self._ballots.values() if ballot.block.choice == choice and not ballot.has_left]
        for ballot in ballots:
            ballot.close(self._voters)
            ballot.has_left = True
        picks = {ballot: ballot.pick(self._voters, self._needed) for ballot in ballots}
        pieces = [(ballot.block, piece) for ballot, pick in picks.items() for piece in ballot.version(pick)]
        pieces += [(None, piece) for seat in self._heeded(picks.values()) for piece in seat.take_words(choice)]
        for block, piece in [item for item in pieces if not _is_of_call(*item)]:
            await self._let_out_piece(block, piece)
        for block, piece in [item for item in pieces if _is_of_call(*item)]:
            await self._let_out_piece(block, piece)
        if choice not in self.outbox.delivered and any(isinstance(b.block, ToolCallStreamBlock) for b in ballots):
            words = notice(WITHHELD_CALLS, self._ctx.transaction_id)
            await self.outbox.send(TextDelta(choice=choice, text=words))

    def _heeded(self, picks: Iterable[int | None]) -> list["Seat"]:
        """The voters whose words about no block are delivered: those whose version of a block is, and
        each if one objection is enough."""
        numbers = set(self._voters if self._needed == 1 else picks)
        return [seat for seat in self._seats if seat.number in numbers]

    async def _let_out_piece(self, block: StreamBlock | None, piece: Piece) -> None:
        if piece.motion is not None:
            await self._let_out(piece.motion)
        elif piece.made is not None:
            await self.outbox.send(piece.made, block if piece.is_in_frame else None)

    # When a member ends the answer

    def end(self, seat: "Seat", notice: str) -> None:
        """A member ends the answer; so does the panel, if enough of its members have."""
        seat.notice = notice
        seat.words = [Piece(made=TextDelta(choice=choice, text=notice)) for choice in self._choices()]
        ended = [self._seats[number].notice for number in self._voters]
        notices = [notice for notice in ended if notice is not None]
        if len(notices) >= self._needed and self.notice is None:
            self.notice = notices[0]
            self.outbox.end_with(notices[0])

    def let_out_ending(self, seat: "Seat", parcel: Parcel) -> None:
        """A member that has ended the answer lets out how answers end."""
        for event in parcel.events:
            motion = self._motions.get(id(event))
            if motion is None:
                continue
            motion.passed_by.add(seat.number)
            if self.notice is not None and not motion.has_left:
                motion.has_left = True
                self.outbox.let_out_ending(motion.chunk, (event,))

    def _choices(self) -> list[int]:
        return list(dict.fromkeys([0, *(block.choice for block in self._ballots)]))

    # For the operator

    def _record_votes(self) -> None:
        if self._voted.is_set():
            return
        self._voted.set()
        started_ns, decided = time.time_ns(), len(self._ctx.decisions)
        for block, ballot in self._ballots.items():
            ballot.close(range(len(self._seats)))
            votes = {f"{seat.number}: {seat.name}": ballot.vote(seat.number) for seat in self._seats}
            if set(votes.values()) != {"allow"}:
                pick = ballot.pick(self._voters, self._needed)
                action = "allow" if pick is None else ballot.vote(pick)
                said = ", ".join(f"{name} {vote}" for name, vote in votes.items())
                self._ctx.decide(action, block=block, reason=f"votes: {said}")
        made = [decision for decision in self._ctx.decisions[decided:] if decision.policy == self._ctx.policy_name]
        name, ended_ns = self._ctx.policy_name, time.time_ns()
        self._ctx.observability.hook_ran(name, "vote", started_ns=started_ns, ended_ns=ended_ns, decisions=made)


Feed = Flush | BaseException | None
"""What a member is fed: chunks, or the end of the stream, with the provider's own error if there was one."""


class Seat:
    """A member of a panel: the engine of its own answer puts its parcels in here."""

    def __init__(
        self,
        panel: Panel,
        number: int,
        member: Member,
        ctx: PolicyContext,
        *,
        is_framed: bool,
        passes_unknown: bool,
        cut_reasons: tuple[str, ...],
        limits: Limits,
    ) -> None:
        self.number = number
        self.name = member.name
        self.feed: asyncio.Queue[Feed] = asyncio.Queue(FEED_ITEMS)
        self.words: list[Piece] = []
        """What the member said about no block."""
        self.notice: str | None = None
        """What the member ended the answer with."""
        self.is_closed = False
        self._panel = panel
        self._ctx = ctx
        self.running = RunningAnswer(
            member.policy,
            self,
            member.timeout_s,
            ctx,
            member.on_policy_error,
            is_framed=is_framed,
            passes_unknown=passes_unknown,
            cut_reasons=cut_reasons,
            limits=limits,
            on_drop=self._on_drop,
        )

    def start(self) -> asyncio.Task[None]:
        """Starts the member's own worker."""
        self._worker = self.running.start(self._items(), _unpack, tuple)
        return self._worker

    def offer(self, item: Feed) -> None:
        """Feeds a member whose vote does not count. One that is too far behind is left behind."""
        try:
            self.feed.put_nowait(item)
        except asyncio.QueueFull:
            error = PolicyTimeoutError(f"{FEED_ITEMS} items behind the member that decides")
            note_failure(self._ctx, self.name, "left behind", "the answer", error)
            self.close()
            self._worker.cancel()

    def take_words(self, choice: int) -> list[Piece]:
        """What the member said about this choice, once."""
        taken = [piece for piece in self.words if piece.made is not None and piece.made.choice == choice]
        self.words = [piece for piece in self.words if piece not in taken]
        return taken

    def put_nowait(self, parcel: Parcel) -> bool:
        """Never takes it at once: with `put` the member's clock stands while the client is waited for."""
        return False

    async def put(self, parcel: Parcel) -> None:
        if self.is_closed or self.notice is not None:
            raise StreamClosedError("the answer was ended")
        parcel.is_taken = True
        try:
            await self._panel.hear(self, parcel)
        except QueueFullError:  # which is no fault of this member's, and the end for all
            self._panel.worker.cancel()
            raise

    def put_last(self, parcel: Parcel) -> None:
        if parcel.notice is not None:
            self._panel.end(self, parcel.notice)
        else:
            self._panel.let_out_ending(self, parcel)

    async def let_read(self) -> None:
        await self._panel.queue.let_read()

    def close(self, error: BaseException | None = None) -> None:
        """From now on the member sends nothing and is fed nothing. The panel itself knows when its members
        have ended."""
        self.is_closed = True
        while not self.feed.empty():  # who waits to feed it goes on
            self.feed.get_nowait()

    def _on_drop(self, block: StreamBlock) -> None:
        self._panel.object(self, block)

    async def _items(self) -> AsyncGenerator[Flush]:
        while (item := await self.feed.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item


_ENDING = (Finish, Usage, End)


def _unpack(item: object) -> Sequence[Chunk]:
    return cast(Flush, item)()


def _raise(error: Exception) -> NoReturn:
    raise error


def _is_of_call(block: StreamBlock | None, piece: Piece) -> bool:
    if piece.made is not None:
        return isinstance(piece.made, ToolCallDelta)
    return isinstance(block, ToolCallStreamBlock)
