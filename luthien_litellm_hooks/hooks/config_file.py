"""The config file that LiteLLM was started with, checked for what the settings in it cannot show."""

import json
import logging
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from luthien_litellm_hooks.checking.findings import check, check_start, in_words, located, refuse
from luthien_litellm_hooks.checking.lost_records import lost_records, unsealed_records
from luthien_litellm_hooks.checking.source import read_source
from luthien_litellm_hooks.checking.started import Start
from luthien_litellm_hooks.errors import ConfigError

logger = logging.getLogger("luthien_litellm_hooks")


@contextmanager
def checked_config() -> Generator[None]:
    """Around loading the settings: a `ConfigError` leaves with the file and line of each problem.

    Raises `ConfigError` if the file has something wrong that LiteLLM does not hand on to us, such as
    a key that stands twice. Does nothing where LiteLLM reads no file: in tests, or from a bucket.
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
        refuse(check(source, os.environ))  # which tells all that is wrong at once
        raise located(error, source, os.environ) from error.__cause__


def warn_of_lost_records() -> None:
    """Tells in the log of what the file sets with which LiteLLM does not keep records whole."""
    path = _path_that_is_served()
    if path is not None:
        start = Start.of(read_source(path), os.environ)
        for finding in (*lost_records(start), *unsealed_records(start)):
            logger.warning(in_words(finding))


def require_policy() -> None:
    """For `LITELLM_WORKER_STARTUP_HOOKS`, which LiteLLM calls before it reads its config: stops the
    start also of a config that does not name the plugin. Raises `ConfigError`."""
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
    """Where LiteLLM is told to read its config; it keeps the command's options as JSON."""
    given = os.environ.get("CONFIG_FILE_PATH") or os.environ.get("WORKER_CONFIG") or ""
    try:
        options: object = json.loads(given)
    except ValueError:
        return Path(given) if given else None
    config: object = cast(dict[str, object], options).get("config") if isinstance(options, dict) else None
    return Path(config) if isinstance(config, str) else None
