"""Recorded and scripted streams, and what may become of them on a bad day."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from random import Random
from typing import Any

from pydantic import ValidationError

from luthien_litellm_hooks.testing.answers import Answer, Call, Say, Think
from luthien_litellm_hooks.testing.routes import ROUTES, RouteName
from tests.support.recordings import STREAMS

LARGEST = 20_000
"""Larger recordings say nothing that a smaller one does not, and take long."""

_SCRIPTS = (
    Answer([Think("I am thinking about it.", "signature"), Say("Here is a piece of text."), Say("Another text.")]),
    Answer([Say("I call a tool."), Call("bash", '{"command": "echo it is a secret"}', id="call_1")]),
    Answer(
        [Call("first", '{"a": "the first secret"}', id="i"), Call("second", '{"b": "the next secret"}', id="j")],
        interleave=True,
    ),
)


@cache
def streams_of(route: RouteName) -> tuple[bytes, ...]:
    """Streams of this wire: the scripted ones and, where they are, the recorded ones."""
    scripted = [b"".join(_frames(route, answer)) for answer in _SCRIPTS]
    recorded = [path.read_bytes() for path in sorted((STREAMS / route).glob("*.sse"))]
    return tuple(scripted + [raw for raw in recorded if len(raw) <= LARGEST])


def _frames(route: RouteName, answer: Answer) -> list[bytes]:
    return [frame for frame in ROUTES[route].wire.stream(answer, {"model": "m"}) if isinstance(frame, bytes)]


def mutated(random: Random, route: RouteName) -> bytes:
    """A stream to which some things happened."""
    streams = streams_of(route)
    raw = random.choice(streams)
    for _ in range(random.randint(0, 3)):
        if random.random() < 0.7:
            raw = b"".join(random.choice(_OF_FRAMES)(random, _split(raw), _split(random.choice(streams))))
        else:
            raw = random.choice(_OF_BYTES)(random, raw)
    return raw


def items_of(route: RouteName, raw: bytes) -> list[object]:
    """What LiteLLM hands to a plugin of it; it fails itself at what it cannot read, and that is not ours."""
    items: list[object] = []
    for frame in _split(raw):
        try:
            items += ROUTES[route].items(frame)
        except (ValidationError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue
    return items


def cut(random: Random, raw: bytes) -> list[bytes]:
    """`raw` in pieces."""
    points = sorted(random.randint(0, len(raw)) for _ in range(random.randint(0, 8)))
    return [raw[start:end] for start, end in zip([0, *points], [*points, len(raw)], strict=True)]


def _split(raw: bytes) -> list[bytes]:
    return [frame + b"\n\n" for frame in raw.replace(b"\r\n", b"\n").split(b"\n\n") if frame]


# What happens to frames


def _lose(random: Random, frames: list[bytes], others: Sequence[bytes]) -> list[bytes]:
    at = random.randrange(len(frames) or 1)
    return frames[:at] + frames[at + random.randint(1, 4) :]


def _repeat(random: Random, frames: list[bytes], others: Sequence[bytes]) -> list[bytes]:
    at = random.randrange(len(frames) or 1)
    return frames[:at] + frames[at : at + 1] * 2 + frames[at + 1 :]


def _swap(random: Random, frames: list[bytes], others: Sequence[bytes]) -> list[bytes]:
    if len(frames) > 1:
        one, other = random.randrange(len(frames)), random.randrange(len(frames))
        frames[one], frames[other] = frames[other], frames[one]
    return frames


def _end_early(random: Random, frames: list[bytes], others: Sequence[bytes]) -> list[bytes]:
    return frames[: random.randint(0, len(frames))]


def _splice(random: Random, frames: list[bytes], others: Sequence[bytes]) -> list[bytes]:
    return frames[: random.randint(0, len(frames))] + list(others[random.randint(0, len(others)) :])


def _change(random: Random, frames: list[bytes], others: Sequence[bytes]) -> list[bytes]:
    """Something in the JSON of a frame becomes something else."""
    if frames:
        at = random.randrange(len(frames))
        frames[at] = _changed_frame(random, frames[at])
    return frames


_OF_FRAMES: Sequence[Callable[[Random, list[bytes], Sequence[bytes]], list[bytes]]] = (
    _lose,
    _repeat,
    _swap,
    _end_early,
    _splice,
    _change,
    _change,
    _change,
    _change,
)


def _deep(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


_VALUES: Sequence[Callable[[], Any]] = (
    lambda: None,
    lambda: True,
    lambda: -1,
    lambda: 10**25,
    lambda: 1.5,
    lambda: float("inf"),
    lambda: "",
    lambda: "x",
    lambda: "\ud800",
    lambda: '{"a": ',
    list,
    dict,
    lambda: [[]],
    lambda: [None],
    lambda: {"type": []},
    lambda: {"type": {}, "text": 3, "index": "0"},
    lambda: _deep(300),
)


def _changed_frame(random: Random, frame: bytes) -> bytes:
    head, _, rest = frame.partition(b"data:")
    try:
        payload = json.loads(rest)
    except (ValueError, RecursionError):
        return frame
    value = _changed(random, copy.deepcopy(payload))
    return head + b"data: " + json.dumps(value).encode() + b"\n\n"


def _changed(random: Random, value: Any) -> Any:
    """`value` with one thing in it changed, at any depth."""
    keys: list[Any] = []
    if isinstance(value, Mapping):
        keys = list(value)
    elif isinstance(value, list):
        keys = list(range(len(value)))
    if not keys or random.random() < 0.1:
        return random.choice(_VALUES)()
    key = random.choice(keys)
    if random.random() < 0.15:
        del value[key]
    elif isinstance(value, list) and random.random() < 0.15:
        value.append(copy.deepcopy(value[key]))
    else:
        value[key] = _changed(random, value[key])
    return value


# What happens to bytes


def _flip(random: Random, raw: bytes) -> bytes:
    at = random.randrange(len(raw) or 1)
    return raw[:at] + bytes([random.randrange(256)]) + raw[at + 1 :]


def _cut_out(random: Random, raw: bytes) -> bytes:
    at = random.randrange(len(raw) or 1)
    return raw[:at] + raw[at + random.randint(1, 200) :]


def _put_in(random: Random, raw: bytes) -> bytes:
    at = random.randrange(len(raw) or 1)
    return raw[:at] + random.choice((b"\xff\xfe", b"\n\n", b"\r", b"\0", b"data: [DONE]\n\n", b"[" * 5000)) + raw[at:]


def _stop(random: Random, raw: bytes) -> bytes:
    return raw[: random.randint(0, len(raw))]


_OF_BYTES: Sequence[Callable[[Random, bytes], bytes]] = (_flip, _cut_out, _put_in, _stop)
