"""The callback that a LiteLLM config names: `luthien_litellm_hooks.luthien`."""

import logging
import os
import uuid
from collections.abc import AsyncGenerator, AsyncIterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

import litellm
from fastapi import HTTPException
from litellm.caching.dual_cache import DualCache
from litellm.exceptions import GuardrailRaisedException, ModifyResponseException
from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy._types import UserAPIKeyAuth

from luthien_litellm_hooks.config import build_executor, load_settings
from luthien_litellm_hooks.errors import LuthienError, PolicyBlockedError
from luthien_litellm_hooks.executor import PolicyExecutor
from luthien_litellm_hooks.hooks.request_data import answer_instead, read_identity, read_request, write_request
from luthien_litellm_hooks.hooks.routes import GOVERNED, WITHOUT_MODEL_TEXT
from luthien_litellm_hooks.hooks.ungoverned import UngovernedRoutes, close_hookless_paths, path_of
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.request import Answer

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
    """

    route: str
    context: PolicyContext | None = None


_transaction: ContextVar[_Transaction | None] = ContextVar("luthien_transaction", default=None)


class LuthienCallback(CustomLogger):
    """Runs every request and every answer of the proxy through one policy.

    Each hook stands in this class itself: LiteLLM does not see inherited ones.
    """

    def __init__(self, executor: PolicyExecutor, ungoverned: UngovernedRoutes | None = None) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]  # LiteLLM leaves its **kwargs untyped
        self._executor = executor
        self._ungoverned = ungoverned or UngovernedRoutes("refuse")

    async def async_pre_call_hook(
        self, user_api_key_dict: UserAPIKeyAuth, cache: DualCache, data: dict[str, Any], call_type: str
    ) -> dict[str, Any]:
        """Before the provider is called. Returns `data`, changed in place if the policy wants it."""
        transaction = _Transaction(call_type)
        _transaction.set(transaction)
        if call_type in WITHOUT_MODEL_TEXT:
            return data
        if call_type not in GOVERNED:
            self._ungoverned.check(call_type, path_of(data))
            return data
        try:
            await self._govern_request(transaction, user_api_key_dict, data)
        except ModifyResponseException:
            raise
        except Exception:
            logger.exception("a request could not be checked")
            raise _refusal(500, "The request was refused: it could not be checked.") from None
        return data

    async def _govern_request(self, transaction: _Transaction, user: UserAPIKeyAuth, data: dict[str, Any]) -> None:
        request = read_request(data)
        context = PolicyContext(str(uuid.uuid4()), request, identity=read_identity(user))
        transaction.context = context
        try:
            result = await self._executor.on_request(context)
        except PolicyBlockedError as refusal:
            result = Answer(refusal.message)
        if isinstance(result, Answer):
            context.answer = result
            answer_instead(data, result, transaction.route)
        else:
            write_request(data, result)

    async def async_pre_call_deployment_hook(self, kwargs: dict[str, Any], call_type: object) -> dict[str, Any] | None:
        """Just before a provider is called: a client's request that no policy has seen stops here."""
        path = path_of(kwargs)
        if _transaction.get() is None and path is not None:
            self._ungoverned.check(path)
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
            await stream.aclose()

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
        except Exception:
            logger.exception("an answer could not be checked; it is withheld")
            raise UngovernedError from None

    def _withhold_unless_open(self, transaction: _Transaction | None, data: dict[str, Any]) -> None:
        """An answer of a request that no policy has seen passes only where the operator, or the
        route's kind, was asked for that request."""
        if transaction is None and not self._ungoverned.is_open(path_of(data) or "a request without a route"):
            logger.error("an answer came without a request that was checked; it is withheld")
            raise UngovernedError


def _refusal(status: int, message: str) -> HTTPException:
    return HTTPException(status, detail={"error": {"message": message, "type": "policy_error", "code": str(status)}})


def build() -> LuthienCallback:
    """The callback, from LiteLLM's settings. Raises `ConfigError`, on which LiteLLM does not start."""
    settings = load_settings(cast(dict[str, object], litellm.callback_settings or {}), os.environ)
    ungoverned = UngovernedRoutes(settings.ungoverned_routes)
    close_hookless_paths(ungoverned)
    return LuthienCallback(build_executor(settings, os.environ), ungoverned)
