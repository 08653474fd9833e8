"""Feed of the live page: the last transactions of this process, as they run, and those that other workers recorded.

It fails open: a transaction leaves a few words here as it begins, decides and ends, and waits for nothing. Records are
read only while a page is open, once for all of them. The memory is bounded in transactions and in the length of their
words, and an open page has no queue: it gets the present state of each transaction that changed.
"""

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, cast

from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.monitor.rows import Rows
from luthien_litellm_hooks.monitor.spend_logs import Filter
from luthien_litellm_hooks.monitor.transactions import Decision, Record, Transaction
from luthien_litellm_hooks.telemetry import HookDecision
from luthien_litellm_hooks.telemetry.log_lines import logger
from luthien_litellm_hooks.telemetry.names import APPROVAL_ASKED
from luthien_litellm_hooks.wire.events import ReasoningStreamBlock, ToolCallStreamBlock

KEPT = 500
"""Transactions in memory."""
MAX_PAGES = 200
"""Open pages of this process."""
_MAX_DECISIONS = 5
_MAX_CHARACTERS = 200
_POLL_S = 2.0
_TOGETHER_S = 0.2
"""Time in which changes are gathered for a page."""
_IDLE_S = 10.0
"""Time after which a page without news gets a sign of life."""
_AT_ONCE = 50
"""Transactions in one message to a page."""
_OPERATORS = ("", "litellm_proxy_master_key")
"""Keys in LiteLLM's rows that are the operator's own."""
REQUESTED = "transaction.request_recorded"
ENDED = frozenset({"transaction.streaming_response_recorded", "transaction.non_streaming_response_recorded"})


