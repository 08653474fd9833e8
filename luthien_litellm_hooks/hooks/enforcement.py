"""Enforcement of policies over a request and its response: the same for the callback and for guardrails."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from litellm.exceptions import ModifyResponseException
from litellm.proxy._types import ProxyException, UserAPIKeyAuth
from litellm.types.utils import CallTypes, ImageObject, ImageResponse

from luthien_litellm_hooks.engine.composition import run_of
from luthien_litellm_hooks.engine.executor import PolicyExecutor, outcome_of
from luthien_litellm_hooks.errors import LuthienError, PolicyBlockedError
from luthien_litellm_hooks.hooks import governed, refused
from luthien_litellm_hooks.hooks.active_policy import ActivePolicy, select
from luthien_litellm_hooks.hooks.again import client_model, note_price
from luthien_litellm_hooks.hooks.loggers import hide_texts, log_request
from luthien_litellm_hooks.hooks.observers import Observers
from luthien_litellm_hooks.hooks.provider import (
    ProviderStream,
    SafeError,
    SafeProxyError,
    SafeStreamError,
    make_safe,
    text_of,
)
from luthien_litellm_hooks.hooks.request_data import (
    Alternative,
    alternatives_in,
    answer_instead,
    clean_fallbacks,
    is_too_large,
    nonce_of,
    read_body,
    read_request,
    remove_response_fields,
    replying_client,
    shorten,
    write_request,
)
from luthien_litellm_hooks.hooks.routes import (
    IMAGES,
    NO_MODEL_OUTPUT,
    REFUSED,
    SAMPLING,
    RefusedError,
    adapter_for,
    governed_format,
    path_of,
    refusal,
)
from luthien_litellm_hooks.hooks.spend_logs import MCP_CALL, SpendLogEntry, SpendLogs, strip_client_metadata
from luthien_litellm_hooks.hooks.transaction import (
    Transaction,
    UngovernedError,
    WithheldError,
    begin,
    caller_of,
    current_transaction,
    logged_transaction,
    set_current,
    transaction_of,
)
from luthien_litellm_hooks.policy.context import Asking, PolicyContext, new_view
from luthien_litellm_hooks.policy.notices import too_large_notice
from luthien_litellm_hooks.policy.request import Answer, Request
from luthien_litellm_hooks.recording.decision import Decision
from luthien_litellm_hooks.telemetry.log_lines import logger
from luthien_litellm_hooks.telemetry.publisher import EventPublisher
from luthien_litellm_hooks.telemetry.spans import Telemetry
from luthien_litellm_hooks.wire import FORMATS
from luthien_litellm_hooks.wire.events import Chunk, Finish, TextDelta
from luthien_litellm_hooks.wire.provider_errors import ErrorRedactor
from luthien_litellm_hooks.wire.unstreamed import TextsAdapter

CALL_TAG = "luthien:judge"
"""Tag of policies' own calls in the spend logs."""


@dataclass(frozen=True, slots=True)
class JudgedRequest:
    """Reply to the client's request, and the judged alternatives.

    Each alternative comes with LiteLLM's data of its request, as they came, and with that request as the policies leave
    it.
    """

    reply: Request | Answer | PolicyBlockedError
    alternatives: Sequence[tuple[Alternative, dict[str, Any], Request]] = ()

    def write(self, data: dict[str, Any], final: Request) -> None:
        """Puts `final` into LiteLLM's data, and into each alternative its difference from that."""
        write_request(data, final)
        for alternative, its_data, its_final in self.alternatives:
            write_request(its_data, its_final)
            alternative.put(data, its_data)


