"""Chat: no field of a response tells what a policy withheld, and none is lost that nobody touched."""

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from inspect import signature
from typing import Any

import pytest
from litellm.types.utils import Choices, Delta, Message, ModelResponse, ModelResponseStream, StreamingChoices
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage
from openai.types.chat import chat_completion as full_types
from openai.types.chat import chat_completion_chunk as chunk_types
from openai.types.chat.chat_completion_chunk import ChoiceDelta

from luthien_litellm_hooks import (
    ContentStreamBlock,
    Policy,
    SimplePolicy,
    StreamingResponseContext,
    drop_block,
    passthrough_accumulated_chunks,
    send_notice,
    send_text,
)
from luthien_litellm_hooks.config.policy_loading import load_policy
from luthien_litellm_hooks.policies.all_caps import AllCaps
from luthien_litellm_hooks.policies.block_dangerous_commands import BlockDangerousCommands
from luthien_litellm_hooks.policies.block_sensitive_file_writes import BlockSensitiveFileWrites
from luthien_litellm_hooks.policies.block_web_requests import BlockWebRequests
from luthien_litellm_hooks.policies.noop import NoOp
from luthien_litellm_hooks.policies.protect_proxy import ProtectProxy
from luthien_litellm_hooks.policies.secrets import Secrets
from luthien_litellm_hooks.policies.sql_protection import SqlProtection
from luthien_litellm_hooks.policy.request import Request
from luthien_litellm_hooks.policy.tool_gate import ALLOW, ToolGatePolicy, Verdict
from luthien_litellm_hooks.wire.events import Opaque, Quote, TextDelta, ToolCallDelta, Unknown
from tests.support.chat import HEAD, USAGE, Delivered, adapter, chunk, deliver, deliver_full, finish, full, text, tool

PRESETS = (BlockDangerousCommands, BlockSensitiveFileWrites, BlockWebRequests, SqlProtection, ProtectProxy)
TOKEN = "AKIAQYLPMN5HHHFPZAM2"
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgoAAAANSUhEUg=="}, "index": 0}
CITATION = {"type": "url_citation", "url_citation": {"url": "https://a.example", "title": "a", "start_index": 0}}


def written(items: Any) -> str:
    return "\n".join(
        item.model_dump_json(exclude_none=True) for item in (items if isinstance(items, list) else [items])
    )


# The policies


class DropsAll(Policy):
    async def on_content_delta(self, ctx: StreamingResponseContext) -> None: ...

    on_reasoning_delta = on_tool_call_delta = on_content_delta

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        drop_block(ctx)

    on_reasoning_complete = on_tool_call_complete = on_content_complete


class DropsText(Policy):
    on_content_delta, on_content_complete = DropsAll.on_content_delta, DropsAll.on_content_complete


class DropsCalls(Policy):
    on_tool_call_delta, on_tool_call_complete = DropsAll.on_content_delta, DropsAll.on_content_complete


class Shouts(Policy):
    """Replaces each text by what it says in capitals, as soon as it is whole."""

    on_content_delta = DropsAll.on_content_delta

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        assert isinstance(ctx.block, ContentStreamBlock)
        await send_text(ctx, ctx.block.content.upper())


class LetsThrough(Policy):
    on_content_delta = on_reasoning_delta = on_tool_call_delta = DropsAll.on_content_delta

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        await passthrough_accumulated_chunks(ctx)

    on_reasoning_complete = on_tool_call_complete = on_content_complete


class BlocksCommands(ToolGatePolicy):
    async def judge_tool_call(self, tool_call: Any, ctx: Any) -> Verdict:
        return Verdict("block", message="not this") if "rm -rf" in tool_call.arguments else ALLOW


# Every place of the wire's types


def marked_tool(number: int, **index: int) -> dict[str, Any]:
    function = {"name": "CALL_name", "arguments": '{"a": "CALL_arguments"}'}
    signed = {"provider_specific_fields": {"thought_signature": "SIGNED_call"}}
    return {"id": f"call_{number}", "type": "function", "function": function, "note": "SIDE_call", **index, **signed}


