"""How a request and its answer are governed: the same for the callback and for guardrails."""

import uuid
from collections.abc import AsyncGenerator, AsyncIterable
from typing import Any, cast

from litellm.exceptions import ModifyResponseException
from litellm.proxy._types import ProxyException, UserAPIKeyAuth
from litellm.types.utils import CallTypes

from luthien_litellm_hooks.adapters.told_errors import Unquoting
from luthien_litellm_hooks.doctor_proof import governed, refused
from luthien_litellm_hooks.errors import LuthienError, PolicyBlockedError
from luthien_litellm_hooks.events import Chunk, Finish, TextDelta
from luthien_litellm_hooks.executor import outcome_of
from luthien_litellm_hooks.hooks.answer_fields import remove_answer_fields
from luthien_litellm_hooks.hooks.fallbacks import clean_fallbacks
from luthien_litellm_hooks.hooks.identity import read_identity
from luthien_litellm_hooks.hooks.images import govern_images
from luthien_litellm_hooks.hooks.in_force import InForce
from luthien_litellm_hooks.hooks.logged_request import log_request
from luthien_litellm_hooks.hooks.probe import nonce_of
from luthien_litellm_hooks.hooks.provider_errors import Told, ToldError, ToldInStreamError, text_of, unsay
from luthien_litellm_hooks.hooks.request_data import (
    answer_instead,
    gemini_in_stead,
    is_too_large,
    read_body,
    read_request,
    shorten,
)
from luthien_litellm_hooks.hooks.request_rounds import Judged, judge_request
from luthien_litellm_hooks.hooks.routes import GOVERNED, IMAGES, NAMES, REFUSED, WITHOUT_MODEL_TEXT
from luthien_litellm_hooks.hooks.selecting import select
from luthien_litellm_hooks.hooks.spend_logs import Logged, SpendLogs, remove_forged, stores_bodies
from luthien_litellm_hooks.hooks.transaction import Transaction, UngovernedError, current, mark, transaction_of
from luthien_litellm_hooks.hooks.ungoverned import RefusedError, path_of, refusal
from luthien_litellm_hooks.hooks.unread import PaidFor
from luthien_litellm_hooks.log_lines import logger
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.notices import too_large_notice
from luthien_litellm_hooks.policy.request import Answer, Request
from luthien_litellm_hooks.recorder import DefaultTransactionRecorder
from luthien_litellm_hooks.telemetry.spans import Telemetry
from luthien_litellm_hooks.transaction_record import description, shown


