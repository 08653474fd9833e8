"""How policies are put together: one, several in a row, or several side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from luthien_litellm_hooks.failures import OnPolicyError
from luthien_litellm_hooks.policy.base import Policy
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.selection import When

HOOK_TIMEOUT_S = 30.0
Strategy = Literal["any_blocks", "majority", "unanimous", "first"]


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """One policy, and how it runs. `when` says for which requests; None is for all. `version` names
    its class and settings in records."""

    policy: Policy
    name: str
    timeout_s: float = HOOK_TIMEOUT_S
    on_policy_error: OnPolicyError = "block"
    when: When | None = None
    version: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Serial:
    """Each member gets what the one before it delivered."""

    members: Sequence["Composition"]
    when: When | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Parallel:
    """Each member gets the answer as it came, and votes on each block: it lets the block out as it
    is, or objects by changing or withholding it.

    `strategy` says how many must object: `any_blocks` one, `majority` more than half, `unanimous`
    all; with `first` the first member alone decides, and the others are only heard.
    """

    members: Sequence[Member]
    strategy: Strategy = "any_blocks"
    name: str = "parallel"
    when: When | None = None

    @property
    def voters(self) -> Sequence[Member]:
        """The members whose votes count."""
        return self.members[:1] if self.strategy == "first" else self.members

    @property
    def objections_needed(self) -> int:
        """How many voters must object to a block for it not to leave as it is."""
        votes = len(self.voters)
        return {"any_blocks": 1, "majority": votes // 2 + 1, "unanimous": votes, "first": 1}[self.strategy]


Composition = Member | Serial | Parallel
Stage = Member | Parallel


def stages_for(composition: Composition, ctx: PolicyContext) -> tuple[Stage, ...]:
    """The policies that this request is for, in the order in which they get it."""
    if composition.when is not None and not composition.when.applies_to(ctx.request, ctx.identity):
        return ()
    if isinstance(composition, Member):
        return (composition,)
    found = tuple(stage for member in composition.members for stage in stages_for(member, ctx))
    if isinstance(composition, Serial) or len(found) < 2:
        return found
    members = tuple(stage for stage in found if isinstance(stage, Member))
    return (Parallel(members, composition.strategy, composition.name),)


def selectors_of(composition: Composition) -> frozenset[str]:
    """The keys that the `when` of these policies use."""
    own = frozenset[str]() if composition.when is None else frozenset(composition.when.model_fields_set)
    members: Sequence[Composition] = () if isinstance(composition, Member) else composition.members
    return own.union(*map(selectors_of, members))


def contexts_of(stage: Stage, ctx: PolicyContext) -> list[PolicyContext]:
    """Each member's own view of the transaction, the same for the request and the answer."""
    if isinstance(stage, Member):
        return [ctx.of_member(stage, stage.name)]
    return [ctx.of_member(member, member.name, is_voter=True) for member in stage.members]


def members_of(composition: Composition) -> tuple[Member, ...]:
    """All policies of a composition, in their order."""
    if isinstance(composition, Member):
        return (composition,)
    return tuple(found for member in composition.members for found in members_of(member))