def marked_fields(number: int = 0, *, is_delta: bool) -> dict[str, Any]:
    """A message or delta with a marker in each place: of text, reasoning, a call, beside them, for the provider."""
    thinking = [
        {"type": "thinking", "thinking": "REASON_block", "signature": "SEALED"},
        {"type": "redacted_thinking", "data": "SIGNED_redacted"},
    ]
    item = {
        "type": "reasoning",
        "id": "rs",
        "encrypted_content": "SEALED",
        "summary": [{"type": "summary_text", "text": "SIDE_summary"}],
    }
    own = {
        "citations": [[{"cited_text": "TEXT_cited"}]],
        "web_search_results": [{"content": "SIDE_result"}],
        "thought_signatures": ["SIGNED_text"],
    }
    return {
        "role": "assistant",
        "content": "TEXT_content",
        "refusal": "TEXT_refusal",
        "reasoning_content": "REASON_content",
        "thinking_blocks": thinking,
        "reasoning_details": [{"type": "reasoning.text", "text": "REASON_detail"}],
        "tool_calls": [marked_tool(number, **({"index": number} if is_delta else {}))],
        "audio": {"id": "audio_1", "data": "SIDE_audio", "expires_at": 5, "transcript": "TEXT_transcript"},
        "annotations": [
            {"type": "url_citation", "url_citation": {"url": "TEXT_url", "title": "TEXT_title", "start_index": 0}}
        ],
        "images": [PICTURE | {"alt": "SIDE_image"}],
        "reasoning_items": [item],
        "provider_specific_fields": own,
        "unheard_of": {"deep": ["SIDE_message"]},
    }


def marked_choice(name: str, message: dict[str, Any]) -> dict[str, Any]:
    entry = {"token": "SIDE_token", "logprob": -0.1, "bytes": [1], "top_logprobs": []}
    logprobs = {"content": [entry], "refusal": [entry | {"token": "SIDE_refused"}]}
    side = {"enhancements": {"a": "SIDE_enhancement"}, "stop_reason": "SIDE_stop", "token_ids": ["SIDE_ids"]}
    return {"index": 0, "finish_reason": "tool_calls", "logprobs": logprobs, name: message, **side}


SIDE = {
    "moderation": {"categories": ["SIDE_moderation"]},
    "citations": ["SIDE_links"],
    "search_results": [{"title": "SIDE_found"}],
    "metadata": {"of_request": "SIDE_metadata"},
    "extra": "SIDE_response",
}
STAYS = {"system_fingerprint": "fp_1", "service_tier": "default", "obfuscation": "padding_1"}


def marked_stream() -> list[ModelResponseStream]:
    """The marked fields, once in one chunk with its finish, once in a chunk each."""
    delta = marked_fields(1, is_delta=True)
    own = {"provider_specific_fields": {"of_chunk": "SIDE_chunk"}}
    apart = [
        {"choices": [{"index": 0, "delta": {name: value}}]} for name, value in marked_fields(is_delta=True).items()
    ]
    together = {"choices": [marked_choice("delta", delta)], **SIDE, **own}
    return [ModelResponseStream(**HEAD, **STAYS, **item) for item in (*apart, together)]


def marked_full() -> ModelResponse:
    choice = marked_choice("message", marked_fields(is_delta=False))
    choice["provider_specific_fields"] = {"of_choice": "SIDE_choice"}
    return ModelResponse(choices=[choice], usage=USAGE, **HEAD, **STAYS, **SIDE)


async def both_ways(policy: Policy) -> Iterator[str]:
    return iter([written(await deliver(policy, marked_stream())), written(await deliver_full(policy, marked_full()))])


def markers_in(said: str, *kinds: str) -> set[str]:
    return {marker for marker in re.findall(r"[A-Z]+_[a-z]+", said) if marker.split("_")[0] in kinds}


