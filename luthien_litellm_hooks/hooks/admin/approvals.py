"""Routes for people who decide about tool calls, and the store of the approvals."""

import json
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, assert_never, cast

from fastapi import APIRouter
from litellm.constants import LITELLM_PROXY_MASTER_KEY_ALIAS
from litellm.proxy import proxy_server
from litellm.proxy._types import SpecialProxyStrings, UserAPIKeyAuth
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from luthien_litellm_hooks.config.settings import ApprovalsSettings, Approvers, State
from luthien_litellm_hooks.errors import StateError
from luthien_litellm_hooks.hooks.admin import PersonRoute, User, is_admin
from luthien_litellm_hooks.hooks.routes import refusal
from luthien_litellm_hooks.policy.approvals import Approvals
from luthien_litellm_hooks.policy.asked_calls import (
    AskedCall,
    DecidedError,
    InvalidEditError,
    UnknownApprovalError,
    all_calls,
    decide,
    find_call,
)
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.grants import (
    Condition,
    Grant,
    NoGrantError,
    Scope,
    UnknownGrantError,
    all_grants,
    approve_with_grant,
    find_grant,
    revoke,
)
from luthien_litellm_hooks.policy.limits import off_loop
from luthien_litellm_hooks.recording.state import (
    Database,
    PostgresStore,
    RedisPlace,
    RedisStore,
    SqliteStore,
    Store,
    approvals_path,
)
from luthien_litellm_hooks.telemetry.redis_clients import RedisCommands
from luthien_litellm_hooks.wire.events import ToolCall, ToolForm

_NO_PERSON = SpecialProxyStrings.default_user_id.value
"""LiteLLM's user of the master key, and of keys without a user."""
_REMEMBERED = 128
"""Calls whose meaning in words is kept."""


def store_of(state: State) -> Callable[[], Store]:
    """Returns a function for the present store: with `auto` it is known when LiteLLM has connected to its own."""
    file, database, redis = SqliteStore(approvals_path(os.environ)), PostgresStore(_database), RedisStore(_redis)

    def present() -> Store:
        match state:
            case "sqlite":
                return file
            case "postgres":
                return database
            case "redis":
                return redis
            case "auto":
                return database if _database() is not None else redis if _redis_cache() is not None else file
            case _:
                assert_never(state)

    return present


def _database() -> Database | None:
    client: Any = cast(Any, proxy_server).prisma_client
    return None if client is None else cast(Database, client.db)


def _redis_cache() -> Any:
    """Returns LiteLLM's own Redis; None unless the operator has configured one."""
    return cast(Any, proxy_server).redis_usage_cache


def _redis() -> RedisPlace | None:
    cache = _redis_cache()
    return None if cache is None else RedisPlace(cast(RedisCommands, cache.init_async_client()), cache.namespace)


class _GrantBody(BaseModel):
    """Grant for later calls: exactly this one again, or all that are `like` it."""

    model_config = ConfigDict(extra="forbid")

    scope: Scope
    like: bool = False


class Decision(BaseModel):
    """Body of a decision. `arguments` replace those of the call; `message` is the agent's, `grant` for later calls."""

    model_config = ConfigDict(extra="forbid")

    decision: Literal["approve", "deny"]
    arguments: str | None = None
    message: Annotated[str | None, Field(max_length=2000)] = None
    grant: _GrantBody | None = None


