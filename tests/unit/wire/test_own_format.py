"""A wire format from outside of the package: one record in `tests/own_format/`, and all of the package knows it."""

import json
from collections.abc import AsyncIterator, Generator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from litellm.litellm_core_utils.litellm_logging import Logging
from litellm.proxy._types import ProxyException, UserAPIKeyAuth
from typer.testing import CliRunner

from luthien_litellm_hooks import ConfigError, Request, Said, SimplePolicy, ToolCall
from luthien_litellm_hooks import Step as CallStep
from luthien_litellm_hooks.cli import app
from luthien_litellm_hooks.cli.doctor import probes
from luthien_litellm_hooks.cli.doctor.verdicts import judge_reply
from luthien_litellm_hooks.engine.executor import PolicyExecutor
from luthien_litellm_hooks.hooks import governed
from luthien_litellm_hooks.hooks.active_policy import ActivePolicy
from luthien_litellm_hooks.hooks.enforcement import Enforcement
from luthien_litellm_hooks.hooks.loggers import log_request
from luthien_litellm_hooks.hooks.request_data import answer_instead, read_request, replying_client
from luthien_litellm_hooks.hooks.routes import check_route_names, governed_format
from luthien_litellm_hooks.hooks.spend_logs import spent_on
from luthien_litellm_hooks.hooks.transaction import set_current
from luthien_litellm_hooks.monitor.outline import request_lines
from luthien_litellm_hooks.policies.noop import NoOp
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.request import Answer, iter_texts
from luthien_litellm_hooks.recording.record import transaction_record
from luthien_litellm_hooks.recording.recorder import DefaultTransactionRecorder
from luthien_litellm_hooks.testing.answers import Answer as ScriptedAnswer
from luthien_litellm_hooks.testing.answers import Call, Say, Step
from luthien_litellm_hooks.testing.provider import ScriptedProvider
from luthien_litellm_hooks.testing.routes import ROUTES
from luthien_litellm_hooks.testing.run import run_policy
from luthien_litellm_hooks.wire import BUILT_IN, FORMATS
from tests.own_format.format import FORMAT
from tests.own_format.scripted import ROUTE
from tests.support.telemetry import Observed

STEPS: list[Step] = [
    Say("A secret plan."),
    Call("delete", '{"path": "/"}', id="a"),
    Call("read", '{"path": "x"}', id="b"),
]
BODY: dict[str, Any] = {
    "stage": "Be brief, no secret.",
    "turns": [
        {"role": "user", "say": "Tell the secret."},
        {"role": "actor", "say": "", "acts": [{"name": "read", "with": '{"path": "secret"}'}]},
        {"role": "prop", "say": "a secret file"},
    ],
    "abilities": [{"name": "read"}, {"name": "delete"}],
}

ANSWER = ScriptedAnswer(STEPS)

each_mode = pytest.mark.parametrize("full", [False, True], ids=["stream", "full"])


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    FORMATS.register(FORMAT)
    monkeypatch.setitem(ROUTES, FORMAT.name, ROUTE)
    yield
    FORMATS.unregister(FORMAT.name)


def provided(*, full: bool) -> bytes:
    """Bytes of a provider's response."""
    if full:
        return json.dumps(ROUTE.wire.full(ANSWER, {})).encode()
    return b"".join(piece for piece in ROUTE.wire.stream(ANSWER, {}) if isinstance(piece, bytes))


def joined(chunks: Sequence[object]) -> bytes:
    """Bytes of a delivered response."""
    return b"".join(chunk if isinstance(chunk, bytes) else json.dumps(chunk).encode() for chunk in chunks)


class Guard(SimplePolicy):
    """Changes texts and drops a call."""

    async def on_response_content(self, content: str, request: Request) -> str:
        return content.replace("secret", "***")

    async def on_response_tool_call(self, tool_call: ToolCall, request: Request) -> ToolCall | None:
        return None if tool_call.name == "delete" else tool_call


@each_mode
async def test_a_policy_governs_its_responses(full: bool) -> None:
    outcome = await run_policy(Guard(), STEPS, route="lines", full=full)
    assert outcome.text == "A *** plan."
    assert [(call.id, call.name, call.arguments) for call in outcome.tool_calls] == [("b", "read", '{"path": "x"}')]
    assert outcome.finish_reason == "calls"
    assert [decision.action for decision in outcome.decisions] == ["modify", "block"]
    assert b"delete" not in joined(outcome.chunks)