# Names that LiteLLM's constructors take and that are no fields, and fields that say nothing of their own.
NO_FIELDS = {
    "self",
    "data",
    "params",
    "kwargs",
    "hidden_params",
    "_response_headers",
    "response_ms",
    "stream",
    "stream_options",
}
SAYS_NOTHING = {"index", "id", "created", "model", "object", "choices", "usage", *STAYS}


def declared(*types: type[Any]) -> set[str]:
    """The fields that the types declare, or take."""
    return {name for kind in types for name in (*kind.model_fields, *signature(kind.__init__).parameters)} - NO_FIELDS


def test_each_place_that_the_types_know_is_marked() -> None:
    message = declared(Message, Delta, ChatCompletionMessage, ChoiceDelta) - {"function_call"}
    assert message <= marked_fields(is_delta=True).keys() | {"reasoning"}
    choice = declared(Choices, StreamingChoices, full_types.Choice, chunk_types.Choice)
    assert choice <= marked_choice("delta", {}).keys() | {"message", "provider_specific_fields"}
    response = declared(ModelResponse, ModelResponseStream, ChatCompletion, ChatCompletionChunk) - SAYS_NOTHING
    assert response <= SIDE.keys() | {"provider_specific_fields"}


@pytest.mark.parametrize(
    ("policy", "gone", "left"),
    [
        (DropsAll(), ("TEXT", "REASON", "CALL", "SIDE", "SEALED"), ("SIGNED_redacted", "SIGNED_text")),
        (DropsText(), ("TEXT", "SIDE"), ("REASON_content", "CALL_name", "SIGNED_call", "SIGNED_redacted")),
        (
            DropsCalls(),
            ("CALL", "SIDE"),
            ("TEXT_content", "TEXT_cited", "TEXT_title", "TEXT_transcript", "REASON_block"),
        ),
        (Shouts(), ("TEXT", "SIDE"), ("CALL_arguments", "REASON_content", "SIGNED_call")),
    ],
    ids=["all", "text", "calls", "changed"],
)
async def test_what_is_withheld_leaves_in_no_field(
    policy: Policy, gone: tuple[str, ...], left: tuple[str, ...]
) -> None:
    for said in await both_ways(policy):
        assert markers_in(said, *gone) == set()
        assert {marker for marker in left if marker not in said} == set()
        assert all(known in said for known in (*STAYS.values(), "audio_1", HEAD["id"]))


async def test_all_that_is_let_through_is_there() -> None:
    kinds = ("TEXT", "REASON", "CALL", "SIDE", "SIGNED")
    streamed, whole = await both_ways(LetsThrough())
    assert markers_in(streamed, *kinds) == markers_in(written(marked_stream()), *kinds)
    response = marked_full()
    assert (await deliver_full(LetsThrough(), response)).choices[0] is response.choices[0]
    assert whole == written(response)


# Text beside the text


REFUSAL = f"I cannot print the key {TOKEN} here."


async def test_a_refusal_and_a_transcript_are_redacted() -> None:
    audio = {"id": "audio_1", "data": "sound", "expires_at": 5, "transcript": f"The key is {TOKEN}."}
    refused = await deliver_full(Secrets(), full({"refusal": REFUSAL}))
    assert refused.choices[0].message.refusal.startswith("I cannot print the key [")
    assert refused.choices[0].message.content is None
    spoken = (await deliver_full(Secrets(), full({"audio": audio}))).choices[0].message.audio
    assert (spoken.id, spoken.data, spoken.expires_at) == ("audio_1", "", 5)
    assert spoken.transcript.startswith("The key is [")
    own = {"provider_specific_fields": {"refusal": REFUSAL, "note": "kept"}}
    refused = (await deliver_full(Secrets(), full(own))).choices[0].message
    assert refused.provider_specific_fields["refusal"].startswith("I cannot print the key [")
    assert (refused.provider_specific_fields.keys(), refused.content) == ({"refusal"}, None)
    unchanged = full({"audio": audio | {"transcript": "hello"}})
    assert await deliver_full(Secrets(), unchanged) is unchanged


