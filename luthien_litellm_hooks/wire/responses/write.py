"""Encoder of the responses wire: units, and the output of a response, with the given events and nothing else."""

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from typing import Any, cast

from litellm.types.llms.openai import GenericEvent, ResponsesAPIResponse
from pydantic import BaseModel

from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.wire.events import (
    DELTAS,
    BlockMarker,
    Finish,
    Opaque,
    ReasoningDelta,
    ResponseStart,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
)
from luthien_litellm_hooks.wire.readable import written
from luthien_litellm_hooks.wire.responses.actions import ACTIONS, action_fields
from luthien_litellm_hooks.wire.responses.fields import bare_item
from luthien_litellm_hooks.wire.responses.items import (
    LISTED,
    ItemWriter,
    Units,
    UnitWriter,
    as_announced,
    changed_text,
    final_item,
    final_part,
    new_part,
    take_results,
)
from luthien_litellm_hooks.wire.responses.kinds import (
    BY_DELTA,
    BY_DONE,
    CALL,
    CUSTOM_CALL,
    ITEM_ADDED,
    ITEM_DONE,
    PART_ADDED,
    SUMMARY,
    TEXT,
    HeldAnnouncement,
    Item,
    Kind,
    Origin,
    SentItem,
    SentPart,
    changed,
    get,
    key_of,
    pieces,
    text_of,
)

_HELD = frozenset(LISTED)  # announced with the first of their blocks
_REPEATS = BY_DELTA.keys() | PART_ADDED
_NO_ORIGIN = Origin()


