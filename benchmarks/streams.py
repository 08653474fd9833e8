"""The answers that the scripted model gives here, as the bytes of each provider's wire."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.routes import ROUTES, RouteName

Route = RouteName
FIRST_WORD = b"Once"
"""How each text begins."""
CALLS = "tools"
"""The load whose answers call tools."""
MARK = "end-of-call"
"""In the last piece of the arguments of each call."""
REPLACED_WORD = "blue"
"""A word that `string_replacement` replaces here: one in forty."""
_WORDS = (
    "upon time ther was mill that stod near river wher tall gree tree grew and nobo knew whos hand had buil "
    f"its whee when last king rode past with many men each carr long pole whic bore {REPLACED_WORD} silk"
).split()
_PIECE = 5  # a word of four letters and a space, as many models cut
_CALLS = 3
_ARGUMENTS = 50_000
_ARGUMENTS_PIECE = 500
_ARGUMENTS_PAUSE_S = 0.001
"""Leaves the proxy the time to keep up, so that no call waits behind chunks of its own answer."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One write of the provider's. It pauses before, or waits until it is let go on; `mark` says
    that the time of the write is of interest."""

    data: bytes
    pause_s: float = 0.0
    is_held: bool = False
    mark: bytes | None = None


@dataclass(frozen=True)
class Load:
    """One kind of request: `words` of text or `calls`, after a history of so many messages of 1 KB.
    `pause_s` is what the provider pauses before each event, `held_after` the number of words after which
    the answer waits."""

    name: str
    words: int = 0
    calls: int = 0
    history: int = 0
    pause_s: float = 0.0
    held_after: int | None = None
    repeats: int = 1
    """How often it is asked for one measurement."""

    @cached_property
    def marks(self) -> tuple[bytes, ...]:
        """How the arguments of each call end."""
        return tuple(f"{MARK}-{number}".encode() for number in range(self.calls))

    def body(self, route: Route) -> dict[str, object]:
        """What the client asks."""
        wire = "anthropic" if route == "messages" else "openai"
        body: dict[str, object] = {**ROUTES[route].body, "model": f"{wire}/{self.name}", "stream": True}
        key = "input" if route == "responses" else "messages"
        if self.history:
            turns = itertools.cycle(("user", "assistant"))
            said = [{"role": next(turns), "content": f"{number:04d} " * 205} for number in range(self.history)]
            body[key] = [*said, {"role": "user", "content": "go on"}]
        return body

    def frames(self, route: Route) -> Sequence[Frame]:
        """What the provider writes."""
        wire, request = ROUTES[route].wire, {"model": self.name, "stream_options": {"include_usage": True}}
        emissions = [frame for frame in wire.stream(self._answer(), request) if isinstance(frame, bytes)]
        if self.calls:
            return _paced_until_last_mark(emissions, self.marks)
        begun = next(number for number, frame in enumerate(emissions) if FIRST_WORD in frame)
        held = None if self.held_after is None else begun + self.held_after
        return [Frame(data, self.pause_s, number == held) for number, data in enumerate(emissions)]

    def _answer(self) -> Answer:
        if self.calls:
            return Answer([_call(number, mark) for number, mark in enumerate(self.marks)], piece=_ARGUMENTS_PIECE)
        words = [FIRST_WORD.decode(), *itertools.islice(itertools.cycle(_WORDS), self.words - 1)]
        return Answer([Say("".join(f"{word:<{_PIECE}}" for word in words))], piece=_PIECE)


def _call(number: int, mark: bytes) -> Call:
    lines = "".join(f"{line:06d} some line of a file that an agent writes\\n" for line in range(_ARGUMENTS // 48))
    return Call("write_file", f'{{"path": "notes-{number}.md", "content": "{lines}{mark.decode()}"}}')


def _paced_until_last_mark(emissions: Sequence[bytes], marks: Sequence[bytes]) -> list[Frame]:
    frames: list[Frame] = []
    left = list(marks)
    for data in emissions:
        pause_s = _ARGUMENTS_PAUSE_S if left else 0.0
        mark = left.pop(0) if left and left[0] in data else None
        frames.append(Frame(data, pause_s, mark=mark))
    return frames
