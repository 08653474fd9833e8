"""Recorded transactions to judge again: from LiteLLM's spend logs, the file of a proxy without a database, or a file of
events."""

import os
import re
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, cast

from luthien_litellm_hooks.cli.replay.transcripts import is_transcript, read_transcripts, usual_places
from luthien_litellm_hooks.cli.show import Source
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.monitor.spend_logs import Filter, LocalFile
from luthien_litellm_hooks.monitor.transactions import Record, Transaction, read_transaction
from luthien_litellm_hooks.recording.record import KEY, MAX_TEXT_CHARACTERS, SLOT
from luthien_litellm_hooks.wire import FORMATS
from luthien_litellm_hooks.wire.format import json_object

Pair = tuple[Transaction, Record]

_OPENED_AT_ONCE = 10
_SQLITE = b"SQLite format 3\0"
_BEGUN, _RECORDED = "transaction.request_recorded", "transaction.recorded"
_CUT = re.compile(r"\[\d+ more characters\]\Z")
_UNFINISHED: Mapping[str | None, str] = {
    None: "the record was written before the response ended",
    "client_disconnected": "the client left",
    "provider_error": "the provider failed",
}


@dataclass(slots=True)
class Chosen:
    """Transactions to replay, oldest first. The rest is counted by reason: transactions in `left_out`, lines in
    `skipped`. `complaints` are about records that stay closed."""

    pairs: list[Pair] = field(default_factory=list[Pair])
    left_out: Counter[str] = field(default_factory=Counter[str])
    skipped: Counter[str] = field(default_factory=Counter[str])
    complaints: list[str] = field(default_factory=list[str])


def choose(source: Source, place: Path | None, criteria: Filter, limit: int) -> Chosen:
    """Reads the latest matching transactions, from `place` if it is given. Raises `ConfigError` if they cannot be
    read."""
    chosen = Chosen()
    seen = set[str]()
    latest = _of_source(source, criteria, limit, chosen) if place is None else _of_place(place, criteria, limit, chosen)
    for transaction, record in latest:
        is_repeated = record.transaction_id in seen
        reason = "another row of a transaction" if is_repeated else why_not(transaction, record)
        seen.add(record.transaction_id)
        if reason is None:
            chosen.pairs.append((transaction, record))
        else:
            chosen.left_out[reason] += 1
    chosen.pairs.sort(key=lambda pair: pair[0].time)
    return chosen


def why_not(transaction: Transaction, record: Record) -> str | None:
    """Returns the reason against judging a record again; None if there is none."""
    if record.is_closed:
        return "the record is sealed" if record.sealed else "the record was stored without texts, for want of a key"
    if record.original is None or record.final is None:
        return "the texts are not stored"
    if "outcome" in record.model_fields_set and record.outcome in _UNFINISHED:
        return _UNFINISHED[record.outcome]
    if FORMATS.of_call_type(transaction.route) is None:
        return f"the route {transaction.route} is none of a model's"
    if record.original.answer.is_truncated or record.final.answer.is_truncated:
        return "the response is longer than its record"
    if _has_cut_text(record.original.request):
        return "a text of the request is longer than its record"
    return None


def _has_cut_text(value: object) -> bool:
    waiting = [value]  # a client may nest deeply
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting.extend(cast(dict[str, object], item).values())
        elif isinstance(item, list):
            waiting.extend(cast(list[object], item))
        elif isinstance(item, str) and len(item) > MAX_TEXT_CHARACTERS and _CUT.search(item, MAX_TEXT_CHARACTERS):
            return True
    return False


def _of_source(source: Source, criteria: Filter, limit: int, chosen: Chosen) -> Iterator[Pair]:
    latest = source.open().latest(criteria, limit)
    while page := list(islice(latest, _OPENED_AT_ONCE)):
        opened = source.opened(page)
        chosen.complaints += opened.complaints
        yield from _pairs(opened.transactions)


def _pairs(transactions: Iterable[Transaction]) -> Iterator[Pair]:
    return ((one, one.record) for one in transactions if one.record is not None)


