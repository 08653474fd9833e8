"""`luthien-hooks approvals`: the tool calls that wait for a person, and decisions about them."""

import time
from collections.abc import Callable
from pathlib import Path

from luthien_litellm_hooks.cli.approvals.places import Place, Word
from luthien_litellm_hooks.cli.approvals.printing import grant_line, line, print_call, print_grants, print_list
from luthien_litellm_hooks.cli.output import complain, terminal
from luthien_litellm_hooks.errors import ConfigError, LuthienError
from luthien_litellm_hooks.policy.grants import Scope
from luthien_litellm_hooks.telemetry.log_lines import one_line

_POLL_S = 1.0


def run_list(place: Place, *, every: bool, as_json: bool) -> int:
    """Lists calls. Returns the exit code."""
    return _run(lambda: print_list(place.calls(every=every), every=every, as_json=as_json))


def run_show(place: Place, id: str, *, as_json: bool) -> int:
    """Shows a call with all that it does. Returns the exit code."""
    return _run(lambda: print_call(place.call(id), as_json=as_json))


def run_decide(place: Place, id: str, word: Word, *, file: Path | None = None, message: str | None = None) -> int:
    """Decides about a call, and says so. Returns the exit code."""

    def work() -> None:
        call = place.decide(id, word, None if file is None else _arguments(file), message)
        edited = ", as you edited it" if call.edited is not None else ""
        print(f"{call.state}: {one_line(call.tool)} ({call.id}){edited}")

    return _run(work)


def run_approve_with_grant(place: Place, id: str, scope: Scope, *, like: bool) -> int:
    """Approves a call, gives a grant, and says so. Returns the exit code."""

    def work() -> None:
        call, grant = place.approve_with_grant(id, scope, like=like)
        print(f"{call.state}: {one_line(call.tool)} ({call.id})")
        print(f"granted: {grant_line(grant)}")

    return _run(work)


def run_grants(place: Place, *, as_yaml: bool, as_json: bool) -> int:
    """Lists grants. Returns the exit code."""
    return _run(lambda: print_grants(place.grants(), as_yaml=as_yaml, as_json=as_json))


def run_revoke(place: Place, id: str) -> int:
    """Ends a grant, and says so. Returns the exit code."""
    return _run(lambda: print(f"revoked: {grant_line(place.revoke(id))}"))


def _arguments(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None


def run_watch(place: Place) -> int:
    """Prints each call when it begins to wait, until Ctrl-C. Returns the exit code."""

    def work() -> None:
        console, seen = terminal(), set[str]()
        console.print("Watching for calls that wait for a person; Ctrl-C ends.", style="dim")
        while True:
            for call in place.calls(every=False):
                if call.id not in seen:
                    seen.add(call.id)
                    console.print(line(call), soft_wrap=True)
            time.sleep(_POLL_S)

    try:
        return _run(work)
    except KeyboardInterrupt:
        return 0


def _run(work: Callable[[], None]) -> int:
    try:
        work()
    except ConfigError as error:
        complain(str(error))
        return 2
    except LuthienError as error:
        complain(str(error))
        return 1
    return 0
