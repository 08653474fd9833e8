"""Observing policies: they judge a response after its client has it, and have no effect on it."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import cast

from luthien_litellm_hooks.engine.composition import ConfiguredStage, Serial, watchers_for
from luthien_litellm_hooks.engine.executor import PolicyExecutor
from luthien_litellm_hooks.engine.rehearsal import Recorded, rehearse
from luthien_litellm_hooks.errors import NotReplayableError
from luthien_litellm_hooks.hooks.routes import governed_format
from luthien_litellm_hooks.hooks.spend_logs import Observation, SpendLogEntry
from luthien_litellm_hooks.hooks.transaction import Transaction
from luthien_litellm_hooks.recording.record import ObservedPolicy
from luthien_litellm_hooks.telemetry.log_lines import logger
from luthien_litellm_hooks.telemetry.names import DECISIONS, OBSERVED, OBSERVED_DROPPED

MAX_AT_ONCE = 32
"""Judgements of a process at the same time."""
MAX_WAITING = 1_000
"""Judgements of a process that wait for their turn; the rest is dropped."""
MAX_CHARACTERS = 64_000_000
"""Characters of the requests and responses that wait or are being judged, in a process; the rest is dropped."""
_SERVED_S = 5.0
"""Longest wait for the end of the task that serves the client, in seconds."""


class Observers:
    """Observing policies of one process, for all its responses."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(MAX_AT_ONCE)
        self._waiting = 0
        self._characters = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, transaction: Transaction) -> None:
        """Begins to observe a transaction, if any policy is to. Judging starts when its response is over."""
        entry = transaction.log_entry
        if entry is None or entry.observation is not None:
            return
        watchers = watchers_for(transaction.in_force.executor.composition, entry.context)
        if watchers:
            entry.observation = Observation()
            serving = asyncio.current_task()
            work = self._observe(transaction, entry, entry.observation, watchers, serving)
            task = asyncio.create_task(work, name=f"luthien-observers-{entry.context.transaction_id}")
            self._tasks.add(task)  # the event loop itself keeps only weak references
            task.add_done_callback(self._tasks.discard)

    async def _observe(
        self,
        transaction: Transaction,  # kept for the policies' own calls, which are charged to its key
        entry: SpendLogEntry,
        observation: Observation,
        watchers: Sequence[ConfiguredStage],
        serving: asyncio.Task[object] | None,
    ) -> None:
        try:
            await entry.recorder.wait_for_end()
            judged = _reason_for_none(entry) or await self._judge_all(transaction, entry, watchers, serving)
            observation.judged = judged
            if isinstance(judged, str):
                entry.context.observability.record_metric(OBSERVED_DROPPED.name, 1, {"reason": judged})
        except Exception:
            logger.exception("transaction %s could not be observed", entry.context.transaction_id)
            observation.judged = "failed"
            entry.context.observability.record_metric(OBSERVED_DROPPED.name, 1, {"reason": "failed"})
        finally:
            observation.done.set()

    async def _judge_all(
        self,
        transaction: Transaction,
        entry: SpendLogEntry,
        watchers: Sequence[ConfiguredStage],
        serving: asyncio.Task[object] | None,
    ) -> Sequence[ObservedPolicy] | str:
        """Returns the judgements, or the reason for none. Waits until the client is served."""
        recorded, executor = _recorded(entry), transaction.in_force.executor
        size = _characters([recorded.request.body, recorded.content])
        if self._waiting + len(watchers) > MAX_WAITING or self._characters + size > MAX_CHARACTERS:
            return "full"
        self._waiting += len(watchers)
        self._characters += size
        try:
            if serving is not None:
                await asyncio.wait([serving], timeout=_SERVED_S)
            return await asyncio.gather(*(self._judge(stage, executor, recorded, entry) for stage in watchers))
        finally:
            self._characters -= size

    async def _judge(
        self, stage: ConfiguredStage, executor: PolicyExecutor, recorded: Recorded, entry: SpendLogEntry
    ) -> ObservedPolicy:
        """Returns the judgement of one policy, or of one parallel. Never raises for a failure of the policy."""
        async with self._turns:
            self._waiting -= 1
            try:
                alone = executor.with_policies(Serial([stage]), executor.on_block)
                done = await rehearse(alone, recorded)
            except Exception as error:
                is_known = isinstance(error, NotReplayableError)
                if not is_known:
                    logger.exception("transaction %s: %s could not observe", recorded.transaction_id, stage.name)
                observability, reason = entry.context.observability, "not replayable" if is_known else "failed"
                observability.record_metric(OBSERVED_DROPPED.name, 1, {"reason": reason})
                return ObservedPolicy(
                    policy=stage.name, version=stage.version, error=str(error) if is_known else type(error).__name__
                )
        for decision in done.decisions:
            labels = {"policy": decision.policy, "action": decision.action, "mode": OBSERVED}
            entry.context.observability.record_metric(DECISIONS.name, 1, labels)
        return ObservedPolicy(
            policy=stage.name,
            version=stage.version,
            outcome=done.outcome,
            is_request_changed=done.is_request_changed,
            is_response_changed=done.is_response_changed,
            decisions=done.decisions,
            seconds=done.seconds,
            spent=done.spent,
            content=done.content,
            finish_reason=done.finish_reason,
        )


def _reason_for_none(entry: SpendLogEntry) -> str | None:
    """Returns the reason why a response cannot be observed; None if it can."""
    recorder = entry.recorder
    if recorder.outcome in (None, "client_disconnected", "provider_error"):
        return "unfinished"
    if entry.context.answer is not None:
        return "unanswered"
    return "truncated" if recorder.egress.is_truncated else None


def _recorded(entry: SpendLogEntry) -> Recorded:
    """Returns the transaction with the response as it was delivered."""
    context, delivered = entry.context, entry.recorder.egress
    return Recorded(
        transaction_id=context.transaction_id,
        request=context.request,
        final_request=context.final_request,
        content=delivered.content(),
        finish_reason=delivered.finish_reason,
        rules=governed_format(entry.route).rules,
        identity=context.identity,
    )


def _characters(value: object) -> int:
    """Returns the length of all texts in a JSON value."""
    count, waiting = 0, [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            count += len(item)
        elif isinstance(item, Mapping):
            waiting.extend(cast(Mapping[str, object], item).values())
        elif isinstance(item, list):
            waiting.extend(cast(list[object], item))
    return count
