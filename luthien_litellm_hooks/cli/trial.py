"""`luthien-hooks try`: runs a policy over a response, or a single tool call, without a proxy."""

import asyncio
import json
import logging
import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from luthien_litellm_hooks.cli.output import complain, print_json, terminal
from luthien_litellm_hooks.cli.show import Source, find_transaction
from luthien_litellm_hooks.cli.show.printing import print_trial
from luthien_litellm_hooks.config.settings import build_executor, load_settings
from luthien_litellm_hooks.engine.rehearsal import Recorded, Rehearsal, rehearse
from luthien_litellm_hooks.errors import ConfigError, NotReplayableError, WireError
from luthien_litellm_hooks.monitor.transactions import Record, recorded
from luthien_litellm_hooks.monitor.words import HOW_TO_STORE
from luthien_litellm_hooks.policies.rules.effects import command_line
from luthien_litellm_hooks.policies.rules.kinds import kinds_of_name
from luthien_litellm_hooks.policies.rules.tool_use import ToolUse
from luthien_litellm_hooks.telemetry.log_lines import logger, one_line
from luthien_litellm_hooks.testing.answers import Call
from luthien_litellm_hooks.testing.routes import RouteName
from luthien_litellm_hooks.testing.run import Outcome, Script, run_policy
from luthien_litellm_hooks.wire import FORMATS
from luthien_litellm_hooks.wire.format import event_payloads, json_object

_FAILED = ("policy_error", "timeout")
_SHELL_TOOL = "Bash"
_MOST_COMMANDS = 20


@dataclass(frozen=True, slots=True)
class TriedResponse:
    """A response to run a policy over, and its route."""

    route: RouteName
    script: Script
    call: Call | None = None
    """The only part of the response, if the verdict on one call is asked for."""

    @classmethod
    def of_call(cls, name: str, arguments: str) -> "TriedResponse":
        """Makes a response of one call, on a route that needs no import of LiteLLM."""
        if json_object(arguments) is None:
            raise ConfigError(f"The arguments of {name} should be a JSON object, not {arguments}")
        call = Call(name, arguments)
        return cls("messages", [call], call=call)


@dataclass(frozen=True, slots=True)
class Given:
    """The response to try a policy on: exactly one is set. `command` is a shell script, `call` a tool and its
    arguments, `file` a response or a text, `record` the id of a transaction."""

    command: str | None
    call: tuple[str, str] | None
    file: Path | None
    record: str | None


@dataclass(frozen=True, slots=True)
class Settings:
    """A policy's own settings as YAML, or the file with them."""

    text: str | None
    file: Path | None

    def read(self) -> object:
        if self.text is not None and self.file is not None:
            raise ConfigError("Duplicate settings of the policy: use either --config or --config-file.")
        try:
            text = self.text if self.file is None else self.file.read_text(encoding="utf-8")
            return yaml.safe_load(text or "{}") or {}
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ConfigError(f"The policy's settings cannot be read: {error}") from None


def run_trial(policy: str, settings: Settings, given: Given, source: Source, *, as_json: bool, is_full: bool) -> int:
    """Prints the response that would be delivered, and each decision with its reason; of a single call the verdict.

    Returns 1 if the policy failed, the record is unknown, or the single call does not pass; 2 if the policy could not
    be run.
    """
    try:
        tried, spec = _choose(given, source), {"class": policy, "config": settings.read()}
        if tried is None:
            return 1
        done = _rehearse(spec, tried) if isinstance(tried, Recorded) else _try(spec, tried)
    except ConfigError as error:
        complain(str(error))
        return 2
    record = done.record() if isinstance(done, Rehearsal) else done.record
    call = None if isinstance(tried, Recorded) else tried.call
    if as_json:
        print_json(record)
    elif call is None or isinstance(done, Rehearsal):
        print_trial(terminal(), Record.model_validate(record), is_full=is_full)
    else:
        _print_verdict(terminal(), call, done)
    has_stopped_call = isinstance(done, Outcome) and call is not None and not done.tool_calls
    return int(record["outcome"] in _FAILED or has_stopped_call)


def _choose(given: Given, source: Source) -> TriedResponse | Recorded | None:
    if len([one for one in (given.command, given.call, given.file, given.record) if one is not None]) != 1:
        ways = "--command TEXT, --call NAME JSON, --answer FILE, or --record ID"
        raise ConfigError(f"Name one thing to try the policy on: {ways}.")
    if given.command is not None:
        return TriedResponse.of_call(_SHELL_TOOL, json.dumps({"command": given.command}, ensure_ascii=False))
    if given.call is not None:
        return TriedResponse.of_call(*given.call)
    return _read_response(given.file) if given.file is not None else _find_response(source, given.record or "")


