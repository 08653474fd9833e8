"""Decisions of policies, and the identity of the caller."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, assert_never, get_args

from luthien_litellm_hooks.wire.events import StreamBlock

PolicyAction = Literal["allow", "modify", "ask", "block"]
"""Action of a policy's own choice: about a block, a tool call, the request, or as a vote. Ordered by severity.
`ask` leaves a tool call to a person."""
Action = Literal[PolicyAction, "error"]
"""Action in a record, ordered by severity. `error` is a failure of the policy."""
SEVERITY: Mapping[Action, int] = MappingProxyType({action: rank for rank, action in enumerate(get_args(Action))})


ApprovalState = Literal["approved", "denied", "pending", "in_client", "too_many", "too_large", "unavailable"]
"""Result of asking. `pending` is undecided in time. `in_client` leaves the question to the client's own user. With the
last three it was not put."""


@dataclass(frozen=True, slots=True)
class Approval:
    """Result of asking a person about a tool call. It passes if it is approved, or flagged for the client's own user.

    `digest` names the call with its session, key and policy. `by` is the person, `message` theirs to the agent.
    `arguments` replace those of the call, if the person edited it. `waited_ms` is the time of the hold. Without an `id`
    the question was not put. With a `grant` an earlier decision counts, that of the question `id`.
    """

    digest: str
    state: ApprovalState
    id: str | None = None
    by: str | None = None
    waited_ms: float = 0.0
    message: str | None = None
    arguments: str | None = None
    grant: str | None = None

    @property
    def passes(self) -> bool:
        return self.state in ("approved", "in_client")


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
    `approval` is a person's part in it, None without a question.
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
    approval: Approval | None = None

    @property
    def withholds(self) -> bool:
        """True for a decision against a whole block, request or response."""
        match self.action:
            case "block":
                return True
            case "ask":
                return self.approval is None or not self.approval.passes
            case "allow" | "modify" | "error":
                return False
            case _:
                assert_never(self.action)


@dataclass(slots=True, kw_only=True)
class AskedAgain:
    """Second call of the model, after a response whose tool calls were all withheld.

    `decisions` are about the second response, `content` and `finish_reason` are the response as it came. `reason` is
    that for a second response that was not delivered, and for none.
    """

    tools: Sequence[str]
    """Tools of the withheld calls."""
    result: Literal["delivered", "blocked", "failed"] = "failed"
    reason: str | None = None
    milliseconds: float = 0.0
    spent: Spent = Spent()
    decisions: Sequence[Decision] = ()
    content: Sequence[Mapping[str, Any]] = ()
    finish_reason: str | None = None


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
