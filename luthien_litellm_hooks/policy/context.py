"""Contexts for hooks: one for a request and its response, and a view of the running response."""

import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from luthien_litellm_hooks.errors import LimitExceededError, PolicyBlockedError
from luthien_litellm_hooks.policy.limits import Budget, Readings, Spending
from luthien_litellm_hooks.policy.notices import too_large_notice
from luthien_litellm_hooks.policy.request import Answer, Request
from luthien_litellm_hooks.recording.decision import Action, Approval, AskedAgain, Decision, Identity, Spent
from luthien_litellm_hooks.recording.recorder import NoOpTransactionRecorder, TransactionRecorder
from luthien_litellm_hooks.telemetry import NoOpObservabilityContext, ObservabilityContext
from luthien_litellm_hooks.telemetry.log_lines import logger, quoted
from luthien_litellm_hooks.wire.assembler import StreamState
from luthien_litellm_hooks.wire.events import (
    Chunk,
    ReasoningStreamBlock,
    StreamBlock,
    StreamEvent,
    ToolCall,
    ToolCallStreamBlock,
)


@dataclass(frozen=True, slots=True)
class Question:
    """Tool call for a person to decide about, with the policy's words."""

    call: ToolCall
    reason: str | None = None
    evidence: str | None = None


class Asking(Protocol):
    """Way to ask a person about tool calls."""

    async def ask(self, ctx: "StreamingResponseContext", questions: Sequence[Question]) -> list[Approval]:
        """Returns the decision about each call, or the reason for none."""
        ...


class PolicyContext:
    """One transaction: a request and its response.

    `scratchpad` belongs to the policy; `on_request` and every hook of the response share it. `request` is the client's
    request, `final_request` the provider's. `answer` is the policy's own response instead of the model's, if it gave
    one.
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
        self.policy_version = ""
        """Version of the policy's class and settings."""
        self.identity = identity or Identity()
        self.observability = observability or NoOpObservabilityContext(transaction_id)
        self.recorder = recorder or NoOpTransactionRecorder()
        self.scratchpad: dict[str, Any] = {}
        self.decisions: list[Decision] = []
        self.hook_began = time.monotonic()
        """Start of the running hook; for the engine, not for policies."""
        self.budget = Budget()
        """Amount of judged data; for the engine, not for policies."""
        self.readings = Readings()
        """Results of reading this transaction, shared by its policies."""
        self.spending = Spending()
        """Model calls of all policies; for clients of models."""
        self.is_voter = False
        """True if the policy is one of several that vote."""
        self.is_observed = False
        """True if the result is not delivered: the policy judges a response of before."""
        self.approvals: Asking | None = None
        """Way to ask a person, for the gate of tool calls; None if the proxy has none."""
        self.asked_again: AskedAgain | None = None
        """Second call of the model, after all tool calls were withheld; for the record."""
        self.engine_state: object = None
        """State of the engine, which alone knows its type; not for policies."""
        self.block: StreamBlock | None = None
        """The hook's block; None in hooks without one."""

    @property
    def spent(self) -> Spent:
        """Model calls of all policies for this transaction so far."""
        return self.spending.total

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
        spent: Spent | None = None,
        approval: Approval | None = None,
    ) -> None:
        """Records a decision; it changes nothing by itself. A block is logged, unless the policy is observed.

        It is about `block`, by default the hook's block, and in hooks without one about the request.

        Texts of the request or the response belong in `evidence`, not in `reason`, because `reason` is logged.
        `milliseconds` is the time for the decision; by default it is the time since the hook's start. `spent` are the
        model calls for it, `approval` is a person's part in it.
        """
        if milliseconds is None:
            milliseconds = (time.monotonic() - self.hook_began) * 1000
        decision = Decision(
            self.policy_name,
            action,
            block or self.block,
            reason,
            message,
            score,
            evidence,
            milliseconds,
            is_vote=self.is_voter,
            spent=spent,
            approval=approval,
        )
        self.decisions.append(decision)
        if decision.withholds and not self.is_voter and not self.is_observed:
            self._log_block(decision)

    def _log_block(self, decision: Decision) -> None:
        """Logs one line. A tool's name is its only text of the request or the response."""
        logger.warning(
            "transaction %s: policy %s blocked %s; key_alias %s; reason %s",
            self.transaction_id,
            quoted(decision.policy),
            _named(decision.block),
            quoted(self.identity.key_alias),
            quoted(decision.reason),
        )

    def charge(self, characters: int, blocks: int = 0) -> None:
        """Counts towards the limits of judged data (`limits`). Beyond them the request, or the rest of the response, is
        blocked.

        All policies of the transaction share the limits. The engine counts each piece of a response once. A policy
        counts work beyond reading it once. Safe in any thread. Raises `PolicyBlockedError`.
        """
        try:
            self.budget.spend(characters, blocks)
        except LimitExceededError as error:
            message = too_large_notice(self.transaction_id)
            raise PolicyBlockedError(message, reason=f"too large to judge ({error})") from None


