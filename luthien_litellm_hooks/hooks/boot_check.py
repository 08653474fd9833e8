"""Whether LiteLLM itself would refuse to start, by its own rules."""

import os
from collections.abc import Mapping
from typing import Any, cast

# Importing it sets the variables of a `.env` file, as a start does.
import litellm  # noqa: F401  # pyright: ignore[reportUnusedImport]
from litellm.proxy.auth import master_key_boot_check as boot

_REFERENCE = "os.environ/"
_REASONS = {
    "not_set": "no master key is set, so LiteLLM does not start: set it here, or LITELLM_MASTER_KEY",
    "empty": "the master key is empty, so LiteLLM does not start",
    "publicly_known": "the master key is publicly known, so LiteLLM does not start: choose another",
}


def master_key_refusal(general_settings: Mapping[str, object], added: Mapping[str, str]) -> str | None:
    """The reason, or None if LiteLLM would start, or asks a secret manager for the key. `added` are variables
    that the config sets."""
    if general_settings.get("key_management_system"):
        return None
    environment = {**os.environ, **added}
    key = general_settings.get("master_key", environment.get(boot.MASTER_KEY_ENV_VAR))
    if isinstance(key, str) and key.startswith(_REFERENCE):
        key = environment.get(key.removeprefix(_REFERENCE))
    verdict: Any = boot.master_key_boot_verdict(
        master_key=None if key is None else str(key),
        environment_master_key=environment.get(boot.MASTER_KEY_ENV_VAR),
        general_settings=general_settings,
        config_file_path=None,
        override_env_is_on=environment.get(boot.WEAK_OR_UNSET_MASTER_KEY_OVERRIDE_ENV_VAR, "").lower() == "true",
        salt_key_is_set=True,
        database_is_configured=False,
    )
    if not isinstance(verdict, boot.UnsafeMasterKeyRefused):
        return None
    return _REASONS.get(cast(str, verdict.reason.value), f"the master key is {verdict.reason.value}")
