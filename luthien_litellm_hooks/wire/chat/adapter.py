"""Adapter of chat completions as LiteLLM hands them to a plugin, and their encoder.

They are `ModelResponseStream` chunks, or one `ModelResponse`.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from typing import Any, cast

from litellm.types.utils import (
    ChatCompletionDeltaCustomToolCall,
    ChatCompletionDeltaToolCall,
    ChatCompletionMessageCustomToolCall,
    ChatCompletionMessageToolCall,
    Choices,
    Delta,
    Message,
    ModelResponse,
    ModelResponseStream,
    StreamingChoices,
)

from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.wire import readable
from luthien_litellm_hooks.wire.chat.fields import (
    PROVIDER_FIELDS,
    PROVIDER_REFUSAL,
    Piece,
    Tool,
    is_custom,
    merge,
    name_and_arguments,
    repeating_fields,
    unjudged_fields,
    without,
)
from luthien_litellm_hooks.wire.chat.read import UnknownCalls, read_chunk, read_response
from luthien_litellm_hooks.wire.events import (
    EVERY_CHOICE,
    Chunk,
    Finish,
    Opaque,
    Quote,
    ReasoningDelta,
    ResponseStart,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    Unknown,
    Usage,
)
from luthien_litellm_hooks.wire.format import ResponseRules

_EMPTY_AUDIO = {"data": "", "expires_at": 0, "transcript": ""}


class ChatAdapter:
    """Adapter of one chat completion.

    `template` makes a chunk to copy if the provider has not sent one. Few responses need it.
    """

    def __init__(self, rules: ResponseRules, template: Callable[[], ModelResponseStream]) -> None:
        self.rules = rules
        self._make_template = template
        self._latest: ModelResponseStream | None = None
        self._unknown_calls: UnknownCalls = set()
        self._decoded: Chunk | None = None

    def decode(self, raw: object) -> Sequence[Chunk]:
        """Returns one chunk: an item of such a stream is never partial."""
        if not isinstance(raw, ModelResponseStream):
            return (_malformed(raw),)
        self._latest = raw
        try:
            return (Chunk.from_wire(raw, tuple(read_chunk(raw, self._unknown_calls))),)
        except WireError:
            return (_malformed(raw),)

    def flush(self) -> Sequence[Chunk]:
        """Returns nothing: `decode` never holds anything."""
        return ()

    def encode(self, events: Sequence[StreamEvent], of: Chunk | None) -> Iterable[object]:
        """Yields one item for the remaining events of a chunk; a policy's own finish gets an item of its own."""
        if of is not None:
            yield _write_chunk(events, self._template_for(of))
            return
        group: list[StreamEvent] = []
        for event in events:
            if isinstance(event, Finish):
                if group:
                    yield _write_chunk(group, self._template_for(None))
                yield _write_chunk([event], self._template_for(None))
                group = []
            else:
                group.append(event)
        if group:
            yield _write_chunk(group, self._template_for(None))

    def ping(self) -> Iterable[object]:
        """Yields a chunk with an empty delta.

        A comment would be bytes: LiteLLM logs what a client got only if each item of the stream is a chunk. And it
        drops an empty chunk without `provider_specific_fields` as its own, wherever it asks for usage itself."""
        yield _write_chunk((), self._template_for(None)).model_copy(update={PROVIDER_FIELDS: {}})

    def decode_full(self, response: object) -> Chunk:
        """Returns the events of every choice, one delta a block."""
        self._decoded = _malformed(response)
        if isinstance(response, ModelResponse):
            with suppress(WireError):
                self._decoded = Chunk.from_wire(response, tuple(read_response(response)))
        return self._decoded

    def encode_full(self, response: object, events: Sequence[StreamEvent]) -> object:
        """Returns a copy of `response` with just `events`, its id, model and usage; a blank one if it is malformed."""
        decoded = self._decoded
        if decoded is None or decoded.raw is not response:
            decoded = self.decode_full(response)
        is_malformed = any(isinstance(event, Unknown) and event.is_malformed for event in decoded.events)
        if not isinstance(response, ModelResponse) or is_malformed:
            return _write_response(events, self._blank(response), decoded.events)
        return _write_response(events, response, decoded.events)

    def _blank(self, response: object) -> ModelResponse:
        if isinstance(response, ModelResponse):
            return response.model_copy(update={"choices": [Choices()]})
        template = self._template_for(None)
        return ModelResponse(id=template.id, model=template.model, choices=[Choices()])

    def _template_for(self, chunk: Chunk | None) -> ModelResponseStream:
        if chunk is not None and isinstance(chunk.raw, ModelResponseStream):
            return chunk.raw
        if self._latest is None:
            self._latest = self._make_template()
        return self._latest


