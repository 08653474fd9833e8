"""Encoder of Anthropic messages: the frames of a stream, and a full message, with the given events and nothing else."""

import json
from collections.abc import Iterator, Sequence
from typing import TypeGuard, cast

from luthien_litellm_hooks.wire.events import (
    BlockMarker,
    Chunk,
    Finish,
    Opaque,
    Quote,
    ReasoningDelta,
    ResponseStart,
    StreamEnd,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
)
from luthien_litellm_hooks.wire.messages.blocks import (
    JSON,
    ExtraFields,
    Kind,
    Refusal,
    empty_message,
    empty_text,
    empty_thinking,
    is_named,
    message_without_extra,
    read_refusal,
    write_call,
    write_citation,
    write_refusal,
    write_result,
    write_summary,
)
from luthien_litellm_hooks.wire.messages.read import BlockSource
from luthien_litellm_hooks.wire.messages.safeguards import RESULTS, Verdicts
from luthien_litellm_hooks.wire.sse import write_frame

# Streamed messages


class MessageWriter:
    """Encoder of the frames of one response; `id` and `model` are for a `message_start` of our own. The finish of a
    changed response gets the `verdicts`."""

    def __init__(self, model: str, id: str, verdicts: Verdicts | None = None) -> None:
        self._verdicts = verdicts
        self._model = model
        self._id = id
        self._companions: dict[int, list[StreamEvent]] = {}
        """Extra fields and refusals, by the id of their unit: they have no frame of their own."""

    def write(self, events: Sequence[StreamEvent], of: Chunk | None) -> Iterator[bytes]:
        """Yields frames with just `events`. Companions may come before the rest `of` their frame."""
        for event in events:
            if isinstance(event.source, ExtraFields | Refusal):
                self._companions.setdefault(id(event.source.bare), []).append(event)
        for event, following in zip(events, [*events[1:], None], strict=True):
            if isinstance(event.source, ExtraFields | Refusal):
                continue
            if isinstance(event, Opaque):
                yield from (event.source,) if isinstance(event.source, bytes) else ()
            elif of is not None and isinstance(of.raw, bytes) and self._completes(event, of):
                yield of.raw
            elif isinstance(event, BlockMarker) and event.role == "begin" and _is_redacted_block(following):
                yield _frame(_numbered(self._unit(following), event.index))
            elif not _is_redacted_block(event):
                yield from map(_frame, self._payloads(event))

    def _completes(self, event: StreamEvent, of: Chunk) -> bool:
        """Returns whether `event` and its companions are all events of their frame."""
        companions = self._companions.get(id(event.source))
        if not companions or len(companions) + 1 != len(of.events):
            return False
        return all(a is b for a, b in zip([*companions, event], of.events, strict=True))

    def _payloads(self, event: StreamEvent) -> Iterator[JSON]:
        source: object = event.source
        if isinstance(event, ToolCallDelta):
            yield from self._call(event)
        elif isinstance(event, TextDelta) and not isinstance(source, dict):  # our own, or a plain piece
            yield _delta(event.index, {"type": "text_delta", "text": event.text})
        elif source is not None:
            yield self._rewritten(event)
        elif isinstance(event, ResponseStart):
            yield {"type": "message_start", "message": empty_message(self._model, self._id)}
        elif isinstance(event, ReasoningDelta):
            yield _delta(event.index, {"type": "thinking_delta", "thinking": event.text})
        elif isinstance(event, BlockMarker):
            if event.role == "end":
                yield {"type": "content_block_stop", "index": event.index}
            elif event.role == "begin":
                yield _start(event.index, empty_text() if event.kind == "text" else empty_thinking())
        elif isinstance(event, Finish):
            end = {"stop_reason": event.reason, "stop_sequence": None, **self._results(event)}
            yield {"type": "message_delta", "delta": end, "usage": {"output_tokens": 0}}
        elif isinstance(event, StreamEnd):
            yield {"type": "message_stop"}

    def _call(self, event: ToolCallDelta) -> Iterator[JSON]:
        source = _payload_of(event)
        if "content_block" in source and is_named(event, source["content_block"]):
            yield _numbered(self._unit(event), event.index)
            return
        if event.name:
            yield _start(event.index, write_call(event, {}, self._id))
        if source.get("type") == "content_block_delta":
            yield _numbered(self._unit(event), event.index)
        elif event.arguments:
            yield _delta(event.index, {"type": "input_json_delta", "partial_json": event.arguments})

    def _rewritten(self, event: StreamEvent) -> JSON:
        """Returns the unit of `event` with the event's own index, reason and quoted text."""
        unit = self._unit(event)
        if isinstance(event, Quote):
            unit = _numbered(unit, event.index)
            if "delta" not in unit:
                return {**unit, "content_block": write_result(unit["content_block"], event.text)}
            delta = unit["delta"]
            if delta["type"] == "compaction_delta":
                return {**unit, "delta": write_summary(delta, event.text)}
            return {**unit, "delta": {**delta, "citation": write_citation(delta["citation"], event.text)}}
        if isinstance(event, Finish):
            results = {} if RESULTS in unit["delta"] else self._results(event)
            return {**unit, "delta": {**unit["delta"], "stop_reason": event.reason, **results}}
        return _numbered(unit, event.index) if isinstance(event, BlockMarker | TextDelta | ReasoningDelta) else unit

    def _results(self, event: Finish) -> JSON:
        return {} if self._verdicts is None else self._verdicts.results(event)

    def _unit(self, event: StreamEvent) -> JSON:
        """Returns the unit of `event`, with its extra fields and refusal if they are sent too."""
        unit = _payload_of(event)
        companions = self._companions.get(id(unit), ())
        for companion in companions:
            if isinstance(companion.source, ExtraFields):
                unit = companion.source.whole
        for companion in companions:
            if isinstance(companion, Quote) and isinstance(companion.source, Refusal):
                details = write_refusal(companion.source.details, companion.text)
                unit = {**unit, "delta": {**unit["delta"], "stop_details": details}}
        return unit


