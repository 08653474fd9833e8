"""Safeguards of Anthropic messages: verdicts on the calls of a response, for a client that asks its user about none.

A request asks for them in `safeguards`; a response has them in `safeguard_results`, beside its stop reason. Claude Code
does so in its auto mode. A verdict is about one call as the provider sent it, so a response that policies changed needs
verdicts of its own.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

from luthien_litellm_hooks.wire.events import Finish, Flagged, StreamEvent, ToolCallDelta
from luthien_litellm_hooks.wire.messages.blocks import JSON
from luthien_litellm_hooks.wire.request_shape import Json

DANGEROUS = "dangerous_tool_use"
RESULTS = "safeguard_results"
_REASON = re.compile(r"[a-z_]{1,40}")
_Call = tuple[str, str]
"""Name and arguments of a call."""


def asks_for_verdicts(body: Json) -> bool:
    """Tells whether a request asks for a verdict on each tool call."""
    asked: object = body.get("safeguards")
    return isinstance(asked, list) and any(
        isinstance(each, dict) and cast(Json, each).get("type") == DANGEROUS for each in cast(list[object], asked)
    )


class Verdicts:
    """Verdicts on the calls of one response, for a client that asked for them.

    It compares the calls that came with those that leave: an unchanged call keeps the provider's verdict, a flagged one
    gets the policy's, and any other gets none. Without a verdict the client asks its user, or does not run the call.
    """

    def __init__(self) -> None:
        self._came, self._left = _Calls(), _Calls()
        self._given: JSON | None = None
        self._flags: dict[str, str] = {}

    def note_came(self, events: Iterable[StreamEvent]) -> None:
        """Notes events from the provider."""
        self._came.add(events)

    def note_given(self, results: object) -> None:
        """Notes the provider's own results."""
        if results:
            self._given = _status_in(results)

    def note_left(self, events: Iterable[StreamEvent]) -> None:
        """Notes events on their way to the client."""
        events = list(events)
        self._left.add(events)
        self._flags.update({event.id: event.explanation for event in events if isinstance(event, Flagged)})

    def begin_again(self) -> None:
        """Forgets what has left: a full message may be written more than once."""
        self._left = _Calls()

    def results(self, finish: Finish | None) -> JSON:
        """Returns the field with the results for what has left.

        Nothing is said about calls if neither the provider nor a policy gave a verdict. A `finish` of ours always has
        results: the provider's never came.
        """
        given, left, came = self._given or {}, self._left.by_id(), self._came.by_id()
        tool_uses: object = given.get("tool_uses")
        verdicts = cast(Mapping[str, Any], tool_uses if isinstance(tool_uses, dict) else {})
        found: JSON = {}
        for id, call in left.items():
            if id in self._flags:
                found[id] = {"type": "evaluated", "outcome": "flagged", "explanation": self._flags[id]}
            elif call is not None and came.get(id) == call and (verdict := _plain_verdict(verdicts.get(id))):
                found[id] = verdict
        is_ours = finish is None or finish.source is None
        if left and not (found or is_ours or given):
            return {}
        says_nothing = bool(given) and given.get("type") != "available" and not (found or is_ours)
        status = _plain(given, "type", "reason") if says_nothing else {"type": "available", "tool_uses": found}
        return {RESULTS: [{"type": DANGEROUS, "status": status}]}


class _Calls:
    """Calls for the client to run, put together from events."""

    def __init__(self) -> None:
        self._pieces: dict[int | None, tuple[str, str, list[str]]] = {}
        self._whole: list[tuple[str, str, list[str]]] = []

    def add(self, events: Iterable[StreamEvent]) -> None:
        for event in events:
            if not isinstance(event, ToolCallDelta):
                continue
            if event.name and event.form != "server":
                self._pieces[event.index] = event.id or "", event.name, []
                self._whole.append(self._pieces[event.index])
            elif event.name:
                self._pieces.pop(event.index, None)
            if event.index in self._pieces:
                self._pieces[event.index][2].append(event.arguments)

    def by_id(self) -> dict[str, _Call | None]:
        """Returns the calls; None for an id with several."""
        found: dict[str, _Call | None] = {}
        for id, name, pieces in self._whole:
            found[id] = None if id in found else (name, "".join(pieces))
        return found


def _status_in(results: object) -> JSON | None:
    listed = cast(list[object], results) if isinstance(results, list) else []
    for each in listed:
        status: object = cast(Json, each).get("status") if isinstance(each, dict) else None
        if isinstance(status, dict) and cast(Json, each).get("type") == DANGEROUS:
            return cast(JSON, status)
    return None


def _plain_verdict(given: object) -> JSON:
    """Returns a verdict without its words, which may quote what was withheld."""
    return _plain(cast(Json, given), "type", "outcome", "reason") if isinstance(given, dict) else {}


def _plain(given: Json, *names: str) -> JSON:
    values = {name: given.get(name) for name in names}
    return {name: value for name, value in values.items() if isinstance(value, str) and _REASON.fullmatch(value)}
