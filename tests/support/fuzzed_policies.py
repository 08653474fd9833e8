"""Policies that do what a script says, and an account of what each of them let out."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from luthien_litellm_hooks import (
    Chunk,
    Policy,
    PolicyBlockedError,
    StreamBlock,
    StreamClosedError,
    StreamingResponseContext,
    ToolCall,
    ToolCallStreamBlock,
    drop_block,
    get_last_ingress_chunk,
    passthrough_accumulated_chunks,
    passthrough_last_chunk,
    send_chunk,
    send_notice,
    send_reasoning,
    send_text,
    send_tool_call,
)
from luthien_litellm_hooks.engine.composition import OnPolicyError
from luthien_litellm_hooks.policy.sending import passthrough_first_pieces
from luthien_litellm_hooks.wire.events import ReasoningDelta, TextDelta, ToolCallDelta
from tests.support.fuzzing import marks_in

DELTA_HOOKS = {"t": "on_content_delta", "r": "on_reasoning_delta"} | dict.fromkeys("cni", "on_tool_call_delta")
HOOKS = (
    "on_chunk_received",
    "on_content_delta",
    "on_content_complete",
    "on_reasoning_delta",
    "on_reasoning_complete",
    "on_tool_call_delta",
    "on_tool_call_complete",
    "on_finish_reason",
    "on_stream_complete",
)
SECRET = "Zx0001z"
Script = Mapping[str, Sequence[Sequence[str]]]


class Makings:
    """What all policies of one run share: numbers for the marks that they make, and a gate to wait at."""

    def __init__(self) -> None:
        self._count = 0
        self.gate = asyncio.Event()
        self.waiting = 0
        self.left_behind: list[asyncio.Task[None]] = []

    async def wait(self) -> None:
        """Waits at the gate."""
        self.waiting += 1
        try:
            await self.gate.wait()
        finally:
            self.waiting -= 1

    def mark(self, kind: str) -> str:
        """A mark that nobody else has."""
        self._count += 1
        return f"Z{kind}{9000 + self._count}z"


class Piece(list[str]):
    """The marks of one delta, and the chunk that it came in."""

    chunk: Chunk | None = None


class Account:
    """What one policy let out, held and dropped, by what it was told that its calls mean."""

    def __init__(self, hooks: frozenset[str], on_policy_error: OnPolicyError) -> None:
        self.hooks = hooks
        self.on_policy_error: OnPolicyError = on_policy_error
        self.held: dict[StreamBlock, list[Piece]] = {}
        self.passed: Chunk | None = None  # the latest that was let out, with what of it is yet to be judged
        self.heads: dict[StreamBlock, list[str]] = {}
        self.out: set[str] = set()
        self.made: set[str] = set()
        self.dropped: set[str] = set()
        self.fresh: Piece | None = None
        self.has_spoken = False
        self.has_timed_out = False
        self.has_ended_answer = False
        self.is_left_out = False
        self.is_transparent = True
        self.closed = 0

    def lets(self, mark: str) -> bool:
        """Whether the policy let `mark` out."""
        if mark in self.out or mark in self.made:
            return True
        return mark not in self.dropped and (self.is_left_out or DELTA_HOOKS[mark[1]] not in self.hooks)

    def take(self, block: StreamBlock, delta: str, chunk: Chunk | None) -> None:
        """A piece came."""
        piece = Piece(marks_in(delta))
        piece.chunk = chunk
        if isinstance(block, ToolCallStreamBlock):
            self.heads[block] = marks_in(f"{block.name} {block.id}")
            piece[:0] = self.heads[block]
        self.fresh = piece
        self.held.setdefault(block, []).append(piece)
        if chunk is not None and chunk is self.passed:
            self.release_last(block)

    def let(self, block: StreamBlock, pieces: Sequence[Sequence[str]]) -> None:
        if pieces:
            self.out.update(self.heads.get(block, ()), *pieces)

    def release(self, block: StreamBlock) -> None:
        self.let(block, self.held.pop(block, ()))

    def release_all(self) -> None:
        for block in list(self.held):
            self.release(block)

    def release_first(self, block: StreamBlock, count: int) -> None:
        held = self.held.get(block, [])
        self.let(block, held[:count])
        del held[:count]

    def release_last(self, block: StreamBlock) -> None:
        held = self.held.get(block)
        if held and held[-1] is self.fresh:
            self.let(block, [held.pop()])

    def release_marks(self, marks: Sequence[str]) -> None:
        """These are let out, unless they are gone."""
        self.out.update(mark for mark in marks if mark not in self.dropped)

    def release_chunk(self, chunk: Chunk) -> None:
        """A chunk is let out: what is held of it, and what of it is yet to be judged."""
        for block, pieces in self.held.items():
            self.let(block, [piece for piece in pieces if piece.chunk is chunk])
            pieces[:] = [piece for piece in pieces if piece.chunk is not chunk]
        self.release_marks([*marks_of(chunk), *self.heads_of(chunk)])
        self.passed = chunk

    def heads_of(self, chunk: Chunk | None) -> list[str]:
        """The marks of the calls' heads that a piece brings along when it is let out."""
        events = chunk.events if chunk is not None else ()
        choices = {event.choice for event in events if isinstance(event, ToolCallDelta)}
        return [mark for block, head in self.heads.items() if block.choice in choices for mark in head]

    def drop(self, block: StreamBlock) -> None:
        self.dropped.update(mark for piece in self.held.pop(block, ()) for mark in piece)
        self.dropped -= self.out

    def settle(self, hook: str, block: StreamBlock | None) -> None:
        """The hook has returned: what it replaced is dropped."""
        if self.has_spoken and (block is not None or hook != "on_chunk_received"):
            for gone in [block] if block is not None else list(self.held):
                self.drop(gone)

    def fail(self) -> None:
        """The policy failed."""
        if self.on_policy_error == "block":
            self.has_ended_answer = True
        else:
            self.is_left_out = True
            self.release_all()