async def judge_request(executor: PolicyExecutor, context: PolicyContext, data: dict[str, Any]) -> JudgedRequest:
    """Runs the request hooks over the request, and over each alternative as a request of its own.

    A policy that refuses or answers one of them refuses or answers all.
    """
    alternatives = [(alternative, alternative.applied_to(data)) for alternative in alternatives_in(data)]
    finals: list[tuple[Alternative, dict[str, Any], Request]] = []
    try:
        reply = await executor.on_request(context)
        for alternative, its_data in alternatives:
            if not isinstance(reply, Request):
                break
            its_reply = await _judge_alternative(executor, context, its_data)
            if isinstance(its_reply, Request):
                finals.append((alternative, its_data, its_reply))
            else:
                reply = its_reply
    except PolicyBlockedError as blocked:
        return JudgedRequest(blocked)
    return JudgedRequest(reply, finals)


async def _judge_alternative(
    executor: PolicyExecutor, context: PolicyContext, its_data: dict[str, Any]
) -> Request | Answer:
    original = context.request
    request = replace(original, body=read_body(its_data), alternatives=(original, *original.alternatives))
    view = new_view(context, request)
    run_of(view).hold_clock = run_of(context).hold_clock
    try:
        return await executor.on_request(view)
    finally:
        known = [_without_time(decision) for decision in context.decisions]
        context.decisions += [decision for decision in view.decisions if _without_time(decision) not in known]


def _without_time(decision: Decision) -> Decision:
    """Returns the decision without its time, for comparison."""
    return replace(decision, milliseconds=None)


