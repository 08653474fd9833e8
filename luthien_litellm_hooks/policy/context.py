"""What hooks are given: one context for a request and its answer, and the view of a running answer."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Literal

from luthien_litellm_hooks.assembler import StreamState
from luthien_litellm_hooks.deadline import HookDeadline
from luthien_litellm_hooks.errors import LimitExceededError, PolicyBlockedError
from luthien_litellm_hooks.events import ReasoningStreamBlock, StreamBlock, StreamEvent, ToolCallStreamBlock
from luthien_litellm_hooks.limits import Budget, HoldClock
from luthien_litellm_hooks.log_lines import error_text, logger, quoted
from luthien_litellm_hooks.outbox import Outbox
from luthien_litellm_hooks.policy.notices import too_large_notice
from luthien_litellm_hooks.policy.request import Answer, Request
from luthien_litellm_hooks.recorder import NoOpTransactionRecorder, TransactionRecorder
from luthien_litellm_hooks.telemetry import NoOpObservabilityContext, ObservabilityContext

Action = Literal["allow", "modify", "block", "error"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy decided about one block, or about the request (`block` is None).

    `reason` is for the operator and never leaves the proxy; `message` is what the client was told.
    `evidence` is what the reason rests on, in the words of the request or the answer: it is kept only
    where their texts are. `milliseconds` is the time that the decision took, `error` the kind of what
    failed. A vote is one of several members' of a `parallel`, whose own decision says what became of
    the block.
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


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks, as LiteLLM authenticated them. A field is None where LiteLLM knows nothing.

    `user_teams` are the ids and aliases of the teams that the key's owner is in: empty unless a `when` names
    teams, None if they could not be looked up. `key_maker_id` is the user who made the key.
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


class PolicyContext:
    """One transaction: a request and its answer.

    `scratchpad` is the policy's own, shared by `on_request` and every hook of the answer.
    `request` is the request as it came, `final_request` as the provider got it. `answer` is what
    the client gets in the model's stead, if the policy so decided.
    """

    def __init__(
        self,
        transaction_id: str,
        request: Request,
        *,
        policy_name: str = "",
        identity: Identity | None = None,
        observability: ObservabilityContext | None = None,
        recorder: TransactionRecorder | None = None,
    ) -> None:
        self.transaction_id = transaction_id
        self.request = request
        self.final_request = request
        self.answer: Answer | None = None
        self.policy_name = policy_name
        self.identity = identity or Identity()
        self.observability = observability or NoOpObservabilityContext(transaction_id)
        self.recorder = recorder or NoOpTransactionRecorder()
        self.scratchpad: dict[str, Any] = {}
        self.decisions: list[Decision] = []
        self.hook_began = time.monotonic()
        """When the hook that is running was called; for the engine, not for policies."""
        self.hold_clock = HoldClock()
        """How long policies have kept the transaction waiting; for the engine, not for policies."""
        self.budget = Budget()
        """How much its policies have judged; for the engine, not for policies."""
        self.is_voter = False
        """The policy is one of several that vote."""
        self.polls: list[asyncio.Event] = []
        """Each is set when all members of a panel have voted; for the engine, not for policies."""
        self._first: object = None
        self._of_members: dict[object, PolicyContext] = {}

    def be_of(self, member: object, name: str) -> None:
        """Makes this the view of the first policy that is asked, if that is a single one. For the engine,
        not for policies."""
        if self._first is None and not self._of_members:
            self._first, self.policy_name = member, name

    def settle(self, request: Request) -> None:
        """Sets what the provider gets, in all views. For the engine, not for policies."""
        self.final_request = request
        for view in self._of_members.values():
            view.final_request = request

    def of_member(self, member: object, name: str, *, is_voter: bool = False) -> "PolicyContext":
        """The view that one of several policies has of this transaction: its scratchpad is its own,
        the decisions are everybody's. For the engine, not for policies."""
        if member is self._first:
            return self
        found = self._of_members.get(member)
        if found is None:
            found = PolicyContext(
                self.transaction_id,
                self.request,
                policy_name=name,
                identity=self.identity,
                observability=self.observability,
                recorder=self.recorder,
            )
            found.decisions = self.decisions
            found.hold_clock = self.hold_clock
            found.budget = self.budget
            found.is_voter = is_voter
            self._of_members[member] = found
        return found

    def decide(
        self,
        action: Action,
        *,
        reason: str | None = None,
        message: str | None = None,
        score: float | None = None,
        evidence: str | None = None,
        block: StreamBlock | None = None,
        milliseconds: float | None = None,
    ) -> None:
        """Records a decision, about `block` or the request; it changes nothing by itself. A block is logged.

        Texts of the request or the answer belong into `evidence`, not into `reason`, which is logged.
        `milliseconds` is what the decision took, the time since the hook was called if not given.
        """
        if milliseconds is None:
            milliseconds = (time.monotonic() - self.hook_began) * 1000
        decision = Decision(
            self.policy_name,
            action,
            block,
            reason,
            message,
            score,
            evidence,
            milliseconds,
            is_vote=self.is_voter,
        )
        self.decisions.append(decision)
        if action == "block" and not self.is_voter:
            self._log_block(decision)

    def _log_block(self, decision: Decision) -> None:
        """Writes one line, without any text of the request or the answer but a tool's name."""
        logger.warning(
            "transaction %s: policy %s blocked %s; key_alias %s; reason %s",
            self.transaction_id,
            quoted(decision.policy),
            _named(decision.block),
            quoted(self.identity.key_alias),
            quoted(decision.reason),
        )

    def charge(self, characters: int, blocks: int = 0) -> None:
        """Counts towards what all policies of the transaction may judge (`limits`), whose end blocks the request or
        the rest of the answer. The engine counts each piece of an answer once; a policy counts what costs it more
        than reading that once. Safe in any thread. Raises `PolicyBlockedError`."""
        try:
            self.budget.spend(characters, blocks)
        except LimitExceededError as error:
            message = too_large_notice(self.transaction_id)
            raise PolicyBlockedError(message, reason=f"too large to judge ({error})") from None

    def note_error(self, where: str, error: Exception) -> None:
        """Records that something of ours failed; for the engine, not for policies."""
        kind = type(error).__name__
        self.decisions.append(
            Decision(
                self.policy_name,
                "error",
                reason=f"{where}: {kind}",
                evidence=error_text(error),
                error=kind,
                is_vote=self.is_voter,
            )
        )


