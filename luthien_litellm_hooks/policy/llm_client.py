"""Model calls made by policies themselves, and LiteLLM's router, which serves them.

LiteLLM 1.109 brought the router's `registry()` and `settings()`, and warns about the older attributes.
"""

import asyncio
import random
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from luthien_litellm_hooks.errors import JudgeError
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.request import Request
from luthien_litellm_hooks.recording.decision import Spent

if TYPE_CHECKING:
    from litellm.types.utils import ModelResponse, ModelResponseStream

CALL_TIMEOUT_S = 20.0
_PAUSES_S = (0.25, 0.5, 1.0)
"""Pauses before the second, third and fourth try of a call."""
_TRY_AGAIN = frozenset({408, 429})
_SCHEMA_SUPPORT = "supports_response_schema"
_NO_SCHEMA = frozenset({400, 422})
"""Statuses of a refused schema."""
CALL_MARK = "luthien_call"
"""Member of `spend_logs_metadata` that marks a policy's call."""
Charge = Literal["key", "none"]
_NEVER_LOGGED: Mapping[str, Any] = {"turn_off_message_logging": True}
"""Texts of such a call quote what policies may withhold."""
_NEVER_CACHED: Mapping[str, Any] = {"caching": False, "cache": {"no-cache": True, "no-store": True}}
_random = random.SystemRandom()


class _LiteLLM(Protocol):
    """Part of LiteLLM used here; its router offers the same."""

    async def acompletion(self, **body: Any) -> object: ...


@dataclass(frozen=True, slots=True)
class Question:
    """Call of a model by a policy for the transaction of `ctx`. `address` is None for the provider's own, `schema` is
    that of the reply."""

    request: Request
    address: str | None
    schema: Mapping[str, Any] | None
    ctx: PolicyContext


class Replies(Protocol):
    """Replies to policies that judge records again: from the model, or from an earlier time."""

    async def reply(self, question: Question, ask: Callable[[], Awaitable["ModelResponse"]]) -> "ModelResponse":
        """Returns the reply to a question; `ask` calls the model."""
        ...


_replies: ContextVar[Replies | None] = ContextVar("luthien_replies", default=None)


@contextmanager
def answered_by(replies: Replies) -> Generator[None]:
    """Lets `replies` answer the calls for a transaction in this context, and in the tasks that it starts."""
    token = _replies.set(replies)
    try:
        yield
    finally:
        _replies.reset(token)


def earlier_reply(text: str, *, model: str, finish_reason: str, tokens: int, cost: float) -> "ModelResponse":
    """Returns a response with the text of an earlier one, as LiteLLM would return it."""
    from litellm.types.utils import Choices, Message, ModelResponse, Usage

    choice = Choices(finish_reason=finish_reason, message=Message(role="assistant", content=text))
    response = ModelResponse(model=model, choices=[choice], usage=Usage(total_tokens=tokens))
    cast(Any, response)._hidden_params = {"response_cost": cost}
    return response


class LLMClient(ABC):
    """Client of models. The body of a request is one of chat completions, with its `model`."""

    @abstractmethod
    async def complete(self, request: Request, ctx: PolicyContext | None = None) -> "ModelResponse":
        """Returns the whole response. The call counts for the transaction of `ctx`."""

    @abstractmethod
    def stream(self, request: Request) -> AsyncIterator["ModelResponseStream"]:
        """Yields the response as it arrives."""


