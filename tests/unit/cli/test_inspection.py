"""What `luthien-hooks show`, `list` and `diff` print of a record, and what they never let through to a terminal."""

import io
import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from luthien_litellm_hooks import Policy
from luthien_litellm_hooks.cli.show.printing import print_diff, print_list, print_transaction
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.monitor.facts import diff_lines
from luthien_litellm_hooks.monitor.outline import (
    Gap,
    Pair,
    compare,
    fold,
    outline,
    request_lines,
    response_lines,
    shared_ends,
)
from luthien_litellm_hooks.monitor.spend_logs import Filter, best_matches
from luthien_litellm_hooks.monitor.transactions import (
    AskedAgain,
    Record,
    Response,
    Transaction,
    read_transaction,
)
from luthien_litellm_hooks.telemetry.log_lines import escape
from luthien_litellm_hooks.testing.answers import Answer as Scripted
from luthien_litellm_hooks.testing.answers import Call, Say, Think
from tests.support.recorded import QUESTION, TIME, AsksPolitely, NoDeletes, Untouched, recorded, row

WIDTH = 100
HOSTILE = "\x1b[2J\x1b]0;owned\x07 [bold]no markup[/bold] :smile: \r\x9b31m \u202eevil\u2066 \u200b\U000e0041 \ud800"


async def transaction(policy: Policy, *, with_bodies: bool = True, **columns: Any) -> Transaction:
    return read_transaction(row(await recorded(policy, with_bodies=with_bodies), **columns))


def console(*, has_colours: bool = False, width: int = WIDTH) -> Console:
    return Console(
        file=io.StringIO(),
        width=width,
        force_terminal=has_colours,
        color_system="standard" if has_colours else None,
        highlight=False,
        markup=False,
        emoji=False,
    )


def written(on: Console) -> str:
    assert isinstance(on.file, io.StringIO)
    return on.file.getvalue()


async def test_a_second_call_of_the_model_is_shown_with_what_became_of_it() -> None:
    shown = await transaction(NoDeletes())
    assert shown.record is not None
    again = {"tools": ["Bash"], "result": "blocked", "reason": "no\x1b[2J", "milliseconds": 1203.4, "calls": 1}
    decided = [one.model_dump() for one in shown.record.decisions]
    fields = {**again, "tokens": 120, "cost": 0.0021, "decisions": decided}
    record = shown.record.model_copy(update={"asked_again": AskedAgain.model_validate(fields)})
    on = console()
    print_transaction(on, shown, record, is_full=False)
    words = r"Bash was withheld: blocked (no\x1b[2J) after 1,203 ms, 1 call, 120 tokens, $0.002100"
    assert f"asked again {words}" in written(on)
    assert written(on).count("it deletes a database") == 2


def shown(of: Transaction, *, is_full: bool = False, width: int = WIDTH) -> str:
    assert of.record is not None
    on = console(width=width)
    print_transaction(on, of, of.record, is_full=is_full)
    return written(on)


def changes(record: Record | None) -> str:
    assert record is not None
    assert record.original is not None
    assert record.final is not None
    on = console()
    print_diff(on, record.original, record.final)
    return written(on)


def in_order(text: str, parts: Sequence[str]) -> bool:
    """Whether the parts stand in the text, one after the other."""
    position = 0
    for part in parts:
        position = text.find(part, position)
        assert position >= 0, f"{part!r} is missing, or not in its place:\n{text}"
    return True


async def test_a_blocked_tool_call_is_shown_with_the_call_the_notice_who_decided_and_why() -> None:
    of = await transaction(NoDeletes(), startTime=TIME)
    assert of.transaction_id is not None
    assert in_order(
        shown(of),
        [
            of.transaction_id,
            of.response_id,
            "2026-11-21 12:34:56 UTC",
            "gpt-5-2026-01-01 (requested as gpt-5)",
            "build-agent (88dc28d0f030c55e",
            "/v1/chat/completions",
            "blocked after",
            "NoDeletes (3f2a9c11)",
            "block",
            "tool call bash (call_1) by NoDeletes, score 0.97, ",
            "it deletes a database",
            "message to the client: This command was not run.",
            "evidence: rm -rf",
            "request, unchanged",
            QUESTION,
            "original response",
            "final response",
            "The biggest folder",
            "tool call bash (call_1)",
            "[luthien] This command was not run.",
            "│ rm -rf /var/lib/postgresql",
            "finish reason: tool_calls",
            "finish reason: stop",
        ],
    )


