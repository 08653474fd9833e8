"""What the policies' `when` ask about, as far as looking it up takes time."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from litellm.proxy._types import UserAPIKeyAuth

from luthien_litellm_hooks.composition import selectors_of, stages_for
from luthien_litellm_hooks.errors import PolicyBlockedError
from luthien_litellm_hooks.hooks.client_request import body_of
from luthien_litellm_hooks.hooks.identity import teams_of
from luthien_litellm_hooks.hooks.in_force import InForce
from luthien_litellm_hooks.hooks.model_names import models_of
from luthien_litellm_hooks.hooks.request_data import alternatives_in
from luthien_litellm_hooks.policy.context import Decision, PolicyContext
from luthien_litellm_hooks.policy.request import Request

_REFUSED = "The request was refused: no policy of this proxy is for it."


async def select(context: PolicyContext, in_force: InForce, data: dict[str, Any], user: UserAPIKeyAuth | None) -> None:
    """Looks up for the context what these policies ask. Raises `PolicyBlockedError` if none of them is for the
    request, and such requests are to be refused."""
    asked = selectors_of(in_force.executor.composition)
    if "models" in asked:
        told = _with_models(context.request, data, user.team_id if user is not None else None)
        if context.final_request is context.request:
            context.final_request = told
        context.request = told
    if "teams" in asked:
        context.identity = replace(context.identity, user_teams=await teams_of(context.identity.user_id))
    if in_force.unselected == "refuse" and not stages_for(in_force.executor.composition, context):
        context.decisions.append(Decision("unselected", "block", reason="no policy is for it", message=_REFUSED))
        raise PolicyBlockedError(_REFUSED)


def _with_models(request: Request, data: dict[str, Any], team_id: str | None) -> Request:
    models: Collection[str] | None = models_of(data, body_of(data).get("model"), team_id)
    others = [models_of(one.applied_to(data), None, team_id) for one in alternatives_in(data)]
    alternatives = [replace(one, models=told) for one, told in zip(request.alternatives, others, strict=True)]
    return replace(request, models=models, alternatives=alternatives)