@pytest.mark.parametrize("size", [1, 7, 100])
async def test_a_streamed_refusal_is_one_block_of_its_own(size: int) -> None:
    pieces = [REFUSAL[start : start + size] for start in range(0, len(REFUSAL), size)]
    items = [text("Sorry."), *(chunk(refusal=piece) for piece in pieces), finish()]
    delivered = await deliver(Secrets(), items)
    assert TOKEN not in written(delivered)
    refusals = "".join(getattr(item.choices[0].delta, "refusal", None) or "" for item in delivered)
    assert refusals == REFUSAL.replace(TOKEN, re.search(r"\[.*?\]", refusals)[0])  # type: ignore[index]
    assert Delivered.of(delivered).text == "Sorry."


async def test_what_stands_for_a_refusal_is_a_refusal_and_a_notice_is_none() -> None:
    class Tells(Shouts):
        async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
            await send_text(ctx, "no")
            await send_notice(ctx, "told")

    delivered = await deliver(Tells(), [chunk(refusal="I will not."), finish()])
    assert [getattr(item.choices[0].delta, "refusal", None) for item in delivered][-3:] == ["no", None, None]
    assert Delivered.of(delivered).text.startswith("[luthien] told")


async def test_streamed_audio_leaves_with_its_transcript_or_not_at_all() -> None:
    deltas = [
        {"id": "audio_1"},
        {"transcript": "hel"},
        {"data": "c291"},
        {"transcript": "lo"},
        {"data": "bmQ="},
        {"expires_at": 5},
    ]
    items = [*(chunk(audio=delta) for delta in deltas), finish()]
    assert [id(item) for item in await deliver(NoOp(), items)] == [id(item) for item in items]
    for policy, transcript, sound in ((LetsThrough(), "hello", 2), (Shouts(), "HELLO", 0)):
        said = [item.choices[0].delta.audio or {} for item in await deliver(policy, items)]
        assert "".join(audio.get("transcript", "") for audio in said) == transcript
        assert sum("data" in audio for audio in said) == sound
        assert {"id": "audio_1"} in said
        assert any(audio.get("expires_at") == 5 for audio in said)


@pytest.mark.parametrize(
    "more", [{"annotations": [CITATION]}, {"provider_specific_fields": {"citations": [[{"title": "a"}]]}}], ids=str
)
async def test_a_citation_is_read_and_written_as_text(more: dict[str, Any]) -> None:
    fields = json.loads(json.dumps(more).replace('"a"', f'"{TOKEN}"'))
    for left in (
        await deliver(Secrets(), [text("clean"), chunk(**fields), finish()]),
        [await deliver_full(Secrets(), full({"content": "clean", **fields}))],
    ):
        assert TOKEN not in written(left)
        assert "clean" in written(left)
        assert '"title":"[' in written(left)
    for left in (
        await deliver(Secrets(), [text(TOKEN), chunk(**more), finish()]),
        [await deliver_full(Secrets(), full({"content": TOKEN, **more}))],
    ):
        assert "title" not in written(left), "a changed text keeps no citation"
        assert TOKEN not in written(left)


async def test_a_picture_stays_beside_a_changed_text() -> None:
    items = [chunk(role="assistant", content="Here.", images=[PICTURE]), text(" Enjoy."), finish()]
    delivered = await deliver(AllCaps(), items)
    assert Delivered.of(delivered).text == "HERE. ENJOY."
    assert written(delivered).count("data:image/png") == 1
    shouted = await deliver_full(AllCaps(), full({"content": "Here.", "images": [PICTURE]}))
    assert shouted.choices[0].message.images == [PICTURE]
    told = {"type": "image_url", "image_url": {"url": "data:text/plain,Here."}, "index": 0}
    assert "images" not in written(await deliver_full(AllCaps(), full({"content": "Here.", "images": [told]})))


