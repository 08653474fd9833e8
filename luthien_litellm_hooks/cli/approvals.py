"""`luthien-hooks approvals`: the tool calls that wait for a person, and decisions about them."""

import asyncio
import getpass
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, cast

import httpx
from pydantic import ValidationError
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from luthien_litellm_hooks.cli.output import complain, print_json, terminal
from luthien_litellm_hooks.errors import ConfigError, LuthienError, StateError
from luthien_litellm_hooks.monitor.outline import argument_lines
from luthien_litellm_hooks.policies.rules.effects import effects_of
from luthien_litellm_hooks.policy.approvals import AskedCall, UnknownApprovalError, all_calls, decide, find_call
from luthien_litellm_hooks.recording.state import SqliteStore, approvals_path
from luthien_litellm_hooks.telemetry.log_lines import bounded_line, escape, one_line

T = TypeVar("T")
Word = Literal["approve", "deny"]
_POLL_S = 1.0
_TIMEOUT_S = 30.0
_SHORT = 80
_STATES = {"pending": "yellow", "approved": "green", "used": "green", "denied": "red"}


class RefusedDecisionError(LuthienError):
    """Refusal of a decision by the proxy."""


class Place(Protocol):
    """A place of approvals. Its methods raise `ConfigError` if it cannot be used."""

    def calls(self, *, every: bool) -> Sequence[AskedCall]:
        """Returns the calls that wait, or with `every` the decided ones too."""
        ...

    def call(self, id: str) -> AskedCall:
        """Returns a call. Raises `UnknownApprovalError`."""
        ...

    def decide(self, id: str, word: Word, arguments: str | None, message: str | None) -> AskedCall:
        """Decides about a call. Raises another `LuthienError` for a decision that does not count."""
        ...


@dataclass(frozen=True, slots=True)
class LocalFile:
    """The file of a proxy without a database, for its own user."""

    path: Path

    def calls(self, *, every: bool) -> Sequence[AskedCall]:
        found = self._run(lambda store: all_calls(store))
        return [call for call in found if every or call.state == "pending"]

    def call(self, id: str) -> AskedCall:
        return self._run(lambda store: find_call(store, id))

    def decide(self, id: str, word: Word, arguments: str | None, message: str | None) -> AskedCall:
        state = "approved" if word == "approve" else "denied"
        by = getpass.getuser()
        return self._run(lambda store: decide(store, id, state, by=by, arguments=arguments, message=message))

    def _run(self, work: Callable[[SqliteStore], Coroutine[Any, Any, T]]) -> T:
        if not self.path.expanduser().exists():
            raise ConfigError(
                f"There are no approvals in {self.path}. Give the --url of a proxy with a database, or of another user."
            )
        store = SqliteStore(self.path)
        try:
            return asyncio.run(work(store))
        except StateError as error:
            raise ConfigError(f"The approvals cannot be read: {error}") from None
        finally:
            store.close()


