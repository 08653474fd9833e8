"""Who asks, as LiteLLM knows them."""

import logging
from typing import Any, cast

from litellm.proxy import proxy_server
from litellm.proxy._types import UserAPIKeyAuth
from litellm.proxy.auth import auth_checks
from litellm.types.proxy.auth.auth_checks import UserNotFoundError

from luthien_litellm_hooks.policy.context import Identity

logger = logging.getLogger("luthien_litellm_hooks")


def read_identity(user: UserAPIKeyAuth | None) -> Identity:
    """Who LiteLLM says is asking, but for the teams of the key's owner."""
    if user is None:
        return Identity()
    return Identity(
        key_hash=user.token or user.api_key,
        key_alias=user.key_alias,
        key_maker_id=user.created_by,
        user_id=user.user_id,
        user_email=user.user_email,
        team_id=user.team_id,
        team_alias=user.team_alias,
        org_id=user.org_id,
        end_user_id=user.end_user_id,
    )


async def teams_of(user_id: str | None) -> tuple[str, ...] | None:
    """The ids and aliases of the teams that a user is in, from LiteLLM's own cache where they are there. None
    if they cannot be looked up."""
    proxy: Any = proxy_server
    if user_id is None or proxy.prisma_client is None:
        return ()
    found: dict[str, Any] = {"prisma_client": proxy.prisma_client, "user_api_key_cache": proxy.user_api_key_cache}
    try:
        user: Any = await auth_checks.get_user_object(user_id=user_id, user_id_upsert=False, **found)
        ids = cast(list[str], user.teams or []) if user is not None else []
        teams: list[Any] = [await auth_checks.get_team_object(team_id=team_id, **found) for team_id in ids]
    except UserNotFoundError:
        return ()  # as that of the master key
    except Exception:
        logger.exception("the teams of a user could not be looked up; policies for any team govern their request")
        return None
    return tuple(name for team in teams for name in (team.team_id, team.team_alias) if name is not None)