async def test_a_changed_request_stands_side_by_side() -> None:
    lines = shown(await transaction(AsksPolitely())).splitlines()
    assert any("model: gpt-5 " in line and "~" in line and "model: gpt-5-mini" in line for line in lines)
    assert any(line.strip() == "response, unchanged" for line in lines)


async def test_changed_parts_are_coloured_and_equal_ones_are_not() -> None:
    of = await transaction(AsksPolitely())
    assert of.record is not None
    on = console(has_colours=True)
    print_transaction(on, of, of.record, is_full=False)
    line = next(line for line in written(on).splitlines() if "-mini" in line)
    assert "\x1b[31mmodel: gpt-5" in line
    assert "\x1b[32mmodel: gpt-5\x1b[0m\x1b[1;4;32m-mini" in line
    equal = next(line for line in written(on).splitlines() if "role: user" in line)
    assert "\x1b" not in equal


@pytest.mark.parametrize("width", [40, 79, 160])
async def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    for line in shown(await transaction(NoDeletes()), width=width).splitlines():
        assert len(line) <= width


async def test_where_the_texts_are_not_stored_it_says_how_to_store_them() -> None:
    text = " ".join(shown(await transaction(NoDeletes(), with_bodies=False)).split())
    assert "it deletes a database" in text
    assert "store_prompts_in_spend_logs: true" in text
    assert "record: {bodies: always}" in text
    assert QUESTION not in text
    assert "rm -rf" not in text


async def test_without_a_decision_it_says_so() -> None:
    assert "No policy decided anything." in shown(await transaction(Untouched()))


async def test_a_transaction_that_was_logged_before_its_end_is_unfinished() -> None:
    record = await recorded(Untouched()) | {"outcome": None}
    assert "unfinished" in shown(read_transaction(row(record)))


async def test_long_equal_parts_are_left_out_unless_all_is_asked_for() -> None:
    record = await recorded(NoDeletes())
    for side in ("original", "final"):
        record[side]["request"] = {"messages": [{"role": "user", "content": "\n".join(map(str, range(100)))}]}
    of = read_transaction(row(record))
    assert "│ 50" not in shown(of)
    assert in_order(shown(of), ["│ 10", "equal lines (--full shows them)", "│ 99"])
    assert in_order(shown(of, is_full=True), ["│ 10", "│ 50", "│ 99"])


async def test_a_diff_has_what_changed_and_nothing_else() -> None:
    record = (await transaction(NoDeletes())).record
    text = changes(record)
    lines = [line.rstrip() for line in text.splitlines()]
    assert "- tool call bash (call_1)" in lines
    assert "-     │ rm -rf /var/lib/postgresql" in lines
    assert f"+   [luthien] This command was not run. (transaction {record.transaction_id})" in lines
    assert "request" not in lines
    assert QUESTION not in text


async def test_a_list_has_a_line_for_each_transaction() -> None:
    blocked, asked = await transaction(NoDeletes(), startTime=TIME), await transaction(AsksPolitely())
    for width, letters in ((100, 8), (160, 36)):
        on = console(width=width)
        print_list(on, [blocked, asked])
        lines = written(on).splitlines()
        (of_blocked,) = [line for line in lines if str(blocked.transaction_id)[:letters] in line]
        (of_asked,) = [line for line in lines if str(asked.transaction_id)[:letters] in line]
        assert in_order(
            of_blocked, ["11-21 12:34:56", "blocked", "bash: it deletes a database", "gpt-5", "build-agent"]
        )
        assert "complete" in of_asked
        assert max(map(len, lines)) <= width


async def test_ids_in_a_list_are_long_enough_to_tell_them_apart() -> None:
    ids = ["0123456789-a", "0123456789-b", "aaaaaaaaaaaa"]
    records = [await recorded(Untouched(), transaction_id=one) for one in ids]
    on = console()
    print_list(on, [read_transaction(row(record)) for record in records])
    assert in_order(written(on), [f" {one} " for one in ids])


