"""Policies to judge records with: those of a LiteLLM configuration or of a policy file, or one by its name."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from luthien_litellm_hooks.cli.replay.judge_replies import TransactionReplies
from luthien_litellm_hooks.cli.trial import Settings as PolicySettings
from luthien_litellm_hooks.config.check.source import LaunchEnvironment, launch_context, read_source
from luthien_litellm_hooks.config.policy_loading import COMPOSITIONS
from luthien_litellm_hooks.config.policy_spec import PolicySpec, policy_version
from luthien_litellm_hooks.config.settings import Settings, build_executor, load_settings, version_of
from luthien_litellm_hooks.engine.composition import members_of, selectors_of
from luthien_litellm_hooks.engine.executor import PolicyExecutor
from luthien_litellm_hooks.engine.rehearsal import rehearse
from luthien_litellm_hooks.errors import ConfigError, NotReplayableError, WireError
from luthien_litellm_hooks.monitor.transactions import Record, Transaction, recorded

_CONFIGS = (".yaml", ".yml")
_THRESHOLD = "threshold"
_STEPS = 100
"""Thresholds have two decimals."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Policies that are in force nowhere. `name` is the file or the policy."""

    name: str
    settings: Settings
    executor: PolicyExecutor

    @property
    def version(self) -> str:
        return version_of(self.settings, self.executor)

    @property
    def policies(self) -> list[str]:
        """Names of the policies with their versions, as `show` prints those of a record."""
        return [f"{one.name} ({one.version})" for one in members_of(self.executor.composition)]

    @property
    def selects_by_headers(self) -> bool:
        return "headers" in selectors_of(self.executor.composition)

    def versions_at_thresholds(self) -> dict[str, frozenset[str]]:
        """Returns the versions of each policy that occurs once, at each threshold: its judge's scores are the same at
        all of them."""
        specs = list(_members(self.settings.policy))
        names = [spec.class_ for spec in specs]
        return {spec.class_: frozenset(_versions(spec)) for spec in specs if names.count(spec.class_) == 1}

    async def judge(self, transaction: Transaction, record: Record, replies: TransactionReplies) -> Record:
        """Returns the record as these policies would leave it. Raises `NotReplayableError` with the reason against
        that."""
        given = recorded(transaction, record)
        if given is None:
            raise NotReplayableError("the texts are not stored")
        with replies.in_force():
            try:
                done = await rehearse(self.executor, given)
            except WireError as error:
                raise NotReplayableError(f"the response cannot be read ({error})") from None
        if replies.missing is not None:
            raise NotReplayableError(replies.missing)
        return Record.model_validate(done.record())


def load(name: str, config: PolicySettings, stack: ExitStack) -> Candidate:
    """Loads the policies of a file, or the policy called `name` with its own `config`.

    The environment of the file is in force until the `stack` ends. Raises `ConfigError`.
    """
    if not (name.endswith(_CONFIGS) or Path(name).is_file()):
        stack.enter_context(launch_context(os.environ))
        given = {"luthien": {"policy": {"class": name, "config": config.read()}}}
        settings = load_settings(given, {})
        return Candidate(name, settings, build_executor(settings))
    if config.text is not None or config.file is not None:
        raise ConfigError(f"--config has the settings of a single policy, and {name} is a file with its own.")
    launch = LaunchEnvironment.of(read_source(Path(name)), os.environ)
    stack.enter_context(launch_context(launch.environment))
    if "policy" in launch.source.values:
        settings = load_settings({"luthien": {"policy": launch.source.values["policy"]}}, {})
        return Candidate(name, settings, build_executor(settings))
    settings = load_settings(launch.section("callback_settings"), launch.environment)
    return Candidate(name, settings, build_executor(settings, launch.environment))


def _members(spec: PolicySpec) -> Iterator[PolicySpec]:
    if spec.class_ not in COMPOSITIONS:
        yield spec
        return
    for member in spec.config.get("policies", ()):
        yield from _members(member if isinstance(member, PolicySpec) else PolicySpec.model_validate(member))


def _versions(spec: PolicySpec) -> Iterator[str]:
    yield policy_version(spec)
    without: Mapping[str, object] = {name: value for name, value in spec.config.items() if name != _THRESHOLD}
    yield policy_version(spec.model_copy(update={"config": dict(without)}))
    for threshold in chain((0, 1), (step / _STEPS for step in range(_STEPS + 1))):
        yield policy_version(spec.model_copy(update={"config": {**without, _THRESHOLD: threshold}}))
