"""Record of the wire."""

import json
from collections.abc import Iterator

from luthien_litellm_hooks.wire.events import ToolCall
from luthien_litellm_hooks.wire.format import (
    Adapter,
    Blocks,
    JsonObject,
    LogShape,
    NewResponse,
    WireFormat,
    json_object,
)
from luthien_litellm_hooks.wire.request_shape import Json, RequestShape, ToolResult, tool_call, tool_result
from tests.own_format.adapter import LinesAdapter


def _adapter(new: NewResponse) -> Adapter:
    return LinesAdapter()


def _question(text: str, max_tokens: int) -> JsonObject:
    return {"turns": [{"role": "user", "say": text}], "most": max_tokens}


def _units(text: str) -> Iterator[Json]:
    objects = [json_object(line) for line in text.splitlines()]
    return iter([one for one in objects if one is not None] if None not in objects else [])


def _logged(logged: Json, blocks: Blocks, finish_reason: str | None) -> JsonObject:
    return {"lines": [_line(block) for block in blocks] + [{"done": finish_reason}]}


def _line(block: Json) -> JsonObject:
    return {"call": 0, "name": block["name"]} if block["type"] == "tool_call" else {"say": block["text"]}


def _provider_reply(text: str, is_streaming: bool) -> str:
    lines = [{"say": text}, {"done": "end"}]
    return "".join(f"{json.dumps(line)}\n" for line in lines) if is_streaming else json.dumps({"lines": lines})


def _read(turn: Json) -> Iterator[ToolCall | ToolResult]:
    yield from (tool_call(act, act.get("with")) for act in turn.get("acts") or ())
    if turn.get("role") == "prop":
        yield tool_result({"name": "read"}, turn.get("say"), id="id")


FORMAT = WireFormat(
    name="lines",
    operation="recite",
    call_types=("alines", "lines"),
    streaming_call_types=("alines",),
    paths=("/v1/lines",),
    adapter=_adapter,
    rules=LinesAdapter.rules,
    request=RequestShape(
        texts={"turns": "user", "stage": "system"},
        conversation=("turns",),
        instructions=("stage",),
        roles={"actor": "assistant", "prop": "tool"},
        text_fields=frozenset({"say"}),
        contents=("say",),
        calls=frozenset({"acts"}),
        arguments=frozenset({"with"}),
        readers=(_read,),
        tools=("abilities",),
        unlisted_tools=("prop_box",),
        token_limits=(("most",),),
    ),
    response_texts=frozenset({"say", "with"}),
    recognises=lambda payload: "lines" in payload or bool({"say", "call", "done"} & payload.keys()),
    streams_events=False,
    units=_units,
    log=LogShape(
        holds=lambda logged: isinstance(logged.get("lines"), list), content=_logged, other_fields=frozenset({"play"})
    ),
    logged_fields=("turns",),
    question=_question,
    makes_mock_streams=True,
    provider_reply=_provider_reply,
    tokens=lambda response: (response["heard"], response["said"]) if "heard" in response else None,
)