def _malformed(raw: object) -> Chunk:
    return Chunk.from_wire(raw, (Unknown(kind="chat completion", is_malformed=True),))


def _write_chunk(events: Iterable[StreamEvent], template: ModelResponseStream) -> ModelResponseStream:
    """Returns a copy of `template` with just `events`."""
    drafts: dict[int, _Draft] = {}
    carried: set[str] = set()
    for event in events:
        if isinstance(event, Usage):
            carried.add("usage")
        elif event.choice != EVERY_CHOICE:
            drafts.setdefault(event.choice, _Draft(is_delta=True)).add(event)
        elif isinstance(event.source, Piece):
            carried |= event.source.fields.keys()
    drafts = drafts or {0: _Draft(is_delta=True)}
    choices = [draft.streamed_choice(index) for index, draft in drafts.items()]
    dropped: dict[str, Any] = dict.fromkeys(repeating_fields(template) - carried)
    return template.model_copy(update={**dropped, "choices": choices})


def _write_response(
    events: Sequence[StreamEvent], template: ModelResponse, decoded: Collection[StreamEvent]
) -> ModelResponse:
    """Returns a copy of `template` with just `events`. A choice that has all its `decoded` events is not rewritten."""
    remaining, before = _by_choice(events), _by_choice(decoded)
    choices = {choice.index: choice for choice in template.choices}
    for index in dict.fromkeys([*choices, *(index for index in remaining if index != EVERY_CHOICE)]):
        own_events, choice = remaining.get(index, []), choices.get(index) or Choices(index=index)
        if sorted(map(id, own_events)) != sorted(map(id, before.get(index, []))):
            choices[index] = _write_choice(choice, own_events)
    pieces = [event.source for event in remaining.get(EVERY_CHOICE, [])]
    carried = {name for piece in pieces if isinstance(piece, Piece) for name in piece.fields}
    names = repeating_fields(template) - carried - {"usage"}
    return without(template, names, {"choices": [*choices.values()]})


def _by_choice(events: Collection[StreamEvent]) -> dict[int, list[StreamEvent]]:
    found: dict[int, list[StreamEvent]] = {}
    for event in events:
        found.setdefault(event.choice, []).append(event)
    return found


def _write_choice(template: Choices, events: Sequence[StreamEvent]) -> Choices:
    draft = _Draft(is_delta=False)
    for event in events:
        draft.add(event)
    fields: dict[str, Any] = {**draft.message(), "role": template.message.role}
    if "audio" in fields:
        fields["audio"] = _EMPTY_AUDIO | fields["audio"]
    content = fields.pop("content", None) or (None if draft.has_other_content else "")
    message = Message(content=content, **fields)
    reason = draft.finish_reason or template.finish_reason
    return Choices(finish_reason=reason, index=template.index, message=message, **draft.choice)


