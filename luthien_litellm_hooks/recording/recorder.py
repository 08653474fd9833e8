"""Records a transaction: the request, the response as it came and as it left, and the outcome."""

import asyncio
import copy
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from luthien_litellm_hooks.telemetry import NoOpObservabilityContext, ObservabilityContext
from luthien_litellm_hooks.wire.assembler import RAW_CHUNKS_KEPT, BlockAssembler
from luthien_litellm_hooks.wire.events import (
    DELTAS,
    BlockMarker,
    Chunk,
    ContentStreamBlock,
    Opaque,
    ProviderFailure,
    ReasoningStreamBlock,
    StreamBlock,
    StreamEvent,
    ToolCallStreamBlock,
    text_of,
)

MAX_ANSWER_CHARACTERS = 1_000_000
"""Bound of each side of a response in the record; the rest is only counted."""
_AT_ONCE = 500
"""Events that are assembled before other tasks get a turn."""

Outcome = Literal["complete", "blocked", "policy_error", "provider_error", "timeout", "client_disconnected"]


class TransactionRecorder(ABC):
    """Records a transaction at both boundaries: as it came and as it left. No method raises."""

    @abstractmethod
    async def record_request(self, original: Mapping[str, Any], final: Mapping[str, Any]) -> None:
        """Records the request as the client sent it, and as the provider gets it."""

    @abstractmethod
    def add_ingress_chunk(self, chunk: Chunk) -> None:
        """Records a chunk from the provider; a full response is one chunk."""

    @abstractmethod
    def add_egress_chunk(self, chunk: Chunk) -> None:
        """Records a chunk that leaves for the client."""

    @abstractmethod
    async def finalize_streaming(self, outcome: Outcome) -> None:
        """Ends the record of a streamed response. The first ending counts; nothing is recorded after it."""

    @abstractmethod
    async def finalize_non_streaming(self, outcome: Outcome) -> None:
        """Ends the record of a full response, or of a request without a response. The first ending counts."""


class NoOpTransactionRecorder(TransactionRecorder):
    """Records nothing."""

    async def record_request(self, original: Mapping[str, Any], final: Mapping[str, Any]) -> None:
        return None

    def add_ingress_chunk(self, chunk: Chunk) -> None:
        return None

    def add_egress_chunk(self, chunk: Chunk) -> None:
        return None

    async def finalize_streaming(self, outcome: Outcome) -> None:
        return None

    async def finalize_non_streaming(self, outcome: Outcome) -> None:
        return None


class ResponseRecord:
    """One side of a response, assembled from its chunks."""

    def __init__(self, max_characters: int = MAX_ANSWER_CHARACTERS) -> None:
        self.chunks = 0
        self._unjudged = 0
        self._new: deque[StreamEvent] = deque()
        self._has_failed = self._is_truncated = False
        self._left = max_characters
        self._assembler = BlockAssembler(marks_blocks=True)  # nothing is judged, so no block has to end early

    @property
    def is_truncated(self) -> bool:
        """The response is larger than its record."""
        self._read_new()
        return self._is_truncated

    @property
    def has_failed(self) -> bool:
        """The provider sent an event of failure."""
        return self._has_failed or any(isinstance(event, ProviderFailure) for event in self._new)

    @property
    def finish_reason(self) -> str | None:
        """Reason of the finish, in the words of the wire."""
        self._read_new()
        return self._assembler.state.finish_reason

    @property
    def unjudged(self) -> int:
        """Number of events with content outside of blocks: a picture, a field of unknown content."""
        self._read_new()
        return self._unjudged

    def content(self) -> list[dict[str, Any]]:
        """Returns the blocks, in the order in which they began."""
        self._read_new()
        return [_as_json(block) for block in self._assembler.state.blocks]

    def add(self, chunk: Chunk) -> None:
        """Adds a chunk. Its events are assembled later, with those of others: between two chunks a process does so much
        else that assembling each by itself takes several times as long."""
        self.chunks += 1
        self._new.extend(chunk.events)
        if len(self._new) >= RAW_CHUNKS_KEPT:  # a stage holds as many anyway
            self._read(_AT_ONCE)

    async def catch_up(self) -> None:
        """Assembles the waiting events, and gives other tasks their turns meanwhile."""
        while len(self._new) > _AT_ONCE:
            self._read(_AT_ONCE)
            await asyncio.sleep(0)

    def _read_new(self) -> None:
        self._read(len(self._new))

    def _read(self, count: int) -> None:
        new, feed = self._new, self._assembler.feed
        for _ in range(min(count, len(new))):
            event = new.popleft()
            self._left -= len(text_of(event))
            if not isinstance(event, DELTAS):
                self._note(event)
            if self._left >= 0:
                feed(event)
            else:
                self._is_truncated = True

    def _note(self, event: StreamEvent) -> None:
        self._has_failed = self._has_failed or isinstance(event, ProviderFailure)
        self._unjudged += isinstance(event, Opaque) or (
            isinstance(event, BlockMarker) and event.kind in ("other", "unknown")
        )


