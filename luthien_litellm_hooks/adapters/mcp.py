"""Tool calls that LiteLLM makes on MCP servers for a client.

A call is no answer of a model, but is judged like a part of one, by the tool-call hooks, before it is made.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import Chunk, Finish, StreamEvent, TextDelta, ToolCallDelta, from_wire


@dataclass(frozen=True, slots=True)
class McpCall:
    """A call that a client wants made. `notice` is set instead of a call that is not to be made."""

    name: str
    arguments: Mapping[str, Any]
    notice: str | None = None


class McpCallAdapter:
    """A call is an answer with one tool call in it; without it, its text is why."""

    is_framed = False
    has_text_after_calls = False
    stop_reason = "refused"
    tool_reasons = ("call",)
    cut_reasons = ()

    def decode(self, raw: object) -> Sequence[Chunk]:
        raise WireError("an MCP call is not streamed")

    def flush(self) -> Sequence[Chunk]:
        return ()

    def encode(self, events: Sequence[StreamEvent], of: Chunk | None) -> Iterable[object]:
        raise WireError("an MCP call is not streamed")

    def split(self, response: object) -> Chunk:
        if not isinstance(response, McpCall):
            raise WireError(f"an MCP call was a {type(response).__name__}")
        arguments = json.dumps(response.arguments, ensure_ascii=False)
        call = from_wire(ToolCallDelta(index=0, name=response.name, arguments=arguments), response)
        return Chunk.from_wire(response, (call, from_wire(Finish(reason="call"), response)))

    def join(self, response: object, events: Sequence[StreamEvent]) -> McpCall:
        came = cast(McpCall, response)
        calls = [event for event in events if isinstance(event, ToolCallDelta)]
        if len(calls) == 1 and calls[0].name == came.name:
            arguments: object = json.loads(calls[0].arguments or "{}")
            if isinstance(arguments, dict):
                return replace(came, arguments=cast(dict[str, Any], arguments))
        text = "".join(event.text for event in events if isinstance(event, TextDelta))
        return replace(came, notice=text or "This tool call was withheld.")
