"""`luthien-hooks label`: labels of actions, for a file of the operator's."""

import getpass
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import typer
from pydantic import BaseModel, ConfigDict
from rich.text import Text

from luthien_litellm_hooks.cli.output import complain, terminal
from luthien_litellm_hooks.cli.show import Source, find_transaction
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.monitor.labels import (
    Label,
    Verdict,
    add_label,
    calls_of,
    label_now,
    labels_if_any,
    verdict_of,
)
from luthien_litellm_hooks.monitor.transactions import Block
from luthien_litellm_hooks.telemetry.log_lines import one_line

_KEYS: Mapping[str, Verdict] = {"a": "allow", "b": "block"}
_SKIP, _QUIT = "s", "q"
_SHOWN = 1_000


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
        chosen_label = verdict_of(verdict)
        found = find_transaction(source, wanted)
        if found is None:
            return 1
        record = found[1]
        chosen = _choose(calls_of(record), number)
        if chosen is None:
            return 1
        at, call = chosen
        name = call.name or ""
        label = label_now(
            chosen_label,
            (name, call.arguments),
            by=_who(),
            note=note,
            transaction=record.transaction_id,
            number=at,
        )
        return _add(file, name, call.arguments, label)
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
            if labels_if_any(file).of(row.tool, row.arguments) is not None:
                continue
            console.print(Text(one_line(f"{row.tool} {row.arguments[:_SHOWN]}"), "bold"))
            for name, value in (row.model_extra or {}).items():
                console.print(Text(one_line(f"  {name}: {_shown(value)}")))
            key = _key()
            if key == _QUIT:
                break
            if key in _KEYS:
                label = label_now(
                    _KEYS[key],
                    (row.tool, row.arguments),
                    by=_who(),
                    transaction=row.transaction,
                    number=row.block,
                )
                worst = max(worst, _add(file, row.tool, row.arguments, label))
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


def _who() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return None


def _add(file: Path, name: str, arguments: str, label: Label) -> int:
    """Appends a label, and prints it. Returns 1 if the file has the opposite one."""
    shown = one_line(f"{name} {arguments[:_SHOWN]}")
    added = add_label(file, label, shown)
    for text in added.complaints:
        complain(text)
    if added.refused is not None:
        complain(added.refused)
        return 1
    known = "" if added.known is None else f"  (line {added.known} of {file} says so already)"
    print(f"{label.label}  {shown}{known}")
    return 0
