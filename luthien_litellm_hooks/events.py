"""What an answer is made of, whatever wire format it came in: chunks, events and blocks.

An adapter turns each unit of the wire into a `Chunk` with its events; the assembler turns events
into blocks; the adapter of the way out turns events back into units of the wire.
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
"""The `choice` of an `Opaque` event that is about all choices of its response."""

_NO_EXTRA: Mapping[str, object] = MappingProxyType({})


def _no_extra() -> Mapping[str, object]:
    return _NO_EXTRA


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that a chunk says about one choice of the answer.

    `part` is the adapter's own: the piece of the wire that the event was read from. It is not
    copied by `dataclasses.replace`, so a changed event can never bring its original back.
    """

    choice: int = 0
    part: object = field(default=None, init=False, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start(Event):
    """The answer of this choice begins: nothing of it can leave before this does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame(Event):
    """A piece of a block that brings nothing to judge: its beginning, its end, or a `detail` of it
    (a signature, a citation). Only of wires that frame their blocks, and number them by `index`.

    A tool call begins with its first `ToolCallDelta`. No policy judges `other` blocks. A judging policy
    never gets an `unknown` one, because the adapter cannot read it: it is withheld.
    `follows` is the index of the server's call whose result the block is: it leaves after that call or not at all.
    """

    role: Literal["begin", "detail", "end"]
    kind: Literal["text", "reasoning", "tool_call", "other", "unknown"]
    index: int
    follows: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote(Frame):
    """Readable text in a field of the wire: a citation, the result of a server's call.

    Policies judge it as a text block of its own, complete at once. A changed `text` is written back into the
    fields that it was read from. A `detail` belongs to the block with its `index`; on wires that do not frame
    blocks, `index` is -1. A quote that is dropped takes its unit of the wire along; one that is `owed`
    leaves with an empty text, because the wire needs the unit. One that `repeats` what the response says leaves
    only if all of its choice left as it came so far.
    """

    text: str
    is_owed: bool = False
    repeats: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta(Event):
    """A piece of the text that the user reads. Never empty when it came from a provider.

    `index` is the number of its block, on wires that number blocks of text. Where a wire runs texts
    together, a blank line comes before one that `is_apart`. `channel` names the field of text that is not
    the ordinary one (chat's "refusal", "audio").
    """

    index: int | None = None
    text: str
    is_apart: bool = False
    channel: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningDelta(Event):
    """A piece of the model's reasoning. `text` may be empty (a signature, a redacted piece)."""

    index: int | None = None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallDelta(Event):
    """A piece of a tool call. The first piece of a call brings its `id` and `name`.

    `index` is the wire's number of the call, or None where the provider gives none.
    """

    index: int | None = None
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    form: ToolForm = "function"
    extra: Mapping[str, object] = field(default_factory=_no_extra)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish(Event):
    """The answer of this choice is complete; `reason` in the words of the wire format."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage(Event):
    """The provider's count of tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End(Event):
    """Nothing of the answer follows; of wires that say so in a chunk of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opaque(Event):
    """A piece that no policy judges: an image, an encrypted field, a ping.

    One that `repeats` (a field of unknown content, or one that quotes the response) leaves only if every
    judged block of its choice left as it came; `choice` may be `EVERY_CHOICE`.
    """

    repeats: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown(Opaque):
    """A unit, or a part of one, that the adapter does not know. It passes where no policy judges the response.

    A judging policy withholds it, unless the setting `unjudged` is `pass`. One that `is_malformed` may hide
    a piece of a known block, so it ends the response there. `kind` names it for operators: words of ours,
    not the provider's.
    """

    kind: str
    is_malformed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure(Opaque):
    """The provider says that its answer has failed; of wires that say so in a unit of the stream."""


StreamEvent = Start | Frame | TextDelta | ReasoningDelta | ToolCallDelta | Finish | Usage | End | Opaque
DeltaEvent = TextDelta | ReasoningDelta | ToolCallDelta
TEXTS = (TextDelta, ReasoningDelta)
DELTAS = (*TEXTS, ToolCallDelta)
"""For `isinstance`, which takes several times as long for a union."""


def channel_of(event: StreamEvent) -> str:
    """The channel of a text; that of anything else is the ordinary one."""
    return event.channel if isinstance(event, TextDelta) else ""


def text_of(event: StreamEvent) -> str:
    """What the event adds to a block."""
    if isinstance(event, TextDelta):
        return event.text
    if isinstance(event, ToolCallDelta):
        return event.arguments
    return event.text if isinstance(event, ReasoningDelta | Quote) else ""


EventT = TypeVar("EventT", bound=Event)


def from_wire(event: EventT, part: object) -> EventT:
    """`event` with the piece of the wire that it stands for; for adapters and the way out only."""
    object.__setattr__(event, "part", part)
    return event


@dataclass(frozen=True, slots=True)
class Chunk:
    """One unit of a wire format and the events in it.

    `raw` is the unit itself, as it came; None for a chunk that a policy built, and for what a policy
    before this one let out of a unit, which is then `part_of`. Like an event's `part` neither
    survives `dataclasses.replace`.
    """

    events: tuple[StreamEvent, ...]
    raw: object = field(default=None, init=False, repr=False, compare=False)
    part_of: "Chunk | None" = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def from_wire(cls, raw: object, events: tuple[StreamEvent, ...]) -> "Chunk":
        chunk = cls(events)
        object.__setattr__(chunk, "raw", raw)
        return chunk

    def some(self, events: tuple[StreamEvent, ...]) -> "Chunk":
        """A chunk with what is left of this one."""
        chunk = Chunk(events)
        object.__setattr__(chunk, "part_of", self.part_of or self)
        return chunk


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A whole tool call. `arguments` is the text that the model wrote, valid JSON or not.

    `extra` holds the fields of the wire that are none of ours (a signature, a caller); a changed
    call keeps them.
    """

    id: str | None
    name: str
    arguments: str
    form: ToolForm = "function"
    extra: Mapping[str, object] = field(default_factory=_no_extra, compare=False, repr=False)


class StreamBlock:
    """A part of an answer that policies judge as a whole.

    `choice` is the number of the answer it belongs to (0 unless the client asked for several),
    `place` its number among the blocks of all choices, in the order in which they began,
    `is_complete` whether all of it came. `overlaps` is true of blocks that the provider had open at once.
    """

    __slots__ = ("_joined", "_pieces", "choice", "is_complete", "overlaps", "place")

    def __init__(self, choice: int = 0) -> None:
        self.choice = choice
        self.place = 0
        self.is_complete = False
        self.overlaps = False
        self._pieces: list[str] = []
        self._joined = ""

    def append(self, piece: str) -> None:
        """Adds a piece; costs the same however long the block is."""
        self._pieces.append(piece)

    def _text(self) -> str:
        if self._pieces:
            self._joined += "".join(self._pieces)
            self._pieces.clear()
        return self._joined


class ContentStreamBlock(StreamBlock):
    """A block of text, all of one `channel` (see `TextDelta`).

    `is_quoted` is true of text that stands in a field of something else (see `Quote`); `host` is then the
    block that it belongs to, or the server's call whose result it is.
    """

    __slots__ = ("channel", "host", "is_quoted")

    def __init__(self, choice: int = 0, channel: str = "") -> None:
        super().__init__(choice)
        self.channel = channel
        self.is_quoted = False
        self.host: StreamBlock | None = None

    @property
    def content(self) -> str:
        """The text that came so far."""
        return self._text()


class ReasoningStreamBlock(StreamBlock):
    """A block of reasoning."""

    __slots__ = ()

    @property
    def content(self) -> str:
        """The reasoning that came so far."""
        return self._text()


class ToolCallStreamBlock(StreamBlock):
    """A tool call. `index` counts the calls of one choice from 0, in the order they came.

    `is_renamed` is true if a later piece brought another name: `name` is then all of them, joined.
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
        """The arguments that came so far, exactly as the model wrote them."""
        return self._text()

    @property
    def tool_call(self) -> ToolCall:
        """The call as it stands."""
        return ToolCall(self.id, self.name, self.arguments, self.form, MappingProxyType(self.extra))
