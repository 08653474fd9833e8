"""`block_web_requests`: keeps an agent off the network, except for allowed hosts."""

from luthien_litellm_hooks.policies.rules import ToolPolicyConfig, ToolRulesConfig
from luthien_litellm_hooks.policies.tool_rules import ToolRules


class BlockWebRequestsConfig(ToolPolicyConfig):
    """Settings of `block_web_requests`."""

    allow_hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "::1")
    """Globs of the allowed hosts; a list of your own replaces these."""


class BlockWebRequests(ToolRules):
    """Blocks web tools, and shell commands with network access.

    A web search reaches an unknown host, and so does a command whose host is not plain to read. Both are blocked.
    """

    Config = BlockWebRequestsConfig

    def __init__(self, config: BlockWebRequestsConfig | None = None) -> None:
        config = config or BlockWebRequestsConfig()
        rule = {"hosts_outside": config.allow_hosts}
        super().__init__(ToolRulesConfig.blocking(rule, reason="network", config=config))