async def test_a_list_of_parts_is_text_reasoning_and_the_rest() -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "a"},
        {"type": "reference", "reference_ids": [1]},
        {"type": "text", "text": "b"},
    ]
    [came] = adapter().decode(chunk(content=parts))
    assert [type(event).__name__ for event in came.events] == ["ReasoningDelta", "TextDelta", "Opaque"]
    assert Delivered.of(await deliver(AllCaps(), [chunk(content=parts), finish()])).text == "AB"


async def test_a_part_of_an_unknown_type_needs_the_settings_leave() -> None:
    items = [
        text("a"),
        chunk(content=[{"type": "text", "text": "b"}, {"type": "riddle", "riddle": "secret"}]),
        finish(),
    ]
    assert [id(item) for item in await deliver(NoOp(), items)] == [id(item) for item in items]
    assert "secret" not in written(await deliver(LetsThrough(), items))
    assert "secret" in written(await deliver(LetsThrough(), items, unjudged="pass"))


# Calls


async def test_an_empty_function_call_is_none() -> None:
    stub = chunk(content="", function_call={"name": "", "arguments": ""}, finish="stop")
    items = [text("All "), text("done."), stub]
    for policy in (NoOp(), LetsThrough()):
        assert [id(item) for item in await deliver(policy, items)] == [id(item) for item in items]
    gated = Delivered.of(await deliver(BlocksCommands(), items))
    assert (gated.text, gated.finish_reasons) == ("All done.", ["stop"])
    shouted = await deliver(AllCaps(), items)
    assert (Delivered.of(shouted).text, Delivered.of(shouted).finish_reasons) == ("ALL DONE.", ["stop"])
    assert "function_call" not in written(shouted)
    real = [
        chunk(function_call={"name": "f", "arguments": ""}),
        chunk(function_call={"arguments": "{}"}),
        finish("function_call"),
    ]
    assert "function_call" not in written(await deliver(DropsCalls(), real))


@pytest.mark.parametrize("id", ["", None])
async def test_calls_with_no_id_and_one_number_are_several(id: str | None) -> None:
    entries = [
        tool(0, id, "f", '{"command": "ls"}'),
        tool(0, id, "g", '{"command": "rm -rf /"}'),
        tool(0, id, "h", "{}"),
    ]
    delivered = await deliver(
        BlocksCommands(), [*(chunk(tool_calls=[entry]) for entry in entries), finish("tool_calls")]
    )
    assert [name for _, name, _ in Delivered.of(delivered).calls] == ["f", "h"]
    assert "rm -rf" not in written(delivered)


async def test_a_call_of_an_unknown_type_needs_the_settings_leave() -> None:
    head = tool(0, "call_1", "f", '{"a": ') | {"type": "riddle", "riddle": "secret"}
    items = [
        text("a"),
        chunk(tool_calls=[head]),
        chunk(tool_calls=[tool(0, arguments='"secret"}')]),
        finish("tool_calls"),
    ]
    assert [id(item) for item in await deliver(NoOp(), items)] == [id(item) for item in items]
    delivered = await deliver(BlocksCommands(), items)
    assert "secret" not in written(delivered)
    assert (Delivered.of(delivered).text, Delivered.of(delivered).finish_reasons) == ("a", ["stop"])
    opened = await deliver(BlocksCommands(), items, unjudged="pass")
    assert written(opened).count("secret") == 2
    response = full({"content": "a", "tool_calls": [{key: value for key, value in head.items() if key != "index"}]})
    assert "secret" not in written(await deliver_full(BlocksCommands(), response))
    assert "secret" in written(await deliver_full(BlocksCommands(), response, unjudged="pass"))


