"""What the demo puts before and behind a config's policy, so that one sees what it does."""

import json
from collections.abc import Mapping
from typing import Any, Literal

from luthien_litellm_hooks.config import POLICY_FILE_VARIABLE
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.events import ContentStreamBlock, ReasoningStreamBlock, StreamBlock, ToolCallStreamBlock
from luthien_litellm_hooks.policy.base import Policy, PolicyConfig
from luthien_litellm_hooks.policy.context import Decision, StreamingResponseContext

BLOCK = "demo.block"
DECISION = "demo.decision"
_WATCH = f"{__name__}:Watch"


class WatchConfig(PolicyConfig):
    side: Literal["came", "left"]
    """Whether the policy that is watched stands behind or before."""


class Watch(Policy):
    """Publishes each block as an event; behind a policy also what that has decided."""

    Config = WatchConfig

    def __init__(self, config: WatchConfig) -> None:
        self._side = config.side

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        await self._tell(ctx)

    async def on_reasoning_complete(self, ctx: StreamingResponseContext) -> None:
        await self._tell(ctx)

    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        await self._tell(ctx)

    async def on_stream_closed(self, ctx: StreamingResponseContext) -> None:
        await self._tell_decisions(ctx)

    async def _tell(self, ctx: StreamingResponseContext) -> None:
        await self._tell_decisions(ctx)
        data = {"side": self._side, "text": _shown(ctx.block)}
        await ctx.observability.emit_event(BLOCK, data)

    async def _tell_decisions(self, ctx: StreamingResponseContext) -> None:
        told: int = ctx.scratchpad.get("told", 0)
        if self._side == "left":
            for decision in ctx.decisions[told:]:
                await ctx.observability.emit_event(DECISION, _decided(decision))
            ctx.scratchpad["told"] = len(ctx.decisions)


def watched_config(values: Mapping[str, Any], policy: Mapping[str, object] | None, feed: str) -> dict[str, Any]:
    """A config with `policy`, or else its own, between two watchers, whose events go to the file `feed`.
    Raises `ConfigError` if it has none."""
    luthien = dict(values.get("callback_settings", {}).get("luthien") or {})
    watched = policy or luthien.get("policy")
    if watched is None:
        raise ConfigError("the config sets no policy: choose one with --policy")
    luthien["policy"] = {"class": "serial", "config": {"policies": [_watch("came"), watched, _watch("left")]}}
    luthien["events"] = {"jsonl": feed}
    luthien["record"] = {"bodies": "always"}
    kept = {key: value for key, value in values.items() if key != "include"}
    environment = {
        key: value for key, value in kept.get("environment_variables", {}).items() if key != POLICY_FILE_VARIABLE
    }
    settings = {**kept.get("callback_settings", {}), "luthien": luthien}
    return {**kept, "environment_variables": environment, "callback_settings": settings}


def _watch(side: str) -> dict[str, object]:
    return {"class": _WATCH, "config": {"side": side}}


def _shown(block: StreamBlock | None) -> str:
    if isinstance(block, ToolCallStreamBlock):
        return f"call {block.name} {block.arguments}"
    if isinstance(block, ReasoningStreamBlock):
        return f"reasoning: {block.content}"
    return block.content if isinstance(block, ContentStreamBlock) else ""


def _decided(decision: Decision) -> dict[str, object]:
    told = {"reason": decision.reason, "evidence": decision.evidence}
    why = ": ".join(text for text in told.values() if text)
    return {"action": decision.action, "policy": decision.policy, "why": why or json.dumps(decision.error)}
