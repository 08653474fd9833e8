"""Calls to models that policies make of their own."""

import asyncio
import random
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from luthien_litellm_hooks.errors import JudgeError
from luthien_litellm_hooks.policy.request import Request

if TYPE_CHECKING:
    from litellm.types.utils import ModelResponse, ModelResponseStream

CALL_TIMEOUT_S = 20.0
_PAUSES_S = (0.25, 0.5, 1.0)
"""Before the second, third and fourth try of a call."""
_TRY_AGAIN = frozenset({408, 429})
_NEVER_CACHED: Mapping[str, Any] = {"caching": False, "cache": {"no-cache": True, "no-store": True}}
_random = random.SystemRandom()


class _LiteLLM(Protocol):
    """What of LiteLLM is called here; a router of its offers the same."""

    async def acompletion(self, **body: Any) -> object: ...


class _Router(_LiteLLM, Protocol):
    def get_model_list(self, model_name: str) -> Sequence[object] | None: ...


class LLMClient(ABC):
    """Asks models. The body of a request is one of chat completions, with its `model`."""

    @abstractmethod
    async def complete(self, request: Request) -> "ModelResponse":
        """The whole answer."""

    @abstractmethod
    def stream(self, request: Request) -> AsyncIterator["ModelResponseStream"]:
        """The answer as it comes."""


class LiteLLMClient(LLMClient):
    """Asks through LiteLLM, within this process.

    The model is one that LiteLLM knows, at `api_base` and with `api_key` if they are given; or, if
    `model_group` is set, one that the proxy of this process serves, with the proxy's own keys. No
    policy governs such a call, and no cache answers it. It takes at most `timeout_s` seconds, with
    all its tries.
    """

    def __init__(
        self,
        api_base: str | None = None,
        api_key: str | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
        *,
        model_group: bool = False,
    ) -> None:
        given = {"api_base": api_base, "api_key": api_key}
        self._given = {name: value for name, value in given.items() if value is not None}
        self._timeout_s = timeout_s
        self._model_group = model_group

    async def complete(self, request: Request) -> "ModelResponse":
        """The whole answer. While the provider cannot be reached, is overloaded or fails, it is asked
        again, four times at most, and not before its Retry-After. Raises LiteLLM's error of the last
        try, or `JudgeError` if time is up."""
        limit = asyncio.timeout(self._timeout_s)
        try:
            async with limit:
                return cast("ModelResponse", await self._try(request, limit.when() or 0.0))
        except TimeoutError:
            raise JudgeError(f"{request.model} gave no answer within {self._timeout_s:g} s") from None
        finally:
            del limit  # it holds the task, and that a cancellation whose traceback holds this frame

    async def stream(self, request: Request) -> AsyncIterator["ModelResponseStream"]:
        """The answer as it comes; it is asked for once."""
        chunks = cast("AsyncIterator[ModelResponseStream]", await self._ask(request, is_streaming=True))
        async for chunk in chunks:
            yield chunk

    async def _try(self, request: Request, deadline: float) -> object:
        for usual in _PAUSES_S:
            try:
                return await self._ask(request, is_streaming=False)
            except Exception as error:
                pause = _pause_after(error, usual)
                if pause is None or asyncio.get_running_loop().time() + pause >= deadline:
                    raise
            await asyncio.sleep(pause)
        return await self._ask(request, is_streaming=False)

    async def _ask(self, request: Request, *, is_streaming: bool) -> object:
        options = {"num_retries": 0, "max_retries": 0, "timeout": self._timeout_s, **_NEVER_CACHED}
        where = _router_of(request.model) if self._model_group else _litellm()
        return await where.acompletion(**{**request.body, **self._given, **options, "stream": is_streaming})


def text_of(response: "ModelResponse") -> str:
    """The text of an answer. Raises `JudgeError` if it is not all of one: it was cut off, filtered or
    refused, or holds a tool call."""
    choices: list[Any] = list(response.choices)
    reasons = [choice.finish_reason for choice in choices]
    if reasons != ["stop"]:
        raise JudgeError(f"{response.model} did not finish one answer: it ended with {reasons}")
    message = choices[0].message
    if message.tool_calls or not isinstance(message.content, str):
        raise JudgeError(f"{response.model} answered with something else than text")
    return message.content


def _litellm() -> _LiteLLM:
    import litellm

    return cast(_LiteLLM, litellm)


def _router_of(model: str) -> _Router:
    """The router of this process's proxy. Raises `JudgeError` if it does not serve `model`."""
    router = cast(_Router | None, getattr(sys.modules.get("litellm.proxy.proxy_server"), "llm_router", None))
    if router is None:
        raise JudgeError(f"model_group: no proxy with models of its own runs in this process to ask for {model!r}")
    if not router.get_model_list(model_name=model):
        raise JudgeError(f"model_group: the proxy's model_list has no {model!r}")
    return router


def _pause_after(error: Exception, usual: float) -> float | None:
    """Seconds to wait before the next try after `error`; None if there is to be none."""
    status: object = getattr(error, "status_code", None)  # LiteLLM gives a lost connection a 500
    if not isinstance(status, int) or not (status in _TRY_AGAIN or status >= 500):
        return None
    usual *= _random.uniform(1, 1.5)  # so that calls that failed together do not come again together
    headers = cast(Mapping[str, str], getattr(error, "litellm_response_headers", None) or {})
    asked = headers.get("retry-after", "")
    return max(usual, float(asked)) if asked.isascii() and asked.isdigit() else usual