class Writer:
    """Encoder of one response; `template` makes a response to copy if the provider has not sent one."""

    def __init__(self, template: Callable[[], ResponsesAPIResponse]) -> None:
        self._make_template = template
        self._units = UnitWriter()
        self._items = ItemWriter(self._units)
        self._initial: Any = None  # copy of the first unit's response: LiteLLM encrypts the id in the sent one
        self._restored: dict[int, int] = {}  # number of released events for unjudged fields, by position
        self._blocks: dict[int | None, SentPart] = {}

    @property
    def is_changed(self) -> bool:
        """True once the client's stream differs from the provider's."""
        return self._units.is_changed

    def observe(self, raw: object, events: Sequence[StreamEvent]) -> None:
        """Follows a unit that was sent unchanged."""
        if len(events) == 1 and self._continue_block(events[0]) is not None:
            return
        self._units.is_observing = True
        self.write_unchanged(events)
        for item in [*self._items.held]:
            list(self._items.announce(item))
        for item in [*self._items.pending]:
            del self._items.pending[item]
            if item not in self._items.latest:
                self._items.open(item)
        self._units.is_observing = self._units.is_changed = False
        self._units.latest_raw = raw if isinstance(raw, BaseModel) else self._units.latest_raw

    def write_unchanged(self, events: Sequence[StreamEvent]) -> list[BaseModel]:
        """Returns the units for all events of one unit of the provider."""
        self._units.is_complete = True
        if len(events) == 1 and (unit := self._continue_block(events[0])) is not None:
            return [unit]
        return [unit for event in events for unit in self._write(event)]

    def write_changed(self, events: Sequence[StreamEvent]) -> list[BaseModel]:
        """Returns the units for any other events."""
        self._units.is_complete = False
        self._units.is_changed = self._units.is_changed or not all(map(_restores, events))
        return [unit for event in events for unit in self._write(event)]

    def keepalive(self) -> list[BaseModel]:
        """Returns a unit without a place in the order of the others; none before the first, which begins the order."""
        if not self._units.count:
            return []
        number = self._units.latest_number
        numbered = {"sequence_number": number} if number >= 0 else {}
        return [GenericEvent.model_validate({"type": "keepalive", **numbered})]

    def response(self, template: object) -> Any:
        """Returns a copy of `template` with the sent items as its output."""
        return self._with_output(template, self._items.output())

    def _with_output(self, template: object, output: list[Any]) -> Any:
        return changed(template, output=output, **_output_text(template, self._items.all))

    def _continue_block(self, event: StreamEvent) -> BaseModel | None:
        """Returns the unit of a delta of a block that has begun, while nothing is changed: a shortcut for `_write`."""
        origin = event.source
        if self._units.is_changed or self._items.held:
            return None
        if not isinstance(event, DELTAS) or not isinstance(origin, Origin) or origin.bare is not None or origin.is_late:
            return None
        part, raw = self._blocks.get(event.index), origin.raw
        if part is None or raw is None or origin.position != self._units.count or get(raw, "type") not in BY_DELTA:
            return None
        part.pieces.append(event.arguments if isinstance(event, ToolCallDelta) else event.text)
        return self._units.emit(raw)

    def _write(self, event: StreamEvent) -> Units:
        origin = event.source if isinstance(event.source, Origin) else _NO_ORIGIN
        if origin.restores is not None:
            self._restored[origin.restores] = self._restored.get(origin.restores, 0) + 1
            return
        if origin.bare is not None and self._restored.pop(origin.position, 0) < origin.extra_events:
            origin = origin._replace(raw=origin.bare)
        if origin.raw is not None:
            yield from self._check_order(origin)
        if isinstance(event, DELTAS):
            yield from self._delta(event, origin)
        elif isinstance(event, BlockMarker) and event.kind == "other":
            yield from self._items.write_result(event, origin)
        elif isinstance(event, BlockMarker):
            yield from self._marker(event, origin)
        elif isinstance(event, ResponseStart):
            yield from self._start(origin)
        elif isinstance(event, Opaque):
            yield from self._opaque(origin)
        elif isinstance(event, Finish):
            yield from self._finish(event, origin)

    def _check_order(self, origin: Origin) -> Units:
        if self._items.held:
            yield from self._items.announce_bare_items(but=origin.item)
        pending = len(self._items.pending.get(origin.item, ())) if origin.item is not None else 0
        is_next = origin.position == self._units.count + len(self._items.held) + pending
        self._units.is_changed = self._units.is_changed or not (is_next or self._units.is_observing)

    # The response as a whole

    def _start(self, origin: Origin) -> Units:
        if origin.raw is None:
            response = self._template().model_copy(update={"status": "in_progress", "output": []})
            yield self._units.make("response.created", response=response)
            return
        number = (origin.raw.model_extra or {}).get("sequence_number")
        self._units.has_numbers = isinstance(number, int)
        self._initial = copy(get(origin.raw, "response"))
        yield self._without_output(origin.raw)

    def _template(self) -> Any:
        self._initial = self._initial or self._make_template()
        return self._initial

    def _without_output(self, raw: BaseModel) -> BaseModel:
        response = get(raw, "response")
        if not pieces(response, "output"):
            return self._units.emit(raw)
        text = {"output_text": ""} if get(response, "output_text") else {}
        return self._units.emit(raw, response=changed(response, output=[], **text))

    def _finish(self, event: Finish, origin: Origin) -> Units:
        yield from self._items.announce_bare_items()
        raw = origin.raw
        if (raw is None or origin.position != self._units.count) and not self._units.is_observing:
            self._units.is_changed = True
        if self._units.is_changed:
            parts = [part for part in self._blocks.values() if not part.is_implicit]
            yield from self._items.close_all((part.item for part in parts), event.reason)
        response = self._template() if raw is None else get(raw, "response")
        provided = pieces(response, "output")
        for sent in self._items.all:
            slot = origin.finals.get(sent.source, len(provided)) if sent.source is not None else len(provided)
            sent.template = provided[slot] if slot < len(provided) else sent.template
        output = self._items.output()
        if raw is None:
            response = changed(response, status=event.reason, output=output)
            yield self._units.make(f"response.{event.reason}", response=response)
        else:
            is_same = {*map(id, output)} >= {*map(id, provided)} and not self._units.is_changed
            yield self._units.emit(raw, response=response if is_same else self._with_output(response, output))

    # Items

    def _opaque(self, origin: Origin) -> Units:
        raw, item = origin.raw, origin.item
        if raw is None:
            if item is not None and item not in self._items.latest:
                self._items.open(item)
        elif item is None:
            yield self._without_output(raw)
        elif item.is_atomic and item not in self._items.latest:
            self._items.pending.setdefault(item, []).append(raw)
        elif get(raw, "type") == ITEM_ADDED and item.type in _HELD:
            self._items.held[item] = HeldAnnouncement(raw, origin.position, self._units.is_complete)
        elif get(raw, "type") == ITEM_ADDED:
            sent = self._items.open(item)
            yield self._units.emit(raw, output_index=sent.index, item=as_announced(sent, get(raw, "item")))
        else:
            yield from self._items.write_bare(raw, item)

    # Blocks

    def _marker(self, event: BlockMarker, origin: Origin) -> Units:
        if event.role == "begin":
            kind = origin.part.kind if origin.part is not None else SUMMARY if event.kind == "reasoning" else TEXT
            yield from self._begin(event.index, kind, origin)
            return
        part = self._blocks.get(event.index)
        if part is not None and origin.quoted is not None:
            yield from self._quote(part, event, origin)
            return
        if part is not None and event.role == "end":
            yield from self._end(part, origin)
            return
        is_repeated = part is not None and part.has_own_delta and get(origin.raw, "type") in _REPEATS
        if part is not None and origin.raw is not None and not is_repeated:
            yield self._emit_for(part, origin.raw)

    def _quote(self, part: SentPart, event: BlockMarker, origin: Origin) -> Units:
        text = changed_text(event, origin)
        if part.kind.block_kind == "tool_call":
            take_results(part.item, cast(dict[str, Any], origin.quoted), text)
            return
        number = len(part.quotes)
        quote = None if text is None else written(origin.quoted, text)
        part.quotes[key_of(origin.quoted)] = quote
        if origin.raw is not None and not part.item.is_done:
            place = {"annotation_index": number} if self._units.is_changed else {}
            changes = {} if quote is None else {"annotation": quote}
            yield self._emit_for(part, origin.raw, **place, **changes)

    def _begin(self, index: int | None, kind: Kind, origin: Origin) -> Units:
        yield from self._begin_item(kind, origin.item)
        sent = self._items.latest[origin.item] if origin.item is not None else self._items.all[-1]
        number = sum(part.kind.within == kind.within for part in sent.parts)
        if origin.part is not None and not self._units.is_changed:
            number = origin.part.slot
        part = self._blocks[index] = SentPart(sent, kind, number, origin.part)
        sent.parts.append(part)
        if origin.raw is not None:
            raw_part = get(origin.raw, "part")
            if not self._units.is_complete:
                annotations: dict[str, Any] = {"annotations": []} if pieces(raw_part, "annotations") else {}
                raw_part = changed(raw_part, **{kind.field: "", **annotations})
            yield self._emit_for(part, origin.raw, part=raw_part)
        elif not self._units.is_complete and not part.is_implicit:
            yield self._units.make(f"{kind.part_event}.added", **part.place(), part=new_part(kind))

    def _begin_item(self, kind: Kind, item: Item | None) -> Units:
        if item is not None and item.is_implicit:
            self._items.latest[item] = self._items.latest.get(item) or SentItem(item.type, item.raw, item)
            return
        if item is not None:
            yield from self._items.announce(item)
            if item in self._items.latest and not self._items.latest[item].is_done:
                return
        lists: dict[str, Any] = {"summary": []} if kind.item == "reasoning" else {"role": "assistant", "content": []}
        sent = self._items.open(item, kind.item, template={"type": kind.item, "status": "completed", **lists})
        if not self._units.is_complete:
            new = {"id": sent.id, "type": kind.item, "status": "in_progress", **lists}
            yield self._units.make(ITEM_ADDED, output_index=sent.index, item=new)

    def _delta(self, event: TextDelta | ReasoningDelta | ToolCallDelta, origin: Origin) -> Units:
        is_call = isinstance(event, ToolCallDelta)
        if origin.is_late:
            part = self._blocks.get(event.index)
            if part is not None and origin.raw is not None:
                yield self._emit_for(part, origin.raw)
            return
        is_replaced = event.index in self._blocks and self._blocks[event.index].is_implicit and origin.raw is None
        if event.index not in self._blocks or is_replaced:
            if is_call:
                yield from self._begin_call(event, origin)
            else:
                yield from self._begin(event.index, TEXT if isinstance(event, TextDelta) else SUMMARY, origin)
        part, text = self._blocks[event.index], event.arguments if is_call else event.text
        part.pieces.append(text)
        raw = origin.raw
        if part.kind.name in ACTIONS:
            if part.text != (part.head.arguments if part.head is not None else ""):
                raise WireError("the arguments of an action are not in one piece")
            return
        if raw is not None and get(raw, "type") in BY_DELTA:
            yield self._emit_for(part, raw)
        elif raw is None and text and not self._units.is_complete and part.item.index >= 0:
            part.has_own_delta = True
            others: dict[str, Any] = {"logprobs": []} if part.kind is TEXT else {}
            yield self._units.make(part.kind.delta, **part.place(), delta=text, **others)

    def _begin_call(self, event: ToolCallDelta, origin: Origin) -> Units:
        extra = {**event.extra}
        action = ACTIONS.get(str(extra.get("type")))
        kind = action or (CUSTOM_CALL if event.form == "custom" else CALL)
        own_id = extra.pop("id", None)
        template = {**extra, "type": kind.name, "status": "completed"}
        if action is not None and event.id is not None:
            template["call_id"] = event.id
        source = origin.item
        sent = SentItem(kind.name, template if source is None else bare_item(source.raw), source)
        part = self._blocks[event.index] = SentPart(sent, kind, 0, origin.part, event)
        sent.parts.append(part)
        if action is not None or (source is not None and source.is_atomic):
            if source is None:
                sent.template = template | {"id": own_id} | action_fields(kind, event.name, event.arguments)
            return
        self._items.register(sent, own_id if isinstance(own_id, str) else None)
        sent.is_changed = self._units.is_changed
        raw = origin.raw
        if raw is not None and get(raw, "type") == ITEM_ADDED:
            changes = {"id": sent.id} if self._units.is_changed else {}
            yield self._units.emit(raw, output_index=sent.index, item=changed(get(raw, "item"), **changes))
        elif not self._units.is_complete:
            new = changed(final_item(sent), status="in_progress", **{kind.field: ""})
            yield self._units.make(ITEM_ADDED, output_index=sent.index, item=new)

    def _end(self, part: SentPart, origin: Origin) -> Units:
        raw = origin.raw
        if raw is None and self._units.is_complete:
            yield from self._items.announce_complete(part.item) if not part.is_implicit else ()
        elif raw is None and part.item.index < 0 and origin.item is not None:
            yield from self._items.announce_complete(part.item)
        elif raw is None or part.is_implicit != (origin.item is not None and origin.item.is_implicit):
            yield from self._items.close_part(part)
            if origin.item is None or part.item.source is None:
                yield from self._items.close(part.item)
        elif get(raw, "type") == ITEM_DONE:
            yield from self._items.close(part.item, raw)
        else:
            yield self._part_end(part, raw)

    def _part_end(self, part: SentPart, raw: BaseModel) -> BaseModel:
        type: str = get(raw, "type")
        part.done.add(type)
        if type not in BY_DONE:
            return self._emit_for(part, raw, part=final_part(part, get(raw, "part")))
        is_changed = text_of(raw, part.kind) != part.text
        others: dict[str, Any] = {"logprobs": []} if part.kind is TEXT and is_changed else {}
        if part.head is not None:
            others["name"] = part.head.name
        return self._emit_for(part, raw, **{part.kind.field: part.text}, **others)

    def _emit_for(self, block: SentPart, raw: BaseModel, **changes: object) -> BaseModel:
        """Returns `raw`, a unit of `block`, with the place of the block."""
        place = block.place() if self._units.is_changed and not block.is_implicit else {}
        return self._units.emit(raw, **place, **changes)


def _restores(event: StreamEvent) -> bool:
    return isinstance(event.source, Origin) and event.source.restores is not None


def _output_text(response: object, items: Iterable[SentItem]) -> dict[str, Any]:
    """Returns the field `output_text` of a response with these `items`, {} if it has none."""
    extra = (response.model_extra or {}) if isinstance(response, BaseModel) else {}
    if "output_text" not in extra:
        return {}
    return {"output_text": "".join(part.text for sent in items for part in sent.parts if part.kind is TEXT)}
