"""Adapters of values that policies judge like a full response: an MCP call, and a list of texts."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.wire.events import (
    BlockMarker,
    Chunk,
    Finish,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    from_wire,
)
from luthien_litellm_hooks.wire.format import ResponseRules

MCP = "mcp"
"""Name of MCP calls in records, spans and metrics. They have no wire format: no model responds to them."""
MCP_OPERATION = "execute_tool"
"""OpenTelemetry's `gen_ai.operation.name` of an MCP call."""

Texts = Sequence[str | None]


@dataclass(frozen=True, slots=True)
class McpCall:
    """Tool call that LiteLLM is about to make on an MCP server for a client.

    A `notice` replaces a call that the policy withholds.
    """

    name: str
    arguments: Mapping[str, Any]
    notice: str | None = None


class _Unstreamed:
    """The streamed half of an adapter for a value without a stream."""

    def decode(self, raw: object) -> Sequence[Chunk]:
        raise WireError(f"{type(self).__name__} has no stream")

    def flush(self) -> Sequence[Chunk]:
        return ()

    def ping(self) -> Iterable[object]:
        return ()

    def encode(self, events: Sequence[StreamEvent], of: Chunk | None) -> Iterable[object]:
        raise WireError(f"{type(self).__name__} has no stream")


class McpCallAdapter(_Unstreamed):
    """Adapter of an `McpCall`: a response with one tool call. If the policy drops it, its text is the notice."""

    rules = ResponseRules(
        marks_blocks=False,
        has_text_after_calls=False,
        stop_reason="refused",
        tool_reasons=("call",),
        cut_reasons=(),
    )

    def decode_full(self, response: object) -> Chunk:
        if not isinstance(response, McpCall):
            raise WireError(f"an MCP call is a {type(response).__name__}")
        arguments = json.dumps(response.arguments, ensure_ascii=False)
        call = from_wire(ToolCallDelta(index=0, name=response.name, arguments=arguments), response)
        return Chunk.from_wire(response, (call, from_wire(Finish(reason="call"), response)))

    def encode_full(self, response: object, events: Sequence[StreamEvent]) -> McpCall:
        original = cast(McpCall, response)
        calls = [event for event in events if isinstance(event, ToolCallDelta)]
        if len(calls) == 1 and calls[0].name == original.name:
            arguments: object = json.loads(calls[0].arguments or "{}")
            if isinstance(arguments, dict):
                return replace(original, arguments=cast(dict[str, Any], arguments))
        text = "".join(event.text for event in events if isinstance(event, TextDelta))
        return replace(original, notice=text or "This tool call was withheld.")


class TextsAdapter(_Unstreamed):
    """Adapter of a list of texts, such as those of a tool's result: each is a block.

    A withheld text becomes None. Further text of the policy is appended to the list.
    """

    rules = ResponseRules(
        marks_blocks=True,
        has_text_after_calls=False,
        stop_reason="texts",
        tool_reasons=(),
        cut_reasons=(),
    )

    def decode_full(self, response: object) -> Chunk:
        texts = cast(Texts, response)
        events = [event for index, text in enumerate(texts) if text for event in _read_text(text, index)]
        return Chunk.from_wire(response, (*events, from_wire(Finish(reason="texts"), response)))

    def encode_full(self, response: object, events: Sequence[StreamEvent]) -> list[str | None]:
        original = cast(Texts, response)
        texts: list[str | None] = [None if text else text for text in original]
        for event in events:
            if isinstance(event, TextDelta):
                index = len(original) if event.index is None else event.index
                texts += [None] * (index + 1 - len(texts))
                texts[index] = (texts[index] or "") + event.text
        return texts


def _read_text(text: str, index: int) -> Iterable[StreamEvent]:
    return (
        from_wire(BlockMarker(role="begin", kind="text", index=index), text),
        from_wire(TextDelta(index=index, text=text), text),
        from_wire(BlockMarker(role="end", kind="text", index=index), text),
    )
