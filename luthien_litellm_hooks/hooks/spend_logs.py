"""Record of a transaction: in LiteLLM's row of the spend logs, in the payload for its loggers, in the file of a proxy
without a database, and as an event."""

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any, cast

import litellm
from fastapi import HTTPException
from litellm.litellm_core_utils import redact_messages
from litellm.litellm_core_utils.litellm_logging import Logging, StandardLoggingPayloadSetup
from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER
from litellm.proxy import proxy_server
from litellm.proxy._types import UserAPIKeyAuth
from litellm.proxy.hooks.proxy_track_cost_callback import ProxyDBLogger
from litellm.proxy.spend_tracking.spend_tracking_utils import should_store_prompts_and_responses_in_spend_logs
from litellm.types.utils import Choices, Message, ModelResponse, Usage

from luthien_litellm_hooks.config.settings import Bodies, Store
from luthien_litellm_hooks.engine.composition import header_names_of, run_of, watchers_for
from luthien_litellm_hooks.engine.executor import outcome_of
from luthien_litellm_hooks.hooks.active_policy import ActivePolicy
from luthien_litellm_hooks.hooks.loggers import WITHHELD_ERROR, Delivery, govern_logging, is_from_provider
from luthien_litellm_hooks.hooks.routes import path_of
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.llm_client import CALL_MARK
from luthien_litellm_hooks.recording.record import KEY, SLOT, ObservedPolicy, known_identity, transaction_record
from luthien_litellm_hooks.recording.recorder import DefaultTransactionRecorder, Outcome, ResponseRecord
from luthien_litellm_hooks.recording.sealing import seal
from luthien_litellm_hooks.recording.sqlite import timestamp
from luthien_litellm_hooks.telemetry.log_lines import logger
from luthien_litellm_hooks.telemetry.publisher import EventPublisher
from luthien_litellm_hooks.wire import FORMATS

MCP_CALL = "call_mcp_tool"
"""LiteLLM's `call_type` of an MCP call."""
_OURS = frozenset({KEY, CALL_MARK})
RECORDED = "transaction.recorded"
"""Type of the event with a record."""
_BUCKETS = ("metadata", "litellm_metadata")
_GRACE_S = 10.0
"""Seconds after the end of a stream in which LiteLLM may still log it; `_GRACE_OF_DEPARTED_S` if the client left."""
_GRACE_OF_DEPARTED_S = 2.0
_SHARE_OF_LITELLMS_TIME = 0.5
"""Share of LiteLLM's time for logging a response, left to a transaction without an end."""
_CLIENT_CLOSED_REQUEST = 499
_ERROR_FIELDS = ("error_code", "error_class", "llm_provider")
"""Fields of a provider's error for the row."""
_GUARDRAIL_STATUS: dict[Outcome | None, str] = {
    "blocked": "guardrail_intervened",
    "policy_error": "guardrail_failed_to_respond",
    "timeout": "guardrail_failed_to_respond",
}


_NOT_WHOLE = ("client_disconnected", "provider_error")


@dataclass(slots=True)
class Observation:
    """Judgements of the observing policies, once it is `done`, or the reason for none."""

    done: asyncio.Event = field(default_factory=asyncio.Event)
    judged: Sequence[ObservedPolicy] | str = "late"


