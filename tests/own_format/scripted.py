"""Scripted provider's side of the wire."""

import json
from collections.abc import Iterator, Sequence

from luthien_litellm_hooks.testing.answers import JSON, Answer, Call, Cut, Emission, Say, Wait
from luthien_litellm_hooks.testing.routes import Route


class LinesWire:
    def full(self, answer: Answer, request: JSON) -> JSON:
        return {"lines": [line for line in _lines(answer) if isinstance(line, dict)]}

    def stream(self, answer: Answer, request: JSON) -> Iterator[Emission]:
        for line in _lines(answer):
            yield json.dumps(line).encode() + b"\n" if isinstance(line, dict) else line

    def error(self, status: int, message: str) -> JSON:
        return {"error": message}


def _lines(answer: Answer) -> Iterator[JSON | Wait | Cut]:
    calls = 0
    for step in answer.steps:
        match step:
            case Say(text):
                yield from ({"say": piece} for piece in answer.pieces(text))
            case Call(name, arguments, id):
                yield {"call": calls, "id": id or "c", "name": name, "with": ""}
                yield from ({"call": calls, "with": piece} for piece in answer.pieces(arguments))
                calls += 1
            case Wait() | Cut():
                yield step
            case _:
                pass
    yield {"done": "calls" if calls else "end"}


def _items(piece: bytes) -> Sequence[object]:
    return [piece]


def _whole(payload: JSON) -> object:
    return payload


ROUTE = Route("lines", {"turns": [{"role": "user", "say": "hello"}]}, LinesWire(), _items, _whole)
