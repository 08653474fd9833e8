"""Decoder of the responses wire: the events of a unit of a stream, and of a full response."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.wire.events import (
    Finish,
    Opaque,
    ProviderFailure,
    ResponseStart,
    StreamEvent,
    Unknown,
    from_wire,
)
from luthien_litellm_hooks.wire.responses.actions import ACTIONS, RESULTS, is_atomic, item_type_of
from luthien_litellm_hooks.wire.responses.blocks import BlockReader, end_of, marker
from luthien_litellm_hooks.wire.responses.fields import (
    ITEM_TYPES,
    bare_response,
    bare_unit,
    extra_events,
    has_extra,
    with_extra_events,
)
from luthien_litellm_hooks.wire.responses.kinds import (
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

_ALIKE = ("type", "output_index", "content_index", "summary_index", "item_id")
_ANNOTATION = "response.output_text.annotation.added"
_AUDIO_DATA = frozenset({"response.audio.delta", "response.audio.done", "image_generation.partial_image"})
_HARMLESS = frozenset({"keepalive", "ping"})
_Events = Iterator[StreamEvent]
_Mark = tuple[str, str]


class Reader:
    """Decoder of one response.

    Later units repeat the content of earlier ones. Content without an earlier unit (arguments without deltas, a call
    in the last unit alone) is decoded from the repetition, as if it were a delta.

    An atomic item is decoded when it is complete. Its units before that are `Opaque`, and the writer holds them.
    """

    def __init__(self) -> None:
        self._items: dict[int, Item] = {}
        self._blocks = BlockReader()
        self._fresh: Item | None = None  # the latest item until its first content
        self._audio: Item | None = None
        self._position = -1
        self._initial: object = None  # the response of the first unit
        self.response_id: str | None = None  # the provider's: LiteLLM encrypts it in a sent unit
        self._run: _DeltaRun | None = None  # block of the latest unit, if that was a delta
        self._readers: dict[str, Callable[[BaseModel, Origin], _Events]] = {
            ITEM_ADDED: self._item_added,
            ITEM_DONE: self._item_done,
            "error": self._error,
            _ANNOTATION: self._annotation,
            **dict.fromkeys(_AUDIO_DATA, _repeats),
            **dict.fromkeys(_HARMLESS, _passes),
            **dict.fromkeys(LIFECYCLE, self._lifecycle),
            **dict.fromkeys(FINISHES, self._finish),
            **dict.fromkeys(BY_DELTA, self._delta),
            **dict.fromkeys(BY_DONE, self._done),
            **dict.fromkeys(PART_ADDED, self._part_added),
            **dict.fromkeys(PART_DONE, self._part_done),
        }

    def read(self, raw: object) -> tuple[StreamEvent, ...]:
        """Returns the events of one unit of a stream, a malformed `Unknown` if it is unreadable."""
        self._position += 1
        if not isinstance(raw, BaseModel):
            return (from_wire(Unknown(kind="unit", is_malformed=True), Origin(position=self._position)),)
        if self._run is not None and self._run.continues(raw):
            item, part = self._run.block
            origin = Origin(item, part, raw, self._position)
            return (self._blocks.delta(part, raw.__dict__["delta"], origin),)
        self._run = None
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
        is_first = type in LIFECYCLE and self._initial is None
        bare = bare_unit(raw, None if is_first else self._initial or {})
        if bare is raw:
            return self._readers.get(type, self._other)(raw, origin)
        extra = [*extra_events(raw, origin.position)]
        return with_extra_events(
            extra, self._readers.get(type, self._other)(raw, origin._replace(bare=bare, extra_events=len(extra)))
        )

    def read_full(self, response: BaseModel) -> _Events:
        """Yields the events of a full response."""
        finals: dict[Item, int] = {}
        for slot, raw_item in enumerate(pieces(response, "output")):
            item = Item(str(get(raw_item, "type")), raw_item)
            yield from self._complete_item(item)
            finals[item] = slot
        if bare_response(response, {}) is not response:
            yield from extra_events(response, 0)
        yield from_wire(Finish(reason=get(response, "status") or "completed"), Origin(finals=finals))

    def read_incomplete(self) -> _Events:
        """Yields the events of atomic items that never got complete."""
        for item in self._items.values():
            if item.type in ACTIONS and not item.parts:
                yield from self._complete_item(item)

    # Units of a stream

    def _lifecycle(self, raw: BaseModel, origin: Origin) -> _Events:
        event = ResponseStart() if self._initial is None else Opaque()
        if self._initial is None:
            self._initial = get(raw, "response") or {}
            self.response_id = get(self._initial, "id")
        yield from_wire(event, origin)

    def _item_added(self, raw: BaseModel, origin: Origin) -> _Events:
        raw_item, index = get(raw, "item"), get(raw, "output_index")
        item = self._items[index] = _item(raw_item, index)
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
        if not item.is_atomic and item.type not in RESULTS:
            self._fresh = item
            yield from self._blocks.catch_up(item, raw_item)
            for part in item.parts.values():
                part.announced = "".join(part.pieces)

    def _part_added(self, raw: BaseModel, origin: Origin) -> _Events:
        raw_part = get(raw, "part")
        kind = part_kind(raw_part)
        item = self._item_of(raw, kind)
        slot = _slot(raw, kind) if kind is not None else 0
        if item is None or kind is None:
            yield from_wire(Unknown(kind="part"), origin._replace(item=item))
        elif (kind.within, slot) in item.parts:
            yield from _repeats(raw, origin)
        else:
            yield self._blocks.begin(item, kind, slot, origin)
            yield from self._blocks.top_up(item, kind, slot, text_of(raw_part, kind))
            part = item.parts[kind.within, slot]
            part.announced = text_of(raw_part, kind)
            yield from self._blocks.quotes(item, part, raw_part)

    def _delta(self, raw: BaseModel, origin: Origin) -> _Events:
        kind, text = BY_DELTA[get(raw, "type")], get(raw, "delta") or ""
        item = self._item_of(raw, kind)
        if item is None or item.is_atomic:
            yield from self._unannounced_call(raw, kind, item, origin)
            return
        slot = _slot(raw, kind)
        if (kind.within, slot) not in item.parts:
            yield self._blocks.begin(item, kind, slot, Origin())
        part = item.parts[kind.within, slot]
        if text and part.announced.startswith(text):
            part.announced = part.announced.removeprefix(text)
            yield marker("detail", item, part, origin)
        else:
            is_run = not part.announced and not part.is_ended and origin.bare is None
            self._run = _DeltaRun(raw, item, part) if is_run else None
            yield self._blocks.delta(part, text, origin._replace(item=item, part=part))

    def _done(self, raw: BaseModel, origin: Origin) -> _Events:
        kind = BY_DONE[get(raw, "type")]
        yield from self._part_ends(raw, origin, kind, raw)

    def _part_done(self, raw: BaseModel, origin: Origin) -> _Events:
        part, kind = get(raw, "part"), part_kind(get(raw, "part"))
        if kind is None:
            yield from_wire(Unknown(kind="part"), origin._replace(item=self._item_of(raw, kind)))
        else:
            yield from self._part_ends(raw, origin, kind, part)

    def _part_ends(self, raw: BaseModel, origin: Origin, kind: Kind, content: object) -> _Events:
        item = self._item_of(raw, kind)
        if item is None or item.is_atomic:
            yield from self._unannounced_call(raw, kind, item, origin)
            return
        slot = _slot(raw, kind)
        yield from self._blocks.top_up(item, kind, slot, text_of(content, kind))
        part = item.parts[kind.within, slot]
        yield from self._blocks.quotes(item, part, content)
        yield end_of(item, part, origin)

    def _unannounced_call(self, raw: BaseModel, kind: Kind, item: Item | None, origin: Origin) -> _Events:
        """Decodes a piece of an unannounced call: its name comes at its end, so it is atomic."""
        if item is None:
            index = self._index_of(raw)
            raw_item = {"id": get(raw, "item_id"), "type": kind.item}
            item = self._items[index] = Item(kind.item, raw_item, index, is_atomic=True)
        yield from_wire(Opaque(), origin._replace(item=item))

    def _item_done(self, raw: BaseModel, origin: Origin) -> _Events:
        raw_item, index = get(raw, "item"), self._index_of(raw)
        item = self._items.setdefault(index, _item(raw_item, index))
        origin = origin._replace(item=item)
        if item.type != get(raw_item, "type"):
            raise WireError("an item ends with another type")
        if item.type not in ITEM_TYPES:
            yield from_wire(Unknown(kind="item"), origin)
            return
        yield from self._blocks.catch_up(item, raw_item)
        item.raw = raw_item
        if item.type in RESULTS:
            yield self._blocks.end_of_result(item, origin)
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
        marks = {mark: item for item in self._items.values() for mark in _marks_of(item.raw)}
        for slot, raw_item in enumerate(pieces(get(raw, "response"), "output")):
            item = self._find(raw_item, slot, marks, finals) or _item(raw_item, None)
            if item.index is None or (item.is_unread and (item.is_atomic or item.type in RESULTS)):
                item.raw = raw_item
                yield from self._complete_item(item)
            else:
                yield from self._blocks.catch_up(item, raw_item)
            finals[item] = slot
        yield from self.read_incomplete()
        yield from_wire(Finish(reason=FINISHES[get(raw, "type")]), origin._replace(finals=finals))

    def _error(self, raw: BaseModel, origin: Origin) -> _Events:
        yield from_wire(ProviderFailure(), origin)

    def _annotation(self, raw: BaseModel, origin: Origin) -> _Events:
        item = self._items.get(self._index_of(raw))
        part = item.parts.get(("content", get(raw, "content_index") or 0)) if item is not None else None
        if item is None or part is None:
            yield from_wire(Unknown(kind="event"), origin)
        else:
            yield self._blocks.quote(item, part, get(raw, "annotation"), origin)

    def _other(self, raw: BaseModel, origin: Origin) -> _Events:
        """Decodes a piece of an atomic item, or an unknown unit."""
        index, type = self._index_of(raw), item_type_of(get(raw, "type"))
        item = self._items.get(index)
        if item is None and type is not None and index is not None:
            item = self._items[index] = _item({"type": type, "id": get(raw, "item_id")}, index)
        if item is None or type is None or item.type != type:
            yield from_wire(Unknown(kind="event"), origin._replace(item=item))
        elif not item.is_unread:
            yield from _repeats(raw, origin._replace(item=item))
        else:
            yield from_wire(Opaque(), origin._replace(item=item))

    # Items

    def _item_of(self, raw: BaseModel, kind: Kind | None) -> Item | None:
        """Returns the item of `raw`. Some providers announce no messages; most announce calls."""
        index = self._index_of(raw)
        if kind is AUDIO and index is None:
            self._audio = self._audio or Item("message", {}, is_implicit=True)
            return self._audio
        if index not in self._items and kind is not None and kind.within:
            self._items[index] = Item(kind.item, {"id": get(raw, "item_id"), "type": kind.item}, index)
        item = self._items.get(index)
        if item is not None and kind is not None and item.type != kind.item:
            raise WireError(f"a {item.type} has a piece of a {kind.item}")
        return item

    def _index_of(self, raw: BaseModel) -> Any:
        """Returns the index of the item of `raw`; a unit without an index may have the id."""
        index = get(raw, "output_index")
        if index is None and (mark := get(raw, "item_id") or get(get(raw, "item"), "id")) is not None:
            return next((item.index for item in self._items.values() if get(item.raw, "id") == mark), None)
        return index

    def _find(self, raw_item: object, slot: int, marks: Mapping[_Mark, Item], taken: Mapping[Item, int]) -> Item | None:
        """Returns the item that the last unit repeats as `raw_item`: the one with its id, or at its slot."""
        found = [marks.get(mark) for mark in _marks_of(raw_item)] + [self._items.get(slot)]
        fitting = (item for item in found if item is not None and item.type == get(raw_item, "type"))
        return next((item for item in fitting if item not in taken), None)

    def _complete_item(self, item: Item) -> _Events:
        """Yields the events of an item without units of its own."""
        if item.type not in ITEM_TYPES:
            yield from_wire(Unknown(kind="item"), Origin(item))
            return
        yield from self._blocks.catch_up(item, item.raw)
        for part in item.parts.values():
            if not part.is_ended:
                yield end_of(item, part, Origin())
        if item.type in RESULTS:
            yield self._blocks.end_of_result(item, Origin(item))
        elif not item.parts:
            item.is_bare = True
            yield from_wire(Opaque(), Origin(item))


class _DeltaRun:
    """Consecutive deltas of one block: units with only their text different."""

    def __init__(self, raw: BaseModel, item: Item, part: Part) -> None:
        self.block = item, part
        self._place = [*map(raw.__dict__.get, _ALIKE)]

    def continues(self, raw: BaseModel) -> bool:
        """Returns whether `raw` is the next of them, and not empty."""
        fields = raw.__dict__
        delta = fields.get("delta")
        is_alike = isinstance(delta, str) and delta != "" and self._place == [*map(fields.get, _ALIKE)]
        return is_alike and not has_extra(raw)


def _item(raw: object, index: int | None) -> Item:
    type = str(get(raw, "type"))
    return Item(type, raw, index, is_atomic=is_atomic(type))


def _marks_of(raw: object) -> list[_Mark]:
    return [(name, mark) for name in ("id", "call_id") if isinstance(mark := get(raw, name), str)]


def _repeats(raw: BaseModel, origin: Origin) -> _Events:
    yield from_wire(Opaque(repeats_content=True), origin)


def _passes(raw: BaseModel, origin: Origin) -> _Events:
    yield from_wire(Opaque(), origin)


def _check(raw: BaseModel) -> None:
    """Raises `WireError` if a unit has no type, or an index or a delta of another type."""
    numbers = (get(raw, "output_index"), get(raw, "content_index"), get(raw, "summary_index"))
    if not isinstance(get(raw, "type"), str) or not all(isinstance(number, int | None) for number in numbers):
        raise WireError("an event of a response has no type, or an index that is not an integer")
    if not isinstance(get(raw, "delta"), str | None):
        raise WireError("a delta of a response is not a string")


def _slot(raw: BaseModel, kind: Kind) -> int:
    return get(raw, f"{kind.within}_index") or 0 if kind.within else 0
