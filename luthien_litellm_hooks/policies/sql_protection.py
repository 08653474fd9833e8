"""`sql_protection`: keeps an agent from destroying data in a database."""

from luthien_litellm_hooks.policies.rules import Several, SqlText, ToolPolicyConfig, ToolRulesConfig
from luthien_litellm_hooks.policies.tool_rules import ToolRules


class SqlProtectionConfig(ToolPolicyConfig):
    """Settings of `sql_protection`."""

    statements: Several[SqlText] = ("DROP", "TRUNCATE", "DELETE without WHERE", "UPDATE without WHERE")
    """Statements to block."""


class SqlProtection(ToolRules):
    """Blocks SQL statements in a database's tool, or in its client in a shell."""

    Config = SqlProtectionConfig

    def __init__(self, config: SqlProtectionConfig | None = None) -> None:
        config = config or SqlProtectionConfig()
        rule = {"sql": config.statements}
        super().__init__(ToolRulesConfig.blocking(rule, reason="SQL that destroys data", config=config))