def new_view(transaction: PolicyContext, request: Request, policy_name: str = "") -> PolicyContext:
    """Returns another context of the same transaction, with a scratchpad, decisions and limits of its own."""
    view = PolicyContext(
        transaction.transaction_id,
        request,
        policy_name=policy_name,
        identity=transaction.identity,
        observability=transaction.observability,
        recorder=transaction.recorder,
    )
    view.spending = transaction.spending
    view.approvals = transaction.approvals
    return view


def _named(block: StreamBlock | None) -> str:
    if block is None:
        return "the transaction"
    if isinstance(block, ToolCallStreamBlock):
        return f"tool {quoted(block.name)}"
    return "reasoning" if isinstance(block, ReasoningStreamBlock) else "text"


class StreamControl(Protocol):
    """Controls of a running response. The engine implements them, the functions of `policy.sending` use them."""

    @property
    def state(self) -> StreamState:
        """The response so far."""
        ...

    @property
    def has_text_after_calls(self) -> bool:
        """True if text may follow a tool call."""
        ...

    @property
    def is_cut_off(self) -> bool:
        """True if a token limit cut the response off, or if it ended without a finish reason."""
        ...

    @property
    def is_streamed(self) -> bool:
        """True if the client gets the response piece by piece."""
        ...

    @property
    def takes_flags(self) -> bool:
        """True if the client asked for a verdict on each tool call, and leaves flagged ones to its own user."""
        ...

    def keepalive(self) -> None:
        """Restarts the deadline of the running hook."""
        ...

    def time_since_keepalive(self) -> float:
        """Returns the seconds since the hook's start or its last `keepalive`."""
        ...

    def send(
        self, event: StreamEvent, block: StreamBlock | None = None, about: StreamBlock | None = None
    ) -> Awaitable[None]:
        """Sends a policy's event: as part of `block`, or concerning `about` alone."""
        ...

    def pass_chunk(self) -> None:
        """Forwards the latest chunk before its events are judged."""
        ...

    def release_latest(self, block: StreamBlock) -> Awaitable[None]:
        """Forwards the event of the running delta hook, if `block` still holds it."""
        ...

    def release_first(self, block: StreamBlock, count: int) -> Awaitable[None]:
        """Forwards the oldest `count` held deltas of `block`."""
        ...

    def release_chunk(self, chunk: Chunk) -> Awaitable[None]:
        """Forwards all held events of `chunk`."""
        ...

    def release(self, block: StreamBlock) -> Awaitable[None]:
        """Forwards all held events of `block`, in order."""
        ...

    def release_all(self) -> Awaitable[None]:
        """Forwards all held events, block by block."""
        ...

    def drop(self, block: StreamBlock) -> None:
        """Drops all held events of `block`."""
        ...


class StreamingResponseContext(PolicyContext):
    """A transaction with a response, from a stream or all at once.

    `block` is the hook's block, None in hooks without one. `delta` is the newest piece: text, reasoning, or a part of a
    call's arguments ("" if it only opens the call); None outside the delta hooks. `choice` is the number of the hook's
    choice, 0 unless the client asked for several.
    """

    def __init__(self, transaction: PolicyContext, control: StreamControl) -> None:
        vars(self).update(vars(transaction))  # shares everything with the transaction
        self.control = control
        """Controls for the functions that send and release, not for policies."""
        self.delta: str | None = None
        self.choice = 0

    @property
    def ingress_state(self) -> StreamState:
        """Data from the provider so far."""
        return self.control.state

    @property
    def has_text_after_calls(self) -> bool:
        """True if text may follow a tool call in this response. It may not on messages, nor if policies vote."""
        return self.control.has_text_after_calls

    @property
    def is_cut_off(self) -> bool:
        """True if a token limit cut the response off, or if it ended without a finish reason."""
        return self.control.is_cut_off

    @property
    def is_streamed(self) -> bool:
        """True if the client gets the response piece by piece; false for a full response."""
        return self.control.is_streamed

    @property
    def takes_flags(self) -> bool:
        """True if the client asked for a verdict on each tool call, and leaves flagged ones to its own user."""
        return self.control.takes_flags

    def keepalive(self) -> None:
        """Restarts the time limit of the running hook; call it while waiting for something slow."""
        self.control.keepalive()

    def time_since_keepalive(self) -> float:
        """Returns the seconds since the hook's start or its last `keepalive()`."""
        return self.control.time_since_keepalive()
