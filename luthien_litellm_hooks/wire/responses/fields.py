"""Fields of the responses wire that no policy judges: units and responses without them, and the events for them."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, cast

from pydantic import BaseModel

from luthien_litellm_hooks.wire.events import Opaque, StreamEvent, Unknown, from_wire
from luthien_litellm_hooks.wire.responses.actions import ACTION_FIELDS, ACTIONS, RESULTS
from luthien_litellm_hooks.wire.responses.kinds import LISTS, PARTS, Origin, changed, get, key_of, pieces, without


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_UNIT = _words(
    """type sequence_number output_index content_index summary_index item_id annotation annotation_index
    delta text arguments input refusal name item part response obfuscation code diff command
    command_index status partial_image_b64 b64_json partial_image_index size quality background
    output_format"""
)
_OF_ANY_ITEM = _words("type id call_id status role phase namespace caller created_by execution server_label")
_OWN: Mapping[str, frozenset[str]] = {
    "message": frozenset(LISTS),
    "reasoning": frozenset((*LISTS, "encrypted_content")),
    "function_call": _words("name arguments"),
    "custom_tool_call": _words("name input"),
    "compaction": frozenset({"encrypted_content"}),
    **dict.fromkeys(
        ACTIONS,
        ACTION_FIELDS
        | _words(
            """name environment max_output_length container_id approval_request_id pending_safety_checks fingerprint
    result size quality background output_format"""
        ),
    ),
    **{type: _words("max_output_length approval_request_id approve") | {*names} for type, names in RESULTS.items()},
}
_OF_ITEMS = {type: names | _OF_ANY_ITEM for type, names in _OWN.items()}
"""Known fields of an item, by type."""
_NESTED: Mapping[str, frozenset[str]] = {
    "caller": _words("type caller_id"),
    "environment": _words("type container_id"),
}
"""Known fields of an item that are structures, and their known fields."""
ITEM_TYPES = _OF_ITEMS.keys()
"""Types of known items; no policy can judge others."""
_RESPONSE = _words(
    """id object created_at completed_at status model output output_text usage tool_usage
    incomplete_details parallel_tool_calls temperature top_p max_output_tokens max_tool_calls
    top_logprobs truncation previous_response_id conversation service_tier background store
    frequency_penalty presence_penalty prompt_cache_key prompt_cache_retention prompt_cache_options
    safety_identifier user moderation content_filters access_programs billing"""
)
_ECHOED = _words("instructions metadata prompt tools tool_choice text reasoning")
"""Fields that repeat the request. The first unit may have any value, a later one only the same."""
_EMPTY: tuple[object, ...] = (None, "", [], {}, False)
_NEUTRAL_MESSAGE = "The provider reported an error."


def bare_unit(raw: BaseModel, initial: object) -> Any:
    """Returns `raw` without unjudged fields; `raw` itself if it has none.

    `initial` is the response of the first unit, None if `raw` is the first, {} if there was no first."""
    if get(raw, "type") == "error":
        return _bare_error(raw)
    changes: dict[str, Any] = {}
    for name, bare in (("item", bare_item), ("part", _bare_part)):
        if (value := get(raw, name)) is not None:
            changes[name] = bare(value)
    if (response := get(raw, "response")) is not None:
        changes["response"] = bare_response(response, initial)
    return changed(without(raw, _unknown_fields(_UNIT, raw)), **changes)


def has_extra(raw: BaseModel) -> bool:
    """Returns whether a unit without an item and a part has unjudged fields."""
    for name, value in (raw.__pydantic_extra__ or {}).items():  # noqa: SIM110 -- `any` takes twice as long
        if value and name not in _UNIT:
            return True
    return False


def bare_response(response: object, initial: object) -> Any:
    """Returns a response without unjudged fields."""
    known = _RESPONSE - {"output_text"} if initial is None else _RESPONSE  # what a later one has is written anew
    names = _unknown_fields(known, response) - {"error"}
    allowed = _ECHOED if initial is None else {name for name in _ECHOED if _is_same(name, response, initial)}
    changes: dict[str, Any] = {"output": output} if (output := [*map(bare_item, pieces(response, "output"))]) else {}
    if (error := get(response, "error")) is not None:
        changes["error"] = _without_message(error)
    changes |= {name: _empty_like(get(response, name)) for name in names & _ECHOED - allowed}
    return changed(without(response, names - _ECHOED), **changes)


def bare_item(item: object) -> Any:
    """Returns an item without unjudged fields; an unknown item itself."""
    type: object = get(item, "type")
    if not isinstance(type, str) or type not in _OF_ITEMS:
        return item
    names = _unknown_fields(_OF_ITEMS[type], item)
    names |= {name for name, known in _NESTED.items() if _unknown_fields(known, get(item, name))}
    if _is_readable(get(item, "encrypted_content")):
        names |= {"encrypted_content"}
    changes: dict[str, Any] = {}
    for within in LISTS:
        if parts := pieces(item, within):
            changes[within] = [_bare_part(part) for part in parts if is_known_part(part)]
    return changed(without(item, names), **changes)


def is_known_part(part: object) -> bool:
    """Returns whether policies judge a part of an item."""
    return get(part, "type") in PARTS


def _bare_part(part: object) -> Any:
    kind = PARTS.get(get(part, "type"))
    known = {"type", "annotations", "id", "data", "format"} | ({kind.field} if kind is not None else set[str]())
    return without(part, _unknown_fields(known, part)) if kind is not None else part


def _bare_error(raw: BaseModel) -> Any:
    error: object = get(raw, "error")
    bare = without(raw, _unknown_fields(_UNIT | {"error", "message"}, raw))
    return changed(bare, **({"error": _without_message(error)} if error is not None else {"message": _NEUTRAL_MESSAGE}))


def _without_message(error: object) -> Any:
    return changed(without(error, _unknown_fields({"type", "code"}, error)), message=_NEUTRAL_MESSAGE)


def _unknown_fields(known: Collection[str], thing: object) -> set[str]:
    """Returns the names of the fields of `thing` that are neither empty nor `known`."""
    if isinstance(thing, BaseModel):
        found = chain(thing.__dict__.items(), (thing.model_extra or {}).items())
    else:
        found = cast(dict[str, object], thing).items() if isinstance(thing, dict) else ()
    return {name for name, value in found if name not in known and value not in _EMPTY}


def _is_same(name: str, response: object, initial: object) -> bool:
    one, other = get(response, name), get(initial, name)
    return one == other or key_of(one) == key_of(other)  # the second takes a millisecond for an agent's tools


def _empty_like(value: object) -> object:
    return [] if isinstance(value, list) else {} if isinstance(value, dict) else None


def _is_readable(content: object) -> bool:
    """Returns whether `content` is readable: LiteLLM's bridge puts a chat provider's reasoning there, as JSON."""
    if not isinstance(content, str) or not content.lstrip().startswith(("[", "{")):
        return False
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False
    return True


# Events for these fields


def extra_events(thing: object, position: int) -> Iterator[StreamEvent]:
    """Yields the events for the unjudged fields of a unit, or of a full response."""
    items = [get(thing, "item"), *pieces(thing, "output"), *pieces(get(thing, "response"), "output")]
    parts = [part for item in items for within in LISTS for part in pieces(item, within)]
    if not all(map(is_known_part, parts)):
        yield from_wire(Unknown(kind="part"), Origin(restores=position))
    yield from_wire(Opaque(repeats_content=True), Origin(restores=position))


def with_extra_events(extra: Iterable[StreamEvent], events: Iterable[StreamEvent]) -> Iterator[StreamEvent]:
    """Yields `events`, with `extra` before the event of the unit itself; an unknown unit needs none."""
    for event in events:
        origin = event.source
        if isinstance(event, Unknown) and isinstance(origin, Origin):
            event = from_wire(event, origin._replace(bare=None))
        elif isinstance(origin, Origin) and origin.raw is not None:
            yield from extra
        yield event


def full_template(response: Any, events: Iterable[StreamEvent]) -> Any:
    """Returns a full response, without its unjudged fields unless `events` has all events for them."""
    released = sum(isinstance(event.source, Origin) and event.source.restores is not None for event in events)
    return response if released == len([*extra_events(response, 0)]) else bare_response(response, {})
