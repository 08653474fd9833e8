"""Approvals: a person's decision about a tool call. It holds for exactly this call, once, unless a grant was given."""

import asyncio
import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from luthien_litellm_hooks.errors import StateError
from luthien_litellm_hooks.policy.asked_calls import (
    MAX_CHARACTERS,
    AskedCall,
    described,
    is_too_much,
    key_of,
    new_id,
    open_calls,
    read_call,
)
from luthien_litellm_hooks.policy.context import Question, StreamingResponseContext
from luthien_litellm_hooks.policy.grants import Grant, Permits, all_grants
from luthien_litellm_hooks.recording.decision import Approval, ApprovalState
from luthien_litellm_hooks.recording.state import Entry, Store
from luthien_litellm_hooks.telemetry.log_lines import logger
from luthien_litellm_hooks.telemetry.names import APPROVAL_ASKED, APPROVAL_DECIDED, APPROVAL_SECONDS, APPROVALS
from luthien_litellm_hooks.wire.events import ToolCall

_MAX_DENIALS = 1_000
"""Denied calls to remember, so that each is counted once."""
_UNASKED: tuple[str | None, ...] = (None, "used")
"""States in which a call needs a question, or a grant."""
_MAX_ATTEMPTS = 20
"""Attempts to put a question. Other workers may put the same one."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Times in seconds: the longest hold of a streamed and of a full response; the validity of a question and of its
    answer. With `in_client` a client that can asks its own user.
    """

    hold_s: float = 120.0
    hold_full_s: float = 0.0
    valid_s: float = 3600.0
    in_client: bool = False


