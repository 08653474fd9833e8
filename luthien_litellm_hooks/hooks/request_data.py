"""LiteLLM's `data` dict to a `Request`, and a policy's changes back into it."""

import copy
import json
from typing import Any, cast

import httpx
from litellm.exceptions import ModifyResponseException
from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler
from litellm.proxy._types import UserAPIKeyAuth
from litellm.types.utils import Choices, Message, ModelResponse, Usage

from luthien_litellm_hooks.hooks.ungoverned import path_of
from luthien_litellm_hooks.policy.context import Identity
from luthien_litellm_hooks.policy.credentials import is_credential
from luthien_litellm_hooks.policy.request import Answer, Request

_GEMINI = frozenset({"agenerate_content", "generate_content", "agenerate_content_stream", "generate_content_stream"})
_MOCKABLE = frozenset({"acompletion", "completion", "atext_completion", "text_completion"}) | _GEMINI
_LITELLM_OWN = frozenset(
    {"metadata", "litellm_metadata", "_litellm_skip_openai_stream_done", "_litellm_raw_sse_stream"}
    | {"litellm_logging_obj", "proxy_server_request", "secret_fields"}  # objects of its own, whatever a client sent
)

_SCALARS = (str, int, float, type(None))


def read_request(data: dict[str, Any]) -> Request:
    """What the client sent, as it stands now, copied: LiteLLM's own keys in `data` are left out, and
    the headers that carry credentials."""
    return Request(read_body(data), route=path_of(data) or "", headers=_headers(data))


def read_body(data: dict[str, Any]) -> dict[str, Any]:
    """The body of what the client sent, as `read_request` copies it."""
    return {key: _copied(data[key]) for key in _client_keys(data)}


def write_request(data: dict[str, Any], final: Request) -> None:
    """Puts what differs from `final` into `data`, which stays the same object: LiteLLM's own."""
    for key in _client_keys(data) - final.body.keys():
        del data[key]
    changed = {key for key in final.body if key not in data or data[key] != final.body[key]}
    data.update({key: final.body[key] for key in changed})


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


def _copied(value: object) -> Any:
    """A copy of a value of JSON, in half the time that `copy.deepcopy` takes."""
    if isinstance(value, _SCALARS):
        return value
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in cast(dict[str, object], value).items()}
    if isinstance(value, list):
        return [_copied(item) for item in cast(list[object], value)]
    return copy.deepcopy(value)  # LiteLLM has put it there


def _client_keys(data: dict[str, Any]) -> set[str]:
    came = cast(dict[str, Any], data.get("proxy_server_request") or {})
    body = cast(dict[str, Any], came.get("body") or {})
    return body.keys() & data.keys() - _LITELLM_OWN


def _headers(data: dict[str, Any]) -> dict[str, str]:
    came = cast(dict[str, Any], data.get("proxy_server_request") or {})
    headers = cast(dict[str, str], came.get("headers") or {})
    return {name.lower(): value for name, value in headers.items() if not is_credential(name)}


def read_identity(user: UserAPIKeyAuth | None) -> Identity:
    """Who LiteLLM says is asking."""
    if user is None:
        return Identity()
    return Identity(
        key_hash=user.token or user.api_key,
        key_alias=user.key_alias,
        user_id=user.user_id,
        team_id=user.team_id,
        team_alias=user.team_alias,
        org_id=user.org_id,
        end_user_id=user.end_user_id,
    )
