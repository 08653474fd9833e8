"""The fields of a chat completion: which say something, which are harmless, and which may repeat what is said."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypeVar, cast

from pydantic import BaseModel

from luthien_litellm_hooks.adapters import readable
from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import EVERY_CHOICE, Opaque, StreamEvent, from_wire

Place = Literal["response", "choice", "message", "call"]
_ModelT = TypeVar("_ModelT", bound=BaseModel)

REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking_blocks", "reasoning_details")
MESSAGE_FIELDS = frozenset({"role", "content", "tool_calls", "function_call", *REASONING_FIELDS})
"""The fields of a message or delta that are blocks, or pieces of blocks."""
PLAIN_FIELDS = frozenset({"role", "content", "tool_calls"})
RESPONSE_FIELDS = frozenset({"id", "created", "model", "object", "choices", "usage"})

# Fields that no policy judges, and that cannot repeat what a model said.
_HARMLESS: Mapping[Place, frozenset[str]] = {
    "response": frozenset({"system_fingerprint", "service_tier", "provider", "obfuscation", "prompt_filter_results"}),
    "choice": frozenset({"native_finish_reason", "content_filter_results", "content_filter_offsets"}),
    "message": frozenset({"native_finish_reason", "thought_signatures", "container"}),
}


class Piece(NamedTuple):
    """Fields that an event was read from, and their place; `tool` is the call that they stand in."""

    place: Place
    fields: Mapping[str, Any]
    tool: object = None


CAME = Piece("message", {})
"""The piece of an event that says all that there is to say."""


def set_fields(model: BaseModel) -> dict[str, Any]:
    """The fields of `model` that say something, declared or not. Asking pydantic for one that is
    not there is slow, and a delta has more of those than others."""
    fields = {name: value for name, value in model.__dict__.items() if value is not None}
    if extra := model.model_extra:
        fields |= {name: value for name, value in extra.items() if value is not None}
    return fields


def fields_of(structure: object, what: str) -> dict[str, Any]:
    """The set fields of a model or an object of JSON. Raises `WireError` if `structure` is neither."""
    if isinstance(structure, BaseModel):
        return set_fields(structure)
    if isinstance(structure, dict):
        fields = cast(dict[str, Any], structure)
        return {name: value for name, value in fields.items() if value is not None}
    raise WireError(f"the {what} of a chat completion is a {type(structure).__name__}")


def rest(fields: Mapping[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """The `fields` that are not among the `known`."""
    return {name: value for name, value in fields.items() if name not in known}


def text_in(fields: Mapping[str, Any], name: str) -> str:
    """The text of a field; "" where there is none. Raises `WireError` if it is no text."""
    text: object = fields.get(name)
    if text is None or isinstance(text, str):
        return text or ""
    raise WireError(f"the {name} of a chat completion is a {type(text).__name__}")


def without(model: _ModelT, names: frozenset[str], changes: Mapping[str, Any]) -> _ModelT:
    """`model` with `changes` and without the fields `names`: a copy, if there is anything to change."""
    if not (names or changes):
        return model
    copied = model.model_copy(update=dict(changes))
    for name in names:
        delattr(copied, name)
    return copied


def number_of(choice: Mapping[str, Any]) -> int:
    """The number of a choice. Raises `WireError`."""
    number: object = choice.get("index", 0)
    if not isinstance(number, int) or number < 0:
        raise WireError("a choice of a chat completion has a number that is none")
    return number


def repeating_names(response: BaseModel) -> frozenset[str]:
    """The names of its fields that leave only with an event of their own."""
    fields = set_fields(response).items()
    return frozenset(name for name, value in fields if not _is_harmless(name, value, "response")) - RESPONSE_FIELDS | {
        "usage"
    }


def _is_harmless(name: str, value: object, place: Place) -> bool:
    """Whether a field repeats nothing: by its name, or because all of it is ids and numbers."""
    return name in _HARMLESS[place] or (isinstance(value, dict | list) and not readable.read(cast(object, value)))


def read_rest(fields: Mapping[str, Any], place: Place, choice: int = EVERY_CHOICE) -> Iterator[StreamEvent]:
    """The events of fields that are no blocks: of those that are harmless, and of those that may repeat blocks.
    Harmless fields of a whole response stay in each part of it, so no event brings them."""
    if not fields:
        return
    harmless, repeating = _parted(fields, place)
    if harmless and place != "response":
        yield from_wire(Opaque(choice=choice), Piece(place, harmless))
    if repeating:
        yield from_wire(Opaque(choice=choice, repeats=True), Piece(place, repeating))


def _parted(fields: Mapping[str, Any], place: Place) -> tuple[dict[str, Any], dict[str, Any]]:
    """The harmless ones of `fields` and the others; LiteLLM puts both kinds into `provider_specific_fields`."""
    harmless = {name: value for name, value in fields.items() if _is_harmless(name, value, place)}
    repeating = rest(fields, frozenset(harmless))
    own: object = repeating.get("provider_specific_fields")
    if isinstance(own, dict):
        nested = cast(dict[str, Any], own)
        safe = _HARMLESS["message"] | _HARMLESS["choice"]
        known = {name: value for name, value in nested.items() if name in safe}
        others = {name: value for name, value in nested.items() if name not in known and value is not None}
        del repeating["provider_specific_fields"]
        harmless |= {"provider_specific_fields": known} if known else {}
        repeating |= {"provider_specific_fields": others} if others else {}
    return harmless, repeating


def merge(into: dict[str, Any], fields: Mapping[str, Any]) -> None:
    """Adds `fields`; those that came in several events are put together again."""
    for name, value in fields.items():
        there: object = into.get(name)
        if isinstance(there, dict) and isinstance(value, dict):
            into[name] = cast(dict[str, Any], there) | cast(dict[str, Any], value)
        elif isinstance(there, list) and isinstance(value, list):
            into[name] = [*cast(list[Any], there), *cast(list[Any], value)]
        else:
            into[name] = value


def is_picture(images: object) -> bool:
    """Whether `images` says nothing but pictures."""
    return isinstance(images, list) and all(map(_is_one_picture, cast(list[object], images)))


def _is_one_picture(image: object) -> bool:
    if not isinstance(image, dict):
        return False
    fields = cast(dict[str, Any], image)
    source = fields.get("image_url")
    if not isinstance(source, dict) or not fields.keys() <= {"type", "index", "image_url"}:
        return False
    url = cast(dict[str, Any], source).get("url")
    return isinstance(url, str) and url.startswith("data:image/") and cast(dict[str, Any], source).keys() <= {"url"}


def is_unreadable(structure: object) -> bool:
    """Whether only the provider can read `structure`, as encrypted reasoning."""
    return isinstance(structure, dict | list) and not readable.read(cast(object, structure))
