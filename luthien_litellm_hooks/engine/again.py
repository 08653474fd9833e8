"""Second call of the model, after a response whose tool calls were all withheld, and its judgement."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from luthien_litellm_hooks.engine.composition import clock_of, run_of
from luthien_litellm_hooks.engine.egress_queue import EgressItem
from luthien_litellm_hooks.engine.pipeline import ENDING
from luthien_litellm_hooks.engine.sequencer import Sequencer
from luthien_litellm_hooks.errors import PolicyBlockedError
from luthien_litellm_hooks.policy.context import PolicyContext, new_view
from luthien_litellm_hooks.policy.notices import NOTICE_MARK, notice
from luthien_litellm_hooks.policy.request import Request
from luthien_litellm_hooks.recording.decision import AskedAgain, Decision
from luthien_litellm_hooks.recording.recorder import DefaultTransactionRecorder, ResponseRecord
from luthien_litellm_hooks.telemetry.log_lines import logger
from luthien_litellm_hooks.telemetry.names import AGAIN, ASKED_AGAIN
from luthien_litellm_hooks.wire.events import (
    Chunk,
    Finish,
    Flagged,
    StreamBlock,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    ToolCallStreamBlock,
    from_wire,
)
from luthien_litellm_hooks.wire.format import Adapter, Refusal

LONGEST_S = 60.0
"""Longest wait for the model's second response."""
_REFUSED = f"{NOTICE_MARK} This call was withheld by a policy of the proxy, and did not run."


class Model(Protocol):
    """The model of a transaction, on its own wire."""

    def next_request(self, request: Request, response: Sequence[object], refusals: Sequence[Refusal]) -> Request | None:
        """Returns the request after `request`: with the response as it came, and a refusal for each of its calls."""
        ...

    async def respond(self, request: Request, again: AskedAgain) -> object:
        """Returns the model's full response, and notes its price. Raises any error."""
        ...

    def new_adapter(self) -> Adapter:
        """Returns an adapter for that response."""
        ...


@dataclass(frozen=True, slots=True)
class Second:
    """A second response as it may leave."""

    events: Sequence[StreamEvent]
    finish_reason: str | None


Judge = Callable[[object, Adapter, PolicyContext, DefaultTransactionRecorder], Awaitable[Sequence[StreamEvent] | None]]
"""Returns the events of a full response as they may leave; None if a policy ended it."""


class SecondTry:
    """Keeps the end of a response back while the model is asked again.

    The end is kept if all calls of the response were withheld, and nothing else ended it: no notice, no failure, no
    undecided question. What has left by then stays, the notice about the calls too.
    """

    def __init__(self, model: Model, ctx: PolicyContext, sequencer: Sequencer, reasons: Collection[str]) -> None:
        self._model = model
        self._reasons = reasons  # of a response that ended naturally
        self._ctx = ctx
        self._sequencer = sequencer
        self._units: list[object] = []
        self._came = ResponseRecord()
        self._kept: list[EgressItem] = []

    def note(self, unit: object, chunks: Iterable[Chunk]) -> None:
        """Notes an item of the provider's response."""
        if unit is not None:
            self._units.append(unit)
        for chunk in chunks:
            self._came.add(chunk)

    @property
    def is_due(self) -> bool:
        """The end of the response is kept back."""
        return bool(self._kept)

    def keeps(self, item: EgressItem) -> bool:
        """Keeps `item` back, if it ends a response to ask again about, or follows its end."""
        is_end = any(isinstance(event, Finish) for event in item.events)
        if self._kept or (is_end and self._is_blocked_by(item)):
            self._kept.append(item)
            return True
        return False

    def _is_blocked_by(self, item: EgressItem) -> bool:
        sequencer = self._sequencer
        if (
            item.notice is not None
            or _has_call(item)
            or sequencer.is_cut
            or sequencer.has_finished
            or sequencer.has_calls
        ):
            return False
        return self._came.finish_reason in self._reasons and bool(self._refusals())

    def _refusals(self) -> list[Refusal]:
        """Returns a refusal for each call; none if the model is not to be asked again."""
        content = self._came.content()
        calls = [block for block in content if block["type"] == "tool_call"]
        if self._came.is_truncated or any(block.get("choice") or block.get("form") == "server" for block in content):
            return []
        decisions = [decision for decision in self._ctx.decisions if not decision.is_vote]
        if any(decision.error is not None or _is_undecided(decision) for decision in decisions):
            return []
        words: dict[tuple[str | None, str], str] = {}
        for decision in decisions:
            if decision.withholds and isinstance(decision.block, ToolCallStreamBlock):
                words[decision.block.id, decision.block.name] = _words(decision, self._ctx.transaction_id)
        return [
            Refusal(call["id"], call["name"], words.get((call["id"], call["name"]), _REFUSED))
            for call in calls
            if words
        ]

    async def response(self, judge_request: "JudgeRequest", judge: Judge, max_hold_s: float) -> Second | None:
        """Asks the model, and judges its response. Returns None if the response ends with its notice."""
        if any(item.notice is not None or _has_call(item) for item in self._kept):
            return None
        refusals = self._refusals()
        again = self._ctx.asked_again = AskedAgain(tools=[refusal.name for refusal in refusals])
        began = time.monotonic()
        try:
            return await self._response(again, refusals, judge_request, judge, max_hold_s)
        except PolicyBlockedError:
            again.reason = "a policy refused the second request"
        except TimeoutError:
            again.reason = "the model took too long"
        except Exception as error:
            again.reason = f"the model could not be asked: {type(error).__name__}"
            logger.warning("transaction %s: %s", self._ctx.transaction_id, again.reason, exc_info=error)
        finally:
            again.milliseconds = (time.monotonic() - began) * 1000
            await self._publish(again)
        return None

    async def _publish(self, again: AskedAgain) -> None:
        told = {"tools": [*again.tools], "result": again.result, "reason": again.reason}
        self._ctx.observability.record_metric(AGAIN.name, 1, {"result": again.result})
        await self._ctx.observability.emit_event(ASKED_AGAIN, told | {"milliseconds": round(again.milliseconds, 3)})

    async def _response(
        self,
        again: AskedAgain,
        refusals: Sequence[Refusal],
        judge_request: "JudgeRequest",
        judge: Judge,
        max_hold_s: float,
    ) -> Second | None:
        request = self._model.next_request(self._ctx.request, self._units, refusals)
        if request is None:
            again.reason = "the wire has no request with this refusal"
            return None
        recorder = DefaultTransactionRecorder()
        view = new_view(self._ctx, request)
        view.recorder = recorder
        clock = run_of(view).hold_clock = clock_of(self._ctx)
        again.decisions = view.decisions
        final = await judge_request(view)
        if not isinstance(final, Request):
            again.reason = "a policy answered the second request"
            return None
        clock.start()
        try:
            async with asyncio.timeout(min(LONGEST_S, max_hold_s - clock.seconds)):
                response = await self._model.respond(final, again)
        finally:
            clock.stop()
        events = await judge(response, self._model.new_adapter(), view, recorder)
        again.content, again.finish_reason = recorder.ingress.content(), recorder.ingress.finish_reason
        if any(block.get("choice") for block in again.content):
            again.reason = "the model gave more than one choice"
            return None
        own = [] if events is None else _own(events)
        asks = any(block["type"] == "tool_call" for block in again.content)
        has_server_call = any(block.get("form") == "server" for block in again.content)
        is_for_person = any(decision.action == "ask" and decision.withholds for decision in view.decisions)
        goes_on = is_for_person or any(isinstance(event, ToolCallDelta) for event in own)
        if not own or has_server_call or (asks and not goes_on):
            again.result = "blocked"
            return None
        again.result = "delivered"
        return Second(own, again.finish_reason)

    def ending(self, second: Second | None, cut_reasons: Sequence[str]) -> list[EgressItem]:
        """Returns the rest of the response: what was kept back, with the second response in front of its finish."""
        kept, self._kept = self._kept, []
        if second is None:
            return kept
        before, after = _parted(kept[0])
        if second.finish_reason in cut_reasons:
            after = _refinished(after, second.finish_reason)
        own = (EgressItem(None, (event,)) for event in second.events)
        return [item for item in (before, *own, after, *kept[1:]) if item.events or item.chunk is None]


