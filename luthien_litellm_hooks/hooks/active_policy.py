"""Active policy with its settings, and its selection for a request, with the lookups for a policy's `when`.

LiteLLM has several names for one model, and may change to another.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import litellm
from litellm.proxy import proxy_server
from litellm.proxy._types import UserAPIKeyAuth
from litellm.proxy.auth import auth_checks
from litellm.router_utils.fallback_event_handlers import get_fallback_model_group
from litellm.types.proxy.auth.auth_checks import UserNotFoundError

from luthien_litellm_hooks.config.settings import (
    SETTINGS_KEY,
    ApprovalsSettings,
    RecordSettings,
    Settings,
    Unselected,
    build_executor,
    version_of,
)
from luthien_litellm_hooks.engine.composition import (
    Composition,
    ConfiguredPolicy,
    Parallel,
    Serial,
    members_in_force,
    observing_members,
    selectors_of,
    stages_for,
    watchers_for,
)
from luthien_litellm_hooks.engine.executor import PolicyExecutor
from luthien_litellm_hooks.errors import PolicyBlockedError
from luthien_litellm_hooks.hooks.request_data import alternatives_in, body_of, extra_body_models, headers_of
from luthien_litellm_hooks.hooks.routes import UngovernedRoutes, check_route_names
from luthien_litellm_hooks.policies.noop import NoOp
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.llm_client import registry_of, settings_of
from luthien_litellm_hooks.policy.request import Request
from luthien_litellm_hooks.recording.decision import Decision
from luthien_litellm_hooks.telemetry.log_lines import logger


@dataclass(frozen=True, slots=True)
class ActivePolicy:
    """Policy and settings. A request keeps them until its record is written. `version` names all of it."""

    executor: PolicyExecutor
    version: str = ""
    ungoverned: UngovernedRoutes = field(default_factory=lambda: UngovernedRoutes("refuse"))
    block_status: int = 403
    record: RecordSettings = field(default_factory=RecordSettings)
    unselected: Unselected = "pass"
    approvals: ApprovalsSettings = field(default_factory=ApprovalsSettings)

    @classmethod
    def of(cls, settings: Settings, environment: Mapping[str, str], where: str = SETTINGS_KEY) -> "ActivePolicy":
        """Returns the policy of the settings under the key `where`. Raises `ConfigError`."""
        check_route_names(settings.ungoverned_routes, where)
        executor = build_executor(settings, environment, where)
        return cls(
            executor,
            version_of(settings, executor),
            UngovernedRoutes(settings.ungoverned_routes),
            settings.block_status,
            settings.record,
            settings.unselected,
            settings.approvals.within(settings.limits),
        )

    def merged_with(self, other: "ActivePolicy") -> "tuple[ActivePolicy, ActivePolicy] | None":
        """Returns both in sequence, and the addition of `other`; None if it adds nothing.

        A duplicate policy is not added. All settings but the policies stay as they are here.
        """
        parts = _parts(self.executor.composition)
        known = [_identity(part) for part in parts]
        added = [part for part in _parts(other.executor.composition) if _identity(part) not in known]
        if not added:
            return None
        stops = next((one for one in (self, other) if one.executor.on_block == "error"), self)
        both = replace(
            self,
            executor=self.executor.with_policies(Serial([*parts, *added]), stops.executor.on_block),
            version=f"{self.version}+{other.version}",
            block_status=stops.block_status,
        )
        return both, replace(other, executor=other.executor.with_policies(Serial(added), other.executor.on_block))

    @property
    def judges(self) -> bool:
        """True if a policy may withhold anything."""
        return not all(isinstance(member.policy, NoOp) for member in members_in_force(self.executor.composition))

    def __str__(self) -> str:
        observing = [(member.name, member.version) for member in observing_members(self.executor.composition)]
        watch = f"; only observed: {_listed(observing)}" if observing else ""
        return f"version {self.version} ({_listed(self.policies) or 'none'}{watch})"

    @property
    def policies(self) -> tuple[tuple[str, str], ...]:
        """Names and versions of the policies with an effect, in order."""
        members = members_in_force(self.executor.composition)
        return tuple((member.name, member.version) for member in members if member.policy.is_recorded)


def _listed(policies: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{name} {version}" for name, version in policies)


def _parts(composition: Composition) -> tuple[Composition, ...]:
    """Returns the policies and parallel groups of a sequence."""
    if isinstance(composition, Serial) and composition.when is None and composition.enforce is True:
        return tuple(part for member in composition.members for part in _parts(member))
    return (composition,)


def _identity(part: Composition) -> tuple[object, ...]:
    """Returns a key that is equal for two parts with the same judgment on the same requests."""
    if isinstance(part, ConfiguredPolicy):
        return part.name, part.version or part, part.when, part.enforce, part.on_policy_error
    strategy = part.strategy if isinstance(part, Parallel) else None
    return strategy, part.when, part.enforce, *(_identity(member) for member in part.members)


class PolicyHolder:
    """Holder of the policy for new requests. Only the reloading thread replaces `current`.

    `after_restart` are changed keys without effect before a restart. `error` says why the last reload failed; None if
    it did not.
    """

    def __init__(self, current: ActivePolicy) -> None:
        self.current = current
        self.after_restart: tuple[str, ...] = ()
        self.error: str | None = None


_REFUSED = "The request was refused: no policy of this proxy is for it."


async def select(
    context: PolicyContext, in_force: ActivePolicy, data: dict[str, Any], user: UserAPIKeyAuth | None
) -> None:
    """Looks up the facts for the policies' selection. Raises `PolicyBlockedError` if none is for the request, and the
    settings refuse such requests."""
    asked = selectors_of(in_force.executor.composition)
    if "models" in asked:
        selected = _with_models(context.request, data, user.team_id if user is not None else None)
        if context.final_request is context.request:
            context.final_request = selected
        context.request = selected
    if "teams" in asked:
        context.identity = replace(context.identity, user_teams=await teams_of(context.identity.user_id))
    composition = in_force.executor.composition
    is_selected = stages_for(composition, context) or watchers_for(composition, context)
    if in_force.unselected == "refuse" and not is_selected:
        context.decisions.append(Decision("unselected", "block", reason="no policy is for it", message=_REFUSED))
        raise PolicyBlockedError(_REFUSED)


async def teams_of(user_id: str | None) -> tuple[str, ...] | None:
    """Returns ids and aliases of a user's teams, from LiteLLM's cache if possible; None if the lookup fails."""
    proxy: Any = proxy_server
    if user_id is None or proxy.prisma_client is None:
        return ()
    found: dict[str, Any] = {"prisma_client": proxy.prisma_client, "user_api_key_cache": proxy.user_api_key_cache}
    try:
        user: Any = await auth_checks.get_user_object(user_id=user_id, user_id_upsert=False, **found)
        ids = cast(list[str], user.teams or []) if user is not None else []
        teams: list[Any] = [await auth_checks.get_team_object(team_id=team_id, **found) for team_id in ids]
    except UserNotFoundError:
        return ()  # the master key has no user
    except Exception:
        logger.exception("the teams of a user could not be looked up; policies for any team govern their request")
        return None
    return tuple(name for team in teams for name in (team.team_id, team.team_alias) if name is not None)


def _with_models(request: Request, data: dict[str, Any], team_id: str | None) -> Request:
    models: Collection[str] | None = models_of(data, body_of(data).get("model"), team_id)
    others = [models_of(one.applied_to(data), None, team_id) for one in alternatives_in(data)]
    alternatives = [replace(one, models=selected) for one, selected in zip(request.alternatives, others, strict=True)]
    return replace(request, models=models, alternatives=alternatives)


_FALLBACKS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")
_STRATEGY = "auto_router/"
"""Prefix of a deployment's model for a choice among models by the request."""
_AGENT = "x-claude-code-agent-id"
"""Header of agents. A router may have bound their session to one model, in spite of the model in the request."""


