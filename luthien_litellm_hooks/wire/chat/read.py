"""Decoder of chat completions: the events of a chunk, and of a full response."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from litellm.types.utils import FunctionCall, Message, ModelResponse, ModelResponseStream

from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.wire import readable
from luthien_litellm_hooks.wire.chat.fields import (
    DECODED,
    MESSAGE_FIELDS,
    PLAIN_FIELDS,
    PROVIDER_FIELDS,
    PROVIDER_REFUSAL,
    REASONING_FIELDS,
    RESPONSE_FIELDS,
    DeltaTool,
    MessageTool,
    Piece,
    Tool,
    choice_index,
    fields_except,
    fields_of,
    is_custom,
    is_of_two_kinds,
    is_picture,
    is_signed,
    is_unreadable,
    name_and_arguments,
    read_other_fields,
    set_fields,
    text_in,
    unjudged_fields,
)
from luthien_litellm_hooks.wire.events import (
    Finish,
    Opaque,
    Quote,
    ReasoningDelta,
    ResponseStart,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    ToolForm,
    Unknown,
    Usage,
    from_wire,
)

UnknownCalls = set[tuple[int, int]]
"""Choice and index of each call of an unknown type; only the first piece of a call has the type."""

_STREAMED_CHOICE_FIELDS = frozenset({"index", "delta", "finish_reason"})
_CHOICE_FIELDS = frozenset({"index", "message", "finish_reason"})
_SAFE_AUDIO = frozenset({"id", "expires_at"})
_CITATIONS = frozenset({"citation", "citations"})  # Claude's, under LiteLLM's names
_READ_FIELDS = MESSAGE_FIELDS | {"refusal", "audio", "annotations", "images", "reasoning_items"}
_CALL_TYPES = ("function", "custom", "builtin_function", "", None)  # the third is Moonshot's
_SERVER_ID = "srvtoolu_"  # LiteLLM marks calls that Anthropic runs by nothing else


def read_chunk(chunk: ModelResponseStream, unknown_calls: UnknownCalls) -> list[StreamEvent]:
    """Returns the events of `chunk`, at least one; adds to `unknown_calls`. Raises `WireError`.

    Order: of each choice its role, reasoning, text, calls, other fields and finish; token counts come last."""
    fields = set_fields(chunk)
    choices: object = fields.get("choices")
    if not isinstance(choices, list):
        raise WireError("the choices of a chat completion are not a list")
    events: list[StreamEvent] = []
    for choice in cast(list[object], choices):
        events += _read_choice(choice, unknown_calls)
    if not fields.keys() <= RESPONSE_FIELDS:
        events += read_other_fields(fields_except(fields, RESPONSE_FIELDS), "response")
    if "usage" in fields:
        events.append(from_wire(Usage(), DECODED))
    return events or [from_wire(Opaque(), DECODED)]


def read_response(response: ModelResponse) -> Iterator[StreamEvent]:
    """Yields the events of a full response, in the order of a chunk's. Raises `WireError`."""
    for choice in response.choices:
        yield from _read_choice(choice, None)
    yield from read_other_fields(fields_except(set_fields(response), RESPONSE_FIELDS), "response")


def _read_choice(choice: object, unknown_calls: UnknownCalls | None) -> Iterator[StreamEvent]:
    """Decodes a choice of a chunk or, without `unknown_calls`, of a full response."""
    fields = fields_of(choice, "choice")
    index = choice_index(fields)
    if unknown_calls is None:
        if not isinstance(fields.get("message"), Message):
            raise WireError("a choice of a chat completion has no message")
        known, message = _CHOICE_FIELDS, set_fields(fields["message"])
    else:
        known, message = _STREAMED_CHOICE_FIELDS, fields_of(fields["delta"], "delta") if "delta" in fields else {}
        if "role" in message:
            yield from_wire(ResponseStart(choice=index), Piece("message", {"role": message["role"]}))
    yield from _read_message(message, index, unknown_calls)
    if not fields.keys() <= known:
        yield from read_other_fields(fields_except(fields, known), "choice", index)
    if reason := text_in(fields, "finish_reason"):
        yield from_wire(Finish(choice=index, reason=reason), DECODED)


def _read_message(fields: Mapping[str, Any], choice: int, unknown_calls: UnknownCalls | None) -> Iterator[StreamEvent]:
    """Decodes reasoning, text, calls, and fields that no policy judges."""
    content: object = fields.get("content")
    is_plain = fields.keys() <= PLAIN_FIELDS and (content is None or isinstance(content, str))
    if not is_plain:
        yield from _read_reasoning(fields, choice, is_delta=unknown_calls is not None)
    if content:
        yield from _read_content(content, choice)
    if not is_plain:
        yield from _read_other_texts(fields, choice)
    if not is_plain or "tool_calls" in fields:
        yield from _read_calls(fields, choice, unknown_calls)
    if not is_plain:
        yield from _read_beside_blocks(fields, choice)


# Text


