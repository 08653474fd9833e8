"""One wire format: its adapter for the engine, and its record, the whole of what the rest of the package knows of it.

Each record is in the folder of its wire, and `wire.FORMATS` lists them. Records import neither LiteLLM nor their
adapter before it is needed.
"""

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast
from uuid import UUID

from luthien_litellm_hooks.wire.events import Chunk, StreamEvent
from luthien_litellm_hooks.wire.request_shape import Json, RequestShape

JsonObject = dict[str, Any]
SCALARS = (str, int, float, type(None))
"""Types of the JSON values without others in them."""
Blocks = Sequence[Json]
"""Content of a response as the transaction record has it: one JSON object a block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseRules:
    """Rules for any response on a wire."""

    blocks_overlap: bool = False
    """Any number of blocks may be open, and later units repeat earlier ones: the adapter is an `EchoingAdapter`."""
    marks_blocks: bool
    """The wire numbers all blocks, and marks where each begins and ends."""
    has_text_after_calls: bool
    """A client may send back a response with text after a call; some providers refuse it."""
    stop_reason: str
    """Finish reason of a response that ended naturally and calls no tool."""
    tool_reasons: tuple[str, ...]
    """Finish reasons of a response that calls tools; the first is the usual one."""
    cut_reasons: tuple[str, ...]
    """Finish reasons of a response that a token limit has cut off."""


class Adapter(Protocol):
    """One wire format, for one response: decodes units of the wire to events, and encodes events to units.

    Adapters are pure: they use no clock and no logger, and await nothing. They never change their arguments;
    LiteLLM keeps the same objects for its log and its cache.
    """

    @property
    def rules(self) -> ResponseRules:
        """The rules of the wire."""
        ...

    def decode(self, raw: object) -> Sequence[Chunk]:
        """Returns the chunks in one item of a provider's stream, with their events in the order of judging.

        An unreadable unit is a chunk with one malformed `Unknown`. Raises `WireError`."""
        ...

    def flush(self) -> Sequence[Chunk]:
        """Returns the remaining chunks at the end of the provider's stream."""
        ...

    def encode(self, events: Sequence[StreamEvent], of: Chunk | None) -> Iterable[object]:
        """Returns items of the client's stream with just `events`, in their order and under their numbers.

        `of` is the chunk of the events, None if a policy made them."""
        ...

    def ping(self) -> Iterable[object]:
        """Returns items of the client's stream without any content, for a client that waits for a policy.

        They may come between any two items of a response that has not finished; none where the wire allows none."""
        ...

    def decode_full(self, response: object) -> Chunk:
        """Returns a full response as one chunk, with a malformed `Unknown` if it is unreadable."""
        ...

    def encode_full(self, response: object, events: Sequence[StreamEvent]) -> object:
        """Returns a new full response like `response` with just `events`."""
        ...


class FlaggingAdapter(Adapter, Protocol):
    """Adapter of a wire whose client may ask for verdicts on the calls of a response.

    To give them it must get all that leaves, unchanged chunks too.
    """

    @property
    def takes_flags(self) -> bool:
        """True if the client asked: it gets the explanation of a `Flagged` call."""
        ...

    def note_left(self, chunk: Chunk) -> None:
        """Notes events on their way to the client, before they are encoded."""
        ...


class EchoingAdapter(Adapter, Protocol):
    """Adapter of a wire with overlapping blocks.

    To repeat earlier units truthfully it must get all that is sent, unchanged chunks too.
    """

    def encode_unchanged(self, chunk: Chunk, *, as_came: bool) -> Iterable[object]:
        """Returns items of the client's stream with all of `chunk`: its own unit while nothing before it changed.

        With `as_came` no policy judges the response, so it is always its own unit."""
        ...

    def is_long(self, raw: object) -> bool:
        """Returns whether an item of a provider's stream repeats so much that decoding it takes long."""
        ...


@dataclass(frozen=True, slots=True)
class NewResponse:
    """Identity of a response, for the units that a policy makes before the provider's first, or without one."""

    model: str
    id: UUID
    created: int
    """Seconds since 1970."""
    takes_flags: bool = False
    """The client asked for verdicts on its tool calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogShape:
    """A response in LiteLLM's log. LiteLLM may log a response of one wire in the shape of another, so the shape is
    found by the logged members alone."""

    holds: Callable[[Json], bool]
    """Tells whether a logged response has this shape."""
    content: Callable[[Json, Blocks, str | None], JsonObject]
    """Returns the members with the content of the delivered blocks and their finish reason, in place of those of the
    logged response."""
    other_fields: frozenset[str] = frozenset()
    """Members that cannot repeat withheld content; all others are dropped from a changed response."""


def event_payloads(text: str) -> Iterator[Json]:
    """Yields the JSON objects of a stream of server-sent events."""
    for line in text.splitlines():
        payload = json_object(line.removeprefix("data:")) if line.startswith("data:") else None
        if payload is not None:
            yield payload


def json_object(text: str) -> Json | None:
    """Returns the JSON object that `text` is; None if it is something else."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return cast(Json, value) if isinstance(value, dict) else None


