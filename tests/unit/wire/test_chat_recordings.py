"""Recorded chat streams of many providers: what we read in them is what the official OpenAI client reads."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from litellm.types.utils import ModelResponseStream
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from luthien_litellm_hooks import (
    ContentStreamBlock,
    Policy,
    ReasoningStreamBlock,
    StreamBlock,
    ToolCallStreamBlock,
)
from luthien_litellm_hooks.policies.all_caps import AllCaps, AllCapsConfig
from luthien_litellm_hooks.policies.noop import NoOp
from luthien_litellm_hooks.wire.assembler import BlockAssembler
from luthien_litellm_hooks.wire.events import Finish
from tests.support.chat import adapter, deliver
from tests.support.recordings import STREAMS
from tests.support.withholding import Holding

RECORDINGS = sorted((STREAMS / "chat").glob("*.sse"))

pytestmark = [
    pytest.mark.skipif(
        not RECORDINGS, reason=f"no recorded chat streams in {STREAMS}; LUTHIEN_TEST_STREAMS names them"
    ),
    # Mistral's lists of parts are not what LiteLLM declares; they are the point of its recording.
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings"),
]


# What the provider sent


def payloads(recording: Path) -> Iterator[dict[str, Any]]:
    """The JSON of each chunk of a recording."""
    for line in recording.read_text(encoding="utf-8").splitlines():
        if line.startswith("data:") and line != "data: [DONE]":
            payload = json.loads(line.removeprefix("data:"))
            if "choices" in payload:
                yield payload


def chunks_of(recording: Path) -> list[ModelResponseStream]:
    return [ModelResponseStream(**payload) for payload in payloads(recording)]


# What a reader makes of it


@dataclass(frozen=True)
class Reading:
    """One choice of an answer."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str | None, str, str], ...] = ()
    finish_reason: str | None = None


def read_by_openai(stream: Iterable[dict[str, Any]]) -> dict[int, Reading]:
    """What the official client makes of chunks."""
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    heads: set[tuple[int, int, str, str]] = set()
    for payload in stream:
        choices = [{**choice, "delta": _plain(choice, heads)} for choice in payload["choices"]]
        state.handle_chunk(ChatCompletionChunk.construct(**{**payload, "choices": choices}))
    return {choice.index: _read(choice) for choice in state.current_completion_snapshot.choices}


def _plain(choice: dict[str, Any], heads: set[tuple[int, int, str, str]]) -> dict[str, Any]:
    """A choice's delta in the client's own words, as far as providers have words of their own."""
    delta = choice["delta"]
    text, reasoning = delta.get("content") or "", delta.get("reasoning") or delta.get("reasoning_content") or ""
    if not reasoning:  # OpenRouter's, of some models
        reasoning = "".join(part.get("text") or "" for part in delta.get("reasoning_details") or ())
    if isinstance(text, list):  # Mistral's
        parts = text
        text = "".join(part["text"] for part in parts if part["type"] == "text")
        reasoning = "".join(inner["text"] for part in parts if part["type"] == "thinking" for inner in part["thinking"])
    tools = [_without_repeated_head(tool, choice["index"], heads) for tool in delta.get("tool_calls") or ()]
    return {"content": text, "reasoning": reasoning, **({"tool_calls": tools} if tools else {})}


def _without_repeated_head(tool: dict[str, Any], choice: int, heads: set[tuple[int, int, str, str]]) -> dict[str, Any]:
    """The official client would join a repeated id and name to what it has."""
    head = (choice, tool["index"], tool.get("id"), tool["function"].get("name"))
    if head not in heads:
        heads.add(head)
        return tool
    return {"index": tool["index"], "function": {"arguments": tool["function"].get("arguments")}}


def _read(choice: Any) -> Reading:
    message = choice.message
    calls = [(tool.id, tool.function.name, tool.function.arguments or "") for tool in message.tool_calls or ()]
    return Reading(message.content or "", message.reasoning or "", tuple(calls), choice.finish_reason)


@cache
def what_came(recording: Path) -> dict[int, Reading]:
    return read_by_openai(payloads(recording))


def read_by_client(delivered: Iterable[ModelResponseStream]) -> dict[int, Reading]:
    """What the official client makes of chunks once LiteLLM has written them."""
    return read_by_openai(json.loads(chunk.model_dump_json(exclude_none=True)) for chunk in delivered)


