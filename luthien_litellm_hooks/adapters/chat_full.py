"""The full side of chat completions: what an answer says, and an answer that says just that."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from litellm.types.utils import Choices, Message, ModelResponse

from luthien_litellm_hooks.adapters import chat_parts
from luthien_litellm_hooks.adapters.chat_parts import MessageToolCall
from luthien_litellm_hooks.events import (
    DeltaEvent,
    Finish,
    ReasoningDelta,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    from_wire,
)


@dataclass(frozen=True, slots=True)
class _Part:
    """What an event was read from; with `owns_rest` the message's other fields leave with it."""

    tool: MessageToolCall | None = None
    owns_rest: bool = False


def read(response: ModelResponse) -> Iterator[StreamEvent]:
    """The events of `response`: of each choice its reasoning, text, calls and finish."""
    for choice in response.choices:
        yield from _read_choice(choice)


def _read_choice(choice: Choices) -> Iterator[StreamEvent]:
    owns_rest = True
    for event, tool in _read_content(chat_parts.set_fields(choice.message), choice.index):
        yield from_wire(event, _Part(tool, owns_rest))
        owns_rest = False
    if choice.finish_reason:
        yield from_wire(Finish(choice=choice.index, reason=choice.finish_reason), _Part())


def _read_content(message: Mapping[str, Any], number: int) -> Iterator[tuple[DeltaEvent, MessageToolCall | None]]:
    reasoning = chat_parts.read_reasoning(message)
    if reasoning is not None:
        yield ReasoningDelta(choice=number, text=reasoning), None
    if text := chat_parts.read_text(message):
        yield TextDelta(choice=number, text=text), None
    for index, tool in enumerate(chat_parts.tool_calls_of(message)):
        yield chat_parts.read_tool_call(tool, number, index), tool
    if "function_call" in message:
        yield chat_parts.read_function_call(message["function_call"], number), None


def write(events: Sequence[StreamEvent], like: ModelResponse) -> ModelResponse:
    """A copy of `like` whose choices say just `events`."""
    choices = [
        _write_choice(choice, [event for event in events if event.choice == choice.index]) for choice in like.choices
    ]
    return like.model_copy(update={"choices": choices})


def _write_choice(like: Choices, events: Iterable[StreamEvent]) -> Choices:
    draft = _Draft(like.message)
    for event in events:
        draft.add(event)
    changes: dict[str, Any] = {"message": draft.message()}
    if draft.finish_reason is not None:
        changes["finish_reason"] = draft.finish_reason
    if not draft.keeps_text and getattr(like, "logprobs", None) is not None:
        changes["logprobs"] = None
    return like.model_copy(update=changes)


class _Draft:
    """One message in the making."""

    def __init__(self, like: Message) -> None:
        self._like = like
        self._came = chat_parts.set_fields(like)
        self._fields: dict[str, Any] = {}
        self._texts: list[str] = []
        self.finish_reason: str | None = None
        self.keeps_text = False

    def add(self, event: StreamEvent) -> None:
        part = event.part if isinstance(event.part, _Part) else None
        if part is not None and part.owns_rest:
            self._fields |= chat_parts.rest(self._came, chat_parts.MESSAGE_FIELDS)
        if isinstance(event, Finish):
            self.finish_reason = event.reason
        elif isinstance(event, TextDelta):
            self.keeps_text = part is not None and not self._texts
            self._texts.append(event.text)
        elif isinstance(event, ReasoningDelta):
            self._fields |= chat_parts.reasoning_fields(event, self._came if part is not None else None)
        elif isinstance(event, ToolCallDelta):
            self._add_call(event, part.tool if part is not None else None)

    def _add_call(self, event: ToolCallDelta, came: MessageToolCall | None) -> None:
        if event.form == "legacy_function":
            self._fields["function_call"] = {"name": event.name, "arguments": event.arguments}
        else:
            self._fields.setdefault("tool_calls", []).append(came or chat_parts.write_tool_call(event))

    def message(self) -> Message:
        is_call = "tool_calls" in self._fields or "function_call" in self._fields
        content = "".join(self._texts) or (None if is_call else "")
        return Message(role=self._like.role, content=content, **self._fields)
