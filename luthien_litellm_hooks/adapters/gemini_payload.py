"""The JSON of Gemini's answers: what one says, and one that says just that.

A stream brings one in each frame, a full answer is one; both look the same.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from luthien_litellm_hooks.adapters import readable
from luthien_litellm_hooks.adapters.gemini_arguments import PartialArguments
from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import (
    EVERY_CHOICE,
    Finish,
    Opaque,
    Quote,
    ReasoningDelta,
    Start,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    Unknown,
    Usage,
    from_wire,
)

Json = Mapping[str, Any]

_HEAD = ("usageMetadata", "modelVersion", "responseId", "createTime")
_PAYLOAD_FIELDS = frozenset({"candidates", *_HEAD})
_STATUS = frozenset({"promptFeedback", "modelStatus", "error"})  # of the request, not of what the model says
_CANDIDATE_HEAD = ("safetyRatings", "tokenCount")
_CANDIDATE_FIELDS = frozenset({"content", "index", "finishReason", *_CANDIDATE_HEAD})
_SOURCES = ("groundingMetadata", "citationMetadata", "urlContextMetadata")
_CONTENT_FIELDS = frozenset({"parts", "role"})
_KNOWN = _PAYLOAD_FIELDS | _STATUS
_UNJUDGED_PARTS = frozenset(
    {"text", "thought", "thoughtSignature", "inlineData", "fileData", "videoMetadata", "mediaResolution"}
)
_CODE = "code_execution"


@dataclass(frozen=True, slots=True)
class _Part:
    """What an event was read from. `rest` is what it brings along besides: fields of the candidate
    or, with `is_of_payload`, of the whole. `quoted` names the field whose texts a quote has; one that
    `is_silent` stands for nothing on the wire."""

    payload: Json = field(default_factory=dict[str, Any])
    candidate: Json = field(default_factory=dict[str, Any])
    part: Json | None = None
    rest: Json = field(default_factory=dict[str, Any])
    is_of_payload: bool = False
    quoted: str | None = None
    is_silent: bool = False


class Reader:
    """Reads the payloads of one answer; it numbers the calls of each candidate, as Gemini does not."""

    def __init__(self) -> None:
        self._calls: dict[int, int] = {}
        self._growing: dict[int, tuple[int, PartialArguments]] = {}  # the call of a candidate that comes in pieces
        self._server: dict[int, int] = {}  # the index of a candidate's latest call that the provider runs
        self._server_ids: dict[str, int] = {}

    def read(self, payload: Json) -> tuple[StreamEvent, ...]:
        """The events of `payload`, at least one: of each candidate its parts in their order and its
        finish, then what repeats text of the answer, as the sources of it do."""
        if not payload.keys() & _KNOWN:
            return (from_wire(Unknown(kind="payload"), _Part(payload, rest=payload, is_of_payload=True)),)
        events = [
            event for candidate in _objects(payload, "candidates") for event in self._candidate(candidate, payload)
        ]
        if status := {key: payload[key] for key in _STATUS if payload.get(key) is not None}:
            events.append(from_wire(Opaque(), _Part(payload, rest=status, is_of_payload=True)))
        if rest := _rest(payload, _PAYLOAD_FIELDS | _STATUS):
            event = Opaque(choice=EVERY_CHOICE, repeats=True)
            events.append(from_wire(event, _Part(payload, rest=rest, is_of_payload=True)))
        if not events:
            events.append(
                from_wire(Usage() if "usageMetadata" in payload else Opaque(), _Part(payload, is_of_payload=True))
            )
        return tuple(events)

    def read_rest(self) -> tuple[StreamEvent, ...]:
        """The pieces that break the calls whose arguments never were whole."""
        return tuple(event for choice in [*self._growing] for event in self._break_off(choice))

    def _candidate(self, candidate: Json, payload: Json) -> Iterator[StreamEvent]:
        number: object = candidate.get("index") or 0
        if not isinstance(number, int):
            raise WireError("the number of a Gemini candidate is not an integer")
        content = _object(candidate.get("content"), "content")
        for part in _objects(content, "parts"):
            for event, quoted in self._part(part, number):
                yield from_wire(event, _Part(payload, candidate, part, quoted=quoted))
        if _rest(content, _CONTENT_FIELDS):
            yield from_wire(Opaque(choice=number, repeats=True), _Part(payload, candidate))
        if reason := candidate.get("finishReason"):
            yield from self._break_off(number)
            yield from_wire(Finish(choice=number, reason=str(reason)), _Part(payload, candidate))
        rest = _rest(candidate, _CANDIDATE_FIELDS)
        for name in _SOURCES:
            if name in rest and (text := readable.read(rest[name])):
                part = _Part(payload, candidate, rest={name: rest.pop(name)}, quoted=name)
                yield from_wire(_quote(number, text, repeats=True), part)
        if rest:
            yield from_wire(Opaque(choice=number, repeats=True), _Part(payload, candidate, rest=rest))

    def _part(self, part: Json, choice: int) -> Iterator[tuple[StreamEvent, str | None]]:
        """The events of a part, each with the field whose texts it quotes."""
        if not isinstance(part.get("text"), str | None):
            raise WireError("the text of a Gemini part is not a string")
        said = [key for key in ("functionCall", *_SERVER_CALLS, *_RESULTS) if key in part]
        if len(said) > 1 or (said and "text" in part):
            raise WireError("a Gemini part is several things at once")
        if "functionCall" in said:
            yield self._function_call(part, choice), None
        elif said and said[0] in _SERVER_CALLS:
            yield self._server_call(said[0], part, choice), None
        elif said:
            yield self._result(said[0], part, choice), said[0]
        elif part.get("thought") is True and "text" in part:
            yield ReasoningDelta(choice=choice, text=part["text"] or ""), None
        elif part.get("text"):
            yield TextDelta(choice=choice, text=part["text"]), None
        elif part.keys() - _UNJUDGED_PARTS or _is_text_file(part):
            yield Unknown(choice=choice, kind="part"), None
        elif part.keys() - {"text"}:
            yield Opaque(choice=choice), None

    def _function_call(self, part: Json, choice: int) -> ToolCallDelta:
        call = _object(part["functionCall"], "functionCall")
        name, id, args = call.get("name"), call.get("id"), call.get("args")
        if not isinstance(name, str | None) or not isinstance(id, str | None):
            raise WireError("the name or id of a Gemini call is not a string")
        if name is None:
            return self._more_of_call(call, choice)
        index = self._next_call(choice)
        arguments = PartialArguments(_object(args, "args"))
        arguments.add(call.get("partialArgs"))
        if call.get("willContinue"):
            self._growing[choice] = index, arguments
        return ToolCallDelta(
            choice=choice,
            index=index,
            id=id,
            name=name,
            arguments="" if call.get("willContinue") else arguments.text(),
            extra=_call_extra(part, call),
        )

    def _more_of_call(self, call: Json, choice: int) -> ToolCallDelta:
        if choice not in self._growing:
            raise WireError("a Gemini call has no name")
        index, arguments = self._growing[choice]
        arguments.add(call.get("partialArgs"))
        if call.get("willContinue"):
            return ToolCallDelta(choice=choice, index=index)
        del self._growing[choice]
        return ToolCallDelta(choice=choice, index=index, arguments=arguments.text())

    def _break_off(self, choice: int) -> Iterator[StreamEvent]:
        """A piece that says how far the arguments of a call came that has no end."""
        if choice in self._growing:
            index, arguments = self._growing.pop(choice)
            said = arguments.text().removesuffix("}")
            yield from_wire(ToolCallDelta(choice=choice, index=index, arguments=said), _Part(is_silent=True))

    def _server_call(self, key: str, part: Json, choice: int) -> ToolCallDelta:
        came = _object(part[key], key)
        is_code = key == "executableCode"
        name, args = (
            (_CODE, _code_arguments(came)) if is_code else (_tool_name(came), _object(came.get("args"), "args"))
        )
        index = self._server[choice] = self._next_call(choice)
        id: object = came.get("id")
        if isinstance(id, str):
            self._server_ids[id] = index
        return ToolCallDelta(
            choice=choice,
            index=index,
            id=id if isinstance(id, str) else None,
            name=name,
            arguments=json.dumps(args, ensure_ascii=False),
            form="server",
            extra=part,
        )

    def _result(self, key: str, part: Json, choice: int) -> Quote:
        came = _object(part[key], key)
        follows = self._server_ids.get(str(came.get("id")), self._server.get(choice))
        return _quote(choice, readable.read(came), follows=follows)

    def _next_call(self, choice: int) -> int:
        index = self._calls.get(choice, 0)
        self._calls[choice] = index + 1
        return index


_SERVER_CALLS = ("executableCode", "toolCall")
_RESULTS = ("codeExecutionResult", "toolResponse", "functionResponse")


def _quote(choice: int, text: str, *, follows: int | None = None, repeats: bool = False) -> Quote:
    return Quote(choice=choice, role="detail", kind="other", index=-1, text=text, follows=follows, repeats=repeats)


def _code_arguments(came: Json) -> dict[str, Any]:
    code = came.get("code")
    if not isinstance(code, str | None):
        raise WireError("the code of a Gemini part is not a string")
    language = came.get("language")
    return {**({"language": language} if isinstance(language, str) else {}), "code": code or ""}


def _tool_name(came: Json) -> str:
    return str(came.get("toolType") or "tool").lower()


def _is_text_file(part: Json) -> bool:
    return str(_object(part.get("inlineData"), "inlineData").get("mimeType") or "").startswith("text")


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
        elif came.is_silent:
            continue
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
        if isinstance(event, Quote):
            self._add_quote(event, came)
            return
        self.fields |= came.rest
        if isinstance(event, Finish):
            self.fields["finishReason"] = event.reason
        elif came.part is not None:
            self.parts.append(came.part)
        elif not isinstance(event, Opaque):
            self.parts.append(_made_part(event))

    def _add_quote(self, event: Quote, came: _Part) -> None:
        if came.part is not None and came.quoted is not None:
            self.parts.append(_with_text(came.part, came.quoted, event.text))
        elif came.quoted is not None:
            self.fields |= _with_text(came.rest, came.quoted, event.text)

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


def _with_text(fields: Json, name: str, text: str) -> Json:
    """`fields`, of which that called `name` says `text`; the same object if it does already."""
    is_same = readable.read(fields[name]) == text
    return fields if is_same else {**fields, name: readable.written(fields[name], text)}


def _made_call(event: ToolCallDelta) -> Json:
    try:
        args: object = json.loads(event.arguments or "{}")
    except (ValueError, RecursionError) as error:
        raise WireError("Gemini has no way to say arguments that are not JSON") from error
    if event.form == "server":
        return _made_server_call(event, _object(args, "args"))
    call = {**_object(event.extra.get("functionCall", {}), "functionCall"), "name": event.name}
    if event.id is not None:
        call["id"] = event.id
    return {**event.extra, "functionCall": {**call, "args": _object(args, "args")}}


def _made_server_call(event: ToolCallDelta, args: dict[str, Any]) -> Json:
    """The part of a server's call with other arguments; `extra` is the part that came."""
    key = next((key for key in _SERVER_CALLS if key in event.extra), "executableCode")
    came = _object(event.extra.get(key), key)
    said = {**came, **args} if key == "executableCode" else {**came, "args": args}
    return {**event.extra, key: said}


def _call_extra(part: Json, call: Json) -> Json:
    """The other fields of a call: those of its part (a signature), and under its own name those of the call."""
    extra = _rest(part, frozenset({"functionCall"}))
    of_call = _rest(call, frozenset({"id", "name", "args", "partialArgs", "willContinue"}))
    return {**extra, "functionCall": of_call} if of_call else extra


def _rest(fields: Json, known: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key not in known and value is not None}


def _object(value: object, name: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise WireError(f"Gemini's {name} is not an object")
    return cast(dict[str, Any], value)


def _objects(fields: Json, name: str) -> list[dict[str, Any]]:
    values: object = fields.get(name)
    if not isinstance(values, list | None):
        raise WireError(f"Gemini's {name} are not a list")
    return [_object(value, name) for value in cast(list[object], values or [])]