@pytest.mark.parametrize("type", ["function", "custom"])
async def test_a_call_of_a_function_and_a_custom_tool_needs_the_settings_leave(type: str) -> None:
    entry = tool(0, "call_1", "f", '{"a": "secret"}') | {"type": type, "custom": {"name": "g", "input": "harmless"}}
    items = [text("a"), chunk(tool_calls=[entry]), finish("tool_calls")]
    assert "secret" not in written(await deliver(BlocksCommands(), items))
    assert "secret" in written(await deliver(BlocksCommands(), items, unjudged="pass"))
    if type == "custom":  # LiteLLM itself refuses the other
        response = full({"content": "a", "tool_calls": [entry]})
        assert "secret" not in written(await deliver_full(BlocksCommands(), response))
    one = tool(0, "call_1") | {"type": "custom", "custom": {"name": "g", "input": "harmless"}, "function": {}}
    assert "harmless" in written(await deliver(BlocksCommands(), [chunk(tool_calls=[one]), finish("tool_calls")]))


async def test_a_changed_call_keeps_its_signature_and_nothing_unjudged() -> None:
    class Renames(SimplePolicy):
        async def on_response_tool_call(self, tool_call: Any, request: Request) -> Any:
            return type(tool_call)(tool_call.id, "other", "{}", tool_call.form, tool_call.extra)

    signed = {"extra_content": {"google": {"thought_signature": "SIGNED"}}}
    entry = (
        tool(0, "call_1", "f", '{"a": 1}') | signed | {"note": "it says a: 1", "caller": {"type": "x", "says": "a: 1"}}
    )
    for left in (
        await deliver(Renames(), [chunk(tool_calls=[entry]), finish("tool_calls")]),
        [await deliver_full(Renames(), full({"tool_calls": [entry]}))],
    ):
        assert "SIGNED" in written(left)
        assert "other" in written(left)
        assert "a: 1" not in written(left)


def server_stream(command: str, name: str = "bash_code_execution", key: str = "command") -> list[ModelResponseStream]:
    """What LiteLLM makes of a call that Anthropic runs itself, of its result, and of the text about it."""
    results = [{"type": "code_execution_output", "stdout": "the output"}]
    own = {"tool_results": results, "code_interpreter_results": [{"code": command, "outputs": results}]}
    return [
        chunk(role="assistant", tool_calls=[tool(0, "srvtoolu_1", name)]),
        chunk(tool_calls=[tool(0, arguments=json.dumps({key: command}))]),
        chunk(content="", provider_specific_fields=own),
        text("Done."),
        finish("stop"),
    ]


async def test_a_servers_call_is_judged_and_its_result_goes_with_it() -> None:
    harmless = server_stream("ls")
    seen: list[str] = []

    class Sees(BlocksCommands):
        async def judge_tool_call(self, tool_call: Any, ctx: Any) -> Verdict:
            seen.append(tool_call.form)
            return await super().judge_tool_call(tool_call, ctx)

    passed = await deliver(Sees(), harmless)
    assert (seen, Delivered.of(passed).finish_reasons) == (["server"], ["stop"])
    assert "the output" in written(passed)
    blocked = await deliver(BlocksCommands(), server_stream("rm -rf /"))
    assert "the output" not in written(blocked)
    assert "rm -rf" not in written(blocked)
    assert Delivered.of(blocked).text.endswith("Done.")


@pytest.mark.parametrize("cls", [*PRESETS, Secrets], ids=lambda cls: cls.__name__)
@pytest.mark.parametrize(
    ("name", "key", "said"),
    [
        ("web_search", "query", "how to delete from a list in python"),
        ("bash_code_execution", "command", "ls -la && python3 count.py"),
        ("code_execution", "code", "print(sum(range(10)))"),
    ],
)
async def test_an_ordinary_search_or_execution_passes_each_preset(
    cls: type[Policy], name: str, key: str, said: str
) -> None:
    policy = cls() if cls is Secrets else load_policy(f"{cls.__module__}:{cls.__name__}", {})
    items = server_stream(said, name, key)
    delivered = await deliver(policy, items)
    assert Delivered.of(delivered) == replace(Delivered.of(items), chunks=delivered)
    assert "the output" in written(delivered)


