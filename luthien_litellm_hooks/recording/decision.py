"""Decisions of policies, and the identity of the caller."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, assert_never, get_args

from luthien_litellm_hooks.stream.events import StreamBlock

PolicyAction = Literal["allow", "modify", "block"]
"""Action of a policy's own choice: about a block, a tool call, the request, or as a vote. Ordered by severity."""
Action = Literal[PolicyAction, "error"]
"""Action in a record, ordered by severity. `error` is a failure of the policy."""
SEVERITY: Mapping[Action, int] = MappingProxyType({action: rank for rank, action in enumerate(get_args(Action))})


def withholds(action: Action) -> bool:
    """Holds for an action against a whole block, request or response."""
    match action:
        case "block":
            return True
        case "allow" | "modify" | "error":
            return False
        case _:
            assert_never(action)


@dataclass(frozen=True, slots=True)
class Spent:
    """Answered model calls of a policy, with all their tokens, and their price as LiteLLM knows it in US dollars."""

    calls: int = 0
    tokens: int = 0
    cost: float = 0.0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.calls + other.calls, self.tokens + other.tokens, self.cost + other.cost)


@dataclass(frozen=True, slots=True)
class Decision:
    """Decision of a policy about one block, or about the request (`block` is None).

    `reason` is for the operator and never leaves the proxy; the client got `message`.
    `evidence` quotes the request or the response: it is recorded only where their texts are. `milliseconds` is
    the time that the decision took, `error` the kind of the failure. A vote is a decision of one member of a
    `parallel`; the decision of the `parallel` itself then says how the block left. `spent` are the model calls for it.
    """

    policy: str
    action: Action
    block: StreamBlock | None = None
    reason: str | None = None
    message: str | None = None
    score: float | None = None
    evidence: str | None = None
    milliseconds: float | None = None
    error: str | None = None
    is_vote: bool = False
    spent: Spent | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """The caller, as LiteLLM authenticated them. A field is None if LiteLLM does not know it.

    `user_teams` are the ids and aliases of the key owner's teams: empty unless a `when` names teams, None if the
    lookup failed. `key_maker_id` is the user who made the key.
    """

    key_hash: str | None = None
    key_alias: str | None = None
    key_maker_id: str | None = None
    user_id: str | None = None
    user_email: str | None = None
    user_teams: tuple[str, ...] | None = ()
    team_id: str | None = None
    team_alias: str | None = None
    org_id: str | None = None
    end_user_id: str | None = None
