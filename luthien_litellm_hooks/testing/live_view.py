"""What the demo shows of each request: what came, what was decided, what left."""

import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from luthien_litellm_hooks.policy.request import Request
from luthien_litellm_hooks.policy.request_texts import iter_texts
from luthien_litellm_hooks.testing.watching import BLOCK, DECISION

_STYLES = {"came": "yellow", "left": "green", "block": "red", "modify": "magenta", "error": "bold red"}
_REQUEST = "transaction.request_recorded"
_ENDED = ("transaction.streaming_response_recorded", "transaction.non_streaming_response_recorded")


class Feed:
    """The events in a file to which a proxy adds lines."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._offset = 0

    def take(self) -> Iterator[dict[str, Any]]:
        """The events that were added since the last time. A line that is half written waits."""
        if not self._file.exists():
            return
        with self._file.open("rb") as lines:
            lines.seek(self._offset)
            for line in lines:
                if line.endswith(b"\n"):
                    self._offset += len(line)
                    yield json.loads(line)


class LiveView:
    """Shows events as they come; in a terminal below `heading`, the latest requests only."""

    def __init__(self, console: Console, heading: str) -> None:
        self._console = console
        self._heading = Text(heading)
        self._lines: deque[Text] = deque(maxlen=500)
        self._live = Live(console=console, auto_refresh=False, screen=True) if console.is_terminal else None

    def __enter__(self) -> "LiveView":
        if self._live is None:
            self._console.print(self._heading, soft_wrap=True)
        else:
            self._live.start()
            self._refresh()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, event: dict[str, Any]) -> None:
        """Adds a line for the event, if it is one that people want to see."""
        line = _line(event)
        if line is None:
            return
        if self._live is None:
            self._console.print(line, soft_wrap=True)
        else:
            self._lines.append(line)
            self._refresh()

    def _refresh(self) -> None:
        if self._live is not None:
            heading = self._console.render_lines(self._heading)
            room = max(self._console.height - len(heading), 1)
            self._live.update(Group(self._heading, *list(self._lines)[-room:]), refresh=True)


def _line(event: dict[str, Any]) -> Text | None:
    kind, data, number = event["type"], event["data"], event["transaction_id"][:4]
    if kind == _REQUEST:
        return _text(number, "asked", _question(data), "bold")
    if kind == BLOCK:
        return _text(number, data["side"], data["text"], _STYLES[data["side"]])
    if kind == DECISION:
        return _text(number, data["action"], f"{data['policy']}: {data['why']}", _STYLES.get(data["action"], ""))
    return _text(number, "ended", str(data["outcome"]), "dim") if kind in _ENDED else None


def _question(data: dict[str, Any]) -> str:
    """What the user, or a tool, said last; else the model."""
    texts = iter_texts(Request(data.get("final_request") or {}))
    *_, last = [str(data["final_model"]), *(text.text for text in texts if text.role in ("user", "tool"))]
    return last


def _text(number: str, what: str, said: str, style: str) -> Text:
    """One line, in which nothing is left that a terminal would obey."""
    plain = "".join(character if character.isprintable() else repr(character)[1:-1] for character in said)
    return Text.assemble((number, "dim"), f"  {what:7}", (plain, style), no_wrap=True, overflow="ellipsis")
