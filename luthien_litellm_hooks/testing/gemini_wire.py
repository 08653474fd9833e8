"""Encoder of an `Answer` in the format of Gemini's generateContent."""

import base64
import json
from collections.abc import Iterator

from luthien_litellm_hooks.testing.answers import JSON, Answer, Call, Cut, Emission, Say, Think, Wait, dump, fresh_id

_FINISH_REASONS = {"length": "MAX_TOKENS", "content_filter": "SAFETY"}
_STATUSES = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 429: "RESOURCE_EXHAUSTED"}


def full(answer: Answer, request: JSON) -> JSON:
    """Returns the body of a full response."""
    parts = [part for step in answer.steps if (part := _part(step)) is not None]
    return _payload(answer, request, parts, fresh_id(""), is_last=True)


def stream(answer: Answer, request: JSON) -> Iterator[Emission]:
    """Yields the events of a stream; the last one has an empty text, as Gemini's often has."""
    id = fresh_id("")
    for step in answer.steps:
        if isinstance(step, Wait | Cut):
            yield step
        else:
            for part in _pieces(answer, step):
                yield _event(_payload(answer, request, [part], id, is_last=False))
    yield _event(_payload(answer, request, [{"text": ""}], id, is_last=True))


def error(status: int, message: str) -> JSON:
    """Returns the body of an error."""
    kind = _STATUSES.get(status, "INTERNAL" if status >= 500 else "FAILED_PRECONDITION")
    return {"error": {"code": status, "message": message, "status": kind}}


def _pieces(answer: Answer, step: Say | Think | Call) -> Iterator[JSON]:
    match step:
        case Say(text):
            yield from ({"text": piece} for piece in answer.pieces(text))
        case Think(text, signature):
            yield from ({"text": piece, "thought": True} for piece in answer.pieces(text))
            if signature:
                yield {"text": "", "thoughtSignature": _signature(signature)}
        case Call():
            yield _call(step)


def _part(step: object) -> JSON | None:
    match step:
        case Say(text):
            return {"text": text}
        case Think(text):
            return {"text": text, "thought": True}
        case Call():
            return _call(step)
        case _:
            return None


def _call(call: Call) -> JSON:
    id = {} if call.id is None else {"id": call.id}
    return {
        "functionCall": {**id, "name": call.name, "args": json.loads(call.arguments)},
        "thoughtSignature": _signature(f"signature-of-{call.name}"),
    }


def _signature(text: str) -> str:
    """Returns it in base64: Google's clients fail on another one."""
    return base64.b64encode(text.encode()).decode()


def _payload(answer: Answer, request: JSON, parts: list[JSON], id: str, *, is_last: bool) -> JSON:
    candidate: JSON = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if is_last:
        candidate["finishReason"] = _FINISH_REASONS.get(answer.finish_reason, "STOP")
    usage = answer.usage
    counts = {"promptTokenCount": usage.prompt, "candidatesTokenCount": usage.completion}
    return {
        "candidates": [candidate],
        "usageMetadata": {**counts, "totalTokenCount": usage.prompt + usage.completion},
        "modelVersion": request.get("model"),
        "responseId": id,
    }


def _event(payload: JSON) -> bytes:
    return f"data: {dump(payload)}\r\n\r\n".encode()
