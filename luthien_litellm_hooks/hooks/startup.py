"""Start of the plugin in a LiteLLM process: callback and guardrails, their telemetry and their log lines."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TextIO, cast

import litellm
from litellm._logging import JsonFormatter, redact_secrets
from litellm.integrations.custom_guardrail import CustomGuardrail
from litellm.proxy import proxy_server
from litellm.proxy.guardrails.guardrail_registry import guardrail_initializer_registry
from litellm.types.guardrails import Guardrail, LitellmParams
from starlette.routing import BaseRoute

from luthien_litellm_hooks.config.settings import (
    DUPLICATE_NAME,
    PROCESS_WIDE,
    SETTINGS_KEY,
    SHORT_NAME,
    EventsSettings,
    Settings,
    check_process_wide,
    load_guardrail_settings,
    load_settings,
)
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.hooks import fitting_litellm, running, warn_if_untested
from luthien_litellm_hooks.hooks.active_policy import ActivePolicy, PolicyHolder
from luthien_litellm_hooks.hooks.admin import (
    PolicyReload,
    SettingsSource,
    described,
    guardrail_list_routes,
    policy_routes,
    record_routes,
)
from luthien_litellm_hooks.hooks.admin.approvals import Desk, approval_routes, grant_routes, permits, store_of
from luthien_litellm_hooks.hooks.admin.notes import notifier
from luthien_litellm_hooks.hooks.callback import LuthienCallback, RecordWriter, check_dispatch
from luthien_litellm_hooks.hooks.config_file import checked_config, warn_of_lost_records
from luthien_litellm_hooks.hooks.enforcement import Enforcement
from luthien_litellm_hooks.hooks.mcp import JudgedResults, mcp_manager
from luthien_litellm_hooks.hooks.routes import ClosedPaths
from luthien_litellm_hooks.policy.approvals import Approvals
from luthien_litellm_hooks.recording.sqlite import RecordFile, records_path
from luthien_litellm_hooks.telemetry import Watcher
from luthien_litellm_hooks.telemetry.log_lines import debug_logger, logger
from luthien_litellm_hooks.telemetry.publisher import EventPublisher, JsonLinesSink, RedisSink, Sink
from luthien_litellm_hooks.telemetry.redis_clients import RedisClient, redis_client
from luthien_litellm_hooks.telemetry.spans import Telemetry


@dataclass(frozen=True, slots=True)
class _SharedState:
    """Shared state of the callback and all guardrails of this process. `where` is the settings key of the first one."""

    settings: Settings
    where: str
    enforcement: Enforcement


_MAX_RECORDS = 1_000
"""Bound of records that wait for a file that cannot be written."""
_process: _SharedState | None = None


def build(initialize_guardrail: Callable[[LitellmParams, Guardrail], CustomGuardrail]) -> LuthienCallback:
    """Builds the callback from LiteLLM's settings. Raises `ConfigError`, and then LiteLLM does not start.

    `initialize_guardrail` is registered for guardrails under the short name.
    """
    with checked_config():
        settings = load_settings(cast(Mapping[str, object], litellm.callback_settings or {}), os.environ)
        holder = PolicyHolder(ActivePolicy.of(settings, os.environ))
    enforcement = _process_of(settings, SETTINGS_KEY, holder).enforcement
    callback = LuthienCallback(holder, enforcement)
    check_dispatch(callback)
    reload = PolicyReload(holder, settings, SettingsSource(os.environ), os.environ)
    reload.start()
    logger.info("%s: in force is %s", running(), holder.current)
    closed = ClosedPaths(lambda: holder.current.ungoverned)
    proxy_server.app.router.routes[:0] = [closed, *policy_routes(holder, reload.now).routes]
    with fitting_litellm():
        JudgedResults.install(holder, enforcement.telemetry, proxy_server.proxy_logging_obj, mcp_manager())
    cast(dict[str, object], guardrail_initializer_registry)[SHORT_NAME] = initialize_guardrail
    return callback


def build_guardrail(own: Mapping[str, object], where: str) -> tuple[ActivePolicy, Enforcement]:
    """Builds a guardrail's policy from the plugin's keys in its `litellm_params`. Raises `ConfigError`."""
    settings = load_guardrail_settings(own, where)
    process = _process_of(settings, where)
    check_process_wide(settings, where, process.settings, process.where)
    shared = {key: getattr(process.settings, key) for key in PROCESS_WIDE}
    in_force = ActivePolicy.of(settings.model_copy(update=shared), {}, where)
    if not any(isinstance(callback, RecordWriter) for callback in litellm.callbacks):
        litellm.callbacks.insert(0, RecordWriter(process.enforcement))  # before LiteLLM's own writer
    return in_force, process.enforcement


def check_name(guardrail: CustomGuardrail) -> None:
    """Raises `ConfigError` if another guardrail has the name: of two, LiteLLM calls one by chance."""
    name = guardrail.guardrail_name
    if any(isinstance(other, CustomGuardrail) and other.guardrail_name == name for other in litellm.callbacks):
        raise ConfigError.at((f"guardrails.{name}.guardrail_name", DUPLICATE_NAME))


def _process_of(settings: Settings, where: str, holder: PolicyHolder | None = None) -> _SharedState:
    """Returns the shared state, made of these settings if it is the first call; `holder` has later ones."""
    global _process
    if _process is None:
        show_log_lines()
        warn_if_untested()
        warn_of_lost_records()
        first = settings.approvals.within(settings.limits)
        present = (lambda: first) if holder is None else (lambda: holder.current.approvals)
        notes = notifier(present, settings.ui.url if settings.ui.enabled else None)
        approvals = Approvals(store_of(settings.state), lambda: present().terms, permits, notes)
        desk = Desk(approvals, present)
        routers = (record_routes(), guardrail_list_routes(), approval_routes(desk), grant_routes(desk))
        routes: list[BaseRoute] = [route for router in routers for route in router.routes]
        watcher: Watcher | None = None
        if settings.ui.enabled:
            from luthien_litellm_hooks.hooks.admin.monitor import monitor_route

            stored = (lambda: settings.record.store) if holder is None else (lambda: holder.current.record.store)
            in_force = (lambda: None) if holder is None else (lambda: described(holder))
            route, watcher = monitor_route(settings.ui, stored, present, in_force, desk)
            routes.append(route)
        proxy_server.app.router.routes[:0] = routes
        records = EventPublisher([RecordFile(records_path(os.environ))], max_waiting=_MAX_RECORDS, what="records")
        enforcement = Enforcement(telemetry(settings.events, os.environ, watcher), records, approvals)
        _process = _SharedState(settings, where, enforcement)
    return _process


def telemetry(events: EventsSettings, environment: Mapping[str, str], watcher: Watcher | None = None) -> Telemetry:
    """Returns the telemetry of this process, with the sinks of the settings."""
    sinks: list[Sink] = []
    if events.jsonl is not None:
        sinks.append(JsonLinesSink(events.jsonl))
    if events.redis is not False:
        sinks.append(RedisSink(_connection(events.redis, environment)))
    return Telemetry(EventPublisher(sinks) if sinks else None, watcher=watcher)


def _connection(redis: str | bool, environment: Mapping[str, str]) -> Callable[[], RedisClient]:
    url = redis if isinstance(redis, str) else environment.get("REDIS_URL")
    return (lambda: redis_client(url)) if url else _own_redis


def _own_redis() -> RedisClient:
    """Returns the proxy's own Redis, once the proxy has read its config. Raises `RuntimeError` without one."""
    cache: Any = cast(Any, proxy_server).redis_usage_cache
    if cache is None:
        raise RuntimeError("events.redis: the proxy has no Redis of its own; set REDIS_URL, or write the URL here")
    return cast(RedisClient, cache.redis_client)


