"""The record of a transaction, in the row that LiteLLM writes of it, and in what its loggers get."""

import asyncio
import contextlib
import inspect
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

import litellm
from fastapi import HTTPException
from litellm.litellm_core_utils import redact_messages
from litellm.litellm_core_utils.litellm_logging import Logging, StandardLoggingPayloadSetup
from litellm.proxy import proxy_server
from litellm.proxy._types import UserAPIKeyAuth
from litellm.proxy.hooks.proxy_track_cost_callback import ProxyDBLogger
from litellm.proxy.spend_tracking.spend_tracking_utils import should_store_prompts_and_responses_in_spend_logs
from litellm.types.utils import Choices, Message, ModelResponse, Usage

from luthien_litellm_hooks.config import Bodies
from luthien_litellm_hooks.executor import outcome_of
from luthien_litellm_hooks.hooks.in_force import InForce
from luthien_litellm_hooks.hooks.logged_answer import as_delivered
from luthien_litellm_hooks.hooks.loggers import WITHHELD_ERROR, Delivery, govern_logging, is_providers
from luthien_litellm_hooks.hooks.sealing import seal
from luthien_litellm_hooks.hooks.ungoverned import path_of
from luthien_litellm_hooks.log_lines import logger
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.recorder import AnswerRecord, DefaultTransactionRecorder, Outcome
from luthien_litellm_hooks.transaction_record import transaction_record

SLOT = "spend_logs_metadata"
KEY = "luthien"
_BUCKETS = ("metadata", "litellm_metadata")
_GRACE_S = 10.0
"""How long after the end of a stream LiteLLM may come to log it; for clients that left, the next."""
_GRACE_OF_LEAVERS_S = 2.0
_CLIENT_CLOSED_REQUEST = 499
_OF_ERRORS = ("error_code", "error_class", "llm_provider")
"""What a row may tell of a provider's error."""
_GUARDRAIL_STATUS: dict[Outcome | None, str] = {
    "blocked": "guardrail_intervened",
    "policy_error": "guardrail_failed_to_respond",
    "timeout": "guardrail_failed_to_respond",
}


@dataclass(slots=True)
class Logged:
    """A transaction on its way into the spend logs. `call` is what LiteLLM logs it with; `written`
    is set when LiteLLM comes to write its row. `withheld` is a full answer of the provider's that nobody
    gets, and that has to be paid for all the same. `opted_out` says
    whether the client's key or team stores no texts."""

    context: PolicyContext
    kept: DefaultTransactionRecorder
    in_force: InForce
    call: Logging | None
    written: asyncio.Event = field(default_factory=asyncio.Event)
    withheld: object = None
    opted_out: bool = False
    delivery: Delivery = field(init=False)

    def __post_init__(self) -> None:
        self.delivery = Delivery(self.kept, hides_errors=False)
        self.govern(self.call)

    @classmethod
    def begin(
        cls,
        context: PolicyContext,
        kept: DefaultTransactionRecorder,
        in_force: InForce,
        data: dict[str, Any],
        user: UserAPIKeyAuth,
    ) -> "Logged":
        """Of the request that LiteLLM's `data` belong to. LiteLLM writes of a full answer only when the
        policy is done with it, and not at all if that withholds it: then the failure has its row."""
        call: object = data.get("litellm_logging_obj")
        opted_out = in_force.bodies == "follow_litellm" and not stores_bodies("follow_litellm", user)
        if not isinstance(call, Logging):
            return cls(context, kept, in_force, None, opted_out=opted_out)
        call.defer_async_logging = not data.get("stream")
        return cls(context, kept, in_force, call, opted_out=opted_out)

    def govern(self, call: object) -> None:
        """Has LiteLLM's loggers get of this call what the client gets, if a policy may withhold anything."""
        self.delivery.hides_errors = self.in_force.judges and self.in_force.readable_by == "admins"
        if self.in_force.judges and isinstance(call, Logging):
            govern_logging(call, self.delivery)

    def joined(self, in_force: InForce) -> None:
        """More policies are to judge the same transaction."""
        self.in_force = in_force
        self.govern(self.call)

    def is_of(self, kwargs: dict[str, Any]) -> bool:
        """Whether it is this that LiteLLM logs, not a call that a policy made in the midst of it, which
        is no client's. Where LiteLLM translates between wires, what it logs is another call than ours."""
        is_same = self.call is not None and kwargs.get("litellm_call_id") == self.call.litellm_call_id
        return is_same or path_of(kwargs) is not None


