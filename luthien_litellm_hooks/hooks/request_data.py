"""LiteLLM's `data` dict to a `Request`, and a policy's changes back into it."""

import copy
import json
from dataclasses import replace
from itertools import chain, islice
from typing import Any, cast

import httpx
from litellm.exceptions import ModifyResponseException
from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler
from litellm.types.utils import Choices, Message, ModelResponse, Usage

from luthien_litellm_hooks.hooks import extra_body
from luthien_litellm_hooks.hooks.client_request import body_of, headers_of, keys_of
from luthien_litellm_hooks.hooks.fallbacks import Fallback, fallbacks_in
from luthien_litellm_hooks.hooks.route_paths import paths_of
from luthien_litellm_hooks.hooks.routes import NAMES
from luthien_litellm_hooks.hooks.ungoverned import path_of, refusal
from luthien_litellm_hooks.policy.credentials import is_credential
from luthien_litellm_hooks.policy.request import Answer, Request

_GEMINI = frozenset({"agenerate_content", "generate_content", "agenerate_content_stream", "generate_content_stream"})
_MOCKABLE = frozenset({"acompletion", "completion", "atext_completion", "text_completion"}) | _GEMINI
MAX_ALTERNATIVES = 10
"""How many requests a client's may become: each is judged, and costs as much."""
Alternative = Fallback | extra_body.Hidden

_SCALARS = (str, int, float, type(None))
_WEIGHTY = (str, dict, list)


def read_request(data: dict[str, Any], call_type: str = "") -> Request:
    """A copy of what the client sent, as it stands now: LiteLLM's own keys in `data` are left out, and
    the headers that carry credentials."""
    headers = {name: value for name, value in headers_of(data).items() if not is_credential(name)}
    paths = paths_of(NAMES.get(call_type, ""), str(data.get("model") or ""))
    request = Request(read_body(data), route=path_of(data) or "", headers=headers, paths=paths)
    others = [_fields(one.applied_to(data)) for one in alternatives_in(data)]  # to look at: policies get copies
    return replace(request, alternatives=[replace(request, body=body) for body in others])


def alternatives_in(data: dict[str, Any]) -> list[Alternative]:
    """What LiteLLM may make of the request on its way. Raises a refusal if that is too much to judge."""
    found = list(islice(chain(extra_body.hidden_in(data), fallbacks_in(data)), MAX_ALTERNATIVES + 1))
    if len(found) > MAX_ALTERNATIVES:
        raise refusal(400, f"The request was refused: it names more than {MAX_ALTERNATIVES} fallbacks.")
    return found


def read_body(data: dict[str, Any]) -> dict[str, Any]:
    """A copy of the body of what the client sent, as its provider gets it."""
    return {key: _copied(value) for key, value in _fields(data).items()}


def is_too_large(data: dict[str, Any], max_values: int) -> bool:
    """Whether the client's request holds more values than that: fields, and items of lists that are no mere numbers."""
    seen, waiting = 0, [cast(object, body_of(data))]
    while waiting and seen <= max_values:
        value = waiting.pop()
        if isinstance(value, dict):
            fields = cast(dict[str, object], value)
            seen += len(fields)
            waiting += [field for field in fields.values() if isinstance(field, dict | list)]
        elif isinstance(value, list):
            items: list[object] = [item for item in cast(list[object], value) if isinstance(item, _WEIGHTY)]
            seen += len(items)
            waiting += items
    return seen > max_values


def shorten(data: dict[str, Any]) -> None:
    """Takes all that has parts out of the client's request, wherever LiteLLM keeps it: what is left is cheap to log."""
    keys = [key for key in keys_of(data) if not isinstance(data[key], _SCALARS)]
    for place in (data, body_of(data)):
        if isinstance(place, dict):
            place.update({key: [] for key in keys})


def write_request(data: dict[str, Any], final: Request) -> None:
    """Puts what differs from `final` into `data`, which stays the same object: LiteLLM's own."""
    now = _fields(data)
    for key in now.keys() - final.body.keys():
        extra_body.remove(data, key)
    for key, value in final.body.items():
        if key not in now or now[key] != value:
            extra_body.put(data, key, value)


def answer_instead(data: dict[str, Any], answer: Answer, call_type: str) -> None:
    """Makes LiteLLM answer without calling a provider; it counts no tokens, and the answers that
    LiteLLM keeps for later are neither asked nor added to.

    On chat, text completions and Gemini's route it makes the answer itself. On other routes that
    makes no stream, so there this raises `ModifyResponseException`, which does; what it streams
    goes through our hook like any answer.
    """
    model = str(data.get("model") or "")
    if call_type not in _MOCKABLE:
        raise ModifyResponseException(answer.text, model=model, request_data=data, guardrail_name="luthien")
    message = Message(role="assistant", content=answer.text)
    data["mock_response"] = ModelResponse(
        model=model,
        choices=[Choices(index=0, finish_reason="stop", message=message)],
        usage=Usage(prompt_tokens=0, completion_tokens=0, total_tokens=0),
    )
    data["cache"] = {"no-cache": True, "no-store": True}
    if call_type in _GEMINI and data.get("stream"):
        data["mock_response"] = "-"  # never delivered; of an object LiteLLM makes no stream here


def gemini_in_stead(answer: Answer, *, is_streaming: bool) -> AsyncHTTPHandler:
    """The client that LiteLLM is to ask instead of Gemini, which it asks in spite of `mock_response`."""
    candidate = {"content": {"parts": [{"text": answer.text}], "role": "model"}, "finishReason": "STOP", "index": 0}
    usage = {"promptTokenCount": 0, "candidatesTokenCount": 0, "totalTokenCount": 0}
    body = json.dumps({"candidates": [candidate], "usageMetadata": usage})
    text = f"data: {body}\n\n" if is_streaming else body
    return AsyncHTTPHandler(transport=httpx.MockTransport(lambda _: httpx.Response(200, text=text)))


def _fields(data: dict[str, Any]) -> dict[str, Any]:
    return extra_body.merged(data, keys_of(data))


def _copied(value: object) -> Any:
    """A copy of a value of JSON, in half the time that `copy.deepcopy` takes."""
    if isinstance(value, _SCALARS):
        return value
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in cast(dict[str, object], value).items()}
    if isinstance(value, list):
        return [_copied(item) for item in cast(list[object], value)]
    return copy.deepcopy(value)  # LiteLLM has put it there
