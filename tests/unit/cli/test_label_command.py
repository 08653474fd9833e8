"""`luthien-hooks label`: labels of actions in a file of the operator's."""

import json
import os
import pty
import subprocess
import sysconfig
import termios
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from luthien_litellm_hooks.cli import app
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.monitor.labels import Label, read_labels
from luthien_litellm_hooks.recording.digest import action_digest
from luthien_litellm_hooks.recording.sqlite import RecordFile
from tests.support.record_file import line, row
from tests.support.waiting import wait_until

LS, CAT = ("Bash", '{"command": "ls"}'), ("Read", '{"file_path": "/etc/hosts"}')


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOGNAME", "alice")
    return tmp_path


def store(place: Path, *calls: tuple[str, str], transaction_id: str = "11112222-aaaa") -> None:
    content = [{"type": "text", "text": "I look."}]
    content += [{"type": "tool_call", "id": "1", "name": name, "arguments": arguments} for name, arguments in calls]
    side = {"request": {}, "answer": {"content": content, "finish_reason": "stop"}}
    file = RecordFile(place / "records.sqlite")
    file.write([line(row(1, transaction_id=transaction_id, original=side, final={**side, "request": None}))])
    file.close()


def label(*words: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(app, ["label", *words, "--records", "records.sqlite"], input=typed)


def lines(file: str = "labels.jsonl") -> list[dict[str, Any]]:
    return [json.loads(text) for text in Path(file).read_text().splitlines()]


def action(call: tuple[str, str]) -> str:
    return action_digest(*call)


def test_the_only_call_of_a_response_is_labelled(place: Path) -> None:
    store(place, LS)
    result = label("1111", "allow", "--note", "harmless")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == 'allow  Bash {"command": "ls"}\n'
    [written] = lines()
    assert written.pop("at").endswith("Z")
    assert written == {
        "action": action(LS),
        "label": "allow",
        "by": "alice",
        "note": "harmless",
        "transaction": "11112222-aaaa",
        "block": 1,
    }


def test_of_several_calls_one_is_named(place: Path) -> None:
    store(place, LS, CAT)
    unclear = label("last", "block")
    assert unclear.exit_code == 1
    assert unclear.stderr.splitlines() == [
        "The response has 2 calls. Name one with --block:",
        '  1  Bash {"command": "ls"}',
        '  2  Read {"file_path": "/etc/hosts"}',
    ]
    assert not Path("labels.jsonl").exists()
    assert label("last", "block", "--block", "2", "--file", "own.jsonl").exit_code == 0
    assert [(one["action"], one["block"]) for one in lines("own.jsonl")] == [(action(CAT), 2)]
    assert label("last", "block", "--block", "3").stderr == "There is no call 3: the response has 2.\n"


def test_a_label_holds_for_each_repetition_and_is_written_once(place: Path) -> None:
    store(place, ("Bash", '{ "command" : "ls" }'))
    assert label("last", "allow").exit_code == 0
    again = label("last", "allow")
    assert (again.exit_code, again.stdout) == (
        0,
        'allow  Bash { "command" : "ls" }  (line 1 of labels.jsonl says so already)\n',
    )
    assert len(lines()) == 1
    assert read_labels(Path("labels.jsonl")).of(*LS) == "allow"
    assert read_labels(Path("labels.jsonl")).of(*CAT) is None


def test_the_opposite_of_a_label_is_not_added(place: Path) -> None:
    store(place, LS)
    label("last", "allow")
    result = label("last", "block")
    assert result.exit_code == 1
    assert result.stderr == (
        'labels.jsonl: line 1 by alice says allow of Bash {"command": "ls"}. To change it, delete that line.\n'
    )
    assert len(lines()) == 1


def test_duplicates_and_contradictions_in_the_file_are_told(place: Path) -> None:
    store(place, LS)
    made = [Label(action=action(call), label=verdict) for call, verdict in ((LS, "allow"), (CAT, "block"))]
    made += [made[1], Label(action=action(LS), label="block"), made[0]]
    Path("labels.jsonl").write_text("\n\n".join(one.model_dump_json(exclude_none=True) for one in made))
    labels = read_labels(Path("labels.jsonl"))
    assert (labels.of(*LS), labels.of(*CAT)) == (None, "block")
    result = label("last", "allow")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "labels.jsonl: lines 1 and 7 contradict each other: neither counts",
        "labels.jsonl: line 5 repeats line 3",
        'labels.jsonl: lines 1 and 7 are about Bash {"command": "ls"}. Delete one of them.',
    ]


