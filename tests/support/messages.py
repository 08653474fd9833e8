"""Anthropic messages in the making, what clients make of them, and a reader that forgives nothing."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from anthropic.lib.streaming._messages import accumulate_event

from luthien_litellm_hooks import Policy, PolicyContext, PolicyExecutor
from luthien_litellm_hooks.engine.composition import Composition
from luthien_litellm_hooks.wire import FORMATS
from luthien_litellm_hooks.wire.messages.adapter import MessagesAdapter
from tests.support.chat import context, provide, pull

JSON = dict[str, Any]


def adapter() -> MessagesAdapter:
    return MessagesAdapter(FORMATS["messages"].rules, model="own", id="msg_own")


# What a provider sends


def sse(*payloads: JSON) -> bytes:
    """Frames as Anthropic writes them."""
    return "".join(
        f"event: {payload['type']}\ndata: {json.dumps(payload, ensure_ascii=False)}\n\n" for payload in payloads
    ).encode()


def message(content: Sequence[JSON], stop_reason: str | None = None) -> JSON:
    """A full answer."""
    calls = any(block["type"] == "tool_use" for block in content)
    return {
        "id": "msg_upstream",
        "type": "message",
        "role": "assistant",
        "model": "model-upstream",
        "content": list(content),
        "stop_reason": stop_reason or ("tool_use" if calls else "end_turn"),
        "stop_sequence": None,
        "usage": {"input_tokens": 3, "output_tokens": 5, "cache_read_input_tokens": 2},
    }


def streamed(full: JSON, piece: int = 4) -> list[JSON]:
    """The frames that bring the answer `full`, in deltas of a few characters."""
    usage = {**full["usage"], "output_tokens": 1}
    frames = [{"type": "message_start", "message": {**full, "content": [], "stop_reason": None, "usage": usage}}]
    frames.append({"type": "ping"})
    for index, block in enumerate(full["content"]):
        empty, deltas = _begun(block, piece)
        frames.append({"type": "content_block_start", "index": index, "content_block": empty})
        frames += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        frames.append({"type": "content_block_stop", "index": index})
    end = {"stop_reason": full["stop_reason"], "stop_sequence": None}
    return [*frames, {"type": "message_delta", "delta": end, "usage": full["usage"]}, {"type": "message_stop"}]


def _begun(block: JSON, piece: int) -> tuple[JSON, list[JSON]]:
    match block["type"]:
        case "text":
            citations = [{"type": "citations_delta", "citation": item} for item in block.get("citations") or ()]
            return {"type": "text", "text": ""}, [*_deltas("text_delta", "text", block["text"], piece), *citations]
        case "thinking":
            thinking = _deltas("thinking_delta", "thinking", block["thinking"], piece)
            signature = {"type": "signature_delta", "signature": block["signature"]}
            return {**block, "thinking": "", "signature": ""}, [*thinking, signature]
        case "tool_use" | "server_tool_use":
            arguments = json.dumps(block["input"], ensure_ascii=False)
            return {**block, "input": {}}, _deltas("input_json_delta", "partial_json", arguments, piece)
        case _:
            return block, []


def _deltas(kind: str, field: str, text: str, piece: int) -> list[JSON]:
    return [{"type": kind, field: text[at : at + piece]} for at in range(0, len(text), piece)]


# What a client makes of it


def payloads(raw: bytes) -> list[JSON]:
    """The JSON of each frame, read without our own decoder."""
    found: list[JSON] = []
    for frame in filter(None, re.split(r"\n\n|\r\n\r\n", raw.decode())):
        lines = dict(line.split(": ", 1) for line in frame.split("\n"))
        found.append(json.loads(lines["data"]))
        assert lines["event"] == found[-1]["type"], "a frame under a false name"
    return found


def accumulated(frames: Iterable[JSON]) -> Any:
    """The message that the official client's accumulator makes of frames."""
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for frame in frames:
        if frame["type"] not in ("ping", "error"):
            event: Any = frame
            snapshot = accumulate_event(event=event, current_snapshot=snapshot, json_bufs=buffers)
    return snapshot


