"""Encoder of an `Answer` in the OpenAI text-completions format, which has only its text."""

import time
from collections.abc import Iterator

from luthien_litellm_hooks.testing.answers import JSON, Answer, Cut, Emission, Say, Wait, dump, fresh_id
from luthien_litellm_hooks.testing.openai_wire import error, usage

__all__ = ["error", "full", "stream"]


def full(answer: Answer, request: JSON) -> JSON:
    """Returns the body of a full response."""
    choices = [_choice(index, answer.text, _finish_reason(answer)) for index in range(request.get("n") or 1)]
    return {**_envelope(request), "choices": choices, "usage": usage(answer)}


def stream(answer: Answer, request: JSON) -> Iterator[Emission]:
    """Yields the events of a stream; the choices advance in parallel."""
    numbers = range(request.get("n") or 1)
    envelope = _envelope(request)
    for step in answer.steps:
        match step:
            case Say(text):
                for piece in answer.pieces(text):
                    yield from (_event({**envelope, "choices": [_choice(index, piece, None)]}) for index in numbers)
            case Wait() | Cut():
                yield step
            case _:
                pass
    for index in numbers:
        yield _event({**envelope, "choices": [_choice(index, "", _finish_reason(answer))]})
    options: JSON = request.get("stream_options") or {}
    if options.get("include_usage"):
        yield _event({**envelope, "choices": [], "usage": usage(answer)})
    yield b"data: [DONE]\n\n"


def _choice(index: int, text: str, finish_reason: str | None) -> JSON:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}


def _finish_reason(answer: Answer) -> str:
    return answer.finish or "stop"


def _envelope(request: JSON) -> JSON:
    return {
        "id": fresh_id("cmpl-"),
        "object": "text_completion",
        "created": int(time.time()),
        "model": request.get("model"),
    }


def _event(chunk: JSON) -> bytes:
    return f"data: {dump(chunk)}\n\n".encode()