class Governing:
    """Runs policies over the requests and answers of this process, and sees to their records."""

    def __init__(self, telemetry: Telemetry | None = None) -> None:
        self._spend_logs = SpendLogs()
        self._telemetry = telemetry or Telemetry()

    async def request(
        self, name: str, in_force: InForce, user: UserAPIKeyAuth, data: dict[str, Any], call_type: str
    ) -> None:
        """LiteLLM asks `name` about a request before the provider is called. `data` is changed in place
        if the policy wants it. Raises what LiteLLM is to make of a request that is refused."""
        if call_type not in GOVERNED:
            if call_type not in WITHOUT_MODEL_TEXT:
                in_force.ungoverned.check(call_type, path_of(data), REFUSED.get(call_type))
            transaction = current.get() or Transaction(call_type, in_force)  # or part of a request that is governed
            transaction.asked.add(name)
            if call_type in IMAGES:
                who = read_identity(user)
                transaction.beside = PolicyContext(str(uuid.uuid4()), read_request(data), identity=who)
            current.set(transaction)
            return
        transaction = _transaction(name, in_force, data, call_type)
        try:
            if transaction.context is None:
                if is_too_large(data, in_force.executor.limits.max_request_values):
                    await self._refuse_too_large(transaction, user, data)
                clean_fallbacks(data)
                logged = self._begin(transaction, user, read_request(data, transaction.route), data)
                await self._govern(transaction, in_force, logged, user, data)
            elif transaction.in_stead is None:
                await self._join(transaction, in_force, user, data)
        except (ModifyResponseException, ProxyException):
            raise
        except Exception:
            logger.exception("a request could not be checked")
            if transaction.context is not None:
                await transaction.context.recorder.finalize_non_streaming("policy_error")
            raise refusal(500, "The request was refused: it could not be checked.") from None

    async def _refuse_too_large(self, transaction: Transaction, user: UserAPIKeyAuth, data: dict[str, Any]) -> None:
        """Refuses a request before anything of ours, or of LiteLLM's that comes after, goes through all of it."""
        shorten(data)
        context = self._begin(transaction, user, read_request(data, transaction.route), data).context
        context.policy_name = "luthien"
        limit = transaction.in_force.executor.limits.max_request_values
        message = too_large_notice(context.transaction_id)
        context.decide("block", reason=f"too large to judge (limits.max_request_values: {limit})", message=message)
        await context.recorder.record_request(context.request.body, context.request.body)
        await context.recorder.finalize_non_streaming(outcome_of(context, None))
        raise refusal(413, message)

    def _begin(self, transaction: Transaction, user: UserAPIKeyAuth, request: Request, data: dict[str, Any]) -> Logged:
        transaction_id = str(uuid.uuid4())
        observability = self._telemetry.begin(
            transaction_id,
            route=NAMES[transaction.route],
            model=request.model,
            is_streaming=request.is_streaming,
            parent=cast(object, user.parent_otel_span),
        )
        with_bodies = stores_bodies(transaction.in_force.bodies, user)
        recorder = DefaultTransactionRecorder(
            observability,
            show=shown if with_bodies else None,
            describe=lambda: _description(transaction, with_bodies=with_bodies),
        )
        transaction.context = PolicyContext(
            transaction_id, request, identity=read_identity(user), observability=observability, recorder=recorder
        )
        mark(data, transaction, transaction_id)
        transaction.logged = Logged.begin(transaction.context, recorder, transaction.in_force, data, user)
        return transaction.logged

    async def _join(
        self, transaction: Transaction, in_force: InForce, user: UserAPIKeyAuth, data: dict[str, Any]
    ) -> None:
        """Puts those policies behind the others that have not been asked yet."""
        joined = transaction.in_force.followed_by(in_force)
        if joined is None or transaction.logged is None:
            return
        both, added = joined
        transaction.in_force = both
        transaction.logged.joined(both)
        await self._govern(transaction, added, transaction.logged, user, data)

    async def _govern(
        self,
        transaction: Transaction,
        in_force: InForce,
        logged: Logged,
        user: UserAPIKeyAuth,
        data: dict[str, Any],
    ) -> None:
        context, recorder = logged.context, logged.kept
        nonce = nonce_of(data)
        judged = await self._judge(in_force, context, user, data)
        result = judged.reply
        came = read_body(data)  # the policy may have changed its own copy in place
        final = result.body if isinstance(result, Request) else came
        if not recorder.original_request or recorder.final_request != final:
            await recorder.record_request(recorder.original_request or came, final)
        if isinstance(result, Request):
            context.answer = None if nonce is None else Answer(governed(nonce))
            judged.write(data, result)
            if in_force.executor.judges(context):
                remove_answer_fields(data)
            if final != came or NAMES[transaction.route] != "gemini":
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
        self, in_force: InForce, context: PolicyContext, user: UserAPIKeyAuth, data: dict[str, Any]
    ) -> Judged:
        try:
            await select(context, in_force, data, user)
        except PolicyBlockedError as refused_unasked:
            return Judged(refused_unasked)
        return await judge_request(in_force.executor, context, data)

    async def _answer_instead(
        self, transaction: Transaction, context: PolicyContext, answer: Answer, data: dict[str, Any]
    ) -> None:
        context.answer = transaction.in_stead = answer
        try:
            answer_instead(data, answer, transaction.route)
        except ModifyResponseException:  # of which LiteLLM writes its row before it answers
            reason = GOVERNED[transaction.route](context.request).stop_reason
            context.recorder.add_egress_chunk(Chunk((TextDelta(text=answer.text), Finish(reason=reason))))
            await context.recorder.finalize_non_streaming(outcome_of(context, None))
            raise

    async def stream(
        self, name: str, response: AsyncIterable[object], request_data: dict[str, Any], user: UserAPIKeyAuth
    ) -> AsyncGenerator[Any, None]:
        """The client's stream for the provider's. Where a policy judges it, its provider's errors are not quoted."""
        transaction = _judged_by(name)
        if transaction is None or transaction.context is None:
            async for chunk in response:
                yield chunk
            return
        transaction.is_provider_asked = transaction.is_streaming = True
        told, unquoting = transaction.told_of_errors, Unquoting(transaction.context.transaction_id)
        adapter = GOVERNED[transaction.route](transaction.context.final_request)
        if transaction.logged is not None:
            response = PaidFor(response, transaction.logged.kept, request_data, user)
        stream = transaction.in_force.executor.run(response, adapter, transaction.context)
        try:
            async for chunk in stream:
                yield chunk if told is None else unquoting.unit(chunk)
        except LuthienError:
            raise UngovernedError from None
        except Exception as error:
            transaction.note_failure(type(error).__name__, text_of(error))
            if told is None:
                raise
            raise ToldInStreamError(Told.of(error, told.transaction_id)) from error
        finally:
            if unquoting.failure is not None:
                transaction.note_failure(unquoting.failure.kind, unquoting.failure.words)
            try:
                await stream.aclose()
            finally:
                if transaction.logged is not None:
                    self._spend_logs.expect(transaction.logged, request_data, user)

    async def full(self, name: str, response: object) -> object:
        """The client's answer for the provider's full one."""
        transaction = _judged_by(name)
        if transaction is not None and transaction.beside is not None:
            return await govern_images(transaction.in_force.executor, response, transaction.beside)
        if transaction is None or transaction.context is None:
            return response
        transaction.is_provider_asked = True
        told, unquoting = transaction.told_of_errors, Unquoting(transaction.context.transaction_id)
        adapter = GOVERNED[transaction.route](transaction.context.final_request)
        try:
            answer = await transaction.in_force.executor.run_full(response, adapter, transaction.context)
            return answer if told is None else unquoting.unit(answer)
        except PolicyBlockedError as blocked:
            raise refusal(transaction.in_force.block_status, blocked.message) from None
        except Exception:
            logger.exception("an answer could not be checked; it is withheld")
            raise UngovernedError from None
        finally:
            if transaction.logged is not None:
                transaction.logged.withheld = response

    async def failed(self, request_data: dict[str, Any], error: Exception) -> ToldError | None:
        """Before a failure is logged, whoever failed. Returns what the client gets instead of an error that may
        quote an answer; None if it is ours, or nobody judges the answer, or was asked for one."""
        remove_forged(request_data)
        transaction = transaction_of(request_data)
        if transaction is None or transaction.logged is None:
            return None
        told = transaction.told_of_errors
        is_ours = isinstance(error, RefusedError | UngovernedError | ToldInStreamError)
        if not is_ours and transaction.is_provider_asked:
            transaction.note_failure(type(error).__name__, text_of(error))
        instead = None if told is None or is_ours else Told.of(error, told.transaction_id)
        if instead is not None:
            unsay(error, instead)
        try:
            await self._spend_logs.fail(transaction.logged, request_data, error)
        except Exception:
            logger.exception(
                "transaction %s: the record of a failure could not be written",
                transaction.logged.context.transaction_id,
            )
        is_replaced = instead is not None and not transaction.is_streaming  # where LiteLLM would break a stream off
        return ToldError(instead) if instead is not None and is_replaced else None

    async def logged(self, kwargs: dict[str, Any]) -> None:
        """Before an answer is logged, by anyone."""
        transaction = current.get()
        if transaction is not None and transaction.logged is not None and transaction.logged.is_of(kwargs):
            await self._spend_logs.complete(transaction.logged, kwargs)


