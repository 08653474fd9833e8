"""`luthien-hooks report` on a file of records: the denominator first, then what each policy would have done."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from luthien_litellm_hooks.cli import app
from luthien_litellm_hooks.monitor.report import wilson
from luthien_litellm_hooks.recording.sqlite import RecordFile
from tests.support.record_file import line, row

DECISION = {"policy": "rules", "action": "block", "block": {"type": "tool_call", "name": "Bash"}, "reason": "dangerous"}
SEEN = 20


def judged(outcome: str = "complete", *, policy: str = "rules", answer: bool = False, **more: Any) -> dict[str, Any]:
    decisions = [{**DECISION, "policy": policy}] if outcome == "blocked" else []
    changed = {"request": False, "answer": answer}
    return {"policy": policy, "version": "v1", "outcome": outcome, "changed": changed, "decisions": decisions, **more}


@pytest.fixture
def records(tmp_path: Path) -> Path:
    path = tmp_path / "records.sqlite"
    blocked = [[judged("blocked", answer=True, milliseconds=float(number), cost=0.25)] for number in range(1, 8)]
    failed = [[judged("timeout", milliseconds=100.0)]]
    modified = [[judged(answer=True, milliseconds=8.0), judged(policy="other")]]
    plain = [[judged(milliseconds=9.0)] for _ in range(SEEN - 9)]
    broken = [[{"policy": "whole", "version": "v2", "error": "it needs the response itself"}]]
    reasons: list[Any] = ["late", "late", "unfinished"]
    observed = [*blocked, *failed, *modified, *plain, *broken, *reasons, None]
    told: list[dict[str, Any]] = [{} if one is None else {"observed": one} for one in observed]
    rows = [row(number, **one) for number, one in enumerate(told)]
    file = RecordFile(path)
    assert file.write([line(one) for one in rows]) == len(rows)
    return path


def run(records: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["report", "--records", str(records), *arguments], env={"COLUMNS": "120"})


def test_rates_have_their_interval_and_what_is_missing_its_reason(records: Path) -> None:
    done = run(records, "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["not_observed"] == {"late": 2, "unfinished": 1}
    assert report["observed"] == SEEN + 1
    rules, other, whole = report["policies"]
    assert [rules[name] for name in ("policy", "version", "seen", "blocked")] == ["rules", "v1", SEEN, 7]
    assert [rules[name] for name in ("modified", "failed")] == [1, 1]
    assert rules["rate"] == 7 / SEEN
    assert rules["interval"] == list(wilson(7, SEEN))
    assert rules["held_ms"] == {"p50": 9.0, "p95": 9.0}
    assert rules["cost"] == 1.75
    assert len(rules["examples"]) == 5
    assert rules["examples"][0]["reason"] == "Bash: dangerous (rules)"
    assert (other["seen"], other["blocked"]) == (1, 0)
    assert (whole["seen"], whole["rate"], whole["interval"]) == (0, None, None)
    assert whole["not_judged"] == {"it needs the response itself": 1}


def test_people_read_first_what_was_not_observed(records: Path) -> None:
    printed = run(records).stdout
    first, second, *rest = printed.splitlines()
    assert first == f"{SEEN + 1} responses observed, 3 not observed"
    assert second.startswith("  2 late: its observers took longer")
    text = "\n".join(rest)
    assert "18.1%-56.7%" in text
    assert "would have blocked: Bash: dangerous (rules)" in text
    assert "whole could not judge 1: it needs the response itself" in text


def test_a_policy_is_chosen_and_none_is_an_exit_code(records: Path) -> None:
    chosen = json.loads(run(records, "--json", "--policy", "other").stdout)["policies"]
    assert [one["policy"] for one in chosen] == ["other"]
    missing = run(records, "--policy", "noop")
    assert missing.exit_code == 1
    assert "No policy 'noop' has observed" in missing.stderr
    assert run(records, "--since", "never").exit_code == 2


def test_show_prints_what_observers_said(records: Path) -> None:
    def shown(response: str) -> str:
        return CliRunner().invoke(app, ["show", response, "--records", str(records)], env={"COLUMNS": "120"}).stdout

    assert "observed rules (v1) would have blocked after 1.0 ms" in shown("response-0")
    assert "Bash by rules" in shown("response-0")
    assert "would have changed the response" in shown("response-8")
    assert "could not judge: it needs the response itself" in shown(f"response-{SEEN}")
    assert "Not observed: its observers took longer" in shown(f"response-{SEEN + 1}")
    assert "bserved" not in shown(f"response-{SEEN + 4}")
