"""The frames of a streamed Anthropic message, read: the events of each."""

import re
from collections.abc import Callable, Iterator, Mapping

from luthien_litellm_hooks.adapters.messages_frames import Came
from luthien_litellm_hooks.adapters.messages_parts import (
    CALLS,
    JSON,
    Kind,
    Refusal,
    Rest,
    block_without_rest,
    dump,
    empty_text,
    empty_thinking,
    fields,
    is_result,
    is_server_call,
    kind_of,
    message_without_rest,
    read_call,
    read_citation,
    read_refusal,
    text_of,
    text_of_result,
    without_rest,
)
from luthien_litellm_hooks.adapters.sse import is_ended
from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import (
    Chunk,
    End,
    Failure,
    Finish,
    Frame,
    Opaque,
    Quote,
    ReasoningDelta,
    Start,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    Unknown,
    Usage,
    from_wire,
)

_DELTAS: Mapping[object, tuple[frozenset[str], tuple[str, ...]]] = {
    "text_delta": (frozenset({"type", "text"}), ("text",)),
    "citations_delta": (frozenset({"type", "citation"}), ("text",)),
    "thinking_delta": (frozenset({"type", "thinking"}), ("thinking",)),
    "signature_delta": (frozenset({"type", "signature"}), ("thinking",)),
    "input_json_delta": (frozenset({"type", "partial_json"}), CALLS),
    "compaction_delta": (frozenset({"type", "content", "encrypted_content"}), ("compaction",)),
}
"""The fields of each kind of delta, and the blocks that it may be of."""

_UNBEGUN = {"text_delta": "text", "thinking_delta": "thinking"}
"""The blocks that may begin with a delta."""

_TYPE_ALONE = frozenset({"type"})
_OF_BLOCK = frozenset({"type", "index", "content_block", "delta"})
_OF_MESSAGE = frozenset({"type", "message", "delta", "usage", "amazon-bedrock-invocationMetrics"})
_OF_END = frozenset({"stop_reason", "stop_details"})
_KEEPALIVE = re.compile(rb"(?::[ a-zA-Z-]{0,24}|data: ?\[DONE\])?\s*")


class MessageReader:
    """Reads the frames of one answer; remembers what each block is."""

    def __init__(self) -> None:
        self._types: dict[int, str] = {}  # of the blocks
        self._calls: dict[str, int] = {}  # of the provider's own, by their ids
        self._follows: dict[int, int] = {}  # the call whose result a block is

    def chunk(self, came: Came) -> Chunk:
        """The chunk of one frame."""
        try:
            if came.payload is None:
                raise WireError("a frame of a message was no JSON object")
            events = tuple(self._events(came.payload, came))
        except (WireError, ValueError, RecursionError):
            is_whole = is_ended(came.frame)  # otherwise it says nothing, to no client
            unknown = Unknown(kind="frame" if is_whole else "frame that was broken off", is_malformed=is_whole)
            events = (from_wire(unknown, came.frame),)
        return Chunk.from_wire(came.frame, events)

    def _events(self, payload: JSON, came: Came) -> Iterator[StreamEvent]:
        match payload.get("type"):
            case "content_block_delta":
                yield from self._delta(payload, _index(payload), came.frame)
            case "content_block_start":
                yield from self._start(payload, _index(payload), has_deltas=came.has_deltas)
            case "content_block_stop":
                said = without_rest(payload, _OF_BLOCK)
                yield from _beside(payload, said, self._end(said, _index(payload)))
            case "message_start":
                yield from _message_start(payload)
            case "message_delta":
                yield from _message_delta(payload)
            case "message_stop":
                said = without_rest(payload, _OF_MESSAGE)
                yield from _rest(payload, said)
                yield from_wire(End(), said)
            case "error":
                yield from_wire(Failure(), came.frame)
            case "ping":
                yield from_wire(Opaque(repeats=without_rest(payload, _TYPE_ALONE) is not payload), came.frame)
            case _ if not payload:
                yield from_wire(Opaque(repeats=not _KEEPALIVE.fullmatch(came.frame)), came.frame)
            case _:
                yield from_wire(Unknown(kind="event"), came.frame)

    def _start(self, payload: JSON, index: int, *, has_deltas: bool) -> Iterator[StreamEvent]:
        block = fields(payload.get("content_block"), "a content block")
        self._types[index] = type = text_of(block, "type")
        self._follows.pop(index, None)
        kind = kind_of(type)
        if kind == "unknown":
            yield from_wire(Frame(role="begin", kind=kind, index=index), payload)
            return
        said = _changed(without_rest(payload, _OF_BLOCK), "content_block", block_without_rest)
        begun = said["content_block"]
        if kind == "tool_call":
            yield from self._call(said, begun, index, payload, has_deltas=has_deltas)
        elif kind == "other":
            yield from _beside(payload, said, self._other(begun, index))
        elif type == "redacted_thinking":  # whose one piece holds the whole block
            events = (Frame(role="begin", kind=kind, index=index), ReasoningDelta(index=index, text=""))
            yield from_wire(events[0], {**said, "content_block": empty_thinking()})
            yield from _beside(payload, said, events[1])
        else:
            emptied = {**said, "content_block": _emptied(begun, kind)}
            yield from _beside(payload, said, Frame(role="begin", kind=kind, index=index), emptied)
            yield from self._given(begun, index)

    def _call(self, said: JSON, block: JSON, index: int, payload: JSON, *, has_deltas: bool) -> Iterator[StreamEvent]:
        if is_server_call(block) and (id := text_of(block, "id")):
            self._calls[id] = index
        given = block.get("input")
        if has_deltas:
            said = {**said, "content_block": {**block, "input": {}}}
            given = None
        yield from _beside(payload, said, read_call(block, index, dump(given) if given else ""))

    def _other(self, block: JSON, index: int) -> StreamEvent:
        follows = self._calls.get(text_of(block, "tool_use_id"))
        if follows is not None:
            self._follows[index] = follows
        text = text_of_result(block) if is_result(block) else ""
        if not text:
            return Frame(role="begin", kind="other", index=index, follows=follows)
        return Quote(role="begin", kind="other", index=index, follows=follows, text=text, is_owed=True)

    def _end(self, said: JSON, index: int) -> StreamEvent:
        kind = kind_of(self._types[index]) if index in self._types else "other"
        return Frame(role="end", kind=kind, index=index, follows=self._follows.get(index))

    def _given(self, block: JSON, index: int) -> Iterator[StreamEvent]:
        """The events of the deltas that would have brought what `block` begins with."""
        for name in ("text", "thinking", "signature"):
            if name in block and text_of(block, name):
                delta = {"type": f"{name}_delta", name: block[name]}
                yield from_wire(_delta_event(delta, index), _delta_payload(index, delta))
        for citation in block.get("citations") or ():
            delta = {"type": "citations_delta", "citation": citation}
            yield from_wire(_delta_event(delta, index), _delta_payload(index, delta))

    def _delta(self, payload: JSON, index: int, frame: bytes) -> Iterator[StreamEvent]:
        delta = fields(payload.get("delta"), "a delta")
        brings = text_of(delta, "type")
        type = self._types.get(index)
        if type is None and brings in _UNBEGUN:
            type = self._types[index] = _UNBEGUN[brings]
        if type is not None and kind_of(type) == "unknown":
            yield from_wire(Frame(role="detail", kind="unknown", index=index), payload)
            return
        if brings not in _DELTAS:
            yield from_wire(Unknown(kind="piece of a block"), frame)
            return
        known, types = _DELTAS[brings]
        if type not in types:
            raise WireError("a block was given what is none of it")
        said = payload
        if len(payload) > 3 or len(delta) > len(known):  # which is rare
            said = _changed(without_rest(payload, _OF_BLOCK), "delta", lambda delta: without_rest(delta, known))
        yield from _beside(payload, said, _delta_event(delta, index))


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
            return Frame(role="detail", kind="reasoning", index=index)
        case "compaction_delta":
            return Frame(role="detail", kind="other", index=index)
        case _:
            return Frame(role="detail", kind="text", index=index)


