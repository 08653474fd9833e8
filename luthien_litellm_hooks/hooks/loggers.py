"""Calls of a governed transaction, as LiteLLM's loggers get them: after its end, with the final request, the delivered
response, and no provider's error."""

import asyncio
import json
import logging
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

import httpx
from fastapi import HTTPException
from litellm.exceptions import GuardrailRaisedException, ModifyResponseException
from litellm.litellm_core_utils import redact_messages
from litellm.litellm_core_utils.litellm_logging import Logging
from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER
from litellm.litellm_core_utils.thread_pool_executor import executor
from litellm.proxy._types import ProxyException
from pydantic import BaseModel, ValidationError

from luthien_litellm_hooks.hooks.routes import governed_format
from luthien_litellm_hooks.policy.request import Request, iter_texts
from luthien_litellm_hooks.recording.recorder import DefaultTransactionRecorder
from luthien_litellm_hooks.wire import FORMATS
from luthien_litellm_hooks.wire.format import JsonObject

logger = logging.getLogger("luthien_litellm_hooks")

WITHHELD_ERROR = "What the provider's error says is sealed in the record of the transaction: see `luthien-hooks show`."
_LONGEST_WAIT_S = 600.0
"""Longest wait of loggers for the end of a transaction."""
_ROUTING_ATTRIBUTES = (
    "status_code",
    "code",
    "llm_provider",
    "model",
    "num_retries",
    "max_retries",
    "litellm_response_headers",
)
"""Attributes of an error for LiteLLM's router and rows, beside its class."""
_FOR_CLIENTS = (HTTPException, GuardrailRaisedException, ModifyResponseException, ProxyException)


@dataclass(slots=True)
class Delivery:
    """Delivered side of a transaction, for loggers.

    `votes` are set as the members of a `parallel` have voted. `begun` is set when LiteLLM begins to log the response,
    `written` with its record, `logged` when the asynchronous loggers are through. If it `is_judged`, loggers get the
    delivered response instead of the provider's. With `hides_errors` they do not get the provider's errors, which may
    quote its response.
    """

    recorder: DefaultTransactionRecorder
    votes: Sequence[asyncio.Event]
    is_judged: bool = False
    hides_errors: bool = False
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    written: asyncio.Event = field(default_factory=asyncio.Event)
    logged: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_over(self) -> bool:
        """The transaction has ended, with all votes."""
        return self.recorder.has_ended and all(vote.is_set() for vote in self._expected_votes())

    async def wait(self) -> None:
        """Returns when the transaction is over."""
        await self.recorder.wait_for_end()
        for vote in self._expected_votes():
            await vote.wait()

    async def wait_long(self) -> None:
        """Returns when the transaction is over, or has taken too long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST_WAIT_S):
                await self.wait()

    async def is_written(self, within_s: float) -> bool:
        """Waits until LiteLLM has logged the response, if it begins to within `within_s` seconds.

        Returns whether the record is written: LiteLLM may fail before.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self.begun.wait()
        if self.begun.is_set() and not self.written.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_LONGEST_WAIT_S):
                    await self.logged.wait()
        return self.written.is_set()

    def set_written(self) -> None:
        """Notes that the record is written."""
        self.begun.set()
        self.written.set()

    def _expected_votes(self) -> Sequence[asyncio.Event]:
        """Returns the votes; none of a client that left: the voters are told to stop when its record is written."""
        return () if self.recorder.outcome == "client_disconnected" else self.votes


_waiting: set[asyncio.Task[None]] = set()  # the event loop itself keeps only weak references


