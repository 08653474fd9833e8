"""Fields of a request by which LiteLLM reads an answer differently before policies see it, or fails over its text."""

from collections.abc import Iterator
from typing import Any, cast

_FIELDS = (
    "enable_json_schema_validation",  # fails over an answer that does not fit
    "complete_response",  # makes one answer of a stream
    "fake_stream",
    "merge_reasoning_content_in_choices",  # makes reasoning text
    "include_fallback_errors",  # tells the errors of models that were asked before
)
_IN_RESPONSE_FORMAT = ("enforce_validation",)
_IN_EXTRA_BODY = ("stream", "stream_options")  # asks for an answer of another form than LiteLLM reads


def remove_answer_fields(data: dict[str, Any]) -> None:
    """Takes them out of a request whose answer is judged, and of what it names to fall back on."""
    for body in (data, *_objects(data.get("fallbacks"))):
        for field in _FIELDS:
            body.pop(field, None)
        for holder, fields in (("response_format", _IN_RESPONSE_FORMAT), ("extra_body", _IN_EXTRA_BODY)):
            held: object = body.get(holder)
            if isinstance(held, dict) and not held.keys().isdisjoint(fields):
                body[holder] = {key: value for key, value in cast(dict[str, Any], held).items() if key not in fields}


def _objects(value: object) -> Iterator[dict[str, Any]]:
    items = cast(list[object], value) if isinstance(value, list) else []
    yield from (cast(dict[str, Any], item) for item in items if isinstance(item, dict))