_BROKEN_OFF = (None, "client_disconnected", "provider_error")


def _begins_with(came: list[dict[str, Any]], left: list[dict[str, Any]]) -> bool:
    if len(left) > len(came):
        return False
    return all(_is_part(whole, part) for whole, part in zip(came, left, strict=False))


def _is_part(whole: dict[str, Any], part: dict[str, Any]) -> bool:
    content = "arguments" if part["type"] == "tool_call" else "text"
    return whole | {content: ""} == part | {content: ""} and whole[content].startswith(part[content])


def _as_json(block: StreamBlock) -> dict[str, Any]:
    choice = {"choice": block.choice} if block.choice else {}
    if isinstance(block, ToolCallStreamBlock):
        call = {"type": "tool_call", "id": block.id, "name": block.name, "arguments": block.arguments, **choice}
        form = {} if block.form == "function" else {"form": block.form}
        return {**call, **form, **({"extra": dict(block.extra)} if block.extra else {})}
    if isinstance(block, ReasoningStreamBlock):
        return {"type": "reasoning", "text": block.content, **choice}
    return {"type": "text", "text": block.content if isinstance(block, ContentStreamBlock) else "", **choice}


class DefaultTransactionRecorder(TransactionRecorder):
    """Holds both sides of a transaction in memory until it is written, and publishes an event at each boundary.

    The events are `transaction.request_recorded`, then `transaction.streaming_response_recorded` or
    `transaction.non_streaming_response_recorded`. They hold texts only if `show` is given: it returns the
    public form of a request's body. `describe` returns the other fields of each event. Unless it `keeps_original`, no
    event and no record has a changed request as it came.
    """

    def __init__(
        self,
        observability: ObservabilityContext | None = None,
        *,
        show: Callable[[Mapping[str, Any]], object] | None = None,
        keeps_original: bool = True,
        describe: Callable[[], Mapping[str, object]] = dict,
    ) -> None:
        self._observability = observability or NoOpObservabilityContext("")
        self._show = show
        self._keeps_original = keeps_original
        self.describe = describe
        self._came_at = self._left_at = 0.0  # of the last chunk
        self._began = time.monotonic()
        self.began_at = datetime.now(UTC)
        self._ended = asyncio.Event()
        self.original_request: Mapping[str, Any] = {}
        self.final_request: Mapping[str, Any] = {}
        self.ingress = ResponseRecord()
        self.egress = ResponseRecord()
        self.outcome: Outcome | None = None
        """Outcome of the transaction; None until it ends."""
        self._end_time: float | None = None
        self.failure: tuple[str, str] | None = None
        """Failure of the provider: a kind, and a text that no client gets."""

    async def record_request(self, original: Mapping[str, Any], final: Mapping[str, Any]) -> None:
        self.original_request = original
        # LiteLLM may still change the body in place.
        self.final_request = {
            key: original[key] if key in original and original[key] == value else copy.deepcopy(value)
            for key, value in final.items()
        }
        data = self._request_fields(original, final) if self._observability.has_listeners else {}
        await self._observability.emit_event("transaction.request_recorded", data)

    def _request_fields(self, original: Mapping[str, Any], final: Mapping[str, Any]) -> dict[str, object]:
        data: dict[str, object] = {"original_model": original.get("model"), "final_model": final.get("model")}
        if self._show is not None:
            data |= {
                "original_request": None if self.is_original_hidden else self._show(original),
                "final_request": self._show(final),
            }
        return {**self.describe(), **data}

    def add_ingress_chunk(self, chunk: Chunk) -> None:
        if self.outcome is None:
            self.ingress.add(chunk)
            self._came_at = time.monotonic()

    def add_egress_chunk(self, chunk: Chunk) -> None:
        if self.outcome is None:
            self.egress.add(chunk)
            self._left_at = time.monotonic()

    async def finalize_streaming(self, outcome: Outcome) -> None:
        if await self._end(outcome):
            counts = {"ingress_chunks": self.ingress.chunks, "egress_chunks": self.egress.chunks}
            await self._end_with("transaction.streaming_response_recorded", counts)

    async def finalize_non_streaming(self, outcome: Outcome) -> None:
        if await self._end(outcome):
            reasons = {
                "original_finish_reason": self.ingress.finish_reason,
                "final_finish_reason": self.egress.finish_reason,
            }
            await self._end_with("transaction.non_streaming_response_recorded", reasons)

    def note_failure(self, kind: str, text: str) -> None:
        """Records the provider's first failure."""
        self.failure = self.failure or (kind, text)

    @property
    def has_ended(self) -> bool:
        """The transaction is over."""
        return self._ended.is_set()

    async def wait_for_end(self) -> None:
        """Returns when the transaction is over."""
        await self._ended.wait()

    @property
    def is_request_changed(self) -> bool:
        """The provider got another request than the client sent."""
        return self.original_request != self.final_request

    @property
    def is_original_hidden(self) -> bool:
        """The request as it came must not be kept."""
        return self.is_request_changed and not self._keeps_original

    @property
    def milliseconds(self) -> float:
        """Time from the request's arrival to the end, or until now."""
        return ((self._end_time or time.monotonic()) - self._began) * 1000

    @property
    def is_answer_changed(self) -> bool:
        """The client got other content than the provider sent. A truncated copy of an interrupted response does not
        count as changed."""
        came, left = self.ingress.content(), self.egress.content()
        if self.outcome in _BROKEN_OFF:
            return not _begins_with(came, left)
        return (came, self.ingress.finish_reason) != (left, self.egress.finish_reason)

    @property
    def is_delivered_as_it_came(self) -> bool:
        """The client surely got all of the provider's response, and nothing else."""
        if self.ingress.is_truncated or self.egress.is_truncated:
            return False
        came, left = self.ingress, self.egress
        ended = (came.finish_reason, came.unjudged) == (left.finish_reason, left.unjudged)
        return ended and came.content() == left.content()

    async def _end(self, outcome: Outcome) -> bool:
        if self.outcome is not None:
            return False
        self.outcome = "provider_error" if self._has_provider_failed(outcome) else outcome
        self._end_time = time.monotonic()
        try:
            await self.ingress.catch_up()
            await self.egress.catch_up()
        finally:
            self._ended.set()
        return True

    def _has_provider_failed(self, outcome: Outcome) -> bool:
        """Holds if the provider sent a failure: clients leave as soon as they get it, even before the stream ends."""
        if outcome == "client_disconnected":
            return self.egress.has_failed
        return outcome == "complete" and self.ingress.has_failed

    async def _end_with(self, event: str, data: Mapping[str, object]) -> None:
        self._observability.record_metric("response.chunks.ingress", self.ingress.chunks)
        self._observability.record_metric("response.chunks.egress", self.egress.chunks)
        fields = self._response_fields(data) if self._observability.has_listeners else {}
        await self._observability.emit_event(event, fields)
        has_both = self._came_at > 0 and self._left_at > 0
        self._observability.end(
            self.outcome or "",
            attributes={"gen_ai.response.finish_reasons": _listed(self.egress.finish_reason)},
            added_latency_s=self._left_at - self._came_at if has_both else None,
        )

    def _response_fields(self, data: Mapping[str, object]) -> dict[str, object]:
        bodies = (
            {"original_response": self.ingress.content(), "final_response": self.egress.content()}
            if self._show is not None
            else {}
        )
        return {**self.describe(), **data, "outcome": self.outcome, **bodies}


def _listed(reason: str | None) -> list[str] | None:
    return None if reason is None else [reason]
