"""Rehearsal: policies judge a recorded request and its response, without a delivery."""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from luthien_litellm_hooks.engine.composition import clock_of, members_of, stages_for
from luthien_litellm_hooks.engine.executor import PolicyExecutor
from luthien_litellm_hooks.errors import NotReplayableError, PolicyBlockedError
from luthien_litellm_hooks.policy.base import Policy
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.limits import judging_apart
from luthien_litellm_hooks.policy.request import Answer, Request
from luthien_litellm_hooks.recording.decision import Decision, Identity, Spent
from luthien_litellm_hooks.recording.record import transaction_record
from luthien_litellm_hooks.recording.recorder import DefaultTransactionRecorder, Outcome
from luthien_litellm_hooks.wire.format import Blocks, ResponseRules, json_copy
from luthien_litellm_hooks.wire.recorded import recorded_adapter

_TYPES = ("text", "reasoning", "tool_call")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """Recorded request and response, as input of a rehearsal.

    `request` is the client's: `when` selects by it. `final_request` is the one for the first policy, `request` itself
    by default. `content` are the blocks of the response, as a record has them. `rules` are those of the wire.
    """

    transaction_id: str
    request: Request
    content: Blocks
    finish_reason: str | None
    rules: ResponseRules
    identity: Identity = field(default_factory=Identity)
    final_request: Request | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """Result of policies without a delivery.

    `content` and `finish_reason` are the response as it would be delivered. `seconds` is the time in the policies'
    hooks: so long they would have held the transaction.
    """

    decisions: tuple[Decision, ...]
    content: Sequence[dict[str, Any]]
    finish_reason: str | None
    outcome: Outcome
    is_request_changed: bool
    is_response_changed: bool
    seconds: float
    spent: Spent
    _context: PolicyContext = field(repr=False)
    _recorder: DefaultTransactionRecorder = field(repr=False)
    _policies: Sequence[tuple[str, str]] = field(repr=False)

    def record(self, *, with_bodies: bool = True) -> dict[str, Any]:
        """Returns the record of the transaction as these policies would leave it."""
        request = self._context.request
        return transaction_record(
            self._context,
            self._recorder,
            "",
            self._policies,
            with_bodies=with_bodies,
            path=request.route or None,
            session=request.session,
        )


async def rehearse(executor: PolicyExecutor, recorded: Recorded) -> Rehearsal:
    """Judges a recorded request and its response, and delivers nothing. Policies have no effects but their calls of
    models, which count for this transaction.

    Raises `NotReplayableError` if a policy needs more than the record has.
    """
    recorder = DefaultTransactionRecorder()
    context = PolicyContext(recorded.transaction_id, recorded.request, identity=recorded.identity, recorder=recorder)
    context.is_observed = True
    context.final_request = recorded.final_request or recorded.request
    _check(executor, recorded, context)
    with judging_apart():
        await _ask(executor, context, recorder)
        adapter = recorded_adapter(recorded.rules, recorded.finish_reason)
        async with aclosing(executor.run(_items(recorded.content), adapter, context)) as delivered:
            async for _ in delivered:
                pass
    return Rehearsal(
        decisions=tuple(context.decisions),
        content=recorder.egress.content(),
        finish_reason=recorder.egress.finish_reason,
        outcome=recorder.outcome or "complete",
        is_request_changed=recorder.original_request != recorder.final_request,
        is_response_changed=recorder.is_answer_changed,
        seconds=clock_of(context).seconds,
        spent=context.spent,
        _context=context,
        _recorder=recorder,
        _policies=[(member.name, member.version) for member in members_of(executor.composition)],
    )


async def _ask(executor: PolicyExecutor, context: PolicyContext, recorder: DefaultTransactionRecorder) -> None:
    """Runs the request hooks, on a body of their own. An answer of theirs, or a refusal, replaces the response."""
    original = context.final_request.body
    if any(type(member.policy).on_request is not Policy.on_request for member in members_of(executor.composition)):
        context.final_request = replace(context.final_request, body=json_copy(dict(original)))
    try:
        result = await executor.on_request(context)
    except PolicyBlockedError as refusal:
        result = Answer(refusal.message)
    if isinstance(result, Answer):
        context.answer = result
    await recorder.record_request(original, context.final_request.body)


def _check(executor: PolicyExecutor, recorded: Recorded, context: PolicyContext) -> None:
    for stage in stages_for(executor.composition, context):
        for member in members_of(stage):
            if type(member.policy).process_full_response is not Policy.process_full_response:
                raise NotReplayableError(f"{member.name} has process_full_response, which needs the response itself")
    unknown = next((block["type"] for block in recorded.content if block["type"] not in _TYPES), None)
    if unknown is not None:
        raise NotReplayableError(f"the response has a block of the unknown type {unknown!r}")


async def _items(content: Blocks) -> AsyncIterator[object]:
    for block in content:
        yield block
