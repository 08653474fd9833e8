"""Units of the responses wire, and the output of a response, that say just what was let out."""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, cast
from uuid import uuid4

from litellm.llms.openai.responses.transformation import OpenAIResponsesAPIConfig
from litellm.types.llms.openai import GenericEvent, ResponsesAPIResponse
from pydantic import BaseModel, ValidationError

from luthien_litellm_hooks.adapters.readable import read, written
from luthien_litellm_hooks.adapters.responses_actions import ACTIONS, says_no_more
from luthien_litellm_hooks.adapters.responses_actions import written as action_written
from luthien_litellm_hooks.adapters.responses_fields import bare_item
from luthien_litellm_hooks.adapters.responses_out import (
    GOVERNED,
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
    CALLS,
    CUSTOM_CALL,
    ITEM_ADDED,
    ITEM_DONE,
    ITEM_PREFIXES,
    LISTS,
    PART_ADDED,
    SUMMARY,
    TEXT,
    Item,
    Kind,
    Origin,
    changed,
    fields,
    get,
    key_of,
    pieces,
    text_of,
)
from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import (
    DELTAS,
    Finish,
    Frame,
    Opaque,
    Quote,
    ReasoningDelta,
    Start,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
)

_HELD_BACK = frozenset(LISTED)  # items that are announced when the first of their blocks leaves
_PLACE = frozenset({"item_id", "output_index", "content_index", "summary_index"})
_REPEATS = BY_DELTA.keys() | PART_ADDED
_NOTHING = Origin()
_Units = Iterator[BaseModel]


@dataclass(frozen=True, slots=True)
class _HeldBack:
    """The announcement of an item of which nothing has left yet."""

    raw: BaseModel
    position: int
    is_whole: bool


