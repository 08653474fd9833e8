"""Anthropic messages with a marker in every place that the wire's types know: none of what is withheld gets out."""

import re
import types
import typing
from collections.abc import Iterator, Sequence
from copy import deepcopy
from datetime import datetime
from random import Random
from typing import Any, Literal

import anyio
import pytest
from anthropic.types.beta import BetaContentBlock, BetaMessage
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from luthien_litellm_hooks import Policy
from luthien_litellm_hooks.policies.noop import NoOp
from luthien_litellm_hooks.wire.messages.blocks import kind_of
from tests.support.messages import JSON, deliver, deliver_full, message, sse, streamed
from tests.support.recordings import STREAMS
from tests.unit.wire.test_messages_fields import TEXT_BESIDE_CALL, TWO_CALLS, Drops, served

RECORDINGS = sorted((STREAMS / "messages").glob("*.sse"))
MARK = re.compile(r"Mark<[^>]*>")
PASSES = re.compile(
    r"(^|.*\.)((?:.*_)?id|data|signature|encrypted_\w+|media_type|model|usage(\..*)?|compaction\.(?!content).*|version"
    r"|container_upload\..*|recommended_model|fallback_credit_token|tool_use_id)>"
)
"""Identifiers, counts, and what only the provider can read."""

CALLS = ("tool_use", "server_tool_use", "mcp_tool_use")
OF_KIND = {"text": "text", "reasoning": "reasoning", "call": "tool_call"}
RESULTS = re.compile(r".*_tool_result")


# Everything that the official types know


def filled(of: Any, path: str) -> list[Any]:
    """Values of a type, each with a marker in every text: one for each member of a union."""
    origin, arguments = typing.get_origin(of), typing.get_args(of)
    if origin is typing.Annotated:
        return filled(arguments[0], path)
    if origin in (typing.Union, types.UnionType):
        return [value for each in arguments if each is not type(None) for value in filled(each, path)]
    if origin is Literal:
        return [arguments[0]]
    if origin in (list, typing.List):  # noqa: UP006
        return [filled(arguments[0], path)]
    if origin in (dict, typing.Dict):  # noqa: UP006
        return [{"key": f"Mark<{path}.key>"}]
    if isinstance(of, type) and issubclass(of, BaseModel):
        return list(models(of, path))
    simple = {str: f"Mark<{path}>", int: 7, float: 7.5, bool: True, datetime: "2026-11-28T00:00:00Z"}
    return [simple.get(of, f"Mark<{path}>")]


def models(of: type[BaseModel], path: str) -> Iterator[JSON]:
    fields = {
        field.alias or name: filled(field.annotation, f"{path}.{field.alias or name}")
        for name, field in of.model_fields.items()
    }
    for number in range(max(map(len, fields.values()), default=1)):
        yield {name: values[number % len(values)] for name, values in fields.items()}


def blocks() -> list[JSON]:
    found: list[JSON] = []
    for of in typing.get_args(typing.get_args(BetaContentBlock)[0]):
        type = typing.get_args(of.model_fields["type"].annotation)[0]
        found += [{**deepcopy(block), "novel": {"words": f"Mark<{type}.novel>"}} for block in models(of, type)]
    for number, block in enumerate(found):
        if block["type"] in CALLS:
            block["id"] = f"srvtoolu_{number}"
    calls = [block["id"] for block in found if block["type"] in CALLS[1:]]
    for block in found:
        if RESULTS.fullmatch(block["type"]):
            block["tool_use_id"] = calls[0]
    return found


def everything() -> JSON:
    """A full answer."""
    (answer, *_) = models(BetaMessage, "message")
    return {
        **answer,
        "content": blocks(),
        "role": "assistant",
        "stop_reason": "end_turn",
        "novel": "Mark<message.novel>",
    }


def frames(full: JSON) -> list[JSON]:
    """The same as a stream, with a novel field in each frame and in what it holds."""
    of_end = ("stop_sequence", "stop_details", "container", "novel")
    begun = {name: value for name, value in full.items() if name not in of_end[:3]}
    *came, end, stop = streamed({**begun, "usage": {"output_tokens": 1}})
    delta = {"stop_reason": full["stop_reason"], **{name: full[name] for name in of_end}}
    end = {**end, "delta": delta, "context_management": full["context_management"], "usage": full["usage"]}
    end["safeguard_results"] = [{"explanation": "Mark<safeguard.explanation>"}]
    for frame in came:
        if frame["type"] == "content_block_start" and frame["index"] % 2:  # the others are given in their deltas
            frame["content_block"] = full["content"][frame["index"]]
    given = [f for f in came if not (f["type"] == "content_block_delta" and f["index"] % 2)]
    novel = [{**frame, "novel": f"Mark<{frame['type']}.{frame.get('index')}.novel>"} for frame in [*given, end, stop]]
    for frame in novel:
        if "delta" in frame:
            frame["delta"] = {**frame["delta"], "novel": [f"Mark<{frame['type']}.{frame.get('index')}.novel>"]}
    return novel


