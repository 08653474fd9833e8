"""The blocks of a response as they come: their numbers, their events, and what of them was read already."""

from collections.abc import Iterator
from typing import Any, Literal

from luthien_litellm_hooks.adapters.readable import read
from luthien_litellm_hooks.adapters.responses_actions import (
    ACTION_FIELDS,
    ACTIONS,
    RESULTS,
    arguments_of,
    form_of,
    name_of,
    results_of,
)
from luthien_litellm_hooks.adapters.responses_fields import bare_item
from luthien_litellm_hooks.adapters.responses_parts import (
    CALLS,
    CUSTOM_CALL,
    LISTS,
    Item,
    Kind,
    Origin,
    Part,
    fields,
    get,
    key_of,
    kind_of,
    pieces,
    plain,
    text_of,
    whole_text,
)
from luthien_litellm_hooks.events import (
    Frame,
    Quote,
    ReasoningDelta,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    from_wire,
)

_CALL_FIELDS = frozenset({"type", "status", "name", "call_id", "arguments", "input"})
_Events = Iterator[StreamEvent]


class Blocks:
    """Reads the blocks of one response, each piece of them once."""

    def __init__(self) -> None:
        self._count = 0
        self._calls: dict[str, int] = {}  # the blocks of calls, by their ids and the types of their items

    def catch_up(self, item: Item, came: object) -> _Events:
        """What of an item had not come before `came` said it."""
        if item.type in RESULTS:
            if item.block is None:
                yield self._result(item, came)
        elif item.type in ACTIONS:
            yield from self._action(item, came)
        elif item.type in CALLS:
            yield from self._call(item, came)
        else:
            yield from self._texts(item, came)

    def _texts(self, item: Item, came: object) -> _Events:
        is_same = item.parts and whole_text(came) == "".join(
            piece for part in item.parts.values() for piece in part.pieces
        )
        for within in LISTS:
            for slot, said in enumerate(pieces(came, within)):
                kind = kind_of(item.type, said)
                if kind is None or kind.within != within:
                    continue
                if not is_same:
                    yield from self.top_up(item, kind, slot, text_of(said, kind))
                if (part := item.parts.get((within, slot))) is not None:
                    yield from self.quotes(item, part, said)
                    if item.index is None and not part.is_ended:
                        yield end_of(item, part, Origin())

    def top_up(self, item: Item, kind: Kind, slot: int, text: str) -> _Events:
        """What `text` says more of a block than came. A text that says something else is not read:
        what leaves is written from what was judged."""
        if (kind.within, slot) not in item.parts:
            yield self.begin(item, kind, slot, Origin())
        part = item.parts[kind.within, slot]
        if not part.is_ended:
            so_far = "".join(part.pieces)
            if len(text) > len(so_far) and text.startswith(so_far):
                yield self.piece(item, part, text[len(so_far) :], Origin())

    def begin(self, item: Item, kind: Kind, slot: int, origin: Origin) -> StreamEvent:
        """The beginning of a block."""
        if not kind.within:
            return self.call_head(item, kind, origin)
        return frame_of("begin", item, self._add(item, kind, slot), origin)

    def piece(self, item: Item, part: Part, text: str, origin: Origin) -> StreamEvent:
        """A piece of a block; a late one says nothing that counts."""
        if part.is_ended:
            origin = origin._replace(is_late=True)
        else:
            part.pieces.append(text)
        if part.kind.brings == "tool_call":
            form = "custom" if part.kind is CUSTOM_CALL else "function"
            event = ToolCallDelta(index=part.block, arguments=text, form=form)
        elif not text:
            return frame_of("detail", item, part, origin)
        else:
            event = (TextDelta if part.kind.brings == "text" else ReasoningDelta)(index=part.block, text=text)
        return from_wire(event, origin._replace(item=item, part=part))

    # Calls

    def call_head(self, item: Item, kind: Kind, origin: Origin) -> StreamEvent:
        """The first piece of a call, with its id and name."""
        part = self._add(item, kind, 0)
        part.pieces.append(text_of(item.came, kind) if origin.raw is not None else "")
        event = ToolCallDelta(
            index=part.block,
            id=get(item.came, "call_id"),
            name=get(item.came, "name"),
            arguments=part.pieces[0],
            form="custom" if kind is CUSTOM_CALL else "function",
            extra=_extra(item.came, _CALL_FIELDS),
        )
        self._calls[str(event.id)] = part.block
        return from_wire(event, origin._replace(item=item, part=part))

    def _call(self, item: Item, came: object) -> _Events:
        if not item.parts:  # nothing announced it
            item.came = came
        yield from self.top_up(item, CALLS[item.type], 0, text_of(came, CALLS[item.type]))

    def _action(self, item: Item, came: object) -> _Events:
        if not item.parts:
            item.came = came
            part = self._add(item, ACTIONS[item.type], 0)
            part.pieces.append(arguments_of(came))
            head = ToolCallDelta(
                index=part.block,
                id=get(came, "call_id") or get(came, "id"),
                name=name_of(came),
                arguments=part.pieces[0],
                form=form_of(came),
                extra={**_extra(came, _CALL_FIELDS | ACTION_FIELDS), "type": item.type},
            )
            self._calls[str(head.id)] = self._calls[item.type] = part.block
            yield from_wire(head, Origin(item, part))
        part = item.parts["", 0]
        results = results_of(came)
        if part.results is None and (text := read(results)):
            part.results = results
            quote = Quote(role="detail", kind="tool_call", index=part.block, text=text)
            yield from_wire(quote, Origin(item, part, quoted=results))

    # Quotes

    def quotes(self, item: Item, part: Part, said: object) -> _Events:
        """The annotations of a text that did not come by themselves."""
        for annotation in pieces(said, "annotations"):
            if key_of(annotation) not in part.quoted:
                yield self.quote(item, part, annotation, Origin())

    def quote(self, item: Item, part: Part, annotation: object, origin: Origin) -> StreamEvent:
        """An annotation of a text."""
        part.quoted.add(key_of(annotation))
        origin = origin._replace(item=item, part=part, quoted=plain(annotation))
        quote = Quote(role="detail", kind=part.kind.brings, index=part.block, text=read(origin.quoted))
        return from_wire(quote if quote.text else _frame("detail", part), origin)

    def _result(self, item: Item, came: object) -> StreamEvent:
        item.came, item.block = came, self._count
        self._count += 1
        results = results_of(came)
        follows, origin = self._call_of(item), Origin(item, quoted=results)
        if text := read(results):
            quote = Quote(role="begin", kind="other", index=item.block, text=text, follows=follows, is_owed=True)
            return from_wire(quote, origin)
        return from_wire(Frame(role="begin", kind="other", index=item.block, follows=follows), origin)

    def result_ends(self, item: Item, origin: Origin) -> StreamEvent:
        """The end of an item that is a result."""
        end = Frame(role="end", kind="other", index=item.block or 0, follows=self._call_of(item))
        return from_wire(end, origin)

    def _call_of(self, item: Item) -> int | None:
        call_id: object = get(item.came, "call_id")
        if isinstance(call_id, str):
            return self._calls.get(call_id)
        name = item.type.removesuffix("_output")
        return self._calls.get(f"{name}_call", self._calls.get(name))

    def _add(self, item: Item, kind: Kind, slot: int) -> Part:
        part = item.parts[kind.within, slot] = Part(kind, self._count, slot)
        self._count += 1
        return part


def _extra(came: object, without: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in fields(bare_item(came)).items() if name not in without}


def end_of(item: Item, part: Part, origin: Origin) -> StreamEvent:
    """The end of a block."""
    part.is_ended = True
    return frame_of("end", item, part, origin)


def frame_of(role: Literal["begin", "detail", "end"], item: Item, part: Part, origin: Origin) -> StreamEvent:
    """A frame of a block."""
    return from_wire(_frame(role, part), origin._replace(item=item, part=part))


def _frame(role: Literal["begin", "detail", "end"], part: Part) -> Frame:
    return Frame(role=role, kind=part.kind.brings, index=part.block)