class Writer:
    """Writes one answer; `own` makes what it is like if none came.

    As long as all that came leaves as it came, so do its units: the very objects. From the first
    unit on that does not, numbers are ours, and what repeats the answer repeats what left of it.
    """

    def __init__(self, own: Callable[[], ResponsesAPIResponse]) -> None:
        self._own = own
        self._begun: Any = None  # a copy of the response as it came first: LiteLLM seals its id in what has left
        self._items: list[ItemOut] = []
        self._latest: dict[Item, ItemOut] = {}
        self._held_back: dict[Item, _HeldBack] = {}
        self._kept: dict[Item, list[BaseModel]] = {}  # the units of items that are not whole yet
        self._results: dict[Item, ItemOut] = {}  # those that began and have not ended
        self._ended: dict[Item, BaseModel | None] = {}  # the ends of those that did not begin yet
        self._restored: dict[int, int] = {}  # how many events came that say what no policy judges of a unit
        self._blocks: dict[int | None, PartOut] = {}
        self._is_whole = False  # what is written now is a whole unit of the provider's
        self._is_observing = False  # what is written now has left as it came
        self._is_own = False  # what has left is no longer just what came
        self._count = 0
        self._has_numbers = True
        self._number = -1
        self._latest_raw: BaseModel | None = None  # the unit that left last, while they leave as they came

    @property
    def is_own(self) -> bool:
        """What has left is no longer just what came."""
        return self._is_own

    def left(self, raw: object, events: Sequence[StreamEvent]) -> None:
        """Notes that a unit has left as it came."""
        self._is_observing = True
        self.whole(events)
        for item in [*self._held_back]:
            list(self._announce(item))
        for item in [*self._kept]:
            del self._kept[item]
            if item not in self._latest:
                self._open(item)
        self._is_observing = self._is_own = False
        self._latest_raw = raw if isinstance(raw, BaseModel) else self._latest_raw

    def whole(self, events: Sequence[StreamEvent]) -> list[BaseModel]:
        """The units for all that one unit of the provider's said."""
        self._is_whole = True
        if len(events) == 1 and (unit := self._go_on(events[0])) is not None:
            return [unit]
        return [unit for event in events for unit in self._write(event)]

    def apart(self, events: Sequence[StreamEvent]) -> list[BaseModel]:
        """The units for other events."""
        self._is_whole = False
        self._is_own = self._is_own or not all(map(_restores, events))
        return [unit for event in events for unit in self._write(event)]

    def response(self, like: object) -> Any:
        """A response like `like` whose output is what has left."""
        return changed(like, output=self._output(), **other_fields(like, self._items))

    def _output(self) -> list[Any]:
        for out in self._items:
            out.is_own = self._is_own
        return [final_item(out, out.base) for out in self._items]

    def _go_on(self, event: StreamEvent) -> BaseModel | None:
        """The unit of a piece of a block that has begun to leave, while all leaves as it came: as `_write` would."""
        origin = event.part
        if self._is_own or self._held_back or not isinstance(event, DELTAS) or not isinstance(origin, Origin):
            return None
        part, raw = self._blocks.get(event.index), origin.raw
        if (
            origin.bare is not None
            or origin.is_late
            or part is None
            or raw is None
            or origin.position != self._count
            or get(raw, "type") not in BY_DELTA
        ):
            return None
        part.said.append(event.arguments if isinstance(event, ToolCallDelta) else event.text)
        return self._emit(raw)

    def _write(self, event: StreamEvent) -> _Units:
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
            yield from self._result(event, origin)
        elif isinstance(event, Frame):
            yield from self._frame(event, origin)
        elif isinstance(event, Start):
            yield from self._start(origin)
        elif isinstance(event, Opaque):
            yield from self._opaque(origin)
        elif isinstance(event, Finish):
            yield from self._finish(event, origin)

    def _mind_order(self, origin: Origin) -> _Units:
        if self._held_back:
            yield from self._let_bare_items_out(but=origin.item)
        kept = len(self._kept.get(origin.item, ())) if origin.item is not None else 0
        is_next = origin.position == self._count + len(self._held_back) + kept
        self._is_own = self._is_own or not (is_next or self._is_observing)

    # The answer as a whole

    def _start(self, origin: Origin) -> _Units:
        if origin.raw is None:
            response = self._like().model_copy(update={"status": "in_progress", "output": []})
            yield self._make("response.created", response=response)
            return
        number = (origin.raw.model_extra or {}).get("sequence_number")
        self._has_numbers = isinstance(number, int)
        self._begun = copy(get(origin.raw, "response"))
        yield self._without_output(origin.raw)

    def _like(self) -> Any:
        self._begun = self._begun or self._own()
        return self._begun

    def _without_output(self, raw: BaseModel) -> BaseModel:
        response = get(raw, "response")
        if not pieces(response, "output"):
            return self._emit(raw)
        said = {"output_text": ""} if get(response, "output_text") else {}
        return self._emit(raw, response=changed(response, output=[], **said))

    def _finish(self, event: Finish, origin: Origin) -> _Units:
        yield from self._let_bare_items_out()
        raw = origin.raw
        if (raw is None or origin.position != self._count) and not self._is_observing:
            self._is_own = True
        if self._is_own:
            yield from self._close_all(event.reason)
        response = self._like() if raw is None else get(raw, "response")
        output = pieces(response, "output")
        for out in self._items:
            slot = origin.finals.get(out.item, len(output)) if out.item is not None else len(output)
            out.base = output[slot] if slot < len(output) else out.base
        if raw is None:
            response = changed(response, status=event.reason, output=self._output())
            yield self._make(f"response.{event.reason}", response=response)
        else:
            yield self._emit(raw, response=self._response(response))

    def _close_all(self, reason: str) -> _Units:
        open_blocks = [part.out for part in self._blocks.values() if part.out not in self._items and not part.is_loose]
        for out in dict.fromkeys((*self._items, *open_blocks)):
            is_call = out.type in CALLS or out.type in ACTIONS
            out.is_cut = reason != "completed" or (is_call and out.item is not None)
            yield from self._close(out)

    def _response(self, response: object) -> object:
        left = {*map(id, self._output())}
        return (
            response if left >= {*map(id, pieces(response, "output"))} and not self._is_own else self.response(response)
        )

    # Items

    def _opaque(self, origin: Origin) -> _Units:
        raw, item = origin.raw, origin.item
        if raw is None:
            if item is not None and item not in self._latest:
                self._open(item)
        elif item is None:
            yield self._without_output(raw)
        elif item.is_whole and item not in self._latest:
            self._kept.setdefault(item, []).append(raw)
        elif get(raw, "type") == ITEM_ADDED and item.type in _HELD_BACK:
            self._held_back[item] = _HeldBack(raw, origin.position, self._is_whole)
        elif get(raw, "type") == ITEM_ADDED:
            out = self._open(item)
            yield self._emit(raw, output_index=out.index, item=as_announced(out, get(raw, "item")))
        else:
            yield from self._of_bare_item(raw, item)

    def _of_bare_item(self, raw: BaseModel, item: Item) -> _Units:
        yield from self._announce(item)
        if item not in self._latest and item.is_bare:
            self._open(item)
        out = self._latest.get(item)
        if out is not None:  # otherwise it is about something that did not leave
            is_done = get(raw, "type") == ITEM_DONE
            out.is_done, out.base = out.is_done or is_done, get(raw, "item") if is_done else out.base
            yield self._emit(raw, output_index=out.index)

    def _let_bare_items_out(self, but: Item | None = None) -> _Units:
        for item in [item for item in self._held_back if item.is_bare and item is not but]:
            yield from self._announce(item)

    def _announce(self, item: Item) -> _Units:
        held = self._held_back.pop(item, None)
        if held is not None:
            out = self._open(item)
            came = get(held.raw, "item")
            empty: dict[str, Any] = {} if held.is_whole else {name: [] for name in LISTS if pieces(came, name)}
            yield self._emit(held.raw, output_index=out.index, item=changed(came, **empty))

    def _open(self, item: Item | None, type: str = "", id: str | None = None, base: object = None) -> ItemOut:
        out = ItemOut(type, base) if item is None else ItemOut(item.type, bare_item(item.came), item)
        return self._register(out, id)

    def _register(self, out: ItemOut, id: str | None = None) -> ItemOut:
        """Gives an item its place among those that leave."""
        item = out.item
        out.index = 1 + max((other.index for other in self._items), default=-1)
        if item is not None:
            out.index = item.index if item.index is not None and not self._is_own else out.index
            id = get(item.came, "id")
            self._latest[item] = out
        if id is None or any(other.id == id for other in self._items):
            id = f"{ITEM_PREFIXES.get(out.type, out.type)}_{uuid4().hex}"
        out.id = id
        self._items.append(out)
        return out

    def _close(self, out: ItemOut, raw: BaseModel | None = None) -> _Units:
        """Ends an item that governed blocks are in."""
        if out.is_done or out.type not in GOVERNED:
            return
        yield from self._announce_whole(out)
        out.is_done = True
        if self._is_own:
            for part in out.parts:
                yield from self._close_part(part)
        out.is_own = self._is_own
        if raw is not None and out.item is not None:
            out.base = get(raw, "item")
            yield self._emit(raw, output_index=out.index, item=final_item(out, out.base))
        else:
            yield self._make(ITEM_DONE, output_index=out.index, item=final_item(out, out.base))

    # Items that leave when they are whole

    def _result(self, event: Frame, origin: Origin) -> _Units:
        item = origin.item
        if item is None:
            return
        if event.role == "begin":
            out = self._results[item] = self._latest.get(item) or ItemOut(item.type, bare_item(item.came), item)
            out.take_results(cast(dict[str, Any], origin.quoted), _new_text(event, origin))
            if item in self._ended:
                yield from self._result_ends(item, self._ended.pop(item))
        elif item in self._results:
            yield from self._result_ends(item, origin.raw)
        else:
            self._ended[item] = origin.raw

    def _result_ends(self, item: Item, raw: BaseModel | None) -> _Units:
        out = self._results.pop(item)
        yield from self._announce_whole(out)
        if raw is not None:
            yield from self._close(out, raw)

    def _announce_whole(self, out: ItemOut) -> _Units:
        """The units of an item before its end, all of which is known now."""
        if out.index >= 0:
            return
        kept = self._kept.pop(out.item, []) if out.item is not None else []
        own_id = get(out.base, "id") if out.item is None else None
        said = [raw for raw in kept if get(raw, "type") != ITEM_ADDED]
        if said and not self._says_no_more(out, said):
            self._is_own, kept = True, [raw for raw in kept if raw not in said]
        self._register(out, own_id if isinstance(own_id, str) else None)
        out.is_own = self._is_own
        if (self._is_own or not self._is_whole) and len(kept) == len(said) and not self._is_observing:
            new = changed(as_announced(out, {**fields(out.base), "id": out.id}), status="in_progress")
            yield self._make(ITEM_ADDED, output_index=out.index, item=new)
        for raw in kept:
            came = get(raw, "item")
            changes = {} if came is None else {"item": as_announced(out, came)}
            place = {"item_id": out.id} if self._is_own else {}
            yield self._emit(raw, output_index=out.index, **place, **changes)

    def _says_no_more(self, out: ItemOut, units: list[BaseModel]) -> bool:
        texts = [part.text for part in out.parts]
        return says_no_more(units, final_item(out, out.base) if out.type in ACTIONS else None, texts)

    # Blocks

    def _frame(self, event: Frame, origin: Origin) -> _Units:
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

    def _quote(self, part: PartOut, event: Frame, origin: Origin) -> _Units:
        text = _new_text(event, origin)
        if part.kind.brings == "tool_call":
            part.out.take_results(cast(dict[str, Any], origin.quoted), text)
            return
        number = len(part.quotes)
        quote = None if text is None else written(origin.quoted, text)
        part.quotes[key_of(origin.quoted)] = quote
        if origin.raw is not None and not part.out.is_done:
            place = {"annotation_index": number} if self._is_own else {}
            changes = {} if quote is None else {"annotation": quote}
            yield self._emit_of(part, origin.raw, **place, **changes)

    def _begin(self, index: int | None, kind: Kind, origin: Origin) -> _Units:
        yield from self._begin_item(kind, origin.item)
        out = self._latest[origin.item] if origin.item is not None else self._items[-1]
        number = sum(part.kind.within == kind.within for part in out.parts)
        if origin.part is not None and not self._is_own:
            number = origin.part.slot
        part = self._blocks[index] = PartOut(out, kind, number, origin.part)
        out.parts.append(part)
        if origin.raw is not None:
            came = get(origin.raw, "part")
            empty: dict[str, Any] = {kind.field: "", **({"annotations": []} if pieces(came, "annotations") else {})}
            yield self._emit_of(part, origin.raw, part=came if self._is_whole else changed(came, **empty))
        elif not self._is_whole and not part.is_loose:
            yield self._make(f"{kind.frame}.added", **part.place(), part=new_part(kind))

    def _begin_item(self, kind: Kind, item: Item | None) -> _Units:
        if item is not None and item.is_loose:
            self._latest[item] = self._latest.get(item) or ItemOut(item.type, item.came, item)
            return
        if item is not None:
            yield from self._announce(item)
            if item in self._latest and not self._latest[item].is_done:
                return
        lists: dict[str, Any] = {"summary": []} if kind.item == "reasoning" else {"role": "assistant", "content": []}
        out = self._open(item, kind.item, base={"type": kind.item, "status": "completed", **lists})
        if not self._is_whole:
            new = {"id": out.id, "type": kind.item, "status": "in_progress", **lists}
            yield self._make(ITEM_ADDED, output_index=out.index, item=new)

    def _piece(self, event: TextDelta | ReasoningDelta | ToolCallDelta, origin: Origin) -> _Units:
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
        elif raw is None and text and not self._is_whole and part.out.index >= 0:
            part.is_spelled = True
            rest: dict[str, Any] = {"logprobs": []} if part.kind is TEXT else {}
            yield self._make(part.kind.delta, **part.place(), delta=text, **rest)

    def _late(self, event: TextDelta | ReasoningDelta | ToolCallDelta, origin: Origin) -> _Units:
        part = self._blocks.get(event.index)
        if part is not None and origin.raw is not None:
            yield self._emit_of(part, origin.raw)

    def _begin_call(self, event: ToolCallDelta, origin: Origin) -> _Units:
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
        self._register(out, own_id if isinstance(own_id, str) else None)
        out.is_own = self._is_own
        raw = origin.raw
        if raw is not None and get(raw, "type") == ITEM_ADDED:
            changes = {"id": out.id} if self._is_own else {}
            yield self._emit(raw, output_index=out.index, item=changed(get(raw, "item"), **changes))
        elif not self._is_whole:
            new = changed(final_item(out, out.base), status="in_progress", **{kind.field: ""})
            yield self._make(ITEM_ADDED, output_index=out.index, item=new)

    def _end(self, part: PartOut, origin: Origin) -> _Units:
        raw = origin.raw
        if raw is None and self._is_whole:
            yield from self._announce_whole(part.out) if not part.is_loose else ()
        elif raw is None and part.out.index < 0 and origin.item is not None:
            yield from self._announce_whole(part.out)
        elif raw is None or part.is_loose != (origin.item is not None and origin.item.is_loose):
            yield from self._close_part(part)
            if origin.item is None or part.out.item is None:
                yield from self._close(part.out)
        elif get(raw, "type") == ITEM_DONE:
            yield from self._close(part.out, raw)
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

    def _close_part(self, part: PartOut) -> _Units:
        """What the end of a block still needs."""
        kind = part.kind
        if kind.name in ACTIONS or part.is_loose or part.out.index < 0:
            return
        if kind.done not in part.done:
            part.done.add(kind.done)
            rest: dict[str, Any] = {"logprobs": []} if kind is TEXT else {}
            if kind is CALL and part.head is not None:
                rest = {"name": part.head.name}
            yield self._make(kind.done, **part.place(), **{kind.field: part.text}, **rest)
        if kind.within and f"{kind.frame}.done" not in part.done:
            part.done.add(f"{kind.frame}.done")
            said = {**new_part(kind), kind.field: part.text}
            yield self._make(f"{kind.frame}.done", **part.place(), part=said)

    # Units

    def _emit_of(self, block: PartOut, raw: BaseModel, **changes: object) -> BaseModel:
        """`raw`, which is about `block`, in its place."""
        place = block.place() if self._is_own and not block.is_loose else {}
        return self._emit(raw, **place, **changes)

    def _emit(self, raw: BaseModel, **changes: object) -> BaseModel:
        """`raw` with those of `changes` that it has fields for; `raw` itself if they change nothing."""
        self._count += 1
        if not self._is_own:
            self._latest_raw = raw
            return changed(raw, **{name: value for name, value in changes.items() if _may_change(raw, name)})
        if self._has_numbers and isinstance(get(raw, "sequence_number"), int):
            changes["sequence_number"] = self._next_number()
        return changed(raw, **{name: value for name, value in changes.items() if _must_say(raw, name)})

    def _next_number(self) -> int:
        """One more than the unit before has, whether it came so or is ours."""
        if self._latest_raw is not None:
            number, self._latest_raw = get(self._latest_raw, "sequence_number"), None
            self._number = number if isinstance(number, int) else self._number
        self._number += 1
        return self._number

    def _make(self, type: str, **content: object) -> BaseModel:
        self._count += 1
        self._is_own = True
        if self._has_numbers:
            content["sequence_number"] = self._next_number()
        # LiteLLM's own classes of the other events refuse items that LiteLLM itself makes.
        made = OpenAIResponsesAPIConfig.get_event_model_class(type) if "response" in content else GenericEvent
        try:
            return made.model_validate({"type": type, **content})
        except ValidationError:  # what the provider's response says of itself is not as LiteLLM knows it
            return GenericEvent.model_validate({"type": type, **content})


def _must_say(raw: BaseModel, name: str) -> bool:
    return name == "output_index" or get(raw, name) is not None


def _may_change(raw: BaseModel, name: str) -> bool:
    return name not in _PLACE and get(raw, name) is not None


def _restores(event: StreamEvent) -> bool:
    return isinstance(event.part, Origin) and event.part.restores is not None


def _new_text(event: Frame, origin: Origin) -> str | None:
    """The text of a quote that a policy changed."""
    return event.text if isinstance(event, Quote) and event.text != read(origin.quoted) else None
