"""What is kept of a transaction: what was asked, what came, what was delivered, and how it ended."""

import asyncio
import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal

from luthien_litellm_hooks.assembler import RAW_CHUNKS_KEPT, BlockAssembler
from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import (
    Chunk,
    ContentStreamBlock,
    Failure,
    Frame,
    Opaque,
    ReasoningStreamBlock,
    StreamBlock,
    StreamEvent,
    ToolCallStreamBlock,
    text_of,
)
from luthien_litellm_hooks.telemetry import NoOpObservabilityContext, ObservabilityContext

MAX_ANSWER_CHARACTERS = 1_000_000
"""What is kept of an answer, of each side; what comes after that is only counted."""

Outcome = Literal["complete", "blocked", "policy_error", "provider_error", "timeout", "client_disconnected"]


class TransactionRecorder(ABC):
    """Notes a transaction at both boundaries: as it came and as it left. No method raises."""

    @abstractmethod
    async def record_request(self, original: Mapping[str, Any], final: Mapping[str, Any]) -> None:
        """The request as the client sent it, and as the provider gets it."""

    @abstractmethod
    def add_ingress_chunk(self, chunk: Chunk) -> None:
        """A chunk came from the provider; a full answer is one."""

    @abstractmethod
    def add_egress_chunk(self, chunk: Chunk) -> None:
        """A chunk left for the client."""

    @abstractmethod
    async def finalize_streaming(self, outcome: Outcome) -> None:
        """A streamed answer is over, however it ended. The first ending counts; nothing is kept after it."""

    @abstractmethod
    async def finalize_non_streaming(self, outcome: Outcome) -> None:
        """A full answer, or a request without one, is over. The first ending counts."""


class NoOpTransactionRecorder(TransactionRecorder):
    """Keeps nothing."""

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


class AnswerRecord:
    """One side of an answer, put together from what passes."""

    def __init__(self, max_characters: int = MAX_ANSWER_CHARACTERS) -> None:
        self.chunks = 0
        self._unjudged = 0
        self._new: list[Chunk] = []
        self._has_failed = self._is_truncated = False
        self._left = max_characters
        self._assembler = BlockAssembler(is_framed=True)  # nothing is judged, so no block has to end early

    @property
    def is_truncated(self) -> bool:
        """Whether there is more than what is kept."""
        self._read_new()
        return self._is_truncated

    @property
    def has_failed(self) -> bool:
        """Whether the provider said so."""
        self._read_new()
        return self._has_failed

    @property
    def finish_reason(self) -> str | None:
        """Why the answer ended, in the words of its wire."""
        self._read_new()
        return self._assembler.state.finish_reason

    @property
    def unjudged(self) -> int:
        """How many pieces brought something that stands in no block: a picture, a field of unknown content."""
        self._read_new()
        return self._unjudged

    def content(self) -> list[dict[str, Any]]:
        """The blocks, in the order in which they began."""
        self._read_new()
        return [_shown(block) for block in self._assembler.state.blocks]

    def add(self, chunk: Chunk) -> None:
        """Notes a chunk. What it says is read with that of others: between two chunks a process does so much else
        that reading each by itself takes several times as long."""
        self.chunks += 1
        self._new.append(chunk)
        if len(self._new) == RAW_CHUNKS_KEPT:  # which are kept anyway
            self._read_new()

    def _read_new(self) -> None:
        new, self._new = self._new, []
        for chunk in new:
            for event in chunk.events:
                self._add(event)

    def _add(self, event: StreamEvent) -> None:
        if isinstance(event, Failure):
            self._has_failed = True
        if isinstance(event, Opaque) or (isinstance(event, Frame) and event.kind in ("other", "unknown")):
            self._unjudged += 1
        self._left -= len(text_of(event))
        if self._left < 0:
            self._is_truncated = True
            return
        try:
            self._assembler.feed(event)
        except WireError:  # which ends the answer; nothing follows that could be noted
            self._is_truncated = True


_BROKEN_OFF = (None, "client_disconnected", "provider_error")


def _begins_with(came: list[dict[str, Any]], left: list[dict[str, Any]]) -> bool:
    if len(left) > len(came):
        return False
    return all(_is_part(whole, part) for whole, part in zip(came, left, strict=False))


def _is_part(whole: dict[str, Any], part: dict[str, Any]) -> bool:
    said = "arguments" if part["type"] == "tool_call" else "text"
    return whole | {said: ""} == part | {said: ""} and whole[said].startswith(part[said])


def _shown(block: StreamBlock) -> dict[str, Any]:
    choice = {"choice": block.choice} if block.choice else {}
    if isinstance(block, ToolCallStreamBlock):
        return {"type": "tool_call", "id": block.id, "name": block.name, "arguments": block.arguments, **choice}
    if isinstance(block, ReasoningStreamBlock):
        return {"type": "reasoning", "text": block.content, **choice}
    return {"type": "text", "text": block.content if isinstance(block, ContentStreamBlock) else "", **choice}


