"""The spend logs as a running proxy serves them, over LiteLLM's HTTP API."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, cast

import httpx

from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.inspection.transactions import Filter, Transaction, may_be_ours, read_transaction

_PATH = "/spend/logs/v2"
_TIMEOUT_S = 60.0
_PAGE_SIZE = 100
_MAX_PAGES = 200
"""Where a search ends: LiteLLM's API has no filter for what the plugin wrote, so all rows are read."""
_BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)


class ProxyApi:
    """The spend logs that the proxy at `url` shows the holder of `key`."""

    def __init__(self, url: str, key: str) -> None:
        if not (key and key.isascii() and key.isprintable()):
            raise ConfigError("The key is missing, or has characters that no header can carry: set LITELLM_MASTER_KEY.")
        self._url = url
        self._key = key

    def find(self, wanted: str) -> Sequence[Transaction]:
        known = list(self._rows(_BEGINNING, request_id=wanted))
        if not may_be_ours(wanted) or any(row.transaction_id == wanted for row in known):
            return known
        ours = (row for row in self._rows(_BEGINNING) if row.transaction_id == wanted)
        return [*islice(ours, 1), *known]

    def latest(self, chosen: Filter, limit: int) -> Sequence[Transaction]:
        return list(islice(filter(chosen.matches, self._rows(chosen.since or _BEGINNING)), limit))

    def _rows(self, since: datetime, **asked: str) -> Iterator[Transaction]:
        """The rows since then, newest first; of an answer or a LiteLLM call if `request_id` is given.

        LiteLLM's order of rows of the same time may differ from page to page, so what follows a page is asked for anew
        from its last second on. Only the rows of a second that fills a page by itself come from a next page.
        """
        seen = set[str]()
        until, page = _end_of_second(datetime.now(UTC) + timedelta(days=1)), 1
        for _ in range(_MAX_PAGES):
            window = {"start_date": _time(since), "end_date": _time(until)}
            rows = list(map(read_transaction, self._page({**asked, **window, "page": page, "page_size": _PAGE_SIZE})))
            yield from (row for row in rows if row.response_id not in seen)
            if len(rows) < _PAGE_SIZE:
                return
            seen.update(row.response_id for row in rows)
            last = _end_of_second(rows[-1].time)
            until, page = (last, 1) if last < until else (until, page + 1)

    def _page(self, asked: dict[str, str | int]) -> list[dict[str, Any]]:
        url = self._url.rstrip("/") + _PATH
        try:
            response = httpx.get(
                url, params=asked, headers={"Authorization": f"Bearer {self._key}"}, timeout=_TIMEOUT_S
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ConfigError(f"{self._url} cannot be reached: {error}") from None
        if not response.is_success:
            raise ConfigError(
                f"{self._url} does not show its spend logs: HTTP {response.status_code}. "
                "It takes a proxy with a database, and an admin's key."
            )
        try:
            return cast(list[dict[str, Any]], response.json()["data"])
        except (ValueError, LookupError, TypeError):
            raise ConfigError(f"{self._url} is no LiteLLM proxy: it lists no spend logs.") from None


def _end_of_second(moment: datetime) -> datetime:
    """LiteLLM's windows are of whole seconds, both ends in them."""
    return (moment + timedelta(seconds=1, microseconds=-1)).replace(microsecond=0)


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