_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def show_log_lines() -> None:
    """Gives the package's logger a handler and a level, unless the operator's logging config has done so.

    LiteLLM's own logging would leave the lines without time and level. The level is INFO, or `LITELLM_LOG`. A second
    call changes nothing.
    """
    for each in (logger, debug_logger):
        if not any(isinstance(known, _NoFields) for known in each.filters):
            each.addFilter(_NoFields())
    if logger.level == logging.NOTSET:
        level = os.environ.get("LITELLM_LOG", "").upper()
        logger.setLevel(logging.getLevelNamesMapping().get(level, logging.INFO))
    if not logger.handlers:
        logger.addHandler(_Handler())


class _Handler(logging.StreamHandler[TextIO]):
    """Handler for standard error, silent while the root logger has a handler.

    With `json_logs` LiteLLM gives the root one, in some processes before it loads the plugin and in others after.
    """

    def __init__(self) -> None:
        super().__init__()
        self._plain, self._json = logging.Formatter(_FORMAT), JsonFormatter()

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        return self._json.format(record) if _is_json() else redact_secrets(self._plain.format(record))


class _NoFields(logging.Filter):
    """Filter against LiteLLM's JSON formatter, which reads a text as a dict and makes fields of it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if _is_json():
            record.msg = str(record.msg).replace("{", "\\x7b")
        return True


def _is_json() -> bool:
    return bool(getattr(litellm, "json_logs", False))