class LiteLLMClient(LLMClient):
    """Client of models through LiteLLM, within this process.

    The model is one known to LiteLLM, optionally with `api_base` and `api_key`. With `model_group` it is one of this
    process's proxy, with the proxy's own keys. No policy governs such a call, no cache answers it, and no log has its
    texts. It takes at most `timeout_s` seconds, with all its tries. The key behind the transaction pays for it; with
    `charge: none` LiteLLM tracks no spend.
    """

    def __init__(
        self,
        api_base: str | None = None,
        api_key: str | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
        *,
        model_group: bool = False,
        charge: Charge = "key",
    ) -> None:
        given = {"api_base": api_base, "api_key": api_key}
        self._given = {name: value for name, value in given.items() if value is not None}
        self._timeout_s = timeout_s
        self._model_group = model_group
        self._charge: Charge = charge
        self._without_schema: set[str] = set()
        """Models whose provider refused a schema."""

    async def complete(
        self, request: Request, ctx: PolicyContext | None = None, *, schema: Mapping[str, Any] | None = None
    ) -> "ModelResponse":
        """Returns the whole response.

        It tries four times at most while the provider is unreachable, overloaded or failing, and waits for its
        Retry-After. The call counts for the transaction of `ctx`, and its key is charged. `schema` is a JSON schema of
        the reply; a model without support for it gets none. Raises LiteLLM's error of the last try, or `JudgeError` if
        time is up.
        """
        replies = _replies.get()
        if ctx is None or replies is None:
            response = await self._ask_within_time(request, ctx, schema)
        else:
            question = Question(request, self._given.get("api_base"), schema, ctx)
            response = await replies.reply(question, lambda: self._ask_within_time(request, ctx, schema))
        if ctx is not None:
            ctx.spending.add(spent_on(response))
        return response

    async def _ask_within_time(
        self, request: Request, ctx: PolicyContext | None, schema: Mapping[str, Any] | None
    ) -> "ModelResponse":
        limit = asyncio.timeout(self._timeout_s)
        try:
            async with limit:
                marked = request if ctx is None else request.replace(metadata=_mark(ctx, self._charge))
                return cast("ModelResponse", await self._try(marked, schema, limit.when() or 0.0))
        except Exception:
            if not limit.expired():
                raise
            # Also where LiteLLM, which has the same limit for a try, fails at the same moment.
            raise JudgeError(f"{request.model} gave no response within {self._timeout_s:g} s") from None
        finally:
            del limit  # it holds the task, the task a cancellation, and the cancellation's traceback this frame

    async def stream(self, request: Request) -> AsyncIterator["ModelResponseStream"]:
        """Yields the response as it arrives, from a single try."""
        chunks = cast("AsyncIterator[ModelResponseStream]", await self._ask(request, is_streaming=True))
        async for chunk in chunks:
            yield chunk

    async def _try(self, request: Request, schema: Mapping[str, Any] | None, deadline: float) -> object:
        for usual in _PAUSES_S:
            try:
                return await self._ask_for(schema, request)
            except Exception as error:
                pause = _pause_after(error, usual)
                if pause is None or asyncio.get_running_loop().time() + pause >= deadline:
                    raise
            await asyncio.sleep(pause)
        return await self._ask_for(schema, request)

    async def _ask_for(self, schema: Mapping[str, Any] | None, request: Request) -> object:
        """Asks for a reply of this form, and without it if the provider refuses that."""
        model = request.model
        if schema is None or model in self._without_schema or not _takes_schema(model, is_group=self._model_group):
            return await self._ask(request, is_streaming=False)
        wanted = {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema, "strict": True}}
        try:
            return await self._ask(request.replace(response_format=wanted), is_streaming=False)
        except Exception as error:
            if getattr(error, "status_code", None) not in _NO_SCHEMA:
                raise
        response = await self._ask(request, is_streaming=False)
        self._without_schema.add(model)
        return response

    async def _ask(self, request: Request, *, is_streaming: bool) -> object:
        options = {"num_retries": 0, "max_retries": 0, "timeout": self._timeout_s, **_NEVER_CACHED, **_NEVER_LOGGED}
        where = _router_of(request.model) if self._model_group else _litellm()
        return await where.acompletion(**{**request.body, **self._given, **options, "stream": is_streaming})


def text_of(response: "ModelResponse", *, may_be_cut: bool = False) -> str:
    """Returns the text of a response.

    Raises `JudgeError` if it was filtered or refused, or holds a tool call, or was cut off against the expectation.
    """
    choices: list[Any] = list(response.choices)
    reasons = [choice.finish_reason for choice in choices]
    if reasons != ["stop"] and not (may_be_cut and reasons == ["length"]):
        raise JudgeError(f"{response.model} did not finish one response: it ended with {reasons}")
    message = choices[0].message
    if message.tool_calls or not isinstance(message.content, str):
        raise JudgeError(f"{response.model} responded with something other than text")
    return message.content


def _mark(ctx: PolicyContext, charge: Charge) -> dict[str, Any]:
    """Returns the metadata by which the hooks, and readers of the spend logs, know a policy's call."""
    mark = {"transaction_id": ctx.transaction_id, "policy": ctx.policy_name, "charge": charge}
    return {"spend_logs_metadata": {CALL_MARK: mark}}