@dataclass(frozen=True)
class Reading:
    """An answer as a client sees it: of each block its type and what it says."""

    blocks: tuple[tuple[Any, ...], ...]
    stop_reason: str | None

    @property
    def judged(self) -> tuple[tuple[Any, ...], ...]:
        """The blocks that a policy sees."""
        return tuple(block for block in self.blocks if block[0] in ("text", "thinking", "redacted_thinking", "call"))


def reading(full: JSON) -> Reading:
    """What a full answer says."""
    return Reading(tuple(_said(block) for block in full["content"]), full["stop_reason"])


def _said(block: JSON) -> tuple[Any, ...]:
    match block["type"]:
        case "text":
            return "text", block["text"], json.dumps(block.get("citations") or [], sort_keys=True)
        case "thinking":
            return "thinking", block["thinking"], block["signature"]
        case "redacted_thinking":
            return "redacted_thinking", block["data"]
        case "tool_use":
            return "call", block["id"], block["name"], json.dumps(block["input"], sort_keys=True), block.get("caller")
        case other:
            return other, json.dumps(block, sort_keys=True)


def read(raw: bytes, *, is_strict: bool = True) -> Reading:
    """What the official client reads, once the strict reader had nothing to object to."""
    frames = payloads(raw)
    if is_strict:
        check(frames)
    return reading(accumulated(frames).to_dict(mode="json", warnings=False))


# The strict reader


def check(frames: Sequence[JSON]) -> None:
    """Fails if a stream is not just as Anthropic documents it."""
    frames = [frame for frame in frames if frame["type"] != "ping"]
    kinds = [frame["type"] for frame in frames]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert [kinds.count(kind) for kind in ("message_start", "message_delta", "message_stop")] == [1, 1, 1]
    types = list(_check_blocks(iter(frames[1:-2])))
    starts = [frame["content_block"] for frame in frames if frame["type"] == "content_block_start"]
    ids = [block["id"] for block in starts if block["type"] == "tool_use"]
    assert len(set(ids)) == len(ids), "two calls have the same id"
    calls = [number for number, type in enumerate(types) if type == "tool_use"]
    assert "text" not in types[calls[0] :] if calls else True, "text after a call"
    stop_reason = frames[-2]["delta"]["stop_reason"]
    assert stop_reason != "tool_use" or calls, "the answer stops for a call that is not there"


def _check_blocks(frames: Iterator[JSON]) -> Iterator[str]:
    for index, start in enumerate(frames):
        assert (start["type"], start["index"]) == ("content_block_start", index)
        block = start["content_block"]
        deltas: list[JSON] = []
        for frame in frames:
            assert frame["index"] == index
            if frame["type"] == "content_block_stop":
                break
            assert frame["type"] == "content_block_delta"
            deltas.append(frame["delta"])
        else:
            raise AssertionError("a block has no end")
        _check_deltas(block, deltas)
        yield block["type"]


_ALLOWED = {
    "text": {"text_delta", "citations_delta"},
    "thinking": {"thinking_delta", "signature_delta"},
    "tool_use": {"input_json_delta"},
    "redacted_thinking": set[str](),
}


def _check_deltas(block: JSON, deltas: Sequence[JSON]) -> None:
    kinds = {delta["type"] for delta in deltas}
    assert kinds <= _ALLOWED.get(block["type"], kinds), f"{kinds} in a block of {block['type']}"
    if block["type"] == "tool_use":
        assert re.fullmatch(r"[\w-]+", block["id"])
        assert block["name"]
        arguments = "".join(delta["partial_json"] for delta in deltas)
        assert isinstance(json.loads(arguments or "{}"), dict)


# An answer on its way


async def deliver(
    policy: Policy | Composition, pieces: Iterable[bytes], ctx: PolicyContext | None = None, **options: Any
) -> bytes:
    """The bytes that a client gets of a provider's stream."""
    executor = PolicyExecutor(policy, **options)
    return b"".join(await pull(executor.run(provide(pieces), adapter(), ctx or context())))


async def deliver_full(policy: Policy, response: Any, **options: Any) -> Any:
    """What a client gets of a provider's full answer."""
    return await PolicyExecutor(policy, **options).run_full(response, adapter(), context())


def cut(raw: bytes, points: Iterable[int]) -> list[bytes]:
    """`raw` in pieces, cut at the `points`."""
    edges = [0, *sorted(point % (len(raw) + 1) for point in points), len(raw)]
    return [raw[start:end] for start, end in pairwise(edges)]