class Enforcement:
    """Enforcement in one process: runs policies over requests and responses, and writes their records."""

    def __init__(
        self,
        telemetry: Telemetry | None = None,
        records: EventPublisher | None = None,
        approvals: Asking | None = None,
    ) -> None:
        self._spend_logs = SpendLogs(records)
        self._observers = Observers()
        self.telemetry = telemetry or Telemetry()
        self.approvals = approvals

    async def on_request(
        self, name: str, in_force: ActivePolicy, user: UserAPIKeyAuth, data: dict[str, Any], call_type: str
    ) -> None:
        """Judges a request before the provider is called, when LiteLLM asks `name`. Changes `data` in place.

        Raises a refusal, or LiteLLM's own exception for a policy's answer.
        """
        path = path_of(data)
        if FORMATS.of_call_type(call_type) is None or path == SAMPLING:
            if path == SAMPLING:
                in_force.ungoverned.check(SAMPLING, path, "LiteLLM gives them to the MCP server")
            elif call_type not in NO_MODEL_OUTPUT:
                in_force.ungoverned.check(call_type, path, REFUSED.get(call_type))
            if call_type in IMAGES:
                await self._begin_images(_transaction(name, in_force, data, call_type), user, data)
                return
            transaction = current_transaction() or Transaction(call_type, in_force)  # or part of a governed request
            transaction.seen_by.add(name)
            set_current(transaction)
            return
        transaction = _transaction(name, in_force, data, call_type)
        try:
            if transaction.context is None:
                if is_too_large(data, in_force.executor.limits.max_request_values):
                    await self._refuse_too_large(transaction, user, data)
                clean_fallbacks(data)
                entry = begin(transaction, self.telemetry, user, read_request(data, transaction.route), data)
                entry.context.approvals = self.approvals
                await self._govern(transaction, in_force, entry, user, data)
            elif transaction.immediate_answer is None:
                await self._add_policies(transaction, in_force, user, data)
        except (ModifyResponseException, ProxyException):
            raise
        except Exception:
            logger.exception("a request could not be checked")
            if transaction.context is not None:
                await transaction.context.recorder.finalize_non_streaming("policy_error")
            raise refusal(500, "The request was refused: it could not be checked.") from None

    async def _begin_images(self, transaction: Transaction, user: UserAPIKeyAuth, data: dict[str, Any]) -> None:
        if transaction.context is None:
            entry = begin(transaction, self.telemetry, user, read_request(data), data)
            body = entry.context.request.body
            await entry.recorder.record_request(body, body)

    async def _refuse_too_large(self, transaction: Transaction, user: UserAPIKeyAuth, data: dict[str, Any]) -> None:
        """Refuses a request before the plugin, or LiteLLM after it, reads all of it."""
        shorten(data)
        context = begin(transaction, self.telemetry, user, read_request(data, transaction.route), data).context
        context.policy_name = "luthien"
        limit = transaction.in_force.executor.limits.max_request_values
        message = too_large_notice(context.transaction_id)
        context.decide("block", reason=f"too large to judge (limits.max_request_values: {limit})", message=message)
        await context.recorder.record_request(context.request.body, context.request.body)
        await context.recorder.finalize_non_streaming(outcome_of(context, None))
        raise refusal(413, message)

    async def _add_policies(
        self, transaction: Transaction, in_force: ActivePolicy, user: UserAPIKeyAuth, data: dict[str, Any]
    ) -> None:
        """Appends new policies of `in_force` to the transaction, and asks them about the request."""
        joined = transaction.in_force.merged_with(in_force)
        if joined is None or transaction.log_entry is None:
            return
        both, added = joined
        transaction.in_force = both
        transaction.log_entry.joined(both)
        await self._govern(transaction, added, transaction.log_entry, user, data)

    async def _govern(
        self,
        transaction: Transaction,
        in_force: ActivePolicy,
        entry: SpendLogEntry,
        user: UserAPIKeyAuth,
        data: dict[str, Any],
    ) -> None:
        context, recorder = entry.context, entry.recorder
        nonce = nonce_of(data)
        judged = await self._judge(in_force, context, user, data)
        result = judged.reply
        original = read_body(data)  # the policy may have changed its own copy in place
        final = result.body if isinstance(result, Request) else original
        if not recorder.original_request or recorder.final_request != final:
            await recorder.record_request(recorder.original_request or original, final)
        if isinstance(result, Request):
            context.answer = None if nonce is None else Answer(governed(nonce))
            judged.write(data, result)
            if in_force.executor.judges(context):
                remove_response_fields(data)
            if final != original or governed_format(transaction.route).logged_fields:
                log_request(data, transaction.route, result)
            return
        answer = result if isinstance(result, Answer) else Answer(result.message)
        if nonce is not None:
            answer = Answer(refused(nonce))
        if isinstance(result, PolicyBlockedError) and in_force.executor.on_block == "error":
            await recorder.finalize_non_streaming(outcome_of(context, None))
            raise refusal(in_force.block_status, answer.text)
        await self._answer_instead(transaction, context, answer, data)

    async def _judge(
        self, in_force: ActivePolicy, context: PolicyContext, user: UserAPIKeyAuth, data: dict[str, Any]
    ) -> JudgedRequest:
        try:
            await select(context, in_force, data, user)
        except PolicyBlockedError as refused_unasked:
            return JudgedRequest(refused_unasked)
        return await judge_request(in_force.executor, context, data)

    async def _answer_instead(
        self, transaction: Transaction, context: PolicyContext, answer: Answer, data: dict[str, Any]
    ) -> None:
        context.answer = transaction.immediate_answer = answer
        try:
            answer_instead(data, answer, transaction.route)
        except ModifyResponseException:  # LiteLLM writes its row before it answers
            reason = governed_format(transaction.route).rules.stop_reason
            context.recorder.add_egress_chunk(Chunk((TextDelta(text=answer.text), Finish(reason=reason))))
            await context.recorder.finalize_non_streaming(outcome_of(context, None))
            raise

    async def on_stream(
        self, name: str, response: AsyncIterable[object], request_data: dict[str, Any], user: UserAPIKeyAuth
    ) -> AsyncGenerator[Any, None]:
        """Yields the client's stream. A provider's error is not quoted where a policy judges the response."""
        transaction = _owned_by(name)
        if transaction is None or transaction.context is None:
            async for chunk in response:
                yield chunk
            return
        transaction.is_provider_asked = transaction.is_streaming = True
        self._observers.begin(transaction)
        safe_context, redactor = transaction.error_context, ErrorRedactor(transaction.context.transaction_id)
        adapter = adapter_for(transaction.route, transaction.context.final_request)
        is_redacted = safe_context is not None and governed_format(transaction.route).streams_events
        entry, provider = transaction.log_entry, None
        if entry is not None:
            log = partial(self._spend_logs.ensure_row, entry, request_data, user)
            response = provider = ProviderStream(response, entry, request_data, user, log)
        model = client_model(transaction, request_data)
        stream = transaction.in_force.executor.run(response, adapter, transaction.context, model)
        try:
            async for chunk in stream:
                yield redactor.redact(chunk) if is_redacted else chunk
        except LuthienError:
            raise UngovernedError from None
        except Exception as error:
            transaction.note_failure(type(error).__name__, text_of(error))
            if safe_context is None:
                raise
            raise SafeStreamError(SafeError.of(error, safe_context.transaction_id)) from error
        finally:
            if redactor.failure is not None:
                transaction.note_failure(redactor.failure.kind, redactor.failure.message)
            try:
                await stream.aclose()
            finally:
                if provider is not None:
                    provider.ensure_row()

    async def on_response(self, name: str, response: object, data: dict[str, Any]) -> object:
        """Returns the client's full response. Raises a refusal, or `UngovernedError`."""
        transaction = _owned_by(name)
        if transaction is not None and transaction.route in IMAGES and transaction.context is not None:
            return await govern_images(transaction.in_force.executor, response, transaction.context)
        if transaction is None or transaction.context is None:
            return response
        transaction.is_provider_asked = True
        self._observers.begin(transaction)
        safe_context, redactor = transaction.error_context, ErrorRedactor(transaction.context.transaction_id)
        adapter = adapter_for(transaction.route, transaction.context.final_request)
        try:
            model = client_model(transaction, data)
            answer = await transaction.in_force.executor.run_full(response, adapter, transaction.context, model)
            return answer if safe_context is None else redactor.redact(answer)
        except PolicyBlockedError as blocked:
            raise refusal(transaction.in_force.block_status, blocked.message) from None
        except Exception:
            logger.exception("a response could not be checked; it is withheld")
            raise UngovernedError from None
        finally:
            if transaction.log_entry is not None:
                transaction.log_entry.withheld = response

    async def on_failure(self, request_data: dict[str, Any], error: Exception) -> SafeProxyError | None:
        """Notes a failure before LiteLLM logs it. Returns the error for the client if the real one may quote a
        response.

        Returns None for an error of the plugin's own, and where no policy judges the response or no provider was
        called.
        """
        strip_client_metadata(request_data)
        transaction = transaction_of(request_data)
        if transaction is None or transaction.log_entry is None:
            return None
        safe_context = transaction.error_context
        is_ours = isinstance(error, RefusedError | WithheldError | SafeStreamError)
        if not is_ours and (transaction.is_provider_asked or transaction.route == MCP_CALL):
            transaction.note_failure(type(error).__name__, text_of(error))
        safe = None if safe_context is None or is_ours else SafeError.of(error, safe_context.transaction_id)
        if safe is not None:
            make_safe(error, safe)
        try:
            await self._spend_logs.fail(transaction.log_entry, request_data, error)
        except Exception:
            logger.exception(
                "transaction %s: the record of a failure could not be written",
                transaction.log_entry.context.transaction_id,
            )
        is_replaced = safe is not None and not transaction.is_streaming  # LiteLLM would break a stream off
        return SafeProxyError(safe) if safe is not None and is_replaced else None

    def end_with_task(self, entry: SpendLogEntry, data: dict[str, Any], user: UserAPIKeyAuth) -> None:
        """Ends an MCP call with the running task at the latest: LiteLLM logs nothing of a call whose client has left,
        nor of one that ends with a question of the server."""

        def end(task: asyncio.Task[Any]) -> None:
            if entry.recorder.outcome is None:
                self._spend_logs.end_call(entry, data, user, has_left=task.cancelled())

        task = asyncio.current_task()
        if task is not None:
            task.add_done_callback(end)

    async def on_log(self, kwargs: dict[str, Any]) -> None:
        """Writes the record before any logger gets the response."""
        note_price(kwargs)
        transaction = logged_transaction(kwargs)
        if transaction is not None and transaction.log_entry is not None:
            if transaction.route == MCP_CALL:  # LiteLLM logs it after its result
                outcome = outcome_of(transaction.log_entry.context, None)
                await transaction.log_entry.recorder.finalize_non_streaming(outcome)
            await self._spend_logs.complete(transaction.log_entry, kwargs)


