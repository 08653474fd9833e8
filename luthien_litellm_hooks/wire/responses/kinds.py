"""Kinds of blocks on the responses wire, items and parts as decoded and as sent, and access to their fields."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, cast

from pydantic import BaseModel

from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.wire.events import ToolCallDelta

ITEM_ADDED = "response.output_item.added"
ITEM_DONE = "response.output_item.done"
LIFECYCLE = frozenset({"response.created", "response.queued", "response.in_progress"})
FINISHES = {f"response.{reason}": reason for reason in ("completed", "incomplete", "failed", "cancelled")}


@dataclass(frozen=True, slots=True)
class Kind:
    """Kind of block: a part of an item (`within` its content or summary), or a call, itself an item.

    `text_event` and `part_event` are prefixes of its units' types. `field` holds its text in units and items
    that have all of it.
    """

    name: str
    block_kind: Literal["text", "reasoning", "tool_call"]
    item: str
    within: str
    field: str
    text_event: str
    part_event: str

    @property
    def delta(self) -> str:
        return f"{self.text_event}.delta"

    @property
    def done(self) -> str:
        return f"{self.text_event}.done"


TEXT = Kind("output_text", "text", "message", "content", "text", "response.output_text", "response.content_part")
REFUSAL = Kind("refusal", "text", "message", "content", "refusal", "response.refusal", "response.content_part")
SUMMARY = Kind(
    "summary_text",
    "reasoning",
    "reasoning",
    "summary",
    "text",
    "response.reasoning_summary_text",
    "response.reasoning_summary_part",
)
REASONING = Kind(
    "reasoning_text", "reasoning", "reasoning", "content", "text", "response.reasoning_text", "response.content_part"
)
CALL = Kind(
    "function_call",
    "tool_call",
    "function_call",
    "",
    "arguments",
    "response.function_call_arguments",
    "response.output_item",
)
CUSTOM_CALL = Kind(
    "custom_tool_call",
    "tool_call",
    "custom_tool_call",
    "",
    "input",
    "response.custom_tool_call_input",
    "response.output_item",
)

# A chat provider's reasoning where LiteLLM repeats a whole item.
REASONING_AS_TEXT = Kind(
    "output_text", "reasoning", "reasoning", "content", "text", "response.reasoning_text", "response.content_part"
)

# A part of a message; in a stream its units name no item.
AUDIO = Kind(
    "output_audio", "text", "message", "content", "transcript", "response.audio.transcript", "response.content_part"
)

PARTS: Mapping[str, Kind] = {kind.name: kind for kind in (TEXT, REFUSAL, SUMMARY, REASONING, AUDIO)}
CALLS: Mapping[str, Kind] = {kind.name: kind for kind in (CALL, CUSTOM_CALL)}
BY_DELTA: Mapping[str, Kind] = {kind.delta: kind for kind in (*PARTS.values(), *CALLS.values())}
BY_DONE: Mapping[str, Kind] = {kind.done: kind for kind in (*PARTS.values(), *CALLS.values())}
PART_ADDED = frozenset({f"{kind.part_event}.added" for kind in PARTS.values()})
PART_DONE = frozenset({f"{kind.part_event}.done" for kind in PARTS.values()})
ITEM_PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "custom_tool_call": "ctc",
    "local_shell_call": "lsh",
    "shell_call": "sh",
    "apply_patch_call": "apc",
    "computer_call": "cu",
}
"""Prefixes of ids that we make, by type of item; the default is the type."""
LISTS = ("summary", "content")
"""The fields of an item that hold its parts."""


@dataclass(slots=True, eq=False)
class Part:
    """Decoded block; `block` is its index among all blocks, `slot` its position in its item."""

    kind: Kind
    block: int
    slot: int
    pieces: list[str] = field(default_factory=list[str])
    is_ended: bool = False
    announced: str = ""  # text of its announcement, until deltas repeat it
    quoted: set[str] = field(default_factory=set[str])  # keys of its annotations
    results: Mapping[str, Any] | None = None  # of a server call


@dataclass(slots=True, eq=False)
class Item:
    """Decoded item and its blocks, by list and slot. One that `is_bare` has nothing to judge.

    An atomic item is decoded and sent when it is complete. An implicit one holds blocks whose units name no item.
    """

    type: str
    raw: object
    index: int | None = None
    parts: dict[tuple[str, int], Part] = field(default_factory=dict[tuple[str, int], Part])
    is_bare: bool = False
    is_atomic: bool = False
    is_implicit: bool = False
    block: int | None = None  # the block index of a result; it has no parts

    @property
    def is_unread(self) -> bool:
        """True before the first event of its content."""
        return not self.parts and self.block is None


class Origin(NamedTuple):
    """Source of an event.

    `raw` is the unit with the event and no other content, `position` its number in the stream; None if the
    event's unit has another purpose. `bare` is `raw` without unjudged fields, `extra_events` the number of events for
    these fields, and `restores` in each of those the position of their unit. `finals` has the slots of items in the
    last unit of a response. `quoted` is the source of a quote. A late event extends a block that has ended.
    """

    item: Item | None = None
    part: Part | None = None
    raw: BaseModel | None = None
    position: int = -1
    finals: Mapping[Item, int] = MappingProxyType({})
    bare: BaseModel | None = None
    extra_events: int = 0
    restores: int | None = None
    quoted: object = None
    is_late: bool = False


@dataclass(slots=True, eq=False)
class SentItem:
    """Item under construction for the client; `source` is its decoded item, `template` the raw item to copy.

    Its id may differ from the template's only if `is_changed`. `judged` are its results as the policy got them,
    `results` as it released them.
    """

    type: str
    template: object
    source: Item | None = None
    index: int = -1
    id: str = ""
    is_changed: bool = False
    is_done: bool = False
    is_cut: bool = False
    parts: "list[SentPart]" = field(default_factory=list["SentPart"])
    judged: Mapping[str, Any] | None = None
    results: Mapping[str, Any] | None = None


@dataclass(slots=True, eq=False)
class SentPart:
    """Block under construction for the client; `index` is its position in its list, `head` the first event of a call.

    `quotes` has its released annotations by their key, None for an unchanged one. `done` has the types of its
    closing units. With `has_own_delta` a delta of ours has sent text, so no announcement may repeat it.
    """

    item: SentItem
    kind: Kind
    index: int
    source: Part | None = None
    head: ToolCallDelta | None = None
    pieces: list[str] = field(default_factory=list[str])
    done: set[str] = field(default_factory=set[str])
    has_own_delta: bool = False
    quotes: dict[str, object] = field(default_factory=dict[str, object])

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def is_implicit(self) -> bool:
        return self.item.source is not None and self.item.source.is_implicit

    def place(self) -> dict[str, Any]:
        """Returns the fields of a unit that name its part."""
        within = {f"{self.kind.within}_index": self.index} if self.kind.within else {}
        return {"item_id": self.item.id, "output_index": self.item.index, **within}


@dataclass(frozen=True, slots=True)
class HeldAnnouncement:
    """Announcement of an item without a sent block; `position` is its number in the provider's stream."""

    raw: BaseModel
    position: int
    is_complete: bool


