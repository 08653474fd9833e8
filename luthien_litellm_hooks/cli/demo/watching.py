"""Policies that the demo puts before and behind a config's policy, to publish its input and output."""

import json
from collections.abc import Mapping
from typing import Any, Literal

from luthien_litellm_hooks.cli.watch import BLOCK, DECISION
from luthien_litellm_hooks.config.settings import POLICY_FILE_VARIABLE
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.policy.base import Policy, PolicyConfig
from luthien_litellm_hooks.policy.context import StreamingResponseContext
from luthien_litellm_hooks.recording.decision import Decision
from luthien_litellm_hooks.wire.events import (
    ContentStreamBlock,
    ReasoningStreamBlock,
    StreamBlock,
    ToolCallStreamBlock,
)

_WATCH = f"{__name__}:Watch"


class WatchConfig(PolicyConfig):
    side: Literal["input", "output"]
    """Position before (`input`) or behind (`output`) the watched policy."""


class Watch(Policy):
    """Publisher of each block as an event; behind a policy also of its decisions."""

    Config = WatchConfig
    is_recorded = False

    def __init__(self, config: WatchConfig) -> None:
        self._side = config.side

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        await self._publish(ctx)

    async def on_reasoning_complete(self, ctx: StreamingResponseContext) -> None:
        await self._publish(ctx)

    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        await self._publish(ctx)

    async def on_stream_closed(self, ctx: StreamingResponseContext) -> None:
        await self._publish_decisions(ctx)

    async def _publish(self, ctx: StreamingResponseContext) -> None:
        await self._publish_decisions(ctx)
        data = {"side": self._side, "text": _describe(ctx.block)}
        await ctx.observability.emit_event(BLOCK, data)

    async def _publish_decisions(self, ctx: StreamingResponseContext) -> None:
        published: int = ctx.scratchpad.get("published", 0)
        if self._side == "output":
            for decision in ctx.decisions[published:]:
                await ctx.observability.emit_event(DECISION, _decision_data(decision))
            ctx.scratchpad["published"] = len(ctx.decisions)


def watched_config(values: Mapping[str, Any], policy: Mapping[str, object] | None, feed: str) -> dict[str, Any]:
    """Returns a config with `policy`, or else its own, between two watchers, whose events go to the file `feed`. A
    key in it makes way for the demo's. Raises `ConfigError` if it has no policy."""
    luthien = dict(values.get("callback_settings", {}).get("luthien") or {})
    watched = policy or luthien.get("policy")
    if watched is None:
        raise ConfigError("the config sets no policy: choose one with --policy")
    luthien["policy"] = {"class": "serial", "config": {"policies": [_watch("input"), watched, _watch("output")]}}
    luthien["events"] = {"jsonl": feed}
    luthien["record"] = {"bodies": "always"}
    luthien["ui"] = {"enabled": True}
    rest = {key: value for key, value in values.items() if key != "include"}
    environment = {
        key: value for key, value in rest.get("environment_variables", {}).items() if key != POLICY_FILE_VARIABLE
    }
    general: dict[str, Any] = dict(rest.get("general_settings") or {})
    general.pop("master_key", None)
    settings = {**rest.get("callback_settings", {}), "luthien": luthien}
    replaced = {"environment_variables": environment, "general_settings": general, "callback_settings": settings}
    return {**rest, **replaced}


def _watch(side: str) -> dict[str, object]:
    return {"class": _WATCH, "config": {"side": side}}


def _describe(block: StreamBlock | None) -> str:
    if isinstance(block, ToolCallStreamBlock):
        return f"call {block.name} {block.arguments}"
    if isinstance(block, ReasoningStreamBlock):
        return f"reasoning: {block.content}"
    return block.content if isinstance(block, ContentStreamBlock) else ""


def _decision_data(decision: Decision) -> dict[str, object]:
    texts = {"reason": decision.reason, "evidence": decision.evidence}
    why = ": ".join(text for text in texts.values() if text)
    return {"action": decision.action, "policy": decision.policy, "why": why or json.dumps(decision.error)}
