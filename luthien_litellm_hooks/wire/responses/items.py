"""Encoder of the items of a response: numbers units, announces and ends items, and gives each its final form."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast
from uuid import uuid4

from litellm.llms.openai.responses.transformation import OpenAIResponsesAPIConfig
from litellm.types.llms.openai import GenericEvent
from pydantic import BaseModel, ValidationError

from luthien_litellm_hooks.wire.events import BlockMarker, Quote
from luthien_litellm_hooks.wire.readable import read, written
from luthien_litellm_hooks.wire.responses.actions import (
    ACTIONS,
    RESULTS,
    adds_nothing,
    emptied,
    judged_fields,
    result_fields,
    results_of,
)
from luthien_litellm_hooks.wire.responses.fields import bare_item
from luthien_litellm_hooks.wire.responses.kinds import (
    AUDIO,
    CALL,
    CALLS,
    ITEM_ADDED,
    ITEM_DONE,
    ITEM_PREFIXES,
    LISTS,
    TEXT,
    HeldAnnouncement,
    Item,
    Kind,
    Origin,
    SentItem,
    SentPart,
    changed,
    fields,
    get,
    key_of,
    kind_of,
    pieces,
    text_of,
    text_of_item,
    without,
)

Units = Iterator[BaseModel]

LISTED = ("message", "reasoning")
"""Types of items that are lists of parts."""
_JUDGED = frozenset((*LISTED, *CALLS, *ACTIONS, *RESULTS, *ITEM_PREFIXES))
"""Types of items with content to judge."""
_PLACE = frozenset({"item_id", "output_index", "content_index", "summary_index"})


class UnitWriter:
    """Emits units, and numbers them.

    While the client's stream equals the provider's, it emits the provider's own objects. From the first difference on
    the numbers are ours, and repetitions repeat what the client got.
    """

    def __init__(self) -> None:
        self.is_changed = False
        """True once the client's stream differs from the provider's."""
        self.is_complete = False
        """True while it writes all events of one unit of the provider."""
        self.is_observing = False
        """True while it follows units that were sent unchanged."""
        self.count = 0
        """Number of units sent."""
        self.has_numbers = True
        self.latest_raw: BaseModel | None = None
        """Latest unit sent, while the streams are equal."""
        self._number = -1

    def emit(self, raw: BaseModel, **changes: object) -> BaseModel:
        """Returns `raw` with those of `changes` that it has fields for; `raw` itself if they change nothing."""
        self.count += 1
        if not self.is_changed:
            self.latest_raw = raw
            if not changes:
                return raw
            fitting = {n: value for n, value in changes.items() if n not in _PLACE and get(raw, n) is not None}
            return changed(raw, **fitting)
        if self.has_numbers and isinstance(get(raw, "sequence_number"), int):
            changes["sequence_number"] = self._next_number()
        fitting = {n: value for n, value in changes.items() if n == "output_index" or get(raw, n) is not None}
        return changed(raw, **fitting)

    def make(self, type: str, **content: object) -> BaseModel:
        """Returns a unit of our own."""
        self.count += 1
        self.is_changed = True
        if self.has_numbers:
            content["sequence_number"] = self._next_number()
        # LiteLLM's own classes of the other events refuse items that LiteLLM itself makes.
        cls = OpenAIResponsesAPIConfig.get_event_model_class(type) if "response" in content else GenericEvent
        try:
            return cls.model_validate({"type": type, **content})
        except ValidationError:  # the provider's response has fields of another form than LiteLLM's
            return GenericEvent.model_validate({"type": type, **content})

    @property
    def latest_number(self) -> int:
        """Number of the latest unit, whether the provider's or ours; -1 if no unit has one."""
        number = None if self.latest_raw is None else get(self.latest_raw, "sequence_number")
        return number if isinstance(number, int) else self._number

    def _next_number(self) -> int:
        self._number = self.latest_number + 1
        self.latest_raw = None
        return self._number


