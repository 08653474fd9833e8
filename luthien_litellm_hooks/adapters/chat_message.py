"""A chat message or delta: the events in its fields, and the fields that say just some events."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

from luthien_litellm_hooks.adapters import chat_calls, chat_parts, readable
from luthien_litellm_hooks.adapters.chat_calls import Tool, UnknownCalls
from luthien_litellm_hooks.adapters.chat_parts import CAME, MESSAGE_FIELDS, PLAIN_FIELDS, REASONING_FIELDS, Piece
from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import (
    Finish,
    Opaque,
    Quote,
    ReasoningDelta,
    Start,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    Unknown,
    from_wire,
)

_SAFE_AUDIO = frozenset({"id", "expires_at"})
_OWN = "provider_specific_fields"
_OWN_REFUSAL = f"{_OWN}.refusal"  # LiteLLM puts a full response's there, and a stream's into the delta
_CITATIONS = frozenset({"citation", "citations"})  # Claude's, in LiteLLM's words
_READ_FIELDS = MESSAGE_FIELDS | {"refusal", "audio", "annotations", "images", "reasoning_items"}


def read(fields: Mapping[str, Any], choice: int, unknown: UnknownCalls | None = None) -> Iterator[StreamEvent]:
    """The events in the fields of a delta, or, without `unknown`, of a message: reasoning, text, calls, and
    what no policy judges."""
    content: object = fields.get("content")
    is_plain = fields.keys() <= PLAIN_FIELDS and (content is None or isinstance(content, str))
    if not is_plain:
        yield from _read_reasoning(fields, choice, is_delta=unknown is not None)
    if content:
        yield from _read_content(content, choice)
    if not is_plain:
        yield from _read_other_texts(fields, choice)
    if not is_plain or "tool_calls" in fields:
        yield from chat_calls.read(fields, choice, unknown)
    if not is_plain:
        yield from _read_rest(fields, choice)


# Text


def _read_content(content: object, choice: int) -> Iterator[StreamEvent]:
    """The text in `content`; Mistral sends a list of parts for a string."""
    if isinstance(content, str):
        yield from_wire(TextDelta(choice=choice, text=content), CAME)
        return
    if not isinstance(content, list):
        raise WireError(f"the content of a chat completion is a {type(content).__name__}")
    parts = cast(list[object], content)
    if text := "".join(_texts(parts, "text")):
        yield from_wire(TextDelta(choice=choice, text=text), CAME)
    for part in parts:
        if not any(_is_of_type(part, kind) for kind in ("text", "thinking")):
            is_known = any(_is_of_type(part, kind) for kind in ("reference", "image_url"))
            event = Opaque(choice=choice, repeats=True) if is_known else Unknown(choice=choice, kind="part of a text")
            yield from_wire(event, Piece("message", {"content": [part]}))


def _read_other_texts(fields: Mapping[str, Any], choice: int) -> Iterator[StreamEvent]:
    if refusal := chat_parts.text_in(fields, "refusal"):
        yield from_wire(TextDelta(choice=choice, text=refusal, channel="refusal"), CAME)
    own: object = fields.get(_OWN)
    if isinstance(own, dict) and (refusal := chat_parts.text_in(cast(dict[str, Any], own), "refusal")):
        yield from_wire(TextDelta(choice=choice, text=refusal, channel=_OWN_REFUSAL), CAME)
    if transcript := chat_parts.text_in(_audio_of(fields), "transcript"):
        yield from_wire(TextDelta(choice=choice, text=transcript, channel="audio"), CAME)


def _audio_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    return chat_parts.fields_of(fields["audio"], "audio") if "audio" in fields else {}


def _read_reasoning(fields: Mapping[str, Any], choice: int, *, is_delta: bool) -> Iterator[StreamEvent]:
    """The reasoning; "" where there is only a signature. What is redacted is for the provider alone."""
    came = {name: fields[name] for name in REASONING_FIELDS if name in fields}
    blocks = _listed(came, "thinking_blocks")
    if redacted := [block for block in blocks if _is_of_type(block, "redacted_thinking")]:
        came["thinking_blocks"] = [block for block in blocks if not _is_of_type(block, "redacted_thinking")]
    text = _reasoning_text(fields, is_delta=is_delta)
    if text or any(came[name] for name in came.keys() - {"reasoning_content", "reasoning"}):
        came = {name: value for name, value in came.items() if value}
        yield from_wire(ReasoningDelta(choice=choice, text=text), Piece("message", came))
    if redacted:
        yield from_wire(Opaque(choice=choice), Piece("message", {"thinking_blocks": redacted}))


def _reasoning_text(fields: Mapping[str, Any], *, is_delta: bool) -> str:
    """All that is said as reasoning, once: LiteLLM gives it as a text, and again in the provider's own form."""
    said = chat_parts.text_in(fields, "reasoning_content")
    details = _listed(fields, "reasoning_details")
    content: object = fields.get("content")
    sources = [
        [chat_parts.text_in(fields, "reasoning")],
        [*_texts(_listed(fields, "thinking_blocks"), "thinking")],
        [*_texts(cast(list[object], content) if isinstance(content, list) else [], "thinking")],
        [*_texts(details, "text"), *_texts(details, "summary")],
    ]
    if not is_delta:  # in a stream these say at the end what was said before
        sources += [[*_texts(_listed(item, "summary"), "text")] for item in _listed(fields, "reasoning_items")]
    for texts in sources:
        said += "" if _repeat(texts, said) else "".join(texts)
    return said


