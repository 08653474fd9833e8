"""Whether LiteLLM would call our hooks: where it would not, it says nothing and serves unguarded."""

import litellm
from litellm.integrations.custom_guardrail import CustomGuardrail
from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy.utils import ProxyLogging

from luthien_litellm_hooks.hooks.versions import fitting_litellm, misfit

# LiteLLM dispatches these only where the registered class itself defines them.
OWN_HOOKS = (
    "async_pre_call_hook",
    "async_pre_call_deployment_hook",
    "async_post_call_streaming_iterator_hook",
    "async_post_call_success_hook",
)


def check_dispatch(callback: CustomLogger) -> None:
    """Asks this version of LiteLLM what it sees in `callback`. Raises `ConfigError` if a hook of it
    would be skipped, or if it cannot be asked."""
    with fitting_litellm():
        skipped = _skipped(callback)
    if skipped:
        raise misfit(
            f"LiteLLM would not call {', '.join(dict.fromkeys(skipped))} of {type(callback).__name__}, "
            "so answers would pass unchecked"
        )


def _skipped(callback: CustomLogger) -> list[str]:
    registered = litellm.callbacks
    litellm.callbacks = [callback]
    try:
        seen = ProxyLogging.callback_capabilities()
    finally:
        litellm.callbacks = registered
    if isinstance(callback, CustomGuardrail) and not hasattr(CustomGuardrail, "use_native_lifecycle_hooks"):
        return [*OWN_HOOKS]  # but `apply_guardrail` in their place, with single texts
    skipped = [name for name in OWN_HOOKS if name not in vars(type(callback))]
    if not seen.has_pre_call_override:
        skipped.append("async_pre_call_hook")
    if (callback, "override") not in seen.iterator_overrides:
        skipped.append("async_post_call_streaming_iterator_hook")
    return skipped


def callbacks_after(callback: CustomLogger) -> list[str]:
    """The operator's other callbacks that may change a request, or an answer, after the policy had
    its say: those that stand behind `callback` in the config. LiteLLM's own are not counted."""
    seen = ProxyLogging.callback_capabilities().resolved_callbacks
    behind = seen[seen.index(callback) + 1 :] if callback in seen else ()
    return [
        type(other).__name__
        for other in behind
        if not type(other).__module__.startswith("litellm") and not vars(type(other)).keys().isdisjoint(OWN_HOOKS)
    ]
