"""Units of the responses wire, and the output of a response, that say just what was let out."""

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, cast

from litellm.types.llms.openai import ResponsesAPIResponse
from pydantic import BaseModel

from luthien_litellm_hooks.adapters.readable import written
from luthien_litellm_hooks.adapters.responses_actions import ACTIONS
from luthien_litellm_hooks.adapters.responses_actions import written as action_written
from luthien_litellm_hooks.adapters.responses_fields import bare_item
from luthien_litellm_hooks.adapters.responses_items import HeldBack, Items, UnitsOut, new_text
from luthien_litellm_hooks.adapters.responses_out import (
    LISTED,
    ItemOut,
    PartOut,
    as_announced,
    final_item,
    new_part,
    other_fields,
)
from luthien_litellm_hooks.adapters.responses_parts import (
    BY_DELTA,
    BY_DONE,
    CALL,
    CUSTOM_CALL,
    ITEM_ADDED,
    ITEM_DONE,
    PART_ADDED,
    SUMMARY,
    TEXT,
    Item,
    Kind,
    Origin,
    changed,
    get,
    key_of,
    pieces,
    text_of,
)
from luthien_litellm_hooks.adapters.responses_units import Units
from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import (
    DELTAS,
    Finish,
    Frame,
    Opaque,
    ReasoningDelta,
    Start,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
)

_HELD_BACK = frozenset(LISTED)  # items that are announced when the first of their blocks leaves
_REPEATS = BY_DELTA.keys() | PART_ADDED
_NOTHING = Origin()


