"""How several policies vote on one block of an answer. Pure: no clock, no logger, nothing awaited."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from luthien_litellm_hooks.events import (
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
from luthien_litellm_hooks.policy.notices import is_notice

Vote = Literal["allow", "modify", "block"]


@dataclass(slots=True, eq=False)
class Motion:
    """An event that came; of no `block` if it is about the answer as a whole."""

    chunk: Chunk
    event: StreamEvent
    block: StreamBlock | None
    passed_by: set[int] = field(default_factory=set[int])
    has_left: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """Something that a member let out: a motion, or (`made`) an event of its own."""

    motion: Motion | None = None
    made: StreamEvent | None = None
    is_in_frame: bool = False
    """Whether the made event stands for the block, in its place, not beside it."""


class Ballot:
    """The votes on one block. Members are known by their number in the list."""

    def __init__(self, block: StreamBlock) -> None:
        self.block = block
        self.motions: list[Motion] = []
        self.objectors: set[int] = set()
        self.has_left = False
        self._pieces: dict[int, list[Piece]] = {}

    def note(self, member: int, piece: Piece) -> None:
        """A member let something out of the block, or in its place."""
        if piece.made is not None:
            self.objectors.add(member)
        self._pieces.setdefault(member, []).append(piece)

    def close(self, members: Iterable[int]) -> None:
        """These members have seen the whole block: what they have not let out they object to."""
        self.objectors.update(
            member for member in members if any(member not in motion.passed_by for motion in self.motions)
        )

    def vote(self, member: int) -> Vote:
        """What a member wants of the block: that it leaves as it came, changed, or not at all."""
        if member not in self.objectors:
            return "allow"
        made = [piece.made for piece in self._pieces.get(member, ()) if piece.made is not None]
        return "modify" if any(self._is_kept_by(event) for event in made) else "block"

    def pick(self, voters: Sequence[int], needed: int) -> int | None:
        """Whose version of the block leaves, None for the block as it came: of those who object, the
        first who withholds it, else the first who changes it."""
        objectors = [member for member in voters if member in self.objectors]
        if len(objectors) < needed:
            return None
        return next((member for member in objectors if self.vote(member) == "block"), objectors[0])

    def version(self, member: int | None) -> list[Piece]:
        """What of a member's version, or of the block as it came, has not left yet."""
        if member is None:
            return [Piece(motion) for motion in self.motions if not motion.has_left]
        pieces = self._pieces.get(member, [])
        return [piece for piece in pieces if piece.motion is None or not piece.motion.has_left]

    def _is_kept_by(self, made: StreamEvent) -> bool:
        """Whether a made event goes on with the block, in other words."""
        if isinstance(self.block, ToolCallStreamBlock):
            return isinstance(made, ToolCallDelta)
        if isinstance(self.block, ReasoningStreamBlock):
            return isinstance(made, ReasoningDelta)
        is_text = isinstance(self.block, ContentStreamBlock)
        return is_text and isinstance(made, TextDelta | Quote) and not is_notice(made.text)
