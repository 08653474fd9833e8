"""A config, and the environment that LiteLLM is started in: where the plugin's settings are in both."""

import os
import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from luthien_litellm_hooks.checking.source import Finding, Level, Place, Source, is_below, read_one
from luthien_litellm_hooks.config import POLICY_FILE_VARIABLE, SETTINGS_KEY
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.guardrail_settings import GUARDRAIL, SHORT_NAME
from luthien_litellm_hooks.policy_loading import COMPOSITIONS

CALLBACKS = "litellm_settings.callbacks"
SECTIONS = frozenset({"callback_settings", "general_settings", "litellm_settings", "router_settings"})
"""Of LiteLLM's, whose names are like each other."""


@dataclass(frozen=True, slots=True)
class SettingsSection:
    """A place of a config that holds settings of the plugin."""

    key: str
    given: object


@dataclass(frozen=True, slots=True)
class Start:
    """`policy_file` is what the environment names, if it does and the file can be read."""

    source: Source
    environment: Mapping[str, str]
    policy_file: Source | None

    @classmethod
    def of(cls, source: Source, environment: Mapping[str, str]) -> "Start":
        """A start from this config in this environment, to which LiteLLM adds what the config says
        under `environment_variables`."""
        added = mapping(source.values.get("environment_variables"))
        own = {key: str(value) for key, value in added.items() if not str(value).startswith("os.environ/")}
        path = {**environment, **own}.get(POLICY_FILE_VARIABLE)
        try:
            policy_file = read_one(Path(path)) if path else None
        except ConfigError:  # which loading the settings tells
            policy_file = None
        return cls(source, {**environment, **own}, policy_file)

    def finding(self, key: str, message: str, level: Level = "error") -> Finding:
        """With the line in the config, or in the policy file."""
        return Finding(key, message, self._place_of(key), level)

    def section(self, name: str) -> Mapping[str, object]:
        """A section of the config; empty if it is missing, or no mapping."""
        return mapping(self.source.values.get(name))

    def settings(self) -> list[SettingsSection]:
        """Each place of the config that holds settings of the plugin."""
        return [SettingsSection(SETTINGS_KEY, self.section("callback_settings").get("luthien")), *self.guardrails()]

    def guardrails(self) -> Iterator[SettingsSection]:
        """The `litellm_params` of each guardrail that is the plugin."""
        for number, entry in enumerate(items(self.source.values.get("guardrails"))):
            params = mapping(mapping(entry).get("litellm_params"))
            if params.get("guardrail") in (GUARDRAIL, SHORT_NAME):
                yield SettingsSection(f"guardrails.{number}.litellm_params", params)

    def callbacks(self) -> list[str]:
        """The names under `litellm_settings.callbacks`, where LiteLLM also takes a single one."""
        return names(self.section("litellm_settings").get("callbacks"))

    def policies(self) -> Iterator[tuple[str, Mapping[str, object]]]:
        """Each policy that is set, with those inside it, and the key that it stands under."""
        for key, _, spec in self.governed():
            yield from _with_members(key, spec)

    def governed(self) -> Iterator[tuple[str, SettingsSection, Mapping[str, object]]]:
        """The policy of each place that holds settings: the key that it stands under, the settings, and itself."""
        for section in self.settings():
            yield f"{section.key}.policy", section, mapping(mapping(section.given).get("policy"))
        if self.policy_file:
            section = next(iter(self.settings()))
            yield f"{self.policy_file.file}.policy", section, mapping(self.policy_file.values.get("policy"))

    def _place_of(self, key: str) -> Place:
        path = self.environment.get(POLICY_FILE_VARIABLE)
        if key == POLICY_FILE_VARIABLE:
            return self.source.place_of(f"environment_variables.{key}")
        if path and is_below(key, path):
            return self.policy_file.place_of(key[len(path) + 1 :]) if self.policy_file else Place(Path(path), 1)
        return self.source.place_of(key)


@contextmanager
def as_started(environment: Mapping[str, str]) -> Generator[None]:
    """The process as LiteLLM's is when it loads policies: in this environment, with modules also found
    in the folder that it was started in."""
    before = {key: os.environ.get(key) for key, value in environment.items() if os.environ.get(key) != value}
    folder = [str(Path.cwd())] if str(Path.cwd()) not in sys.path else []
    os.environ.update({key: environment[key] for key in before})
    sys.path += folder
    try:
        yield
    finally:
        for name in folder:
            sys.path.remove(name)
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def mapping(given: object) -> Mapping[str, object]:
    """`given`, or an empty mapping if it is none."""
    return cast(Mapping[str, object], given) if isinstance(given, Mapping) else {}


def items(given: object) -> list[object]:
    """`given`, or an empty list if it is none."""
    return cast(list[object], given) if isinstance(given, list) else []


def names(given: object) -> list[str]:
    """The names in a list; a single one counts as a list."""
    return [given] if isinstance(given, str) else [str(entry) for entry in items(given)]


def _with_members(key: str, given: object) -> Iterator[tuple[str, Mapping[str, object]]]:
    spec = mapping(given)
    yield key, spec
    if spec.get("class") in COMPOSITIONS:
        for number, member in enumerate(items(mapping(spec.get("config")).get("policies"))):
            yield from _with_members(f"{key}.config.policies.{number}", member)
