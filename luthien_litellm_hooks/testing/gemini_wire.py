"""Spells an `Answer` in the format of Gemini's generateContent, so that clients of that API can be served."""

import json
from collections.abc import Iterator

from luthien_litellm_hooks.testing.answers import JSON, Answer, Call, Cut, Emission, Say, Think, Wait, dump, fresh_id

_FINISH_REASONS = {"length": "MAX_TOKENS", "content_filter": "SAFETY"}
_STATUSES = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 429: "RESOURCE_EXHAUSTED"}


def full(answer: Answer, request: JSON) -> JSON:
    """The body of a reply that is not streamed."""
    parts = [part for step in answer.steps if (part := _part(step)) is not None]
    return _payload(answer, request, parts, fresh_id(""), is_last=True)


def stream(answer: Answer, request: JSON) -> Iterator[Emission]:
    """The frames of a streamed reply; the last one has an empty text, as Gemini's often has."""
    id = fresh_id("")
    for step in answer.steps:
        if isinstance(step, Wait | Cut):
            yield step
        else:
            for part in _pieces(answer, step):
                yield _frame(_payload(answer, request, [part], id, is_last=False))
    yield _frame(_payload(answer, request, [{"text": ""}], id, is_last=True))


def error(status: int, message: str) -> JSON:
    """The body of an error reply."""
    kind = _STATUSES.get(status, "INTERNAL" if status >= 500 else "FAILED_PRECONDITION")
    return {"error": {"code": status, "message": message, "status": kind}}


def as_chat(body: JSON, model: str, method: str) -> JSON:
    """A request, with what its path and its contents say in the words of the chat format too."""
    messages = [_message(content) for content in body.get("contents", [])]
    return {**body, "model": model, "stream": method == "streamGenerateContent", "messages": messages}


def _message(content: JSON) -> JSON:
    text = "\n".join(part["text"] for part in content.get("parts", []) if "text" in part)
    return {"role": content.get("role", "user"), "content": text}


def _pieces(answer: Answer, step: Say | Think | Call) -> Iterator[JSON]:
    match step:
        case Say(text):
            yield from ({"text": piece} for piece in answer.pieces(text))
        case Think(text, signature):
            yield from ({"text": piece, "thought": True} for piece in answer.pieces(text))
            if signature:
                yield {"text": "", "thoughtSignature": signature}
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
        "thoughtSignature": f"signature-of-{call.name}",
    }


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


def _frame(payload: JSON) -> bytes:
    return f"data: {dump(payload)}\r\n\r\n".encode()
