"""`secrets`: keys and tokens leave as `[redacted:<kind>]`."""

from collections import Counter

from luthien_litellm_hooks.parsing.growing import GrowingRewriter
from luthien_litellm_hooks.parsing.patterns import PatternText, compile_pattern
from luthien_litellm_hooks.parsing.secret_patterns import MAX_SECRET, secret_rules
from luthien_litellm_hooks.policies.text_rewriting import ApplyTo, TextRewriting
from luthien_litellm_hooks.policy.base import PolicyConfig


class SecretsConfig(PolicyConfig):
    """Settings of `secrets`."""

    apply_to: ApplyTo = "response"
    """`response`: what the model says and does. `request`: what people and tools say, before the
    provider gets it. The model then does not see what a file really says where a secret stands, so an
    agent's edits of such a file may fail: choose it if secrets must not leave, not by default."""
    allow: tuple[PatternText, ...] = ()
    """Patterns (RE2) of secrets that are none: one that matches as a whole stays as it is. For example
    `AKIA[A-Z0-9]{9}EXAMPLE`, the keys in the vendor's manual."""
    assignments: bool = False
    """Also what looks random after `password=`, `api_key:` and the like. Finds more, and is wrong more
    often."""


class Secrets(TextRewriting):
    """Redacts secrets of well-known formats in text, in reasoning and in the string values of tool
    arguments. A text is held only where a secret may have begun; a private key until its end.

    A secret that is written backwards, in pieces or in another encoding is not seen.
    """

    Config = SecretsConfig

    def __init__(self, config: SecretsConfig | None = None) -> None:
        config = config or SecretsConfig()
        allowed = tuple(map(compile_pattern, config.allow))

        def redact(kind: str, secret: str) -> str:
            return secret if any(pattern.fullmatch(secret) for pattern in allowed) else f"[redacted:{kind}]"

        rules = tuple(secret_rules(redact, assignments=config.assignments))
        rewriter = GrowingRewriter(rules, reach=MAX_SECRET)
        super().__init__(rewriter, apply_to=config.apply_to, tool_arguments=True, reasoning=True)

    def reason(self, labels: Counter[str]) -> str:
        return "redacted " + ", ".join(f"{count} {kind}" for kind, count in sorted(labels.items()))