JudgeRequest = Callable[[PolicyContext], Awaitable[object]]
"""Runs the request hooks; returns the provider's request, or something else if there is none."""


def _has_call(item: EgressItem) -> bool:
    return any(isinstance(event, ToolCallDelta) for event in item.events)


def _is_undecided(decision: Decision) -> bool:
    approval = decision.approval
    return decision.action == "ask" and decision.withholds and (approval is None or approval.state != "denied")


def _words(decision: Decision, transaction_id: str) -> str:
    return _REFUSED if decision.message is None else notice(decision.message, transaction_id)


def _own(events: Iterable[StreamEvent]) -> list[StreamEvent]:
    """Returns the texts, calls and flags of a response, each whole, and as if a policy sent them."""
    own: list[TextDelta | ToolCallDelta | Flagged] = []
    latest: tuple[int | None, str] | None = None  # the block of the last text
    for event in events:
        if isinstance(event, TextDelta):
            key, last = (event.index, event.channel), own[-1] if own else None
            if isinstance(last, TextDelta) and key == latest and not event.starts_paragraph:
                own[-1] = replace(last, text=last.text + event.text)
            elif event.text:
                own.append(TextDelta(text=event.text, starts_paragraph=True))
            latest = key
        elif isinstance(event, ToolCallDelta):
            last = own[-1] if own else None
            if event.name is None and isinstance(last, ToolCallDelta):
                own[-1] = replace(last, arguments=last.arguments + event.arguments)
            else:
                own.append(replace(event, index=None))
        elif isinstance(event, Flagged):
            own.append(event)
    return [*own]


def _parted(item: EgressItem) -> tuple[EgressItem, EgressItem]:
    """Splits an item before the finish in it."""
    ended = next(number for number, event in enumerate(item.events) if isinstance(event, ENDING))
    before, after = EgressItem(item.chunk), EgressItem(item.chunk)
    pairs: list[tuple[StreamEvent, StreamBlock | None]] = [*zip(item.events, item.blocks, strict=True)]
    for number, (event, block) in enumerate(pairs):
        (before if number < ended else after).add(event, block)
    return before, after


def _refinished(item: EgressItem, reason: str | None) -> EgressItem:
    changed = [
        from_wire(replace(event, reason=reason or event.reason), event.source) if isinstance(event, Finish) else event
        for event in item.events
    ]
    return EgressItem(item.chunk, changed)