def models_of(data: Mapping[str, Any], named_by_client: object, team_id: str | None) -> Collection[str] | None:
    """Returns all names of the possible models: those in LiteLLM's `data`, and the operator's fallbacks.

    Returns None if they cannot be known: another model chooses, or LiteLLM inserts a stored prompt later.
    """
    if any(data.get(key) for key in ("user_config", "prompt_id")):
        return None
    later = _mapping(data.get("context_window_fallback_dict"))
    asked = _names([data.get("model"), named_by_client, *extra_body_models(data), *later.values()])
    router: object = cast(Any, proxy_server).llm_router
    if router is None:
        return _with_stripped(asked)
    return _Names(router, data, team_id).all_of(asked)


class _Names:
    """Walk from each name to the router's replacements for it."""

    def __init__(self, router: object, data: Mapping[str, Any], team_id: str | None) -> None:
        self._registry = registry_of(router)
        self._settings = settings_of(router)
        self._team_id = team_id
        override: object = data.get("router_settings_override")
        self._override: Mapping[str, Any] = _mapping(override)
        self._is_bound = _AGENT in headers_of(data) and any(map(_is_strategy, self._registry.all()))

    def all_of(self, asked: Iterable[str]) -> Collection[str] | None:
        groups, labels, to_do = set[str](), set[str](), list(asked)
        while to_do:
            name = to_do.pop()
            if name in groups:
                continue
            groups.add(name)
            deployments = self._deployments(name)
            if self._is_bound or any(_is_chosen_later(deployment) for deployment in deployments):
                return None
            labels.update(label for deployment in deployments for label in _labels(deployment))
            to_do += self._next(name, has_deployments=bool(deployments))
        return _with_stripped(groups | labels)

    def _deployments(self, name: str) -> list[Mapping[str, Any]]:
        """Returns LiteLLM's choice of deployments.

        The source is the router's own `_common_checks_available_deployment`.
        """
        found: list[Mapping[str, Any]] = list(self._registry.deployments(name, team_id=self._team_id) or ())
        patterns: list[Any] = [self._registry.patterns()]
        patterns += [own for team, own in self._registry.patterns(team=True).items() if team == self._team_id]
        for pattern in patterns:
            found += cast(list[Mapping[str, Any]], pattern.get_deployments_by_pattern(model=name))
        if name not in self._registry.names(kind="group_set") and self._registry.has_deployment(name):
            found += [one for one in self._registry.all() if one["model_info"]["id"] == name]
        return found or [one for one in self._registry.all() if one["litellm_params"]["model"] == name]

    def _next(self, name: str, *, has_deployments: bool) -> Iterator[str]:
        alias: object = _mapping(self._override.get("model_group_alias")).get(name)
        yield from _names([cast(Any, litellm).model_alias_map.get(name), self._registry.resolve(name, kind="alias")])
        yield from _names([_mapping(alias).get("model", alias)])
        group: Any = self._registry.routing_group(name)
        yield from _names(group.models if group is not None else ())
        for setting in _FALLBACKS:
            for listed in (getattr(self._settings, setting), self._override.get(setting)):
                yield from _fallbacks_of(name, cast(list[object], listed) if isinstance(listed, list) else [])
        if not has_deployments and self._settings.default_deployment is not None:
            yield str(self._settings.default_deployment["litellm_params"]["model"])


