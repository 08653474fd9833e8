"""Wire-neutral model of a response: chunks, events, blocks.

An adapter decodes each unit of the wire to a `Chunk` with its events, the assembler assembles events to blocks,
and the adapter encodes events to units of the wire again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeVar

ToolForm = Literal["function", "custom", "legacy_function", "server"]
"""`function`: arguments are JSON. `custom`: arguments are free text. `legacy_function`: the chat
format's old `function_call`, one at most, without an id. `server`: the provider runs the call itself;
its result follows in the same response."""

EVERY_CHOICE = -1
"""`choice` of an `Opaque` event about all choices of its response."""

_NO_EXTRA: Mapping[str, object] = MappingProxyType({})


def _no_extra() -> Mapping[str, object]:
    return _NO_EXTRA


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of the events: one fact about one choice of the response.

    `source` belongs to the adapter: the piece of the wire that it decoded. `dataclasses.replace` does not
    copy it, so a changed event can never bring its original back.
    """

    choice: int = 0
    source: object = field(default=None, init=False, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseStart(Event):
    """Start of a choice: nothing of the choice can leave before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockMarker(Event):
    """Beginning or end of a block, or a `detail` of it (a signature, a citation): a piece without content to judge.

    Only wires that number their blocks by `index` have markers. A tool call begins with its first `ToolCallDelta`.
    No policy judges `other` blocks. The engine withholds an `unknown` block from a judging policy, because the
    adapter cannot read it. `follows` is the index of a server's call, if the block is the call's result: it leaves
    after that call or not at all.
    """

    role: Literal["begin", "detail", "end"]
    kind: Literal["text", "reasoning", "tool_call", "other", "unknown"]
    index: int
    follows: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote(BlockMarker):
    """Readable text in a field of the wire: a citation, the result of a server's call.

    Policies judge it as a text block of its own, complete at once. The adapter writes a changed `text` back into
    the same fields. A `detail` belongs to the block with its `index`; on wires without markers `index` is -1.
    A dropped quote takes its unit of the wire along, but if it `is_owed` it leaves with an empty text, because the
    wire needs the unit. A quote that `repeats_content` of the response leaves only if all of its choice left as it
    came so far.
    """

    text: str
    is_owed: bool = False
    repeats_content: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta(Event):
    """Piece of the text for the user. Never empty when it came from a provider.

    `index` is the number of its block, on wires that number blocks of text. Where a wire runs texts
    together, the sequencer sends a blank line before a text that `starts_paragraph`. `channel` names another field
    than the ordinary one (chat's "refusal", "audio").
    """

    index: int | None = None
    text: str
    starts_paragraph: bool = False
    channel: str = ""

    @classmethod
    def from_wire(cls, source: object, text: str, index: int | None) -> "TextDelta":
        """Returns a piece of ordinary text with its piece of the wire, in a third of the time."""
        delta = cls.__new__(cls)
        _set_choice(delta, 0)
        _set_source(delta, source)
        _set_index(delta, index)
        _set_text(delta, text)
        _set_starts_paragraph(delta, False)
        _set_channel(delta, "")
        return delta


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningDelta(Event):
    """Piece of the model's reasoning. `text` may be empty (a signature, a redacted piece)."""

    index: int | None = None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallDelta(Event):
    """Piece of a tool call. The first piece of a call brings its `id` and `name`.

    `index` is the wire's number of the call, or None if the provider gives none.
    """

    index: int | None = None
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    form: ToolForm = "function"
    extra: Mapping[str, object] = field(default_factory=_no_extra)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish(Event):
    """End of a choice; `reason` in the words of the wire format."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage(Event):
    """Provider's count of tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEnd(Event):
    """End of the response, on wires with a chunk of its own for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opaque(Event):
    """Piece without content for policies: an image, an encrypted field, a ping.

    One with `repeats_content` (a field of unknown content, or a quote of the response) leaves only if every
    judged block of its choice left as it came; `choice` may be `EVERY_CHOICE`.
    """

    repeats_content: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown(Opaque):
    """Unit, or part of a unit, unknown to the adapter. It leaves where no policy judges the response.

    Where one does, the engine withholds it, unless the setting `unjudged` is `pass`. A malformed one may hide
    a piece of a known block, so it ends the response there. `kind` names it for operators: words of ours,
    not the provider's.
    """

    kind: str
    is_malformed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Flagged(Opaque):
    """Policy's word to a client about a call that leaves: its own user is to decide. `id` is that of the call.

    Only a wire whose client `takes_flags` has it.
    """

    id: str
    explanation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderFailure(Opaque):
    """Provider's word that its response has failed, on wires with a unit of the stream for it."""


StreamEvent = (
    ResponseStart | BlockMarker | TextDelta | ReasoningDelta | ToolCallDelta | Finish | Usage | StreamEnd | Opaque
)
DeltaEvent = TextDelta | ReasoningDelta | ToolCallDelta
DELTAS = (TextDelta, ReasoningDelta, ToolCallDelta)
"""Types for `isinstance`, which takes several times as long for a union."""


def text_of(event: StreamEvent) -> str:
    """Returns the text that an event adds to a block."""
    if isinstance(event, (TextDelta, ReasoningDelta, Quote)):
        return event.text
    return event.arguments if isinstance(event, ToolCallDelta) else ""


EventT = TypeVar("EventT", bound=Event)
# Each chunk needs these setters, and `object.__setattr__` takes twice as long.
_set_choice, _set_source = (vars(Event)[name].__set__ for name in ("choice", "source"))
_set_index, _set_text, _set_starts_paragraph, _set_channel = (
    vars(TextDelta)[name].__set__ for name in ("index", "text", "starts_paragraph", "channel")
)


def from_wire(event: EventT, source: object) -> EventT:
    """Returns `event` with its piece of the wire; for adapters and the engine only."""
    _set_source(event, source)
    return event


@dataclass(frozen=True, slots=True)
class Chunk:
    """One unit of a wire format and the events in it.

    `raw` is the unit itself, as it came; None for a chunk that a policy built. If an earlier policy forwarded
    a part of a unit, `raw` is None, and `source_chunk` is the whole. `dataclasses.replace` copies neither.
    """

    events: tuple[StreamEvent, ...]
    raw: object = field(default=None, init=False, repr=False, compare=False)
    source_chunk: "Chunk | None" = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def from_wire(cls, raw: object, events: tuple[StreamEvent, ...]) -> "Chunk":
        chunk = cls.__new__(cls)
        _set_events(chunk, events)
        _set_raw(chunk, raw)
        _set_source_chunk(chunk, None)
        return chunk

    def subset(self, events: tuple[StreamEvent, ...]) -> "Chunk":
        """Returns a chunk with some events of this one."""
        chunk = Chunk(events)
        object.__setattr__(chunk, "source_chunk", self.source_chunk or self)
        return chunk


_set_events, _set_raw, _set_source_chunk = (vars(Chunk)[name].__set__ for name in ("events", "raw", "source_chunk"))


@dataclass(frozen=True, slots=True)
class ToolCall:
    """Whole tool call. `arguments` is the model's own text, valid JSON or not.

    `extra` holds other fields of the wire (a signature, a caller); a changed call keeps them.
    """

    id: str | None
    name: str
    arguments: str
    form: ToolForm = "function"
    extra: Mapping[str, object] = field(default_factory=_no_extra, compare=False, repr=False)


class StreamBlock:
    """Part of a response; policies judge it as a whole.

    `choice` is the number of its choice (0 unless the client asked for several), `place` its number among the
    blocks of all choices, in the order in which they began. It `is_complete` when all of it came. It `overlaps` if
    the provider had it open together with another.
    """

    __slots__ = ("_joined", "_pieces", "append", "choice", "extend", "is_complete", "overlaps", "place")

    def __init__(self, choice: int = 0) -> None:
        self.choice = choice
        self.place = 0
        self.is_complete = False
        self.overlaps = False
        self._pieces: list[str] = []
        self._joined = ""
        self.append = self._pieces.append
        """Adds a piece, at the same cost for a block of any length."""
        self.extend = self._pieces.extend
        """Adds several pieces."""

    def _text(self) -> str:
        if self._pieces:
            self._joined += "".join(self._pieces)
            self._pieces.clear()
        return self._joined


class ContentStreamBlock(StreamBlock):
    """Block of text, all of one `channel` (see `TextDelta`).

    If it `is_quoted`, it is the text of a `Quote`; `host` is then the block of that quote, or the server's call
    with that result.
    """

    __slots__ = ("channel", "host", "is_quoted")

    def __init__(self, choice: int = 0, channel: str = "") -> None:
        super().__init__(choice)
        self.channel = channel
        self.is_quoted = False
        self.host: StreamBlock | None = None

    @property
    def content(self) -> str:
        """Text so far."""
        return self._text()


class ReasoningStreamBlock(StreamBlock):
    """Block of reasoning."""

    __slots__ = ()

    @property
    def content(self) -> str:
        """Reasoning so far."""
        return self._text()


class ToolCallStreamBlock(StreamBlock):
    """Tool call. `index` counts the calls of one choice from 0, in the order they came.

    It `is_renamed` if a later piece brought another name: `name` then joins all of them.
    """

    __slots__ = ("extra", "form", "id", "index", "is_renamed", "name")

    def __init__(self, index: int, choice: int = 0, form: ToolForm = "function") -> None:
        super().__init__(choice)
        self.index = index
        self.id: str | None = None
        self.name = ""
        self.is_renamed = False
        self.form: ToolForm = form
        self.extra: dict[str, object] = {}

    @property
    def arguments(self) -> str:
        """Arguments so far, exactly as the model wrote them."""
        return self._text()

    @property
    def tool_call(self) -> ToolCall:
        """The call so far."""
        return ToolCall(self.id, self.name, self.arguments, self.form, MappingProxyType(self.extra))
