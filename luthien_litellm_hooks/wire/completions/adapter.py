"""Adapter of text completions as LiteLLM hands them to a plugin: `TextCompletionResponse`, streamed or full."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from litellm.types.utils import TextChoices, TextCompletionResponse

from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.wire.chat.fields import (
    DECODED,
    RESPONSE_FIELDS,
    Piece,
    choice_index,
    fields_except,
    fields_of,
    merge,
    read_other_fields,
    repeating_fields,
    set_fields,
    text_in,
    without,
)
from luthien_litellm_hooks.wire.events import (
    EVERY_CHOICE,
    Chunk,
    Finish,
    Opaque,
    ReasoningDelta,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    Unknown,
    Usage,
    from_wire,
)
from luthien_litellm_hooks.wire.format import ResponseRules

_CHOICE_FIELDS = frozenset({"index", "text", "reasoning_content", "finish_reason"})


class CompletionsAdapter:
    """Adapter of one text completion.

    `template` is the chunk to copy until the provider has sent one.
    """

    def __init__(self, rules: ResponseRules, template: TextCompletionResponse) -> None:
        self.rules = rules
        self._template = template

    def decode(self, raw: object) -> Sequence[Chunk]:
        """Returns one chunk: an item of such a stream is never partial."""
        if isinstance(raw, TextCompletionResponse):
            self._template = raw
        return (self.decode_full(raw),)

    def flush(self) -> Sequence[Chunk]:
        """Returns nothing: `decode` never holds anything."""
        return ()

    def encode(self, events: Sequence[StreamEvent], of: Chunk | None) -> Iterable[object]:
        """Yields one item, or none if `events` have no place in one."""
        template = of.raw if of is not None and isinstance(of.raw, TextCompletionResponse) else self._template
        choices = _write(events)
        carried = _response_fields(events)
        usage = {} if any(isinstance(event, Usage) for event in events) else {"usage": None}
        if choices or carried or not usage:
            dropped = dict.fromkeys(repeating_fields(template) - carried - {"usage"})
            yield template.model_copy(update={**dropped, **(usage if _has_usage(template) else {}), "choices": choices})

    def ping(self) -> Iterable[object]:
        """Yields an item with an empty text."""
        yield without(self._template, repeating_fields(self._template), {"choices": [TextChoices(index=0, text="")]})

    def decode_full(self, response: object) -> Chunk:
        """Returns the events of every choice."""
        if isinstance(response, TextCompletionResponse):
            with suppress(WireError):
                return Chunk.from_wire(response, tuple(_read(response)))
        return Chunk.from_wire(response, (Unknown(kind="text completion", is_malformed=True),))

    def encode_full(self, response: object, events: Sequence[StreamEvent]) -> object:
        """Returns a copy of `response` with just `events`, its id, model and usage.

        Drops the choices of a malformed response."""
        template = response if isinstance(response, TextCompletionResponse) else self._template
        choices = {choice.index: choice for choice in _write(events)}
        is_known = not any(isinstance(event, Unknown) for event in self.decode_full(response).events)
        for choice in template.choices if is_known else ():
            choices.setdefault(choice.index, TextChoices(index=choice.index, text=""))
        names = repeating_fields(template) - _response_fields(events) - {"usage"}
        return without(template, names, {"choices": [choices[index] for index in sorted(choices)]})


def _read(response: TextCompletionResponse) -> list[StreamEvent]:
    """Returns the events of `response`, at least one. Raises `WireError`."""
    events = [event for choice in response.choices for event in _read_choice(choice)]
    events += read_other_fields(fields_except(set_fields(response), RESPONSE_FIELDS), "response")
    if _has_usage(response):
        events.append(from_wire(Usage(), DECODED))
    return events or [from_wire(Opaque(), DECODED)]


def _read_choice(choice: object) -> Iterator[StreamEvent]:
    fields = fields_of(choice, "choice")
    index = choice_index(fields)
    if reasoning := text_in(fields, "reasoning_content"):
        yield from_wire(ReasoningDelta(choice=index, text=reasoning), DECODED)
    if text := text_in(fields, "text"):
        yield from_wire(TextDelta(choice=index, text=text), DECODED)
    yield from read_other_fields(fields_except(fields, _CHOICE_FIELDS), "choice", index)
    if reason := text_in(fields, "finish_reason"):
        yield from_wire(Finish(choice=index, reason=reason), DECODED)


def _has_usage(response: TextCompletionResponse) -> bool:
    """Returns whether `response` counts tokens; LiteLLM puts zeros where the provider does not."""
    return response.usage is not None and bool(response.usage.total_tokens)


def _response_fields(events: Iterable[StreamEvent]) -> frozenset[str]:
    """Returns the names of the response's own fields that `events` carry."""
    pieces = [event.source for event in events if event.choice == EVERY_CHOICE]
    return frozenset(name for piece in pieces if isinstance(piece, Piece) for name in piece.fields)


def _write(events: Iterable[StreamEvent]) -> list[TextChoices]:
    drafts: dict[int, dict[str, Any]] = {}
    for event in events:
        if isinstance(event, ToolCallDelta):
            raise WireError("a text completion cannot hold a tool call")
        if isinstance(event, TextDelta | ReasoningDelta | Finish | Opaque) and event.choice != EVERY_CHOICE:
            _add(drafts.setdefault(event.choice, {"text": ""}), event)
    return [TextChoices(index=index, **fields) for index, fields in drafts.items()]


def _add(draft: dict[str, Any], event: TextDelta | ReasoningDelta | Finish | Opaque) -> None:
    if isinstance(event, TextDelta):
        draft["text"] += event.text
    elif isinstance(event, ReasoningDelta):
        draft["reasoning_content"] = draft.get("reasoning_content", "") + event.text
    elif isinstance(event, Finish):
        draft["finish_reason"] = event.reason
    elif isinstance(event.source, Piece):
        merge(draft, event.source.fields)
