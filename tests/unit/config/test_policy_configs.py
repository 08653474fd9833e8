"""A wrong setting of any shipped policy stops the start, with a message that names its key."""

from typing import Any

import pytest

from luthien_litellm_hooks import ConfigError
from luthien_litellm_hooks.config.policy_loading import COMPOSITIONS
from luthien_litellm_hooks.config.settings import build_executor, load_settings
from luthien_litellm_hooks.policies import SHORT_NAMES

WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("noop", {"x": 1}, "x: unknown key"),
    ("all_caps", {"tool_argments": True}, "tool_argments: unknown key; did you mean 'tool_arguments'?"),
    ("debug_logging", {"level": "loud"}, "level: "),
    ("debug_logging", {"max_length": 0}, "max_length: "),
    ("tool_rules", {"default": "deny"}, "default: "),
    ("tool_rules", {"rules": [{"action": "block", "tool": "re:("}]}, "rules.0.tool"),
    ("tool_rules", {"rules": [{"action": "block", "args": {"command": "re:(a"}}]}, "rules.0.args.command: "),
    ("tool_rules", {"rules": [{"action": "block", "sql": "DROPP"}]}, "rules.0.sql"),
    ("tool_rules", {"rules": [{"action": "block", "kind": "shel"}]}, "rules.0.kind"),
    (
        "tool_rules",
        {"rules": [{"action": "block", "comands": "rm"}]},
        "rules.0.comands: unknown key; did you mean 'commands'?",
    ),
    ("tool_rules", {"rules": [{"action": "rewrite", "tool": "x", "set": {"command": "true"}}]}, "rules.0.set"),
    ("block_dangerous_commands", {"strict": "perhaps"}, "strict: "),
    ("block_sensitive_file_writes", {"alow": ["~/.bashrc"]}, "alow: unknown key; did you mean 'allow'?"),
    ("block_web_requests", {"allow_hosts": [1]}, "allow_hosts.0: "),
    ("sql_protection", {"statements": ["DROPP"]}, "statements"),
    ("protect_proxy", {"ports": ["http"]}, "ports.0: "),
    ("protect_work", {"history": "deny"}, "history: "),
    ("protect_work", {"histroy": "allow"}, "histroy: unknown key; did you mean 'history'?"),
    ("secrets", {"apply_to": "answers"}, "apply_to: "),
    ("secrets", {"allow": ["("]}, "allow.0: "),
    ("string_replacement", {"replacements": [["only one"]]}, "replacements.0"),
    ("string_replacement", {}, "replacements: missing"),
    ("regex_replacement", {"replacements": [["(", "x"]]}, "replacements.0"),
    ("regex_replacement", {"replacements": [["a", "b"]], "max_match_length": 0}, "max_match_length: "),
    ("plain_dashes", {"dash": "-"}, "dash: unknown key"),
    ("no_apologies", {"tone": "harsh"}, "tone: unknown key"),
    ("prefer_uv", {"version": 1}, "version: unknown key"),
    ("tool_call_judge", {}, "model: missing"),
    ("tool_call_judge", {"model": "m", "threshold": 2}, "threshold: "),
    ("tool_call_judge", {"model": "m", "message": "{tool}"}, "message: "),
    ("tool_call_judge", {"model": "m", "api_key": "os.environ/LUTHIEN_NO_SUCH_KEY"}, "api_key: "),
    ("tool_call_judge", {"model": "m", "model_group": True, "api_base": "http://x"}, "model_group: "),
    ("llm_rules", {"model": "m", "rules": []}, "rules: "),
    ("llm_rules", {"model": "m", "rules": [{"name": "a", "rule": "b", "action": "stop"}]}, "rules.0.action: "),
    ("llm_rewrite", {"model": "m"}, "instructions: missing"),
    ("llm_rewrite", {"model": "m", "instructions": "x", "applies_to": ["image"]}, "applies_to"),
    ("serial", {"policies": [{"class": "secrets", "config": {"alow": []}}]}, "policies.0.config.alow: unknown key"),
    ("parallel", {"policies": [{"class": "noop"}], "strategy": "most"}, "strategy: "),
]


@pytest.mark.parametrize(("name", "config", "said"), WRONG)
def test_a_wrong_setting_is_named(name: str, config: dict[str, Any], said: str) -> None:
    settings = {"luthien": {"policy": {"class": name, "config": config}}}
    with pytest.raises(ConfigError) as raised:
        build_executor(load_settings(settings, {}))
    assert f"callback_settings.luthien.policy.config.{said}" in str(raised.value)


def test_every_policy_is_in_the_table() -> None:
    assert {name for name, _, _ in WRONG} == {*SHORT_NAMES, *COMPOSITIONS}


def test_a_key_is_never_shown() -> None:
    config = {"model": "m", "api_key": ["secret-value"]}
    with pytest.raises(ConfigError) as raised:
        build_executor(load_settings({"luthien": {"policy": {"class": "tool_call_judge", "config": config}}}, {}))
    assert "config.api_key: " in str(raised.value)
    assert "secret-value" not in str(raised.value)
