"""The calls of a governed transaction as LiteLLM's loggers get them: the delivered answer, and no provider's error."""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any, cast

import httpx
from fastapi import HTTPException
from litellm.exceptions import GuardrailRaisedException, ModifyResponseException
from litellm.litellm_core_utils.litellm_logging import Logging
from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER
from litellm.litellm_core_utils.thread_pool_executor import executor
from litellm.proxy._types import ProxyException

from luthien_litellm_hooks.hooks.logged_answer import hide_answer, put_delivered, to_log
from luthien_litellm_hooks.recorder import DefaultTransactionRecorder

logger = logging.getLogger("luthien_litellm_hooks")

WITHHELD_ERROR = "What the provider's error says is sealed in the record of the transaction: see `luthien-hooks show`."
_SHARE_OF_LITELLMS_TIME = 0.5
"""How much of the time that LiteLLM gives to logging an answer the transaction may still take to end."""
_LONGEST_WAIT_S = 600.0
"""For loggers that LiteLLM calls in threads, to which it gives no time of its own."""
_OF_ROUTING = ("status_code", "code", "llm_provider", "model", "num_retries", "max_retries", "litellm_response_headers")
"""What LiteLLM's router and its rows read of an error, beside its class."""
_TOLD_TO_CLIENTS = (HTTPException, GuardrailRaisedException, ModifyResponseException, ProxyException)


@dataclass(slots=True)
class Delivery:
    """What the client of a transaction gets, for those who log it. `hides_errors` says whether loggers are not to
    read the provider's errors, which may quote its answer."""

    kept: DefaultTransactionRecorder
    hides_errors: bool
    _until: float | None = None

    async def wait(self) -> None:
        """Returns when the transaction is over, or half of the time is up that LiteLLM gives to logging it."""
        if await self._is_over(self.until()):
            return
        logger.warning("an answer is logged before its transaction is over")

    def until(self) -> float:
        """When whoever logs this answer goes on without its end; by the clock of the event loop."""
        now = asyncio.get_running_loop().time()
        self._until = self._until or now + GLOBAL_LOGGING_WORKER.timeout * _SHARE_OF_LITELLMS_TIME
        return self._until

    async def wait_long(self) -> None:
        """Returns when the transaction is over, or has taken too long."""
        await self._is_over(asyncio.get_running_loop().time() + _LONGEST_WAIT_S)

    async def _is_over(self, until: float) -> bool:
        try:
            async with asyncio.timeout_at(until):
                await self.kept.wait_for_end()
        except TimeoutError:
            return False
        return True


class GovernedLogging(Logging):
    """LiteLLM's logging of a call, made to wait for the policy. `delivery` is set by `govern_logging`."""

    delivery: Delivery
    loop: asyncio.AbstractEventLoop

    async def async_success_handler(self, result: object = None, *args: Any, **kwargs: Any) -> None:
        """Has an answer logged, by those who can be awaited."""
        await self.delivery.wait()
        await _anyhow(super()).async_success_handler(self._delivered(result), *args, **kwargs)

    def success_handler(self, result: object = None, *args: Any, **kwargs: Any) -> None:
        """Has an answer logged by those who block. LiteLLM calls this in a thread, as soon as the provider is done."""
        self._in_loop(self._log_when_over(result, args, kwargs))

    async def _log_when_over(self, result: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        await self.delivery.wait_long()
        kept = self.delivery.kept
        if kept.outcome not in (None, "complete") and not kept.egress.chunks:
            return  # nobody got an answer: LiteLLM logs a failure
        executor.submit(super().success_handler, self._delivered(result), *args, **kwargs)

    def _delivered(self, result: object) -> object:
        self._hide_errors()
        try:
            put_delivered(self.model_call_details, self.delivery.kept)
            return to_log(result, self.delivery.kept)
        except Exception:
            logger.exception("an answer is logged without what it says")
            hide_answer(self.model_call_details)
            return None

    def _in_loop(self, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        except (RuntimeError, CancelledError):  # the proxy is going down
            coroutine.close()

    def failure_handler(self, exception: Exception, traceback_exception: str, *args: Any, **kwargs: Any) -> None:
        """Has a failure logged by those who block."""
        told, trace = self._told(exception, traceback_exception)
        _anyhow(super()).failure_handler(told, trace, *args, **kwargs)

    async def async_failure_handler(
        self, exception: Exception, traceback_exception: str, *args: Any, **kwargs: Any
    ) -> None:
        """Has a failure logged, by those who can be awaited."""
        told, trace = self._told(exception, traceback_exception)
        await _anyhow(super()).async_failure_handler(told, trace, *args, **kwargs)

    def _told(self, error: Exception, trace: str) -> tuple[Exception, str]:
        hide_answer(self.model_call_details)
        self._hide_errors()
        return (discreet(error), "") if self.delivery.hides_errors and is_providers(error) else (error, trace)

    def _hide_errors(self) -> None:
        """Of the attempts before this one."""
        if self.delivery.hides_errors:
            hide_attempts(self.model_call_details)


def govern_logging(call: Logging, delivery: Delivery) -> None:
    """Makes `call` a `GovernedLogging`. It is LiteLLM's own object, of which other parts hold references."""
    if type(call) is Logging:
        call.__class__ = GovernedLogging
    if isinstance(call, GovernedLogging):
        call.delivery, call.loop = delivery, asyncio.get_running_loop()


def is_providers(error: Exception) -> bool:
    """Whether nobody has said that a client may read the error."""
    return not isinstance(error, _TOLD_TO_CLIENTS)


def discreet(error: Exception) -> Exception:
    """An error of the same class with nothing but what LiteLLM decides by. No `__init__` runs: each wants others."""
    told = type(error).__new__(type(error))
    told.__dict__.update(dict.fromkeys(vars(error)))
    told.__dict__.update({name: value for name, value in vars(error).items() if name in _OF_ROUTING})
    told.args = (WITHHELD_ERROR,)
    told.__dict__["message"] = WITHHELD_ERROR
    response: object = getattr(error, "response", None)
    if isinstance(response, httpx.Response):
        told.__dict__["response"] = httpx.Response(
            response.status_code, headers={"retry-after": response.headers.get("retry-after", "")}
        )
    return told


def hide_attempts(details: dict[str, Any]) -> None:
    """Takes from the record of earlier attempts, in LiteLLM's metadata, what their errors said."""
    litellm_params = cast(dict[str, Any], details.get("litellm_params") or {})
    for name in ("metadata", "litellm_metadata"):
        bucket: object = litellm_params.get(name)
        attempts: object = cast(dict[str, Any], bucket).get("previous_models") if isinstance(bucket, dict) else None
        if isinstance(attempts, list | tuple):
            for attempt in cast(Sequence[Any], attempts):
                if isinstance(attempt, dict) and "exception_string" in attempt:
                    attempt["exception_string"] = WITHHELD_ERROR


def _anyhow(handler: Any) -> Any:
    """LiteLLM's own methods, which it types in part."""
    return handler
