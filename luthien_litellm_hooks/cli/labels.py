"""Labels of actions, in a file of the operator's, and the command that adds them.

A line of the file is a JSON object. A label holds for every repetition of its action, in any record.
"""

import getpass
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast, get_args

import typer
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.text import Text

from luthien_litellm_hooks.cli.output import complain, terminal
from luthien_litellm_hooks.cli.show import HOW_TO_STORE, Source, find_transaction
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.monitor.transactions import Block, Record
from luthien_litellm_hooks.recording.digest import action_digest
from luthien_litellm_hooks.telemetry.log_lines import one_line

Verdict = Literal["allow", "block"]
_KEYS: Mapping[str, Verdict] = {"a": "allow", "b": "block"}
_SKIP, _QUIT = "s", "q"
_SHOWN = 1_000


class Label(BaseModel):
    """A person's verdict on an action. `transaction` and `block` tell where the person saw it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    action: str = Field(pattern="^[0-9a-f]{64}$")
    label: Verdict
    by: str | None = None
    at: datetime | None = None
    note: str | None = None
    transaction: str | None = None
    block: int | None = None
    """Number of the call among those of the response, from 1."""


@dataclass(slots=True)
class Labels:
    """Labels of a file, with the line of each. Actions with labels of both kinds are `contradictory`, and have none."""

    by_action: dict[str, tuple[int, Label]] = field(default_factory=dict[str, tuple[int, Label]])
    contradictory: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    duplicates: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    def of(self, name: str, arguments: str) -> Verdict | None:
        """Returns the label of a tool call."""
        found = self.by_action.get(action_digest(name, arguments))
        return None if found is None else found[1].label

    def complaints(self, file: Path) -> Sequence[str]:
        """Returns warnings about the file's lines."""
        pairs = self.contradictory.values()
        told = [f"lines {first} and {second} contradict each other: neither counts" for first, second in pairs]
        told += [f"line {second} repeats line {first}" for first, second in self.duplicates]
        return [f"{file}: {text}" for text in told]


