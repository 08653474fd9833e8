"""Checks of the plugin's settings in a config: all errors of a start, and dangling references."""

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import cast

from luthien_litellm_hooks.config.check.rules import is_named
from luthien_litellm_hooks.config.check.source import (
    SECTIONS,
    Finding,
    LaunchEnvironment,
    SettingsSection,
    as_list,
    as_mapping,
)
from luthien_litellm_hooks.config.policy_loading import COMPOSITIONS, config_model
from luthien_litellm_hooks.config.policy_spec import PolicySpec, load_composition
from luthien_litellm_hooks.config.settings import (
    DUPLICATE_NAME,
    GUARDRAIL,
    POLICY_FILE_VARIABLE,
    SETTINGS_KEY,
    SHORT_NAME,
    Settings,
    build_executor,
    check_params,
    check_process_wide,
    load_guardrail_settings,
    load_settings,
)
from luthien_litellm_hooks.config.validation import did_you_mean, nearest, validate
from luthien_litellm_hooks.errors import ConfigError

_REFERENCE = re.compile(r"os\.environ/(.*)", re.DOTALL)


def check_callback(launch: LaunchEnvironment) -> Iterator[Finding]:
    """Reports errors in `callback_settings.luthien`. Imports and creates the policies."""
    callback_settings = launch.source.values.get("callback_settings")
    if callback_settings is not None and not isinstance(callback_settings, Mapping):
        yield launch.finding("callback_settings", "should be a mapping of keys to values")
        return
    given = as_mapping(_resolve(launch.section("callback_settings"), launch.environment))
    if given.get("luthien") is None and not launch.environment.get(POLICY_FILE_VARIABLE):
        if is_named(launch) or not any(launch.guardrails()):
            yield _missing(launch)
        return
    try:
        build_executor(load_settings(given, launch.environment), launch.environment)
    except ConfigError as error:
        yield from (launch.finding(key, message) for key, message in error.problems)
        for key, spec in launch.policies():  # a start would report these next
            resolved = as_mapping(_resolve(spec, launch.environment))
            yield from (launch.finding(*problem) for problem in _policy_problems(key, resolved))


def _missing(launch: LaunchEnvironment) -> Finding:
    found = next(_elsewhere(launch), None)
    if found:
        return launch.finding(found, f"LiteLLM does not read the plugin's settings here: write {SETTINGS_KEY}")
    message = f"no policy is set: write {SETTINGS_KEY}.policy, or name a file in {POLICY_FILE_VARIABLE}"
    return launch.finding(SETTINGS_KEY, message)


def _elsewhere(launch: LaunchEnvironment) -> Iterator[str]:
    given = launch.section("callback_settings")
    if "policy" in given:
        yield "callback_settings.policy"
    if "callback_settings" in launch.section("litellm_settings"):
        yield "litellm_settings.callback_settings"
    if "luthien" in launch.source.values:
        yield "luthien"
    if near := nearest("luthien", given.keys() - {"luthien"}):
        yield f"callback_settings.{near}"
    if near := nearest("callback_settings", launch.source.values.keys() - SECTIONS):
        yield near


def _policy_problems(key: str, spec: Mapping[str, object]) -> Sequence[tuple[str, str]]:
    """Returns the errors of a policy's class and config, whatever else in the spec is wrong."""
    if spec.get("class") in (None, *COMPOSITIONS):
        return ()
    own = {name: value for name, value in spec.items() if name in ("class", "config")}
    try:
        load_composition(validate(PolicySpec, own, key), key)
    except ConfigError as error:
        return error.problems
    return ()


def check_guardrails(launch: LaunchEnvironment) -> Iterator[Finding]:
    """Reports errors of guardrails. Imports and creates the policies."""
    first = _callback_settings(launch)
    for section in launch.guardrails():
        params = as_mapping(_resolve(section.given, launch.environment))
        if params.get("guardrail") == SHORT_NAME and not is_named(launch):
            message = f"LiteLLM knows this name only if it loads the callback, and skips it else: write {GUARDRAIL}"
            yield launch.finding(f"{section.key}.guardrail", message)
        yield from _check_spelling(section, launch)
        try:
            check_params(params.get("mode"), params, section.key)
            own = {key: value for key, value in params.items() if key in Settings.model_fields}
            settings = load_guardrail_settings(own, section.key)
            build_executor(settings, where=section.key)
            first = first or (settings, section.key)
            check_process_wide(settings, section.key, *first)
        except ConfigError as error:
            yield from (launch.finding(key, message) for key, message in error.problems)
    yield from _check_names(launch)


def _callback_settings(launch: LaunchEnvironment) -> tuple[Settings, str] | None:
    try:
        given = as_mapping(_resolve(launch.section("callback_settings"), launch.environment))
        return (load_settings(given, launch.environment), SETTINGS_KEY) if is_named(launch) else None
    except ConfigError:  # reported by `check_callback`
        return None


