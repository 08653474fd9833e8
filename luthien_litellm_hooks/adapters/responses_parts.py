"""What the wire of responses is made of: the kinds of blocks, and items as they came."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, cast

from pydantic import BaseModel

ITEM_ADDED = "response.output_item.added"
ITEM_DONE = "response.output_item.done"
LIFECYCLE = frozenset({"response.created", "response.queued", "response.in_progress"})
FINISHES = {f"response.{reason}": reason for reason in ("completed", "incomplete", "failed", "cancelled")}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of block: a part of an item (`within` its content or summary), or a call, which is an item.

    `says` and `frame` begin the types of the events that bring it; `field` holds its text wherever
    it is said as a whole.
    """

    name: str
    brings: Literal["text", "reasoning", "tool_call"]
    item: str
    within: str
    field: str
    says: str
    frame: str

    @property
    def delta(self) -> str:
        return f"{self.says}.delta"

    @property
    def done(self) -> str:
        return f"{self.says}.done"


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

# What LiteLLM makes of a chat provider's reasoning, where it repeats a whole item.
REASONING_AS_TEXT = Kind(
    "output_text", "reasoning", "reasoning", "content", "text", "response.reasoning_text", "response.content_part"
)

# A part of a message, and what a stream says in units that name no item.
AUDIO = Kind(
    "output_audio", "text", "message", "content", "transcript", "response.audio.transcript", "response.content_part"
)

PARTS: Mapping[str, Kind] = {kind.name: kind for kind in (TEXT, REFUSAL, SUMMARY, REASONING, AUDIO)}
CALLS: Mapping[str, Kind] = {kind.name: kind for kind in (CALL, CUSTOM_CALL)}
BY_DELTA: Mapping[str, Kind] = {kind.delta: kind for kind in (*PARTS.values(), *CALLS.values())}
BY_DONE: Mapping[str, Kind] = {kind.done: kind for kind in (*PARTS.values(), *CALLS.values())}
PART_ADDED = frozenset({f"{kind.frame}.added" for kind in PARTS.values()})
PART_DONE = frozenset({f"{kind.frame}.done" for kind in PARTS.values()})
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
"""How the ids of items begin that may be ours; others begin with their type."""
LISTS = ("summary", "content")
"""Where an item holds its parts."""


@dataclass(slots=True, eq=False)
class Part:
    """A block as it came; `block` is its number, `slot` its place in its item."""

    kind: Kind
    block: int
    slot: int
    pieces: list[str] = field(default_factory=list[str])
    is_ended: bool = False
    announced: str = ""  # what of it its announcement said, and deltas are yet to repeat
    quoted: set[str] = field(default_factory=set[str])  # its annotations, by their keys
    results: Mapping[str, Any] | None = None  # of a call that the provider ran itself


@dataclass(slots=True, eq=False)
class Item:
    """An item as it came, and its blocks. A bare one has none that anybody could judge.

    One that `is_whole` is read when all of it has come, and leaves then; a `loose` one is none for the client.
    """

    type: str
    came: object
    index: int | None = None
    parts: dict[tuple[str, int], Part] = field(default_factory=dict[tuple[str, int], Part])
    is_bare: bool = False
    is_whole: bool = False
    is_loose: bool = False
    block: int | None = None  # the number of a result, which has no parts

    @property
    def is_unread(self) -> bool:
        """Nothing of it was judged yet."""
        return not self.parts and self.block is None


class Origin(NamedTuple):
    """Where an event was read from. `raw` is the unit of the wire that says it and nothing else of
    the answer, `position` its number; None if another unit says it besides what it is there for.

    `bare` is `raw` without what no policy judges; `guards` is the number of events that stand for that, and
    `restores` is the position in one of these. `finals` are the places of items in the last event of an answer.
    """

    item: Item | None = None
    part: Part | None = None
    raw: BaseModel | None = None
    position: int = -1
    finals: Mapping[Item, int] = MappingProxyType({})
    bare: BaseModel | None = None
    guards: int = 0
    restores: int | None = None
    quoted: object = None
    is_late: bool = False


def get(thing: object, name: str) -> Any:
    """A field of a unit, an item or a part, which LiteLLM makes of models and of dicts; None if absent.
    Asking a model for a field that is not declared is slow."""
    if isinstance(thing, BaseModel):
        value = thing.__dict__.get(name)
        return (thing.model_extra or {}).get(name) if value is None else value
    return cast(dict[str, Any], thing).get(name) if isinstance(thing, dict) else getattr(thing, name, None)


def fields(thing: object) -> dict[str, Any]:
    """All fields of an item or a part that say something."""
    if isinstance(thing, BaseModel):
        every = {**thing.__dict__, **(thing.model_extra or {})}
    else:
        every = cast(dict[str, Any], thing) if isinstance(thing, dict) else {}
    return {name: value for name, value in every.items() if value is not None}


def pieces(item: object, within: str) -> list[Any]:
    """The parts in one list of an item."""
    found: object = get(item, within)
    return cast(list[Any], found) if isinstance(found, list) else []


def changed(thing: object, **changes: object) -> Any:
    """A copy of `thing` with `changes`; `thing` itself if they change nothing."""
    changes = {name: value for name, value in changes.items() if get(thing, name) != value}
    if not changes:
        return thing
    if isinstance(thing, BaseModel):
        return thing.model_copy(update=changes)
    return {**fields(thing), **changes}


def without(thing: object, names: Iterable[str]) -> Any:
    """A copy of `thing` without some of its fields; `thing` itself if it has none of them."""
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
    """`value` as JSON has it, without what says nothing: LiteLLM's models fill in every field."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", warnings=False)
    if isinstance(value, dict):
        return {name: plain(part) for name, part in cast(dict[str, Any], value).items() if part is not None}
    return [plain(part) for part in cast(list[Any], value)] if isinstance(value, list) else value


def key_of(value: object) -> str:
    """What two equal structures have in common."""
    return json.dumps(plain(value), sort_keys=True, default=repr)


def text_of(thing: object, kind: Kind) -> str:
    """What a part, a call or a `done` event says as a whole."""
    text: object = get(thing, kind.field)
    return text if isinstance(text, str) else ""


def part_kind(part: object) -> Kind | None:
    """The kind of a part that is streamed; None if nobody judges it."""
    type: object = get(part, "type")
    return PARTS.get(type) if isinstance(type, str) else None


def kind_of(item_type: str, part: object) -> Kind | None:
    """The kind of a part of an item; None if nobody judges it."""
    kind = part_kind(part)
    return REASONING_AS_TEXT if kind is TEXT and item_type == "reasoning" else kind


def whole_text(item: object) -> str:
    """All that an item says in its governed parts."""
    kinds = [
        (part, kind) for within in LISTS for part in pieces(item, within) if (kind := kind_of(get(item, "type"), part))
    ]
    return "".join(text_of(part, kind) for part, kind in kinds)
