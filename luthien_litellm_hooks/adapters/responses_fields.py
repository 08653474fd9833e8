"""The fields of the responses wire that no policy judges, and units without them."""

import json
from collections.abc import Collection, Mapping
from itertools import chain
from typing import Any, cast

from pydantic import BaseModel

from luthien_litellm_hooks.adapters.responses_actions import ACTION_FIELDS, ACTIONS, RESULTS
from luthien_litellm_hooks.adapters.responses_parts import LISTS, PARTS, changed, get, key_of, pieces, without


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
"""The fields that are known of the items of each type."""
_NESTED: Mapping[str, frozenset[str]] = {
    "caller": _words("type caller_id"),
    "environment": _words("type container_id"),
}
"""Known fields of an item that are structures, and what is known of them."""
ITEM_TYPES = _OF_ITEMS.keys()
"""The items that are known; of others nobody can judge anything."""
_RESPONSE = _words(
    """id object created_at completed_at status model output output_text usage tool_usage
    incomplete_details parallel_tool_calls temperature top_p max_output_tokens max_tool_calls
    top_logprobs truncation previous_response_id conversation service_tier background store
    frequency_penalty presence_penalty prompt_cache_key prompt_cache_retention prompt_cache_options
    safety_identifier user moderation content_filters access_programs billing"""
)
_ECHOED = _words("instructions metadata prompt tools tool_choice text reasoning")
"""Fields that repeat the request. The first unit may say them; a later one only says them again."""
_NOTHING: tuple[object, ...] = (None, "", [], {}, False)
_NO_WORDS = "The provider reported an error."


def bare_unit(raw: BaseModel, begun: object) -> Any:
    """`raw` without what no policy judges; `raw` itself if it has nothing of the kind. `begun` is the response
    of the first unit, None if `raw` is the first, and empty if there was none."""
    if get(raw, "type") == "error":
        return _bare_error(raw)
    changes: dict[str, Any] = {}
    for name, bare in (("item", bare_item), ("part", _bare_part)):
        if (came := get(raw, name)) is not None:
            changes[name] = bare(came)
    if (response := get(raw, "response")) is not None:
        changes["response"] = bare_response(response, begun)
    return changed(without(raw, _more_than(_UNIT, raw)), **changes)


def has_more(raw: BaseModel) -> bool:
    """Whether a piece of text has fields beside it that no policy judges; for units without an item or a part."""
    extra = raw.__pydantic_extra__
    return extra is not None and any(value and name not in _UNIT for name, value in extra.items())


def bare_response(response: object, begun: object) -> Any:
    """A response without what no policy judges."""
    names = _more_than(_RESPONSE, response) - {"error"}
    kept = _ECHOED if begun is None else {name for name in _ECHOED if _is_same(name, response, begun)}
    changes: dict[str, Any] = {"output": output} if (output := [*map(bare_item, pieces(response, "output"))]) else {}
    if (error := get(response, "error")) is not None:
        changes["error"] = _without_words(error)
    changes |= {name: _nothing_of(get(response, name)) for name in names & _ECHOED - kept}
    return changed(without(response, names - _ECHOED), **changes)


def bare_item(item: object) -> Any:
    """An item without what no policy judges; an unknown one as it is."""
    type: object = get(item, "type")
    if not isinstance(type, str) or type not in _OF_ITEMS:
        return item
    names = _more_than(_OF_ITEMS[type], item)
    names |= {name for name, known in _NESTED.items() if _more_than(known, get(item, name))}
    if _is_readable(get(item, "encrypted_content")):
        names |= {"encrypted_content"}
    changes: dict[str, Any] = {}
    for within in LISTS:
        if parts := pieces(item, within):
            changes[within] = [_bare_part(part) for part in parts if is_known_part(part)]
    return changed(without(item, names), **changes)


def is_known_part(part: object) -> bool:
    """Whether policies judge a part of an item."""
    return get(part, "type") in PARTS


def _bare_part(part: object) -> Any:
    kind = PARTS.get(get(part, "type"))
    known = {"type", "annotations", "id", "data", "format"} | ({kind.field} if kind is not None else set[str]())
    return without(part, _more_than(known, part)) if kind is not None else part


def _bare_error(raw: BaseModel) -> Any:
    error: object = get(raw, "error")
    bare = without(raw, _more_than(_UNIT | {"error", "message"}, raw))
    return changed(bare, **({"error": _without_words(error)} if error is not None else {"message": _NO_WORDS}))


def _without_words(error: object) -> Any:
    return changed(without(error, _more_than({"type", "code"}, error)), message=_NO_WORDS)


def _more_than(known: Collection[str], thing: object) -> set[str]:
    """The names of the fields of `thing` that say something and are not `known`."""
    if isinstance(thing, BaseModel):
        said = chain(thing.__dict__.items(), (thing.model_extra or {}).items())
    else:
        said = cast(dict[str, object], thing).items() if isinstance(thing, dict) else ()
    return {name for name, value in said if name not in known and value not in _NOTHING}


def _is_same(name: str, response: object, begun: object) -> bool:
    return key_of(get(response, name)) == key_of(get(begun, name))


def _nothing_of(value: object) -> object:
    return [] if isinstance(value, list) else {} if isinstance(value, dict) else None


def _is_readable(sealed: object) -> bool:
    """Whether it is no sealed text: LiteLLM's bridge writes a chat provider's reasoning there, as JSON."""
    if not isinstance(sealed, str) or not sealed.lstrip().startswith(("[", "{")):
        return False
    try:
        json.loads(sealed)
    except (ValueError, RecursionError):
        return False
    return True