async def test_the_last_turns_of_a_request_stand_first_and_its_tools_are_names_unless_all_is_asked_for() -> None:
    record = await recorded(Untouched())
    turns = [{"role": "user", "content": f"turn {number}"} for number in range(3)]
    tools = [
        {"name": name, "input_schema": {"type": "object", "properties": {"deep": {}}}} for name in ("Bash", "Read")
    ]
    record["original"]["request"] = record["final"]["request"] = {"model": "m", "tools": tools, "messages": turns}
    of = read_transaction(row(record))
    assert in_order(shown(of), ["turn 2", "turn 1", "turn 0", "model: m", "tools: Bash, Read"])
    assert "input_schema" not in shown(of)
    assert in_order(shown(of, is_full=True), ["model: m", "input_schema", "deep", "turn 0", "turn 1", "turn 2"])


async def test_records_of_both_formats_are_read_alike() -> None:
    """In format 1 the final request was there twice, and there was no path."""
    record = await recorded(NoDeletes(), transaction_id="5b0c7a4e-93d1-4f6e-8a52-6c1f0e9d2b37")
    assert (record["format"], record["final"]["request"]) == (2, None)
    first = {name: value for name, value in record.items() if name not in ("format", "path", "session", "identity")}
    first["final"] = record["final"] | {"request": record["original"]["request"]}
    ids = {"request_id": "r", "litellm_call_id": "c", "startTime": TIME}
    texts = [shown(read_transaction(row(one, **ids))) for one in (record, first)]
    assert texts[0] == texts[1]
    assert "request, unchanged" in texts[0]


async def test_tools_that_a_policy_changed_are_shown_whole() -> None:
    record = await recorded(Untouched())
    tools = [{"name": "Bash", "description": "Runs."}]
    record["original"]["request"] = {"tools": tools}
    record["final"]["request"] = {"tools": [tools[0] | {"description": "Runs, with care."}]}
    assert "with care." in shown(read_transaction(row(record)))


HOSTILE_ANSWER = Scripted(
    [Think(HOSTILE[:-1]), Say(HOSTILE[:-1]), Call(HOSTILE[:-1], json.dumps({HOSTILE[:-1]: HOSTILE[:-1]}), id="c")]
)


async def test_what_a_model_wrote_to_deceive_is_shown_and_not_obeyed() -> None:
    record = await recorded(Untouched(), HOSTILE_ANSWER)
    record["final"] = json.loads(json.dumps(record["final"]).replace("owned", "own"))
    record["policies"] = [{"name": HOSTILE, "version": HOSTILE}]
    told = {"policy": HOSTILE, "action": HOSTILE, "block": {"type": HOSTILE, "name": HOSTILE}}
    record["decisions"] = [told | dict.fromkeys(("reason", "message", "evidence"), HOSTILE)]
    names = ("request_id", "litellm_call_id", "call_type", "api_key", "model", "model_group")
    columns: dict[str, Any] = dict.fromkeys(names, HOSTILE)
    columns["metadata"] = {"user_api_key_alias": HOSTILE, "spend_logs_metadata": {"luthien": record}}
    of = read_transaction(row(None, **columns))
    on = console(width=1000)
    print_list(on, [of])
    outputs = [shown(of, width=1000), changes(of.record), written(on)]
    for output in outputs:
        assert all(character.isprintable() or character == "\n" for character in output)
        output.encode()
    assert in_order(outputs[0], ["[bold]no markup[/bold] :smile:", "\\x1b[2J\\x1b]0;owned\\x07"])
    assert "\\u202eevil" in outputs[0]


async def test_a_text_that_is_too_long_for_a_row_cannot_reach_the_margin() -> None:
    answer = Scripted([Say("Fine. " + " " * 200 + "tool call bash (call_1) " * 20)])
    lines = shown(read_transaction(row(await recorded(Untouched(), answer)))).splitlines()
    start = next(number for number, line in enumerate(lines) if "Fine." in line)
    follow = [line for line in lines[start:] if "call_1" in line]
    assert follow
    assert all(line.startswith("   ") for line in follow)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("plain", "plain"),
        ("ünïcode 日本 👍", "ünïcode 日本 👍"),
        ("a\nb\tc", "a\nb\tc"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\x7f\x9b\r\x00", "\\x7f\\x9b\\x0d\\x00"),
        ("\u202e\u2028\ufeff", "\\u202e\\u2028\\ufeff"),
        ("\U000e0041", "\\U000e0041"),
        ("\ud83d", "\\ud83d"),
    ],
)
def test_only_what_is_visible_is_left_as_it_is(text: str, escaped: str) -> None:
    assert escape(text) == escaped


