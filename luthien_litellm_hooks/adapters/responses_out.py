"""What has left of a response: its items, their blocks, and what an item says in the end."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from luthien_litellm_hooks.adapters.readable import written
from luthien_litellm_hooks.adapters.responses_actions import ACTIONS, RESULTS, as_judged, emptied, placed, results_of
from luthien_litellm_hooks.adapters.responses_parts import (
    AUDIO,
    CALLS,
    ITEM_PREFIXES,
    LISTS,
    TEXT,
    Item,
    Kind,
    Part,
    changed,
    get,
    key_of,
    kind_of,
    pieces,
    text_of,
    whole_text,
    without,
)
from luthien_litellm_hooks.events import ToolCallDelta


@dataclass(slots=True, eq=False)
class ItemOut:
    """An item that has begun to leave; `item` is what it was read from, `base` what it is written like.

    One whose id differs from that of `base` keeps it only while `is_own` is false. `judged` is what a policy read
    of its results, and `results` what left of that.
    """

    type: str
    base: object
    item: Item | None = None
    index: int = -1
    id: str = ""
    is_own: bool = False
    is_announced: bool = False
    is_done: bool = False
    is_cut: bool = False
    parts: "list[PartOut]" = field(default_factory=list["PartOut"])
    judged: Mapping[str, Any] | None = None
    results: Mapping[str, Any] | None = None

    def take_results(self, judged: Mapping[str, Any], text: str | None) -> None:
        """Notes what left of the results: all of them, or `text`."""
        self.judged = self.results = judged
        if text is not None:
            empty = {name: emptied(value) for name, value in judged.items()}
            self.results = written(judged, text) if text else empty


@dataclass(slots=True, eq=False)
class PartOut:
    """A block that has begun to leave. `index` counts those of its list; `head` is that of a call.

    `quotes` are its annotations that left, by the keys of those that came; None is one that is still the same.
    """

    out: ItemOut
    kind: Kind
    index: int
    came: Part | None = None
    head: ToolCallDelta | None = None
    said: list[str] = field(default_factory=list[str])
    done: set[str] = field(default_factory=set[str])
    is_spelled: bool = False  # in a delta of ours, so that no other may repeat it
    quotes: dict[str, object] = field(default_factory=dict[str, object])

    @property
    def text(self) -> str:
        return "".join(self.said)

    @property
    def is_loose(self) -> bool:
        return self.out.item is not None and self.out.item.is_loose

    def place(self) -> dict[str, Any]:
        within = {f"{self.kind.within}_index": self.index} if self.kind.within else {}
        return {"item_id": self.out.id, "output_index": self.out.index, **within}

    def written_like(self, base: object) -> Any:
        """The part as `base` has it, or with the text that has left instead."""
        if self.came is not None and text_of(base, self.kind) == self.text:
            return _annotated(base, self.quotes)
        rest: dict[str, Any] = {"annotations": [], "logprobs": []} if self.kind is TEXT else {}
        base = without(base, ("data",)) if self.kind is AUDIO else base
        return changed(base or {"type": self.kind.name}, **{self.kind.field: self.text}, **rest)


def new_part(kind: Kind) -> dict[str, Any]:
    return {"type": kind.name, kind.field: "", **({"annotations": [], "logprobs": []} if kind is TEXT else {})}


def final_item(out: ItemOut, base: object) -> Any:
    """The item as it has left; `base` itself if that is what it says."""
    changes: dict[str, Any] = {}
    if get(base, "id") != out.id and (out.is_own or out.item is None):
        changes["id"] = out.id
    if out.type in RESULTS:
        changes |= _final_results(out, base)
    elif out.type in ACTIONS and out.parts:
        changes |= _final_action(out, base)
    elif out.type in CALLS and out.parts:
        changes |= _final_call(out, base)
    elif out.type in LISTED:
        changes |= _final_texts(out, base)
    else:
        return changed(base, **changes)
    if get(base, "status") == "in_progress":
        changes["status"] = "incomplete" if out.is_cut else "completed"
    return changed(base, **changes)


LISTED = ("message", "reasoning")
"""The items that are lists of parts."""
GOVERNED = frozenset((*LISTED, *CALLS, *ACTIONS, *RESULTS, *ITEM_PREFIXES))
"""The items that say something to judge."""


def as_announced(out: ItemOut, came: object) -> Any:
    """A whole item as its announcement has it, without what did not leave; its end says the rest."""
    changes: dict[str, Any] = {"id": out.id} if get(came, "id") != out.id and out.is_own else {}
    if out.parts and out.type in ACTIONS:
        [part] = out.parts
        changes |= as_judged(came, part.kind, part.text, is_partial=True) | _final_name(part, came)
    elif out.parts:
        changes[out.parts[0].kind.field] = ""
    return changed(came, **changes, **_final_results(out, came))


def _final_texts(out: ItemOut, base: object) -> dict[str, Any]:
    said = [part.text for within in LISTS for part in out.parts if part.kind.within == within]
    if whole_text(base) != "".join(said):
        return _final_parts(out, base)
    quotes = {key: quote for part in out.parts for key, quote in part.quotes.items()}
    lists = {within: [_annotated(part, quotes) for part in pieces(base, within)] for within in LISTS}
    return {within: parts for within, parts in lists.items() if parts}


def _annotated(part: object, quotes: Mapping[str, object]) -> Any:
    """A part with those of its annotations that left."""
    came = pieces(part, "annotations")
    keys = [key for annotation in came if (key := key_of(annotation)) in quotes]
    if len(keys) == len(came) and not any(quotes[key] is not None for key in keys):
        return part
    as_came = {key_of(annotation): annotation for annotation in came}
    return changed(part, annotations=[as_came[key] if quotes[key] is None else quotes[key] for key in keys])


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


def _final_call(out: ItemOut, base: object) -> dict[str, Any]:
    [part] = out.parts
    head = part.head
    return {part.kind.field: part.text, **({"name": head.name, "call_id": head.id} if head is not None else {})}


def _final_action(out: ItemOut, base: object) -> dict[str, Any]:
    [part] = out.parts
    changes = as_judged(base, part.kind, part.text) | _final_name(part, base) | _final_results(out, base)
    if part.head is not None and get(base, "call_id") is not None:
        changes["call_id"] = part.head.id
    return changes


def _final_name(part: PartOut, base: object) -> dict[str, Any]:
    is_named = part.head is not None and get(base, "name") is not None
    return {"name": part.head.name} if part.head is not None and is_named else {}


def _final_results(out: ItemOut, base: object) -> dict[str, Any]:
    if out.type not in RESULTS and out.type not in ACTIONS:
        return {}
    judged = out.judged
    if judged is None and out.parts and (came := out.parts[0].came) is not None:
        judged = came.results
    if judged is None and out.type not in RESULTS:
        return {}
    left = out.results or {}
    came = results_of(base)
    changes = {name: left[name] if name in left else emptied(value) for name, value in came.items()}
    return placed(base, {name: value for name, value in changes.items() if value != came[name]})


def _at(parts: list[Any], slot: int | None) -> Any:
    return parts[slot] if slot is not None and 0 <= slot < len(parts) else None


def other_fields(response: object, items: Iterable[ItemOut]) -> dict[str, Any]:
    """What fields of a response besides its output must say of what left of `items`."""
    extra = (response.model_extra or {}) if isinstance(response, BaseModel) else {}
    if "output_text" not in extra:
        return {}
    return {"output_text": "".join(part.text for out in items for part in out.parts if part.kind is TEXT)}
