"""Decoder of Gemini's JSON payloads: one a frame in a stream, one a full response, alike in form."""

import copy
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.wire import readable
from luthien_litellm_hooks.wire.events import (
    EVERY_CHOICE,
    Finish,
    Opaque,
    ProviderFailure,
    Quote,
    ReasoningDelta,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    Unknown,
    Usage,
    from_wire,
)

Json = Mapping[str, Any]

HEAD = ("usageMetadata", "modelVersion", "responseId", "createTime")
"""Fields that every part of a payload carries again."""
CANDIDATE_HEAD = ("safetyRatings", "tokenCount")
SERVER_CALLS = ("executableCode", "toolCall")
_RESULTS = ("codeExecutionResult", "toolResponse", "functionResponse")
_PAYLOAD_FIELDS = frozenset({"candidates", *HEAD})
_STATUS = frozenset({"promptFeedback", "modelStatus"})  # of the request, not of the model's output
_CANDIDATE_FIELDS = frozenset({"content", "index", "finishReason", *CANDIDATE_HEAD})
_CITATIONS = ("groundingMetadata", "citationMetadata", "urlContextMetadata")
_CONTENT_FIELDS = frozenset({"parts", "role"})
_KNOWN = _PAYLOAD_FIELDS | _STATUS | {"error"}
_UNJUDGED_PARTS = frozenset(
    {"text", "thought", "thoughtSignature", "inlineData", "fileData", "videoMetadata", "mediaResolution"}
)
CODE = "code_execution"
"""Name of the provider's own tool that runs code."""


@dataclass(frozen=True, slots=True)
class Source:
    """Source of an event.

    `extra` holds further fields of the candidate or, with `is_payload_field`, of the payload. `quoted` names the field
    with the text of a quote. An event that `is_silent` has no place in a payload.
    """

    payload: Json = field(default_factory=dict[str, Any])
    candidate: Json = field(default_factory=dict[str, Any])
    part: Json | None = None
    extra: Json = field(default_factory=dict[str, Any])
    is_payload_field: bool = False
    quoted: str | None = None
    is_silent: bool = False