class Approvals:
    """Approvals of one process. `store` and `terms` give the present ones: they may change while the proxy runs.

    `permits` checks calls by the conditions of grants. `notify` tells people of a call that begins to wait.
    """

    def __init__(
        self,
        store: Callable[[], Store],
        terms: Callable[[], Terms],
        permits: Permits,
        notify: Callable[[AskedCall], None],
    ) -> None:
        self._store = store
        self._terms = terms
        self._permits = permits
        self._notify = notify
        self._reading, self._asking = asyncio.Lock(), asyncio.Lock()
        self._entries: dict[str, Entry] = {}
        self._waiting, self._read_keys = Counter[str](), frozenset[str]()
        self._read_at, self._is_stale = -math.inf, False
        self._decided = asyncio.Event()
        self._denials = deque[str](maxlen=_MAX_DENIALS)

    @property
    def store(self) -> Store:
        """Store of the approvals."""
        return self._store()

    async def ask(self, ctx: StreamingResponseContext, questions: Sequence[Question]) -> list[Approval]:
        """Returns a person's decision about each call, or the reason for none. It waits as long as the `terms` say.

        Approvals are taken at the end, all together: until then a client that leaves loses none.
        """
        terms, began = self._terms(), asyncio.get_running_loop().time()
        until = began + (terms.hold_s if ctx.is_streamed else terms.hold_full_s)
        asked = [_Asked(described(ctx, question, terms.valid_s), question.call) for question in questions]
        found = await asyncio.gather(*(self._decided_on(ctx, one, began, until) for one in asked))
        return [await self._taken(ctx, *each, began, until) for each in zip(asked, found, strict=True)]

    async def _decided_on(self, ctx: StreamingResponseContext, one: "_Asked", began: float, until: float) -> "_Found":
        asked = one.described
        if self._terms().in_client and _is_for_client(ctx, one.call):
            return _Found("in_client", asked)
        if len(asked.arguments) + len(asked.tool) > MAX_CHARACTERS:
            return _Found("too_large", asked)
        key = key_of(asked.digest)
        self._waiting[key] += 1
        try:
            found = await self._wait_for_decision(ctx, one, until)
        except StateError:
            found = _unavailable(ctx, asked)
        finally:
            self._waiting[key] -= 1
            self._waiting += Counter[str]()  # drops what nobody waits for
        return replace(found, seconds=asyncio.get_running_loop().time() - began)

    async def _wait_for_decision(self, ctx: StreamingResponseContext, one: "_Asked", until: float) -> "_Found":
        loop, asked, key = asyncio.get_running_loop(), one.described, key_of(one.described.digest)
        entry, attempts, grantable = (await self.store.get(key)).get(key), 0, (*_UNASKED, "pending")
        while True:
            found = None if entry is None else read_call(entry)
            state = None if found is None else found.state
            if state in grantable and (grant := await self._grant_for(ctx, one.call)) is not None:
                return _Found("approved", asked, grant=grant)
            grantable = _UNASKED
            if entry is None or found is None or found.state == "used":
                attempts += 1
                if attempts > _MAX_ATTEMPTS:
                    raise StateError("the store does not keep what is written")
                if not await self._begin(ctx, asked, entry):
                    return _Found("too_many", asked)
            elif found.state != "pending":
                return _Found(found.state, found, entry)
            else:
                left = until - loop.time()
                if left <= 0:
                    return _Found("pending", found)
                await self._wait(min(left, self.store.poll_s))
                ctx.keepalive()
            entry = await self._latest(key)

    async def _grant_for(self, ctx: StreamingResponseContext, call: ToolCall) -> Grant | None:
        """Returns a grant whose condition holds for all that the call does."""
        for grant in await all_grants(self.store):
            if grant.is_for(ctx, call) and await self._permits(grant.condition, call, ctx):
                return grant
        return None

    async def _taken(
        self, ctx: StreamingResponseContext, one: "_Asked", found: "_Found", began: float, until: float
    ) -> Approval:
        """Returns the result of a question. An approval is taken: it does not count again."""
        try:
            while found.state == "approved" and found.grant is None:
                if await self._put(found.call.model_copy(update={"state": "used"}), found.entry):
                    break
                found = await self._decided_on(ctx, one, began, until)  # an equal call was first
        except StateError:
            found = _unavailable(ctx, one.described)
        state = found.state if found.grant is None else "granted"
        ctx.observability.record_metric(APPROVALS.name, 1, {"state": state})
        if found.state in ("approved", "denied"):
            await self._note_decision(ctx, found, state)
        return found.approval

    async def _note_decision(self, ctx: StreamingResponseContext, found: "_Found", state: str) -> None:
        """Measures and publishes a decision: a denial only at the first call that meets it in this process."""
        call, approval = found.call, found.approval
        if found.state == "denied" and call.id in self._denials:
            return
        if found.state == "denied":
            self._denials.append(call.id)
        fields: dict[str, object] = {
            "id": approval.id,
            "digest": call.digest,
            "tool": call.tool,
            "policy": call.policy,
            "state": state,
        }
        fields |= {"by": approval.by, "grant": approval.grant, "edited": approval.arguments is not None}
        if found.grant is None and call.decided_at is not None:
            fields["seconds"] = seconds = (call.decided_at - call.asked_at).total_seconds()
            ctx.observability.record_metric(APPROVAL_SECONDS.name, seconds, {"state": state})
        await ctx.observability.emit_event(APPROVAL_DECIDED, fields)

    async def _put(self, asked: AskedCall, entry: Entry | None) -> bool:
        """Writes `asked` in place of `entry`. Returns False if another writer was first."""
        key, value = key_of(asked.digest), asked.model_dump_json()
        replacing = None if entry is None else entry.version
        is_written = await self.store.put(key, value, asked.valid_s, replacing=replacing)
        self._is_stale = True
        return is_written

    async def _begin(self, ctx: StreamingResponseContext, asked: AskedCall, entry: Entry | None) -> bool:
        """Puts a call before people, unless another worker has done so. Returns False if too many wait."""
        async with self._asking:
            if is_too_much(asked, await open_calls(self.store)):
                return False
            new = asked.model_copy(update={"id": new_id(), "asked_at": datetime.now(UTC)})
            is_new = await self._put(new, entry)
        if is_new:
            await self._tell(ctx, new)
        return True

    async def _tell(self, ctx: StreamingResponseContext, asked: AskedCall) -> None:
        logger.warning(
            "transaction %s: approval %s waits for a person: `luthien-hooks approvals show %s`",
            ctx.transaction_id,
            asked.id,
            asked.id,
        )
        fields = {"id": asked.id, "digest": asked.digest, "tool": asked.tool, "policy": asked.policy}
        await ctx.observability.emit_event(APPROVAL_ASKED, fields)
        self._notify(asked)

    async def _latest(self, key: str) -> Entry | None:
        """Returns the present entry. All calls that wait share one query."""
        async with self._reading:
            now, store = asyncio.get_running_loop().time(), self.store
            if now - self._read_at >= store.poll_s or self._is_stale or key not in self._read_keys:
                self._is_stale = False  # a change meanwhile sets it again
                self._read_keys = frozenset({key, *self._waiting})
                self._entries = await store.get(*self._read_keys)
                self._read_at = now
            return self._entries.get(key)

    async def _wait(self, seconds: float) -> None:
        decided = self._decided
        try:
            async with asyncio.timeout(seconds):
                await decided.wait()
        except TimeoutError:
            pass

    def wake(self) -> None:
        """Lets all calls that wait look for their decision."""
        self._is_stale = True
        self._decided.set()
        self._decided = asyncio.Event()


def _is_for_client(ctx: StreamingResponseContext, call: ToolCall) -> bool:
    """Tells whether the client can ask its own user about this call."""
    return ctx.takes_flags and not ctx.is_voter and call.form == "function" and bool(call.id)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A call as a person sees it, and as it came."""

    described: AskedCall
    call: ToolCall


@dataclass(frozen=True, slots=True)
class _Found:
    """State of a question after so many `seconds`. `entry` is that of a decision, `grant` permits without one."""

    state: ApprovalState
    call: AskedCall
    entry: Entry | None = None
    seconds: float = 0.0
    grant: Grant | None = None

    @property
    def approval(self) -> Approval:
        if self.grant is not None:
            grant, waited_ms = self.grant, self.seconds * 1000
            return Approval(
                self.call.digest, "approved", grant.approval, by=grant.by, waited_ms=waited_ms, grant=grant.id
            )
        call, is_put = self.call, self.state in ("approved", "denied", "pending")
        return Approval(
            call.digest,
            self.state,
            call.id if is_put else None,
            by=call.by,
            waited_ms=self.seconds * 1000,
            message=call.message if self.state == "denied" else None,
            arguments=call.edited if self.state == "approved" else None,
        )


def _unavailable(ctx: StreamingResponseContext, asked: AskedCall) -> _Found:
    logger.exception("transaction %s: nobody could be asked about a tool call", ctx.transaction_id)
    return _Found("unavailable", asked)