def _read_content(content: object, choice: int) -> Iterator[StreamEvent]:
    """Decodes the text in `content`; Mistral sends a list of parts instead of a string."""
    if isinstance(content, str):
        yield from_wire(TextDelta(choice=choice, text=content), DECODED)
        return
    if not isinstance(content, list):
        raise WireError(f"the content of a chat completion is a {type(content).__name__}")
    parts = cast(list[object], content)
    if text := "".join(_texts(parts, "text")):
        yield from_wire(TextDelta(choice=choice, text=text), DECODED)
    for part in parts:
        if not any(_is_of_type(part, kind) for kind in ("text", "thinking")):
            is_known = any(_is_of_type(part, kind) for kind in ("reference", "image_url"))
            event = (
                Opaque(choice=choice, repeats_content=True)
                if is_known
                else Unknown(choice=choice, kind="part of a text")
            )
            yield from_wire(event, Piece("message", {"content": [part]}))


def _read_other_texts(fields: Mapping[str, Any], choice: int) -> Iterator[StreamEvent]:
    if refusal := text_in(fields, "refusal"):
        yield from_wire(TextDelta(choice=choice, text=refusal, channel="refusal"), DECODED)
    provider_fields: object = fields.get(PROVIDER_FIELDS)
    if isinstance(provider_fields, dict) and (refusal := text_in(cast(dict[str, Any], provider_fields), "refusal")):
        yield from_wire(TextDelta(choice=choice, text=refusal, channel=PROVIDER_REFUSAL), DECODED)
    if transcript := text_in(_audio_of(fields), "transcript"):
        yield from_wire(TextDelta(choice=choice, text=transcript, channel="audio"), DECODED)


def _audio_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    return fields_of(fields["audio"], "audio") if "audio" in fields else {}


def _read_reasoning(fields: Mapping[str, Any], choice: int, *, is_delta: bool) -> Iterator[StreamEvent]:
    """Decodes the reasoning, with an empty text for a signature alone. Redacted blocks are for the provider alone."""
    source = {name: fields[name] for name in REASONING_FIELDS if name in fields}
    blocks = _listed(source, "thinking_blocks")
    if redacted := [block for block in blocks if _is_of_type(block, "redacted_thinking")]:
        source["thinking_blocks"] = [block for block in blocks if not _is_of_type(block, "redacted_thinking")]
    text = _reasoning_text(fields, is_delta=is_delta)
    if text or any(source[name] for name in source.keys() - {"reasoning_content", "reasoning"}):
        source = {name: value for name, value in source.items() if value}
        yield from_wire(ReasoningDelta(choice=choice, text=text), Piece("message", source))
    if redacted:
        yield from_wire(Opaque(choice=choice), Piece("message", {"thinking_blocks": redacted}))


def _reasoning_text(fields: Mapping[str, Any], *, is_delta: bool) -> str:
    """Returns all reasoning once: LiteLLM gives it as a text, and again in the provider's own form."""
    reasoning = text_in(fields, "reasoning_content")
    details = _listed(fields, "reasoning_details")
    content: object = fields.get("content")
    sources = [
        [text_in(fields, "reasoning")],
        [*_texts(_listed(fields, "thinking_blocks"), "thinking")],
        [*_texts(cast(list[object], content) if isinstance(content, list) else [], "thinking")],
        [*_texts(details, "text"), *_texts(details, "summary")],
    ]
    if not is_delta:  # at the end of a stream these repeat its deltas
        sources += [[*_texts(_listed(item, "summary"), "text")] for item in _listed(fields, "reasoning_items")]
    for texts in sources:
        reasoning += "" if _contains(reasoning, texts) else "".join(texts)
    return reasoning


def _contains(text: str, pieces: list[str]) -> bool:
    """Returns whether `text` has all `pieces` in it, in their order."""
    position = 0
    for piece in pieces:
        found = text.find(piece, position)
        if found < 0:
            return False
        position = found + len(piece)
    return True


def _texts(parts: list[object], kind: str) -> Iterator[str]:
    """Yields the texts of the parts of a `kind`; the text of a part is a string, or again a list of parts."""
    for part in parts:
        text: object = cast(dict[str, Any], part).get(kind) if isinstance(part, dict) else None
        if isinstance(text, str):
            yield text
        elif isinstance(text, list):
            yield "".join(_texts(cast(list[object], text), "text"))


def _listed(fields: object, name: str) -> list[object]:
    """Returns the list in a field, [] if the field is absent. Raises `WireError` if it is not a list."""
    found: object = cast(Mapping[str, Any], fields).get(name) if isinstance(fields, Mapping) else fields
    if found is not None and not isinstance(found, list):
        raise WireError(f"the {name} of a chat completion are a {type(found).__name__}")
    return cast(list[object], found or [])


def _is_of_type(block: object, kind: str) -> bool:
    return isinstance(block, dict) and cast(dict[str, Any], block).get("type") == kind


# Calls


