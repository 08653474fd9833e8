"""LiteLLM's `data` dict to a `Request`, and a policy's changes back into it."""

import copy
from typing import Any, cast

from litellm.exceptions import ModifyResponseException
from litellm.proxy._types import UserAPIKeyAuth
from litellm.types.utils import Choices, Message, ModelResponse, Usage

from luthien_litellm_hooks.policy.context import Identity
from luthien_litellm_hooks.policy.request import Answer, Request

_LITELLM_OWN = frozenset({"metadata", "litellm_metadata"})


def read_request(data: dict[str, Any]) -> Request:
    """What the client sent, as it stands now, copied: LiteLLM's own keys in `data` are left out."""
    return Request({key: copy.deepcopy(data[key]) for key in _client_keys(data)})


def write_request(data: dict[str, Any], final: Request) -> None:
    """Puts what differs from `final` into `data`, which stays the same object: LiteLLM's own."""
    for key in _client_keys(data) - final.body.keys():
        del data[key]
    changed = {key for key in final.body if key not in data or data[key] != final.body[key]}
    data.update({key: final.body[key] for key in changed})


def answer_instead(data: dict[str, Any], answer: Answer, call_type: str) -> None:
    """Makes LiteLLM answer without calling a provider; it counts no tokens, and the answers that
    LiteLLM keeps for later are neither asked nor added to.

    On chat it makes the answer itself. On other routes that makes no stream, so there this raises
    `ModifyResponseException`, which does; what it streams goes through our hook like any answer.
    """
    if call_type not in ("acompletion", "completion"):
        model = str(data.get("model") or "")
        raise ModifyResponseException(answer.text, model=model, request_data=data, guardrail_name="luthien")
    message = Message(role="assistant", content=answer.text)
    data["mock_response"] = ModelResponse(
        model=str(data.get("model") or ""),
        choices=[Choices(index=0, finish_reason="stop", message=message)],
        usage=Usage(prompt_tokens=0, completion_tokens=0, total_tokens=0),
    )
    data["cache"] = {"no-cache": True, "no-store": True}


def _client_keys(data: dict[str, Any]) -> set[str]:
    came = cast(dict[str, Any], data.get("proxy_server_request") or {})
    body = cast(dict[str, Any], came.get("body") or {})
    return body.keys() & data.keys() - _LITELLM_OWN


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
