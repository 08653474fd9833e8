"""Chat: whatever a policy does to random answers, cut anywhere, clients can read what leaves."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from litellm.types.utils import ModelResponse, ModelResponseStream
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from luthien_litellm_hooks import (
    Policy,
    StreamBlock,
    StreamingResponseContext,
    ToolCallStreamBlock,
    drop_block,
    passthrough_accumulated_chunks,
    send_text,
    send_tool_call,
)
from luthien_litellm_hooks.testing import openai_wire
from luthien_litellm_hooks.testing.answers import Answer, Call, Say
from luthien_litellm_hooks.testing.answers import Usage as Tokens
from tests.support.chat import WITHHELD, Delivered, deliver, deliver_full

ACTIONS = ("pass", "drop", "text", "call", "two")
MADE_TEXT, MADE_CALL = "made", "made_call"

says = st.builds(Say, st.text('ab \n\U0001f600"', min_size=1, max_size=12))
calls = st.builds(
    Call, st.sampled_from(["f", "g"]), st.dictionaries(st.text(max_size=3), st.integers()).map(json.dumps)
)
answers = st.builds(
    Answer,
    st.lists(says | calls, min_size=1, max_size=5).map(lambda steps: _no_neighbours(steps)),
    piece=st.integers(1, 6),
    interleave=st.booleans(),
    usage=st.just(Tokens(3, 5)),
)


def _no_neighbours(steps: list[Say | Call]) -> list[Say | Call]:
    """On this wire texts that follow one another are one."""
    return [
        step for before, step in zip([None, *steps], steps, strict=False) if not (_is_text(before) and _is_text(step))
    ]


def _is_text(step: object) -> bool:
    return isinstance(step, Say)


class Acts(Policy):
    """Does to the blocks of an answer, in the order they end, what it is told."""

    def __init__(self, actions: list[str]) -> None:
        self.actions = actions
        self.expected: list[str] = []

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        """Holds everything."""

    on_tool_call_delta = on_content_delta

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        assert ctx.block is not None
        done = ctx.scratchpad["done"] = ctx.scratchpad.get("done", 0) + 1
        action = self.actions[(done - 1) % len(self.actions)]
        self.expected += _leaves(action, ctx.block)
        match action:
            case "pass":
                await passthrough_accumulated_chunks(ctx)
            case "drop":
                drop_block(ctx)
            case "text":
                await send_text(ctx, MADE_TEXT)
            case "call":
                await send_tool_call(ctx, _made())
            case _:
                await send_text(ctx, MADE_TEXT)
                await send_tool_call(ctx, _made())

    on_tool_call_complete = on_content_complete


def _made() -> Any:
    from luthien_litellm_hooks import ToolCall

    return ToolCall("made", MADE_CALL, "{}")


def _leaves(action: str, block: StreamBlock) -> list[str]:
    """The texts, and the names of the calls, that a client is to get of `block`."""
    whole = f"call {block.name}" if isinstance(block, ToolCallStreamBlock) else f"text {block.content}"
    made = {"text": [f"text {MADE_TEXT}"], "call": [f"call {MADE_CALL}"]}
    return {"pass": [whole], "drop": [], **made, "two": made["text"] + made["call"]}[action]


def _chunks(answer: Answer) -> list[ModelResponseStream]:
    request = {"model": "m", "stream_options": {"include_usage": True}}
    frames = [frame for frame in openai_wire.stream(answer, request) if isinstance(frame, bytes)]
    lines = [frame.decode().removeprefix("data: ").strip() for frame in frames]
    return [ModelResponseStream(**json.loads(line)) for line in lines if line != "[DONE]"]


@settings(max_examples=150, deadline=None)
@given(answers, st.lists(st.sampled_from(ACTIONS), min_size=1, max_size=5))
async def test_a_client_reads_just_what_the_policy_let_out(answer: Answer, actions: list[str]) -> None:
    policy = Acts(actions)
    delivered = await deliver(policy, _chunks(answer))
    read = Delivered.of(delivered)
    expected = policy.expected or ([f"text {WITHHELD}"] if answer.calls else [])
    assert read.text == "".join(said[5:] for said in expected if said.startswith("text"))
    assert [name for _, name, _ in read.calls] == [said[5:] for said in expected if said.startswith("call")]
    assert read.finish_reasons == ["tool_calls" if read.calls else "stop"]
    official: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for chunk in delivered:
        official.handle_chunk(ChatCompletionChunk.construct(**json.loads(chunk.model_dump_json(exclude_none=True))))
    [choice] = official.current_completion_snapshot.choices
    assert (choice.message.content or "") == read.text
    assert len(choice.message.tool_calls or ()) == len(read.calls)


@settings(max_examples=60, deadline=None)
@given(answers, st.lists(st.sampled_from(ACTIONS), min_size=1, max_size=5))
async def test_a_full_answer_says_what_the_streamed_one_says(answer: Answer, actions: list[str]) -> None:
    """Of an answer whose blocks come in the order that a full answer has: text, then calls."""
    steps = sorted(answer.steps, key=lambda step: isinstance(step, Call))
    texts = [step.text for step in steps if isinstance(step, Say)]
    answer = Answer([*([Say("".join(texts))] if texts else []), *(step for step in steps if isinstance(step, Call))])
    streamed = Delivered.of(await deliver(Acts(actions), _chunks(answer)))
    full = await deliver_full(Acts(actions), ModelResponse(**openai_wire.full(answer, {"model": "m"})))
    message = full.choices[0].message
    assert (message.content or "") == streamed.text
    assert [made.function.name for made in message.tool_calls or ()] == [name for _, name, _ in streamed.calls]
    assert [full.choices[0].finish_reason] == streamed.finish_reasons
