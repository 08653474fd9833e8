"""The callback that a LiteLLM config names: `luthien_litellm_hooks.luthien`."""

import logging
import os
import uuid
from collections.abc import AsyncGenerator, AsyncIterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

import litellm
from litellm.caching.dual_cache import DualCache
from litellm.exceptions import GuardrailRaisedException, ModifyResponseException
from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy._types import ProxyException, UserAPIKeyAuth
from litellm.types.mcp import MCPPostCallResponseObject
from litellm.types.utils import CallTypes

from luthien_litellm_hooks.composition import members_of
from luthien_litellm_hooks.config import Bodies, build_executor, load_settings
from luthien_litellm_hooks.doctor_proof import governed, refused
from luthien_litellm_hooks.errors import LuthienError, PolicyBlockedError
from luthien_litellm_hooks.events import Chunk, Finish, TextDelta
from luthien_litellm_hooks.executor import PolicyExecutor, outcome_of
from luthien_litellm_hooks.hooks.mcp import govern_call, govern_result
from luthien_litellm_hooks.hooks.observing import telemetry
from luthien_litellm_hooks.hooks.probe import nonce_of
from luthien_litellm_hooks.hooks.request_data import (
    answer_instead,
    gemini_in_stead,
    read_identity,
    read_request,
    write_request,
)
from luthien_litellm_hooks.hooks.routes import GOVERNED, NAMES, WITHOUT_MODEL_TEXT
from luthien_litellm_hooks.hooks.self_check import callbacks_after, check_dispatch
from luthien_litellm_hooks.hooks.spend_logs import Logged, SpendLogs, remove_forged, stores_bodies
from luthien_litellm_hooks.hooks.ungoverned import UngovernedRoutes, close_hookless_paths, path_of, refusal
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.request import Answer, Request
from luthien_litellm_hooks.recorder import DefaultTransactionRecorder
from luthien_litellm_hooks.telemetry.spans import Telemetry
from luthien_litellm_hooks.transaction_record import shown

logger = logging.getLogger("luthien_litellm_hooks")


class UngovernedError(GuardrailRaisedException):
    """An answer is withheld. The only kind of exception that LiteLLM turns into a well-formed error
    on every route, before and after the first byte; its message says nothing of the cause."""

    def __init__(self) -> None:
        super().__init__(
            guardrail_name="luthien",
            message="The answer was withheld: it could not be checked.",
            should_wrap_with_default_message=False,
        )


@dataclass(slots=True)
class _Transaction:
    """What the hooks of one request hand on to each other.

    `context` is None on a route without model text, or one that the operator has opened.
    `in_stead` is what the policy answered, so that the provider is not to be called.
    """

    route: str
    context: PolicyContext | None = None
    in_stead: Answer | None = None
    logged: Logged | None = None


_transaction: ContextVar[_Transaction | None] = ContextVar("luthien_transaction", default=None)
_mcp_call: ContextVar[PolicyContext | None] = ContextVar("luthien_mcp_call", default=None)