@pytest.mark.parametrize("key", ["command", "code"])
async def test_a_dangerous_execution_is_withheld_with_its_result(key: str) -> None:
    said = "rm -rf /" if key == "command" else "import shutil; shutil.rmtree('/')"
    policy = load_policy(f"{BlockDangerousCommands.__module__}:BlockDangerousCommands", {})
    delivered = await deliver(policy, server_stream(said, "code_execution", key))
    assert "the output" not in written(delivered)
    assert said not in written(delivered)
    assert Delivered.of(delivered).text.endswith("Done.")


# What nobody judges, and what nobody can read


MALFORMED: list[Any] = [
    b"data",
    {"choices": []},
    chunk(content=5),
    chunk(refusal=["x"]),
    chunk(audio="x"),
    chunk(audio={"transcript": 5}),
    chunk(thinking_blocks={"a": 1}),
    chunk(choice=-1),
    chunk(function_call=5),
    ModelResponseStream.model_construct(choices=None),
    ModelResponseStream.model_construct(choices=[None]),
    ModelResponse.model_construct(choices=[5]),
]


@pytest.mark.parametrize("raw", MALFORMED, ids=range(len(MALFORMED)))
async def test_what_cannot_be_read_passes_where_nobody_judges_and_ends_the_response_elsewhere(raw: Any) -> None:
    items = [text("a"), raw, text("secret"), finish()]
    assert [id(item) for item in await deliver(NoOp(), items)] == [id(item) for item in items]
    assert await deliver_full(NoOp(), raw) is raw
    ended = await deliver(LetsThrough(), items)
    assert "a policy check failed" in Delivered.of(ended).text
    assert "secret" not in str(ended)
    assert "a policy check failed" in (await deliver_full(LetsThrough(), raw)).choices[0].message.content


async def test_each_choice_keeps_its_own_fields() -> None:
    class ShoutsTheFirst(SimplePolicy):
        async def on_response_content(self, content: str, request: Request) -> str:
            return content.upper() if content == "left" else content

    said = ["left", "right"]
    messages = [
        {"index": n, "finish_reason": "stop", "message": {"content": word, "note": f"about {word}"}}
        for n, word in enumerate(said)
    ]
    response = ModelResponse(choices=messages, usage=USAGE, **HEAD)
    changed = await deliver_full(ShoutsTheFirst(), response)
    assert changed.choices[1] is response.choices[1]
    assert "about left" not in written(changed)
    items = [
        *(chunk(choice=n, content=word, note=f"about {word}") for n, word in enumerate(said)),
        *(finish(choice=n) for n in (0, 1)),
    ]
    streamed = written(await deliver(ShoutsTheFirst(), items))
    assert "about left" not in streamed
    assert "about right" in streamed


def _mutated(items: Sequence[Any], seed: int) -> list[Any]:
    """`items` repeated, cut, in another order, as `seed` says."""
    chance = random.Random(seed)
    mutated = [item for item in items for _ in range(chance.choice((0, 1, 1, 1, 2)))]
    for _ in range(chance.randrange(4)):
        at, to = chance.randrange(len(mutated) or 1), chance.randrange(len(mutated) or 1)
        mutated[at:at], mutated[to:to] = mutated[to : to + 1], mutated[at : at + 1]
    return mutated[: chance.randrange(1, len(mutated) + 2)]


@pytest.mark.parametrize("seed", range(60))
async def test_whatever_a_provider_sends_leaves_just_so_where_nobody_judges(seed: int) -> None:
    items = _mutated([*marked_stream(), *server_stream("ls"), *MALFORMED, finish(), chunk(usage=USAGE)], seed)
    assert [id(item) for item in await deliver(NoOp(), items)] == [id(item) for item in items]


def test_events_say_where_they_belong() -> None:
    [came] = adapter().decode(marked_stream()[-1])
    kinds = {type(event) for event in came.events}
    assert {TextDelta, ToolCallDelta, Quote, Opaque} <= kinds
    assert not any(isinstance(event, Unknown) for event in came.events)
    assert {event.choice for event in came.events} == {0, -1}
