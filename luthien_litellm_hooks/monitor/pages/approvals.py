"""Inbox of approvers: the tool calls that wait for a person, and what was decided of late. Only a POST decides.

The calls, and who may decide about them, come from the same functions as those of the routes for approvers.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from luthien_litellm_hooks.monitor.access import base_of
from luthien_litellm_hooks.monitor.outline import argument_lines
from luthien_litellm_hooks.monitor.site import Inbox, Page, Site, html, json_response, render, visitor_of, wants_json
from luthien_litellm_hooks.policy.asked_calls import AskedCall
from luthien_litellm_hooks.telemetry.log_lines import escape

PATH = "/approvals"
_SHOWN_DECIDED = 20
Draft = tuple[str | None, str]
"""Text of a form that did not count, and the reason."""
GRANTS: Mapping[str, Mapping[str, Any]] = {"session": {"scope": "session"}, "like": {"scope": "key", "like": True}}
"""Grants that the form offers, with the bodies of the route."""


@dataclass(frozen=True, slots=True)
class Card:
    """A call before a person: what a reader sees of it. `like` is what a grant of like calls would cover, `draft` the
    text in its form, `problem` what was wrong."""

    call: AskedCall
    lines: Sequence[str]
    effects: Sequence[str]
    like: str | None
    may_decide: bool
    waits_s: int
    draft: str
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class InboxView:
    """View of the page: open calls, the oldest first, and decided ones, the latest first."""

    waiting: Sequence[Card]
    decided: Sequence[Card]


async def _inbox(site: Site, request: Request) -> Response:
    return await _page(site, request, {}, 200)


async def _page(site: Site, request: Request, drafts: Mapping[str, Draft], status: int) -> Response:
    view = await _view(site, request, drafts)
    if wants_json(request):
        return json_response(view, status)
    return render(request, "approvals.html", view, status)


async def _view(site: Site, request: Request, drafts: Mapping[str, Draft]) -> InboxView:
    calls = await _inbox_of(site).calls(visitor_of(request))
    cards = [_card(given, drafts.get(str(given["id"]))) for given in calls]
    waiting = [card for card in cards if card.call.state == "pending"]
    decided = [card for card in cards if card.call.state != "pending"]
    decided.sort(key=lambda card: card.call.decided_at or card.call.asked_at, reverse=True)
    return InboxView(waiting, decided[:_SHOWN_DECIDED])


def _inbox_of(site: Site) -> Inbox:
    if site.inbox is None:
        raise HTTPException(404, "This proxy asks nobody.")
    return site.inbox


def _card(given: Mapping[str, Any], draft: Draft | None) -> Card:
    call = AskedCall.model_validate(given)
    text, problem = (None, None) if draft is None else draft
    waits_s = max(int((datetime.now(UTC) - call.asked_at).total_seconds()), 0)
    return Card(
        call,
        argument_lines(call.arguments),
        given["effects"],
        given["like"],
        given["may_decide"],
        waits_s,
        text or editable(call),
        problem,
    )


def editable(call: AskedCall) -> str:
    """Returns the arguments for a text area: JSON with its invisible characters as JSON's escapes.

    Free text that has such characters is empty: whoever edits it writes it anew.
    """
    if call.form != "custom":
        try:
            text = json.dumps(json.loads(call.arguments or "{}"), ensure_ascii=False, indent=2, allow_nan=False)
            return "".join(one if one == "\n" or escape(one) == one else json.dumps(one)[1:-1] for one in text)
        except (ValueError, RecursionError):
            pass
    return call.arguments if escape(call.arguments) == call.arguments else ""


async def _cards(site: Site, request: Request) -> Response:
    """Returns the cards as parts of the page, for its script."""
    view = await _view(site, request, {})
    parts = [
        {"id": card.call.id, "state": card.call.state, "html": html(request, "approval.html", card)}
        for card in (*view.waiting, *view.decided)
    ]
    return json_response({"cards": parts})


async def _decide(site: Site, request: Request) -> Response:
    """Approves or denies a call as the form says, and returns to the inbox, which tells what was wrong."""
    form, id = request.state.form, request.path_params["id"]
    given: dict[str, Any] = {"decision": form.get("decision", "")}
    edited = form.get("arguments", "").replace("\r\n", "\n") if "arguments" in form else None
    if edited is not None and edited.strip():
        given["arguments"] = edited
    if grant := form.get("grant"):
        given["grant"] = GRANTS.get(grant, {})
    if form.get("message", "").strip():
        given["message"] = form["message"].strip()
    try:
        decided = await _inbox_of(site).decide(visitor_of(request), id, given)
    except HTTPException as error:
        if wants_json(request) or error.status_code not in (400, 409):
            raise
        return await _page(site, request, {id: (edited, str(error.detail))}, error.status_code)
    if wants_json(request):
        return json_response(decided)
    return RedirectResponse(f"{base_of(request)}{PATH}#a-{id}", 303)


PAGES = (
    Page(PATH, _inbox, may="approve", title="Approvals"),
    Page(f"{PATH}/cards", _cards, may="approve"),
    Page(f"{PATH}/{{id}}", _decide, may="approve", method="POST"),
)
