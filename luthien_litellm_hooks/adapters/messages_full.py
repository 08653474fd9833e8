"""The full side of Anthropic messages: what an answer says, and an answer that says just that."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from luthien_litellm_hooks.adapters.messages_parts import (
    JSON,
    Kind,
    Refusal,
    Rest,
    block_without_rest,
    dump,
    empty_text,
    empty_thinking,
    fields,
    is_named,
    is_result,
    is_server_call,
    kind_of,
    message_without_rest,
    read_call,
    read_citation,
    read_refusal,
    text_of,
    text_of_result,
    write_call,
    write_citation,
    write_refusal,
    write_result,
)
from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import (
    End,
    Finish,
    Frame,
    Opaque,
    Quote,
    ReasoningDelta,
    Start,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    from_wire,
)


@dataclass(frozen=True, slots=True)
class _Part:
    """The block that an event was read from, without what repeats others, and how many events its content makes.
    `citation` is what a quote of the block was read from."""

    whole: JSON = field(default_factory=dict[str, Any])
    said: JSON = field(default_factory=dict[str, Any])
    pieces: int = 0
    citation: JSON | None = None


def read(response: object) -> Iterator[StreamEvent]:
    """The events of `response`, in the order in which a stream would bring them."""
    message = fields(response, "a message")
    content: object = message.get("content")
    if not isinstance(content, list):
        raise WireError("the content of a message was no list")
    yield from_wire(Start(), _Part())
    has_rest = message_without_rest(message) is not message
    calls: dict[str, int] = {}
    for index, value in enumerate(cast(list[object], content)):
        block = fields(value, "a content block")
        if is_server_call(block):
            calls[text_of(block, "id")] = index
        said = block if kind_of(text_of(block, "type")) == "unknown" else block_without_rest(block)
        has_rest = has_rest or said is not block
        yield from _read_block(block, said, index, calls)
    if (quote := read_refusal(message.get("stop_details"))) is not None:
        yield from_wire(quote, Refusal(message["stop_details"], message))
    if has_rest:
        yield from_wire(Opaque(repeats=True), Rest(message, message))
    if reason := text_of(message, "stop_reason"):
        yield from_wire(Finish(reason=reason), _Part())
    yield from_wire(End(), _Part())


def _read_block(block: JSON, said: JSON, index: int, calls: Mapping[str, int]) -> Iterator[StreamEvent]:
    kind = kind_of(text_of(block, "type"))
    pieces = list(_read_pieces(said, index))
    part = _Part(block, said, len(pieces))
    follows = calls.get(text_of(said, "tool_use_id")) if kind == "other" else None
    if text := text_of_result(said) if is_result(said) else "":
        yield from_wire(Quote(role="begin", kind="other", index=index, follows=follows, text=text, is_owed=True), part)
    elif kind != "tool_call":
        yield from_wire(Frame(role="begin", kind=kind, index=index, follows=follows), part)
    for event in pieces:
        yield from_wire(event, _Part(citation=cast(JSON, event.part)) if event.part is not None else part)
    yield from_wire(Frame(role="end", kind=kind, index=index, follows=follows), part)


def _read_pieces(block: JSON, index: int) -> Iterator[StreamEvent]:
    match block.get("type"):
        case "text":
            if text := text_of(block, "text"):
                yield TextDelta(index=index, text=text)
            for citation in block.get("citations") or ():
                quote = read_citation(citation, index) or Frame(role="detail", kind="text", index=index)
                yield from_wire(quote, citation)
        case "thinking":
            if text := text_of(block, "thinking"):
                yield ReasoningDelta(index=index, text=text)
            if block.get("signature"):
                yield Frame(role="detail", kind="reasoning", index=index)
        case "redacted_thinking":
            yield ReasoningDelta(index=index, text="")
        case "tool_use" | "server_tool_use" | "mcp_tool_use":
            yield read_call(block, index, dump(block.get("input")))
        case _:
            pass


def write(events: Sequence[StreamEvent], like: object, empty: JSON) -> JSON:
    """A copy of `like` that says just `events`; an `empty` message with them, if that is no message."""
    message = cast(JSON, like) if isinstance(like, dict) else empty
    keeps_rest = any(isinstance(event.part, Rest) for event in events)
    drafts: list[_Draft | _Call | _Result] = []
    changes: JSON = {"stop_details": None} if read_refusal(message.get("stop_details")) is not None else {}
    for event in events:
        if isinstance(event, Finish):
            changes["stop_reason"] = event.reason
        elif isinstance(event, Quote) and isinstance(event.part, Refusal):
            changes["stop_details"] = write_refusal(event.part.details, event.text)
        elif (draft := _begun_by(event, drafts, empty["id"])) is not None:
            drafts.append(draft)
        elif drafts and _is_content(event):
            drafts[-1].add(event)
    blocks = [block for draft in drafts if (block := draft.block(keeps_rest=keeps_rest)) is not None]
    return {**(message if keeps_rest else message_without_rest(message)), "content": blocks, **changes}


def _is_content(event: StreamEvent) -> bool:
    if isinstance(event, Frame):
        return event.role == "detail"
    return isinstance(event, TextDelta | ReasoningDelta | ToolCallDelta)


def _begun_by(
    event: StreamEvent, drafts: Sequence["_Draft | _Call | _Result"], answer_id: str
) -> "_Draft | _Call | _Result | None":
    """The block that `event` begins, if it does. Its begin frame may be missing, as it is of a notice."""
    if isinstance(event, ToolCallDelta):
        return None if event.name is None else _Call(event, answer_id)
    if isinstance(event, Quote) and event.role == "begin":
        return _Result(event)
    if isinstance(event, Frame):
        return _Draft(event.kind, _part(event)) if event.role == "begin" else None
    if isinstance(event, TextDelta | ReasoningDelta) and not (drafts and isinstance(drafts[-1], _Draft)):
        draft = _Draft("text" if isinstance(event, TextDelta) else "reasoning", None)
        draft.add(event)
        return draft
    return None


class _Draft:
    """A block in the making that is neither a call nor a result."""

    def __init__(self, kind: Kind, part: _Part | None) -> None:
        self._part = part
        self._kind = kind
        self._texts: list[str] = []
        self._citations: list[JSON] = []
        self._kept = 0
        self._is_changed = False

    def add(self, event: StreamEvent) -> None:
        """Adds one event of the content."""
        self._kept += 1
        if isinstance(event, TextDelta | ReasoningDelta):
            self._texts.append(event.text)
        part = _part(event)
        if part is not None and part.citation is not None:
            text = event.text if isinstance(event, Quote) else ""
            self._citations.append(write_citation(part.citation, text))
            self._is_changed = self._is_changed or self._citations[-1] is not part.citation
        self._is_changed = self._is_changed or part is None

    def block(self, *, keeps_rest: bool) -> JSON | None:
        """The very block that came, if all of it is left; None if nothing is."""
        part = self._part
        if part is not None and not self._is_changed and self._kept == part.pieces:
            return part.whole if keeps_rest else part.said
        came = part.said if part is not None else {}
        text = "".join(self._texts)
        if not text:
            return None
        if self._kind == "text":
            rest = {name: value for name, value in came.items() if name != "citations"}
            cited = {"citations": self._citations} if self._citations else {}
            return {**empty_text(), **rest, "text": text, **cited}
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

    def block(self, *, keeps_rest: bool) -> JSON:
        """The very block that came, if the call is the same."""
        part = _part(self._event)
        if part is not None and len(self._arguments) == 1 and is_named(self._event, part.said):
            return part.whole if keeps_rest else part.said
        return write_call(self._event, _input("".join(self._arguments)), self._answer_id)


class _Result:
    """The result of a call of the provider's own."""

    def __init__(self, event: Quote) -> None:
        self._event = event

    def add(self, event: StreamEvent) -> None:
        """Takes nothing: a result comes whole."""

    def block(self, *, keeps_rest: bool) -> JSON | None:
        """The result with the text that is left of it."""
        part = _part(self._event)
        return part and write_result(part.whole if keeps_rest else part.said, self._event.text)


def _part(event: StreamEvent) -> _Part | None:
    return event.part if isinstance(event.part, _Part) else None


def _input(arguments: str) -> JSON:
    """The arguments of a changed call as the object that this wire wants, JSON or not."""
    try:
        parsed: object = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        parsed = None
    return cast(JSON, parsed) if isinstance(parsed, dict) else {"arguments": arguments}
