"""The callback that a LiteLLM config names: `luthien_litellm_hooks.luthien`."""

from collections.abc import AsyncGenerator, AsyncIterable
from typing import Any

from litellm.caching.dual_cache import DualCache
from litellm.proxy._types import UserAPIKeyAuth
from litellm.types.utils import CallTypes

from luthien_litellm_hooks.hooks.governing import Governing, govern_deployment, in_stead_of_provider
from luthien_litellm_hooks.hooks.in_force import LivePolicy
from luthien_litellm_hooks.hooks.mcp import govern_call
from luthien_litellm_hooks.hooks.records import RecordWriter
from luthien_litellm_hooks.hooks.self_check import callbacks_after
from luthien_litellm_hooks.hooks.spend_logs import remove_forged
from luthien_litellm_hooks.hooks.transaction import UngovernedError, current
from luthien_litellm_hooks.hooks.ungoverned import kind_of, path_of
from luthien_litellm_hooks.log_lines import logger

_NAME = ""
"""Of the callback among those that LiteLLM asks; guardrails have names of their own."""


class LuthienCallback(RecordWriter):
    """Runs every request and every answer of the proxy through the policy that is in force.

    Each hook that may change something stands in this class itself: LiteLLM does not see inherited ones.
    """

    def __init__(self, live: LivePolicy, governing: Governing | None = None) -> None:
        super().__init__(governing or Governing())
        self._live = live
        self._is_order_checked = False

    async def async_pre_call_hook(
        self, user_api_key_dict: UserAPIKeyAuth, cache: DualCache, data: dict[str, Any], call_type: str
    ) -> dict[str, Any]:
        """Before the provider is called. Returns `data`, changed in place if the policy wants it."""
        self._check_order()
        remove_forged(data)
        if call_type == "call_mcp_tool":
            await govern_call(self._live.current, data, user_api_key_dict)
            return data
        await self._governing.request(_NAME, self._live.current, user_api_key_dict, data, call_type)
        transaction = current.get()
        if transaction is not None:
            transaction.judge = _NAME  # nobody can be opted out of this one, or be removed while a request runs
        return data

    def _check_order(self) -> None:
        if not self._is_order_checked:  # at the start those behind us were not loaded yet
            self._is_order_checked = True
            for other in callbacks_after(self):
                logger.warning("%s may change what the policy let out: list luthien last in `callbacks`", other)

    async def async_pre_call_deployment_hook(self, kwargs: dict[str, Any], call_type: object) -> dict[str, Any] | None:
        """Just before a provider is called: a client's request that no policy has seen stops here.
        For an MCP call this comes before the request hook, which is then sure to come."""
        path = path_of(kwargs)
        if current.get() is None and path is not None and call_type is not CallTypes.call_mcp_tool:
            self._live.current.ungoverned.check(kind_of(path), path)
        govern_deployment(kwargs)
        return in_stead_of_provider(kwargs, call_type)

    def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: UserAPIKeyAuth, response: AsyncIterable[object], request_data: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        """The client's stream for the provider's. The provider's own errors leave as they are."""
        self._withhold_unless_open(request_data)
        return self._governing.stream(_NAME, response, request_data, user_api_key_dict)

    async def async_post_call_success_hook(
        self, data: dict[str, Any], user_api_key_dict: UserAPIKeyAuth, response: object
    ) -> object:
        """The client's answer for the provider's full one."""
        self._withhold_unless_open(data)
        return await self._governing.full(_NAME, response)

    def _withhold_unless_open(self, data: dict[str, Any]) -> None:
        """An answer of a request that no policy has seen passes only where the operator, or the
        route's kind, was asked for that request."""
        path = path_of(data)
        if current.get() is None and not self._live.current.ungoverned.is_open(kind_of(path), path):
            logger.error("an answer came without a request that was checked; it is withheld")
            raise UngovernedError