def marks_of(chunk: Chunk | None) -> list[str]:
    found: list[str] = []
    for event in chunk.events if chunk is not None else ():
        if isinstance(event, ToolCallDelta):
            found += marks_in(f"{event.name} {event.id} {event.arguments}")
        elif isinstance(event, TextDelta | ReasoningDelta):
            found += marks_in(event.text)
    return found


class Scripted(Policy):
    """Does in each call of a hook what its script says next."""

    def __init__(self, script: Script, account: Account, makings: Makings) -> None:
        self.script = script
        self.account = account
        self.makings = makings
        self.calls = dict.fromkeys(script, 0)

    async def act(self, hook: str, ctx: StreamingResponseContext) -> None:
        account, block = self.account, ctx.block
        account.fresh, account.has_spoken = None, False
        if block is not None and ctx.delta is not None:
            account.take(block, ctx.delta, get_last_ingress_chunk(ctx))
        try:
            for action in self._next(hook):
                if account.has_timed_out and action in WAITING:
                    continue  # a hook that never ends at all is another matter
                await ACTIONS[action](self, ctx)
        except PolicyBlockedError:
            account.has_ended_answer = True
            raise
        except StreamClosedError:
            account.has_ended_answer = True
            raise
        except BaseException:
            account.settle(hook, block)
            account.fail()
            raise
        account.settle(hook, block)
        if account.has_timed_out:
            account.has_timed_out = False
            account.fail()

    def _next(self, hook: str) -> Sequence[str]:
        turns = self.script[hook]
        self.calls[hook] += 1
        return turns[(self.calls[hook] - 1) % len(turns)]

    async def on_stream_closed(self, ctx: StreamingResponseContext) -> None:
        self.account.closed += 1
        try:
            await send_text(ctx, SECRET)
        except StreamClosedError:
            return
        raise AssertionError("something could be sent when the answer was over")

    def make(self, kind: str) -> str:
        mark = self.makings.mark(kind)
        self.account.made.add(mark)
        self.account.has_spoken = True
        return mark


# What a hook may do


async def _pass(policy: Scripted, ctx: StreamingResponseContext) -> None:
    if ctx.block is None:
        seen = {mark for held in policy.account.held.values() for piece in held for mark in piece}
        chunk = get_last_ingress_chunk(ctx)
        fresh = [mark for mark in marks_of(chunk) if mark not in seen]
        policy.account.release_marks([*fresh, *policy.account.heads_of(chunk)])
        policy.account.passed = chunk
    else:
        policy.account.release_last(ctx.block)
    await passthrough_last_chunk(ctx)


async def _release(policy: Scripted, ctx: StreamingResponseContext) -> None:
    if ctx.block is None:
        policy.account.release_all()
    else:
        policy.account.release(ctx.block)
    await passthrough_accumulated_chunks(ctx)


async def _release_earliest(policy: Scripted, ctx: StreamingResponseContext) -> None:
    blocks = ctx.ingress_state.blocks
    if blocks:
        policy.account.release(blocks[0])
        await passthrough_accumulated_chunks(ctx, blocks[0])


async def _release_first(policy: Scripted, ctx: StreamingResponseContext) -> None:
    if ctx.block is not None:
        policy.account.release_first(ctx.block, 1)
        await passthrough_first_pieces(ctx, 1)


async def _release_chunk(policy: Scripted, ctx: StreamingResponseContext) -> None:
    chunk = get_last_ingress_chunk(ctx)
    if chunk is not None:
        policy.account.release_chunk(chunk)
        await send_chunk(ctx, chunk)


async def _drop(policy: Scripted, ctx: StreamingResponseContext) -> None:
    if ctx.block is not None:
        policy.account.drop(ctx.block)
    drop_block(ctx)


async def _drop_earliest(policy: Scripted, ctx: StreamingResponseContext) -> None:
    blocks = ctx.ingress_state.blocks
    if blocks:
        policy.account.drop(blocks[0])
        drop_block(ctx, blocks[0])


