"""Encoder of an `Answer` in the OpenAI chat-completions format."""

import time
from collections.abc import Iterator
from itertools import zip_longest
from typing import TypeAlias

from luthien_litellm_hooks.testing.answers import JSON, Answer, Call, Cut, Emission, Say, Think, Wait, dump, fresh_id

_CALL_ID = "call_"
_ERROR_TYPES = {429: "rate_limit_error", 401: "authentication_error"}

_Delta: TypeAlias = JSON | Wait | Cut


def full(answer: Answer, request: JSON) -> JSON:
    """Returns the body of a full response."""
    choices = [
        _choice(index, "message", _message(answer.with_call_ids(_CALL_ID)), answer.finish_reason)
        for index in range(_choice_count(request))
    ]
    return {**_envelope(request, "chat.completion"), "choices": choices, "usage": usage(answer)}


def stream(answer: Answer, request: JSON) -> Iterator[Emission]:
    """Yields the events of a stream; the choices advance in parallel."""
    count = _choice_count(request)
    options: JSON = request.get("stream_options") or {}
    with_usage = bool(options.get("include_usage"))
    envelope = _envelope(request, "chat.completion.chunk") | ({"usage": None} if with_usage else {})
    lanes = [_deltas(answer.with_call_ids(_CALL_ID)) for _ in range(count)]
    for row in zip(*lanes, strict=True):
        for index, delta in enumerate(row):
            if isinstance(delta, Wait | Cut):
                yield delta
                break
            yield _event({**envelope, "choices": [_choice(index, "delta", delta, None)]})
    for index in range(count):
        yield _event({**envelope, "choices": [_choice(index, "delta", {}, answer.finish_reason)]})
    if with_usage:
        yield _event({**envelope, "choices": [], "usage": usage(answer)})
    yield b"data: [DONE]\n\n"


def error(status: int, message: str) -> JSON:
    """Returns the body of an error."""
    kind = _ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def _message(answer: Answer) -> JSON:
    texts = [step.text for step in answer.steps if isinstance(step, Say)]
    thoughts = "".join(step.text for step in answer.steps if isinstance(step, Think))
    message: JSON = {"role": "assistant", "content": "".join(texts) if texts or not answer.calls else None}
    if thoughts:
        message["reasoning_content"] = thoughts
    if answer.calls:
        message["tool_calls"] = [_tool_call(call, call.arguments) for call in answer.calls]
    return message


def _deltas(answer: Answer) -> Iterator[_Delta]:
    """Yields the deltas of one choice, with the control steps between them."""
    yield {"role": "assistant", "content": ""}
    lanes = iter([_call_deltas(answer, index, call) for index, call in enumerate(answer.calls)])
    for step in answer.steps:
        match step:
            case Say(text):
                yield from ({"content": piece} for piece in answer.pieces(text))
            case Think(text):
                yield from ({"reasoning_content": piece} for piece in answer.pieces(text))
            case Call():
                # Interleaved, the first call consumes all lanes, and later calls find none.
                yield from _round_robin(lanes) if answer.interleave else next(lanes)
            case Wait() | Cut():
                yield step


def _call_deltas(answer: Answer, index: int, call: Call) -> Iterator[JSON]:
    yield {"tool_calls": [{"index": index, **_tool_call(call, "")}]}
    for piece in answer.pieces(call.arguments):
        yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _round_robin(lanes: Iterator[Iterator[JSON]]) -> Iterator[JSON]:
    for row in zip_longest(*lanes):
        yield from (delta for delta in row if delta is not None)


def _tool_call(call: Call, arguments: str) -> JSON:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _choice(index: int, key: str, content: JSON, finish_reason: str | None) -> JSON:
    return {"index": index, key: content, "logprobs": None, "finish_reason": finish_reason}


def _choice_count(request: JSON) -> int:
    return request.get("n") or 1


def _envelope(request: JSON, kind: str) -> JSON:
    return {"id": fresh_id("chatcmpl-"), "object": kind, "created": int(time.time()), "model": request.get("model")}


def usage(answer: Answer) -> JSON:
    """Returns the token counts of a response."""
    counts = answer.usage
    return {
        "prompt_tokens": counts.prompt,
        "completion_tokens": counts.completion,
        "total_tokens": counts.prompt + counts.completion,
    }


def _event(chunk: JSON) -> bytes:
    return f"data: {dump(chunk)}\n\n".encode()
