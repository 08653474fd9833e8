"""People who decide about tool calls in another terminal, with the command."""

import json
from typing import Any

from tests.support.command import run
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until


def approvals(proxy: Proxy, *arguments: str, code: int = 0) -> str:
    """What `luthien-hooks approvals` prints on the machine of a proxy; with another `code`, its complaint."""
    done = run("approvals", *arguments, COLUMNS="120", LUTHIEN_RECORDS=str(proxy.records))
    assert done.code == code, done
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