def _of_place(place: Path, criteria: Filter, limit: int, chosen: Chosen) -> Iterator[Pair]:
    """Yields the latest transactions in a file, or in the files of a folder, newest first. `claude-code` and
    `codex` are the usual folders of these agents."""
    place = usual_places(os.environ).get(str(place), place)
    try:
        files = sorted(place.rglob("*.jsonl"), key=lambda file: file.stat().st_mtime) if place.is_dir() else [place]
        by_reader = {reader: [file for file in files if reader.recognises(file)] for reader in _READERS}
        if not any(by_reader.values()):
            raise ConfigError(f"{place} has no recorded transactions: {_KNOWN}.")
        latest = deque[Pair](maxlen=limit)
        for reader, known in by_reader.items():
            found = reader.read(known, chosen) if known else ()
            latest.extend(pair for pair in found if criteria.matches(pair[0]))
    except OSError as error:
        raise ConfigError(f"{place} cannot be read: {error.strerror}") from None
    return reversed(latest)


@dataclass(frozen=True, slots=True)
class Reader:
    """Form of files with transactions. `read` yields them oldest first, and counts the rest."""

    recognises: Callable[[Path], bool]
    read: Callable[[Sequence[Path], Chosen], Iterator[Pair]]


def _is_database(file: Path) -> bool:
    with file.open("rb") as content:
        return content.read(len(_SQLITE)) == _SQLITE


def _read_databases(files: Sequence[Path], chosen: Chosen) -> Iterator[Pair]:
    for file in files:
        yield from reversed(list(_pairs(LocalFile(file).latest(Filter(), sys.maxsize))))


def _is_events(file: Path) -> bool:
    with file.open("rb") as lines:
        return any(b'"type": "transaction.' in line for line in islice(lines, _READ_TO_RECOGNISE))


def _read_events(files: Sequence[Path], chosen: Chosen) -> Iterator[Pair]:
    """Yields the transactions whose records are events. Of others a request is told, but no record: their worker was
    killed before, or has them still under way."""
    begun = dict[str, bool]()
    for event in _events(files, chosen):
        transaction_id, kind = str(event.get("transaction_id")), event["type"]
        if kind == _BEGUN:
            begun.setdefault(transaction_id, False)
        elif kind == _RECORDED:
            begun[transaction_id] = True
            yield from _pairs([read_transaction(_row(event))])
    if lost := sum(not is_recorded for is_recorded in begun.values()):
        chosen.left_out["the events end before the record"] += lost


def _events(files: Sequence[Path], chosen: Chosen) -> Iterator[Mapping[str, Any]]:
    for file in files:
        with file.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                event = json_object(line)
                if event is None:
                    chosen.skipped["not a JSON object"] += 1
                elif isinstance(event.get("data"), dict):
                    yield event


def _row(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns an event as a row of the spend logs."""
    data: Mapping[str, Any] = event["data"]
    who: Mapping[str, Any] = data.get("identity") or {}
    wire = str(data.get("route"))
    return {
        "request_id": data.get("response_id") or event.get("transaction_id"),
        "litellm_call_id": data.get("call_id"),
        "call_type": FORMATS[wire].call_types[0] if wire in FORMATS else wire,
        "api_key": who.get("key_hash") or "",
        "model": data.get("model") or "",
        "model_group": data.get("model_group"),
        "startTime": event.get("time"),
        "metadata": {
            **{f"user_api_key_{name}": who.get(name) for name in ("team_id", "team_alias")},
            "user_api_key_alias": who.get("key_alias"),
            SLOT: {KEY: data.get("record")},
        },
    }


_READ_TO_RECOGNISE = 20
_KNOWN = "it should be a file of `events.jsonl`, a proxy's file of records, or transcripts of Claude Code or Codex"
_READERS = (
    Reader(_is_database, _read_databases),
    Reader(_is_events, _read_events),
    Reader(is_transcript, lambda files, chosen: read_transcripts(files, chosen.skipped)),
)
