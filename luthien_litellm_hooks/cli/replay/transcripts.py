"""Transcripts that agents keep of their sessions, read as recorded transactions.

Claude Code writes a file for each session below `~/.claude/projects`, one line a block of content. Anthropic does not
document its form; this follows files of 2.1.197. Codex writes `~/.codex/sessions/**/rollout-*.jsonl`, whose lines are
`RolloutLine` of `codex-rs/protocol/src/protocol.rs`.
"""

import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, cast

from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.monitor.transactions import Block, Record, Response, Side, Transaction
from luthien_litellm_hooks.recording.record import redacted
from luthien_litellm_hooks.wire import FORMATS
from luthien_litellm_hooks.wire.events import ToolCall
from luthien_litellm_hooks.wire.format import WireFormat
from luthien_litellm_hooks.wire.request_shape import Json, Piece, Thought, ToolResult, author, item_pieces

BROKEN = "not a JSON object"
UNKNOWN = "unknown"
_READ_TO_RECOGNISE = 20

_REFUSAL = re.compile(
    # Claude Code
    r"The user doesn't want to (?:proceed with this tool use|take this action right now)"
    r"|\[Request interrupted by user for tool use\]"
    r"|Permission to use .{1,200} has been denied"
    r"|(?:This|The) command requires approval"
    r"|.{1,2000} was blocked\. For security, Claude Code may only "
    # Codex
    r"|.{0,200}rejected by user",
    re.DOTALL,
)
"""Openings of the results that agents give their model for a call that the person, or their settings, refused."""


def usual_places(environment: Mapping[str, str]) -> dict[str, Path]:
    """Returns the folders of the transcripts, by the agent's name."""
    claude, codex = (environment.get(name) for name in ("CLAUDE_CONFIG_DIR", "CODEX_HOME"))
    return {
        "claude-code": Path(claude or "~/.claude").expanduser() / "projects",
        "codex": Path(codex or "~/.codex").expanduser() / "sessions",
    }


def transcript_files(place: Path) -> Sequence[Path]:
    """Returns a transcript, or all in a folder, oldest first. Raises `ConfigError` if there is none."""
    try:
        files = [place] if place.is_file() else sorted(place.rglob("*.jsonl"), key=lambda file: file.stat().st_mtime)
    except OSError as error:
        raise ConfigError(f"{place} cannot be read: {error.strerror}") from None
    if not files:
        raise ConfigError(f"There is no transcript in {place}: it should be a file or folder of *.jsonl.")
    return files


def is_transcript(file: Path) -> bool:
    """Tells if one of the first lines is that of a known agent. Raises `ConfigError` if the file cannot be read."""
    return any(_agent(line) is not None for line in islice(_lines(file, Counter()), _READ_TO_RECOGNISE))


def read_transcripts(files: Iterable[Path], skipped: Counter[str]) -> Iterator[tuple[Transaction, Record]]:
    """Yields each response of a model with the conversation before it, in the order of the files.

    Lines without a part of the conversation are counted in `skipped`, by their type. A turn that an agent copied from
    one file to another comes once. Raises `ConfigError` if a file cannot be read.
    """
    seen: set[int] = set()
    for file in files:
        for turn in _turns(file, skipped):
            key = hash(turn.key)
            if not (turn.may_be_copy and key in seen):
                yield _transaction(turn)
            seen.add(key)


@dataclass(slots=True)
class _Turn:
    """Response of a model, as far as its lines have come, and the request before it.

    `refused` are the ids of calls.
    """

    id: str
    session: str
    time: datetime
    model: str
    body: dict[str, Any]
    wire: WireFormat
    items: list[Json] = field(default_factory=list[Json])
    finish_reason: str | None = None
    refused: set[str] = field(default_factory=set[str])
    may_be_copy: bool = False
    id_is_providers: bool = False
    is_answered: bool = False
    """True once something of another author followed."""

    @property
    def pieces(self) -> Iterator[Piece]:
        return (piece for item in self.items for piece in item_pieces(item, self.wire.request))

    @property
    def key(self) -> object:
        """The same value for each copy of the turn."""
        return (self.time, self.id) if self.id_is_providers else json.dumps(self.items, sort_keys=True, default=str)


def _turns(file: Path, skipped: Counter[str]) -> Iterator[_Turn]:
    agent: _Agent | None = None
    for line in _lines(file, skipped):
        made = agent or _agent(line)
        if made is None:
            skipped[UNKNOWN] += 1
            continue
        agent = made
        agent.session = agent.session or file.stem
        yield from (turn for turn in agent.read(line, skipped) if turn.items)
    yield from (turn for turn in (agent.rest() if agent is not None else ()) if turn.items)


