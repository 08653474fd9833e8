"""Live view of transactions: the lines of the demo, and `luthien-hooks watch` with the same for any running proxy."""

import json
import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from luthien_litellm_hooks.cli.output import complain, terminal
from luthien_litellm_hooks.cli.show import Source
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.monitor.transactions import Block, Decision, Record, Side, Transaction
from luthien_litellm_hooks.monitor.words import said_of
from luthien_litellm_hooks.policy.request import Request, iter_texts
from luthien_litellm_hooks.telemetry.log_lines import bounded_line
from luthien_litellm_hooks.telemetry.names import APPROVAL_ASKED

_STYLES = {
    "model": "yellow",
    "client": "green",
    "block": "bold red",
    "modify": "magenta",
    "ask": "bold magenta",
    "error": "bold red",
}
_SIDES = {"input": "model", "output": "client"}
BLOCK = "demo.block"
DECISION = "demo.decision"
REQUEST = "transaction.request_recorded"
ENDED = ("transaction.streaming_response_recorded", "transaction.non_streaming_response_recorded")
_LONGEST = 400  # characters of a text
_MARGIN = 15  # characters before it
_SECONDS_BETWEEN_LINES = 5
_LEVEL = re.compile(r".{0,60}?\b(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b")


class Lines:
    """Lines of a file to which a process appends."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._offset = 0

    def take(self) -> Iterator[str]:
        """Yields the lines added since the last call. A half-written line waits."""
        if not self._file.exists():
            return
        with self._file.open("rb") as lines:
            lines.seek(self._offset)
            for line in lines:
                if line.endswith(b"\n"):
                    self._offset += len(line)
                    yield line.decode(errors="replace").rstrip("\n")


class LiveView:
    """View of the events in the file `feed` and of the errors in the proxy's `log`.

    It prints plain lines that a terminal keeps, so that a command can be copied from them. Before `open` it keeps the
    events for later.
    """

    def __init__(self, console: Console, feed: Path, log: Path) -> None:
        self._console = console
        self._feed, self._log = Lines(feed), Lines(log)
        self._waiting: list[Text] | None = []
        self._is_error = False
        self.ended = 0
        """Transactions that have ended."""

    def open(self, heading: str) -> None:
        """Prints the heading, then the events so far."""
        self._console.print(Text(heading), soft_wrap=True)
        waiting, self._waiting = self._waiting or [], None
        for line in waiting:
            self._print(line)

    def refresh(self) -> None:
        """Takes the events since the last call. Errors are printed at once."""
        for line in self._log.take():
            level = _LEVEL.match(line)
            if level or line.startswith("Traceback"):
                self._is_error = level is None or level[1] in ("ERROR", "CRITICAL")
            if self._is_error:
                self._console.print(Text(bounded_line(line, _LONGEST), "red"), soft_wrap=True)
        for line in self._feed.take():
            event: dict[str, Any] = json.loads(line)
            self.ended += event["type"] in ENDED
            shown = live_line(event)
            if shown is None:
                continue
            if self._waiting is None:
                self._print(shown)
            else:
                self._waiting.append(shown)

    @contextmanager
    def progress(self, what: str) -> Generator[Callable[[int], None]]:
        """Yields a function that tells for how many seconds `what` has gone on, and shows errors meanwhile."""
        told = 0
        if not self._console.is_terminal:
            self._console.print(f"{what} ...")
        with self._console.status(f"{what} ...", refresh_per_second=4) as status:

            def tell(seconds: int) -> None:
                nonlocal told
                self.refresh()
                status.update(f"{what} ... {seconds} s")
                if not self._console.is_terminal and seconds >= told + _SECONDS_BETWEEN_LINES:
                    told = seconds
                    self._console.print(f"... for {seconds} seconds")

            yield tell

    def _print(self, line: Text) -> None:
        """Prints a line; in a terminal its continuation is indented."""
        if not self._console.is_terminal:
            self._console.print(line, soft_wrap=True)
            return
        table = Table.grid()
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        table.add_row(line[:_MARGIN], line[_MARGIN:])
        self._console.print(table)


def live_line(event: Mapping[str, Any]) -> Text | None:
    """Returns the line for an event; None if the view does not show its type."""
    kind, data, number = event["type"], event["data"], event["transaction_id"][:4]
    if kind == REQUEST:
        return _text(number, "request", _question(data), "bold")
    if kind == BLOCK:
        side = _SIDES[data["side"]]
        return _text(number, side, data["text"], _STYLES[side])
    if kind == DECISION:
        return _text(number, data["action"], f"{data['policy']}: {data['why']}", _STYLES.get(data["action"], ""))
    if kind == APPROVAL_ASKED:
        words = f"{data['policy']}: {data['tool']} waits for a person: luthien-hooks approvals show {data['id']}"
        return _text(number, "ask", words, _STYLES["ask"])
    return _text(number, "ended", str(data["outcome"]), "dim") if kind in ENDED else None


def _question(data: Mapping[str, Any]) -> str:
    """Returns the last text of the user or a tool, or else the model."""
    texts = iter_texts(Request(data.get("final_request") or {}))
    *_, last = [str(data["final_model"]), *(text.text for text in texts if text.role in ("user", "tool"))]
    return last


def _text(number: str, label: str, text: str, style: str) -> Text:
    """Returns one line with control characters escaped."""
    return Text.assemble((number, "dim"), f"  {label:7}  ", (bounded_line(text, _LONGEST), style))


def run_watch(source: Source) -> int:
    """Prints transactions until Ctrl-C. Returns 2 if they cannot be read."""
    console = terminal()
    try:
        logs = source.open()
        logs.new()
        console.print(f"Watching {source.place}. Ctrl-C ends it.", soft_wrap=True)
        while True:
            for transaction in source.opened(logs.new()).transactions:
                for event in _events(transaction):
                    if line := live_line(event):
                        console.print(line, soft_wrap=True)
            time.sleep(logs.poll_s)
    except ConfigError as error:
        complain(str(error))
        return 2
    except KeyboardInterrupt:
        return 0


def _events(transaction: Transaction) -> Iterator[Mapping[str, Any]]:
    """Yields the events that the demo would have shown of the transaction, in their order."""
    record = transaction.record
    for kind, data in () if record is None else _steps(transaction, record):
        yield {"type": kind, "transaction_id": transaction.transaction_id, "data": data}


def _steps(transaction: Transaction, record: Record) -> Iterator[tuple[str, Mapping[str, Any]]]:
    original, final = record.sides or (Side(), Side())
    asked = original.request if final.request is None else final.request
    yield REQUEST, {"final_model": transaction.model_group or transaction.model, "final_request": asked}
    for block in original.answer.content:
        yield BLOCK, {"side": "input", "text": _text_of(block)}
    for decision in record.decisions:
        yield DECISION, {"action": decision.action, "policy": decision.policy, "why": _why(decision)}
    for block in final.answer.content:
        yield BLOCK, {"side": "output", "text": _text_of(block)}
    yield ENDED[0], {"outcome": record.outcome}


def _text_of(block: Block) -> str:
    if block.type == "tool_call":
        return f"call {block.name} {block.arguments}"
    return f"reasoning: {block.text}" if block.type == "reasoning" else block.text


def _why(decision: Decision) -> str:
    """Returns the tool, or the kind of block, then the reason and the evidence."""
    block = decision.block
    about = "request" if block is None else block.name or block.type
    asked = None if decision.approval is None else said_of(decision.approval)
    return ": ".join(filter(None, [about, decision.reason or decision.error, decision.evidence, asked]))