class Writer:
    """Writes one answer; `own` makes what it is like if none came."""

    def __init__(self, own: Callable[[], ResponsesAPIResponse]) -> None:
        self._own = own
        self._units = Units()
        self._items = Items(self._units)
        self._begun: Any = None  # a copy of the response as it came first: LiteLLM seals its id in what has left
        self._restored: dict[int, int] = {}  # how many events came that say what no policy judges of a unit
        self._blocks: dict[int | None, PartOut] = {}

    @property
    def is_own(self) -> bool:
        """What has left is no longer just what came."""
        return self._units.is_own

    def left(self, raw: object, events: Sequence[StreamEvent]) -> None:
        """Notes that a unit has left as it came."""
        self._units.is_observing = True
        self.whole(events)
        for item in [*self._items.held_back]:
            list(self._items.announce(item))
        for item in [*self._items.kept]:
            del self._items.kept[item]
            if item not in self._items.latest:
                self._items.open(item)
        self._units.is_observing = self._units.is_own = False
        self._units.latest_raw = raw if isinstance(raw, BaseModel) else self._units.latest_raw

    def whole(self, events: Sequence[StreamEvent]) -> list[BaseModel]:
        """The units for all that one unit of the provider's said."""
        self._units.is_whole = True
        if len(events) == 1 and (unit := self._go_on(events[0])) is not None:
            return [unit]
        return [unit for event in events for unit in self._write(event)]

    def apart(self, events: Sequence[StreamEvent]) -> list[BaseModel]:
        """The units for other events."""
        self._units.is_whole = False
        self._units.is_own = self._units.is_own or not all(map(_restores, events))
        return [unit for event in events for unit in self._write(event)]

    def response(self, like: object) -> Any:
        """A response like `like` whose output is what has left."""
        return changed(like, output=self._items.output(), **other_fields(like, self._items.all))

    def _go_on(self, event: StreamEvent) -> BaseModel | None:
        """The unit of a piece of a block that has begun to leave, while all leaves as it came: as `_write` would."""
        origin = event.part
        if self.is_own or self._items.held_back:
            return None
        if not isinstance(event, DELTAS) or not isinstance(origin, Origin) or origin.bare is not None or origin.is_late:
            return None
        part, raw = self._blocks.get(event.index), origin.raw
        if part is None or raw is None or origin.position != self._units.count or get(raw, "type") not in BY_DELTA:
            return None
        part.said.append(event.arguments if isinstance(event, ToolCallDelta) else event.text)
        return self._units.emit(raw)

    def _write(self, event: StreamEvent) -> UnitsOut:
        origin = event.part if isinstance(event.part, Origin) else _NOTHING
        if origin.restores is not None:
            self._restored[origin.restores] = self._restored.get(origin.restores, 0) + 1
            return
        if origin.bare is not None and self._restored.pop(origin.position, 0) < origin.guards:
            origin = origin._replace(raw=origin.bare)
        if origin.raw is not None:
            yield from self._mind_order(origin)
        if isinstance(event, DELTAS):
            yield from self._piece(event, origin)
        elif isinstance(event, Frame) and event.kind == "other":
            yield from self._items.write_result(event, origin)
        elif isinstance(event, Frame):
            yield from self._frame(event, origin)
        elif isinstance(event, Start):
            yield from self._start(origin)
        elif isinstance(event, Opaque):
            yield from self._opaque(origin)
        elif isinstance(event, Finish):
            yield from self._finish(event, origin)

    def _mind_order(self, origin: Origin) -> UnitsOut:
        if self._items.held_back:
            yield from self._items.let_bare_items_out(but=origin.item)
        kept = len(self._items.kept.get(origin.item, ())) if origin.item is not None else 0
        is_next = origin.position == self._units.count + len(self._items.held_back) + kept
        self._units.is_own = self._units.is_own or not (is_next or self._units.is_observing)

    # The answer as a whole

    def _start(self, origin: Origin) -> UnitsOut:
        if origin.raw is None:
            response = self._like().model_copy(update={"status": "in_progress", "output": []})
            yield self._units.make("response.created", response=response)
            return
        number = (origin.raw.model_extra or {}).get("sequence_number")
        self._units.has_numbers = isinstance(number, int)
        self._begun = copy(get(origin.raw, "response"))
        yield self._without_output(origin.raw)

    def _like(self) -> Any:
        self._begun = self._begun or self._own()
        return self._begun

    def _without_output(self, raw: BaseModel) -> BaseModel:
        response = get(raw, "response")
        if not pieces(response, "output"):
            return self._units.emit(raw)
        said = {"output_text": ""} if get(response, "output_text") else {}
        return self._units.emit(raw, response=changed(response, output=[], **said))

    def _finish(self, event: Finish, origin: Origin) -> UnitsOut:
        yield from self._items.let_bare_items_out()
        raw = origin.raw
        if (raw is None or origin.position != self._units.count) and not self._units.is_observing:
            self._units.is_own = True
        if self._units.is_own:
            parts = [part for part in self._blocks.values() if not part.is_loose]
            yield from self._items.close_all((part.out for part in parts), event.reason)
        response = self._like() if raw is None else get(raw, "response")
        output = pieces(response, "output")
        for out in self._items.all:
            slot = origin.finals.get(out.item, len(output)) if out.item is not None else len(output)
            out.base = output[slot] if slot < len(output) else out.base
        if raw is None:
            response = changed(response, status=event.reason, output=self._items.output())
            yield self._units.make(f"response.{event.reason}", response=response)
        else:
            yield self._units.emit(raw, response=self._response(response))

    def _response(self, response: object) -> object:
        is_same = {*map(id, self._items.output())} >= {*map(id, pieces(response, "output"))}
        return response if is_same and not self._units.is_own else self.response(response)

    # Items

    def _opaque(self, origin: Origin) -> UnitsOut:
        raw, item = origin.raw, origin.item
        if raw is None:
            if item is not None and item not in self._items.latest:
                self._items.open(item)
        elif item is None:
            yield self._without_output(raw)
        elif item.is_whole and item not in self._items.latest:
            self._items.kept.setdefault(item, []).append(raw)
        elif get(raw, "type") == ITEM_ADDED and item.type in _HELD_BACK:
            self._items.held_back[item] = HeldBack(raw, origin.position, self._units.is_whole)
        elif get(raw, "type") == ITEM_ADDED:
            out = self._items.open(item)
            yield self._units.emit(raw, output_index=out.index, item=as_announced(out, get(raw, "item")))
        else:
            yield from self._items.write_bare(raw, item)

    # Blocks

    def _frame(self, event: Frame, origin: Origin) -> UnitsOut:
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
        is_repeated = part is not None and part.is_spelled and get(origin.raw, "type") in _REPEATS
        if part is not None and origin.raw is not None and not is_repeated:
            yield self._emit_of(part, origin.raw)

    def _quote(self, part: PartOut, event: Frame, origin: Origin) -> UnitsOut:
        text = new_text(event, origin)
        if part.kind.brings == "tool_call":
            part.out.take_results(cast(dict[str, Any], origin.quoted), text)
            return
        number = len(part.quotes)
        quote = None if text is None else written(origin.quoted, text)
        part.quotes[key_of(origin.quoted)] = quote
        if origin.raw is not None and not part.out.is_done:
            place = {"annotation_index": number} if self._units.is_own else {}
            changes = {} if quote is None else {"annotation": quote}
            yield self._emit_of(part, origin.raw, **place, **changes)

    def _begin(self, index: int | None, kind: Kind, origin: Origin) -> UnitsOut:
        yield from self._begin_item(kind, origin.item)
        out = self._items.latest[origin.item] if origin.item is not None else self._items.all[-1]
        number = sum(part.kind.within == kind.within for part in out.parts)
        if origin.part is not None and not self._units.is_own:
            number = origin.part.slot
        part = self._blocks[index] = PartOut(out, kind, number, origin.part)
        out.parts.append(part)
        if origin.raw is not None:
            came = get(origin.raw, "part")
            empty: dict[str, Any] = {kind.field: "", **({"annotations": []} if pieces(came, "annotations") else {})}
            yield self._emit_of(part, origin.raw, part=came if self._units.is_whole else changed(came, **empty))
        elif not self._units.is_whole and not part.is_loose:
            yield self._units.make(f"{kind.frame}.added", **part.place(), part=new_part(kind))

    def _begin_item(self, kind: Kind, item: Item | None) -> UnitsOut:
        if item is not None and item.is_loose:
            self._items.latest[item] = self._items.latest.get(item) or ItemOut(item.type, item.came, item)
            return
        if item is not None:
            yield from self._items.announce(item)
            if item in self._items.latest and not self._items.latest[item].is_done:
                return
        lists: dict[str, Any] = {"summary": []} if kind.item == "reasoning" else {"role": "assistant", "content": []}
        out = self._items.open(item, kind.item, base={"type": kind.item, "status": "completed", **lists})
        if not self._units.is_whole:
            new = {"id": out.id, "type": kind.item, "status": "in_progress", **lists}
            yield self._units.make(ITEM_ADDED, output_index=out.index, item=new)

    def _piece(self, event: TextDelta | ReasoningDelta | ToolCallDelta, origin: Origin) -> UnitsOut:
        is_call = isinstance(event, ToolCallDelta)
        if origin.is_late:
            yield from self._late(event, origin)
            return
        is_spoken_over = event.index in self._blocks and self._blocks[event.index].is_loose and origin.raw is None
        if event.index not in self._blocks or is_spoken_over:
            if is_call:
                yield from self._begin_call(event, origin)
            else:
                yield from self._begin(event.index, TEXT if isinstance(event, TextDelta) else SUMMARY, origin)
        part, text = self._blocks[event.index], event.arguments if is_call else event.text
        part.said.append(text)
        raw = origin.raw
        if part.kind.name in ACTIONS:
            if part.text != (part.head.arguments if part.head is not None else ""):
                raise WireError("the arguments of an action came in pieces")
            return
        if raw is not None and get(raw, "type") in BY_DELTA:
            yield self._emit_of(part, raw)
        elif raw is None and text and not self._units.is_whole and part.out.index >= 0:
            part.is_spelled = True
            rest: dict[str, Any] = {"logprobs": []} if part.kind is TEXT else {}
            yield self._units.make(part.kind.delta, **part.place(), delta=text, **rest)

    def _late(self, event: TextDelta | ReasoningDelta | ToolCallDelta, origin: Origin) -> UnitsOut:
        part = self._blocks.get(event.index)
        if part is not None and origin.raw is not None:
            yield self._emit_of(part, origin.raw)

    def _begin_call(self, event: ToolCallDelta, origin: Origin) -> UnitsOut:
        extra = {**event.extra}
        action = ACTIONS.get(str(extra.get("type")))
        kind = action or (CUSTOM_CALL if event.form == "custom" else CALL)
        own_id = extra.pop("id", None)
        base = {**extra, "type": kind.name, "status": "completed"}
        if action is not None and event.id is not None:
            base["call_id"] = event.id
        out = (
            ItemOut(kind.name, base)
            if origin.item is None
            else ItemOut(kind.name, bare_item(origin.item.came), origin.item)
        )
        part = self._blocks[event.index] = PartOut(out, kind, 0, origin.part, event)
        out.parts.append(part)
        if action is not None or (origin.item is not None and origin.item.is_whole):
            if origin.item is None:
                out.base = base | {"id": own_id} | action_written(kind, event.name, event.arguments)
            return
        self._items.register(out, own_id if isinstance(own_id, str) else None)
        out.is_own = self._units.is_own
        raw = origin.raw
        if raw is not None and get(raw, "type") == ITEM_ADDED:
            changes = {"id": out.id} if self._units.is_own else {}
            yield self._units.emit(raw, output_index=out.index, item=changed(get(raw, "item"), **changes))
        elif not self._units.is_whole:
            new = changed(final_item(out, out.base), status="in_progress", **{kind.field: ""})
            yield self._units.make(ITEM_ADDED, output_index=out.index, item=new)

    def _end(self, part: PartOut, origin: Origin) -> UnitsOut:
        raw = origin.raw
        if raw is None and self._units.is_whole:
            yield from self._items.announce_whole(part.out) if not part.is_loose else ()
        elif raw is None and part.out.index < 0 and origin.item is not None:
            yield from self._items.announce_whole(part.out)
        elif raw is None or part.is_loose != (origin.item is not None and origin.item.is_loose):
            yield from self._items.close_part(part)
            if origin.item is None or part.out.item is None:
                yield from self._items.close(part.out)
        elif get(raw, "type") == ITEM_DONE:
            yield from self._items.close(part.out, raw)
        else:
            yield self._part_end(part, raw)

    def _part_end(self, part: PartOut, raw: BaseModel) -> BaseModel:
        type: str = get(raw, "type")
        part.done.add(type)
        if type not in BY_DONE:
            return self._emit_of(part, raw, part=part.written_like(get(raw, "part")))
        is_changed = text_of(raw, part.kind) != part.text
        rest: dict[str, Any] = {"logprobs": []} if part.kind is TEXT and is_changed else {}
        if part.head is not None:
            rest["name"] = part.head.name
        return self._emit_of(part, raw, **{part.kind.field: part.text}, **rest)

    def _emit_of(self, block: PartOut, raw: BaseModel, **changes: object) -> BaseModel:
        """`raw`, which is about `block`, in its place."""
        place = block.place() if self._units.is_own and not block.is_loose else {}
        return self._units.emit(raw, **place, **changes)


def _restores(event: StreamEvent) -> bool:
    return isinstance(event.part, Origin) and event.part.restores is not None
