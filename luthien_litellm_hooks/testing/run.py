"""`run_policy`: a policy over a scripted or recorded response, without a proxy."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from luthien_litellm_hooks.config.settings import build_executor, load_settings
from luthien_litellm_hooks.engine.composition import OnPolicyError, members_of
from luthien_litellm_hooks.engine.executor import HOOK_TIMEOUT_S, PolicyExecutor
from luthien_litellm_hooks.errors import PolicyBlockedError
from luthien_litellm_hooks.policy.base import Policy
from luthien_litellm_hooks.policy.context import PolicyContext, Question, StreamingResponseContext
from luthien_litellm_hooks.policy.request import Answer, Request
from luthien_litellm_hooks.recording.decision import Approval, Decision
from luthien_litellm_hooks.recording.digest import action_digest
from luthien_litellm_hooks.recording.record import transaction_record
from luthien_litellm_hooks.recording.recorder import DefaultTransactionRecorder
from luthien_litellm_hooks.testing.answers import Answer as ScriptedAnswer
from luthien_litellm_hooks.testing.answers import Say, Step
from luthien_litellm_hooks.testing.routes import ROUTES, Route, RouteName
from luthien_litellm_hooks.wire.assembler import BlockAssembler
from luthien_litellm_hooks.wire.events import (
    Chunk,
    ContentStreamBlock,
    Finish,
    ReasoningStreamBlock,
    StreamBlock,
    ToolCall,
    ToolCallStreamBlock,
)
from luthien_litellm_hooks.wire.format import Adapter

TRANSACTION_ID = "transaction-test"

Script: TypeAlias = str | Sequence[Step] | ScriptedAnswer | bytes | Path | Mapping[str, object]
"""The model's response."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Result of one request and its response; of several choices the first.

    `chunks` is LiteLLM's output: the items of the stream, or the one full response. `request` is the request to the
    provider. `answer` is the client's response instead of the model's: the policy's own answer or its refusal; None if
    the provider would be called. `record` is the content of the spend logs, texts included.
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
    approve: bool | None = None,
) -> Outcome:
    """Runs `policy` over a request, and over the response `stream`.

    `policy` is a policy, which is sealed as if it were loaded, or the value of `policy:` in a config. `stream` is a
    text, the steps of a response, or a provider's output: the bytes of a stream, the path of their file, or the JSON
    object of a full response. `request` is a body for the `route`, or a whole request. With `full` the response is not
    streamed. `approve` is the decision of a person, for a policy that asks; without it every question is denied.
    Raises `ConfigError` for an invalid config.

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
    context.approvals = None if approve is None else _Person(approve)
    await _ask(executor, context)
    adapter = wire.adapter(context.final_request)
    if full:
        response = _full(stream, wire, context.final_request)
        chunks: tuple[object, ...] = (await executor.run_full(response, adapter, context),)
    else:
        provided = wire.stream(_script(stream), context.final_request.body)
        async with aclosing(executor.run(provided, adapter, context)) as delivered:
            chunks = tuple([chunk async for chunk in delivered])
    versions = [(member.name, member.version) for member in members_of(executor.composition)]
    record = transaction_record(context, recorder, "", versions, with_bodies=True)
    return _outcome(chunks, context, wire.adapter(context.final_request), record, is_full=full)


@dataclass(frozen=True, slots=True)
class _Person:
    """Person who approves or denies every call, at once."""

    approves: bool

    async def ask(self, ctx: StreamingResponseContext, questions: Sequence[Question]) -> list[Approval]:
        digests = [action_digest(question.call.name, question.call.arguments) for question in questions]
        state = "approved" if self.approves else "denied"
        return [Approval(digest, state, "test", by="a test") for digest in digests]


async def _ask(executor: PolicyExecutor, context: PolicyContext) -> None:
    """Runs the request hook. Its answer, or its refusal, replaces the model's response."""
    original = copy.deepcopy(dict(context.request.body))
    try:
        result = await executor.on_request(context)
    except PolicyBlockedError as refusal:
        result = Answer(refusal.message)
    if isinstance(result, Answer):
        context.answer = result
    await context.recorder.record_request(original, context.final_request.body)


def _executor(
    policy: Policy | Mapping[str, object], timeout_s: float, on_policy_error: OnPolicyError
) -> PolicyExecutor:
    if isinstance(policy, Policy):
        policy.seal()
        return PolicyExecutor(policy, timeout_s=timeout_s, on_policy_error=on_policy_error)
    if (timeout_s, on_policy_error) != (HOOK_TIMEOUT_S, "block"):
        raise TypeError("set timeout_s and on_policy_error in the policy's config")
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
        raise TypeError("a full response is not a stream")
    if isinstance(stream, Path):
        stream = stream.read_bytes()
    if isinstance(stream, bytes):
        return ScriptedAnswer(raw=stream)
    return ScriptedAnswer([Say(stream)] if isinstance(stream, str) else stream)


def _outcome(
    chunks: tuple[object, ...], context: PolicyContext, reader: Adapter, record: Mapping[str, Any], *, is_full: bool
) -> Outcome:
    decoded = (
        [reader.decode_full(chunks[0])] if is_full else [chunk for item in chunks for chunk in reader.decode(item)]
    )
    decoded += reader.flush()
    blocks = _blocks(decoded, marks_blocks=reader.rules.marks_blocks)
    events = [event for chunk in decoded for event in chunk.events if event.choice == 0]
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


def _blocks(chunks: Sequence[Chunk], *, marks_blocks: bool) -> Sequence[StreamBlock]:
    assembler = BlockAssembler(marks_blocks=marks_blocks)
    for chunk in chunks:
        assembler.begin(chunk)
        for event in chunk.events:
            assembler.feed(event)
    assembler.finish()
    return [block for block in assembler.state.blocks if block.choice == 0]
