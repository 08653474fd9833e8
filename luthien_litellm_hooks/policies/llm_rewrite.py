"""`llm_rewrite`: a model may let a block pass, or give others in its place."""

import json
import uuid
from dataclasses import replace
from typing import Annotated, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from luthien_litellm_hooks.errors import JudgeError
from luthien_litellm_hooks.events import ToolCall
from luthien_litellm_hooks.policies.judged_blocks import JudgedBlocksPolicy
from luthien_litellm_hooks.policies.judging import Judge, JudgeConfig, Kind, shown
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.request import Request
from luthien_litellm_hooks.policy.tool_gate import Verdict

_TOOLS = "llm_rewrite.tools"
_TASK = (
    "You are shown one block of an AI agent's answer, and the names of the tools that the agent has. Let the block "
    "pass, or give the blocks that are to stand in its place, as these instructions of the agent's operator say:"
)
_FORM = (
    'Answer with one JSON object and nothing else. To let the block pass: {"action": "pass"}. To replace it: '
    '{"action": "replace", "blocks": [...]}, with as many blocks as needed, each of them either '
    '{"type": "text", "text": "..."} or {"type": "tool_call", "name": "...", "arguments": {...}}. '
    "A call may be of a tool that the agent has, and no other. No blocks at all take the block out."
)


class LlmRewriteConfig(JudgeConfig):
    """Settings of `llm_rewrite`."""

    instructions: Annotated[str, Field(min_length=1)]
    """What is to be changed, and how, as the judge is to read it. The form of its answer is added."""
    applies_to: Annotated[frozenset[Literal["text", "tool_call"]], Field(min_length=1)] = frozenset(
        {"text", "tool_call"}
    )
    """The kinds of blocks that the judge is shown."""
    max_tokens: Annotated[int, Field(gt=0)] = 4096
    """Of the judge's answer. One that is cut off counts as none."""


class _Answer(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class NewText(_Answer):
    """Text in place of a block."""

    type: Literal["text"]
    text: str


class NewCall(_Answer):
    """A tool call in place of a block. `arguments` are an object, or text for a tool that takes text."""

    type: Literal["tool_call"]
    name: str
    arguments: dict[str, JsonValue] | str


class Rewriting(_Answer):
    """A judge's answer; `blocks` is what leaves in place of the block, None if that passes."""

    action: Literal["pass", "replace"]
    blocks: list[Annotated[NewText | NewCall, Field(discriminator="type")]] | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> "Rewriting":
        if (self.action == "replace") != (self.blocks is not None):
            raise ValueError("`blocks` belong to `replace`, and to nothing else")
        return self


class LlmRewrite(JudgedBlocksPolicy):
    """Asks a model about each block, once. Of a call that is replaced by others the first keeps its id."""

    Config = LlmRewriteConfig

    def __init__(self, config: LlmRewriteConfig) -> None:
        super().__init__(config.applies_to)
        self._judge = Judge(config)
        self._instructions = f"{_TASK}\n\n{config.instructions}\n\n{_FORM}"

    async def verdict_on(self, kind: Kind, content: str | ToolCall, ctx: PolicyContext) -> Verdict:
        tools = cast(tuple[str, ...] | None, ctx.scratchpad.get(_TOOLS))
        if tools is None:  # read once, not again for each block
            tools = ctx.scratchpad[_TOOLS] = _tools(ctx.final_request)
        data = {"block": shown(kind, content), "tools": tools}
        answer = await self._judge.ask(self._instructions, data, Rewriting)
        if answer.blocks is None:
            return Verdict("allow")
        original = content if isinstance(content, ToolCall) else None
        return Verdict("modify", instead=_pieces(answer.blocks, original, tools))


def _tools(request: Request) -> tuple[str, ...]:
    """What a new call may be of; nothing for a client of the old `functions`, which takes one call."""
    return () if "functions" in request.body else request.tool_names


def _pieces(
    blocks: list[NewText | NewCall], original: ToolCall | None, tools: tuple[str, ...]
) -> tuple[ToolCall | str, ...]:
    texts = [block.text for block in blocks if isinstance(block, NewText)]
    calls = [_call(block, original, tools) for block in blocks if isinstance(block, NewCall)]
    if original is not None and calls:
        if original.form == "legacy_function" and len(calls) > 1:
            raise JudgeError("the judge gave several calls for a function_call, of which there can be but one")
        calls[0] = replace(calls[0], id=original.id, extra=original.extra)
    return (*texts, *calls)


def _call(new: NewCall, original: ToolCall | None, tools: tuple[str, ...]) -> ToolCall:
    form = "function"
    if original is not None and new.name == original.name:
        form = original.form
    elif new.name not in tools:
        raise JudgeError(f"the judge called {new.name!r}, which the request does not offer")
    if isinstance(new.arguments, str) != (form == "custom"):
        raise JudgeError(f"the judge gave {new.name!r} arguments of the wrong kind, a {type(new.arguments).__name__}")
    arguments = new.arguments if isinstance(new.arguments, str) else json.dumps(new.arguments, ensure_ascii=False)
    return ToolCall(f"call_{uuid.uuid4().hex[:24]}", new.name, arguments, form)
