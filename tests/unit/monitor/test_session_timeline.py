"""Timelines of sessions, from rows as the proxy writes them."""

import json
from datetime import timedelta
from typing import Any

from luthien_litellm_hooks.monitor.session import Part, Score, Turn, timeline
from luthien_litellm_hooks.monitor.transactions import Transaction, read_transaction
from tests.support.record_file import row

DELETE = {"type": "tool_call", "id": "c1", "name": "Bash", "arguments": json.dumps({"command": "rm -r build"})}
LIST = {"type": "tool_call", "id": "c2", "name": "Bash", "arguments": json.dumps({"command": "ls > out.txt"})}
SAID = {"type": "text", "text": "I clean up."}
ABOUT = {"type": "tool_call", "id": "c1", "name": "Bash"}
BLOCKED = {"policy": "rules", "action": "block", "block": ABOUT, "reason": "recursive deletion", "score": 0.9}
USER = {"role": "user", "content": "Tidy the folder."}
CALLED = {"role": "assistant", "content": None, "tool_calls": [{"id": "c2", "function": {"name": "Bash"}}]}
RESULT = {"role": "tool", "tool_call_id": "c2", "content": "build"}


def side(*content: dict[str, Any], request: Any = None) -> dict[str, Any]:
    return {"request": request, "answer": {"content": list(content), "finish_reason": "stop"}}


def stored(number: int, **record: Any) -> Transaction:
    return read_transaction(row(number, session="s", transaction_id=f"t{number}", outcome="complete", **record))


def turn(**record: Any) -> Turn:
    [made] = timeline([stored(0, **record)])
    return made


def test_turns_are_in_the_order_of_their_time_and_say_what_is_new() -> None:
    """The second request holds the first one and a tool's result; the third begins anew."""
    asked = [[USER], [USER, CALLED, RESULT], [USER, {"role": "user", "content": "And now?"}]]
    rows = [
        stored(9 - number, original=side(SAID, request={"messages": messages}), final=side(SAID))
        for number, messages in enumerate(asked)
    ]
    turns = timeline(reversed(rows))
    assert [one.transaction_id for one in turns] == ["t9", "t8", "t7"]
    assert [one.asked for one in turns] == ["Tidy the folder.", None, "And now?"]
    assert [one.origin for one in turns] == ["user", "tool", "user"]
    assert turns[1].time - turns[0].time == timedelta(seconds=1)


def test_parts_have_their_fate_and_calls_their_effects() -> None:
    notice = {"type": "text", "text": "[luthien] Bash was withheld (transaction t0)."}
    made = turn(
        original=side(SAID, DELETE, LIST, request={"messages": [USER]}),
        final=side(SAID, notice, LIST),
        decisions=[BLOCKED],
        changed={"request": False, "answer": True},
    )
    said, deleted, listed = made.parts
    assert said == Part("text", "I clean up.", "allow", True)
    assert (deleted.verdict, deleted.is_delivered, deleted.policy) == ("block", False, "rules")
    assert deleted.reason == "recursive deletion"
    assert "runs rm -r build" in deleted.effects
    assert (listed.verdict, listed.is_delivered) == ("allow", True)
    assert {"runs ls > out.txt", "touches out.txt"} <= set(listed.effects)
    assert made.decided == ["Bash: recursive deletion (rules)"]


def test_rewritten_parts_tell_what_was_delivered_instead() -> None:
    decision = {"policy": "caps", "action": "modify", "block": {"type": "text"}, "reason": "louder"}
    loud = {"type": "text", "text": "I CLEAN UP."}
    made = turn(original=side(SAID, request={"messages": [USER]}), final=side(loud), decisions=[decision])
    [part] = made.parts
    assert (part.verdict, part.is_delivered, part.instead, part.policy) == ("modify", True, "I CLEAN UP.", "caps")


def test_scores_of_all_policies_are_there_with_their_object() -> None:
    vote = {"policy": "judge", "action": "allow", "score": 0.25, "is_vote": True, "block": {"type": "text"}}
    made = turn(
        decisions=[BLOCKED, vote, {"policy": "whole", "action": "allow", "score": 0.5}],
        observed=[{"policy": "shy", "outcome": "blocked", "decisions": [{**BLOCKED, "policy": "shy", "score": 1}]}],
    )
    assert made.scores == [
        Score("rules", 0.9, "Bash", is_observed=False, is_vote=False),
        Score("judge", 0.25, "text", is_observed=False, is_vote=True),
        Score("whole", 0.5, "request", is_observed=False, is_vote=False),
        Score("shy", 1.0, "Bash", is_observed=True, is_vote=False),
    ]
    assert made.observed == ["shy would have blocked"]


def test_a_refused_request_says_why() -> None:
    refusal = {"policy": "gate", "action": "block", "reason": "too late"}
    request = {"messages": [USER]}
    made = turn(
        original={"request": request, "answer": {}},
        final=side({"type": "text", "text": "[luthien] No."}),
        decisions=[refusal],
    )
    assert made.refused == "too late"
    assert made.parts == []


def test_what_is_not_stored_is_left_out() -> None:
    closed = row(0, sealed="x", decisions=[{"policy": "rules", "action": "block"}])
    for name in ("original", "final"):
        del closed["metadata"]["spend_logs_metadata"]["luthien"][name]
    without = row(1)
    without["metadata"] = {}
    [made] = timeline(map(read_transaction, (closed, without)))
    assert (made.is_closed, made.asked, made.origin, made.parts) == (True, None, None, [])
    assert made.decided == ["request (rules)"]


def test_long_arguments_are_not_read() -> None:
    huge = {**LIST, "arguments": json.dumps({"command": "echo " * 10_000})}
    made = turn(original=side(huge), final=side(huge))
    assert made.parts[0].effects == ["is too long to be read here"]