def _find_response(source: Source, record: str) -> Recorded | None:
    """Returns a transaction with the provider's response. Raises `ConfigError` if its texts are not stored."""
    found = find_transaction(source, record)
    if found is None:
        return None
    if found[1].is_closed:
        raise ConfigError("There is nothing to try the policy on: the record stays closed.")
    read = recorded(*found)
    if read is None:
        raise ConfigError(HOW_TO_STORE)
    return read


def _print_verdict(console: Console, tried: Call, outcome: Outcome) -> None:
    """Prints what became of the call, the reasons, the commands that rules see in it, and the client's notice."""
    verdict, style = _verdict(tried, outcome)
    rows = [(verdict, f"{tried.name} {tried.arguments}", style)]
    rows += [("now", f"{call.name} {call.arguments}", "yellow") for call in outcome.tool_calls if verdict == "changed"]
    for decision in outcome.decisions:
        why = filter(None, (decision.reason, decision.evidence, json.dumps(decision.error) if decision.error else None))
        rows.append(("why", f"{decision.policy}: {': '.join(why)}", ""))
    rows += [("read as", line, "dim") for line in _reading(tried)]
    rows += [("client", line, "") for line in outcome.text.splitlines() if line]
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for number, (title, text, style) in enumerate(rows):
        is_again = number > 0 and rows[number - 1][0] == title
        table.add_row("" if is_again else title, Text(one_line(text), style))
    console.print(table)


def _verdict(tried: Call, outcome: Outcome) -> tuple[str, str]:
    if outcome.record["outcome"] in _FAILED:
        return "failed", "bold red"
    if not outcome.tool_calls:
        is_asking = "block" not in (actions := {decision.action for decision in outcome.decisions}) and "ask" in actions
        return ("asks", "yellow") if is_asking else ("blocked", "red")
    [left] = outcome.tool_calls[:1]
    is_equal = (left.name, json_object(left.arguments)) == (tried.name, json_object(tried.arguments))
    return ("passes", "green") if is_equal and len(outcome.tool_calls) == 1 else ("changed", "yellow")


def _reading(tried: Call) -> Iterator[str]:
    """Yields the shell commands that rules find in the call."""
    use = ToolUse(tried.name, json_object(tried.arguments), kinds_of_name(tried.name))
    for command in use.commands[:_MOST_COMMANDS]:
        yield command_line(command)
    if len(use.commands) > _MOST_COMMANDS:
        yield f"... and {len(use.commands) - _MOST_COMMANDS} more commands"
    if not use.is_understood:
        yield "... and what the parser cannot read"


def _try(policy: Mapping[str, object], tried: TriedResponse) -> Outcome:
    with _at_work():
        try:
            return asyncio.run(run_policy(policy, tried.script, route=tried.route))
        except (WireError, ValueError, LookupError, TypeError) as error:
            raise ConfigError(f"LiteLLM could not read this response on the route {tried.route}: {error}") from error


def _rehearse(policy: Mapping[str, object], tried: Recorded) -> Rehearsal:
    with _at_work():
        executor = build_executor(load_settings({"luthien": {"policy": policy}}, {}))
        try:
            return asyncio.run(rehearse(executor, tried))
        except NotReplayableError as error:
            raise ConfigError(f"The policy cannot judge a record: {error}.") from None


@contextmanager
def _at_work() -> Generator[None]:
    """Finds modules of the working directory, as LiteLLM does, and logs no decisions: they are printed."""
    sys.path.append(str(Path.cwd()))
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _read_response(file: Path) -> TriedResponse:
    """Reads a response: a recorded stream, the JSON of a full response, or else a text. Raises `ConfigError`."""
    try:
        content = file.read_bytes()
        text = content.decode()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not UTF-8: neither a recorded response nor a text") from None
    payload = json_object(text)
    wire = FORMATS.recognise_stream(text) if payload is None else FORMATS.recognise(payload)
    if wire is not None:
        return TriedResponse(wire.name, content if payload is None else payload)
    if payload is None and next(event_payloads(text), None) is None:
        return TriedResponse("chat", text)
    raise ConfigError(f"{file} is JSON in an unknown wire format; a plain text must not be a JSON object")