class DefaultTransactionRecorder(TransactionRecorder):
    """Keeps both sides of a transaction in memory until it is written, and publishes an event at each
    boundary: `transaction.request_recorded`, then `transaction.streaming_response_recorded` or
    `transaction.non_streaming_response_recorded`. The events hold texts only if `show` is given, which
    makes of a request's body what may be shown of it. `describe` gives what else each of them tells.
    """

    def __init__(
        self,
        observability: ObservabilityContext | None = None,
        *,
        show: Callable[[Mapping[str, Any]], object] | None = None,
        describe: Callable[[], Mapping[str, object]] = dict,
    ) -> None:
        self._observability = observability or NoOpObservabilityContext("")
        self._show = show
        self._describe = describe
        self._came_at = self._left_at = 0.0  # when the last chunk did
        self._began = time.monotonic()
        self._ended = asyncio.Event()
        self.original_request: Mapping[str, Any] = {}
        self.final_request: Mapping[str, Any] = {}
        self.ingress = AnswerRecord()
        self.egress = AnswerRecord()
        self.outcome: Outcome | None = None
        """How the transaction ended; None while it has not."""
        self._end_time: float | None = None
        self.failure: tuple[str, str] | None = None
        """How the provider failed: a kind, and the words that no client gets."""

    async def record_request(self, original: Mapping[str, Any], final: Mapping[str, Any]) -> None:
        self.original_request = original
        # LiteLLM may still change in place what it is given.
        self.final_request = {
            key: original[key] if key in original and original[key] == value else copy.deepcopy(value)
            for key, value in final.items()
        }
        data: dict[str, object] = {"original_model": original.get("model"), "final_model": final.get("model")}
        if self._show is not None:
            data |= {"original_request": self._show(original), "final_request": self._show(final)}
        await self._observability.emit_event("transaction.request_recorded", {**self._describe(), **data})

    def add_ingress_chunk(self, chunk: Chunk) -> None:
        if self.outcome is None:
            self.ingress.add(chunk)
            self._came_at = time.monotonic()

    def add_egress_chunk(self, chunk: Chunk) -> None:
        if self.outcome is None:
            self.egress.add(chunk)
            self._left_at = time.monotonic()

    async def finalize_streaming(self, outcome: Outcome) -> None:
        if self._end(outcome):
            counts = {"ingress_chunks": self.ingress.chunks, "egress_chunks": self.egress.chunks}
            await self._emit("transaction.streaming_response_recorded", counts)

    async def finalize_non_streaming(self, outcome: Outcome) -> None:
        if self._end(outcome):
            reasons = {
                "original_finish_reason": self.ingress.finish_reason,
                "final_finish_reason": self.egress.finish_reason,
            }
            await self._emit("transaction.non_streaming_response_recorded", reasons)

    def note_failure(self, kind: str, words: str) -> None:
        """Notes how the provider failed; of several failures the first."""
        self.failure = self.failure or (kind, words)

    async def wait_for_end(self) -> None:
        """Returns when the transaction is over."""
        await self._ended.wait()

    @property
    def milliseconds(self) -> float:
        """From the request's arrival to the end, or until now."""
        return ((self._end_time or time.monotonic()) - self._began) * 1000

    @property
    def is_answer_changed(self) -> bool:
        """Whether the client got something else than the provider sent. Of an answer that was broken
        off, or is not over, less is nothing else."""
        came, left = self.ingress.content(), self.egress.content()
        if self.outcome in _BROKEN_OFF:
            return not _begins_with(came, left)
        return (came, self.ingress.finish_reason) != (left, self.egress.finish_reason)

    @property
    def is_delivered_as_it_came(self) -> bool:
        """Whether the client surely got all of the provider's answer, and nothing else."""
        if self.ingress.is_truncated or self.egress.is_truncated:
            return False
        came, left = self.ingress, self.egress
        ended = (came.finish_reason, came.unjudged) == (left.finish_reason, left.unjudged)
        return ended and came.content() == left.content()

    def _end(self, outcome: Outcome) -> bool:
        if self.outcome is not None:
            return False
        self.outcome = "provider_error" if self._has_provider_failed(outcome) else outcome
        self._end_time = time.monotonic()
        self._ended.set()
        return True

    def _has_provider_failed(self, outcome: Outcome) -> bool:
        """Clients leave as soon as they are told so, which may be before the stream has ended."""
        if outcome == "client_disconnected":
            return self.egress.has_failed
        return outcome == "complete" and self.ingress.has_failed

    async def _emit(self, event: str, data: Mapping[str, object]) -> None:
        bodies = (
            {"original_response": self.ingress.content(), "final_response": self.egress.content()}
            if self._show is not None
            else {}
        )
        self._observability.record_metric("response.chunks.ingress", self.ingress.chunks)
        self._observability.record_metric("response.chunks.egress", self.egress.chunks)
        said = {**self._describe(), **data, "outcome": self.outcome, **bodies}
        await self._observability.emit_event(event, said)
        has_both = self._came_at > 0 and self._left_at > 0
        self._observability.end(
            self.outcome or "",
            attributes={"gen_ai.response.finish_reasons": _listed(self.egress.finish_reason)},
            added_latency_s=self._left_at - self._came_at if has_both else None,
        )


def _listed(reason: str | None) -> list[str] | None:
    return None if reason is None else [reason]
