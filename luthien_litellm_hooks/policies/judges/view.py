"""View of a judge: the parts of the conversation that it is shown beside the block that it judges."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Annotated, cast

from pydantic import Field

from luthien_litellm_hooks.policy.base import PolicyConfig
from luthien_litellm_hooks.policy.context import PolicyContext, StreamingResponseContext
from luthien_litellm_hooks.policy.json_strings import as_json
from luthien_litellm_hooks.policy.trajectory import Said, Step, Trajectory
from luthien_litellm_hooks.wire.events import (
    ContentStreamBlock,
    ReasoningStreamBlock,
    StreamBlock,
    ToolCall,
    ToolCallStreamBlock,
)

_CHANNELS = ("task", "history", "results", "reasoning", "text")
_SEEN = "judges.seen"
_LEAST = 80
"""Fewest characters of an entry that are worth showing."""
_MOST_OF_NAME = 100

Characters = Annotated[int, Field(ge=0, le=50_000)]


class View(PolicyConfig):
    """Parts of the conversation for the judge, each with its most characters; 0 leaves a part out.

    The newest entries come first when something must be cut, and a mark counts the rest. Only `task` is out of reach
    for a writer of files and web pages: what he wrote comes back in `results`, and may be repeated in the others.
    """

    task: Characters = 4000
    """Words of the user, and the machine of the agent as Claude Code describes it in its auto mode."""
    history: Characters = 4000
    """Earlier calls of the agent, also those of the same response."""
    results: Characters = 0
    """Results of these calls."""
    reasoning: Characters = 0
    """Reasoning of the agent."""
    text: Characters = 0
    """Texts of the agent."""

    def context(self, content: str | ToolCall, ctx: PolicyContext) -> dict[str, object]:
        """Returns the member `context` for the document about a block; nothing if there is none."""
        seen = cast(_Seen | None, ctx.scratchpad.get(_SEEN))
        if seen is None:  # the same for all blocks of the response
            seen = ctx.scratchpad[_SEEN] = _of_trajectory(ctx.final_request.trajectory)
        here = _of_response(seen, content, ctx)
        context: dict[str, object] = {}
        for channel in _CHANNELS:
            if entries := _fitted([*seen.channels[channel], *here.channels[channel]], getattr(self, channel)):
                context[channel] = entries
        surroundings = as_json(ctx.final_request.surroundings)
        if 2 < len(surroundings) <= self.task:
            context["surroundings"] = ctx.final_request.surroundings
        return {"context": context} if context else {}


@dataclass(frozen=True, slots=True)
class _Entry:
    """Text of a channel, under the `member` of an entry with other fields, or alone."""

    text: str
    member: str = ""
    about: Mapping[str, object] = field(default_factory=dict[str, object])

    @property
    def size(self) -> int:
        return len(self.text) + sum(len(str(value)) for value in self.about.values())

    def cut_to(self, characters: int) -> object:
        """Returns the entry for the document, with the middle of its text left out if it is longer."""
        text, room = self.text, max(characters - (self.size - len(self.text)), _LEAST)
        if len(text) > room:
            half = room // 2
            text = f"{text[:half]} [{len(text) - 2 * half} characters left out] {text[-half:]}"
        return {**self.about, self.member: text} if self.member else text


@dataclass(frozen=True, slots=True)
class _Seen:
    """Entries of the conversation by channel, in its order, and the number of its steps."""

    channels: Mapping[str, list[_Entry]] = field(default_factory=lambda: {name: [] for name in _CHANNELS})
    steps: int = 0


def _of_trajectory(trajectory: Trajectory) -> _Seen:
    seen, steps = _Seen(), 0
    for entry in trajectory:
        if isinstance(entry, Step):
            steps += 1
            _note(seen, entry, steps)
        elif entry.author != "client":
            seen.channels[_channel_of(entry)].append(_Entry(entry.text))
    return _Seen(seen.channels, steps)


def _channel_of(said: Said) -> str:
    if said.author == "user":
        return "task"
    return "reasoning" if said.is_reasoning else "text"


def _note(seen: _Seen, step: Step, number: int) -> None:
    about = {"step": number, "name": step.call.name[:_MOST_OF_NAME]}
    if step.call.name:  # otherwise the request has only the result
        seen.channels["history"].append(_Entry(step.call.arguments, "arguments", about))
    if step.result is not None:
        failed = {"is_error": True} if step.is_error else {}
        seen.channels["results"].append(_Entry(step.result, "text", {**about, **failed}))


def _of_response(seen: _Seen, content: str | ToolCall, ctx: PolicyContext) -> _Seen:
    """Returns the entries of the blocks before the judged one in its response."""
    here, numbers = _Seen(), count(seen.steps + 1)
    for block in _before(content, ctx):
        if isinstance(block, ToolCallStreamBlock):
            _note(here, Step(block.tool_call), next(numbers))
        elif isinstance(block, ReasoningStreamBlock):
            here.channels["reasoning"].append(_Entry(block.content))
        elif isinstance(block, ContentStreamBlock):
            channel = "results" if block.is_quoted else "text"
            here.channels[channel].append(_Entry(block.content))
    return here


def _before(content: str | ToolCall, ctx: PolicyContext) -> Iterator[StreamBlock]:
    """Yields the complete blocks of the response that began before the first one with `content`, in the same choice."""
    blocks = ctx.ingress_state.blocks if isinstance(ctx, StreamingResponseContext) else []
    judged = next((block for block in blocks if _is_of(block, content)), None)
    if judged is not None:
        yield from (
            block
            for block in blocks
            if block.place < judged.place and block.choice == judged.choice and block.is_complete
        )


def _is_of(block: StreamBlock, content: str | ToolCall) -> bool:
    if isinstance(content, ToolCall):
        is_same = isinstance(block, ToolCallStreamBlock) and (block.id, block.name) == (content.id, content.name)
        return is_same and cast(ToolCallStreamBlock, block).arguments == content.arguments
    return isinstance(block, ContentStreamBlock | ReasoningStreamBlock) and block.content == content


def _fitted(entries: Sequence[_Entry], limit: int) -> list[object]:
    """Returns the newest entries within `limit` characters, in their order. One that is too long gets half of the room,
    so that it hides no older one, and the oldest gets all of it. The first of the list counts the entries left
    out."""
    kept: list[object] = []
    left = limit
    for place in range(len(entries) - 1, -1, -1):
        entry = entries[place]
        room = left if place == 0 or entry.size <= left else left // 2
        if room < min(entry.size, _LEAST):
            if limit:
                kept.append(f"[{place + 1} older left out]")
            break
        kept.append(entry.cut_to(room))
        left -= min(entry.size, room)
    return kept[::-1]
