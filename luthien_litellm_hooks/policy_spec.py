"""What a config says of a policy, or of several put together, and how it becomes what runs."""

import hashlib
import json
from typing import Annotated, Any

from pydantic import Field

from luthien_litellm_hooks.composition import HOOK_TIMEOUT_S, Composition, Member, Parallel, Serial, Strategy
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.failures import OnPolicyError
from luthien_litellm_hooks.policy.base import Policy
from luthien_litellm_hooks.policy.selection import When
from luthien_litellm_hooks.policy_loading import COMPOSITIONS, config_model, load_policy
from luthien_litellm_hooks.validation import Section, validate

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class PolicySpec(Section):
    """Which policy, its own settings, for which requests, and what happens when it fails."""

    class_: str = Field(alias="class")
    """A short name, or "module:Class"."""
    config: dict[str, Any] = Field(default_factory=dict[str, Any])
    """The policy's own settings."""
    timeout_s: Seconds = HOOK_TIMEOUT_S
    """What one hook call may take without `keepalive()`, in seconds."""
    on_policy_error: OnPolicyError = "block"
    """When a hook fails: `block` ends the answer with a notice, `pass` lets it through."""
    when: When | None = None
    """The requests that the policy is for; all, if it is not given."""


class SerialConfig(Section):
    """Settings of `serial`: each policy gets what the one before it delivered. `timeout_s` and
    `on_policy_error` that stand beside it are those of the policies that have none of their own."""

    policies: Annotated[tuple[PolicySpec, ...], Field(min_length=1)]
    """The policies, in their order."""


class ParallelConfig(SerialConfig):
    """Settings of `parallel`: each policy gets the answer as it came, and votes on each block."""

    strategy: Strategy = "any_blocks"
    """How many must object to a block: one, more than half, or all; or the first alone decides."""


def load_composition(spec: PolicySpec, where: str = "policy") -> Composition:
    """What `spec` says, ready to run. `where` is the key that it stands under. Raises `ConfigError`."""
    if spec.class_ == "serial":
        config = validate(SerialConfig, spec.config, where=f"{where}.config")
        return Serial(_members(spec, config, where), when=spec.when)
    if spec.class_ == "parallel":
        config = validate(ParallelConfig, spec.config, where=f"{where}.config")
        members = _members(spec, config, where)
        return Parallel([_voter(member, where, n) for n, member in enumerate(members)], config.strategy, when=spec.when)
    policy = load_policy(spec.class_, spec.config, where)
    return Member(policy, spec.class_, spec.timeout_s, spec.on_policy_error, spec.when, _version(policy, spec))


def config_schema(name: str) -> dict[str, Any]:
    """The JSON Schema of what stands under the `config` of the policy called `name`. Raises
    `ConfigError`."""
    compositions: dict[str, type[Section]] = dict(zip(COMPOSITIONS, (SerialConfig, ParallelConfig), strict=True))
    return (compositions.get(name) or config_model(name)).model_json_schema()


def digest(identity: object) -> str:
    """A version of what `identity` says, the same after every start."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _version(policy: Policy, spec: PolicySpec) -> str:
    """Another one for another class or other settings."""
    return digest([type(policy).__module__, type(policy).__qualname__, spec.config])


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


def _voter(member: Composition, where: str, number: int) -> Member:
    key = f"{where}.config.policies.{number}.class"
    if not isinstance(member, Member):
        raise ConfigError.at((key, "a policy that votes must be a single one; put the parallel into a serial instead"))
    if type(member.policy).process_full_response is not Policy.process_full_response:
        what = f"{member.name} has process_full_response, which gives no vote; put it into a serial"
        raise ConfigError.at((key, what))
    return member