def _payload_of(event: StreamEvent) -> JSON:
    return cast(JSON, event.source or {})


def _numbered(payload: JSON, index: int | None) -> JSON:
    return {**payload, "index": index or 0}


def _is_redacted_block(event: StreamEvent | None) -> TypeGuard[ReasoningDelta]:
    """Returns whether `event` is a redacted block, which has one frame for begin and content."""
    return isinstance(event, ReasoningDelta) and _payload_of(event).get("type") == "content_block_start"


def _start(index: int | None, block: JSON) -> JSON:
    return {"type": "content_block_start", "index": index or 0, "content_block": block}


def _delta(index: int | None, delta: JSON) -> JSON:
    return {"type": "content_block_delta", "index": index or 0, "delta": delta}


def _frame(payload: JSON) -> bytes:
    return write_frame(json.dumps(payload, separators=(",", ":")), event=payload["type"])


# Full messages


def write_message(
    events: Sequence[StreamEvent], template: object, empty: JSON, verdicts: Verdicts | None = None
) -> JSON:
    """Returns a copy of `template` with just `events`; of the `empty` message if `template` is not a message. A changed
    one gets the `verdicts`."""
    message = cast(JSON, template) if isinstance(template, dict) else empty
    carries_extras = any(isinstance(event.source, ExtraFields) for event in events)
    drafts: list[_Draft | _Call | _Result] = []
    changes: JSON = {"stop_details": None} if read_refusal(message.get("stop_details")) is not None else {}
    for event in events:
        if isinstance(event, Finish):
            changes["stop_reason"] = event.reason
        elif isinstance(event, Quote) and isinstance(event.source, Refusal):
            changes["stop_details"] = write_refusal(event.source.details, event.text)
        elif (draft := _begun_by(event, drafts, empty["id"])) is not None:
            drafts.append(draft)
        elif drafts and _is_content(event):
            drafts[-1].add(event)
    blocks = [block for draft in drafts if (block := draft.block(carries_extras=carries_extras)) is not None]
    if verdicts is not None and not carries_extras:
        verdicts.begin_again()
        verdicts.note_left(events)
        changes |= verdicts.results(next((event for event in events if isinstance(event, Finish)), None))
    return {**(message if carries_extras else message_without_extra(message)), "content": blocks, **changes}


