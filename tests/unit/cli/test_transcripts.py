"""Transcripts of agents, read as records. Those in `tests/support/transcripts` were written by Claude Code 2.1.197 and
Codex 0.171.0 on a proxy before the scripted provider; the agents' own texts were taken out."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from luthien_litellm_hooks.cli.replay.transcripts import (
    BROKEN,
    UNKNOWN,
    is_transcript,
    read_transcripts,
    transcript_files,
    usual_places,
)
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.monitor.transactions import Record, Transaction
from luthien_litellm_hooks.policy.request import turn_of
from luthien_litellm_hooks.policy.trajectory import Step, trajectory_of

TRANSCRIPTS = Path(__file__).parents[2] / "support" / "transcripts"
CLAUDE, CODEX = TRANSCRIPTS / "claude-code", TRANSCRIPTS / "codex"
MAIN = "4dfba9b7-9636-42af-afcc-46f25b07cc88"
FORK = "7280dae6-cc47-4e6b-b5e6-00bc0829b2e4"


def read(*files: Path) -> tuple[list[tuple[Transaction, Record]], Counter[str]]:
    skipped = Counter[str]()
    return list(read_transcripts(files, skipped)), skipped


def blocks(record: Record) -> list[tuple[str, str]]:
    """The response of a turn: type and text, or tool and arguments."""
    assert record.original is not None
    return [(block.name or block.type, block.arguments or block.text) for block in record.original.answer.content]


def request(record: Record) -> dict[str, Any]:
    assert record.original is not None
    assert record.original.request is not None
    return record.original.request


def refused(record: Record) -> list[str]:
    assert record.original is not None
    return [block.arguments for block in record.original.answer.content if block.is_refused]


def written(path: Path, lines: Iterable[object]) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def test_a_session_of_claude_code_has_a_transaction_for_each_response() -> None:
    turns, skipped = read(CLAUDE / f"{MAIN}.jsonl")
    assert [blocks(record) for _, record in turns][:4] == [
        [("text", "I write."), ("Bash", '{"command": "touch made.txt", "description": "Make a file"}')],
        [("text", next(text for _, text in blocks(turns[1][1])))],
        [
            ("reasoning", "A look first."),
            ("text", "I look around."),
            ("Bash", '{"command": "ls -la notes.txt", "description": "List"}'),
            ("Read", '{"file_path": "/home/user/work/notes.txt"}'),
        ],
        [("text", "The tool said: -rw-r--r-- 1 root root 3 Nov 29 02:45 notes.txt")],
    ]
    assert len(turns) == 8
    assert BROKEN not in skipped
    assert UNKNOWN not in skipped
    transaction, record = turns[0]
    assert (record.transaction_id, transaction.response_id) == ("msg_c6878033403745bdb9279e30",) * 2
    assert (transaction.route, transaction.path, record.session) == ("anthropic_messages", "/v1/messages", MAIN)
    assert (transaction.model, transaction.time.isoformat()) == ("scripted-claude", "2026-11-29T02:45:52.797000+00:00")
    assert record.original is not None
    assert record.original.answer.finish_reason == "tool_use"
    assert record.final is not None
    assert (record.final.request, record.final.answer) == (None, record.original.answer)


def test_a_request_is_the_conversation_so_far_in_the_wires_form() -> None:
    turns, _ = read(CLAUDE / f"{MAIN}.jsonl")
    bodies = [request(record) for _, record in turns]
    assert [len(body["messages"]) for body in bodies] == [1, 3, 5, 8, 10, 13, 15, 17]
    assert [turn_of(body) for body in bodies] == ["user", "tool"] * 4
    steps = [step for step in trajectory_of(bodies[5]) if isinstance(step, Step)]
    assert [(step.call.name, step.result is not None) for step in steps] == [
        ("Bash", True),
        ("Bash", True),
        ("Read", True),
        ("Bash", True),
        ("Bash", True),
    ]


def test_blocks_that_come_after_a_result_belong_to_their_response() -> None:
    """Claude Code runs the first of two calls before it writes the second."""
    turns, _ = read(CLAUDE / f"{MAIN}.jsonl")
    _, record = turns[4]
    assert [name for name, _ in blocks(record)] == ["text", "Bash", "Bash"]


def test_a_call_that_the_person_did_not_allow_is_refused() -> None:
    turns, _ = read(CLAUDE / f"{MAIN}.jsonl")
    assert [len(refused(record)) for _, record in turns] == [1, 0, 0, 0, 2, 0, 0, 0]


def test_what_a_fork_repeats_comes_once_and_a_compaction_begins_anew() -> None:
    main, fork = CLAUDE / f"{MAIN}.jsonl", CLAUDE / f"{FORK}.jsonl"
    alone, _ = read(fork)
    both, _ = read(main, fork)
    assert len(alone) == 10
    assert [blocks(record) for _, record in both[8:]] == [[("text", "forked")], [("text", "after")]]
    assert [len(request(record)["messages"]) for _, record in both[8:]] == [19, 6]
    assert request(both[9][1])["messages"][0]["content"] == "A summary."


def test_a_subagent_has_a_conversation_of_its_own() -> None:
    turns, _ = read(*transcript_files(CLAUDE / MAIN))
    assert [blocks(record)[0][0] for _, record in turns] == ["Bash", "text"]
    assert [len(request(record)["messages"]) for _, record in turns] == [1, 3]
    assert {record.session for _, record in turns} == {MAIN}


def test_a_session_of_codex_has_a_transaction_for_each_response() -> None:
    turns, skipped = read(*transcript_files(CODEX))
    assert [[name for name, _ in blocks(record)] for _, record in turns] == [
        ["reasoning", "text", "exec_command"],
        ["text"],
        ["text", "exec_command", "exec_command"],
        ["text"],
    ]
    assert blocks(turns[0][1])[2] == ("exec_command", '{"cmd": "ls notes.txt"}')
    assert [len(request(record)["input"]) for _, record in turns] == [3, 7, 9, 14]
    assert [turn_of(request(record)) for _, record in turns] == ["user", "tool"] * 2
    assert {request(record)["instructions"] for _, record in turns} == {"Be brief."}
    transaction, record = turns[0]
    assert (transaction.route, transaction.path, transaction.model) == ("aresponses", "/v1/responses", "scripted")
    assert record.session is not None
    assert record.transaction_id == f"{record.session}-1"
    assert "internal_chat_message_metadata_passthrough" not in json.dumps(request(turns[3][1]))
    assert not skipped.keys() & {BROKEN, UNKNOWN}


def item(kind: str, **fields: object) -> dict[str, object]:
    return {"timestamp": "2026-01-02T03:04:05Z", "type": "response_item", "payload": {"type": kind, **fields}}


def said(role: str, text: str) -> dict[str, object]:
    return item("message", role=role, content=[{"type": "input_text", "text": text}])


def call(id: str) -> dict[str, object]:
    return item("function_call", name="exec_command", arguments='{"cmd": "ls"}', call_id=id)


def output(id: str, text: str) -> dict[str, object]:
    return item("function_call_output", call_id=id, output=text)


def event(kind: str, **fields: object) -> dict[str, object]:
    return {"timestamp": "2026-01-02T03:04:05Z", "type": kind, "payload": fields}


def test_codex_forgets_what_was_rolled_back_or_compacted(tmp_path: Path) -> None:
    file = written(
        tmp_path / "rollout.jsonl",
        [
            said("user", "one"),
            said("assistant", "1"),
            said("user", "two"),
            said("assistant", "2"),
            event("event_msg", type="thread_rolled_back", num_turns=1),
            said("user", "three"),
            said("assistant", "3"),
            event("compacted", message="All of it.", replacement_history=None),
            said("user", "four"),
            said("assistant", "4"),
        ],
    )
    turns, _ = read(file)
    texts = [[part["content"] for part in request(record)["input"]] for _, record in turns]
    assert [len(conversation) for conversation in texts] == [1, 3, 3, 2]
    assert texts[2][-1] == [{"type": "input_text", "text": "three"}]
    assert texts[3][0] == "All of it."


def test_codex_tells_refused_calls_and_a_fork_repeats_none(tmp_path: Path) -> None:
    lines = [
        said("user", "go"),
        call("a"),
        call("b"),
        output("a", "exec command rejected by user"),
        output("b", "fine"),
    ]
    old = written(tmp_path / "a.jsonl", [event("session_meta", id="old"), *lines])
    new = written(
        tmp_path / "b.jsonl", [event("session_meta", id="new", forked_from_id="old"), *lines, said("assistant", "done")]
    )
    turns, _ = read(old, new)
    assert [record.transaction_id for _, record in turns] == ["old-1", "new-2"]
    assert turns[0][1].original is not None
    assert [block.is_refused for block in turns[0][1].original.answer.content] == [True, False]


def test_items_without_a_wrapper_are_those_of_older_versions(tmp_path: Path) -> None:
    lines = [
        {"id": "x", "timestamp": "2025-05-01T00:00:00Z", "instructions": None},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "yes"}]},
    ]
    turns, skipped = read(written(tmp_path / "rollout-x.jsonl", lines))
    assert [blocks(record) for _, record in turns] == [[("text", "yes")]]
    assert turns[0][1].session == "rollout-x"
    assert skipped == {UNKNOWN: 1}


def test_going_back_in_a_conversation_leaves_out_what_came_after(tmp_path: Path) -> None:
    def line(id: str, parent: str | None, role: str, text: str) -> dict[str, object]:
        message = {"role": role, "content": text, "id": f"msg_{id}", "model": "m"}
        return {"type": role, "uuid": id, "parentUuid": parent, "sessionId": "s", "message": message}

    lines = [
        line("a", None, "user", "one"),
        line("b", "a", "assistant", "1"),
        line("c", "b", "user", "two"),
        line("d", "c", "assistant", "2"),
        line("e", "b", "user", "another two"),
        line("f", "e", "assistant", "3"),
    ]
    turns, _ = read(written(tmp_path / "s.jsonl", lines))
    assert [message["content"] for message in request(turns[2][1])["messages"]] == [
        "one",
        [{"type": "text", "text": "1"}],
        "another two",
    ]


def test_no_line_stops_the_reading(tmp_path: Path) -> None:
    good = (CLAUDE / f"{MAIN}.jsonl").read_text().splitlines()
    odd: list[object] = [
        "{",
        "[]",
        "[" * 100_000,
        '"text"',
        {"type": "assistant", "sessionId": MAIN, "message": "none"},
        {"type": "assistant", "sessionId": MAIN, "message": {"content": [None, 3, {"type": 5}]}},
        {"type": "user", "sessionId": MAIN, "message": {"content": {"a": 1}}, "uuid": 7, "parentUuid": []},
        {"type": ["a"], "sessionId": {}, "message": {"id": []}},
    ]
    mixed = [line for pair in zip(good, odd * len(good), strict=False) for line in pair]
    path = written(tmp_path / "mixed.jsonl", mixed)
    with path.open("ab") as file:
        file.write(b'\xff\xfe{"type"\n{"type": "assistant", "sess')
    turns, skipped = read(path)
    expected, _ = read(CLAUDE / f"{MAIN}.jsonl")
    ids = {transaction.response_id for transaction, _ in turns}
    assert {transaction.response_id for transaction, _ in expected} <= ids
    assert skipped[BROKEN] >= 10


def test_an_error_that_claude_code_reports_is_no_response(tmp_path: Path) -> None:
    lines = [
        {"type": "user", "sessionId": "s", "message": {"content": "hi"}},
        {"type": "assistant", "sessionId": "s", "message": {"content": "oh", "model": "<synthetic>"}},
        {"type": "assistant", "sessionId": "s", "isApiErrorMessage": True, "message": {"content": "oh", "model": "m"}},
    ]
    turns, skipped = read(written(tmp_path / "s.jsonl", lines))
    assert (turns, skipped) == ([], {"assistant": 2})


def test_credentials_in_the_conversation_are_hidden_as_in_records(tmp_path: Path) -> None:
    use = {"type": "tool_use", "id": "t", "name": "Fetch", "input": {"api_key": "sk-123"}}
    lines = [
        {"type": "assistant", "sessionId": "s", "message": {"id": "1", "content": [use]}},
        {"type": "user", "sessionId": "s", "message": {"content": [{"type": "tool_result", "tool_use_id": "t"}]}},
        {"type": "user", "sessionId": "s", "message": {"content": [{"type": "text", "text": "x", "token": "sk-9"}]}},
        {"type": "assistant", "sessionId": "s", "message": {"id": "2", "content": "done"}},
    ]
    turns, _ = read(written(tmp_path / "s.jsonl", lines))
    assert "sk-" not in json.dumps(request(turns[1][1]))


def test_a_transcript_is_told_from_other_lines(tmp_path: Path) -> None:
    assert all(is_transcript(file) for place in (CLAUDE, CODEX) for file in transcript_files(place))
    events = written(tmp_path / "events.jsonl", [{"type": "transaction.recorded", "transaction_id": "x", "data": {}}])
    assert not is_transcript(events)


def test_transcripts_are_where_the_agents_write_them(tmp_path: Path) -> None:
    places = usual_places({"CLAUDE_CONFIG_DIR": "/c", "CODEX_HOME": "/x"})
    assert places == {"claude-code": Path("/c/projects"), "codex": Path("/x/sessions")}
    assert usual_places({})["codex"] == Path.home() / ".codex/sessions"
    with pytest.raises(ConfigError, match="There is no transcript in"):
        transcript_files(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        list(read_transcripts([tmp_path / "none.jsonl"], Counter()))
