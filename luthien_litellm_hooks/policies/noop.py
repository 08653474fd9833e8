"""`noop`: lets everything through; to see that the plugin is in the way and changes nothing."""

from luthien_litellm_hooks.policy.base import Policy


class NoOp(Policy):
    """Lets every request and every answer through as it came."""
