"""Text completions: what the adapter reads, and what policies make of it."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from litellm.types.utils import TextCompletionResponse

from luthien_litellm_hooks import (
    Policy,
    PolicyBlockedError,
    PolicyExecutor,
    Request,
    SimplePolicy,
    StreamingResponseContext,
    ToolCall,
    send_tool_call,
)
from luthien_litellm_hooks.errors import WireError
from luthien_litellm_hooks.policies.all_caps import AllCaps
from luthien_litellm_hooks.policies.noop import NoOp
from luthien_litellm_hooks.wire import FORMATS
from luthien_litellm_hooks.wire.completions.adapter import CompletionsAdapter
from luthien_litellm_hooks.wire.events import ToolCallDelta
from tests.support.chat import context, provide, pull
from tests.support.withholding import Holding

HEAD: dict[str, Any] = {"id": "cmpl-upstream", "model": "model-upstream", "created": 1_700_000_000}
USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


def adapter() -> CompletionsAdapter:
    return CompletionsAdapter(FORMATS["completions"].rules, template=TextCompletionResponse(id="cmpl-own", model="own"))


def chunk(text: str | None = None, finish: str | None = None, index: int = 0, **more: Any) -> TextCompletionResponse:
    choice = {"text": text, "finish_reason": finish, "index": index, **more}
    return TextCompletionResponse(choices=[choice], **HEAD)


def usage() -> TextCompletionResponse:
    return TextCompletionResponse(choices=[{"text": None, "index": 0}], usage=USAGE, **HEAD)


LOGPROBS = {"tokens": ["secret"], "token_logprobs": [-0.1], "top_logprobs": [{"secret": -0.1}], "text_offset": [0]}
STREAM = [chunk("The "), chunk("quick "), chunk("fox"), chunk(finish="stop"), usage()]


@dataclass
class Reading:
    """One choice of an answer."""

    text: str = ""
    reasoning: str = ""
    finish_reasons: list[str] = field(default_factory=list)


def read(responses: list[Any], choice: int = 0) -> Reading:
    reading = Reading()
    for response in responses:
        for part in response.model_dump()["choices"]:
            if part["index"] == choice:
                assert not reading.finish_reasons or not part["text"], "after the finish"
                reading.text += part["text"] or ""
                reading.reasoning += part.get("reasoning_content") or ""
                reading.finish_reasons += [part["finish_reason"]] if part["finish_reason"] else []
    return reading


async def deliver(policy: Policy, items: list[Any]) -> list[Any]:
    """What a client gets of a provider's stream, whose chunks must stay as they are."""
    before = [item.model_dump_json() for item in items]
    delivered = await pull(PolicyExecutor(policy).run(provide(items), adapter(), context()))
    assert [item.model_dump_json() for item in items] == before
    return delivered


async def deliver_full(policy: Policy, response: Any) -> Any:
    before = response.model_dump_json()
    delivered = await PolicyExecutor(policy).run_full(response, adapter(), context())
    assert response.model_dump_json() == before
    return delivered


class Replacing(SimplePolicy):
    """Gives every text another one; none if that is None."""

    def __init__(self, text: str | None) -> None:
        self._text = text

    async def on_response_content(self, content: str, request: Request) -> str | None:
        return self._text


class Refusing(Policy):
    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        if "fox" in (ctx.delta or ""):
            raise PolicyBlockedError("Not this one.")
        await super().on_content_delta(ctx)


async def test_what_no_policy_touches_leaves_as_the_very_chunks() -> None:
    delivered = await deliver(NoOp(), STREAM)
    assert [id(item) for item in delivered] == [id(item) for item in STREAM]


async def test_what_was_held_leaves_as_the_very_chunks() -> None:
    delivered = await deliver(Holding(), STREAM)
    assert [id(item) for item in delivered] == [id(item) for item in STREAM]


