"""The JSON of Gemini's answers: what one says, and one that says just that.

A stream brings one in each frame, a full answer is one; both look the same.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import (
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

Json = Mapping[str, Any]

_HEAD = ("usageMetadata", "modelVersion", "responseId", "createTime")
_PAYLOAD_FIELDS = frozenset({"candidates", *_HEAD})
_CANDIDATE_HEAD = ("safetyRatings", "tokenCount")
_CANDIDATE_FIELDS = frozenset({"content", "index", "finishReason", "finishMessage", *_CANDIDATE_HEAD})
_UNSTREAMED = ("partialArgs", "willContinue")  # https://ai.google.dev/api/caching#FunctionCall: never asked for
_KNOWN = _PAYLOAD_FIELDS | {"promptFeedback", "modelStatus", "error"}


@dataclass(frozen=True, slots=True)
class _Part:
    """What an event was read from. `rest` is what it brings along besides: fields of the candidate
    or, with `is_of_payload`, of the whole."""

    payload: Json = field(default_factory=dict[str, Any])
    candidate: Json = field(default_factory=dict[str, Any])
    part: Json | None = None
    rest: Json = field(default_factory=dict[str, Any])
    is_of_payload: bool = False


class Reader:
    """Reads the payloads of one answer; it numbers the calls of each candidate, as Gemini does not."""

    def __init__(self) -> None:
        self._calls: dict[int, int] = {}

    def read(self, payload: Json) -> tuple[StreamEvent, ...]:
        """The events of `payload`, at least one: of each candidate its parts in their order and its
        finish, then what repeats text of the answer, as the sources of it do."""
        if not payload.keys() & _KNOWN:
            raise WireError("a Gemini answer has nothing of one")
        events = [
            event for candidate in _objects(payload, "candidates") for event in self._candidate(candidate, payload)
        ]
        rest = _rest(payload, _PAYLOAD_FIELDS)
        if rest:
            events.append(
                from_wire(Opaque(repeats="candidates" in payload), _Part(payload, rest=rest, is_of_payload=True))
            )
        if not events:
            events.append(
                from_wire(Usage() if "usageMetadata" in payload else Opaque(), _Part(payload, is_of_payload=True))
            )
        return tuple(events)

    def _candidate(self, candidate: Json, payload: Json) -> Iterator[StreamEvent]:
        number: object = candidate.get("index") or 0
        if not isinstance(number, int):
            raise WireError("a Gemini candidate's number is none")
        content = _object(candidate.get("content"), "content")
        for part in _objects(content, "parts"):
            for event in self._part(part, number):
                yield from_wire(event, _Part(payload, candidate, part))
        if reason := candidate.get("finishReason"):
            yield from_wire(Finish(choice=number, reason=str(reason)), _Part(payload, candidate))
        if rest := _rest(candidate, _CANDIDATE_FIELDS):
            yield from_wire(Opaque(choice=number, repeats=True), _Part(payload, candidate, rest=rest))

    def _part(self, part: Json, choice: int) -> Iterator[StreamEvent]:
        if "functionCall" in part:
            yield self._call(part, choice)
        elif not isinstance(part.get("text"), str | None):
            raise WireError("the text of a Gemini part is no string")
        elif part.get("thought") is True and "text" in part:
            yield ReasoningDelta(choice=choice, text=part["text"] or "")
        elif part.get("text"):
            yield TextDelta(choice=choice, text=part["text"])
        elif part.keys() - {"text"}:
            yield Opaque(choice=choice)

    def _call(self, part: Json, choice: int) -> ToolCallDelta:
        call = _object(part["functionCall"], "functionCall")
        name, id, args = call.get("name"), call.get("id"), call.get("args")
        if "text" in part or not isinstance(name, str) or not isinstance(id, str | None):
            raise WireError("a Gemini part is not just a call with a name")
        if any(call.get(key) for key in _UNSTREAMED):
            raise WireError("the arguments of a Gemini call came in pieces")
        index = self._calls.get(choice, 0)
        self._calls[choice] = index + 1
        return ToolCallDelta(
            choice=choice,
            index=index,
            id=id,
            name=name,
            arguments=json.dumps(_object(args, "args"), ensure_ascii=False),
            extra=_call_extra(part, call),
        )


def head(payload: Json) -> dict[str, Any]:
    """What goes with every piece of `payload`, wherever it leaves."""
    return {key: payload[key] for key in _HEAD if key in payload}


def write(events: Iterable[StreamEvent]) -> dict[str, Any]:
    """A payload that says just `events`, with the head of those that came; empty if that is nothing."""
    drafts: dict[int, _Draft] = {}
    rest: dict[str, Any] = {}
    for event in events:
        came = event.part if isinstance(event.part, _Part) else _Part()
        rest |= head(came.payload)
        if came.is_of_payload:
            rest |= came.rest
        elif not isinstance(event, Start | Usage):
            drafts.setdefault(event.choice, _Draft()).add(event, came)
    candidates = {"candidates": [draft.candidate(number) for number, draft in drafts.items()]} if drafts else {}
    return candidates | rest


def write_full(events: Sequence[StreamEvent], like: Json) -> dict[str, Any]:
    """A payload like `like` that says just `events`, with all of its candidates."""
    said = write(events)
    left: dict[int, Json] = {candidate["index"]: candidate for candidate in said.pop("candidates", ())}
    numbers: list[int] = [candidate.get("index") or 0 for candidate in _objects(like, "candidates")]
    candidates = [left.get(number) or _Draft().candidate(number) for number in numbers or left]
    return {"candidates": candidates, **head(like), **said}


@dataclass(slots=True)
class _Draft:
    """One candidate in the making."""

    parts: list[Json] = field(default_factory=list[Json])
    fields: dict[str, Any] = field(default_factory=dict[str, Any])

    def add(self, event: StreamEvent, came: _Part) -> None:
        self.fields |= {key: came.candidate[key] for key in _CANDIDATE_HEAD if key in came.candidate}
        self.fields |= came.rest
        if isinstance(event, Finish):
            self.fields["finishReason"] = event.reason
            if "finishMessage" in came.candidate:
                self.fields["finishMessage"] = came.candidate["finishMessage"]
        elif came.part is not None:
            self.parts.append(came.part)
        elif not isinstance(event, Opaque):
            self.parts.append(_made_part(event))

    def candidate(self, number: int) -> dict[str, Any]:
        return {"content": {"parts": self.parts or [{"text": ""}], "role": "model"}, **self.fields, "index": number}


def _made_part(event: StreamEvent) -> Json:
    if isinstance(event, ToolCallDelta):
        return _made_call(event)
    if isinstance(event, ReasoningDelta):
        return {"text": event.text, "thought": True}
    if isinstance(event, TextDelta):
        return {"text": event.text}
    raise WireError(f"Gemini has no {type(event).__name__}")


def _made_call(event: ToolCallDelta) -> Json:
    try:
        args: object = json.loads(event.arguments or "{}")
    except (ValueError, RecursionError) as error:
        raise WireError("Gemini has no way to say arguments that are not JSON") from error
    call = {**_object(event.extra.get("functionCall", {}), "functionCall"), "name": event.name}
    if event.id is not None:
        call["id"] = event.id
    return {**event.extra, "functionCall": {**call, "args": _object(args, "args")}}


def _call_extra(part: Json, call: Json) -> Json:
    """What of a call is none of ours: in the part (a signature), and under its own name in the call."""
    extra = _rest(part, frozenset({"functionCall"}))
    of_call = _rest(call, frozenset({"id", "name", "args"}))
    return {**extra, "functionCall": of_call} if of_call else extra


def _rest(fields: Json, known: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key not in known and value is not None}


def _object(value: object, name: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise WireError(f"Gemini's {name} is no object")
    return cast(dict[str, Any], value)


def _objects(fields: Json, name: str) -> list[dict[str, Any]]:
    values: object = fields.get(name)
    if not isinstance(values, list | None):
        raise WireError(f"Gemini's {name} are no list")
    return [_object(value, name) for value in cast(list[object], values or [])]
