"""`run_policy`: what a policy makes of a scripted or recorded answer, without a proxy."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from luthien_litellm_hooks.adapters.base import Adapter
from luthien_litellm_hooks.assembler import BlockAssembler
from luthien_litellm_hooks.composition import members_of
from luthien_litellm_hooks.config import build_executor, load_settings
from luthien_litellm_hooks.errors import PolicyBlockedError
from luthien_litellm_hooks.events import (
    Chunk,
    ContentStreamBlock,
    Finish,
    ReasoningStreamBlock,
    StreamBlock,
    ToolCall,
    ToolCallStreamBlock,
)
from luthien_litellm_hooks.executor import HOOK_TIMEOUT_S, PolicyExecutor
from luthien_litellm_hooks.failures import OnPolicyError
from luthien_litellm_hooks.hooks.routes import GOVERNED
from luthien_litellm_hooks.policy.base import Policy
from luthien_litellm_hooks.policy.context import Decision, PolicyContext
from luthien_litellm_hooks.policy.request import Answer, Request
from luthien_litellm_hooks.recorder import DefaultTransactionRecorder
from luthien_litellm_hooks.testing.answers import Answer as ScriptedAnswer
from luthien_litellm_hooks.testing.answers import Say, Step
from luthien_litellm_hooks.testing.routes import ROUTES, Route, RouteName
from luthien_litellm_hooks.transaction_record import transaction_record

TRANSACTION_ID = "transaction-test"

Script: TypeAlias = str | Sequence[Step] | ScriptedAnswer | bytes | Path | Mapping[str, object]
"""What the model says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one request and its answer; of several choices the first.

    `chunks` is what LiteLLM gets to send: the items of the stream, or the one full answer. `request`
    is what the provider would get. `answer` is what the client gets in the model's stead, be it the
    policy's own answer or its refusal; None if the provider was to be asked. `record` is what the
    spend logs would keep, texts included.
    """

    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str | None
    decisions: tuple[Decision, ...]
    chunks: tuple[object, ...]
    request: Request
    answer: Answer | None
    record: Mapping[str, Any]


async def run_policy(
    policy: Policy | Mapping[str, object],
    stream: Script,
    *,
    route: RouteName = "chat",
    request: Request | Mapping[str, object] | None = None,
    full: bool = False,
    timeout_s: float = HOOK_TIMEOUT_S,
    on_policy_error: OnPolicyError = "block",
) -> Outcome:
    """Runs `policy` over a request, and over the answer that `stream` says.

    `policy` is a policy, which is sealed as if it were loaded, or what stands under `policy:` in a
    config. `stream` is a text, the steps of an answer, or what a provider sent: the bytes of a stream,
    the path of the file with them, or the JSON object of a full answer. `request` is a body of the
    `route`, or a whole request. `full` says that the answer is not streamed. Raises `ConfigError` for
    a wrong config.

    >>> import asyncio
    >>> from luthien_litellm_hooks.testing import Call, Say, run_policy
    >>> outcome = asyncio.run(run_policy({"class": "all_caps"}, [Say("hello"), Call("read", "{}")]))
    >>> outcome.text, [call.name for call in outcome.tool_calls]
    ('HELLO', ['read'])
    """
    executor = _executor(policy, timeout_s, on_policy_error)
    wire, full = ROUTES[route], full or isinstance(stream, Mapping)
    recorder = DefaultTransactionRecorder()
    context = PolicyContext(TRANSACTION_ID, _request(request, wire, is_streaming=not full), recorder=recorder)
    await _ask(executor, context)
    adapter = GOVERNED[wire.call_type](context.final_request)
    if full:
        response = _full(stream, wire, context.final_request)
        chunks: tuple[object, ...] = (await executor.run_full(response, adapter, context),)
    else:
        provided = wire.stream(_script(stream), context.final_request.body)
        async with aclosing(executor.run(provided, adapter, context)) as delivered:
            chunks = tuple([chunk async for chunk in delivered])
    versions = [(member.name, member.version) for member in members_of(executor.composition)]
    record = transaction_record(context, recorder, "", versions, with_bodies=True)
    return _outcome(chunks, context, GOVERNED[wire.call_type](context.final_request), record, is_full=full)


async def _ask(executor: PolicyExecutor, context: PolicyContext) -> None:
    """What the policy makes of the request; if that is an answer, it is given whatever the provider says."""
    came = copy.deepcopy(dict(context.request.body))
    try:
        result = await executor.on_request(context)
    except PolicyBlockedError as refusal:
        result = Answer(refusal.message)
    if isinstance(result, Answer):
        context.answer = result
    await context.recorder.record_request(came, context.final_request.body)


def _executor(
    policy: Policy | Mapping[str, object], timeout_s: float, on_policy_error: OnPolicyError
) -> PolicyExecutor:
    if isinstance(policy, Policy):
        policy.seal()
        return PolicyExecutor(policy, timeout_s=timeout_s, on_policy_error=on_policy_error)
    if (timeout_s, on_policy_error) != (HOOK_TIMEOUT_S, "block"):
        raise TypeError("a policy's config says its own timeout_s and on_policy_error")
    return build_executor(load_settings({"luthien": {"policy": policy}}, {}))


def _request(given: Request | Mapping[str, object] | None, wire: Route, *, is_streaming: bool) -> Request:
    if not isinstance(given, Request):
        given = Request({"model": "scripted", **wire.body, **(given or {})}, route=wire.path)
    return replace(given, body={**given.body, "stream": is_streaming})


def _full(given: Script, wire: Route, request: Request) -> object:
    return wire.whole(dict(given)) if isinstance(given, Mapping) else wire.full(_script(given), request.body)


def _script(stream: Script) -> ScriptedAnswer:
    if isinstance(stream, ScriptedAnswer):
        return stream
    if isinstance(stream, Mapping):
        raise TypeError("a full answer is no stream")
    if isinstance(stream, Path):
        stream = stream.read_bytes()
    if isinstance(stream, bytes):
        return ScriptedAnswer(raw=stream)
    return ScriptedAnswer([Say(stream)] if isinstance(stream, str) else stream)


def _outcome(
    chunks: tuple[object, ...], context: PolicyContext, reader: Adapter, record: Mapping[str, Any], *, is_full: bool
) -> Outcome:
    read = [reader.split(chunks[0])] if is_full else [chunk for item in chunks for chunk in reader.decode(item)]
    read += reader.flush()
    blocks = _blocks(read, is_framed=reader.is_framed)
    events = [event for chunk in read for event in chunk.events if event.choice == 0]
    return Outcome(
        text="".join(b.content for b in blocks if isinstance(b, ContentStreamBlock) and not b.is_quoted),
        reasoning="".join(block.content for block in blocks if isinstance(block, ReasoningStreamBlock)),
        tool_calls=tuple(block.tool_call for block in blocks if isinstance(block, ToolCallStreamBlock)),
        finish_reason=next((event.reason for event in events if isinstance(event, Finish)), None),
        decisions=tuple(context.decisions),
        chunks=chunks,
        request=context.final_request,
        answer=context.answer,
        record=record,
    )


def _blocks(chunks: Sequence[Chunk], *, is_framed: bool) -> Sequence[StreamBlock]:
    assembler = BlockAssembler(is_framed=is_framed)
    for chunk in chunks:
        assembler.begin(chunk)
        for event in chunk.events:
            assembler.feed(event)
    assembler.finish()
    return [block for block in assembler.state.blocks if block.choice == 0]
