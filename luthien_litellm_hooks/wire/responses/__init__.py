"""Record of the wire of OpenAI's responses."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel

from luthien_litellm_hooks.wire import readable
from luthien_litellm_hooks.wire.events import ToolCall
from luthien_litellm_hooks.wire.format import (
    Adapter,
    Blocks,
    JsonObject,
    LogShape,
    NewResponse,
    NextTurn,
    Refusal,
    ResponseRules,
    WireFormat,
)
from luthien_litellm_hooks.wire.request_shape import (
    Json,
    RequestShape,
    Thought,
    ToolResult,
    string_in,
    tool_call,
    tool_result,
)
from luthien_litellm_hooks.wire.responses import actions
from luthien_litellm_hooks.wire.responses.kinds import FINISHES, ITEM_DONE, get, pieces

if TYPE_CHECKING:
    from litellm.types.llms.openai import ResponsesAPIResponse

_RULES = ResponseRules(
    blocks_overlap=True,
    marks_blocks=True,
    has_text_after_calls=True,
    stop_reason="completed",
    tool_reasons=("completed",),
    cut_reasons=("incomplete",),
)


def _adapter(new: NewResponse) -> Adapter:
    from litellm.types.llms.openai import ResponsesAPIResponse

    from luthien_litellm_hooks.wire.responses.adapter import ResponsesAdapter

    def empty() -> "ResponsesAPIResponse":
        made = ResponsesAPIResponse(id=f"resp_{new.id.hex}", created_at=new.created, output=[])
        return made.model_copy(update={"object": "response", "model": new.model})

    return ResponsesAdapter(_RULES, empty)


_CALL_RESULTS = {"function_call": "function_call_output", "custom_tool_call": "custom_tool_call_output"}
_NO_CALLS = ("message", "reasoning")
_STORING_FIELDS = ("previous_response_id", "conversation", "prompt")


def _next_body(body: Json, response: Sequence[object], refusals: Sequence[Refusal]) -> JsonObject | None:
    """Returns the body with the response's items and the refusals behind its input; None if the provider stores the
    response, because the client may name it instead of its items."""
    if body.get("store") is not False or any(body.get(name) for name in _STORING_FIELDS):
        return None
    items = [_plain(item) for item in _items_of(response)]
    calls = [item for item in items if item["type"] not in _NO_CALLS]
    if [call.get("call_id") for call in calls] != [refusal.id for refusal in refusals]:
        return None
    if any(call["type"] not in _CALL_RESULTS for call in calls):
        return None
    results = [
        {"type": _CALL_RESULTS[call["type"]], "call_id": refusal.id, "output": refusal.text}
        for call, refusal in zip(calls, refusals, strict=True)
    ]
    asked: object = body.get("input")
    before = [{"role": "user", "content": asked}] if isinstance(asked, str) else cast(list[object], asked or [])
    return {**body, "input": [*before, *filter(_can_be_sent_back, items), *results]}


def _items_of(response: Sequence[object]) -> list[object]:
    """Returns the items of a full response, or of a stream: of its last unit, or else its complete ones."""
    from litellm.types.llms.openai import ResponsesAPIResponse

    if response and isinstance(response[0], ResponsesAPIResponse):
        return pieces(response[0], "output")
    last = next((unit for unit in reversed(response) if get(unit, "type") in FINISHES), None)
    done = [get(unit, "item") for unit in response if get(unit, "type") == ITEM_DONE]
    return pieces(get(last, "response"), "output") or done


def _plain(item: object) -> JsonObject:
    """Returns an item without its id, which a provider only knows of what it stores."""
    fields: dict[str, Any] = (
        item.model_dump(exclude_none=True) if isinstance(item, BaseModel) else dict(cast(Json, item))
    )
    return {name: value for name, value in fields.items() if name != "id" and value is not None}


def _can_be_sent_back(item: JsonObject) -> bool:
    """Holds unless it is reasoning that the provider cannot know again."""
    return item["type"] != "reasoning" or bool(item.get("encrypted_content"))


def _question(text: str, max_tokens: int) -> JsonObject:
    return {"input": text, "max_output_tokens": max_tokens}


def _recognises(payload: Json) -> bool:
    return str(payload.get("type")).startswith("response.") or payload.get("object") == "response"


def _logged(logged: Json, blocks: Blocks, finish_reason: str | None) -> JsonObject:
    return {"output": [_item(block) for block in blocks]}


def _item(block: Json) -> JsonObject:
    if block["type"] == "tool_call":
        call = {"call_id": block["id"], "name": block["name"], "arguments": block["arguments"]}
        return {"type": "function_call", "status": "completed", **call}
    if block["type"] == "reasoning":
        return {"type": "reasoning", "summary": [{"type": "summary_text", "text": block["text"]}]}
    part: JsonObject = {"type": "output_text", "text": block["text"], "annotations": []}
    return {"type": "message", "role": "assistant", "status": "completed", "content": [part]}


def _read_item(item: Json) -> Iterator[ToolCall | ToolResult | Thought]:
    """Yields the reasoning, the call or the result that is an item; of the provider's own calls both."""
    kind = string_in(item, "type")
    if kind == "reasoning":
        yield Thought(readable.read({"summary": item.get("summary"), "content": item.get("content")}))
    elif kind == "function_call":
        yield tool_call(item, item.get("arguments"), id="call_id")
    elif kind == "custom_tool_call":
        yield tool_call(item, item.get("input"), form="custom", id="call_id")
    elif kind in actions.ACTIONS:
        yield from _read_action(item)
    elif kind.endswith("_output"):
        content = {name: item.get(name) for name in actions.RESULTS.get(kind, ("output",))}
        yield tool_result(item, content, id="call_id", is_error=item.get("status") == "failed")


