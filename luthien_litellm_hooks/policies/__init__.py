"""Policies of this package, and the short names for them in a config."""

from collections.abc import Mapping
from types import MappingProxyType

SHORT_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "noop": "luthien_litellm_hooks.policies.noop:NoOp",
        "all_caps": "luthien_litellm_hooks.policies.all_caps:AllCaps",
        "debug_logging": "luthien_litellm_hooks.policies.debug_logging:DebugLogging",
        "tool_rules": "luthien_litellm_hooks.policies.tool_rules:ToolRules",
        "block_dangerous_commands": "luthien_litellm_hooks.policies.block_dangerous_commands:BlockDangerousCommands",
        "block_sensitive_file_writes": (
            "luthien_litellm_hooks.policies.block_sensitive_file_writes:BlockSensitiveFileWrites"
        ),
        "block_web_requests": "luthien_litellm_hooks.policies.block_web_requests:BlockWebRequests",
        "sql_protection": "luthien_litellm_hooks.policies.sql_protection:SqlProtection",
        "protect_proxy": "luthien_litellm_hooks.policies.protect_proxy:ProtectProxy",
        "protect_work": "luthien_litellm_hooks.policies.protect_work:ProtectWork",
        "secrets": "luthien_litellm_hooks.policies.secrets:Secrets",
        "string_replacement": "luthien_litellm_hooks.policies.string_replacement:StringReplacement",
        "regex_replacement": "luthien_litellm_hooks.policies.regex_replacement:RegexReplacement",
        "plain_dashes": "luthien_litellm_hooks.policies.plain_dashes:PlainDashes",
        "no_apologies": "luthien_litellm_hooks.policies.no_apologies:NoApologies",
        "prefer_uv": "luthien_litellm_hooks.policies.prefer_uv:PreferUv",
        "tool_call_judge": "luthien_litellm_hooks.policies.tool_call_judge:ToolCallJudge",
        "llm_rules": "luthien_litellm_hooks.policies.llm_rules:LlmRules",
        "llm_rewrite": "luthien_litellm_hooks.policies.llm_rewrite:LlmRewrite",
    }
)
"""Short names to "module:Class"; a module is imported when its policy is chosen."""
