"""The items of a response on their way out: when each is announced, and when it ends."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast
from uuid import uuid4

from pydantic import BaseModel

from luthien_litellm_hooks.adapters.readable import read
from luthien_litellm_hooks.adapters.responses_actions import ACTIONS, says_no_more
from luthien_litellm_hooks.adapters.responses_fields import bare_item
from luthien_litellm_hooks.adapters.responses_out import GOVERNED, ItemOut, PartOut, as_announced, final_item, new_part
from luthien_litellm_hooks.adapters.responses_parts import (
    CALL,
    CALLS,
    ITEM_ADDED,
    ITEM_DONE,
    ITEM_PREFIXES,
    LISTS,
    TEXT,
    Item,
    Origin,
    changed,
    fields,
    get,
    pieces,
)
from luthien_litellm_hooks.adapters.responses_units import Units
from luthien_litellm_hooks.events import Frame, Quote

UnitsOut = Iterator[BaseModel]


@dataclass(frozen=True, slots=True)
class HeldBack:
    """The announcement of an item of which nothing has left yet."""

    raw: BaseModel
    position: int
    is_whole: bool


class Items:
    """Writes items, in the order in which they leave.

    A message or a reasoning is announced when the first of its blocks leaves; an item that `is_whole` leaves all
    at once.
    """

    def __init__(self, units: Units) -> None:
        self._units = units
        self.all: list[ItemOut] = []
        self._ids: set[str] = set()
        self._next_index = 0
        self.latest: dict[Item, ItemOut] = {}
        self.held_back: dict[Item, HeldBack] = {}
        self.kept: dict[Item, list[BaseModel]] = {}
        """The units of items that are not whole yet."""
        self._results: dict[Item, ItemOut] = {}  # those that began and have not ended
        self._ended: dict[Item, BaseModel | None] = {}  # the ends of those that did not begin yet

    def output(self) -> list[Any]:
        """The items of the response, as they have left."""
        for out in self.all:
            out.is_own = self._units.is_own
        return [final_item(out, out.base) for out in self.all]

    def write_bare(self, raw: BaseModel, item: Item) -> UnitsOut:
        """A unit of an item that says nothing to judge, or not yet."""
        yield from self.announce(item)
        if item not in self.latest and item.is_bare:
            self.open(item)
        out = self.latest.get(item)
        if out is not None:  # otherwise it is about something that did not leave
            is_done = get(raw, "type") == ITEM_DONE
            out.is_done, out.base = out.is_done or is_done, get(raw, "item") if is_done else out.base
            yield self._units.emit(raw, output_index=out.index)

    def let_bare_items_out(self, but: Item | None = None) -> UnitsOut:
        """The announcements of items that turned out to say nothing to judge."""
        for item in [item for item in self.held_back if item.is_bare and item is not but]:
            yield from self.announce(item)

    def announce(self, item: Item) -> UnitsOut:
        """The announcement of an item that was held back."""
        held = self.held_back.pop(item, None)
        if held is not None:
            out = self.open(item)
            came = get(held.raw, "item")
            empty: dict[str, Any] = {} if held.is_whole else {name: [] for name in LISTS if pieces(came, name)}
            yield self._units.emit(held.raw, output_index=out.index, item=changed(came, **empty))

    def open(self, item: Item | None, type: str = "", id: str | None = None, base: object = None) -> ItemOut:
        """An item that begins to leave."""
        out = ItemOut(type, base) if item is None else ItemOut(item.type, bare_item(item.came), item)
        return self.register(out, id)

    def register(self, out: ItemOut, id: str | None = None) -> ItemOut:
        """Gives an item its place among those that leave."""
        item = out.item
        out.index = self._next_index
        if item is not None:
            out.index = item.index if item.index is not None and not self._units.is_own else out.index
            id = get(item.came, "id")
            self.latest[item] = out
        self._next_index = max(self._next_index, out.index + 1)
        if not isinstance(id, str) or id in self._ids:
            id = f"{ITEM_PREFIXES.get(out.type, out.type)}_{uuid4().hex}"
        out.id = id
        self._ids.add(id)
        self.all.append(out)
        return out

    def close(self, out: ItemOut, raw: BaseModel | None = None) -> UnitsOut:
        """Ends an item that governed blocks are in."""
        if out.is_done or out.type not in GOVERNED:
            return
        yield from self.announce_whole(out)
        out.is_done = True
        if self._units.is_own:
            for part in out.parts:
                yield from self.close_part(part)
        out.is_own = self._units.is_own
        if raw is not None and out.item is not None:
            out.base = get(raw, "item")
            yield self._units.emit(raw, output_index=out.index, item=final_item(out, out.base))
        else:
            yield self._units.make(ITEM_DONE, output_index=out.index, item=final_item(out, out.base))

    def close_part(self, part: PartOut) -> UnitsOut:
        """What the end of a block still needs."""
        kind = part.kind
        if kind.name in ACTIONS or part.is_loose or part.out.index < 0:
            return
        if kind.done not in part.done:
            part.done.add(kind.done)
            rest: dict[str, Any] = {"logprobs": []} if kind is TEXT else {}
            if kind is CALL and part.head is not None:
                rest = {"name": part.head.name}
            yield self._units.make(kind.done, **part.place(), **{kind.field: part.text}, **rest)
        if kind.within and f"{kind.frame}.done" not in part.done:
            part.done.add(f"{kind.frame}.done")
            said = {**new_part(kind), kind.field: part.text}
            yield self._units.make(f"{kind.frame}.done", **part.place(), part=said)

    def close_all(self, more: Iterable[ItemOut], reason: str) -> UnitsOut:
        """Ends what is open, at the end of a response; a call that nobody else ended was cut off."""
        for out in dict.fromkeys((*self.all, *more)):
            is_call = out.type in CALLS or out.type in ACTIONS
            out.is_cut = reason != "completed" or (is_call and out.item is not None)
            yield from self.close(out)

    # Items that leave when they are whole

    def write_result(self, event: Frame, origin: Origin) -> UnitsOut:
        """A frame of an item that is a result: it leaves when both its text and its end are there."""
        item = origin.item
        if item is None:
            return
        if event.role == "begin":
            out = self._results[item] = self.latest.get(item) or ItemOut(item.type, bare_item(item.came), item)
            out.take_results(cast(dict[str, Any], origin.quoted), new_text(event, origin))
            if item in self._ended:
                yield from self._result_ends(item, self._ended.pop(item))
        elif item in self._results:
            yield from self._result_ends(item, origin.raw)
        else:
            self._ended[item] = origin.raw

    def _result_ends(self, item: Item, raw: BaseModel | None) -> UnitsOut:
        out = self._results.pop(item)
        yield from self.announce_whole(out)
        if raw is not None:
            yield from self.close(out, raw)

    def announce_whole(self, out: ItemOut) -> UnitsOut:
        """The units of an item before its end, all of which is known now."""
        if out.index >= 0:
            return
        kept = self.kept.pop(out.item, []) if out.item is not None else []
        own_id = get(out.base, "id") if out.item is None else None
        said = [raw for raw in kept if get(raw, "type") != ITEM_ADDED]
        if said and not self._says_no_more(out, said):
            self._units.is_own, kept = True, [raw for raw in kept if raw not in said]
        self.register(out, own_id if isinstance(own_id, str) else None)
        out.is_own = self._units.is_own
        if (self._units.is_own or not self._units.is_whole) and len(kept) == len(said) and not self._units.is_observing:
            new = changed(as_announced(out, {**fields(out.base), "id": out.id}), status="in_progress")
            yield self._units.make(ITEM_ADDED, output_index=out.index, item=new)
        for raw in kept:
            came = get(raw, "item")
            changes = {} if came is None else {"item": as_announced(out, came)}
            place = {"item_id": out.id} if self._units.is_own else {}
            yield self._units.emit(raw, output_index=out.index, **place, **changes)

    def _says_no_more(self, out: ItemOut, units: list[BaseModel]) -> bool:
        texts = [part.text for part in out.parts]
        return says_no_more(units, final_item(out, out.base) if out.type in ACTIONS else None, texts)


def new_text(event: Frame, origin: Origin) -> str | None:
    """The text of a quote that a policy changed."""
    return event.text if isinstance(event, Quote) and event.text != read(origin.quoted) else None
