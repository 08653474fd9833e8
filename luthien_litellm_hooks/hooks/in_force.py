"""What is in force: the policy, and what is set with it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from luthien_litellm_hooks.composition import Composition, Member, Parallel, Serial, members_of
from luthien_litellm_hooks.config import (
    SETTINGS_KEY,
    Bodies,
    Readers,
    Settings,
    Unselected,
    build_executor,
    version_of,
)
from luthien_litellm_hooks.executor import PolicyExecutor
from luthien_litellm_hooks.hooks.route_names import check_route_names
from luthien_litellm_hooks.hooks.ungoverned import UngovernedRoutes
from luthien_litellm_hooks.policies.noop import NoOp


@dataclass(frozen=True, slots=True)
class InForce:
    """A policy and its settings. One request keeps one of these from its beginning to the end of its
    answer and its record. `version` names all of it."""

    executor: PolicyExecutor
    version: str = ""
    ungoverned: UngovernedRoutes = field(default_factory=lambda: UngovernedRoutes("refuse"))
    block_status: int = 403
    bodies: Bodies = "follow_litellm"
    unselected: Unselected = "pass"
    readable_by: Readers = "admins"

    @classmethod
    def of(cls, settings: Settings, environment: Mapping[str, str], where: str = SETTINGS_KEY) -> "InForce":
        """What the settings under the key `where` say, ready to run. Raises `ConfigError`."""
        check_route_names(settings.ungoverned_routes, where)
        executor = build_executor(settings, environment, where)
        return cls(
            executor,
            version_of(settings, executor),
            UngovernedRoutes(settings.ungoverned_routes),
            settings.block_status,
            settings.record.bodies,
            settings.unselected,
            settings.record.readable_by,
        )

    def followed_by(self, other: "InForce") -> "tuple[InForce, InForce] | None":
        """Both, one behind the other, and what `other` adds: a policy that is already here is not put
        here twice. None if it adds nothing. What is not said of a policy stays as it is here."""
        parts = _parts(self.executor.composition)
        known = [_identity(part) for part in parts]
        added = [part for part in _parts(other.executor.composition) if _identity(part) not in known]
        if not added:
            return None
        stops = next((one for one in (self, other) if one.executor.on_block == "error"), self)
        both = replace(
            self,
            executor=self.executor.of(Serial([*parts, *added]), stops.executor.on_block),
            version=f"{self.version}+{other.version}",
            block_status=stops.block_status,
        )
        return both, replace(other, executor=other.executor.of(Serial(added), other.executor.on_block))

    @property
    def judges(self) -> bool:
        """Whether a policy may withhold anything."""
        return not all(isinstance(member.policy, NoOp) for member in members_of(self.executor.composition))

    def __str__(self) -> str:
        policies = ", ".join(f"{name} {version}" for name, version in self.policies)
        return f"version {self.version} ({policies})"

    @property
    def policies(self) -> tuple[tuple[str, str], ...]:
        """Names and versions of the policies, in their order."""
        return tuple((member.name, member.version) for member in members_of(self.executor.composition))


def _parts(composition: Composition) -> tuple[Composition, ...]:
    """The policies, and the panels of them, that get an answer one after the other."""
    if isinstance(composition, Serial) and composition.when is None:
        return tuple(part for member in composition.members for part in _parts(member))
    return (composition,)


def _identity(part: Composition) -> tuple[object, ...]:
    """The same for two that judge alike, and for the same requests."""
    if isinstance(part, Member):
        return part.name, part.version or part, part.when, part.on_policy_error
    strategy = part.strategy if isinstance(part, Parallel) else None
    return strategy, part.when, *(_identity(member) for member in part.members)


class LivePolicy:
    """What new requests meet. Only the thread that reads the settings again replaces `current`.

    `after_restart` are the keys whose change waits for a restart, `complaint` is what was wrong with
    the settings that were read last; None if nothing was.
    """

    def __init__(self, current: InForce) -> None:
        self.current = current
        self.after_restart: tuple[str, ...] = ()
        self.complaint: str | None = None