def _lines(file: Path, skipped: Counter[str]) -> Iterator[Json]:
    try:
        with file.open("rb") as lines:
            for line in lines:
                value = _parsed(line)
                if isinstance(value, dict):
                    yield cast(Json, value)
                elif line.strip():
                    skipped[BROKEN] += 1
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _agent(line: Json) -> "_Agent | None":
    """Returns a reader for the file that has this line; None if no agent writes such lines."""
    if isinstance(line.get("payload"), dict) or line.get("type") in ("function_call", "message", "reasoning"):
        return _Codex()
    return _ClaudeCode() if "sessionId" in line or ("uuid" in line and "message" in line) else None


class _Agent(ABC):
    """Reader of one transcript. A turn is given away when the next one begins: only then its calls have results."""

    def __init__(self) -> None:
        self.session = ""

    @abstractmethod
    def read(self, line: Json, skipped: Counter[str]) -> Iterator[_Turn]:
        """Yields the turns that end before this line."""

    @abstractmethod
    def rest(self) -> Iterator[_Turn]:
        """Yields the turns that the file ends with."""


@dataclass(slots=True)
class _Thread:
    """Conversation of the agent, or of one of its subagents."""

    said: list[Json] = field(default_factory=list[Json])
    lengths: dict[str, int] = field(default_factory=dict[str, int])
    """Number of messages after a line, by the line's id: who goes back in a conversation names an earlier line."""
    turn: _Turn | None = None
    latest: list[object] = field(default_factory=list[object])
    """Content of the model's latest message, as it will be sent."""

    def take(self) -> Iterator[_Turn]:
        turn, self.turn = self.turn, None
        if turn is not None:
            yield turn


class _ClaudeCode(_Agent):
    """Each line has one block of content; the blocks of one response share the message's id."""

    def __init__(self) -> None:
        super().__init__()
        self._threads: dict[tuple[object, ...], _Thread] = {}
        self._wire = FORMATS["messages"]

    def read(self, line: Json, skipped: Counter[str]) -> Iterator[_Turn]:
        about = tuple(str(line.get(name)) for name in ("sessionId", "agentId", "isSidechain"))
        thread = self._threads.setdefault(about, _Thread())
        message: object = line.get("message")
        kind = str(line.get("type"))
        if kind not in ("user", "assistant") or not isinstance(message, dict) or _is_synthetic(line):
            skipped[kind] += 1
        elif kind == "assistant":
            yield from self._hear(line, cast(Json, message), thread)
        else:
            self._ask(line, redacted({"role": "user", "content": cast(Json, message).get("content")}), thread)
        if isinstance(own := line.get("uuid"), str):
            is_said = kind in ("user", "assistant")
            thread.lengths[own] = len(thread.said) if is_said else _length_at(line, thread)

    def rest(self) -> Iterator[_Turn]:
        for thread in self._threads.values():
            yield from thread.take()

    def _hear(self, line: Json, message: Json, thread: _Thread) -> Iterator[_Turn]:
        id = str(message.get("id") or line.get("uuid"))
        turn = thread.turn
        if turn is None or turn.id != id:
            yield from thread.take()
            model, time = str(message.get("model") or ""), _time(line)
            session = str(line.get("sessionId") or self.session)
            body = {"model": model, "messages": list(thread.said)}
            turn = _Turn(id, session, time, model, body, self._wire, may_be_copy=True, id_is_providers=True)
            thread.turn = turn
            turn.items.append({"role": "assistant", "content": []})
            thread.latest = []
            thread.said.append({"role": "assistant", "content": thread.latest})
        content: object = message.get("content")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        said = cast(list[object], parts) if isinstance(parts, list) else []
        turn.items[0]["content"].extend(said)
        thread.latest.extend(redacted(said))
        reason: object = message.get("stop_reason")
        turn.finish_reason = reason if isinstance(reason, str) else turn.finish_reason

    def _ask(self, line: Json, message: Json, thread: _Thread) -> None:
        results = [piece for piece in item_pieces(message, self._wire.request) if isinstance(piece, ToolResult)]
        if thread.turn is not None:
            thread.turn.refused.update(_refused(results))
        if not results:
            del thread.said[_length_at(line, thread) :]
        thread.said.append(message)


def _length_at(line: Json, thread: _Thread) -> int:
    """Returns the number of messages before a line: none after a compaction, which has no parent."""
    if "parentUuid" not in line:
        return len(thread.said)
    parent: object = line["parentUuid"]
    return 0 if parent is None else thread.lengths.get(str(parent), len(thread.said))


def _is_synthetic(line: Json) -> bool:
    """Tells if Claude Code wrote the response itself, after an error of the provider."""
    return line.get("isApiErrorMessage") is True or line["message"].get("model") == "<synthetic>"