def read_labels(file: Path) -> Labels:
    """Reads a file of labels. Raises `ConfigError` if it cannot be read, with the line."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    labels = Labels()
    for number, line in enumerate(lines, 1):
        if line.strip():
            _take(labels, number, _parsed(file, number, line))
    return labels


def _parsed(file: Path, number: int, line: str) -> Label:
    try:
        return Label.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        why = ": ".join(filter(None, (where, first["msg"])))
        raise ConfigError(f"{file}:{number}: this is not a label: {why}") from None


def _take(labels: Labels, number: int, label: Label) -> None:
    if label.action in labels.contradictory:
        return
    known = labels.by_action.get(label.action)
    if known is None:
        labels.by_action[label.action] = (number, label)
    elif known[1].label == label.label:
        labels.duplicates.append((known[0], number))
    else:
        labels.contradictory[label.action] = (known[0], number)
        del labels.by_action[label.action]


class Row(BaseModel):
    """Tool call in a file of changes, such as `replay --out` writes; other fields are shown."""

    model_config = ConfigDict(frozen=True, extra="allow")

    transaction: str | None = None
    block: int | None = None
    tool: str
    arguments: str


def run_label(
    source: Source, wanted: str, verdict: str, file: Path, *, number: int | None = None, note: str | None = None
) -> int:
    """Labels one call of a recorded response.

    Returns 1 if it is unknown, several are possible, or the file has the opposite label; 2 if something cannot be read.
    """
    try:
        label = _verdict(verdict)
        found = find_transaction(source, wanted)
        if found is None:
            return 1
        record = found[1]
        chosen = _choose(_calls(record), number)
        if chosen is None:
            return 1
        at, call = chosen
        return _add(file, call.name or "", call.arguments, _made(label, note, record.transaction_id, at))
    except ConfigError as error:
        complain(str(error))
        return 2


def run_label_rows(changes: Path, file: Path) -> int:
    """Labels the calls of a file of changes, each with one key. Returns 1 if the file has an opposite label, 2 if
    something cannot be read."""
    try:
        worst = 0
        console = terminal()
        for row in _rows(changes):
            known = _read_if_there(file).of(row.tool, row.arguments)
            if known is not None:
                continue
            console.print(Text(one_line(f"{row.tool} {row.arguments[:_SHOWN]}"), "bold"))
            for name, value in (row.model_extra or {}).items():
                console.print(Text(one_line(f"  {name}: {_shown(value)}")))
            key = _key()
            if key == _QUIT:
                break
            if key in _KEYS:
                made = _made(_KEYS[key], None, row.transaction, row.block)
                worst = max(worst, _add(file, row.tool, row.arguments, made))
        return worst
    except ConfigError as error:
        complain(str(error))
        return 2


def _key() -> str:
    """Waits for one of the keys."""
    print("  [a]llow, [b]lock, [s]kip, [q]uit ", end="", flush=True)
    while True:
        pressed = typer.getchar()
        if not pressed or pressed in "\x03\x04":
            pressed = _QUIT
        if pressed in (*_KEYS, _SKIP, _QUIT):
            print(pressed)
            return pressed


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _rows(changes: Path) -> list[Row]:
    try:
        lines = changes.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{changes} cannot be read: {error}") from None
    rows: list[Row] = []
    for number, line in enumerate(lines, 1):
        try:
            value: Any = json.loads(line or "{}")
            if isinstance(value, dict) and "tool" in value:
                rows.append(Row.model_validate(cast(dict[str, Any], value)))
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{changes}:{number}: this is not a row of changes: {error}") from None
    return rows


def _verdict(text: str) -> Verdict:
    if text not in get_args(Verdict):
        raise ConfigError(f"unknown label {text!r}: it is one of {', '.join(get_args(Verdict))}.")
    return cast(Verdict, text)


def _calls(record: Record) -> Sequence[Block]:
    """Returns the calls that the model made. Raises `ConfigError` if they are not stored."""
    if record.is_closed:
        raise ConfigError("There is nothing to label: the record stays closed.")
    if record.original is None:
        raise ConfigError(HOW_TO_STORE)
    return [block for block in record.original.answer.content if block.type == "tool_call"]


def _choose(calls: Sequence[Block], number: int | None) -> tuple[int, Block] | None:
    """Returns the call with its number; complains if it is not clear which one is meant."""
    if not calls:
        complain("The response has no tool call: only actions have labels.")
    elif number is None and len(calls) > 1:
        complain(f"The response has {len(calls)} calls. Name one with --block:")
        for at, call in enumerate(calls, 1):
            complain(f"  {at}  {one_line(f'{call.name} {call.arguments[:_SHOWN]}')}")
    elif not 1 <= (number or 1) <= len(calls):
        complain(f"There is no call {number}: the response has {len(calls)}.")
    else:
        return number or 1, calls[(number or 1) - 1]
    return None


def _made(label: Verdict, note: str | None, transaction: str | None, number: int | None) -> Mapping[str, Any]:
    return {
        "label": label,
        "by": _who(),
        "at": datetime.now(UTC).replace(microsecond=0),
        "note": note,
        "transaction": transaction,
        "block": number,
    }


def _who() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return None


def _read_if_there(file: Path) -> Labels:
    return read_labels(file) if file.exists() else Labels()


def _add(file: Path, name: str, arguments: str, made: Mapping[str, Any]) -> int:
    """Appends a label, unless the file has one for the action. Returns 1 if that is the opposite one."""
    label = Label.model_validate({"action": action_digest(name, arguments), **made})
    labels = _read_if_there(file)
    for text in labels.complaints(file):
        complain(text)
    shown = one_line(f"{name} {arguments[:_SHOWN]}")
    contradiction = labels.contradictory.get(label.action)
    known = labels.by_action.get(label.action)
    if contradiction is not None:
        complain(f"{file}: lines {contradiction[0]} and {contradiction[1]} are about {shown}. Delete one of them.")
        return 1
    if known is not None and known[1].label != label.label:
        by = f" by {known[1].by}" if known[1].by else ""
        complain(f"{file}: line {known[0]}{by} says {known[1].label} of {shown}. To change it, delete that line.")
        return 1
    if known is not None:
        print(f"{label.label}  {shown}  (line {known[0]} of {file} says so already)")
        return 0
    _append(file, label.model_dump_json(exclude_none=True))
    print(f"{label.label}  {shown}")
    return 0


def _append(file: Path, line: str) -> None:
    try:
        with file.open("ab+") as content:
            content.seek(0, os.SEEK_END)
            if content.tell():
                content.seek(-1, os.SEEK_END)
                line = line if content.read(1) == b"\n" else f"\n{line}"
            content.write(f"{line}\n".encode())
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}") from None
