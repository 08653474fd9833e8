"""The names under `ungoverned_routes`: a wrong one would open nothing, and say nothing."""

from collections.abc import Sequence

from litellm.types.utils import CallTypes

from luthien_litellm_hooks.config import SETTINGS_KEY
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.validation import similar

KNOWN = frozenset(call_type.value for call_type in CallTypes)
"""LiteLLM's names for the kinds of requests."""


def check_route_names(setting: str | Sequence[str], where: str = SETTINGS_KEY) -> None:
    """Raises `ConfigError` for each name in a list that is neither a path nor one of LiteLLM's."""
    listed = () if isinstance(setting, str) else setting
    problems = [
        (f"{where}.ungoverned_routes.{number}", f"should be a path, or a call type of LiteLLM{similar(name, KNOWN)}")
        for number, name in enumerate(listed)
        if not name.startswith("/") and name not in KNOWN
    ]
    if problems:
        raise ConfigError.at(*problems)