async def _say(policy: Scripted, ctx: StreamingResponseContext) -> None:
    await send_text(ctx, policy.make("t"))


async def _say_nothing(policy: Scripted, ctx: StreamingResponseContext) -> None:
    if ctx.block is not None:
        policy.account.drop(ctx.block)
    await send_text(ctx, "")


async def _note(policy: Scripted, ctx: StreamingResponseContext) -> None:
    await send_notice(ctx, policy.make("t"))


async def _think(policy: Scripted, ctx: StreamingResponseContext) -> None:
    await send_reasoning(ctx, policy.make("r"))


def _made_call(policy: Scripted) -> ToolCall:
    return ToolCall(policy.make("i"), policy.make("n"), f'{{"a": "{policy.make("c")}"}}')


async def _call(policy: Scripted, ctx: StreamingResponseContext) -> None:
    await send_tool_call(ctx, _made_call(policy))


async def _call_instead(policy: Scripted, ctx: StreamingResponseContext) -> None:
    blocks = ctx.ingress_state.blocks
    if blocks:
        await send_tool_call(ctx, _made_call(policy), blocks[0])
        policy.account.drop(blocks[0])


async def _make_chunk(policy: Scripted, ctx: StreamingResponseContext) -> None:
    await send_chunk(ctx, Chunk((ReasoningDelta(text=policy.make("r")), TextDelta(text=policy.make("t")))))


async def _raise(policy: Scripted, ctx: StreamingResponseContext) -> None:
    raise RuntimeError(SECRET)


async def _refuse(policy: Scripted, ctx: StreamingResponseContext) -> None:
    raise PolicyBlockedError(policy.make("t"), reason=SECRET)


async def _wait(policy: Scripted, ctx: StreamingResponseContext) -> None:
    await policy.makings.wait()


async def _wait_with_keepalive(policy: Scripted, ctx: StreamingResponseContext) -> None:
    for _ in range(3):
        await asyncio.sleep(0.9 * HOOK_SECONDS)
        ctx.keepalive()


async def _hang(policy: Scripted, ctx: StreamingResponseContext) -> None:
    await asyncio.Event().wait()


async def _swallow(policy: Scripted, ctx: StreamingResponseContext) -> None:
    """Waits for good, and goes on when it is told to stop."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        policy.account.has_timed_out = True


async def _cancel_own_work(policy: Scripted, ctx: StreamingResponseContext) -> None:
    task = asyncio.ensure_future(asyncio.Event().wait())
    task.cancel()
    await task


async def _leave_a_task(policy: Scripted, ctx: StreamingResponseContext) -> None:
    async def late() -> None:
        await policy.makings.wait()
        try:
            await send_text(ctx, policy.make("t"))  # counts as said by the hook that runs now, if any
        except StreamClosedError:
            return

    policy.makings.left_behind.append(asyncio.create_task(late()))


async def _keep_alive(policy: Scripted, ctx: StreamingResponseContext) -> None:
    ctx.keepalive()


HOOK_SECONDS = 10.0
Action = Callable[[Scripted, StreamingResponseContext], Awaitable[None]]
ACTIONS: dict[str, Action] = {
    "pass": _pass,
    "release": _release,
    "release earliest": _release_earliest,
    "release first": _release_first,
    "release chunk": _release_chunk,
    "drop": _drop,
    "drop earliest": _drop_earliest,
    "say": _say,
    "say nothing": _say_nothing,
    "note": _note,
    "think": _think,
    "call": _call,
    "call instead": _call_instead,
    "make chunk": _make_chunk,
    "raise": _raise,
    "refuse": _refuse,
    "wait": _wait,
    "wait with keepalive": _wait_with_keepalive,
    "hang": _hang,
    "swallow": _swallow,
    "cancel own work": _cancel_own_work,
    "leave a task": _leave_a_task,
    "keepalive": _keep_alive,
}
WAITING = frozenset({"wait", "wait with keepalive", "hang", "swallow"})
HARMLESS = frozenset({"pass", "wait", "keepalive", "wait with keepalive"})
_TURN = st.lists(st.sampled_from(["pass", "pass", "release", "release", *ACTIONS]), max_size=3)


def scripts() -> st.SearchStrategy[dict[str, list[list[str]]]]:
    """What a policy does in the hooks that it has."""
    turns = st.lists(_TURN, min_size=1, max_size=3)
    return st.dictionaries(st.sampled_from(HOOKS), turns, max_size=4)


def scripted(script: Script, makings: Makings, on_policy_error: OnPolicyError) -> Scripted:
    """A policy that has just the hooks of `script`."""
    namespace: dict[str, Any] = {hook: _hook(hook) for hook in script}
    account = Account(frozenset(script), on_policy_error)
    return type("Scripted", (Scripted,), namespace)(script, account, makings)


def _hook(name: str) -> Any:
    async def hook(self: Scripted, ctx: StreamingResponseContext) -> None:
        await self.act(name, ctx)

    return hook
