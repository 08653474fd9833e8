"""Request of Gemini's generateContent after a response with tool calls."""

from collections.abc import Iterator, Sequence
from typing import cast

from pydantic import BaseModel

from luthien_litellm_hooks.wire.format import JsonObject, Refusal, event_payloads
from luthien_litellm_hooks.wire.request_shape import Json


def next_body(body: Json, response: Sequence[object], refusals: Sequence[Refusal]) -> JsonObject | None:
    """Returns the body with the response's parts, each with its signature, and the refusals behind its contents."""
    parts = [part for payload in _payloads(response) for part in _parts(payload)]
    calls: list[Json] = [part["functionCall"] for part in parts if "functionCall" in part]
    if [call.get("name") for call in calls] != [refusal.name for refusal in refusals]:
        return None
    results = [
        {
            "functionResponse": {
                **({"id": call["id"]} if call.get("id") else {}),
                "name": refusal.name,
                "response": {"error": refusal.text},
            }
        }
        for call, refusal in zip(calls, refusals, strict=True)
    ]
    said = [{"role": "model", "parts": parts}, {"role": "user", "parts": results}]
    return {**body, "contents": [*body["contents"], *said]}


def _payloads(response: Sequence[object]) -> Iterator[Json]:
    first = response[0] if response else None
    if isinstance(first, BaseModel):
        yield first.model_extra or {}
    elif isinstance(first, dict):
        yield cast(Json, first)
    else:
        yield from event_payloads(b"".join(item for item in response if isinstance(item, bytes)).decode())


def _parts(payload: Json) -> list[Json]:
    candidates: list[Json] = payload.get("candidates") or [{}]
    content: Json = candidates[0].get("content") or {}
    parts: list[Json] = content.get("parts") or []
    return [part for part in parts if part != {"text": ""}]
