"""What `luthien-hooks approvals` prints of a file, and how questions look in replays and reports."""

import asyncio
import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from luthien_litellm_hooks import ToolCall
from luthien_litellm_hooks.cli import app
from luthien_litellm_hooks.monitor.comparison import compare
from luthien_litellm_hooks.monitor.transactions import Observed, Record
from luthien_litellm_hooks.monitor.words import would_be
from luthien_litellm_hooks.policies.rules import ToolRulesConfig
from luthien_litellm_hooks.policies.rules.effects import effects_of
from luthien_litellm_hooks.policy.asked_calls import AskedCall
from luthien_litellm_hooks.recording.state import SqliteStore
from tests.unit.cli.test_inspection import HOSTILE

ID = "7f3k-92ax"


def asked(**fields: Any) -> AskedCall:
    known = {
        "id": ID,
        "digest": "d" * 64,
        "tool": "Bash",
        "form": "function",
        "arguments": json.dumps({"command": "git push --force"}),
        "policy": "tool_rules",
        "reason": "rules.0: command git push",
        "evidence": None,
        "transaction": "transaction-1",
        "session": "session-1",
        "model": "m",
        "words": "Push it.",
        "key_hash": "a" * 64,
        "key_alias": "agents",
        "user_id": None,
        "team_id": None,
        "team_alias": None,
        "asked_at": datetime.now(UTC),
        "valid_s": 3600.0,
    }
    return AskedCall.model_validate(known | fields)


def write(records: Path, *calls: AskedCall) -> None:
    store = SqliteStore(records.with_name("approvals.sqlite"))

    async def put() -> None:
        for call in calls:
            assert await store.put(f"approval/{call.digest}", call.model_dump_json(), call.valid_s, replacing=None)

    asyncio.run(put())
    store.close()


@pytest.fixture
def records(tmp_path: Path) -> Path:
    return tmp_path / "records.sqlite"


def run(records: Path, *arguments: str, code: int = 0) -> str:
    command = ["approvals", *arguments, "--records", str(records)]
    done = CliRunner().invoke(app, command, env={"COLUMNS": "100"})
    assert done.exit_code == code, done.output
    return done.stderr if code else done.stdout


def test_a_person_sees_all_of_a_call_and_decides_once(records: Path) -> None:
    write(records, asked())
    assert ID in run(records, "list")
    shown = run(records, "show", ID)
    for part in ("command: git push --force", "runs git push --force", "rules.0", "agents (aaaa", "Push it."):
        assert part in shown
    assert run(records, "approve", ID) == f"approved: Bash ({ID})\n"
    assert "is approved already" in run(records, "deny", ID, code=1)
    assert run(records, "list") == "No call waits.\n"
    assert "approved" in run(records, "list", "--all")
    assert "decided by " in run(records, "show", ID)


def test_an_unknown_id_and_a_file_that_is_absent_are_told(records: Path) -> None:
    assert "There are no approvals in" in run(records, "list", code=2)
    write(records)
    asyncio.run(SqliteStore(records.with_name("approvals.sqlite")).scan(""))
    assert run(records, "show", "none-such", code=1) == "there is no approval none-such, or its time is over\n"
    assert "cannot be read" in run(records, "approve", ID, "--arguments", str(records.parent / "none.json"), code=2)


def test_an_edit_is_shown_beside_the_models_arguments(records: Path, tmp_path: Path) -> None:
    write(records, asked())
    edited = tmp_path / "edited.json"
    edited.write_text('{"command": "git push"}')
    assert run(records, "approve", ID, "--arguments", str(edited)).endswith("as you edited it\n")
    assert json.loads(run(records, "show", ID, "--json"))["edited"] == '{"command": "git push"}'
    assert "edited them\n  command: git push\n" in run(records, "show", ID)


def test_a_grant_is_listed_printed_as_rules_and_revoked(records: Path) -> None:
    write(
        records,
        asked(arguments='{"command": "npm test"}', version="v1"),
        asked(
            id="9abc-defg", digest="e" * 64, tool="push\n\x1b[2Jx", arguments='{"branch": "\\u202emain"}', version="v1"
        ),
        asked(id="8abc-defg", digest="f" * 64, tool="patch", arguments="*** Begin Patch", form="custom", version="v1"),
    )
    assert run(records, "grants") == "There is no grant.\n"
    assert "commands that begin with npm test, " in run(records, "approve", ID, "--like")
    assert "exactly this call; session session-1, until" in run(records, "approve", "9abc-defg", "--session")
    run(records, "approve", "8abc-defg", "--session")
    listed = run(records, "grants")
    assert len(listed.splitlines()) == 3
    assert "key agents, until" in listed
    printed = run(records, "grants", "--yaml")
    assert all(not set("\x1b\u202e") & set(text) for text in (listed, printed))
    assert ": no rule says this\n" in printed
    rules = yaml.safe_load(printed)
    policy = ToolRulesConfig.model_validate({"rules": rules, "default": "block"})
    assert [(rule.action, rule.commands) for rule in policy.rules] == [("allow", ("npm test",)), ("allow", None)]
    [id, *_] = [grant["id"] for grant in json.loads(run(records, "grants", "--json"))["grants"]]
    assert run(records, "revoke", id).startswith(f"revoked: {id} Bash: commands that begin")
    assert "there is no grant" in run(records, "revoke", id, code=1)
    assert len(run(records, "grants").splitlines()) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--team"], "the call has no team"),
        (["--like", "--team"], "approve it alone"),
    ],
)
def test_a_grant_that_cannot_be_given_decides_nothing(records: Path, options: list[str], said: str) -> None:
    write(records, asked(arguments='{"command": "python3 x.py"}'))
    assert said in run(records, "approve", ID, *options, code=1)
    assert ID in run(records, "list")


