"""Labels of actions, in a file of the operator's, which the command and the pages read and write.

A line of the file is a JSON object. A label holds for every repetition of its action, in any record.
"""

import fcntl
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.monitor.transactions import Block, Record
from luthien_litellm_hooks.monitor.words import HOW_TO_STORE
from luthien_litellm_hooks.recording.digest import action_digest

USUAL_FILE = Path("labels.jsonl")
"""File in the working directory, if no other is named."""
Verdict = Literal["allow", "block"]


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


@dataclass(frozen=True, slots=True)
class Added:
    """Result of adding a label: written, or told by the line `known` before, or `refused` for a reason."""

    known: int | None = None
    refused: str | None = None
    complaints: Sequence[str] = ()


def verdict_of(text: str) -> Verdict:
    """Returns the verdict with this name. Raises `ConfigError` for another word."""
    if text not in get_args(Verdict):
        raise ConfigError(f"unknown label {text!r}: it is one of {', '.join(get_args(Verdict))}.")
    return cast(Verdict, text)


def calls_of(record: Record) -> Sequence[Block]:
    """Returns the calls that the model made. Raises `ConfigError` if they are not stored."""
    if record.is_closed:
        raise ConfigError("There is nothing to label: the record stays closed.")
    if record.original is None:
        raise ConfigError(HOW_TO_STORE)
    return [block for block in record.original.answer.content if block.type == "tool_call"]


def label_now(
    verdict: Verdict,
    call: tuple[str, str],
    *,
    by: str | None,
    note: str | None = None,
    transaction: str | None = None,
    number: int | None = None,
) -> Label:
    """Makes the label of a call, given by its tool and its arguments; `number` is its place in the response."""
    return Label(
        action=action_digest(*call),
        label=verdict,
        by=by,
        at=datetime.now(UTC).replace(microsecond=0),
        note=note,
        transaction=transaction,
        block=number,
    )


def read_labels(file: Path) -> Labels:
    """Reads a file of labels. Raises `ConfigError` if it cannot be read, with the line."""
    try:
        return _labels(file, file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None


def labels_if_any(file: Path) -> Labels:
    """Reads a file of labels that may not exist yet. Raises `ConfigError` if it cannot be read, with the line."""
    return read_labels(file) if file.exists() else Labels()


def add_label(file: Path, label: Label, about: str) -> Added:
    """Appends a label, unless the file has one for the action. `about` names the action in messages.

    One process at a time reads and appends. Raises `ConfigError` if the file cannot be read or written.
    """
    try:
        with file.open("ab+") as content:
            fcntl.flock(content, fcntl.LOCK_EX)
            content.seek(0)
            labels = _labels(file, content.read())
            added = _judge(labels, file, label, about)
            if added.known is None and added.refused is None:
                _append(content, label.model_dump_json(exclude_none=True))
            return added
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}") from None


def _labels(file: Path, content: bytes) -> Labels:
    try:
        lines = content.decode().split("\n")  # a text in JSON may have any other line end
    except UnicodeDecodeError as error:
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


def _judge(labels: Labels, file: Path, label: Label, about: str) -> Added:
    """Tells if the label may be written."""
    complaints = labels.complaints(file)
    contradiction = labels.contradictory.get(label.action)
    if contradiction is not None:
        first, second = contradiction
        return Added(None, f"{file}: lines {first} and {second} are about {about}. Delete one of them.", complaints)
    known = labels.by_action.get(label.action)
    if known is None:
        return Added(complaints=complaints)
    line, other = known
    if other.label == label.label:
        return Added(line, None, complaints)
    by = f" by {other.by}" if other.by else ""
    refused = f"{file}: line {line}{by} says {other.label} of {about}. To change it, delete that line."
    return Added(None, refused, complaints)


def _append(content: BinaryIO, line: str) -> None:
    content.seek(0, os.SEEK_END)
    if content.tell():
        content.seek(-1, os.SEEK_END)
        line = line if content.read(1) == b"\n" else f"\n{line}"
    content.write(f"{line}\n".encode())
