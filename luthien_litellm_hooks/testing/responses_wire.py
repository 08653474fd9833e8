"""Encoder of an `Answer` in the OpenAI responses format."""

import time
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from luthien_litellm_hooks.testing import openai_wire
from luthien_litellm_hooks.testing.answers import JSON, Answer, Call, Cut, Emission, Say, Think, Wait, dump, fresh_id

_CALL_ID = "call_"
_TEXT_PART: JSON = {"type": "output_text", "annotations": [], "logprobs": [], "text": ""}

error = openai_wire.error


def full(answer: Answer, request: JSON) -> JSON:
    """Returns the body of a full response."""
    steps = answer.with_call_ids(_CALL_ID).steps
    items = [_item(answer, step) for step in steps if not isinstance(step, Wait | Cut)]
    return _response(request, fresh_id("resp_"), answer, items)


def stream(answer: Answer, request: JSON) -> Iterator[Emission]:
    """Yields the numbered events of a stream."""
    answer, id, number = answer.with_call_ids(_CALL_ID), fresh_id("resp_"), 0
    for event in _events(answer, request, id):
        if isinstance(event, Wait | Cut):
            yield event
        else:
            event["sequence_number"], number = number, number + 1
            yield f"event: {event['type']}\ndata: {dump(event)}\n\n".encode()


def _events(answer: Answer, request: JSON, id: str) -> Iterator[JSON | Wait | Cut]:
    for state in ("created", "in_progress"):
        yield {"type": f"response.{state}", "response": _response(request, id, None, [])}
    items: list[JSON] = []
    open_items: list[Iterator[JSON]] = []
    for step in answer.steps:
        if isinstance(step, Wait | Cut):
            yield step
            continue
        is_interleaved = answer.interleave and isinstance(step, Call)
        if not is_interleaved:
            yield from _side_by_side(open_items)
        item = _item(answer, step)
        open_items.append(_item_events(answer, len(items), step, item))
        items.append(item)
        if not is_interleaved:
            yield from _until_its_end(open_items[0])
    yield from _side_by_side(open_items)
    response = _response(request, id, answer, items)
    yield {"type": f"response.{response['status']}", "response": response}


def _until_its_end(events: Iterator[JSON]) -> Iterator[JSON]:
    """Yields the events of an item before its end, which waits for the next step."""
    for event in events:
        if not event:
            return
        yield event


def _side_by_side(items: list[Iterator[JSON]]) -> Iterator[JSON]:
    """Yields the rest of `items` in turns, and empties the list."""
    for row in zip_longest(*items):
        yield from (event for event in row if event)
    items.clear()


def _item(answer: Answer, step: Say | Think | Call) -> JSON:
    head = _head(step, "incomplete" if answer.finish == "length" else "completed")
    match step:
        case Say(text):
            return {**head, "content": [{**_TEXT_PART, "text": text}]}
        case Think(text):
            return {**head, "summary": [{"type": "summary_text", "text": text}]}
        case Call():
            return {**head, "arguments": step.arguments}


def _head(step: Say | Think | Call, status: str) -> JSON:
    match step:
        case Say():
            return {"id": fresh_id("msg_"), "type": "message", "status": status, "role": "assistant", "content": []}
        case Think():
            return {"id": fresh_id("rs_"), "type": "reasoning", "summary": []}
        case Call():
            head = {"id": fresh_id("fc_"), "type": "function_call", "status": status, "arguments": ""}
            return {**head, "call_id": step.id, "name": step.name}


def _item_events(answer: Answer, index: int, step: Say | Think | Call, item: JSON) -> Iterator[JSON]:
    """Yields the events of one item; an empty one marks the beginning of its end."""
    where = {"item_id": item["id"], "output_index": index}
    head = {**_head(step, "in_progress"), "id": item["id"]}
    yield {"type": "response.output_item.added", "output_index": index, "item": head}
    match step:
        case Say(text):
            yield from _part_events(answer, "content", "output_text", text, where, item["content"][0])
        case Think(text):
            yield from _part_events(answer, "summary", "reasoning_summary_text", text, where, item["summary"][0])
        case Call():
            for piece in answer.pieces(step.arguments):
                yield {"type": "response.function_call_arguments.delta", **where, "delta": piece}
            yield {}
            done = {"name": step.name, "arguments": step.arguments}
            yield {"type": "response.function_call_arguments.done", **where, **done}
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


def _part_events(answer: Answer, within: str, delta_kind: str, text: str, where: JSON, part: JSON) -> Iterator[JSON]:
    kind = "content_part" if within == "content" else "reasoning_summary_part"
    where = {**where, f"{within}_index": 0}
    rest: dict[str, Any] = {"logprobs": []} if within == "content" else {}
    yield {"type": f"response.{kind}.added", **where, "part": {**part, "text": ""}}
    for piece in answer.pieces(text):
        yield {"type": f"response.{delta_kind}.delta", **where, "delta": piece, **rest}
    yield {}
    yield {"type": f"response.{delta_kind}.done", **where, "text": text, **rest}
    yield {"type": f"response.{kind}.done", **where, "part": part}


def _response(request: JSON, id: str, answer: Answer | None, output: list[JSON]) -> JSON:
    is_cut = answer is not None and answer.finish == "length"
    status = "in_progress" if answer is None else "incomplete" if is_cut else "completed"
    return {
        "id": id,
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "instructions": request.get("instructions"),
        "metadata": {},
        "model": request.get("model"),
        "output": output,
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": request.get("tools") or [],
        "top_p": 1.0,
        "usage": _usage(answer) if answer is not None else None,
    }


def _usage(answer: Answer) -> JSON:
    usage = answer.usage
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt + usage.completion,
    }