def read_by_us(chunks: Iterable[ModelResponseStream]) -> dict[int, Reading]:
    """What the adapter and the assembler make of chunks."""
    wire, assembler = adapter(), BlockAssembler()
    finishes: dict[int, str] = {}
    for raw in chunks:
        for chunk in wire.decode(raw):
            assembler.begin(chunk)
            for event in chunk.events:
                assembler.feed(event)
                if isinstance(event, Finish):
                    finishes[event.choice] = event.reason
    assembler.finish()
    blocks = assembler.state.blocks
    return {
        choice: _reading([block for block in blocks if block.choice == choice], finishes.get(choice))
        for choice in {block.choice for block in blocks} | finishes.keys()
    }


def _reading(blocks: Sequence[StreamBlock], finish_reason: str | None) -> Reading:
    return Reading(
        text="".join(
            block.content for block in blocks if isinstance(block, ContentStreamBlock) and not block.is_quoted
        ),
        reasoning="".join(block.content for block in blocks if isinstance(block, ReasoningStreamBlock)),
        calls=tuple(
            (block.id, block.name, block.arguments) for block in blocks if isinstance(block, ToolCallStreamBlock)
        ),
        finish_reason=finish_reason,
    )


def usages(chunks: Iterable[ModelResponseStream]) -> list[Any]:
    return [usage for chunk in chunks if (usage := getattr(chunk, "usage", None)) is not None]


# The policies


async def deliver_unharmed(policy: Policy, chunks: Sequence[ModelResponseStream]) -> list[ModelResponseStream]:
    """What a client gets of `chunks`, which LiteLLM logs and caches: they must stay as they are."""
    before = [chunk.model_dump_json() for chunk in chunks]
    delivered = await deliver(policy, chunks)
    assert [chunk.model_dump_json() for chunk in chunks] == before
    return delivered


each_recording = pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.stem)


@each_recording
async def test_what_no_policy_touches_leaves_as_the_very_chunks(recording: Path) -> None:
    chunks = chunks_of(recording)
    delivered = await deliver_unharmed(NoOp(), chunks)
    assert [id(chunk) for chunk in delivered] == [id(chunk) for chunk in chunks]


@each_recording
def test_we_read_what_the_official_client_reads(recording: Path) -> None:
    assert read_by_us(chunks_of(recording)) == what_came(recording)


@each_recording
def test_events_let_out_one_by_one_say_the_same(recording: Path) -> None:
    chunks = chunks_of(recording)
    apart = [
        out
        for raw in chunks
        for chunk in adapter().decode(raw)
        for event in chunk.events
        for out in adapter().encode([event], chunk)
    ]
    assert read_by_client(apart) == what_came(recording)
    assert usages(apart) == usages(chunks)


@each_recording
async def test_blocks_let_out_one_by_one_say_the_same(recording: Path) -> None:
    chunks = chunks_of(recording)
    delivered = await deliver_unharmed(Holding(), chunks)
    assert read_by_us(delivered) == what_came(recording)
    assert usages(delivered) == usages(chunks)


@each_recording
async def test_all_caps_changes_the_text_alone(recording: Path) -> None:
    chunks = chunks_of(recording)
    delivered = await deliver_unharmed(AllCaps(), chunks)
    assert read_by_client(delivered) == in_capitals(what_came(recording))
    assert usages(delivered) == usages(chunks)


@each_recording
async def test_all_caps_in_arguments_keeps_the_ids_and_names_of_calls(recording: Path) -> None:
    chunks = chunks_of(recording)
    delivered = await deliver_unharmed(AllCaps(AllCapsConfig(tool_arguments=True)), chunks)
    assert without_arguments(read_by_us(delivered)) == without_arguments(in_capitals(what_came(recording)))
    assert usages(delivered) == usages(chunks)


def in_capitals(readings: dict[int, Reading]) -> dict[int, Reading]:
    """Returns what `AllCaps` makes of a response."""
    return {choice: replace(reading, text=reading.text.upper()) for choice, reading in readings.items()}


def without_arguments(readings: dict[int, Reading]) -> dict[int, Reading]:
    return {
        choice: replace(reading, calls=tuple((id, name, "") for id, name, _ in reading.calls))
        for choice, reading in readings.items()
    }


def test_the_recordings_are_worth_reading() -> None:
    readings = [reading for recording in RECORDINGS for reading in what_came(recording).values()]
    assert any(reading.reasoning for reading in readings)
    assert any(len(reading.calls) > 1 for reading in readings)
    assert any(reading.text.upper() != reading.text for reading in readings)
    assert len(readings) > len(RECORDINGS), "none has several choices"
