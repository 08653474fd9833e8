"""A policy for tests of the whole proxy: what it does is said in the request, by its `user` field."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import httpx

from luthien_litellm_hooks import (
    Answer,
    ContentStreamBlock,
    PolicyBlockedError,
    PolicyContext,
    Request,
    SimplePolicy,
    StreamingResponseContext,
    ToolCall,
    ToolCallStreamBlock,
    passthrough_accumulated_chunks,
    passthrough_last_chunk,
    send_text,
    send_tool_call,
)

_HELD = ("wait", "fail on text", "hold", "double", "redact", "end answer")
"""Where no text leaves before all of it is there."""


class Lab(SimplePolicy):
    """Drops, rewrites, refuses, fails or waits, as the request's `user` says."""

    async def on_request(self, request: Request, ctx: PolicyContext) -> Request | Answer:
        match request.body.get("user"):
            case "rewrite request":
                return request.replace(messages=[{"role": "user", "content": "say: rewritten"}], temperature=0.5)
            case "rewrite prompt":
                return request.replace(prompt="say: rewritten")
            case "rewrite contents":
                return request.replace(contents=[{"role": "user", "parts": [{"text": "say: rewritten"}]}])
            case "rewrite input":
                return request.replace(input="say: rewritten")
            case "remove field":
                return request.without("temperature")
            case "refuse request":
                raise PolicyBlockedError("This request is refused.", reason="the operator's reason")
            case "refuse when flagged" if _is_flagged():
                raise PolicyBlockedError("This request is refused.")
            case "count":
                last = request.messages[-1]
                return request.replace(messages=[{**last, "content": f"{last['content']} once"}])
            case "edit in place":
                request.messages[0]["content"] = "say: edited"
                return request
            case "answer":
                return Answer("answered by the policy")
            case "describe":
                seen = {"route": request.route, "headers": request.headers, "turn": request.turn}
                return Answer(json.dumps({**seen, "tools": request.tool_names}))
            case "fail on request":
                raise RuntimeError("secret of the policy")
            case _:
                return request

    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        if ctx.request.body.get("user") != "double" or not isinstance(ctx.block, ToolCallStreamBlock):
            await super().on_tool_call_complete(ctx)
            return
        await send_tool_call(ctx, replace(ctx.block.tool_call, name="first"))
        await send_tool_call(ctx, replace(ctx.block.tool_call, id="call_second", name="second"))

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        match ctx.request.body.get("user"):
            case "double":
                await send_text(ctx, "one and ")
                await send_text(ctx, "two")
            case "wait":
                await send_text(ctx, "early")
                await self._wait_at_the_gate()
                await send_text(ctx, " late")
            case "fail on text":
                raise RuntimeError("secret of the policy")
            case "redact":
                await send_text(ctx, cast(ContentStreamBlock, ctx.block).content.replace("orchid", "[flower]"))
            case "end answer":
                raise PolicyBlockedError("This answer is ended.", reason="the operator's reason")
            case _:
                await passthrough_accumulated_chunks(ctx)

    async def on_content_delta(self, ctx: StreamingResponseContext) -> None:
        if ctx.request.body.get("user") not in _HELD:
            await passthrough_last_chunk(ctx)

    async def on_response_tool_call(self, tool_call: ToolCall, request: Request) -> ToolCall | None:
        match request.body.get("user"):
            case "drop calls":
                return None
            case "drop reads" if tool_call.name == "read":
                return None
            case "rename calls":
                return replace(tool_call, name=f"safe_{tool_call.name}")
            case _:
                return tool_call

    async def _wait_at_the_gate(self) -> None:
        body: dict[str, Any] = {"model": "gate", "messages": [], "stream": True}
        async with httpx.AsyncClient(timeout=60) as client:
            await client.post(f"{os.environ['GATE_URL']}/v1/chat/completions", json=body)


def _is_flagged() -> bool:
    return Path(os.environ["FLAG"]).exists()


class NoCalls(SimplePolicy):
    """Withholds every tool call."""

    async def on_response_tool_call(self, tool_call: ToolCall, request: Request) -> ToolCall | None:
        return None


class DropsText(SimplePolicy):
    """Withholds every text."""

    async def on_response_content(self, content: str, request: Request) -> str | None:
        return None


class FailsOnText(SimplePolicy):
    """Fails on every text."""

    async def on_response_content(self, content: str, request: Request) -> str | None:
        raise RuntimeError("secret of the policy")
