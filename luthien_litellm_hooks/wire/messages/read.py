"""Decoder of Anthropic messages: the events of a streamed frame, and of a full message."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.wire.events import (
    BlockMarker,
    Chunk,
    Finish,
    Opaque,
    ProviderFailure,
    Quote,
    ReasoningDelta,
    ResponseStart,
    StreamEnd,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    Unknown,
    Usage,
    from_wire,
)
from luthien_litellm_hooks.wire.messages.blocks import (
    CALLS,
    JSON,
    ExtraFields,
    Kind,
    Refusal,
    block_without_extra,
    dump,
    empty_text,
    empty_thinking,
    fields,
    is_quoted,
    is_server_call,
    kind_of,
    message_without_extra,
    read_call,
    read_citation,
    read_refusal,
    text_of,
    text_of_result,
    without_extra,
)
from luthien_litellm_hooks.wire.messages.safeguards import RESULTS, Verdicts
from luthien_litellm_hooks.wire.sse import is_ended

_DELTAS: Mapping[object, tuple[frozenset[str], tuple[str, ...]]] = {
    "text_delta": (frozenset({"type", "text"}), ("text",)),
    "citations_delta": (frozenset({"type", "citation"}), ("text",)),
    "thinking_delta": (frozenset({"type", "thinking"}), ("thinking",)),
    "signature_delta": (frozenset({"type", "signature"}), ("thinking",)),
    "input_json_delta": (frozenset({"type", "partial_json"}), CALLS),
    "compaction_delta": (frozenset({"type", "content", "encrypted_content"}), ("compaction",)),
}
"""By type of delta, its fields and the types of its block."""
_NO_DELTA: tuple[frozenset[str], tuple[str, ...]] = frozenset(), ()

_UNBEGUN = {"text_delta": "text", "thinking_delta": "thinking"}
"""Types of blocks that may begin with a delta."""

_TYPE_ALONE = frozenset({"type"})
_OF_BLOCK = frozenset({"type", "index", "content_block", "delta"})
_OF_MESSAGE = frozenset({"type", "message", "delta", "usage", "amazon-bedrock-invocationMetrics"})
_OF_END = frozenset({"stop_reason", "stop_details"})
_KEEPALIVE = re.compile(rb"(?::[ a-zA-Z-]{0,24}|data: ?\[DONE\])?\s*")


# Streamed messages


@dataclass(slots=True)
class Frame:
    """SSE frame of a stream; `payload` is None if it is not a JSON object.

    A call is `is_open` while deltas may still replace its initial input, and `has_deltas` once they did.
    """

    raw: bytes
    payload: JSON | None
    has_deltas: bool = False
    is_open: bool = False


class MessageReader:
    """Decoder of the frames of one response; remembers the type of each block. It notes calls in `verdicts`."""

    def __init__(self, verdicts: Verdicts | None = None) -> None:
        self._verdicts = verdicts
        self._types: dict[int, str] = {}  # of blocks, by index
        self._calls: dict[str, int] = {}  # indices of server calls, by id
        self._follows: dict[int, int] = {}  # the call of each result, both by index

    def text_chunk(self, raw: bytes, payload: JSON | None) -> Chunk | None:
        """Returns the chunk of one more plain piece of a text, like most frames; None for any other frame.

        Its source is the frame: the writer needs no more than its index and text, and fewer objects wait.
        """
        if payload is None or len(payload) != 3 or payload.get("type") != "content_block_delta":
            return None
        index: object = payload.get("index")
        delta: JSON | None = payload.get("delta")
        if type(index) is not int or self._types.get(index) != "text" or not isinstance(delta, dict) or len(delta) != 2:
            return None
        text = delta.get("text")
        if delta.get("type") != "text_delta" or type(text) is not str or not text:
            return None
        return Chunk.from_wire(raw, (TextDelta.from_wire(raw, text, index),))

    def chunk(self, frame: Frame) -> Chunk:
        """Returns the chunk of one frame, with an `Unknown` if it is unreadable."""
        try:
            if frame.payload is None:
                raise WireError("a frame of a message is not a JSON object")
            events = tuple(self._events(frame.payload, frame))
            if self._verdicts is not None:
                self._verdicts.note_came(events)
        except (WireError, ValueError, RecursionError):
            is_whole = is_ended(frame.raw)  # clients ignore a truncated one
            unknown = Unknown(kind="frame" if is_whole else "frame that was broken off", is_malformed=is_whole)
            events = (from_wire(unknown, frame.raw),)
        return Chunk.from_wire(frame.raw, events)

    def _events(self, payload: JSON, frame: Frame) -> Iterable[StreamEvent]:
        match payload.get("type"):
            case "content_block_delta":
                return self._delta(payload, _index(payload), frame.raw)
            case "content_block_start":
                return self._start(payload, _index(payload), has_deltas=frame.has_deltas)
            case "content_block_stop":
                return _with_extra(payload, without_extra(payload, _OF_BLOCK), self._end(_index(payload)))
            case "message_start":
                return _message_start(payload)
            case "message_delta":
                return _message_delta(payload, self._verdicts)
            case "message_stop":
                bare = without_extra(payload, _OF_MESSAGE)
                return (*_extra(payload, bare), from_wire(StreamEnd(), bare))
            case "error":
                return (from_wire(ProviderFailure(), frame.raw),)
            case "ping":
                repeats = without_extra(payload, _TYPE_ALONE) is not payload
                return (from_wire(Opaque(repeats_content=repeats), frame.raw),)
            case _ if not payload:
                return (from_wire(Opaque(repeats_content=not _KEEPALIVE.fullmatch(frame.raw)), frame.raw),)
            case _:
                return (from_wire(Unknown(kind="event"), frame.raw),)

    def _start(self, payload: JSON, index: int, *, has_deltas: bool) -> Iterator[StreamEvent]:
        block = fields(payload.get("content_block"), "a content block")
        self._types[index] = type = text_of(block, "type")
        self._follows.pop(index, None)
        kind = kind_of(type)
        if kind == "unknown":
            yield from_wire(BlockMarker(role="begin", kind=kind, index=index), payload)
            return
        bare = _changed(without_extra(payload, _OF_BLOCK), "content_block", block_without_extra)
        begun = bare["content_block"]
        if kind == "tool_call":
            yield from self._call(bare, begun, index, payload, has_deltas=has_deltas)
        elif kind == "other":
            follows = self._calls.get(text_of(begun, "tool_use_id"))
            if follows is not None:
                self._follows[index] = follows
            yield from _with_extra(payload, bare, _begin(begun, kind, index, follows))
        elif type == "redacted_thinking":  # its one delta holds the whole block
            yield from_wire(
                BlockMarker(role="begin", kind=kind, index=index), {**bare, "content_block": empty_thinking()}
            )
            yield from _with_extra(payload, bare, ReasoningDelta(index=index, text=""))
        else:
            emptied = {**bare, "content_block": _emptied(begun, kind)}
            yield from _with_extra(payload, bare, BlockMarker(role="begin", kind=kind, index=index), emptied)
            for delta in _deltas_of(begun):
                source = {"type": "content_block_delta", "index": index, "delta": delta}
                yield from_wire(_delta_event(delta, index), source)

    def _call(self, bare: JSON, block: JSON, index: int, payload: JSON, *, has_deltas: bool) -> Iterator[StreamEvent]:
        if is_server_call(block) and (id := text_of(block, "id")):
            self._calls[id] = index
        arguments = block.get("input")
        if has_deltas:
            bare = {**bare, "content_block": {**block, "input": {}}}
            arguments = None
        yield from _with_extra(payload, bare, read_call(block, index, dump(arguments) if arguments else ""))

    def _end(self, index: int) -> StreamEvent:
        kind = kind_of(self._types[index]) if index in self._types else "other"
        return BlockMarker(role="end", kind=kind, index=index, follows=self._follows.get(index))

    def _delta(self, payload: JSON, index: int, raw: bytes) -> Sequence[StreamEvent]:
        delta = fields(payload.get("delta"), "a delta")
        delta_type = text_of(delta, "type")
        known, types = _DELTAS.get(delta_type, _NO_DELTA)
        type = self._types.get(index)
        if type not in types:
            if type is not None or delta_type not in _UNBEGUN:
                return (_unfit_delta(payload, index, type, raw),)
            self._types[index] = _UNBEGUN[delta_type]
        event = _delta_event(delta, index)
        if len(payload) <= 3 and len(delta) <= len(known):  # nearly always
            return (from_wire(event, payload),)
        bare = _changed(without_extra(payload, _OF_BLOCK), "delta", lambda delta: without_extra(delta, known))
        return _with_extra(payload, bare, event)


def _unfit_delta(payload: JSON, index: int, type: str | None, raw: bytes) -> StreamEvent:
    """Returns the event of a delta of unknown content. Raises `WireError` for one of another type than its block."""
    if type is not None and kind_of(type) == "unknown":
        return from_wire(BlockMarker(role="detail", kind="unknown", index=index), payload)
    if text_of(payload["delta"], "type") in _DELTAS:
        raise WireError("a block has a delta of another type")
    return from_wire(Unknown(kind="piece of a block"), raw)


def _message_start(payload: JSON) -> Iterator[StreamEvent]:
    message = fields(payload.get("message"), "a message")
    bare = _changed(without_extra(payload, _OF_MESSAGE), "message", message_without_extra)
    if message.get("content"):  # unknown to the API
        empty: JSON = {**bare, "message": {**bare["message"], "content": []}}
        yield from_wire(ResponseStart(), empty)
        yield from_wire(Unknown(kind="content in the start of a message"), ExtraFields(payload, empty))
    else:
        yield from _with_extra(payload, bare, ResponseStart())


def _message_delta(payload: JSON, verdicts: Verdicts | None) -> Iterator[StreamEvent]:
    delta = fields(payload.get("delta") or {}, "a delta")
    if verdicts is not None:
        verdicts.note_given(delta.get(RESULTS))
    whole, quote = payload, read_refusal(delta.get("stop_details"))
    if quote is not None:
        whole = {**payload, "delta": {name: value for name, value in delta.items() if name != "stop_details"}}
    bare = without_extra(whole, _OF_MESSAGE)
    if "delta" in bare and delta:
        bare = _changed(bare, "delta", lambda delta: without_extra(delta, _OF_END))
    if quote is not None:
        yield from_wire(quote, Refusal(delta["stop_details"], bare))
    reason = text_of(delta, "stop_reason")
    if verdicts is not None and reason and bare is whole:  # after a change the frame needs verdicts of ours
        yield from_wire(Opaque(repeats_content=True), ExtraFields(whole, bare))
    yield from _extra(whole, bare)
    yield from_wire(Finish(reason=reason) if reason else Usage(), bare)


def _with_extra(payload: JSON, bare: JSON, event: StreamEvent, source: JSON | None = None) -> Sequence[StreamEvent]:
    """Returns `event` with its source, `bare` by default, and the event for the extra fields of `payload`."""
    return (from_wire(event, bare if source is None else source), *_extra(payload, bare))


def _extra(whole: JSON, bare: JSON) -> Sequence[StreamEvent]:
    return () if bare is whole else (from_wire(Opaque(repeats_content=True), ExtraFields(whole, bare)),)


def _changed(payload: JSON, name: str, change: Callable[[JSON], JSON]) -> JSON:
    before = payload[name]
    after = change(before)
    return payload if after is before else {**payload, name: after}


def _emptied(block: JSON, kind: Kind) -> JSON:
    """Returns `block` without the content of its own events; the same object if it has none."""
    empty: JSON = {**empty_text(), "citations": []} if kind == "text" else empty_thinking()
    full = {name: value for name, value in empty.items() if name != "type" and block.get(name)}
    return {**block, **full} if full else block


def _index(payload: JSON) -> int:
    index = payload.get("index")
    if not isinstance(index, int) or index < 0:
        raise WireError("a frame of a block has no index")
    return index


# Full messages


@dataclass(frozen=True, slots=True)
class BlockSource:
    """Source of an event of a full message: its block, `whole` and without extra fields, `bare`.

    `deltas` counts the events of the block's content. `citation` is the source of a quote.
    """

    whole: JSON = field(default_factory=dict[str, Any])
    bare: JSON = field(default_factory=dict[str, Any])
    deltas: int = 0
    citation: JSON | None = None


def read_message(response: object, verdicts: Verdicts | None = None) -> Iterator[StreamEvent]:
    """Yields the events of a full message, in the order of a stream, and notes its calls in `verdicts`. Raises
    `WireError`."""
    message = fields(response, "a message")
    if verdicts is not None:
        verdicts.note_given(message.get(RESULTS))
    content: object = message.get("content")
    if not isinstance(content, list):
        raise WireError("the content of a message is not a list")
    yield from_wire(ResponseStart(), BlockSource())
    has_extra = verdicts is not None or message_without_extra(message) is not message
    calls: dict[str, int] = {}
    for index, value in enumerate(cast(list[object], content)):
        block = fields(value, "a content block")
        if is_server_call(block):
            calls[text_of(block, "id")] = index
        bare = block if kind_of(text_of(block, "type")) == "unknown" else block_without_extra(block)
        has_extra = has_extra or bare is not block
        for event in _read_block(block, bare, index, calls):
            if verdicts is not None:
                verdicts.note_came((event,))
            yield event
    if (quote := read_refusal(message.get("stop_details"))) is not None:
        yield from_wire(quote, Refusal(message["stop_details"], message))
    if has_extra:
        yield from_wire(Opaque(repeats_content=True), ExtraFields(message, message))
    if reason := text_of(message, "stop_reason"):
        yield from_wire(Finish(reason=reason), BlockSource())
    yield from_wire(StreamEnd(), BlockSource())


def _read_block(block: JSON, bare: JSON, index: int, calls: Mapping[str, int]) -> Iterator[StreamEvent]:
    kind = kind_of(text_of(block, "type"))
    content = list(_read_content(bare, index))
    source = BlockSource(block, bare, len(content))
    follows = calls.get(text_of(bare, "tool_use_id")) if kind == "other" else None
    if kind != "tool_call":
        yield from_wire(_begin(bare, kind, index, follows), source)
    for event, citation in content:
        yield from_wire(event, source if citation is None else BlockSource(citation=citation))
    yield from_wire(BlockMarker(role="end", kind=kind, index=index, follows=follows), source)


def _read_content(block: JSON, index: int) -> Iterator[tuple[StreamEvent, JSON | None]]:
    """Yields the events between begin and end of a block, each with its citation."""
    match block.get("type"):
        case "text" | "thinking":
            for delta in _deltas_of(block):
                yield _delta_event(delta, index), delta.get("citation")
        case "redacted_thinking":
            yield ReasoningDelta(index=index, text=""), None
        case "tool_use" | "server_tool_use" | "mcp_tool_use":
            yield read_call(block, index, dump(block.get("input"))), None
        case _:
            pass


# Blocks, streamed or full


def _begin(block: JSON, kind: Kind, index: int, follows: int | None) -> StreamEvent:
    """Returns the event of a block's beginning, a quote for a result or a summary with text."""
    text = text_of_result(block) if is_quoted(block) else ""
    if not text:
        return BlockMarker(role="begin", kind=kind, index=index, follows=follows)
    return Quote(role="begin", kind="other", index=index, follows=follows, text=text, is_owed=True)


