"""Responses: nothing withheld leaves by a field, and what nobody judges leaves just as it came."""

import json
import random
import re
import types
from collections.abc import Iterator
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from litellm.types.llms.openai import ResponsesAPIResponse
from openai.types.responses import ResponseOutputItem, ResponseStreamEvent
from pydantic import BaseModel

from luthien_litellm_hooks import (
    Policy,
    PolicyBlockedError,
    StreamingResponseContext,
    ToolCallStreamBlock,
    drop_block,
    passthrough_accumulated_chunks,
    passthrough_last_chunk,
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
from luthien_litellm_hooks.policy.limits import Limits
from luthien_litellm_hooks.testing.answers import Answer, Call, Say, Think
from luthien_litellm_hooks.wire.events import ContentStreamBlock
from luthien_litellm_hooks.wire.responses.kinds import get
from tests.support.responses import deliver, deliver_full, parse, plain, read_strictly
from tests.unit.wire.test_responses_adapter import RECORDINGS, DropAll, DropCalls, Holding, recorded, scripted

pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")

Payload = dict[str, Any]


class DropTexts(Holding):
    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        drop_block(ctx)


class Watch(Holding):
    """Lets everything pass, and notes it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.quotes: list[str] = []

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        assert isinstance(ctx.block, ContentStreamBlock)
        (self.quotes if ctx.block.is_quoted else self.texts).append(ctx.block.content)
        await passthrough_accumulated_chunks(ctx)

    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        assert isinstance(ctx.block, ToolCallStreamBlock)
        self.calls.append((ctx.block.name, ctx.block.arguments, ctx.block.form))
        await passthrough_accumulated_chunks(ctx)


class Redact(Holding):
    """Writes another text in place of a secret, in whatever text it stands."""

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        assert isinstance(ctx.block, ContentStreamBlock)
        if "SECRET" in ctx.block.content:
            await send_text(ctx, ctx.block.content.replace("SECRET", "[gone]"))
        else:
            await passthrough_accumulated_chunks(ctx)


# Streams


def response_of(output: list[Payload], **more: Any) -> Payload:
    usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": "m",
        "output": output,
        "usage": usage,
        **more,
    }


def numbered(payloads: list[Payload]) -> list[Payload]:
    return json.loads(json.dumps([{**payload, "sequence_number": n} for n, payload in enumerate(payloads)]))


def stream_of(items: list[Payload], pieces: dict[int, list[Payload]] | None = None, **more: Any) -> list[Payload]:
    """A stream in which each item is announced empty, and says all at its end."""
    payloads: list[Payload] = [
        {"type": "response.created", "response": {**response_of([]), "status": "in_progress", "usage": None}}
    ]
    for index, item in enumerate(items):
        begun = {name: value for name, value in item.items() if name in ("type", "id", "call_id", "name", "execution")}
        lists = {name: [] for name in ("content", "summary") if name in item}
        place = {"output_index": index, "item_id": item["id"]}
        payloads += [
            {
                "type": "response.output_item.added",
                "output_index": index,
                "item": {**begun, **lists, "status": "in_progress"},
            },
            *({**place, **piece} for piece in (pieces or {}).get(index, ())),
            {"type": "response.output_item.done", "output_index": index, "item": item},
        ]
    payloads.append({"type": "response.completed", "response": response_of(items, **more)})
    return numbered(payloads)


def as_sent(payloads: list[Payload]) -> list[Payload]:
    """What a client gets of them without us."""
    return [plain(parse(payload)) for payload in payloads]


def message(text: str = "hello", annotations: list[Payload] | None = None, **more: Any) -> Payload:
    part = {"type": "output_text", "text": text, "annotations": annotations or [], **more}
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}


async def streamed(policy: Policy, payloads: list[Payload], **options: Any) -> list[Payload]:
    return [plain(unit) for unit in await deliver(policy, list(map(parse, payloads)), **options)]


async def full(policy: Policy, items: list[Payload], **more: Any) -> Payload:
    return plain(await deliver_full(policy, ResponsesAPIResponse(**response_of(items, **more))))


# Markers in all that the official client knows

_PASSES = re.compile(
    r""".*\.(id|call_id|item_id|response_id|encrypted_content|approval_request_id|container_id|caller_id|created_by
    |fingerprint|phase|namespace|server_label|.*_id|role|data)$""",
    re.VERBOSE,
)
"""What always leaves with its item."""


def filled(annotation: Any, path: str) -> Any:
    """A value of a type with a marker in every text."""
    while hasattr(annotation, "__metadata__"):
        annotation = get_args(annotation)[0]
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Union or origin is types.UnionType:
        return filled(next(arg for arg in args if arg is not type(None)), path)
    if origin is Literal:
        return args[0]
    if origin is list:
        return [filled(arg, f"{path}.{n}") for n, arg in enumerate(variants(args[0]))]
    if origin is dict:
        return {"key": filled(args[1], f"{path}.key")}
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = {name: filled(field.annotation, f"{path}.{name}") for name, field in annotation.model_fields.items()}
        return {**fields, "extra": f"MARK{path}.extra."}
    if annotation in (int, float, bool):
        return annotation(0)
    return f"MARK{path}."


def variants(annotation: Any) -> list[Any]:
    while hasattr(annotation, "__metadata__"):
        annotation = get_args(annotation)[0]
    args = get_args(annotation)
    is_union = get_origin(annotation) is Union or get_origin(annotation) is types.UnionType
    return [arg for arg in args if arg is not type(None)] if is_union else [annotation]


@cache
def items_with_markers() -> str:
    items: list[Payload] = []
    for number, model in enumerate(variants(ResponseOutputItem)):
        item = filled(model, f".{model.__name__}")
        item.update({"id": f"item_{number}"})
        item.update({"call_id": f"call_{number}"} if "call_id" in item else {})
        item.update({"arguments": '{"path": "MARK.arguments."}'} if isinstance(item.get("arguments"), str) else {})
        item.update({"status": "completed"} if "status" in item else {})
        items.append(item)
    return json.dumps(items)


def marked() -> list[Payload]:
    return json.loads(items_with_markers())


def of_kind(*types: str) -> list[Payload]:
    return [item for item in marked() if item["type"] in types]


def markers(value: Any) -> list[str]:
    found = re.findall(r"MARK([\w.]*?)\.(?=\W|$)", json.dumps(value))
    return [mark for mark in found if not _PASSES.fullmatch(mark)]


MORE: Payload = {"metadata": {"a": "MARK.metadata."}, "instructions": "MARK.instructions.", "unknown": "MARK.unknown."}
CALLS = tuple(item["type"] for item in marked() if item["type"].endswith("_call") or item["type"] == "program")
APPROVALS = ("mcp_approval_request",)
TEXTS = tuple(
    item["type"] for item in marked() if item["type"].endswith(("_output", "_tools", "_response")) or "content" in item
)


@pytest.mark.parametrize("way", ["streamed", "full"])
@pytest.mark.parametrize("item", marked(), ids=lambda item: item["type"])
async def test_nothing_of_what_was_dropped_stands_in_any_field(item: Payload, way: str) -> None:
    item["surprise"] = {"a": ["MARK.surprise."]}
    items = [item, message("MARK.said.")]
    said = (
        await full(DropAll(), items, **MORE) if way == "full" else await streamed(DropAll(), stream_of(items, **MORE))
    )
    assert markers(said) == []
    assert len(markers(stream_of([item], **MORE))) > 1


@pytest.mark.parametrize("way", ["streamed", "full"])
async def test_nothing_of_dropped_calls_stands_in_any_field(way: str) -> None:
    items = of_kind(*CALLS, *APPROVALS, "reasoning")
    said = (
        await full(DropCalls(), items, **MORE)
        if way == "full"
        else await streamed(DropCalls(), stream_of(items, **MORE))
    )
    assert [mark for mark in markers(said) if not mark.startswith(".ResponseReasoningItem")] == []
    assert any(mark.startswith(".ResponseReasoningItem.summary") for mark in markers(said))


@pytest.mark.parametrize("way", ["streamed", "full"])
async def test_nothing_of_dropped_texts_stands_in_any_field(way: str) -> None:
    items = of_kind("message", "mcp_list_tools", "mcp_approval_response", "additional_tools", "file_search_call")
    said = (
        await full(DropTexts(), items, **MORE)
        if way == "full"
        else await streamed(DropTexts(), stream_of(items, **MORE))
    )
    assert set(markers(said)) <= {".ResponseFileSearchToolCall.queries.0"}


@pytest.mark.parametrize("event", variants(ResponseStreamEvent), ids=lambda event: event.__name__)
async def test_nothing_of_a_stray_event_gets_past_a_policy_that_drops_everything(event: type[BaseModel]) -> None:
    payload = filled(event, f".{event.__name__}")
    if "response" in payload:  # how the stream begins is for the request to say
        payload["response"] = {**response_of([]), "unknown": "MARK.unknown.", "output": marked()[:3]}
    payload = {**payload, "output_index": 1} if "output_index" in payload else payload
    base = stream_of([message()])
    stray = payload["type"]
    at_end = stray in ("response.completed", "response.failed", "response.incomplete")
    left = await streamed(DropAll(), numbered([*base[:-1], payload, *([] if at_end else base[-1:])]))
    assert [mark for mark in markers(left) if mark != ".ResponseErrorEvent.code"] == []


# Byte identity where no policy judges


def broken(payloads: list[Payload], chance: random.Random) -> list[Payload]:
    """`payloads` in some order that a broken provider might send."""
    events = list(payloads)
    for _ in range(chance.randrange(1, 5)):
        place = chance.randrange(len(events))
        action = chance.randrange(5)
        if action == 0:
            events.insert(place, chance.choice(payloads))
        elif action == 1 and len(events) > 2:
            del events[place]
        elif action == 2:
            events.insert(chance.randrange(len(events)), events.pop(place))
        elif action == 3:
            other = json.loads(json.dumps(chance.choice(payloads)))
            for name in ("output_index", "item_id", "content_index", "delta", "item", "part", "type"):
                if name in other and chance.random() < 0.3:
                    other[name] = chance.choice([None, 7, -1, "x", {}, [], True])
            events.insert(place, other)
        else:
            events = events[: max(place, 1)]
    return events


def overlap(payloads: list[Payload]) -> bool:
    indexes = [payload["output_index"] for payload in payloads if "output_index" in payload]
    return indexes != sorted(indexes) or any(
        payload["type"].endswith("item.done") and other.get("output_index") == payload["output_index"]
        for n, payload in enumerate(payloads)
        for other in payloads[n + 1 :]
    )


def legal_streams() -> Iterator[list[Payload]]:
    for interleave in (True, False):
        steps = [Think("a b"), Say("one two"), Call("f", '{"a": 1}'), Say("three")]
        yield scripted(Answer(steps, interleave=interleave))
    yield stream_of([{**SEARCH}, message(annotations=[CITATION]), {**CODE}, {**MCP}], {2: CODE_PIECES})
    yield from ([*recorded(recording)] for recording in RECORDINGS)


def short(payloads: list[Payload]) -> list[Payload]:
    """Without most of the many pieces."""
    return [payload for n, payload in enumerate(payloads) if n < 40 or not payload["type"].endswith(".delta")]


CITATION = {"type": "url_citation", "url": "https://a.example/SECRET", "title": "A", "start_index": 0, "end_index": 2}
SEARCH = {
    "type": "web_search_call",
    "id": "ws_1",
    "status": "completed",
    "action": {"type": "search", "query": "weather in Paris", "sources": [{"type": "url", "url": "https://a.example"}]},
}
CODE = {
    "type": "code_interpreter_call",
    "id": "ci_1",
    "status": "completed",
    "container_id": "cntr_1",
    "code": "print(sum(range(10)))",
    "outputs": [{"type": "logs", "logs": "45 SECRET"}],
}
CODE_PIECES: list[Payload] = [
    {"type": "response.code_interpreter_call.in_progress"},
    {"type": "response.code_interpreter_call_code.delta", "delta": "print(sum("},
    {"type": "response.code_interpreter_call_code.delta", "delta": "range(10)))"},
    {"type": "response.code_interpreter_call_code.done", "code": "print(sum(range(10)))"},
    {"type": "response.code_interpreter_call.interpreting"},
    {"type": "response.code_interpreter_call.completed"},
]
MCP = {
    "type": "mcp_call",
    "id": "mcp_1",
    "status": "completed",
    "name": "read_wiki",
    "server_label": "wiki",
    "arguments": '{"page": "Paris"}',
    "output": "SECRET of Paris",
}
FILES = {
    "type": "file_search_call",
    "id": "fs_1",
    "status": "completed",
    "queries": ["capital of France"],
    "results": [{"file_id": "file_1", "filename": "a.txt", "text": "Paris SECRET", "score": 0.5, "attributes": {}}],
}
SHELL = {
    "type": "shell_call",
    "id": "sh_1",
    "call_id": "call_sh",
    "status": "completed",
    "action": {"commands": ["ls -la"], "timeout_ms": None, "max_output_length": None},
    "environment": {"type": "container_reference", "container_id": "cntr_1"},
}
SHELL_OUTPUT = {
    "type": "shell_call_output",
    "id": "sho_1",
    "call_id": "call_sh",
    "status": "completed",
    "output": [{"outcome": {"type": "exit", "exit_code": 0}, "stdout": "a SECRET", "stderr": ""}],
}
APPROVAL = {
    "type": "mcp_approval_request",
    "id": "mcpr_1",
    "name": "delete_wiki",
    "server_label": "wiki",
    "arguments": '{"page": "Paris"}',
}
SERVERS = [SEARCH, CODE, MCP, FILES, SHELL, SHELL_OUTPUT, APPROVAL]


@pytest.mark.parametrize("seed", range(60))
async def test_what_no_policy_judges_leaves_as_the_very_events(seed: int) -> None:
    chance = random.Random(seed)
    for payloads in legal_streams():
        events: list[Any] = list(map(parse, broken(short(payloads), chance)))
        if chance.random() < 0.2:
            events.insert(chance.randrange(len(events)), b"no event")
        assert [id(unit) for unit in await deliver(NoOp(), events)] == list(map(id, events))


class Pass(Policy):
    """Judges each piece, and lets it pass."""

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        await passthrough_last_chunk(ctx)

    on_reasoning_delta = on_tool_call_delta = on_content_delta


@pytest.mark.parametrize("policy", [Pass, Watch])
async def test_what_a_policy_judges_and_lets_pass_leaves_as_the_very_events(policy: type[Policy]) -> None:
    for payloads in legal_streams():
        if policy is Watch and overlap(payloads):
            continue  # what it holds leaves one block after the other
        events = list(map(parse, payloads))
        assert [id(unit) for unit in await deliver(policy(), events)] == list(map(id, events))


async def test_a_notice_may_still_follow_what_left_as_it_came() -> None:
    payloads = scripted(Answer([Say("hello"), Call("f", '{"a": 1}'), Say("x" * 500)]))
    left = await deliver(NoOp(), list(map(parse, payloads)), limits=Limits(max_stream_bytes=100))
    reading = read_strictly(left)
    assert reading.text[0] == "hello"
    assert reading.text[-1].startswith("[luthien]")


async def test_ids_that_differ_in_each_event_are_left_alone() -> None:
    payloads = scripted(Answer([Think("hm"), Say("one two three"), Call("f", '{"a": 1}')]))
    for number, payload in enumerate(payloads):
        if "item_id" in payload:
            payload["item_id"] = f"{payload['item_id']}_{number}"
        if "item" in payload:
            payload["item"]["id"] = f"{payload['item']['id']}_{number}"
    for policy in (NoOp(), Watch()):
        events = list(map(parse, payloads))
        assert [id(unit) for unit in await deliver(policy, events)] == list(map(id, events))
    left = await streamed(AllCaps(), payloads)
    assert "".join(payload["delta"] for payload in left if "output_text.delta" in payload["type"]) == "ONE TWO THREE"


# What a policy did not ask about never ends a response


def stray() -> list[Payload]:
    payloads = scripted(Answer([Call("Bash", '{"command": "ls"}')]))
    done = next(n for n, payload in enumerate(payloads) if payload["type"].endswith("arguments.done"))
    late = {**next(payload for payload in payloads if payload["type"].endswith("arguments.delta")), "delta": "}"}
    return numbered([*payloads[: done + 1], late, *payloads[done + 1 :]])


@pytest.mark.parametrize("policy", [NoOp, DropTexts, Holding, BlockDangerousCommands])
async def test_a_late_piece_passes_or_is_ignored(policy: type[Policy]) -> None:
    payloads = stray()
    left = await streamed(policy(), payloads)
    assert left[-1]["response"]["output"][0]["arguments"] == '{"command": "ls"}'
    assert "[luthien]" not in json.dumps(left)
    assert (left == as_sent(payloads)) == (policy is NoOp)
    if policy is Holding:
        read_strictly(await deliver(policy(), list(map(parse, payloads))))


def unannounced() -> list[Payload]:
    payloads = scripted(Answer([Say("hello"), Call("Bash", '{"command": "ls"}')]))
    return numbered([p for p in payloads if not (p["type"].endswith("item.added") and p["output_index"] == 1)])


async def test_a_call_that_nothing_announced_is_judged_at_its_end() -> None:
    watch, payloads = Watch(), unannounced()
    left = await streamed(watch, payloads)
    assert watch.calls == [("Bash", '{"command": "ls"}', "function")]
    assert left == as_sent(payloads)
    assert "Bash" not in json.dumps(await streamed(DropCalls(), unannounced()))
    lied = unannounced()
    for payload in lied:
        if payload["type"].endswith("arguments.delta"):
            payload["delta"] = payload["delta"].replace("ls", "rm")
    assert "rm" not in "".join(payload.get("delta", "") for payload in await streamed(Holding(), lied))


@pytest.mark.parametrize("unjudged", ["withhold", "pass"])
async def test_unknown_items_parts_and_events_wait_for_the_setting(unjudged: Any) -> None:
    item = {"type": "telepathy_call", "id": "tp_1", "status": "completed", "thought": "unheard"}
    payloads = stream_of([item, message()], {0: [{"type": "response.telepathy.thought", "thought": "unheard"}]})
    payloads = numbered([*payloads[:-1], {"type": "response.telepathy", "thought": "unheard"}, payloads[-1]])
    left = await streamed(Watch(), payloads, unjudged=unjudged)
    assert (left == as_sent(payloads)) == (unjudged == "pass")
    assert ("unheard" in json.dumps(left)) == (unjudged == "pass")
    assert "hello" in json.dumps(left)


async def test_what_cannot_be_read_ends_a_response_that_is_judged() -> None:
    payloads = scripted(Answer([Say("hello"), Call("f", "{}")]))
    payloads.insert(4, {"type": "response.function_call_arguments.delta", "output_index": "x", "delta": "{}"})
    left = await streamed(Watch(), payloads)
    assert "[luthien]" in json.dumps(left)
    assert '"f"' not in json.dumps(left)


# Server tools


@pytest.mark.parametrize("way", ["streamed", "full"])
async def test_server_tools_are_judged_with_their_results(way: str) -> None:
    watch = Watch()
    if way == "full":
        await full(watch, SERVERS)
    else:
        await streamed(watch, stream_of(SERVERS, {1: CODE_PIECES}))
    assert watch.calls == [
        ("web_search", '{"type": "search", "query": "weather in Paris"}', "server"),
        ("code_interpreter", json.dumps({"code": CODE["code"]}), "server"),
        ("read_wiki", MCP["arguments"], "server"),
        ("file_search", '{"queries": ["capital of France"]}', "server"),
        ("shell", '{"commands": ["ls -la"]}', "server"),
        ("delete_wiki", APPROVAL["arguments"], "server"),
    ]
    assert [quote for quote in watch.quotes if "SECRET" in quote] == [
        "45 SECRET",
        "SECRET of Paris",
        "a.txt\nParis SECRET",
        "a SECRET",
    ]


@pytest.mark.parametrize("way", ["streamed", "full"])
async def test_a_result_is_written_back_where_it_was_read(way: str) -> None:
    items = [CODE, MCP, FILES, SHELL, SHELL_OUTPUT, message(annotations=[CITATION])]
    left = (
        await full(Redact(), items) if way == "full" else (await streamed(Redact(), stream_of(items)))[-1]["response"]
    )
    assert "SECRET" not in json.dumps(left)
    code, mcp, files, _, output, said = left["output"]
    assert code["outputs"] == [{"type": "logs", "logs": "45 [gone]"}]
    assert mcp["output"] == "[gone] of Paris"
    assert (files["results"][0]["text"], files["results"][0]["filename"]) == ("Paris [gone]", "a.txt")
    assert output["output"][0]["stdout"] == "a [gone]"
    assert said["content"][0]["annotations"][0]["url"] == "https://a.example/[gone]"
    assert said["content"][0]["text"] == "hello"


class DropCode(Holding):
    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        assert isinstance(ctx.block, ToolCallStreamBlock)
        if ctx.block.name not in ("code_interpreter", "shell"):
            await passthrough_accumulated_chunks(ctx)


@pytest.mark.parametrize("way", ["streamed", "full"])
async def test_a_withheld_server_call_takes_its_result_along(way: str) -> None:
    items = [CODE, SEARCH, SHELL, SHELL_OUTPUT, message()]
    if way == "full":
        left: Any = await full(DropCode(), items)
    else:
        left = await streamed(DropCode(), stream_of(items, {0: CODE_PIECES}))
        read_strictly(await deliver(DropCode(), list(map(parse, stream_of(items, {0: CODE_PIECES})))))
    assert "SECRET" not in json.dumps(left)
    assert "range" not in json.dumps(left)
    assert "weather" in json.dumps(left)
    assert "[luthien]" not in json.dumps(left)


async def test_pieces_of_code_that_is_not_what_the_item_says_do_not_leave() -> None:
    pieces = [{**piece, "delta": "rm -rf"} if "delta" in piece else piece for piece in CODE_PIECES]
    left = await streamed(Holding(), stream_of([CODE], {0: pieces}))
    assert "rm -rf" not in json.dumps(left)
    assert CODE["code"] in json.dumps(left)


class HoldTexts(Policy):
    """Lets texts out at the end of the response."""

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None: ...

    async def on_finish_reason(self, ctx: StreamingResponseContext) -> None:
        await passthrough_accumulated_chunks(ctx)


async def test_a_result_that_is_held_to_the_end_is_in_the_last_event() -> None:
    items = [CODE, SHELL, SHELL_OUTPUT, message(annotations=[CITATION])]
    left = await streamed(HoldTexts(), stream_of(items))
    assert json.dumps(left[-1]["response"]["output"]).count("SECRET") == 3
    assert "SECRET" not in json.dumps(left[:5])


# Presets


def preset(cls: type[Policy]) -> Policy:
    return load_policy(f"{cls.__module__}:{cls.__name__}", {})


PRESETS = (
    BlockDangerousCommands,
    BlockSensitiveFileWrites,
    BlockWebRequests,
    SqlProtection,
    ProtectProxy,
    Secrets,
)
OPENED = {**SEARCH, "id": "ws_2", "action": {"type": "open_page", "url": "https://en.wikipedia.org/wiki/Paris"}}
FOUND = {**SEARCH, "id": "ws_3", "action": {"type": "find_in_page", "url": "https://a.example", "pattern": "x"}}


@pytest.mark.parametrize("cls", PRESETS, ids=lambda cls: cls.__name__)
async def test_ordinary_server_tools_pass_every_preset(cls: type[Policy]) -> None:
    is_blocked = cls is BlockWebRequests  # to open a page reaches a host that the model names
    items = [SEARCH, CODE, FILES, message(annotations=[CITATION]), *([] if is_blocked else [OPENED, FOUND])]
    payloads = stream_of(items, {1: CODE_PIECES})
    assert await streamed(preset(cls), payloads) == as_sent(payloads)
    response = ResponsesAPIResponse(**response_of(items))
    assert await deliver_full(preset(cls), response) is response


@pytest.mark.parametrize("way", ["streamed", "full"])
async def test_dangerous_code_of_a_server_tool_is_withheld_with_its_result(way: str) -> None:
    code = {**CODE, "code": "import shutil; shutil.rmtree('/')"}
    shell = {**SHELL, "action": {"commands": ["rm -rf /"]}}
    items = [code, shell, SHELL_OUTPUT, message()]
    policy = preset(BlockDangerousCommands)
    left: Any = await full(policy, items) if way == "full" else await streamed(policy, stream_of(items))
    said = json.dumps(left)
    assert "rmtree" not in said
    assert "rm -rf" not in said
    assert "SECRET" not in said
    assert "hello" in said
    assert "[luthien]" in said


async def test_code_that_an_agent_runs_for_the_client_passes_every_preset() -> None:
    code = 'const r = await tools.exec_command({cmd: "ls -la", workdir: "/p"});\ntext(r.output);'
    call = {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c", "name": "exec", "input": code}
    for cls in PRESETS:
        left = await streamed(preset(cls), stream_of([call]))
        assert left[-1]["response"]["output"][0].get("input") == code, cls


# Other texts


TRANSCRIPT: list[Payload] = [
    {"type": "response.audio.transcript.delta", "delta": "one SE"},
    {"type": "response.audio.delta", "delta": "UklGRg=="},
    {"type": "response.audio.transcript.delta", "delta": "CRET"},
    {"type": "response.audio.transcript.done"},
    {"type": "response.audio.done"},
]


async def test_a_transcript_is_text_and_goes_with_its_audio() -> None:
    base = stream_of([message()])
    payloads = numbered([base[0], *TRANSCRIPT, *base[1:]])
    watch = Watch()
    await streamed(watch, payloads)
    assert watch.texts == ["one SECRET", "hello"]
    assert await streamed(NoOp(), payloads) == as_sent(payloads)
    for policy in (Redact(), DropTexts()):
        left = json.dumps(await streamed(policy, payloads))
        assert "SECRET" not in left.replace("one SE", "")
        assert "UklGRg" not in left
    assert "one [gone]" in json.dumps(await streamed(Redact(), payloads))
    spoken = message()
    spoken["content"] = [{"type": "output_audio", "data": "UklGRg==", "transcript": "one SECRET"}]
    said = (await full(Redact(), [spoken]))["output"][0]["content"][0]
    assert said == {"type": "output_audio", "transcript": "one [gone]"}


async def test_the_words_of_an_error_are_the_providers_only_where_nobody_judges() -> None:
    begun = scripted(Answer([Say("hello"), Call("f", '{"a": "SECRET"}')]))[:-4]
    errors: list[Payload] = [
        {"type": "error", "code": "x", "message": "failed at SECRET", "param": None},
        {"type": "error", "error": {"type": "t", "code": "x", "message": "failed at SECRET"}},
        {"type": "response.failed", "response": {**response_of([]), "error": {"code": "x", "message": "SECRET"}}},
    ]
    for error in errors:
        payloads = numbered([*begun, error])
        assert [plain(unit) for unit in await deliver(NoOp(), list(map(parse, payloads)))][-1] == plain(
            parse(payloads[-1])
        )
        left = await streamed(DropCalls(), payloads)
        assert left[-1]["type"] == error["type"]
        assert "SECRET" not in json.dumps(left)


async def test_what_litellm_writes_of_a_chat_providers_reasoning_is_no_sealed_text() -> None:
    item = {
        "type": "reasoning",
        "id": "rs_1",
        "status": "completed",
        "content": [],
        "encrypted_content": '[{"type":"thinking","thinking":"SECRET","signature":"s"}]',
    }
    call = {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "c",
        "name": "f",
        "arguments": "{}",
        "status": "completed",
    }
    assert "SECRET" not in json.dumps(await full(DropCalls(), [item, call]))
    sealed = {**item, "encrypted_content": "gAAAA-SECRET"}
    assert "SECRET" in json.dumps(await full(DropCalls(), [sealed, call]))


async def test_the_text_beside_the_items_does_not_leave_with_the_first_unit() -> None:
    payloads = stream_of([message("SECRET")])
    payloads[0]["response"]["output_text"] = "SECRET"
    assert "SECRET" not in json.dumps(await streamed(DropTexts(), payloads))
    assert await streamed(NoOp(), payloads) == as_sent(payloads)


async def test_a_field_that_repeats_leaves_while_all_leaves_as_it_came() -> None:
    logprobs = [{"token": "hello", "logprob": -1, "bytes": [], "top_logprobs": []}]
    item = message(logprobs=logprobs)
    assert "logprob" in json.dumps((await streamed(Watch(), stream_of([item], metadata={"a": "b"})))[-1])
    call = {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "c",
        "name": "f",
        "arguments": "{}",
        "status": "completed",
    }
    left = await full(DropCalls(), [item, call], metadata={"a": "b"})
    assert "token" not in json.dumps(left["output"])
    assert "b" not in json.dumps(left.get("metadata"))
    assert left["output"][0]["content"][0]["text"] == "hello"
    assert left["usage"]["total_tokens"] == 3


class Block(Policy):
    async def on_tool_call_delta(self, ctx: StreamingResponseContext) -> None:
        raise PolicyBlockedError("No.")


async def test_a_call_that_was_cut_off_is_told_to_be_incomplete() -> None:
    payloads = scripted(Answer([Say("hello"), Call("f", '{"a": 1}')]))
    left = await deliver(NoOp(), list(map(parse, payloads)), limits=Limits(max_stream_bytes=8))
    calls = [get(unit, "item") for unit in left if get(unit, "type") == "response.output_item.done"]
    assert [call["status"] for call in map(plain_item, calls) if call["type"] == "function_call"] in (
        [],
        ["incomplete"],
    )


def plain_item(item: Any) -> Payload:
    return plain(item) if isinstance(item, BaseModel) else item


async def test_the_policies_see_one_quote_an_annotation_however_often_it_is_said() -> None:
    watch = Watch()
    annotated = {"type": "response.output_text.annotation.added", "content_index": 0, "annotation_index": 0}
    begun = {"type": "response.content_part.added", "content_index": 0, "part": {**message("")["content"][0]}}
    pieces = [
        begun,
        {"type": "response.output_text.delta", "content_index": 0, "delta": "hello"},
        {**annotated, "annotation": CITATION},
        {"type": "response.output_text.done", "content_index": 0, "text": "hello"},
        {
            "type": "response.content_part.done",
            "content_index": 0,
            "part": message(annotations=[CITATION])["content"][0],
        },
    ]
    payloads = stream_of([message(annotations=[CITATION])], {0: pieces})
    assert await streamed(watch, payloads) == as_sent(payloads)
    assert watch.quotes == ["https://a.example/SECRET\nA"]
    left = await streamed(DropTexts(), payloads)
    assert "SECRET" not in json.dumps(left)
    left = await streamed(Redact(), payloads)
    assert json.dumps(left).count("https://a.example/[gone]") == 4
    begun["part"] = message("", annotations=[CITATION])["content"][0]
    payloads = stream_of([message(annotations=[CITATION])], {0: [begun, *pieces[1:]]})
    assert await streamed(Watch(), payloads) == as_sent(payloads)
    assert "SECRET" not in json.dumps(await streamed(DropTexts(), payloads))
