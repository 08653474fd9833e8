"""`luthien-hooks replay` on records that the plugin's own recorder wrote."""

import asyncio
import json
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from luthien_litellm_hooks.cli import app
from luthien_litellm_hooks.recording.digest import action_digest
from tests.support.judge import JudgeModel, rating
from tests.support.traffic import (
    NO_DEPLOYS,
    POLICIES,
    executor_of,
    policy_of,
    record_of,
    transactions,
    write_events,
    write_sqlite,
)

JSON = dict[str, Any]
TRANSCRIPTS = Path(__file__).parents[2] / "support" / "transcripts"
ONE_OF_EACH = 130
"""Transactions with each scene on each route, streamed and full."""
WRITERS: Mapping[str, Callable[[Path, Sequence[Mapping[str, Any]]], None]] = {
    "records.sqlite": write_sqlite,
    "events.jsonl": write_events,
}


@pytest.fixture(scope="module")
def rows() -> list[JSON]:
    return asyncio.run(transactions(ONE_OF_EACH, executor_of(*POLICIES)))


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in ("DATABASE_URL", "LITELLM_MASTER_KEY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("LUTHIEN_RECORDS", "nothing.sqlite")
    write_policy("same.yaml", *POLICIES)


def write_policy(name: str, *policies: JSON) -> str:
    Path(name).write_text(json.dumps({"policy": policy_of(*policies)}))
    return name


def replay(candidate: str, *options: str, place: str = "events.jsonl") -> Result:
    arguments = ["replay", candidate, "--from", place, *options]
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "120"})


def report(candidate: str, *options: str, place: str = "events.jsonl") -> JSON:
    done = replay(candidate, *options, "--json", place=place)
    assert done.exit_code == 0, (done.stderr, done.exception)
    return json.loads(done.stdout)


def changes(rows: Sequence[JSON], candidate: str, *options: str) -> list[JSON]:
    """The changes of a replay, as it writes them."""
    write_events(Path("events.jsonl"), rows)
    report(candidate, "--out", "changed.jsonl", *options)
    return [json.loads(line) for line in Path("changed.jsonl").read_text().splitlines()]


def of_scene(rows: Sequence[JSON], word: str) -> list[JSON]:
    return [row for row in rows if word in json.dumps(record_of(row)["original"]["request"])]


@pytest.mark.parametrize("place", list(WRITERS))
def test_the_policies_that_were_in_force_change_nothing(rows: list[JSON], place: str) -> None:
    WRITERS[place](Path(place), rows)
    made = report("same.yaml", place=place)
    assert (made["transactions"], made["not_replayed"], made["changed_transactions"]) == (len(rows), {}, 0)
    assert made["unchanged"] > 2 * len(rows)
    assert made["counterfactual"]["transactions"] == 0
    assert set(made["against"]["policies"]) == set(made["candidate"]["policies"])
    outcomes = Counter(record_of(row)["outcome"] for row in rows)
    assert min(outcomes[outcome] for outcome in ("complete", "blocked", "policy_error")) >= 8


def test_a_rule_more_changes_the_calls_that_it_is_about_and_nothing_else(rows: list[JSON]) -> None:
    made = changes(rows, write_policy("more.yaml", *POLICIES, NO_DEPLOYS))
    planted = {record_of(row)["transaction_id"] for row in of_scene(rows, "deploy")}
    assert {row["transaction"] for row in made} == planted
    assert len(made) == len(planted) >= 8
    for row in made:
        assert (row["change"], row["tool"], row["block"]) == ("newly_blocked", "deploy", 1)
        assert (row["before"], row["after"]["policy"]) == ({"verdict": "allow"}, "tool_rules")
    assert stat.S_IMODE(Path("changed.jsonl").stat().st_mode) == 0o600
    back = report("same.yaml", "--against", "more.yaml")
    assert (back["newly_allowed"], back["newly_blocked"], back["changed"]) == (len(planted), 0, 0)
    assert back["by_policy"] == [
        {"policy": "tool_rules", "about": "deploy", "newly_blocked": 0, "newly_allowed": len(planted), "changed": 0}
    ]


def test_a_policy_less_is_told_by_what_it_withheld_and_changed(rows: list[JSON]) -> None:
    without = [policy for policy in POLICIES if policy["class"] not in ("block_dangerous_commands", "secrets")]
    made = changes(rows, write_policy("less.yaml", *without))
    kinds = {
        (row["before"]["policy"], row["change"], row["before"]["verdict"], row["after"]["verdict"]) for row in made
    }
    assert kinds == {
        ("block_dangerous_commands", "newly_allowed", "block", "allow"),
        ("secrets", "changed", "modify", "allow"),
    }
    assert len([row for row in made if row["change"] == "newly_allowed"]) == 2 * len(of_scene(rows, "clean up"))


