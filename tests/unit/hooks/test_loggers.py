"""LiteLLM's logging of a governed call: when its loggers are asked, in whatever order LiteLLM calls the handlers."""

import asyncio
from datetime import datetime
from typing import Any

import litellm
import pytest
from litellm.integrations.custom_logger import CustomLogger
from litellm.litellm_core_utils.litellm_logging import Logging
from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER
from litellm.types.utils import Choices, Message, ModelResponse

from luthien_litellm_hooks.hooks.loggers import Delivery, govern_logging
from luthien_litellm_hooks.recording.recorder import DefaultTransactionRecorder


class Asked(CustomLogger):
    """Notes which of its hooks LiteLLM calls."""

    def __init__(self) -> None:
        super().__init__()
        self.hooks: list[str] = []
        self.was_blocking = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def async_logging_hook(self, kwargs: Any, result: Any, call_type: str) -> tuple[Any, Any]:
        self.hooks.append("record")
        return kwargs, result

    async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        self.hooks.append("asynchronous")

    def logging_hook(self, kwargs: Any, result: Any, call_type: str) -> tuple[Any, Any]:
        self.hooks.append("blocking")
        self._loop.call_soon_threadsafe(self.was_blocking.set)
        return kwargs, result


RESPONSE = ModelResponse(model="m", choices=[Choices(index=0, finish_reason="stop", message=Message(content="one"))])


def governed(delivery: Delivery) -> Logging:
    now = datetime.now()
    call = Logging(model="m", messages=[], stream=False, call_type="acompletion", start_time=now, litellm_call_id="c",
                   function_id="f")  # fmt: skip
    call.update_environment_variables(
        model="m", user=None, optional_params={}, litellm_params={"acompletion": True, "metadata": {}}
    )
    govern_logging(call, delivery)
    return call


@pytest.fixture
async def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    await GLOBAL_LOGGING_WORKER.flush()  # of an earlier test, whose loop ended, LiteLLM logs the rest on this one
    logger = Asked()
    monkeypatch.setattr(litellm, "success_callback", [logger])
    monkeypatch.setattr(litellm, "_async_success_callback", [logger])
    return logger


async def test_blocking_loggers_are_asked_after_the_others_though_litellm_asks_them_first(asked: Asked) -> None:
    recorder = DefaultTransactionRecorder()
    call = governed(Delivery(recorder, []))
    await asyncio.to_thread(call.success_handler, RESPONSE)
    await recorder.finalize_non_streaming("complete")
    await call.async_success_handler(RESPONSE)
    await asked.was_blocking.wait()
    assert asked.hooks == ["record", "asynchronous", "blocking"]


async def test_what_is_logged_before_the_transaction_is_over_is_logged_when_it_is(asked: Asked) -> None:
    recorder, vote = DefaultTransactionRecorder(), asyncio.Event()
    delivery = Delivery(recorder, [vote])
    call = governed(delivery)
    await call.async_success_handler(RESPONSE)
    assert delivery.begun.is_set()
    await recorder.finalize_non_streaming("complete")
    for _ in range(10):
        await asyncio.sleep(0)
    assert asked.hooks == [], "a vote is missing"
    vote.set()
    await delivery.logged.wait()
    assert asked.hooks == ["record", "asynchronous"]


async def test_votes_of_a_transaction_whose_client_left_are_not_waited_for(asked: Asked) -> None:
    recorder = DefaultTransactionRecorder()
    call = governed(Delivery(recorder, [asyncio.Event()]))
    await recorder.finalize_streaming("client_disconnected")
    await call.async_success_handler(RESPONSE)
    assert asked.hooks == ["record", "asynchronous"]