def _deltas_of(block: JSON) -> Iterator[JSON]:
    """Yields deltas equal to the content of a block of text or reasoning."""
    for name in ("text", "thinking", "signature"):
        if text_of(block, name):
            yield {"type": f"{name}_delta", name: block[name]}
    citations: object = block.get("citations") or []
    if not isinstance(citations, list):
        raise WireError("the citations of a block are not a list")
    for citation in cast(list[object], citations):
        yield {"type": "citations_delta", "citation": citation}


def _delta_event(delta: JSON, index: int) -> StreamEvent:
    match delta["type"]:
        case "text_delta" if text := text_of(delta, "text"):
            return TextDelta(index=index, text=text)
        case "thinking_delta":
            return ReasoningDelta(index=index, text=text_of(delta, "thinking"))
        case "input_json_delta":
            return ToolCallDelta(index=index, arguments=text_of(delta, "partial_json"))
        case "citations_delta" if quote := read_citation(delta.get("citation"), index):
            return quote
        case "signature_delta":
            return BlockMarker(role="detail", kind="reasoning", index=index)
        case "compaction_delta" if text := text_of(delta, "content"):
            return Quote(role="detail", kind="other", index=index, text=text, is_owed=True)
        case "compaction_delta":
            return BlockMarker(role="detail", kind="other", index=index)
        case _:
            return BlockMarker(role="detail", kind="text", index=index)
