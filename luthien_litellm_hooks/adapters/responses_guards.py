"""Events that stand for the fields of the responses wire that no policy judges."""

from collections.abc import Iterable, Iterator
from typing import Any

from luthien_litellm_hooks.adapters.responses_fields import bare_response, is_known_part
from luthien_litellm_hooks.adapters.responses_parts import LISTS, Origin, get, pieces
from luthien_litellm_hooks.events import Opaque, StreamEvent, Unknown, from_wire


def guards_of(thing: object, position: int) -> Iterator[StreamEvent]:
    """The events for what no policy judges of a unit, or of a whole response."""
    items = [get(thing, "item"), *pieces(thing, "output"), *pieces(get(thing, "response"), "output")]
    parts = [part for item in items for within in LISTS for part in pieces(item, within)]
    if not all(map(is_known_part, parts)):
        yield from_wire(Unknown(kind="part"), Origin(restores=position))
    yield from_wire(Opaque(repeats=True), Origin(restores=position))


def guarded(guards: Iterable[StreamEvent], events: Iterable[StreamEvent]) -> Iterator[StreamEvent]:
    """`events`, with `guards` before the one that is the unit itself; an unknown unit needs none."""
    for event in events:
        origin = event.part
        if isinstance(event, Unknown) and isinstance(origin, Origin):
            event = from_wire(event, origin._replace(bare=None))
        elif isinstance(origin, Origin) and origin.raw is not None:
            yield from guards
        yield event


def full_as_it_may_leave(response: Any, events: Iterable[StreamEvent]) -> Any:
    """A full response, without what no policy judges unless `events` stand for it."""
    left = sum(isinstance(event.part, Origin) and event.part.restores is not None for event in events)
    return response if left == len([*guards_of(response, 0)]) else bare_response(response, {})
