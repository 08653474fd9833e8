"""`block_dangerous_commands`: keeps an agent from destroying a system or its data."""

from luthien_litellm_hooks.policies.rules import ToolPolicyConfig, ToolRulesConfig
from luthien_litellm_hooks.policies.tool_rules import ToolRules


class BlockDangerousCommandsConfig(ToolPolicyConfig):
    """Settings of `block_dangerous_commands`."""

    strict: bool = False
    """Also block usual deletions, such as `rm -rf build`."""


class BlockDangerousCommands(ToolRules):
    """Blocks the commands of the built-in catalogue, and unreadable scripts."""

    Config = BlockDangerousCommandsConfig

    def __init__(self, config: BlockDangerousCommandsConfig | None = None) -> None:
        config = config or BlockDangerousCommandsConfig()
        rule = {"dangerous": "strict" if config.strict else True}
        super().__init__(ToolRulesConfig.blocking(rule, reason="dangerous command", config=config))
