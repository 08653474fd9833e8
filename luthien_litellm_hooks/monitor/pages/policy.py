"""Page of the policy: the one in force, and a form to try another on recorded transactions."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.monitor.comparison import Judged
from luthien_litellm_hooks.monitor.pages.cutting import Cutter
from luthien_litellm_hooks.monitor.rows import in_thread
from luthien_litellm_hooks.monitor.site import Page, Site, render, visitor_of
from luthien_litellm_hooks.monitor.spend_logs import Filter
from luthien_litellm_hooks.monitor.transactions import Transaction
from luthien_litellm_hooks.monitor.tryout import (
    MOST_TRANSACTIONS,
    NAMES,
    Tried,
    Tryout,
    Verdict,
    read_settings,
    try_out,
)

_LONGEST = 300
_ROOM = 20_000
"""Characters of all texts of a result."""
_MOST_VERDICTS = 10
"""Verdicts of a transaction that are shown; the changes first."""
_ERROR_LENGTH = 2_000
_turn = asyncio.Lock()


@dataclass(frozen=True, slots=True)
class Asked:
    """Fields of the form: `on` is the id of a transaction, or `last` the number of the newest ones."""

    policy: str
    settings: str = ""
    on: str = ""
    last: int = 5


@dataclass(frozen=True, slots=True)
class PolicyView:
    """View of the page. `in_force` is None if guardrails alone have policies; `error` is that of the try-out."""

    in_force: Mapping[str, Any] | None
    names: Sequence[str]
    most: int
    can_try: bool
    asked: Asked
    result: Tryout | None = None
    error: str | None = None


async def _policy(site: Site, request: Request) -> Response:
    query = request.query_params
    asked = Asked(query.get("policy", NAMES[0]), query.get("settings", ""), query.get("on", ""))
    return render(request, "policy.html", _view(site, request, asked))


async def _try(site: Site, request: Request) -> Response:
    """Tries one policy at a time in this process. Wrong settings are told on the page, beside the form."""
    form = request.state.form
    last = form.get("last", "")
    asked = Asked(
        form.get("policy", ""),
        form.get("settings", "").replace("\r\n", "\n"),  # as browsers end lines
        form.get("on", "").strip(),
        min(MOST_TRANSACTIONS, max(1, int(last))) if last.isdecimal() and len(last) < 5 else 1,
    )
    if _turn.locked():
        raise HTTPException(429, "Another try-out is running: try again when it has ended.")
    view = _view(site, request, asked)
    async with _turn:
        try:
            settings = await in_thread(read_settings, asked.settings)
            result = await try_out(site.build, asked.policy, settings, await _chosen(site, asked))
        except ConfigError as error:
            return render(request, "policy.html", replace(view, error=str(error)[:_ERROR_LENGTH]), 400)
    return render(request, "policy.html", replace(view, result=_cut(result)))


async def _chosen(site: Site, asked: Asked) -> Sequence[Transaction]:
    """Returns the transactions to try a policy on. Raises `ConfigError` if there are none."""
    if not asked.on:
        found = (await site.rows().whole(Filter(), None, asked.last)).transactions
        if not found:
            raise ConfigError("There are no transactions yet: send a request through this proxy first.")
        return found
    transaction = await site.rows().find(asked.on)
    if transaction is None:
        raise ConfigError("There is no such transaction.")
    return [transaction]


def _view(site: Site, request: Request, asked: Asked) -> PolicyView:
    return PolicyView(site.policy(), NAMES, MOST_TRANSACTIONS, visitor_of(request).may("admin"), asked)


def _cut(result: Tryout) -> Tryout:
    short = Cutter(_ROOM, _LONGEST)
    tried: list[Tried] = []
    for one in result.tried:
        chosen = sorted(one.verdicts, key=lambda verdict: verdict.change == "unchanged")[:_MOST_VERDICTS]
        tried.append(replace(one, verdicts=[_cut_verdict(verdict, short) for verdict in chosen]))
    return replace(result, tried=tried)


def _cut_verdict(one: Verdict, short: Cutter) -> Verdict:
    before, after = _cut_judged(one.before, short), _cut_judged(one.after, short)
    return replace(one, name=short(one.name), text=short(one.text), before=before, after=after)


def _cut_judged(one: Judged, short: Cutter) -> Judged:
    return replace(one, reason=short.maybe(one.reason), instead=short.maybe(one.instead))


PAGES = (Page("/policy", _policy, title="Policy"), Page("/policy", _try, may="admin", method="POST"))
