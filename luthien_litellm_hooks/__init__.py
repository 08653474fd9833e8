"""AI-control policies for the stock LiteLLM proxy.

`luthien` is the callback that a LiteLLM config names, `LuthienGuardrail` the guardrail. The callback is
built when it is first asked for, so importing the package to write a policy has no side effect (nor has
`import *`: neither is in `__all__`).
"""

from typing import TYPE_CHECKING

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
from luthien_litellm_hooks.events import (
    Chunk,
    ContentStreamBlock,
    ReasoningStreamBlock,
    StreamBlock,
    ToolCall,
    ToolCallStreamBlock,
)
from luthien_litellm_hooks.executor import PolicyExecutor
from luthien_litellm_hooks.llm_client import LiteLLMClient, LLMClient
from luthien_litellm_hooks.policy.base import Policy, PolicyConfig
from luthien_litellm_hooks.policy.chunk import ChunkPolicy
from luthien_litellm_hooks.policy.context import Decision, Identity, PolicyContext, StreamingResponseContext
from luthien_litellm_hooks.policy.helpers import (
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
from luthien_litellm_hooks.policy.notices import is_notice, notice
from luthien_litellm_hooks.policy.request import Answer, Request
from luthien_litellm_hooks.policy.simple import SimplePolicy
from luthien_litellm_hooks.policy.tool_gate import ALLOW, ToolGatePolicy, Verdict
from luthien_litellm_hooks.recorder import (
    DefaultTransactionRecorder,
    NoOpTransactionRecorder,
    TransactionRecorder,
)
from luthien_litellm_hooks.telemetry import NoOpObservabilityContext, ObservabilityContext

if TYPE_CHECKING:
    from luthien_litellm_hooks.hooks.callback import LuthienCallback
    from luthien_litellm_hooks.hooks.guardrail import LuthienGuardrail as LuthienGuardrail
    from luthien_litellm_hooks.telemetry.spans import DefaultObservabilityContext as DefaultObservabilityContext

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
    "SimplePolicy",
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


def __getattr__(name: str) -> object:
    if name == "luthien":
        from luthien_litellm_hooks.hooks.versions import fitting_litellm

        with fitting_litellm():
            from luthien_litellm_hooks.hooks import start
        globals()[name] = built = start.build()
        return built
    if name == "LuthienGuardrail":
        from luthien_litellm_hooks.hooks.versions import fitting_litellm

        with fitting_litellm():
            from luthien_litellm_hooks.hooks.guardrail import LuthienGuardrail
        return LuthienGuardrail
    if name == "DefaultObservabilityContext":  # it brings OpenTelemetry
        from luthien_litellm_hooks.telemetry.spans import DefaultObservabilityContext

        return DefaultObservabilityContext
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
