"""The settings, read again while the proxy runs, by LiteLLM's own code; and whether their files have changed."""

import asyncio
import os
from collections.abc import Mapping
from typing import Any, cast

import litellm
from litellm.proxy import proxy_server
from litellm.proxy.proxy_server import ProxyConfig

from luthien_litellm_hooks.config import POLICY_FILE_VARIABLE
from luthien_litellm_hooks.errors import ConfigError

_BUCKET_VARIABLE = "LITELLM_CONFIG_BUCKET_NAME"

Stamp = tuple[int, ...] | None
"""The state of a file; None while it is not there."""


class SettingsSource:
    """Where the settings stand. `stamps` is the state of their files when they were last read, by
    their paths; empty before that."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.stamps: Mapping[str, Stamp] = {}

    def look(self) -> dict[str, Stamp]:
        """The state now of the files that are known to hold settings: LiteLLM's config, unless it is
        in a bucket, with what it includes, and the policy's own file."""
        config = None if self._is_in_bucket else proxy_server.user_config_file_path
        named = (config, self._environment.get(POLICY_FILE_VARIABLE), *self.stamps)
        return {path: _stamp(path) for path in named if path}

    def read(self) -> Mapping[str, object]:
        """LiteLLM's `callback_settings`, as a start would read them. Raises `ConfigError`. Not to be
        called from an event loop."""
        reader = _ConfigReader(self.look())
        self.stamps = reader.stamps
        if proxy_server.user_config_file_path is None and not self._is_in_bucket:
            return cast(Mapping[str, object], litellm.callback_settings)  # of a proxy that was given no config
        try:
            config: dict[str, Any] = asyncio.run(cast(Any, reader).get_config())
        except Exception as error:
            where = "its bucket" if self._is_in_bucket else proxy_server.user_config_file_path
            raise ConfigError(f"the config in {where} cannot be read: {type(error).__name__}: {error}") from error
        return cast(Mapping[str, object], config.get("callback_settings") or {})

    @property
    def _is_in_bucket(self) -> bool:
        return _BUCKET_VARIABLE in self._environment


class _ConfigReader(ProxyConfig):
    """LiteLLM's own reader, for one reading: it follows `include`, and puts in what `os.environ/` refers to."""

    def __init__(self, stamps: dict[str, Stamp]) -> None:
        super().__init__()
        self.stamps = stamps

    def _load_yaml_file(self, file_path: str) -> dict[str, Any]:
        """Reads an included file, and notes it."""
        self.stamps[file_path] = _stamp(file_path)
        return cast(Any, super())._load_yaml_file(file_path)

    async def _update_config_from_db(
        self, prisma_client: object, config: dict[str, Any], store_model_in_db: bool | None
    ) -> dict[str, Any]:
        """Leaves the database alone: it holds no `callback_settings`, and its client belongs to another event loop."""
        return config


def _stamp(path: str) -> Stamp:
    try:
        found = os.stat(path)  # of the file that a link leads to: Kubernetes changes the link
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