class ItemWriter:
    """Announces and ends items, in the order of sending.

    Announces a message or a reasoning with the first of its blocks, and sends an atomic item at once.
    """

    def __init__(self, units: UnitWriter) -> None:
        self._units = units
        self.all: list[SentItem] = []
        self._ids: set[str] = set()
        self._next_index = 0
        self.latest: dict[Item, SentItem] = {}
        self.held: dict[Item, HeldAnnouncement] = {}
        self.pending: dict[Item, list[BaseModel]] = {}
        """Units of atomic items that are not complete."""
        self._results: dict[Item, SentItem] = {}  # begun, not ended
        self._ended: dict[Item, BaseModel | None] = {}  # final units of results that have not begun

    def output(self) -> list[Any]:
        """Returns the items of the response as sent."""
        for sent in self.all:
            sent.is_changed = self._units.is_changed
        return [final_item(sent) for sent in self.all]

    def write_bare(self, raw: BaseModel, item: Item) -> Units:
        """Yields a unit of an item without content to judge; drops it if its item was not sent."""
        yield from self.announce(item)
        if item not in self.latest and item.is_bare:
            self.open(item)
        sent = self.latest.get(item)
        if sent is not None:
            is_done = get(raw, "type") == ITEM_DONE
            sent.is_done, sent.template = sent.is_done or is_done, get(raw, "item") if is_done else sent.template
            yield self._units.emit(raw, output_index=sent.index)

    def announce_bare_items(self, but: Item | None = None) -> Units:
        """Yields the held announcements of items without content to judge."""
        for item in [item for item in self.held if item.is_bare and item is not but]:
            yield from self.announce(item)

    def announce(self, item: Item) -> Units:
        """Yields the held announcement of `item`, if there is one."""
        held = self.held.pop(item, None)
        if held is not None:
            sent = self.open(item)
            raw_item = get(held.raw, "item")
            empty: dict[str, Any] = {} if held.is_complete else {name: [] for name in LISTS if pieces(raw_item, name)}
            yield self._units.emit(held.raw, output_index=sent.index, item=changed(raw_item, **empty))

    def open(self, item: Item | None, type: str = "", template: object = None) -> SentItem:
        """Begins an item: a decoded one, or a new one of this `type` like `template`."""
        return self.register(
            SentItem(type, template) if item is None else SentItem(item.type, bare_item(item.raw), item)
        )

    def register(self, sent: SentItem, id: str | None = None) -> SentItem:
        """Gives an item its index and its id."""
        item = sent.source
        sent.index = self._next_index
        if item is not None:
            sent.index = item.index if item.index is not None and not self._units.is_changed else sent.index
            id = get(item.raw, "id")
            self.latest[item] = sent
        self._next_index = max(self._next_index, sent.index + 1)
        if not isinstance(id, str) or id in self._ids:
            id = f"{ITEM_PREFIXES.get(sent.type, sent.type)}_{uuid4().hex}"
        sent.id = id
        self._ids.add(id)
        self.all.append(sent)
        return sent

    def close(self, sent: SentItem, raw: BaseModel | None = None) -> Units:
        """Ends an item with judged content, with the unit `raw` or one of our own."""
        if sent.is_done or sent.type not in _JUDGED:
            return
        yield from self.announce_complete(sent)
        sent.is_done = True
        if self._units.is_changed:
            for part in sent.parts:
                yield from self.close_part(part)
        sent.is_changed = self._units.is_changed
        if raw is not None and sent.source is not None:
            sent.template = get(raw, "item")
            yield self._units.emit(raw, output_index=sent.index, item=final_item(sent))
        else:
            yield self._units.make(ITEM_DONE, output_index=sent.index, item=final_item(sent))

    def close_part(self, part: SentPart) -> Units:
        """Yields the closing units that a block still lacks."""
        kind = part.kind
        if kind.name in ACTIONS or part.is_implicit or part.item.index < 0:
            return
        if kind.done not in part.done:
            part.done.add(kind.done)
            others: dict[str, Any] = {"logprobs": []} if kind is TEXT else {}
            if kind is CALL and part.head is not None:
                others = {"name": part.head.name}
            yield self._units.make(kind.done, **part.place(), **{kind.field: part.text}, **others)
        if kind.within and f"{kind.part_event}.done" not in part.done:
            part.done.add(f"{kind.part_event}.done")
            raw_part = {**new_part(kind), kind.field: part.text}
            yield self._units.make(f"{kind.part_event}.done", **part.place(), part=raw_part)

    def close_all(self, more: Iterable[SentItem], reason: str) -> Units:
        """Ends open items at the end of a response; a decoded call without an end was cut off."""
        for sent in dict.fromkeys((*self.all, *more)):
            is_call = sent.type in CALLS or sent.type in ACTIONS
            sent.is_cut = reason != "completed" or (is_call and sent.source is not None)
            yield from self.close(sent)

    # Atomic items

    def write_result(self, event: BlockMarker, origin: Origin) -> Units:
        """Writes a marker of a result; sends the result when both its text and its end are released."""
        item = origin.item
        if item is None:
            return
        if event.role == "begin":
            sent = self._results[item] = self.latest.get(item) or SentItem(item.type, bare_item(item.raw), item)
            take_results(sent, cast(dict[str, Any], origin.quoted), changed_text(event, origin))
            if item in self._ended:
                yield from self._send_result(item, self._ended.pop(item))
        elif item in self._results:
            yield from self._send_result(item, origin.raw)
        else:
            self._ended[item] = origin.raw

    def _send_result(self, item: Item, raw: BaseModel | None) -> Units:
        sent = self._results.pop(item)
        yield from self.announce_complete(sent)
        if raw is not None:
            yield from self.close(sent, raw)

    def announce_complete(self, sent: SentItem) -> Units:
        """Yields the units of a complete item before its end, once."""
        if sent.index >= 0:
            return
        units = self.pending.pop(sent.source, []) if sent.source is not None else []
        own_id = get(sent.template, "id") if sent.source is None else None
        deltas = [raw for raw in units if get(raw, "type") != ITEM_ADDED]
        if deltas and not self._adds_nothing(sent, deltas):
            self._units.is_changed, units = True, [raw for raw in units if raw not in deltas]
        self.register(sent, own_id if isinstance(own_id, str) else None)
        sent.is_changed = self._units.is_changed
        is_ours = self._units.is_changed or not self._units.is_complete
        if is_ours and len(units) == len(deltas) and not self._units.is_observing:
            raw_item = changed(as_announced(sent, {**fields(sent.template), "id": sent.id}), status="in_progress")
            yield self._units.make(ITEM_ADDED, output_index=sent.index, item=raw_item)
        for raw in units:
            raw_item = get(raw, "item")
            changes = {} if raw_item is None else {"item": as_announced(sent, raw_item)}
            place = {"item_id": sent.id} if self._units.is_changed else {}
            yield self._units.emit(raw, output_index=sent.index, **place, **changes)

    def _adds_nothing(self, sent: SentItem, units: list[BaseModel]) -> bool:
        texts = [part.text for part in sent.parts]
        return adds_nothing(units, final_item(sent) if sent.type in ACTIONS else None, texts)


