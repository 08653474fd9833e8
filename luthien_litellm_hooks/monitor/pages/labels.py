"""Labels on pages: those of the operator's file beside each call, and the form that adds one."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.monitor.access import base_of
from luthien_litellm_hooks.monitor.labels import (
    Labels,
    Verdict,
    add_label,
    calls_of,
    label_now,
    labels_if_any,
    verdict_of,
)
from luthien_litellm_hooks.monitor.pages.cutting import cut
from luthien_litellm_hooks.monitor.rows import in_thread
from luthien_litellm_hooks.monitor.site import Page, Site, json_response, visitor_of, wants_json
from luthien_litellm_hooks.monitor.transactions import Block, Record
from luthien_litellm_hooks.telemetry.log_lines import one_line

_MOST_CALLS = 20
_LONGEST_NOTE = 1_000


@dataclass(frozen=True, slots=True)
class LabelledCall:
    """A tool call with its number in the response, from 1, and its label; None without one."""

    number: int
    name: str
    arguments: str
    label: Verdict | None


@dataclass(frozen=True, slots=True)
class LabelsFile:
    """File of labels as it is now. `problem` says why no label can be read or added."""

    path: str
    labels: Labels
    complaints: Sequence[str]
    problem: str | None

    def calls(self, calls: Sequence[tuple[int, str, str]]) -> Sequence[LabelledCall]:
        """Returns calls, each a number, a tool and its arguments, with their labels."""
        return [
            LabelledCall(number, cut(name), cut(arguments), self.labels.of(name, arguments))
            for number, name, arguments in calls
        ]


async def labels_file(site: Site) -> LabelsFile:
    """Reads the file of labels."""
    return await in_thread(_read, site.labels)


def labelled_calls(file: LabelsFile, record: Record) -> Sequence[LabelledCall]:
    """Returns the first calls of a response with their labels; none if they are not stored."""
    if record.is_closed or record.original is None:
        return ()
    calls = list(enumerate(calls_of(record), 1))[:_MOST_CALLS]
    return file.calls([(at, call.name or "", call.arguments) for at, call in calls])


def _read(path: Path) -> LabelsFile:
    shown = str(path.absolute())
    try:
        labels = labels_if_any(path)
    except (ConfigError, OSError) as error:
        return LabelsFile(shown, Labels(), (), str(error))
    place = path if path.exists() else path.absolute().parent
    is_writable = os.access(place, os.W_OK)
    problem = None if is_writable else f"The proxy may not write {shown}: start it in a folder of its user."
    return LabelsFile(shown, labels, labels.complaints(path), problem)


async def _label(site: Site, request: Request) -> Response:
    """Adds a label of a call, and goes back to the page with its form."""
    form = request.state.form
    number = _number(form.get("block", ""))
    try:
        verdict = verdict_of(form.get("label", ""))
        record, call = await _call(site, form.get("transaction", ""), number)
    except ConfigError as error:
        raise HTTPException(400, str(error)) from None
    name = call.name or ""
    label = label_now(
        verdict,
        (name, call.arguments),
        by=visitor_of(request).name,
        note=form.get("note", "")[:_LONGEST_NOTE] or None,
        transaction=record.transaction_id,
        number=number,
    )
    added = await in_thread(add_label, site.labels, label, one_line(f"{cut(name)} {cut(call.arguments)}"))
    if added.refused is not None:
        raise HTTPException(409, added.refused)
    if wants_json(request):
        return json_response({"label": label, "known": added.known})
    return RedirectResponse(f"{base_of(request)}{_back(form.get('back', ''), record)}", 303)


def _number(text: str) -> int:
    """Returns a number of a few digits; 0 for anything else."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 6 else 0


async def _call(site: Site, wanted: str, number: int) -> tuple[Record, Block]:
    """Returns a call of a transaction. Raises a 404 without it, and `ConfigError` if it is not stored."""
    transaction = await site.rows().find(wanted)
    record = None if transaction is None else transaction.record
    if record is None or record.transaction_id != wanted:
        raise HTTPException(404, "There is no such transaction.")
    calls = calls_of(record)
    if not 1 <= number <= len(calls):
        raise HTTPException(404, f"The response has {len(calls)} calls, and no such one.")
    return record, calls[number - 1]


def _back(wanted: str, record: Record) -> str:
    """Returns the path of the page with the form: the report, or else the transaction."""
    return wanted if wanted == "/report" or wanted.startswith("/report?") else f"/t/{record.transaction_id}"


PAGES = (Page("/label", _label, may="admin", method="POST"),)
