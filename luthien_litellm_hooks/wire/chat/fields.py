"""Fields of a chat completion: the known ones, the harmless ones, and those that may repeat its content."""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Literal, NamedTuple, TypeVar, cast

from litellm.types.utils import (
    ChatCompletionDeltaCustomToolCall,
    ChatCompletionDeltaToolCall,
    ChatCompletionMessageCustomToolCall,
    ChatCompletionMessageToolCall,
)
from pydantic import BaseModel

from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.wire import readable
from luthien_litellm_hooks.wire.events import EVERY_CHOICE, Opaque, StreamEvent, from_wire

Place = Literal["response", "choice", "message", "call"]
DeltaTool = ChatCompletionDeltaToolCall | ChatCompletionDeltaCustomToolCall
MessageTool = ChatCompletionMessageToolCall | ChatCompletionMessageCustomToolCall
Tool = DeltaTool | MessageTool
"""An entry of `tool_calls`."""
_ModelT = TypeVar("_ModelT", bound=BaseModel)

PROVIDER_FIELDS = "provider_specific_fields"
"""The field in which LiteLLM puts fields of its providers, harmless and others."""
PROVIDER_REFUSAL = f"{PROVIDER_FIELDS}.refusal"
"""The channel of a refusal in a full response; a streamed one comes in the delta."""
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking_blocks", "reasoning_details")
MESSAGE_FIELDS = frozenset({"role", "content", "tool_calls", "function_call", *REASONING_FIELDS})
"""The fields of a message or delta that are blocks, or pieces of blocks."""
PLAIN_FIELDS = frozenset({"role", "content", "tool_calls"})
RESPONSE_FIELDS = frozenset({"id", "created", "model", "object", "choices", "usage"})

# Fields that no policy judges, and that cannot repeat the model's output.
_HARMLESS: Mapping[Place, frozenset[str]] = {
    "response": frozenset({"system_fingerprint", "service_tier", "provider", "obfuscation", "prompt_filter_results"}),
    "choice": frozenset({"native_finish_reason", "content_filter_results", "content_filter_offsets"}),
    "message": frozenset({"native_finish_reason", "thought_signatures", "container"}),
}
_CALL_FIELDS = frozenset({"index", "id", "type", "function", "custom"})
_SIGNED = frozenset({"provider_specific_fields", "extra_content", "caller"})  # Gemini's signature, Claude's caller


class Piece(NamedTuple):
    """Source of an event: fields, their place, and for fields of a call its entry, `tool`."""

    place: Place
    fields: Mapping[str, Any]
    tool: object = None


DECODED = Piece("message", {})
"""The source of an event that needs no fields to be encoded again."""


def set_fields(model: BaseModel) -> dict[str, Any]:
    """Returns the fields of `model` that are not None, declared or not.

    Asking pydantic for an absent field is slow, and most fields of a delta are absent."""
    fields, extra = model.__dict__.items(), model.__pydantic_extra__
    return {name: value for name, value in (chain(fields, extra.items()) if extra else fields) if value is not None}


def fields_of(structure: object, name: str) -> dict[str, Any]:
    """Returns the set fields of a model or JSON object. Raises `WireError` if `structure` is neither."""
    if isinstance(structure, BaseModel):
        return set_fields(structure)
    if isinstance(structure, dict):
        fields = cast(dict[str, Any], structure)
        return {name: value for name, value in fields.items() if value is not None}
    raise WireError(f"the {name} of a chat completion is a {type(structure).__name__}")


def fields_except(fields: Mapping[str, Any], known: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in known}


def text_in(fields: Mapping[str, Any], name: str) -> str:
    """Returns the text of a field, "" if there is none. Raises `WireError` if it is not a string."""
    text: object = fields.get(name)
    if text is None or isinstance(text, str):
        return text or ""
    raise WireError(f"the {name} of a chat completion is a {type(text).__name__}")


def choice_index(choice: Mapping[str, Any]) -> int:
    """Returns the index of a choice. Raises `WireError`."""
    index: object = choice.get("index", 0)
    if not isinstance(index, int) or index < 0:
        raise WireError("the index of a choice of a chat completion is not a natural number")
    return index


def without(model: _ModelT, names: frozenset[str], changes: Mapping[str, Any]) -> _ModelT:
    """Returns `model` with `changes` and without the fields `names`: a copy, or `model` if nothing changes."""
    if not (names or changes):
        return model
    copied = model.model_copy(update=dict(changes))
    for name in names:
        delattr(copied, name)
    return copied


