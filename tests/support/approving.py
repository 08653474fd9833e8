"""People who decide about tool calls in another terminal, with the command."""

import json
import os
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

COMMAND = Path(sysconfig.get_path("scripts")) / "luthien-hooks"


def approvals(proxy: Proxy, *arguments: str, code: int = 0) -> str:
    """What `luthien-hooks approvals` prints on the machine of a proxy; with another `code`, its complaint."""
    without = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "LITELLM_MASTER_KEY")}
    environment = {**without, "COLUMNS": "120", "LUTHIEN_RECORDS": str(proxy.records)}
    done = subprocess.run(
        [COMMAND, "approvals", *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr if code else done.stdout


def waiting_for(proxy: Proxy, tool: str, *arguments: str) -> dict[str, Any]:
    """The one call of a tool that waits, as soon as it does."""
    found: list[dict[str, Any]] = []

    def is_there() -> bool:
        if not arguments and not proxy.records.with_name("approvals.sqlite").exists():
            return False
        listed = json.loads(approvals(proxy, "list", "--json", *arguments))["approvals"]
        found[:] = [call for call in listed if call["tool"] == tool]
        return bool(found)

    wait_until(is_there)
    [call] = found
    return call