def get(thing: object, name: str) -> Any:
    """Returns a field of a unit, an item or a part, None if absent. LiteLLM uses models and dicts for them.

    Asking a model for an undeclared field is slow."""
    if isinstance(thing, dict):
        return cast(dict[str, Any], thing).get(name)
    if isinstance(thing, BaseModel):
        value, extra = thing.__dict__.get(name), thing.__pydantic_extra__
        return extra.get(name) if value is None and extra else value
    return getattr(thing, name, None)


def string(thing: object, name: str) -> str | None:
    """Returns a field that is a string or absent. Raises `WireError` for another value."""
    value: object = get(thing, name)
    if value is None or isinstance(value, str):
        return value
    raise WireError(f"{name!r} of an item is not a string")


def fields(thing: object) -> dict[str, Any]:
    """Returns the set fields of an item or a part."""
    if isinstance(thing, BaseModel):
        every = {**thing.__dict__, **(thing.model_extra or {})}
    else:
        every = cast(dict[str, Any], thing) if isinstance(thing, dict) else {}
    return {name: value for name, value in every.items() if value is not None}


def pieces(item: object, within: str) -> list[Any]:
    """Returns the parts in one list of an item."""
    found: object = get(item, within)
    return cast(list[Any], found) if isinstance(found, list) else []


def changed(thing: object, **changes: object) -> Any:
    """Returns a copy of `thing` with `changes`; `thing` itself if they change nothing."""
    changes = {name: value for name, value in changes.items() if get(thing, name) != value}
    if not changes:
        return thing
    if isinstance(thing, BaseModel):
        return thing.model_copy(update=changes)
    return {**fields(thing), **changes}


def without(thing: object, names: Iterable[str]) -> Any:
    """Returns a copy of `thing` without the fields `names`; `thing` itself if it has none of them."""
    names = [name for name in names if get(thing, name) is not None]
    if not names:
        return thing
    if not isinstance(thing, BaseModel):
        return {name: value for name, value in cast(dict[str, Any], thing).items() if name not in names}
    copied = thing.model_copy(update={name: None for name in names if name in type(thing).model_fields})
    for name in names:
        (copied.__pydantic_extra__ or {}).pop(name, None)
    return copied


def plain(value: Any) -> Any:
    """Returns `value` as JSON without null fields: LiteLLM's models set every field."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", warnings=False)
    if isinstance(value, dict):
        return {name: plain(part) for name, part in cast(dict[str, Any], value).items() if part is not None}
    return [plain(part) for part in cast(list[Any], value)] if isinstance(value, list) else value


def key_of(value: object) -> str:
    """Returns a key that is the same for equal structures."""
    return json.dumps(plain(value), sort_keys=True, default=repr)


def text_of(thing: object, kind: Kind) -> str:
    """Returns the text of a part, a call or a `done` event."""
    text: object = get(thing, kind.field)
    return text if isinstance(text, str) else ""


def part_kind(part: object) -> Kind | None:
    """Returns the kind of a streamed part, None if it is not judged."""
    type: object = get(part, "type")
    return PARTS.get(type) if isinstance(type, str) else None


def kind_of(item_type: str, part: object) -> Kind | None:
    """Returns the kind of a part of an item, None if it is not judged."""
    kind = part_kind(part)
    return REASONING_AS_TEXT if kind is TEXT and item_type == "reasoning" else kind


def text_of_item(item: object) -> str:
    """Returns the text of an item's judged parts."""
    kinds = [
        (part, kind) for within in LISTS for part in pieces(item, within) if (kind := kind_of(get(item, "type"), part))
    ]
    return "".join(text_of(part, kind) for part, kind in kinds)
