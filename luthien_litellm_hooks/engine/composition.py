"""Compositions of policies: one, several in a row, several side by side; and their views of a transaction."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from luthien_litellm_hooks.policy.base import Policy, When
from luthien_litellm_hooks.policy.context import PolicyContext, new_view
from luthien_litellm_hooks.policy.request import Request

HOOK_TIMEOUT_S = 30.0
OnPolicyError = Literal["block", "pass"]
Strategy = Literal["any_blocks", "majority", "unanimous", "first"]


@dataclass(frozen=True, slots=True, eq=False)
class ConfiguredPolicy:
    """One policy with its settings for the engine.

    `when` selects requests; None selects all. `enforce` selects those of them with an effect: for the others the policy
    only observes. `version` names the policy's class and settings in records.
    """

    policy: Policy
    name: str
    timeout_s: float = HOOK_TIMEOUT_S
    on_policy_error: OnPolicyError = "block"
    when: When | None = None
    version: str = ""
    enforce: bool | When = True


@dataclass(frozen=True, slots=True, eq=False)
class Serial:
    """Members in a row: each gets the response as the one before it delivered it."""

    members: Sequence["Composition"]
    when: When | None = None
    name: str = "serial"
    enforce: bool | When = True


@dataclass(frozen=True, slots=True, eq=False)
class Parallel:
    """Members side by side: each gets the response as it came, and votes on each block.

    A member objects to a block by changing or withholding it. `strategy` says how many must object:
    `any_blocks` one, `majority` more than half, `unanimous` all. With `first` the first member alone
    decides; the votes of the others are recorded.
    """

    members: Sequence[ConfiguredPolicy]
    strategy: Strategy = "any_blocks"
    name: str = "parallel"
    when: When | None = None
    enforce: bool | When = True

    @property
    def version(self) -> str:
        """Versions of the members."""
        return "+".join(member.version for member in self.members)

    @property
    def voters(self) -> Sequence[ConfiguredPolicy]:
        """Members with a vote."""
        return self.members[:1] if self.strategy == "first" else self.members

    @property
    def objections_needed(self) -> int:
        """Number of objections needed; with fewer the block leaves as it came."""
        votes = len(self.voters)
        return {"any_blocks": 1, "majority": votes // 2 + 1, "unanimous": votes, "first": 1}[self.strategy]


Composition = ConfiguredPolicy | Serial | Parallel
ConfiguredStage = ConfiguredPolicy | Parallel


def stages_for(composition: Composition, ctx: PolicyContext) -> tuple[ConfiguredStage, ...]:
    """Returns the stages in force for this request, in their order."""
    return tuple(stage for stage, is_enforced in _selected(composition, ctx) if is_enforced)


def watchers_for(composition: Composition, ctx: PolicyContext) -> tuple[ConfiguredStage, ...]:
    """Returns the stages that only observe this request, as if they were in force."""
    found = (stage for stage, is_enforced in _selected(composition, ctx) if not is_enforced)
    return tuple(replace(stage, when=None, enforce=True) for stage in found)


def _selected(
    composition: Composition, ctx: PolicyContext, is_enforced: bool = True
) -> Sequence[tuple[ConfiguredStage, bool]]:
    """Returns the stages for this request; each is enforced, or only observes."""
    if composition.when is not None and not _applies(composition.when, composition, ctx):
        return ()
    own = composition.enforce
    is_enforced = is_enforced and (own if isinstance(own, bool) else _applies(own, composition, ctx))
    if isinstance(composition, ConfiguredPolicy):
        return ((composition, is_enforced),)
    found = [each for member in composition.members for each in _selected(member, ctx, is_enforced)]
    if isinstance(composition, Serial) or len(found) < 2:
        return found
    members = tuple(stage for stage, _ in found if isinstance(stage, ConfiguredPolicy))
    return ((Parallel(members, composition.strategy, composition.name), is_enforced),)


def _applies(when: When, composition: Composition, ctx: PolicyContext) -> bool:
    of = ctx.request.session or ctx.identity.key_hash or ctx.transaction_id
    return when.applies_to(ctx.request, ctx.identity, f"{composition.name}|{of}")


def selectors_of(composition: Composition) -> frozenset[str]:
    """Returns the keys in the `when` and `enforce` of these policies."""
    return frozenset(key for one in _selections(composition) for key in one.model_fields_set)


def header_names_of(composition: Composition) -> frozenset[str]:
    """Returns the headers that a `when` or `enforce` of these policies names, in lower case."""
    return frozenset(name.lower() for one in _selections(composition) for name in one.headers)


def _selections(composition: Composition) -> Iterator[When]:
    yield from (one for one in (composition.when, composition.enforce) if isinstance(one, When))
    for member in () if isinstance(composition, ConfiguredPolicy) else composition.members:
        yield from _selections(member)


def members_in_force(composition: Composition) -> tuple[ConfiguredPolicy, ...]:
    """Returns the policies that have an effect on any request, in their order."""
    return tuple(member for member, may_act in _members(composition) if may_act)


def observing_members(composition: Composition) -> tuple[ConfiguredPolicy, ...]:
    """Returns the policies that only observe, whatever the request."""
    return tuple(member for member, may_act in _members(composition) if not may_act)


def _members(composition: Composition, may_act: bool = True) -> Iterator[tuple[ConfiguredPolicy, bool]]:
    may_act = may_act and composition.enforce is not False
    if isinstance(composition, ConfiguredPolicy):
        yield composition, may_act
        return
    for member in composition.members:
        yield from _members(member, may_act)


def members_of(composition: Composition) -> tuple[ConfiguredPolicy, ...]:
    """Returns all policies of a composition, in their order."""
    if isinstance(composition, ConfiguredPolicy):
        return (composition,)
    return tuple(found for member in composition.members for found in members_of(member))


class HoldClock:
    """Time of one transaction in its policies: the clock runs while a hook of any of them runs."""

    def __init__(self) -> None:
        self._running = 0
        self._began = 0.0
        self._spent = 0.0

    def start(self) -> None:
        """Counts a hook at its beginning, or when it resumes."""
        if self._running == 0:
            self._began = time.monotonic()
        self._running += 1

    def stop(self) -> None:
        """Counts a hook at its end, or when it waits for something outside the policy."""
        self._running -= 1
        if self._running == 0:
            self._spent += time.monotonic() - self._began

    @property
    def seconds(self) -> float:
        """Seconds until now."""
        return self._spent + (time.monotonic() - self._began if self._running else 0.0)


class TransactionRun:
    """Engine state of one transaction, across its request and its response: the policies' views and their time.

    The transaction's context refers to it, and its views to its clock alone: a reference back would be a cycle.
    """

    def __init__(self) -> None:
        self.hold_clock = HoldClock()
        self.pending_votes: list[asyncio.Event] = []
        """Each is set when all members of one `parallel` have voted."""
        self.first: object = None
        """Policy with the transaction's own context as its view."""
        self.views: dict[object, PolicyContext] = {}


