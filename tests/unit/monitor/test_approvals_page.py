"""The text in which an approver edits the arguments of a call."""

import json
from datetime import UTC, datetime

import pytest

from luthien_litellm_hooks.monitor.pages.approvals import editable
from luthien_litellm_hooks.policy.asked_calls import AskedCall
from luthien_litellm_hooks.telemetry.log_lines import escape
from luthien_litellm_hooks.wire.events import ToolForm


def asked(arguments: str, form: ToolForm = "function") -> AskedCall:
    given = {"id": "a", "digest": "d", "tool": "t", "form": form, "arguments": arguments, "policy": "p"}
    unknown = dict.fromkeys(
        ["reason", "evidence", "session", "key_hash", "key_alias", "user_id", "team_id", "team_alias"]
    )
    rest = {"transaction": "x", "model": "m", "words": "", "asked_at": datetime.now(UTC), "valid_s": 1.0}
    return AskedCall.model_validate({**given, **unknown, **rest})


@pytest.mark.parametrize(
    "value", ["plain", "Grüße, 世界", "a\u202eb\u200b\x1b[31m", "\U000e0041 tag", 'quote " and \\ back']
)
def test_json_keeps_its_meaning_and_hides_nothing(value: str) -> None:
    arguments = json.dumps({"command": value, "n": 1}, ensure_ascii=False)
    text = editable(asked(arguments))
    assert json.loads(text) == {"command": value, "n": 1}
    assert escape(text) == text
    assert text.count("\n") == 3


def test_free_text_that_hides_something_is_written_anew() -> None:
    assert editable(asked("a plain patch\nof two lines", "custom")) == "a plain patch\nof two lines"
    assert editable(asked("a\u202epatch", "custom")) == ""
    assert editable(asked("no JSON")) == "no JSON"
    assert editable(asked('{"n": 1e999}')) == '{"n": 1e999}'