def _message_start(payload: JSON) -> Iterator[StreamEvent]:
    message = fields(payload.get("message"), "a message")
    said = _changed(without_rest(payload, _OF_MESSAGE), "message", message_without_rest)
    if message.get("content"):  # which no stream brings there
        empty: JSON = {**said, "message": {**said["message"], "content": []}}
        yield from_wire(Start(), empty)
        yield from_wire(Unknown(kind="content in the start of a message"), Rest(payload, empty))
    else:
        yield from _beside(payload, said, Start())


def _message_delta(payload: JSON) -> Iterator[StreamEvent]:
    delta = fields(payload.get("delta") or {}, "a delta")
    whole, quote = payload, read_refusal(delta.get("stop_details"))
    if quote is not None:
        whole = {**payload, "delta": {name: value for name, value in delta.items() if name != "stop_details"}}
    said = without_rest(whole, _OF_MESSAGE)
    if "delta" in said and delta:
        said = _changed(said, "delta", lambda delta: without_rest(delta, _OF_END))
    if quote is not None:
        yield from_wire(quote, Refusal(delta["stop_details"], said))
    yield from _rest(whole, said)
    reason = text_of(delta, "stop_reason")
    yield from_wire(Finish(reason=reason) if reason else Usage(), said)


def _beside(payload: JSON, said: JSON, event: StreamEvent, part: JSON | None = None) -> Iterator[StreamEvent]:
    """`event`, which is `said`, or a `part` of it, and what more is in its `payload`."""
    yield from_wire(event, said if part is None else part)
    yield from _rest(payload, said)


def _rest(whole: JSON, said: JSON) -> Iterator[StreamEvent]:
    if said is not whole:
        yield from_wire(Opaque(repeats=True), Rest(whole, said))


def _changed(payload: JSON, name: str, change: Callable[[JSON], JSON]) -> JSON:
    came = payload[name]
    changed = change(came)
    return payload if changed is came else {**payload, name: changed}


def _emptied(block: JSON, kind: Kind) -> JSON:
    """`block` without what comes as events of its own; the same object if nothing does."""
    empty: JSON = {**empty_text(), "citations": []} if kind == "text" else empty_thinking()
    full = {name: value for name, value in empty.items() if name != "type" and block.get(name)}
    return {**block, **full} if full else block


def _index(payload: JSON) -> int:
    index = payload.get("index")
    if not isinstance(index, int) or index < 0:
        raise WireError("a frame of a block had no index")
    return index


def _delta_payload(index: int, delta: JSON) -> JSON:
    return {"type": "content_block_delta", "index": index, "delta": delta}
