"""What the doctor asks: one short question, in the words of every route."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

Mode = Literal["full", "stream", "websocket"]

QUESTION = "Name a colour."
_MAX_TOKENS = 16  # the least that every provider takes
_MESSAGES = {"messages": [{"role": "user", "content": QUESTION}]}
_CHAT = {**_MESSAGES, "max_tokens": _MAX_TOKENS}
_GEMINI = {
    "contents": [{"role": "user", "parts": [{"text": QUESTION}]}],
    "generationConfig": {"maxOutputTokens": _MAX_TOKENS},
}

# The routes that a policy can govern, but for Gemini's, which name the model and the mode in the path.
_GOVERNABLE: Mapping[str, Mapping[str, Any]] = {
    "/v1/chat/completions": _CHAT,
    "/v1/completions": {"prompt": QUESTION, "max_tokens": _MAX_TOKENS},
    "/v1/messages": _CHAT,
    "/v1/responses": {"input": QUESTION, "max_output_tokens": _MAX_TOKENS},
}
_PASS_THROUGH: Mapping[str, Mapping[str, Any]] = {
    "/anthropic/v1/messages": _CHAT,
    "/openai/v1/chat/completions": _CHAT,
}
_QUEUE = "/queue/chat/completions"
_ONLY_FULL: Mapping[str, Mapping[str, Any]] = {
    "/v1/threads/x/runs": {"assistant_id": "x"},
    "/v1/rag/query": {**_MESSAGES, "retrieval_config": {}},
}


@dataclass(frozen=True, slots=True)
class Probe:
    """One question to one route. `body` is also what is sent first on a websocket."""

    route: str
    mode: Mode
    model: str
    path: str
    body: Mapping[str, Any]


def probes(models: Sequence[str]) -> Iterator[Probe]:
    """The governable routes with each of `models`, then those that should be closed with the first."""
    for model in models:
        for route, body in _GOVERNABLE.items():
            yield from _both(route, model, {**body, "model": model})
        yield from _gemini(model)
    yield from _to_be_closed(models[0])


def _both(route: str, model: str, body: Mapping[str, Any]) -> Iterator[Probe]:
    yield Probe(route, "full", model, route, body)
    yield Probe(route, "stream", model, route, {**body, "stream": True})


def _gemini(model: str) -> Iterator[Probe]:
    top = "/v1beta/models/{model}"
    path = f"/v1beta/models/{quote(model)}"
    yield Probe(f"{top}:generateContent", "full", model, f"{path}:generateContent", _GEMINI)
    yield Probe(f"{top}:streamGenerateContent", "stream", model, f"{path}:streamGenerateContent?alt=sse", _GEMINI)


def _to_be_closed(model: str) -> Iterator[Probe]:
    """A pass-through route gives the model to the provider as it is, so without LiteLLM's prefix."""
    own_name = model.rpartition("/")[2]
    for route, body in _PASS_THROUGH.items():
        yield from _both(route, own_name, {**body, "model": own_name})
    yield from _both(_QUEUE, model, {**_CHAT, "model": model, "priority": 0})
    for route, body in _ONLY_FULL.items():
        yield Probe(route, "full", model, route, {**body, "model": model})
    yield _websocket("/v1/realtime", model, {"response": {"instructions": QUESTION}})
    yield _websocket("/v1/responses", model, {"model": model, "input": QUESTION})


def _websocket(route: str, model: str, fields: Mapping[str, Any]) -> Probe:
    path = f"{route}?model={quote(model, safe='')}"
    return Probe(route, "websocket", model, path, {"type": "response.create", **fields})
