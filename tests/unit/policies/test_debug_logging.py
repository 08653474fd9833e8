"""`debug_logging`: what it writes to the log, what it keeps out of it, and that nothing else changes."""

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from luthien_litellm_hooks import ConfigError, Decision, Identity, PolicyContext, PolicyExecutor, Request
from luthien_litellm_hooks.policies.debug_logging import DebugLogging, DebugLoggingConfig
from luthien_litellm_hooks.testing import Call, Say, Think, run_policy
from luthien_litellm_hooks.testing.routes import ROUTES, RouteName
from tests.support.chat import adapter, call, chunk, deliver, finish, provide, pull, text, think
from tests.unit.wire.test_chat_recordings import RECORDINGS, STREAMS, chunks_of

LINE = re.compile(r"transaction (\S+): ([^:]+): (.*)")
ANSWER = [Think("hm", "sig"), Say("An answer\nof two lines."), Call("read", '{"path": "x"}', id="call_a")]

each_mode = pytest.mark.parametrize("full", [False, True], ids=["stream", "full"])


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "luthien_litellm_hooks.debug")


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, Any]]:
    """What was logged: of each line the kind, and the value."""
    messages = [record.getMessage() for record in caplog.records if record.name == "luthien_litellm_hooks.debug"]
    found = [match.groups() for message in messages if (match := LINE.fullmatch(message))]
    assert len(found) == len(messages), messages
    return [(what, json.loads(value)) for _, what, value in found]


@each_mode
@pytest.mark.parametrize("route", ["chat", "messages", "responses", "gemini"])
async def test_it_tells_each_thing_in_one_line(route: RouteName, full: bool, caplog: pytest.LogCaptureFixture) -> None:
    outcome = await run_policy(DebugLogging(), ANSWER, route=route, full=full)
    (request, said), *rest = lines(caplog)
    assert request == "request (user turn)"
    assert (said["route"], said["body"]) == (ROUTES[route].path, outcome.request.body)
    assert rest == [
        ("reasoning", "hm"),
        ("text", "An answer\nof two lines."),
        ("tool call", {"id": "call_a", "name": "read", "arguments": '{"path": "x"}'}),
        ("finish", outcome.finish_reason),
        ("closed, decisions", []),
    ]


@each_mode
@pytest.mark.parametrize("route", ROUTES)
async def test_it_changes_nothing(route: RouteName, full: bool) -> None:
    plain, logged = [
        await run_policy({"class": name}, ANSWER, route=route, full=full) for name in ("noop", "debug_logging")
    ]
    assert (logged.text, logged.reasoning, len(logged.chunks)) == (plain.text, plain.reasoning, len(plain.chunks))
    assert (logged.decisions, logged.request) == ((), plain.request)


async def test_every_chunk_leaves_as_it_came() -> None:
    chunks = [think("hm"), text("a"), text("b"), *call(0, "read", "{", "}"), finish("tool_calls")]
    assert [id(item) for item in await deliver(DebugLogging(), chunks)] == [id(item) for item in chunks]


@pytest.mark.skipif(not RECORDINGS, reason=f"no recorded chat streams in {STREAMS}")
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.stem)
async def test_every_chunk_of_a_recording_leaves_as_it_came(recording: Path) -> None:
    chunks = chunks_of(recording)
    assert [id(item) for item in await deliver(DebugLogging(), chunks)] == [id(item) for item in chunks]


def test_it_does_not_come_between_pieces() -> None:
    deltas = {"on_chunk_received", "on_content_delta", "on_reasoning_delta", "on_tool_call_delta", "on_stream_complete"}
    assert not deltas & vars(DebugLogging).keys()


SECRET_REQUEST = {
    "model": "m",
    "api_key": "SECRET-1",
    "max_tokens": 77,
    "extra_headers": {"Authorization": "Bearer SECRET-2", "x-team": "red"},
    "aws_secret_access_key": "SECRET-3",
    "tools": [{"type": "mcp", "headers": {"X-Api-Key": "SECRET-4"}, "authorization": "SECRET-5"}],
    "messages": [
        {"role": "user", "content": "hello"},
        {"role": "tool", "content": '[{"password": "SECRET-6", "user": "me"}]'},
        {"role": "assistant", "tool_calls": [{"function": {"arguments": '{"nested": {"token": "SECRET-7"}}'}}]},
    ],
    "keys": {"secret": ["SECRET-8"], "password": 123498765},
}