class Reader:
    """Decoder of the payloads of one response; it numbers the calls of each candidate, as Gemini does not."""

    def __init__(self) -> None:
        self._calls: dict[int, int] = {}  # how many calls each candidate has
        self._incomplete: dict[int, tuple[int, _PartialArguments]] = {}  # by candidate, its call in pieces
        self._server: dict[int, int] = {}  # by candidate, the index of its latest server call
        self._server_ids: dict[str, int] = {}

    def read(self, payload: Json) -> tuple[StreamEvent, ...]:
        """Returns the events of `payload`, at least one. Raises `WireError`.

        Order: of each candidate its parts and its finish, then fields that repeat content, such as citations; an error
        comes last."""
        if not payload.keys() & _KNOWN:
            return (from_wire(Unknown(kind="payload"), Source(payload, extra=payload, is_payload_field=True)),)
        events = [
            event for candidate in objects_in(payload, "candidates") for event in self._candidate(candidate, payload)
        ]
        if status := {key: payload[key] for key in _STATUS if payload.get(key) is not None}:
            events.append(from_wire(Opaque(), Source(payload, extra=status, is_payload_field=True)))
        if extra := fields_except(payload, _KNOWN):
            event = Opaque(choice=EVERY_CHOICE, repeats_content=True)
            events.append(from_wire(event, Source(payload, extra=extra, is_payload_field=True)))
        if (error := payload.get("error")) is not None:
            source = Source(payload, extra={"error": error}, is_payload_field=True)
            events.append(from_wire(ProviderFailure(), source))
        if not events:
            only = Usage() if "usageMetadata" in payload else Opaque()
            events.append(from_wire(only, Source(payload, is_payload_field=True)))
        return tuple(events)

    def read_incomplete(self) -> tuple[StreamEvent, ...]:
        """Returns a last piece of each call whose arguments never got complete: truncated JSON."""
        return tuple(event for choice in [*self._incomplete] for event in self._break_off(choice))

    def _candidate(self, candidate: Json, payload: Json) -> Iterator[StreamEvent]:
        index: object = candidate.get("index") or 0
        if not isinstance(index, int):
            raise WireError("the index of a Gemini candidate is not an integer")
        content = as_object(candidate.get("content"), "content")
        for part in objects_in(content, "parts"):
            for event, quoted in self._part(part, index):
                yield from_wire(event, Source(payload, candidate, part, quoted=quoted))
        if fields_except(content, _CONTENT_FIELDS):
            yield from_wire(Opaque(choice=index, repeats_content=True), Source(payload, candidate))
        if reason := candidate.get("finishReason"):
            yield from self._break_off(index)
            yield from_wire(Finish(choice=index, reason=str(reason)), Source(payload, candidate))
        extra = fields_except(candidate, _CANDIDATE_FIELDS)
        for name in _CITATIONS:
            if name in extra and (text := readable.read(extra[name])):
                source = Source(payload, candidate, extra={name: extra.pop(name)}, quoted=name)
                yield from_wire(_quote(index, text, repeats=True), source)
        if extra:
            yield from_wire(Opaque(choice=index, repeats_content=True), Source(payload, candidate, extra=extra))

    def _part(self, part: Json, choice: int) -> Iterator[tuple[StreamEvent, str | None]]:
        """Yields the events of a part, each with the field whose text it quotes."""
        if not isinstance(part.get("text"), str | None):
            raise WireError("the text of a Gemini part is not a string")
        contents = [key for key in ("functionCall", *SERVER_CALLS, *_RESULTS) if key in part]
        if len(contents) > 1 or (contents and "text" in part):
            raise WireError("a Gemini part has several contents")
        if "functionCall" in contents:
            yield self._function_call(part, choice), None
        elif contents and contents[0] in SERVER_CALLS:
            yield self._server_call(contents[0], part, choice), None
        elif contents:
            yield self._result(contents[0], part, choice), contents[0]
        elif part.get("thought") is True and "text" in part:
            yield ReasoningDelta(choice=choice, text=part["text"] or ""), None
        elif part.get("text"):
            yield TextDelta(choice=choice, text=part["text"]), None
        elif part.keys() - _UNJUDGED_PARTS or _is_text_file(part):
            yield Unknown(choice=choice, kind="part"), None
        elif part.keys() - {"text"}:
            yield Opaque(choice=choice), None

    def _function_call(self, part: Json, choice: int) -> ToolCallDelta:
        call = as_object(part["functionCall"], "functionCall")
        name, id, args = call.get("name"), call.get("id"), call.get("args")
        if not isinstance(name, str | None) or not isinstance(id, str | None):
            raise WireError("the name or id of a Gemini call is not a string")
        if name is None:
            return self._continue_call(call, choice)
        index = self._next_call(choice)
        arguments = _PartialArguments(as_object(args, "args"))
        arguments.add(call)
        if call.get("willContinue"):
            self._incomplete[choice] = index, arguments
        return ToolCallDelta(
            choice=choice,
            index=index,
            id=id,
            name=name,
            arguments="" if call.get("willContinue") else arguments.text(),
            extra=_call_extra(part, call),
        )

    def _continue_call(self, call: Json, choice: int) -> ToolCallDelta:
        if choice not in self._incomplete:
            raise WireError("a Gemini call has no name")
        index, arguments = self._incomplete[choice]
        arguments.add(call, is_first=False)
        if call.get("willContinue"):
            return ToolCallDelta(choice=choice, index=index)
        del self._incomplete[choice]
        return ToolCallDelta(choice=choice, index=index, arguments=arguments.text())

    def _break_off(self, choice: int) -> Iterator[StreamEvent]:
        """Yields the arguments so far of an incomplete call, as truncated JSON."""
        if choice in self._incomplete:
            index, arguments = self._incomplete.pop(choice)
            truncated = arguments.text().removesuffix("}")
            yield from_wire(ToolCallDelta(choice=choice, index=index, arguments=truncated), Source(is_silent=True))

    def _server_call(self, key: str, part: Json, choice: int) -> ToolCallDelta:
        call = as_object(part[key], key)
        if key == "executableCode":
            name, args = CODE, _code_arguments(call)
        else:
            name, args = str(call.get("toolType") or "tool").lower(), as_object(call.get("args"), "args")
        index = self._server[choice] = self._next_call(choice)
        id: object = call.get("id")
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
        result = as_object(part[key], key)
        follows = self._server_ids.get(str(result.get("id")), self._server.get(choice))
        return _quote(choice, readable.read(result), follows=follows)

    def _next_call(self, choice: int) -> int:
        index = self._calls.get(choice, 0)
        self._calls[choice] = index + 1
        return index


def _quote(choice: int, text: str, *, follows: int | None = None, repeats: bool = False) -> Quote:
    return Quote(
        choice=choice, role="detail", kind="other", index=-1, text=text, follows=follows, repeats_content=repeats
    )


def _code_arguments(call: Json) -> dict[str, Any]:
    code = call.get("code")
    if not isinstance(code, str | None):
        raise WireError("the code of a Gemini part is not a string")
    language = call.get("language")
    return {**({"language": language} if isinstance(language, str) else {}), "code": code or ""}


def _is_text_file(part: Json) -> bool:
    return str(as_object(part.get("inlineData"), "inlineData").get("mimeType") or "").startswith("text")


