"""Grants: decisions of a person that hold for more than one call, until they end or are revoked."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from luthien_litellm_hooks.errors import LuthienError
from luthien_litellm_hooks.policy.asked_calls import AskedCall, decide, find_call, new_id, origin_of, printable
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.recording.state import Entry, Store
from luthien_litellm_hooks.wire.events import ToolCall, ToolForm

Scope = Literal["session", "key", "team"]
_SESSION_S = 8 * 3600.0
_ALWAYS_S = 30 * 86_400.0
_PREFIX = "grant/"


class Condition(BaseModel):
    """Condition on a call: a digest of all that it does, or a `rule` of `tool_rules`.

    With a digest the rule is only for a config; it is None if no rule says the same. Under a rule a call has no other
    `arguments` than these, and runs no other `programs`, as they were written: a rule takes `./git` for `git`.
    """

    model_config = ConfigDict(frozen=True)

    exact: str | None = None
    arguments: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    rule: dict[str, Any] | None = None


class Grant(BaseModel):
    """A grant, as it is stored. `key_hash`, `session`, `user_id` and `team_id` are those of the call in `approval`."""

    model_config = ConfigDict(frozen=True)

    id: str
    scope: Scope
    tool: str
    form: ToolForm
    origin: dict[str, str]
    condition: Condition
    policy: str
    version: str
    session: str | None
    key_hash: str | None
    key_alias: str | None
    user_id: str | None
    team_id: str | None
    team_alias: str | None
    approval: str
    by: str
    given_at: datetime
    expires_at: datetime

    def is_for(self, ctx: PolicyContext, call: ToolCall) -> bool:
        """Tells if the tool, the policy and the caller are those of the grant."""
        who = ctx.identity
        is_tool = (self.tool, self.form, self.origin) == (printable(call.name), call.form, origin_of(call))
        is_policy = (self.policy, self.version) == (ctx.policy_name, ctx.policy_version)
        match self.scope:
            case "session":
                is_caller = self.session == ctx.request.session and self.key_hash == who.key_hash
            case "key":
                is_caller = self.key_hash == who.key_hash
            case "team":
                is_caller = self.team_id == who.team_id
        return is_tool and is_policy and is_caller and self.has_scope

    @property
    def has_scope(self) -> bool:
        """True if the session, key or team has a name: a missing one would be everybody's."""
        return {"session": self.session, "key": self.key_hash, "team": self.team_id}[self.scope] is not None


Permits = Callable[[Condition, ToolCall, PolicyContext], Awaitable[bool]]
"""Check of a call by a condition."""


class UnknownGrantError(LuthienError):
    """Grant without an entry: it never was, its time is over, or it was revoked."""


class NoGrantError(LuthienError):
    """Grant that cannot be given for this call."""


async def all_grants(store: Store) -> list[Grant]:
    """Returns the grants that hold, the oldest first. Raises `StateError`."""
    found = [grant for entry in await store.scan(_PREFIX) if (grant := _read(entry)) is not None]
    return sorted(found, key=lambda grant: grant.given_at)


async def approve_with_grant(
    store: Store, id: str, scope: Scope, condition_of: Callable[[ToolCall], Condition | None], *, by: str
) -> tuple[AskedCall, Grant]:
    """Approves a call that waits, and gives a grant for it. Without the decision none is given.

    Raises `NoGrantError`, and what `decide` raises.
    """
    asked = await find_call(store, id)
    condition = condition_of(asked.tool_call)
    if condition is None:
        raise NoGrantError("no condition covers calls like this one safely: approve it alone, or exactly as it is")
    seconds = _SESSION_S if scope == "session" else _ALWAYS_S
    given_at = datetime.now(UTC)
    grant = Grant(
        id=new_id(),
        scope=scope,
        condition=condition,
        approval=asked.id,
        by=by,
        given_at=given_at,
        expires_at=given_at + timedelta(seconds=seconds),
        **asked.model_dump(
            include={"tool", "form", "origin", "policy", "version", "session"}
            | {"key_hash", "key_alias", "user_id", "team_id", "team_alias"}
        ),
    )
    if not grant.has_scope:
        raise NoGrantError(f"the call has no {scope}, so nothing can be granted to it")
    decided = await decide(store, id, "approved", by=by)
    await store.put(f"{_PREFIX}{grant.id}", grant.model_dump_json(), seconds, replacing=None)
    return decided, grant


async def find_grant(store: Store, id: str) -> Grant:
    """Returns the grant with this id. Raises `UnknownGrantError`, `StateError`."""
    return (await _find(store, id))[0]


async def revoke(store: Store, id: str) -> Grant:
    """Ends a grant, and returns it. Raises `UnknownGrantError`, `StateError`."""
    grant, entry = await _find(store, id)
    await store.put(entry.key, "", 0.0, replacing=entry.version)
    return grant


async def _find(store: Store, id: str) -> tuple[Grant, Entry]:
    key = f"{_PREFIX}{id}"
    entry = (await store.get(key)).get(key)
    grant = None if entry is None else _read(entry)
    if entry is None or grant is None:
        raise UnknownGrantError(f"there is no grant {id}, or it has ended")
    return grant, entry


def _read(entry: Entry) -> Grant | None:
    """Returns the grant of an entry; None for one of another version of this package."""
    try:
        return Grant.model_validate_json(entry.value)
    except ValidationError:
        return None