def changed_text(event: BlockMarker, origin: Origin) -> str | None:
    """Returns the text of a quote that a policy changed, otherwise None."""
    return event.text if isinstance(event, Quote) and event.text != read(origin.quoted) else None


def take_results(sent: SentItem, judged: Mapping[str, Any], text: str | None) -> None:
    """Gives `sent` its released results: all that were judged, or `text`."""
    sent.judged = sent.results = judged
    if text is not None:
        empty = {name: emptied(value) for name, value in judged.items()}
        sent.results = written(judged, text) if text else empty


# The form of an item in units, and in the output of a response


def new_part(kind: Kind) -> dict[str, Any]:
    return {"type": kind.name, kind.field: "", **({"annotations": [], "logprobs": []} if kind is TEXT else {})}


def as_announced(sent: SentItem, raw_item: object) -> Any:
    """Returns `raw_item` for the announcement of a complete item: without withheld content, and without text."""
    changes: dict[str, Any] = {"id": sent.id} if get(raw_item, "id") != sent.id and sent.is_changed else {}
    if sent.parts and sent.type in ACTIONS:
        [part] = sent.parts
        changes |= judged_fields(raw_item, part.kind, part.text, is_partial=True) | _final_name(part, raw_item)
    elif sent.parts:
        changes[sent.parts[0].kind.field] = ""
    return changed(raw_item, **changes, **_final_results(sent, raw_item))


