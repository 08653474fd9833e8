"""Routes of ours below `/luthien`, which only the proxy's admins may use."""

from typing import Annotated

from fastapi import APIRouter, Depends
from litellm.proxy._types import LitellmUserRoles, UserAPIKeyAuth
from litellm.proxy.auth.user_api_key_auth import user_api_key_auth

from luthien_litellm_hooks.hooks.ungoverned import refusal

User = Annotated[UserAPIKeyAuth, Depends(user_api_key_auth)]
"""Who asks, as LiteLLM knows from the key."""


def is_admin(user: UserAPIKeyAuth) -> bool:
    """Whether the key is the master key, or that of a proxy admin; not of one who may only view."""
    return user.user_role == LitellmUserRoles.PROXY_ADMIN


def admin_router() -> APIRouter:
    """A router whose routes refuse all but admins."""
    return APIRouter(prefix="/luthien", tags=["luthien"], dependencies=[Depends(_admin)])


async def _admin(user: User) -> None:
    if not is_admin(user):
        raise refusal(403, "The policy is for the proxy's admins: use the master key.")
