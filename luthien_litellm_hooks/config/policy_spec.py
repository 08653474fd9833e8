"""Policy specs of a config, and their compositions."""

import hashlib
import json
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from luthien_litellm_hooks.config.policy_loading import COMPOSITIONS, config_model, load_policy, short_names
from luthien_litellm_hooks.config.validation import Section, validate
from luthien_litellm_hooks.engine.composition import (
    HOOK_TIMEOUT_S,
    Composition,
    ConfiguredPolicy,
    OnPolicyError,
    Parallel,
    Serial,
    Strategy,
)
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.policy.base import Policy, When

Enforce = Annotated[
    Annotated[bool, Tag("all")] | Annotated[When, Tag("some")],
    Discriminator(lambda given: "all" if isinstance(given, bool) else "some"),
]
"""All requests, none, or some; a tag for each, so that an error is about one of them alone."""
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class PolicySpec(Section):
    """A policy, its settings, the requests it is for, and the action when it fails."""

    class_: str = Field(alias="class")
    """Short name, or "module:Class"."""
    config: dict[str, Any] = Field(default_factory=dict[str, Any])
    """The policy's own settings."""
    timeout_s: Seconds = HOOK_TIMEOUT_S
    """Time limit of one hook call without `keepalive()`, in seconds."""
    on_policy_error: OnPolicyError = "block"
    """When a hook fails: `block` ends the response with a notice, `pass` forwards it."""
    when: When | None = None
    """The requests for the policy; all requests by default."""
    enforce: Enforce = True
    """Of these requests those with an effect. On the others the policy only observes: after the response was delivered,
    it judges it, and its decisions are recorded under `observed`. Of a `serial` or `parallel` it counts for all."""


class SerialConfig(Section):
    """Settings of `serial`: each policy gets the output of the one before. Members without their own `timeout_s` and
    `on_policy_error` inherit those of the `serial`."""

    policies: Annotated[tuple[PolicySpec, ...], Field(min_length=1)]
    """The policies, in their order."""


class ParallelConfig(SerialConfig):
    """Settings of `parallel`: each policy gets the provider's response, and votes on each block."""

    strategy: Strategy = "any_blocks"
    """Votes needed against a block: one, more than half, all, or the first policy's alone."""


def load_composition(spec: PolicySpec, where: str = "policy") -> Composition:
    """Loads the policies of `spec`; `where` is its key. Raises `ConfigError`."""
    if spec.class_ == "serial":
        config = validate(SerialConfig, spec.config, where=f"{where}.config")
        return Serial(_members(spec, config, where), when=spec.when, enforce=spec.enforce)
    if spec.class_ == "parallel":
        config = validate(ParallelConfig, spec.config, where=f"{where}.config")
        members = _members(spec, config, where)
        voters = [_voter(member, where, number) for number, member in enumerate(members)]
        return Parallel(voters, config.strategy, when=spec.when, enforce=spec.enforce)
    policy = load_policy(spec.class_, spec.config, where)
    version = policy_version(spec)
    return ConfiguredPolicy(policy, spec.class_, spec.timeout_s, spec.on_policy_error, spec.when, version, spec.enforce)


def config_schema(name: str) -> dict[str, Any]:
    """Returns the JSON Schema of the `config` of the policy called `name`. Raises `ConfigError`."""
    compositions: dict[str, type[Section]] = dict(zip(COMPOSITIONS, (SerialConfig, ParallelConfig), strict=True))
    return (compositions.get(name) or config_model(name)).model_json_schema()


def digest(identity: object) -> str:
    """Returns a version that depends only on `identity`, so it stays the same after a restart."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:12]


def policy_version(spec: PolicySpec) -> str:
    """Returns a digest of the registered name and the settings, so that a module may move within a package."""
    module, _, name = short_names().get(spec.class_, spec.class_).partition(":")
    return digest([module, name, spec.config])


def _members(spec: PolicySpec, config: SerialConfig, where: str) -> list[Composition]:
    inherited = {key: getattr(spec, key) for key in ("timeout_s", "on_policy_error") if key in spec.model_fields_set}
    members: list[Composition] = []
    problems: list[tuple[str, str]] = []
    for number, member in enumerate(config.policies):
        own = {key: value for key, value in inherited.items() if key not in member.model_fields_set}
        try:
            members.append(load_composition(member.model_copy(update=own), f"{where}.config.policies.{number}"))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError.at(*problems)
    return members


def _voter(member: Composition, where: str, number: int) -> ConfiguredPolicy:
    key = f"{where}.config.policies.{number}.class"
    if not isinstance(member, ConfiguredPolicy):
        raise ConfigError.at((key, "a voter must be a single policy: put the parallel into a serial instead"))
    if member.enforce is not True:
        message = "a voter cannot observe alone: set enforce on the whole parallel, or take strategy: first"
        raise ConfigError.at((f"{where}.config.policies.{number}.enforce", message))
    if type(member.policy).process_full_response is not Policy.process_full_response:
        message = f"{member.name} has process_full_response, which cannot vote: put it into a serial instead"
        raise ConfigError.at((key, message))
    return member
