"""Text completions as LiteLLM hands them to a plugin: `TextCompletionResponse`, streamed or full."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from litellm.types.utils import TextChoices, TextCompletionResponse

from luthien_litellm_hooks.adapters import chat_parts
from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import (
    Chunk,
    Finish,
    Opaque,
    ReasoningDelta,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    Usage,
    from_wire,
)

_RESPONSE_FIELDS = frozenset({"id", "object", "created", "model", "choices", "usage", "system_fingerprint"})
_CHOICE_FIELDS = frozenset({"index", "text", "reasoning_content", "logprobs", "finish_reason"})


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
        self._like = _checked(raw)
        return (self.split(raw),)

    def flush(self) -> Sequence[Chunk]:
        """Nothing: `decode` keeps nothing back."""
        return ()

    def encode(self, events: Sequence[StreamEvent], of: Chunk | None) -> Iterable[object]:
        """One chunk."""
        like = self._like if of is None else _checked(of.raw)
        choices = _write(events)
        head = _head(events, like)
        if choices or head.keys() & {"usage"}:
            yield like.model_copy(update={**head, "choices": choices})

    def split(self, response: object) -> Chunk:
        """The events of every choice."""
        return Chunk.from_wire(response, tuple(_read(_checked(response))))

    def join(self, response: object, events: Sequence[StreamEvent]) -> object:
        """A copy of `response` with just `events`; its id, model and usage stay."""
        like = _checked(response)
        left = {choice.index: choice for choice in _write(events)}
        choices = [left.get(choice.index) or TextChoices(index=choice.index, text="") for choice in like.choices]
        return like.model_copy(update={**_head(events, like), "usage": like.usage, "choices": choices})


@dataclass(frozen=True, slots=True)
class _Part:
    """The fields that an event was read from: of its choice, or of the whole response."""

    choice: Mapping[str, Any] = field(default_factory=dict[str, Any])
    response: Mapping[str, Any] = field(default_factory=dict[str, Any])


def _checked(response: object) -> TextCompletionResponse:
    if not isinstance(response, TextCompletionResponse):
        raise WireError(f"a text completion brought a {type(response).__name__}")
    return response


def _read(response: TextCompletionResponse) -> Iterator[StreamEvent]:
    """The events of `response`; there is always at least one."""
    is_empty = True
    for choice in response.choices:
        for event in _read_choice(chat_parts.set_fields(choice)):
            is_empty = False
            yield event
    if _counts(response):
        is_empty = False
        yield from_wire(Usage(), _Part())
    rest = chat_parts.rest(chat_parts.set_fields(response), _RESPONSE_FIELDS)
    if rest or is_empty:
        yield from_wire(Opaque(repeats=bool(rest)), _Part(response=rest))


def _read_choice(fields: Mapping[str, Any]) -> Iterator[StreamEvent]:
    number = fields.get("index")
    text, reasoning = fields.get("text") or "", fields.get("reasoning_content") or ""
    if not isinstance(number, int) or not isinstance(text, str) or not isinstance(reasoning, str):
        raise WireError("a choice of a text completion has no number, or text that is no string")
    part = _Part(fields)
    if reasoning:
        yield from_wire(ReasoningDelta(choice=number, text=reasoning), part)
    if text:
        yield from_wire(TextDelta(choice=number, text=text), part)
    if fields.get("finish_reason"):
        yield from_wire(Finish(choice=number, reason=str(fields["finish_reason"])), part)
    if not fields.keys() <= _CHOICE_FIELDS:
        yield from_wire(Opaque(choice=number, repeats=True), part)


def _counts(response: TextCompletionResponse) -> bool:
    """Whether `response` says how many tokens it took; LiteLLM puts zeros where it does not."""
    return response.usage is not None and bool(response.usage.total_tokens)


def _head(events: Iterable[StreamEvent], like: TextCompletionResponse) -> dict[str, Any]:
    """The fields of a response like `like` that says just `events`, as far as they differ."""
    head: dict[str, Any] = dict.fromkeys(chat_parts.rest(chat_parts.set_fields(like), _RESPONSE_FIELDS))
    has_usage = False
    for event in events:
        has_usage = has_usage or isinstance(event, Usage)
        head |= event.part.response if isinstance(event.part, _Part) else {}
    if has_usage or _counts(like):
        head["usage"] = like.usage if has_usage else None
    return head


def _write(events: Iterable[StreamEvent]) -> list[TextChoices]:
    drafts: dict[int, dict[str, Any]] = {}
    for event in events:
        if isinstance(event, ToolCallDelta):
            raise WireError("a text completion cannot bring a tool call")
        if isinstance(event, TextDelta | ReasoningDelta | Finish | Opaque):
            _add(drafts.setdefault(event.choice, {"text": ""}), event)
    return [TextChoices(index=number, **fields) for number, fields in drafts.items()]


def _add(draft: dict[str, Any], event: TextDelta | ReasoningDelta | Finish | Opaque) -> None:
    came = event.part.choice if isinstance(event.part, _Part) else _Part().choice
    if isinstance(event, TextDelta):
        draft["logprobs"] = came.get("logprobs") if not draft["text"] else None
        draft["text"] += event.text
    elif isinstance(event, ReasoningDelta):
        draft["reasoning_content"] = draft.get("reasoning_content", "") + event.text
    elif isinstance(event, Finish):
        draft["finish_reason"] = event.reason
    else:
        draft |= chat_parts.rest(came, _CHOICE_FIELDS)