# Fields that are not blocks


def repeating_fields(response: BaseModel) -> frozenset[str]:
    """Returns the names of fields of a response that leave only with an event of their own."""
    fields = set_fields(response).items()
    repeating = frozenset(name for name, value in fields if not _is_harmless(name, value, "response"))
    return repeating - RESPONSE_FIELDS | {"usage"}


def _is_harmless(name: str, value: object, place: Place) -> bool:
    """Returns whether a field repeats nothing: by its name, or because it holds only ids and numbers."""
    return name in _HARMLESS[place] or (isinstance(value, dict | list) and not readable.read(cast(object, value)))


def read_other_fields(fields: Mapping[str, Any], place: Place, choice: int = EVERY_CHOICE) -> Iterator[StreamEvent]:
    """Decodes fields that are not blocks: one event for the harmless ones, one for those that may repeat blocks.

    Harmless fields of a response stay in each of its chunks, so they need no event."""
    if not fields:
        return
    harmless, repeating = _split_harmless(fields, place)
    if harmless and place != "response":
        yield from_wire(Opaque(choice=choice), Piece(place, harmless))
    if repeating:
        yield from_wire(Opaque(choice=choice, repeats_content=True), Piece(place, repeating))


def _split_harmless(fields: Mapping[str, Any], place: Place) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits `fields` into harmless and repeating ones; LiteLLM puts both kinds into `PROVIDER_FIELDS`."""
    harmless = {name: value for name, value in fields.items() if _is_harmless(name, value, place)}
    repeating = fields_except(fields, frozenset(harmless))
    provider_fields: object = repeating.get(PROVIDER_FIELDS)
    if isinstance(provider_fields, dict):
        nested = cast(dict[str, Any], provider_fields)
        safe = _HARMLESS["message"] | _HARMLESS["choice"]
        known = {name: value for name, value in nested.items() if name in safe}
        others = {name: value for name, value in nested.items() if name not in known and value is not None}
        del repeating[PROVIDER_FIELDS]
        harmless |= {PROVIDER_FIELDS: known} if known else {}
        repeating |= {PROVIDER_FIELDS: others} if others else {}
    return harmless, repeating


def merge(into: dict[str, Any], fields: Mapping[str, Any]) -> None:
    """Adds `fields` to `into`; joins dicts and lists, because one field may come in several events."""
    for name, value in fields.items():
        present: object = into.get(name)
        if isinstance(present, dict) and isinstance(value, dict):
            into[name] = cast(dict[str, Any], present) | cast(dict[str, Any], value)
        elif isinstance(present, list) and isinstance(value, list):
            into[name] = [*cast(list[Any], present), *cast(list[Any], value)]
        else:
            into[name] = value


def is_picture(images: object) -> bool:
    """Returns whether `images` holds pictures and nothing else."""
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
    """Returns whether only the provider can read `structure`, such as encrypted reasoning."""
    return isinstance(structure, dict | list) and not readable.read(cast(object, structure))


# Calls


def is_custom(tool: Tool) -> bool:
    return isinstance(tool, ChatCompletionDeltaCustomToolCall | ChatCompletionMessageCustomToolCall)


def name_and_arguments(tool: Tool) -> tuple[Any, Any]:
    """Returns the name and the arguments of an entry as LiteLLM has them, unchecked."""
    payload: Any = getattr(tool, "custom" if is_custom(tool) else "function", None)
    if not isinstance(payload, BaseModel):
        raise WireError("a tool call is neither a function's nor a custom tool's")
    fields = set_fields(payload)
    return fields.get("name"), fields.get("input" if is_custom(tool) else "arguments")


def is_of_two_kinds(tool: Tool) -> bool:
    """Returns whether an entry calls a function and a custom tool: clients may run either."""
    other: object = getattr(tool, "function" if is_custom(tool) else "custom", None)
    fields: object = set_fields(other) if isinstance(other, BaseModel) else other
    return any(cast(Mapping[str, object], fields).values()) if isinstance(fields, Mapping) else bool(fields)


def unjudged_fields(tool: Tool) -> dict[str, Any]:
    """Returns the fields of an entry that no policy judges."""
    fields = (tool.model_extra or {}).items()
    return {
        name: value
        for name, value in fields
        if name not in _CALL_FIELDS and value is not None and not is_signed(name, value)
    }


def is_signed(name: str, value: object) -> bool:
    """Returns whether a field is for the provider alone: a changed call keeps it."""
    return name == "thought_signature" or (name in _SIGNED and is_unreadable(value))