def _read_calls(fields: Mapping[str, Any], choice: int, unknown_calls: UnknownCalls | None) -> Iterator[StreamEvent]:
    """Decodes the entries of `tool_calls` and the old `function_call`."""
    calls: object = fields.get("tool_calls", ())
    if not isinstance(calls, list | tuple):
        raise WireError("the tool calls of a chat completion are not a list")
    unknown: UnknownCalls = set() if unknown_calls is None else unknown_calls
    extras: list[StreamEvent] = []  # at the end, because a policy may withhold a later call of a message
    for position, tool in enumerate(cast(Sequence[object], calls)):
        if not isinstance(tool, DeltaTool | MessageTool):
            raise WireError("an entry of the tool calls of a chat completion is not a tool call")
        index: object = position if unknown_calls is None else getattr(tool, "index", None)
        if not (index is None or (isinstance(index, int) and index >= 0)):
            raise WireError("the index of a tool call is not a natural number")
        extra = unjudged_fields(tool)
        event = _read_entry(tool, choice, index, unknown, has_extra=bool(extra))
        yield event
        if extra and isinstance(event, ToolCallDelta):
            extras.append(from_wire(Opaque(choice=choice, repeats_content=True), Piece("call", extra, tool)))
    yield from extras
    if "function_call" in fields:
        yield _read_function_call(fields["function_call"], choice)


def _read_entry(tool: Tool, choice: int, index: int | None, unknown: UnknownCalls, *, has_extra: bool) -> StreamEvent:
    event = _read_call(tool, choice, index)
    key, is_head = (choice, index or 0), bool(event.id or event.name)
    if tool.type not in _CALL_TYPES or is_of_two_kinds(tool) or (key in unknown and not is_head):
        unknown.add(key)
        return from_wire(Unknown(choice=choice, kind="tool call"), Piece("call", {}, tool))
    unknown.discard(key)
    if not (has_extra or is_head or event.arguments or event.extra):
        return _empty_entry(choice)
    return from_wire(event, Piece("call", {}, tool))


def _empty_entry(choice: int) -> Opaque:
    """Returns the event of an entry without a call. It waits for held events, because clients count entries."""
    return from_wire(Opaque(choice=choice, repeats_content=True), DECODED)


def _read_call(tool: Tool, choice: int, index: int | None) -> ToolCallDelta:
    name, arguments = name_and_arguments(tool)
    if not all(text is None or isinstance(text, str) for text in (tool.id, name, arguments)):
        raise WireError("the id, the name or the arguments of a tool call are not a string")
    extra = {name: value for name, value in (tool.model_extra or {}).items() if is_signed(name, value)}
    form: ToolForm = "custom" if is_custom(tool) else "function"
    if tool.id and tool.id.startswith(_SERVER_ID):
        form = "server"
    return ToolCallDelta(
        choice=choice, index=index, id=tool.id, name=name, arguments=arguments or "", form=form, extra=extra
    )


def _read_function_call(call: object, choice: int) -> StreamEvent:
    if not isinstance(call, FunctionCall):
        raise WireError("the function_call of a chat completion is not an object")
    fields = set_fields(call)
    name, arguments = text_in(fields, "name"), text_in(fields, "arguments")
    if not (name or arguments):
        return _empty_entry(choice)
    event = ToolCallDelta(choice=choice, name=name or None, arguments=arguments, form="legacy_function")
    return from_wire(event, DECODED)


# Fields beside the blocks


def _read_beside_blocks(fields: Mapping[str, Any], choice: int) -> Iterator[StreamEvent]:
    others = fields_except(fields, _READ_FIELDS)
    yield from _read_quote({"annotations": fields.get("annotations")}, choice)
    provider_fields: object = others.get(PROVIDER_FIELDS)
    if isinstance(provider_fields, dict):
        nested = cast(dict[str, Any], provider_fields)
        for name in nested.keys() & _CITATIONS:
            yield from _read_quote({PROVIDER_FIELDS: {name: nested[name]}}, choice)
        others[PROVIDER_FIELDS] = fields_except(nested, _CITATIONS | {"refusal"})
    audio = fields_except(_audio_of(fields), frozenset({"transcript"}))
    if safe := {name: value for name, value in audio.items() if name in _SAFE_AUDIO}:
        yield from_wire(Opaque(choice=choice), Piece("message", {"audio": safe}))
    if sound := fields_except(audio, _SAFE_AUDIO):
        yield from_wire(Opaque(choice=choice, repeats_content=True), Piece("message", {"audio": sound}))
    if images := fields.get("images"):
        repeats = not is_picture(images)
        yield from_wire(Opaque(choice=choice, repeats_content=repeats), Piece("message", {"images": images}))
    if items := fields.get("reasoning_items"):
        repeats = not is_unreadable(items)
        yield from_wire(Opaque(choice=choice, repeats_content=repeats), Piece("message", {"reasoning_items": items}))
    yield from read_other_fields(others, "message", choice)


def _read_quote(fields: dict[str, Any], choice: int) -> Iterator[StreamEvent]:
    """Decodes citations of the latest text."""
    piece = Piece("message", fields)
    if text := readable.read(fields):
        yield from_wire(Quote(choice=choice, role="detail", kind="text", index=-1, text=text), piece)
    elif any(value is not None for value in fields.values()):
        yield from_wire(Opaque(choice=choice, repeats_content=True), piece)