def test_a_line_is_added_behind_one_without_an_end(place: Path) -> None:
    store(place, LS)
    Path("labels.jsonl").write_text(json.dumps({"action": action(CAT), "label": "block", "own": 1}))
    assert label("last", "allow").exit_code == 0
    assert [one["label"] for one in lines()] == ["block", "allow"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{}", "labels.jsonl:1: this is not a label: action: Field required"),
        ("{", "labels.jsonl:1: this is not a label: Invalid JSON"),
        ('{"action": "' + "0" * 64 + '", "label": "deny"}', "labels.jsonl:1: this is not a label: label: Input should"),
        ('{"action": "abc", "label": "block"}', "labels.jsonl:1: this is not a label: action: String should match"),
    ],
)
def test_a_broken_file_is_left_alone(place: Path, text: str, complaint: str) -> None:
    store(place, LS)
    Path("labels.jsonl").write_text(text)
    result = label("last", "allow")
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert Path("labels.jsonl").read_text() == text


def test_what_cannot_be_labelled_is_said(place: Path) -> None:
    store(place)
    assert label("last", "allow").stderr == "The response has no tool call: only actions have labels.\n"
    assert label("last", "deny").stderr == "unknown label 'deny': it is one of allow, block.\n"
    assert label("9999", "allow").exit_code == 1
    assert label("last").exit_code == 2
    with pytest.raises(ConfigError, match="cannot be read"):
        read_labels(place / "missing.jsonl")


def changes(*calls: tuple[str, str]) -> None:
    rows = [
        {"transaction": f"t{number}", "block": 1, "tool": name, "arguments": arguments, "now": "block"}
        for number, (name, arguments) in enumerate(calls)
    ]
    Path("changed.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


def test_the_calls_of_a_replay_are_labelled_with_a_key_each(place: Path) -> None:
    other = ("Bash", '{"command": "date"}')
    changes(LS, CAT, LS, other, ("Bash", "{}"))
    result = label("--from", "changed.jsonl", typed="axbsq")
    assert (result.exit_code, result.stderr) == (0, "")
    assert [(one["action"], one["label"], one["transaction"]) for one in lines()] == [
        (action(LS), "allow", "t0"),
        (action(CAT), "block", "t1"),
    ]
    assert "  now: block" in result.stdout
    assert result.stdout.count('"ls"') == 2  # shown, and told: the repetition needs no key


def test_a_file_of_changes_that_is_none_is_told_with_its_line(place: Path) -> None:
    Path("changed.jsonl").write_text('{"tool": "Bash", "arguments": "{}"}\n{"tool": 5}\n')
    result = label("--from", "changed.jsonl", typed="a")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("changed.jsonl:2: this is not a row of changes:")


def test_keys_are_read_from_a_terminal_one_by_one(place: Path) -> None:
    changes(LS, CAT)
    command = [Path(sysconfig.get_path("scripts")) / "luthien-hooks", "label", "--from", "changed.jsonl"]
    ours, theirs = pty.openpty()

    def waits_for_a_key() -> bool:
        return not termios.tcgetattr(theirs)[3] & termios.ICANON

    with subprocess.Popen(command, stdin=theirs, stdout=subprocess.DEVNULL) as process:
        try:
            for number, key in enumerate((b"b", b"a")):
                wait_until(lambda number=number: number == 0 or (place / "labels.jsonl").exists())
                wait_until(waits_for_a_key)
                os.write(ours, key)
            assert process.wait(60) == 0
        finally:
            process.kill()
            os.close(ours)
            os.close(theirs)
    assert [one["label"] for one in lines()] == ["block", "allow"]
