"""What becomes of parts of a response that policies judge in another way than blocks, or not at all."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from luthien_litellm_hooks import Policy, SimplePolicy, StreamingResponseContext, ToolCall, send_notice
from luthien_litellm_hooks.engine.composition import Composition, ConfiguredPolicy, Parallel, Serial
from luthien_litellm_hooks.engine.executor import PolicyExecutor
from luthien_litellm_hooks.policies.noop import NoOp
from luthien_litellm_hooks.policy.request import Request
from luthien_litellm_hooks.policy.tool_gate import ALLOW, ToolGatePolicy, Verdict
from luthien_litellm_hooks.wire.events import (
    EVERY_CHOICE,
    BlockMarker,
    Finish,
    Opaque,
    Quote,
    ResponseStart,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    Unknown,
)
from tests.support.chat import context, provide, pull
from tests.support.event_wire import EventWire

STOP = Finish(reason="stop")


class Framing(EventWire):
    rules = replace(EventWire.rules, marks_blocks=True, has_text_after_calls=False, cut_reasons=("max_tokens",))


class Cutting(EventWire):
    rules = replace(EventWire.rules, cut_reasons=("length",))


async def left(
    policy: Policy | Composition, *units: Sequence[StreamEvent], wire: EventWire | None = None, **options: Any
) -> list[StreamEvent]:
    """The events that leave, of `units` that a provider sends."""
    stream = PolicyExecutor(policy, **options).run(provide(map(tuple, units)), wire or EventWire(), context())
    return [event for unit in await pull(stream) for event in unit]


def each(*events: StreamEvent) -> list[tuple[StreamEvent, ...]]:
    return [(event,) for event in events]


class Gate(ToolGatePolicy):
    """Withholds the calls of a name, and says why; text passes without a hook."""

    def __init__(self, name: str = "bad") -> None:
        self._name = name

    async def judge_tool_call(self, tool_call: ToolCall, ctx: Any) -> Verdict:
        return Verdict("block", message="forbidden", reason="rule") if self._name in tool_call.name else ALLOW


class Rewrite(SimplePolicy):
    """Writes `old` as `new` in each text."""

    def __init__(self, old: str, new: str | None) -> None:
        self._old, self._new = old, new

    async def on_response_content(self, content: str, request: Request) -> str | None:
        if self._new is None:
            return None if self._old in content else content
        return content.replace(self._old, self._new)


class DropAll(Policy):
    async def on_content_delta(self, ctx: StreamingResponseContext) -> None: ...

    async def on_reasoning_delta(self, ctx: StreamingResponseContext) -> None: ...

    async def on_tool_call_delta(self, ctx: StreamingResponseContext) -> None: ...


def composed(policy: Policy) -> list[Policy | Composition]:
    """The policy by itself, behind one that does nothing, and as a member that votes."""
    member, other = ConfiguredPolicy(policy, "own"), ConfiguredPolicy(NoOp(), "noop")
    return [policy, Serial([other, member]), Parallel([member, other])]


# Parts that no adapter knows


UNKNOWN = Unknown(kind="part")
MALFORMED = Unknown(kind="frame", is_malformed=True)


async def test_an_unknown_part_passes_where_no_policy_judges() -> None:
    units = each(ResponseStart(), UNKNOWN, TextDelta(text="a"), MALFORMED, STOP)
    assert await left(NoOp(), *units) == [event for unit in units for event in unit]


@pytest.mark.parametrize("number", range(3))
async def test_an_unknown_part_is_withheld_where_a_policy_judges_and_the_rest_goes_on(number: int) -> None:
    units = each(ResponseStart(), TextDelta(text="a"), UNKNOWN, UNKNOWN, TextDelta(text="b"), STOP)
    events = await left(composed(Gate())[number], *units)
    assert events == [ResponseStart(), TextDelta(text="a"), TextDelta(text="b"), STOP]


async def test_what_is_withheld_so_is_recorded_once_for_each_kind() -> None:
    ctx = context()
    units = each(UNKNOWN, UNKNOWN, Unknown(kind="item"), STOP)
    await pull(PolicyExecutor(Gate(), name="gate").run(provide(units), EventWire(), ctx))
    assert [(decision.policy, decision.action) for decision in ctx.decisions] == [("gate", "block")] * 2
    assert "unknown part" in str(ctx.decisions[0].reason)
    assert "unjudged: pass" in str(ctx.decisions[0].reason)


async def test_a_part_that_cannot_be_read_ends_a_response_that_a_policy_judges() -> None:
    events = await left(Gate(), *each(ResponseStart(), TextDelta(text="a"), MALFORMED, TextDelta(text="b"), STOP))
    assert (events[1], events[-1]) == (TextDelta(text="a"), STOP)
    assert "a policy check failed" in "".join(texts(events))
    assert "b" not in texts(events)


async def test_unjudged_pass_lets_both_through() -> None:
    units = each(ResponseStart(), UNKNOWN, TextDelta(text="a"), MALFORMED, STOP)
    assert await left(Gate(), *units, unjudged="pass") == [event for unit in units for event in unit]


async def test_an_unknown_block_is_withheld_with_its_frames() -> None:
    block = [BlockMarker(role=role, kind="unknown", index=1) for role in ("begin", "detail", "end")]
    events = await left(Gate(), *each(ResponseStart(), *block, STOP), wire=Framing())
    assert events == [ResponseStart(), STOP]
    assert await left(NoOp(), *each(ResponseStart(), *block, STOP), wire=Framing()) == [ResponseStart(), *block, STOP]


# Fields that may repeat what a response says


def field(choice: int = 0) -> Opaque:
    return Opaque(choice=choice, repeats_content=True)


async def test_a_field_leaves_with_a_response_that_is_whole() -> None:
    units = [(ResponseStart(), field()), (TextDelta(text="a"), field(EVERY_CHOICE)), (STOP,)]
    assert await left(NoOp(), *units) == [event for unit in units for event in unit]
    judged = await left(Rewrite("x", "y"), *units)
    assert sorted(map(str, judged)) == sorted(str(event) for unit in units for event in unit)


@pytest.mark.parametrize(
    "policy", [DropAll(), Rewrite("a", "b"), Rewrite("a", None)], ids=["held", "changed", "dropped"]
)
@pytest.mark.parametrize("place", range(4))
async def test_a_field_stays_behind_wherever_it_stands_if_its_choice_is_changed(policy: Policy, place: int) -> None:
    units = [(ResponseStart(),), (TextDelta(text="a"),), (TextDelta(text="c"),), (STOP,)]
    units[place] = (*units[place], field()) if place < 3 else (field(), *units[place])
    assert field() not in await left(policy, *units)


async def test_a_field_of_a_choice_that_nobody_changed_leaves() -> None:
    units = each(
        *(TextDelta(choice=choice, text=text) for choice, text in enumerate("ax")),
        field(0),
        field(1),
        *(Finish(choice=choice, reason="stop") for choice in range(2)),
    )
    events = await left(Rewrite("a", "b"), *units)
    assert field(1) in events
    assert field(0) not in events
    assert field(EVERY_CHOICE) not in await left(Rewrite("a", "b"), *units, (field(EVERY_CHOICE),))


# Quotes


def quote(text: str, **more: Any) -> Quote:
    return Quote(role="detail", kind="other", index=-1, text=text, **more)


def texts(events: Iterable[StreamEvent]) -> list[str]:
    return [event.text for event in events if isinstance(event, Quote | TextDelta)]


@pytest.mark.parametrize("number", range(3))
async def test_a_quote_is_judged_as_a_text_of_its_own_and_changed_in_its_place(number: int) -> None:
    units = each(TextDelta(text="one"), quote("sk-1"), TextDelta(text="two"), STOP)
    events = await left(composed(Rewrite("sk-1", "[redacted]"))[number], *units)
    assert sorted("".join(texts(events))) == sorted("one[redacted]two")
    [changed] = [event for event in events if isinstance(event, Quote)]
    assert changed.text == "[redacted]"


async def test_a_quote_that_is_dropped_takes_its_unit_along_unless_the_wire_needs_it() -> None:
    units = each(TextDelta(text="one"), quote("sk-1"), quote("sk-1", is_owed=True), STOP)
    quotes = [event for event in await left(Rewrite("sk-1", None), *units) if isinstance(event, Quote)]
    assert quotes == [quote("", is_owed=True)]
    assert not [event for event in await left(DropAll(), *units) if isinstance(event, Quote)]


async def test_a_notice_about_a_quote_is_no_part_of_it() -> None:
    class Tell(Policy):
        async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
            await send_notice(ctx, "seen")

    events = await left(Tell(), *each(quote("a"), STOP))
    [said, _] = texts(events), events
    assert [text.removeprefix("[luthien] ")[:4] for text in said] == ["seen"]
    assert not [event for event in events if isinstance(event, Quote)]


async def test_a_quote_that_repeats_stays_behind_if_its_choice_is_changed() -> None:
    units = each(TextDelta(text="a"), STOP, quote("a", repeats_content=True))
    assert texts(await left(Rewrite("a", "b"), *units)) == ["b"]
    assert texts(await left(Gate(), *units)) == ["a", "a"]


async def test_a_quote_leaves_with_the_block_that_it_stands_in() -> None:
    begin, end = (BlockMarker(role=role, kind="text", index=0) for role in ("begin", "end"))
    cited = Quote(role="detail", kind="text", index=0, text="cited")
    units = each(ResponseStart(), begin, TextDelta(index=0, text="claim"), cited, end, STOP)
    assert await left(Rewrite("x", "y"), *units, wire=Framing()) == [event for [event] in units]
    assert "cited" not in texts(await left(Rewrite("claim", "fact"), *units, wire=Framing()))
    redacted = await left(Rewrite("cited", "[redacted]"), *units, wire=Framing())
    assert redacted == [
        ResponseStart(),
        begin,
        TextDelta(index=0, text="claim"),
        replace(cited, text="[redacted]"),
        end,
        STOP,
    ]


# The server's own calls


def server_call(name: str, index: int = 0) -> ToolCallDelta:
    return ToolCallDelta(index=index, id=f"id-{index}", name=name, arguments="{}", form="server")


@pytest.mark.parametrize("number", range(2))
async def test_a_servers_call_is_judged_before_its_result_leaves(number: int) -> None:
    good, bad = server_call("good"), server_call("bad", 1)
    units = each(good, quote("found", follows=0), bad, quote("stolen", follows=1), TextDelta(text="done"), STOP)
    events = await left(composed(Gate())[number], *units)
    assert "stolen" not in texts(events)
    assert not [event for event in events if isinstance(event, ToolCallDelta) and event.name == "bad"]
    assert events.index(good) < events.index(quote("found", follows=0)) < events.index(TextDelta(text="done"))
    assert events[-1] == STOP


async def test_a_servers_call_makes_no_text_after_it_illegal() -> None:
    begin, end = (BlockMarker(role=role, kind="text", index=1) for role in ("begin", "end"))
    units = each(
        ResponseStart(),
        server_call("good"),
        BlockMarker(role="end", kind="tool_call", index=0),
        begin,
        TextDelta(index=1, text="a"),
        end,
        STOP,
    )
    assert "b" in texts(await left(Rewrite("a", "b"), *units, wire=Framing()))


async def test_a_response_of_which_only_a_servers_call_is_withheld_needs_no_text_in_its_place() -> None:
    assert texts(await left(Gate(), *each(server_call("good"), STOP))) == []


# Names, ids, late pieces, cut calls


async def test_a_call_whose_name_comes_in_parts_leaves_under_the_name_that_was_judged() -> None:
    units = each(
        ToolCallDelta(index=0, id="a", name="re", arguments="{"), ToolCallDelta(index=0, name="ad", arguments="}"), STOP
    )
    assert await left(NoOp(), *units) == [event for [event] in units]
    events = await left(Gate("bad"), *units)
    names = [event.name for event in events if isinstance(event, ToolCallDelta)]
    assert names == ["read", None]
    assert not [event for event in await left(Gate("read"), *units) if isinstance(event, ToolCallDelta)]


async def test_calls_that_a_policy_sends_have_ids_of_their_own() -> None:
    class Twice(SimplePolicy):
        async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
            from luthien_litellm_hooks import send_tool_call

            for _ in range(2):
                await send_tool_call(ctx, ToolCall("a", "read", "{}"))

        async def on_response_tool_call(self, tool_call: ToolCall, request: Request) -> ToolCall | None:
            return tool_call

    events = await left(Twice(), *each(ToolCallDelta(index=0, id="a", name="read", arguments="{}"), STOP))
    ids = [event.id for event in events if isinstance(event, ToolCallDelta)]
    assert len(set(ids)) == len(ids) == 2


async def test_calls_without_ids_under_one_index_are_several() -> None:
    units = each(*(ToolCallDelta(index=0, name=name, arguments="{}") for name in ("read", "bad", "list")), STOP)
    assert await left(NoOp(), *units) == [event for [event] in units]
    names = [event.name for event in await left(Gate(), *units) if isinstance(event, ToolCallDelta)]
    assert names == ["read", "list"]


async def test_a_late_piece_passes_where_nobody_judges_its_block_and_is_ignored_elsewhere() -> None:
    call, late = ToolCallDelta(index=0, id="a", name="read", arguments="{}"), ToolCallDelta(index=0, arguments="}")
    units = each(call, TextDelta(text="x"), late, STOP)
    assert await left(NoOp(), *units) == [event for [event] in units]
    assert await left(Rewrite("y", "z"), *units[:3], units[3]) != []
    events = await left(Gate(), *units)
    assert late not in events
    assert call in events
    assert events[-1] == STOP


@pytest.mark.parametrize(("arguments", "reason", "told"), [
    ("{\"a\": 1", "length", "was cut off before its end"),
    ("{}", "length", "forbidden"),
    ("{\"a\": 1", "tool_calls", "forbidden"),
], ids=["cut", "whole", "malformed"])  # fmt: skip
async def test_an_agent_is_told_of_a_call_that_was_cut_off_that_it_was_cut_off(
    arguments: str, reason: str, told: str
) -> None:
    call = ToolCallDelta(index=0, id="a", name="bad", arguments=arguments)
    events = await left(Gate(), *each(call, Finish(reason=reason)), wire=Cutting())
    assert call not in events
    assert told in "".join(texts(events))


async def test_blocks_that_the_provider_has_open_at_once_lose_nothing() -> None:
    begin, end = (BlockMarker(role=role, kind="text", index=0) for role in ("begin", "end"))
    head = ToolCallDelta(index=1, id="a", name="read")
    rest, stop = ToolCallDelta(index=1, arguments="{}"), BlockMarker(role="end", kind="tool_call", index=1)
    units = each(
        ResponseStart(), begin, head, TextDelta(index=0, text="a"), rest, TextDelta(index=0, text="b"), end, stop, STOP
    )
    assert await left(NoOp(), *units, wire=Framing()) == [event for [event] in units]
    for policy in (Rewrite("a", "A"), Gate()):
        events = await left(policy, *units, wire=Framing())
        assert "".join(texts(events)).lower() == "ab"
        assert "".join(event.arguments for event in events if isinstance(event, ToolCallDelta)) == "{}"
