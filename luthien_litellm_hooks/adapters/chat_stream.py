"""The streamed side of chat completions: what a chunk says, and a chunk that says just that."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, cast

from litellm.types.utils import Delta, ModelResponseStream, StreamingChoices

from luthien_litellm_hooks.adapters import chat_parts
from luthien_litellm_hooks.adapters.chat_parts import ToolDelta
from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import (
    DeltaEvent,
    Finish,
    Opaque,
    ReasoningDelta,
    Start,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    Usage,
    from_wire,
)

_CHUNK_FIELDS = frozenset(
    {"id", "created", "model", "object", "system_fingerprint", "service_tier", "choices", "usage"}
)


class _Part(NamedTuple):
    """Where in its chunk an event was read from: the fields of its delta, and its tool call.

    Fields that are none of ours (annotations, a provider's own) belong to the first content of
    their chunk, because they may repeat it: with `owns_rest` they leave together or not at all.
    """

    delta: Mapping[str, Any] = MappingProxyType({})
    tool: ToolDelta | None = None
    logprobs: object = None
    owns_rest: bool = False


def read(chunk: ModelResponseStream) -> list[StreamEvent]:
    """The events of `chunk`: of each choice its role, reasoning, text, calls and finish, in that
    order; the token counts come last. There is always at least one."""
    fields = chat_parts.set_fields(chunk)
    has_rest = not fields.keys() <= _CHUNK_FIELDS
    events: list[StreamEvent] = []
    for choice in chunk.choices:
        has_rest = _read_choice(chat_parts.set_fields(choice), has_rest, events)
    if "usage" in fields:
        events.append(from_wire(Usage(), _Part(owns_rest=has_rest)))
    elif has_rest or not events:
        events.append(from_wire(Opaque(), _Part(owns_rest=has_rest)))
    return events


def _read_choice(choice: Mapping[str, Any], has_rest: bool, events: list[StreamEvent]) -> bool:
    """Adds the events of a choice, and says whether the chunk's own rest is still nobody's."""
    number = cast(object, choice.get("index", 0))
    delta = chat_parts.set_fields(choice["delta"]) if "delta" in choice else {}
    if not isinstance(number, int):
        raise WireError("a choice of a chat completion has a number that is none")
    if "role" in delta:
        events.append(from_wire(Start(choice=number), _Part(delta)))
    has_own_rest = not delta.keys() <= chat_parts.MESSAGE_FIELDS
    owns_rest = has_rest or has_own_rest
    for event, tool in _read_content(delta, number):
        events.append(from_wire(event, _Part(delta, tool, choice.get("logprobs"), owns_rest)))
        owns_rest = has_rest = has_own_rest = False
    if has_own_rest:
        events.append(from_wire(Opaque(choice=number), _Part(delta, owns_rest=True)))
    if reason := choice.get("finish_reason"):
        events.append(from_wire(Finish(choice=number, reason=reason), _Part()))
    return has_rest


def _read_content(delta: Mapping[str, Any], number: int) -> Iterator[tuple[DeltaEvent, ToolDelta | None]]:
    reasoning = chat_parts.read_reasoning(delta)
    if reasoning is not None:
        yield ReasoningDelta(choice=number, text=reasoning), None
    if text := chat_parts.read_text(delta):
        yield TextDelta(choice=number, text=text), None
    for tool in chat_parts.tool_calls_of(delta):
        yield chat_parts.read_tool_delta(tool, number), tool
    if "function_call" in delta:
        yield chat_parts.read_function_call(delta["function_call"], number), None


def write(events: Iterable[StreamEvent], like: ModelResponseStream) -> ModelResponseStream:
    """A copy of `like` that says just `events`."""
    fields = chat_parts.set_fields(like)
    left_out = {"usage", *chat_parts.rest(fields, _CHUNK_FIELDS)}
    drafts: dict[int, _Draft] = {}
    for event in events:
        part = event.part if isinstance(event.part, _Part) else None
        if part is not None and part.owns_rest:
            left_out &= {"usage"}
        if isinstance(event, Usage):
            left_out.discard("usage")
        drafts.setdefault(event.choice, _Draft()).add(event, part)
    choices = [draft.choice(number) for number, draft in drafts.items()]
    return like.model_copy(update={**dict.fromkeys(left_out & fields.keys()), "choices": choices})


@dataclass(slots=True)
class _Draft:
    """One choice of a chunk in the making."""

    delta: dict[str, Any] = field(default_factory=dict[str, Any])
    finish_reason: str | None = None
    logprobs: object = None

    def add(self, event: StreamEvent, part: _Part | None) -> None:
        if part is not None and part.owns_rest:
            self.delta |= chat_parts.rest(part.delta, chat_parts.MESSAGE_FIELDS)
        if isinstance(event, Finish):
            self.finish_reason = event.reason
        elif isinstance(event, TextDelta):
            self.delta["content"] = self.delta.get("content", "") + event.text
            self.logprobs = part.logprobs if part is not None else None
        elif isinstance(event, ReasoningDelta):
            self.delta |= chat_parts.reasoning_fields(event, part.delta if part is not None else None)
        elif isinstance(event, ToolCallDelta):
            self._add_call(event, part)
        elif isinstance(event, Start):
            self.delta |= {"role": part.delta["role"] if part is not None else "assistant", "content": ""}

    def _add_call(self, event: ToolCallDelta, part: _Part | None) -> None:
        if event.form == "legacy_function":
            self.delta["function_call"] = {"name": event.name, "arguments": event.arguments}
        else:
            tool = chat_parts.write_tool_delta(event, part.tool if part is not None else None)
            self.delta.setdefault("tool_calls", []).append(tool)

    def choice(self, number: int) -> StreamingChoices:
        return StreamingChoices(
            index=number, delta=Delta(**self.delta), finish_reason=self.finish_reason, logprobs=self.logprobs
        )
