"""The proxies that are compared: what each adds to the config of the stock proxy."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.streams import REPLACED_WORD
from tests.support.engine import NOOP, TOOL_RULES

Config = dict[str, Any]

STOCK = "stock"
OPENAI_MODEL = "openai/gpt-4.1"
ANTHROPIC_MODEL = "anthropic/claude-sonnet-4-5"

_PAIRS = {"replacements": [[REPLACED_WORD, "dark"], *([f"forbidden{n}", f"allowed{n}"] for n in range(49))]}
_STRING_REPLACEMENT = {"class": "string_replacement", "config": _PAIRS}
_SERIAL = {
    "class": "serial",
    "config": {"policies": [TOOL_RULES, _STRING_REPLACEMENT, {"class": "plain_dashes"}]},
}


def _callback(name: str, **settings: Any) -> Config:
    return {"litellm_settings": {"callbacks": [name]}, "callback_settings": settings}


def _ours(policy: Mapping[str, Any]) -> Config:
    return _callback("luthien_litellm_hooks.luthien", luthien={"policy": policy})


def _guardrail(name: str, mode: str | Sequence[str] = "post_call", **settings: Any) -> Config:
    parameters = {"guardrail": name, "mode": mode, "default_on": True, **settings}
    return {"guardrails": [{"guardrail_name": name, "litellm_params": parameters}]}


def _our_guardrail(policy: Mapping[str, Any]) -> Config:
    return _guardrail("luthien_litellm_hooks.LuthienGuardrail", ["pre_call", "post_call"], policy=policy)


_PERMISSIONS = [{"id": f"rule-{n}", "tool_name": f"^service_{n}$", "decision": "deny"} for n in range(30)]
_BLOCKED_WORDS = [{"keyword": word, "action": "MASK"} for word, _ in _PAIRS["replacements"]]

VARIANTS: Mapping[str, Config] = {
    STOCK: {},
    "identity": _callback("benchmarks.identity_hook.hook"),
    "holding": _callback("benchmarks.holding_hook.hook"),
    "noop": _ours(NOOP),
    "guardrail": _our_guardrail(NOOP),
    "tool_rules": _ours(TOOL_RULES),
    "string_replacement": _ours(_STRING_REPLACEMENT),
    "serial": _ours(_SERIAL),
    "tool_permission": _guardrail("tool_permission", rules=_PERMISSIONS, default_action="allow"),
    "litellm_content_filter": _guardrail("litellm_content_filter", blocked_words=_BLOCKED_WORDS),
}
"""`holding` holds tool calls as `tool_rules` does, and judges none; `guardrail` is `noop` as a guardrail; `serial` is
`tool_rules`, `string_replacement` and `plain_dashes`; the last two are LiteLLM's own guardrails, with as many rules and
words as ours."""


def proxy_config(variant: str, provider_url: str, loads: Iterable[str]) -> Config:
    """A LiteLLM config with a model for each load and wire. LiteLLM knows the models behind them, so
    that it streams all and prices all; which load is meant is said by the path of the provider."""
    models = [
        _model(f"{wire}/{load}", model, f"{provider_url}/{load}{path}")
        for load in loads
        for wire, model, path in (("openai", OPENAI_MODEL, "/v1"), ("anthropic", ANTHROPIC_MODEL, ""))
    ]
    return {"model_list": models, **VARIANTS[variant]}


def _model(name: str, model: str, base: str) -> Config:
    return {"model_name": name, "litellm_params": {"model": model, "api_base": base, "api_key": "k"}}