@dataclass(slots=True)
class SpendLogEntry:
    """Transaction on its way into the spend logs.

    `call` is LiteLLM's logging of it, `route` LiteLLM's name for the kind of call. `is_told` is set when its record is
    an event. `withheld` is a response, undelivered but to be paid for. `opted_out`: the client's key or team
    stores no texts. `rewrites_log`: the delivered response must replace the provider's in LiteLLM's log; of an MCP call
    LiteLLM logs the delivered result by itself.
    """

    context: PolicyContext
    recorder: DefaultTransactionRecorder
    in_force: ActivePolicy
    call: Logging | None
    route: str = ""
    is_told: bool = False
    withheld: object = None
    observation: Observation | None = None
    """Begun with the response."""
    opted_out: bool = False
    rewrites_log: bool = True
    has_writer: bool = False
    """Set when a task ensures its row."""
    delivery: Delivery = field(init=False)

    def __post_init__(self) -> None:
        self.delivery = Delivery(self.recorder, run_of(self.context).pending_votes)
        self.govern(self.call)

    @classmethod
    def begin(
        cls,
        context: PolicyContext,
        recorder: DefaultTransactionRecorder,
        in_force: ActivePolicy,
        data: dict[str, Any],
        user: UserAPIKeyAuth | None,
        *,
        route: str = "",
        rewrites_log: bool = True,
    ) -> "SpendLogEntry":
        """Begins the entry of the request in LiteLLM's `data`.

        LiteLLM logs a full response only after the policy has judged it, and a withheld one as a failure.
        """
        found: object = data.get("litellm_logging_obj")
        call = found if isinstance(found, Logging) else None
        opted_out = in_force.record.bodies == "follow_litellm" and not stores_bodies("follow_litellm", user)
        if call is not None and rewrites_log:
            call.defer_async_logging = not data.get("stream")
        return cls(
            context,
            recorder,
            in_force,
            call,
            route,
            opted_out=opted_out,
            rewrites_log=rewrites_log,
        )

    def govern(self, call: object) -> None:
        """Gives LiteLLM's loggers of this call the record, and the delivered response if a policy may withhold
        anything."""
        is_judged = self.delivery.is_judged = self.in_force.judges
        self.delivery.hides_errors = is_judged and self.in_force.record.readable_by == "admins"
        if self.rewrites_log and isinstance(call, Logging):
            govern_logging(call, self.delivery)

    def joined(self, in_force: ActivePolicy) -> None:
        """Adds policies to this transaction."""
        self.in_force = in_force
        self.govern(self.call)

    def is_of(self, kwargs: dict[str, Any]) -> bool:
        """Returns whether LiteLLM logs this transaction with `kwargs`.

        A call that a policy makes in the midst of it belongs to no client, and an MCP call has an entry of its own.
        Where LiteLLM translates between wires, it logs another call than the client's.
        """
        if self.is_same_call(kwargs):
            return True
        return kwargs.get("call_type") != MCP_CALL and (self.has_id_of(kwargs) or path_of(kwargs) is not None)

    def has_id_of(self, data: dict[str, Any]) -> bool:
        """Returns whether `data` have LiteLLM's id of this call; calls that LiteLLM makes for it may share the id."""
        return self.call is not None and data.get("litellm_call_id") == self.call.litellm_call_id

    def is_same_call(self, kwargs: dict[str, Any]) -> bool:
        """Returns whether `kwargs` are LiteLLM's details of the very call that this entry began with."""
        return self.call is not None and kwargs is self.call.model_call_details


