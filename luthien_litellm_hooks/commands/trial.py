"""`luthien-hooks try`: what a policy makes of an answer, without a proxy."""

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import yaml

from luthien_litellm_hooks.commands.answers import TriedAnswer, read_answer, recorded_answer
from luthien_litellm_hooks.errors import ConfigError, WireError
from luthien_litellm_hooks.inspection.commands import Source, find_transaction
from luthien_litellm_hooks.inspection.output import complain, print_json
from luthien_litellm_hooks.inspection.printing import print_trial, terminal
from luthien_litellm_hooks.inspection.transactions import Record
from luthien_litellm_hooks.testing.run import Outcome, run_policy

_FAILED = ("policy_error", "timeout")


@dataclass(frozen=True, slots=True)
class Settings:
    """A policy's own settings as YAML, or the file that holds them."""

    text: str | None
    file: Path | None

    def read(self) -> object:
        """Raises `ConfigError`."""
        if self.text is not None and self.file is not None:
            raise ConfigError("The policy's settings are given twice: with --config and with --config-file.")
        try:
            text = self.text if self.file is None else self.file.read_text(encoding="utf-8")
            return yaml.safe_load(text or "{}") or {}
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ConfigError(f"The policy's settings cannot be read: {error}") from None


def run_trial(
    policy: str,
    settings: Settings,
    answer: Path | None,
    record: str | None,
    source: Source,
    *,
    as_json: bool,
    is_full: bool,
) -> int:
    """Prints what would be delivered of the answer in a file or a record, what was decided and why.

    Returns 1 if the policy failed or there is no such record, 2 if the policy could not be run.
    """
    try:
        tried = _choose(answer, record, source)
        outcome = None if tried is None else _try({"class": policy, "config": settings.read()}, tried)
    except ConfigError as error:
        complain(str(error))
        return 2
    if outcome is None:
        return 1
    made = Record.model_validate(outcome.record)
    print_json(outcome.record) if as_json else print_trial(terminal(), made, is_full=is_full)
    return int(made.outcome in _FAILED)


def _choose(file: Path | None, record: str | None, source: Source) -> TriedAnswer | None:
    if (file is None) == (record is None):
        raise ConfigError("Name what the policy is to be tried on: --answer FILE, or --record ID.")
    if file is not None:
        return read_answer(file)
    found = find_transaction(source, cast(str, record))
    if found is None:
        return None
    if found[1].is_closed:
        raise ConfigError("There is nothing to try the policy on: the record stays closed.")
    return recorded_answer(*found)


def _try(policy: Mapping[str, object], tried: TriedAnswer) -> Outcome:
    sys.path.append(str(Path.cwd()))  # where LiteLLM finds modules, too
    try:
        return asyncio.run(run_policy(policy, tried.script, route=tried.route, request=tried.request))
    except (WireError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"The answer is not as LiteLLM would read it from {tried.route}: {error}") from error