def _repeat(texts: list[str], said: str) -> bool:
    """Whether `said` has all the texts in it, in their order."""
    place = 0
    for text in texts:
        found = said.find(text, place)
        if found < 0:
            return False
        place = found + len(text)
    return True


def _texts(parts: list[object], kind: str) -> Iterator[str]:
    """The texts of the parts of a `kind`; a part's text is a string, or again a list of parts."""
    for part in parts:
        text: object = cast(dict[str, Any], part).get(kind) if isinstance(part, dict) else None
        if isinstance(text, str):
            yield text
        elif isinstance(text, list):
            yield "".join(_texts(cast(list[object], text), "text"))


def _listed(fields: object, name: str) -> list[object]:
    """The list in a field. Raises `WireError` if there is something else."""
    found: object = cast(Mapping[str, Any], fields).get(name) if isinstance(fields, Mapping) else fields
    if found is not None and not isinstance(found, list):
        raise WireError(f"the {name} of a chat completion are a {type(found).__name__}")
    return cast(list[object], found or [])


def _is_of_type(block: object, kind: str) -> bool:
    return isinstance(block, dict) and cast(dict[str, Any], block).get("type") == kind


# Fields beside the text


def _read_rest(fields: Mapping[str, Any], choice: int) -> Iterator[StreamEvent]:
    left = chat_parts.rest(fields, _READ_FIELDS)
    yield from _read_quote({"annotations": fields.get("annotations")}, choice)
    own: object = left.get(_OWN)
    if isinstance(own, dict):
        nested = cast(dict[str, Any], own)
        for name in nested.keys() & _CITATIONS:
            yield from _read_quote({_OWN: {name: nested[name]}}, choice)
        left[_OWN] = chat_parts.rest(nested, _CITATIONS | {"refusal"})
    audio = chat_parts.rest(_audio_of(fields), frozenset({"transcript"}))
    if safe := {name: value for name, value in audio.items() if name in _SAFE_AUDIO}:
        yield from_wire(Opaque(choice=choice), Piece("message", {"audio": safe}))
    if sound := chat_parts.rest(audio, _SAFE_AUDIO):
        yield from_wire(Opaque(choice=choice, repeats=True), Piece("message", {"audio": sound}))
    if images := fields.get("images"):
        is_picture = chat_parts.is_picture(images)
        yield from_wire(Opaque(choice=choice, repeats=not is_picture), Piece("message", {"images": images}))
    if items := fields.get("reasoning_items"):
        repeats = not chat_parts.is_unreadable(items)
        yield from_wire(Opaque(choice=choice, repeats=repeats), Piece("message", {"reasoning_items": items}))
    yield from chat_parts.read_rest(left, "message", choice)


def _read_quote(fields: dict[str, Any], choice: int) -> Iterator[StreamEvent]:
    """Citations of the latest text."""
    piece = Piece("message", fields)
    if text := readable.read(fields):
        yield from_wire(Quote(choice=choice, role="detail", kind="text", index=-1, text=text), piece)
    elif any(value is not None for value in fields.values()):
        yield from_wire(Opaque(choice=choice, repeats=True), piece)


