"""The policies that come with the package, and the short names that a config may use for them."""

from collections.abc import Mapping
from types import MappingProxyType

SHORT_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "noop": "luthien_litellm_hooks.policies.noop:NoOp",
        "all_caps": "luthien_litellm_hooks.policies.all_caps:AllCaps",
    }
)
"""Short name to "module:Class"; a module is imported when its policy is chosen."""
