"""Encoder of an `Answer` in the Anthropic messages format."""

import json
from collections.abc import Iterator
from itertools import zip_longest

from luthien_litellm_hooks.testing.answers import JSON, Answer, Call, Cut, Emission, Say, Think, Wait, dump, fresh_id

_CALL_ID = "toolu_"
_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
_ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def full(answer: Answer, request: JSON) -> JSON:
    """Returns the body of a full response."""
    steps = answer.with_call_ids(_CALL_ID).steps
    content = [_full_block(step) for step in steps if isinstance(step, Say | Think | Call)]
    return {**_message(answer, request), "content": content, "stop_reason": _stop_reason(answer)}


def stream(answer: Answer, request: JSON) -> Iterator[Emission]:
    """Yields the events of a stream; a block before `Cut` stays open."""
    start = _message(answer, request)
    yield _event("message_start", {"message": {**start, "usage": {**start["usage"], "output_tokens": 1}}})
    yield _event("ping", {})
    index = 0
    steps = answer.with_call_ids(_CALL_ID).steps
    for step, following in zip_longest(steps, steps[1:]):
        if isinstance(step, Wait | Cut):
            yield step
            continue
        yield _event("content_block_start", {"index": index, "content_block": _empty_block(step)})
        for delta in _deltas(answer, step):
            yield _event("content_block_delta", {"index": index, "delta": delta})
        if not isinstance(following, Cut):
            yield _event("content_block_stop", {"index": index})
        index += 1
    end = {"stop_reason": _stop_reason(answer), "stop_sequence": None}
    yield _event("message_delta", {"delta": end, "usage": {"output_tokens": answer.usage.completion}})
    yield _event("message_stop", {})


def error(status: int, message: str) -> JSON:
    """Returns the body of an error."""
    kind = _ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": message}}


def _message(answer: Answer, request: JSON) -> JSON:
    """Returns the message before its first block."""
    return {
        "id": fresh_id("msg_"),
        "type": "message",
        "role": "assistant",
        "model": request.get("model"),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": answer.usage.prompt, "output_tokens": answer.usage.completion},
    }


def _empty_block(step: Say | Think | Call) -> JSON:
    """Returns the block of a `content_block_start`."""
    match step:
        case Say():
            return {"type": "text", "text": ""}
        case Think():
            return {"type": "thinking", "thinking": "", "signature": ""}
        case Call():
            return {"type": "tool_use", "id": step.id, "name": step.name, "input": {}}


def _full_block(step: Say | Think | Call) -> JSON:
    block = _empty_block(step)
    match step:
        case Say(text):
            return {**block, "text": text}
        case Think(text, signature):
            return {**block, "thinking": text, "signature": signature}
        case Call():
            return {**block, "input": json.loads(step.arguments or "{}")}


def _deltas(answer: Answer, step: Say | Think | Call) -> Iterator[JSON]:
    match step:
        case Say(text):
            yield from ({"type": "text_delta", "text": piece} for piece in answer.pieces(text))
        case Think(text, signature):
            yield from ({"type": "thinking_delta", "thinking": piece} for piece in answer.pieces(text))
            if signature:
                yield {"type": "signature_delta", "signature": signature}
        case Call():
            pieces = answer.pieces(step.arguments)
            yield from ({"type": "input_json_delta", "partial_json": piece} for piece in pieces)


def _stop_reason(answer: Answer) -> str:
    return _STOP_REASONS.get(answer.finish_reason, answer.finish_reason)


def _event(kind: str, fields: JSON) -> bytes:
    return f"event: {kind}\ndata: {dump({'type': kind, **fields})}\n\n".encode()