async def test_credentials_are_redacted(caplog: pytest.LogCaptureFixture) -> None:
    answer = [Say('{"client_secret": "SECRET-9"}'), Call("login", '{"user": "me", "password": "SECRET-10"}')]
    outcome = await run_policy(DebugLogging(), answer, request=SECRET_REQUEST)
    assert "SECRET-" not in caplog.text
    assert "123498765" not in caplog.text
    said = dict(lines(caplog))
    body = said["request (tool turn)"]["body"]
    assert (body["max_tokens"], body["api_key"]) == (77, "[redacted]")
    assert body["extra_headers"] == {"Authorization": "[redacted]", "x-team": "red"}
    assert json.loads(said["tool call"]["arguments"]) == {"user": "me", "password": "[redacted]"}
    assert outcome.request.body["api_key"] == "SECRET-1", "the provider gets what it is to get"


async def test_a_schema_that_speaks_of_credentials_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    schema = {"properties": {"password": {"type": "string"}}}
    await run_policy(DebugLogging(), "hello", request={"tools": [{"name": "login", "input_schema": schema}]})
    assert lines(caplog)[0][1]["body"]["tools"][0]["input_schema"] == schema


@pytest.mark.parametrize(
    "nested", ["[" * 5_000 + "]" * 5_000, '{"a":' * 5_000 + "1" + "}" * 5_000], ids=["lists", "objects"]
)
async def test_json_that_is_too_deep_to_read_is_not_shown_and_harms_nobody(
    nested: str, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = await run_policy(DebugLogging(), [Call("read", nested)])
    assert [call.arguments for call in outcome.tool_calls] == [nested]
    assert dict(lines(caplog))["tool call"]["arguments"] == "[redacted]"


async def test_long_texts_are_cut(caplog: pytest.LogCaptureFixture) -> None:
    policy = DebugLogging(DebugLoggingConfig(max_length=5))
    await run_policy(policy, "123456789", request={"messages": [{"role": "user", "content": "abcdefgh"}]})
    said = dict(lines(caplog))
    assert said["text"] == "12345... (9 characters)"
    assert said["request (user turn)"]["body"]["messages"][0]["content"] == "abcde... (8 characters)"


async def test_a_text_is_cut_after_2000_characters_unless_said_otherwise(caplog: pytest.LogCaptureFixture) -> None:
    await run_policy(DebugLogging(), "x" * 2001)
    assert dict(lines(caplog))["text"] == "x" * 2000 + "... (2001 characters)"


@pytest.mark.parametrize("level", ["debug", "info", "warning"])
async def test_its_lines_have_the_level_of_the_config(level: Any, caplog: pytest.LogCaptureFixture) -> None:
    await run_policy({"class": "debug_logging", "config": {"level": level}}, "hello")
    levels = {record.levelname for record in caplog.records if record.name == "luthien_litellm_hooks.debug"}
    assert levels == {level.upper()}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"level": "loud"}, "policy.config.level: Input should be 'debug', 'info' or 'warning'"),
        ({"max_length": 0}, "policy.config.max_length: Input should be greater than 0"),
        ({"max_lenght": 5}, "policy.config.max_lenght: unknown key; did you mean 'max_length'?"),
    ],
)
async def test_a_wrong_setting_is_refused_by_its_name(config: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        await run_policy({"class": "debug_logging", "config": config}, "hello")


async def test_it_tells_who_asks_and_the_decisions_so_far(caplog: pytest.LogCaptureFixture) -> None:
    ctx = PolicyContext("t-1", Request({}, headers={"x-team": "red"}), identity=Identity(key_alias="agents"))
    ctx.decisions.append(Decision("rules", "block", None, "it deletes", "No.", 0.9))
    executor = PolicyExecutor(DebugLogging())
    await executor.on_request(ctx)
    await pull(executor.run(provide([chunk(content="hi"), finish()]), adapter(), ctx))
    (_, said), *_, (_, decisions) = lines(caplog)
    assert (said["key_alias"], said["headers"]) == ("agents", {"x-team": "red"})
    assert decisions == [{"policy": "rules", "action": "block", "reason": "it deletes", "message": "No.", "score": 0.9}]
    assert all("transaction t-1: " in record.getMessage() for record in caplog.records)


async def test_a_stream_that_breaks_is_told_as_far_as_it_came(caplog: pytest.LogCaptureFixture) -> None:
    items: Sequence[Any] = [text("so f"), ConnectionError("gone")]
    with pytest.raises(ConnectionError):
        await deliver(DebugLogging(), items)
    assert lines(caplog) == [("closed, decisions", [])]
