"""LiteLLM's config file, checked for mistakes beyond its settings."""

import json
import logging
import os
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import litellm  # noqa: F401  # pyright: ignore[reportUnusedImport]
from litellm.proxy.auth import master_key_boot_check as boot

from luthien_litellm_hooks.config.check import check, check_start, format_finding, located, refuse
from luthien_litellm_hooks.config.check.rules import check_lost_records, check_sealing
from luthien_litellm_hooks.config.check.source import LaunchEnvironment, read_source
from luthien_litellm_hooks.errors import ConfigError

logger = logging.getLogger("luthien_litellm_hooks")


@contextmanager
def checked_config() -> Generator[None]:
    """Guards the loading of the settings: a `ConfigError` leaves with file and line of each problem.

    Raises `ConfigError` if the file has a mistake hidden by LiteLLM, such as a duplicate key. Does nothing where
    LiteLLM reads no file: in tests, or from a bucket.
    """
    path = _path_that_is_served()
    if path is None:
        yield
        return
    source = read_source(path)
    check_start(source, os.environ)
    try:
        yield
    except ConfigError as error:
        refuse(check(source, os.environ))  # reports all problems at once
        raise located(error, source, os.environ) from error.__cause__


def warn_of_lost_records() -> None:
    """Logs a warning for each setting that costs records."""
    path = _path_that_is_served()
    if path is not None:
        start = LaunchEnvironment.of(read_source(path), os.environ)
        for finding in (*check_lost_records(start), *check_sealing(start)):
            logger.warning(format_finding(finding))


def require_policy() -> None:
    """Stops the start if the config does not name the plugin. Raises `ConfigError`.

    `LITELLM_WORKER_STARTUP_HOOKS` names this function, and LiteLLM calls it before it reads its config.
    """
    path = _path_of_the_start()
    if path is None:
        raise ConfigError("no config file names a policy: start LiteLLM with --config")
    refuse(check(read_source(path), os.environ))


def _path_that_is_served() -> Path | None:
    server = sys.modules.get("litellm.proxy.proxy_server")
    path: object = getattr(server, "user_config_file_path", None)
    if not isinstance(path, str) or "LITELLM_CONFIG_BUCKET_NAME" in os.environ or not Path(path).is_file():
        return None
    return Path(path)


def _path_of_the_start() -> Path | None:
    """Returns the path of LiteLLM's config; LiteLLM keeps the command's options as JSON."""
    given = os.environ.get("CONFIG_FILE_PATH") or os.environ.get("WORKER_CONFIG") or ""
    try:
        options: object = json.loads(given)
    except ValueError:
        return Path(given) if given else None
    config: object = cast(dict[str, object], options).get("config") if isinstance(options, dict) else None
    return Path(config) if isinstance(config, str) else None


# Importing it sets the variables of a `.env` file, as a start does.

_REFERENCE = "os.environ/"
_REASONS = {
    "not_set": "no master key is set, so LiteLLM does not start: set it here, or LITELLM_MASTER_KEY",
    "empty": "the master key is empty, so LiteLLM does not start",
    "publicly_known": "the master key is publicly known, so LiteLLM does not start: choose another",
}


def master_key_refusal(general_settings: Mapping[str, object], added: Mapping[str, str]) -> str | None:
    """Returns the reason why LiteLLM itself would refuse to start, by its own rules.

    Returns None if it would start, or asks a secret manager for the key. `added` are the config's own variables.
    """
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
