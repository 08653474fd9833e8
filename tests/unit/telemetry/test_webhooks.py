"""Webhooks: what a real server gets of a call that waits, with which signature, and how often it is tried."""

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Generator
from typing import Any

import pytest

from luthien_litellm_hooks.config.settings import ApprovalsSettings
from luthien_litellm_hooks.hooks.admin.notes import note_of, notifier
from luthien_litellm_hooks.telemetry import webhooks
from luthien_litellm_hooks.telemetry.webhooks import Webhook, Webhooks
from tests.support.proxy import HOST, free_port
from tests.support.webhook import Receiver, receiver
from tests.unit.cli.test_approvals_command import asked

pytestmark = pytest.mark.anyio
SECRET = "s3cret"


@pytest.fixture
def server() -> Generator[Receiver]:
    with receiver() as server:
        yield server


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "_WAITS_S", (0.05, 0.1))


async def until_said(caplog: pytest.LogCaptureFixture, words: str) -> None:
    async with asyncio.timeout(60):
        await asyncio.to_thread(lambda: [time.sleep(0.02) for _ in iter(lambda: words in caplog.text, True)])


async def until_got(server: Receiver, count: int) -> None:
    async with asyncio.timeout(60):
        await asyncio.to_thread(lambda: [time.sleep(0.02) for _ in iter(lambda: len(server.got) >= count, True)])


def settings(server: Receiver, **more: Any) -> ApprovalsSettings:
    return ApprovalsSettings.model_validate({"notify": [{"url": server.url, "secret": SECRET, **more}]})


async def test_a_note_is_signed_and_has_no_arguments(server: Receiver) -> None:
    call = asked(arguments='{"command": "git push --force my-secret-branch"}', words="my secret words")
    notifier(lambda: settings(server), None)(call)
    await until_got(server, 1)
    headers, body, _ = server.got[0]
    seconds, _, signature = headers["Luthien-Signature"].removeprefix("t=").partition(",v1=")
    expected = hmac.new(SECRET.encode(), seconds.encode() + b"." + body, hashlib.sha256).hexdigest()
    assert signature == expected
    assert abs(int(seconds) - time.time()) < 60
    assert headers["Content-Type"] == "application/json"
    [note] = server.notes
    assert (note["type"], note["id"], note["tool"], note["key_alias"]) == ("approval.asked", call.id, "Bash", "agents")
    assert note["text"] == (
        f"A call of Bash by agents waits for a person ({call.id}): rules.0: command git push. "
        f"`luthien-hooks approvals show {call.id}`"
    )
    assert b"secret" not in body
    assert "arguments" not in note


async def test_arguments_and_a_link_are_added_on_demand(server: Receiver) -> None:
    call = asked()
    notifier(lambda: settings(server, with_arguments=True), "https://proxy.example.com/luthien/ui")(call)
    await until_got(server, 1)
    [note] = server.notes
    assert note["arguments"] == call.arguments
    assert note["url"] == f"https://proxy.example.com/luthien/ui/approvals#a-{call.id}"
    assert note["text"].endswith(note["url"])


async def test_a_note_without_a_secret_is_unsigned(server: Receiver) -> None:
    Webhooks().send(Webhook(server.url), {"text": "x"})
    await until_got(server, 1)
    assert "Luthien-Signature" not in server.got[0][0]


async def test_a_server_that_fails_is_tried_three_times(server: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    server.statuses = [500, 302, 200]
    Webhooks().send(Webhook(server.url, SECRET), {"text": "x"})
    await until_got(server, 3)
    assert len({body for _, body, _ in server.got}) == 1
    assert "HTTP 500" in caplog.text
    assert "HTTP 302" in caplog.text
    assert "is not told" not in caplog.text


async def test_a_server_that_keeps_failing_is_given_up_and_the_log_hides_its_path(
    server: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    server.statuses = [503] * 10
    sender = Webhooks()
    sender.send(Webhook(server.url, SECRET), {"text": "x"})
    await until_said(caplog, "is not told: HTTP 503")
    assert len(server.got) == 3
    sender.send(Webhook(f"http://{HOST}:{free_port()}/secret-path"), {"text": "x"})
    await until_said(caplog, "is not told: ConnectError")
    assert [record.levelno for record in caplog.records if "is not told" in record.message] == [logging.ERROR] * 2
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("luthien")]
    assert not any("secret" in line for line in ours)


async def test_many_notes_for_a_server_that_hangs_are_dropped(
    server: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    server.may_answer.clear()
    sender = Webhooks()
    for _ in range(webhooks._MAX_WAITING + 1):
        sender.send(Webhook(server.url), {"text": "x"})
    assert caplog.text.count("is dropped") == 1


def test_a_model_writes_no_markup_and_mentions_nobody() -> None:
    call = asked(tool="<!channel> \u202e\n`x`", reason="<https://evil.example|click> & more", key_alias="<@U1>")
    text = note_of(call, None, with_arguments=False)["text"]
    assert isinstance(text, str)
    assert not set("<>\n\u202e") & set(text)


def test_references_to_the_environment_are_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_URL", "https://hooks.example.com/x")
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    notify = {"url": "os.environ/HOOK_URL", "secret": "os.environ/HOOK_SECRET"}
    [found] = ApprovalsSettings.model_validate({"notify": [notify]}).notify
    assert (found.url, found.secret, found.with_arguments) == ("https://hooks.example.com/x", SECRET, False)
    assert SECRET not in repr(found)
