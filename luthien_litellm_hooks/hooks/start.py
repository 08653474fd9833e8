"""How the callback, and guardrails, are put together when LiteLLM loads them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import litellm
from litellm.integrations.custom_guardrail import CustomGuardrail
from litellm.proxy import proxy_server
from litellm.proxy.guardrails.guardrail_registry import guardrail_initializer_registry
from litellm.types.guardrails import Guardrail, LitellmParams

from luthien_litellm_hooks.config import SETTINGS_KEY, Settings, load_settings
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.guardrail_settings import (
    PROCESS_WIDE,
    SHORT_NAME,
    check_process_wide,
    load_guardrail_settings,
)
from luthien_litellm_hooks.hooks.callback import LuthienCallback
from luthien_litellm_hooks.hooks.config_file import checked_config, warn_of_lost_records
from luthien_litellm_hooks.hooks.governing import Governing
from luthien_litellm_hooks.hooks.guardrail_lists import guardrail_list_routes
from luthien_litellm_hooks.hooks.in_force import InForce, LivePolicy
from luthien_litellm_hooks.hooks.log_handler import show_log_lines
from luthien_litellm_hooks.hooks.mcp import JudgedResults, mcp_manager
from luthien_litellm_hooks.hooks.observing import telemetry
from luthien_litellm_hooks.hooks.policy_reload import PolicyReload
from luthien_litellm_hooks.hooks.policy_routes import policy_routes
from luthien_litellm_hooks.hooks.record_routes import record_routes
from luthien_litellm_hooks.hooks.records import RecordWriter
from luthien_litellm_hooks.hooks.self_check import check_dispatch
from luthien_litellm_hooks.hooks.settings_source import SettingsSource
from luthien_litellm_hooks.hooks.ungoverned import ClosedPaths
from luthien_litellm_hooks.hooks.versions import fitting_litellm, running, warn_if_untested
from luthien_litellm_hooks.log_lines import logger


@dataclass(frozen=True, slots=True)
class _Process:
    """What all that this process has loaded of us shares, and the key of whoever was loaded first."""

    settings: Settings
    where: str
    governing: Governing


_process: _Process | None = None


def build() -> LuthienCallback:
    """The callback, from LiteLLM's settings. Raises `ConfigError`, on which LiteLLM does not start."""
    with checked_config():
        settings = load_settings(cast(Mapping[str, object], litellm.callback_settings or {}), os.environ)
        live = LivePolicy(InForce.of(settings, os.environ))
    callback = LuthienCallback(live, _process_of(settings, SETTINGS_KEY).governing)
    check_dispatch(callback)
    reload = PolicyReload(live, settings, SettingsSource(os.environ), os.environ)
    reload.start()
    logger.info("%s: in force is %s", running(), live.current)
    closed = ClosedPaths(lambda: live.current.ungoverned)
    proxy_server.app.router.routes[:0] = [closed, *policy_routes(live, reload.now).routes]
    with fitting_litellm():
        JudgedResults.install(live, proxy_server.proxy_logging_obj, mcp_manager())
    cast(dict[str, object], guardrail_initializer_registry)[SHORT_NAME] = _initialize
    return callback


def join(own: Mapping[str, object], where: str) -> tuple[InForce, Governing]:
    """For a guardrail: its policy, from the plugin's keys in its `litellm_params`. Raises `ConfigError`."""
    settings = load_guardrail_settings(own, where)
    process = _process_of(settings, where)
    check_process_wide(settings, where, process.settings, process.where)
    shared = {key: getattr(process.settings, key) for key in PROCESS_WIDE}
    in_force = InForce.of(settings.model_copy(update=shared), {}, where)
    if not any(isinstance(callback, RecordWriter) for callback in litellm.callbacks):
        litellm.callbacks.insert(0, RecordWriter(process.governing))  # before LiteLLM's own writer
    return in_force, process.governing


def check_name(guardrail: CustomGuardrail) -> None:
    """Raises `ConfigError` if another guardrail has the name: of two, LiteLLM asks one by chance."""
    name = guardrail.guardrail_name
    if any(isinstance(other, CustomGuardrail) and other.guardrail_name == name for other in litellm.callbacks):
        raise ConfigError.at(
            (f"guardrails.{name}.guardrail_name", "another guardrail has this name: give each its own")
        )


def _process_of(settings: Settings, where: str) -> _Process:
    global _process
    if _process is None:
        show_log_lines()
        warn_if_untested()
        warn_of_lost_records()
        proxy_server.app.router.routes[:0] = [*record_routes().routes, *guardrail_list_routes().routes]
        _process = _Process(settings, where, Governing(telemetry(settings.events, os.environ)))
    return _process


def _initialize(litellm_params: LitellmParams, guardrail: Guardrail) -> CustomGuardrail:
    """As LiteLLM makes guardrails that have a short name; it has no other way to one."""
    from luthien_litellm_hooks.hooks.guardrail import LuthienGuardrail

    given = litellm_params.model_dump(exclude_none=True, exclude={"guardrail", "mode", "default_on", "stream_scope"})
    made = LuthienGuardrail(
        guardrail_name=guardrail["guardrail_name"],
        event_hook=litellm_params.mode,
        default_on=bool(litellm_params.default_on),
        **given,
    )
    litellm.logging_callback_manager.add_litellm_callback(made)
    return made
