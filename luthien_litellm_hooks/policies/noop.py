"""`noop`: passes everything; shows that the plugin is installed and changes nothing."""

from luthien_litellm_hooks.policy.base import Policy


class NoOp(Policy):
    """Passes every request and every response unchanged."""