def run_of(transaction: PolicyContext) -> TransactionRun:
    """Returns the run of a transaction, given its own context."""
    if not isinstance(transaction.engine_state, TransactionRun):
        transaction.engine_state = TransactionRun()
    return transaction.engine_state


def clock_of(ctx: PolicyContext) -> HoldClock:
    """Returns the clock of a transaction, given its own context or a view."""
    return ctx.engine_state if isinstance(ctx.engine_state, HoldClock) else run_of(ctx).hold_clock


def begin_with(transaction: PolicyContext, member: object, name: str) -> None:
    """Gives a single policy the transaction's own context, if it is the first to run."""
    run = run_of(transaction)
    if run.first is None and not run.views:
        run.first, transaction.policy_name = member, name


def view_of(transaction: PolicyContext, member: object, name: str, *, is_voter: bool = False) -> PolicyContext:
    """Returns the context of one of several policies: its scratchpad is its own, the decisions are shared."""
    run = run_of(transaction)
    if member is run.first:
        return transaction
    found = run.views.get(member)
    if found is None:
        found = run.views[member] = new_view(transaction, transaction.request, name)
        found.decisions = transaction.decisions
        found.budget = transaction.budget
        found.readings = transaction.readings
        found.is_voter = is_voter
        found.is_observed = transaction.is_observed
        found.engine_state = run.hold_clock
    return found


def settle_request(transaction: PolicyContext, request: Request) -> None:
    """Sets the request for the provider, in all views."""
    for view in (transaction, *run_of(transaction).views.values()):
        view.final_request = request


def contexts_of(stage: ConfiguredStage, ctx: PolicyContext) -> list[PolicyContext]:
    """Returns each member's view of the transaction, the same for the request and the response."""
    if isinstance(stage, ConfiguredPolicy):
        return [_member_view(ctx, stage)]
    return [_member_view(ctx, member, is_voter=True) for member in stage.members]


def _member_view(ctx: PolicyContext, member: ConfiguredPolicy, *, is_voter: bool = False) -> PolicyContext:
    view = view_of(ctx, member, member.name, is_voter=is_voter)
    view.policy_version = member.version
    return view