def final_item(sent: SentItem) -> Any:
    """Returns the item as sent; its template itself if that is equal."""
    template = sent.template
    changes: dict[str, Any] = {}
    if get(template, "id") != sent.id and (sent.is_changed or sent.source is None):
        changes["id"] = sent.id
    if sent.type in RESULTS:
        changes |= _final_results(sent, template)
    elif sent.type in ACTIONS and sent.parts:
        changes |= _final_action(sent, template)
    elif sent.type in CALLS and sent.parts:
        [part] = sent.parts
        changes[part.kind.field] = part.text
        changes |= {"name": part.head.name, "call_id": part.head.id} if part.head is not None else {}
    elif sent.type in LISTED:
        changes |= _final_lists(sent, template)
    else:
        return changed(template, **changes)
    if get(template, "status") == "in_progress":
        changes["status"] = "incomplete" if sent.is_cut else "completed"
    return changed(template, **changes)


def _final_lists(sent: SentItem, template: object) -> dict[str, Any]:
    text = "".join(part.text for within in LISTS for part in sent.parts if part.kind.within == within)
    if text_of_item(template) != text:
        return _changed_lists(sent, template)
    quotes = {key: quote for part in sent.parts for key, quote in part.quotes.items()}
    lists = {within: [_annotated(part, quotes) for part in pieces(template, within)] for within in LISTS}
    return {within: parts for within, parts in lists.items() if parts}


def _changed_lists(sent: SentItem, template: object) -> dict[str, Any]:
    """Returns the lists of an item whose sent text differs from its template's."""
    changes: dict[str, Any] = {"encrypted_content": None} if get(template, "encrypted_content") else {}
    slots = {part: part.source.slot if part.source is not None else -1 for part in sent.parts}
    for within in LISTS:
        before = pieces(template, within)
        after = [
            final_part(part, before[slot] if 0 <= slot < len(before) else None)
            for part, slot in slots.items()
            if part.kind.within == within
        ]
        for slot, part in enumerate(before):
            if kind_of(sent.type, part) is None:
                after.insert(slot, part)
        if after != before:
            changes[within] = after
    return changes


def final_part(part: SentPart, template: object) -> Any:
    """Returns a copy of `template` with the sent text and annotations; `template` itself if it has them."""
    if part.source is not None and text_of(template, part.kind) == part.text:
        return _annotated(template, part.quotes)
    others: dict[str, Any] = {"annotations": [], "logprobs": []} if part.kind is TEXT else {}
    template = without(template, ("data",)) if part.kind is AUDIO else template
    return changed(template or {"type": part.kind.name}, **{part.kind.field: part.text}, **others)


def _annotated(part: object, quotes: Mapping[str, object]) -> Any:
    """Returns a part with just its released annotations."""
    annotations = pieces(part, "annotations")
    keys = [key for annotation in annotations if (key := key_of(annotation)) in quotes]
    if len(keys) == len(annotations) and not any(quotes[key] is not None for key in keys):
        return part
    by_key = {key_of(annotation): annotation for annotation in annotations}
    return changed(part, annotations=[by_key[key] if quotes[key] is None else quotes[key] for key in keys])


def _final_action(sent: SentItem, template: object) -> dict[str, Any]:
    [part] = sent.parts
    changes = judged_fields(template, part.kind, part.text) | _final_name(part, template)
    changes |= _final_results(sent, template)
    if part.head is not None and get(template, "call_id") is not None:
        changes["call_id"] = part.head.id
    return changes


def _final_name(part: SentPart, raw_item: object) -> dict[str, Any]:
    return {"name": part.head.name} if part.head is not None and get(raw_item, "name") is not None else {}


def _final_results(sent: SentItem, raw_item: object) -> dict[str, Any]:
    if sent.type not in RESULTS and sent.type not in ACTIONS:
        return {}
    judged = sent.judged
    if judged is None and sent.parts and (source := sent.parts[0].source) is not None:
        judged = source.results
    if judged is None and sent.type not in RESULTS:
        return {}
    released = sent.results or {}
    before = results_of(raw_item)
    after = {name: released[name] if name in released else emptied(value) for name, value in before.items()}
    return result_fields(raw_item, {name: value for name, value in after.items() if value != before[name]})
