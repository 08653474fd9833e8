"""LiteLLM's lists of guardrails, which any key may read: without what our policies look for."""

import litellm
from fastapi import APIRouter
from litellm.proxy._types import UserAPIKeyAuth
from litellm.types.guardrails import GuardrailInfoResponse, ListGuardrailsResponse

from luthien_litellm_hooks.guardrail_settings import GUARDRAIL, SHORT_NAME
from luthien_litellm_hooks.hooks.admins import User, is_admin

_SHOWN = frozenset({"guardrail", "mode", "default_on"})
"""Of a guardrail's `litellm_params`."""


def guardrail_list_routes() -> APIRouter:
    """LiteLLM's two lists as it makes them, but for the rules of our guardrails, which only admins see."""
    router = APIRouter(tags=["Guardrails"])

    async def of_config(user: User) -> ListGuardrailsResponse:
        from litellm.proxy.guardrails.guardrail_endpoints import list_guardrails  # LiteLLM loads it late, too

        return _for(user, await list_guardrails())

    async def of_all(user: User) -> ListGuardrailsResponse:
        from litellm.proxy.guardrails.guardrail_endpoints import list_guardrails_v2

        return _for(user, await list_guardrails_v2(user_api_key_dict=user))

    router.add_api_route("/guardrails/list", of_config, methods=["GET"], response_model=ListGuardrailsResponse)
    router.add_api_route("/v2/guardrails/list", of_all, methods=["GET"], response_model=ListGuardrailsResponse)
    return router


def _for(user: UserAPIKeyAuth, listed: ListGuardrailsResponse) -> ListGuardrailsResponse:
    if is_admin(user):
        return listed
    return ListGuardrailsResponse(guardrails=[_without_rules(one) for one in listed.guardrails])


def _without_rules(guardrail: GuardrailInfoResponse) -> GuardrailInfoResponse:
    params = guardrail.litellm_params
    if params is None or not _is_ours(guardrail):
        return guardrail
    shown = {name: value for name, value in params.model_dump().items() if name in _SHOWN}
    return guardrail.model_copy(update={"litellm_params": type(params).model_construct(**shown)})


def _is_ours(guardrail: GuardrailInfoResponse) -> bool:
    """By its kind, or by the guardrail that LiteLLM has made of it: its class may be one of the operator's own."""
    from luthien_litellm_hooks.hooks.guardrail import LuthienGuardrail

    is_named = getattr(guardrail.litellm_params, "guardrail", None) in (GUARDRAIL, SHORT_NAME)
    ours = (one for one in litellm.callbacks if isinstance(one, LuthienGuardrail))
    return is_named or any(one.guardrail_name == guardrail.guardrail_name for one in ours)