@each_mode
async def test_a_response_of_withheld_calls_ends_by_its_own_reason(full: bool) -> None:
    outcome = await run_policy(Guard(), [Say("Hi."), STEPS[1]], route="lines", full=full)
    assert (outcome.tool_calls, outcome.finish_reason) == ((), "end")


@each_mode
async def test_what_no_policy_touches_leaves_as_it_came(full: bool) -> None:
    outcome = await run_policy(NoOp(), STEPS, route="lines", full=full)
    assert joined(outcome.chunks) == provided(full=full)


async def test_a_policy_reads_and_changes_the_texts_of_its_requests() -> None:
    policy = {
        "class": "string_replacement",
        "config": {"replacements": [["secret", "***"]], "apply_to": "both", "tool_arguments": True},
    }
    outcome = await run_policy(policy, "ok", route="lines", request=BODY)
    assert "secret" not in json.dumps(outcome.request.body)
    assert "***" in outcome.request.body["turns"][1]["acts"][0]["with"]
    assert [(text.role, text.text) for text in iter_texts(Request(BODY))] == [
        ("system", "Be brief, no secret."),
        ("user", "Tell the secret."),
        ("assistant", ""),
        ("tool", "a secret file"),
    ]


def test_a_policy_knows_the_conversation_of_its_requests() -> None:
    [asked, step] = Request(BODY).trajectory
    assert asked == Said("user", "Tell the secret.")
    assert isinstance(step, CallStep)
    assert (step.call.arguments, step.result) == ('{"path": "secret"}', "a secret file")


def test_a_policy_knows_the_turn_and_the_tools_of_its_requests() -> None:
    assert Request(BODY).turn == "tool"
    assert Request({**BODY, "turns": BODY["turns"][:1]}).turn == "user"
    assert Request({**BODY, "most": 1}).turn == "side"
    assert Request({**BODY, "stage": "You are a title generator"}).turn == "side"
    assert Request(BODY).tool_names == ("read", "delete")
    assert (Request(BODY).has_untold_tools, Request({"prop_box": "x"}).has_untold_tools) == (False, True)


@each_mode
def test_try_recognises_it(full: bool, tmp_path: Path) -> None:
    (tmp_path / "recorded").write_bytes(provided(full=full))
    done = CliRunner().invoke(app, ["try", "all_caps", "--answer", str(tmp_path / "recorded"), "--json"])
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)["final"]["answer"]["content"]
    assert [block.get("text", block.get("name")) for block in content] == ["A SECRET PLAN.", "delete", "read"]


def data(**more: Any) -> dict[str, Any]:
    """LiteLLM's data of a request on the wire."""
    body = {"model": "m", **BODY, **more}
    return {**body, "metadata": {}, "proxy_server_request": {"body": dict(body), "url": "http://proxy/v1/lines"}}


async def pieces() -> AsyncIterator[object]:
    for piece in ROUTE.wire.stream(ANSWER, {}):
        yield piece


async def test_litellms_hooks_govern_it_and_telemetry_names_it() -> None:
    observed = Observed()
    enforcement, in_force = Enforcement(observed.telemetry), ActivePolicy(PolicyExecutor(Guard()))
    user, given = UserAPIKeyAuth(), data(stream=True)
    set_current(None)
    try:
        await enforcement.on_request("luthien", in_force, user, given, "alines")
        stream = enforcement.on_stream("luthien", pieces(), given, user)
        delivered = b"".join([chunk async for chunk in stream])
    finally:
        set_current(None)
    assert b"***" in delivered
    assert b"delete" not in delivered
    [span] = [span for span in observed.spans.values() if span.name == "luthien.transaction"]
    attributes = dict(span.attributes or {})
    assert attributes["luthien.route"] == "lines"
    assert attributes["gen_ai.operation.name"] == "recite"
    assert list(observed.metric("luthien_transactions_total")) == [("lines", "blocked")]


async def test_a_kind_of_call_without_a_format_is_refused() -> None:
    FORMATS.unregister(FORMAT.name)
    try:
        with pytest.raises(ProxyException, match="closed"):
            await Enforcement().on_request(
                "luthien", ActivePolicy(PolicyExecutor(NoOp())), UserAPIKeyAuth(), data(), "alines"
            )
    finally:
        FORMATS.register(FORMAT)