def spent_on(response: "ModelResponse") -> Spent:
    """Returns the tokens and the price of one response."""
    usage, hidden = cast(Any, response).usage, cast(Mapping[str, Any], cast(Any, response)._hidden_params or {})
    return Spent(1, usage.total_tokens or 0, hidden.get("response_cost") or 0.0)


def _takes_schema(model: str, *, is_group: bool) -> bool:
    """Returns whether the model, or each model of the group, keeps to a JSON schema, as far as LiteLLM knows."""
    if not is_group:
        return _supports_schema(model)
    deployments = registry_of(_router_of(model)).deployments(model) or ()
    return all(_has_schema_support(deployment, model.rpartition("/")[2]) for deployment in deployments)


def _has_schema_support(deployment: Mapping[str, Any], name: str) -> bool:
    """Asks the deployment's own `model_info`, then LiteLLM's about the model; `name` fills a wildcard."""
    info: Mapping[str, object] = deployment.get("model_info") or {}
    return info.get(_SCHEMA_SUPPORT) is True or _supports_schema(
        str(deployment["litellm_params"]["model"]).replace("*", name)
    )


def _supports_schema(model: str) -> bool:
    return cast(Any, _litellm()).supports_response_schema(model)


def _litellm() -> _LiteLLM:
    import litellm

    return cast(_LiteLLM, litellm)


def _router_of(model: str) -> _LiteLLM:
    """Returns the router of this process's proxy. Raises `JudgeError` if it does not serve `model`."""
    router = cast(_LiteLLM | None, getattr(sys.modules.get("litellm.proxy.proxy_server"), "llm_router", None))
    if router is None:
        raise JudgeError(f"model_group: no proxy with models of its own runs in this process to ask for {model!r}")
    if not registry_of(router).deployments(model):
        raise JudgeError(f"model_group: the proxy's model_list has no {model!r}")
    return router


def _pause_after(error: Exception, usual: float) -> float | None:
    """Returns the seconds to wait before another try after `error`; None to stop."""
    status: object = getattr(error, "status_code", None)  # LiteLLM gives a lost connection a 500
    if not isinstance(status, int) or not (status in _TRY_AGAIN or status >= 500):
        return None
    usual *= _random.uniform(1, 1.5)  # calls that failed together retry apart
    headers = cast(Mapping[str, str], getattr(error, "litellm_response_headers", None) or {})
    asked = headers.get("retry-after", "")
    return max(usual, float(asked)) if asked.isascii() and asked.isdigit() else usual


class Registry(Protocol):
    """Used part of LiteLLM's `RouterRegistry`."""

    def deployments(self, model_name: str, *, team_id: str | None = None) -> Sequence[Mapping[str, Any]] | None: ...

    def all(self) -> Sequence[Mapping[str, Any]]: ...

    def names(self, *, kind: Literal["group_set"]) -> Collection[str]: ...

    def patterns(self, *, team: bool = False) -> Any: ...

    def has_deployment(self, id: str) -> bool: ...

    def resolve(self, name: str, *, kind: Literal["alias"]) -> str | None: ...

    def routing_group(self, name: str) -> Any: ...


def registry_of(router: Any) -> Registry:
    return router.registry() if hasattr(router, "registry") else _Attributes(router)


def settings_of(router: Any) -> Any:
    """Returns the settings, each an attribute: `fallbacks`, `default_deployment` and so on."""
    return router.settings() if hasattr(router, "settings") else router


@dataclass(frozen=True)
class _Attributes:
    """Substitute for the missing registry of a router of LiteLLM 1.106 or 1.108."""

    router: Any

    def deployments(self, model_name: str, *, team_id: str | None = None) -> Sequence[Mapping[str, Any]] | None:
        return self.router.get_model_list(model_name=model_name, team_id=team_id)

    def all(self) -> Sequence[Mapping[str, Any]]:
        return self.router.model_list

    def names(self, *, kind: Literal["group_set"]) -> Collection[str]:
        return self.router.model_names

    def patterns(self, *, team: bool = False) -> Any:
        return self.router.team_pattern_routers if team else self.router.pattern_router

    def has_deployment(self, id: str) -> bool:
        return self.router.has_model_id(id)

    def resolve(self, name: str, *, kind: Literal["alias"]) -> str | None:
        return self.router.get_model_from_alias(model=name)

    def routing_group(self, name: str) -> Any:
        return self.router.get_routing_group(name)