def json_copy(value: object) -> Any:
    """Returns a copy of a JSON value, in half the time of `copy.deepcopy`."""
    if isinstance(value, SCALARS):
        return value
    if isinstance(value, dict):
        return {key: json_copy(item) for key, item in cast(dict[str, object], value).items()}
    if isinstance(value, list):
        return [json_copy(item) for item in cast(list[object], value)]
    return copy.deepcopy(value)  # LiteLLM puts its own objects there


@dataclass(frozen=True, slots=True)
class Refusal:
    """Words to the model about one of its tool calls, instead of a result."""

    id: str | None
    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NextTurn:
    """Request after a response with tool calls, for a wire with such calls."""

    call: str
    """Name of LiteLLM's function for a full response."""
    body: Callable[[Json, Sequence[object], Sequence[Refusal]], JsonObject | None]
    """Returns the body of the request after that of a body, with the response as it came, and a refusal for each of
    its calls, in their order. The response is the items of its stream, or one full response. None if there can be no
    such request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WireFormat:
    """One wire format: its routes in LiteLLM, its adapter, and its forms of requests and logs."""

    name: str
    """Name in spans, metrics, and `run_policy(route=…)`."""
    operation: str
    """OpenTelemetry's `gen_ai.operation.name`."""
    call_types: tuple[str, ...]
    """LiteLLM's names for calls on this wire, as its hooks get them. The first is the one for clients' requests."""
    paths: tuple[str, ...]
    """Paths of LiteLLM that lead to it; `{model}` is the name of the model."""
    adapter: Callable[[NewResponse], Adapter]
    """Returns a new adapter, for one response."""
    rules: ResponseRules
    """Those of its adapters, for readers without LiteLLM: some adapters import it."""
    request: RequestShape
    recognises: Callable[[Json], bool]
    """Tells whether a JSON object is a full response, or a unit of a stream, on this wire."""
    log: LogShape
    logged_fields: tuple[str, ...] = ()
    """Fields of a request that LiteLLM logs: the first one found. Without them it logs the user's last text."""

    question: Callable[[str, int], JsonObject]
    """Returns the body of the least request that asks a text, for a response of so many tokens; the model and the
    mode are not in it."""
    response_texts: frozenset[str]
    """Members of a response with the text, reasoning and arguments of the model."""
    stream_paths: tuple[str, ...] = ()
    """Paths for streams, where paths name the model and the mode. Without them the body has `model` and `stream`."""
    stream_query: str = ""
    """Query of a request for a stream."""
    streams_events: bool = True
    """A stream is server-sent events, or objects of LiteLLM: the provider's errors in it are found and reworded. The
    adapter of another wire sees to them by itself."""
    units: Callable[[str], Iterator[Json]] = event_payloads
    """Yields the JSON objects in the text of a recorded stream; none if the text is not one."""

    makes_mock_streams: bool = False
    """LiteLLM makes a response of this wire from `mock_response`, streamed or full. If not, it makes one from a
    `ModifyResponseException`."""
    provider_reply: Callable[[str, bool], str] | None = None
    """Returns a provider's HTTP body with a text, as a stream or full, where LiteLLM asks the provider in spite of
    `mock_response`."""
    streaming_call_types: tuple[str, ...] = ()
    """Those of `call_types` that mean a stream, where the kind of call decides."""
    next_turn: NextTurn | None = None
    """The request after a response with tool calls; None on a wire without any."""
    takes_flags: Callable[[Json], bool] = lambda _: False
    """Tells whether a request asks for verdicts on tool calls; its adapter is then a `FlaggingAdapter`."""
    tokens: Callable[[Json], tuple[int, int] | None] = lambda _: None
    """Returns the prompt's and the response's tokens of a full response, where LiteLLM cannot read them."""


def arguments_of(call: Json) -> object:
    """Returns the arguments of a recorded tool call as a JSON value; as they are if they are not JSON."""
    try:
        return json.loads(call["arguments"] or "{}")
    except ValueError:
        return call["arguments"]


def text_of(blocks: Blocks, kind: str = "text") -> str:
    """Returns the texts of all blocks of a kind."""
    return "".join(block["text"] for block in blocks if block["type"] == kind)


def of_choice(blocks: Blocks, index: int) -> list[Mapping[str, Any]]:
    """Returns the blocks of one choice."""
    return [block for block in blocks if block.get("choice", 0) == index]
