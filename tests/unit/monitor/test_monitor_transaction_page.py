"""View of a transaction's page: what it tells, and what it cuts."""

from collections.abc import Mapping
from typing import Any

from luthien_litellm_hooks.monitor.pages.transaction import Line, Part, Shown, shown
from luthien_litellm_hooks.monitor.transactions import read_transaction
from tests.support.record_file import row

CALL = {"type": "tool_call", "id": "c1", "name": "Bash", "arguments": '{"command": "ls"}'}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def view(*, is_full: bool = False, **record: Any) -> Shown:
    found = read_transaction(row(0, **record))
    assert found.record is not None
    return shown(found, found.record, is_full=is_full)


def sides(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> Mapping[str, Any]:
    sides = {"original": before, "final": after}
    answers = {name: {"request": {}, "answer": {"content": content}} for name, content in sides.items()}
    return {**answers, "changed": {"request": False, "answer": before != after}}


def part(found: Shown, title: str) -> Part:
    return next(one for one in found.parts if one.title == title)


def size(lines: list[Line]) -> int:
    pieces = [piece for line in lines for piece in (line.before, line.after) if piece is not None]
    return sum(len(piece.head + piece.changed + piece.tail) for piece in pieces)


def test_a_change_is_marked_within_its_line() -> None:
    [_, changed] = part(view(**sides([text("one orchid here")], [text("one rose here")])), "response").lines
    assert changed.mark == "~"
    assert changed.before is not None
    assert changed.after is not None
    assert (changed.before.changed, changed.after.changed) == ("orchid", "rose")
    assert (changed.before.head, changed.before.tail) == ("  one ", " here")


def test_a_withheld_call_has_no_other_side() -> None:
    lines = part(view(**sides([text("hi"), CALL], [text("hi")])), "response").lines
    assert [(line.mark, line.after) for line in lines[2:]] == [("-", None)] * 2


def test_an_unchanged_part_says_so_and_one_that_is_not_recorded_too() -> None:
    found = view(**sides([text("hi")], [text("hi")]))
    assert (part(found, "response").note, part(found, "request").note) == ("unchanged", "nothing was recorded")
    same = {**sides([text("hi")], [text("hi")]), "changed": {"request": False, "answer": True}}
    assert part(view(**same), "response").note == "changed in a part that is not recorded"


def test_a_long_line_and_many_lines_are_cut_with_their_number() -> None:
    long = part(view(**sides([text("x" * 1_000_000)], [text("y" * 1_000_000)])), "response")
    assert size([*long.lines]) < 3_000
    assert [line.before.cut for line in long.lines if line.before and line.before.cut] == [999_002]
    many = "\n".join(f"line {number} {'z' * 500}" for number in range(5_000))
    other = many.replace("line", "row")
    cut = part(view(**sides([text(many)], [text(other)])), "response")
    assert size([*cut.lines]) < 45_000
    assert cut.cut == 5_001 - len(cut.lines)
    whole = part(view(is_full=True, **sides([text(many)], [text(other)])), "response")
    assert (len(whole.lines), whole.cut) == (5_001, 0)


def test_equal_lines_far_from_a_change_are_folded() -> None:
    before = "\n".join(str(number) for number in range(200))
    lines = part(view(**sides([text(before)], [text(before + "\nend")])), "response").lines
    assert sum(line.equal for line in lines) == 200 + 1 - 2 * 20
    full = part(view(is_full=True, **sides([text(before)], [text(before + "\nend")])), "response")
    assert not any(line.equal for line in full.lines)


def test_decisions_have_their_time_cost_and_words() -> None:
    spent = {"calls": 2, "tokens": 300, "cost": 0.0125}
    said = {"reason": "no", "message": "Not here.", "evidence": "ls", "score": 0.9, "milliseconds": 5.0, **spent}
    decision = {"policy": "judge", "action": "block", "block": {"type": "tool_call", "name": "Bash"}, **said}
    found = view(decisions=[decision], milliseconds=20.0, spent=spent, **sides([CALL], []))
    [one] = found.decisions
    assert (one.action, one.about) == ("block", "tool call Bash")
    assert one.by == "by judge, score 0.9, 5.0 ms, 2 calls, 300 tokens, $0.012500"
    assert [*one.texts] == [("", "no"), ("message to the client: ", "Not here."), ("evidence: ", "ls")]
    assert [(bar.title, bar.milliseconds) for bar in found.took] == [("judge: block", 5.0)]
    assert found.milliseconds == 20.0
    assert found.facts["judges"] == "2 calls, 300 tokens, $0.012500"


def test_observed_policies_and_a_second_call_are_told() -> None:
    again = {"tools": ["Bash"], "result": "complete", "milliseconds": 7.0}
    observed = [{"policy": "rules", "version": "v1", "outcome": "blocked", "milliseconds": 2.0}]
    found = view(observed=observed, asked_again=again)
    assert [(one.title, one.words) for one in found.others] == [
        ("Asked again", "Bash was withheld: complete after 7 ms"),
        ("Observed: rules (v1)", "would have blocked after 2.0 ms"),
    ]
    assert view(observed="late").notes == [
        "Not observed: its observers took longer than the writing of the record could wait."
    ]


def test_a_record_that_stays_closed_says_why() -> None:
    assert "another key" in view(sealed="x").notes[0]
    assert "no key" in view(sealed=None).notes[0]
    assert view(sealed="x").parts == []
    assert "record: {bodies: always}" in view(original=None, final=None).notes[0]


def test_many_decisions_are_bounded() -> None:
    many = [{"policy": "rules", "action": "allow", "milliseconds": 1.0}] * 500
    found = view(decisions=many)
    assert (len(found.decisions), found.more_decisions, len(found.took)) == (200, 300, 200)
    assert len(view(is_full=True, decisions=many).decisions) == 500
