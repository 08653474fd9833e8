"""Whether each guardrail that is the plugin is put together as a start would want it."""

from collections.abc import Iterator, Mapping

from luthien_litellm_hooks.checking.callbacks import is_named
from luthien_litellm_hooks.checking.references import resolved
from luthien_litellm_hooks.checking.source import Finding
from luthien_litellm_hooks.checking.started import SettingsSection, Start, items, mapping
from luthien_litellm_hooks.config import SETTINGS_KEY, Settings, build_executor, load_settings
from luthien_litellm_hooks.errors import ConfigError
from luthien_litellm_hooks.guardrail_settings import (
    GUARDRAIL,
    SHORT_NAME,
    check_params,
    check_process_wide,
    load_guardrail_settings,
)
from luthien_litellm_hooks.validation import nearest


def wrong_guardrails(start: Start) -> Iterator[Finding]:
    """What a start says of the guardrails. Policies are imported and made."""
    first = _callbacks(start)
    for section in start.guardrails():
        params = mapping(resolved(section.given, start.environment))
        if params.get("guardrail") == SHORT_NAME and not is_named(start):
            what = f"is a name only where the callback is loaded too, and LiteLLM would skip it: write {GUARDRAIL}"
            yield start.finding(f"{section.key}.guardrail", what)
        yield from _unknown(section, start)
        try:
            check_params(params.get("mode"), params, section.key)
            settings = load_guardrail_settings(_own(params), section.key)
            build_executor(settings, where=section.key)
            first = first or (settings, section.key)
            check_process_wide(settings, section.key, *first)
        except ConfigError as error:
            yield from (start.finding(key, what) for key, what in error.problems)
    yield from _namesakes(start)


def _callbacks(start: Start) -> tuple[Settings, str] | None:
    try:
        given = mapping(resolved(start.section("callback_settings"), start.environment))
        return (load_settings(given, start.environment), SETTINGS_KEY) if is_named(start) else None
    except ConfigError:  # which the check of the settings tells
        return None


def _own(params: Mapping[str, object]) -> Mapping[str, object]:
    return {key: value for key, value in params.items() if key in Settings.model_fields}


def _unknown(section: SettingsSection, start: Start) -> Iterator[Finding]:
    """Keys that may be misspelt: which ones LiteLLM knows, only LiteLLM can tell."""
    missing = Settings.model_fields.keys() - mapping(section.given).keys()
    for key in mapping(section.given):
        near = nearest(key, missing) if key not in Settings.model_fields else None
        if near:
            yield start.finding(f"{section.key}.{key}", f"is none of the plugin's; did you mean {near!r}?", "warning")


def _namesakes(start: Start) -> Iterator[Finding]:
    ours = {section.key for section in start.guardrails()}
    seen: dict[object, str] = {}
    for number, entry in enumerate(items(start.source.values.get("guardrails"))):
        key, name = f"guardrails.{number}", mapping(entry).get("guardrail_name")
        other = seen.setdefault(name, f"{key}.litellm_params")
        if other != f"{key}.litellm_params" and ours & {other, f"{key}.litellm_params"}:
            yield start.finding(f"{key}.guardrail_name", "another guardrail has this name: give each its own")
