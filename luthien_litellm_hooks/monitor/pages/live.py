"""Live page: the transactions, newest first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import get_args
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from luthien_litellm_hooks.monitor.rows import Position
from luthien_litellm_hooks.monitor.site import Page, Site, render
from luthien_litellm_hooks.monitor.spend_logs import Filter
from luthien_litellm_hooks.monitor.transactions import Record, Transaction
from luthien_litellm_hooks.recording.recorder import Outcome

_SIZE = 50
FILTERS = ("outcome", "policy", "key", "model", "session")


@dataclass(frozen=True, slots=True)
class Row:
    """A transaction in the table."""

    id: str
    time: datetime
    outcome: str
    actions: Sequence[str]
    policies: Sequence[str]
    model: str
    key: str
    session: str | None
    milliseconds: float | None


@dataclass(frozen=True, slots=True)
class Live:
    """View of the page.

    `filters` are empty where none is chosen. `older` and `newest` are queries of links, None without such a page.
    """

    filters: Mapping[str, str]
    outcomes: Sequence[str]
    rows: Sequence[Row]
    older: str | None
    newest: str | None


async def _live(site: Site, request: Request) -> Response:
    given = {name: request.query_params.get(name, "") for name in FILTERS}
    filters = {name: value for name, value in given.items() if value}
    before = _position(request.query_params.get("before"))
    listing = await site.rows().latest(Filter(**filters), before, _SIZE)
    rows = [row_of(one, one.record) for one in listing.transactions if one.record is not None]
    older = None if listing.older is None else f"?{urlencode({**filters, 'before': str(listing.older)})}"
    newest = None if before is None else f"?{urlencode(filters)}"
    return render(request, "live.html", Live(given, get_args(Outcome), rows, older, newest))


def _position(text: str | None) -> Position | None:
    try:
        return Position.read(text) if text else None
    except ValueError:
        raise HTTPException(400, "`before` is no position of a row: follow the links of the page.") from None


def row_of(transaction: Transaction, record: Record) -> Row:
    return Row(
        id=record.transaction_id,
        time=transaction.time,
        outcome=record.outcome or "unfinished",
        actions=[decision.action for decision in record.decisions if not decision.is_vote],
        policies=[policy.name for policy in record.policies],
        model=transaction.model_group or transaction.model,
        key=transaction.key_alias or transaction.key_hash[:8],
        session=record.session,
        milliseconds=record.milliseconds,
    )


PAGES = (Page("/", _live, title="Live"),)
