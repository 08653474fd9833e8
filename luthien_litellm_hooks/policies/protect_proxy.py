"""`protect_proxy`: an agent cannot stop, reconfigure or go round the proxy that it runs through."""

import os
from collections.abc import Iterator

from luthien_litellm_hooks.parsing.patterns import compile_pattern
from luthien_litellm_hooks.policies.proxy_threats import ADMIN_ENDPOINT, Proxy, overriding, threats_to
from luthien_litellm_hooks.policies.rule_conditions import Check, Outcome, by_setting, by_text, unless_unclear
from luthien_litellm_hooks.policies.rule_config import PathText, ToolPolicyConfig, ToolRulesConfig
from luthien_litellm_hooks.policies.tool_rules import CompiledRule, ToolRules
from luthien_litellm_hooks.policies.tool_use import ToolUse

_CONFIG_FILES = ("litellm_config.y{a,}ml", "litellm-config.y{a,}ml", "proxy_config.y{a,}ml", "proxy_server_config.yaml")
_AGENT_SETTINGS = (".claude/settings*.json", "~/.claude{,.json}", "~/.codex{,/config.toml}")  # they name the proxy
_ENVIRONMENT_FILES = ("~/.{bashrc,bash_profile,profile,zshrc,zshenv,zprofile}", "~/.config/fish/**", ".env", ".envrc")
_PATH_VARIABLES = ("CONFIG_FILE_PATH", "LUTHIEN_POLICY_CONFIG")
_VARIABLES = (
    "ANTHROPIC_BASE_URL",
    "ANTHROPIC_BEDROCK_BASE_URL",
    "ANTHROPIC_VERTEX_BASE_URL",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_VERTEX",
    "OPENAI_BASE_URL",
    "OPENAI_API_BASE",
    "GOOGLE_GEMINI_BASE_URL",
)
_REASON = "the proxy itself"


class ProtectProxyConfig(ToolPolicyConfig):
    """Settings of `protect_proxy`."""

    names: tuple[str, ...] = ("litellm", "luthien")
    """Words in the names of the proxy's processes, services, containers and database."""
    ports: tuple[int, ...] = (4000,)
    """Where the proxy listens."""
    config_files: tuple[PathText, ...] = ()
    """Globs of more files that configure the proxy."""


class ProtectProxy(ToolRules):
    """Blocks what stops the proxy's process, service or container, writes its settings or those that
    lead agents to it, calls the endpoints that reconfigure it, or sends agents elsewhere."""

    Config = ProtectProxyConfig

    def __init__(self, config: ProtectProxyConfig | None = None) -> None:
        config = config or ProtectProxyConfig()
        own = [os.path.abspath(path) for name in _PATH_VARIABLES if (path := os.environ.get(name))]
        files = [*_CONFIG_FILES, *_AGENT_SETTINGS, *config.config_files, *own]
        rules: list[dict[str, object]] = [
            {"kind": "file_write", "paths": files},
            {"kind": "file_write", "paths": _ENVIRONMENT_FILES, "args": {"*": f"re:{'|'.join(_VARIABLES)}"}},
            {"kind": "web", "args": {"*": f"re:(?i){ADMIN_ENDPOINT}"}},
        ]
        super().__init__(ToolRulesConfig.blocking(*rules, reason=_REASON, config=config))
        names = tuple(name.casefold() for name in config.names)
        proxy = Proxy(names, config.ports, (os.getpid(), os.getppid()))
        self._rules += (CompiledRule(_REASON, _threat(proxy)), CompiledRule(_REASON, _overrides()))


def _threat(proxy: Proxy) -> Check:
    def check(use: ToolUse) -> Outcome:
        return by_setting("command", threats_to(proxy, use.commands), unless_unclear(use))

    return check


def _overrides() -> Check:
    pattern = compile_pattern(overriding(_VARIABLES))

    def check(use: ToolUse) -> Outcome:
        overridden: Iterator[str] = (script for script in use.scripts if pattern.search(script))
        return by_text("variable", overridden, unless_unclear(use))

    return check
