"""Draws the picture of a call before a person, as the command shows it: `python -m docs.pictures.approvals`, from the
repository's root."""

import asyncio
import io
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.text import Text
from typer.testing import CliRunner

from docs.pictures.replay import COLOURS, WIDTH
from luthien_litellm_hooks.cli import app
from luthien_litellm_hooks.policy.asked_calls import AskedCall, key_of
from luthien_litellm_hooks.recording.state import SqliteStore, approvals_path

PICTURE = Path(__file__).with_suffix(".svg")
CALL = AskedCall(
    id="7f3k-92ax",
    digest="0f7c",
    tool="Bash",
    form="function",
    arguments=json.dumps({"command": "make test && git push origin main", "description": "Publish the fix"}),
    policy="tool_rules",
    reason="rules.0: command git push",
    evidence="git push origin main",
    transaction="5b0c7a4e-93d1-4f6e-8a52-6c1f0e9d2b37",
    session="f3b1c0de-7a52-4c8e-9d10-2f6b8a4e1c77",
    model="claude-sonnet",
    words="The tests are green. Publish the fix.",
    beside=('Read {"file_path": "CHANGELOG.md"}',),
    key_hash="c1a5298f939e87e8f962a5edfc206918",
    key_alias="agents",
    user_id="bob",
    team_id=None,
    team_alias=None,
    asked_at=datetime(2026, 5, 31, 12, 0, tzinfo=UTC),
    valid_s=3600.0,
)


def put(records: Path, call: AskedCall = CALL) -> None:
    """Puts the call before the people of the proxy with these records."""
    store = SqliteStore(approvals_path({"LUTHIEN_RECORDS": str(records)}))
    asyncio.run(store.put(key_of(call.digest), call.model_dump_json(), call.valid_s, replacing=None))
    store.close()


def picture() -> str:
    """The picture as it should be: the same at each call."""
    words = ["approvals", "show", CALL.id]
    with tempfile.TemporaryDirectory() as folder:
        records = Path(folder, "records.sqlite")
        put(records)
        done = CliRunner().invoke(app, words, env={**COLOURS, "LUTHIEN_RECORDS": str(records)}, color=True)
    if done.exit_code:
        raise RuntimeError(done.output)
    console = Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False, markup=False, emoji=False)
    console.print(Text(f"$ luthien-hooks {' '.join(words)}\n"))
    console.print(Text.from_ansi(done.stdout))
    return console.export_svg(title="luthien-hooks approvals", unique_id="approvals")


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
