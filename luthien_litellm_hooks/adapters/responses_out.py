"""What has left of a response: its items, their blocks, and what an item says in the end."""

from dataclasses import dataclass, field
from typing import Any, cast

from pydantic import BaseModel

from luthien_litellm_hooks.adapters.responses_actions import ACTIONS, as_judged
from luthien_litellm_hooks.adapters.responses_parts import (
    CALLS,
    ITEM_PREFIXES,
    LISTS,
    TEXT,
    Item,
    Kind,
    Part,
    changed,
    get,
    kind_of,
    pieces,
    text_of,
    whole_text,
)
from luthien_litellm_hooks.events import ToolCallDelta


@dataclass(slots=True, eq=False)
class ItemOut:
    """An item that has begun to leave; `item` is what it was read from, `base` what it is written like."""

    index: int
    id: str
    type: str
    base: object
    item: Item | None = None
    is_done: bool = False
    parts: "list[PartOut]" = field(default_factory=list["PartOut"])


@dataclass(slots=True, eq=False)
class PartOut:
    """A block that has begun to leave. `index` counts those of its list; `head` is that of a call."""

    out: ItemOut
    kind: Kind
    index: int
    came: Part | None = None
    head: ToolCallDelta | None = None
    said: list[str] = field(default_factory=list[str])
    done: set[str] = field(default_factory=set[str])
    is_spelled: bool = False  # in a delta of ours, so that no other may repeat it

    @property
    def text(self) -> str:
        return "".join(self.said)

    def place(self) -> dict[str, Any]:
        within = {f"{self.kind.within}_index": self.index} if self.kind.within else {}
        return {"item_id": self.out.id, "output_index": self.out.index, **within}

    def written_like(self, base: object) -> Any:
        """The part as `base` has it, or with the text that has left instead."""
        if self.came is not None and text_of(base, self.kind) == self.text:
            return base
        rest: dict[str, Any] = {"annotations": [], "logprobs": []} if self.kind is TEXT else {}
        return changed(base or {"type": self.kind.name}, **{self.kind.field: self.text}, **rest)


def new_part(kind: Kind) -> dict[str, Any]:
    return {"type": kind.name, kind.field: "", **({"annotations": [], "logprobs": []} if kind is TEXT else {})}


def final_item(out: ItemOut, base: object) -> Any:
    """The item as it has left; `base` itself if that is what it says."""
    if out.type in ACTIONS and out.parts:
        return _final_action(out, base)
    if out.type in CALLS and out.parts:
        return _final_call(out, base)
    if out.type not in ITEM_PREFIXES:
        return base
    changes = _new_id(out)
    said = [part.text for within in LISTS for part in out.parts if part.kind.within == within]
    if whole_text(base) != "".join(said):
        changes |= _final_parts(out, base)
    if get(base, "status") == "in_progress":
        changes["status"] = "completed"
    return changed(base, **changes)


def _final_parts(out: ItemOut, base: object) -> dict[str, Any]:
    """What of an item becomes of what has left, where that is not what it says."""
    changes: dict[str, Any] = {"encrypted_content": None} if get(base, "encrypted_content") else {}
    for within in LISTS:
        came = pieces(base, within)
        parts = [part for part in out.parts if part.kind.within == within]
        said = [part.written_like(_at(came, part.came.slot if part.came else None)) for part in parts]
        for slot, part in enumerate(came):
            if kind_of(out.type, part) is None:
                said.insert(slot, part)
        if said != came:
            changes[within] = said
    return changes


def _final_call(out: ItemOut, base: object) -> Any:
    [part] = out.parts
    changes = {**_new_id(out), part.kind.field: part.text}
    if part.head is not None:
        changes |= {"name": part.head.name, "call_id": part.head.id}
    if get(base, "status") == "in_progress":
        changes["status"] = "completed"
    return changed(base, **changes)


def _final_action(out: ItemOut, base: object) -> Any:
    [part] = out.parts
    changes = {**_new_id(out), **as_judged(base, part.kind, part.text)}
    if part.head is not None and get(base, "call_id") is not None:
        changes["call_id"] = part.head.id
    if get(base, "status") == "in_progress":
        changes["status"] = "completed"
    return changed(base, **changes)


def _new_id(out: ItemOut) -> dict[str, Any]:
    """The id of an item, unless it is the one that it came with."""
    return {"id": out.id} if out.item is None or get(out.item.came, "id") != out.id else {}


def _at(parts: list[Any], slot: int | None) -> Any:
    return parts[slot] if slot is not None and 0 <= slot < len(parts) else None


def _same_reasoning(response: object, output: list[Any]) -> bool:
    came, left = (
        [id(item) for item in items if get(item, "type") == "reasoning"]
        for items in (pieces(response, "output"), output)
    )
    return came == left


def _spoken(items: list[ItemOut]) -> str:
    return "".join(part.text for out in items for part in out.parts if part.kind is TEXT)


def other_fields(response: object, output: list[Any], items: list[ItemOut]) -> dict[str, Any]:
    """What fields of a response besides its output must say when that says `output`."""
    extra = (response.model_extra or {}) if isinstance(response, BaseModel) else {}
    changes: dict[str, Any] = {}
    if "output_text" in extra:
        changes["output_text"] = _spoken(items)
    own = extra.get("provider_specific_fields")
    if isinstance(own, dict) and "thinking_blocks" in own and not _same_reasoning(response, output):
        kept = {name: value for name, value in cast(dict[str, Any], own).items() if name != "thinking_blocks"}
        changes["provider_specific_fields"] = kept
    return changes