class SpendLogs:
    """Puts records where LiteLLM's loggers look, under `spend_logs_metadata.luthien`."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def complete(self, logged: Logged, kwargs: dict[str, Any]) -> None:
        """Before LiteLLM logs an answer: waits until the transaction has ended, and for members of panels that
        the client does not wait for. If it has not when LiteLLM's own time for that is nearly up, the
        record says so: it has no outcome, or not all votes."""
        logged.written.set()
        try:
            async with asyncio.timeout_at(logged.delivery.until()):
                await _wait_for_end(logged)
        except TimeoutError:
            logger.warning("transaction %s is logged unfinished", logged.context.transaction_id)
        self._write(logged, kwargs)

    async def fail(self, logged: Logged, request_data: dict[str, Any], error: Exception) -> None:
        """Before LiteLLM logs a failure."""
        logged.written.set()
        has_left = isinstance(error, HTTPException) and error.status_code == _CLIENT_CLOSED_REQUEST
        outcome = "client_disconnected" if has_left else outcome_of(logged.context, error)
        await logged.kept.finalize_non_streaming(outcome)
        if not isinstance(request_data.get("metadata"), dict):
            request_data["metadata"] = {}
        if not has_left and is_providers(error) and logged.delivery.hides_errors:
            request_data["metadata"] = _MetadataOfFailure(cast(dict[str, Any], request_data["metadata"]))
        self._write(logged, request_data)
        if not isinstance(request_data.get("standard_logging_object"), dict):
            information = [_guardrail_information(logged.kept.outcome)]
            request_data["metadata"]["standard_logging_guardrail_information"] = information
        if logged.withheld is not None and not isinstance(logged.withheld, list) and logged.call is not None:
            usage, cost = spent_on(logged.withheld, logged.call)
            request_data |= {"combined_usage_object": usage, "response_cost": cost}

    def expect(self, logged: Logged, request_data: dict[str, Any], user: UserAPIKeyAuth) -> None:
        """A stream is over. Of some LiteLLM logs nothing: clients that left, answers of Gemini's whose
        price it does not know. This sees to the row."""
        if logged.written.is_set():
            return
        task = asyncio.create_task(
            self._write_if_missing(logged, request_data, user), name=f"luthien-row-{logged.context.transaction_id}"
        )
        self._tasks.add(task)  # the event loop itself keeps only weak references
        task.add_done_callback(self._tasks.discard)

    async def _write_if_missing(self, logged: Logged, request_data: dict[str, Any], user: UserAPIKeyAuth) -> None:
        has_left = logged.kept.outcome == "client_disconnected"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GRACE_OF_LEAVERS_S if has_left else _GRACE_S):
                await logged.written.wait()
        call = logged.call
        if call is None or logged.written.is_set() or call.async_success_log_enqueued:
            return
        if has_left:
            await self._write_left(logged, call, request_data, user)
        else:
            await _log_answer(call, logged.kept)

    async def _write_left(
        self, logged: Logged, call: Logging, request_data: dict[str, Any], user: UserAPIKeyAuth
    ) -> None:
        gone = HTTPException(_CLIENT_CLOSED_REQUEST, "Client disconnected the request")
        failed = {key: value for key, value in request_data.items() if key != "litellm_logging_obj"}
        failed |= {"call_type": cast(Any, call).call_type, "start_time": call.start_time}
        await self.fail(logged, failed, gone)
        for writer in litellm.callbacks:
            if isinstance(writer, ProxyDBLogger):
                await cast(Any, writer).async_post_call_failure_hook(failed, gone, user)

    def _write(self, logged: Logged, kwargs: dict[str, Any]) -> None:
        in_force = logged.in_force
        record = transaction_record(
            logged.context,
            logged.kept,
            in_force.version,
            in_force.policies,
            with_bodies=not logged.opted_out and stores_bodies(in_force.bodies),
            of_last_turn=in_force.bodies == "follow_litellm" and _stores_last_turn(),
        )
        if in_force.readable_by == "admins":
            record = seal(record)
        for bucket in buckets_of(kwargs):
            _put(bucket, record)
        payload: object = kwargs.get("standard_logging_object")
        if isinstance(payload, dict):
            payload = cast(dict[str, Any], payload)
            _write_metadata(payload, record)
            if not logged.kept.is_delivered_as_it_came and not _is_redacted(kwargs):
                _write_answer(payload, logged.kept.egress)


async def _wait_for_end(logged: Logged) -> None:
    await logged.kept.wait_for_end()
    if logged.kept.outcome != "client_disconnected":  # whose panels are told to stop when this is written
        for poll in logged.context.polls:
            await poll.wait()


def stores_bodies(bodies: Bodies, user: UserAPIKeyAuth | None = None) -> bool:
    """Whether texts of requests and answers may be kept, of this user's if one is given. Only the operator's own switch
    counts against it: neither a client's header nor a key's `turn_off_message_logging` empties a record."""
    if bodies == "follow_litellm":
        return litellm.turn_off_message_logging is not True and _litellm_stores(user)
    return bodies == "always"


def _litellm_stores(user: UserAPIKeyAuth | None) -> bool:
    """LiteLLM asks keys and teams too, from 1.110 on."""
    stores = cast(Any, should_store_prompts_and_responses_in_spend_logs)
    if user is None or "metadata" not in inspect.signature(stores).parameters:
        return stores()
    who = cast(Any, user)
    return stores({"user_api_key_metadata": who.metadata, "user_api_key_team_metadata": who.team_metadata})


def _stores_last_turn() -> bool:
    """`spend_logs_prompt_storage: latest_turn`, which LiteLLM knows from 1.110 on; before that it may still be set."""
    settings = cast(Mapping[str, object], cast(Any, proxy_server).general_settings or {})
    return settings.get("spend_logs_prompt_storage") == "latest_turn"


class _MetadataOfFailure(dict[str, Any]):
    """What LiteLLM writes a failure's row from. It adds to this what the error says, which the row must not hold."""

    def update(self, *given: Any, **named: Any) -> None:
        super().update(*given, **named)
        said: object = self.get("error_information")
        if isinstance(said, dict):
            told = {name: value for name, value in cast(dict[str, Any], said).items() if name in _OF_ERRORS}
            self["error_information"] = told | {"error_message": WITHHELD_ERROR}