class _Codex(_Agent):
    """Each line has an item of the conversation; the items of one response follow each other."""

    def __init__(self) -> None:
        super().__init__()
        self._wire = FORMATS["responses"]
        self._thread = _Thread()
        self._model, self._count, self._is_fork = "", 0, False
        self._instructions: str | None = None
        self._has_began = False

    def read(self, line: Json, skipped: Counter[str]) -> Iterator[_Turn]:
        payload: object = line.get("payload")
        kind = str(line.get("type"))
        item = cast(Json, payload) if isinstance(payload, dict) else line
        if kind == "response_item" or not isinstance(payload, dict):
            yield from self._add(line, item, skipped)
        elif kind == "session_meta":
            self._begin(item)
        elif kind == "turn_context":
            self._model = str(item.get("model") or self._model)
        elif kind == "compacted":
            self._compact(item)
        elif kind == "event_msg" and item.get("type") == "thread_rolled_back":
            self._roll_back(item.get("num_turns"))
        else:
            skipped[kind] += 1

    def rest(self) -> Iterator[_Turn]:
        yield from self._thread.take()

    def _begin(self, meta: Json) -> None:
        if self._has_began:  # a fork repeats the parent's
            return
        self._has_began = True
        self.session = str(meta.get("id") or self.session)
        self._is_fork = bool(meta.get("forked_from_id"))
        base: object = meta.get("base_instructions")
        text = cast(Json, base).get("text") if isinstance(base, dict) else meta.get("instructions")
        self._instructions = text if isinstance(text, str) else None

    def _add(self, line: Json, item: Json, skipped: Counter[str]) -> Iterator[_Turn]:
        pieces = list(item_pieces(item, self._wire.request))
        if not pieces:
            skipped[str(item.get("type"))] += 1
        elif author(item, self._wire.request) == "model":
            turn = self._thread.turn
            if turn is None or turn.is_answered:
                yield from self._thread.take()
                turn = self._thread.turn = self._new_turn(_time(line))
            turn.items.append(item)
            self._thread.said.append(_sent(item))
        else:
            if (turn := self._thread.turn) is not None:
                turn.is_answered = True
                turn.refused.update(_refused(pieces))
            self._thread.said.append(_sent(item))

    def _new_turn(self, time: datetime) -> _Turn:
        self._count += 1
        body = {"model": self._model, "instructions": self._instructions, "input": list(self._thread.said)}
        body = {name: value for name, value in body.items() if value is not None}
        id = f"{self.session}-{self._count}"
        return _Turn(id, self.session, time, self._model, body, self._wire, may_be_copy=self._is_fork)

    def _compact(self, summary: Json) -> None:
        history: object = summary.get("replacement_history")
        said = {"type": "message", "role": "user", "content": str(summary.get("message") or "")}
        kept = cast(list[object], history) if isinstance(history, list) else [said]
        self._thread.said = [_sent(cast(Json, item)) for item in kept if isinstance(item, dict)]

    def _roll_back(self, turns: object) -> None:
        """Drops the last messages of the user, with all after them."""
        said = self._thread.said
        asked = [at for at, item in enumerate(said) if author(item, self._wire.request) == "user"]
        if isinstance(turns, int) and 0 < turns <= len(asked):
            del said[asked[-turns] :]


def _sent(item: Json) -> Json:
    """Returns an item as a record of its request would have it, without Codex's own notes."""
    return redacted({name: value for name, value in item.items() if not name.startswith("internal_")})


def _refused(pieces: Iterable[Piece]) -> Iterator[str]:
    for piece in pieces:
        if isinstance(piece, ToolResult) and _REFUSAL.match(piece.text):
            yield piece.id


def _time(line: Json) -> datetime:
    try:
        return datetime.fromisoformat(str(line.get("timestamp")))
    except ValueError:
        return datetime.fromtimestamp(0, UTC)


def _transaction(turn: _Turn) -> tuple[Transaction, Record]:
    content = tuple(block for piece in turn.pieces for block in _block(piece, turn.refused))
    answer = Response(content=content, finish_reason=turn.finish_reason)
    record = Record(
        transaction_id=turn.id,
        path=turn.wire.paths[0],
        session=turn.session,
        original=Side(request=turn.body, answer=answer),
        final=Side(request=None, answer=answer),
    )
    transaction = Transaction(
        response_id=turn.id,
        call_id=None,
        time=turn.time,
        route=turn.wire.call_types[0],
        model=turn.model,
        model_group=None,
        key_hash="",
        key_alias=None,
        record=record,
    )
    return transaction, record


def _block(piece: Piece, refused: set[str]) -> Iterator[Block]:
    if isinstance(piece, str):
        yield Block(type="text", text=piece)
    elif isinstance(piece, Thought):
        yield Block(type="reasoning", text=piece.text)
    elif isinstance(piece, ToolCall):
        call = {"type": "tool_call", "id": piece.id, "name": piece.name, "arguments": piece.arguments}
        form = {} if piece.form == "function" else {"form": piece.form}
        refusal = {"is_refused": True} if piece.id in refused else {}
        yield Block.model_validate({**call, **form, **refusal})