def _read_action(item: Json) -> Iterator[ToolCall | ToolResult]:
    named = {"name": actions.name_of(item), "id": item.get("call_id") or item.get("id")}
    try:
        arguments, results = actions.arguments_of(item), actions.results_of(item)
    except RecursionError:
        arguments, results = "[too deep to read]", {}
    yield tool_call(named, arguments, form=actions.form_of(item))
    if results:
        yield tool_result(named, results, id="id", is_error=item.get("error") or item.get("status") == "failed")


_TEXT_FIELDS = ("text", "content", "output", "refusal", "reason", "annotations", "title", "revised_prompt")
_RESULT_TEXTS = frozenset({"stdout", "stderr", "outputs", "logs", "results", "error"})
"""Members of results with a text, or with parts of one."""

FORMAT = WireFormat(
    name="responses",
    operation="chat",
    call_types=("aresponses", "responses"),
    paths=("/v1/responses", "/responses", "/openai/v1/responses", "/cursor/chat/completions"),
    adapter=_adapter,
    rules=_RULES,
    request=RequestShape(
        texts={"instructions": "system", "input": "user"},
        conversation=("input",),
        instructions=("instructions",),
        stored_prompts={"prompt": "variables"},
        roles={"developer": "system"},
        text_fields=frozenset(_TEXT_FIELDS) | _RESULT_TEXTS,
        contents=("content",),
        signed_types=frozenset({"reasoning"}),
        result_types=("_output", "mcp_call", "code_interpreter_call", "file_search_call"),
        result_items=("_output",),
        result_texts={"program_output": "result"},
        named_texts=frozenset({"attributes"}),
        repeats=frozenset({"logprobs"}),
        arguments=frozenset({"arguments", "input", "action", "actions", "operation", "queries", "code"}),
        readers=(_read_item,),
        tools=("tools",),
        tool_choices=("tool_choice",),
        declarations=("tools",),
        schemas=("parameters",),
        loaded_tools=frozenset({"tool_search_output", "additional_tools"}),
        token_limits=(("max_output_tokens",),),
    ),
    response_texts=frozenset({"text", "delta", "refusal", "arguments"}),
    recognises=_recognises,
    log=LogShape(
        holds=lambda logged: isinstance(logged.get("output"), list),
        content=_logged,
        other_fields=frozenset({"id", "object", "status", "created_at", "completed_at", "model", "usage", "tools"})
        | {"parallel_tool_calls", "tool_choice", "temperature", "top_p", "max_output_tokens", "previous_response_id"}
        | {"store", "truncation"},
    ),
    logged_fields=("input", "messages"),
    question=_question,
    next_turn=NextTurn(call="aresponses", body=_next_body),
)
