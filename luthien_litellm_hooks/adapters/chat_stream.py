"""The streamed side of chat completions: what a chunk says, and a chunk that says just that."""

from collections.abc import Iterable, Iterator
from typing import Any, cast

from litellm.types.utils import Delta, ModelResponseStream, StreamingChoices

from luthien_litellm_hooks.adapters import chat_message, chat_parts
from luthien_litellm_hooks.adapters.chat_calls import UnknownCalls
from luthien_litellm_hooks.adapters.chat_message import Draft
from luthien_litellm_hooks.adapters.chat_parts import CAME, RESPONSE_FIELDS, Piece
from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import EVERY_CHOICE, Finish, Opaque, Start, StreamEvent, Usage, from_wire

_CHOICE_FIELDS = frozenset({"index", "delta", "finish_reason"})


def read(chunk: ModelResponseStream, unknown: UnknownCalls) -> list[StreamEvent]:
    """The events of `chunk`: of each choice its role, reasoning, text, calls, other fields and finish, in that
    order; the token counts come last. There is always at least one. Raises `WireError`."""
    fields = chat_parts.set_fields(chunk)
    events: list[StreamEvent] = []
    for choice in _listed(fields.get("choices")):
        events += _read_choice(choice, unknown)
    if not fields.keys() <= RESPONSE_FIELDS:
        events += chat_parts.read_rest(chat_parts.rest(fields, RESPONSE_FIELDS), "response")
    if "usage" in fields:
        events.append(from_wire(Usage(), CAME))
    return events or [from_wire(Opaque(), CAME)]


def _listed(choices: object) -> list[object]:
    if not isinstance(choices, list):
        raise WireError("the choices of a chat completion are no list")
    return cast(list[object], choices)


def _read_choice(choice: object, unknown: UnknownCalls) -> Iterator[StreamEvent]:
    fields = chat_parts.fields_of(choice, "choice")
    number = chat_parts.number_of(fields)
    delta = chat_parts.fields_of(fields["delta"], "delta") if "delta" in fields else {}
    if "role" in delta:
        yield from_wire(Start(choice=number), Piece("message", {"role": delta["role"]}))
    yield from chat_message.read(delta, number, unknown)
    if not fields.keys() <= _CHOICE_FIELDS:
        yield from chat_parts.read_rest(chat_parts.rest(fields, _CHOICE_FIELDS), "choice", number)
    if reason := chat_parts.text_in(fields, "finish_reason"):
        yield from_wire(Finish(choice=number, reason=reason), CAME)


def write(events: Iterable[StreamEvent], like: ModelResponseStream) -> ModelResponseStream:
    """A copy of `like` that says just `events`."""
    drafts: dict[int, Draft] = {}
    kept: set[str] = set()
    for event in events:
        if isinstance(event, Usage):
            kept.add("usage")
        elif event.choice != EVERY_CHOICE:
            drafts.setdefault(event.choice, Draft(is_delta=True)).add(event)
        elif isinstance(event.part, Piece):
            kept |= event.part.fields.keys()
    drafts = drafts or {0: Draft(is_delta=True)}
    choices = [_written(draft, number) for number, draft in drafts.items()]
    left_out: dict[str, Any] = dict.fromkeys(chat_parts.repeating_names(like) - kept)
    return like.model_copy(update={**left_out, "choices": choices})


def _written(draft: Draft, number: int) -> StreamingChoices:
    delta = Delta(**draft.message())
    return StreamingChoices(index=number, delta=delta, finish_reason=draft.finish_reason, **draft.choice)
