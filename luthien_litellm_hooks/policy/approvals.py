"""Approvals: a person's decision about a tool call. It holds for exactly this call, once."""

import asyncio
import hashlib
import json
import math
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from luthien_litellm_hooks.errors import LuthienError, StateError
from luthien_litellm_hooks.policy.context import Question, StreamingResponseContext
from luthien_litellm_hooks.policy.trajectory import Said
from luthien_litellm_hooks.recording.decision import Approval, ApprovalState
from luthien_litellm_hooks.recording.digest import action_digest
from luthien_litellm_hooks.recording.state import Entry, Store
from luthien_litellm_hooks.telemetry.log_lines import logger
from luthien_litellm_hooks.telemetry.names import APPROVAL_ASKED, APPROVALS
from luthien_litellm_hooks.wire.events import ToolCall, ToolForm

MAX_OPEN = 5
"""Calls of one session that may wait for a person. More would teach people to approve without a look."""
MAX_OPEN_OF_KEY = 20
"""The same for all sessions of one key: clients name their sessions."""
MAX_CHARACTERS = 100_000
"""Longest arguments for a person to read."""
_MAX_BESIDE = 2_000
"""Longest text beside the arguments; of the user's words the last ones."""
_PREFIX = "approval/"
_MAX_ATTEMPTS = 20
"""Attempts to put a question. Other workers may put the same one."""
_LETTERS = "23456789abcdefghjkmnpqrstuvwxyz"
_OF_TOOL = ("namespace", "server_label")
"""Fields beside a call's name that tell its tool from others."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Times in seconds: the longest hold of a streamed and of a full response; the validity of a question and of its
    answer.
    """

    hold_s: float = 120.0
    hold_full_s: float = 0.0
    valid_s: float = 3600.0


class AskedCall(BaseModel):
    """A tool call before a person, as it is stored.

    `arguments` are the model's own text, `edited` those of the person. `words` are the user's last ones. `transaction`
    is the one that asked. `valid_s` is the validity of a decision, in seconds.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    state: Literal["pending", "approved", "denied", "used"] = "pending"
    digest: str
    tool: str
    form: ToolForm
    arguments: str
    policy: str
    reason: str | None
    evidence: str | None
    transaction: str
    session: str | None
    model: str
    words: str
    key_hash: str | None
    key_alias: str | None
    user_id: str | None
    team_id: str | None
    team_alias: str | None
    asked_at: datetime
    valid_s: float
    by: str | None = None
    decided_at: datetime | None = None
    message: str | None = None
    edited: str | None = None

    @property
    def tool_call(self) -> ToolCall:
        """Call of the model."""
        return ToolCall(None, self.tool, self.arguments, self.form)


class UnknownApprovalError(LuthienError):
    """Approval without an entry: it never was, or its time is over."""


class DecidedError(LuthienError):
    """Approval that somebody has decided already."""


class InvalidEditError(LuthienError):
    """Arguments of a person in another form than the call's."""