def _call_extra(part: Json, call: Json) -> Json:
    """Returns the other fields of a call: those of its part (a signature), and its own under `functionCall`."""
    extra = fields_except(part, frozenset({"functionCall"}))
    of_call = fields_except(call, frozenset({"id", "name", "args", "partialArgs", "willContinue"}))
    return {**extra, "functionCall": of_call} if of_call else extra


def fields_except(fields: Json, known: frozenset[str]) -> dict[str, Any]:
    """Returns the set fields of `fields` outside of `known`."""
    return {key: value for key, value in fields.items() if key not in known and value is not None}


def as_object(value: object, name: str) -> dict[str, Any]:
    """Returns `value` if it is an object, {} for None. Raises `WireError` otherwise, with its `name`."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise WireError(f"Gemini's {name} is not an object")
    return cast(dict[str, Any], value)


def objects_in(fields: Json, name: str) -> list[dict[str, Any]]:
    values: object = fields.get(name)
    if not isinstance(values, list | None):
        raise WireError(f"Gemini's {name} are not a list")
    return [as_object(value, name) for value in cast(list[object], values or [])]


# Arguments in pieces, each at a JSON path: https://ai.google.dev/api/caching#FunctionCall

_STEP = re.compile(r"""\.([^.\[\]]+)|\[(\d+)\]|\['([^']*)'\]|\["([^"]*)"\]""")
_VALUES = ("stringValue", "numberValue", "boolValue", "nullValue")
_UNREADABLE = "{"  # not JSON, so policies treat the call as one they cannot read


class _PartialArguments:
    """Arguments so far of a call in pieces (`partialArgs`). Text at a path with text is appended to it.

    Clients may take whole arguments (`args`) or pieces, so a call with both has invalid JSON for arguments, as one with
    an unreadable piece has.
    """

    def __init__(self, args: Json) -> None:
        self._args: dict[str, Any] = copy.deepcopy(dict(args))
        self._is_readable, self._is_whole = True, bool(args)

    def add(self, call: Json, *, is_first: bool = True) -> None:
        """Adds the pieces of one part."""
        pieces: object = call.get("partialArgs")
        if (pieces and self._is_whole) or (call.get("args") and not is_first):
            self._is_readable = False
        if pieces is None:
            return
        for piece in cast(list[object], pieces) if isinstance(pieces, list) else [pieces]:
            self._is_readable = (
                self._is_readable and isinstance(piece, dict) and self._add_piece(cast(dict[str, Any], piece))
            )

    def text(self) -> str:
        """Returns all of them as JSON."""
        return json.dumps(self._args, ensure_ascii=False) if self._is_readable else _UNREADABLE

    def _add_piece(self, piece: Json) -> bool:
        path, names = piece.get("jsonPath"), [name for name in _VALUES if name in piece]
        steps = _steps(path) if isinstance(path, str) else None
        if not steps or len(names) != 1:
            return False
        value = None if names[0] == "nullValue" else piece[names[0]]
        if isinstance(value, dict | list):
            return False
        return _set(self._args, steps, value)


def _steps(path: str) -> list[str | int] | None:
    """Returns the keys and positions from the root to a value; None for another kind of path."""
    if not path.startswith("$"):
        return None
    steps: list[str | int] = []
    position = 1
    while position < len(path):
        match = _STEP.match(path, position)
        if match is None:
            return None
        name, number, *quoted = match.groups()
        steps.append(int(number) if number is not None else next(text for text in (name, *quoted) if text is not None))
        position = match.end()
    return steps


def _set(args: dict[str, Any], steps: list[str | int], value: object) -> bool:
    """Puts `value` at the path of `steps`, and creates missing containers. Returns False if the path has no place."""
    container: Any = args
    for step, following in pairwise(steps):
        if not _has_place(container, step):
            return False
        if _at(container, step) is None:
            _put(container, step, [] if isinstance(following, int) else {})
        container = _at(container, step)
    if not _has_place(container, steps[-1]):
        return False
    present = _at(container, steps[-1])
    _put(container, steps[-1], present + value if isinstance(present, str) and isinstance(value, str) else value)
    return True


def _has_place(container: Any, step: str | int) -> bool:
    if isinstance(step, int):
        return isinstance(container, list) and step <= len(cast(list[Any], container))
    return isinstance(container, dict)


def _at(container: Any, step: str | int) -> Any:
    if isinstance(step, int):
        return container[step] if step < len(container) else None
    return container.get(step)


def _put(container: Any, step: str | int, value: object) -> None:
    if isinstance(step, int) and step == len(container):
        container.append(value)
    else:
        container[step] = value