def _is_content(event: StreamEvent) -> bool:
    if isinstance(event, BlockMarker):
        return event.role == "detail"
    return isinstance(event, TextDelta | ReasoningDelta | ToolCallDelta)


def _begun_by(
    event: StreamEvent, drafts: Sequence["_Draft | _Call | _Result"], response_id: str
) -> "_Draft | _Call | _Result | None":
    """Returns the block that `event` begins, or None. A notice may come without a begin marker."""
    if isinstance(event, ToolCallDelta):
        return None if event.name is None else _Call(event, response_id)
    if isinstance(event, Quote) and event.role == "begin":
        return _Result(event)
    if isinstance(event, BlockMarker):
        return _Draft(event.kind, _source_of(event)) if event.role == "begin" else None
    if isinstance(event, TextDelta | ReasoningDelta) and not (drafts and isinstance(drafts[-1], _Draft)):
        draft = _Draft("text" if isinstance(event, TextDelta) else "reasoning", None)
        draft.add(event)
        return draft
    return None


class _Draft:
    """Block under construction, neither a call nor a result."""

    def __init__(self, kind: Kind, source: BlockSource | None) -> None:
        self._source = source
        self._kind = kind
        self._texts: list[str] = []
        self._citations: list[JSON] = []
        self._count = 0  # of events
        self._is_changed = False

    def add(self, event: StreamEvent) -> None:
        self._count += 1
        if isinstance(event, TextDelta | ReasoningDelta):
            self._texts.append(event.text)
        source = _source_of(event)
        if source is not None and source.citation is not None:
            text = event.text if isinstance(event, Quote) else ""
            self._citations.append(write_citation(source.citation, text))
            self._is_changed = self._is_changed or self._citations[-1] is not source.citation
        self._is_changed = self._is_changed or source is None

    def block(self, *, carries_extras: bool) -> JSON | None:
        """Returns the decoded block itself if it has all its events, None if it has no text."""
        source = self._source
        if source is not None and not self._is_changed and self._count == source.deltas:
            return source.whole if carries_extras else source.bare
        template = source.bare if source is not None else {}
        text = "".join(self._texts)
        if not text:
            return None
        if self._kind == "text":
            others = {name: value for name, value in template.items() if name != "citations"}
            cited = {"citations": self._citations} if self._citations else {}
            return {**empty_text(), **others, "text": text, **cited}
        others = template if template.get("type") == "thinking" else {}
        return {**empty_thinking(), **others, "thinking": text, "signature": ""}


class _Call:
    """Tool call under construction."""

    def __init__(self, event: ToolCallDelta, response_id: str) -> None:
        self._event = event
        self._response_id = response_id
        self._arguments = [event.arguments]

    def add(self, event: StreamEvent) -> None:
        if isinstance(event, ToolCallDelta):
            self._arguments.append(event.arguments)

    def block(self, *, carries_extras: bool) -> JSON:
        """Returns the decoded block itself if the call is the same."""
        source = _source_of(self._event)
        if source is not None and len(self._arguments) == 1 and is_named(self._event, source.bare):
            return source.whole if carries_extras else source.bare
        return write_call(self._event, _input("".join(self._arguments)), self._response_id)


class _Result:
    """Result of a call that the provider ran."""

    def __init__(self, event: Quote) -> None:
        self._event = event

    def add(self, event: StreamEvent) -> None:
        """Ignores `event`: a result has one event with all its text."""

    def block(self, *, carries_extras: bool) -> JSON | None:
        source = _source_of(self._event)
        return source and write_result(source.whole if carries_extras else source.bare, self._event.text)


def _source_of(event: StreamEvent) -> BlockSource | None:
    return event.source if isinstance(event.source, BlockSource) else None


def _input(arguments: str) -> JSON:
    """Returns the arguments of a changed call as an object, which this wire requires even if they are not JSON."""
    try:
        parsed: object = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        parsed = None
    return cast(JSON, parsed) if isinstance(parsed, dict) else {"arguments": arguments}