@pytest.mark.parametrize(
    ("candidate", "fails"),
    [("noop", {"newly-allowed": 1, "changed": 1}), ("same.yaml", {"newly-allowed": 0, "changed": 0})],
)
def test_a_change_can_fail_a_build(rows: list[JSON], candidate: str, fails: Mapping[str, int]) -> None:
    write_events(Path("events.jsonl"), rows)
    for change, code in fails.items():
        assert replay(candidate, "--fail-on", change).exit_code == code


def test_an_answer_to_another_request_is_counted_apart(rows: list[JSON]) -> None:
    """Without the policy that makes it cold, the provider would have got another request."""
    write_events(Path("events.jsonl"), rows)
    made = report(write_policy("warm.yaml", *POLICIES[:-1]))
    assert made["counterfactual"]["transactions"] == len(of_scene(rows, "be cold"))
    assert made["counterfactual"]["changed"] == len(of_scene(rows, "be cold"))
    of_requests = [row for row in made["by_policy"] if row["about"] == "request"]
    refused = len(of_scene(rows, "refuse")) + len(of_scene(rows, "answer yourself"))
    assert sum(row["newly_allowed"] for row in of_requests) == refused


def _without_texts(record: JSON) -> None:
    del record["original"], record["final"]


def _ended(outcome: str | None) -> Callable[[JSON], None]:
    def spoil(record: JSON) -> None:
        record["outcome"] = outcome

    return spoil


def _seal(record: JSON) -> None:
    record["sealed"] = "luthien:xyz"


def _truncated(record: JSON) -> None:
    record["original"]["answer"]["is_truncated"] = True


def _cut(record: JSON) -> None:
    record["original"]["request"]["system"] = "x" * 100_000 + "[7 more characters]"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_without_texts, "the texts are not stored"),
        (_ended("client_disconnected"), "the client left"),
        (_ended("provider_error"), "the provider failed"),
        (_ended(None), "the record was written before the response ended"),
        (_truncated, "the response is longer than its record"),
        (_cut, "a text of the request is longer than its record"),
        (_seal, "the record is sealed"),
    ],
)
def test_what_cannot_be_judged_again_is_counted_first(
    rows: list[JSON], spoil: Callable[[JSON], None], reason: str
) -> None:
    spoilt = json.loads(json.dumps(rows[0], default=str))
    spoil(record_of(spoilt))
    spoilt["startTime"] = rows[0]["startTime"]
    write_events(Path("events.jsonl"), [spoilt, *rows[1:6]])
    made = report("same.yaml")
    assert (made["not_replayed"], made["transactions"]) == ({reason: 1}, 5)
    lines = [line.split() for line in replay("same.yaml").stdout.splitlines() if line.strip()]
    assert lines[0] == ["not", "replayed", "transactions"]
    assert lines[2] == [*reason.split(), "1"]


@pytest.mark.parametrize("depth", [100, 700, 5_000])
def test_a_request_that_is_nested_deeply_spoils_no_other(rows: list[JSON], depth: int) -> None:
    write_events(Path("events.jsonl"), rows[:6])
    lines = Path("events.jsonl").read_text().splitlines()
    lines[1] = lines[1].replace('"request": {', '"request": {"deep": ' + '{"a":' * depth + "1" + "}" * depth + ", ", 1)
    Path("events.jsonl").write_text("\n".join(lines))
    made = report("same.yaml")
    assert made["transactions"] + sum(made["not_replayed"].values()) == 6
    assert made["transactions"] >= 5


def test_events_of_a_killed_worker_are_read_as_far_as_they_go(rows: list[JSON]) -> None:
    write_events(Path("events.jsonl"), rows[:6])
    content = Path("events.jsonl").read_text()
    Path("events.jsonl").write_text(content[: -len(content.splitlines()[-1]) // 2])
    made = report("same.yaml")
    assert (made["transactions"], made["changed_transactions"]) == (5, 0)
    assert made["not_replayed"] == {"the events end before the record": 1}
    assert made["notes"] == ["Lines that are no part of a transaction: 1 not a JSON object."]


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (["--limit", "3"], 3),
        (["--key", "agents", "--model", "scripted"], 20),
        (["--since", "2026-11-21T00:00:15"], 5),
        (["--outcome", "blocked"], 2),
    ],
    ids=str,
)
def test_the_transactions_are_chosen(rows: list[JSON], options: list[str], count: int) -> None:
    write_events(Path("events.jsonl"), rows[:20])
    assert report("same.yaml", *options)["transactions"] == count