def govern_deployment(kwargs: dict[str, Any]) -> None:
    """Gives LiteLLM's loggers of this call the delivered response, just before a provider is called.

    Where LiteLLM translates between wires, the call is another than the client's own. A policy's own call is charged to
    the client's key, and its texts are kept from loggers.
    """
    caller = caller_of(kwargs)
    if caller is not None:
        _charge(kwargs, *caller)
        return
    transaction = current_transaction()
    if transaction is not None and transaction.log_entry is not None and transaction.log_entry.is_of(kwargs):
        transaction.log_entry.govern(kwargs.get("litellm_logging_obj"))


def _charge(kwargs: dict[str, Any], transaction: Transaction, mark: Mapping[str, Any]) -> None:
    """Charges a policy's own call. Before this moment the key's team would choose the model's deployment."""
    hide_texts(kwargs.get("litellm_logging_obj"))
    if mark.get("charge") == "key":
        kwargs["metadata"] = {**kwargs["metadata"], **transaction.account, "tags": [CALL_TAG]}


def replaced_provider(kwargs: dict[str, Any], call_type: object) -> dict[str, Any] | None:
    """Returns LiteLLM's arguments with a client that replies with a policy's answer; None if the wire needs none."""
    transaction = current_transaction()
    if transaction is not None and path_of(kwargs) is not None:  # not for a call that a policy makes
        transaction.is_provider_asked = True
    answer = transaction.immediate_answer if transaction is not None else None
    called = str(call_type.value) if isinstance(call_type, CallTypes) else ""
    wire = FORMATS.of_call_type(called)
    if answer is None or wire is None or wire.provider_reply is None:
        return None
    return {**kwargs, "client": replying_client(wire.provider_reply, answer, called)}


