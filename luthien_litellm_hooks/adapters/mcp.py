"""Tool calls that LiteLLM makes on MCP servers for a client: the call, and what the tool gave back.

Neither is an answer of a model, but both are judged like parts of one: the call by the tool-call
hooks before it is made, the texts of its result by the content hooks after.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from mcp.types import TextContent

from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.events import Chunk, Finish, Frame, StreamEvent, TextDelta, ToolCallDelta, from_wire


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


class McpResultAdapter:
    """A result is a list of contents; each text of it is a block, the others pass."""

    is_framed = True
    has_text_after_calls = False
    stop_reason = "result"
    tool_reasons = ("call",)
    cut_reasons = ()

    def decode(self, raw: object) -> Sequence[Chunk]:
        raise WireError("an MCP result is not streamed")

    def flush(self) -> Sequence[Chunk]:
        return ()

    def encode(self, events: Sequence[StreamEvent], of: Chunk | None) -> Iterable[object]:
        raise WireError("an MCP result is not streamed")

    def split(self, response: object) -> Chunk:
        contents = cast(list[object], response)
        events = [event for index, content in enumerate(contents) for event in _read_content(content, index)]
        return Chunk.from_wire(response, (*events, from_wire(Finish(reason="result"), response)))

    def join(self, response: object, events: Sequence[StreamEvent]) -> list[object]:
        contents: dict[int, object] = {}
        for event in events:
            if isinstance(event, Frame) and event.kind == "other" and event.role == "begin":
                contents[event.index] = event.part
            elif isinstance(event, TextDelta):
                contents[event.index or 0] = _write_text(contents.get(event.index or 0), event)
        return [contents[index] for index in sorted(contents)]


def _read_content(content: object, index: int) -> Iterator[StreamEvent]:
    kind = "text" if isinstance(content, TextContent) else "other"
    yield from_wire(Frame(role="begin", kind=kind, index=index), content)
    if isinstance(content, TextContent) and content.text:
        yield from_wire(TextDelta(index=index, text=content.text), content)
    yield from_wire(Frame(role="end", kind=kind, index=index), content)


def _write_text(so_far: object, event: TextDelta) -> TextContent:
    if isinstance(event.part, TextContent) and so_far is None:
        return event.part
    before = so_far.text if isinstance(so_far, TextContent) else ""
    return TextContent(type="text", text=before + event.text)
