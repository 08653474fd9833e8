"""`block_web_requests`: an agent cannot reach the network, save hosts that are allowed."""

from luthien_litellm_hooks.policies.rule_config import ToolPolicyConfig, ToolRulesConfig
from luthien_litellm_hooks.policies.tool_rules import ToolRules


class BlockWebRequestsConfig(ToolPolicyConfig):
    """Settings of `block_web_requests`."""

    allow_hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "::1")
    """Globs of the hosts that may be reached; a list of your own stands in place of these."""


class BlockWebRequests(ToolRules):
    """Blocks web tools, and shell commands that use the network. A search of the web, and a command
    whose host is not plain to read, reach a host that is not allowed."""

    Config = BlockWebRequestsConfig

    def __init__(self, config: BlockWebRequestsConfig | None = None) -> None:
        config = config or BlockWebRequestsConfig()
        rule = {"hosts_outside": config.allow_hosts}
        super().__init__(ToolRulesConfig.blocking(rule, reason="network", config=config))
