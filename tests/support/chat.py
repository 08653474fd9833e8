"""Chat answers in the making: chunks as LiteLLM hands them to a plugin, and what a client makes of them."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from litellm.types.utils import ModelResponse, ModelResponseStream

from luthien_litellm_hooks import Policy, PolicyContext, PolicyExecutor, Request
from luthien_litellm_hooks.engine.composition import Composition
from luthien_litellm_hooks.engine.stage import WITHHELD_CALLS
from luthien_litellm_hooks.policy.notices import notice
from luthien_litellm_hooks.wire import FORMATS
from luthien_litellm_hooks.wire.chat.adapter import ChatAdapter

TRANSACTION_ID = "transaction-1"
WITHHELD = notice(WITHHELD_CALLS, TRANSACTION_ID)
HEAD = {"id": "chatcmpl-upstream", "model": "model-upstream", "created": 1_700_000_000}


def chunk(choice: int = 0, finish: str | None = None, usage: dict[str, int] | None = None, **delta: Any) -> Any:
    """One chunk with one choice."""
    extra = {"usage": usage} if usage else {}
    choices = [{"index": choice, "delta": delta, "finish_reason": finish}]
    return ModelResponseStream(choices=choices, **HEAD, **extra)


def text(content: str, **more: Any) -> ModelResponseStream:
    return chunk(content=content, **more)


def think(content: str, **more: Any) -> ModelResponseStream:
    return chunk(reasoning_content=content, **more)


def tool(index: int | None = 0, id: str | None = None, name: str | None = None, arguments: str = "") -> dict[str, Any]:
    """One entry of a delta's `tool_calls`."""
    return {"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def call(index: int, name: str, *arguments: str) -> list[ModelResponseStream]:
    """A whole call: its head, and its arguments in as many deltas as are given."""
    head = chunk(tool_calls=[tool(index, f"call_{index}", name)])
    return [head, *(chunk(tool_calls=[tool(index, arguments=piece)]) for piece in arguments)]


def finish(reason: str = "stop", **more: Any) -> ModelResponseStream:
    return chunk(finish=reason, **more)


USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


@dataclass
class Delivered:
    """What a client has got, of its first choice unless said otherwise."""

    chunks: list[Any] = field(default_factory=list)
    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str | None, str, str]] = field(default_factory=list)
    finish_reasons: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, chunks: Iterable[Any], choice: int = 0) -> "Delivered":
        delivered = cls(chunks=list(chunks))
        for item in delivered.chunks:
            for part in item.choices:
                if part.index == choice:
                    delivered._add(part)
        return delivered

    def _add(self, choice: Any) -> None:
        assert not self.finish_reasons or not (choice.delta.content or choice.delta.tool_calls), "after the finish"
        self.text += choice.delta.content or ""
        self.reasoning += getattr(choice.delta, "reasoning_content", None) or ""
        for entry in choice.delta.tool_calls or ():
            assert entry.index <= len(self.calls), "a gap in the numbers of the calls"
            if entry.index == len(self.calls):
                self.calls.append((entry.id, entry.function.name, entry.function.arguments))
            else:
                id, name, arguments = self.calls[entry.index]
                self.calls[entry.index] = (id, name + (entry.function.name or ""), arguments + entry.function.arguments)
        if choice.finish_reason:
            self.finish_reasons.append(choice.finish_reason)


def full(message: dict[str, Any], finish: str = "stop", **more: Any) -> ModelResponse:
    """An answer that is not streamed."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": None, **message}}
    return ModelResponse(choices=[choice], usage=USAGE, **HEAD, **more)


async def provide(items: Iterable[Any]) -> AsyncIterator[Any]:
    """A provider's stream of `items`; an exception among them is raised."""
    for item in items:
        if isinstance(item, BaseException):
            raise item
        yield item


def adapter() -> ChatAdapter:
    return ChatAdapter(FORMATS["chat"].rules, lambda: ModelResponseStream(id="chatcmpl-own", model="own"))


def context(**body: Any) -> PolicyContext:
    return PolicyContext(TRANSACTION_ID, Request({"model": "m", **body}))


async def pull(stream: AsyncIterator[Any]) -> list[Any]:
    """Reads a stream the way LiteLLM does: each item in a task of its own."""
    items: list[Any] = []
    while True:
        try:
            items.append(await asyncio.create_task(_next(stream)))
        except StopAsyncIteration:
            return items


async def _next(stream: AsyncIterator[Any]) -> Any:
    return await anext(stream)


async def deliver(
    policy: Policy | Composition, items: Sequence[Any], ctx: PolicyContext | None = None, **options: Any
) -> list[Any]:
    """What a client gets of a provider's stream."""
    executor = PolicyExecutor(policy, **options)
    return await pull(executor.run(provide(items), adapter(), ctx or context()))


async def deliver_full(
    policy: Policy | Composition, response: Any, ctx: PolicyContext | None = None, **options: Any
) -> Any:
    """What a client gets of a provider's full answer."""
    return await PolicyExecutor(policy, **options).run_full(response, adapter(), ctx or context())