class Desk:
    """Way for people to the calls that wait and to the grants, the same for the routes and for the monitor's page.

    Its methods raise a refusal with the status for what the user may not do, and for what does not count: 403 for the
    key that asks, and for keys of its user or team.
    """

    def __init__(self, approvals: Approvals, settings: Callable[[], ApprovalsSettings]) -> None:
        self._approvals = approvals
        self._settings = settings

    async def calls(self, user: UserAPIKeyAuth, *, every: bool) -> list[dict[str, Any]]:
        """Returns the calls that wait; with `every` the decided ones too."""
        _check_person(user, self._settings().approvers)
        try:
            calls = await all_calls(self._approvals.store)
        except StateError as error:
            raise refusal(503, f"The approvals cannot be read: {error}") from None
        return [await _shown(call, user) for call in calls if every or call.state == "pending"]

    async def call(self, user: UserAPIKeyAuth, id: str) -> dict[str, Any]:
        _check_person(user, self._settings().approvers)
        return await _shown(await _found(self._approvals.store, id), user)

    async def decide(self, user: UserAPIKeyAuth, id: str, body: Decision) -> dict[str, Any]:
        """Decides about a call, and returns it with the grant, if one was given."""
        _check_person(user, self._settings().approvers)
        if _is_asking(user, await _found(self._approvals.store, id)):
            raise refusal(403, "Another person must decide: this key, its user or its team asks.")
        if body.decision == "deny" and (body.arguments is not None or body.grant is not None):
            raise refusal(400, "`arguments` and `grant` are for an approval.")
        if body.arguments is not None and body.grant is not None:
            raise refusal(400, "A `grant` is for the call as it is, without other `arguments`.")
        try:
            decided, grant = await _decided(self._approvals.store, id, body, name_of(user))
        except UnknownApprovalError as error:
            raise refusal(404, str(error)) from None
        except DecidedError as error:
            raise refusal(409, str(error)) from None
        except (InvalidEditError, NoGrantError) as error:
            raise refusal(400, str(error)) from None
        except StateError as error:
            raise refusal(503, f"The decision could not be written: {error}") from None
        self._approvals.wake()
        return {**await _shown(decided, user), "grant": None if grant is None else grant.model_dump(mode="json")}

    async def grants(self, user: UserAPIKeyAuth) -> list[dict[str, Any]]:
        """Returns the grants that hold."""
        _check_person(user, self._settings().approvers)
        try:
            return [grant.model_dump(mode="json") for grant in await all_grants(self._approvals.store)]
        except StateError as error:
            raise refusal(503, f"The grants cannot be read: {error}") from None

    async def revoke(self, user: UserAPIKeyAuth, id: str) -> dict[str, Any]:
        """Revokes a grant, and returns it."""
        _check_person(user, self._settings().approvers)
        try:
            if _is_asking(user, await find_grant(self._approvals.store, id)):
                raise refusal(403, "Another person must decide: this key, its user or its team asked.")
            return (await revoke(self._approvals.store, id)).model_dump(mode="json")
        except UnknownGrantError as error:
            raise refusal(404, str(error)) from None
        except StateError as error:
            raise refusal(503, f"The grant could not be revoked: {error}") from None


def approval_routes(desk: Desk) -> APIRouter:
    """Returns `GET /luthien/approvals`, and `GET` and `POST /luthien/approvals/{id}`, for proxy admins and approvers.

    Only a `POST` decides.
    """
    router = APIRouter(prefix="/luthien", tags=["luthien"], route_class=PersonRoute)

    async def list_calls(user: User, state: Literal["pending", "all"] = "pending") -> Response:
        return _json({"approvals": await desk.calls(user, every=state == "all")})

    async def show(user: User, id: str) -> Response:
        return _json(await desk.call(user, id))

    async def decide_call(user: User, id: str, body: Decision) -> Response:
        return _json(await desk.decide(user, id, body))

    router.add_api_route("/approvals", list_calls, methods=["GET"], response_model=None)
    router.add_api_route("/approvals/{id}", show, methods=["GET"], response_model=None)
    router.add_api_route("/approvals/{id}", decide_call, methods=["POST"], response_model=None)
    return router


async def _decided(store: Store, id: str, body: Decision, by: str) -> tuple[AskedCall, Grant | None]:
    if body.grant is not None:
        from luthien_litellm_hooks.policies.rules.likeness import exact_condition, like_condition

        condition_of = like_condition if body.grant.like else exact_condition
        return await approve_with_grant(store, id, body.grant.scope, condition_of, by=by)
    decision = "approved" if body.decision == "approve" else "denied"
    return await decide(store, id, decision, by=by, message=body.message, arguments=body.arguments), None