async def test_a_policys_own_answer_goes_the_way_of_the_wire() -> None:
    given = data(stream=True)
    answer_instead(given, Answer("No."), "alines")
    assert given["mock_response"] == "-"
    assert FORMAT.provider_reply is not None
    client: Any = replying_client(FORMAT.provider_reply, Answer("No."), "alines")
    reply = await client.post("http://provider")
    assert reply.text == '{"say": "No."}\n{"done": "end"}\n'
    assert read_request(data(), "alines").paths == ("/v1/lines",)


def test_fields_that_extra_body_hides_are_judged_too() -> None:
    hidden = {"turns": [{"role": "user", "say": "hidden"}]}
    request = read_request({**data(), "extra_body": hidden}, "alines")
    judged = [one.body["turns"] for one in (request, *request.alternatives)]
    assert BODY["turns"] in judged
    assert hidden["turns"] in judged


def test_a_record_of_the_last_turn_has_that_of_the_wire() -> None:
    recorder = DefaultTransactionRecorder()
    recorder.original_request = recorder.final_request = dict(BODY)
    context = PolicyContext("t", Request(BODY), recorder=recorder)
    record = transaction_record(context, recorder, "1", (), with_bodies=True, of_last_turn=True)
    assert record["original"]["request"] == {"turns": BODY["turns"][:1]}


def test_its_tokens_are_counted_and_its_requests_are_logged() -> None:
    call: Any = Logging("m", [], False, "alines", datetime.now(), "c", "f")
    usage, _ = spent_on({"lines": [], "heard": 3, "said": 4}, call)
    assert (usage.prompt_tokens, usage.completion_tokens) == (3, 4)
    call.update_environment_variables(litellm_params={}, optional_params={}, model="m")
    log_request({**data(), "litellm_logging_obj": call}, "alines", Request(BODY))
    assert call.model_call_details["input"] == BODY["turns"]


def test_its_responses_are_logged_as_delivered() -> None:
    logged = {"lines": [{"say": "secret"}], "play": "Hamlet", "copy": "secret"}
    blocks = [{"type": "text", "text": "***"}, {"type": "tool_call", "id": "b", "name": "read", "arguments": "{}"}]
    assert FORMATS.rewrite_log(logged, blocks, "end") == {
        "play": "Hamlet",
        "lines": [{"say": "***"}, {"call": 0, "name": "read"}, {"done": "end"}],
    }


def test_the_doctor_asks_on_it_and_reads_its_replies() -> None:
    asked = [probe for probe in probes(["m"]) if probe.path == "/v1/lines"]
    assert [(probe.mode, probe.body.get("stream")) for probe in asked] == [("full", None), ("stream", True)]
    lines = [json.dumps({"say": governed("n")}), json.dumps({"done": "end"})]
    assert judge_reply(200, "\n".join(lines), "n").verdict == "governed"
    assert judge_reply(200, "\n".join([*lines, '{"say": "blue"}']), "n").verdict == "NOT GOVERNED"


def test_show_puts_its_conversation_last() -> None:
    lines = request_lines({"turns": [{"role": "user", "say": "hi"}], "abilities": [{"name": "read"}]})
    assert lines.index("turns:") > lines.index("abilities:")


@each_mode
async def test_the_scripted_provider_speaks_it(full: bool) -> None:
    provider = ScriptedProvider()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(provider), base_url="http://provider") as client:
        turns = [{"role": "user", "say": "say: Hello."}]
        reply = await client.post("/v1/lines", json={"turns": turns, "stream": not full})
    lines = reply.json()["lines"] if full else [json.loads(line) for line in reply.text.splitlines()]
    assert "".join(line.get("say", "") for line in lines) == "Hello."
    assert lines[-1] == {"done": "end"}


def test_a_name_or_a_call_type_can_be_taken_only_once() -> None:
    with pytest.raises(ValueError, match="'lines'"):
        FORMATS.register(FORMAT)
    with pytest.raises(ValueError, match="built in"):
        FORMATS.unregister("chat")
    assert [wire.name for wire in FORMATS] == [*BUILT_IN, "lines"]
    assert governed_format("lines") is FORMAT


def test_an_unknown_route_is_told() -> None:
    with pytest.raises(ConfigError, match="call type"):
        check_route_names(["nonsense"])
    with pytest.raises(LookupError, match="'nonsense'"):
        governed_format("nonsense")
