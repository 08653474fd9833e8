"""`debug_logging`: logs requests and responses, and changes nothing."""

import json
import logging
from collections.abc import Mapping
from typing import Annotated, Literal, cast

from pydantic import Field

from luthien_litellm_hooks.policy.base import Policy, PolicyConfig
from luthien_litellm_hooks.policy.context import PolicyContext, StreamingResponseContext
from luthien_litellm_hooks.policy.request import Request
from luthien_litellm_hooks.recording.decision import Decision
from luthien_litellm_hooks.recording.record import is_credential
from luthien_litellm_hooks.telemetry.log_lines import debug_logger
from luthien_litellm_hooks.wire.events import ContentStreamBlock, ReasoningStreamBlock, ToolCallStreamBlock

REDACTED = "[redacted]"
_MAX_PARSED = 100_000
"""Characters of the longest JSON text to read."""


class DebugLoggingConfig(PolicyConfig):
    """Settings of `debug_logging`."""

    level: Literal["debug", "info", "warning"] = "warning"
    """Level of its lines. A proxy shows `info` and above, or the levels of `LITELLM_LOG`."""
    max_length: Annotated[int, Field(gt=0)] = 2000
    """Length at which each text is cut."""


class DebugLogging(Policy):
    """Logs the request, each block as soon as it is whole, the finish and all decisions so far, one line each.

    Headers and fields with names of credentials are redacted, also inside JSON in a text. A secret within other words
    is not recognised. It logs the output of the policies before it. Nothing waits for it.
    """

    Config = DebugLoggingConfig

    def __init__(self, config: DebugLoggingConfig | None = None) -> None:
        config = config or DebugLoggingConfig()
        self._level = logging.getLevelNamesMapping()[config.level.upper()]
        self._max_length = config.max_length

    async def on_request(self, request: Request, ctx: PolicyContext) -> Request:
        self._log(
            ctx,
            f"request ({request.turn} turn)",
            {
                "route": request.route,
                "key_alias": ctx.identity.key_alias,
                "headers": request.headers,
                "body": request.body,
            },
        )
        return request

    async def on_content_complete(self, ctx: StreamingResponseContext) -> None:
        if isinstance(ctx.block, ContentStreamBlock):
            self._log(ctx, "text", ctx.block.content)

    async def on_reasoning_complete(self, ctx: StreamingResponseContext) -> None:
        if isinstance(ctx.block, ReasoningStreamBlock):
            self._log(ctx, "reasoning", ctx.block.content)

    async def on_tool_call_complete(self, ctx: StreamingResponseContext) -> None:
        if isinstance(ctx.block, ToolCallStreamBlock):
            call = ctx.block.tool_call
            self._log(ctx, "tool call", {"id": call.id, "name": call.name, "arguments": call.arguments})

    async def on_finish_reason(self, ctx: StreamingResponseContext) -> None:
        self._log(ctx, "finish", ctx.ingress_state.finish_reason)

    async def on_stream_closed(self, ctx: StreamingResponseContext) -> None:
        self._log(ctx, "closed, decisions", [_decision_fields(decision) for decision in ctx.decisions])

    def _log(self, ctx: PolicyContext, what: str, value: object) -> None:
        if debug_logger.isEnabledFor(self._level):
            shown = json.dumps(_shown(value, self._max_length), ensure_ascii=False, default=str)
            debug_logger.log(self._level, "transaction %s: %s: %s", ctx.transaction_id, what, shown)


def _decision_fields(decision: Decision) -> Mapping[str, object]:
    return {
        "policy": decision.policy,
        "action": decision.action,
        "reason": decision.reason,
        "message": decision.message,
        "score": decision.score,
    }


def _shown(value: object, max_length: int) -> object:
    """Returns `value` without credentials, its texts no longer than `max_length`."""
    if isinstance(value, str):
        text = _without_credentials(value, max_length)
        return text if len(text) <= max_length else f"{text[:max_length]}... ({len(text)} characters)"
    if isinstance(value, Mapping):
        fields = cast(Mapping[str, object], value).items()
        return {name: REDACTED if _is_secret(name, field) else _shown(field, max_length) for name, field in fields}
    if isinstance(value, list):
        return [_shown(item, max_length) for item in cast(list[object], value)]
    return value


def _is_secret(name: str, field: object) -> bool:
    return bool(field) and not isinstance(field, Mapping) and is_credential(name)


def _without_credentials(text: str, max_length: int) -> str:
    """Returns `text`, redacted if it is a JSON object or list."""
    if not text.startswith(("{", "[")):
        return text
    if len(text) > _MAX_PARSED:
        return f"{REDACTED} (too long to look for credentials: {len(text)} characters)"
    try:
        return json.dumps(_shown(json.loads(text), max_length), ensure_ascii=False)
    except ValueError:
        return text
    except RecursionError:
        return REDACTED