class SpendLogs:
    """Writer of records to `spend_logs_metadata.luthien`, where LiteLLM's loggers look, and to the file behind
    `records`."""

    def __init__(self, records: EventPublisher | None = None) -> None:
        self._records = records
        self._tasks: set[asyncio.Task[None]] = set()

    async def complete(self, entry: SpendLogEntry, kwargs: dict[str, Any]) -> None:
        """Writes the record before LiteLLM logs a response, after the transaction and all votes have ended.

        Near the end of LiteLLM's own time it writes an unfinished record, without an outcome, all votes, or observers.
        The file gets the whole record later.
        """
        entry.delivery.set_written()
        try:
            async with asyncio.timeout(GLOBAL_LOGGING_WORKER.timeout * _SHARE_OF_LITELLMS_TIME):
                await _wait_for_end(entry)
        except TimeoutError:
            if entry.recorder.outcome is None:
                logger.warning("transaction %s is logged unfinished", entry.context.transaction_id)
            self._start(self._keep_later(entry, kwargs), f"luthien-record-{entry.context.transaction_id}")
            self._write(entry, kwargs)
        else:
            await self._keep(entry, kwargs, self._write(entry, kwargs))

    async def fail(self, entry: SpendLogEntry, request_data: dict[str, Any], error: Exception) -> None:
        """Writes the record before LiteLLM logs a failure."""
        entry.delivery.set_written()
        has_left = isinstance(error, HTTPException) and error.status_code == _CLIENT_CLOSED_REQUEST
        outcome = "client_disconnected" if has_left else outcome_of(entry.context, error)
        await entry.recorder.finalize_non_streaming(outcome)
        if not isinstance(request_data.get("metadata"), dict):
            request_data["metadata"] = {}
        if not has_left and is_from_provider(error) and entry.delivery.hides_errors:
            request_data["metadata"] = _MetadataOfFailure(cast(dict[str, Any], request_data["metadata"]))
        await self._keep(entry, request_data, self._write(entry, request_data))
        if not isinstance(request_data.get("standard_logging_object"), dict):
            information = [_guardrail_information(entry.recorder.outcome)]
            request_data["metadata"]["standard_logging_guardrail_information"] = information
        if entry.withheld is not None and not isinstance(entry.withheld, list) and entry.call is not None:
            usage, cost = spent_on(entry.withheld, entry.call)
            request_data |= {"combined_usage_object": usage, "response_cost": cost}

    def ensure_row(self, entry: SpendLogEntry, request_data: dict[str, Any], user: UserAPIKeyAuth) -> None:
        """Ensures a row after the end of a stream.

        LiteLLM itself logs nothing of departed clients, nor of Gemini's responses without a known price.
        """
        if entry.has_writer or entry.delivery.written.is_set():
            return
        entry.has_writer = True
        writing = self._write_if_missing(entry, request_data, user)
        self._start(writing, f"luthien-row-{entry.context.transaction_id}")

    def end_call(
        self, entry: SpendLogEntry, request_data: dict[str, Any], user: UserAPIKeyAuth, *, has_left: bool
    ) -> None:
        """Ends an MCP call that LiteLLM ended without a word, and ensures the row of a departed client's."""
        self._start(self._end_call(entry, request_data, user, has_left), f"luthien-call-{entry.context.transaction_id}")

    async def _end_call(
        self, entry: SpendLogEntry, request_data: dict[str, Any], user: UserAPIKeyAuth, has_left: bool
    ) -> None:
        outcome = "client_disconnected" if has_left else outcome_of(entry.context, None)
        await entry.recorder.finalize_non_streaming(outcome)
        if has_left and entry.call is not None:
            named = {**request_data, "model": entry.call.model}  # as in LiteLLM's own rows of MCP calls
            await self._write_departed(entry, entry.call, named, user)

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)  # the event loop itself keeps only weak references
        task.add_done_callback(self._tasks.discard)

    async def _write_if_missing(self, entry: SpendLogEntry, request_data: dict[str, Any], user: UserAPIKeyAuth) -> None:
        has_left = entry.recorder.outcome == "client_disconnected"
        call, is_written = entry.call, await entry.delivery.is_written(_GRACE_OF_DEPARTED_S if has_left else _GRACE_S)
        if call is None or is_written or call.async_success_log_enqueued:
            return
        if has_left:
            await self._write_departed(entry, call, request_data, user)
        else:
            await _log_response(call, entry.recorder)

    async def _write_departed(
        self, entry: SpendLogEntry, call: Logging, request_data: dict[str, Any], user: UserAPIKeyAuth
    ) -> None:
        departed = HTTPException(_CLIENT_CLOSED_REQUEST, "Client disconnected the request")
        failed = {key: value for key, value in request_data.items() if key != "litellm_logging_obj"}
        failed |= {"call_type": cast(Any, call).call_type, "start_time": call.start_time}
        await self.fail(entry, failed, departed)
        for writer in litellm.callbacks:
            if isinstance(writer, ProxyDBLogger):
                await cast(Any, writer).async_post_call_failure_hook(failed, departed, user)

    def _write(self, entry: SpendLogEntry, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Writes the record into LiteLLM's row and payload, and returns it."""
        settings, record = entry.in_force.record, _record_of(entry)
        payload = _payload_of(kwargs)
        if settings.store in ("auto", "spend_logs"):
            stored = seal(record) if settings.readable_by == "admins" else record
            for bucket in [*buckets_of(kwargs), *([] if payload is None else [_metadata_of(payload)])]:
                _set_record(bucket, stored)
        if payload is not None:
            _note_status(payload, record["outcome"])
            is_changed = entry.rewrites_log and not entry.recorder.is_delivered_as_it_came
            if is_changed and not _is_redacted(kwargs):
                _write_response(payload, entry.recorder.egress)
        return record

    async def _keep_later(self, entry: SpendLogEntry, kwargs: dict[str, Any]) -> None:
        await _wait_for_end(entry)
        await self._keep(entry, kwargs, _record_of(entry))

    async def _keep(self, entry: SpendLogEntry, kwargs: dict[str, Any], record: dict[str, Any]) -> None:
        """Publishes the whole record as an event, and to the file of records, if this proxy keeps one."""
        settings, row = entry.in_force.record, _row_of(entry, _payload_of(kwargs) or {}, kwargs, record)
        if self._records is not None and keeps_file(settings.store):
            self._records.publish({"max_days": settings.max_days, "max_bytes": settings.max_bytes, "row": row})
        if settings.store != "off" and not entry.is_told:
            entry.is_told = True
            ids = {"response_id": row["request_id"], "call_id": row["litellm_call_id"]}
            models = {"model": row["model"], "model_group": row["model_group"]}
            data = {**entry.recorder.describe(), "outcome": record["outcome"], **ids, **models, "record": record}
            await entry.context.observability.emit_event(RECORDED, data)


def _record_of(entry: SpendLogEntry) -> dict[str, Any]:
    in_force = entry.in_force
    bodies = in_force.record.bodies
    return transaction_record(
        entry.context,
        entry.recorder,
        in_force.version,
        in_force.policies,
        with_bodies=not entry.opted_out and stores_bodies(bodies),
        of_last_turn=stores_last_turn(bodies),
        path=entry.context.request.route or None,
        session=entry.context.request.session,
        headers=_selecting_headers(entry),
        observed=_observed(entry),
    )


def _selecting_headers(entry: SpendLogEntry) -> Mapping[str, str]:
    """Returns the client's headers that a `when` names. Headers with credentials are not among a request's."""
    sent = entry.context.request.headers
    return {name: sent[name] for name in header_names_of(entry.in_force.executor.composition) if name in sent}


def _observed(entry: SpendLogEntry) -> Sequence[ObservedPolicy] | str | None:
    """Returns the judgements of observing policies, or the reason for none; None without such policies."""
    if entry.observation is None:
        is_observed = watchers_for(entry.in_force.executor.composition, entry.context)
        known = FORMATS.of_call_type(entry.route) is not None
        return None if not is_observed else "unanswered" if known else "route"
    return entry.observation.judged if entry.recorder.outcome not in _NOT_WHOLE else "unfinished"


def keeps_file(store: Store) -> bool:
    """Tells if the records go to the file: with `auto` that is known once LiteLLM has connected to a database."""
    return store == "sqlite" or (store == "auto" and cast(Any, proxy_server).prisma_client is None)


def _row_of(
    entry: SpendLogEntry, payload: Mapping[str, Any], kwargs: Mapping[str, Any], record: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns a row as LiteLLM would write it, as far as the commands read it."""
    who = known_identity(entry.context.identity)
    call_id = None if entry.call is None else entry.call.litellm_call_id
    aliases = {f"user_api_key_{name}": who.get(name) for name in ("team_id", "team_alias")}
    return {
        "request_id": str(payload.get("id") or call_id or record["transaction_id"]),
        "litellm_call_id": call_id,
        "call_type": entry.route,
        "api_key": who.get("key_hash") or _hash_in(payload) or "",
        "model": str(payload.get("model") or kwargs.get("model") or ""),
        "model_group": entry.context.request.model,
        "startTime": timestamp(entry.recorder.began_at),
        "metadata": {"user_api_key_alias": who.get("key_alias"), **aliases, SLOT: {KEY: dict(record)}},
    }


async def _wait_for_end(entry: SpendLogEntry) -> None:
    await entry.delivery.wait()
    if entry.observation is not None:
        await entry.observation.done.wait()


def stores_bodies(bodies: Bodies, user: UserAPIKeyAuth | None = None) -> bool:
    """Returns whether texts of requests and responses may be kept, of this user if one is given.

    Only the operator's own switch counts against it: neither a client's header nor a key's `turn_off_message_logging`
    empties a record.
    """
    if bodies == "follow_litellm":
        return litellm.turn_off_message_logging is not True and _litellm_stores(user)
    return bodies == "always"


def _litellm_stores(user: UserAPIKeyAuth | None) -> bool:
    """Asks LiteLLM; from 1.110 on it asks keys and teams, too."""
    stores = cast(Any, should_store_prompts_and_responses_in_spend_logs)
    if user is None or not _takes_metadata(stores):
        return stores()
    who = cast(Any, user)
    return stores({"user_api_key_metadata": who.metadata, "user_api_key_team_metadata": who.team_metadata})


@cache
def _takes_metadata(stores: Callable[..., bool]) -> bool:
    return "metadata" in inspect.signature(stores).parameters


def stores_last_turn(bodies: Bodies) -> bool:
    """Returns whether only the last turn of a request may be kept.

    Reads `spend_logs_prompt_storage: latest_turn`, new in LiteLLM 1.110; before that it may still be set.
    """
    settings = cast(Mapping[str, object], cast(Any, proxy_server).general_settings or {})
    return bodies == "follow_litellm" and settings.get("spend_logs_prompt_storage") == "latest_turn"


class _MetadataOfFailure(dict[str, Any]):
    """Metadata of a failure's row. LiteLLM adds the error's text; the row must not hold it."""

    def update(self, *given: Any, **named: Any) -> None:
        super().update(*given, **named)
        body: object = self.get("error_information")
        if isinstance(body, dict):
            shown = {name: value for name, value in cast(dict[str, Any], body).items() if name in _ERROR_FIELDS}
            self["error_information"] = shown | {"error_message": WITHHELD_ERROR}


async def _log_response(call: Logging, recorder: DefaultTransactionRecorder) -> None:
    """Has LiteLLM log a response without the provider's count of tokens."""
    body = "".join(block["text"] for block in recorder.ingress.content() if block["type"] == "text")
    choice = Choices(index=0, finish_reason="stop", message=Message(role="assistant", content=body))
    answer = ModelResponse(id=call.litellm_call_id, model=call.model, choices=[choice], usage=Usage())
    await cast(Any, call).async_success_handler(result=answer, start_time=call.start_time, end_time=datetime.now())


def spent_on(response: object, call: Logging) -> tuple[Usage, float]:
    """Returns the provider's count of a full response's tokens, and their price as LiteLLM knows it."""
    body = cast(dict[str, Any], response if isinstance(response, dict) else cast(Any, response).model_dump())
    counts = next((tokens for wire in FORMATS if (tokens := wire.tokens(body)) is not None), None)
    if counts is not None:
        prompt, completion = counts
        usage = Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)
    else:
        usage = cast(Usage, cast(Any, StandardLoggingPayloadSetup).get_usage_from_response_obj(body))
    priced = ModelResponse(model=call.model, usage=usage)
    return usage, call.response_cost_calculator(result=priced) or 0.0


def note_again(kwargs: dict[str, Any]) -> None:
    """Notes the outcome in the payload that LiteLLM builds once more for blocking loggers, with our record in it."""
    payload = _payload_of(kwargs)
    metadata = {} if payload is None else _metadata_of(payload)
    record = cast(Mapping[str, Any], metadata.get(SLOT) or {}).get(KEY)
    if payload is not None and record is not None and KEY not in (metadata.get("applied_guardrails") or ()):
        _note_status(payload, record["outcome"])


def strip_client_metadata(data: dict[str, Any]) -> None:
    """Removes a client's own entries under the plugin's keys, and its wish for no record."""
    call: object = data.get("litellm_logging_obj")
    data.pop("no-log", None)
    if isinstance(call, Logging):
        cast(Any, call).litellm_params.pop("no-log", None)
    for bucket in buckets_of(data):
        given: object = bucket.get(SLOT)
        if isinstance(given, dict) and not _OURS.isdisjoint(cast(dict[str, Any], given)):
            bucket[SLOT] = {name: value for name, value in cast(dict[str, Any], given).items() if name not in _OURS}
        elif given is not None and not isinstance(given, dict):
            del bucket[SLOT]


def buckets_of(data: dict[str, Any]) -> Generator[dict[str, Any]]:
    """Yields the places where LiteLLM looks for metadata."""
    for holder in (data, data.get("litellm_params")):
        if isinstance(holder, dict):
            for name in _BUCKETS:
                bucket: object = cast(dict[str, Any], holder).get(name)
                if isinstance(bucket, dict):
                    yield cast(dict[str, Any], bucket)


def _set_record(bucket: dict[str, Any], record: dict[str, Any]) -> None:
    """Sets the record in a new dict: the old one may belong to the key, and so to other requests."""
    bucket[SLOT] = {**(bucket.get(SLOT) or {}), KEY: record}


def _hash_in(payload: Mapping[str, Any]) -> str | None:
    return cast(Mapping[str, Any], payload.get("metadata") or {}).get("user_api_key_hash")


def _payload_of(kwargs: dict[str, Any]) -> dict[str, Any] | None:
    payload: object = kwargs.get("standard_logging_object")
    return cast(dict[str, Any], payload) if isinstance(payload, dict) else None


def _metadata_of(payload: dict[str, Any]) -> dict[str, Any]:
    payload["metadata"] = payload.get("metadata") or {}
    return cast(dict[str, Any], payload["metadata"])


def _note_status(payload: dict[str, Any], outcome: Outcome | None) -> None:
    metadata = _metadata_of(payload)
    metadata["applied_guardrails"] = [*(metadata.get("applied_guardrails") or ()), KEY]
    payload["guardrail_information"] = [*(payload.get("guardrail_information") or ()), _guardrail_information(outcome)]


def _guardrail_information(outcome: Outcome | None) -> dict[str, Any]:
    """Returns the status alone: clients may ask LiteLLM for it, and get it."""
    status = _GUARDRAIL_STATUS.get(outcome, "success")
    return {"guardrail_name": KEY, "guardrail_mode": "post_call", "guardrail_status": status}


def _write_response(payload: dict[str, Any], side: ResponseRecord) -> None:
    response: object = payload.get("response")
    if isinstance(response, dict):
        payload["response"] = FORMATS.rewrite_log(cast(dict[str, Any], response), side.content(), side.finish_reason)


def _is_redacted(kwargs: dict[str, Any]) -> bool:
    return cast(Any, redact_messages).should_redact_message_logging({"litellm_params": {}, **kwargs})
