"""The record of a transaction as JSON, and when it is put into what LiteLLM logs."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import yaml
from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER
from litellm.proxy import proxy_server

from luthien_litellm_hooks import (
    Identity,
    Policy,
    PolicyContext,
    Request,
    StreamingResponseContext,
    ToolCallStreamBlock,
    drop_block,
)
from luthien_litellm_hooks.config.settings import Bodies, RecordSettings, Store, build_executor, load_settings
from luthien_litellm_hooks.engine.composition import ConfiguredPolicy, Parallel, members_of
from luthien_litellm_hooks.engine.executor import PolicyExecutor
from luthien_litellm_hooks.hooks.active_policy import ActivePolicy
from luthien_litellm_hooks.hooks.spend_logs import SpendLogEntry, SpendLogs
from luthien_litellm_hooks.policies.noop import NoOp
from luthien_litellm_hooks.recording.decision import Decision
from luthien_litellm_hooks.recording.record import MAX_TEXT_CHARACTERS, ObservedPolicy, transaction_record
from luthien_litellm_hooks.recording.recorder import DefaultTransactionRecorder
from luthien_litellm_hooks.telemetry import NoOpObservabilityContext
from luthien_litellm_hooks.telemetry.publisher import EventPublisher
from luthien_litellm_hooks.wire import FORMATS
from luthien_litellm_hooks.wire.events import BlockMarker, Chunk, Event, Finish, Opaque, TextDelta, ToolCallDelta
from tests.support.chat import Delivered, deliver, finish, text
from tests.support.waiting import wait_until

POLICIES = (("noop", "1"), ("noop", "2"))


class Told(NoOpObservabilityContext):
    """Keeps the data of events."""

    def __init__(self, told: list[dict[str, Any]]) -> None:
        super().__init__("transaction-1")
        self._told = told

    async def emit_event(self, event_type: str, data: Mapping[str, Any]) -> None:
        self._told.append(dict(data))


def transaction() -> tuple[PolicyContext, DefaultTransactionRecorder]:
    recorder = DefaultTransactionRecorder()
    return PolicyContext("transaction-1", Request({}), recorder=recorder), recorder


async def ended() -> tuple[PolicyContext, DefaultTransactionRecorder]:
    """A transaction whose request held a secret, and whose one tool call was blocked."""
    ctx, recorder = transaction()
    asked = {"model": "m", "tools": [{"api_key": "hunter2", "name": "delete"}], "messages": [{"content": "tulip"}]}
    await recorder.record_request(asked, asked)
    recorder.add_ingress_chunk(Chunk((ToolCallDelta(id="call_a", name="delete", arguments='{"path": "orchid"}'),)))
    recorder.add_ingress_chunk(Chunk((Finish(reason="tool_calls"),)))
    recorder.add_egress_chunk(Chunk((TextDelta(text="[luthien] No."), Finish(reason="stop"))))
    block = ToolCallStreamBlock(0)
    block.id, block.name = "call_a", "delete"
    ctx.decide("block", reason="it deletes", message="No.", evidence="orchid", score=0.9, block=block)
    await recorder.finalize_streaming("blocked")
    return ctx, recorder


async def test_a_record_tells_who_decided_what_and_why_without_any_text() -> None:
    record = transaction_record(*await ended(), "v1", POLICIES, with_bodies=False)
    [decision] = record.pop("decisions")
    assert decision.pop("milliseconds") >= 0
    assert decision == {
        "policy": "",
        "action": "block",
        "reason": "it deletes",
        "score": 0.9,
        "block": {"type": "tool_call", "id": "call_a", "name": "delete"},
    }
    assert record.pop("milliseconds") > 0
    assert record == {
        "format": 2,
        "transaction_id": "transaction-1",
        "path": None,
        "session": None,
        "headers": {},
        "identity": {},
        "version": "v1",
        "policies": [{"name": "noop", "version": "1"}, {"name": "noop", "version": "2"}],
        "outcome": "blocked",
        "changed": {"request": False, "answer": True},
        "chunks": {"ingress": 2, "egress": 1},
    }


async def test_a_record_with_bodies_tells_both_sides_and_no_credential() -> None:
    record = transaction_record(*await ended(), "v1", POLICIES, with_bodies=True)
    call = {"type": "tool_call", "id": "call_a", "name": "delete", "arguments": '{"path": "orchid"}'}
    assert record["original"]["answer"] == {"content": [call], "finish_reason": "tool_calls"}
    notice = {"type": "text", "text": "[luthien] No."}
    assert record["final"]["answer"] == {"content": [notice], "finish_reason": "stop"}
    assert record["final"]["request"] is None
    assert record["original"]["request"]["tools"] == [{"api_key": "[redacted]", "name": "delete"}]
    assert (record["decisions"][0]["evidence"], record["decisions"][0]["message"]) == ("orchid", "No.")
    assert json.loads(json.dumps(record)) == record


async def test_a_record_says_who_asked_by_ids_and_aliases_and_no_key_that_is_not_hashed() -> None:
    who = Identity(key_hash="sk-secret", key_alias="agents", user_email="a@b.c", team_id="t1", team_alias="red")
    recorder = DefaultTransactionRecorder()
    ctx = PolicyContext("transaction-1", Request({}), identity=who, recorder=recorder)
    record = transaction_record(ctx, recorder, "v1", POLICIES, with_bodies=False, path="/v1/messages", session="s1")
    assert record["identity"] == {"key_alias": "agents", "team_id": "t1", "team_alias": "red"}
    assert (record["path"], record["session"]) == ("/v1/messages", "s1")


class Kept:
    """A sink that keeps what it gets."""

    name = "kept"

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, lines: Sequence[str]) -> int:
        self.rows += [json.loads(line)["row"] for line in lines]
        return len(lines)


@pytest.mark.parametrize(
    ("store", "has_database", "is_in_file", "is_in_row"),
    [
        ("auto", False, True, True),
        ("auto", True, False, True),
        ("sqlite", True, True, False),
        ("spend_logs", False, False, True),
        ("off", False, False, False),
    ],
)
async def test_a_record_is_where_the_operator_wants_it(
    store: Store, has_database: bool, is_in_file: bool, is_in_row: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy_server, "prisma_client", object() if has_database else None)
    policy = ActivePolicy(PolicyExecutor(NoOp()), record=RecordSettings(store=store, readable_by="owners"))
    kept, given = Kept(), kwargs()
    publisher = EventPublisher([kept])
    await SpendLogs(publisher).complete(SpendLogEntry(*await ended(), policy, None, "acompletion"), given)
    publisher.close()
    assert ["luthien" in of["metadata"]["spend_logs_metadata"] for of in kept.rows] == [True] * is_in_file
    metadata = given["litellm_params"]["metadata"], given["standard_logging_object"]["metadata"]
    assert ["luthien" in of.get("spend_logs_metadata", {}) for of in metadata] == [is_in_row] * 2
    assert given["standard_logging_object"]["guardrail_information"]


async def test_a_record_that_litellm_does_not_wait_for_is_in_the_file_when_it_is_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(GLOBAL_LOGGING_WORKER, "timeout", 0.01)
    monkeypatch.setattr(proxy_server, "prisma_client", None)
    ctx, recorder = transaction()
    kept, given = Kept(), kwargs()
    logs = SpendLogs(EventPublisher([kept]))
    await logs.complete(SpendLogEntry(ctx, recorder, in_force(), None), given)
    assert given["litellm_params"]["metadata"]["spend_logs_metadata"]["luthien"]["outcome"] is None
    assert kept.rows == []
    await recorder.finalize_streaming("blocked")
    await asyncio.to_thread(wait_until, lambda: bool(kept.rows))
    [record] = [of["metadata"]["spend_logs_metadata"]["luthien"] for of in kept.rows]
    assert record["outcome"] == "blocked"


async def test_a_picture_in_a_request_is_kept_in_part() -> None:
    ctx, recorder = transaction()
    asked = {"image": "x" * (MAX_TEXT_CHARACTERS + 5)}
    await recorder.record_request(asked, asked)
    record = transaction_record(ctx, recorder, "v1", POLICIES, with_bodies=True)
    assert record["original"]["request"] == {"image": "x" * MAX_TEXT_CHARACTERS + "[5 more characters]"}


async def test_what_litellm_does_to_a_request_later_is_not_in_its_record() -> None:
    ctx, recorder = transaction()
    final = {"messages": [{"content": "changed"}]}
    await recorder.record_request({"messages": [{"content": "came"}]}, final)
    final["messages"][0]["content"] = "LiteLLM's"
    record = transaction_record(ctx, recorder, "v1", POLICIES, with_bodies=True)
    assert record["final"]["request"] == {"messages": [{"content": "changed"}]}


async def test_what_is_left_of_an_answer_when_a_client_leaves_is_no_change() -> None:
    for left, is_changed in (("one or", False), ("one [", True)):
        _, recorder = transaction()
        recorder.add_ingress_chunk(Chunk((TextDelta(text="one orchid"),)))
        recorder.add_egress_chunk(Chunk((TextDelta(text=left),)))
        await recorder.finalize_streaming("client_disconnected")
        recorder.add_egress_chunk(Chunk((TextDelta(text="nobody gets this"),)))
        assert recorder.is_answer_changed is is_changed


def in_force(bodies: Bodies = "always") -> ActivePolicy:
    return ActivePolicy(PolicyExecutor(NoOp()), record=RecordSettings(bodies=bodies, readable_by="owners"))


def kwargs() -> dict[str, Any]:
    response = {"choices": [{"message": {"content": "one orchid", "role": "assistant"}, "index": 0}], "usage": {"n": 1}}
    payload = {"metadata": {"spend_logs_metadata": {"own": 1}}, "response": response}
    return {"litellm_params": {"metadata": {}, "litellm_metadata": None}, "standard_logging_object": payload}


async def test_logging_waits_for_the_end_of_the_transaction() -> None:
    ctx, recorder = transaction()
    logged, given = SpendLogEntry(ctx, recorder, in_force(), None), kwargs()
    logging = asyncio.create_task(SpendLogs().complete(logged, given))
    await asyncio.sleep(0)
    assert not given["litellm_params"]["metadata"]
    recorder.add_egress_chunk(Chunk((TextDelta(text="one flower"), Finish(reason="stop"))))
    await recorder.finalize_streaming("complete")
    await logging
    record = given["litellm_params"]["metadata"]["spend_logs_metadata"]["luthien"]
    payload = given["standard_logging_object"]
    assert record["outcome"] == "complete"
    assert payload["metadata"]["spend_logs_metadata"] == {"own": 1, "luthien": record}
    assert payload["response"]["choices"][0]["message"]["content"] == "one flower"
    assert payload["response"]["usage"] == {"n": 1}


async def test_logging_waits_for_the_votes_of_members_that_the_client_does_not_wait_for() -> None:
    gate = asyncio.Event()

    class Slow(Policy):
        async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
            await gate.wait()
            drop_block(ctx)

        async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
            pass

    ctx, recorder = transaction()
    panel = Parallel((ConfiguredPolicy(NoOp(), "noop"), ConfiguredPolicy(Slow(), "slow")), "first")
    delivered = Delivered.of(await deliver(panel, [text("one"), finish()], ctx))
    assert (delivered.text, ctx.decisions) == ("one", [])
    given = kwargs()
    logging = asyncio.create_task(SpendLogs().complete(SpendLogEntry(ctx, recorder, in_force(), None), given))
    gate.set()
    await logging
    [decision] = given["litellm_params"]["metadata"]["spend_logs_metadata"]["luthien"]["decisions"]
    assert decision["reason"] == "votes: 0: noop allow, 1: slow block"


async def test_a_transaction_that_does_not_end_in_litellms_time_is_logged_unfinished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(GLOBAL_LOGGING_WORKER, "timeout", 0.01)
    ctx, recorder = transaction()
    recorder.add_ingress_chunk(Chunk((TextDelta(text="one"),)))
    given = kwargs()
    await SpendLogs().complete(SpendLogEntry(ctx, recorder, in_force(), None), given)
    record = given["litellm_params"]["metadata"]["spend_logs_metadata"]["luthien"]
    assert (record["outcome"], record["changed"]["answer"]) == (None, False)
    assert record["original"]["answer"]["content"] == [{"type": "text", "text": "one"}]


@pytest.mark.parametrize(
    ("bodies", "is_kept", "has_bodies"),
    [
        ("always", False, True),
        ("never", True, False),
        ("follow_litellm", True, True),
        ("follow_litellm", False, False),
    ],
)
async def test_texts_are_in_a_record_where_the_operator_wants_them(
    monkeypatch: pytest.MonkeyPatch, bodies: Bodies, is_kept: bool, has_bodies: bool
) -> None:
    monkeypatch.setitem(proxy_server.general_settings, "store_prompts_in_spend_logs", is_kept)
    ctx, recorder = await ended()
    given = kwargs()
    await SpendLogs().complete(SpendLogEntry(ctx, recorder, in_force(bodies), None), given)
    record = given["litellm_params"]["metadata"]["spend_logs_metadata"]["luthien"]
    assert ("original" in record) is ("tulip" in str(record)) is has_bodies


async def test_a_changed_request_is_not_kept_as_it_came_where_the_operator_redacts() -> None:
    told: list[dict[str, Any]] = []
    recorder = DefaultTransactionRecorder(Told(told), show=dict, keeps_original=False)
    ctx = PolicyContext("transaction-1", Request({}), recorder=recorder)
    ctx.decide("modify", reason="a name", evidence="tulip")
    await recorder.record_request({"model": "m", "prompt": "tulip"}, {"model": "m", "prompt": "[name]"})
    await recorder.finalize_streaming("complete")
    record = transaction_record(ctx, recorder, "v1", POLICIES, with_bodies=True)
    assert (record["original"]["request"], record["final"]["request"]["prompt"]) == (None, "[name]")
    assert record["changed"]["request"]
    assert record["decisions"][0]["reason"] == "a name"
    assert told[0]["final_request"]["prompt"] == "[name]"
    assert "tulip" not in str([record, told])


async def test_an_observing_policy_quotes_no_request_that_must_not_be_kept() -> None:
    recorder = DefaultTransactionRecorder(keeps_original=False)
    ctx = PolicyContext("transaction-1", Request({}), recorder=recorder)
    await recorder.record_request({"prompt": "tulip"}, {"prompt": "[name]"})
    await recorder.finalize_streaming("complete")
    quoting = Decision("judge", "block", reason="a name", message="not tulip", evidence="tulip")
    watched = ObservedPolicy(policy="judge", version="1", outcome="blocked", decisions=[quoting])
    record = transaction_record(ctx, recorder, "v1", POLICIES, with_bodies=True, observed=[watched])
    assert record["observed"][0]["decisions"][0]["reason"] == "a name"
    assert "tulip" not in str(record)


async def test_an_unchanged_request_is_kept_where_the_operator_redacts() -> None:
    recorder = DefaultTransactionRecorder(keeps_original=False)
    ctx = PolicyContext("transaction-1", Request({}), recorder=recorder)
    await recorder.record_request({"prompt": "tulip"}, {"prompt": "tulip"})
    await recorder.finalize_streaming("complete")
    record = transaction_record(ctx, recorder, "v1", POLICIES, with_bodies=True)
    assert (record["original"]["request"], record["final"]["request"]) == ({"prompt": "tulip"}, None)


async def test_a_record_has_the_headers_that_a_when_names_and_no_others() -> None:
    policy = {"class": "serial", "config": {"policies": [{"class": "noop", "when": {"headers": {"X-Team": "*"}}}]}}
    executor = build_executor(load_settings({"luthien": {"policy": policy}}, {}), {})
    sent = {"x-team": "red", "x-other": "tulip"}
    ctx = PolicyContext("transaction-1", Request({}, headers=sent), recorder=(recorder := DefaultTransactionRecorder()))
    await recorder.finalize_streaming("complete")
    given = kwargs()
    await SpendLogs().complete(SpendLogEntry(ctx, recorder, ActivePolicy(executor), None), given)
    sealed = given["litellm_params"]["metadata"]["spend_logs_metadata"]["luthien"]
    assert "headers" not in sealed
    given = kwargs()
    record = RecordSettings(readable_by="owners")
    await SpendLogs().complete(SpendLogEntry(ctx, recorder, ActivePolicy(executor, record=record), None), given)
    assert given["litellm_params"]["metadata"]["spend_logs_metadata"]["luthien"]["headers"] == {"x-team": "red"}


async def test_a_call_of_a_policys_own_is_no_clients_transaction() -> None:
    logged = SpendLogEntry(*transaction(), in_force(), None)
    assert not logged.is_of({"litellm_call_id": "of the judge", "litellm_params": {"metadata": {}}})
    assert logged.is_of({"litellm_params": {"proxy_server_request": {"url": "http://127.0.0.1/v1/messages"}}})


BLOCKS = [
    {"type": "reasoning", "text": "hm"},
    {"type": "text", "text": "Hello."},
    {"type": "tool_call", "id": "call_a", "name": "read", "arguments": '{"path": "a"}'},
]


@pytest.mark.parametrize(
    ("logged", "says"),
    [
        (
            {"choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}}]},
            lambda answer: (
                answer["choices"][0]["message"]["content"],
                answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"],
            ),
        ),
        (
            {"content": [{"type": "text", "text": "x"}], "stop_reason": "end_turn"},
            lambda answer: (answer["content"][1]["text"], json.dumps(answer["content"][2]["input"])),
        ),
        (
            {"output": [{"type": "message"}]},
            lambda answer: (answer["output"][1]["content"][0]["text"], answer["output"][2]["arguments"]),
        ),
        (
            {"candidates": [{"content": {"parts": []}}]},
            lambda answer: (
                answer["candidates"][0]["content"]["parts"][1]["text"],
                json.dumps(answer["candidates"][0]["content"]["parts"][2]["functionCall"]["args"]),
            ),
        ),
    ],
    ids=["chat", "messages", "responses", "gemini"],
)
def test_a_delivered_answer_is_written_in_the_shape_of_the_logged_one(
    logged: dict[str, Any], says: Callable[[Any], tuple[str, str]]
) -> None:
    answer = FORMATS.rewrite_log({**logged, "usage": {"n": 1}}, BLOCKS, None)
    assert says(answer) == ("Hello.", '{"path": "a"}')
    assert answer["usage"] == {"n": 1}


def test_nothing_stays_of_an_answer_of_an_unknown_shape() -> None:
    logged = FORMATS.rewrite_log({"id": "1", "text": "withheld"}, BLOCKS, None)
    assert logged.keys() == {"id", "output"}
    assert "withheld" not in str(logged)


def versions(policy: dict[str, Any]) -> list[tuple[str, str]]:
    executor = build_executor(load_settings({"luthien": {"policy": policy}}, {}))
    return [(member.name, member.version) for member in members_of(executor.composition)]


def test_a_policys_version_changes_with_its_settings_alone() -> None:
    replace = {"class": "string_replacement", "config": {"replacements": [["a", "b"]]}}
    other = {"class": "string_replacement", "config": {"replacements": [["a", "c"]]}}
    [(_, first)], [(_, second)] = versions(replace), versions(other)
    assert first != second
    both = {"class": "serial", "config": {"policies": [replace, other, {**replace, "timeout_s": 3}]}}
    assert [version for _, version in versions(both)] == [first, second, first]


def version(**settings: Any) -> str:
    given = {"policy": {"class": "noop"}, **settings}
    return ActivePolicy.of(load_settings({"luthien": given}, {}), {}).version


def test_the_version_of_the_whole_changes_with_any_setting_and_is_the_same_where_a_default_is_written_out() -> None:
    assert version() == version(on_block="notice") == version(policy={"class": "noop", "timeout_s": 30})
    others = [
        {"on_block": "error"},
        {"block_status": 451},
        {"unselected": "refuse"},
        {"ungoverned_routes": "allow"},
        {"record": {"bodies": "never"}},
        {"policy": {"class": "noop", "timeout_s": 3}},
        {"policy": {"class": "all_caps"}},
    ]
    assert len({version(), *(version(**other) for other in others)}) == len(others) + 1


async def test_an_answer_that_the_policy_still_holds_is_not_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GLOBAL_LOGGING_WORKER, "timeout", 0.01)
    ctx, recorder = transaction()
    recorder.add_ingress_chunk(Chunk((TextDelta(text="one orchid"), Finish(reason="stop"))))
    recorder.add_egress_chunk(Chunk((TextDelta(text="one"),)))
    given = kwargs()
    await SpendLogs().complete(SpendLogEntry(ctx, recorder, in_force(), None), given)
    assert given["standard_logging_object"]["response"]["choices"][0]["message"]["content"] == "one"


@pytest.mark.parametrize("withheld", [Opaque(), BlockMarker(role="begin", kind="unknown", index=1)])
async def test_what_is_withheld_though_no_policy_judges_it_is_not_logged(withheld: Event) -> None:
    ctx, recorder = transaction()
    recorder.add_ingress_chunk(Chunk((TextDelta(text="one"), withheld)))
    recorder.add_egress_chunk(Chunk((TextDelta(text="one"),)))
    await recorder.finalize_streaming("complete")
    given = kwargs()
    given["standard_logging_object"]["response"]["choices"][0]["logprobs"] = {"content": "orchid"}
    await SpendLogs().complete(SpendLogEntry(ctx, recorder, in_force(), None), given)
    assert "orchid" not in str(given["standard_logging_object"])


async def test_an_answer_that_left_as_it_came_is_logged_as_it_came() -> None:
    ctx, recorder = transaction()
    for add in (recorder.add_ingress_chunk, recorder.add_egress_chunk):
        add(Chunk((TextDelta(text="one"), Opaque())))
    await recorder.finalize_streaming("complete")
    given, before = kwargs(), kwargs()
    await SpendLogs().complete(SpendLogEntry(ctx, recorder, in_force(), None), given)
    assert given["standard_logging_object"]["response"] == before["standard_logging_object"]["response"]


@pytest.mark.parametrize("written", ["off", "'off'", "false"])
def test_records_are_off_as_yaml_says_it(written: str) -> None:
    """`off` is false for YAML 1.1, which LiteLLM reads."""
    given = yaml.safe_load(f"luthien: {{policy: {{class: noop}}, record: {{store: {written}}}}}")
    assert load_settings(given, {}).record.store == "off"