def _named(block: StreamBlock | None) -> str:
    if block is None:
        return "the transaction"
    if isinstance(block, ToolCallStreamBlock):
        return f"tool {quoted(block.name)}"
    return "reasoning" if isinstance(block, ReasoningStreamBlock) else "text"


@dataclass(slots=True)
class Engine:
    """The parts of the engine that a context and the helpers speak to; not for policies."""

    state: StreamState
    outbox: Outbox
    deadline: HookDeadline
    has_text_after_calls: bool
    cut_reasons: tuple[str, ...] = ()
    is_over: bool = False
    """All of the response has come."""
    event: StreamEvent | None = None
    """The event that a delta hook is about."""
    passes_chunk: bool = False
    """A hook let the current chunk out as a whole, before its events were judged."""


class StreamingResponseContext(PolicyContext):
    """A transaction whose answer is coming in, from a stream or all at once.

    `block` is the block that the hook is about, None in hooks that are about none. `delta` is the
    piece that just came: text, reasoning, or a part of a call's arguments ("" if the piece only
    opens the call); None outside the delta hooks. `choice` is the number of the answer that the
    hook is about, 0 unless the client asked for several.
    """

    def __init__(self, transaction: PolicyContext, engine: Engine) -> None:
        super().__init__(
            transaction.transaction_id,
            transaction.request,
            policy_name=transaction.policy_name,
            identity=transaction.identity,
            observability=transaction.observability,
            recorder=transaction.recorder,
        )
        self.is_voter = transaction.is_voter
        self.budget = transaction.budget
        self.final_request = transaction.final_request
        self.scratchpad = transaction.scratchpad
        self.decisions = transaction.decisions
        self.engine = engine
        self.block: StreamBlock | None = None
        self.delta: str | None = None
        self.choice = 0

    @property
    def ingress_state(self) -> StreamState:
        """What came from the provider so far."""
        return self.engine.state

    @property
    def has_text_after_calls(self) -> bool:
        """Whether text may follow a tool call in this answer. On messages, and where policies vote, it may not."""
        return self.engine.has_text_after_calls

    @property
    def is_cut_off(self) -> bool:
        """Whether a token limit has cut the response off, or it has ended without a finish reason."""
        reason = self.engine.state.finish_reason
        return self.engine.is_over if reason is None else reason in self.engine.cut_reasons

    def keepalive(self) -> None:
        """Gives the running hook its whole time again; call it while waiting for something slow."""
        self.engine.deadline.keepalive()

    def time_since_keepalive(self) -> float:
        """Seconds since the hook began, or last called `keepalive()`."""
        return self.engine.deadline.time_since_keepalive()

    def decide(
        self,
        action: Action,
        *,
        reason: str | None = None,
        message: str | None = None,
        score: float | None = None,
        evidence: str | None = None,
        block: StreamBlock | None = None,
        milliseconds: float | None = None,
    ) -> None:
        """Records a decision about `block` (if not given, the hook's block); it changes nothing by itself."""
        super().decide(
            action,
            reason=reason,
            message=message,
            score=score,
            evidence=evidence,
            block=block or self.block,
            milliseconds=milliseconds,
        )