async def _log_answer(call: Logging, kept: DefaultTransactionRecorder) -> None:
    """Has LiteLLM log what came, whose tokens nobody has counted."""
    said = "".join(block["text"] for block in kept.ingress.content() if block["type"] == "text")
    choice = Choices(index=0, finish_reason="stop", message=Message(role="assistant", content=said))
    answer = ModelResponse(id=call.litellm_call_id, model=call.model, choices=[choice], usage=Usage())
    await cast(Any, call).async_success_handler(result=answer, start_time=call.start_time, end_time=datetime.now())


def spent_on(response: object, call: Logging) -> tuple[Usage, float]:
    """The provider's count of a full answer's tokens, and their price as LiteLLM knows it."""
    said = cast(dict[str, Any], response if isinstance(response, dict) else cast(Any, response).model_dump())
    counts = cast(dict[str, int], said.get("usageMetadata") or {})
    if counts:
        prompt = counts.get("promptTokenCount") or 0
        completion = (counts.get("candidatesTokenCount") or 0) + (counts.get("thoughtsTokenCount") or 0)
        usage = Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)
    else:
        usage = cast(Usage, cast(Any, StandardLoggingPayloadSetup).get_usage_from_response_obj(said))
    priced = ModelResponse(model=call.model, usage=usage)
    return usage, call.response_cost_calculator(result=priced) or 0.0


def remove_forged(data: dict[str, Any]) -> None:
    """Takes away what a client put where the record is to stand, and its wish that there be none."""
    call: object = data.get("litellm_logging_obj")
    data.pop("no-log", None)
    if isinstance(call, Logging):
        cast(Any, call).litellm_params.pop("no-log", None)
    for bucket in buckets_of(data):
        given: object = bucket.get(SLOT)
        if isinstance(given, dict) and KEY in given:
            bucket[SLOT] = {name: value for name, value in cast(dict[str, Any], given).items() if name != KEY}
        elif given is not None and not isinstance(given, dict):
            del bucket[SLOT]


def buckets_of(data: dict[str, Any]) -> Generator[dict[str, Any]]:
    """The places in which LiteLLM looks for metadata."""
    for holder in (data, data.get("litellm_params")):
        if isinstance(holder, dict):
            for name in _BUCKETS:
                bucket: object = cast(dict[str, Any], holder).get(name)
                if isinstance(bucket, dict):
                    yield cast(dict[str, Any], bucket)


def _put(bucket: dict[str, Any], record: dict[str, Any]) -> None:
    """In a new dict: the old one may be that of the key, which other requests share."""
    bucket[SLOT] = {**(bucket.get(SLOT) or {}), KEY: record}


def _write_metadata(payload: dict[str, Any], record: dict[str, Any]) -> None:
    metadata = cast(dict[str, Any], payload.get("metadata") or {})
    _put(metadata, record)
    metadata["applied_guardrails"] = [*(metadata.get("applied_guardrails") or ()), KEY]
    payload["metadata"] = metadata
    information = _guardrail_information(record["outcome"])
    payload["guardrail_information"] = [*(payload.get("guardrail_information") or ()), information]


def _guardrail_information(outcome: Outcome | None) -> dict[str, Any]:
    """The status alone: clients may ask LiteLLM for it, and get it."""
    status = _GUARDRAIL_STATUS.get(outcome, "success")
    return {"guardrail_name": KEY, "guardrail_mode": "post_call", "guardrail_status": status}


def _write_answer(payload: dict[str, Any], side: AnswerRecord) -> None:
    response: object = payload.get("response")
    if isinstance(response, dict):
        payload["response"] = as_delivered(cast(dict[str, Any], response), side.content(), side.finish_reason)


def _is_redacted(kwargs: dict[str, Any]) -> bool:
    return cast(Any, redact_messages).should_redact_message_logging({"litellm_params": {}, **kwargs})