class Approvals:
    """Approvals of one process. `store` and `terms` give the present ones: they may change while the proxy runs."""

    def __init__(self, store: Callable[[], Store], terms: Callable[[], Terms]) -> None:
        self._store = store
        self._terms = terms
        self._reading, self._asking = asyncio.Lock(), asyncio.Lock()
        self._entries: dict[str, Entry] = {}
        self._waiting, self._read_keys = Counter[str](), frozenset[str]()
        self._read_at, self._is_stale = -math.inf, False
        self._decided = asyncio.Event()

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
        asked = [_described(ctx, question, terms.valid_s) for question in questions]
        found = await asyncio.gather(*(self._decided_on(ctx, one, began, until) for one in asked))
        return [await self._taken(ctx, *each, began, until) for each in zip(asked, found, strict=True)]

    async def _decided_on(
        self, ctx: StreamingResponseContext, asked: AskedCall, began: float, until: float
    ) -> "_Found":
        if len(asked.arguments) + len(asked.tool) > MAX_CHARACTERS:
            return _Found("too_large", asked)
        key = _key(asked.digest)
        self._waiting[key] += 1
        try:
            found = await self._wait_for_decision(ctx, asked, until)
        except StateError:
            found = _unavailable(ctx, asked)
        finally:
            self._waiting[key] -= 1
            self._waiting += Counter[str]()  # drops what nobody waits for
        return replace(found, seconds=asyncio.get_running_loop().time() - began)

    async def _wait_for_decision(self, ctx: StreamingResponseContext, asked: AskedCall, until: float) -> "_Found":
        loop, key = asyncio.get_running_loop(), _key(asked.digest)
        entry, attempts = (await self.store.get(key)).get(key), 0
        while True:
            found = None if entry is None else _read(entry)
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

    async def _taken(
        self, ctx: StreamingResponseContext, asked: AskedCall, found: "_Found", began: float, until: float
    ) -> Approval:
        """Returns the result of a question. An approval is taken: it does not count again."""
        try:
            while found.state == "approved":
                if await self._put(found.call.model_copy(update={"state": "used"}), found.entry):
                    break
                found = await self._decided_on(ctx, asked, began, until)  # an equal call was first
        except StateError:
            found = _unavailable(ctx, asked)
        ctx.observability.record_metric(APPROVALS.name, 1, {"state": found.state})
        return found.approval

    async def _put(self, asked: AskedCall, entry: Entry | None) -> bool:
        """Writes `asked` in place of `entry`. Returns False if another writer was first."""
        key, value = _key(asked.digest), asked.model_dump_json()
        replacing = None if entry is None else entry.version
        is_written = await self.store.put(key, value, asked.valid_s, replacing=replacing)
        self._is_stale = True
        return is_written

    async def _begin(self, ctx: StreamingResponseContext, asked: AskedCall, entry: Entry | None) -> bool:
        """Puts a call before people, unless another worker has done so. Returns False if too many wait."""
        async with self._asking:
            if _is_too_much(asked, await open_calls(self.store)):
                return False
            new = asked.model_copy(update={"id": _new_id(), "asked_at": datetime.now(UTC)})
            is_new = await self._put(new, entry)
        if is_new:
            await _tell(ctx, new)
        return True

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


def digest_of(ctx: StreamingResponseContext, call: ToolCall) -> str:
    """Returns the digest of a call in this session, by this key, for this version of the policy. No id counts."""
    bound = {
        "v": 1,
        "action": action_digest(call.name, call.arguments),
        "form": call.form,
        **{name: call.extra[name] for name in _OF_TOOL if isinstance(call.extra.get(name), str)},
        "session": ctx.request.session,
        "key": ctx.identity.key_hash,
        "policy": ctx.policy_name,
        "version": ctx.policy_version,
    }
    return hashlib.sha256(json.dumps(bound, sort_keys=True).encode()).hexdigest()


def _described(ctx: StreamingResponseContext, question: Question, valid_s: float) -> AskedCall:
    who, request, call = ctx.identity, ctx.request, question.call
    said = [part.text for part in request.trajectory if isinstance(part, Said) and part.author == "user"]
    return AskedCall(
        id=_new_id(),
        digest=digest_of(ctx, call),
        tool=_printable(call.name),
        form=call.form,
        arguments=_printable(call.arguments),
        policy=ctx.policy_name,
        reason=_bounded(question.reason),
        evidence=_bounded(question.evidence),
        transaction=ctx.transaction_id,
        session=_bounded(request.session),
        model=_bounded(request.model) or "",
        words=_printable(said[-1][-_MAX_BESIDE:]) if said else "",
        key_hash=who.key_hash,
        key_alias=who.key_alias,
        user_id=who.user_id,
        team_id=who.team_id,
        team_alias=who.team_alias,
        asked_at=datetime.now(UTC),
        valid_s=valid_s,
    )


def _bounded(text: str | None) -> str | None:
    return None if text is None else _printable(text[:_MAX_BESIDE])


