"""Callback that a LiteLLM config names: `luthien_litellm_hooks.luthien`.

LiteLLM calls these hooks, here and in `LuthienGuardrail`; most of them hand over to `Enforcement`:

| LiteLLM's hook | Moment | Handler |
| --- | --- | --- |
| `async_pre_call_hook` | a request came | `Enforcement.on_request`; of an MCP call `mcp.govern_call` |
| `async_pre_call_deployment_hook` | before a provider is called | `govern_deployment`, `replaced_provider` |
| `async_post_call_streaming_iterator_hook` | a stream begins | `Enforcement.on_stream` |
| `async_post_call_success_hook` | a full response came | `Enforcement.on_response` |
| `async_post_call_failure_hook` | before a failure is logged | `Enforcement.on_failure` |
| `async_logging_hook` | before a response is logged | `Enforcement.on_log` |
| `logging_hook` | before blocking loggers get it, in a thread | `note_again` |
| `ProxyLogging.post_mcp_call_hook`, replaced | the result of an MCP call came | `mcp.JudgedResults` |
"""

from collections.abc import AsyncGenerator, AsyncIterable
from typing import Any

import litellm
from fastapi import HTTPException
from litellm.caching.dual_cache import DualCache
from litellm.integrations.custom_guardrail import CustomGuardrail
from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy._types import UserAPIKeyAuth
from litellm.proxy.utils import ProxyLogging
from litellm.types.utils import CallTypes

from luthien_litellm_hooks.hooks import fitting_litellm, incompatible
from luthien_litellm_hooks.hooks.active_policy import PolicyHolder
from luthien_litellm_hooks.hooks.enforcement import Enforcement, govern_deployment, replaced_provider
from luthien_litellm_hooks.hooks.mcp import govern_call
from luthien_litellm_hooks.hooks.routes import kind_of, path_of
from luthien_litellm_hooks.hooks.spend_logs import MCP_CALL, note_again, strip_client_metadata
from luthien_litellm_hooks.hooks.transaction import UngovernedError, current_transaction
from luthien_litellm_hooks.telemetry.log_lines import logger

# LiteLLM dispatches these only where the registered class itself defines them.
OWN_HOOKS = (
    "async_pre_call_hook",
    "async_pre_call_deployment_hook",
    "async_post_call_streaming_iterator_hook",
    "async_post_call_success_hook",
)


def check_dispatch(callback: CustomLogger) -> None:
    """Asks this version of LiteLLM for its view of the hooks in `callback`.

    LiteLLM skips a hook silently, and then serves unguarded. Raises `ConfigError` if it would skip one, or cannot be
    asked.
    """
    with fitting_litellm():
        skipped = _skipped(callback)
    if skipped:
        raise incompatible(
            f"LiteLLM would not call {', '.join(dict.fromkeys(skipped))} of {type(callback).__name__}, "
            "so responses would pass unchecked"
        )


def _skipped(callback: CustomLogger) -> list[str]:
    registered = litellm.callbacks
    litellm.callbacks = [callback]
    try:
        seen = ProxyLogging.callback_capabilities()
    finally:
        litellm.callbacks = registered
    if isinstance(callback, CustomGuardrail) and not hasattr(CustomGuardrail, "use_native_lifecycle_hooks"):
        return [*OWN_HOOKS]  # LiteLLM would call `apply_guardrail` instead, with single texts
    skipped = [name for name in OWN_HOOKS if name not in vars(type(callback))]
    if not seen.has_pre_call_override:
        skipped.append("async_pre_call_hook")
    if (callback, "override") not in seen.iterator_overrides:
        skipped.append("async_post_call_streaming_iterator_hook")
    return skipped


def callbacks_after(callback: CustomLogger) -> list[str]:
    """Returns the operator's callbacks behind `callback` in the config, if they may change a request or a response
    after the policy. LiteLLM's own do not count."""
    seen = ProxyLogging.callback_capabilities().resolved_callbacks
    behind = seen[seen.index(callback) + 1 :] if callback in seen else ()
    return [
        type(other).__name__
        for other in behind
        if not type(other).__module__.startswith("litellm") and not vars(type(other)).keys().isdisjoint(OWN_HOOKS)
    ]