class LuthienCallback(CustomLogger):
    """Runs every request and every answer of the proxy through one policy.

    Each hook stands in this class itself: LiteLLM does not see inherited ones.
    """

    def __init__(
        self,
        executor: PolicyExecutor,
        ungoverned: UngovernedRoutes | None = None,
        block_status: int = 403,
        bodies: Bodies = "follow_litellm",
        telemetry: Telemetry | None = None,
    ) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]  # LiteLLM leaves its **kwargs untyped
        self._executor = executor
        self._ungoverned = ungoverned or UngovernedRoutes("refuse")
        self._block_status = block_status
        versions = tuple((member.name, member.version) for member in members_of(executor.composition))
        self._spend_logs = SpendLogs(versions, bodies)
        self._bodies: Bodies = bodies
        self._telemetry = telemetry or Telemetry()
        self._is_order_checked = False

    async def async_pre_call_hook(
        self, user_api_key_dict: UserAPIKeyAuth, cache: DualCache, data: dict[str, Any], call_type: str
    ) -> dict[str, Any]:
        """Before the provider is called. Returns `data`, changed in place if the policy wants it."""
        self._check_order()
        remove_forged(data)
        if call_type == "call_mcp_tool":
            await self._govern_mcp_call(user_api_key_dict, data)
            return data
        if call_type not in GOVERNED:
            if call_type not in WITHOUT_MODEL_TEXT:
                self._ungoverned.check(call_type, path_of(data))
            if _transaction.get() is None:  # else it is part of a request that is governed
                _transaction.set(_Transaction(call_type))
            return data
        transaction = _Transaction(call_type)
        _transaction.set(transaction)
        try:
            await self._govern_request(transaction, user_api_key_dict, data)
        except (ModifyResponseException, ProxyException):
            raise
        except Exception:
            logger.exception("a request could not be checked")
            if transaction.context is not None:
                await transaction.context.recorder.finalize_non_streaming("policy_error")
            raise refusal(500, "The request was refused: it could not be checked.") from None
        return data

    def _check_order(self) -> None:
        if not self._is_order_checked:  # at the start those behind us were not loaded yet
            self._is_order_checked = True
            for other in callbacks_after(self):
                logger.warning("%s may change what the policy let out: list luthien last in `callbacks`", other)

    async def _govern_request(self, transaction: _Transaction, user: UserAPIKeyAuth, data: dict[str, Any]) -> None:
        context, recorder = self._begin(transaction.route, user, data)
        transaction.context = context
        transaction.logged = Logged.begin(context, recorder, data)
        nonce = nonce_of(data)
        try:
            result = await self._executor.on_request(context)
        except PolicyBlockedError as blocked:
            result = blocked
        came = read_request(data).body  # the policy may have changed its own copy in place
        await recorder.record_request(came, result.body if isinstance(result, Request) else came)
        if isinstance(result, Request):
            context.answer = None if nonce is None else Answer(governed(nonce))
            write_request(data, result)
            return
        answer = result if isinstance(result, Answer) else Answer(result.message)
        if nonce is not None:
            answer = Answer(refused(nonce))
        if isinstance(result, PolicyBlockedError) and self._executor.on_block == "error":
            await recorder.finalize_non_streaming(outcome_of(context, None))
            raise refusal(self._block_status, answer.text)
        await self._answer_instead(transaction, context, answer, data)

    def _begin(
        self, route: str, user: UserAPIKeyAuth, data: dict[str, Any]
    ) -> tuple[PolicyContext, DefaultTransactionRecorder]:
        transaction_id, request = str(uuid.uuid4()), read_request(data)
        observability = self._telemetry.begin(
            transaction_id,
            route=NAMES[route],
            model=request.model,
            is_streaming=request.is_streaming,
            parent=cast(object, user.parent_otel_span),
        )
        recorder = DefaultTransactionRecorder(observability, show=shown if stores_bodies(self._bodies) else None)
        identity = read_identity(user)
        context = PolicyContext(
            transaction_id, request, identity=identity, observability=observability, recorder=recorder
        )
        return context, recorder

    async def _answer_instead(
        self, transaction: _Transaction, context: PolicyContext, answer: Answer, data: dict[str, Any]
    ) -> None:
        context.answer = transaction.in_stead = answer
        try:
            answer_instead(data, answer, transaction.route)
        except ModifyResponseException:  # of which LiteLLM writes its row before it answers
            reason = GOVERNED[transaction.route](context.request).stop_reason
            context.recorder.add_egress_chunk(Chunk((TextDelta(text=answer.text), Finish(reason=reason))))
            await context.recorder.finalize_non_streaming(outcome_of(context, None))
            raise

    async def _govern_mcp_call(self, user: UserAPIKeyAuth | None, data: dict[str, Any]) -> None:
        context = PolicyContext(str(uuid.uuid4()), read_request(data), identity=read_identity(user))
        _mcp_call.set(context)
        await govern_call(self._executor, data, context)

    async def async_post_mcp_tool_call_hook(
        self, kwargs: object, response_obj: MCPPostCallResponseObject, start_time: object, end_time: object
    ) -> MCPPostCallResponseObject:
        """What an MCP tool gave back, before the client gets it."""
        context = _mcp_call.get() or PolicyContext(str(uuid.uuid4()), Request({}))
        return await govern_result(self._executor, response_obj, context)

    async def async_pre_call_deployment_hook(self, kwargs: dict[str, Any], call_type: object) -> dict[str, Any] | None:
        """Just before a provider is called: a client's request that no policy has seen stops here.
        For an MCP call this comes before the request hook, which is then sure to come."""
        path = path_of(kwargs)
        transaction = _transaction.get()
        if transaction is None and path is not None and call_type is not CallTypes.call_mcp_tool:
            self._ungoverned.check(path)
        answer = transaction.in_stead if transaction is not None else None
        if answer is not None and call_type in (CallTypes.agenerate_content, CallTypes.agenerate_content_stream):
            is_streaming = call_type is CallTypes.agenerate_content_stream
            return {**kwargs, "client": gemini_in_stead(answer, is_streaming=is_streaming)}
        return None

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: UserAPIKeyAuth, response: AsyncIterable[object], request_data: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        """The client's stream for the provider's. The provider's own errors leave as they are."""
        transaction = _transaction.get()
        if transaction is None or transaction.context is None:
            self._withhold_unless_open(transaction, request_data)
            async for chunk in response:
                yield chunk
            return
        adapter = GOVERNED[transaction.route](transaction.context.final_request)
        stream = self._executor.run(response, adapter, transaction.context)
        try:
            async for chunk in stream:
                yield chunk
        except LuthienError:
            raise UngovernedError from None
        finally:
            try:
                await stream.aclose()
            finally:
                if transaction.logged is not None:
                    self._spend_logs.expect(transaction.logged, request_data, user_api_key_dict)

    async def async_post_call_success_hook(
        self, data: dict[str, Any], user_api_key_dict: UserAPIKeyAuth, response: object
    ) -> object:
        """The client's answer for the provider's full one."""
        transaction = _transaction.get()
        if transaction is None or transaction.context is None:
            self._withhold_unless_open(transaction, data)
            return response
        adapter = GOVERNED[transaction.route](transaction.context.final_request)
        try:
            return await self._executor.run_full(response, adapter, transaction.context)
        except PolicyBlockedError as blocked:
            raise refusal(self._block_status, blocked.message) from None
        except Exception:
            logger.exception("an answer could not be checked; it is withheld")
            raise UngovernedError from None
        finally:
            if transaction.logged is not None:
                transaction.logged.withheld = response

    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,
        user_api_key_dict: UserAPIKeyAuth,
        traceback_str: str | None = None,
    ) -> None:
        """Before a failure is logged, whoever failed."""
        remove_forged(request_data)
        transaction = _transaction.get()
        if transaction is None or transaction.logged is None:
            return
        await self._spend_logs.fail(transaction.logged, request_data, original_exception)

    async def async_logging_hook(
        self, kwargs: dict[str, Any], result: object, call_type: str
    ) -> tuple[dict[str, Any], object]:
        """Before an answer is logged, by anyone."""
        transaction = _transaction.get()
        if transaction is not None and transaction.logged is not None and transaction.logged.is_of(kwargs):
            await self._spend_logs.complete(transaction.logged, kwargs)
        return kwargs, result

    def _withhold_unless_open(self, transaction: _Transaction | None, data: dict[str, Any]) -> None:
        """An answer of a request that no policy has seen passes only where the operator, or the
        route's kind, was asked for that request."""
        if transaction is None and not self._ungoverned.is_open(path_of(data) or "a request without a route"):
            logger.error("an answer came without a request that was checked; it is withheld")
            raise UngovernedError


def build() -> LuthienCallback:
    """The callback, from LiteLLM's settings. Raises `ConfigError`, on which LiteLLM does not start."""
    settings = load_settings(cast(dict[str, object], litellm.callback_settings or {}), os.environ)
    ungoverned = UngovernedRoutes(settings.ungoverned_routes)
    callback = LuthienCallback(
        build_executor(settings, os.environ),
        ungoverned,
        settings.block_status,
        settings.record.bodies,
        telemetry(settings.events, os.environ),
    )
    check_dispatch(callback)
    close_hookless_paths(ungoverned)
    return callback
