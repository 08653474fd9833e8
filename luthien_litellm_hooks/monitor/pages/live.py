"""Live page: the transactions, newest first, and what changes while the page is open."""

import json
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import get_args
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.monitor.access import ASKED_EVERY_S, base_of
from luthien_litellm_hooks.monitor.feed import News, Row, row_of
from luthien_litellm_hooks.monitor.hour import Hour
from luthien_litellm_hooks.monitor.rows import Position
from luthien_litellm_hooks.monitor.site import Page, Site, fragment, render
from luthien_litellm_hooks.monitor.spend_logs import Filter
from luthien_litellm_hooks.recording.recorder import Outcome

_SIZE = 50
_SLOW_S = 15.0
"""Time that a page may take for a message. A slower one is dropped, and connects again."""
FILTERS = ("outcome", "policy", "key", "model", "session")


@dataclass(frozen=True, slots=True)
class Live:
    """View of the page.

    `filters` are empty where none is chosen. `older` and `newest` are queries of links, None without such a page.
    `events` is the query for what comes after `rows`, None on a page that does not change.
    """

    filters: Mapping[str, str]
    outcomes: Sequence[str]
    hour: Hour
    running: int
    rows: Sequence[Row]
    older: str | None
    newest: str | None
    events: str | None
    problem: str | None = None

    @property
    def is_filtered(self) -> bool:
        return any(self.filters.values())


async def _live(site: Site, request: Request) -> Response:
    chosen, given = _chosen(request)
    before = position_of(request)
    mark = site.feed.mark
    problem = None
    try:
        listing = await site.rows().latest(chosen, before, _SIZE)
        stored, older, hour = listing.transactions, listing.older, await site.hour.now()
    except ConfigError as error:  # what runs here can still be seen
        stored, older, hour, problem = (), None, Hour(0, {}, ()), str(error)
    rows = [row_of(one, one.record) for one in stored if one.record is not None]
    if before is None:
        rows = _with_running(rows, site.feed.latest(chosen))
    set_filters = {name: value for name, value in given.items() if value}
    view = Live(
        given,
        get_args(Outcome),
        hour,
        site.feed.running(),
        rows,
        None if older is None else f"?{urlencode({**set_filters, 'before': str(older)})}",
        None if before is None else f"?{urlencode(set_filters)}",
        f"?{urlencode({**set_filters, 'after': mark})}" if before is None else None,
        problem,
    )
    return render(request, "live.html", view)


def _with_running(stored: Sequence[Row], here: Sequence[Row]) -> list[Row]:
    """Returns the stored rows, those that run, and those that have ended here and are not stored yet."""
    known = {row.id: row for row in stored}
    oldest = stored[-1].time if len(stored) >= _SIZE else None
    added = [
        row for row in here if row.id not in known and (oldest is None or row.outcome is None or row.time > oldest)
    ]
    return sorted([*stored, *added[:_SIZE]], key=lambda row: row.time, reverse=True)


def _chosen(request: Request) -> tuple[Filter, Mapping[str, str]]:
    """Returns the filter of the query, and its values, empty where none is chosen."""
    given = {name: request.query_params.get(name, "") for name in FILTERS}
    return Filter(
        outcome=given["outcome"] or None,
        policy=given["policy"] or None,
        key=given["key"] or None,
        model=given["model"] or None,
        session=given["session"] or None,
    ), given


def position_of(request: Request) -> Position | None:
    """Returns the position in the query, None without one. Raises a 400."""
    text = request.query_params.get("before")
    try:
        return Position.read(text) if text else None
    except (ValueError, OverflowError):
        raise HTTPException(400, "`before` is no position of a row: follow the links of the page.") from None


async def _events(site: Site, request: Request) -> Response:
    """Returns the changes as server-sent events: a row of the table, or the plot of the last hour."""
    if site.feed.is_full:
        raise HTTPException(503, "Too many live pages are open in this process.")
    mark = request.headers.get("last-event-id") or request.query_params.get("after", "")
    return StreamingResponse(_messages(site, request, mark), media_type="text/event-stream")


async def _messages(site: Site, request: Request, mark: str) -> AsyncGenerator[str]:
    """Yields messages for five minutes. The browser then connects anew, and the role is asked again."""
    chosen, base, shown = _chosen(request)[0], base_of(request), None
    yield "retry: 1000\n\n"
    async for news in site.feed.news(mark, chosen, for_s=ASKED_EVERY_S):
        try:
            hour = await site.hour.now()
        except ConfigError:
            hour = shown
        text = _message(news, base) + ("" if hour is None or hour == shown else _plot(base, hour))
        shown, began = hour, time.monotonic()
        yield text or ": \n\n"
        if time.monotonic() - began > _SLOW_S:
            return


def _message(news: News | None, base: str) -> str:
    if news is None:
        return ""
    rows = [json.dumps({"id": row.id, "html": _row_html(base, row)}) for row in news.rows]
    return "".join(f"id: {news.mark}\nevent: row\ndata: {row}\n\n" for row in rows)


@lru_cache(maxsize=500)  # all pages show the same rows
def _row_html(base: str, row: Row) -> str:
    return fragment("row.html", base, row=row)


def _plot(base: str, hour: Hour) -> str:
    return f"event: hour\ndata: {json.dumps({'html': fragment('hour.html', base, hour=hour)})}\n\n"


PAGES = (Page("/", _live, title="Live"), Page("/events", _events))
