"""People who may decide about a call, and those who ask themselves."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from fastapi import HTTPException
from litellm.constants import LITELLM_PROXY_MASTER_KEY_ALIAS
from litellm.proxy._types import LitellmUserRoles, ProxyException, UserAPIKeyAuth

from luthien_litellm_hooks.config.settings import ApprovalsSettings
from luthien_litellm_hooks.hooks.admin.approvals import Decision, Desk
from luthien_litellm_hooks.policies.rules.likeness import permits
from luthien_litellm_hooks.policy.approvals import Approvals, Terms
from luthien_litellm_hooks.policy.asked_calls import AskedCall, key_of
from luthien_litellm_hooks.recording.state import SqliteStore

DEFAULT = "default_user_id"
MASTER = LITELLM_PROXY_MASTER_KEY_ALIAS


def asked(key_hash: str | None, user_id: str | None, team_id: str | None) -> AskedCall:
    about = {"tool": "Bash", "form": "function", "arguments": "{}", "policy": "rules", "version": "1", "model": "m"}
    who = {"key_hash": key_hash, "key_alias": None, "user_id": user_id, "team_id": team_id, "team_alias": None}
    beside = {"reason": None, "evidence": None, "session": None, "words": "", "transaction": "t"}
    times = {"asked_at": datetime.now(UTC), "valid_s": 60.0}
    return AskedCall.model_validate({"id": "aaaa-bbbb", "digest": "d", **about, **who, **beside, **times})


def admin(key: str | None = None, user_id: str | None = None, team_id: str | None = None) -> UserAPIKeyAuth:
    return UserAPIKeyAuth(api_key=key, user_id=user_id, team_id=team_id, user_role=LitellmUserRoles.PROXY_ADMIN)


@pytest.mark.parametrize(
    ("call", "person", "may"),
    [
        (asked("k1", DEFAULT, None), admin("k2", DEFAULT), True),
        (asked("k1", "alice", None), admin("k1", "bob"), False),
        (asked("k1", "alice", None), admin("k2", "alice"), False),
        (asked("k1", None, "agents"), admin("k2", "bob", "agents"), False),
        (asked(MASTER, DEFAULT, None), admin(MASTER, DEFAULT), False),
        (asked("k1", "alice", None), admin(None, "bob"), True),
        (asked("k1", "alice", None), admin(None, "alice"), False),
        (asked("k1", DEFAULT, None), admin(None, DEFAULT), True),
        (asked(MASTER, DEFAULT, None), admin(None, DEFAULT), False),
        (asked(None, DEFAULT, None), admin(None, DEFAULT), False),
        (asked("k1", "alice", None), admin(None, None), False),
    ],
)
async def test_nobody_decides_about_a_call_of_their_own(
    call: AskedCall, person: UserAPIKeyAuth, may: bool, tmp_path: Path
) -> None:
    store = SqliteStore(tmp_path / "approvals.sqlite")
    assert await store.put(key_of(call.digest), call.model_dump_json(), 60, replacing=None)
    desk = Desk(Approvals(lambda: store, Terms, permits, list[AskedCall]().append), ApprovalsSettings)
    assert (await desk.call(person, call.id))["may_decide"] is may
    if may:
        assert (await desk.decide(person, call.id, Decision(decision="approve")))["state"] == "approved"
    else:
        with pytest.raises((HTTPException, ProxyException)) as refused:
            await desk.decide(person, call.id, Decision(decision="approve"))
        assert "403" in str(getattr(refused.value, "code", getattr(refused.value, "status_code", "")))
    store.close()
