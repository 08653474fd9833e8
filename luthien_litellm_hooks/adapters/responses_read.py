"""What units of the responses wire, and whole responses, say."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from luthien_litellm_hooks.adapters.responses_actions import ACTIONS, RESULTS, item_type_of, leaves_whole
from luthien_litellm_hooks.adapters.responses_blocks import Blocks, end_of, frame_of
from luthien_litellm_hooks.adapters.responses_fields import (
    ITEM_TYPES,
    bare_response,
    bare_unit,
    has_more,
)
from luthien_litellm_hooks.adapters.responses_guards import guarded, guards_of
from luthien_litellm_hooks.adapters.responses_parts import (
    AUDIO,
    BY_DELTA,
    BY_DONE,
    CALLS,
    FINISHES,
    ITEM_ADDED,
    ITEM_DONE,
    LIFECYCLE,
    PART_ADDED,
    PART_DONE,
    Item,
    Kind,
    Origin,
    Part,
    get,
    part_kind,
    pieces,
    text_of,
)
from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import (
    Failure,
    Finish,
    Opaque,
    Start,
    StreamEvent,
    Unknown,
    from_wire,
)

_ALIKE = ("type", "output_index", "content_index", "summary_index", "item_id")
_ANNOTATION = "response.output_text.annotation.added"
_AUDIO_DATA = frozenset({"response.audio.delta", "response.audio.done", "image_generation.partial_image"})
_HARMLESS = frozenset({"keepalive", "ping"})
_Events = Iterator[StreamEvent]
_Mark = tuple[str, str]


class Reader:
    """Reads one answer.

    Later units repeat what earlier ones brought. What only a repetition says (arguments without
    deltas, a call that only the last event has) is read from there, as if it had come in a delta.

    An item that is whole is read when all of it has come; the units before that are `Opaque`: the writer
    keeps them until then.
    """

    def __init__(self) -> None:
        self._items: dict[int, Item] = {}
        self._blocks = Blocks()
        self._fresh: Item | None = None  # the latest item, while nothing of it has come
        self._audio: Item | None = None
        self._position = -1
        self._begun: object = None  # the response as its first unit has it
        self._thread: _Thread | None = None  # of the block that the latest unit brought a piece of
        self._readers: dict[str, Callable[[BaseModel, Origin], _Events]] = {
            ITEM_ADDED: self._item_added,
            ITEM_DONE: self._item_done,
            "error": self._error,
            _ANNOTATION: self._annotation,
            **dict.fromkeys(_AUDIO_DATA, _repeating),
            **dict.fromkeys(_HARMLESS, _passing),
            **dict.fromkeys(LIFECYCLE, self._lifecycle),
            **dict.fromkeys(FINISHES, self._finish),
            **dict.fromkeys(BY_DELTA, self._delta),
            **dict.fromkeys(BY_DONE, self._done),
            **dict.fromkeys(PART_ADDED, self._part_added),
            **dict.fromkeys(PART_DONE, self._part_done),
        }

    def read(self, raw: object) -> tuple[StreamEvent, ...]:
        """The events of one unit of a stream."""
        self._position += 1
        if not isinstance(raw, BaseModel):
            return (from_wire(Unknown(kind="unit", is_malformed=True), Origin(position=self._position)),)
        if self._thread is not None and self._thread.goes_on(raw):
            piece = raw.__dict__["delta"]
            return (self._blocks.piece(*self._thread.of, piece, Origin(raw=raw, position=self._position)),)
        self._thread = None
        origin = Origin(raw=raw, position=self._position)
        try:
            _check(raw)
            return tuple(self._read(raw, origin))
        except WireError:
            return (from_wire(Unknown(kind="unit", is_malformed=True), origin),)

    def _read(self, raw: BaseModel, origin: Origin) -> Iterable[StreamEvent]:
        if self._fresh is not None and self._index_of(raw) != self._fresh.index:
            self._fresh.is_bare, self._fresh = True, None
        type = get(raw, "type")
        is_first = type in LIFECYCLE and self._begun is None
        bare = bare_unit(raw, None if is_first else self._begun or {})
        if bare is raw:
            return self._readers.get(type, self._other)(raw, origin)
        guards = [*guards_of(raw, origin.position)]
        return guarded(
            guards, self._readers.get(type, self._other)(raw, origin._replace(bare=bare, guards=len(guards)))
        )

    def read_full(self, response: BaseModel) -> _Events:
        """The events of a whole answer."""
        finals: dict[Item, int] = {}
        for slot, came in enumerate(pieces(response, "output")):
            item = Item(str(get(came, "type")), came)
            yield from self._whole_item(item)
            finals[item] = slot
        if bare_response(response, {}) is not response:
            yield from guards_of(response, 0)
        yield from_wire(Finish(reason=get(response, "status") or "completed"), Origin(finals=finals))

    def read_rest(self) -> _Events:
        """The events of items that never were whole."""
        for item in self._items.values():
            if item.type in ACTIONS and not item.parts:
                yield from self._whole_item(item)

    # Units of a stream

    def _lifecycle(self, raw: BaseModel, origin: Origin) -> _Events:
        event = Start() if self._begun is None else Opaque()
        if self._begun is None:
            self._begun = get(raw, "response") or {}
        yield from_wire(event, origin)

    def _item_added(self, raw: BaseModel, origin: Origin) -> _Events:
        came, index = get(raw, "item"), get(raw, "output_index")
        item = self._items[index] = _item(came, index)
        origin = origin._replace(item=item)
        if item.type in CALLS:
            yield self._blocks.call_head(item, CALLS[item.type], origin)
            part = item.parts["", 0]
            part.announced = "".join(part.pieces)
            return
        if item.type not in ITEM_TYPES:
            yield from_wire(Unknown(kind="item"), origin)
            return
        yield from_wire(Opaque(), origin)
        if not item.is_whole and item.type not in RESULTS:
            self._fresh = item
            yield from self._blocks.catch_up(item, came)
            for part in item.parts.values():
                part.announced = "".join(part.pieces)

    def _part_added(self, raw: BaseModel, origin: Origin) -> _Events:
        came = get(raw, "part")
        kind = part_kind(came)
        item = self._item_of(raw, kind)
        slot = _slot(raw, kind) if kind is not None else 0
        if item is None or kind is None:
            yield from_wire(Unknown(kind="part"), origin._replace(item=item))
        elif (kind.within, slot) in item.parts:
            yield from _repeating(raw, origin)
        else:
            yield self._blocks.begin(item, kind, slot, origin)
            yield from self._blocks.top_up(item, kind, slot, text_of(came, kind))
            part = item.parts[kind.within, slot]
            part.announced = text_of(came, kind)
            yield from self._blocks.quotes(item, part, came)

    def _delta(self, raw: BaseModel, origin: Origin) -> _Events:
        kind, piece = BY_DELTA[get(raw, "type")], get(raw, "delta") or ""
        item = self._item_of(raw, kind)
        if item is None or item.is_whole:
            yield from self._early_of_call(raw, kind, item, origin)
            return
        slot = _slot(raw, kind)
        if (kind.within, slot) not in item.parts:
            yield self._blocks.begin(item, kind, slot, Origin())
        part = item.parts[kind.within, slot]
        if piece and part.announced.startswith(piece):
            part.announced = part.announced.removeprefix(piece)
            yield frame_of("detail", item, part, origin)
        else:
            is_thread = not part.announced and not part.is_ended and origin.bare is None
            self._thread = _Thread(raw, item, part) if is_thread else None
            yield self._blocks.piece(item, part, piece, origin)

    def _done(self, raw: BaseModel, origin: Origin) -> _Events:
        kind = BY_DONE[get(raw, "type")]
        yield from self._part_ends(raw, origin, kind, raw)

    def _part_done(self, raw: BaseModel, origin: Origin) -> _Events:
        part, kind = get(raw, "part"), part_kind(get(raw, "part"))
        if kind is None:
            yield from_wire(Unknown(kind="part"), origin._replace(item=self._item_of(raw, kind)))
        else:
            yield from self._part_ends(raw, origin, kind, part)

    def _part_ends(self, raw: BaseModel, origin: Origin, kind: Kind, said: object) -> _Events:
        item = self._item_of(raw, kind)
        if item is None or item.is_whole:
            yield from self._early_of_call(raw, kind, item, origin)
            return
        slot = _slot(raw, kind)
        yield from self._blocks.top_up(item, kind, slot, text_of(said, kind))
        part = item.parts[kind.within, slot]
        yield from self._blocks.quotes(item, part, said)
        yield end_of(item, part, origin)

    def _early_of_call(self, raw: BaseModel, kind: Kind, item: Item | None, origin: Origin) -> _Events:
        """A piece of a call that was not announced: its name comes at its end, so it is read then."""
        if item is None:
            index = self._index_of(raw)
            came = {"id": get(raw, "item_id"), "type": kind.item}
            item = self._items[index] = Item(kind.item, came, index, is_whole=True)
        yield from_wire(Opaque(), origin._replace(item=item))

    def _item_done(self, raw: BaseModel, origin: Origin) -> _Events:
        came, index = get(raw, "item"), self._index_of(raw)
        item = self._items.setdefault(index, _item(came, index))
        origin = origin._replace(item=item)
        if item.type != get(came, "type"):
            raise WireError("an item ended as something else")
        if item.type not in ITEM_TYPES:
            yield from_wire(Unknown(kind="item"), origin)
            return
        yield from self._blocks.catch_up(item, came)
        item.came = came
        if item.type in RESULTS:
            yield self._blocks.result_ends(item, origin)
            return
        *others, last = [*item.parts.values()] or [None]
        if last is None:
            item.is_bare, self._fresh = True, None
            yield from_wire(Opaque(), origin)
            return
        for part in others:
            if part is not None and not part.is_ended:
                yield end_of(item, part, Origin())
        yield end_of(item, last, origin)

    def _finish(self, raw: BaseModel, origin: Origin) -> _Events:
        finals: dict[Item, int] = {}
        marks = {mark: item for item in self._items.values() for mark in _marks_of(item.came)}
        for slot, came in enumerate(pieces(get(raw, "response"), "output")):
            item = self._find(came, slot, marks, finals) or _item(came, None)
            if item.index is None or (item.is_unread and (item.is_whole or item.type in RESULTS)):
                item.came = came
                yield from self._whole_item(item)
            else:
                yield from self._blocks.catch_up(item, came)
            finals[item] = slot
        yield from self.read_rest()
        yield from_wire(Finish(reason=FINISHES[get(raw, "type")]), origin._replace(finals=finals))

    def _error(self, raw: BaseModel, origin: Origin) -> _Events:
        yield from_wire(Failure(), origin)

    def _annotation(self, raw: BaseModel, origin: Origin) -> _Events:
        item = self._items.get(self._index_of(raw))
        part = item.parts.get(("content", get(raw, "content_index") or 0)) if item is not None else None
        if item is None or part is None:
            yield from_wire(Unknown(kind="event"), origin)
        else:
            yield self._blocks.quote(item, part, get(raw, "annotation"), origin)

    def _other(self, raw: BaseModel, origin: Origin) -> _Events:
        """A piece of an item that is read when it is whole, or something unknown."""
        index, type = self._index_of(raw), item_type_of(get(raw, "type"))
        item = self._items.get(index)
        if item is None and type is not None and index is not None:
            item = self._items[index] = _item({"type": type, "id": get(raw, "item_id")}, index)
        if item is None or type is None or item.type != type:
            yield from_wire(Unknown(kind="event"), origin._replace(item=item))
        elif not item.is_unread:
            yield from _repeating(raw, origin._replace(item=item))
        else:
            yield from_wire(Opaque(), origin._replace(item=item))

    # Items

    def _item_of(self, raw: BaseModel, kind: Kind | None) -> Item | None:
        """The item that `raw` is about. Not every provider announces a message; most do a call."""
        index = self._index_of(raw)
        if kind is AUDIO and index is None:
            self._audio = self._audio or Item("message", {}, is_loose=True)
            return self._audio
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

    def _find(self, came: object, slot: int, marks: Mapping[_Mark, Item], taken: Mapping[Item, int]) -> Item | None:
        """The item that the last event repeats as `came`: the one with its id, or in its place."""
        found = [marks.get(mark) for mark in _marks_of(came)] + [self._items.get(slot)]
        fitting = (item for item in found if item is not None and item.type == get(came, "type"))
        return next((item for item in fitting if item not in taken), None)

    def _whole_item(self, item: Item) -> _Events:
        """An item that came all at once."""
        if item.type not in ITEM_TYPES:
            yield from_wire(Unknown(kind="item"), Origin(item))
            return
        yield from self._blocks.catch_up(item, item.came)
        for part in item.parts.values():
            if not part.is_ended:
                yield end_of(item, part, Origin())
        if item.type in RESULTS:
            yield self._blocks.result_ends(item, Origin(item))
        elif not item.parts:
            item.is_bare = True
            yield from_wire(Opaque(), Origin(item))


class _Thread:
    """Pieces of one block, one after the other: units that are alike but for the piece."""

    def __init__(self, raw: BaseModel, item: Item, part: Part) -> None:
        self.of = item, part
        self._place = [raw.__dict__.get(name) for name in _ALIKE]

    def goes_on(self, raw: BaseModel) -> bool:
        """Whether `raw` is the next of them, and brings something."""
        said = raw.__dict__
        delta = said.get("delta")
        is_alike = isinstance(delta, str) and delta != "" and self._place == [said.get(name) for name in _ALIKE]
        return is_alike and not has_more(raw)


def _item(came: object, index: int | None) -> Item:
    type = str(get(came, "type"))
    return Item(type, came, index, is_whole=leaves_whole(type))


def _marks_of(came: object) -> list[_Mark]:
    return [(name, mark) for name in ("id", "call_id") if isinstance(mark := get(came, name), str)]


def _repeating(raw: BaseModel, origin: Origin) -> _Events:
    yield from_wire(Opaque(repeats=True), origin)


def _passing(raw: BaseModel, origin: Origin) -> _Events:
    yield from_wire(Opaque(), origin)


def _check(raw: BaseModel) -> None:
    """Fails if a unit has no type, or is about something that has no number, or brings what is no text."""
    numbers = (get(raw, "output_index"), get(raw, "content_index"), get(raw, "summary_index"))
    if not isinstance(get(raw, "type"), str) or not all(isinstance(number, int | None) for number in numbers):
        raise WireError("an event of a response has no type, or a number that is none")
    if not isinstance(get(raw, "delta"), str | None):
        raise WireError("an event of a response brought a piece that is no text")


def _slot(raw: BaseModel, kind: Kind) -> int:
    return get(raw, f"{kind.within}_index") or 0 if kind.within else 0
