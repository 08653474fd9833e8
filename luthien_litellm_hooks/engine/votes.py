"""Votes of several policies on one block of a response. Pure: no clock, no logger, nothing awaited."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from luthien_litellm_hooks.policy.notices import is_notice
from luthien_litellm_hooks.recording.decision import SEVERITY, PolicyAction
from luthien_litellm_hooks.wire.events import (
    Chunk,
    ContentStreamBlock,
    Quote,
    ReasoningDelta,
    ReasoningStreamBlock,
    StreamBlock,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    ToolCallStreamBlock,
)


@dataclass(slots=True, eq=False)
class PendingEvent:
    """Event of the response before its vote. `block` is None if it is about the response as a whole."""

    chunk: Chunk
    event: StreamEvent
    block: StreamBlock | None
    passed_by: set[int] = field(default_factory=set[int])
    has_left: bool = False


@dataclass(frozen=True, slots=True)
class VoterOutput:
    """Output of a member: an event of the response (`pending`), or one of its own (`made`)."""

    pending: PendingEvent | None = None
    made: StreamEvent | None = None
    is_in_block: bool = False
    """The made event replaces the block, instead of following it."""


class BlockVotes:
    """Votes on one block. A member is known by its number in the list."""

    def __init__(self, block: StreamBlock) -> None:
        self.block = block
        self.pending: list[PendingEvent] = []
        self.objectors: set[int] = set()
        self.has_left = False
        self._outputs: dict[int, list[VoterOutput]] = {}

    def note(self, member: int, output: VoterOutput) -> None:
        """Adds output of a member: an event of the block, or a replacement."""
        if output.made is not None:
            self.objectors.add(member)
        self._outputs.setdefault(member, []).append(output)

    def close(self, members: Iterable[int]) -> None:
        """Counts an objection of each member with a withheld event: `members` have seen the whole block."""
        self.objectors.update(
            member for member in members if any(member not in pending.passed_by for pending in self.pending)
        )

    def vote(self, member: int) -> PolicyAction:
        """Returns a member's vote: the block leaves as it came, changed, or not at all."""
        if member not in self.objectors:
            return "allow"
        made = [output.made for output in self._outputs.get(member, ()) if output.made is not None]
        return "modify" if any(self._continues_block(event) for event in made) else "block"

    def winner(self, voters: Sequence[int], needed: int) -> int | None:
        """Returns the winner, whose version of the block leaves, or None for the block as it came.

        The severest objection wins, and the first of several.
        """
        objectors = [member for member in voters if member in self.objectors]
        if len(objectors) < needed:
            return None
        return max(objectors, key=lambda member: SEVERITY[self.vote(member)])

    def version(self, member: int | None) -> list[VoterOutput]:
        """Returns the rest of a member's version, or of the block as it came, without delivered events."""
        if member is None:
            return [VoterOutput(pending) for pending in self.pending if not pending.has_left]
        outputs = self._outputs.get(member, [])
        return [output for output in outputs if output.pending is None or not output.pending.has_left]

    def _continues_block(self, made: StreamEvent) -> bool:
        """Holds if a made event is of the block's own kind, with other content."""
        if isinstance(self.block, ToolCallStreamBlock):
            return isinstance(made, ToolCallDelta)
        if isinstance(self.block, ReasoningStreamBlock):
            return isinstance(made, ReasoningDelta)
        is_text = isinstance(self.block, ContentStreamBlock)
        return is_text and isinstance(made, TextDelta | Quote) and not is_notice(made.text)
