"""AI-control policies for the stock LiteLLM proxy.

`luthien` is the callback that a LiteLLM config names, `LuthienGuardrail` the guardrail. The callback is
built when it is first asked for, so importing the package to write a policy has no side effect (nor has
`import *`: neither is in `__all__`).

Every name is imported on first use: the command and its completion need few of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from luthien_litellm_hooks.engine.executor import PolicyExecutor
    from luthien_litellm_hooks.errors import (
        ConfigError,
        JudgeError,
        LuthienError,
        PolicyBlockedError,
        PolicyError,
        PolicyTimeoutError,
        QueueFullError,
        StreamClosedError,
        WireError,
    )
    from luthien_litellm_hooks.hooks.callback import LuthienCallback
    from luthien_litellm_hooks.hooks.guardrail import LuthienGuardrail as LuthienGuardrail
    from luthien_litellm_hooks.policy.base import Policy, PolicyConfig
    from luthien_litellm_hooks.policy.context import PolicyContext, StreamingResponseContext
    from luthien_litellm_hooks.policy.llm_client import LiteLLMClient, LLMClient
    from luthien_litellm_hooks.policy.notices import is_notice, notice
    from luthien_litellm_hooks.policy.request import Answer, Request
    from luthien_litellm_hooks.policy.sending import (
        drop_block,
        get_last_ingress_chunk,
        passthrough_accumulated_chunks,
        passthrough_last_chunk,
        send_chunk,
        send_notice,
        send_reasoning,
        send_text,
        send_tool_call,
    )
    from luthien_litellm_hooks.policy.simple import ChunkPolicy, SimplePolicy
    from luthien_litellm_hooks.policy.tool_gate import ALLOW, ToolGatePolicy, Verdict
    from luthien_litellm_hooks.policy.trajectory import Said, Step
    from luthien_litellm_hooks.recording.decision import Decision, Identity, Spent
    from luthien_litellm_hooks.recording.recorder import (
        DefaultTransactionRecorder,
        NoOpTransactionRecorder,
        TransactionRecorder,
    )
    from luthien_litellm_hooks.telemetry import NoOpObservabilityContext, ObservabilityContext
    from luthien_litellm_hooks.telemetry.spans import DefaultObservabilityContext as DefaultObservabilityContext
    from luthien_litellm_hooks.wire.events import (
        Chunk,
        ContentStreamBlock,
        ReasoningStreamBlock,
        StreamBlock,
        ToolCall,
        ToolCallStreamBlock,
    )

    luthien: LuthienCallback

__version__ = "0.1.0"

__all__ = [
    "ALLOW",
    "Answer",
    "Chunk",
    "ChunkPolicy",
    "ConfigError",
    "ContentStreamBlock",
    "Decision",
    "DefaultTransactionRecorder",
    "Identity",
    "JudgeError",
    "LLMClient",
    "LiteLLMClient",
    "LuthienError",
    "NoOpObservabilityContext",
    "NoOpTransactionRecorder",
    "ObservabilityContext",
    "Policy",
    "PolicyBlockedError",
    "PolicyConfig",
    "PolicyContext",
    "PolicyError",
    "PolicyExecutor",
    "PolicyTimeoutError",
    "QueueFullError",
    "ReasoningStreamBlock",
    "Request",
    "Said",
    "SimplePolicy",
    "Spent",
    "Step",
    "StreamBlock",
    "StreamClosedError",
    "StreamingResponseContext",
    "ToolCall",
    "ToolCallStreamBlock",
    "ToolGatePolicy",
    "TransactionRecorder",
    "Verdict",
    "WireError",
    "drop_block",
    "get_last_ingress_chunk",
    "is_notice",
    "notice",
    "passthrough_accumulated_chunks",
    "passthrough_last_chunk",
    "send_chunk",
    "send_notice",
    "send_reasoning",
    "send_text",
    "send_tool_call",
]

_HOMES = (
    "errors",
    "wire.events",
    "recording.decision",
    "recording.recorder",
    "telemetry",
    "policy.request",
    "policy.notices",
    "policy.context",
    "policy.base",
    "policy.llm_client",
    "policy.sending",
    "policy.simple",
    "policy.tool_gate",
    "policy.trajectory",
    "engine.executor",
)
"""Modules with the names of `__all__`, cheap ones first."""


def __getattr__(name: str) -> object:
    if name in __all__:
        homes = (vars(import_module(f"{__name__}.{home}")) for home in _HOMES)
        globals()[name] = found = next(home[name] for home in homes if name in home)
        return found
    if name == "luthien":
        from luthien_litellm_hooks.hooks import fitting_litellm

        with fitting_litellm():
            from luthien_litellm_hooks.hooks.guardrail import initialize_guardrail
            from luthien_litellm_hooks.hooks.startup import build
        globals()[name] = built = build(initialize_guardrail)
        return built
    if name == "LuthienGuardrail":
        from luthien_litellm_hooks.hooks import fitting_litellm

        with fitting_litellm():
            from luthien_litellm_hooks.hooks.guardrail import LuthienGuardrail
        return LuthienGuardrail
    if name == "DefaultObservabilityContext":  # it brings OpenTelemetry
        from luthien_litellm_hooks.telemetry.spans import DefaultObservabilityContext

        return DefaultObservabilityContext
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