def _transaction(name: str, in_force: ActivePolicy, data: dict[str, Any], call_type: str) -> Transaction:
    """Returns the running transaction, or a new one: a connection may bring one request after another."""
    transaction = current_transaction()
    is_another = transaction is not None and name in transaction.seen_by and not transaction.is_of(data)
    if transaction is None or transaction.is_over or transaction.route != call_type or is_another:
        transaction = Transaction(call_type, in_force)
        set_current(transaction)
    transaction.seen_by.add(name)
    return transaction


def _owned_by(name: str) -> Transaction | None:
    """Returns the transaction if `name` judges its response; None if another callback or guardrail does."""
    transaction = current_transaction()
    if transaction is None:
        return None
    transaction.owner = transaction.owner or name
    return transaction if transaction.owner == name else None


_UNJUDGED = "provider_specific_fields"


async def govern_images(executor: PolicyExecutor, response: object, context: PolicyContext) -> object:
    """Returns the response for the client: the same object if the policy changes nothing.

    The prompts beside pictures are judged: a model that revised them wrote them. A prompt that cannot be judged is left
    out; its picture stays.
    """
    pictures = cast(Sequence[ImageObject], (response.data if isinstance(response, ImageResponse) else None) or ())
    original = [picture.revised_prompt for picture in pictures]
    if not any(original):
        await context.recorder.finalize_non_streaming("complete")
        return response
    try:
        texts = cast(Sequence[str | None], await executor.run_full(original, TextsAdapter(), context))
    except Exception:
        logger.exception("the prompt of a picture could not be checked; it is withheld")
        texts = [None] * len(original)
    if texts == original or not isinstance(response, ImageResponse):
        return response
    judged = [
        picture if text == before else picture.model_copy(update={"revised_prompt": text, _UNJUDGED: None})
        for picture, before, text in zip(pictures, original, texts, strict=False)
    ]
    return response.model_copy(update={"data": judged})