# The way out


class Draft:
    """One choice in the making: its message or delta, and its other fields."""

    def __init__(self, *, is_delta: bool) -> None:
        self._is_delta = is_delta
        self._message: dict[str, Any] = {}
        self._texts: dict[str, str] = {}  # by channel
        self._parts: list[object] = []  # of the content, that are no text
        self._tools: list[Tool] = []
        self._places: dict[int, int] = {}  # of those that came, by the id of the object that they came as
        self.finish_reason: str | None = None
        self.choice: dict[str, Any] = {}
        """The fields of the choice itself."""

    def add(self, event: StreamEvent) -> None:
        """Says `event`, too."""
        piece = event.part if isinstance(event.part, Piece) else None
        if isinstance(event, TextDelta):
            self._texts[event.channel] = self._texts.get(event.channel, "") + event.text
        elif isinstance(event, ToolCallDelta):
            self._add_call(event, piece)
        elif isinstance(event, ReasoningDelta):
            self._add_reasoning(event, piece)
        elif isinstance(event, Finish):
            self.finish_reason = event.reason
        elif isinstance(event, Start):
            self._message["role"] = piece.fields["role"] if piece is not None else "assistant"
            self._texts.setdefault("", "")
        elif isinstance(event, Quote) and piece is not None:
            chat_parts.merge(self._message, readable.written(piece.fields, event.text))
        elif isinstance(event, Opaque) and piece is not None:
            self._add_fields(piece)

    def _add_call(self, event: ToolCallDelta, piece: Piece | None) -> None:
        if event.form == "legacy_function":
            self._message["function_call"] = {"name": event.name, "arguments": event.arguments}
            return
        came = cast(Tool, piece.tool) if piece is not None else None
        self._places[id(came)] = len(self._tools)
        self._tools.append(chat_calls.written(event, came, is_delta=self._is_delta))

    def _add_reasoning(self, event: ReasoningDelta, piece: Piece | None) -> None:
        fields = dict(piece.fields) if piece is not None and piece.fields else {"reasoning_content": event.text}
        if (before := self._message.get("reasoning_content")) and "reasoning_content" in fields:
            fields["reasoning_content"] = before + fields["reasoning_content"]
        chat_parts.merge(self._message, fields)

    def _add_fields(self, piece: Piece) -> None:
        if piece.place == "choice":
            chat_parts.merge(self.choice, piece.fields)
        elif piece.place == "call":
            self._add_to_call(piece)
        elif "content" in piece.fields:
            self._parts += piece.fields["content"]
        else:
            chat_parts.merge(self._message, piece.fields)

    def _add_to_call(self, piece: Piece) -> None:
        """Adds fields to an entry; one that nothing has been said of leaves with just these, or as it came."""
        tool = cast(Tool, piece.tool)
        place = self._places.get(id(tool))
        if place is not None:
            self._tools[place] = self._tools[place].model_copy(update=dict(piece.fields))
        elif not piece.fields:
            self._tools.append(tool)
        elif self._is_delta:
            bare = chat_calls.written(ToolCallDelta(index=getattr(tool, "index", None)), None, is_delta=True)
            self._tools.append(bare.model_copy(update=dict(piece.fields)))

    @property
    def says_more(self) -> bool:
        """Whether it says something outside of its content."""
        return bool(self._tools or self._texts.keys() - {""}) or "function_call" in self._message

    def message(self) -> dict[str, Any]:
        """The fields of the message or delta."""
        fields = dict(self._message)
        if "" in self._texts:
            fields["content"] = self._texts[""]
        if self._parts:
            text = self._texts.get("")
            fields["content"] = [*([{"type": "text", "text": text}] if text else ()), *self._parts]
        if "refusal" in self._texts:
            fields["refusal"] = self._texts["refusal"]
        if _OWN_REFUSAL in self._texts:
            fields[_OWN] = {**fields.get(_OWN, {}), "refusal": self._texts[_OWN_REFUSAL]}
        if "audio" in self._texts:
            fields["audio"] = {**fields.get("audio", {}), "transcript": self._texts["audio"]}
        if self._tools:
            fields["tool_calls"] = self._tools
        return fields