async def test_a_chunk_of_which_a_part_was_held_says_the_same_in_two() -> None:
    both = chunk("fox", finish="stop", logprobs=LOGPROBS)
    delivered = await deliver(AllCaps(), [both])
    assert read(delivered) == Reading("FOX", finish_reasons=["stop"])
    assert all((item.id, item.model, item.created) == tuple(HEAD.values()) for item in delivered)
    assert "secret" not in "".join(item.model_dump_json() for item in delivered)


def test_events_let_out_one_by_one_say_the_same() -> None:
    both = chunk("fox", finish="stop", logprobs=LOGPROBS, annotation="about it", reasoning_content="hm")
    [came] = adapter().decode(both)
    apart = [out for event in came.events for out in adapter().encode([event], came)]
    assert len(apart) == len(came.events) == 4
    assert read(apart) == Reading("fox", "hm", ["stop"])
    written = [item.model_dump_json() for item in apart]
    for said in ("secret", "about it"):
        assert sum(said in item for item in written) == 1


async def test_all_caps_changes_text_and_nothing_else() -> None:
    delivered = await deliver(AllCaps(), STREAM)
    assert read(delivered) == Reading("THE QUICK FOX", finish_reasons=["stop"])
    assert delivered[-1] is STREAM[-1]
    assert not any(item.usage and item.usage.total_tokens for item in delivered[:-1])


async def test_text_is_replaced_and_dropped() -> None:
    assert read(await deliver(Replacing("other"), STREAM)) == Reading("other", finish_reasons=["stop"])
    dropped = await deliver(Replacing(None), STREAM)
    assert read(dropped) == Reading(finish_reasons=["stop"])
    assert "quick" not in "".join(item.model_dump_json() for item in dropped)


async def test_an_answer_is_refused_in_the_middle() -> None:
    delivered = await deliver(Refusing(), STREAM)
    assert read(delivered) == Reading("The quick \n\nNot this one.", finish_reasons=["stop"])
    assert delivered[-1].usage.total_tokens == 8


async def test_choices_are_judged_apart() -> None:
    items = [chunk("left"), chunk("right", index=1), chunk(finish="stop"), chunk(finish="length", index=1)]
    delivered = await deliver(AllCaps(), items)
    assert read(delivered) == Reading("LEFT", finish_reasons=["stop"])
    assert read(delivered, choice=1) == Reading("RIGHT", finish_reasons=["length"])


async def test_reasoning_stays_beside_changed_text() -> None:
    delivered = await deliver(AllCaps(), [chunk("", reasoning_content="hm"), chunk("x"), chunk(finish="stop")])
    assert read(delivered) == Reading("X", "hm", ["stop"])


async def test_unknown_fields_leave_with_what_came_and_not_with_what_did_not() -> None:
    items = [chunk("x", finish="stop", annotation="about x")]
    assert "about x" in "".join(item.model_dump_json() for item in await deliver(Holding(), items))
    assert "about x" not in "".join(item.model_dump_json() for item in await deliver(AllCaps(), items))


async def test_a_full_answer_is_judged_too() -> None:
    choices = [
        {"text": "left", "index": 0, "finish_reason": "stop", "logprobs": LOGPROBS},
        {"text": "right", "index": 1, "finish_reason": "length"},
    ]
    response = TextCompletionResponse(choices=choices, usage=USAGE, **HEAD)
    assert await deliver_full(NoOp(), response) is response
    shouted = await deliver_full(AllCaps(), response)
    assert read([shouted]) == Reading("LEFT", finish_reasons=["stop"])
    assert read([shouted], choice=1) == Reading("RIGHT", finish_reasons=["length"])
    assert (shouted.id, shouted.usage.total_tokens) == ("cmpl-upstream", 8)
    assert "secret" not in shouted.model_dump_json()
    dropped = await deliver_full(Replacing(None), response)
    assert read([dropped]) == Reading(finish_reasons=["stop"])