def test_records_of_the_first_format_are_replayed_with_a_note(rows: list[JSON]) -> None:
    old = json.loads(json.dumps(rows[:4], default=str))
    for row, new in zip(old, rows, strict=False):
        record = record_of(row)
        row["startTime"] = new["startTime"]
        record["final"]["request"] = record["final"]["request"] or record["original"]["request"]
        for name in ("format", "path", "session"):
            del record[name]
    write_events(Path("events.jsonl"), old)
    made = report("same.yaml")
    assert (made["transactions"], made["changed_transactions"]) == (4, 0)
    assert made["notes"][0].startswith("Records of format 1, without the client's path and identity: 4.")


def test_people_see_the_versions_the_changes_and_the_reasons(rows: list[JSON]) -> None:
    write_events(Path("events.jsonl"), rows)
    done = replay(write_policy("more.yaml", *POLICIES, NO_DEPLOYS))
    words = " ".join(done.stdout.split())
    for part in (
        "Every transaction was replayed.",
        "more.yaml, version ",
        "newly blocked",
        "allow → block",
        "tool deploy",
    ):
        assert part in words
    assert "recorded: " in words
    assert "replaying" not in done.output, "a progress bar is for terminals"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.yaml"], "nothing.yaml"),
        (["blocks_dangerous"], "unknown policy"),
        (["same.yaml", "--config", "{}"], "--config has the settings of a single policy"),
        (["same.yaml", "--from", "same.yaml"], "has no recorded transactions"),
        (["same.yaml", "--from", "missing.jsonl"], "cannot be read"),
        (["same.yaml", "--judges", "cached"], "--cache FILE"),
        (["same.yaml", "--outcome", "blokked"], "unknown outcome"),
        (["same.yaml", "--key", "nobody"], "no matching transaction"),
        (["same.yaml", "--out", "missing/changed.jsonl"], "cannot be written"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_told(rows: list[JSON], arguments: list[str], message: str) -> None:
    write_events(Path("events.jsonl"), rows[:3])
    done = replay(*arguments)
    assert (done.exit_code, message in done.stderr) == (2, True), done.stderr


# Judges


@pytest.fixture
def judge() -> Iterator[JudgeModel]:
    with JudgeModel().served() as model:
        model.opinion = lambda _, shown: rating(0.7 if "deploy" in json.dumps(shown) else 0.2)
        yield model


def judged(model: JudgeModel, **config: Any) -> JSON:
    return {"class": "tool_call_judge", "config": {**model.config, **config}}


@pytest.fixture
def judged_rows(judge: JudgeModel) -> list[JSON]:
    """Transactions that a judge has rated."""
    rows = asyncio.run(transactions(ONE_OF_EACH, executor_of(judged(judge))))
    return rows[40:60]


def test_a_judge_is_asked_once_for_each_question(judge: JudgeModel, judged_rows: list[JSON]) -> None:
    write_events(Path("events.jsonl"), judged_rows)
    asked = len(judge.asked)
    candidate = write_policy("stricter.yaml", judged(judge, threshold=0.5, instructions="Is it a deployment?"))
    options = ("--judges", "cached", "--cache", "judge.jsonl")
    first = report(candidate, *options)
    calls = len(judge.asked) - asked
    assert calls == first["judges"]["asked"] == len(Path("judge.jsonl").read_text().splitlines()) > 0
    assert stat.S_IMODE(Path("judge.jsonl").stat().st_mode) == 0o600
    second = report(candidate, *options)
    assert len(judge.asked) == asked + calls, "the second time nobody is asked"
    assert second["judges"] == {"asked": 0, "reused": first["judges"]["asked"] + first["judges"]["reused"], "cost": 0.0}
    assert {**second, "judges": 0, "seconds": 0} == {**first, "judges": 0, "seconds": 0}


def test_a_sweep_over_recorded_scores_is_that_of_a_live_judge_and_asks_nobody(
    judge: JudgeModel, judged_rows: list[JSON]
) -> None:
    write_events(Path("events.jsonl"), judged_rows)
    for threshold in (0.1, 0.5, 0.65, 0.9):
        candidate = write_policy("sweep.yaml", judged(judge, threshold=threshold))
        live = report(candidate)
        asked = len(judge.asked)
        recorded = report(candidate, "--judges", "recorded")
        assert len(judge.asked) == asked
        assert recorded["judges"]["reused"] == live["judges"]["asked"] > 0
        assert {**recorded, "judges": 0, "seconds": 0} == {**live, "judges": 0, "seconds": 0}


def test_scores_of_another_judge_are_not_taken(judge: JudgeModel, judged_rows: list[JSON]) -> None:
    write_events(Path("events.jsonl"), judged_rows)
    asked = len(judge.asked)
    candidate = write_policy("other.yaml", judged(judge, instructions="Is it a deployment?"))
    made = report(candidate, "--judges", "recorded")
    assert len(judge.asked) == asked
    assert list(made["not_replayed"]) == ["the record has no score of the same judge"]


def test_a_judge_that_cannot_be_asked_is_no_verdict(judge: JudgeModel, judged_rows: list[JSON]) -> None:
    write_events(Path("events.jsonl"), judged_rows)
    gone = {**judged(judge)["config"], "api_base": "http://127.0.0.1:9/v1", "timeout_s": 0.2}
    made = report(write_policy("gone.yaml", {"class": "tool_call_judge", "config": gone}))
    assert made["not_replayed"]
    assert all(reason.startswith("a judge gave no reply (") for reason in made["not_replayed"])
    assert made["newly_blocked"] == 0


@pytest.mark.parametrize(("agent", "calls"), [("claude-code", 7), ("codex", 3)])
def test_an_agents_own_history_is_judged(agent: str, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was in force: all that the candidate withholds is new."""
    rule = {"action": "block", "tool": "*"}
    config = {"rules": [rule], "default": "allow"}
    candidate = write_policy("no_calls.yaml", {"class": "tool_rules", "config": config})
    folder = TRANSCRIPTS / agent
    made = report(candidate, place=str(folder))
    assert (made["newly_blocked"], made["newly_allowed"], made["changed"]) == (calls, 0, 0)
    assert made["not_replayed"] == {}
    assert report("noop", place=str(folder))["changed_transactions"] == 0
    monkeypatch.setenv("CODEX_HOME", str(Path("codex").absolute()))
    (Path("codex") / "sessions").parent.mkdir()
    (Path("codex") / "sessions").symlink_to(TRANSCRIPTS / "codex")
    assert report("noop", place="codex")["transactions"] > 0


# Labels


def write_labels(labels: Mapping[tuple[str, str], str]) -> None:
    lines = [
        json.dumps({"action": action_digest(tool, arguments), "label": label})
        for (tool, arguments), label in labels.items()
    ]
    Path("labels.jsonl").write_text("\n".join(lines))


def calls_in(rows: Sequence[JSON]) -> set[tuple[str, str]]:
    blocks = [block for row in rows for block in record_of(row)["original"]["answer"]["content"]]
    return {(block["name"], block["arguments"]) for block in blocks if block["type"] == "tool_call"}


def test_rates_count_the_calls_with_a_label(rows: list[JSON]) -> None:
    write_events(Path("events.jsonl"), rows)
    deploys = {call for call in calls_in(rows) if call[0] == "deploy"}
    others = sorted(calls_in(rows) - deploys)[:3]
    assert deploys
    write_labels(dict.fromkeys(deploys, "block") | dict.fromkeys(others, "allow"))
    candidate = write_policy("only.yaml", NO_DEPLOYS)
    made = report(candidate, "--labels", "labels.jsonl")["labelled"]
    assert made["after"] == {"true_positive": [len(deploys)] * 2, "false_positive": [0, len(others)]}
    assert made["before"]["true_positive"] == [0, len(deploys)]
    shown = " ".join(replay(candidate, "--labels", "labels.jsonl").stdout.split())
    assert "rates after stops 100.0% [" in shown
    assert "p (McNemar)" in shown


def test_a_threshold_is_found_for_a_false_positive_rate(judge: JudgeModel, judged_rows: list[JSON]) -> None:
    write_events(Path("events.jsonl"), judged_rows)
    beside = calls_in(of_scene(judged_rows, "deploy"))
    calls = calls_in(judged_rows)
    assert beside < calls
    write_labels({call: "block" if call in beside else "allow" for call in calls})
    candidate = write_policy("same.yaml", judged(judge))
    options = ("--judges", "recorded", "--labels", "labels.jsonl", "--target-fpr", "0")
    assert report(candidate, *options)["labelled"]["threshold"] == 0.7
    shown = " ".join(replay(candidate, *options).stdout.split())
    assert "threshold 0.7, for at most 0.00% of what to allow: stops 100.0%" in shown


def test_a_target_needs_labels(rows: list[JSON]) -> None:
    write_events(Path("events.jsonl"), rows)
    done = replay("noop", "--target-fpr", "0.01")
    assert (done.exit_code, "--target-fpr needs --labels" in done.stderr) == (2, True)
