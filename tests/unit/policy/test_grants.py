"""A person's grant: for whom it holds, for which calls, how long, and that nothing else passes with it."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from luthien_litellm_hooks.policies.rules.likeness import exact_condition, like_condition
from luthien_litellm_hooks.policy.asked_calls import DecidedError, open_calls
from luthien_litellm_hooks.policy.grants import (
    Grant,
    NoGrantError,
    Scope,
    UnknownGrantError,
    all_grants,
    approve_with_grant,
    find_grant,
    revoke,
)
from luthien_litellm_hooks.testing.answers import Call
from tests.unit.policy.test_approvals import CALL, SAID, TERMS, Desk, told

HOUR, DAY = 3600.0, 86_400.0
TEST = Call("Bash", '{"command": "npm test"}')
UNIT = Call("Bash", '{"command": "npm test unit"}')


async def grant(desk: Desk, scope: Scope, *, like: bool = False) -> Grant:
    [asked, *_] = await desk.asked()
    condition_of = like_condition if like else exact_condition
    _, given = await approve_with_grant(desk.store, asked.id, scope, condition_of, by="alice")
    desk.approvals.wake()
    return given


async def granted(scope: Scope, call: Call = CALL, *, like: bool = False, **settings: Any) -> tuple[Desk, Grant]:
    """A desk at which a call was made, granted, and has left."""
    desk = Desk(terms=replace(TERMS, hold_s=60), **settings)
    asking = asyncio.create_task(desk.answer(SAID, call))
    given = await grant(desk, scope, like=like)
    assert len((await asking).calls) == 1
    desk.terms = replace(TERMS, hold_s=0)
    return desk, given


async def passes(desk: Desk, call: Call = CALL, **other: Any) -> bool:
    """Whether the call passes, to a worker of these clients, without a question."""
    known = {name: getattr(desk, name) for name in ("store", "terms", "key", "team", "session", "version")}
    before = len(await open_calls(desk.store))
    got = await Desk(**{**known, **other}).answer(SAID, call)
    assert bool(got.calls) == (len(await open_calls(desk.store)) == before)
    return bool(got.calls)


def test_a_granted_call_passes_as_often_as_it_is_made_and_its_record_names_the_grant() -> None:
    async def main() -> None:
        desk, given = await granted("session")
        for _ in range(3):
            got = await desk.answer()
            assert len(got.calls) == 1
            expected = {"state": "approved", "by": "alice", "grant": given.id, "id": given.approval}
            assert {name: got.approval[name] for name in expected} == expected
        assert await open_calls(desk.store) == []
        events = [data for name, data in desk.observed.events if name == "transaction.approval_decided"]
        assert [data["state"] for data in events] == ["approved", *["granted"] * 3]
        assert {data["grant"] for data in events} == {None, given.id}
        states = [labels["state"] for name, _, labels in desk.observed.metrics if name == "luthien_approvals_total"]
        assert states == ["approved", *["granted"] * 3]

    told(main)


SOMEBODY_ELSE = {"session": "session-2", "key": "b" * 64, "team": "team-2"}


@pytest.mark.parametrize(
    ("scope", "holds_for"),
    [("session", {"team"}), ("key", {"session", "team"}), ("team", {"session", "key"})],
    ids=["session", "key", "team"],
)
@pytest.mark.parametrize("other", SOMEBODY_ELSE)
def test_a_grant_holds_for_its_session_key_or_team(scope: Scope, holds_for: set[str], other: str) -> None:
    async def main() -> None:
        desk, _ = await granted(scope, team="team-1")
        assert await passes(desk, **{other: SOMEBODY_ELSE[other]}) == (other in holds_for)
        assert await passes(desk)

    told(main)


@pytest.mark.parametrize("scope", ["session", "key", "team"])
def test_another_version_of_the_policy_asks_again(scope: Scope) -> None:
    async def main() -> None:
        desk, _ = await granted(scope, team="team-1")
        assert not await passes(desk, version="v2")
        assert await passes(desk)

    told(main)


@pytest.mark.parametrize(("scope", "seconds"), [("session", 8 * HOUR), ("key", 30 * DAY), ("team", 30 * DAY)])
def test_a_grant_ends(scope: Scope, seconds: float) -> None:
    async def main() -> None:
        desk, given = await granted(scope, team="team-1")
        await asyncio.sleep(seconds - 60)
        assert await passes(desk)
        await asyncio.sleep(120)
        assert await all_grants(desk.store) == []
        assert not await passes(desk)
        with pytest.raises(UnknownGrantError):
            await find_grant(desk.store, given.id)

    told(main)


def test_a_revoked_grant_holds_no_longer() -> None:
    async def main() -> None:
        desk, given = await granted("key")
        assert (await revoke(desk.store, given.id)).id == given.id
        assert not await passes(desk)
        with pytest.raises(UnknownGrantError):
            await revoke(desk.store, given.id)

    told(main)


def test_a_grant_of_like_calls_covers_them_and_no_others() -> None:
    async def main() -> None:
        desk, _ = await granted("key", TEST, like=True)
        assert await passes(desk, UNIT)
        assert await passes(desk, UNIT, session="session-2")
        for command in ("npm test; curl evil.example", "npm test $(evil)", "npm test\\nevil", "npm exec evil"):
            assert not await passes(desk, Call("Bash", f'{{"command": "{command}"}}'))
        assert not await passes(desk, Call("Bash2", '{"command": "npm test"}'))
        assert not await passes(desk, Call("bash", '{"command": "npm test"}'), session="session-2")

    told(main)


def test_an_exact_grant_covers_no_like_call() -> None:
    async def main() -> None:
        desk, _ = await granted("key", TEST)
        assert not await passes(desk, UNIT)

    told(main)


def test_all_that_wait_for_the_same_call_leave_with_one_grant() -> None:
    async def main() -> None:
        desk = Desk()
        workers = [desk, Desk(store=desk.store)]
        asking = [asyncio.create_task(worker.answer()) for worker in workers for _ in range(2)]
        await asyncio.sleep(5)
        await grant(desk, "session")
        workers[1].approvals.wake()
        done = await asyncio.gather(*asking)
        assert all(len(one.calls) == 1 and one.seconds < 10 for one in done)
        assert len({one.approval.get("grant") for one in done}) == 2

    told(main)


def test_a_call_that_waited_before_the_grant_passes_when_it_is_made_again() -> None:
    async def main() -> None:
        desk = Desk(terms=replace(TERMS, hold_s=0))
        await desk.answer(SAID, UNIT)
        await desk.answer(SAID, TEST)
        waiting = await open_calls(desk.store)
        [asked] = [one for one in waiting if one.arguments == TEST.arguments]
        await approve_with_grant(desk.store, asked.id, "session", like_condition, by="alice")
        assert await passes(desk, UNIT)

    told(main)


def test_a_denied_call_stays_denied_beside_a_grant() -> None:
    async def main() -> None:
        desk, _ = await granted("session", TEST)
        await desk.answer(SAID, UNIT)
        await desk.decide("denied")
        await desk.answer(SAID, Call("Bash", '{"command": "npm test e2e"}'))
        await grant(desk, "session", like=True)
        assert await passes(desk, TEST)
        got = await desk.answer(SAID, UNIT)
        assert (got.calls, got.approval["state"]) == ([], "denied")

    told(main)


def test_a_grant_that_has_no_scope_is_not_given_and_decides_nothing() -> None:
    async def main() -> None:
        desk = Desk(session=None, terms=replace(TERMS, hold_s=0))
        await desk.answer()
        for scope in ("session", "team"):
            with pytest.raises(NoGrantError, match=f"no {scope}"):
                await grant(desk, scope)
        with pytest.raises(NoGrantError, match="no condition"):
            await grant(desk, "key", like=True)
        assert len(await open_calls(desk.store)) == 1
        assert await all_grants(desk.store) == []

    told(main)


def test_a_decided_call_gets_no_grant() -> None:
    async def main() -> None:
        desk = Desk(terms=replace(TERMS, hold_s=0))
        await desk.answer()
        asked = await desk.decide("denied")
        with pytest.raises(DecidedError):
            await approve_with_grant(desk.store, asked.id, "key", exact_condition, by="mallory")
        assert await all_grants(desk.store) == []

    told(main)


def test_a_store_that_is_down_grants_nothing() -> None:
    async def main() -> None:
        desk, _ = await granted("session")
        desk.store.is_down = True
        got = await desk.answer()
        assert (got.calls, got.approval["state"]) == ([], "unavailable")

    told(main)
