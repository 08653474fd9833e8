"""Checks of the monitor page's entry in LiteLLM's Admin UI."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from luthien_litellm_hooks.config.check.source import Finding, LaunchEnvironment, as_list, as_mapping
from luthien_litellm_hooks.config.settings import SETTINGS_KEY

_PATH = "/luthien/ui"
_NAME = "luthien"
_PLUGINS = "general_settings.plugins"
_ENTRY = f"{{name: {_NAME}, display_name: Luthien, url: https://HOST{_PATH}}}"
_SALT_KEY = "LITELLM_SALT_KEY"


def check_admin_ui(launch: LaunchEnvironment) -> Iterator[Finding]:
    """Warns of settings with which the Admin UI does not show the monitor page, or cannot sign in to it."""
    general = launch.section("general_settings")
    entries = [as_mapping(entry) for entry in as_list(general.get("plugins"))]
    ours = [(f"{_PLUGINS}.{number}", entry) for number, entry in enumerate(entries) if _is_ours(entry)]
    is_enabled = as_mapping(as_mapping(launch.section("callback_settings").get("luthien")).get("ui")).get("enabled")
    if is_enabled is not True:
        if ours:
            message = f"the monitor page is off, so the Admin UI shows an error here: set {SETTINGS_KEY}.ui.enabled"
            yield launch.finding(ours[0][0], message, "warning")
        return
    has_database = general.get("database_url") or launch.environment.get("DATABASE_URL")
    if not ours and has_database and "plugins" not in general:
        message = f"the Admin UI does not show the monitor page: add {_ENTRY}, or write `plugins: []`"
        yield launch.finding(_PLUGINS, message, "warning")
    for key, entry in ours:
        yield from _check_entry(launch, key, str(entry.get("name")), str(entry.get("url")))


def _is_ours(entry: object) -> bool:
    given = as_mapping(entry)
    return given.get("name") == _NAME or str(given.get("url")).rstrip("/").endswith(_PATH)


def _check_entry(launch: LaunchEnvironment, key: str, name: str, url: str) -> Iterator[Finding]:
    if name != _NAME:
        message = f"the monitor page reads only claims made out to {_NAME!r}: give the entry this name"
        yield launch.finding(f"{key}.name", message, "warning")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        message = f"browsers send the Admin UI's claim to absolute addresses only: write https://HOST{_PATH}"
        yield launch.finding(f"{key}.url", message, "warning")
    elif not parts.path.rstrip("/").endswith(_PATH):
        yield launch.finding(f"{key}.url", f"the monitor page is elsewhere: the path should end in {_PATH}", "warning")
    if not launch.environment.get(_SALT_KEY):
        message = f"the Admin UI cannot sign in to the monitor page: set {_SALT_KEY} in the proxy's environment"
        yield launch.finding(key, message, "warning")
