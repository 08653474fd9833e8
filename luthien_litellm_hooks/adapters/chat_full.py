"""The full side of chat completions: what a response says, and a response that says just that."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from litellm.types.utils import Choices, Message, ModelResponse

from luthien_litellm_hooks.adapters import chat_message, chat_parts
from luthien_litellm_hooks.adapters.chat_message import Draft
from luthien_litellm_hooks.adapters.chat_parts import CAME, RESPONSE_FIELDS, Piece
from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import EVERY_CHOICE, Finish, StreamEvent, from_wire

_CHOICE_FIELDS = frozenset({"index", "message", "finish_reason"})
_EMPTY_AUDIO = {"data": "", "expires_at": 0, "transcript": ""}


def read(response: ModelResponse) -> Iterator[StreamEvent]:
    """The events of `response`: of each choice its reasoning, text, calls, other fields and finish.
    Raises `WireError`."""
    fields = chat_parts.set_fields(response)
    for choice in response.choices:
        yield from _read_choice(choice)
    yield from chat_parts.read_rest(chat_parts.rest(fields, RESPONSE_FIELDS), "response")


def _read_choice(choice: object) -> Iterator[StreamEvent]:
    fields = chat_parts.fields_of(choice, "choice")
    number = chat_parts.number_of(fields)
    if not isinstance(fields.get("message"), Message):
        raise WireError("a choice of a chat completion has no message")
    yield from chat_message.read(chat_parts.set_fields(fields["message"]), number)
    yield from chat_parts.read_rest(chat_parts.rest(fields, _CHOICE_FIELDS), "choice", number)
    if reason := chat_parts.text_in(fields, "finish_reason"):
        yield from_wire(Finish(choice=number, reason=reason), CAME)


def write(events: Sequence[StreamEvent], like: ModelResponse, came: Collection[StreamEvent]) -> ModelResponse:
    """A copy of `like` that says just `events`; a choice of which all that `came` is left stays as it is."""
    left = _by_choice(events)
    said = _by_choice(came)
    choices = {choice.index: choice for choice in like.choices}
    for number in dict.fromkeys([*choices, *(number for number in left if number != EVERY_CHOICE)]):
        mine, choice = left.get(number, []), choices.get(number) or Choices(index=number)
        if sorted(map(id, mine)) != sorted(map(id, said.get(number, []))):
            choices[number] = _write_choice(choice, mine)
    kept = {name for event in left.get(EVERY_CHOICE, []) if isinstance(event.part, Piece) for name in event.part.fields}
    names = chat_parts.repeating_names(like) - kept - {"usage"}
    return chat_parts.without(like, names, {"choices": [*choices.values()]})


def _by_choice(events: Collection[StreamEvent]) -> dict[int, list[StreamEvent]]:
    found: dict[int, list[StreamEvent]] = {}
    for event in events:
        found.setdefault(event.choice, []).append(event)
    return found


def _write_choice(like: Choices, events: Sequence[StreamEvent]) -> Choices:
    draft = Draft(is_delta=False)
    for event in events:
        draft.add(event)
    fields: dict[str, Any] = {**draft.message(), "role": like.message.role}
    if "audio" in fields:
        fields["audio"] = _EMPTY_AUDIO | fields["audio"]
    content = fields.pop("content", None) or (None if draft.says_more else "")
    message = Message(content=content, **fields)
    reason = draft.finish_reason or like.finish_reason
    return Choices(finish_reason=reason, index=like.index, message=message, **draft.choice)