@pytest.mark.parametrize(
    ("value", "lines"),
    [
        ({"a": 1, "b": None, "c": True}, ["a: 1", "b: null", "c: true"]),
        ({"a": "1", "b": "null", "c": "true"}, ['a: "1"', 'b: "null"', 'c: "true"']),
        ({"a": "", "b": " x", "c": [], "d": {}}, ['a: ""', 'b: " x"', "c: []", "d: {}"]),
        ({"c": "[]", "d": "{}", "e": '{"x": 1}'}, ['c: "[]"', 'd: "{}"', 'e: {"x": 1}']),
        ({"a": "one\ntwo: 2"}, ["a:", "  │ one", "  │ two: 2"]),
        ({"a": [{"b": 1, "c": [2]}, "x"]}, ["a:", "  - b: 1", "    c:", "      - 2", "  - x"]),
        ({"two\nlines": "x"}, ["two\\nlines: x"]),
    ],
)
def test_an_outline_tells_values_apart(value: object, lines: list[str]) -> None:
    assert outline(value) == lines


def test_a_value_of_any_depth_has_an_outline() -> None:
    value: object = "deep"
    for _ in range(600):
        value = [value]
    (line,) = outline(value)
    assert "deep" in line


def test_the_conversation_stands_at_the_end_of_a_request() -> None:
    assert request_lines({"messages": ["hello"], "tools": [1]}) == ["tools:", "  - 1", "messages:", "  - hello"]
    assert request_lines({}) == []


def arguments_of(text: str) -> list[str]:
    answer = Response.model_validate({"content": [{"type": "tool_call", "name": "f", "arguments": text}]})
    title, *lines = response_lines(answer)
    assert title == "tool call f"
    return lines


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        ('{"path": "/etc", "deep": {"x": [1]}}', ["  path: /etc", "  deep:", "    x:", "      - 1"]),
        ("no JSON", ["  no JSON"]),
        ("two\nlines", ["  two", "  lines"]),
        ('{"a": 1, "a": 2}', ['  {"a": 1, "a": 2}']),
        ("[" * 100_000, ["  " + "[" * 100_000]),
        ("9" * 5000, ["  " + "9" * 5000]),
    ],
    ids=["an object", "no JSON", "lines", "a name twice", "too deep", "too long a number"],
)
def test_arguments_are_an_outline_only_if_they_are_json_without_doubt(arguments: str, lines: list[str]) -> None:
    assert arguments_of(arguments) == lines


@pytest.mark.parametrize(
    ("before", "after", "pairs"),
    [
        ("abc", "abc", ["aa", "bb", "cc"]),
        ("abc", "axc", ["aa", "bx", "cc"]),
        ("abc", "ac", ["aa", "b-", "cc"]),
        ("ac", "abc", ["aa", "-b", "cc"]),
        ("", "ab", ["-a", "-b"]),
        ("abcde", "bcxde", ["a-", "bb", "cc", "-x", "dd", "ee"]),
        ("", "", []),
    ],
)
def test_lines_are_compared_in_order(before: str, after: str, pairs: list[str]) -> None:
    assert [f"{pair.before or '-'}{pair.after or '-'}" for pair in compare(list(before), list(after))] == pairs


def test_texts_of_any_length_are_compared_in_time() -> None:
    before = ["same", *(f"{number} {number % 2 or 'old'}" for number in range(30_000)), "end"]
    after = ["same", *(f"{number} {number % 2 or 'new'}" for number in range(30_000)), "added", "end"]
    began = time.process_time()
    pairs = compare(before, after)
    assert time.process_time() - began < 5
    assert [pair.before for pair in pairs if pair.before is not None] == before
    assert [pair.after for pair in pairs if pair.after is not None] == after


EQUAL = [Pair(str(number), str(number)) for number in range(10)]
CHANGE = Pair("old", "new")