@dataclass(frozen=True, slots=True)
class Said:
    """A decision in a few words."""

    action: str
    policy: str
    about: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A transaction in the table. Without an outcome it runs; `decisions` are its first ones."""

    id: str
    time: datetime
    outcome: str | None = None
    decisions: tuple[Said, ...] = ()
    more_decisions: int = 0
    policies: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    key: str = ""
    key_hash: str = ""
    session: str | None = None
    milliseconds: float | None = None

    @property
    def model(self) -> str:
        return self.models[0] if self.models else ""

    def fits(self, chosen: Filter) -> bool:
        """Tells if the transaction meets the criteria that the page has."""
        return (
            chosen.outcome in (None, self.outcome)
            and (chosen.policy is None or chosen.policy in self.policies)
            and (chosen.model is None or chosen.model in self.models)
            and chosen.key in (None, self.key, self.key_hash)
            and chosen.session in (None, self.session)
        )


def row_of(transaction: Transaction, record: Record) -> Row:
    """Returns the row of a stored transaction."""
    decisions = [_said(one) for one in record.decisions if not one.is_vote]
    names = (transaction.model_group, transaction.model)
    return Row(
        id=record.transaction_id,
        time=transaction.time,
        outcome=record.outcome or "unfinished",
        decisions=tuple(decisions[:_MAX_DECISIONS]),
        more_decisions=max(len(decisions) - _MAX_DECISIONS, 0),
        policies=tuple(policy.name for policy in record.policies),
        models=tuple(dict.fromkeys(_cut(name) for name in names if name)),
        key=_cut(transaction.key_alias or ("" if transaction.key_hash in _OPERATORS else transaction.key_hash[:8])),
        key_hash=_cut(transaction.key_hash),
        session=record.session,
        milliseconds=record.milliseconds,
    )


def _said(decision: Decision) -> Said:
    about = "" if decision.block is None else decision.block.name or decision.block.type
    return Said(decision.action, decision.policy, _cut(about), _cut(decision.reason or decision.error or ""))


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}..."


@dataclass(frozen=True, slots=True)
class News:
    """Changed rows for a page, and the mark from which it goes on."""

    mark: str
    rows: Sequence[Row]


@dataclass(slots=True)
class _Ring:
    """The last transactions, the latest changed last, each with the number of its change."""

    rows: OrderedDict[str, tuple[int, Row]] = field(default_factory=OrderedDict[str, tuple[int, Row]])
    changes: int = 0

    def put(self, row: Row) -> None:
        self.changes += 1
        self.rows[row.id] = self.changes, row
        self.rows.move_to_end(row.id)
        while len(self.rows) > KEPT:
            self.rows.popitem(last=False)

    def get(self, id: str) -> Row | None:
        found = self.rows.get(id)
        return None if found is None else found[1]

    def after(self, number: int, chosen: Filter) -> list[Row]:
        """Returns the rows that changed after the change of this number, in their order; the latest of many."""
        found: list[Row] = []
        for change, row in reversed(self.rows.values()):
            if change <= number or len(found) >= _AT_ONCE:
                break
            if row.fits(chosen):
                found.append(row)
        return found[::-1]


class Feed:
    """Watcher of the running transactions, and source of the live pages.

    `is_ending` tells that the process is about to end: then the pages are closed, which it would wait for.
    """

    def __init__(self, rows: Callable[[], Rows], is_ending: Callable[[], bool] = lambda: False) -> None:
        self._rows = rows
        self._is_ending = is_ending
        self._ring = _Ring()
        self._name = secrets.token_hex(4)
        self._pages: set[asyncio.Event] = set()
        self._poller: asyncio.Task[None] | None = None
        self._is_closing = False

    # -- from the transactions --

    def happened(self, transaction_id: str, event_type: str, data: Mapping[str, object]) -> None:
        if event_type == REQUESTED:
            self._put(_begun(transaction_id, self._ring.get(transaction_id), cast(Mapping[str, Any], data)))
            return
        row = self._ring.get(transaction_id)
        if row is None:
            return
        if event_type in ENDED:
            took = (datetime.now(UTC) - row.time).total_seconds() * 1000
            self._put(replace(row, outcome=str(data.get("outcome")), milliseconds=took))
        elif event_type == APPROVAL_ASKED:
            self._put(_with(row, [Said("waits", str(data["policy"]), _cut(str(data["tool"])), "for a person")]))

    def decided(self, transaction_id: str, decisions: Sequence[HookDecision]) -> None:
        row = self._ring.get(transaction_id) or Row(transaction_id, datetime.now(UTC))
        made = [one for one in decisions if not one.is_vote]
        said = [Said(one.action, one.policy, _cut(_about(one)), _cut(one.reason or "")) for one in made]
        if said:
            self._put(_with(row, said))

    def _put(self, row: Row) -> None:
        self._ring.put(row)
        for page in self._pages:
            page.set()

    # -- to the pages --

    @property
    def mark(self) -> str:
        """Mark of the present state."""
        return f"{self._name}.{self._ring.changes}"

    def latest(self, chosen: Filter) -> list[Row]:
        """Returns the last transactions of this process that fit, the newest first."""
        rows = [row for _, row in self._ring.rows.values() if row.fits(chosen)]
        return sorted(rows, key=lambda row: row.time, reverse=True)

    def row(self, transaction_id: str) -> Row | None:
        return self._ring.get(transaction_id)

    def running(self) -> int:
        """Returns the number of transactions that run in this process."""
        return sum(row.outcome is None for _, row in self._ring.rows.values())

    async def news(self, mark: str, chosen: Filter, *, for_s: float) -> AsyncGenerator[News | None]:
        """Yields what changes after the mark, for at most so many seconds; None as a sign of life.

        A mark of another process counts as the beginning. A reader that comes back late gets the present state.
        """
        until = time.monotonic() + for_s
        name, _, number = mark.rpartition(".")
        seen = int(number) if name == self._name and number.isdecimal() else 0
        with self._page() as changed:
            while time.monotonic() < until and not self._is_closing:
                changed.clear()
                rows, seen = self._ring.after(seen, chosen), self._ring.changes
                yield News(f"{self._name}.{seen}", rows) if rows else None
                await _wait(changed, _IDLE_S)
                await asyncio.sleep(_TOGETHER_S)

    @property
    def is_full(self) -> bool:
        """No further page can be open."""
        return len(self._pages) >= MAX_PAGES

    @contextmanager
    def _page(self) -> Generator[asyncio.Event]:
        """Counts an open page. The records are read while there is one."""
        changed = asyncio.Event()
        self._pages.add(changed)
        if self._poller is None or self._poller.done():
            self._is_closing = False
            self._poller = asyncio.create_task(self._poll(), name="luthien-monitor-poll")
        try:
            yield changed
        finally:
            self._pages.discard(changed)

    async def _poll(self) -> None:
        """Reads what was recorded, by all workers, until no page is open."""
        last: object = None
        while self._pages:
            if self._is_ending():
                self._is_closing = True
                for page in self._pages:
                    page.set()
                return
            try:
                found, last = await self._rows().recorded_after(last)
                for transaction in found:
                    if transaction.record is not None:
                        self._merge(row_of(transaction, transaction.record))
            except ConfigError as error:
                logger.warning("the monitor page shows this process alone: %s", error)
                last = None
                await asyncio.sleep(_POLL_S * 5)
            await asyncio.sleep(_POLL_S)

    def _merge(self, stored: Row) -> None:
        """Puts a stored row, with the reasons that only this process knows where the stored ones are sealed."""
        known = self._ring.get(stored.id)
        if known is not None:
            has_reasons = any(one.reason for one in stored.decisions) or not known.decisions
            decisions = stored.decisions if has_reasons else known.decisions
            stored = replace(stored, decisions=decisions, session=stored.session or known.session)
        if stored != known:
            self._put(stored)


async def _wait(changed: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await changed.wait()
    except TimeoutError:
        return


def _begun(transaction_id: str, known: Row | None, data: Mapping[str, Any]) -> Row:
    identity: Mapping[str, Any] = data.get("identity") or {}
    names = (data.get("original_model"), data.get("final_model"))
    key_hash = str(identity.get("key_hash") or "")
    session: object = data.get("session")
    return replace(
        known or Row(transaction_id, datetime.now(UTC)),
        policies=tuple(str(policy["name"]) for policy in data.get("policies") or ()),
        models=tuple(dict.fromkeys(_cut(str(name)) for name in names if name)),
        key=_cut(str(identity.get("key_alias") or key_hash[:8])),
        key_hash=key_hash,
        session=None if session is None else str(session),
    )


def _about(decision: HookDecision) -> str:
    match decision.block:
        case None:
            return "request"
        case ToolCallStreamBlock(name=name):
            return name or "tool call"
        case ReasoningStreamBlock():
            return "reasoning"
        case _:
            return "text"


def _with(row: Row, said: Sequence[Said]) -> Row:
    room = max(_MAX_DECISIONS - len(row.decisions), 0)
    return replace(
        row,
        decisions=(*row.decisions, *said[:room]),
        more_decisions=row.more_decisions + max(len(said) - room, 0),
    )
