"""Text completions as LiteLLM hands them to a plugin: `TextCompletionResponse`, streamed or full."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from litellm.types.utils import TextChoices, TextCompletionResponse

from luthien_litellm_hooks.adapters import chat_parts
from luthien_litellm_hooks.adapters.chat_parts import CAME, RESPONSE_FIELDS, Piece
from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import (
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

_CHOICE_FIELDS = frozenset({"index", "text", "reasoning_content", "finish_reason"})


class CompletionsAdapter:
    """The adapter of one text completion.

    `like` is what chunks are made like before the provider has sent one.
    """

    is_framed = False
    has_text_after_calls = False
    stop_reason = "stop"
    tool_reasons = ("stop",)
    cut_reasons = ("length",)

    def __init__(self, like: TextCompletionResponse) -> None:
        self._like = like

    def decode(self, raw: object) -> Sequence[Chunk]:
        """One chunk: every item of such a stream is whole."""
        if isinstance(raw, TextCompletionResponse):
            self._like = raw
        return (self.split(raw),)

    def flush(self) -> Sequence[Chunk]:
        """Nothing: `decode` keeps nothing back."""
        return ()

    def encode(self, events: Sequence[StreamEvent], of: Chunk | None) -> Iterable[object]:
        """One chunk."""
        like = of.raw if of is not None and isinstance(of.raw, TextCompletionResponse) else self._like
        choices = _write(events)
        kept = _names_in(events)
        usage = {} if any(isinstance(event, Usage) for event in events) else {"usage": None}
        if choices or kept or not usage:
            left_out = dict.fromkeys(chat_parts.repeating_names(like) - kept - {"usage"})
            yield like.model_copy(update={**left_out, **(usage if _counts(like) else {}), "choices": choices})

    def split(self, response: object) -> Chunk:
        """The events of every choice."""
        if isinstance(response, TextCompletionResponse):
            with suppress(WireError):
                return Chunk.from_wire(response, tuple(_read(response)))
        return Chunk.from_wire(response, (Unknown(kind="text completion", is_malformed=True),))

    def join(self, response: object, events: Sequence[StreamEvent]) -> object:
        """A copy of `response` with just `events`; its id, model and usage stay. One that cannot be read stays out."""
        like = response if isinstance(response, TextCompletionResponse) else self._like
        choices = {choice.index: choice for choice in _write(events)}
        for came in like.choices if _is_read(self.split(response)) else ():
            choices.setdefault(came.index, TextChoices(index=came.index, text=""))
        names = chat_parts.repeating_names(like) - _names_in(events) - {"usage"}
        return chat_parts.without(like, names, {"choices": [choices[number] for number in sorted(choices)]})


def _is_read(chunk: Chunk) -> bool:
    return not any(isinstance(event, Unknown) for event in chunk.events)


def _read(response: TextCompletionResponse) -> list[StreamEvent]:
    """The events of `response`; there is always at least one. Raises `WireError`."""
    events = [event for choice in response.choices for event in _read_choice(choice)]
    events += chat_parts.read_rest(chat_parts.rest(chat_parts.set_fields(response), RESPONSE_FIELDS), "response")
    if _counts(response):
        events.append(from_wire(Usage(), CAME))
    return events or [from_wire(Opaque(), CAME)]


def _read_choice(choice: object) -> Iterator[StreamEvent]:
    fields = chat_parts.fields_of(choice, "choice")
    number = chat_parts.number_of(fields)
    if reasoning := chat_parts.text_in(fields, "reasoning_content"):
        yield from_wire(ReasoningDelta(choice=number, text=reasoning), CAME)
    if text := chat_parts.text_in(fields, "text"):
        yield from_wire(TextDelta(choice=number, text=text), CAME)
    yield from chat_parts.read_rest(chat_parts.rest(fields, _CHOICE_FIELDS), "choice", number)
    if reason := chat_parts.text_in(fields, "finish_reason"):
        yield from_wire(Finish(choice=number, reason=reason), CAME)


def _counts(response: TextCompletionResponse) -> bool:
    """Whether `response` says how many tokens it took; LiteLLM puts zeros where it does not."""
    return response.usage is not None and bool(response.usage.total_tokens)


def _names_in(events: Iterable[StreamEvent]) -> frozenset[str]:
    """The fields of the whole response that `events` say."""
    pieces = [event.part for event in events if event.choice == EVERY_CHOICE]
    return frozenset(name for piece in pieces if isinstance(piece, Piece) for name in piece.fields)


def _write(events: Iterable[StreamEvent]) -> list[TextChoices]:
    drafts: dict[int, dict[str, Any]] = {}
    for event in events:
        if isinstance(event, ToolCallDelta):
            raise WireError("a text completion cannot bring a tool call")
        if isinstance(event, TextDelta | ReasoningDelta | Finish | Opaque) and event.choice != EVERY_CHOICE:
            _add(drafts.setdefault(event.choice, {"text": ""}), event)
    return [TextChoices(index=number, **fields) for number, fields in drafts.items()]


def _add(draft: dict[str, Any], event: TextDelta | ReasoningDelta | Finish | Opaque) -> None:
    if isinstance(event, TextDelta):
        draft["text"] += event.text
    elif isinstance(event, ReasoningDelta):
        draft["reasoning_content"] = draft.get("reasoning_content", "") + event.text
    elif isinstance(event, Finish):
        draft["finish_reason"] = event.reason
    elif isinstance(event.part, Piece):
        chat_parts.merge(draft, event.part.fields)