@pytest.mark.parametrize(
    ("pairs", "keeps_ends", "kept"),
    [
        ([*EQUAL, CHANGE, *EQUAL], False, [Gap(8), *EQUAL[8:], CHANGE, *EQUAL[:2], Gap(8)]),
        ([*EQUAL, CHANGE], True, [*EQUAL[:2], Gap(6), *EQUAL[8:], CHANGE]),
        ([CHANGE, *EQUAL, CHANGE], False, [CHANGE, *EQUAL[:2], Gap(6), *EQUAL[8:], CHANGE]),
        ([CHANGE, *EQUAL[:5], CHANGE], False, [CHANGE, *EQUAL[:5], CHANGE]),
        (EQUAL, True, [*EQUAL[:2], Gap(6), *EQUAL[8:]]),
        ([], True, []),
    ],
)
def test_equal_lines_far_from_a_change_are_left_out(
    pairs: list[Pair], keeps_ends: bool, kept: list[Pair | Gap]
) -> None:
    assert list(fold(pairs, 2, keeps_ends=keeps_ends)) == kept


def test_what_came_stands_before_what_left_in_a_diff() -> None:
    pairs = compare(["same", "a", "b", "same"], ["same", "x", "y", "z", "same"])
    assert diff_lines(pairs) == ["  same", "- a", "- b", "+ x", "+ y", "+ z", "  same"]


@pytest.mark.parametrize(
    ("before", "after", "shared"),
    [("abcd", "abXd", (2, 1)), ("aa", "aaa", (2, 0)), ("", "x", (0, 0)), ("x", "x", (1, 0))],
)
def test_ends_that_are_shared_are_counted_once(before: str, after: str, shared: tuple[int, int]) -> None:
    assert shared_ends(before, after) == shared


NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("chosen", "is_chosen"),
    [
        (Filter(), True),
        (Filter(outcome="blocked"), True),
        (Filter(outcome="complete"), False),
        (Filter(policy="NoDeletes"), True),
        (Filter(policy="Deletes"), False),
        (Filter(model="gpt-5"), True),
        (Filter(model="gpt-5-2026-01-01"), True),
        (Filter(model="gpt"), False),
        (Filter(key="build-agent"), True),
        (Filter(key="88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b"), True),
        (Filter(key="another"), False),
        (Filter(since=NOON), True),
        (Filter(since=NOON + timedelta(hours=1)), False),
        (Filter(outcome="blocked", model="other"), False),
    ],
)
async def test_a_filter_takes_what_has_all_that_is_asked_for(chosen: Filter, is_chosen: bool) -> None:
    assert chosen.matches(await transaction(NoDeletes())) is is_chosen


async def test_a_client_cannot_hide_a_transaction_behind_an_id_that_it_chose() -> None:
    blocked = await transaction(NoDeletes())
    wanted = str(blocked.transaction_id)
    chosen_call_id = await transaction(Untouched(), litellm_call_id=wanted)
    chosen_response_id = await transaction(Untouched(), request_id=wanted)
    assert best_matches([chosen_call_id, chosen_response_id, blocked], wanted) == [blocked]
    assert best_matches([chosen_call_id, chosen_response_id], wanted) == [chosen_response_id]
    assert best_matches([chosen_call_id], wanted) == [chosen_call_id]


@pytest.mark.parametrize("started", ["2026-11-21T12:34:56", "2026-11-21T12:34:56Z", "2026-11-21T13:34:56+01:00"])
def test_times_are_in_utc(started: str) -> None:
    assert read_transaction(row(None, startTime=started)).time.isoformat() == "2026-11-21T12:34:56+00:00"


@pytest.mark.parametrize("metadata", [None, {}, "", "no JSON", "[]", {"spend_logs_metadata": None}, '{"a": 1}'])
def test_a_row_without_a_record_is_read_as_such(metadata: object) -> None:
    assert read_transaction(row(None, metadata=metadata)).record is None


async def test_metadata_may_come_as_text() -> None:
    columns = row(await recorded(NoDeletes()))
    as_text = read_transaction(columns | {"metadata": json.dumps(columns["metadata"])})
    assert as_text == read_transaction(columns)


@pytest.mark.parametrize("record", [{}, {"transaction_id": 1}, {"transaction_id": "t", "decisions": [{}]}, "text"])
def test_a_record_of_another_form_is_told_with_its_row(record: Mapping[str, Any]) -> None:
    with pytest.raises(ConfigError, match="The row answer-1 has a form that this version cannot read: record"):
        read_transaction(row(record, request_id="answer-1"))


async def test_what_a_later_version_adds_to_a_record_stays_in_the_json() -> None:
    of = read_transaction(row(await recorded(NoDeletes()) | {"novelty": {"x": 1}}))
    assert json.loads(of.model_dump_json())["record"]["novelty"] == {"x": 1}