@dataclass(frozen=True, slots=True)
class ProxyApi:
    """A running proxy, for the holder of an admin's or an approver's key."""

    url: str
    key: str

    def calls(self, *, every: bool) -> Sequence[AskedCall]:
        found = self._ask("GET", "", params={"state": "all" if every else "pending"})
        return [_read(one) for one in found.get("approvals", ())]

    def call(self, id: str) -> AskedCall:
        return _read(self._ask("GET", f"/{id}"))

    def decide(self, id: str, word: Word, arguments: str | None, message: str | None) -> AskedCall:
        given = {"decision": word, "arguments": arguments, "message": message}
        return _read(self._ask("POST", f"/{id}", json=given))

    def _ask(self, method: str, path: str, **given: Any) -> dict[str, Any]:
        if not (self.key and self.key.isascii() and self.key.isprintable()):
            raise ConfigError("The key is missing, or has characters that no header can carry: set LITELLM_MASTER_KEY.")
        try:
            response = httpx.request(
                method,
                f"{self.url.rstrip('/')}/luthien/approvals{path}",
                headers={"Authorization": f"Bearer {self.key}"},
                timeout=_TIMEOUT_S,
                **given,
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ConfigError(f"{self.url} cannot be reached: {error}") from None
        if response.is_success:
            return cast(dict[str, Any], response.json())
        said = f"{self.url}: HTTP {response.status_code}: {_message(response)}"
        match response.status_code:
            case 404:
                raise UnknownApprovalError(said)
            case 400 | 403 | 409:
                raise RefusedDecisionError(said)
            case _:
                raise ConfigError(said)


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return "no message"


def _read(found: dict[str, Any]) -> AskedCall:
    try:
        return AskedCall.model_validate(found)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ConfigError(f"The proxy's approvals have a form that this version cannot read: {where}") from None


def place_of(url: str | None, key: str, records: Path | None) -> Place:
    """Returns the proxy at `url`, or else the file beside the records."""
    if url is not None:
        return ProxyApi(url, key)
    return LocalFile(records.with_name("approvals.sqlite") if records is not None else approvals_path(os.environ))


def run_list(place: Place, *, every: bool, as_json: bool) -> int:
    """Lists calls. Returns the exit code."""
    return _run(lambda: _print_list(place.calls(every=every), every=every, as_json=as_json))


def run_show(place: Place, id: str, *, as_json: bool) -> int:
    """Shows a call with all that it does. Returns the exit code."""
    return _run(lambda: _print_call(place.call(id), as_json=as_json))


def run_decide(place: Place, id: str, word: Word, *, file: Path | None = None, message: str | None = None) -> int:
    """Decides about a call, and says so. Returns the exit code."""

    def work() -> None:
        call = place.decide(id, word, None if file is None else _arguments(file), message)
        edited = ", as you edited it" if call.edited is not None else ""
        print(f"{call.state}: {one_line(call.tool)} ({call.id}){edited}")

    return _run(work)


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
                    console.print(_line(call), soft_wrap=True)
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


# Printing: a model's text is escaped, and never read as markup


def _print_list(calls: Sequence[AskedCall], *, every: bool, as_json: bool) -> None:
    if as_json:
        print_json({"approvals": [_as_json(call) for call in calls]})
        return
    if not calls:
        print("No call has been asked about." if every else "No call waits.")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for title in ("id", "state", "age", "tool"):
        table.add_column(title, no_wrap=True)
    for title in ("in short", "session or key"):
        table.add_column(title, overflow="fold")
    for call in calls:
        table.add_row(
            Text(one_line(call.id)),
            Text(call.state, _STATES[call.state]),
            Text(_age(call.asked_at)),
            Text(bounded_line(call.tool, 40)),
            Text(_in_short(call)),
            Text(bounded_line(call.session or call.key_alias or (call.key_hash or "")[:8], 40)),
        )
    terminal().print(table)


def _line(call: AskedCall) -> Text:
    who = call.session or call.key_alias or (call.key_hash or "")[:8]
    return Text.assemble(
        f"{call.asked_at.astimezone(UTC):%H:%M:%S} ",
        (one_line(call.id), "bold"),
        f" {bounded_line(call.tool, 40)}: {_in_short(call)} ({bounded_line(who, 40)})",
    )


def _in_short(call: AskedCall) -> str:
    effects = effects_of(call.tool_call)
    return bounded_line(effects[0] if effects else call.arguments, _SHORT)


def _age(since: datetime) -> str:
    seconds = max((datetime.now(UTC) - since).total_seconds(), 0)
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _print_call(call: AskedCall, *, as_json: bool) -> None:
    if as_json:
        print_json(_as_json(call))
        return
    console = terminal()
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for title, text in _facts(call).items():
        if text:
            table.add_row(title, Text(text))
    console.print(table)
    _print_part(console, "arguments", argument_lines(call.arguments))
    _print_part(console, "effects", [one_line(effect) for effect in effects_of(call.tool_call)])
    _print_part(console, "the user's last words", escape(call.words).split("\n") if call.words else [])
    if call.edited is not None:
        _print_part(console, f"arguments, as {one_line(call.by or '')} edited them", argument_lines(call.edited))


def _facts(call: AskedCall) -> dict[str, str]:
    key = f"{call.key_alias} ({call.key_hash})" if call.key_alias else call.key_hash
    facts = {
        "approval": call.id,
        "state": call.state if call.by is None else f"{call.state}, decided by {call.by}",
        "asked": f"{call.asked_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
        "tool": call.tool,
        "policy": call.policy,
        "reason": call.reason,
        "evidence": call.evidence,
        "key": key,
        "user": call.user_id,
        "team": call.team_alias or call.team_id,
        "session": call.session,
        "model": call.model,
        "transaction": call.transaction,
        "message": call.message,
    }
    return {title: one_line(text) for title, text in facts.items() if text}


def _print_part(console: Console, title: str, lines: Sequence[str]) -> None:
    """Prints lines indented below their title: a model's text cannot pass for ours at the margin."""
    if not lines:
        return
    console.print(Text(f"\n{title}", "bold"))
    for line in lines:
        for piece in Text(line).wrap(console, max(console.width - 2, 20)) or [Text("")]:
            console.print(Text.assemble("  ", piece), soft_wrap=True)


def _as_json(call: AskedCall) -> dict[str, Any]:
    return {**call.model_dump(mode="json"), "effects": effects_of(call.tool_call)}
