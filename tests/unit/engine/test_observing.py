"""`enforce` and `share`: which policies act on a request, and which only observe it."""

import hashlib
import subprocess
import sys
from typing import Any

import pytest

from luthien_litellm_hooks import ConfigError, Identity, PolicyContext, Request
from luthien_litellm_hooks.config.settings import build_executor, load_settings
from luthien_litellm_hooks.engine.composition import Composition, selectors_of, stages_for, watchers_for

NOOP = {"class": "noop"}
SESSIONS = 10_000


def loaded(policy: dict[str, Any], **settings: Any) -> Composition:
    return build_executor(load_settings({"luthien": {"policy": policy, **settings}}, {})).composition


def of(request: Request, identity: Identity | None = None, transaction_id: str = "t") -> PolicyContext:
    return PolicyContext(transaction_id, request, identity=identity)


def names(composition: Composition, ctx: PolicyContext) -> tuple[list[str], list[str]]:
    """The names of the stages in force, and of those that observe."""
    return [one.name for one in stages_for(composition, ctx)], [one.name for one in watchers_for(composition, ctx)]


def test_enforce_of_a_composition_counts_for_all_of_it() -> None:
    members = [{"class": "all_caps"}, {"class": "noop", "enforce": False}, {"class": "prefer_uv"}]
    request = of(Request({"model": "m"}))
    cases: list[tuple[Any, tuple[list[str], list[str]]]] = [
        (True, (["all_caps", "prefer_uv"], ["noop"])),
        (False, ([], ["all_caps", "noop", "prefer_uv"])),
        ({"models": ["other"]}, ([], ["all_caps", "noop", "prefer_uv"])),
        ({"models": ["m"]}, (["all_caps", "prefer_uv"], ["noop"])),
    ]
    for enforce, expected in cases:
        policy = {"class": "serial", "config": {"policies": members}, "enforce": enforce}
        assert names(loaded(policy), request) == expected
        inner = {"class": "serial", "config": {"policies": members}}
        assert names(loaded(inner, enforce=enforce), request) == expected


def test_a_parallel_is_observed_as_a_whole() -> None:
    panel = {"class": "parallel", "config": {"policies": [NOOP, {"class": "all_caps"}]}, "enforce": False}
    composition = loaded(panel)
    [watcher] = watchers_for(composition, of(Request({})))
    assert watcher.name == "parallel"
    assert watcher.version.count("+") == 1
    assert names(watcher, of(Request({}))) == (["parallel"], [])  # it judges when it is put to work by itself


def test_what_a_when_leaves_out_is_not_observed_either() -> None:
    composition = loaded({**NOOP, "when": {"models": ["other"]}, "enforce": False})
    assert names(composition, of(Request({"model": "m"}))) == ([], [])
    assert selectors_of(loaded({**NOOP, "enforce": {"teams": ["red"]}})) == {"teams"}


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (
            {"class": "parallel", "config": {"policies": [{**NOOP, "enforce": False}]}},
            "policy.config.policies.0.enforce: a voter cannot observe alone",
        ),
        ({**NOOP, "enforce": "perhaps"}, "policy.enforce: "),
        ({**NOOP, "enforce": {"teem": "red"}}, "policy.enforce.teem: unknown key; did you mean 'teams'?"),
        ({**NOOP, "when": {"share": 2}}, "policy.when.share: "),
    ],
)
def test_a_wrong_enforce_is_named(policy: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        loaded(policy)
    assert said in str(error.value)


def drawn(share: float, name: str = "noop") -> set[int]:
    """The numbers of the sessions for which the policy is in force."""
    composition = loaded({"class": name, "enforce": {"share": share}})
    return {
        number
        for number in range(SESSIONS)
        if stages_for(composition, of(Request({}, session=f"session-{number}"), transaction_id=str(number)))
    }


def digest(sessions: set[int]) -> str:
    return hashlib.sha256(repr(sorted(sessions)).encode()).hexdigest()


def test_a_share_of_the_sessions_is_drawn_and_none_flips() -> None:
    tenth = drawn(0.1)
    assert abs(len(tenth) / SESSIONS - 0.1) < 0.01
    assert tenth < drawn(0.3)
    assert (drawn(0.0), len(drawn(1.0))) == (set(), SESSIONS)
    overlap = len(tenth & drawn(0.1, "prefer_uv")) / SESSIONS
    assert abs(overlap - 0.01) < 0.005  # another policy draws by itself
    code = "from tests.unit.engine.test_observing import *; print(digest(drawn(0.1)))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == digest(tenth)


def test_without_a_session_the_key_is_drawn_and_without_a_key_the_transaction() -> None:
    composition = loaded({**NOOP, "when": {"share": 0.5}})
    keys = [Identity(key_hash=f"{number:064x}") for number in range(200)]
    once = [bool(stages_for(composition, of(Request({}), key, "a"))) for key in keys]
    assert once == [bool(stages_for(composition, of(Request({}), key, "b"))) for key in keys]
    assert 60 < sum(once) < 140
    transactions = [bool(stages_for(composition, of(Request({}), None, str(number)))) for number in range(200)]
    assert 60 < sum(transactions) < 140
