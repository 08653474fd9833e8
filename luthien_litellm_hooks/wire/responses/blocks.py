"""Decoder of the blocks of a response: their indices, their events, and their content so far."""

from collections.abc import Iterator
from typing import Any, Literal

from luthien_litellm_hooks.wire.events import (
    BlockMarker,
    Quote,
    ReasoningDelta,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    from_wire,
)
from luthien_litellm_hooks.wire.readable import read
from luthien_litellm_hooks.wire.responses.actions import (
    ACTION_FIELDS,
    ACTIONS,
    RESULTS,
    arguments_of,
    form_of,
    name_of,
    results_of,
)
from luthien_litellm_hooks.wire.responses.fields import bare_item
from luthien_litellm_hooks.wire.responses.kinds import (
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
    string,
    text_of,
    text_of_item,
)

_CALL_FIELDS = frozenset({"type", "status", "name", "call_id", "arguments", "input"})
_Events = Iterator[StreamEvent]


class BlockReader:
    """Decoder of the blocks of one response; later units repeat content, and it yields each piece once."""

    def __init__(self) -> None:
        self._count = 0
        self._calls: dict[str, int] = {}  # block indices of calls, by id and by type of item

    def catch_up(self, item: Item, raw: object) -> _Events:
        """Yields the events for content of `raw` without earlier units."""
        if item.type in RESULTS:
            if item.block is None:
                yield self._result(item, raw)
        elif item.type in ACTIONS:
            yield from self._action(item, raw)
        elif item.type in CALLS:
            yield from self._call(item, raw)
        else:
            yield from self._texts(item, raw)

    def _texts(self, item: Item, raw: object) -> _Events:
        is_same = item.parts and text_of_item(raw) == "".join(
            piece for part in item.parts.values() for piece in part.pieces
        )
        for within in LISTS:
            for slot, raw_part in enumerate(pieces(raw, within)):
                kind = kind_of(item.type, raw_part)
                if kind is None or kind.within != within:
                    continue
                if not is_same:
                    yield from self.top_up(item, kind, slot, text_of(raw_part, kind))
                if (part := item.parts.get((within, slot))) is not None:
                    yield from self.quotes(item, part, raw_part)
                    if item.index is None and not part.is_ended:
                        yield end_of(item, part, Origin())

    def top_up(self, item: Item, kind: Kind, slot: int, text: str) -> _Events:
        """Yields the part of `text` beyond the block's text so far.

        Ignores a text with another beginning: the client gets the judged text instead."""
        if (kind.within, slot) not in item.parts:
            yield self.begin(item, kind, slot, Origin())
        part = item.parts[kind.within, slot]
        if not part.is_ended:
            so_far = "".join(part.pieces)
            if len(text) > len(so_far) and text.startswith(so_far):
                yield self.delta(part, text[len(so_far) :], Origin(item, part))

    def begin(self, item: Item, kind: Kind, slot: int, origin: Origin) -> StreamEvent:
        """Returns the event of a block's beginning."""
        if not kind.within:
            return self.call_head(item, kind, origin)
        return marker("begin", item, self._add(item, kind, slot), origin)

    def delta(self, part: Part, text: str, origin: Origin) -> StreamEvent:
        """Returns the event of a piece of a block; a late one adds nothing."""
        if part.is_ended:
            origin = origin._replace(is_late=True)
        else:
            part.pieces.append(text)
        if part.kind.block_kind == "tool_call":
            form = "custom" if part.kind is CUSTOM_CALL else "function"
            event = ToolCallDelta(index=part.block, arguments=text, form=form)
        elif not text:
            event = _marker("detail", part)
        else:
            event = (TextDelta if part.kind.block_kind == "text" else ReasoningDelta)(index=part.block, text=text)
        return from_wire(event, origin)

    # Calls

    def call_head(self, item: Item, kind: Kind, origin: Origin) -> StreamEvent:
        """Returns the first event of a call, with its id and name."""
        id, name = string(item.raw, "call_id"), string(item.raw, "name")
        part = self._add(item, kind, 0)
        part.pieces.append(text_of(item.raw, kind) if origin.raw is not None else "")
        event = ToolCallDelta(
            index=part.block,
            id=id,
            name=name,
            arguments=part.pieces[0],
            form="custom" if kind is CUSTOM_CALL else "function",
            extra=_extra(item.raw, _CALL_FIELDS),
        )
        self._calls[str(event.id)] = part.block
        return from_wire(event, origin._replace(item=item, part=part))

    def _call(self, item: Item, raw: object) -> _Events:
        if not item.parts:  # not announced
            item.raw = raw
        yield from self.top_up(item, CALLS[item.type], 0, text_of(raw, CALLS[item.type]))

    def _action(self, item: Item, raw: object) -> _Events:
        if not item.parts:
            id, item.raw = string(raw, "call_id") or string(raw, "id"), raw
            part = self._add(item, ACTIONS[item.type], 0)
            part.pieces.append(arguments_of(raw))
            head = ToolCallDelta(
                index=part.block,
                id=id,
                name=name_of(raw),
                arguments=part.pieces[0],
                form=form_of(raw),
                extra={**_extra(raw, _CALL_FIELDS | ACTION_FIELDS), "type": item.type},
            )
            self._calls[str(head.id)] = self._calls[item.type] = part.block
            yield from_wire(head, Origin(item, part))
        part = item.parts["", 0]
        results = results_of(raw)
        if part.results is None and (text := read(results)):
            part.results = results
            quote = Quote(role="detail", kind="tool_call", index=part.block, text=text)
            yield from_wire(quote, Origin(item, part, quoted=results))

    # Quotes

    def quotes(self, item: Item, part: Part, raw_part: object) -> _Events:
        """Yields the annotations of a text that had no unit of their own."""
        for annotation in pieces(raw_part, "annotations"):
            if key_of(annotation) not in part.quoted:
                yield self.quote(item, part, annotation, Origin())

    def quote(self, item: Item, part: Part, annotation: object, origin: Origin) -> StreamEvent:
        """Returns the event of an annotation of a text."""
        part.quoted.add(key_of(annotation))
        origin = origin._replace(item=item, part=part, quoted=plain(annotation))
        quote = Quote(role="detail", kind=part.kind.block_kind, index=part.block, text=read(origin.quoted))
        return from_wire(quote if quote.text else _marker("detail", part), origin)

    def _result(self, item: Item, raw: object) -> StreamEvent:
        item.raw, item.block = raw, self._count
        self._count += 1
        results = results_of(raw)
        follows, origin = self._call_index(item), Origin(item, quoted=results)
        if text := read(results):
            quote = Quote(role="begin", kind="other", index=item.block, text=text, follows=follows, is_owed=True)
            return from_wire(quote, origin)
        return from_wire(BlockMarker(role="begin", kind="other", index=item.block, follows=follows), origin)

    def end_of_result(self, item: Item, origin: Origin) -> StreamEvent:
        """Returns the end marker of a result."""
        end = BlockMarker(role="end", kind="other", index=item.block or 0, follows=self._call_index(item))
        return from_wire(end, origin)

    def _call_index(self, item: Item) -> int | None:
        call_id: object = get(item.raw, "call_id")
        if isinstance(call_id, str):
            return self._calls.get(call_id)
        name = item.type.removesuffix("_output")
        return self._calls.get(f"{name}_call", self._calls.get(name))

    def _add(self, item: Item, kind: Kind, slot: int) -> Part:
        part = item.parts[kind.within, slot] = Part(kind, self._count, slot)
        self._count += 1
        return part


def _extra(raw: object, without: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in fields(bare_item(raw)).items() if name not in without}


def end_of(item: Item, part: Part, origin: Origin) -> StreamEvent:
    """Ends a block, and returns its end marker."""
    part.is_ended = True
    return marker("end", item, part, origin)


def marker(role: Literal["begin", "detail", "end"], item: Item, part: Part, origin: Origin) -> StreamEvent:
    return from_wire(_marker(role, part), origin._replace(item=item, part=part))


def _marker(role: Literal["begin", "detail", "end"], part: Part) -> BlockMarker:
    return BlockMarker(role=role, kind=part.kind.block_kind, index=part.block)
