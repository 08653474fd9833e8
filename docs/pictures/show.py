"""Draws the README's picture of `luthien-hooks show`: `python -m docs.pictures.show`, from the repository's root."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from luthien_litellm_hooks.cli.show.printing import print_transaction
from luthien_litellm_hooks.monitor.transactions import Record, read_transaction
from luthien_litellm_hooks.policies.block_dangerous_commands import BlockDangerousCommands
from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from tests.support.recorded import TIME, recorded, row

PICTURE = Path(__file__).with_suffix(".svg")
POLICY = "block_dangerous_commands"
TRANSACTION = "5b0c7a4e-93d1-4f6e-8a52-6c1f0e9d2b37"
ANSWER = Answer(
    [
        Say("The logs fill the disk. I will clear them."),
        Call(
            "bash", json.dumps({"command": "cd /var/log\nrm -rf / --no-preserve-root", "timeout": 30}), id="call_7f3a"
        ),
    ]
)


def picture() -> str:
    """The picture as it should be: the same at each call."""
    record = asyncio.run(recorded(BlockDangerousCommands(), ANSWER, transaction_id=TRANSACTION)) | _settled()
    record["decisions"] = [decision | {"policy": POLICY, "milliseconds": 1.4} for decision in record["decisions"]]
    ids = {"request_id": "chatcmpl-Ct41xQm8", "litellm_call_id": "e7a1f0c2-0b7d-4c55-9f0e-1d2c3b4a5f60"}
    transaction = read_transaction(row(record, startTime=TIME, **ids))
    console = Console(record=True, width=100, file=io.StringIO(), highlight=False, markup=False, emoji=False)
    console.print(Text(f"$ luthien-hooks show {TRANSACTION}\n"))
    print_transaction(console, transaction, Record.model_validate(record), is_full=False)
    return console.export_svg(title="luthien-hooks show", unique_id="show")


def _settled() -> dict[str, Any]:
    """What would be another in each picture."""
    return {
        "transaction_id": TRANSACTION,
        "milliseconds": 1840.0,
        "policies": [{"name": POLICY, "version": "413714a36f33"}],
    }


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
