"""The file of labels, as the command and the pages write it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from luthien_litellm_hooks.cli.app import label as label_command
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.monitor.labels import (
    USUAL_FILE,
    Added,
    Verdict,
    add_label,
    calls_of,
    label_now,
    labels_if_any,
    read_labels,
    verdict_of,
)
from luthien_litellm_hooks.monitor.transactions import Record

LS = ("Bash", '{"command": "ls"}')


def added(file: Path, verdict: Verdict, call: tuple[str, str] = LS, note: str | None = None) -> Added:
    return add_label(file, label_now(verdict, call, by="alice", note=note, transaction="t", number=1), call[0])


def test_a_label_is_written_once_and_its_opposite_refused(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    assert labels_if_any(file).of(*LS) is None
    assert added(file, "block") == Added(complaints=[])
    assert added(file, "block") == Added(known=1, complaints=[])
    refused = added(file, "allow").refused
    assert refused == f"{file}: line 1 by alice says block of Bash. To change it, delete that line."
    assert read_labels(file).of(*LS) == "block"
    assert len(file.read_text().splitlines()) == 1


def test_writers_at_once_write_an_action_once(tmp_path: Path) -> None:
    """The file is long, so that all have begun to read it before one writes."""
    file = tmp_path / "labels.jsonl"
    others = [label_now("allow", ("Read", f"{{{number}}}"), by=None) for number in range(3000)]
    file.write_text("\n".join(one.model_dump_json(exclude_none=True) for one in others))
    together = Barrier(8)

    def write(_: int) -> Added:
        together.wait()
        return added(file, "block")

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(write, range(8)))
    assert [one.known for one in done].count(None) == 1
    assert len(file.read_text().splitlines()) == len(others) + 1


@pytest.mark.parametrize("end", ["\u2028", "\x85", "\x0c", "\r", "\n"])
def test_a_line_end_in_a_note_is_none_of_the_file(tmp_path: Path, end: str) -> None:
    file = tmp_path / "labels.jsonl"
    added(file, "allow", note=f"one{end}two")
    added(file, "block", ("Read", "{}"))
    [first, second] = read_labels(file).by_action.values()
    assert (first[1].note, second[0]) == (f"one{end}two", 2)


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written: No such file or directory"):
        added(tmp_path / "missing" / "labels.jsonl", "allow")


def test_only_recorded_calls_have_labels() -> None:
    call = {"type": "tool_call", "name": "Bash", "arguments": "{}"}
    answer = {"content": [{"type": "text", "text": "hi"}, call]}
    record = Record.model_validate({"transaction_id": "t", "original": {"answer": answer}})
    assert [one.name for one in calls_of(record)] == ["Bash"]
    with pytest.raises(ConfigError, match="are not stored"):
        calls_of(Record(transaction_id="t"))
    with pytest.raises(ConfigError, match="stays closed"):
        calls_of(Record.model_validate({"transaction_id": "t", "sealed": "x"}))
    with pytest.raises(ConfigError, match="one of allow, block"):
        verdict_of("deny")


def test_the_command_writes_to_the_same_file() -> None:
    assert label_command.__defaults__ is not None
    assert USUAL_FILE in label_command.__defaults__