def govern_deployment(kwargs: dict[str, Any]) -> None:
    """Before a provider is called: LiteLLM's loggers of this call, which may be another than the client's own where
    LiteLLM translates between wires, get what the client gets."""
    transaction = current.get()
    if transaction is not None and transaction.logged is not None and transaction.logged.is_of(kwargs):
        transaction.logged.govern(kwargs.get("litellm_logging_obj"))


def in_stead_of_provider(kwargs: dict[str, Any], call_type: object) -> dict[str, Any] | None:
    """Just before a provider is asked. Returns what LiteLLM is to call instead of Gemini when a policy has answered;
    None for all else."""
    transaction = current.get()
    if transaction is not None and path_of(kwargs) is not None:  # not of a call that a policy makes
        transaction.is_provider_asked = True
    answer = transaction.in_stead if transaction is not None else None
    if answer is None or call_type not in (CallTypes.agenerate_content, CallTypes.agenerate_content_stream):
        return None
    is_streaming = call_type is CallTypes.agenerate_content_stream
    return {**kwargs, "client": gemini_in_stead(answer, is_streaming=is_streaming)}


def _description(transaction: Transaction, *, with_bodies: bool) -> dict[str, Any]:
    if transaction.context is None:
        return {}
    in_force = transaction.in_force
    return description(
        transaction.context,
        NAMES[transaction.route],
        in_force.version,
        in_force.policies,
        with_bodies=with_bodies,
    )


def _transaction(name: str, in_force: InForce, data: dict[str, Any], call_type: str) -> Transaction:
    """The one that is running, or a new one: a connection may bring the next request where the one
    before it was."""
    transaction = current.get()
    is_another = transaction is not None and name in transaction.asked and not transaction.is_of(data)
    if transaction is None or transaction.is_over or transaction.route != call_type or is_another:
        transaction = Transaction(call_type, in_force)
        current.set(transaction)
    transaction.asked.add(name)
    return transaction


def _judged_by(name: str) -> Transaction | None:
    """The transaction whose answer is for `name` to judge; None if another one of us does it."""
    transaction = current.get()
    if transaction is None:
        return None
    transaction.judge = transaction.judge or name
    return transaction if transaction.judge == name else None