class RecordWriter(CustomLogger):
    """Writer of each transaction's record; inserted alone where only guardrails govern.

    LiteLLM calls these hooks on callbacks, and on no guardrail.
    """

    def __init__(self, enforcement: Enforcement) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]  # LiteLLM leaves its **kwargs untyped
        self._enforcement = enforcement

    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,
        user_api_key_dict: UserAPIKeyAuth,
        traceback_str: str | None = None,
    ) -> HTTPException | None:
        """Returns the error for the client, before LiteLLM logs a failure; None if the client may read the error
        itself."""
        return await self._enforcement.on_failure(request_data, original_exception)

    async def async_logging_hook(
        self, kwargs: dict[str, Any], result: object, call_type: str
    ) -> tuple[dict[str, Any], object]:
        """Writes the record, before any logger gets the response."""
        await self._enforcement.on_log(kwargs)
        return kwargs, result

    def logging_hook(self, kwargs: dict[str, Any], result: object, call_type: str) -> tuple[dict[str, Any], object]:
        """Completes the payload for loggers in threads."""
        note_again(kwargs)
        return kwargs, result


_NAME = ""
"""Name of the callback in `Transaction.seen_by`; guardrails have names of their own."""


class LuthienCallback(RecordWriter):
    """Callback for every request and every response of the proxy: it runs the active policy.

    Each changing hook is defined in this class itself: LiteLLM does not see inherited ones.
    """

    def __init__(self, holder: PolicyHolder, enforcement: Enforcement | None = None) -> None:
        super().__init__(enforcement or Enforcement())
        self._holder = holder
        self._is_order_checked = False

    async def async_pre_call_hook(
        self, user_api_key_dict: UserAPIKeyAuth, cache: DualCache, data: dict[str, Any], call_type: str
    ) -> dict[str, Any]:
        """Runs before the provider is called. Returns `data`, changed in place."""
        self._check_order()
        strip_client_metadata(data)
        if call_type == MCP_CALL:
            in_force, own = self._holder.current, self._enforcement
            entry = await govern_call(in_force, own.telemetry, data, user_api_key_dict, own.approvals)
            if entry is not None:
                self._enforcement.end_with_task(entry, data, user_api_key_dict)
            return data
        await self._enforcement.on_request(_NAME, self._holder.current, user_api_key_dict, data, call_type)
        transaction = current_transaction()
        if transaction is not None:
            transaction.owner = (
                _NAME  # a client cannot opt out of this one, nor an operator remove it while a request runs
            )
        return data

    def _check_order(self) -> None:
        if not self._is_order_checked:  # at the start LiteLLM has not loaded the callbacks behind this one yet
            self._is_order_checked = True
            for other in callbacks_after(self):
                logger.warning("%s may change what the policy released: list luthien last in `callbacks`", other)

    async def async_pre_call_deployment_hook(self, kwargs: dict[str, Any], call_type: object) -> dict[str, Any] | None:
        """Refuses a client's request unseen by policies, just before a provider is called.

        For an MCP call LiteLLM calls this before the request hook, and is then sure to call that.
        """
        path = path_of(kwargs)
        if current_transaction() is None and path is not None and call_type is not CallTypes.call_mcp_tool:
            self._holder.current.ungoverned.check(kind_of(path), path)
        govern_deployment(kwargs)
        return replaced_provider(kwargs, call_type)

    def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: UserAPIKeyAuth, response: AsyncIterable[object], request_data: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        """Returns the client's stream. The provider's own errors leave unchanged."""
        self._require_request(request_data)
        return self._enforcement.on_stream(_NAME, response, request_data, user_api_key_dict)

    async def async_post_call_success_hook(
        self, data: dict[str, Any], user_api_key_dict: UserAPIKeyAuth, response: object
    ) -> object:
        """Returns the client's full response."""
        self._require_request(data)
        return await self._enforcement.on_response(_NAME, response, data)

    def _require_request(self, data: dict[str, Any]) -> None:
        """Raises `UngovernedError` for a response whose request no policy has seen, unless its route is open."""
        path = path_of(data)
        if current_transaction() is None and not self._holder.current.ungoverned.is_open(kind_of(path), path):
            logger.error("a response came without a checked request; it is withheld")
            raise UngovernedError