def grant_routes(desk: Desk) -> APIRouter:
    """Returns `GET /luthien/grants` and `DELETE /luthien/grants/{id}`, for those who may decide."""
    router = APIRouter(prefix="/luthien", tags=["luthien"], route_class=PersonRoute)

    async def list_grants(user: User) -> Response:
        return _json({"grants": await desk.grants(user)})

    async def revoke_grant(user: User, id: str) -> Response:
        return _json(await desk.revoke(user, id))

    router.add_api_route("/grants", list_grants, methods=["GET"], response_model=None)
    router.add_api_route("/grants/{id}", revoke_grant, methods=["DELETE"], response_model=None)
    return router


def _check_person(user: UserAPIKeyAuth, approvers: Approvers) -> None:
    if not (is_admin(user) or is_approver(user, approvers)):
        raise refusal(403, "Approvals are for the proxy's admins, and for those in `approvals.approvers`.")


def is_approver(user: UserAPIKeyAuth, approvers: Approvers) -> bool:
    """Tells if the settings name the user, or the team of their key."""
    return user.user_id in approvers.users or not {user.team_id, user.team_alias}.isdisjoint(approvers.teams)


def _is_asking(user: UserAPIKeyAuth, call: AskedCall | Grant) -> bool:
    """Tells if a key, its user or its team asks. A user of LiteLLM's Admin UI has no key.

    With the name and the password in the proxy's environment such a user is LiteLLM's default one. The password may be
    the master key, so they do not decide what the master key asks.
    """
    key = user.token or user.api_key
    if key is None and user.user_id == _NO_PERSON:
        return call.key_hash in (None, LITELLM_PROXY_MASTER_KEY_ALIAS)
    if key is None:
        return user.user_id in (None, call.user_id)
    is_user = user.user_id is not None and user.user_id == call.user_id != _NO_PERSON
    return key == call.key_hash or is_user or (user.team_id is not None and user.team_id == call.team_id)


def name_of(user: UserAPIKeyAuth) -> str:
    """Returns the name of a person for records: the user's id, or what LiteLLM knows of the key."""
    user_id = None if user.user_id == _NO_PERSON else user.user_id
    return user_id or user.key_alias or ("the master key" if is_admin(user) else "unknown")


async def _found(store: Store, id: str) -> AskedCall:
    try:
        return await find_call(store, id)
    except UnknownApprovalError as error:
        raise refusal(404, str(error)) from None
    except StateError as error:
        raise refusal(503, f"The approvals cannot be read: {error}") from None


async def _shown(call: AskedCall, user: UserAPIKeyAuth) -> dict[str, Any]:
    is_pending = call.state == "pending"
    origin = tuple(sorted(call.origin.items()))
    # A long command takes the parsers their time.
    in_words = await off_loop(_in_words, call.tool, call.form, call.arguments, origin, is_pending)
    return {**call.model_dump(mode="json"), **in_words, "may_decide": is_pending and not _is_asking(user, call)}


async def permits(condition: Condition, call: ToolCall, ctx: PolicyContext) -> bool:
    """Tells if the condition of a grant holds for a call."""
    from luthien_litellm_hooks.policies.rules import likeness  # only now, as below

    return await likeness.permits(condition, call, ctx)


@lru_cache(maxsize=_REMEMBERED)
def _in_words(
    name: str, form: ToolForm, arguments: str, origin: tuple[tuple[str, str], ...], is_pending: bool
) -> Mapping[str, Any]:
    """Returns the effects of a call, and the condition of a grant for calls like it.

    Open pages ask again each second. The parsers are imported only now: they take 11 MB.
    """
    from luthien_litellm_hooks.policies.rules.effects import effects_of
    from luthien_litellm_hooks.policies.rules.likeness import like_condition, words_of

    call = ToolCall(None, name, arguments, form, dict(origin))
    like = like_condition(call) if is_pending else None
    return {"effects": effects_of(call), "like": None if like is None else words_of(like)}


def _json(value: object) -> Response:
    """Returns JSON in ASCII: a terminal shows an invisible character as its escape."""
    return Response(json.dumps(value), media_type="application/json")