def leaked(left: str) -> set[str]:
    """The markers that got out and are none that always pass."""
    return {mark for mark in MARK.findall(left) if not PASSES.match(mark.removeprefix("Mark<"))}


async def both(policy: Policy) -> list[str]:
    full = everything()
    raw = sse(*frames(full))
    return [(await deliver(policy, [raw])).decode(), str(await deliver_full(policy, full))]


async def test_everything_is_filled_and_leaves_as_it_came_where_nobody_judges() -> None:
    full = everything()
    assert len(MARK.findall(str(full))) > 100
    assert {block["type"] for block in full["content"]} >= {"text", "thinking", *CALLS, "fallback", "mcp_tool_result"}
    assert await deliver_full(NoOp(), full) is full
    raw = sse(*frames(full))
    assert await deliver(NoOp(), [raw]) == raw


async def test_a_policy_that_drops_everything_lets_no_marker_through() -> None:
    for left in await both(Drops("text", "reasoning", "call")):
        assert leaked(left) == set()


@pytest.mark.parametrize("kind", ["text", "reasoning", "call"])
async def test_a_policy_that_drops_one_kind_lets_no_marker_of_it_through(kind: str) -> None:
    of_call = r"(server_|mcp_)?tool_use\.|\w+_tool_result\."
    for left in await both(Drops(kind)):
        out = leaked(left)
        judged = {
            "text": {mark for mark in out if re.match(r"Mark<(text|\w+_tool_result|message\.stop_details)\.", mark)},
            "reasoning": {mark for mark in out if mark.startswith("Mark<thinking.")},
            "call": {mark for mark in out if re.match(f"Mark<({of_call})", mark)},
        }
        assert judged[kind] == set()
        message = r"Mark<(message\w*\.(?!stop_details).*|safeguard.*)>"
        assert {mark for mark in out if re.match(message, mark)} == set()
        first = next(number for number, block in enumerate(blocks()) if kind_of(block["type"]) == OF_KIND[kind])
        later = [mark for mark in out for number in re.findall(r"\.(\d+)\.novel", mark) if int(number) >= first]
        assert later == [], "fields beside or after what was dropped"


async def test_what_always_passes_does() -> None:
    for left in await both(Drops("text", "reasoning", "call")):
        for mark in ("message.id", "container_upload.file_id", "compaction.encrypted_content"):
            assert f"Mark<{mark}>" in left


# Streams of all sorts


def pool() -> list[bytes]:
    """The frames of recordings, and of streams that overlap."""
    raws = [path.read_bytes() for path in RECORDINGS[:12]]
    raws += [sse(*TWO_CALLS), sse(*TEXT_BESIDE_CALL), sse(*streamed(served("web_search", query="x")))]
    return [frame + b"\n\n" for raw in raws for frame in raw.split(b"\n\n") if frame]


FRAMES = pool()


@st.composite
def jumbled(draw: st.DrawFn) -> list[bytes]:
    """Frames of several streams: interleaved, repeated, cut and in another order."""
    random = Random(draw(st.integers(0, 1 << 30)))
    start = random.randrange(len(FRAMES))
    chosen = FRAMES[start : start + random.randrange(1, 60)]
    for _ in range(random.randrange(12)):
        match random.randrange(4):
            case 0:
                chosen.insert(random.randrange(len(chosen) + 1), random.choice(FRAMES))
            case 1:
                chosen.insert(random.randrange(len(chosen) + 1), random.choice(chosen))
            case 2:
                a, b = random.randrange(len(chosen)), random.randrange(len(chosen))
                chosen[a], chosen[b] = chosen[b], chosen[a]
            case _:
                at = random.randrange(len(chosen))
                chosen[at] = chosen[at][: random.randrange(1, len(chosen[at]) + 1)]
    return chosen


@settings(max_examples=300, deadline=None)
@given(jumbled())
def test_under_noop_whatever_comes_leaves_as_the_very_bytes(pieces: list[bytes]) -> None:
    assert anyio.run(deliver, NoOp(), pieces) == b"".join(pieces)


LEGAL = [[TWO_CALLS, TEXT_BESIDE_CALL][number] for number in range(2)] + [
    streamed(served("web_search", query="x")),
    streamed(message([{"type": "text", "text": "some text"}, {"type": "redacted_thinking", "data": "x"}])),
]


@pytest.mark.parametrize("number", range(len(LEGAL) + len(RECORDINGS)))
@pytest.mark.parametrize("is_apart", [True, False])
async def test_what_a_policy_lets_pass_at_once_leaves_as_the_very_bytes(number: int, is_apart: bool) -> None:
    raw = sse(*LEGAL[number]) if number < len(LEGAL) else RECORDINGS[number - len(LEGAL)].read_bytes()
    pieces: Sequence[bytes] = [frame + b"\n\n" for frame in raw.split(b"\n\n") if frame] if is_apart else [raw]
    assert without_pings(await deliver(Drops(), pieces)) == without_pings(raw)


def without_pings(raw: bytes) -> list[bytes]:
    """The frames but for pings, which do not wait for what is held."""
    return [frame for frame in raw.split(b"\n\n") if not frame.startswith(b"event: ping")]
