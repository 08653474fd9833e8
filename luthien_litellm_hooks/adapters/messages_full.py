"""The full side of Anthropic messages: what an answer says, and an answer that says just that."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from luthien_litellm_hooks.adapters.messages_parts import (
    JSON,
    Kind,
    dump,
    empty_text,
    empty_thinking,
    fields,
    is_named,
    kind_of,
    read_call,
    text_of,
    write_call,
)
from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import (
    End,
    Finish,
    Frame,
    ReasoningDelta,
    Start,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    from_wire,
)


@dataclass(frozen=True, slots=True)
class _Part:
    """The block that an event was read from, and how many events its content makes."""

    block: JSON = field(default_factory=dict[str, Any])
    pieces: int = 0


def read(response: JSON) -> Iterator[StreamEvent]:
    """The events of `response`, in the order in which a stream would bring them."""
    yield from_wire(Start(), _Part())
    content: object = response.get("content")
    if not isinstance(content, list):
        raise WireError("the content of a message was no list")
    for index, block in enumerate(cast(list[object], content)):
        yield from _read_block(fields(block, "a content block"), index)
    if reason := text_of(response, "stop_reason"):
        yield from_wire(Finish(reason=reason), _Part())
    yield from_wire(End(), _Part())


def _read_block(block: JSON, index: int) -> Iterator[StreamEvent]:
    kind = kind_of(block)
    pieces = list(_read_pieces(block, index))
    part = _Part(block, len(pieces))
    if kind != "tool_call":
        yield from_wire(Frame(role="begin", kind=kind, index=index), part)
    for event in pieces:
        yield from_wire(event, part)
    yield from_wire(Frame(role="end", kind=kind, index=index), part)


def _read_pieces(block: JSON, index: int) -> Iterator[StreamEvent]:
    match block.get("type"):
        case "text":
            if text := text_of(block, "text"):
                yield TextDelta(index=index, text=text)
            if block.get("citations"):
                yield Frame(role="detail", kind="text", index=index)
        case "thinking":
            if text := text_of(block, "thinking"):
                yield ReasoningDelta(index=index, text=text)
            if block.get("signature"):
                yield Frame(role="detail", kind="reasoning", index=index)
        case "redacted_thinking":
            yield ReasoningDelta(index=index, text="")
        case "tool_use":
            yield read_call(block, index, dump(block.get("input")))
        case _:
            pass


def write(events: Sequence[StreamEvent], like: JSON, answer_id: str) -> JSON:
    """A copy of `like` that says just `events`."""
    drafts: list[_Draft | _Call] = []
    changes: JSON = {}
    for event in events:
        if isinstance(event, Finish):
            changes["stop_reason"] = event.reason
        elif (draft := _begun_by(event, drafts, answer_id)) is not None:
            drafts.append(draft)
        elif drafts and _is_content(event):
            drafts[-1].add(event)
    blocks = [block for draft in drafts if (block := draft.block()) is not None]
    return {**like, "content": blocks, **changes}


def _is_content(event: StreamEvent) -> bool:
    if isinstance(event, Frame):
        return event.role == "detail"
    return isinstance(event, TextDelta | ReasoningDelta | ToolCallDelta)


def _begun_by(event: StreamEvent, drafts: Sequence["_Draft | _Call"], answer_id: str) -> "_Draft | _Call | None":
    """The block that `event` begins, if it does. Its begin frame may be missing, as it is of a notice."""
    if isinstance(event, ToolCallDelta):
        return None if event.name is None else _Call(event, answer_id)
    if isinstance(event, Frame):
        return _Draft(event.kind, _part(event)) if event.role == "begin" else None
    if isinstance(event, TextDelta | ReasoningDelta) and not (drafts and isinstance(drafts[-1], _Draft)):
        draft = _Draft("text" if isinstance(event, TextDelta) else "reasoning", None)
        draft.add(event)
        return draft
    return None


class _Draft:
    """A block in the making that is not a call."""

    def __init__(self, kind: Kind, part: _Part | None) -> None:
        self._part = part
        self._kind = kind
        self._texts: list[str] = []
        self._kept = 0
        self._is_changed = False

    def add(self, event: StreamEvent) -> None:
        """Adds one event of the content."""
        self._is_changed = self._is_changed or event.part is None
        self._kept += 1
        if isinstance(event, TextDelta | ReasoningDelta):
            self._texts.append(event.text)

    def block(self) -> JSON | None:
        """The very block that came, if all of it is left; None if nothing is."""
        if self._part is not None and not self._is_changed and self._kept == self._part.pieces:
            return self._part.block
        came = self._part.block if self._part is not None else {}
        text = "".join(self._texts)
        if not text:
            return None
        if self._kind == "text":
            rest = {name: value for name, value in came.items() if name != "citations"}
            return {**empty_text(), **rest, "text": text}
        rest = came if came.get("type") == "thinking" else {}
        return {**empty_thinking(), **rest, "thinking": text, "signature": ""}


class _Call:
    """A tool call in the making."""

    def __init__(self, event: ToolCallDelta, answer_id: str) -> None:
        self._event = event
        self._answer_id = answer_id
        self._arguments = [event.arguments]

    def add(self, event: StreamEvent) -> None:
        """Adds more of the arguments."""
        if isinstance(event, ToolCallDelta):
            self._arguments.append(event.arguments)

    def block(self) -> JSON:
        """The very block that came, if the call is the same."""
        part = _part(self._event)
        if part is not None and len(self._arguments) == 1 and is_named(self._event, part.block):
            return part.block
        return write_call(self._event, _input("".join(self._arguments)), self._answer_id)


def _part(event: StreamEvent) -> _Part | None:
    return event.part if isinstance(event.part, _Part) else None


def _input(arguments: str) -> JSON:
    """The arguments of a changed call as the object that this wire wants, JSON or not."""
    try:
        parsed: object = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        parsed = None
    return cast(JSON, parsed) if isinstance(parsed, dict) else {"arguments": arguments}
