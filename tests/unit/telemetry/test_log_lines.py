"""Our log lines: safe whoever wrote what they quote, with time, level and name, however LiteLLM logs."""

import io
import logging
from collections.abc import Generator
from typing import Any

import pytest

from luthien_litellm_hooks.engine.hook_call import record_failure
from luthien_litellm_hooks.hooks.routes import ClosedPaths, UngovernedRoutes
from luthien_litellm_hooks.policy.context import Identity, PolicyContext
from luthien_litellm_hooks.policy.request import Request
from luthien_litellm_hooks.telemetry.log_lines import MAX_LINE
from luthien_litellm_hooks.testing import Call, Say, run_policy

FORGED = "2026-01-01 00:00:00,000 CRITICAL luthien_litellm_hooks: all is well"
HOSTILE = f"x\n{FORGED}\r\n\x1b[2J\x9b31m\u202eevil\u2066\u200b\u2028\u3164\U000e0041\x00"
NAMES = ("luthien_litellm_hooks", "luthien_litellm_hooks.debug")
BLOCKS: dict[str, Any] = {"policy": {"class": "block_dangerous_commands"}}
ROUTES = ("chat", "messages", "responses")


@pytest.fixture
def written() -> Generator[io.StringIO]:
    """What a plain handler of somebody else's writes of our records."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter(logging.BASIC_FORMAT))
    logging.getLogger().addHandler(handler)
    yield stream
    logging.getLogger().removeHandler(handler)


def assert_is_safe(text: str) -> None:
    assert FORGED not in text.splitlines()
    assert all(character.isprintable() or character == "\n" for character in text)
    assert "\u3164" not in text


@pytest.mark.parametrize("name", NAMES)
def test_a_foreign_word_is_written_out_and_cut(name: str, written: io.StringIO) -> None:
    logging.getLogger(name).warning("a tool called %s%s", HOSTILE, "x" * 1_000_000)
    assert len(written.getvalue().splitlines()) == 1
    assert_is_safe(written.getvalue())
    assert "\\x1b[2J" in written.getvalue()
    assert "more characters)" in written.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_harmless_words_stay(name: str, written: io.StringIO) -> None:
    logging.getLogger(name).warning("%s of %s: 100%%", "ünïcode 日本 👍", r"C:\temp")
    assert written.getvalue() == f"WARNING:{name}:ünïcode 日本 👍 of C:\\temp: 100%\n"


class Worst(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def _fail(kind: str) -> None:
    """Raises what the test is about."""
    if kind == "group":
        raise ExceptionGroup(HOSTILE, [ValueError(HOSTILE), KeyError(HOSTILE)])
    if kind == "without a text":
        raise Worst
    try:
        raise ValueError(HOSTILE + "x" * 1_000_000)
    except ValueError as error:
        if kind == "cause":
            raise LookupError(HOSTILE) from error
        raise LookupError(HOSTILE)  # noqa: B904


@pytest.mark.parametrize("kind", ["cause", "context", "group", "without a text"])
def test_the_text_of_an_exception_cannot_forge_a_line_either(kind: str, written: io.StringIO) -> None:
    context = PolicyContext("t-1", Request({}))
    with pytest.raises(Exception) as failure:  # noqa: PT011  # each kind is another
        _fail(kind)
    record_failure(context, "p", "block", "on_request", failure.value)
    assert_is_safe(written.getvalue())
    assert "_fail(kind)" in written.getvalue()
    assert len(written.getvalue()) < 4 * MAX_LINE
    assert ("ValueError: x\\n2026" in written.getvalue()) == (kind != "without a text")


def test_paths_are_counted_by_their_kind(written: io.StringIO) -> None:
    routes = UngovernedRoutes("refuse")
    closed = ClosedPaths(lambda: routes)
    for number in range(1000):
        closed.matches({"type": "http", "path": f"/v1/threads/{HOSTILE}{number}"})
    assert routes.counts == {"/v1/threads": 1000}
    assert written.getvalue().count("\n") == 1


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("full", [False, True])
async def test_a_block_is_told_once_without_text_of_the_traffic(full: bool, route: Any, written: io.StringIO) -> None:
    policy = {"class": "block_dangerous_commands"}
    answer = [Say("MARK-1"), Call("bash", '{"command": "rm -rf / MARK-2"}'), Call("bash", '{"command": "ls"}')]
    await run_policy(policy, answer, route=route, full=full)
    [line] = [line for line in written.getvalue().splitlines() if "blocked" in line]
    assert line.endswith(
        'transaction transaction-test: policy "block_dangerous_commands" blocked tool "bash"; key_alias null; '
        'reason "dangerous command: recursive deletion of /"'
    )
    assert "MARK" not in written.getvalue()


def test_the_words_of_a_block_cannot_leave_their_quotes(written: io.StringIO) -> None:
    who = Identity(key_alias=f'"; reason "none{HOSTILE}')
    PolicyContext("t-1", Request({}), policy_name="p", identity=who).decide("block", reason='a "reason"')
    assert_is_safe(written.getvalue())
    assert 'key_alias "\\"; reason \\"none' in written.getvalue()
    assert 'reason "a \\"reason\\""' in written.getvalue()


def test_what_only_votes_is_not_told(written: io.StringIO) -> None:
    context = PolicyContext("t-1", Request({}))
    context.is_voter = True
    context.decide("block", reason="r")
    assert written.getvalue() == ""