def _printable(text: str) -> str:
    """Returns the text with its lone surrogates as escapes: no encoding has them."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _new_id() -> str:
    letters = "".join(secrets.choice(_LETTERS) for _ in range(8))
    return f"{letters[:4]}-{letters[4:]}"


async def _tell(ctx: StreamingResponseContext, asked: AskedCall) -> None:
    logger.warning(
        "transaction %s: approval %s waits for a person: `luthien-hooks approvals show %s`",
        ctx.transaction_id,
        asked.id,
        asked.id,
    )
    fields = {"id": asked.id, "digest": asked.digest, "tool": asked.tool, "policy": asked.policy}
    await ctx.observability.emit_event(APPROVAL_ASKED, fields)


@dataclass(frozen=True, slots=True)
class _Found:
    """State of a question after so many `seconds`. `entry` is that of a decision."""

    state: ApprovalState
    call: AskedCall
    entry: Entry | None = None
    seconds: float = 0.0

    @property
    def approval(self) -> Approval:
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


def _key(digest: str) -> str:
    return f"{_PREFIX}{digest}"


def _read(entry: Entry) -> AskedCall | None:
    """Returns the call of an entry; None for one of another version of this package."""
    try:
        return AskedCall.model_validate_json(entry.value)
    except ValidationError:
        return None


# Deciding


async def open_calls(store: Store) -> list[AskedCall]:
    """Returns the calls that wait for a person, the oldest first. Raises `StateError`."""
    return [asked for asked in await all_calls(store) if asked.state == "pending"]


async def all_calls(store: Store) -> list[AskedCall]:
    """Returns all calls in the store, the oldest first. Raises `StateError`."""
    found = [asked for entry in await store.scan(_PREFIX) if (asked := _read(entry)) is not None]
    return sorted(found, key=lambda asked: asked.asked_at)


def _is_too_much(asked: AskedCall, waiting: Iterable[AskedCall]) -> bool:
    """Tells if one call more may not wait beside those of its session and its key."""
    of_key = [one for one in waiting if one.key_hash == asked.key_hash and one.digest != asked.digest]
    of_session = [one for one in of_key if one.session == asked.session]
    return len(of_session) >= MAX_OPEN or len(of_key) >= MAX_OPEN_OF_KEY


async def find_call(store: Store, id: str) -> AskedCall:
    """Returns the call with this id. Raises `UnknownApprovalError`, `StateError`."""
    return (await _find(store, id))[0]


async def _find(store: Store, id: str) -> tuple[AskedCall, Entry]:
    for entry in await store.scan(_PREFIX):
        asked = _read(entry)
        if asked is not None and asked.id == id:
            return asked, entry
    raise UnknownApprovalError(f"there is no approval {id}, or its time is over")


async def decide(
    store: Store,
    id: str,
    decision: Literal["approved", "denied"],
    *,
    by: str,
    message: str | None = None,
    arguments: str | None = None,
) -> AskedCall:
    """Decides about a call that waits, and returns it.

    `arguments` replace those of the model. Raises `UnknownApprovalError`, `DecidedError`, `InvalidEditError` and
    `StateError`.
    """
    asked, entry = await _find(store, id)
    if asked.state != "pending":
        raise DecidedError(f"approval {id} is {asked.state} already, by {asked.by}")
    if arguments is not None:
        _check_edit(asked, arguments)
    decided = asked.model_copy(
        update={
            "state": decision,
            "by": by,
            "decided_at": datetime.now(UTC),
            "message": message,
            "edited": arguments,
        }
    )
    if not await store.put(entry.key, decided.model_dump_json(), asked.valid_s, replacing=entry.version):
        raise DecidedError(f"approval {id} was decided at the same moment by somebody else")
    return decided


def _check_edit(asked: AskedCall, arguments: str) -> None:
    if len(arguments) > MAX_CHARACTERS:
        raise InvalidEditError(f"the arguments are longer than {MAX_CHARACTERS} characters")
    if asked.form == "custom":
        return
    try:
        is_object = isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        raise InvalidEditError("the arguments should be a JSON object")
