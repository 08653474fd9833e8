"""`llm_rewrite`: a model passes each block, or replaces it."""

import json
import uuid
from dataclasses import replace
from typing import Annotated, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, WithJsonSchema, model_validator

from luthien_litellm_hooks.errors import JudgeError
from luthien_litellm_hooks.policies.judges import BlockJudgePolicy, Judge, JudgeConfig, Kind, read_object, shown
from luthien_litellm_hooks.policies.judges.view import View
from luthien_litellm_hooks.policy.context import PolicyContext
from luthien_litellm_hooks.policy.request import Request
from luthien_litellm_hooks.policy.tool_gate import Verdict
from luthien_litellm_hooks.wire.events import ToolCall

_TOOLS = "llm_rewrite.tools"
_TASK = (
    "You are shown one block of an AI agent's answer, and the names of the tools that the agent has. Let the block "
    "pass, or give the blocks that are to stand in its place, as these instructions of the agent's operator say:"
)
_FORM = (
    'Answer with one JSON object and nothing else. To let the block pass: {"action": "pass"}. To replace it: '
    '{"action": "replace", "blocks": [...]}, with as many blocks as needed, each of them either '
    '{"type": "text", "text": "..."} or {"type": "tool_call", "name": "...", "arguments": {...}}. '
    "Arguments may also be the JSON text of the object. "
    "A call may be of a tool that the agent has, and no other. No blocks at all take the block out."
)


class LlmRewriteConfig(JudgeConfig):
    """Settings of `llm_rewrite`."""

    view: View = View()
    """Parts of the conversation that the judge is shown beside the block."""
    instructions: Annotated[str, Field(min_length=1)]
    """Instructions for the judge: the changes to make. The format of its reply is added."""
    applies_to: Annotated[frozenset[Literal["text", "tool_call"]], Field(min_length=1)] = frozenset(
        {"text", "tool_call"}
    )
    """Kinds of blocks for the judge."""
    max_tokens: Annotated[int, Field(gt=0)] = 4096
    """Length of the judge's reply. One that is cut off does not count."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class NewText(_Strict):
    """Text that replaces a block."""

    type: Literal["text"]
    text: str


class NewCall(_Strict):
    """A tool call that replaces a block. `arguments` are an object, its JSON, or the free text for a custom tool."""

    type: Literal["tool_call"]
    name: str
    arguments: Annotated[dict[str, JsonValue] | str, WithJsonSchema({"type": "string"})]


class Rewriting(_Strict):
    """Reply of a judge; `blocks` replaces the block, None passes it."""

    action: Literal["pass", "replace"]
    blocks: list[Annotated[NewText | NewCall, Field(discriminator="type")]] | None = None

    @model_validator(mode="after")
    def _blocks_belong_to_replace(self) -> "Rewriting":
        if (self.action == "replace") != (self.blocks is not None):
            raise ValueError("`blocks` belong to `replace`, and to nothing else")
        return self


class LlmRewrite(BlockJudgePolicy):
    """Asks a model about each block, once. If calls replace a call, the first keeps its id."""

    Config = LlmRewriteConfig

    def __init__(self, config: LlmRewriteConfig) -> None:
        super().__init__(config.applies_to)
        self._judge = Judge(config)
        self._view = config.view
        self._instructions = f"{_TASK}\n\n{config.instructions}\n\n{_FORM}"

    async def verdict_on(self, kind: Kind, content: str | ToolCall, ctx: PolicyContext) -> Verdict:
        tools = cast(tuple[str, ...] | None, ctx.scratchpad.get(_TOOLS))
        if tools is None:  # read once for all blocks
            tools = ctx.scratchpad[_TOOLS] = _tools(ctx.final_request)
        data = {"block": shown(kind, content), "tools": tools, **self._view.context(content, ctx)}
        reply = await self._judge.ask(self._instructions, data, Rewriting, ctx)
        if reply.blocks is None:
            return Verdict("allow")
        original = content if isinstance(content, ToolCall) else None
        return Verdict("modify", instead=_pieces(reply.blocks, original, tools))


def _tools(request: Request) -> tuple[str, ...]:
    """Returns the names for a new call; none for a client of the old `functions`, which takes one call."""
    return () if "functions" in request.body else request.tool_names


def _pieces(
    blocks: list[NewText | NewCall], original: ToolCall | None, tools: tuple[str, ...]
) -> tuple[ToolCall | str, ...]:
    texts = [block.text for block in blocks if isinstance(block, NewText)]
    calls = [_call(block, original, tools) for block in blocks if isinstance(block, NewCall)]
    if original is not None and calls:
        if original.form == "legacy_function" and len(calls) > 1:
            raise JudgeError("the judge gave several calls for a function_call, which allows only one")
        calls[0] = replace(calls[0], id=original.id, extra=original.extra)
    return (*texts, *calls)


def _call(new: NewCall, original: ToolCall | None, tools: tuple[str, ...]) -> ToolCall:
    form = "function"
    if original is not None and new.name == original.name:
        form = original.form
    elif new.name not in tools:
        raise JudgeError(f"the judge called {new.name!r}, which the request does not offer")
    return ToolCall(f"call_{uuid.uuid4().hex[:24]}", new.name, _arguments(new, is_free_text=form == "custom"), form)


def _arguments(new: NewCall, *, is_free_text: bool) -> str:
    given = new.arguments
    try:
        if is_free_text:
            if isinstance(given, str):
                return given
            raise ValueError("an object for a tool with free text")
        return json.dumps(read_object(given) if isinstance(given, str) else given, ensure_ascii=False)
    except (ValueError, RecursionError) as error:
        raise JudgeError(f"the judge gave {new.name!r} arguments of the wrong kind: {error}") from None
