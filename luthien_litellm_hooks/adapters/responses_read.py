"""What events of the responses wire, and whole responses, say."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pydantic import BaseModel

from luthien_litellm_hooks.adapters.responses_actions import ACTION_FIELDS, ACTIONS, arguments_of, is_early, name_of
from luthien_litellm_hooks.adapters.responses_parts import (
    BY_DELTA,
    BY_DONE,
    CALLS,
    CUSTOM_CALL,
    FINISHES,
    ITEM_ADDED,
    ITEM_DONE,
    LIFECYCLE,
    LISTS,
    PART_ADDED,
    PART_DONE,
    Item,
    Kind,
    Origin,
    Part,
    fields,
    get,
    kind_of,
    part_kind,
    pieces,
    text_of,
    whole_text,
)
from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import (
    Finish,
    Frame,
    Opaque,
    ReasoningDelta,
    Start,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    from_wire,
)

_ALIKE = ("type", "output_index", "content_index", "summary_index", "item_id")
_CALL_FIELDS = frozenset({"type", "status", "name", "call_id", "arguments", "input"})
_Events = Iterator[StreamEvent]


class Reader:
    """Reads one answer.

    Later units repeat what earlier ones brought. What only a repetition says (arguments without
    deltas, a call that only the last event has) is read from there, as if it had come in a delta.

    An action is read when all of it has come, and what came of it before then: its announcement may
    say part of it, which nobody could judge.
    """

    def __init__(self) -> None:
        self._items: dict[int, Item] = {}
        self._fresh: Item | None = None  # the latest item, while nothing of it has come
        self._blocks = 0
        self._positions = 0
        self._has_started = False
        self._thread: _Thread | None = None  # of the block that the latest unit brought a piece of
        self._readers: dict[str, Callable[[Any, int], _Events]] = {
            ITEM_ADDED: self._item_added,
            ITEM_DONE: self._item_done,
            **dict.fromkeys(LIFECYCLE, self._lifecycle),
            **dict.fromkeys(FINISHES, self._finish),
            **dict.fromkeys(BY_DELTA, self._delta),
            **dict.fromkeys(BY_DONE, self._done),
            **dict.fromkeys(PART_ADDED, self._part_added),
            **dict.fromkeys(PART_DONE, self._part_done),
        }

    def read(self, raw: BaseModel) -> Iterable[StreamEvent]:
        """The events of one unit of a stream."""
        position, self._positions = self._positions, self._positions + 1
        if self._thread is not None and self._thread.goes_on(raw):
            return (self._piece(*self._thread.of, raw.__dict__["delta"], Origin(raw=raw, position=position)),)
        self._thread = None
        _check(raw)
        if self._fresh is not None and self._index_of(raw) != self._fresh.index:
            self._fresh.is_bare, self._fresh = True, None
        return self._readers.get(get(raw, "type"), self._other)(raw, position)

    def read_full(self, response: BaseModel) -> _Events:
        """The events of a whole answer."""
        for came in pieces(response, "output"):
            yield from self._whole_item(Item(str(get(came, "type")), came))
        yield from_wire(Finish(reason=get(response, "status") or "completed"), Origin())

    def read_rest(self) -> _Events:
        """The events of actions that never were whole."""
        for item in self._items.values():
            if item.type in ACTIONS and not item.parts:
                yield from self._whole_item(item)

    # Units of a stream

    def _lifecycle(self, raw: BaseModel, position: int) -> _Events:
        event = Opaque() if self._has_started else Start()
        self._has_started = True
        yield from_wire(event, Origin(raw=raw, position=position))

    def _item_added(self, raw: BaseModel, position: int) -> _Events:
        came, index = get(raw, "item"), get(raw, "output_index")
        item = self._items[index] = Item(str(get(came, "type")), came, index)
        if item.type in ACTIONS:
            item.early.append((raw, position))
            return
        if item.type in CALLS:
            yield self._call_head(item, CALLS[item.type], Origin(raw=raw, position=position))
            part = item.parts["", 0]
            part.announced = "".join(part.pieces)
            return
        self._fresh = item
        yield from_wire(Opaque(), Origin(item, raw=raw, position=position))
        yield from self._catch_up(item, came)
        for part in item.parts.values():
            part.announced = "".join(part.pieces)

    def _part_added(self, raw: BaseModel, position: int) -> _Events:
        came = get(raw, "part")
        kind = part_kind(came)
        item = self._item_of(raw, kind)
        if item is None or kind is None or (kind.within, _slot(raw, kind)) in item.parts:
            yield from self._other(raw, position)
            return
        slot = _slot(raw, kind)
        yield self._begin(item, kind, slot, Origin(raw=raw, position=position))
        yield from self._top_up(item, kind, slot, text_of(came, kind))
        item.parts[kind.within, slot].announced = text_of(came, kind)

    def _delta(self, raw: BaseModel, position: int) -> _Events:
        kind, piece = BY_DELTA[get(raw, "type")], get(raw, "delta") or ""
        item = self._item_of(raw, kind)
        if item is None:
            raise WireError("a piece of a call came before the call")
        slot = _slot(raw, kind)
        if (kind.within, slot) not in item.parts:
            yield self._begin(item, kind, slot, Origin())
        part, origin = item.parts[kind.within, slot], Origin(raw=raw, position=position)
        if piece and part.announced.startswith(piece):
            part.announced = part.announced.removeprefix(piece)
            yield _frame("detail", item, part, origin)
        else:
            self._thread = None if part.announced else _Thread(raw, item, part)
            yield self._piece(item, part, piece, origin)

    def _done(self, raw: BaseModel, position: int) -> _Events:
        kind = BY_DONE[get(raw, "type")]
        yield from self._part_ends(raw, position, kind, text_of(raw, kind))

    def _part_done(self, raw: BaseModel, position: int) -> _Events:
        part, kind = get(raw, "part"), part_kind(get(raw, "part"))
        if kind is None:
            yield from self._other(raw, position)
        else:
            yield from self._part_ends(raw, position, kind, text_of(part, kind))

    def _part_ends(self, raw: BaseModel, position: int, kind: Kind, text: str) -> _Events:
        item = self._item_of(raw, kind)
        if item is None:
            raise WireError("a call ended before it began")
        slot = _slot(raw, kind)
        yield from self._top_up(item, kind, slot, text)
        yield _end(item, item.parts[kind.within, slot], Origin(raw=raw, position=position))

    def _item_done(self, raw: BaseModel, position: int) -> _Events:
        came, index = get(raw, "item"), self._index_of(raw)
        type = str(get(came, "type"))
        item = self._items.setdefault(index, Item(type, came, index))
        if item.type != type and not ACTIONS.keys().isdisjoint((item.type, type)):
            raise WireError("an action began or ended as something else")
        yield from self._catch_up(item, came)
        item.came, origin = came, Origin(item, raw=raw, position=position)
        *others, last = [*item.parts.values()] or [None]
        if last is None:
            item.is_bare, self._fresh = True, None
            yield from_wire(Opaque(), origin)
            return
        for part in others:
            if part is not None and not part.is_ended:
                yield _end(item, part, Origin())
        yield _end(item, last, origin)

    def _finish(self, raw: BaseModel, position: int) -> _Events:
        finals: dict[Item, object] = {}
        for index, came in enumerate(pieces(get(raw, "response"), "output")):
            item = self._find(came, index, finals)
            if item is None:
                item = Item(str(get(came, "type")), came)
                yield from self._whole_item(item)
            else:
                yield from self._catch_up(item, came)
            finals[item] = came
        yield from self.read_rest()
        reason = FINISHES[get(raw, "type")]
        yield from_wire(Finish(reason=reason), Origin(raw=raw, position=position, finals=finals))

    def _other(self, raw: BaseModel, position: int) -> _Events:
        """A detail of the block that it names, or something of an item that nobody judges."""
        item = self._items.get(self._index_of(raw))
        if item is not None and item.type in ACTIONS and not item.parts:
            item.early.append((raw, position))
            return
        if is_early(get(raw, "type")) and not (item is not None and is_early(f"response.{item.type}")):
            raise WireError("a piece of an action came before the action")
        if item is None or not item.parts:
            yield from_wire(Opaque(), Origin(item, raw=raw, position=position))
            return
        slots = [(within, get(raw, f"{within}_index")) for within in LISTS]
        part = next((item.parts[slot] for slot in slots if slot in item.parts), [*item.parts.values()][-1])
        yield _frame("detail", item, part, Origin(raw=raw, position=position))

    # Items and blocks

    def _item_of(self, raw: BaseModel, kind: Kind | None) -> Item | None:
        """The item that `raw` is about. Not every provider announces a message; every one a call."""
        index = self._index_of(raw)
        if index not in self._items and kind is not None and kind.within:
            self._items[index] = Item(kind.item, {"id": get(raw, "item_id"), "type": kind.item}, index)
        item = self._items.get(index)
        if item is not None and kind is not None and item.type != kind.item:
            raise WireError(f"a {item.type} was given a piece of a {kind.item}")
        return item

    def _index_of(self, raw: BaseModel) -> Any:
        """The number of the item that `raw` is about; one that has none may have its id."""
        index = get(raw, "output_index")
        if index is None and (mark := get(raw, "item_id") or get(get(raw, "item"), "id")) is not None:
            return next((item.index for item in self._items.values() if get(item.came, "id") == mark), None)
        return index

    def _find(self, came: object, index: int, taken: dict[Item, object]) -> Item | None:
        """The item that the last event repeats as `came`: the one with its id, or in its place."""
        free = [item for item in self._items.values() if item not in taken and item.type == get(came, "type")]
        for name in ("id", "call_id"):
            mark = get(came, name)
            for item in free:
                if mark is not None and get(item.came, name) == mark:
                    return item
        return next((item for item in free if item.index == index), None)

    def _whole_item(self, item: Item) -> _Events:
        """An item that came all at once."""
        yield from self._catch_up(item, item.came)
        for part in item.parts.values():
            if not part.is_ended:
                yield _end(item, part, Origin())
        if not item.parts:
            item.is_bare = True
            yield from_wire(Opaque(), Origin(item))

    def _catch_up(self, item: Item, came: object) -> _Events:
        """What of an item had not come before `came` said it."""
        if item.type in ACTIONS:
            if not item.parts:
                yield from self._action(item, came)
            return
        if item.type in CALLS:
            yield from self._top_up(item, CALLS[item.type], 0, text_of(came, CALLS[item.type]))
            return
        if item.parts and whole_text(came) == "".join(piece for part in item.parts.values() for piece in part.pieces):
            return
        for within in LISTS:
            for slot, part in enumerate(pieces(came, within)):
                kind = kind_of(item.type, part)
                if kind is not None and kind.within == within:
                    yield from self._top_up(item, kind, slot, text_of(part, kind))
                    if item.index is None:
                        yield _end(item, item.parts[within, slot], Origin())

    def _top_up(self, item: Item, kind: Kind, slot: int, text: str) -> _Events:
        """What `text` says more of a block than came. A text that says something else is not read:
        what leaves is written from what was judged."""
        if (kind.within, slot) not in item.parts:
            yield self._begin(item, kind, slot, Origin())
        part = item.parts[kind.within, slot]
        if not part.is_ended:
            so_far = "".join(part.pieces)
            if len(text) > len(so_far) and text.startswith(so_far):
                yield self._piece(item, part, text[len(so_far) :], Origin())

    def _begin(self, item: Item, kind: Kind, slot: int, origin: Origin) -> StreamEvent:
        if not kind.within:
            return self._call_head(item, kind, origin)
        return _frame("begin", item, self._add(item, kind, slot), origin)

    def _call_head(self, item: Item, kind: Kind, origin: Origin) -> StreamEvent:
        part = self._add(item, kind, 0)
        part.pieces.append(text_of(item.came, kind) if origin.raw is not None else "")
        event = ToolCallDelta(
            index=part.block,
            id=get(item.came, "call_id"),
            name=get(item.came, "name"),
            arguments=part.pieces[0],
            form="custom" if kind is CUSTOM_CALL else "function",
            extra={name: value for name, value in fields(item.came).items() if name not in _CALL_FIELDS},
        )
        return from_wire(event, Origin(item, part, origin.raw, origin.position))

    def _action(self, item: Item, came: object) -> _Events:
        """All that came of an action, now that it is whole."""
        item.came = came
        part = self._add(item, ACTIONS[item.type], 0)
        part.pieces.append(arguments_of(came))
        extra = {name: value for name, value in fields(came).items() if name not in _CALL_FIELDS | ACTION_FIELDS}
        head = ToolCallDelta(
            index=part.block,
            id=get(came, "call_id") or get(came, "id"),
            name=name_of(item.type),
            arguments=part.pieces[0],
            extra={**extra, "type": item.type},
        )
        raw, position = item.early[0] if item.early else (None, -1)  # its announcement
        yield from_wire(head, Origin(item, part, raw, position))
        for raw, position in item.early[1:]:
            yield _frame("detail", item, part, Origin(raw=raw, position=position))

    def _add(self, item: Item, kind: Kind, slot: int) -> Part:
        part = item.parts[kind.within, slot] = Part(kind, self._blocks, slot)
        self._blocks += 1
        return part

    def _piece(self, item: Item, part: Part, text: str, origin: Origin) -> StreamEvent:
        part.pieces.append(text)
        if part.kind.brings == "tool_call":
            form = "custom" if part.kind is CUSTOM_CALL else "function"
            event = ToolCallDelta(index=part.block, arguments=text, form=form)
        elif not text:
            return _frame("detail", item, part, origin)
        else:
            event = (TextDelta if part.kind.brings == "text" else ReasoningDelta)(index=part.block, text=text)
        return from_wire(event, Origin(item, part, origin.raw, origin.position))


class _Thread:
    """Pieces of one block, one after the other: units that are alike but for the piece."""

    def __init__(self, raw: BaseModel, item: Item, part: Part) -> None:
        self.of = item, part
        self._place = [raw.__dict__.get(name) for name in _ALIKE]

    def goes_on(self, raw: BaseModel) -> bool:
        """Whether `raw` is the next of them, and brings something."""
        said = raw.__dict__
        delta = said.get("delta")
        return isinstance(delta, str) and delta != "" and self._place == [said.get(name) for name in _ALIKE]


def _check(raw: BaseModel) -> None:
    """Fails if a unit has no type, or is about something that has no number, or brings what is no text."""
    numbers = (get(raw, "output_index"), get(raw, "content_index"), get(raw, "summary_index"))
    if not isinstance(get(raw, "type"), str) or not all(isinstance(number, int | None) for number in numbers):
        raise WireError("an event of a response has no type, or a number that is none")
    if not isinstance(get(raw, "delta"), str | None):
        raise WireError("an event of a response brought a piece that is no text")


def _slot(raw: BaseModel, kind: Kind) -> int:
    return get(raw, f"{kind.within}_index") or 0 if kind.within else 0


def _end(item: Item, part: Part, origin: Origin) -> StreamEvent:
    part.is_ended = True
    return _frame("end", item, part, origin)


def _frame(role: Any, item: Item, part: Part, origin: Origin) -> StreamEvent:
    event = Frame(role=role, kind=part.kind.brings, index=part.block)
    return from_wire(event, Origin(item, part, origin.raw, origin.position))
