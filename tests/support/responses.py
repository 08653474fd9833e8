"""Responses in the making: events as LiteLLM hands them to a plugin, and what a client makes of them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from litellm.llms.openai.responses.transformation import OpenAIResponsesAPIConfig
from litellm.types.llms.openai import ResponsesAPIResponse
from openai._models import construct_type
from openai._types import NOT_GIVEN
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent

from luthien_litellm_hooks import Policy, PolicyContext, PolicyExecutor
from luthien_litellm_hooks.wire import FORMATS
from luthien_litellm_hooks.wire.responses.adapter import ResponsesAdapter
from tests.support.chat import context, provide, pull

LAST = ("response.completed", "response.incomplete", "response.failed")
PARTS = {"output_text": "text", "refusal": "refusal", "summary_text": "text", "reasoning_text": "text"}
CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
ACTIONS = {
    "local_shell_call": ("action",),
    "shell_call": ("action",),
    "apply_patch_call": ("operation",),
    "computer_call": ("action", "actions"),
    "tool_search_call": ("arguments",),
}
DELTAS = {
    "response.output_text": "text",
    "response.refusal": "refusal",
    "response.reasoning_text": "text",
    "response.reasoning_summary_text": "text",
    "response.function_call_arguments": "arguments",
    "response.custom_tool_call_input": "input",
}


def parse(payload: dict[str, Any]) -> Any:
    """The event that LiteLLM makes of what a provider sent."""
    logging: Any = None
    return OpenAIResponsesAPIConfig().transform_streaming_response("m", payload, logging)


def adapter() -> ResponsesAdapter:
    return ResponsesAdapter(
        FORMATS["responses"].rules, lambda: ResponsesAPIResponse(id="resp_own", created_at=1, model="own", output=[])
    )


def plain(unit: Any) -> dict[str, Any]:
    """What a client gets of an event, as the proxy writes it."""
    return json.loads(unit.model_dump_json(exclude_none=True))


async def deliver(policy: Policy, events: Sequence[Any], ctx: PolicyContext | None = None, **options: Any) -> list[Any]:
    executor = PolicyExecutor(policy, **options)
    return await pull(executor.run(provide(events), adapter(), ctx or context()))


async def deliver_full(policy: Policy, response: Any, **options: Any) -> Any:
    return await PolicyExecutor(policy, **options).run_full(response, adapter(), context())


def bare(value: Any) -> Any:
    """`value` without the fields that say nothing."""
    if isinstance(value, dict):
        return {name: bare(part) for name, part in value.items() if part is not None}
    return [bare(part) for part in value] if isinstance(value, list) else value


def action_of(item: dict[str, Any]) -> str:
    """What an action is to do; the order of its fields does not matter."""
    fields = ACTIONS[item["type"]]
    said = {name: item[name] for name in fields if item.get(name) is not None}
    return json.dumps(bare(said if len(fields) > 1 else said.get(fields[0], {})), sort_keys=True)


@dataclass(frozen=True)
class Reading:
    """What an answer says."""

    text: tuple[str, ...] = ()
    reasoning: tuple[str, ...] = ()
    calls: tuple[tuple[str, str, str], ...] = ()
    others: tuple[str, ...] = ()
    status: str = "completed"


def read_response(response: dict[str, Any]) -> Reading:
    """What a whole response says, as the official client parses it."""
    response = official(Response, response).model_dump()
    text: list[str] = []
    reasoning: list[str] = []
    calls: list[tuple[str, str, str]] = []
    others: list[str] = []
    for item in response["output"]:
        if item["type"] in CALLS:
            calls.append((item["call_id"], item["name"], item[CALLS[item["type"]]]))
        elif item["type"] in ACTIONS and item.get("execution") != "server":
            calls.append((item["call_id"], item["type"].removesuffix("_call"), action_of(item)))
        elif item["type"] in ("message", "reasoning"):
            for part in [*(item.get("summary") or ()), *(item.get("content") or ())]:
                (text if item["type"] == "message" else reasoning).append(part[PARTS[part["type"]]])
        else:
            others.append(item["type"])
    return Reading(
        tuple(filter(None, text)), tuple(filter(None, reasoning)), tuple(calls), tuple(others), response["status"]
    )


class Strict:
    """A client that believes nothing: every event must fit all before it, and say what they said."""

    def __init__(self, *, is_numbered: bool = True, is_complete: bool = True) -> None:
        self.is_numbered = is_numbered
        self.is_complete = is_complete  # every block has all the events of its frame
        self.items: dict[int, dict[str, Any]] = {}  # by output_index, as deltas and frames built them
        self.parts: dict[tuple[int, str, int], str] = {}  # texts, by their place
        self.done_parts: set[tuple[int, str, int]] = set()
        self.done_items: set[int] = set()
        self.actions: dict[int, str] = {}  # what an action's end said that it does
        self.last: dict[str, Any] | None = None
        self.number = None

    def read(self, events: Iterable[dict[str, Any]]) -> Reading:
        for position, event in enumerate(events):
            assert self.last is None, f"{event['type']} after the end"
            if position == 0:
                assert event["type"] in ("response.created", "response.queued"), event["type"]
            self._read(event)
        assert self.last is not None, "no end"
        return read_response(self.last)

    def _read(self, event: dict[str, Any]) -> None:
        if self.is_numbered:
            assert event["sequence_number"] == (0 if self.number is None else self.number + 1), event
            self.number = event["sequence_number"]
        kind = event["type"]
        if kind in LAST:
            self._end(event)
        elif kind in ("response.created", "response.in_progress", "response.queued"):
            assert event["response"]["output"] == []
        elif kind == "response.output_item.added":
            assert event["output_index"] == len(self.items), "a gap in the numbers of the items"
            self.items[event["output_index"]] = event["item"]
            assert not [*event["item"].get("content", ()), *event["item"].get("summary", ())], "not announced empty"
            ids = [item["id"] for item in self.items.values()]
            assert len(set(ids)) == len(ids), "an id twice"
        elif "output_index" in event:
            self._in_item(kind, event, self.items[event["output_index"]])

    def _in_item(self, kind: str, event: dict[str, Any], item: dict[str, Any]) -> None:
        index = event["output_index"]
        assert index not in self.done_items, f"{kind} after the end of its item"
        assert event.get("item_id", item["id"]) == item["id"], (kind, event, item)
        says, _, what = kind.rpartition(".")
        if kind == "response.output_item.done":
            self._item_done(index, event["item"])
        elif says in ("response.content_part", "response.reasoning_summary_part"):
            place = self._place(event)
            if what == "added":
                assert place not in self.parts, "a part begins twice"
                assert place[2] == sum(other[:2] == place[:2] for other in self.parts), "a gap in the parts"
                self.parts[place] = event["part"][PARTS[event["part"]["type"]]]
            else:
                assert event["part"][PARTS[event["part"]["type"]]] == self.parts[place], (kind, self.parts[place])
                self.done_parts.add(place)
        elif says in DELTAS:
            self._says(says, what, event, item)

    def _says(self, says: str, what: str, event: dict[str, Any], item: dict[str, Any]) -> None:
        place, field = self._place(event), DELTAS[says]
        if item["type"] in CALLS:
            self.parts.setdefault(place, item[CALLS[item["type"]]])
        elif not self.is_complete:
            self.parts.setdefault(place, "")
        if what == "delta":
            assert place not in self.done_parts, "a delta after the end of its part"
            self.parts[place] += event["delta"]
        else:
            assert event[field] == self.parts[place], (event, self.parts[place])
            if item["type"] in CALLS:
                self.done_parts.add(place)

    def _place(self, event: dict[str, Any]) -> tuple[int, str, int]:
        within = "summary" if "summary_index" in event else "content" if "content_index" in event else ""
        return event["output_index"], within, event.get(f"{within}_index", 0)

    def _item_done(self, index: int, item: dict[str, Any]) -> None:
        self._same(index, item)
        self.done_items.add(index)
        if self.is_complete:
            open_parts = {place for place in self.parts if place[0] == index} - self.done_parts
            assert not open_parts, "an item ends before its parts"

    def _same(self, index: int, item: dict[str, Any]) -> None:
        begun = self.items[index]
        assert (item["id"], item["type"]) == (begun["id"], begun["type"])
        if item["type"] in CALLS:
            field = CALLS[item["type"]]
            assert (item["name"], item["call_id"]) == (begun["name"], begun["call_id"])
            assert item[field] == self.parts.get((index, "", 0), begun[field])
        elif item["type"] in ACTIONS and item.get("execution") != "server":
            assert item["call_id"] == begun["call_id"]
            assert self.actions.setdefault(index, action_of(item)) == action_of(item), "another action"
        elif item["type"] in ("message", "reasoning"):
            said = {
                (index, within, slot): part[PARTS[part["type"]]]
                for within in ("summary", "content")
                for slot, part in enumerate(item.get(within) or ())
            }
            in_parts = {place: text for place, text in self.parts.items() if place[0] == index}
            assert _spoken(said) == _spoken(in_parts)  # what says nothing need not be repeated

    def _end(self, event: dict[str, Any]) -> None:
        self.last = response = event["response"]
        assert event["type"] == f"response.{response['status']}"
        assert len(response["output"]) == len(self.items), "the last event has other items"
        for index, item in enumerate(response["output"]):
            self._same(index, item)
            assert index in self.done_items or item["type"] not in (*CALLS, *ACTIONS, "message", "reasoning"), (
                "an open item"
            )


def read_strictly(units: Iterable[Any], **options: Any) -> Reading:
    """What a client reads that checks all that events promise; the official one must agree."""
    events = [plain(unit) for unit in units]
    reading = Strict(**options).read(events)
    if options.get("is_numbered", True):
        read_by_openai(events)
    return reading


def read_by_openai(events: Iterable[dict[str, Any]]) -> None:
    """Reads with the official client's accumulator, which fails on what does not fit."""
    state: Any = ResponseStreamState(input_tools=NOT_GIVEN, text_format=NOT_GIVEN)
    for event in events:
        for parsed in state.handle_event(official(ResponseStreamEvent, event)):
            assert parsed is not None


def official(kind: Any, value: Any) -> Any:
    """`value` as the official client parses what it gets."""
    return construct_type(type_=kind, value=value)


def _spoken(parts: Mapping[Any, str]) -> dict[Any, str]:
    return {place: text for place, text in parts.items() if text}