MALFORMED: list[Any] = [
    b"data",
    {},
    *(TextCompletionResponse(choices=[choice], **HEAD) for choice in ({"text": ["x"]}, {"index": -1}, {"index": "0"})),
    TextCompletionResponse.model_construct(choices=[None]),
]


@pytest.mark.parametrize("raw", MALFORMED, ids=str)
async def test_an_unknown_shape_passes_where_nobody_judges_and_ends_the_response_elsewhere(raw: Any) -> None:
    executor, judging = PolicyExecutor(NoOp()), PolicyExecutor(Holding())
    assert await pull(executor.run(provide([raw]), adapter(), context())) == [raw]
    assert await executor.run_full(raw, adapter(), context()) is raw
    ended = read(await pull(judging.run(provide([chunk("a "), raw, chunk("secret")]), adapter(), context())))
    assert "a policy check failed" in ended.text
    assert "secret" not in ended.text
    assert "a policy check failed" in read([await judging.run_full(raw, adapter(), context())]).text


@pytest.mark.parametrize("policy", [Replacing(None), AllCaps()], ids=["drops", "changes"])
async def test_no_field_repeats_what_was_withheld(policy: Policy) -> None:
    choice = {
        "text": "said MARKER1",
        "index": 0,
        "finish_reason": "stop",
        "logprobs": LOGPROBS,
        "stop_reason": "MARKER2",
    }
    more: dict[str, Any] = {"citations": ["MARKER3"], "prompt": {"echo": "MARKER4"}, "system_fingerprint": "fp"}
    response = TextCompletionResponse(choices=[choice], usage=USAGE, **HEAD, **more)
    for left in (await deliver(policy, [response]), [await deliver_full(policy, response)]):
        written = "".join(item.model_dump_json(exclude_none=True) for item in left)
        assert not [marker for marker in ("said", "secret", *(f"MARKER{n}" for n in (2, 3, 4))) if marker in written]
        assert "fp" in written
    assert await deliver(Holding(), [response]) == [response]
    assert await deliver_full(Holding(), response) is response


async def test_a_field_of_an_untouched_choice_stays() -> None:
    class ShoutsTheFirst(SimplePolicy):
        async def on_response_content(self, content: str, request: Request) -> str:
            return content.upper() if content == "left" else content

    choices = [
        {"text": text, "index": n, "finish_reason": "stop", "logprobs": LOGPROBS}
        for n, text in enumerate(["left", "right"])
    ]
    response = TextCompletionResponse(choices=choices, usage=USAGE, **HEAD)
    for left in (await deliver(ShoutsTheFirst(), [response]), [await deliver_full(ShoutsTheFirst(), response)]):
        kept = [part["index"] for item in left for part in item.model_dump()["choices"] if part.get("logprobs")]
        assert kept == [1]
        assert read(left).text + read(left, choice=1).text == "LEFTright"


async def test_an_echoed_prompt_is_judged_with_its_text() -> None:
    items = [chunk("the prompt and "), chunk("more", finish="stop")]
    assert read(await deliver(AllCaps(), items)).text == "THE PROMPT AND MORE"


def test_a_call_cannot_be_said() -> None:
    with pytest.raises(WireError):
        list(adapter().encode([ToolCallDelta(name="a")], None))


@pytest.mark.parametrize("words", range(24, 41))
async def test_what_was_said_before_a_call_has_left(words: int) -> None:
    class Calls(Policy):
        async def on_finish_reason(self, ctx: StreamingResponseContext) -> None:
            await send_tool_call(ctx, ToolCall("call_1", "look", "{}"))

    items = [*[chunk(f"{number} ") for number in range(words)], chunk(finish="stop")]
    stream = PolicyExecutor(Calls()).run(provide(items), adapter(), context())
    delivered: list[Any] = []

    async def read() -> None:
        while True:
            delivered.append(await anext(stream))

    with pytest.raises(WireError, match="could not be encoded"):
        await read()
    assert [id(item) for item in delivered] == [id(item) for item in items[:words]]