def _check_spelling(section: SettingsSection, launch: LaunchEnvironment) -> Iterator[Finding]:
    """Warns of keys similar to ours. Only LiteLLM can tell which keys LiteLLM knows."""
    missing = Settings.model_fields.keys() - as_mapping(section.given).keys()
    for key in as_mapping(section.given):
        near = nearest(key, missing) if key not in Settings.model_fields else None
        if near:
            message = f"is not a key of the plugin; did you mean {near!r}?"
            yield launch.finding(f"{section.key}.{key}", message, "warning")


def _check_names(launch: LaunchEnvironment) -> Iterator[Finding]:
    ours = {section.key for section in launch.guardrails()}
    seen: dict[object, str] = {}
    for number, entry in enumerate(as_list(launch.source.values.get("guardrails"))):
        key, name = f"guardrails.{number}", as_mapping(entry).get("guardrail_name")
        other = seen.setdefault(name, f"{key}.litellm_params")
        if other != f"{key}.litellm_params" and ours & {other, f"{key}.litellm_params"}:
            yield launch.finding(f"{key}.guardrail_name", DUPLICATE_NAME)


def check_variables(launch: LaunchEnvironment) -> Iterator[Finding]:
    """Reports references to unset environment variables. LiteLLM silently replaces them by nothing."""
    if launch.section("general_settings").get("key_management_system"):
        return
    too_late = launch.section("environment_variables")
    for section in launch.settings():
        for key, value in _leaves(section.given, section.key):
            name = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
            if name and name[1] in too_late:
                message = f"LiteLLM reads {name[1]} before it sets environment_variables: set it outside the config"
                yield launch.finding(key, message)
            elif name and not launch.environment.get(name[1]):
                yield launch.finding(key, f"the environment variable {name[1]} is not set")


def check_judges(launch: LaunchEnvironment) -> Iterator[Finding]:
    """Reports judges with a model unknown to this proxy. It only warns if LiteLLM's database may add models."""
    served = [str(as_mapping(entry).get("model_name")) for entry in as_list(launch.source.values.get("model_list"))]
    served += map(str, as_mapping(launch.section("router_settings").get("model_group_alias")))
    in_database = launch.section("general_settings").get("store_model_in_db") is True
    level = "warning" if in_database or launch.environment.get("STORE_MODEL_IN_DB") == "True" else "error"
    for key, spec in launch.policies():
        for place, model in _own_models(spec.get("config"), f"{key}.config"):
            if not any(fnmatchcase(model, name) for name in served) and _is_judge(spec.get("class")):
                message = f"no entry of model_list has the model_name {model!r}{did_you_mean(model, served)}"
                yield launch.finding(place, message, level)


def _own_models(config: object, key: str) -> Iterator[tuple[str, str]]:
    """Yields each of the proxy's own models that a judge or a part of it asks, with its key."""
    settings = as_mapping(config)
    if settings.get("model_group") is True:
        named = [("model", settings.get("model"))]
        named += [(f"models.{number}", model) for number, model in enumerate(as_list(settings.get("models")))]
        yield from ((f"{key}.{name}", model) for name, model in named if isinstance(model, str))
    for name, part in settings.items():
        if isinstance(part, Mapping):
            yield from _own_models(cast(object, part), f"{key}.{name}")


def _is_judge(name: object) -> bool:
    if not isinstance(name, str) or name in COMPOSITIONS:
        return False
    from luthien_litellm_hooks.policies.judges import JudgeConfig

    try:
        return issubclass(config_model(name), JudgeConfig)
    except ConfigError:  # reported when the policy is loaded
        return False


def _resolve(given: object, environment: Mapping[str, str]) -> object:
    """Returns `given` as LiteLLM passes it on, with references to the environment replaced by their values."""
    if isinstance(given, Mapping):
        members = cast(Mapping[str, object], given)
        return {key: _resolve(value, environment) for key, value in members.items()}
    if isinstance(given, list):
        entries = as_list(cast(object, given))
        return [_resolve(cast(object, item), environment) if isinstance(item, dict) else item for item in entries]
    name = _REFERENCE.fullmatch(given) if isinstance(given, str) else None
    return environment.get(name[1]) if name else given


def _leaves(given: object, key: str) -> Iterator[tuple[str, object]]:
    """Yields the key and value of each scalar that LiteLLM resolves; it skips strings in lists."""
    if isinstance(given, Mapping):
        for name, value in cast(Mapping[object, object], given).items():
            yield from _leaves(value, f"{key}.{name}")
    elif isinstance(given, list):
        for number, value in enumerate(as_list(cast(object, given))):
            if isinstance(value, dict):
                yield from _leaves(cast(object, value), f"{key}.{number}")
    else:
        yield key, given