class GovernedLogging(Logging):
    """LiteLLM's logging of a call, made to wait for the policy. `govern_logging` sets `delivery` and `loop`.

    LiteLLM gives a handler 20 seconds. One that it calls before the transaction is over comes again after that.
    """

    delivery: Delivery
    loop: asyncio.AbstractEventLoop

    async def async_success_handler(self, result: object = None, *args: Any, **kwargs: Any) -> None:
        """Logs a response with the asynchronous loggers."""
        self.delivery.begun.set()
        if self.delivery.is_over:
            await self._log(result, args, kwargs)
            return
        task = asyncio.create_task(self._log_when_over(result, args, kwargs))
        _waiting.add(task)
        task.add_done_callback(_waiting.discard)

    async def _log_when_over(self, result: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        await self.delivery.wait_long()
        _untyped(GLOBAL_LOGGING_WORKER).ensure_initialized_and_enqueue(self._log(result, args, kwargs))

    async def _log(self, result: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            await _untyped(super()).async_success_handler(self._delivered(result), *args, **kwargs)
        finally:
            self.delivery.logged.set()

    def success_handler(self, result: object = None, *args: Any, **kwargs: Any) -> None:
        """Logs a response with the blocking loggers. LiteLLM calls this in a thread, once the provider is done."""
        self._in_loop(self._block_when_over(result, args, kwargs))

    async def _block_when_over(self, result: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Calls the blocking loggers after the others: both would write the same payload, and the record is in it when
        the others begin."""
        await self.delivery.wait_long()
        recorder = self.delivery.recorder
        if recorder.outcome not in (None, "complete") and not recorder.egress.chunks:
            return  # the client got no response: LiteLLM logs a failure
        with suppress(TimeoutError):
            async with asyncio.timeout(GLOBAL_LOGGING_WORKER.timeout):
                await self.delivery.logged.wait()
        executor.submit(super().success_handler, self._delivered(result), *args, **kwargs)

    def _delivered(self, result: object) -> object:
        if not self.delivery.is_judged:
            return result
        self._hide_errors()
        try:
            put_delivered(self.model_call_details, self.delivery.recorder)
            return to_log(result, self.delivery.recorder)
        except Exception:
            logger.exception("a response is logged without its content")
            hide_answer(self.model_call_details)
            return None

    def _in_loop(self, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        except (RuntimeError, CancelledError):  # the proxy shuts down
            coroutine.close()

    def failure_handler(self, exception: Exception, traceback_exception: str, *args: Any, **kwargs: Any) -> None:
        """Logs a failure with the blocking loggers."""
        safe, trace = self._safe(exception, traceback_exception)
        _untyped(super()).failure_handler(safe, trace, *args, **kwargs)

    async def async_failure_handler(
        self, exception: Exception, traceback_exception: str, *args: Any, **kwargs: Any
    ) -> None:
        """Logs a failure with the asynchronous loggers."""
        safe, trace = self._safe(exception, traceback_exception)
        await _untyped(super()).async_failure_handler(safe, trace, *args, **kwargs)

    def _safe(self, error: Exception, trace: str) -> tuple[Exception, str]:
        if not self.delivery.is_judged:
            return error, trace
        hide_answer(self.model_call_details)
        self._hide_errors()
        return (redacted_error(error), "") if self.delivery.hides_errors and is_from_provider(error) else (error, trace)

    def _hide_errors(self) -> None:
        """Hides the errors of the attempts before this one."""
        if self.delivery.hides_errors:
            hide_attempts(self.model_call_details)


def govern_logging(call: Logging, delivery: Delivery) -> None:
    """Makes `call` a `GovernedLogging`, in place: other parts of LiteLLM hold references to it."""
    if type(call) is Logging:
        call.__class__ = GovernedLogging
    if isinstance(call, GovernedLogging):
        call.delivery, call.loop = delivery, asyncio.get_running_loop()


class _PrivateLogging(Logging):
    """LiteLLM's logging of a policy's own call: no logger gets its texts, which quote what policies may withhold.

    LiteLLM itself leaves out the texts of a response and its request, but neither the raw ones nor those of a failure.
    """

    async def async_success_handler(self, *args: Any, **kwargs: Any) -> None:
        self._hide_raw()
        await _untyped(super()).async_success_handler(*args, **kwargs)

    def success_handler(self, *args: Any, **kwargs: Any) -> None:
        self._hide_raw()
        _untyped(super()).success_handler(*args, **kwargs)

    def failure_handler(self, exception: Exception, traceback_exception: str, *args: Any, **kwargs: Any) -> None:
        self._hide_all()
        _untyped(super()).failure_handler(redacted_error(exception), "", *args, **kwargs)

    async def async_failure_handler(
        self, exception: Exception, traceback_exception: str, *args: Any, **kwargs: Any
    ) -> None:
        self._hide_all()
        await _untyped(super()).async_failure_handler(redacted_error(exception), "", *args, **kwargs)

    def _hide_all(self) -> None:
        self._hide_raw()
        cast(Any, redact_messages).perform_redaction(self.model_call_details, None)

    def _hide_raw(self) -> None:
        hide_answer(self.model_call_details)
        self.model_call_details["additional_args"] = {}


def hide_texts(call: object) -> None:
    """Makes `call` keep its texts from loggers, in place."""
    if type(call) is Logging:
        call.__class__ = _PrivateLogging


def is_from_provider(error: Exception) -> bool:
    """Returns whether a client may not read the error."""
    return not isinstance(error, _FOR_CLIENTS)


def redacted_error(error: Exception) -> Exception:
    """Returns an error of the same class with only the attributes for LiteLLM's decisions.

    No `__init__` runs: each class wants other arguments.
    """
    safe = type(error).__new__(type(error))
    safe.__dict__.update(dict.fromkeys(vars(error)))
    safe.__dict__.update({name: value for name, value in vars(error).items() if name in _ROUTING_ATTRIBUTES})
    safe.args = (WITHHELD_ERROR,)
    safe.__dict__["message"] = WITHHELD_ERROR
    response: object = getattr(error, "response", None)
    if isinstance(response, httpx.Response):
        safe.__dict__["response"] = httpx.Response(
            response.status_code, headers={"retry-after": response.headers.get("retry-after", "")}
        )
    return safe


def hide_attempts(details: dict[str, Any]) -> None:
    """Removes the errors' texts from LiteLLM's notes on earlier attempts."""
    litellm_params = cast(dict[str, Any], details.get("litellm_params") or {})
    for name in ("metadata", "litellm_metadata"):
        bucket: object = litellm_params.get(name)
        attempts: object = cast(dict[str, Any], bucket).get("previous_models") if isinstance(bucket, dict) else None
        if isinstance(attempts, list | tuple):
            for attempt in cast(Sequence[Any], attempts):
                if isinstance(attempt, dict) and "exception_string" in attempt:
                    attempt["exception_string"] = WITHHELD_ERROR


def _untyped(part: Any) -> Any:
    """Returns a part of LiteLLM untyped, since LiteLLM types its methods in part."""
    return part


def log_request(data: Mapping[str, Any], call_type: str, final: Request) -> None:
    """Gives LiteLLM's loggers the request `final`; `data` hold it already.

    LiteLLM copied the request before the policies changed it.
    """
    call: object = data.get("litellm_logging_obj")
    if not isinstance(call, Logging):
        return
    fields = governed_format(call_type).logged_fields
    given = _first(data, fields) if fields else _last_user_text(final)
    cast(Any, call).update_messages(_as_messages(given))
    params = cast(dict[str, Any], cast(Any, call).litellm_params)
    params |= {key: data[key] for key in params.keys() & final.body.keys() if key in data}
    call.model_call_details["input"] = given


def _first(data: Mapping[str, Any], fields: tuple[str, ...]) -> object:
    return next((data[field] for field in fields if data.get(field)), None)


def _last_user_text(request: Request) -> str:
    """Returns the user's last text: LiteLLM logs no more of some wires."""
    return next((text.text for text in reversed(list(iter_texts(request))) if text.role == "user"), "")


def _as_messages(given: object) -> object:
    """Returns a copy in chat's form, as LiteLLM makes one of a text."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list):
        return given
    items = cast(list[object], given)
    return [{"role": "user", "content": item} if isinstance(item, str) else item for item in items]


_ANSWERS = ("complete_streaming_response", "async_complete_streaming_response", "complete_response")
"""Members of LiteLLM's details of a call with a response in LiteLLM's form."""
_RAW = "original_response"
_HTTP = "httpx_response"


def to_log(result: object, kept: DefaultTransactionRecorder) -> object:
    """Returns the response for LiteLLM's log: `result` itself if it was delivered unchanged, else a copy with the
    delivered content. `result` is LiteLLM's form of the provider's response; an unknown form gives None."""
    if result is None or kept.is_delivered_as_it_came:
        return result
    if isinstance(result, dict):
        return FORMATS.rewrite_log(cast(JsonObject, result), kept.egress.content(), kept.egress.finish_reason)
    if not isinstance(result, BaseModel):
        return None
    inner: object = getattr(result, "response", None)
    if isinstance(inner, BaseModel):  # an event that ends a stream
        return result.model_copy(update={"response": to_log(inner, kept)})
    said = FORMATS.rewrite_log(_dumped(result), kept.egress.content(), kept.egress.finish_reason)
    return _rebuilt(result, said)


def put_delivered(details: JsonObject, kept: DefaultTransactionRecorder) -> None:
    """Replaces the provider's response by the delivered one in LiteLLM's details of a call."""
    if kept.is_delivered_as_it_came:
        return
    for name in _ANSWERS:
        if details.get(name) is not None:
            details[name] = to_log(details[name], kept)
    content, reason = kept.egress.content(), kept.egress.finish_reason
    if details.get(_RAW) is not None:
        details[_RAW] = json.dumps(FORMATS.rewrite_log(_read(details[_RAW]), content, reason))
    response: object = details.get(_HTTP)
    if isinstance(response, httpx.Response):
        details[_HTTP] = httpx.Response(200, json=FORMATS.rewrite_log(_body_of(response), content, reason))


def hide_answer(details: JsonObject) -> None:
    """Removes the provider's response from LiteLLM's details of a failed call."""
    for name in (*_ANSWERS, _RAW, _HTTP):
        if details.get(name) is not None:
            details[name] = None


def _body_of(response: httpx.Response) -> JsonObject:
    try:
        return _read(response.text)
    except httpx.StreamError:  # a stream, and already read
        return {}


def _read(text: object) -> JsonObject:
    """Returns the JSON object in a provider's response; an empty one if it is something else."""
    try:
        value: object = json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        return {}
    return cast(JsonObject, value) if isinstance(value, dict) else {}


def _dumped(answer: BaseModel) -> JsonObject:
    return answer.model_dump(warnings=False)


def _rebuilt(answer: BaseModel, said: JsonObject) -> BaseModel:
    """Returns an object of the same class with the fields of `said` and LiteLLM's own notes on the call."""
    try:
        made = type(answer)(**said)
    except ValidationError:
        made = type(answer).model_construct(**said)
    notes: object = getattr(answer, "_hidden_params", None)
    if isinstance(notes, dict):
        hidden = {name: value for name, value in cast(JsonObject, notes).items() if name != _RAW}
        cast(Any, made)._hidden_params = hidden
    return made