class _Draft:
    """A choice under construction: its message or delta, and its other fields."""

    def __init__(self, *, is_delta: bool) -> None:
        self._is_delta = is_delta
        self._message: dict[str, Any] = {}
        self._texts: dict[str, str] = {}  # by channel
        self._parts: list[object] = []  # of the content, other than text
        self._tools: list[Tool] = []
        self._positions: dict[int, int] = {}  # of decoded entries in `_tools`, by the id of their object
        self.finish_reason: str | None = None
        self.choice: dict[str, Any] = {}
        """The fields of the choice itself."""

    def add(self, event: StreamEvent) -> None:
        piece = event.source if isinstance(event.source, Piece) else None
        if isinstance(event, TextDelta):
            self._texts[event.channel] = self._texts.get(event.channel, "") + event.text
        elif isinstance(event, ToolCallDelta):
            self._add_call(event, piece)
        elif isinstance(event, ReasoningDelta):
            self._add_reasoning(event, piece)
        elif isinstance(event, Finish):
            self.finish_reason = event.reason
        elif isinstance(event, ResponseStart):
            self._message["role"] = piece.fields["role"] if piece is not None else "assistant"
            self._texts.setdefault("", "")
        elif isinstance(event, Quote) and piece is not None:
            merge(self._message, readable.written(piece.fields, event.text))
        elif isinstance(event, Opaque) and piece is not None:
            self._add_fields(piece)

    def _add_call(self, event: ToolCallDelta, piece: Piece | None) -> None:
        if event.form == "legacy_function":
            self._message["function_call"] = {"name": event.name, "arguments": event.arguments}
            return
        tool = cast(Tool, piece.tool) if piece is not None else None
        self._positions[id(tool)] = len(self._tools)
        self._tools.append(_write_call(event, tool, is_delta=self._is_delta))

    def _add_reasoning(self, event: ReasoningDelta, piece: Piece | None) -> None:
        fields = dict(piece.fields) if piece is not None and piece.fields else {"reasoning_content": event.text}
        if (before := self._message.get("reasoning_content")) and "reasoning_content" in fields:
            fields["reasoning_content"] = before + fields["reasoning_content"]
        merge(self._message, fields)

    def _add_fields(self, piece: Piece) -> None:
        if piece.place == "choice":
            merge(self.choice, piece.fields)
        elif piece.place == "call":
            self._add_to_call(piece)
        elif "content" in piece.fields:
            self._parts += piece.fields["content"]
        else:
            merge(self._message, piece.fields)

    def _add_to_call(self, piece: Piece) -> None:
        """Adds fields to an entry. One without a call in the draft is sent with these fields alone, or unchanged."""
        tool = cast(Tool, piece.tool)
        position = self._positions.get(id(tool))
        if position is not None:
            self._tools[position] = self._tools[position].model_copy(update=dict(piece.fields))
        elif not piece.fields:
            self._tools.append(tool)
        elif self._is_delta:
            bare = _write_call(ToolCallDelta(index=getattr(tool, "index", None)), None, is_delta=True)
            self._tools.append(bare.model_copy(update=dict(piece.fields)))

    @property
    def has_other_content(self) -> bool:
        """True if a call or a text of another field makes `content` optional."""
        return bool(self._tools or self._texts.keys() - {""}) or "function_call" in self._message

    def message(self) -> dict[str, Any]:
        """Returns the fields of the message or delta."""
        fields = dict(self._message)
        if "" in self._texts:
            fields["content"] = self._texts[""]
        if self._parts:
            text = self._texts.get("")
            fields["content"] = [*([{"type": "text", "text": text}] if text else ()), *self._parts]
        if "refusal" in self._texts:
            fields["refusal"] = self._texts["refusal"]
        if PROVIDER_REFUSAL in self._texts:
            fields[PROVIDER_FIELDS] = {**fields.get(PROVIDER_FIELDS, {}), "refusal": self._texts[PROVIDER_REFUSAL]}
        if "audio" in self._texts:
            fields["audio"] = {**fields.get("audio", {}), "transcript": self._texts["audio"]}
        if self._tools:
            fields["tool_calls"] = self._tools
        return fields

    def streamed_choice(self, index: int) -> StreamingChoices:
        delta = Delta(**self.message())
        return StreamingChoices(index=index, delta=delta, finish_reason=self.finish_reason, **self.choice)


def _write_call(event: ToolCallDelta, tool: Tool | None, *, is_delta: bool) -> Tool:
    """Returns the entry of `event`: a copy of the decoded `tool` without fields that no policy judges, or a new one."""
    if tool is not None and event.name == name_and_arguments(tool)[0]:
        names = frozenset(unjudged_fields(tool))
        is_moved = is_delta and getattr(tool, "index", None) != event.index
        return without(_without_payload_extras(tool), names, {"index": event.index} if is_moved else {})
    if event.form == "custom":
        kind = ChatCompletionDeltaCustomToolCall if is_delta else ChatCompletionMessageCustomToolCall
        payload = {"type": "custom", "custom": {"name": event.name, "input": event.arguments}}
    else:
        kind = ChatCompletionDeltaToolCall if is_delta else ChatCompletionMessageToolCall
        payload = {"type": "function", "function": {"name": event.name, "arguments": event.arguments}}
    index = {"index": event.index or 0} if is_delta else {}
    return cast(Any, kind)(id=event.id, **index, **payload, **event.extra)


def _without_payload_extras(tool: Tool) -> Tool:
    """Returns `tool` with a payload of just its name and its arguments."""
    name = "custom" if is_custom(tool) else "function"
    payload = getattr(tool, name)
    extras = frozenset(payload.model_extra or ())
    return tool.model_copy(update={name: without(payload, extras, {})}) if extras else tool