def _fallbacks_of(name: str, listed: Sequence[object]) -> Iterator[str]:
    """Yields the fallbacks of a model in a list of names, of fields, or of names by model."""
    mappings = [named for entry in listed if (named := _mapping(entry)) and "model" not in named]
    found, of_any = get_fallback_model_group(fallbacks=mappings, model_group=name)
    targets: list[object] = [entry for entry in listed if entry not in mappings]
    targets += found or ()
    targets += mappings[of_any]["*"] if of_any is not None else ()
    yield from _names(_mapping(target).get("model", target) for target in targets)


def _labels(deployment: Mapping[str, Any]) -> Iterator[str]:
    info = cast(Mapping[str, Any], deployment.get("model_info") or {})
    names = (
        deployment.get("model_name"),
        info.get("team_public_model_name"),
        deployment["litellm_params"].get("model"),
    )
    yield from (name for name in names if isinstance(name, str))


def _is_chosen_later(deployment: Mapping[str, Any]) -> bool:
    return _is_strategy(deployment) or bool(_mapping(deployment["litellm_params"]).get("prompt_id"))


def _is_strategy(deployment: Mapping[str, Any]) -> bool:
    return str(_mapping(deployment["litellm_params"]).get("model")).startswith(_STRATEGY)


def _mapping(value: object) -> Mapping[str, Any]:
    return cast(Mapping[str, Any], value) if isinstance(value, Mapping) else {}


def _names(values: Iterable[object]) -> list[str]:
    """Returns the names in `values`; one value may hold several, with commas between them."""
    return [name.strip() for value in values if isinstance(value, str) for name in (value, *value.split(","))]


def _with_stripped(names: Iterable[str]) -> Collection[str]:
    """Returns these names, and each without the providers' names before it."""
    found = set[str]()
    for name in names:
        found.add(name)
        provider, _, rest = name.partition("/")
        while rest and provider in cast(Any, litellm).provider_list:
            found.add(rest)
            provider, _, rest = rest.partition("/")
    return found