@pytest.mark.parametrize("field", ["tool", "arguments", "words", "reason", "session", "model", "evidence", "key_alias"])
def test_nothing_of_a_hostile_call_reaches_the_terminal_as_it_is(records: Path, field: str) -> None:
    hostile = HOSTILE.encode("utf-8", "replace").decode()
    write(records, asked(**{field: hostile}))
    for arguments in (("list",), ("show", ID), ("show", ID, "--json")):
        printed = run(records, *arguments)
        assert not any(character in printed for character in "\x1b\x07\r\x9b\u202e\u2066\u200b\U000e0041"), arguments


def test_a_text_that_looks_like_ours_is_indented(records: Path) -> None:
    forged = "thanks\nstate  approved\neffects\n  runs ls"
    write(records, asked(words=forged, arguments=json.dumps({"command": "x\nstate  y"})))
    lines = [line.rstrip() for line in run(records, "show", ID).splitlines()]
    assert [line for line in lines if line.startswith("state")] == ["state        pending"]


def test_a_call_with_any_arguments_is_shown_in_time(records: Path) -> None:
    letters = random.Random(7).choices("ab \n'\"$(){}|;&<>\\", k=20_000)
    write(records, asked(arguments=json.dumps({"command": "".join(letters)})))
    assert "arguments" in run(records, "show", ID)


@pytest.mark.parametrize(
    ("call", "effects"),
    [
        (ToolCall(None, "Bash", '{"command": "cd x && git push -f > log"}'), ["runs cd x", "runs git push -f > log"]),
        (ToolCall(None, "Bash", '{"command": "mv \'a b\' c"}'), ["runs mv 'a b' c"]),
        (ToolCall(None, "Write", '{"file_path": "/tmp/x", "content": "y"}'), ["touches /tmp/x"]),
        (ToolCall(None, "WebFetch", '{"url": "https://example.com/a"}'), ["contacts example.com"]),
        (ToolCall(None, "Bash", "{"), ["has a part that the parser cannot read"]),
        (ToolCall(None, "shell", "ls", "custom"), ["runs ls"]),
        (ToolCall(None, "lookup", '{"a": 1}'), []),
    ],
)
def test_effects_are_what_rules_see(call: ToolCall, effects: list[str]) -> None:
    found = effects_of(call)
    assert [line for line in found if line in effects or not effects] == effects, found


# In replays and reports


def record(*, delivered: bool, approval: dict[str, Any] | None, action: str = "ask") -> Record:
    call = {"type": "tool_call", "id": "call_1", "name": "push", "arguments": "{}"}
    decision = {"policy": "p", "action": action, "block": call, "reason": "r", "approval": approval}
    answer = {"content": [call], "finish_reason": "tool_calls"}
    final = answer if delivered else {"content": [], "finish_reason": "stop"}
    return Record.model_validate(
        {
            "transaction_id": "t",
            "decisions": [decision] if action != "allow" else [],
            "original": {"request": {}, "answer": answer},
            "final": {"request": None, "answer": final},
        }
    )


APPROVED = {"id": ID, "state": "approved", "by": "alice", "digest": "d"}


def test_in_a_replay_a_question_is_a_verdict_of_its_own() -> None:
    before = record(delivered=True, approval=APPROVED)
    for after, change in (
        (record(delivered=False, approval=None), "unchanged"),
        (record(delivered=True, approval=None, action="allow"), "newly_allowed"),
        (record(delivered=False, approval=None, action="block"), "changed"),
    ):
        [_, of_call] = compare(before, before, after).compared
        assert (of_call.before.verdict, of_call.change) == ("ask", change)


def test_an_observed_question_is_no_block() -> None:
    decisions = [{"policy": "p", "action": "ask"}]
    asks = Observed.model_validate({"policy": "p", "outcome": "blocked", "decisions": decisions})
    blocks = Observed.model_validate(
        {"policy": "p", "outcome": "blocked", "decisions": [*decisions, {"policy": "p", "action": "block"}]}
    )
    assert (would_be(asks), would_be(blocks)) == ("would have asked a person", "would have blocked")
